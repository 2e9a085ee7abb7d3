"""Callbacks and those who wait, of clients that hear a scripted server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.clientside.told import Message
from gateway.clientside.watch import Watch
from tests.gateway.clientside.scripted import Scripted, agent, customer, within

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


async def test_a_callback_that_raises_is_reported_and_stops_nothing(server: Scripted) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))

    def broken(_: Message) -> None:
        raise LookupError("broken")

    async with customer(server, on_message=broken) as (client, socket):
        await socket.messages(1, 2)
        await client.wait_message(2)
        assert [type(report["exception"]) for report in reports] == [LookupError, LookupError]


async def test_a_wait_since_a_mark_finds_only_what_came_after_it(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        before = client.frames_seen
        await socket.messages(1, 1)
        await client.wait_message(1)
        with pytest.raises(TimeoutError):
            await client.wait_for(lambda frame: True, timeout=0, since=client.frames_seen)
        assert (await client.wait_for(lambda frame: True, since=before))["seq"] == 1


async def test_waiting_for_a_message_that_does_not_come_times_out(server: Scripted) -> None:
    async with customer(server) as (client, _):
        with pytest.raises(TimeoutError):
            await client.wait_message(1, timeout=0)


async def test_who_waits_gets_the_first_of_several_that_come_at_once() -> None:
    watch = Watch[int]()
    waiting = asyncio.create_task(watch.wait(lambda item: item > 0, [], 10.0))
    await asyncio.sleep(0)
    for item in range(3):
        watch.add(item)
    assert await within(waiting) == 1


async def test_a_predicate_that_raises_is_its_callers_to_see(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        waiting = asyncio.create_task(client.wait_message(lambda message: 1 / 0))
        await asyncio.sleep(0)
        await socket.messages(1, 2)
        with pytest.raises(ZeroDivisionError):
            await within(waiting)
        assert (await client.wait_message(2)).seq == 2


async def test_receipts_and_presence_can_be_waited_for_also_if_they_came_first(
    server: Scripted,
) -> None:
    async with agent(server) as (client, socket):
        await socket.say("presence", customer="c-42", in_chat=False, sessions=0)
        await client.wait_for(lambda frame: frame["type"] == "presence")
        mark = client.frames_seen
        again = await client.wait_for(lambda frame: frame["type"] == "presence")
        assert again["in_chat"] is False
        with pytest.raises(TimeoutError):
            await client.wait_for(lambda frame: frame["type"] == "presence", 0, since=mark)
