"""Talk: the frames of one session, one after the other.

Decides when the next frame is taken: once what the last one asks for is queued, or done. What a
frame calls is decided by `gateway.sessions`. Knows sockets only as the `Socket` below: the
WebSockets themselves are in `gateway.wire`.

Bounds (I9): sends of one session that wait for their commit, and its frames in a minute; beyond
them its frames wait too, and so the peer's TCP is held back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from gateway import frames
from gateway.context import Change
from gateway.protocol import CloseCode, ErrorCode, FrameError
from gateway.session import Out, Session
from storage.errors import Unavailable
from storage.store import Store

_sleep = asyncio.sleep
IN_FLIGHT = 256  # sends of one session that wait for their commit, before its frames wait too

S = TypeVar("S", bound=Session)
Later = Callable[[], Awaitable[None]]
"""The part of a frame that takes longer: called, and awaited before the next frame is taken."""
Take = Callable[[str | bytes], Later | None]
Act = Callable[[S, Any], Change[Any] | Later | None]
"""What a frame asks for: a change, what takes longer, or nothing more."""


class Closed(Exception):
    """The socket has ended, whoever ended it."""


class Goodbye(Exception):
    """The peer said bye."""


class Socket(Out, Protocol):
    """One accepted WebSocket, in this process or another. What waits raises `Closed`, except for
    `hang_up`."""

    @property
    def bearer(self) -> str | None:
        """The token of the handshake's Authorization header."""
        ...

    @property
    def origin(self) -> str | None:
        """The web page that connects, if a browser said so."""
        ...

    @property
    def code(self) -> int | None:
        """The close code: ours if we closed, else the peer's; None if it just broke off."""
        ...

    async def recv(self) -> str | bytes:
        """The next frame."""
        ...

    async def converse(self, take: Take) -> NoReturn:
        """Give frame after frame to `take`, until the end. Raises what `take` raises, too."""
        ...

    async def hang_up(self, code: CloseCode, detail: str = "") -> None:
        """Close, and wait until it is closed; a peer that does not take it is cut off. `detail` is
        told behind the meaning of the code."""
        ...


class Talk(Generic[S]):
    """Takes the frames of one session."""

    def __init__(
        self,
        session: S,
        act: Act[S],
        store: Store,
        clock: Callable[[], float],
        fault: Callable[[str, Exception], None],
    ) -> None:
        self._session = session
        self._act = act
        self._store = store
        self._clock = clock
        self._fault = fault
        self._in_flight = 0
        self._room: asyncio.Future[None] | None = None  # made by who waits for those in flight

    def take(self, raw: str | bytes) -> Later | None:
        """Raises `Hangup` and `Goodbye`."""
        now = self._clock()
        wait = self._session.frame_bucket.owe(now)
        later = self._act_on(raw, now)
        return later if wait is None else partial(_rest, wait, later)

    def _act_on(self, raw: str | bytes, now: float) -> Later | None:
        session = self._session
        if session.revoked and session.closed:
            return None
        frame = None
        try:
            frame = session.receive(raw, now)
            asked = self._act(session, frame)
            if isinstance(asked, tuple):
                change, needs = asked
                self._store.enqueue(change, needs, partial(self._answer, frame))
                self._in_flight += 1
                return self._wait_for_room if self._in_flight >= IN_FLIGHT else None
            return None if asked is None else partial(self._finish, frame, asked)
        except (FrameError, Unavailable) as error:
            self._refuse(frame, error)
            return None

    async def _finish(self, frame: Any, asked: Later) -> None:
        try:
            await asked()
        except (FrameError, Unavailable) as error:
            self._refuse(frame, error)

    async def settled(self) -> None:
        """Return when nothing is in flight any more."""
        await self._until_fewer_than(1)

    async def _wait_for_room(self) -> None:
        await self._until_fewer_than(IN_FLIGHT)

    async def _until_fewer_than(self, many: int) -> None:
        while self._in_flight >= many:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _answer(self, frame: Any, value: Any, error: Exception | None) -> None:
        """Answer a change that failed; one that succeeded was answered after its commit."""
        self._in_flight -= 1
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if error is not None:
            self._refuse(frame, error)

    def _refuse(self, frame: Any, error: Exception) -> None:
        if isinstance(error, FrameError | Unavailable):
            told = refusal(error)
        else:
            self._fault("a change failed", error)
            told = FrameError(ErrorCode.INTERNAL, "internal fault")
        self._session.send(frames.error(told, getattr(frame, "ref", None)))


def refusal(error: FrameError | Unavailable) -> FrameError:
    """What the peer is told of a frame that failed so."""
    if isinstance(error, Unavailable):
        return FrameError(ErrorCode.UNAVAILABLE, "not confirmed; try again with the same ref")
    return error


async def _rest(seconds: float, later: Later | None) -> None:
    """Wait before the next frame is taken: the TCP of a peer that sends so many is held back."""
    if later is not None:
        await later()
    await _sleep(seconds)
