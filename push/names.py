"""Looking the names of backends up, so that one whose name servers hang holds up nobody else's.

An event loop looks names up in a few threads that all share: six of asyncio's, and of uvloop's four
but two at a time. A lookup whose name servers do not answer takes many seconds, cannot be given up,
and would keep one of them. So each has a thread of its own, which the end of the process does not
wait for. aiohttp asks for a name once at a time and keeps the answer for ten seconds.

Bound (I9): `LOOKUPS` at a time; further ones wait, within the time that their call has.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUPS: Final = 128
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Names(AbstractResolver):
    """The system's own resolver (`getaddrinfo`), as aiohttp asks for it."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises `OSError`."""
        await self._free.acquire()
        found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        asked = (found, host, port, family)
        try:
            threading.Thread(target=self._look_up, args=asked, name="names", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise OSError("no thread can be started") from error
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=its_family,
                proto=proto,
                flags=_NUMERIC,
            )
            for its_family, _, proto, _, address in await found
        ]

    async def close(self) -> None:
        """Nothing to close: lookups that are out end by themselves."""

    def _look_up(
        self,
        found: asyncio.Future[list[Any]],
        host: str,
        port: int,
        family: socket.AddressFamily,
    ) -> None:
        """In a thread: ask, and tell the loop."""
        answer: list[Any] | Exception
        try:
            answer = socket.getaddrinfo(
                host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
            )
        except Exception as error:
            answer = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            found.get_loop().call_soon_threadsafe(self._found, found, answer)

    def _found(self, found: asyncio.Future[list[Any]], answer: list[Any] | Exception) -> None:
        self._free.release()
        if found.done():  # nobody waits any more
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)
