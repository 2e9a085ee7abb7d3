"""A customer backend that fails, end to end: it is left alone, nothing is lost, and it is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gateway.protocol import timestamp
from tests.running import QUICK, Running, running

SLOW_PROBES = {"breaker_after": 2, "retry_first": 60.0, "retry_max": 60.0}
QUICK_PROBES = {"breaker_after": 2, "retry_first": 0.05, "retry_max": 0.1}


async def fail(it: Running) -> None:
    """Let the backend fail, and two customers' rings find out."""
    it.backend.otherwise = 503
    for number in (1, 2):
        await it.register(f"c-{number}", installation=f"phone-{number}", token=f"t{number}")
        await it.write(customer=f"c-{number}")
        await it.backend.take()
    await until(it, lambda: it.load.open)


async def until(it: Running, holds: Any) -> None:
    while True:
        changed = it.next_commit()
        if holds():
            return
        await changed.wait()


async def waiting_for(it: Running, customer: str) -> list[dict[str, Any]]:
    """What its first message waits for, once a look has been recorded."""
    while True:
        changed = it.next_commit()
        told = await it.outcome(1, customer)
        if any(event["event"] == "look" for event in told["events"]):
            return list(told["waiting"])
        await changed.wait()


async def test_what_waits_for_a_failing_backend_is_told_and_burns_no_attempt(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=SLOW_PROBES) as it:
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3")
        (waits,) = await waiting_for(it, "c-3")
        assert (waits["for"], waits["installation"]) == ("endpoint", "phone-3")
        looks = [e for e in (await it.outcome(1, "c-3"))["events"] if e["event"] == "look"]
        assert [(e["action"], e["reason"]) for e in looks] == [("wait", "endpoint_down")]
        assert len(it.backend.calls) == 2
        _, page = await it.call("GET", "/metrics", listener="admin")
        assert 'ringback_push_down{tenant="acme"} 1.0' in page
        assert 'ringback_push_down{tenant="other"} 0.0' in page
        assert 'ringback_push_suspended{tenant="acme"} 0.0' in page
        assert 'ringback_push_waiting{tenant="acme"} 1.0' in page


async def test_a_backend_that_fails_is_left_alone_and_everything_comes_when_it_works(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=QUICK_PROBES) as it:
        await fail(it)
        everybody = [f"c-{number}" for number in range(1, 20)]
        for number in range(3, 20):
            await it.register(f"c-{number}", installation=f"phone-{number}", token=f"t{number}")
            await it.write(customer=f"c-{number}")
        it.backend.otherwise = 200
        for customer in everybody:
            await it.settled(1, "pushed", customer)
        assert sorted(c.ring["customer"] for c in it.backend.calls if c.accepted) == sorted(
            everybody
        )
        assert not it.load.open


async def test_what_expires_while_the_endpoint_fails_is_not_rung_afterwards(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=QUICK_PROBES) as it:
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3", expires_at=timestamp(time.time() + 0.5))
        await it.settled(1, "expired", "c-3")
        it.backend.otherwise = 200
        for customer in ("c-1", "c-2"):
            await it.settled(1, "pushed", customer)
        accepted = {call.ring["customer"] for call in it.backend.calls if call.accepted}
        assert accepted == {"c-1", "c-2"}


async def test_who_reads_in_chat_while_the_endpoint_fails_is_not_rung_afterwards(
    tmp_path: Path,
) -> None:
    delivery = QUICK | {"ack_timeout": 60.0, "max_hold": 60.0}
    async with running(tmp_path, push=QUICK_PROBES, delivery=delivery) as it:
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3")
        customer = await it.customer("c-3")
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked", "c-3")
        it.backend.otherwise = 200
        for other in ("c-1", "c-2"):
            await it.settled(1, "pushed", other)
        accepted = {call.ring["customer"] for call in it.backend.calls if call.accepted}
        assert accepted == {"c-1", "c-2"}
