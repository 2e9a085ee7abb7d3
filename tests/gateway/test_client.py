"""The Python client, as programs import it, with the real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.client import AgentClient, ConnectionEnded, CustomerClient, Message, RequestFailed
from gateway.protocol import Role, Route
from tests.dice import Lowest
from tests.gateway.clientside.scripted import seqs, within
from tests.running import PATIENT, Running, running

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def a_customer(it: Running, **options: Any) -> CustomerClient:
    token = it.token(Role.CUSTOMER, "c-42")
    return CustomerClient(it.chat_url("/v1/chat"), token, rng=Lowest(), **options)


def an_agent(it: Running, **options: Any) -> AgentClient:
    token = it.token(Role.AGENT, "a-1")
    return AgentClient(it.chat_url("/v1/agent"), token, rng=Lowest(), **options)


async def test_customer_and_agent_hold_a_conversation(tmp_path: Path) -> None:
    async with (
        running(tmp_path, delivery=PATIENT) as it,
        a_customer(it) as app,
        an_agent(it) as desk,
    ):
        assert (await desk.open("c-42")).in_chat
        sent = await desk.send("c-42", "how can I help?", {"x": 1})
        assert (sent.route, sent.reason) == (Route.SOCKET, "in_chat")
        got = await app.wait_message(sent.seq)
        assert (got.text, got.data) == ("how can I help?", {"x": 1})
        await desk.wait_for(lambda f: f["type"] == "receipt" and f["state"] == "delivered")
        await app.read()
        await desk.wait_for(lambda f: f["type"] == "receipt" and f["state"] == "read")
        answer = await app.send("where is my order?")
        assert (await desk.wait_for(lambda f: f["type"] == "message"))["seq"] == answer.seq
        await desk.ack("c-42", answer.seq)
        await app.wait_for(lambda f: f["type"] == "status" and f["agents_acked_seq"] == answer.seq)
        assert app.status is not None
        assert (app.status.agents_acked_seq, app.status.agents_read_seq) == (answer.seq, 0)
        await desk.read("c-42", answer.seq)
        await app.wait_for(lambda f: f["type"] == "status" and f["agents_read_seq"] == answer.seq)
        assert app.status.agents_read_seq == answer.seq
        await app.typing()
        await desk.wait_for(lambda f: f["type"] == "typing" and f["on"])
        page = await desk.inbox()
        assert page.conversations[0].last is not None
        assert page.conversations[0].last.text == "where is my order?"
        await desk.end("c-42")
        await app.wait_for(lambda f: f["type"] == "status" and not f["live"])
        assert app.status is not None
        assert (app.status.unread, app.status.live) == (0, False)
        assert seqs((await app.history()).messages) == seqs(app.messages) == [1, 2]
        assert seqs((await desk.history("c-42")).messages) == [1, 2]
        await desk.close_conversation("c-42")
        await desk.ping()
        await app.bye()


async def test_devices_and_tokens_over_the_real_socket(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, a_customer(it) as app:
        key = await app.register_device("phone", "device-token", platform="ios")
        assert key == await app.register_device("phone", "another-token")
        await app.deregister_device("phone")
        await app.refresh(it.token(Role.CUSTOMER, "c-42"))
        with pytest.raises(RequestFailed) as failed:
            await app.refresh(it.token(Role.CUSTOMER, "c-43"))
        assert failed.value.code == "forbidden"


async def test_dropped_connections_lose_and_repeat_nothing(tmp_path: Path) -> None:
    heard: list[Message] = []
    limits = {"burst": 100}
    async with (
        running(tmp_path, delivery=PATIENT, limits=limits) as it,
        a_customer(it, on_message=heard.append) as app,
        an_agent(it) as desk,
    ):
        await desk.open("c-42")
        for i in range(30):
            sending = asyncio.gather(desk.send("c-42", f"a{i}"), app.send(f"c{i}"))
            if i % 3 == 0:
                app.drop()
            if i % 4 == 0:
                desk.drop()
            await within(sending)
        await app.wait_message(60)
        assert seqs(heard) == seqs(app.messages) == list(range(1, 61))
        texts = sorted(message.text for message in heard)
        assert texts == sorted(f"{who}{i}" for who in "ac" for i in range(30))


async def test_more_sends_than_the_rate_allows_all_arrive_in_the_end(tmp_path: Path) -> None:
    limits = {"sends_per_minute": 6000, "burst": 5}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it, a_customer(it) as app:
        sent = await within(asyncio.gather(*(app.send(f"m{i}") for i in range(60))))
        assert sorted(s.seq for s in sent) == list(range(1, 61))
        assert seqs(app.messages) == list(range(1, 61))


async def test_a_client_signed_out_elsewhere_stays_away(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, a_customer(it) as app:
        waiting = asyncio.create_task(app.wait_message(1))
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        with pytest.raises(ConnectionEnded) as ended:
            await within(waiting)
        assert ended.value.code == 4503


async def test_too_much_missed_is_reloaded_from_the_real_history(tmp_path: Path) -> None:
    reloads: list[list[int]] = []
    limits = {"resume": 60}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        app = a_customer(it, on_reload=lambda messages: reloads.append(seqs(messages)))
        await app.start()
        await app.abort()
        for _ in range(130):
            await it.write()
        async with app:
            await app.wait_message(130)
            assert reloads == [list(range(31, 131))]
            assert seqs(app.messages) == list(range(31, 131))
