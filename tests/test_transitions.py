"""Every transition of the published table, performed from end to end against a real gateway.

The list is taken from the table itself: a transition without a performance fails, and so does a
performance of one that is not in the table. Only `Transaction.transition` records an outcome event
with what it was before, so that the event is the proof; a plain ack has an event of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.protocol import Role, timestamp
from storage.outcomes import TRANSITIONS, Trigger
from storage.records import Outcome
from tests.running import QUICK, Call, Running, running

Performance = Callable[[Running], Awaitable[dict[str, Any]]]


async def pending_ack(it: Running) -> dict[str, Any]:
    customer = await it.customer()
    await it.write()
    await customer.take("message")
    await customer.send("ack", seq=1)
    return await it.settled(1, "acked")


async def pending_acceptance(it: Running) -> dict[str, Any]:
    await it.register()
    await it.write()
    return await it.settled(1, "pushed")


async def pending_expiry(it: Running) -> dict[str, Any]:
    await it.register()
    it.backend.answers.extend([503] * 100)
    await it.write(expires_at=in_a_minute())
    await it.backend.take()
    it.pass_time(60.0)
    return await it.settled(1, "expired")


async def pending_no_device_left(it: Running) -> dict[str, Any]:
    await it.register()
    it.backend.answers.append(410)
    await it.write()
    return await it.settled(1, "undeliverable")


async def expired_ack(it: Running) -> dict[str, Any]:
    await pending_expiry(it)
    customer = await it.customer()
    await customer.take("message")
    await customer.send("ack", seq=1)
    return await it.settled(1, "acked")


async def expired_acceptance(it: Running) -> dict[str, Any]:
    """The backend takes so long that the message expires before it says yes."""
    answer = asyncio.Event()

    async def late(call: Call) -> web.StreamResponse:
        await answer.wait()
        return web.Response()

    await it.register()
    it.backend.answers.append(late)
    await it.write(expires_at=in_a_minute())
    await it.backend.take()
    it.pass_time(60.0)
    await it.settled(1, "expired")
    answer.set()
    return await it.settled(1, "pushed")


async def undeliverable_ack(it: Running) -> dict[str, Any]:
    await it.write()
    await it.settled(1, "undeliverable")
    customer = await it.customer()
    await customer.take("message")
    await customer.send("ack", seq=1)
    return await it.settled(1, "acked")


async def undeliverable_registration(it: Running) -> dict[str, Any]:
    await it.write()
    await it.settled(1, "undeliverable")
    await it.register()
    return await it.settled(1, "pushed")


async def undeliverable_replay(it: Running) -> dict[str, Any]:
    await it.register()
    it.backend.answers.append(400)
    await it.write()
    await it.settled(1, "undeliverable")
    ring = it.backend.calls[0].ring["id"]
    _, told = await it.call("POST", f"/v1/dead_letters/{ring}/replay", Role.SERVICE)
    assert told == {"id": ring, "replay": "replayed"}
    return await it.settled(1, "pushed")


def in_a_minute() -> str:
    return timestamp(time.time() + 60.0)


PERFORMANCES: dict[tuple[Outcome, Trigger], Performance] = {
    (Outcome.PENDING, Trigger.ACK): pending_ack,
    (Outcome.PENDING, Trigger.ACCEPTANCE): pending_acceptance,
    (Outcome.PENDING, Trigger.EXPIRY): pending_expiry,
    (Outcome.PENDING, Trigger.NO_DEVICE_LEFT): pending_no_device_left,
    (Outcome.EXPIRED, Trigger.ACK): expired_ack,
    (Outcome.EXPIRED, Trigger.ACCEPTANCE): expired_acceptance,
    (Outcome.UNDELIVERABLE, Trigger.ACK): undeliverable_ack,
    (Outcome.UNDELIVERABLE, Trigger.REGISTRATION): undeliverable_registration,
    (Outcome.UNDELIVERABLE, Trigger.REPLAY): undeliverable_replay,
}


def test_every_transition_of_the_table_is_performed_and_no_other() -> None:
    assert set(PERFORMANCES) == set(TRANSITIONS)


@pytest.mark.parametrize(
    ("origin", "trigger"), list(TRANSITIONS), ids=lambda word: str(getattr(word, "value", word))
)
async def test_a_transition_happens_as_published(
    tmp_path: Path, origin: Outcome, trigger: Trigger
) -> None:
    to = TRANSITIONS[origin, trigger]
    delivery = QUICK | {"restart_grace": 0.2}
    async with running(tmp_path, delivery=delivery) as it:
        told = await PERFORMANCES[origin, trigger](it)
        counters = await balance(it)
    if (origin, to) == (Outcome.PENDING, Outcome.ACKED):
        assert told["outcome"] == "acked"
        assert [e for e in told["events"] if e["event"] == "acked"]
    else:
        moves = [(e["was"], e["outcome"]) for e in told["events"] if e["event"] == "outcome"]
        assert (origin, to) in moves, moves
    assert counters == {"accepted": 1, told["outcome"]: 1}


async def balance(it: Running) -> dict[str, int]:
    """The counters of the conservation law as operators see them, those that are not 0."""
    _, text = await it.call("GET", "/metrics", Role.SERVICE, listener="admin")
    lines = [line for line in text.splitlines() if 'tenant="acme"' in line]
    assert 'ringback_unbalanced_messages{tenant="acme"} 0.0' in lines
    found = {}
    for line in lines:
        if line.startswith("ringback_messages{"):
            name = line.partition('outcome="')[2].partition('"')[0]
            found[name] = int(float(line.rpartition(" ")[2]))
    return {name: value for name, value in found.items() if value}
