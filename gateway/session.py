"""A session: one open WebSocket after its hello, as state without I/O.

Theory of operation. A socket that has not said hello is nothing but a socket; `gateway.sessions`
turns it into a `CustomerSession` or an `AgentSession` once its token is accepted, and only these
can reach the use cases. A session takes raw frames (`receive`) and yields what to do: a frame to
act on, an error to answer, or a code to close with. What goes out is given to `out`.

    connected ──hello──> active <──state──> background ──┐
        │                  └───────────────┬─────────────┘
        └──no hello, bad token──> closed <─┘ bye, close, expiry, limits

While a replay is being read from storage the session `holds` what arrives live, and lets it go
behind the replay, so that every client sees seq in order with no gap (I4).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from gateway import protocol
from gateway.auth import Identity
from gateway.protocol import CloseCode, ErrorCode, FrameError, Role, SessionState
from storage.records import Cut, Key


class Out(Protocol):
    """Where a session's frames go. `send` and `close` neither block nor raise."""

    def send(self, data: bytes) -> None: ...

    async def stream(self, data: bytes) -> None:
        """Send, and wait as `has_read` does."""
        ...

    async def has_read(self) -> None:
        """Wait until the peer has read most of what was sent."""
        ...

    def answered(self) -> None:
        """The peer has said that it has what was sent to it: it lives, as if it answered a ping."""
        ...

    def close(self, code: CloseCode) -> None: ...


class Timer(Protocol):
    """What a clock will call."""

    def cancel(self) -> None: ...


@dataclass(slots=True)
class TokenBucket:
    """A rate limit: `per_minute` on average, `burst` at once."""

    per_minute: float
    burst: float
    level: float = field(init=False)
    at: float = -math.inf

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now: float) -> float | None:
        """None if one more is allowed at `now`, else the seconds until it will be."""
        self._fill(now)
        if self.level >= 1:
            self.level -= 1
            return None
        return (1 - self.level) * 60 / self.per_minute

    def spend(self, now: float, what: str, ref: str | None = None) -> None:
        """Take one for what is asked. Raises `FrameError` if no more is allowed at `now`."""
        wait = self.take(now)
        if wait is not None:
            told = f"too many {what}: at most {self.per_minute:g} a minute"
            raise FrameError(ErrorCode.RATE_LIMITED, told, ref, retry_after=wait)

    def owe(self, now: float) -> float | None:
        """Take one in any case, on credit if need be: then the seconds until it is due."""
        self._fill(now)
        self.level -= 1
        return None if self.level >= 0 else -self.level * 60 / self.per_minute

    def give(self) -> None:
        """Allow one more, also beyond the burst, up to twice the burst."""
        level, most = self.level + 1, 2 * self.burst
        self.level = level if level < most else most

    def _fill(self, now: float) -> None:
        if self.level < self.burst and self.at < now:
            filled = self.level + (now - self.at) * self.per_minute / 60
            self.level = filled if filled < self.burst else self.burst
        self.at = now


class Rates:
    """One bucket for each sender, over all their sessions and HTTP calls.

    At the bound the sender longest unseen is forgotten, and begins anew.
    """

    BOUND = 50_000

    def __init__(self, limits: Mapping[Role, tuple[float, float]]) -> None:
        self._limits = limits
        self._buckets: OrderedDict[tuple[str, Role, str], TokenBucket] = OrderedDict()

    def bucket(self, who: Identity) -> TokenBucket:
        """The bucket of this sender. Raises KeyError for a role without a limit."""
        return self.of(who.tenant, who.role, who.sub)

    def of(self, tenant: str, role: Role, sub: str) -> TokenBucket:
        """The bucket of the sender with that id and role."""
        slot = (tenant, role, sub)
        bucket = self._buckets.pop(slot, None) or TokenBucket(*self._limits[role])
        self._buckets[slot] = bucket
        if len(self._buckets) > self.BOUND:
            self._buckets.popitem(last=False)
        return bucket


class Hangup(Exception):
    """The socket has to be closed with `code`. `why` is for the metrics, `detail` for the peer."""

    def __init__(self, code: CloseCode, why: str | None = None, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.why = why or code.name.lower()
        self.detail = detail


class Held:
    """Frames that wait behind a replay, bounded in bytes."""

    __slots__ = ("bound", "frames", "size")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.size = 0
        self.frames: list[bytes] = []

    def add(self, data: bytes) -> bool:
        """Keep `data`; False when the bound is passed."""
        self.size += len(data)
        self.frames.append(data)
        return self.size <= self.bound

    def forget(self) -> None:
        """Drop what waits: the replay, which is yet to be read, has it."""
        self.size = 0
        self.frames.clear()


PACE_PER_MINUTE = 60.0
PACE_AT_ONCE = 10.0
"""How often a session may change its state, or say that somebody types: agents are told of each."""

REVOKED = frozenset({CloseCode.SIGNED_OUT, CloseCode.TOKEN_EXPIRED})
"""After these nothing that the session sends is taken any more: a registration that was on its way
would ring for somebody who has been signed out. After the others what still comes counts, such as
an ack."""

FRAMES_PER_MINUTE = 6_000.0
FRAMES_AT_ONCE = 2_000.0
"""How many frames a session may send: so many, or ten times its sends if that is more, and one more
for each message that it is told and may acknowledge. What it does not use is saved, up to as many
again. Beyond that its frames are taken a little later: whatever a frame asks for, it takes the loop
from everybody (I8)."""

_SENDS = frozenset({protocol.Send, protocol.AgentSend})
_ACTIVE = SessionState.ACTIVE


T = TypeVar("T")


@dataclass(slots=True)
class Pace(Generic[T]):
    """What a session may do only so often; beyond that the newest counts, a little later."""

    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(PACE_PER_MINUTE, PACE_AT_ONCE))
    waiting: T | None = None  # what is to be done when it may be again


@dataclass(slots=True, eq=False)
class Session:
    """What customers' and agents' sessions have in common: identity, output, error counting."""

    id: str
    identity: Identity
    out: Out
    send_bucket: TokenBucket  # the sender's, over all their sessions
    bound: int  # bytes that may wait behind a replay
    decode: Callable[[str | bytes], Any]
    page_at: float = 0.0  # by the loop's clock: the next page that was asked for is not read before
    bad_in_a_row: int = 0
    closed: bool = False
    revoked: bool = False  # its right has ended: once it is closed, what still comes is not taken
    expiry: Timer | None = None
    frame_bucket: TokenBucket = field(init=False)

    def __post_init__(self) -> None:
        sends = self.send_bucket
        self.frame_bucket = TokenBucket(
            max(FRAMES_PER_MINUTE, 10 * sends.per_minute), max(FRAMES_AT_ONCE, 10 * sends.burst)
        )

    @property
    def tenant(self) -> str:
        return self.identity.tenant

    def receive(self, raw: str | bytes, now: float) -> Any:
        """The frame in `raw`.

        Raises `FrameError` for what is answered with an error frame, and `Hangup` after ten bad
        frames in a row.
        """
        try:
            frame = self.decode(raw)
        except FrameError as error:
            if error.code is ErrorCode.BAD_FRAME:
                self.bad_in_a_row += 1
                if self.bad_in_a_row >= protocol.BAD_FRAMES_IN_A_ROW:
                    raise Hangup(CloseCode.PROTOCOL_BROKEN, detail=error.message) from error
            raise
        self.bad_in_a_row = 0
        if type(frame) in _SENDS:
            self.send_bucket.spend(now, "messages", frame.ref)
        return frame

    def expire_with(self, expiry: Timer | None) -> None:
        """End when this timer does, as its token ends, and no longer by the timer before it."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.expiry = expiry

    def send(self, frame: protocol.ServerFrame) -> None:
        """Send one frame to this session alone."""
        self.write(protocol.encode(frame))

    def write(self, data: bytes) -> None:
        """Send an encoded frame."""
        if not self.closed:
            self.out.send(data)

    async def stream(self, frame: protocol.ServerFrame) -> None:
        """Send one of many frames, at the pace at which the peer reads."""
        if not self.closed:
            await self.out.stream(protocol.encode(frame))

    def pardon(self) -> None:
        """It was not signed out after all. A right that ended in another way has still ended."""
        self.revoked = self.revoked and self.closed

    def close(self, code: CloseCode) -> None:
        """Close the socket; what was not sent is replayed to the next session."""
        self.revoked = self.revoked or code in REVOKED
        if not self.closed:
            self.closed = True
            self.out.close(code)


@dataclass(slots=True, eq=False)
class CustomerSession(Session):
    """A customer's session. `noted` is the furthest ack that came while in the background.

    `acked` is how far this session itself has acknowledged, from where it resumed, or else from the
    read mark. `streaming` is the task that writes at the pace of the reader, while there is one:
    the replay with the `pages` of history that were asked for meanwhile, later a page that is.
    """

    state: SessionState = SessionState.ACTIVE
    installation: str | None = None
    noted: Cut = field(default=Cut(0, 0))
    said: int = 0  # the furthest that it said it has, counted or not
    acked: int = 0
    held: Held | None = None
    states: Pace[SessionState] = field(default_factory=Pace)
    typing: Pace[bool] = field(default_factory=Pace)
    streaming: Any = None  # a task
    pages: list[protocol.History] = field(default_factory=list)
    unwritten: int | None = None  # how far it had acknowledged when the disk refused its coming
    key: Key = field(init=False)
    _phone: str = field(init=False)

    def __post_init__(self) -> None:
        Session.__post_init__(self)
        self.key = Key(self.identity.tenant, self.identity.sub)
        self._phone = f":{quote(self.installation, safe='')}" if self.installation else ""

    @property
    def active(self) -> bool:
        return self.state is _ACTIVE

    def says_it_has(self, seq: int) -> None:
        """Everything up to `seq`: if that is new, it has just been read."""
        if seq > self.said:
            self.said = seq
            self.out.answered()

    @property
    def label(self) -> str:
        """How a message's row names the session: `id:state`, or `id:state:installation`."""
        return f"{self.id}:{self.state!s}{self._phone}"

    def send(self, frame: protocol.ServerFrame) -> None:
        """Send one frame to this session alone, behind a replay if one is running: whoever has an
        answer has what was there when it was asked for."""
        self.deliver(protocol.encode(frame))

    def deliver(self, data: bytes) -> None:
        """Send an encoded frame, behind a replay if one is running."""
        if self.held is None:
            self.write(data)
        elif not self.held.add(data):
            self.close(CloseCode.SLOW_READER)

    def release(self) -> None:
        """The replay is out: let go what waited behind it."""
        held, self.held = self.held, None
        for data in held.frames if held else ():
            self.write(data)


@dataclass(slots=True, eq=False)
class AgentSession(Session):
    """An agent's session, with the conversations that it opened."""

    opened: dict[Key, Held | None] = field(default_factory=dict)

    def key(self, customer: str) -> Key:
        """The conversation with that customer of its tenant's."""
        return Key(self.identity.tenant, customer)

    def deliver(self, key: Key, data: bytes) -> None:
        """Send a frame of an opened conversation, behind its opening if that is running."""
        held = self.opened.get(key)
        if held is None:
            self.write(data)
        elif not held.add(data):
            self.close(CloseCode.SLOW_READER)

    def release(self, key: Key) -> None:
        """The conversation's opening is out: let go what waited behind it."""
        held = self.opened.get(key)
        if held is not None:
            self.opened[key] = None
            for data in held.frames:
                self.write(data)
