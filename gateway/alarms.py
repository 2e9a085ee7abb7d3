"""When: the earliest time at which something in a conversation's row becomes due.

One entry per conversation in a heap, in memory; the times themselves are in the rows, from which
the alarms are set again after a start. Decides nothing about what is due.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from storage.records import Key

AT_ONCE = 256  # woken in one turn of the loop; the others in the next


class Alarms:
    """Wakes each conversation when the earliest of its times comes; never before `floor`."""

    def __init__(self, clock: Callable[[], float], fire: Callable[[Key], None]) -> None:
        self.floor = 0.0
        self._clock = clock
        self._fire = fire
        self._heap: list[tuple[float, Key]] = []
        self._at: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._stopped = False

    def set(self, key: Key, when: float) -> None:
        """Wake `key` at `when`, or earlier if it was already to be woken earlier."""
        when = max(when, self.floor)
        if when >= self._at.get(key, float("inf")) or self._stopped:
            return
        self._at[key] = when
        heapq.heappush(self._heap, (when, key))
        if when < self._timer_at:
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
        self._timer_at = float("inf")
        if self._heap:
            self._timer_at = self._heap[0][0]
            delay = max(0.0, self._timer_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        for _ in range(AT_ONCE):
            if not self._heap or self._heap[0][0] > now or self._stopped:
                break
            when, key = heapq.heappop(self._heap)
            if self._at.get(key) == when:
                del self._at[key]
                self._fire(key)
        if not self._stopped:
            self._arm()
