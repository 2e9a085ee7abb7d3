"""WebSockets: from an accepted socket to a session, and from its frames to the use cases.

The only file that imports websockets for serving. Decides who may connect (path, Origin, limits,
hello, token) and what each frame calls; the rules behind the frames are in `gateway.chat`.

Frames leave through `broadcast`, which writes at once and never waits; what a peer does not read
piles up in its transport's buffer, and at `outbound_bytes` the session is closed with 4001 and
gets the rest by resume. Only a replay is sent at the pace of its reader. Bounds (I9): connections
in all and attempts per address (4003), frames in the reading queue (then the peer's TCP is held
back), sends in flight per session.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from gateway import frames, protocol
from gateway.auth import Identity, TokenRejected, Verifier
from gateway.chat import Chat, Posting
from gateway.config import Address, Config
from gateway.devices import Devices, Registration
from gateway.inbox import Inbox
from gateway.protocol import CloseCode, ErrorCode, FrameError, Role, SessionState
from gateway.session import AgentSession, CustomerSession, Hangup, Rates, Session, TokenBucket
from storage.errors import Unavailable
from storage.records import Key

SUBPROTOCOL = Subprotocol("ringback.v1")
ROLES = {"/v1/chat": Role.CUSTOMER, "/v1/agent": Role.AGENT}
IN_FLIGHT = 64  # sends of one session that wait for their commit, before its frames wait too
CLOSE_TIMEOUT = 2.0  # seconds for a peer to take and answer the close, before it is cut off
YEAR = 365 * 86_400.0
ADDRESSES = 10_000  # client addresses whose attempts are remembered

S = TypeVar("S", bound=Session)
_log = structlog.get_logger("gateway.sockets")


class Peer:
    """A session's way out: a socket with a bound."""

    __slots__ = ("_bound", "_closing", "_socket", "code")

    def __init__(self, socket: ServerConnection, bound: int) -> None:
        self._socket = socket
        self._bound = bound
        self._closing: asyncio.Task[None] | None = None
        self.code: int | None = None
        """The code that the server itself closes with."""

    def send(self, data: bytes) -> None:
        broadcast((self._socket,), data, text=True)
        if self._socket.transport.get_write_buffer_size() > self._bound:
            self.close(CloseCode.SLOW_READER)

    async def stream(self, data: bytes) -> None:
        await self._socket.send(data, text=True)

    def close(self, code: CloseCode) -> None:
        if self._closing is None:
            self.code = code.value
            self._closing = asyncio.create_task(self._close(code))

    async def _close(self, code: CloseCode) -> None:
        await _hang_up(self._socket, code)


class Sockets:
    """The chat listener: customers on /v1/chat, agents on /v1/agent."""

    def __init__(
        self,
        config: Config,
        verifier: Verifier,
        chat: Chat,
        devices: Devices,
        inbox: Inbox,
        rates: Rates,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._verifier = verifier
        self._chat = chat
        self._devices = devices
        self._inbox = inbox
        self._rates = rates
        self._clock = clock
        self._origins = {origin for t in config.tenants.values() for origin in t.origins}
        self._attempts: dict[str, TokenBucket] = {}
        self._server: Server | None = None
        self.draining = False
        self.rejected: Callable[[str], None] = lambda reason: None
        """Told why a socket was turned away, for the metrics."""

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
            self.rejected("origin")
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

    # One socket

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None  # noqa: S101  (a handler runs after the handshake)
        role = ROLES[socket.request.path.partition("?")[0]]
        try:
            if self.draining:
                raise Hangup(CloseCode.RESTART)
            if self._too_many(socket):
                raise Hangup(CloseCode.TOO_MANY_CONNECTIONS)
            hello = await self._hello(socket, role)
            identity = self._identify(socket, hello.token, role)
            if isinstance(hello, protocol.Hello):
                await self._customer(socket, identity, hello)
            else:
                await self._agent(socket, identity, hello)
        except Hangup as hangup:
            self.rejected(hangup.code.name.lower())
            await _hang_up(socket, hangup.code)
        except ConnectionClosed:
            pass
        except Exception as error:
            _log.error("a socket's handler failed", error=type(error).__name__, exc_info=True)
            await _hang_up(socket, CloseCode.SERVER_FAULT)

    async def _hello(
        self, socket: ServerConnection, role: Role
    ) -> protocol.Hello | protocol.AgentHello:
        try:
            async with asyncio.timeout(self._limits.hello_timeout):
                raw = await socket.recv()
        except TimeoutError:
            raise Hangup(CloseCode.NO_HELLO) from None
        try:
            frame = self._decoder(role)(raw)
        except FrameError:
            raise Hangup(CloseCode.PROTOCOL_BROKEN) from None
        if not isinstance(frame, protocol.Hello | protocol.AgentHello):
            raise Hangup(CloseCode.PROTOCOL_BROKEN)
        return frame

    def _identify(self, socket: ServerConnection, token: str | None, role: Role) -> Identity:
        assert socket.request is not None  # noqa: S101
        identity = self._verify(token or _bearer(socket.request.headers))
        if identity.role is not role:
            raise Hangup(CloseCode.WRONG_ROLE)
        origin = socket.request.headers.get("Origin")
        if origin is not None and origin not in self._config.tenants[identity.tenant].origins:
            raise Hangup(CloseCode.WRONG_ROLE)
        return identity

    def _verify(self, token: str | None) -> Identity:
        if token is None:
            raise Hangup(CloseCode.BAD_TOKEN)
        try:
            return self._verifier.verify(token, self._clock())
        except TokenRejected as rejected:
            self.rejected(f"token_{rejected.reason.value}")
            raise Hangup(CloseCode.BAD_TOKEN) from None

    def _decoder(self, role: Role) -> Callable[[str | bytes], Any]:
        limits = self._chat.limits
        if role is Role.CUSTOMER:
            return lambda raw: protocol.decode_customer(raw, limits)
        return lambda raw: protocol.decode_agent(raw, limits)

    # Sessions

    async def _customer(
        self, socket: ServerConnection, identity: Identity, hello: protocol.Hello
    ) -> None:
        limits = self._limits
        peer = Peer(socket, limits.outbound_bytes)
        session = CustomerSession(
            id=f"s_{secrets.token_hex(6)}",
            identity=identity,
            out=peer,
            bucket=self._rates.bucket(identity),
            bound=limits.outbound_bytes,
            decode=self._decoder(Role.CUSTOMER),
            state=hello.state,
            installation=hello.installation,
        )
        said_bye = False
        try:
            await self._chat.join(session, hello.resume, hello.ref)
            said_bye = await self._converse(socket, session, self._customer_frame)
        except Unavailable:
            peer.code = CloseCode.SERVER_FAULT
            await _hang_up(socket, CloseCode.SERVER_FAULT)
        finally:
            session.closed = True
            code = CloseCode.GOODBYE if said_bye else peer.code or socket.close_code
            self._chat.leave(session, code)

    async def _agent(
        self, socket: ServerConnection, identity: Identity, hello: protocol.AgentHello
    ) -> None:
        limits = self._limits
        session = AgentSession(
            id=f"s_{secrets.token_hex(6)}",
            identity=identity,
            out=Peer(socket, limits.outbound_bytes),
            bucket=self._rates.bucket(identity),
            bound=limits.outbound_bytes,
            decode=self._decoder(Role.AGENT),
        )
        try:
            self._inbox.arrive(session, hello.ref)
            await self._converse(socket, session, self._agent_frame)
        finally:
            session.closed = True
            self._chat.hub.depart(session)

    async def _converse(
        self,
        socket: ServerConnection,
        session: S,
        act: Callable[[S, Any], Coroutine[Any, Any, asyncio.Future[Any] | None]],
    ) -> bool:
        """Take frames until the socket closes; True when the peer said bye."""
        expiry = self._expire_at(session, None)
        in_flight = asyncio.Semaphore(IN_FLIGHT)
        try:
            while True:
                raw = await socket.recv()
                frame = None
                try:
                    frame = session.receive(raw, self._clock())
                    if isinstance(frame, protocol.Bye):
                        await _hang_up(socket, CloseCode.GOODBYE)
                        return True
                    if isinstance(frame, protocol.Refresh):
                        self._refresh(session, frame)
                        expiry = self._expire_at(session, expiry)
                        continue
                    future = await act(session, frame)
                except FrameError as error:
                    session.send(frames.error(_with_ref(error, getattr(frame, "ref", None))))
                    continue
                except Unavailable:
                    session.send(frames.error(_unavailable(getattr(frame, "ref", None))))
                    continue
                if future is not None:
                    await in_flight.acquire()
                    future.add_done_callback(_settled(session, frame, in_flight))
        except ConnectionClosed:
            return False
        finally:
            expiry.cancel()

    def _expire_at(
        self, session: Session, before: asyncio.TimerHandle | None
    ) -> asyncio.TimerHandle:
        if before is not None:
            before.cancel()
        delay = max(0.0, session.identity.expires_at - self._clock())
        # A century is more than an event loop's timer takes, and than a socket lives.
        loop = asyncio.get_running_loop()
        return loop.call_later(min(delay, YEAR), session.close, CloseCode.TOKEN_EXPIRED)

    def _refresh(self, session: Session, frame: protocol.Refresh) -> None:
        old = session.identity
        try:
            new = self._verifier.verify(frame.token, self._clock())
        except TokenRejected as rejected:
            self.rejected(f"token_{rejected.reason.value}")
            raise FrameError(
                ErrorCode.UNAUTHORIZED, "the new token was not accepted", frame.ref
            ) from None
        if (new.tenant, new.role, new.sub) != (old.tenant, old.role, old.sub):
            raise FrameError(ErrorCode.FORBIDDEN, "the new token is for somebody else", frame.ref)
        session.identity = new
        session.send({"type": "ok", "ref": frame.ref})

    # Frames

    async def _customer_frame(
        self, session: CustomerSession, frame: Any
    ) -> asyncio.Future[Any] | None:
        chat = self._chat
        match frame:
            case protocol.Send():
                return chat.post(_posting(session, session.key, frame), session)
            case protocol.Ack():
                return chat.ack(session, frame.seq)
            case protocol.Read():
                return chat.read(session, frame.seq)
            case protocol.Typing():
                chat.tell.customer_typing(session, on=frame.on)
            case protocol.State():
                chat.set_state(session, SessionState(frame.state))
            case protocol.History():
                await self._inbox.history(session, session.key, frame)
            case protocol.RegisterDevice():
                told = Registration.of(frame, frame.installation)
                key = await self._devices.register(session.key, session.identity.name, told)
                session.send(
                    {
                        "type": "device",
                        "ref": frame.ref,
                        "installation": frame.installation,
                        "deregistration_key": key,
                    }
                )
            case protocol.DeregisterDevice():
                await self._devices.deregister(session.key, frame.installation)
                session.send({"type": "ok", "ref": frame.ref})
            case protocol.Ping():
                _pong(session, frame)
            case _:
                raise _out_of_place(frame)
        return None

    async def _agent_frame(self, session: AgentSession, frame: Any) -> asyncio.Future[Any] | None:
        chat, inbox = self._chat, self._inbox
        match frame:
            case protocol.AgentSend():
                key = Key(session.tenant, frame.customer)
                return chat.post(_posting(session, key, frame), session)
            case protocol.AgentRead():
                return chat.agent_read(Key(session.tenant, frame.customer), frame.seq)
            case protocol.AgentTyping():
                chat.tell.agent_typing(session, Key(session.tenant, frame.customer), on=frame.on)
            case protocol.Open():
                await chat.open(session, frame)
            case protocol.Close():
                chat.hub.unwatch(session, Key(session.tenant, frame.customer))
                session.send({"type": "ok", "ref": frame.ref})
            case protocol.End():
                await chat.end(session, Key(session.tenant, frame.customer))
                session.send({"type": "ok", "ref": frame.ref})
            case protocol.Inbox():
                await inbox.page(session, frame)
            case protocol.AgentHistory():
                await inbox.history(session, Key(session.tenant, frame.customer), frame)
            case protocol.Ping():
                _pong(session, frame)
            case _:
                raise _out_of_place(frame)
        return None


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


def _posting(session: Session, key: Key, frame: protocol.Send | protocol.AgentSend) -> Posting:
    who = session.identity
    return Posting(
        key=key,
        role=who.role,
        author=who.sub,
        name=who.name,
        text=frame.text,
        data=frame.data,
        ref=frame.ref,
    )


def _settled(
    session: Session, frame: Any, in_flight: asyncio.Semaphore
) -> Callable[[asyncio.Future[Any]], None]:
    """Answer a change that failed; one that did not was answered in its commit's order."""

    def done(future: asyncio.Future[Any]) -> None:
        in_flight.release()
        error = None if future.cancelled() else future.exception()
        ref = getattr(frame, "ref", None)
        if isinstance(error, FrameError):
            session.send(frames.error(_with_ref(error, ref)))
        elif isinstance(error, Unavailable):
            session.send(frames.error(_unavailable(ref)))
        elif error is not None:
            _log.error("a change failed", error=type(error).__name__, exc_info=error)
            session.send(frames.error(FrameError(ErrorCode.INTERNAL, "internal fault", ref)))

    return done


def _with_ref(error: FrameError, ref: str | None) -> FrameError:
    if error.ref is None and ref is not None:
        return FrameError(error.code, error.message, ref, retry_after=error.retry_after)
    return error


def _unavailable(ref: str | None) -> FrameError:
    return FrameError(ErrorCode.UNAVAILABLE, "not confirmed; try again with the same ref", ref)


def _out_of_place(frame: Any) -> FrameError:
    return FrameError(ErrorCode.BAD_FRAME, "hello comes once, first", getattr(frame, "ref", None))


def _pong(session: Session, frame: protocol.Ping) -> None:
    pong: dict[str, Any] = {"type": "pong"}
    if frame.ref is not None:
        pong["ref"] = frame.ref
    session.send(pong)


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
