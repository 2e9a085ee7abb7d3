"""Turns: what waits for the writer, one queue for each tenant, taken from in turn (I8).

Decides whose change comes next; nothing of what it does. Within a tenant the order is that of
arrival. Between tenants there is none to keep, because no change touches two. Each that waits gets
an equal part of a commit, and who asks for least gets all of it: so a tenant that floods the writer
waits for itself, the others for no more than its part, and a busy tenant never falls behind because
the parts are small. But a commit has a bound: of very many tenants those whose turn it was not come
first in the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import Generic, TypeVar

LEAST, MOST = 2, 32  # what a tenant's part is at the least, and what the least asked makes it
FULL = 128  # in one commit of several tenants: the loop does nothing else while they are judged

T = TypeVar("T")


class Turns(Generic[T]):
    """Queues, of which every one that is not empty gets its turn."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {}  # those with something in them
        self.tenants: Set[str] = self._queues.keys()
        """Those who wait."""
        self.size = 0
        """How much waits."""

    def put(self, tenant: str, item: T, bound: int) -> bool:
        """Queue `item`, unless `bound` wait and this tenant has its share of them; whether it was.

        So a tenant that fills the queue leaves room for the others, who fill it further by no more
        than their shares (I9).
        """
        queue = self._queues.get(tenant)
        if self.size >= bound:
            mine = 0 if queue is None else len(queue)
            if mine >= bound // (len(self._queues) + (queue is None)):
                return False
        if queue is None:
            queue = self._queues[tenant] = deque()
        queue.append(item)
        self.size += 1
        return True

    def take(self, budget: int, most: int = FULL) -> list[T]:
        """About `budget` in all, in equal parts; of who asks for least all, of others as much. Of
        several tenants no more than `most`, unless that is less than the budget."""
        if not self._queues:
            return []
        part = max(budget // len(self._queues), LEAST)
        if len(self._queues) > 1:
            least = min(map(len, self._queues.values()))
            part = max(part, min(least, MOST, most // len(self._queues)))
        taken: list[T] = []
        for tenant in tuple(self._queues):
            if taken and len(taken) + part > max(budget, most):
                break
            queue = self._queues.pop(tenant)
            if len(queue) <= part:
                taken += queue
            else:
                taken += [queue.popleft() for _ in range(part)]
                self._queues[tenant] = queue  # behind those whose turn it was not
        self.size -= len(taken)
        return taken
