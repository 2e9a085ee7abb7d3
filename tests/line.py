"""What tests say to an HTTP listener that no HTTP client would say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.running import PATIENCE, Running


class Line:
    """A TCP connection to an HTTP listener, as bare as it can be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, text: str) -> None:
        self._writer.write(text.encode("latin-1"))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next one: status, headers by their names in small letters, and body."""
        async with asyncio.timeout(PATIENCE):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    async def ended(self) -> bytes:
        """Wait until the gateway has closed it; what came before."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    def read_nothing(self) -> None:
        """From now on, and leave it to the kernel to say so to the gateway."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def line(it: Running, name: str = "http") -> AsyncIterator[Line]:
    made = Line(*await asyncio.open_connection("127.0.0.1", it.gateway.ports[name]))
    try:
        yield made
    finally:
        await made.close()
