"""Which token a client says hello with, as a scripted server sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.clientside import tokens
from gateway.clientside.errors import ConnectionEnded, RequestFailed
from tests.gateway.clientside.scripted import Held, Scripted, customer, within

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


async def test_a_token_may_come_from_a_plain_function(server: Scripted) -> None:
    async with customer(server, token=lambda: "from a function") as (_, socket):
        assert socket.hello["token"] == "from a function"


async def test_an_expired_token_is_asked_for_again_and_a_good_one_is_not(
    server: Scripted,
) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return f"t{asked}"

    async with customer(server, token=token) as (_, socket):
        assert socket.hello["token"] == "t1"
        socket.vanish()
        again = await server.socket()
        assert again.hello["token"] == "t1"
        await again.welcome(resumed=True)
        await again.close(4002)
        assert (await server.socket()).hello["token"] == "t2"


async def test_a_token_that_aged_while_the_client_was_away_is_replaced_once(
    server: Scripted,
) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return f"t{asked}"

    async with customer(server, token=token) as (client, socket):
        waiting = asyncio.create_task(client.wait_message(1))
        socket.vanish()
        again = await server.socket()
        assert again.hello["token"] == "t1"
        await again.close(4500)
        fresh = await server.socket()
        assert fresh.hello["token"] == "t2"
        await fresh.close(4500)  # not for its age
        with pytest.raises(ConnectionEnded):
            await within(waiting)
        assert asked == 2


async def test_a_token_that_cannot_be_had_is_another_failed_attempt(server: Scripted) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
    tries = 0

    async def token() -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("the token service is down")
        return "t1"

    async with customer(server, token=token) as (_, socket):
        assert socket.hello["token"] == "t1"
    assert [type(report["exception"]) for report in reports] == [OSError]


async def test_a_token_that_is_no_text_or_never_comes_is_told_and_asked_for_again(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "TOKEN_WITHIN", 0.05)
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
    answers: list[Any] = [None, "", asyncio.Event().wait(), "t1"]

    async with customer(server, token=lambda: answers.pop(0)) as (_, socket):
        assert socket.hello["token"] == "t1"
    raised = [type(report["exception"]) for report in reports]
    assert raised == [TypeError, TypeError, TimeoutError]


async def test_a_refreshed_token_is_the_one_to_come_back_with(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        refreshing = asyncio.create_task(client.refresh("t1"))
        request = await socket.take("refresh")
        assert request["token"] == "t1"
        await socket.say("ok", ref=request["ref"])
        await within(refreshing)
        socket.vanish()
        assert (await server.socket()).hello["token"] == "t1"


async def test_a_token_given_while_the_client_is_away_is_the_one_to_come_back_with(
    server: Scripted,
) -> None:
    held = Held()
    async with customer(server, sleep=held) as (client, socket):
        socket.vanish()
        await within(held.begun.wait())
        refreshing = asyncio.create_task(client.refresh("t1"))
        await asyncio.sleep(0)
        held.over.set()
        again = await server.socket()
        assert again.hello["token"] == "t1"
        await again.welcome(resumed=True)
        request = await again.take("refresh")
        await again.say("ok", ref=request["ref"])
        await within(refreshing)


async def test_a_token_that_the_server_refused_is_not_the_one_to_come_back_with(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        refreshing = asyncio.create_task(client.refresh("of somebody else"))
        request = await socket.take("refresh")
        await socket.say("error", ref=request["ref"], code="forbidden", message="not yours")
        with pytest.raises(RequestFailed):
            await within(refreshing)
        socket.vanish()
        assert (await server.socket()).hello["token"] == "t0"
