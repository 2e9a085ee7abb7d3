"""The push worker: look, call, settle, for every device that was woken.

Decides when a device is looked at and how many calls run at a time. Leaves to the book what is
owed and to whom, to `push.caller` the call, to `push.retry` the delays.

One device is in exactly one of these states; `wake` moves it as shown::

    idle ──wake──> waiting ──slot free──> working ──done──> idle
                      ^                    │   │
                      └──woken meanwhile───┘   └──unexpected exception──> resting ──> waiting

`working` is one task: `look` (repeated while the book is unavailable; the slot is kept, which
brakes the lane while nothing can be written), then the call, then `settle` (repeated until it
commits). So no device has two calls in flight, and an answer that arrived is not thrown away
because the disk was full for a while.

Bounds (I9). Per tenant one lane of its own, so that a backlog delays nobody else: at most
`Endpoint.in_flight` devices working; further ones wait, one entry per device however often it is
woken, in the order of waking. Resting devices likewise are one entry each. Nothing is dropped at
a bound: what is owed stands in the book's rows, not here.

Draining: no look and no call starts any more; calls that are out may end and be settled within
the time given; then they are cut off and their claims stand. After the restart the same ring id
is called again with the same bytes, which is why a backend drops doubles by id.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

import structlog

from push import retry
from push.ring import (
    Attempt,
    BookUnavailable,
    Claim,
    DeviceRef,
    Endpoint,
    RingBook,
    Verdict,
    VerdictKind,
)
from push.verdicts import advice

BOOK_FIRST: Final = 0.2  # seconds; the book's back-off when it cannot write
BOOK_MOST: Final = 5.0
REST_FIRST: Final = 5.0  # seconds; a device whose work broke, doubled per break in a row
REST_MOST: Final = 300.0
COMPLAIN_EVERY: Final = 60.0  # seconds, per tenant

_RETRIED: Final = frozenset({VerdictKind.RETRY, VerdictKind.MISCONFIGURED})

_log = structlog.get_logger("push.worker")


class BackendCalls(Protocol):
    """What the worker needs of `push.caller.Caller`."""

    async def call(self, endpoint: Endpoint, claim: Claim, now: float) -> tuple[Verdict, float]:
        """Make the call and return the verdict and its milliseconds. Raises nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How many devices of a tenant wait for a slot, and how many are being worked on."""

    waiting: int
    working: int


@dataclass(slots=True)
class _Lane:
    """One tenant's devices. The dicts are ordered sets: the order of waking is kept."""

    waiting: dict[DeviceRef, None] = field(default_factory=dict)
    working: dict[DeviceRef, asyncio.Task[None]] = field(default_factory=dict)
    again: set[DeviceRef] = field(default_factory=set)
    wave: retry.RejectionWave = field(default_factory=retry.RejectionWave)
    complained_at: float | None = None


@dataclass(slots=True)
class _Rest:
    """A device whose work broke: how often in a row, and (epoch s) until when it is left alone."""

    breaks: int
    until: float | None


class PushWorker:
    """Rings the devices that it is woken for. One life: made, started, drained."""

    def __init__(
        self,
        book: RingBook,
        endpoints: Mapping[str, Endpoint],
        caller: BackendCalls,
        clock: Callable[[], float],
        rng: Random,
        on_attempt: Callable[[Claim, Attempt], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] | None = None,
    ) -> None:
        """Take the seams: `clock` in epoch s; `on_attempt` hears of every settled attempt.

        `wall` dates what the backend compares with its own clock; it is `clock` unless given.
        """
        self._book = book
        self._endpoints = dict(endpoints)
        self._caller = caller
        self._clock = clock
        self._rng = rng
        self._on_attempt = on_attempt
        self._sleep = sleep
        self._wall = wall or clock
        self._lanes: dict[str, _Lane] = {}
        self._rests: dict[DeviceRef, _Rest] = {}
        self._rest_timer: asyncio.Task[None] | None = None
        self._pausing: set[asyncio.Task[None]] = set()
        self._started = False
        self._draining = False

    def wake(self, ref: DeviceRef) -> None:
        """Have `ref` looked at soon. Any number of wakes before that look are one.

        While the device is being worked on it is looked at once more afterwards; while it rests
        it is looked at when the rest ends. Before `start` wakes are kept; after `drain` began
        they are ignored. A tenant without an endpoint is a mistake of the caller, and logged.
        """
        if self._draining:
            return
        if ref.tenant not in self._endpoints:
            _log.error("woken for a tenant without push endpoint", tenant=ref.tenant)
            return
        rest = self._rests.get(ref)
        if rest is not None and rest.until is not None:
            return
        lane = self._lanes.setdefault(ref.tenant, _Lane())
        if ref in lane.working:
            lane.again.add(ref)
            return
        lane.waiting[ref] = None
        self._fill(ref.tenant, lane)

    def start(self) -> None:
        """Begin to work on what was woken. Call it once, inside the running loop."""
        self._started = True
        for tenant, lane in self._lanes.items():
            self._fill(tenant, lane)

    def load(self, tenant: str) -> Load:
        """Return how much work this tenant has here, for metrics."""
        lane = self._lanes.get(tenant, _Lane())
        return Load(len(lane.waiting), len(lane.working))

    async def drain(self, timeout: float) -> int:
        """Stop: start nothing, give what is out `timeout` seconds, then cut it off.

        Returns how many devices were cut off; their claims stand. The caller is not closed.
        """
        self._draining = True
        for lane in self._lanes.values():
            lane.waiting.clear()
        for task in (*self._pausing, *([self._rest_timer] if self._rest_timer else [])):
            task.cancel()
        tasks = [task for lane in self._lanes.values() for task in lane.working.values()]
        timer = asyncio.ensure_future(self._sleep(timeout))
        everything = asyncio.gather(*tasks, return_exceptions=True)
        either: set[asyncio.Future[Any]] = {timer, everything}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late = [task for task in tasks if not task.done()]
            for task in (timer, *late):
                task.cancel()
        await asyncio.gather(timer, everything, return_exceptions=True)
        if late:
            _log.warning("push drain cut calls off; they repeat under the same id", calls=len(late))
        return len(late)

    def _fill(self, tenant: str, lane: _Lane) -> None:
        """Start work on waiting devices while the tenant has a slot."""
        if not self._started:
            return
        slots = self._endpoints[tenant].in_flight
        while lane.waiting and len(lane.working) < slots:
            ref = next(iter(lane.waiting))
            del lane.waiting[ref]
            lane.working[ref] = asyncio.create_task(self._serve(lane, ref), name="push-device")

    async def _serve(self, lane: _Lane, ref: DeviceRef) -> None:
        """Work on one device, survive what breaks, and hand the slot on."""
        try:
            await self._work(lane, ref)
        except Exception as error:
            self._rest(ref, error)
        else:
            self._rests.pop(ref, None)
        finally:
            del lane.working[ref]
            if ref in lane.again:
                lane.again.discard(ref)
                self.wake(ref)
            self._fill(ref.tenant, lane)

    async def _work(self, lane: _Lane, ref: DeviceRef) -> None:
        claim = await self._look(ref)
        if claim is None or self._draining:
            return
        endpoint = self._endpoints[ref.tenant]
        verdict, ms = await self._caller.call(endpoint, claim, self._wall())
        attempt = self._judge(lane, endpoint, claim, verdict, ms)
        if verdict.kind is VerdictKind.MISCONFIGURED:
            self._complain(lane, ref.tenant, verdict)
        await self._settle(claim, attempt)
        self._on_attempt(claim, attempt)

    async def _look(self, ref: DeviceRef) -> Claim | None:
        tries = 0
        while not self._draining:
            try:
                return await self._book.look(ref)
            except BookUnavailable:
                tries += 1
                await self._pause(retry.delay(tries, self._rng, BOOK_FIRST, BOOK_MOST))
        return None

    async def _settle(self, claim: Claim, attempt: Attempt) -> None:
        """Hand in the verdict until the book has it; only the end of a drain gives up."""
        tries = 0
        while True:
            try:
                return await self._book.settle(claim, attempt)
            except BookUnavailable as error:
                tries += 1
                if tries == 1:
                    _log.warning(
                        "a push answer waits to be recorded",
                        tenant=claim.ref.tenant,
                        ring=claim.ring.id,
                        reason=error.reason,
                    )
                await self._sleep(retry.delay(tries, self._rng, BOOK_FIRST, BOOK_MOST))

    async def _pause(self, seconds: float) -> None:
        """Sleep where a drain may end the work at once, because nothing is out."""
        if self._draining:
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (for mypy: a coroutine always runs in a task)
        self._pausing.add(task)
        try:
            await self._sleep(seconds)
        finally:
            self._pausing.discard(task)

    def _judge(
        self, lane: _Lane, endpoint: Endpoint, claim: Claim, verdict: Verdict, ms: float
    ) -> Attempt:
        """Date the verdict: when to retry, and whether a dead token is part of a wave."""
        now = self._clock()
        dead = verdict.kind is VerdictKind.TOKEN_DEAD
        if verdict.status is not None:  # a timeout is no answer, and says nothing of tokens
            lane.wave.record(now, dead)
        retry_at = None
        if verdict.kind in _RETRIED:
            retry_at = now + retry.delay(
                claim.attempt,
                self._rng,
                endpoint.retry_first,
                endpoint.retry_max,
                verdict.retry_after,
            )
        return Attempt(verdict, ms, now, retry_at, quarantine=dead and lane.wave.is_wave(now))

    def _complain(self, lane: _Lane, tenant: str, verdict: Verdict) -> None:
        now = self._clock()
        if lane.complained_at is not None and 0 <= now - lane.complained_at < COMPLAIN_EVERY:
            return
        lane.complained_at = now
        _log.error(
            "the push endpoint is misconfigured; its rings wait and are retried",
            tenant=tenant,
            reason=verdict.reason,
            status=verdict.status,
            advice=advice(verdict.reason),
        )

    def _rest(self, ref: DeviceRef, error: Exception) -> None:
        """Leave a device alone for a while after its work broke in a way nobody foresaw."""
        rest = self._rests.setdefault(ref, _Rest(0, None))
        wait = min(REST_MOST, REST_FIRST * 2 ** min(rest.breaks, 16))
        rest.breaks += 1
        rest.until = self._clock() + wait
        if rest.breaks == 1:
            _log.error(
                "push work broke; this is a fault of ringback, please report it",
                tenant=ref.tenant,
                device=ref.device,
                error=type(error).__name__,  # its text might quote a message
                where=_where(error),
            )
        if self._rest_timer is None and not self._draining:
            self._rest_timer = asyncio.create_task(self._end_rests(), name="push-rests")

    async def _end_rests(self) -> None:
        """Wake rested devices. One timer for all, at `REST_FIRST` steps, while any rests."""
        while any(rest.until is not None for rest in self._rests.values()):
            await self._sleep(REST_FIRST)
            now = self._clock()
            for ref, rest in list(self._rests.items()):
                if rest.until is not None and rest.until <= now:
                    rest.until = None
                    self.wake(ref)
        self._rest_timer = None


def _where(error: Exception) -> str:
    """Return the innermost frames as "file:line in function"; a traceback could show values."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(frames))
