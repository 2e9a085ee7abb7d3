"""Dead letters: rings that were given up, as rows. Their record and their SQL.

A dead letter is made in the transaction that gives its ring up, and is called as the ring was. It
says which messages, on which registration, and why; the messages' outcomes are where they always
are. Nothing judges by it: a replay looks at the conversation as it is then.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

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
    WHERE device = ? AND generation = ? AND seq >= ? ORDER BY number
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
_MANY = f"""
    SELECT count(*) FROM dead_letters d WHERE tenant = ?1 AND number >= ?2 AND number < ?3
        AND {_fits("d")}
"""  # noqa: S608
_BESIDE = f"""
    SELECT {_NAMES} FROM dead_letters d WHERE +tenant = ?1 AND device = ?2 AND generation = ?3
        AND {_fits("d")} AND (lo_seq, -number) > (
            ifnull((SELECT lo_seq FROM dead_letters WHERE id = ?9), -1),
            ifnull((SELECT -number FROM dead_letters WHERE id = ?9), 0))
    ORDER BY lo_seq, number DESC LIMIT ?8
"""  # noqa: S608  ("+": the device's index, as the tenant's letters are many)
_ALL = 2**62  # above all numbers
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

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        return cls(letter.id, letter.seq, letter.attempts)


class Place(NamedTuple):
    """Where a range goes on: with what is to be replayed after `last` of the registration whose
    furthest letter is `furthest`, and then with others; without `last` with others.

    What is refused anew meanwhile does not lead back to what was replayed before.
    """

    furthest: str
    last: str | None = None


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

    async def calls(self, letter: DeadLetter, since: int) -> list[Calls]:
        """Of all letters of the same registration that go as far as `since`, or further."""
        given = (letter.device, letter.generation, since)
        return [Calls(*row) for row in await self._database.read(_AS_FAR, given, letter.tenant)]

    async def page(
        self, tenant: str, wanted: Wanted, before: str | None, limit: int
    ) -> list[DeadLetter]:
        """A tenant's dead letters, newest first, older than the one named `before`.

        None are, if that was forgotten meanwhile: the oldest are, first.
        """
        below = _ALL if before is None else await self._number(tenant, before)
        return await self._below(tenant, wanted, below, limit, each=True)

    async def in_turn(
        self, tenant: str, wanted: Wanted, after: Place | None, limit: int
    ) -> list[tuple[str, DeadLetter]]:
        """`limit` of those that are wanted, after that place, in the order in which they are to be
        replayed: a registration's together, of the newest first, and of one first what begins
        first, of these the newest. Each comes with the id of its registration's furthest.

        None are, if the furthest of that place was forgotten: the oldest are, first.
        """
        below, found = _ALL, list[tuple[str, DeadLetter]]()
        if after is not None:
            begun = await self.one(tenant, after.furthest)
            if begun is None:
                return []
            below = await self._number(tenant, begun.id)
            if after.last is not None:
                found = await self._beside(begun, wanted, limit, after.last)
        left = limit - len(found)
        for furthest in await self._below(tenant, wanted, below, left, each=False):
            if len(found) < limit:
                found += await self._beside(furthest, wanted, limit - len(found))
        return found

    async def many(self, tenant: str, wanted: Wanted) -> int:
        """How many are wanted."""
        below, found = _ALL, 0
        while below:
            first = await self._stretch(tenant, below)
            asked = (tenant, first, below, *wanted.conditions)
            found += (await self._database.scan(_MANY, asked, tenant))[0][0]
            below = first
        return found

    async def _below(
        self, tenant: str, wanted: Wanted, below: int, limit: int, *, each: bool
    ) -> list[DeadLetter]:
        """Newest first. Without `each` only the one of every registration that goes furthest."""
        found: list[DeadLetter] = []
        while below and len(found) < limit:
            first = await self._stretch(tenant, below)
            asked = (tenant, first, below, *wanted.conditions, limit - len(found), each)
            found += [_to_letter(row) for row in await self._database.scan(_WANTED, asked, tenant)]
            below = first
        return found

    async def _stretch(self, tenant: str, below: int) -> int:
        """From which place on one read may look at all that is below that one."""
        rows = await self._database.scan(_STRETCH, (tenant, below, STRETCH - 1), tenant)
        return int(rows[0][0]) if rows else 0

    async def _beside(
        self, furthest: DeadLetter, wanted: Wanted, limit: int, after: str | None = None
    ) -> list[tuple[str, DeadLetter]]:
        """Those of the same registration that are wanted, as they are to be replayed: after the one
        of that name, or all of them if it was forgotten."""
        one = furthest
        asked = (one.tenant, one.device, one.generation, *wanted.conditions, limit, after)
        rows = await self._database.read(_BESIDE, asked, one.tenant)
        return [(one.id, _to_letter(row)) for row in rows]

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
