"""Dead letters: rings that were given up, as rows. Their record and their SQL.

A dead letter is made in the transaction that gives its ring up, and is called as the ring was. It
says which messages, on which registration, and why; the messages' outcomes are where they always
are. Nothing judges by it: a replay looks at the conversation as it is then.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from storage.records import Cut, Key
from storage.sql import Statement

if TYPE_CHECKING:
    from storage.database import Database


class Cause(StrEnum):
    """Why a ring was given up."""

    REFUSED = "refused"
    EXPIRED = "expired"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One ring that was given up. It covered the messages after `lo` up to `hi`.

    `answer` and `status` are of the last call, as far as known; times in epoch seconds.
    """

    id: str
    tenant: str
    customer: str
    device: int
    generation: int
    installation: str
    fingerprint: str
    kind: str
    lo_seq: int
    lo_ord: int
    seq: int
    ord: int
    cause: Cause
    answer: str | None
    status: int | None
    attempts: int
    at: float
    replayed_at: float | None = None

    @property
    def key(self) -> Key:
        return Key(self.tenant, self.customer)

    @property
    def lo(self) -> Cut:
        return Cut(self.lo_seq, self.lo_ord)

    @property
    def hi(self) -> Cut:
        return Cut(self.seq, self.ord)


COLUMNS = tuple(DeadLetter.__struct_fields__)
_NAMES = ", ".join(COLUMNS)
_PUT = f"INSERT INTO dead_letters ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_REPLAYED = "UPDATE dead_letters SET replayed_at = ? WHERE id = ?"
_FORGET = """
    DELETE FROM dead_letters WHERE number IN (
        SELECT number FROM dead_letters WHERE at < ? ORDER BY at LIMIT ?)
"""
_OLDER = "SELECT 1 FROM dead_letters WHERE at < ? LIMIT 1"
_ONE = f"SELECT {_NAMES} FROM dead_letters WHERE id = ? AND tenant = ?"  # noqa: S608
_AS_FAR = """
    SELECT id, seq, attempts FROM dead_letters
    WHERE device = ? AND generation = ? AND seq >= ? AND id <> ? ORDER BY number
"""
_NUMBER = "SELECT number FROM dead_letters WHERE id = ? AND tenant = ?"
_STRETCH = """
    SELECT number FROM dead_letters WHERE tenant = ? AND number < ?
    ORDER BY number DESC LIMIT 1 OFFSET ?
"""


def _fits(letter: str) -> str:
    """Whether the letter of that name is `Wanted`: `?4` to `?7` say which are."""
    return f"""(?4 IS NULL OR {letter}.customer = ?4) AND (?5 IS NULL OR {letter}.cause = ?5)
        AND (?6 IS NULL OR {letter}.at >= ?6) AND (?7 IS NULL OR {letter}.at <= ?7)"""


_WANTED = f"""
    SELECT {_NAMES} FROM dead_letters d WHERE tenant = ?1 AND number >= ?2 AND number < ?3
        AND {_fits("d")} AND (?9 OR NOT EXISTS (
            SELECT 1 FROM dead_letters o WHERE o.device = d.device AND o.generation = d.generation
                AND (o.seq, o.number) > (d.seq, d.number) AND {_fits("o")}))
    ORDER BY number DESC LIMIT ?8
"""  # noqa: S608
_BESIDE = f"""
    SELECT {_NAMES} FROM dead_letters d WHERE +tenant = ?1 AND device = ?2 AND generation = ?3
        AND {_fits("d")} ORDER BY number DESC
"""  # noqa: S608  ("+": the device's index, as the tenant's letters are many)
STRETCH = 2_000  # letters that one read looks at: others wait for the same connection


def dead_letter_put(letter: DeadLetter) -> Statement:
    """Writes a new dead letter."""
    return _PUT, msgspec.structs.astuple(letter)


def dead_letter_replayed(id: str, at: float) -> Statement:
    """Records that the letter was replayed."""
    return _REPLAYED, (at, id)


def dead_letters_forget(before: float, most: int) -> Statement:
    """Removes up to `most` letters that were made before then (epoch seconds)."""
    return _FORGET, (before, most)


class Calls(NamedTuple):
    """How often a ring was called, of which message, before it was given up."""

    id: str
    seq: int
    attempts: int


class Wanted(msgspec.Struct, frozen=True):
    """Which dead letters: those of one customer, of one cause, of a span of time (epoch s)."""

    customer: str | None = None
    cause: Cause | None = None
    since: float | None = None
    until: float | None = None

    @property
    def conditions(self) -> tuple[str | float | None, ...]:
        """As the statements want them."""
        return (self.customer, self.cause and self.cause.value, self.since, self.until)


class DeadLetterRows:
    """What is asked of dead letters, from what is committed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, tenant: str, id: str) -> DeadLetter | None:
        """A tenant's dead letter; None also if it is another tenant's."""
        rows = await self._database.read(_ONE, (id, tenant), tenant)
        return _to_letter(rows[0]) if rows else None

    async def calls(self, letter: DeadLetter) -> list[Calls]:
        """Its own, and those of the letters of the same registration that go as far, or further."""
        given = (letter.device, letter.generation, letter.seq, letter.id)
        others = await self._database.read(_AS_FAR, given, letter.tenant)
        return [Calls(letter.id, letter.seq, letter.attempts), *(Calls(*row) for row in others)]

    async def page(
        self, tenant: str, wanted: Wanted, before: str | None, limit: int, *, each: bool = True
    ) -> list[DeadLetter]:
        """A tenant's dead letters, newest first, older than the one named `before`. Without `each`
        only the one of every registration that goes furthest.

        None are, if that was forgotten meanwhile: the oldest are, first.
        """
        below = 2**62 if before is None else await self._number(tenant, before)
        found: list[DeadLetter] = []
        while below and len(found) < limit:
            rows = await self._database.scan(_STRETCH, (tenant, below, STRETCH - 1), tenant)
            first = rows[0][0] if rows else 0
            asked = (tenant, first, below, *wanted.conditions, limit - len(found), each)
            found += [_to_letter(row) for row in await self._database.scan(_WANTED, asked, tenant)]
            below = first
        return found

    async def beside(self, letter: DeadLetter, wanted: Wanted) -> list[DeadLetter]:
        """Those of the same registration that are wanted, newest first, this one among them."""
        asked = (letter.tenant, letter.device, letter.generation, *wanted.conditions)
        return [_to_letter(row) for row in await self._database.read(_BESIDE, asked, letter.tenant)]

    async def _number(self, tenant: str, id: str) -> int:
        rows = await self._database.read(_NUMBER, (id, tenant), tenant)
        return int(rows[0][0]) if rows else 0

    async def older(self, before: float) -> bool:
        """Whether there are any that were made before then (epoch seconds)."""
        return bool(await self._database.read(_OLDER, (before,)))


def _to_letter(row: Sequence[Any]) -> DeadLetter:
    values = dict(zip(COLUMNS, row, strict=True))
    values["cause"] = Cause(values["cause"])
    return DeadLetter(**values)
