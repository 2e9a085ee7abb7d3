"""Dead letters: what was given up, and ringing for it again.

A dead letter is a ring that the customer backend refused, or that expired while it was retried
(`gateway.ringing` writes them down). A replay never repeats the ring: under its id nothing changes
any more. It asks for a new one, for the messages that nobody has been told of and that have not
expired: their outcome goes from `undeliverable` back to `pending` (`Trigger.REPLAY`), the device
is behind again, and the delivery rule goes its way. Who acknowledges meanwhile is not rung.

So a replay does nothing, and says why, where it would ring somebody twice or in vain (`Replay`).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

import msgspec

from gateway.context import Context
from gateway.delivery import Reason
from gateway.owing import pending_again
from gateway.protocol import ErrorCode, FrameError
from gateway.wishes import is_muted, is_unwanted
from push.backends import Backend, choose
from push.verdicts import NOT_SENT
from storage import outcomes
from storage.deadletters import (
    Calls,
    DeadLetter,
    DeadLetterRows,
    Place,
    Wanted,
    dead_letter_replayed,
    dead_letters_forget,
)
from storage.outcomes import Trigger
from storage.records import Conversation, Cut, Detail, Device, Key, Message, Outcome, Span
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace

KEEP = 30 * 86_400.0  # seconds for which a dead letter is kept
FORGET = 1_000  # of those that are older, so many go at a time
_ID = re.compile(r"r_[0-9a-f]{16}")
AT_ONCE = 200  # letters of a range in one call


class Replay(StrEnum):
    """What a replay did, or why it did nothing."""

    REPLAYED = "replayed"
    ALREADY = "already"  # it was replayed before; a ring refused anew is a new dead letter
    READ = "read"
    ACKED = "acked"
    PUSHED = "pushed"  # another device rang for it, or this one since
    PENDING = "pending"  # it is on its way, or something newer on this device is
    UNWANTED = "unwanted"  # the customer does not want to be rung, or did not for something newer
    UNCERTAIN = "uncertain"  # a call of it had no answer: it may have rung before it was refused
    EXPIRED = "expired"
    DEVICE_GONE = "device_gone"  # the registration is another, or dead
    NO_ENDPOINT = "no_endpoint"  # no configured backend rings the device


class _Called(NamedTuple):
    """What was called for letters of one registration."""

    before: Conversation | None
    """As it was when that was read: a device that is another since may have been called."""
    uncertain: int
    """The furthest message of which a ring may have been taken; 0 if there is none."""

    def is_certain(self, letter: DeadLetter) -> bool:
        """Whether neither this ring, nor another for what would be replayed with it, can have been
        taken."""
        return letter.seq > self.uncertain


class Ranged(NamedTuple):
    """What came of replaying a range: how many each, where the next call goes on, and how many are
    left for it and those after it, which only the first call counts."""

    results: Counter[Replay]
    cursor: str | None
    left: int | None


def judge(
    c: Conversation | None,
    letter: DeadLetter,
    unacked: Callable[[Conversation], list[Message]],
    now: float,
    backends: tuple[Backend, ...],
) -> Replay:
    """What a replay would do now, if none of the ring's calls can have been taken.

    `unacked` gives the messages after the acked cursor, where they matter: they have to be read.
    `backends` are the tenant's.
    """
    if c is None:
        return Replay.DEVICE_GONE
    if letter.ord <= c.read_ord:
        return Replay.READ
    if letter.ord <= c.acked_ord:
        return Replay.ACKED
    if letter.replayed_at is not None:
        return Replay.ALREADY
    device = _device(c, letter)
    if device is None:
        return Replay.DEVICE_GONE
    lo = max(letter.lo, c.acked)
    since = _segments(c, lo, max(letter.hi, device.covered))
    found = {span.outcome for span in since}
    if Outcome.PUSHED in found:
        return Replay.PUSHED
    if Outcome.PENDING in found or device.ring is not None:
        return Replay.PENDING
    if any(s.outcome is Outcome.UNDELIVERABLE and s.reason != Reason.REFUSED for s in since):
        return Replay.UNWANTED
    again = _due_again(c, lo, letter.hi, unacked(c), now)
    if not again:
        return Replay.EXPIRED
    if is_muted(c.wishes, now) or all(is_unwanted(c.wishes, m.kind) for m in again):
        return Replay.UNWANTED
    if choose(backends, device.environment, device.app) is None:
        return Replay.NO_ENDPOINT
    return Replay.REPLAYED


def _segments(c: Conversation, lo: Cut, hi: Cut) -> list[Span]:
    """What is after `lo` up to `hi`, as spans of one outcome each."""
    return [s for s in outcomes.segments(c) if s.lo_ord < hi.ord and lo.ord < s.hi_ord]


def _device(c: Conversation, letter: DeadLetter) -> Device | None:
    """The registration that the letter is about, if it still is."""
    device = c.device(letter.device)
    if device is None or not device.live or device.generation != letter.generation:
        return None
    return device


def _due_again(
    c: Conversation, lo: Cut, hi: Cut, unacked: list[Message], now: float
) -> list[Message]:
    """The messages after `lo` up to `hi` that were refused and have not expired."""
    return [
        m
        for m in unacked
        if lo.ord < m.ord <= hi.ord
        and not m.has_expired(now)
        and outcomes.outcome(c, m) is Outcome.UNDELIVERABLE
    ]


def _no_cursor() -> FrameError:
    return FrameError(ErrorCode.BAD_FRAME, "cursor: give one as an answer had it")


def _place(cursor: str | None) -> Place | None:
    """Where a range goes on. Raises `FrameError`."""
    if cursor is None:
        return None
    place = cursor.split(".")
    if len(place) > 2 or not all(map(_ID.fullmatch, place)):
        raise _no_cursor()
    return Place(*place)


class DeadLetters:
    """The use cases."""

    def __init__(self, context: Context, rows: DeadLetterRows) -> None:
        self._context = context
        self._store = context.store
        self._rows = rows

    async def page(
        self, tenant: str, wanted: Wanted, cursor: str | None, limit: int
    ) -> list[DeadLetter]:
        """A tenant's dead letters, newest first. Raises `FrameError` for an unknown cursor."""
        if cursor is not None and not _ID.fullmatch(cursor):  # its letter may be forgotten
            raise _no_cursor()
        return await self._rows.page(tenant, wanted, cursor, limit)

    async def one(self, tenant: str, id: str) -> tuple[DeadLetter, Replay]:
        """A dead letter, and what a replay would do now. Raises `FrameError` `not_found`."""
        letter = await self._found(tenant, id)
        return letter, await self._outlook(letter)

    async def replay(self, tenant: str, id: str) -> Replay:
        """Ring for it again, unless somebody would be rung twice or in vain."""
        (result,) = await self._in_turn([await self._found(tenant, id)])
        return result

    async def replay_range(self, tenant: str, wanted: Wanted, cursor: str | None) -> Ranged:
        """Replay `AT_ONCE` of those that are wanted; the cursor says where the next call goes on.

        A registration's one after the other, first what begins first: it takes along what was
        refused after it, so that what one device owes becomes one ring.
        """
        found = await self._rows.in_turn(tenant, wanted, _place(cursor), AT_ONCE + 1)
        some, more = found[:AT_ONCE], len(found) > AT_ONCE
        left = await self._rows.many(tenant, wanted) - AT_ONCE if more and not cursor else None
        theirs: dict[Key, dict[str, list[DeadLetter]]] = {}
        for furthest, letter in some:
            registrations = theirs.setdefault(letter.key, {})
            registrations.setdefault(furthest, []).append(letter)

        async def of_a_customer(registrations: Iterable[list[DeadLetter]]) -> list[Replay]:
            return [result for own in registrations for result in await self._in_turn(own)]

        each = (of_a_customer(registrations.values()) for registrations in theirs.values())
        results = Counter(chain(*await asyncio.gather(*each)))
        goes_on = f"{some[-1][0]}.{some[-1][1].id}" if more else None
        return Ranged(results, goes_on, left)

    async def forget(self, before: float) -> None:
        """Remove what was made before then (epoch seconds), a thousand at a time."""
        if await self._rows.older(before):
            statement = dead_letters_forget(before, FORGET)
            await self._store.submit(lambda tx: tx.also(statement), Needs(), later=True)

    async def _found(self, tenant: str, id: str) -> DeadLetter:
        letter = await self._rows.one(tenant, id)
        if letter is None:
            raise FrameError(ErrorCode.NOT_FOUND, "this tenant has no such dead letter")
        return letter

    async def _outlook(self, letter: DeadLetter) -> Replay:
        """What a replay would do now. What was called is read only where it decides."""
        result = await self._judged(letter)
        if result is Replay.REPLAYED and not (await self._called([letter])).is_certain(letter):
            return Replay.UNCERTAIN
        return result

    async def _judged(self, letter: DeadLetter) -> Replay:
        needs = Needs(keys=(letter.key,))
        return await self._store.submit(lambda tx: self._judge(tx, letter), needs)

    async def _called(self, letters: list[DeadLetter]) -> _Called:
        """What was called for letters of one registration, in one reading however many they are.

        It is certain that a ring was not taken, if every call of it is recorded with its answer, or
        as not sent. A call that was cut off, or out when the process died, may have rung; and a
        backend may refuse what it has already taken.

        One of the letters was judged before: its commit is in the memory, as it was in the file.
        """
        key = letters[0].key
        before = await self._store.conversation(key)
        first = min(one.seq for one in letters)
        rings = [*map(Calls.of, letters), *await self._rows.calls(letters[0], first)]
        certain: defaultdict[str, set[int]] = defaultdict(set)
        for event in await self._store.attempts(key, first, max(one.seq for one in rings)):
            told = event.details
            if "status" in told or told["reason"] in NOT_SENT:
                certain[told["ring"]].add(told["attempt"])
        taken = (r.seq for r in rings if certain[r.id] != set(range(1, r.attempts + 1)))
        return _Called(before, max(taken, default=0))

    async def _in_turn(self, letters: list[DeadLetter]) -> list[Replay]:
        """Replay these, of one registration, one after the other."""
        results: list[Replay] = []
        called: _Called | None = None
        while letters:
            letter, *later = letters
            result: Replay | None = await self._judged(letter)
            if result is Replay.REPLAYED:
                called = called or await self._called(letters)
                # Again: since it was read, and before the calls were, it may have been replayed.
                letter = await self._found(letter.tenant, letter.id)
                certain = called.is_certain(letter)
                result = await self._replay(letter, called) if certain else Replay.UNCERTAIN
            if result is None:
                called = None
                letters = [await self._found(letter.tenant, letter.id), *later]
            else:
                results.append(result)
                letters = later
        return results

    async def _replay(self, letter: DeadLetter, called: _Called) -> Replay | None:
        """Ring for it again, if that is right now; None if a call may have been made of it since
        the calls were read."""

        def change(tx: Transaction) -> Replay | None:
            result = self._judge(tx, letter)
            c = tx.conversation(letter.key)
            device = None if c is None else _device(c, letter)
            if result is Replay.REPLAYED and c is not None and device is not None:
                if called.before is None or device != called.before.device(device.id):
                    return None
                self._rearm(tx, c, device, letter)
                tx.also(dead_letter_replayed(letter.id, tx.now))
            return result

        needs = Needs(keys=(letter.key,))
        return await self._store.submit(change, needs, later=True)

    def _rearm(self, tx: Transaction, c: Conversation, device: Device, letter: DeadLetter) -> None:
        """The device is behind again from the letter's first message on, and is due.

        What came after the letter and was given up on this device as well is due with it.
        """
        lo = max(letter.lo, c.acked)
        hi = max(letter.hi, device.covered)
        again = _due_again(c, lo, hi, tx.unacked(c), tx.now)
        detail = Detail(ring=letter.id, device=letter.fingerprint)
        tx.event(c, lo.seq + 1, letter.seq, "replayed", detail)
        c = pending_again(tx, c, again, Trigger.REPLAY)
        in_chat = self._context.hub.is_in_chat(c.key)
        due = self._context.due(c, tx.now, in_chat=in_chat)
        covered = min(lo, device.covered)
        # Nothing more is owed before it is due: a look for the number on the icon rings for none.
        owed = device.owed_ord if device.owed_ord > device.covered.ord else covered.ord
        behind = replace(device, covered=covered, owed_ord=owed)
        tx.put(replace(c.with_device(behind), push_due_at=due))

    def _judge(self, tx: Transaction, letter: DeadLetter) -> Replay:
        backends = self._context.rules(letter.tenant).backends
        return judge(tx.conversation(letter.key), letter, tx.unacked, tx.now, backends)
