"""What has ended is freed with its last reference. The collector is frozen after the start and runs
rarely (`gateway.commands.serving.run`): what only it finds stays for long, and an upload's body
with it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from gateway.http.listener import _Connection
from gateway.protocol import FrameError, Role
from gateway.wire import Peer
from storage.transaction import Transaction
from tests.running import PATIENCE, Running, running

WATCHED = (Peer, _Connection, web.BaseRequest, FrameError, sqlite3.Error, Transaction)
AGAIN = 5

Use = Callable[[Running], Awaitable[None]]


def made() -> int:
    """How many connections, calls and errors there are that came since the last collection."""
    return sum(isinstance(thing, WATCHED) for thing in gc.get_objects(generation=0))


async def frees(it: Running, use: Use) -> None:
    """Fail if what a connection was used for is there when it has ended, without the collector."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(AGAIN):
            await use(it)
        async with asyncio.timeout(PATIENCE):
            while made():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"after {AGAIN} times {made()} things wait for the collector")
    finally:
        gc.enable()


async def line(it: Running, listener: str, *told: str | bytes) -> asyncio.StreamReader:
    """Tell a listener this, and hang up when there is an answer or nothing comes for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.ports[listener])
    for part in told:
        writer.write(part.encode() if isinstance(part, str) else part)
        await writer.drain()
    try:
        async with asyncio.timeout(0.05):
            await reader.read(1)
    except TimeoutError:
        pass
    writer.transport.abort()
    return reader


# Sockets


async def vanish_before_the_replay(it: Running) -> None:
    wire = await it.raw("/v1/chat")
    await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
    wire.vanish()


async def acknowledge_what_is_not_there(it: Running) -> None:
    wire = await it.customer()
    await wire.send("ack", seq=10**6)
    await wire.take("error")
    wire.vanish()


async def send_something_else_under_a_ref(it: Running) -> None:
    wire = await it.customer()
    await wire.ask("send", "sent", ref="the-same", text="What is new?")
    await wire.ask("send", "error", ref="the-same", text="Where is it?")
    wire.vanish()


async def open_who_is_not_there(it: Running) -> None:
    wire = await it.agent()
    await wire.ask("open", "error", customer="nobody")
    wire.vanish()


async def register_what_a_message_has_waited_for(it: Running) -> None:
    """The change is judged again, once what it lacks is read: the messages without an outcome."""
    service = f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
    customer = f"Authorization: Bearer {it.token(Role.CUSTOMER, 'c-42')}\r\n"
    for call, who, told in (
        ("POST /v1/messages", service, {"customer": "c-42", "text": "Are you there?"}),
        ("PUT /v1/devices/phone", customer, {"token": "device-token"}),
        ("POST /v1/customers/c-42/sign_out", service, {}),
    ):
        body = json.dumps(told)
        head = f"{call} HTTP/1.1\r\nHost: x\r\n{who}Content-Length: {len(body)}\r\n"
        await line(it, "http", f"{head}Content-Type: application/json\r\n\r\n{body}")


async def speak_another_version(it: Running) -> None:
    await line(
        it,
        "chat",
        "GET /v1/chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
    )


async def shake_hands_badly(it: Running) -> None:
    await line(
        it,
        "chat",
        "GET /v1/chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: ?\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )


# Calls


async def break_off_a_body(it: Running) -> None:
    for path, body in (
        ("/v1/messages", {"customer": "c-42", "text": "hello"}),
        ("/v1/campaigns", {"text": "hello", "audience": [{"customer": "c-42"}]}),
    ):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\nContent-Length: 1000\r\n\r\n"
        )
        await line(it, "http", head, json.dumps(body))


async def pack_a_body_badly(it: Running) -> None:
    await line(
        it,
        "http",
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\nContent-Encoding: gzip\r\n"
        "Content-Length: 8\r\n\r\nnot gzip",
    )


async def write_to_who_is_not_there(it: Running) -> None:
    body = json.dumps({"customer": "nobody", "text": "Where is it?"})
    await line(
        it,
        "http",
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {it.token(Role.AGENT, 'a-1')}\r\nIdempotency-Key: one\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}",
    )


async def call_what_is_not_there(it: Running) -> None:
    for asked in ("GET /v1/nothing", "PUT /v1/messages"):
        await line(it, "http", f"{asked} HTTP/1.1\r\nHost: x\r\n\r\n")


async def speak_no_http(it: Running) -> None:
    for told in ("nonsense\r\n\r\n", "GET /" + "x" * 9_000 + " HTTP/1.1\r\n\r\n"):
        await line(it, "http", told)


@pytest.mark.parametrize(
    "use",
    [
        vanish_before_the_replay,
        acknowledge_what_is_not_there,
        send_something_else_under_a_ref,
        open_who_is_not_there,
        register_what_a_message_has_waited_for,
        speak_another_version,
        shake_hands_badly,
        break_off_a_body,
        pack_a_body_badly,
        write_to_who_is_not_there,
        call_what_is_not_there,
        speak_no_http,
    ],
)
async def test_what_has_ended_badly_leaves_nothing_to_the_collector(
    tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiohttp.server")  # as in `gateway.logs`; it keeps errors
    async with running(tmp_path) as it:
        await frees(it, use)
