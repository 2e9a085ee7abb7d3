"""One WebSocket: an asyncio protocol of ours on the sans-I/O core of websockets.

The only file that imports websockets for serving. The core parses the handshake and the frames and
keeps the state of RFC 6455; a `Peer` moves bytes between it and the transport, and is the `Socket`
that sessions see. It has no task and no timer of its own: what a peer has to have done by when is
in `due`, which the listener looks at for all of them together.

A handshake that is not finished in time, and a closing one, are cut off. An open peer is pinged. It
fails with 1011 if, within the timeout, it neither answers, nor reads any of what was sent before
the ping, nor acknowledges more of it.

Bounds (I9): bytes of a handshake (beyond it the peer is cut off); frames that were received and not
yet taken (then the peer's TCP is held back); bytes that are read in one turn of the loop, which
others want too; frames among them that bring nothing (beyond it the peer is cut off); bytes that
the kernel keeps beyond what is on its way; and bytes that wait to be written: beyond
`outbound_bytes` the peer is closed with 4001. Only a replay is written at the pace of its reader,
and of pages one at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import secrets
import struct
import sys
import termios
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, Protocol, cast

from websockets.datastructures import Headers
from websockets.frames import BINARY, CONT, PONG, TEXT, CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, SEND_EOF
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway import protocol
from gateway.auth import bearer
from gateway.config.sections import Limits
from gateway.talk import Closed, Later, Take
from push.failures import forget_frames

SUBPROTOCOL = Subprotocol(protocol.SUBPROTOCOL)
NO_HANDSHAKE = (
    f"no WebSocket handshake; connect to {protocol.CUSTOMER_PATH} or {protocol.AGENT_PATH}."
    " The HTTP API has an address of its own\n"
)
CLOSE_TIMEOUT = 2.0  # seconds for a peer to take and answer the close, before it is cut off
HEAD = 65_536  # bytes of a handshake; of as many lines as the core takes it would be a megabyte
RECEIVED = 64  # frames that wait to be taken, before the peer's TCP is held back
TURN = 16_384  # bytes that are read in one turn of the loop: of the smallest frames 2,700
NOTHING = 256  # frames among them that bring no message: pings, fragments of a few bytes
HIGH_WATER = 32_768  # bytes that wait to be written, before a replay waits too
UNSENT = 32_768  # bytes that the kernel keeps for a peer beyond what is on its way (Linux)
TOGETHER = 32_768  # bytes that wait for the end of the loop's turn, to be written in one call


class Listener(Protocol):
    """What a peer asks of whoever accepted it, and tells."""

    @property
    def limits(self) -> Limits: ...

    def connected(self, peer: Peer) -> None:
        """The peer has a TCP connection."""
        ...

    def refusal(self, path: str, origins: list[str]) -> tuple[int, str] | None:
        """The HTTP status and the reason with which this handshake is refused, if it is."""
        ...

    def opened(self, peer: Peer, path: str, forwarded: Sequence[str]) -> None:
        """The handshake is done; `forwarded` are its `X-Forwarded-For` headers."""
        ...

    def flush_soon(self, peer: Peer) -> None:
        """Call `flush` when everything of this turn of the loop has been sent."""
        ...

    def lost(self, peer: Peer) -> None:
        """The TCP connection has ended."""
        ...


class Peer(asyncio.Protocol):
    """A WebSocket connection: the `Socket` that sessions see."""

    __slots__ = (
        "_closing",
        "_code",
        "_core",
        "_end",
        "_fragments",
        "_head",
        "_held_back",
        "_is_text",
        "_listener",
        "_live",
        "_over",
        "_ping",
        "_received",
        "_rest",
        "_take",
        "_taker",
        "_transport",
        "_unflushed",
        "_unread",
        "_writable",
        "bearer",
        "due",
        "origin",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._core = _Core(max_size=listener.limits.frame_bytes, logger=_quiet)
        self._transport: asyncio.Transport
        self.bearer: str | None = None
        self.origin: str | None = None
        self.due = math.inf
        """When, by the loop's clock, `remind` is to be called."""
        self._ping: bytes | None = None  # what was sent and not yet answered
        self._unread = 0  # bytes before it, or fewer that were unread at a look since
        self._code: int | None = None
        self._closing = False
        self._over = False
        self._end: asyncio.Future[None] | None = None  # made when somebody waits for it
        self._received: deque[str | bytes] = deque()
        self._head = 0  # bytes that came before the handshake was done
        self._fragments = bytearray()  # of a message whose last fragment has yet to come
        self._is_text = True  # that message
        self._held_back = False
        self._rest = b""  # what came and is read in further turns
        self._taker: asyncio.Future[Later | None] | None = None  # made when somebody waits
        self._take: Take | None = None  # what the taker has done with frames as they come
        self._unflushed = 0  # bytes
        self._live = False  # whether some of them do not wait for their reader
        self._writable: asyncio.Future[None] | None = None  # while too much waits to be written

    # What a session sees

    @property
    def code(self) -> int | None:
        return self._code or self._core.close_code

    async def recv(self) -> str | bytes:
        """The next frame. What came before the end is still given out after it."""
        if not self._received:
            await self._until_told()
            if not self._received:
                raise Closed
        return self._next()

    async def converse(self, take: Take) -> NoReturn:
        """Frames are taken as they come, within the loop's call that read them; those that come
        while one takes longer wait in the queue."""
        while True:
            later = take(self._next()) if self._received else await self._until_told(take)
            if later is not None:
                await later()

    def send(self, data: bytes) -> None:
        self._live = True
        self._send(data)

    async def stream(self, data: bytes) -> None:
        self._send(data)
        if not self._unflushed:  # so much was written at once: now it is the others' turn
            await asyncio.sleep(0)
        await self.has_read()

    async def has_read(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self._core.state is not OPEN:
            await self.ended()  # only then is the close code known
            raise Closed

    def answered(self) -> None:
        if self._ping is not None and not self._closing:  # the ping is on its way behind the rest
            self.due = _now() + self._listener.limits.ping_timeout

    def close(self, code: protocol.CloseCode, detail: str = "") -> None:
        if self._code is None:
            self._code = code.value
        core = self._core
        if core.state is OPEN:
            core.send_close(code, protocol.close_reason(code, detail))
            self._flush()
            self._close_in_time()
        elif core.state is CONNECTING:
            self._transport.abort()

    async def hang_up(self, code: protocol.CloseCode, detail: str = "") -> None:
        self.close(code, detail)
        # Nobody takes frames any more: they must not keep the peer's answer from being read.
        self._received = deque(maxlen=0)
        if self._held_back:
            self._held_back = False
            self._go_on()
        await self.ended()

    # What the listener sees

    def flush(self) -> None:
        """Write what was sent; close a peer that reads what is sent live too slowly."""
        self._flush()
        if self._live:
            self._live = False
            self._close_if_slow()

    @property
    def address(self) -> str:
        return str((self._transport.get_extra_info("peername") or ("?",))[0])

    def remind(self, now: float) -> None:
        """`due` has come: ping, or give up a peer that has not done what it had to do by now."""
        core = self._core
        if core.state is not OPEN:
            self._transport.abort()
            self.due = math.inf
        elif self._ping is None:
            self._unread = _unread(self._transport)
            self._ping = secrets.token_bytes(4)
            self.due = now + self._listener.limits.ping_timeout
            core.send_ping(self._ping)
            self._flush()
        elif (unread := _unread(self._transport)) < self._unread:
            # It reads: the ping, and so its answer, is behind what waits.
            self._unread = unread
            self.due = now + self._listener.limits.ping_timeout
        else:
            core.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            self._flush()

    async def ended(self) -> None:
        """Wait until the TCP connection has ended."""
        if not self._over:
            if self._end is None:
                self._end = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._end)

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        self.due = _now() + self._listener.limits.hello_timeout
        self._listener.connected(self)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
        elif len(data) > TURN:
            self._rest = data
            self._transport.pause_reading()
            self._read_on()
        else:
            self._read(data)

    def _read_on(self) -> None:
        """Read as much of what came as is one turn's."""
        part, self._rest = self._rest[:TURN], self._rest[TURN:]
        if not self._over:
            self._read(part)
            self._go_on()

    def _go_on(self) -> None:
        """Have the rest read, or what comes, unless the peer is held back."""
        if self._held_back or self._transport.is_closing():
            return
        if self._rest:
            asyncio.get_running_loop().call_soon(self._read_on)
        else:
            self._transport.resume_reading()

    def _read(self, data: bytes) -> None:
        core = self._core
        core.receive_data(data)
        nothing = 0
        try:
            for event in core.events_received():
                if isinstance(event, Frame):
                    nothing += event.opcode > BINARY or not event.fin
                    self._receive(event)
                elif isinstance(event, Request):
                    self._shake_hands(event)
        except UnicodeDecodeError as error:
            core.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
        if nothing > NOTHING:
            self._transport.abort()
        if self._received:
            self._tell_taker()
            if len(self._received) > RECEIVED and not self._held_back:
                self._held_back = True
                self._transport.pause_reading()
        elif core.state is CONNECTING:
            self._head += len(data)
            if self._head > HEAD:
                self._transport.abort()
        if core.writes and not self._unflushed:
            self._flush()
            self._close_if_slow()  # pongs, too, wait for a peer that does not read

    def eof_received(self) -> None:
        self._core.receive_eof()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        core = self._core
        core.receive_eof()
        # Their frames hold the core: cycles that only the collector would find.
        core.parser.close()
        forget_frames(core.handshake_exc)
        core.parser_exc = core.handshake_exc = None
        self._over = True
        for waiting in (self._taker, self._writable, self._end):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        self._writable = None
        self._listener.lost(self)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
        self.answered()  # it reads; of a replay there are soon as many bytes again

    # Within

    def _shake_hands(self, request: Request) -> None:
        core = self._core
        if core.writes or core.eof_sent:  # more than data came before our answer: not a WebSocket
            core.data_to_send()
            self._transport.abort()
            return
        path = request.path.partition("?")[0]
        origins = request.headers.get_all("Origin")
        refusal = self._listener.refusal(path, origins)
        core.send_response(core.reject(*refusal) if refusal else core.accept(request))
        if core.state is OPEN:
            self.bearer = _bearer(request.headers)
            self.origin = origins[0] if origins else None
            self.due = _now() + self._listener.limits.ping_interval
            self._listener.opened(self, path, request.headers.get_all("X-Forwarded-For"))

    async def _until_told(self, take: Take | None = None) -> Later | None:
        """Wait for a frame; with `take`, for one that takes longer. Raises `Closed` after the end,
        and what `take` raises."""
        if self._over:
            raise Closed
        self._take, self._taker = take, asyncio.get_running_loop().create_future()
        try:
            return await self._taker
        finally:
            self._take = self._taker = None

    def _tell_taker(self) -> None:
        taker, take = self._taker, self._take
        if taker is None or taker.done():
            return
        if take is None:
            taker.set_result(None)
            return
        try:
            while self._received:
                later = take(self._next())
                if later is not None:
                    taker.set_result(later)
                    return
        except Exception as error:
            taker.set_exception(error)
            del taker  # the error's traceback has this frame: a cycle only the collector would find

    def _next(self) -> str | bytes:
        frame = self._received.popleft()
        if self._held_back and len(self._received) < RECEIVED // 2:
            self._held_back = False
            self._go_on()
        return frame

    def _receive(self, frame: Frame) -> None:
        """Put what a frame brings into the queue. Raises `UnicodeDecodeError`."""
        opcode = frame.opcode
        if opcode is TEXT and frame.fin:
            self._received.append(str(frame.data, "utf-8"))
        elif opcode is TEXT or opcode is BINARY or opcode is CONT:
            if opcode is not CONT:
                self._is_text = opcode is TEXT
            self._fragments += frame.data
            if frame.fin:
                whole = bytes(self._fragments)
                self._fragments = bytearray()
                self._received.append(whole.decode() if self._is_text else whole)
        elif opcode is PONG and frame.data == self._ping and not self._closing:
            limits = self._listener.limits
            self._ping = None
            self.due += limits.ping_interval - limits.ping_timeout  # from when the ping was sent

    def _send(self, data: bytes) -> None:
        core = self._core
        if core.close_sent is not None or core.eof_sent:
            return
        if not self._unflushed:
            self._listener.flush_soon(self)
        self._unflushed += len(data) + 1
        core.writes.append(framed(data))
        if self._unflushed > TOGETHER:
            self.flush()

    def _flush(self) -> None:
        """Give the transport what the core has to send."""
        self._unflushed = 0
        transport = self._transport
        frames = self._core.data_to_send()
        ends = SEND_EOF in frames
        if ends:
            frames.remove(SEND_EOF)
        if frames and not transport.is_closing():
            transport.write(b"".join(frames) if len(frames) > 1 else frames[0])
        if ends:
            self._close_in_time()
            with suppress(OSError, RuntimeError):  # of a connection that is gone already
                transport.write_eof()

    def _close_if_slow(self) -> None:
        if self._transport.get_write_buffer_size() > self._listener.limits.outbound_bytes:
            self.close(protocol.CloseCode.SLOW_READER)

    def _close_in_time(self) -> None:
        if not self._closing:
            self._closing = True
            self.due = _now() + CLOSE_TIMEOUT


class _Core(ServerProtocol):
    """The sans-I/O core with our choice of a subprotocol: ours if it is offered, else none; and
    with an answer to what it ends without one, such as a call that was meant for the HTTP API."""

    def send_eof(self) -> None:
        if self.state is CONNECTING and not self.writes and not self.reader.eof:
            self.writes.append(self.reject(400, NO_HANDSHAKE).serialize())
        super().send_eof()

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None


_FIN_TEXT = 0x80 | TEXT
_short, _medium, _long = (struct.Struct(f"!BB{size}").pack for size in ("", "H", "Q"))


def framed(text: bytes) -> bytes:
    """A whole text frame, unmasked as a server's are (RFC 6455, section 5.2).

    The library's own way to the same bytes took a twentieth of what a message costs.
    """
    size = len(text)
    if size < 126:
        return _short(_FIN_TEXT, size) + text
    if size < 1 << 16:
        return _medium(_FIN_TEXT, 126, size) + text
    return _long(_FIN_TEXT, 127, size) + text


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the peer's TCP has not acknowledged; elsewhere than on Linux, that wait here."""
    unread = transport.get_write_buffer_size()
    if sys.platform == "linux":
        tcp = transport.get_extra_info("socket").fileno()
        unread += int.from_bytes(fcntl.ioctl(tcp, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return unread


def _now() -> float:
    return asyncio.get_running_loop().time()


def _bearer(headers: Headers) -> str | None:
    values = headers.get_all("Authorization")
    return bearer(values[0]) if len(values) == 1 else None  # of two none is the one


_quiet = logging.getLogger("gateway.websockets")
_quiet.setLevel(logging.CRITICAL)  # a bad peer is the peer's affair: no line in our log for each
