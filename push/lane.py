"""One endpoint's devices: who is next, and whether now.

Theory of operation. A device that was woken *waits* for its turn. A turn is to look at it and call;
or, while the endpoint is down (`push.breaker`), to look at it once, so that the wait is recorded
with its reason, and *park* it. Parked devices cost nothing, and come first once calls go out again.

Decides the order of turns and what holds them up: `in_flight` at a time, fewer at first, the
endpoint's rate, its breaker. Leaves to `push.worker` what a turn is, and the timers. Knows no clock
and no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from push import breaker, retry
from push.breaker import Health
from push.ring import DeviceRef, Endpoint, Pause, VerdictKind

INITIAL_WINDOW: Final = 16


class Turn(msgspec.Struct, frozen=True):
    """`ref` is to be worked on now; with a `pause`, only told of it."""

    ref: DeviceRef
    pause: Pause | None = None
    probe: bool = False


class Timer(NamedTuple):
    """When (epoch s) a lane is to be asked again, and the worker's task that does."""

    at: float
    task: Any


@dataclass(slots=True)
class Lane:
    """The dicts are ordered sets: the order of waking is kept. One entry per device in all.

    Of an `OrderedDict` the first is found at once; a dict passes by all that were before it.
    `again` has those who were woken while they had a turn, and for which backend.

    `window` is how many may be worked on, within `in_flight`. After a quiet moment it is small, and
    every call that ends makes it larger by one, as TCP's slow start does (RFC 5681, section 3.1).
    Each call that goes out beside all others opens a connection of its own, and those of a burst of
    256 held up everybody in chat for 40 ms. And a backend that hangs is left with few of them.
    """

    endpoint: Endpoint
    waiting: OrderedDict[DeviceRef, None] = field(default_factory=OrderedDict)
    parked: OrderedDict[DeviceRef, None] = field(default_factory=OrderedDict)
    working: dict[DeviceRef, Any] = field(default_factory=dict)
    window: int = INITIAL_WINDOW
    again: dict[DeviceRef, str] = field(default_factory=dict)
    wave: retry.RejectionWave = field(default_factory=retry.RejectionWave)
    health: Health = breaker.WELL
    pace: retry.Pace = field(default_factory=retry.Pace)
    timer: Timer | None = None
    complained_at: dict[VerdictKind, float] = field(default_factory=dict)
    in_wave: bool = False  # of rejections, as was told
    is_gone: bool = False  # taken out of the configuration: who waits here waits for nothing

    def take_up(self, endpoint: Endpoint) -> None:
        """Call by these settings from now on; failures and rate of the old are forgotten."""
        self.endpoint, self.health, self.pace = endpoint, breaker.WELL, retry.Pace()
        self.complained_at, self.is_gone, self.window = {}, False, INITIAL_WINDOW

    def wake(self, ref: DeviceRef) -> None:
        """`ref`, which has no turn now, wants one: once, however often it is woken."""
        if ref not in self.parked:
            self.waiting[ref] = None

    def forget(self, ref: DeviceRef) -> None:
        """`ref` wants no turn here any more; one that it has already goes on."""
        self.waiting.pop(ref, None)
        self.parked.pop(ref, None)

    def turn(self, now: float) -> Turn | float | None:
        """Take the next turn; or return when (epoch s) there may be one; None: not by waiting."""
        most = min(self.window, self.endpoint.in_flight)
        if len(self.working) >= most or not (self.waiting or self.parked):
            return None
        permit = breaker.ask(self.health, now)
        if permit.pause is not None:
            if self.waiting:
                return Turn(_pop(self.waiting), permit.pause)
            return permit.until
        wait = self.pace.take(now, self.endpoint.rate_per_second)
        if wait > 0.0:
            return now + wait
        if permit.probe:
            self.health = breaker.probe(self.health)
        ref = _pop(self.parked or self.waiting)
        return Turn(ref, probe=permit.probe)

    def done(self, turn: Turn, *, called: bool, parked: bool) -> None:
        """That turn is over: what it took and did not use is given back."""
        del self.working[turn.ref]
        if not self.working:
            self.window = INITIAL_WINDOW
        elif called:
            self.window += 1
        if turn.probe and self.health.probing:
            self.health = breaker.unused(self.health)
        if turn.pause is None and not called:
            self.pace.give_back(self.endpoint.rate_per_second)
        if parked:
            self.parked[turn.ref] = None

    def clear(self) -> None:
        """Nobody gets a turn any more."""
        for refs in (self.waiting, self.parked, self.again):
            refs.clear()


def _pop(refs: OrderedDict[DeviceRef, None]) -> DeviceRef:
    ref, _ = refs.popitem(last=False)
    return ref
