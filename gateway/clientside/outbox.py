"""What waits to be sent: requests under their ref, until they are answered.

Decides which go out now, and which wait. A lost socket makes all of them unwritten again; the codes
in `RETRIED` make one of them wait. The socket, the clock and those who wait for the answers are
left to `gateway.clientside.link`; acks and reads, which nobody answers, to
`gateway.clientside.marks`.

Bounds (I9): `UNSENT` requests wait, then `OutboxFull` but for quiet ones; `WINDOW` sends are under
way, the rest wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from gateway.clientside.comeback import jitter
from gateway.clientside.errors import OutboxFull
from gateway.protocol import ErrorCode

UNSENT: Final = 1000  # requests that wait for their answer
WINDOW: Final = 64  # sends under way at once
RETRIED: Final = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL})


@dataclass(slots=True, repr=False, eq=False)
class Request:
    """A request on its way. `quiet` ones are the client's own and die with their socket."""

    ref: str
    frame: Mapping[str, Any]
    data: bytes
    is_send: bool
    quiet: bool
    tries: int = 0
    due: float = 0.0
    written: bool = False
    ever_written: bool = False


class Outbox:
    """Requests until they are answered, in the order in which they were made.

    Sends wait for the ones before them; other requests do not wait for sends. Once the server says
    `rate_limited`, one send at a time goes out until it stops saying so.
    """

    def __init__(self, rng: Random, bound: int = UNSENT) -> None:
        self._rng = rng
        self._bound = bound
        self._requests: dict[str, Request] = {}
        self._sends: deque[Request] = deque()  # unwritten
        self._others: deque[Request] = deque()  # unwritten
        self._under_way = 0
        self._window = WINDOW

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, request: Request) -> None:
        """Add a request. Raises `OutboxFull`, but for a quiet one: what waits may wait for it."""
        if len(self._requests) >= self._bound and not request.quiet:
            raise OutboxFull(self._bound)
        self._requests[request.ref] = request
        (self._sends if request.is_send else self._others).append(request)

    def get(self, ref: object) -> Request | None:
        """The request under `ref`, if it waits for its answer."""
        return self._requests.get(ref) if isinstance(ref, str) else None

    def take(self, now: float, *, sends: bool) -> list[Request]:
        """The requests to write now (`sends`: these too), which count as written from here on."""
        taken = [request for request in self._others if request.due <= now]
        if taken:
            self._others = deque(request for request in self._others if request.due > now)
        while sends and self._next_send() is not None and self._sends[0].due <= now:
            taken.append(self._sends.popleft())
            self._under_way += 1
        for request in taken:
            request.written = request.ever_written = True
        return taken

    def next_at(self, *, sends: bool) -> float | None:
        """The time of the next request that waits for its time, if there is one."""
        times = [request.due for request in self._others]
        first = self._next_send() if sends else None
        if first is not None:
            times.append(first.due)
        return min(times, default=None)

    def _next_send(self) -> Request | None:
        return self._sends[0] if self._sends and self._under_way < self._window else None

    def settle(self, ref: object) -> Request | None:
        """The request under `ref` is answered for good; it, if there was one."""
        request = self.get(ref)
        if request is None:
            return None
        del self._requests[request.ref]
        if not request.written:
            (self._sends if request.is_send else self._others).remove(request)
        elif request.is_send:
            self._under_way -= 1
            self._window = min(WINDOW, self._window + 1)
        return request

    def withdraw(self, ref: str) -> None:
        """Nobody waits for the answer any more: forget it, unless the server may know it."""
        request = self._requests.get(ref)
        if request is not None and not request.ever_written:
            self.settle(ref)

    def postpone(self, ref: str, now: float, code: str, retry_after: float | None) -> None:
        """The server could not take it now. Without `retry_after`, full jitter per request."""
        request = self._requests[ref]
        request.tries += 1
        if retry_after is None:
            retry_after = jitter(request.tries, self._rng)
        request.due = now + retry_after
        if code == ErrorCode.RATE_LIMITED:
            self._window = 1
        self._under_way -= request.is_send and request.written
        request.written = False
        self._line_up()

    def lost(self) -> None:
        """The socket is gone: what was written on it has to be written again."""
        self._requests = {r.ref: r for r in self._requests.values() if not r.quiet}
        for request in self._requests.values():
            request.written = False
            request.due = 0.0
        self._under_way = 0
        self._window = WINDOW
        self._line_up()

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()
        self.lost()

    def _line_up(self) -> None:
        waiting = [r for r in self._requests.values() if not r.written]  # as they were made
        self._sends = deque(r for r in waiting if r.is_send)
        self._others = deque(r for r in waiting if not r.is_send)
