"""A customer backend that fails for long: outages, swallowed answers, rejections, a hanging one."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from pathlib import Path

from push.lane import INITIAL_WINDOW
from tests import recount
from tests.faults import hostile as bad
from tests.faults.accounts import Confirmed, Result, audit
from tests.faults.hostile import Behaviour, Exchange, hostile, status
from tests.faults.process import ROOMY, process
from tests.faults.steps import (
    PUSH,
    chatter,
    database,
    found_wrong,
    in_turn,
    rung,
    settled,
)
from tests.running import QUICK, Call

# A long outage


async def outage(directory: Path, messages: int) -> Result:
    """500, 429 and 503, with `Retry-After` in both forms, while `messages` come for one device."""
    over = False

    async def busy_until(x: Exchange) -> None:
        await x.answer(429, f"Retry-After: {formatdate(time.time() + 2, usegmt=True)}")

    kinds = {
        "seconds": status(503, "Retry-After: 1"),
        "date": busy_until,
        "none": status(500),
    }
    plan = ["none", "none", "seconds", "none", "date"]
    done: Counter[str] = Counter()

    def misbehave(call: Call) -> Behaviour | None:
        if over:
            return None
        kind = plan[sum(done.values())] if sum(done.values()) < len(plan) else "none"
        done[kind] += 1
        return kinds[kind]

    async with hostile() as backend:
        backend.misbehave = misbehave
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
            sends = await rung(it, [("acme", "c-42", "t-42")])
            await backend.log.take()
            sends += await chatter(it, "c-42", messages - 1)
            await backend.until(lambda: sum(done.values()) > len(plan) + 3)
            over = True
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit("a long outage", sum(done.values()), directory / "ringback.db", sends, calls)
    rings = {call.ring["id"] for call in calls}
    wrong = [f"{len(rings)} rings, not 2"] if len(rings) != 2 else []
    return found_wrong(result, *wrong, *_too_soon(directory))


def _too_soon(directory: Path) -> list[str]:
    """Looks that came before the time that `Retry-After` had asked for, by the record."""
    with recount.reading(directory / "ringback.db") as db:
        rows = db.execute(
            "SELECT at, event, detail FROM events WHERE event = 'attempt'"
            " OR (event = 'look' AND json_extract(detail, '$.action') <> 'wait') ORDER BY id"
        ).fetchall()
    waits = [(row, later) for row, later in pairwise(rows) if row[1] == "attempt"]
    asked = [(row[0], later[0]) for row, later in waits if json.loads(row[2])["status"] == 429]
    asked += [(row[0], later[0]) for row, later in waits if json.loads(row[2])["status"] == 503]
    if len(asked) != 2:
        return [f"{len(asked)} answers with Retry-After, not 2"]
    # Both asked for a second and more; what the commit of the verdict took is not waited again.
    return [f"a retry {b - a:.3f} s after Retry-After: 1" for a, b in asked if b - a < 0.5]


# Accepted, and then the process dies


async def swallowed_answers(directory: Path, kills: int, each: int) -> Result:
    """The backend accepts `each` rings, and the gateway is killed before it can know.

    No more than `push.lane.INITIAL_WINDOW` are out before one has ended.
    """
    sends: list[Confirmed] = []
    opened = asyncio.Event()

    async def accept_when_told(x: Exchange) -> None:
        await opened.wait()
        await x.answer(200)

    async with hostile() as backend:
        for kill in range(kills):
            backend.misbehave = lambda call: accept_when_told
            opened.clear()
            async with process(
                directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH | {"timeout": 60.0}
            ) as it:
                who = [("acme", f"c-{kill}-{i}", f"t-{kill}-{i}") for i in range(each)]
                sends += await rung(it, who)
                await backend.until(lambda: backend.open == each)
                it.signal(signal.SIGSTOP)
                opened.set()
                await backend.until(lambda: backend.open == 0)  # each has written its 200
                await it.kill()
            backend.misbehave = lambda call: None
            async with process(
                directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH
            ) as it:
                await settled(directory)
                await it.stop()
    result = audit(
        "accepted, then killed", kills, directory / "ringback.db", sends, backend.log.calls
    )
    if result.repeated != kills * each:  # each was accepted under its id, and then once more
        return found_wrong(result, f"{result.repeated} repeated, not {kills * each}")
    return result


# A wave of rejections


BELIEVED = 20  # dead tokens within a minute that are taken for dead


async def rejections(directory: Path, customers: int) -> Result:
    """Every token is dead, says the backend; then every app registers again."""
    names = [f"c-{i}" for i in range(customers)]
    async with hostile() as backend:
        backend.misbehave = lambda call: bad.reject if len(backend.log.calls) % 2 else status(410)
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
            sends = await rung(it, [("acme", name, f"t-{name}") for name in names])
            await settled(directory)
            reasons = dict(
                await database(
                    directory, "SELECT reason, count(*) FROM outcomes GROUP BY reason", bool
                )
            )
            rejected = len(backend.log.calls)
            backend.misbehave = lambda call: None
            await in_turn(
                partial(it.register, name, f"phone-{name}", f"t-{name}") for name in names
            )
            await database(
                directory,
                "SELECT value FROM counters WHERE name = 'pushed'",
                lambda rows: rows == [(customers,)],
            )
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit("a wave of rejections", rejected, directory / "ringback.db", sends, calls)
    expected = {"token_dead": BELIEVED, "quarantined": customers - BELIEVED}
    wrong = [] if reasons == expected else [f"{reasons}, not {expected}"]
    if rejected != customers:
        wrong.append(f"{rejected} calls to {customers} dead tokens")
    return found_wrong(result, *wrong)


# A neighbour whose backend hangs


async def neighbours(directory: Path, rings: int) -> Result:
    """All calls to one tenant's backend hang, and more wait; another tenant's rings all arrive."""
    slots = 4
    async with hostile() as backend:
        hanging = True
        backend.misbehave = lambda call: (
            bad.hang if hanging and call.headers["X-Tenant"] == "other" else None
        )
        environment = {
            "RINGBACK_TENANTS__OTHER__PUSH__ENDPOINT": f"{backend.log.url}/other",
            "RINGBACK_TENANTS__OTHER__PUSH__IN_FLIGHT": str(slots),
        }
        async with process(
            directory,
            backend.log,
            environment=environment,
            delivery=QUICK,
            limits=ROOMY,
            push=PUSH | {"timeout": 60.0},
        ) as it:
            stuck = await rung(it, [("other", f"o-{i}", f"t-{i}") for i in range(5 * slots)])
            await backend.until(lambda: backend.open == slots)
            sends = await rung(it, [("acme", f"c-{i}", f"t-{i}") for i in range(rings)])
            await database(
                directory,
                "SELECT value FROM counters WHERE name = 'pushed' AND tenant = 'acme'",
                lambda rows: rows == [(rings,)],
            )
            still, hanging = backend.open, False
            await backend.stop()  # resets the calls that hang
            await backend.listen()
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit(
        "a neighbour's backend hangs", still, directory / "ringback.db", sends + stuck, calls
    )
    return result if still == slots else found_wrong(result, f"{still} calls hung, not {slots}")


LONG: tuple[Callable[[Path], Awaitable[Result]], ...] = (
    partial(outage, messages=10_000),
    partial(swallowed_answers, kills=40, each=INITIAL_WINDOW),
    partial(rejections, customers=2_000),
    partial(neighbours, rings=2_000),
)
