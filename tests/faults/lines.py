"""Light clients with nothing hidden: what crosses the wire, byte for byte, and ways to die.

A `Line` is one WebSocket over the library's sans-I/O protocol, cheap enough for thousands in one
process. An `App` is one customer over any number of lines: what it has, what it acknowledged, and
everything that a client should never have to see (`wrong`). A `Desk` is an agent that notes what
was confirmed to it.

Run as a program, it is one process full of customers, so that the process can be stopped
(SIGSTOP) or put behind another network: `python -m tests.faults.lines HOST PORT`, with the tokens
on the first line of stdin, whose end ends it. It prints `in chat` once all are, and then each ack.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import orjson
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.faults.accounts import Confirmed
from tests.running import PATIENCE

LOOPBACK = "127.0.0.1"
_refs = itertools.count()
_URI = {path: parse_uri(f"ws://{LOOPBACK}{path}") for path in ("/v1/chat", "/v1/agent")}


Heard = Callable[["Line", dict[str, Any]], None]


class Death(StrEnum):
    """How a client's end of a socket comes to nothing."""

    RESET = "RST"
    FIN = "FIN without close"
    GOODBYE = "close 1000"
    GOING_AWAY = "close 1001"
    BYE = "bye"
    SILENCE = "silence"
    BACKGROUND = "background"


def many_sockets() -> None:
    """Allow this process as many descriptors as it may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reset(transport: asyncio.BaseTransport) -> None:
    """Close with an RST: what was not sent or read is thrown away, and nobody says goodbye."""
    number = transport.get_extra_info("socket")
    number.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


class Line(asyncio.Protocol):
    """One WebSocket. `heard` gets every frame until this end is `dead`."""

    def __init__(self, path: str, hello: dict[str, Any], heard: Heard) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.dead = False
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.ended: asyncio.Future[int | None] = loop.create_future()
        """The server's close code; None when the socket ended without one."""
        self._hello = hello
        self._heard = heard
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._protocol = ClientProtocol(_URI[path], max_size=None)

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        hello: dict[str, Any],
        heard: Heard = lambda line, frame: None,
        *,
        host: str = LOOPBACK,
        sock: socket.socket | None = None,
    ) -> Line:
        """Connect, say hello and wait for `welcome`. Raises `OSError` when there is none."""
        loop = asyncio.get_running_loop()
        where: dict[str, Any] = {"sock": sock} if sock else {"host": host, "port": port}
        _, line = await loop.create_connection(lambda: cls(path, hello, heard), **where)
        async with asyncio.timeout(3 * PATIENCE):
            await line.ready
        return line

    # What the other end does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self.send("hello", **self._hello)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._frame(orjson.loads(event.data))
        self._flush()

    def _frame(self, frame: dict[str, Any]) -> None:
        answer = self._answers.pop(frame.get("ref", ""), None)
        if answer is not None and not answer.done():
            answer.set_result(frame)
        self._heard(self, frame)  # before `ready`: who waits for it finds everything noted
        if frame["type"] == "welcome" and not self.ready.done():
            self.ready.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        close = self._protocol.close_rcvd
        if not self.ended.done():
            self.ended.set_result(close.code if close else None)
        for waiting in (self.ready, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the socket ended"))
                waiting.exception()

    # What this end does

    @property
    def open_still(self) -> bool:
        """Whether neither end has closed."""
        return self._protocol.state is State.OPEN and not self.transport.is_closing()

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    def frame(self, type: str, **fields: Any) -> bytes:
        """The bytes of a frame, which are not sent."""
        self._protocol.send_text(orjson.dumps({"type": type, **fields}))
        return b"".join(self._protocol.data_to_send())

    def send(self, type: str, **fields: Any) -> None:
        self.transport.write(self.frame(type, **fields))

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a request and take its answer; `ConnectionResetError` when the socket ends first."""
        ref = fields.setdefault("ref", f"q-{next(_refs)}")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[ref] = answer
        if not self.open_still:
            raise ConnectionResetError("the socket has ended")
        self.send(type, **fields)
        async with asyncio.timeout(3 * PATIENCE):
            return await answer

    def die(self, how: Death) -> None:
        """End as told. Nothing that comes later is heard, except in the background."""
        self.dead = how is not Death.BACKGROUND
        match how:
            case Death.RESET:
                reset(self.transport)
            case Death.FIN:
                self.transport.write_eof()
            case Death.GOODBYE:
                self._protocol.send_close(1000)
                self._flush()
            case Death.GOING_AWAY:
                self._protocol.send_close(1001)
                self._flush()
            case Death.BYE:
                self.send("bye")
            case Death.SILENCE:
                self.transport.pause_reading()
            case Death.BACKGROUND:
                self.send("state", state="background")

    def wake(self) -> None:
        """Come to life again after silence."""
        self.dead = False
        self.transport.resume_reading()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()


class App:
    """One customer's app: what it has over all its sockets, and what it acknowledged.

    With `acks` each message is acknowledged as it arrives. `wrong` collects gaps, repeats and
    errors: a client should see none.
    """

    def __init__(self, sub: str, token: str, *, acks: bool = True) -> None:
        self.sub = sub
        self.token = token
        self.acks = acks
        self.has = 0
        self.acked = 0
        self.texts: dict[int, str] = {}
        self.wrong: list[str] = []
        self.line: Line
        self._epoch = ""
        self._next = 1

    async def come(self, port: int, *, resume: bool = True, **options: Any) -> Line:
        """Open a socket, active; `resume` what is there, which acknowledges it."""
        hello: dict[str, Any] = {"token": self.token, "installation": f"phone-{self.sub}"}
        if resume and self._epoch:
            hello["resume"] = {"epoch": self._epoch, "seq": self.has}
        await Line.open(port, "/v1/chat", hello, self.heard, **options)
        return self.line

    async def register(self) -> None:
        """Have a phone that can be rung."""
        told = await self.line.ask(
            "register_device", installation=f"phone-{self.sub}", token=f"token-{self.sub}"
        )
        assert told["type"] == "device", told

    def ack(self) -> None:
        """Acknowledge what is there."""
        if self.has and self.line.open_still:
            self.line.send("ack", seq=self.has)
            self.acked = max(self.acked, self.has)

    def heard(self, line: Line, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "welcome":
                self.line = line
                self._epoch = frame["epoch"]
                if frame["resumed"]:
                    self.acked = max(self.acked, self.has)
                    self._next = self.has + 1
                else:
                    self._next = frame["read_seq"] + 1
            case "message" | "sent":
                self._message(frame)
            case "error":
                self.wrong.append(f"{self.sub}: error {frame['code']}")

    def _message(self, frame: dict[str, Any]) -> None:
        seq = frame["seq"]
        if seq != self._next:
            self.wrong.append(f"{self.sub}: {seq} came where {self._next} was to come")
        self._next = seq + 1
        self.has = max(self.has, seq)
        self.texts[seq] = frame.get("text", "")
        if self.acks:
            self.ack()


class Desk:
    """An agent. `confirmed` is what it was told `sent` for."""

    def __init__(self, token: str) -> None:
        self.confirmed: list[Confirmed] = []
        self.line: Line
        self._token = token

    async def come(self, port: int, host: str = LOOPBACK) -> None:
        self.line = await Line.open(port, "/v1/agent", {"token": self._token}, host=host)

    async def write(self, customer: str, text: str, ref: str | None = None) -> dict[str, Any]:
        """Send one message and wait until it is confirmed; the `sent` frame."""
        ref = ref or f"w-{next(_refs)}"
        told = await self.line.ask("send", ref=ref, customer=customer, text=text)
        assert told["type"] == "sent", told
        self.confirmed.append(Confirmed(customer, told["seq"], told["id"], text))
        return told


def now() -> float:
    """The clock by which deaths, sends and calls are compared (`Call.at` too)."""
    return time.monotonic()


class _Printing(App):
    """Says on stdout what it acknowledges."""

    def ack(self) -> None:
        super().ack()
        print(self.acked, flush=True)  # noqa: T201


async def _main(host: str, port: int, tokens: list[str]) -> None:
    apps = [_Printing(f"stopped-{i}", token) for i, token in enumerate(tokens)]
    for app in apps:
        await app.come(port, host=host)
    print("in chat", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    for app in apps:
        app.line.transport.close()


if __name__ == "__main__":
    many_sockets()
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.stdin.readline().split()))
