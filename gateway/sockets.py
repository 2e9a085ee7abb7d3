"""WebSockets: the listener, and who may connect at all.

Decides what is refused before a hello (path, Origin, limits). One connection is in `gateway.wire`,
what is said on it in `gateway.sessions`. One timer serves all connections: each knows when it has
to be reminded (`Peer.due`), and a pass over them costs less than a timer for each.

Bounds (I9): connections in all and attempts per address (4003). A connection that says nothing, not
even a handshake, counts too: of those beyond the bound `BEYOND` are told so, the rest is cut off.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence

import structlog

from gateway.addresses import client_of
from gateway.config.sections import Config
from gateway.config.values import Address
from gateway.protocol import AGENT_PATH, CUSTOMER_PATH, CloseCode, Role
from gateway.session import TokenBucket
from gateway.sessions import Sessions
from gateway.wire import CLOSE_TIMEOUT, UNSENT, Peer

ROLES = {CUSTOMER_PATH: Role.CUSTOMER, AGENT_PATH: Role.AGENT}
BACKLOG = 4_096  # connections that wait to be accepted: after a restart all come back at once
BEYOND = 50  # connections beyond `limits.connections`, to hear that they are too many
ADDRESSES = 10_000  # client addresses whose attempts are remembered
COMPLAIN_EVERY = 60.0  # seconds
PUNCTUALITY = 4  # passes over the connections within the shortest time that a peer may be given
_log = structlog.get_logger("gateway.sockets")


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
        self.limits = limits = config.limits
        self.draining = False
        self._sessions = sessions
        self._clock = clock
        self._rejected = rejected
        self._origins = config.origins
        self._proxies = config.server.trusted_proxies
        self._attempts: dict[str, TokenBucket] = {}
        self._complain_at = 0.0
        self._server: asyncio.Server | None = None
        self._peers: set[Peer] = set()
        self._handlers: dict[asyncio.Task[None], Peer] = {}
        self._unflushed: list[Peer] = []
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(
            CLOSE_TIMEOUT, limits.hello_timeout, limits.ping_interval, limits.ping_timeout
        )
        self._pause = shortest / PUNCTUALITY

    async def start(self, address: Address) -> int:
        """Listen; the port. Raises `OSError` when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Peer(self), address.host, address.port, backlog=BACKLOG
        )
        if sys.platform == "linux":
            for listening in self._server.sockets:  # what is accepted has it from there
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._remind()
        return int(self._server.sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        """No new sockets from now on; those that are open stay."""
        self.draining = True
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Close what is still open (a socket without hello, say); wait for every handler's end."""
        self.stop_accepting()
        for peer in self._peers:
            peer.close(CloseCode.RESTART)
        await asyncio.gather(*[peer.ended() for peer in self._peers])
        if self._handlers:
            await asyncio.wait(self._handlers)
        if self._timer is not None:
            self._timer.cancel()

    # What peers ask and tell

    def connected(self, peer: Peer) -> None:
        self._peers.add(peer)
        if self.draining:  # it was accepted in the very moment in which listening ended
            peer.close(CloseCode.RESTART)
        elif len(self._peers) > self.limits.connections + BEYOND:
            self._turn_away(peer)

    def refusal(self, path: str, origins: list[str]) -> tuple[int, str] | None:
        if path not in ROLES:
            places = " or ".join(ROLES)
            return 404, f"no such place; connect to {places} (calls go to server.http's port)\n"
        known = self._origins
        if ROLES[path] is Role.AGENT:
            known |= self._sessions.console
        if len(origins) > 1 or (origins and origins[0] not in known):
            self._rejected("origin")
            return 403, "this Origin is not on any tenant's list of origins\n"
        if self.draining:
            return 503, "the server is shutting down\n"
        return None

    def opened(self, peer: Peer, path: str, forwarded: Sequence[str]) -> None:
        if self._too_many(client_of(peer.address, forwarded, self._proxies)):
            self._turn_away(peer)
            return
        task = asyncio.get_running_loop().create_task(self._sessions.serve(peer, ROLES[path]))
        self._handlers[task] = peer
        task.add_done_callback(self._handled)

    def flush_soon(self, peer: Peer) -> None:
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.append(peer)

    def lost(self, peer: Peer) -> None:
        self._peers.discard(peer)

    # Within

    def _handled(self, task: asyncio.Task[None]) -> None:
        # A handler ends with its socket. One that does not is broken; its client shall come again.
        self._handlers.pop(task).close(CloseCode.SERVER_FAULT)

    def _turn_away(self, peer: Peer) -> None:
        self._rejected(CloseCode.TOO_MANY_CONNECTIONS.name.lower())
        peer.close(CloseCode.TOO_MANY_CONNECTIONS)

    def _too_many(self, client: str) -> bool:
        if len(self._handlers) >= self.limits.connections:
            return True
        if len(self._attempts) >= ADDRESSES:
            self._attempts.clear()
        bucket = self._attempts.get(client)
        if bucket is None:
            rate = self.limits.attempts_per_minute
            bucket = self._attempts[client] = TokenBucket(rate, rate)
        if bucket.take(self._clock()) is None:
            return False
        self._complain(client)
        return True

    def _complain(self, client: str) -> None:
        """Behind a proxy that is not known as one, all clients look like one that comes often."""
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            _log.warning(
                "more connections from one address than limits.attempts_per_minute: refused",
                address=client,
                advice="if it is a proxy's, name it in server.trusted_proxies, and have it send"
                " X-Forwarded-For",
            )

    def _flush(self) -> None:
        peers, self._unflushed = self._unflushed, []
        for peer in peers:
            peer.flush()

    def _remind(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause, self._remind)
        now = loop.time()
        for peer in [peer for peer in self._peers if peer.due <= now]:
            peer.remind(now)
