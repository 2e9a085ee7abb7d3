"""The lean client: WebSocket frames with as little work as the protocol allows.

A library's client costs more per frame than a fast server does, and then the client is what is
measured. This one masks with a key of zeros, which is legal and makes masking nothing; it builds
frames once; and it reads of a server's frame only what the caller looks for. It is not a WebSocket
client for anything else: it takes unfragmented text frames from a server that it trusts.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import cast

from bench.servers import Process
from gateway import auth
from gateway.protocol import Role

TEXT, PING = 0x81, 0x89  # first bytes of the frames that matter: a whole text, and a ping
NO_LINGER = struct.pack("ii", 1, 0)


def framed(payload: bytes, first: int = TEXT) -> bytes:
    """A client's frame: header, mask key of zeros, payload."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size, 0, 0, 0, 0)) + payload
    if size < 65536:
        return struct.pack("!BBHI", first, 0xFE, size, 0) + payload
    return struct.pack("!BBQI", first, 0xFF, size, 0) + payload


class Wire(asyncio.Protocol):
    """One socket. `heard` is called with every text frame, `ended` when the socket is gone."""

    __slots__ = ("_answer", "_marker", "_rest", "_shaken", "ended", "heard", "opened", "transport")

    def __init__(self, port: int, path: str) -> None:
        self.heard: Callable[[bytes], None] = self._look
        self.ended: Callable[[], None] = lambda: None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._rest = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._shaken = False
        self._marker = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._rest)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._shaken:
            at = self._handshake(data)
            if not self._shaken:
                self._rest = data
                return
        while end - at >= 2:
            size = data[at + 1]
            start = at + 2
            if size == 126:
                start += 2
                size = int.from_bytes(data[at + 2 : start]) if end >= start else end
            elif size == 127:
                start += 8
                size = int.from_bytes(data[at + 2 : start]) if end >= start else end
            if start + size > end:
                break
            first = data[at]
            at = start + size
            if first == TEXT:
                self.heard(data[start:at])
            elif first == PING:
                self.transport.write(framed(data[start:at], 0x8A))
        self._rest = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.ended()
        gone = ConnectionError("the server has closed the socket")
        for future in (self.opened, self._answer):
            if future is not None and not future.done():
                future.set_exception(gone)
                future.exception()  # whoever waits is told; nobody has to wait

    def send(self, payload: bytes) -> None:
        self.transport.write(framed(payload))

    async def ask(self, payload: bytes, marker: bytes) -> bytes:
        """Send, and wait for the first frame that has `marker` in it. Others are dropped."""
        answer = self.expect(marker)
        self.send(payload)
        return await answer

    def expect(self, marker: bytes) -> asyncio.Future[bytes]:
        """The first frame from now on that has `marker` in it."""
        self.heard = self._look
        self._marker = marker
        self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    def cut(self) -> None:
        """Reset the connection, so that thousands of them leave nothing behind."""
        with_linger = self.transport.get_extra_info("socket")
        if with_linger is not None:
            with_linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.ended = lambda: None
        self.transport.abort()

    def _handshake(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        self._shaken = True
        if b" 101 " in data[:16]:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(data[:end].decode()))
        return end + 4

    def _look(self, frame: bytes) -> None:
        answer = self._answer
        if answer is not None and not answer.done() and self._marker in frame:
            answer.set_result(frame)


async def connect(port: int, path: str = "/") -> Wire:
    """A socket after its handshake. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(port, path), "127.0.0.1", port)
    await wire.opened
    return wire


def token(process: Process, role: Role, sub: str, tenant: str = "acme") -> str:
    assert process.config is not None
    return auth.issue(process.config, tenant, role, sub, ttl=36_000.0)


def hello_of(
    process: Process,
    role: Role,
    sub: str,
    tenant: str = "acme",
    resume: tuple[str, int] | None = None,
) -> bytes:
    """The frame that says hello, so that it can be made before the clock runs."""
    told: dict[str, object] = {"type": "hello", "token": token(process, role, sub, tenant)}
    if resume is not None:
        told["resume"] = {"epoch": resume[0], "seq": resume[1]}
    return json.dumps(told).encode()


async def hello(process: Process, role: Role, sub: str, tenant: str = "acme") -> Wire:
    """A session that has been welcomed."""
    wire, _ = await welcomed(process, role, hello_of(process, role, sub, tenant))
    return wire


async def welcomed(process: Process, role: Role, said: bytes) -> tuple[Wire, bytes]:
    """Connect, say hello; the socket and its welcome."""
    path = "/v1/chat" if role is Role.CUSTOMER else "/v1/agent"
    wire = await connect(process.ports["chat"], path)
    return wire, await wire.ask(said, b'"type":"welcome"')
