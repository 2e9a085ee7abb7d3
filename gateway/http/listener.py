"""An HTTP listener: an aiohttp application, who may be connected to it, and for how long.

Decides nothing about calls. What aiohttp refuses by itself, before there is a call (a head that is
not HTTP, an `Expect` that nobody knows), is a problem document like every other error.

Bounds (I9): connections at a time. One more takes the place of the one whose peer has been waited
for the longest, for a call or for more of a call's body, if that is `SPARED`; else it is told 503
and closed. So connections that one client keeps and does not use keep no other out (I8).

A connection is closed on which no whole head of a request comes for `IDLE`, whether it says
nothing, has had its answers, or never ends its head; on Linux also one whose peer takes nothing of
an answer for `UNREAD`. A head has lines of at most `LINE` bytes and 128 headers, and is refused if
it has not ended by `HEAD`. Of what comes on a connection `TURN` bytes are read in one turn of the
loop (I8). No body is unpacked; how long one may take is decided by the calls.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from gateway.config.values import Address
from gateway.http.calls import problem
from gateway.protocol import ErrorCode, FrameError
from push.failures import forget_frames

IDLE = 75.0  # seconds; proxies and clients keep a connection for 60, and are to close it themselves
SPARED = 5.0  # seconds: who has just come, had an answer or sent `TURN` bytes may be about to go on
UNREAD = 60.0  # seconds
LINE = 8_190  # bytes
HEAD = 24 * LINE  # bytes that are kept of a head before its end; of 128 lines it would be 1 MB
TURN = 16_384  # bytes of a connection that are read in one turn of the loop
NAME: Final = "Ringback"  # in the head of an answer; aiohttp would tell its version and Python's
LAST_CALLS = 5.0  # seconds that calls have for ending when the listener stops


class Listener:
    """Made, started, stopped."""

    def __init__(
        self, app: web.Application, connections: int, rejected: Callable[[], None]
    ) -> None:
        """`connections` at a time; `rejected` is told of each that is one too many."""
        self._runner = web.AppRunner(app, shutdown_timeout=LAST_CALLS)
        self._connections = connections
        self._rejected = rejected
        self._server: asyncio.Server | None = None

    async def start(self, address: Address) -> int:
        """Listen; the port. Raises `OSError` when the address cannot be had."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connected, address.host, address.port)
        if sys.platform == "linux":
            for listening in self._server.sockets:  # what is accepted has it from there
                milliseconds = int(UNREAD * 1000)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing more, and let calls end that do so soon."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connected(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or not self._has_room(server):
            self._rejected()
            return _OneTooMany()
        return _Connection(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            # It takes the loop from everybody, of whoever sends it: a megabyte is a gigabyte.
            auto_decompress=False,
            keepalive_timeout=IDLE,
            max_line_size=LINE,
            max_field_size=LINE,
        )

    def _has_room(self, server: web.Server) -> bool:
        """Whether one more may be connected, in the place of another if need be."""
        if len(server.connections) < self._connections:
            return True
        there = [one for one in server.connections if isinstance(one, _Connection)]
        before = asyncio.get_running_loop().time() - SPARED
        slowest = min(there, key=lambda one: one.waited_for_since, default=None)
        if slowest is None or slowest.waited_for_since > before:
            return False
        slowest.force_close()
        return True


class _Connection(web.RequestHandler):
    """One connection, as aiohttp serves it but for the form of what it refuses by itself, and for
    what comes in one piece: it is read `TURN` bytes at a time, and others have theirs between.
    """

    __slots__ = ("_answered", "_came", "_next", "_rest", "_since")

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._came = 0  # bytes since then
        self._since = math.inf  # when a call came, was answered, or brought a good part of its body
        self._rest = b""
        self._next: asyncio.Handle | None = None
        self._answered: StreamReader | None = None  # the body of a call that has been answered

    def data_received(self, data: bytes) -> None:
        if data and self._rest:
            self._rest += data
            return
        if len(data) > TURN:
            self._rest = data[TURN:]
            self._pause_transport_reading()
            self._resume_transport_reading()
        self._take(data[:TURN])

    def connection_lost(self, exc: BaseException | None) -> None:
        """Whose call has been answered leaves at once: aiohttp would keep the place for 10 s, for
        the rest of a body that cannot come any more."""
        self._rest = b""
        super().connection_lost(exc)
        if self._answered is not None:
            self._answered.feed_eof()
            self._answered = None

    def _take(self, part: bytes) -> None:
        """Have it read, unless it is too much of a head: then that is answered at once."""
        waited = self._is_waiting
        super().data_received(part)
        self._came += len(part)
        if not self._is_waiting:
            if waited or self._came >= TURN:
                self._moved()
        elif self._came > HEAD and self.transport is not None:
            cast(asyncio.WriteTransport, self.transport).write(_TOO_LONG)
            self.force_close()

    def _moved(self) -> None:
        self._came = 0
        self._since = asyncio.get_running_loop().time()

    def _read_on(self) -> None:
        """Read the next part of what came, unless aiohttp has to be waited for."""
        self._next = None
        if self.transport is not None and not self._is_full:
            part, self._rest = self._rest[:TURN], self._rest[TURN:]
            self._take(part)
            if not self._is_full:
                self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._rest:
            super()._resume_transport_reading()
        elif self._next is None:  # what came is read before more comes
            self._next = asyncio.get_running_loop().call_soon(self._read_on)

    @property
    def _is_full(self) -> bool:
        return self._reading_paused or self._buffer_paused

    @property
    def _is_waiting(self) -> bool:
        """For a request, of which at most a part of its head has come."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def waited_for_since(self) -> float:
        """Since when, by the loop's clock, it has waited for a request, or for more of the body of
        one, answered or not; never, if it does not."""
        if self.transport is None:
            return math.inf
        if self._is_waiting:
            return self._next_keepalive_close_time - self.keepalive_timeout
        call = self._current_request
        body = self._answered if call is None else call.content
        waits = body is not None and not (body.is_eof() or self._rest or self._is_full)
        return self._since if waits else math.inf

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What cannot be read, and is not repeated in the answer."""
        refused = super().handle_error(request, status, exc, message)
        forget_frames(exc)  # it has been logged
        if isinstance(exc, LineTooLong):
            told = FrameError(ErrorCode.TOO_LARGE, f"a line of the head has over {LINE} bytes")
            answer = problem(told, 431)
        elif isinstance(exc, InvalidURLError):
            told = FrameError(ErrorCode.BAD_FRAME, "the URL cannot be read; percent-encode ids")
            answer = problem(told, refused.status)
        elif refused.status < 500:
            what = (message or "").partition(":")[0]
            told = FrameError(ErrorCode.BAD_FRAME, f"the request cannot be read: {what}")
            answer = problem(told, refused.status)
        else:
            answer = problem(FrameError(ErrorCode.INTERNAL, "internal fault"))
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What is refused before it comes to a call and to the application's middlewares."""
        self._moved()
        if self.transport is not None:
            self._answered = request.content
        if isinstance(resp, web.HTTPExpectationFailed):
            told = FrameError(ErrorCode.BAD_FRAME, "Expect: must be 100-continue")
            resp = problem(told, resp.status)
        resp.headers.setdefault(hdrs.SERVER, NAME)
        return await super().finish_response(request, resp, start_time)


class _OneTooMany(asyncio.Protocol):
    """A connection that hears that there are too many, whatever it wants."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(_TOO_MANY)
        transport.close()


def _whole(answer: web.Response) -> bytes:
    """An answer as it is sent."""
    body = cast(bytes, answer.body)
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


_TOO_LONG: Final = _whole(
    problem(FrameError(ErrorCode.TOO_LARGE, f"the head has over {HEAD} bytes"), 431)
)
_TOO_MANY: Final = _whole(problem(FrameError(ErrorCode.UNAVAILABLE, "too many connections")))
