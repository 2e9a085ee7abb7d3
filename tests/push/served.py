"""A real HTTP server on loopback, answering byte by byte, for tests of the call itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from push.ring import Endpoint
from tests.push.scripted import an_endpoint

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A real server: `serve` handles each connection; counts connections and keeps requests."""

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None) -> None:
        self.connections = 0
        self.closed = asyncio.Event()
        self.port = 0
        self._serve = serve
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._tls is not None:  # here, so that who is at it when this stops is cut off too
                await writer.start_tls(self._tls)
            self.connections += 1
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.closed.set()
            writer.transport.abort()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(serve, tls)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.stop()
        await listener.wait_closed()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """Read one whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


def saying(answer: bytes, then: str = "close", seen: list[bytes] | None = None) -> Serve:
    """Return a server that says `answer` to each request, then closes, hangs or goes on.

    The requests are added to `seen`.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await request_of(reader)
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()
            if then == "close":
                writer.close()
                return
            if then == "hang":
                await reader.read()  # returns when the caller has hung up
                return

    return serve


def local(server: Server, **changes: Any) -> Endpoint:
    return an_endpoint(url=f"http://127.0.0.1:{server.port}/ring", **changes)
