"""An agent's client against a scripted server: what a desk sees when the network is unkind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.clientside.agent import AgentClient
from gateway.clientside.errors import RequestFailed
from gateway.clientside.told import Frame
from gateway.protocol import Route
from tests.gateway.clientside.scripted import (
    AT,
    Scripted,
    Socket,
    agent,
    history,
    is_welcome,
    message,
    seqs,
    within,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

OPENED = {
    "customer": "c-42",
    "read_seq": 0,
    "acked_seq": 0,
    "unread": 0,
    "in_chat": True,
    "live": True,
    "devices": 1,
    "more": False,
}


async def opened(client: AgentClient, socket: Socket, seq: int) -> None:
    """Let the client open c-42, whose newest message is `seq`."""
    opening = asyncio.create_task(client.open("c-42"))
    request = await socket.take("open")
    messages = [message(n, customer="c-42") for n in range(1, seq + 1)]
    await socket.say("conversation", ref=request["ref"], seq=seq, messages=messages, **OPENED)
    conversation = await within(opening)
    assert seqs(conversation.messages) == list(range(1, seq + 1))


async def test_an_agents_send_tells_where_the_message_went(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        sending = asyncio.create_task(client.send("c-42", "hello", {"x": 1}))
        send = await socket.take("send")
        assert (send["customer"], send["text"], send["data"]) == ("c-42", "hello", {"x": 1})
        await socket.sent(send, 1, customer="c-42", route="none", reason="no_device")
        sent = await within(sending)
        assert (sent.route, sent.reason, sent.seq) == (Route.NONE, "no_device", 1)


async def test_an_agents_send_without_an_answer_goes_out_again(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        sending = asyncio.create_task(client.send("c-42", "hello"))
        first = await socket.take("send")
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        assert await again.take("send") == first
        await again.messages(1, 1, customer="c-42", ref=first["ref"])  # committed just now
        await again.sent(first, 1, customer="c-42", route="push", reason="not_in_chat")
        assert (await within(sending)).route is Route.PUSH


async def test_the_inbox_is_asked_for_again_after_a_reconnect(server: Scripted) -> None:
    entry = {
        "customer": "c-42",
        "live": True,
        "unanswered_since": "2026-11-24T08:59:58.120Z",
        "in_chat": False,
        "seq": 1,
        "last": message(1, customer="c-42"),
        "unread": 1,
        "waiting": 0,
        "updated_at": AT,
    }
    async with agent(server) as (client, socket):
        asking = asyncio.create_task(client.inbox(filter="live", cursor="abc", limit=5))
        request = await socket.take("inbox")
        assert (request["filter"], request["cursor"], request["limit"]) == ("live", "abc", 5)
        await socket.say("inbox", ref=request["ref"], conversations=[entry], cursor="def")
        page = await within(asking)
        assert page.cursor == "def"
        assert page.conversations[0].last is not None
        assert page.conversations[0].last.customer == "c-42"
        assert page.conversations[0].unanswered_since == "2026-11-24T08:59:58.120Z"
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("inbox")
        assert request["filter"] == "live"
        assert "cursor" not in request


async def test_open_conversations_are_opened_again_where_they_were(server: Scripted) -> None:
    heard: list[int | str] = []

    def listen(frame: Frame) -> None:
        if frame["type"] in ("conversation", "message"):
            heard.append(frame["seq"] if frame["type"] == "message" else "conversation")

    async with agent(server, on_frame=listen) as (client, socket):
        await opened(client, socket, 2)
        await socket.messages(3, 4, customer="c-42")
        await client.wait_for(lambda frame: frame.get("seq") == 4)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("open")
        assert (request["customer"], request["after"]) == ("c-42", 4)
        missed = [message(n, customer="c-42") for n in (5, 6)]
        await again.say("conversation", ref=request["ref"], seq=6, messages=missed, **OPENED)
        await again.messages(7, 7, customer="c-42")
        await client.wait_for(lambda frame: frame.get("seq") == 7)
        assert heard == ["conversation", 3, 4, "conversation", 5, 6, 7]


async def test_an_agents_own_send_counts_as_its_seq_and_a_gap_is_filled(
    server: Scripted,
) -> None:
    heard: list[int] = []

    def listen(frame: Frame) -> None:
        if frame["type"] == "message":
            heard.append(frame["seq"])

    async with agent(server, on_frame=listen) as (client, socket):
        await opened(client, socket, 0)
        sending = asyncio.create_task(client.send("c-42", "hello"))
        send = await socket.take("send")
        await socket.sent(send, 1, customer="c-42", route="socket", reason="in_chat")
        await within(sending)
        await socket.messages(2, 2, customer="c-42")
        await socket.messages(2, 2, customer="c-42")
        await socket.messages(4, 5, customer="c-42")
        request = await socket.take("open")
        assert request["after"] == 2
        missed = [message(n, customer="c-42") for n in (3, 4, 5)]
        await socket.say("conversation", ref=request["ref"], seq=5, messages=missed, **OPENED)
        await client.wait_for(lambda frame: frame.get("seq") == 5 and "text" in frame)
        assert heard == [2, 3, 4, 5]
        await client.close()
        assert await socket.rest() == [], "the gap was asked for once"


async def comes_back_without_a_word(server: Scripted, client: AgentClient, socket: Socket) -> None:
    """The socket is lost: on the next the client says nothing after its welcome, and ends."""
    socket.vanish()
    again = await server.socket()
    mark = client.frames_seen
    await again.agent_welcome()
    await client.wait_for(is_welcome, since=mark)
    await client.close()
    assert await again.rest() == []


async def test_a_closed_conversation_is_not_opened_again(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await opened(client, socket, 1)
        closing = asyncio.create_task(client.close_conversation("c-42"))
        request = await socket.take("close")
        await socket.say("ok", ref=request["ref"])
        await within(closing)
        await comes_back_without_a_word(server, client, socket)


async def test_a_conversation_that_is_closed_while_it_is_opened_again_stays_closed(
    server: Scripted,
) -> None:
    heard: list[str] = []
    async with agent(server, on_frame=lambda frame: heard.append(frame["type"])) as told:
        client, socket = told
        await opened(client, socket, 1)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("open")
        closing = asyncio.create_task(client.close_conversation("c-42"))
        close = await again.take("close")
        await again.say("conversation", ref=request["ref"], seq=1, messages=[], **OPENED)
        await again.say("ok", ref=close["ref"])
        await within(closing)
        assert heard == ["welcome", "conversation", "welcome", "ok"]
        await comes_back_without_a_word(server, client, again)


async def test_a_conversation_is_followed_on_though_a_send_to_it_was_refused(
    server: Scripted,
) -> None:
    async with agent(server) as (client, socket):
        await opened(client, socket, 1)
        sending = asyncio.create_task(client.send("c-42", "hello"))
        send = await socket.take("send")
        await socket.say("error", ref=send["ref"], code="bad_frame", message="no")
        with pytest.raises(RequestFailed):
            await within(sending)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        assert (await again.take("open"))["after"] == 1


async def answered(client: AgentClient, socket: Socket) -> None:
    """A ping, which is all that the client says."""
    await _answered(client.ping, socket, "ping", "pong")


async def test_an_agents_send_waits_for_the_one_before_it_that_may_pass_later(
    server: Scripted,
) -> None:
    async with agent(server) as (client, socket):
        sends = [asyncio.create_task(client.send("c-42", "first"))]
        first = await socket.take("send")
        await socket.say(
            "error", ref=first["ref"], code="rate_limited", message="wait", retry_after=3600
        )
        await answered(client, socket)
        sends.append(asyncio.create_task(client.send("c-42", "second")))
        await answered(client, socket)
        await answered(client, socket)
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)


async def test_a_conversation_that_is_gone_is_not_asked_for_for_ever(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await opened(client, socket, 1)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("open")
        await again.say("error", ref=request["ref"], code="not_found", message="erased")
        await client.wait_for(lambda frame: frame["type"] == "error")
        again.vanish()
        third = await server.socket()
        mark = client.frames_seen
        await third.agent_welcome()
        await client.wait_for(is_welcome, since=mark)
        await client.close()
        assert await third.rest() == []


async def test_agents_ack_read_type_page_and_end(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await client.ack("c-42", 4)
        ack = await socket.take("ack")
        assert (ack["customer"], ack["seq"]) == ("c-42", 4)
        await client.read("c-42", 3)
        read = await socket.take("read")
        assert (read["customer"], read["seq"]) == ("c-42", 3)
        await client.typing("c-42", False)
        assert await socket.take("typing") == {"type": "typing", "customer": "c-42", "on": False}
        asking = asyncio.create_task(client.history("c-42", before=9, limit=2))
        request = await socket.take("history")
        assert (request["customer"], request["before"], request["limit"]) == ("c-42", 9, 2)
        await socket.say("history", **history(request, 7, 8, more=True), customer="c-42")
        assert seqs((await within(asking)).messages) == [7, 8]
        for call, type in (
            (lambda: client.end("c-42"), "end"),
            (lambda: client.refresh("t1"), "refresh"),
        ):
            await _answered(call, socket, type)


async def _answered(call: Callable[[], Any], socket: Socket, type: str, answer: str = "ok") -> None:
    calling = asyncio.ensure_future(call())
    request = await socket.take(type)
    await socket.say(answer, ref=request["ref"])
    await within(calling)
