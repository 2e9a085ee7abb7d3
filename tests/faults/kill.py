"""SIGKILL at random moments under load, and every message accounted for afterwards.

Agents and a service send to customers of every kind while a moody backend takes the rings. At
moments drawn from a seed the process is killed and started again on its database; everybody comes
back and sends again what was not confirmed. In the end all settles, and the accounts are made.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from aiohttp import web

from tests.faults.accounts import Result, audit
from tests.faults.people import Desk, Habit, Ledger, Phone, Shop, Work, until_it_dies
from tests.faults.process import ROOMY, Process, process
from tests.running import PATIENCE, QUICK, Answer, Backend, Call, backend


class Scale(NamedTuple):
    kills: int
    sends: int
    customers: int
    agents: int
    seed: int = 1


async def kills(directory: Path, scale: Scale) -> Result:
    """Kill `scale.kills` times while `scale.sends` are confirmed; what became of everything."""
    rng = Random(scale.seed)
    names = tuple(f"c-{i}" for i in range(scale.customers))
    ledger = Ledger(scale.sends, names, rng)
    senders: list[Desk | Shop] = [Desk(f"agent{i}", ledger) for i in range(scale.agents)]
    senders += [Shop(f"shop{i}", ledger) for i in range(4)]
    habits = list(Habit)
    phones = [Phone(name, habits[i % 4], ledger, device=i % 8 < 6) for i, name in enumerate(names)]
    cut_off = 0
    async with backend() as ears:
        ears.otherwise = _moody(rng)
        for done in range(scale.kills + 1):
            last = done == scale.kills
            async with process(directory, ears, delivery=QUICK, limits=ROOMY) as it:
                if done == 0:
                    for name in names:
                        await it.write(name, f"welcome, {name}")
                living = _at_work([phone.work for phone in phones], it)
                sending = _at_work([sender.work for sender in senders], it)
                if last:
                    await asyncio.gather(*sending)
                    await _settle(it, ears, phones, living)
                    await it.stop()
                else:
                    await _random_moment(ledger, scale, done, rng)
                    await it.kill()
                    cut_off += sum(len(sender.box.waiting) for sender in senders)
                    await asyncio.gather(*sending, *living)
    path = directory / "ringback.db"
    result = audit(
        "SIGKILL under load",
        scale.kills,
        path,
        ledger.confirmed.values(),
        ears.calls,
        note=f"seed {scale.seed}; {cut_off} sends unanswered when it died, "
        f"{ledger.repeated} of them committed",
    )
    return replace(
        result,
        doubled=[*result.doubled, *_said_twice(path)],
        unaccounted=[*result.unaccounted, *ledger.wrong],
    )


def _at_work(works: Iterable[Work], it: Process) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(until_it_dies(work, it)) for work in works]


def _moody(rng: Random) -> Answer:
    """A backend that mostly accepts; sometimes slowly, sometimes not now, sometimes never again."""

    async def answer(call: Call) -> web.Response:
        luck = rng.random()
        if luck < 0.1:
            await asyncio.sleep(rng.random() * 0.3)
        return web.Response(status=503 if luck > 0.9 else 410 if luck > 0.88 else 200)

    return answer


async def _random_moment(ledger: Ledger, scale: Scale, done: int, rng: Random) -> None:
    """Some way on with the sends; or, now and then, while everybody is still coming back."""
    if rng.random() < 0.8:
        share = scale.sends / (scale.kills + 1)
        goal = min(scale.sends * 0.95, share * (done + rng.uniform(0.3, 1.0)))
        while len(ledger.confirmed) < goal:
            await asyncio.sleep(0.005)
    await asyncio.sleep(rng.random() * 0.05)


async def _settle(
    it: Process, ears: Backend, phones: Sequence[Phone], living: Sequence[asyncio.Task[None]]
) -> None:
    """Customers drop, the backend accepts, and nothing is pending any more."""
    ears.otherwise = 200
    while any(phone.box.waiting for phone in phones):
        await asyncio.sleep(0.01)
    for task in living:
        task.cancel()
    await asyncio.gather(*living, return_exceptions=True)
    it.hang_up()
    async with asyncio.timeout(6 * PATIENCE):
        while await _pending(it):
            await asyncio.sleep(0.05)


async def _pending(it: Process) -> float:
    _, told = await it.call("GET", "/metrics", listener="admin")
    lines = [line for line in told.splitlines() if 'outcome="pending"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _said_twice(path: Path) -> list[str]:
    """Every text here was made once; every ref too."""
    with closing(sqlite3.connect(path)) as db:
        texts = db.execute("SELECT text, count(*) FROM messages GROUP BY text HAVING count(*) > 1")
        refs = db.execute(
            "SELECT ref, count(*) FROM messages WHERE ref IS NOT NULL"
            " GROUP BY ref HAVING count(*) > 1"
        )
        return [f"{what}: {n} times" for rows in (texts, refs) for what, n in rows]


Fault = Callable[[Path], Awaitable[Result]]

LONG: Sequence[Fault] = (
    partial(kills, scale=Scale(kills=50, sends=100_000, customers=200, agents=6)),
)
