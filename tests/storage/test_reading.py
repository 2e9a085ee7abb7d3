"""Reading in turn: no tenant waits for the many queries of another."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from pathlib import Path

import pytest

from storage.errors import Unavailable
from storage.reading import AHEAD, InTurn
from storage.records import Conversation
from tests.storage.stored import KEY, draft, opened, post


class Slow:
    """A connection that answers when it is told to, each query with its name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._turns = InTurn()
        self._out: deque[asyncio.Event] = deque()

    async def ask(self, tenant: str, *names: str) -> list[asyncio.Task[str]]:
        reading = [self._turns.read(tenant, lambda n=name: self._fetch(n)) for name in names]  # type: ignore[misc]
        tasks = [asyncio.create_task(one) for one in reading]
        await settled()
        return tasks

    async def _fetch(self, name: str) -> str:
        self.asked.append(name)
        self._out.append(asyncio.Event())
        await self._out[-1].wait()
        if name == "broken":
            raise Unavailable("the database cannot be read")
        return name

    async def answer(self) -> None:
        """Answer the query that was asked first, and let what waits for that come to it."""
        self._out.popleft().set()
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_tenant_waits_for_what_is_out_and_for_one_query_of_each_other() -> None:
    it = Slow()
    many = await it.ask("many", *(f"m{n}" for n in range(6)))
    few, another = await it.ask("few", "f0", "f1"), await it.ask("another", "a0")
    assert len(it.asked) == AHEAD
    for _ in range(9):
        await it.answer()
    assert it.asked == ["m0", "m1", "m2", "f0", "a0", "m3", "f1", "m4", "m5"]
    assert await asyncio.gather(*few, *another) == ["f0", "f1", "a0"]
    assert await asyncio.gather(*many) == [f"m{n}" for n in range(6)]


async def test_an_error_is_for_who_asked_and_the_next_are_asked() -> None:
    it = Slow()
    broken, *others = await it.ask("acme", "broken", "q1", "q2")
    for _ in range(3):
        await it.answer()
    with pytest.raises(Unavailable):
        await broken
    assert await asyncio.gather(*others) == ["q1", "q2"]


async def test_what_nobody_waits_for_is_not_asked_and_keeps_its_place_if_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = Slow()
    queries = await it.ask("acme", "q0", "broken", "q2", "q3", "q4")
    for n in (0, 1, 2):
        queries[n].cancel()
    await settled()
    assert it.asked == ["q0", "broken"], "the connection is as busy as before"
    await it.answer()
    assert it.asked == ["q0", "broken", "q3"]
    for _ in range(3):
        await it.answer()
    assert await asyncio.gather(*queries[3:]) == ["q3", "q4"]
    gc.collect()
    assert caplog.records == [], "nor is it a fault that nobody takes the answer"


async def test_a_history_does_not_wait_for_the_many_pages_of_another_tenant(tmp_path: Path) -> None:
    async with opened(tmp_path / "ringback.db") as (store, _):
        keys = (KEY, KEY._replace(tenant="other"))
        for key in keys:
            await post(store, draft("hello"), key)
        mine, theirs = [store.peek(key) for key in keys]
        told: list[str] = []

        async def page(c: Conversation | None) -> None:
            assert c is not None
            await store.history(c, None, 200)
            told.append(c.tenant)

        await asyncio.gather(*(page(theirs) for _ in range(50)), page(mine))
        assert told.index("acme") <= AHEAD + 1
