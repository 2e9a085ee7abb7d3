"""When: the earliest time at which something in a conversation's row becomes due.

One alarm per conversation in a heap for each tenant, in memory; the times themselves are in the
rows, from which the alarms are set again after a start. Decides nothing about what is due.

Bounds (I9): an alarm that was set earlier leaves its old entry in the heap, which is cleared when
those are half of it. And conversations of one tenant that were woken and are not yet judged: the
others wait here, where they cost nothing, and not in the writer's queue, where a hundred thousand
that are due at once would stand before every look and verdict; and no tenant waits for another's
(I8).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.records import Key

AT_ONCE = 128  # woken and not yet judged, of one tenant
FEW = 64  # entries that do not stand any more, beside as many as do, are not worth a clearing


@dataclass(slots=True)
class _Due:
    """One tenant's alarms, and how many of its conversations are being judged."""

    at: dict[Key, float] = field(default_factory=dict)  # of each conversation, the one that stands
    heap: list[tuple[float, Key]] = field(default_factory=list)  # others too, to be passed over
    judged: int = 0

    @property
    def next(self) -> float:
        return self.heap[0][0] if self.heap and self.judged < AT_ONCE else float("inf")


class Alarms:
    """Wakes each conversation when the earliest of its times comes; never before `floor`."""

    def __init__(self, clock: Callable[[], float], fire: Callable[[Key], None]) -> None:
        """`fire` is called with who is woken; when they are judged, `judged` is to be called."""
        self.floor = 0.0
        self._clock = clock
        self._fire = fire
        self._tenants: dict[str, _Due] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._stopped = False

    def set(self, key: Key, when: float) -> None:
        """Wake `key` at `when`, or earlier if it was already to be woken earlier."""
        when = max(when, self.floor)
        due = self._tenants.get(key.tenant)
        if due is None:
            due = self._tenants[key.tenant] = _Due()
        if when >= due.at.get(key, float("inf")) or self._stopped:
            return
        due.at[key] = when
        heapq.heappush(due.heap, (when, key))
        if len(due.heap) > FEW + 2 * len(due.at):
            due.heap = [(at, key) for key, at in due.at.items()]
            heapq.heapify(due.heap)
        if when < self._timer_at and due.judged < AT_ONCE:
            self._arm()

    def judged(self, key: Key) -> None:
        """What woke `key` has been judged, or could not be: another may be woken in its place."""
        due = self._tenants[key.tenant]
        due.judged -= 1
        if due.next < self._timer_at:
            self._arm()

    def stop(self) -> None:
        """Wake nobody any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = min((due.next for due in self._tenants.values()), default=float("inf"))
        if self._timer_at != float("inf") and not self._stopped:
            delay = max(0.0, self._timer_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        for due in self._tenants.values():
            while due.next <= now and not self._stopped:
                when, key = heapq.heappop(due.heap)
                if due.at.get(key) == when:
                    del due.at[key]
                    due.judged += 1
                    self._fire(key)
        self._arm()
