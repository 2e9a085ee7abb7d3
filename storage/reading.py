"""Reading in turn: what tenants ask of one connection is answered turn by turn (I8).

Decides whose query comes next; nothing of what is asked. A connection answers one after the other,
in a thread of its own. So at most `AHEAD` are given to it, enough that the thread need not wait for
the loop, and the others wait here, a queue for each tenant: one that asks a thousand times waits
for itself, the others for what is out and for one query of each tenant.

Bound (I9): who waits are those who wait for an answer. A session asks for one at a time, a call
too, and of these there are `limits.connections` and `limits.http_connections`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

AHEAD = 2  # queries that a connection is given

R = TypeVar("R")


class _Query(NamedTuple):
    ask: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]


class InTurn:
    """The queries of one connection."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[_Query]] = {}  # by tenant, whose turn is next first
        self._out = set[asyncio.Task[None]]()

    async def read(self, tenant: str, ask: Callable[[], Awaitable[R]]) -> R:
        """What `ask` returns, or raises, once it is this tenant's turn."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(_Query(ask, answer))
        self._go_on()
        try:
            return await answer
        finally:
            del answer  # an error's frames have this one, and it has the error

    def _go_on(self) -> None:
        while self._waiting and len(self._out) < AHEAD:
            query = self._take()
            if not query.answer.done():  # else nobody waits for it any more
                task = asyncio.create_task(self._ask(query), name="storage-reading")
                self._out.add(task)
                task.add_done_callback(self._done)

    def _take(self) -> _Query:
        tenant = next(iter(self._waiting))
        queue = self._waiting.pop(tenant)
        query = queue.popleft()
        if queue:
            self._waiting[tenant] = queue  # behind the others
        return query

    async def _ask(self, query: _Query) -> None:
        """To its end, also if nobody waits any more: for as long the thread is busy with it."""
        answer = query.answer
        try:
            rows = await query.ask()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            del answer, query  # as in `read`
        else:
            if not answer.done():
                answer.set_result(rows)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._out.discard(task)
        self._go_on()
