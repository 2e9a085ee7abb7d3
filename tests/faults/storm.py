"""Everybody comes back at once: a gateway dies or drains with all its customers in chat.

Nobody who comes back within the restart window is rung, everybody has every message in order with
no gap, whether it was sent just before the end, was not confirmed by it, or came in the midst of
the storm. The port stays the same, so that clients meet a closed one meanwhile, as they would.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from examples.stage import free_ports
from tests.faults.accounts import Result, audit
from tests.faults.lines import LOOPBACK, App, Desk, many_sockets, now
from tests.faults.process import ROOMY, Process, process
from tests.faults.stage import Stage, batches, spread
from tests.running import Backend, backend

AT_ONCE = 100  # of one kind of request in flight
RESTART = 1012


class Storm:
    """The customers' side: each comes back by itself, as a client should, until `over`."""

    def __init__(self, it: Stage, port: int, window: float, rng: Random) -> None:
        self.back_at: dict[str, float] = {}
        self.codes: list[int | None] = []
        self._it = it
        self._port = port
        self._window = window
        self._rng = rng

    def await_it(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._follow(app)) for app in self._it.apps]

    async def _follow(self, app: App) -> None:
        self.codes.append(await app.line.ended)
        await asyncio.sleep(self._rng.uniform(0.0, self._window))
        while True:
            try:
                await app.come(self._port)
            except OSError:  # refused, or reset: nobody is there yet
                await asyncio.sleep(self._rng.uniform(0.0, self._window / 2))
            else:
                self.back_at[app.sub] = now()
                return


async def storm(
    directory: Path, customers: int, *, drains: bool, window: float = 5.0, grace: float = 10.0
) -> Result:
    """Kill (or drain) a gateway with all `customers` in chat, start it again, let all come back."""
    many_sockets()
    (port,) = free_ports(1)
    options: dict[str, Any] = {
        "delivery": {
            "ack_timeout": 5.0,
            "restart_window": window,
            "restart_grace": grace,
            "max_hold": 60.0,
        },
        "limits": ROOMY,
        "environment": {"RINGBACK_SERVER__CHAT": f"{LOOPBACK}:{port}"},
    }
    async with backend() as ears:
        async with process(directory, ears, **options) as first:
            it, theirs, coming = await _before(directory, first, ears, port, customers, window)
            unsent = await _write(it, "before the end", first if not drains else None)
            if drains:
                first.signal(signal.SIGTERM)
                unsent += await _write_on(it, "during the drain")
            assert await first.child.wait() == (0 if drains else -signal.SIGKILL)
        async with process(directory, ears, **options) as second:
            ready = now()
            it.gateway = second
            await asyncio.gather(*(desk.come(port) for desk in it.desks))
            for group in batches(unsent, AT_ONCE):
                await asyncio.gather(*(desk.write(*words) for desk, *words in group))
            await _write_on(it, "in the storm", coming)
            await asyncio.gather(*coming)
            await _write(it, "after it")
            await it.settled()
            result = _account(it, theirs, ready, grace, unsent, drains=drains)
            it.close()
            return result


async def _before(
    directory: Path, first: Process, ears: Backend, port: int, customers: int, window: float
) -> tuple[Stage, Storm, list[asyncio.Task[None]]]:
    it = Stage(directory, first, ears)
    await it.open_desks(port)
    await it.in_chat([f"c-{i}" for i in range(customers)], port)
    theirs = Storm(it, port, window, Random(customers))
    return it, theirs, theirs.await_it()


Unsent = list[tuple[Desk, str, str, str]]


async def _write(it: Stage, text: str, kill: Process | None = None) -> Unsent:
    """One message to everybody; killed in the midst of it, what was not confirmed then."""
    unsent: Unsent = []
    # A quarter at a time: at the kill, after a half, there are some who have yet to begin.
    slots = asyncio.Semaphore(min(AT_ONCE, len(it.apps) // 4))
    done = 0

    async def write(i: int, app: App) -> None:
        nonlocal done
        words = (app.sub, text, f"{text} {i}")
        async with slots:
            try:
                await it.desk(i).write(*words)
                done += 1
            except ConnectionResetError:
                unsent.append((it.desk(i), *words))
        if kill is not None and done == len(it.apps) // 2:
            done += 1
            await kill.kill()

    await asyncio.gather(*(write(i, app) for i, app in enumerate(it.apps)))
    return unsent


async def _write_on(it: Stage, text: str, coming: Sequence[asyncio.Task[None]] = ()) -> Unsent:
    """Each agent writes to one customer after the other until its socket is closed, or all came."""
    unsent: Unsent = []

    async def write(i: int, desk: Desk) -> None:
        for n in itertools.count(i, len(it.desks)):
            if coming and all(task.done() for task in coming):
                return
            words = (it.apps[n % len(it.apps)].sub, text, f"{text} {n}")
            try:
                await desk.write(*words)
            except ConnectionResetError:
                unsent.append((desk, *words))
                return

    await asyncio.gather(*(write(*who) for who in enumerate(it.desks)))
    return unsent


def _account(
    it: Stage, theirs: Storm, ready: float, grace: float, unsent: Unsent, *, drains: bool
) -> Result:
    took = {name: at - ready for name, at in theirs.back_at.items()}
    late = sum(seconds > grace for seconds in took.values())
    wrong = it.wrong + it.incomplete(it.apps)
    wrong += [f"{call.ring['customer']}: rung" for call in it.ears.calls]
    wrong += [
        f"{customer} {seq}: {outcome}"
        for (customer, seq), outcome in it.outcomes().items()
        if outcome != "acked"
    ]
    odd = [code for code in theirs.codes if code != (RESTART if drains else None)]
    if odd or len(theirs.codes) != len(it.apps):
        wrong.append(f"{len(theirs.codes)} sockets ended, these in another way: {odd[:5]}")
    if late:
        wrong.append(f"{late} came back after the restart grace: this machine is too slow")
    if not unsent:
        wrong.append("nothing was under way when the gateway ended")
    fault = "restart storm, drained" if drains else "restart storm, killed"
    note = (
        f"{len(unsent):,} sends repeated by ref; back after the start: {spread([*took.values()])}"
    )
    result = audit(fault, len(it.apps), it.path, it.confirmed, it.ears.calls, note=note)
    return replace(result, unaccounted=[*result.unaccounted, *wrong])


LONG = (
    partial(storm, customers=2_000, drains=False),
    partial(storm, customers=2_000, drains=True),
)
