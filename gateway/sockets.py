"""WebSockets: the listener, who may connect at all, and a socket as sessions see it.

The only file that imports websockets for serving. Decides what is refused before a hello (path,
Origin, limits); what is said on a socket is in `gateway.sessions`.

Frames leave through `broadcast`, which writes at once and never waits; what a peer does not read
piles up in its transport's buffer, and at `outbound_bytes` the session is closed with 4001 and
gets the rest by resume. Only a replay is sent at the pace of its reader. Bounds (I9): connections
in all and attempts per address (4003), frames in the reading queue (then the peer's TCP is held
back).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from gateway.config import Address, Config
from gateway.protocol import CloseCode, Role
from gateway.session import TokenBucket
from gateway.sessions import Closed, Sessions

SUBPROTOCOL = Subprotocol("ringback.v1")
ROLES = {"/v1/chat": Role.CUSTOMER, "/v1/agent": Role.AGENT}
BACKLOG = 4_096  # connections that wait to be accepted: after a restart all come back at once
CLOSE_TIMEOUT = 2.0  # seconds for a peer to take and answer the close, before it is cut off
ADDRESSES = 10_000  # client addresses whose attempts are remembered


class Peer:
    """A WebSocket with a bound on what waits to be written: the `Socket` that sessions see."""

    __slots__ = ("_bound", "_closing", "_code", "_socket")

    def __init__(self, socket: ServerConnection, bound: int) -> None:
        self._socket = socket
        self._bound = bound
        self._closing: asyncio.Task[None] | None = None
        self._code: int | None = None

    @property
    def bearer(self) -> str | None:
        return _bearer(self._headers)

    @property
    def origin(self) -> str | None:
        return self._headers.get("Origin")

    @property
    def code(self) -> int | None:
        return self._code or self._socket.close_code

    async def recv(self) -> str | bytes:
        try:
            return await self._socket.recv()
        except ConnectionClosed:
            raise Closed from None

    def send(self, data: bytes) -> None:
        broadcast((self._socket,), data, text=True)
        if self._socket.transport.get_write_buffer_size() > self._bound:
            self.close(CloseCode.SLOW_READER)

    async def stream(self, data: bytes) -> None:
        try:
            await self._socket.send(data, text=True)
        except ConnectionClosed:
            raise Closed from None

    def close(self, code: CloseCode) -> None:
        if self._closing is None:
            self._code = code.value
            self._closing = asyncio.create_task(_hang_up(self._socket, code))

    async def hang_up(self, code: CloseCode) -> None:
        if self._code is None:
            self._code = code.value
        await _hang_up(self._socket, code)

    @property
    def _headers(self) -> Headers:
        assert self._socket.request is not None  # noqa: S101  (a handler runs after the handshake)
        return self._socket.request.headers


class Sockets:
    """The chat listener: customers on /v1/chat, agents on /v1/agent."""

    def __init__(
        self,
        config: Config,
        sessions: Sessions,
        clock: Callable[[], float],
        rejected: Callable[[str], None],
    ) -> None:
        """`rejected` is told why a socket was turned away, for the metrics."""
        self._limits = config.limits
        self._sessions = sessions
        self._clock = clock
        self._rejected = rejected
        self._origins = {origin for t in config.tenants.values() for origin in t.origins}
        self._attempts: dict[str, TokenBucket] = {}
        self._server: Server | None = None
        self.draining = False

    async def start(self, address: Address) -> int:
        """Listen; the port. Raises `OSError` when the address cannot be had."""
        limits = self._limits
        self._server = await serve(
            self._serve,
            address.host,
            address.port,
            process_request=self._admit,
            subprotocols=[SUBPROTOCOL],
            select_subprotocol=_select,
            compression=None,
            open_timeout=limits.hello_timeout,
            ping_interval=limits.ping_interval,
            ping_timeout=limits.ping_timeout,
            close_timeout=CLOSE_TIMEOUT,
            max_size=limits.frame_bytes,
            server_header=None,
            backlog=BACKLOG,
            logger=_quiet_logger(),
        )
        return int(next(iter(self._server.sockets)).getsockname()[1])

    def stop_accepting(self) -> None:
        """No new sockets from now on; those that are open stay."""
        self.draining = True
        if self._server is not None:
            self._server.close(close_connections=False)

    async def stop(self) -> None:
        """Close what is still open (a socket without hello, say); wait for every handler's end."""
        if self._server is not None:
            # Not `Server.close`: only its first call counts, and that was `stop_accepting`.
            left = [_hang_up(socket, CloseCode.RESTART) for socket in self._server.connections]
            await asyncio.gather(*left)
            await self._server.wait_closed()

    # Admission

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path not in ROLES:
            return _refuse(404, f"no such place; connect to {' or '.join(ROLES)}")
        origins = request.headers.get_all("Origin")
        if len(origins) > 1 or (origins and origins[0] not in self._origins):
            self._rejected("origin")
            return _refuse(403, "this Origin is not on any tenant's list of origins")
        return None

    def _too_many(self, socket: ServerConnection) -> bool:
        server = self._server
        if server is not None and len(server.all_connections) > self._limits.connections:
            return True
        if len(self._attempts) >= ADDRESSES:
            self._attempts.clear()
        address = str((socket.remote_address or ("?",))[0])
        bucket = self._attempts.get(address)
        if bucket is None:
            rate = self._limits.attempts_per_minute
            bucket = self._attempts[address] = TokenBucket(rate, rate)
        return bucket.take(self._clock()) is not None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None  # noqa: S101  (a handler runs after the handshake)
        peer = Peer(socket, self._limits.outbound_bytes)
        refusal = None
        if self.draining:
            refusal = CloseCode.RESTART
        elif self._too_many(socket):
            refusal = CloseCode.TOO_MANY_CONNECTIONS
        if refusal is None:
            await self._sessions.serve(peer, ROLES[socket.request.path.partition("?")[0]])
        else:
            self._rejected(refusal.name.lower())
            await peer.hang_up(refusal)


async def _hang_up(socket: ServerConnection, code: CloseCode) -> None:
    """Close; cut off who does not take it. The library's timeout begins after its own `drain`,
    which a peer that does not read holds up for as long as it likes."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await socket.close(code, code.name.lower())
    except TimeoutError:
        socket.transport.abort()
    except (ConnectionClosed, OSError):
        pass


def _select(socket: ServerConnection, offered: Any) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = (headers.get("Authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def _refuse(status: int, problem: str) -> Response:
    body = f"{problem}\n".encode()
    headers = Headers()
    headers["Content-Type"] = "text/plain; charset=utf-8"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    reason = {403: "Forbidden", 404: "Not Found"}[status]
    return Response(status, reason, headers, body)


def _quiet_logger() -> logging.Logger:
    """A bad peer is the peer's affair: no traceback per failed handshake in our log."""
    logger = logging.getLogger("gateway.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger
