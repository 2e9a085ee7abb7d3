"""When: the earliest time at which something in a conversation's row becomes due.

One alarm per conversation in a heap for each tenant, and one for each tenant in a heap of those; in
memory, while the times themselves are in the rows, from which the alarms are set again after a
start. Decides nothing about what is due.

Bounds (I9): an alarm that was set earlier leaves its old entry in the heap, which is cleared when
those are half of it. And conversations that were woken and are not yet judged, of one tenant and of
all: the others wait here, where they cost nothing, and not in the writer's queue, where a hundred
thousand that are due at once would stand before every look and verdict; and no tenant waits for
another's (I8).
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from storage.records import Key

AT_ONCE = 128  # woken and not yet judged, of one tenant
ALL_AT_ONCE = 1_024  # of all tenants, in equal parts; but one of each however many they are
FEW = 64  # outdated entries, beyond as many as stand, that are not worth clearing the heap for

K = TypeVar("K", Key, str)


@dataclass(slots=True)
class _Times(Generic[K]):
    """The earliest time that was set for each."""

    at: dict[K, float] = field(default_factory=dict)  # the one that stands
    heap: list[tuple[float, int, K]] = field(default_factory=list)  # others too, to be passed over
    placed: Iterator[int] = field(default_factory=count)  # of one time, who came first is the next

    def next(self) -> float:
        return self.heap[0][0] if self.heap else math.inf

    def put(self, key: K, when: float) -> bool:
        """Set it, unless what stands is earlier; whether it is now the next of all."""
        if when >= self.at.get(key, math.inf):
            return False
        self.at[key] = when
        heapq.heappush(self.heap, (when, next(self.placed), key))
        if len(self.heap) > FEW + 2 * len(self.at):
            self.heap = [entry for entry in self.heap if self.at.get(entry[2]) == entry[0]]
            heapq.heapify(self.heap)
        return when == self.heap[0][0]

    def take(self) -> K | None:
        """Whose time is the next; None if that does not stand any more."""
        when, _, key = heapq.heappop(self.heap)
        if self.at.get(key) != when:
            return None
        del self.at[key]
        return key


class Alarms:
    """Wakes each conversation when the earliest of its times comes; never before `floor`."""

    def __init__(self, clock: Callable[[], float], fire: Callable[[Key], None]) -> None:
        """`fire` is called with who is woken; when they are judged, `judged` is to be called."""
        self.floor = 0.0
        self._clock = clock
        self._fire = fire
        self._tenants: dict[str, _Times[Key]] = {}
        self._next = _Times[str]()  # of the tenants of which another may be woken
        self._judging = Counter[str]()  # by tenant: woken and not yet judged
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._stopped = False

    def set(self, key: Key, when: float) -> None:
        """Wake `key` at `when`, or earlier if it was already to be woken earlier."""
        times = self._tenants.get(key.tenant)
        if times is None:
            times = self._tenants[key.tenant] = _Times()
        when = when if when > self.floor else self.floor
        if not self._stopped and times.put(key, when):
            self._expect(key.tenant)

    def judged(self, key: Key) -> None:
        """What woke `key` has been judged, or could not be: another may be woken in its place."""
        tenant = key.tenant
        self._judging[tenant] -= 1
        if not self._judging[tenant]:
            del self._judging[tenant]
        self._expect(tenant)

    def stop(self) -> None:
        """Wake nobody any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _may_wake(self, tenant: str) -> bool:
        woken = self._judging[tenant]
        in_all = (woken + 1) * len(self._judging)  # if each of them had as many
        return woken == 0 or (woken < AT_ONCE and in_all <= ALL_AT_ONCE)

    def _expect(self, tenant: str) -> None:
        """See to it that the tenant's next is woken in time, if another may be."""
        when = self._tenants[tenant].next()
        if self._may_wake(tenant) and self._next.put(tenant, when) and when < self._timer_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = self._next.next()
        if self._timer_at != math.inf and not self._stopped:
            delay = max(0.0, self._timer_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        while self._next.next() <= now and not self._stopped:
            tenant = self._next.take()
            if tenant is not None:
                self._wake(tenant, now)
        self._arm()

    def _wake(self, tenant: str, now: float) -> None:
        times = self._tenants[tenant]
        while times.next() <= now and self._may_wake(tenant) and not self._stopped:
            key = times.take()
            if key is not None:
                self._judging[tenant] += 1
                self._fire(key)
        self._expect(tenant)
