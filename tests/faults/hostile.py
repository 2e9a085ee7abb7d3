"""A customer backend that behaves badly, byte by byte, where a well-behaved server could not.

A raw TCP server: every request is read, noted like `tests.running.Backend` does, and then given to
a `Behaviour`, which writes what it likes. Which one is chosen by `misbehave`, call by call; with
none left the ring is accepted. A call counts as accepted (`Call.status` 200) once the whole head of
a 200 was handed to the network, whether or not anybody is still there to read it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from tests.running import PATIENCE, Backend, Call

BODY = 100 * 1024 * 1024  # bytes of an answer that is far too long


@dataclass(slots=True)
class Exchange:
    """One request and the connection that it came on."""

    call: Call
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, *headers: str, body: bytes = b"") -> None:
        """A whole and correct answer."""
        self.call.status = status
        length = f"Content-Length: {len(body)}"
        await self.write(head(status, *headers, length) + body)

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has given up."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


Behaviour = Callable[[Exchange], Awaitable[None]]


def head(status: int, *headers: str) -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "", ""]).encode()


# No answer, or none that can be used: the ring is retried


async def hang(x: Exchange) -> None:
    await x.gone()


async def hang_in_the_head(x: Exchange) -> None:
    await x.write(b"HTTP/1.1 200 OK\r\nContent-Len")
    await x.gone()


async def dribble(x: Exchange) -> None:
    """One byte of the head at a time, always more to come, until the other side gives up."""
    await x.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await _drip(x)


async def _drip(x: Exchange) -> None:
    with suppress(ConnectionError):
        while not x.reader.at_eof():
            await x.write(b".")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await x.gone()


async def close(x: Exchange) -> None:
    x.writer.close()


async def reset(x: Exchange) -> None:
    x.reset()


async def reset_in_the_head(x: Exchange) -> None:
    await x.write(b"HTTP/1.1 200 OK\r\nContent-Len")
    x.reset()


async def no_http(x: Exchange) -> None:
    await x.write(b"220 mail.example ESMTP ready\r\n\r\n")
    await x.gone()


async def plain_http(x: Exchange) -> None:
    """What a server without TLS says to a TLS handshake."""
    await x.write(head(400, "Content-Length: 0"))
    await x.gone()


async def late_yes(x: Exchange) -> None:
    """Accept, but only after the other side has given up waiting."""
    await x.gone()
    with suppress(ConnectionError):
        await x.answer(200)


# 200 has arrived, and stands whatever comes after


async def no_json(x: Exchange) -> None:
    await x.answer(200, "Content-Type: application/json", body=b'{"rejected": [')


async def hang_in_the_body(x: Exchange) -> None:
    x.call.status = 200
    await x.write(head(200, "Content-Length: 100") + b'{"ok":')
    await x.gone()


async def dribble_the_body(x: Exchange) -> None:
    x.call.status = 200
    await x.write(head(200, "Content-Length: 100000"))
    await _drip(x)


async def reset_in_the_body(x: Exchange) -> None:
    """The head must have been read before the reset, which would take it along."""
    x.call.status = 200
    await x.write(head(200, "Content-Length: 100") + b'{"ok":')
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await x.gone()
    x.reset()


async def flood(x: Exchange) -> None:
    """A body of 100 MB. The other side should hang up long before its end."""
    x.call.status = 200
    await x.write(head(200, f"Content-Length: {BODY}"))
    piece = bytes(1024 * 1024)
    with suppress(ConnectionError):
        for written in range(BODY // len(piece)):
            x.call.headers["X-Flooded"] = str(written)  # MB
            await x.write(piece)


# Whole answers


def status(code: int, *headers: str, body: bytes = b"") -> Behaviour:
    """An honest answer of this kind."""

    async def answer(x: Exchange) -> None:
        await x.answer(code, *headers, body=body)

    return answer


async def reject(x: Exchange) -> None:
    """200, but the body says that the token is dead."""
    body = json.dumps({"rejected": [x.call.body["deviceToken"]]}).encode()
    await x.answer(200, "Content-Type: application/json", body=body)
    x.call.status = 410  # what it means: this ring was not accepted


accept = status(200)


@dataclass(slots=True)
class Hostile:
    """The server. `misbehave` gets every call and says what to do; None accepts it."""

    log: Backend = field(default_factory=Backend)
    misbehave: Callable[[Call], Behaviour | None] = lambda call: None
    before: Behaviour | None = None
    """Done to every connection instead of reading a request; `call` is empty."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each behaviour was really carried out, by its name."""
    open: int = 0
    """Exchanges that are being held right now."""
    _server: asyncio.Server | None = None
    _tls: ssl.SSLContext | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, tls: ssl.SSLContext | None = None, backlog: int = 4096) -> None:
        """Listen, after `stop` again on the same port."""
        self._tls = tls
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.log.port, backlog=backlog
        )
        self.log.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and cut what is open: from now on connections are refused."""
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0.01)  # what was being accepted has its task by then
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1.0)
        await asyncio.sleep(0)  # what was aborted is closed by then

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._tls is not None:  # here, so that who is at it when this stops is cut off too
                await writer.start_tls(self._tls)
            while (exchange := await self._request(reader, writer)) is not None:
                await self._carry_out(exchange)
                if writer.is_closing():
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # asyncio's server would log it
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Exchange | None:
        if self.before is not None:
            self.done[_name(self.before)] += 1
            await self.before(Exchange(Call({}, {}, b""), reader, writer))
            return None
        try:
            start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        headers = {name: value for name, _, value in (x.partition(": ") for x in lines if x)}
        raw = await reader.readexactly(int(headers["Content-Length"]))
        headers["X-Tenant"] = start.split()[1].removeprefix("/ring").strip("/") or "acme"
        call = Call(headers, json.loads(raw), raw)
        self.log.calls.append(call)
        self.log._arrived.put_nowait(call)
        return Exchange(call, reader, writer)

    async def _carry_out(self, exchange: Exchange) -> None:
        behaviour = self.misbehave(exchange.call)
        if behaviour is None:
            await exchange.answer(200)
            return
        self.done[_name(behaviour)] += 1
        self.open += 1
        try:
            await behaviour(exchange)
        finally:
            self.open -= 1

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until what this server has seen makes it true."""
        async with asyncio.timeout(6 * PATIENCE):
            while not happened():
                await asyncio.sleep(0.005)


def _name(behaviour: Behaviour) -> str:
    return getattr(behaviour, "__name__", "answer")


def first(times: int, behaviours: Iterable[Behaviour]) -> Callable[[Call], Behaviour | None]:
    """Misbehave at the first `times` calls of each device, with these in turn; then accept."""
    turn, seen = cycle(behaviours), Counter[Any]()

    def choose(call: Call) -> Behaviour | None:
        device = call.headers["X-Tenant"], call.body["deviceToken"]
        seen[device] += 1
        return next(turn) if seen[device] <= times else None

    return choose


@asynccontextmanager
async def hostile() -> AsyncIterator[Hostile]:
    """A hostile backend on a free port of loopback; it accepts until it is told otherwise."""
    it = Hostile()
    await it.listen()
    try:
        yield it
    finally:
        await it.stop()
