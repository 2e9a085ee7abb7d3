"""The push worker: look, call, settle, for every device that was woken.

Decides when a device is looked at. Leaves to the book what is owed and to whom, to `push.lane`
whose turn it is, to `push.breaker` whether an endpoint may be called, to `push.caller` the call, to
`push.retry` the delays.

One device is in exactly one of these states; `wake` moves it as shown::

    idle ──wake──> waiting ─────turn────> working ──done──> idle
                      ^                   ^  │ │
                      │                   │  │ └──unexpected exception──> resting ──> waiting
                      └──woken meanwhile──│──┘
                                          │  endpoint down
                                        parked <── (looked at once, to record the wait)

`working` is one task: `look` (repeated while the book is unavailable; the slot is kept, which
brakes the lane while nothing can be written), then the call, then `settle` (repeated until it
commits). So no device has two calls in flight, and an answer that arrived is not thrown away
because the disk was full for a while.

Bounds (I9). Per endpoint one lane of its own, so that a backlog delays nobody else: at most
`Endpoint.in_flight` devices working (fewer at first), at its rate; further ones wait, one entry per
device however often it is woken, in the order of waking. Parked and resting devices likewise are
one entry each.
Nothing is dropped at a bound: what is owed stands in the book's rows, not here.

Draining: no look and no call starts any more; calls that are out may end and be settled within
the time given; then they are cut off and their claims stand. After the restart the same ring id
is called again with the same bytes, which is why a backend drops doubles by id.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

import structlog

from push import breaker, retry
from push.failures import where
from push.lane import Lane, Timer, Turn
from push.ring import (
    MENDED,
    RETRIED,
    TOKEN_DEAD,
    Attempt,
    BookUnavailable,
    Claim,
    DeviceRef,
    Endpoint,
    Pause,
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

_SUSPENDED: Final = (
    "nothing was accepted for too long; see what the backend answers (`ringback push test`), mend"
    " it or the tenant's push settings; rings that have not expired go out when a probe succeeds"
)
_QUARANTINED: Final = (
    "see why the backend says that so many tokens are dead (its credentials, its environment) and"
    " mend it; a phone in quarantine is rung again when its app registers again, at its next start"
)
_GIVEN_UP: Final = (
    "see what it objects to (`ringback deadletters list`, `ringback push test`), mend that, and"
    " replay them"
)

_log = structlog.get_logger("push.worker")


class BackendCalls(Protocol):
    """What the worker needs of `push.caller.Caller`."""

    async def call(self, endpoint: Endpoint, claim: Claim, now: float) -> tuple[Verdict, float]:
        """Make the call and return the verdict and its milliseconds. Raises nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How many devices wait for an endpoint, how many are being worked on, and how it is."""

    waiting: int
    working: int
    open: bool = False
    suspended: bool = False


@dataclass(slots=True)
class _Rest:
    """A device whose work broke: how often in a row, and (epoch s) until when it is left alone."""

    breaks: int
    until: float | None
    backend: str


class PushWorker:
    """Rings the devices that it is woken for. One life: made, started, drained."""

    def __init__(
        self,
        book: RingBook,
        endpoints: Iterable[Endpoint],
        clock: Callable[[], float],
        rng: Random,
        on_attempt: Callable[[Claim, Attempt], None],
        wall: Callable[[], float],
        on_fault: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take the seams: `clock` in epoch s; `on_attempt` hears of every settled attempt.

        `wall` dates what the backend compares with its own clock.
        `on_fault` hears of every time that the work on a device broke.
        """
        self._book = book
        self._caller: BackendCalls  # from `start` on
        self._clock = clock
        self._rng = rng
        self._on_attempt = on_attempt
        self._sleep = sleep
        self._wall = wall
        self._on_fault = on_fault
        self._lanes: dict[str, dict[str, Lane]] = {}
        self._rests: dict[DeviceRef, _Rest] = {}
        self._rest_timer: asyncio.Task[None] | None = None
        self._pausing: set[asyncio.Task[None]] = set()
        self._started = False
        self._draining = False
        self.take_up(endpoints)

    def wake(self, ref: DeviceRef, backend: str = "") -> None:
        """Have `ref` looked at soon. Any number of wakes before that look are one.

        While the device is being worked on it is looked at once more afterwards; while it rests
        it is looked at when the rest ends. Before `start` wakes are kept; after `drain` began
        they are ignored. An endpoint that is not there is a mistake of the caller, and logged.
        A device that waited for another endpoint of the tenant waits for this one now.
        """
        if self._draining:
            return
        lanes = self._lanes.get(ref.tenant, {})
        lane = lanes.get(backend)
        if lane is None:
            _log.error(
                "woken for a tenant without push endpoint", tenant=ref.tenant, backend=backend
            )
            return
        for other in lanes.values():
            if ref in other.working:
                other.again[ref] = backend
                return
            if other is not lane:
                other.forget(ref)
        rest = self._rests.get(ref)
        if rest is not None and rest.until is not None:
            return
        lane.wake(ref)
        self._fill(lane)

    def take_up(self, endpoints: Iterable[Endpoint]) -> None:
        """Call by these settings from now on; calls that are out end by the old ones.

        An endpoint whose settings changed has its failures and its rate forgotten: what waited for
        it is tried at once. One that is not among them is left out of `loads`, and else stays as it
        is: what is rung is said by the book.
        """
        known = set[tuple[str, str]]()
        for endpoint in endpoints:
            name = endpoint.backend.name
            known.add((endpoint.tenant, name))
            lanes = self._lanes.setdefault(endpoint.tenant, {})
            lane = lanes.get(name)
            if lane is None:
                lanes[name] = Lane(endpoint)
            elif lane.is_gone or lane.endpoint != endpoint:
                lane.take_up(endpoint)
                self._fill(lane)
        for tenant, lanes in self._lanes.items():
            for name, lane in lanes.items():
                lane.is_gone = (tenant, name) not in known

    def start(self, caller: BackendCalls) -> None:
        """Begin to work on what was woken. Call it once, inside the running loop."""
        self._caller = caller
        self._started = True
        for lane in self._all():
            self._fill(lane)

    def loads(self) -> dict[tuple[str, str], Load]:
        """Return the load of every endpoint by tenant and backend, for metrics: from any thread."""
        return {
            (tenant, backend): load
            for tenant in tuple(self._lanes)
            for backend, load in self.loads_of(tenant).items()
        }

    def loads_of(self, tenant: str) -> dict[str, Load]:
        """Return the load of each of the tenant's endpoints by backend."""
        lanes = tuple(self._lanes.get(tenant, {}).items())
        return {backend: _load(lane) for backend, lane in lanes if not lane.is_gone}

    def _all(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes.values()]

    async def drain(self, timeout: float) -> int:
        """Stop: start nothing, give what is out `timeout` seconds, then cut it off.

        Returns how many devices were cut off; their claims stand. The caller is not closed.
        """
        self._draining = True
        for lane in self._all():
            lane.clear()
        timers = [lane.timer.task for lane in self._all() if lane.timer is not None]
        for task in (*self._pausing, *timers, *([self._rest_timer] if self._rest_timer else [])):
            task.cancel()
        tasks = [task for lane in self._all() for task in lane.working.values()]
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

    def _fill(self, lane: Lane) -> None:
        """Give every turn that there is now, and have the next one looked for when it may come."""
        while (lane.waiting or lane.parked) and self._started and not self._draining:
            turn = lane.turn(self._clock())
            if turn is None:
                return
            if not isinstance(turn, Turn):
                self._ask_again(lane, turn)
                return
            task = asyncio.create_task(self._serve(lane, turn), name="push-device")
            lane.working[turn.ref] = task

    def _ask_again(self, lane: Lane, at: float) -> None:
        if lane.timer is not None:
            if lane.timer.at <= at:
                return
            lane.timer.task.cancel()
        task = asyncio.create_task(self._fill_at(lane, at), name="push-lane")
        lane.timer = Timer(at, task)

    async def _fill_at(self, lane: Lane, at: float) -> None:
        while (wait := at - self._clock()) > 0.0:
            await self._sleep(wait)
        lane.timer = None
        self._fill(lane)

    async def _serve(self, lane: Lane, turn: Turn) -> None:
        """Work on one device, survive what breaks, and hand the slot on."""
        called = parked = False
        try:
            found = await self._look(turn)
            if not isinstance(found, Claim):
                parked = found is not None
            elif not self._draining:
                called = True
                meant = self._lanes[turn.ref.tenant][found.backend]
                await self._call(meant, found, probed=turn.probe and meant is lane)
        except Exception as error:
            self._rest(turn.ref, lane.endpoint.backend.name, error)
        else:
            self._rests.pop(turn.ref, None)
        finally:
            lane.done(turn, called=called, parked=parked and not self._draining)
            again = lane.again.pop(turn.ref, None)
            if again is not None:
                self.wake(turn.ref, again)
            for each in self._lanes[turn.ref.tenant].values():
                self._fill(each)

    async def _call(self, lane: Lane, claim: Claim, *, probed: bool) -> None:
        called = lane.endpoint
        verdict, ms = await self._caller.call(called, claim, self._wall())
        now = self._clock()
        current = lane.endpoint is called  # else it says nothing of the settings taken up meanwhile
        if current:
            self._learn(lane, claim.ref, verdict, now, probed=probed)
        if verdict.kind in MENDED and (current or verdict.kind is VerdictKind.REFUSED):
            self._complain(lane, verdict)
        attempt = self._judge(lane, claim, verdict, ms, now)
        await self._settle(claim, attempt)
        self._on_attempt(claim, attempt)

    def _learn(
        self, lane: Lane, ref: DeviceRef, verdict: Verdict, now: float, *, probed: bool
    ) -> None:
        """Keep what the verdict says of the endpoint, and tell operators when that is news."""
        before, endpoint = lane.health, lane.endpoint
        after = breaker.after(before, verdict, ref, now, endpoint, probed=probed)
        if after is before:
            return
        lane.health = after
        told = {**endpoint.named, "reason": verdict.reason, "status": verdict.status}
        if after.suspended and not before.suspended:
            hours = round((now - (after.failing_since or now)) / 3600, 1)
            _log.error("the push endpoint is suspended", hours=hours, advice=_SUSPENDED, **told)
        elif after.open and not before.open:
            _log.warning(
                "the push endpoint fails: its rings wait while one at a time tries", **told
            )
        elif before.open and not after.open:
            _log.info("the push endpoint works again", **told)

    async def _look(self, turn: Turn) -> Claim | Pause | None:
        tries = 0
        while not self._draining:
            try:
                return await self._book.look(turn.ref, turn.pause)
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

    def _judge(self, lane: Lane, claim: Claim, verdict: Verdict, ms: float, now: float) -> Attempt:
        """Date the verdict: when to retry, and whether a dead token is part of a wave."""
        endpoint = lane.endpoint
        dead = verdict.kind is TOKEN_DEAD
        if verdict.status is not None:  # a timeout is no answer, and says nothing of tokens
            lane.wave.record(now, dead)
        retry_at = None
        if verdict.kind in RETRIED:
            retry_at = now + retry.delay(
                claim.attempt,
                self._rng,
                endpoint.retry_first,
                endpoint.retry_max,
                verdict.retry_after,
            )
        wave = (dead or lane.in_wave) and lane.wave.is_wave(now)
        if wave and not lane.in_wave:
            _log.error(
                "the push endpoint rejects tokens in a wave: they are put in quarantine",
                advice=_QUARANTINED,
                **endpoint.named,
            )
        lane.in_wave = wave
        return Attempt(verdict, ms, now, retry_at, quarantine=dead and wave)

    def _complain(self, lane: Lane, verdict: Verdict) -> None:
        """Tell operators what waits or is lost until somebody mends it; of each kind now and then,
        so that one ring which is refused does not hide that the endpoint is misconfigured."""
        now, kind = self._clock(), verdict.kind
        if 0 <= now - lane.complained_at.get(kind, -math.inf) < COMPLAIN_EVERY:
            return
        lane.complained_at[kind] = now
        told = {**lane.endpoint.named, "reason": verdict.reason, "status": verdict.status}
        if kind is VerdictKind.REFUSED:
            _log.warning(
                "the push endpoint refuses rings: they are given up", advice=_GIVEN_UP, **told
            )
            return
        _log.error(
            "the push endpoint is misconfigured; its rings wait and are retried",
            advice=advice(verdict.reason),
            **told,
        )

    def _rest(self, ref: DeviceRef, backend: str, error: Exception) -> None:
        """Leave a device alone for a while after its work broke in a way nobody foresaw."""
        rest = self._rests.setdefault(ref, _Rest(0, None, backend))
        wait = min(REST_MOST, REST_FIRST * 2 ** min(rest.breaks, 16))
        rest.breaks += 1
        rest.until = self._clock() + wait
        if self._rest_timer is None and not self._draining:
            self._rest_timer = asyncio.create_task(self._end_rests(), name="push-rests")
        self._on_fault()
        if rest.breaks == 1:
            _log.error(
                "push work broke; this is a fault of ringback, please report it",
                tenant=ref.tenant,
                device=ref.device,
                error=type(error).__name__,  # its text might quote a message
                where=where(error),
            )

    async def _end_rests(self) -> None:
        """Wake rested devices. One timer for all, at `REST_FIRST` steps, while any rests."""
        while any(rest.until is not None for rest in self._rests.values()):
            await self._sleep(REST_FIRST)
            now = self._clock()
            for ref, rest in list(self._rests.items()):
                if rest.until is not None and rest.until <= now:
                    rest.until = None
                    self.wake(ref, rest.backend)
        self._rest_timer = None


def _load(lane: Lane) -> Load:
    waiting = len(lane.waiting) + len(lane.parked)
    return Load(waiting, len(lane.working), lane.health.open, lane.health.suspended)
