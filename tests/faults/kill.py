"""SIGKILL at random moments under load, and every message accounted for afterwards.

Agents and a service send to customers of every kind while a moody backend takes the rings. At
moments drawn from a seed the process is killed and started again on its database; everybody comes
back and sends again what was not confirmed. In the end all settles, and the accounts are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from aiohttp import web

from tests.faults.accounts import Result
from tests.faults.crowd import Crowd
from tests.faults.process import ROOMY, process
from tests.running import QUICK, Answer, Backend, Call, backend


class Scale(NamedTuple):
    kills: int
    sends: int
    customers: int
    agents: int
    seed: int = 1


async def kills(directory: Path, scale: Scale) -> Result:
    """Kill `scale.kills` times while `scale.sends` are confirmed; what became of everything."""
    rng = Random(scale.seed)
    crowd = Crowd(scale.sends, scale.customers, scale.agents, rng)
    async with backend() as ears:
        ears.otherwise = mood = moody(rng)
        for done in range(scale.kills + 1):
            async with process(directory, ears, delivery=QUICK, limits=ROOMY) as it:
                if done == 0:
                    await crowd.begin(it)
                crowd.work(it)
                if done < scale.kills:
                    if done == scale.kills - 1:
                        await _owe(crowd, ears)
                    await _random_moment(crowd, scale, done, rng)
                    await crowd.die(it)
                    ears.otherwise = mood
                else:
                    await crowd.settle(it, ears)
    note = (
        f"seed {scale.seed}; {crowd.unanswered} sends unanswered when it died, "
        f"{crowd.ledger.repeated} of them committed"
    )
    path = directory / "ringback.db"
    return crowd.result("SIGKILL under load", scale.kills, path, ears, note)


async def _owe(crowd: Crowd, ears: Backend) -> None:
    """The last to die owes rings to some who hear no more: only recovery knows of them."""
    ears.otherwise = 503
    ledger = crowd.ledger
    await crowd.confirmed(len(ledger.confirmed) + 4 * len(ledger.customers))
    ledger.customers = ledger.customers[: len(ledger.customers) // 2]
    while any(to not in ledger.customers for to in crowd.waiting()):
        await asyncio.sleep(0.005)


async def _random_moment(crowd: Crowd, scale: Scale, done: int, rng: Random) -> None:
    """Some way on with the sends; or, now and then, while everybody is still coming back."""
    if rng.random() < 0.8:
        share = scale.sends / (scale.kills + 1)
        await crowd.confirmed(min(scale.sends * 0.95, share * (done + rng.uniform(0.3, 1.0))))
    await asyncio.sleep(rng.random() * 0.05)


def moody(rng: Random) -> Answer:
    """A backend that mostly accepts; sometimes slowly, sometimes not now, sometimes never again."""

    async def answer(call: Call) -> web.Response:
        luck = rng.random()
        if luck < 0.1:
            await asyncio.sleep(rng.random() * 0.3)
        return web.Response(status=503 if luck > 0.9 else 410 if luck > 0.88 else 200)

    return answer


Fault = Callable[[Path], Awaitable[Result]]

LONG: Sequence[Fault] = (
    partial(kills, scale=Scale(kills=50, sends=100_000, customers=200, agents=6)),
)
