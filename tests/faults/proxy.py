"""A TCP proxy between client and gateway that can do to a connection what networks do.

Each connection is a `Tunnel`. It passes bytes on until told otherwise: `stall` swallows both
directions and closes nothing (half-open), `reset` ends both sides with an RST, `slow` hands the
gateway's bytes on at a trickle and reads no faster. `after` says how many more bytes may pass one
way first, so that a fault comes in the middle of a frame. `struck` is set once the fault is in
force.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

from tests.faults.lines import LOOPBACK, Line, reset

CHUNK = 4096


class Way(StrEnum):
    """UP is from the client to the gateway."""

    UP = "up"
    DOWN = "down"


class Tunnel:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, gateway: asyncio.StreamWriter) -> None:
        self.struck = asyncio.Event()
        self._writers = {Way.UP: gateway, Way.DOWN: client}
        self._left: dict[Way, int] = {}
        self._resets = False
        self._pause = 0.0
        self._chunk = CHUNK

    def stall(self, way: Way | None = None, after: int = 0) -> None:
        """Swallow everything from now on, or once `after` more bytes have passed one way."""
        self._arm(way, after, resets=False)

    def reset(self, way: Way | None = None, after: int = 0) -> None:
        """RST to both sides now, or once `after` more bytes have passed one way."""
        self._arm(way, after, resets=True)

    def slow(self, bytes_per_second: int) -> None:
        """From now on, hand the gateway's bytes on at this pace only."""
        up = self._writers[Way.UP].get_extra_info("socket")
        up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self._chunk = max(1, bytes_per_second // 10)
        self._pause = self._chunk / bytes_per_second

    def _arm(self, way: Way | None, after: int, *, resets: bool) -> None:
        self._resets = resets
        if way is None:
            self._strike()
        else:
            self._left[way] = after

    def _strike(self) -> None:
        self.struck.set()
        if self._resets:
            for writer in self._writers.values():
                reset(writer.transport)

    async def pump(self, way: Way, reader: asyncio.StreamReader) -> None:
        """Carry one direction until it ends."""
        writer = self._writers[way]
        with suppress(ConnectionError):
            while data := await reader.read(self._chunk if way is Way.DOWN else CHUNK):
                await self._carry(way, data, writer)
        if not self.struck.is_set():
            writer.close()

    async def _carry(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        left = self._left.get(way)
        if left is not None:
            self._left[way] = max(0, left - len(data))
        if not self.struck.is_set():
            writer.write(data if left is None else data[:left])
            if self._left.get(way) == 0:
                self._strike()
            await writer.drain()
        if way is Way.DOWN and self._pause:
            await asyncio.sleep(self._pause)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Proxy:
    """Listens on `port` of loopback and opens a tunnel to the gateway for each connection."""

    def __init__(self, gateway: int) -> None:
        self.port = 0
        self.down = False
        """Whether who connects is turned away."""
        self._gateway = gateway
        self._tunnels: dict[int, Tunnel] = {}

    def tunnel(self, line: Line) -> Tunnel:
        """The tunnel that carries this client."""
        return self._tunnels[line.port]

    async def serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.down:
            client.close()
            return
        up, gateway = await asyncio.open_connection(LOOPBACK, self._gateway, limit=CHUNK)
        tunnel = Tunnel(client, gateway)
        self._tunnels[client.get_extra_info("peername")[1]] = tunnel
        await asyncio.gather(tunnel.pump(Way.UP, reader), tunnel.pump(Way.DOWN, up))

    def close(self) -> None:
        for tunnel in self._tunnels.values():
            tunnel.close()


@asynccontextmanager
async def proxy(gateway: int) -> AsyncIterator[Proxy]:
    """A proxy in front of the gateway's port `gateway`."""
    it = Proxy(gateway)
    server = await asyncio.start_server(it.serve, LOOPBACK, 0, limit=CHUNK, backlog=1024)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        it.close()
        server.close()
