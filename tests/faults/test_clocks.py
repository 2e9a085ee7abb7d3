"""The machine's clock jumps by two hours, both ways: while the gateway runs, and while it is down.

What a restart finds after the clock was set back is shown twice: with the rows moved by hand, which
needs no other program, and with the real process under a false clock.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from aiohttp import web

from tests.faults import clocks
from tests.faults.clocks import TWO_HOURS
from tests.faults.needs import needs
from tests.running import PATIENT, QUICK, running
from tests.test_push import recorded


def move_rows(directory: Path, *statements: str) -> None:
    """Change rows of a gateway that is down, as if the clock had been set back since."""
    with sqlite3.connect(directory / "ringback.db") as db:
        for statement in statements:
            db.execute(statement, (TWO_HOURS,))
    db.close()


async def test_a_ring_waits_no_longer_than_it_was_told_when_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(web.Response(status=503, headers={"Retry-After": "1"}))
        await it.write()
        first = await it.backend.take()
        await recorded(it, 1, "attempt")
    move_rows(
        tmp_path,
        "UPDATE ringing SET wake_at = wake_at + ?1, verdict_at = verdict_at + ?1,"
        " ring = json_set(ring, '$.claimed_at', json_extract(ring, '$.claimed_at') + ?1)",
    )
    async with running(tmp_path) as it:
        assert (await it.backend.take()).raw == first.raw
        await it.settled(1, "pushed")


async def test_joins_hold_no_longer_than_they_may_when_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent()
        await agent.ask("send", "sent", customer="c-42", text="hello")
        await customer.take("message")
        back = await it.customer()
        await back.take("message")
    move_rows(
        tmp_path,
        "UPDATE conversations SET push_due_at = push_due_at + ?1, hold_from = hold_from + ?1",
    )
    delivery = QUICK | {"ack_timeout": 0.5, "max_hold": 1.0}
    async with running(tmp_path, delivery=delivery) as it:
        rung = asyncio.create_task(it.backend.take())
        while not rung.done():
            phone = await it.customer()
            phone.vanish()
        assert (await rung).badge == 1


async def test_a_clock_that_jumps_while_running_makes_nothing_early(tmp_path: Path) -> None:
    needs("faketime")
    result = await clocks.nothing_early(tmp_path, customers=3)
    assert result.clean, result
    assert result.injected == 3


async def test_a_clock_that_jumps_while_running_keeps_nothing_waiting(tmp_path: Path) -> None:
    needs("faketime")
    result = await clocks.goes_on(tmp_path, customers=3, rounds=1)
    assert result.clean, result
    assert result.injected == 2


@pytest.mark.parametrize("offset", [TWO_HOURS, -TWO_HOURS])
async def test_another_time_after_a_restart_loses_nothing_and_rings_once(
    tmp_path: Path, offset: float
) -> None:
    needs("faketime")
    result = await clocks.restarts(tmp_path, offset, customers=2)
    assert result.clean, result
