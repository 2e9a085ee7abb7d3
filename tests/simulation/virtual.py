"""Virtual time: an event loop that never waits, and the life and death of a process on it.

The loop is asyncio's own; only its selector is ours: instead of waiting for the next timer it moves
the clock there. Nothing else happens on it, so that the same calls in the same order give the same
run, whatever the machine is doing.

Death. A process is what it does to the world: statements on the disk, frames on sockets, calls to
backends. Each of these passes an `edge`, before and after, and a process may die at any of them:
from then on nothing that it still does has an effect.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Waits by moving the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen again"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, on a clock that starts at `now` and moves only to the next timer."""

    def __init__(self, now: float) -> None:
        self._virtual = _Selector()
        self._virtual.now = now
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._virtual.now

    def skip(self, seconds: float) -> None:
        """Let time pass in which nothing runs."""
        self._virtual.now += seconds


class Process:
    """One life: a loop, and whether what runs on it still reaches the world."""

    def __init__(self, now: float, complain: Callable[[str], None]) -> None:
        self.loop = VirtualLoop(now)
        self.loop.set_exception_handler(lambda loop, context: complain(_told(context)))
        self.alive = True
        self.edges = 0
        self.dies_at: int | None = None

    def edge(self) -> bool:
        """Pass between two effects: False if the process is dead, from now on or already."""
        self.edges += 1
        if self.alive and self.edges == self.dies_at:
            self.alive = False
            self.loop.stop()
        return self.alive

    async def turn(self) -> None:
        """An edge at an await: the dead never come back from it."""
        if not self.edge():
            await asyncio.Future()
        await asyncio.sleep(0)

    def run(self, seconds: float) -> None:
        """Let it live for so many virtual seconds, or until it dies."""
        if self.alive:
            timer = self.loop.call_at(self.loop.time() + seconds, self.loop.stop)
            self.loop.run_forever()
            timer.cancel()

    def bury(self) -> None:
        """End what still hangs in memory; nothing of it reaches the world."""
        self.alive = False
        self.loop.set_exception_handler(lambda loop, context: None)
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=1000.0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}: {error!r}"
