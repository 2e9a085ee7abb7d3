"""The socket under a client: one that comes back, with the requests that wait for answers.

`Link` keeps a socket open until the server says for good (or the owner says) that it should stay
away. What goes out now is decided by `outbox` and `marks`, what to do after an end by `comeback`;
what the frames mean is left to the client whose link it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random, SystemRandom
from typing import Final
from uuid import uuid4

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway.clientside.comeback import Backoff, End, after_end
from gateway.clientside.errors import ConnectionEnded, NotUnderstood, RequestFailed
from gateway.clientside.marks import Marks
from gateway.clientside.outbox import RETRIED, Outbox, Request
from gateway.clientside.tokens import NoToken, Token, Tokens
from gateway.clientside.told import Frame, decoded
from gateway.clientside.watch import Watch, call, fail, report
from gateway.protocol import SUBPROTOCOL, ErrorCode, Limits

OPEN_WITHIN: Final = 10.0  # seconds for TCP, TLS and the handshake; the same again for the welcome
LEAVE_WITHIN: Final = 3.0  # seconds for what is unwritten and the closing handshake
RECENT: Final = 1000  # frames that `wait_for` looks back on; the oldest go first
# The largest frame there can be: 200 messages of 8,000 characters, each escaped, with their data.
LARGEST_FRAME: Final = 16 * 1024 * 1024
ANSWERS: Final = frozenset({"sent", "history", "device", "ok", "pong", "inbox", "conversation"})


class Link:
    """A socket that comes back, and the requests on it."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        hello: Callable[[], Frame],
        welcomed: Callable[[Frame], Limits],
        received: Callable[[Frame, Request | None], None],
        on_frame: Callable[[Frame], object] | None,
        rng: Random | None,
        sleep: Callable[[float], Awaitable[object]],
        ping_interval: float | None,
    ) -> None:
        parse_uri(url)  # raises InvalidURI here rather than trying for ever
        rng = rng if rng is not None else SystemRandom()
        self._url = url
        self._tokens = Tokens(token)
        self._hello = hello
        self._welcomed = welcomed
        self._received = received
        self._on_frame = on_frame
        self._sleep = sleep
        self._ping_interval = ping_interval
        self._backoff = Backoff(rng)
        self._outbox = Outbox(rng)
        self._futures: dict[str, asyncio.Future[Frame]] = {}
        self._notes: dict[str, bytes] = {}  # the newest of each kind
        self._marks = Marks(rng)
        self._wake = asyncio.Event()
        self._limits = Limits()
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._leaving: End | None = None
        self._recent: deque[tuple[int, Frame]] = deque(maxlen=RECENT)
        self._watch: Watch[Frame] = Watch()
        self.on_end: Callable[[End | None], None] = lambda end: None
        self.holding = False
        """Whether sends wait until what was missed has arrived."""
        self.ended: End | None = None
        self.seen = 0
        """How many frames have arrived."""

    # Life

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def start(self) -> None:
        if self._task is None or self._task.done():
            self._leaving = None
            self._tokens.forget()
            self._ended(None)
            self._first = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._first))
        first = self._first
        assert first is not None  # noqa: S101  (made with the task)
        try:
            await asyncio.wait([first])
        except asyncio.CancelledError:
            await self.abort()
            raise
        first.result()

    async def leave(self, code: int, *, bye: bool = False) -> None:
        """Write what is unwritten, close with `code` (`bye`: let the server close), stay away."""
        if self._task is None or self._task.done():
            return
        self._leaving = End(code)
        try:
            if self._socket is not None:
                await self._take_leave(self._socket, code, bye=bye)
        finally:  # also when the caller has given up
            await self._stop()

    async def _take_leave(self, socket: ClientConnection, code: int, *, bye: bool) -> None:
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN):
                self._say_again()
                await self._flush(socket)
                if bye:
                    await socket.send(b'{"type":"bye"}', text=True)
                    await socket.wait_closed()
                await socket.close(code)

    async def abort(self) -> None:
        """Drop the connection without a close frame and stay away."""
        self._leaving = self._leaving or End()
        await self._stop()

    def drop(self) -> None:
        """Drop the connection without a close frame; come back as after a network failure."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _stop(self) -> None:
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        if self.ended is None and self._first is not None:  # cancelled before it began
            self._finish(self._leaving or End(), self._first)

    async def _run(self, first: asyncio.Future[None]) -> None:
        end = End()
        try:
            while True:
                end = await self._connection(first)
                if self._leaving is not None:
                    return
                window, kept = self._limits.restart_window, self._tokens.kept
                step = after_end(end, self._backoff, window, token_kept=kept)
                if step.fresh_token:
                    self._tokens.forget()
                if step.wait is None:
                    return
                await self._sleep(step.wait)
        except Exception as error:
            report("the client's connection failed", error)
        finally:
            self._finish(self._leaving or end, first)

    def _finish(self, end: End, first: asyncio.Future[None]) -> None:
        self._outbox.clear()
        futures, self._futures = self._futures, {}
        fail(first, ConnectionEnded(*end))
        for future in futures.values():
            fail(future, ConnectionEnded(*end))
        self._ended(end)

    def _ended(self, end: End | None) -> None:
        self.ended = end
        self._watch.end(end)
        self.on_end(end)

    # One connection

    async def _connection(self, first: asyncio.Future[None]) -> End:
        try:
            token = await self._tokens.get()
            socket = await connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                proxy=None,
                open_timeout=OPEN_WITHIN,
                close_timeout=LEAVE_WITHIN,
                ping_interval=self._ping_interval,
                max_size=LARGEST_FRAME,
                max_queue=256,
            )
        except InvalidStatus as refused:
            return End(status=refused.response.status_code)
        except (OSError, WebSocketException, NoToken):
            return End()
        writer: asyncio.Task[None] | None = None
        try:
            await self._greet(socket, token)
            writer = asyncio.create_task(self._write(socket))
            if not first.done():
                first.set_result(None)
            while True:
                self._take(decoded(await socket.recv(decode=False)))
        except ConnectionClosed:
            return End(socket.close_code)
        except (TimeoutError, NotUnderstood):
            return End()
        finally:
            self._socket = None
            self._notes.clear()
            self._marks.clear()
            self._outbox.lost()
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])
            socket.transport.abort()
            await socket.wait_closed()

    async def _greet(self, socket: ClientConnection, token: str) -> None:
        hello = {"type": "hello", "token": token, **self._hello()}
        async with asyncio.timeout(OPEN_WITHIN):
            await socket.send(orjson.dumps(hello), text=True)
            while True:
                frame = decoded(await socket.recv(decode=False))
                if frame.get("type") == "welcome":
                    break
        self._socket = socket
        self._limits = self._welcomed(frame)
        self._backoff.reset()
        self.hand_on(frame)

    async def _write(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionClosed):
            while True:
                self._wake.clear()
                await self._flush(socket)
                at = self._outbox.next_at(sends=not self.holding)
                if at is not None and at <= loop.time():
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(at):
                        await self._wake.wait()

    async def _write_notes(self, socket: ClientConnection) -> None:
        while self._notes:
            note = self._notes.pop(next(iter(self._notes)))
            await socket.send(note, text=True)

    async def _flush(self, socket: ClientConnection) -> None:
        await self._write_notes(socket)
        now = asyncio.get_running_loop().time()
        for request in self._outbox.take(now, sends=not self.holding):
            await socket.send(request.data, text=True)

    # Frames

    def _take(self, frame: Frame) -> None:
        kind, ref = frame.get("type"), frame.get("ref")
        request = self._outbox.get(ref)
        code = str(frame.get("code"))
        if kind == "error" and code in RETRIED:
            if request is not None:
                wait = frame.get("retry_after")
                wait = float(wait) if isinstance(wait, int | float) else None
                now = asyncio.get_running_loop().time()
                self._outbox.postpone(request.ref, now, code, wait)
                self._wake.set()
                return
            if code != ErrorCode.INTERNAL:  # what comes of a fault may come of it again
                self._repeat(ref)
        answers = kind in ANSWERS or kind == "error"
        self._received(frame, request if answers else None)
        if request is not None and answers:
            self.settle(request.ref, frame)

    def settle(self, ref: str, answer: Frame) -> None:
        """Give the request under `ref` its answer."""
        if self._outbox.settle(ref) is None:
            return
        self._wake.set()
        future = self._futures.pop(ref, None)
        if future is None or future.done():
            return
        if answer.get("type") == "error":
            fail(future, RequestFailed(str(answer.get("code")), str(answer.get("message"))))
        else:
            future.set_result(answer)

    def hand_on(self, frame: Frame) -> None:
        """Show a frame to `on_frame` and to those who wait for one."""
        self.seen += 1
        self._recent.append((self.seen, frame))
        self._watch.add(frame)
        call(self._on_frame, frame)

    async def wait_for(
        self, predicate: Callable[[Frame], object], timeout: float | None, since: int
    ) -> Frame:
        past = [frame for number, frame in self._recent if number > since]
        return await self._watch.wait(predicate, past, timeout)

    # Requests and notes

    async def ask(self, frame: Frame, *, is_send: bool = False) -> Frame:
        """The answer to a request. Raises what `gateway.clientside.errors` draws."""
        if self._task is None:
            raise RuntimeError("start the client first")
        if self.ended is not None:
            raise ConnectionEnded(*self.ended)
        ref = self._put(frame, is_send=is_send)
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._futures[ref] = future
        try:
            return await future
        finally:
            if not future.done() or future.cancelled():
                self._futures.pop(ref, None)
                self._outbox.withdraw(ref)

    def ask_quietly(self, frame: Frame) -> str:
        """Ask for what the client itself wants; its ref. It dies with the socket."""
        return self._put(frame, quiet=True)

    def _put(self, frame: Frame, *, is_send: bool = False, quiet: bool = False) -> str:
        """Put a request on its way, and tell its ref. What is None in it is not said."""
        ref = str(uuid4())
        frame = {name: value for name, value in frame.items() if value is not None} | {"ref": ref}
        data = orjson.dumps(frame)
        if len(data) > self._limits.frame_bytes:
            # The server would close the socket, and again for every attempt.
            raise RequestFailed(
                ErrorCode.TOO_LARGE, f"a frame has at most {self._limits.frame_bytes} bytes"
            )
        self._outbox.put(Request(ref, frame, data, is_send, quiet))
        self._wake.set()
        return ref

    def note(self, frame: Frame) -> None:
        """Put a frame without an answer on its way; a newer one of its kind, about the same
        conversation, replaces it.

        An ack or a read that the server could not take is said again.
        """
        if self._socket is not None:
            if frame["type"] == "state":
                self._say_again()
            kind = f"{frame['type']} {frame.get('customer', '')}"
            is_mark = frame["type"] in Marks.TYPES
            self._notes.pop(kind, None)
            self._notes[kind] = self._marks.put(kind, frame) if is_mark else orjson.dumps(frame)
            self._wake.set()

    def _say_again(self) -> None:
        for mark in self._marks.standing():
            self._notes[mark.kind] = mark.data

    def _repeat(self, ref: object) -> None:
        found = self._marks.refused(ref)
        if found is None:
            return
        mark, wait = found

        def again() -> None:
            if self._marks.stands(mark):
                self._notes[mark.kind] = mark.data
                self._wake.set()

        asyncio.get_running_loop().call_later(wait, again)

    def wake(self) -> None:
        self._wake.set()

    async def say(self, frame: Frame) -> None:
        """`note`, and wait until it is written, if there is a socket."""
        self.note(frame)
        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._write_notes(self._socket)

    async def refresh(self, token: str) -> None:
        had = self._tokens.replace(token)  # who comes back before the answer does with the new one
        try:
            await self.ask({"type": "refresh", "token": token})
        except RequestFailed:
            self._tokens.replace(had)
            raise
