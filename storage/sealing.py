"""Sealing: which keys a database needs, and bringing every token under the present one.

Decides: whether the operator's keys fit, before anything is changed. What is sealed how is decided
in `storage.vault`. Every row names the key that it needs, so that sealing anew can be cut short at
any commit and goes on where it stands; each commit is a thousand rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from storage import sql
from storage.database import Database, Rows
from storage.errors import CannotOpen
from storage.vault import (
    KEY_BYTES,
    Keys,
    Sealed,
    Unreadable,
    Vault,
    key_name,
    unwrapped,
    wrapped,
    wrapped_by,
)

ROWS = 1_000  # in one commit


class Progress(NamedTuple):
    """How many tokens were sealed anew, and how many of those that were looked at did not open."""

    sealed: int = 0
    unreadable: int = 0


async def unlock(database: Database, keys: Keys) -> Vault:
    """The vault of this database, for reading. Raises `CannotOpen` if the keys do not fit."""
    meta: dict[str, str] = dict(await database.read(sql.LOAD_META))
    text = meta.get("lookup_key")
    needed = {name for (name,) in await database.read(sql.KEYS_IN_USE) if name is not None}
    if needed and text is None:  # with another no token would be found that somebody has
        raise CannotOpen(f"the lookup key in {database.path} is gone: restore a backup")
    if text is not None:
        needed.add(wrapped_by(text))
    known = keys.by_name()
    missing = ", ".join(sorted(needed - known.keys()))
    if missing and keys.present is None:
        raise CannotOpen(
            f"the device tokens in {database.path} are encrypted with the key {missing}: "
            "give it as storage.encryption_key"
        )
    if missing:
        raise CannotOpen(
            f"the device tokens in {database.path} are encrypted with the key {missing}, and "
            f"storage.encryption_key is {key_name(keys.present or b'')}: give the right one, or to "
            "change over to this one give the other as storage.previous_encryption_key"
        )
    if keys.present is None or text is None:
        return Vault()
    try:
        lookup_key = unwrapped(known[wrapped_by(text)], text)
    except Unreadable:
        raise CannotOpen(
            f"the lookup key in {database.path} is damaged: restore a backup"
        ) from None
    return Vault(known, key_name(keys.present), lookup_key)


async def seal_all(
    database: Database, keys: Keys, told: Callable[[Progress], None] = lambda progress: None
) -> Vault:
    """Bring every token under the present key, if there is one; the vault of this database.

    For who alone writes. `told` hears of every commit. A token that does not open stays as it is
    and is never rung; its app mends it by registering. Raises `CannotOpen`, with nothing changed,
    if the keys do not fit, and `Unavailable`.
    """
    vault = await unlock(database, keys)
    if keys.present is None:
        return vault
    if vault.present is None:
        lookup_key = secrets.token_bytes(KEY_BYTES)
        await database.write([(sql.SET_META, ("lookup_key", wrapped(keys.present, lookup_key)))])
        vault = Vault(keys.by_name(), key_name(keys.present), lookup_key)
    await _seal_rows(database, vault, told)
    ((text,),) = await database.read_for_write(sql.ONE_META, ("lookup_key",))
    if wrapped_by(text) != vault.present:
        lookup_key = unwrapped(keys.by_name()[wrapped_by(text)], text)
        await database.write([(sql.SET_META, ("lookup_key", wrapped(keys.present, lookup_key)))])
    return vault


async def sealed_by(database: Database) -> list[tuple[str | None, int]]:
    """How many tokens need which key; None for those that are not encrypted."""
    return [(name, count) for name, count in await database.read(sql.SEALED_BY)]


async def _seal_rows(database: Database, vault: Vault, told: Callable[[Progress], None]) -> None:
    async def page(after: int) -> Rows:
        return await database.read_for_write(sql.TO_SEAL, (after, vault.present, ROWS))

    rows, progress = await page(0), Progress()
    if not rows:
        return
    async with database.leaving_nothing():
        while rows:
            statements: list[sql.Statement] = []
            for id, tenant, *stored in rows:
                sealed = Sealed(*stored)
                try:
                    new = vault.seal(tenant, id, vault.open(tenant, id, sealed))
                except Unreadable:
                    new = sealed._replace(by=vault.present)
                    progress = progress._replace(unreadable=progress.unreadable + 1)
                statements.append((sql.SEAL, (*new, id)))
            await database.write(statements)
            progress = progress._replace(sealed=progress.sealed + len(rows))
            told(progress)
            rows = await page(rows[-1][0])
