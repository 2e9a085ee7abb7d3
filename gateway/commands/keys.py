"""`ringback keys`: the keys that device tokens are encrypted with at rest.

Decides nothing but what is printed; sealing is in `storage.sealing`.
"""

from __future__ import annotations

import typer

from gateway.commands.common import ConfigPath, clearly, fail, load, run_async, say
from gateway.config.sections import Storage
from gateway.config.values import fresh_key
from storage.database import Database, existing
from storage.sealing import Progress, seal_all, sealed_by, unlock
from storage.vault import key_name

app = typer.Typer(help="The keys that device tokens are encrypted with.", no_args_is_help=True)


@app.command()
def new() -> None:
    """Print a fresh key for storage.encryption_key."""
    with clearly():
        print(fresh_key())


@app.command()
def check(config_path: ConfigPath = None) -> None:
    """Say whether the keys fit the database, and what is encrypted. The gateway may be running."""
    with clearly():
        settings = load(config_path)
        for line in run_async(_counted(settings.storage)):
            print(line)


@app.command()
def rotate(config_path: ConfigPath = None) -> None:
    """Encrypt everything with storage.encryption_key, and leave no older copy in the file.

    For a stopped gateway, which does the same when it starts, but does not rewrite the file. It
    may be interrupted at any time and started again.
    """
    with clearly():
        storage = load(config_path).storage
        if storage.encryption_key is None:
            fail("storage.encryption_key is not set: there is no key to encrypt with")
        existing(storage.path)
        done = run_async(_rotate(storage))
        name = key_name(storage.keys.present or b"")
        say(f"Every token is encrypted with the key {name}: {done.sealed} were not before.")
        if done.unreadable:
            say(f"{done.unreadable} of them did not open: their apps have to register again.")
        if storage.previous_encryption_key is not None:
            say("Now remove storage.previous_encryption_key.")


async def _counted(storage: Storage) -> list[str]:
    database = await Database(storage.path).open_to_read()
    try:
        await unlock(database, storage.keys)
        counts = await sealed_by(database)
    finally:
        await database.close()
    told = [
        f"{'not encrypted' if by is None else f'encrypted with the key {by}'}: {count}"
        for by, count in counts
    ]
    return told or ["no device tokens"]


async def _rotate(storage: Storage) -> Progress:
    done = Progress()

    def told(progress: Progress) -> None:
        nonlocal done
        done = progress

    async with Database(storage.path) as database:
        await seal_all(database, storage.keys, told)
        await database.rewrite()
    return done
