"""A server that does what a test says, and a client of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gateway.clientside.agent import AgentClient
from gateway.clientside.customer import CustomerClient
from gateway.clientside.told import Frame, Message
from gateway.protocol import Limits
from tests.dice import Lowest

PATIENCE = 10.0  # seconds after which a test gives up; never a measure of anything
AT = "2026-01-01T00:00:00.000Z"


class Socket:
    """One connection, as the scripted server sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.hello: Frame = {}
        self.closed = asyncio.Event()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()

    async def read(self) -> None:
        try:
            async for raw in self.socket:
                self._frames.put_nowait(json.loads(raw))
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()

    async def take(self, type: str) -> Frame:
        """The next frame, which has to be of this type."""
        async with asyncio.timeout(PATIENCE):
            frame = await self._frames.get()
        assert frame["type"] == type, frame
        return frame

    async def rest(self) -> list[Frame]:
        """What came before the client closed."""
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()
        return [self._frames.get_nowait() for _ in range(self._frames.qsize())]

    async def say(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def welcome(self, seq: int = 0, **fields: Any) -> None:
        told = {
            "session": "s_1",
            "customer": "c-42",
            "epoch": "e1",
            "seq": seq,
            "read_seq": 0,
            "unread": 0,
            "live": False,
            "resumed": False,
            "limits": Limits().as_field(),
            "server_time": AT,
        }
        await self.say("welcome", **told | fields)

    async def agent_welcome(self) -> None:
        await self.say(
            "welcome",
            session="s_1",
            agent="a-1",
            tenant="acme",
            limits=Limits().as_field(),
            server_time=AT,
        )

    async def messages(self, first: int, last: int, **fields: Any) -> None:
        for seq in range(first, last + 1):
            await self.socket.send(json.dumps(message(seq, **fields)))

    async def sent(self, send: Frame, seq: int, **fields: Any) -> None:
        await self.say("sent", ref=send["ref"], seq=seq, id=f"m_{seq}", at=AT, **fields)

    async def close(self, code: int) -> None:
        await self.socket.close(code)

    def vanish(self) -> None:
        self.socket.transport.abort()

    def stall(self, client: CustomerClient) -> None:
        """From here on the network takes nearly nothing, until this side resumes reading."""
        self.socket.transport.pause_reading()
        assert client._link._socket is not None
        raw = client._link._socket.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def message(seq: int, **fields: Any) -> Frame:
    told = {
        "type": "message",
        "seq": seq,
        "id": f"m_{seq}",
        "from": {"role": "agent", "id": "a-1"},
        "text": f"text {seq}",
        "kind": "chat",
        "at": AT,
    }
    return told | fields


def history(request: Frame, first: int, last: int, *, more: bool) -> Frame:
    messages = [message(seq) for seq in range(first, last + 1)]
    return {"ref": request["ref"], "messages": messages, "more": more}


class Scripted:
    """A server that does nothing by itself: the test takes its sockets and answers."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.status: int | None = None  # refuse handshakes with it
        self.refused: asyncio.Queue[None] = asyncio.Queue()
        self._sockets: asyncio.Queue[Socket] = asyncio.Queue()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}/v1/chat"

    async def serve(self, connection: ServerConnection) -> None:
        socket = Socket(connection)
        try:
            socket.hello = json.loads(await connection.recv())
        except ConnectionClosed:
            return
        self._sockets.put_nowait(socket)
        await socket.read()

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.status is None:
            return None
        self.refused.put_nowait(None)
        return connection.respond(self.status, "no\n")

    async def socket(self) -> Socket:
        """The next connection that has said hello."""
        async with asyncio.timeout(PATIENCE):
            return await self._sockets.get()

    @property
    def untaken(self) -> int:
        return self._sockets.qsize()


class Naps:
    """Remembers how long the client wanted to wait, and does not wait."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


class Held:
    """A wait that lasts until the test ends it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def __call__(self, _: float) -> None:
        self.begun.set()
        await self.over.wait()


@asynccontextmanager
async def customer(
    server: Scripted, seq: int = 0, welcome: Frame | None = None, **options: Any
) -> AsyncIterator[tuple[CustomerClient, Socket]]:
    """A started client and its first socket."""
    options.setdefault("sleep", Naps())
    options.setdefault("rng", Lowest())
    client = CustomerClient(server.url, options.pop("token", "t0"), **options)
    starting = asyncio.create_task(client.start())
    try:
        socket = await server.socket()
        await socket.welcome(seq, **welcome or {})
        await starting
        yield client, socket
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.close()


@asynccontextmanager
async def agent(server: Scripted, **options: Any) -> AsyncIterator[tuple[AgentClient, Socket]]:
    client = AgentClient(server.url, "t0", sleep=Naps(), rng=Lowest(), **options)
    starting = asyncio.create_task(client.start())
    try:
        socket = await server.socket()
        await socket.agent_welcome()
        await starting
        yield client, socket
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.close()


def is_welcome(frame: Frame) -> bool:
    return bool(frame["type"] == "welcome")


def seqs(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages]


async def within(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable
