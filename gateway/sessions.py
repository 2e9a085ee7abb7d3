"""Sessions: from an accepted socket to a session, and from its frames to the use cases.

Decides who may talk (hello, token, role, Origin, a seat) and what each frame calls; the rules
behind the frames are in `gateway.presence`, `gateway.marks` and `gateway.chat`. How frame follows
frame is in `gateway.talk`, who may connect at all in `gateway.sockets`.

Bound (I9): pages that a customer's session waits for; beyond it its frames wait.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import structlog

from gateway import decoding, frames, protocol
from gateway.auth import Identity, TokenRejected, Verifier
from gateway.chat import Chat, Posting
from gateway.config.sections import Config
from gateway.context import Change, Context
from gateway.devices import Devices, Registration
from gateway.inbox import Inbox
from gateway.marks import Marks
from gateway.presence import Joined, Presence
from gateway.protocol import CloseCode, ErrorCode, FrameError, Role
from gateway.seats import Seats
from gateway.session import AgentSession, CustomerSession, Hangup, Pace, Rates, Session
from gateway.talk import Act, Closed, Goodbye, Later, S, Socket, Talk, refusal
from storage.errors import Unavailable
from storage.records import Key

PAGES_BEHIND = 8  # pages that a customer asked for, before the session's frames wait for them
YEAR = 365 * 86_400.0

T = TypeVar("T")
_log = structlog.get_logger("gateway.sessions")


class Sessions:
    """Every conversation with a peer, from its hello to its end."""

    def __init__(
        self,
        config: Config,
        verifier: Verifier,
        context: Context,
        presence: Presence,
        marks: Marks,
        chat: Chat,
        devices: Devices,
        inbox: Inbox,
        rates: Rates,
        wall: Callable[[], float],
        rejected: Callable[[str], None],
        failed: Callable[[], None],
    ) -> None:
        """`rejected` is told why a socket was turned away, `failed` of every fault of ours."""
        self._origins = {name: tenant.origins for name, tenant in config.tenants.items()}
        self._limits = config.limits
        self._seats = Seats(config.limits.connections, len(config.tenants))
        self._verifier = verifier
        self._context = context
        self._presence = presence
        self._marks = marks
        self._chat = chat
        self._devices = devices
        self._inbox = inbox
        self._rates = rates
        self._clock = context.clock
        self._wall = wall
        self._rejected = rejected
        self._failed = failed
        self.console: frozenset[str] = frozenset()
        """The origins of our own console, from which agents of every tenant may connect."""

    async def serve(self, socket: Socket, role: Role) -> None:
        """Talk with one peer until the socket ends. Raises nothing of its own."""
        try:
            hello = await self._hello(socket, role)
            identity = self._identify(socket, hello.token, role)
            if not self._seats.take(identity.tenant):
                raise Hangup(
                    CloseCode.TOO_MANY_CONNECTIONS, "too_many_of_tenant", "its tenant has its share"
                )
            try:
                if isinstance(hello, protocol.Hello):
                    await self._customer(socket, identity, hello)
                else:
                    await self._agent(socket, identity, hello)
            finally:
                self._seats.leave(identity.tenant)
        except Hangup as hangup:
            self._rejected(hangup.why)
            await socket.hang_up(hangup.code, hangup.detail)
        except Closed:
            pass
        except Exception as error:
            self._fault("a socket's handler failed", error)
            await socket.hang_up(CloseCode.SERVER_FAULT)

    def _fault(self, what: str, error: Exception) -> None:
        self._failed()
        _log.error(what, error=type(error).__name__, exc_info=error)

    async def _hello(self, socket: Socket, role: Role) -> protocol.Hello | protocol.AgentHello:
        try:
            async with asyncio.timeout(self._limits.hello_timeout):
                raw = await socket.recv()
        except TimeoutError:
            raise Hangup(CloseCode.NO_HELLO) from None
        try:
            frame = self._decoder(role)(raw)
        except FrameError as error:
            raise Hangup(CloseCode.PROTOCOL_BROKEN, detail=error.message) from None
        if not isinstance(frame, protocol.Hello | protocol.AgentHello):
            raise Hangup(CloseCode.PROTOCOL_BROKEN, detail="the first frame must be hello")
        return frame

    def _identify(self, socket: Socket, token: str | None, role: Role) -> Identity:
        identity = self._verify(socket.bearer if token is None else token)
        if identity.role is not role:
            raise Hangup(CloseCode.WRONG_ROLE)
        origin = socket.origin
        if origin is None or (role is Role.AGENT and origin in self.console):
            return identity
        if origin not in self._origins[identity.tenant]:
            raise Hangup(CloseCode.WRONG_ROLE)
        return identity

    def _verify(self, token: str | None) -> Identity:
        if token is None:
            raise Hangup(CloseCode.BAD_TOKEN)
        try:
            return self._verifier.verify(token, self._wall())
        except TokenRejected as rejected:
            raise Hangup(CloseCode.BAD_TOKEN, f"token_{rejected.reason.value}") from None

    def _decoder(self, role: Role) -> Callable[[str | bytes], Any]:
        limits = self._context.limits
        if role is Role.CUSTOMER:
            return lambda raw: decoding.decode_customer(raw, limits)
        return lambda raw: decoding.decode_agent(raw, limits)

    # Sessions

    async def _customer(self, socket: Socket, identity: Identity, hello: protocol.Hello) -> None:
        limits = self._limits
        session = CustomerSession(
            id=f"s_{secrets.token_hex(6)}",
            identity=identity,
            out=socket,
            send_bucket=self._rates.bucket(identity),
            bound=limits.outbound_bytes,
            decode=self._decoder(Role.CUSTOMER),
            state=hello.state,
            installation=hello.installation,
        )
        said_bye = False
        try:
            joined = await self._presence.join(session, hello.resume, hello.ref)
            # What it says while it reads is taken: it may acknowledge, leave, or say goodbye.
            session.streaming = asyncio.create_task(self._stream(session, joined), name="replay")
            said_bye = await self._converse(socket, session, self._customer_frame)
        except Unavailable:
            await socket.hang_up(CloseCode.SERVER_FAULT)
        finally:
            session.closed = not said_bye
            session.states.waiting = session.typing.waiting = None  # it has left
            self._presence.leave(session, CloseCode.GOODBYE if said_bye else socket.code)
            if session.streaming is not None and not said_bye:
                session.streaming.cancel()
                session.streaming = None  # one that has not begun does not end by itself
        if said_bye:
            # Left first: a peer that vanishes after its bye keeps nobody waiting. Answers to what
            # it sent wait behind the replay; it may come back for them if it does not read that.
            read = await self._has_been_read(session)
            session.closed = True
            await socket.hang_up(CloseCode.GOODBYE if read else CloseCode.SLOW_READER)

    async def _stream(self, session: CustomerSession, joined: Joined | None = None) -> None:
        """Send the replay, and then pages of history, at the pace of their reader."""
        try:
            if joined is not None:
                await self._presence.replay(session, joined)
            while session.pages:
                await self._page(session, session.pages.pop(0))
        except Closed:
            pass
        except Unavailable:
            session.close(CloseCode.SERVER_FAULT)
        except Exception as error:
            self._fault("a replay or a page failed", error)
            session.close(CloseCode.SERVER_FAULT)
        finally:
            session.streaming = None

    async def _page(self, session: CustomerSession, frame: protocol.History) -> None:
        try:
            await self._inbox.history(session, session.key, frame)
        except (FrameError, Unavailable) as error:
            session.send(frames.error(refusal(error), frame.ref))

    async def _has_been_read(self, session: CustomerSession) -> bool:
        """Wait for the end of a replay and its pages, as long as for a pong; False if cut off."""
        if session.streaming is None:
            return True
        _, late = await asyncio.wait([session.streaming], timeout=self._limits.ping_timeout)
        for streaming in late:
            streaming.cancel()
        return not late

    async def _agent(self, socket: Socket, identity: Identity, hello: protocol.AgentHello) -> None:
        limits = self._limits
        session = AgentSession(
            id=f"s_{secrets.token_hex(6)}",
            identity=identity,
            out=socket,
            send_bucket=self._rates.bucket(identity),
            bound=limits.outbound_bytes,
            decode=self._decoder(Role.AGENT),
        )
        try:
            self._inbox.arrive(session, hello.ref)
            said_bye = await self._converse(socket, session, self._agent_frame)
        finally:
            session.closed = True
            self._context.hub.depart(session)
        if said_bye:
            await socket.hang_up(CloseCode.GOODBYE)

    async def _converse(self, socket: Socket, session: S, act: Act[S]) -> bool:
        """Take frames until the socket closes; True when the peer said bye.

        What it had asked for before is answered first: with 1000 it does not come back.
        """
        self._expire_in_time(session)
        talk = Talk(session, act, self._context.store, self._clock, self._fault)
        try:
            await socket.converse(talk.take)
        except Goodbye:
            await talk.settled()
            return True
        except Closed:
            return False
        finally:
            session.expire_with(None)

    def _expire_in_time(self, session: Session) -> None:
        """End at `exp`; a token that was accepted after that has the rest of the leeway."""
        identity, now = session.identity, self._wall()
        delay = identity.expires_at - now
        if delay <= 0.0:
            delay += self._verifier.leeway(identity.tenant)
        # A century is more than an event loop's timer takes, and than a socket lives.
        loop = asyncio.get_running_loop()
        session.expire_with(
            loop.call_later(min(max(0.0, delay), YEAR), session.close, CloseCode.TOKEN_EXPIRED)
        )

    def _refresh(self, session: Session, frame: protocol.Refresh) -> None:
        old = session.identity
        try:
            new = self._verifier.verify(frame.token, self._wall())
        except TokenRejected:
            raise FrameError(ErrorCode.UNAUTHORIZED, "the new token was not accepted") from None
        if (new.tenant, new.role, new.sub) != (old.tenant, old.role, old.sub):
            raise FrameError(ErrorCode.FORBIDDEN, "the new token is for somebody else")
        session.identity = new
        self._expire_in_time(session)
        session.send({"type": "ok", "ref": frame.ref})

    # Frames

    def _customer_frame(self, session: CustomerSession, frame: Any) -> Change[Any] | Later | None:
        marks, tell = self._marks, self._context.tell
        match frame:
            case protocol.Ack():
                session.says_it_has(frame.seq)
                return marks.ack(session, frame.seq)
            case protocol.Send():
                return self._chat.send(_posting(session, session.key, frame), session)
            case protocol.Read():
                session.says_it_has(frame.seq)
                return marks.read(session, frame.seq)
            case protocol.Typing():
                self._paced(session, session.typing, frame.on, tell.customer_typing)
            case protocol.State():
                self._paced(session, session.states, frame.state, self._presence.set_state)
            case protocol.History():
                return self._history(session, frame)
            case protocol.RegisterDevice():
                return partial(self._register, session, frame)
            case protocol.DeregisterDevice():
                return partial(self._deregister, session, frame)
            case protocol.Refresh():
                self._refresh(session, frame)
                self._presence.rename(session)
            case _:
                self._common_frame(session, frame)
        return None

    def _paced(
        self,
        session: CustomerSession,
        pace: Pace[T],
        newest: T,
        act: Callable[[CustomerSession, T], None],
    ) -> None:
        """Act at once, or else as soon as the pace allows it, on the newest of several."""
        if pace.waiting is None:
            wait = pace.bucket.take(self._clock())
            if wait is None:
                act(session, newest)
                return
            asyncio.get_running_loop().call_later(wait, self._paced_late, session, pace, act)
        pace.waiting = newest

    def _paced_late(
        self,
        session: CustomerSession,
        pace: Pace[T],
        act: Callable[[CustomerSession, T], None],
    ) -> None:
        newest, pace.waiting = pace.waiting, None
        pace.bucket.take(self._clock())
        if newest is not None and not session.closed:
            act(session, newest)

    def _history(self, session: CustomerSession, frame: protocol.History) -> Later | None:
        """A page waits until the replay and the pages before it are written, at the pace of their
        reader: together they would be too much. The session's other frames are taken meanwhile."""
        session.pages.append(frame)
        if session.streaming is None:
            session.streaming = asyncio.create_task(self._stream(session), name="pages")
        return None if len(session.pages) < PAGES_BEHIND else partial(_over, session.streaming)

    async def _register(self, session: CustomerSession, frame: protocol.RegisterDevice) -> None:
        told = Registration.of(frame, frame.installation)
        key = await self._devices.register(session.key, session.identity.name, told, session)
        session.send(
            {
                "type": "device",
                "ref": frame.ref,
                "installation": frame.installation,
                "deregistration_key": key,
            }
        )

    async def _deregister(self, session: CustomerSession, frame: protocol.DeregisterDevice) -> None:
        await self._devices.deregister(session.key, frame.installation)
        session.send({"type": "ok", "ref": frame.ref})

    def _agent_frame(self, session: AgentSession, frame: Any) -> Change[Any] | Later | None:
        chat, marks, inbox = self._chat, self._marks, self._inbox
        match frame:
            case protocol.AgentSend():
                return chat.send(_posting(session, session.key(frame.customer), frame), session)
            case protocol.AgentAck():
                return marks.agent_ack(session.key(frame.customer), frame.seq)
            case protocol.AgentRead():
                return marks.agent_read(session.key(frame.customer), frame.seq)
            case protocol.AgentTyping():
                self._context.tell.agent_typing(session, session.key(frame.customer), on=frame.on)
            case protocol.Open():
                return partial(chat.open, session, frame)
            case protocol.Close():
                self._context.hub.unwatch(session, session.key(frame.customer))
                session.send({"type": "ok", "ref": frame.ref})
            case protocol.End():
                return partial(self._end, session, frame)
            case protocol.Inbox():
                return partial(inbox.page, session, frame)
            case protocol.AgentHistory():
                return partial(inbox.history, session, session.key(frame.customer), frame)
            case _:
                self._common_frame(session, frame)
        return None

    async def _end(self, session: AgentSession, frame: protocol.End) -> None:
        await self._chat.end(session.key(frame.customer))
        session.send({"type": "ok", "ref": frame.ref})

    def _common_frame(self, session: Session, frame: Any) -> None:
        match frame:
            case protocol.Ping():
                pong: protocol.Pong = {"type": "pong"}
                if frame.ref is not None:
                    pong["ref"] = frame.ref
                session.send(pong)
            case protocol.Refresh():
                self._refresh(session, frame)
            case protocol.Bye():
                raise Goodbye
            case _:
                raise FrameError(ErrorCode.BAD_FRAME, "hello comes once, first")


async def _over(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


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
