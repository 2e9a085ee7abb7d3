"""`ringback backend`: a customer backend that shows each call, and misbehaves when told to.

Decides the answer to a call: what docs/push-contract.md asks for, unless a `Behaviour` is in
force. Leaves to `gateway.kit.received` what a call is, to `gateway.kit.cli` the terminal. It sends
nothing on: what it rings is the screen. A backend to learn from is `examples/customer_backend/`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol, TypeVar

import orjson
from aiohttp import web

from gateway.kit.behaviours import HELP, Behaviour, UnknownBehaviour, Way, parse
from gateway.kit.probe import RANG
from gateway.kit.received import Received, read
from push.ring import Verdict
from push.verdicts import Answer, Failure, judge

REMEMBERED: Final = 10_000  # ring ids and badges; the oldest is forgotten beyond
K = TypeVar("K")
V = TypeVar("V")
LOOPBACK: Final = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Answered:
    """How a call ended. `verdict` is what Ringback makes of it; it has the status, if any."""

    why: str
    verdict: Verdict
    ms: float


class Given(NamedTuple):
    """An answer to be."""

    status: int
    why: str
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Screen(Protocol):
    """Where calls are shown."""

    def arrived(self, call: Received, double: bool) -> None: ...

    def answered(
        self,
        call: Received,
        double: bool,
        answered: Answered,
        headers: Mapping[str, str],
        raw: bytes,
    ) -> None: ...


@dataclass(slots=True)
class FakeBackend:
    """One backend. What it is given no `auth_token`, `secrets` or `headers` for is not checked."""

    screen: Screen
    auth_token: str | None = None
    secrets: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    behaviour: Behaviour = field(default_factory=Behaviour)
    clock: Callable[[], float] = time.time
    _dead: set[str] = field(default_factory=set)
    _rung: dict[str, int] = field(default_factory=dict)
    _badge_seqs: dict[tuple[str, str], int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        """Any POST is a ring, whatever its path, but for `/control`."""
        app = web.Application(client_max_size=1024 * 1024)
        app.router.add_post("/control", self._control)
        app.router.add_get("/control", self._control)
        app.router.add_post("/{path:.*}", self._ring)
        return app

    def behave(self, line: str) -> Behaviour:
        """From now on do as `line` says. Raises `UnknownBehaviour`."""
        behaviour = parse(line)
        if behaviour.way is Way.DEAD:
            self._dead.add(behaviour.token or "")
            return behaviour
        self._set(behaviour)
        return behaviour

    def _set(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._changed.set()  # calls that hang go on by the new one
        self._changed = asyncio.Event()

    def _next(self) -> Behaviour:
        """The behaviour for one more call."""
        behaviour = self.behaviour
        if behaviour.calls is not None:
            left = behaviour.calls - 1
            self._set(replace(behaviour, calls=left) if left else Behaviour())
        return behaviour

    async def _control(self, request: web.Request) -> web.Response:
        asked = re.sub(r":\d+\Z", "", request.host.lower())  # what a tunnel was called is there
        here = request.remote in LOOPBACK and asked in ("127.0.0.1", "[::1]", "localhost")
        if not here or "Origin" in request.headers:  # of a page in somebody's browser
            return web.Response(status=403, text="only from this machine, and from no web page\n")
        if request.method == "POST":
            try:
                self.behave((await request.read()).decode(errors="replace"))
            except UnknownBehaviour as error:
                return web.Response(status=400, text=f"{error}\n")
            return web.Response(text=f"{self.behaviour}\n")
        return web.Response(text=f"{self.behaviour}\n\n{HELP}\n")

    async def _ring(self, request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        raw = await request.read()
        call = read(
            request.headers,
            raw,
            secrets=self.secrets,
            auth_token=self.auth_token,
            now=self.clock(),
            wanted=self.headers,
        )
        double = call.id in self._rung
        self.screen.arrived(call, double)
        given, why, failure = None, "the caller hung up", Failure.TIMEOUT
        try:
            given = await self._given(self._next(), call, double)
            if given is None:
                why, failure = "the connection is cut", Failure.RESET
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            return web.Response(status=given.status, body=given.body, headers=given.headers)
        finally:
            ms = (time.monotonic() - began) * 1000
            came = failure if given is None else Answer(given.status, given.headers, given.body)
            verdict = judge(came, call.token or "", self.clock())
            answered = Answered(given.why if given else why, verdict, ms)
            self.screen.answered(call, double, answered, request.headers, raw)

    async def _given(self, behaviour: Behaviour, call: Received, double: bool) -> Given | None:
        """Return the answer by `behaviour`; None to cut the connection."""
        while behaviour.way is Way.HANG:
            await self._changed.wait()
            behaviour = self._next()
        match behaviour.way:
            case Way.DROP:
                return None
            case Way.STATUS:
                wait = behaviour.seconds
                headers = {} if wait is None else {"Retry-After": f"{wait:.0f}"}
                return Given(behaviour.status, "as told", b"", headers)
            case Way.REJECT:
                return Given(200, "as told", _rejecting(call), _JSON)
            case Way.BAD_JSON:
                return Given(200, "as told", b'{"rejected": [', _JSON)
            case Way.REDIRECT:
                return Given(307, "as told", b"", {"Location": "/elsewhere"})
            case Way.SLOW:
                await asyncio.sleep(behaviour.seconds or 0.0)
        return self._properly(call, double)

    def _properly(self, call: Received, double: bool) -> Given:
        """Answer as the contract asks."""
        if call.refused is not None:
            return Given(401, call.refused)
        if call.order is None:
            return Given(400, "the body is no JSON object")
        if call.token in self._dead:
            return Given(410, "the device token is dead", _rejecting(call), _JSON)
        if double:
            return Given(200, "rung before, not again", headers=_rang(self._rung[call.id]))
        place = (call.token or "", call.customer or "")
        if call.badge_seq is not None:
            newest = self._badge_seqs.get(place, 0)
            if call.badge_seq < newest and call.kind == "badge":
                _remember(self._rung, call.id, 0)
                return Given(200, "a late badge, dropped", headers=_rang(0))
            _remember(self._badge_seqs, place, max(newest, call.badge_seq))
        if call.id:
            _remember(self._rung, call.id, 1)
        return Given(200, "rung", headers=_rang(1))


_JSON: Final = {"Content-Type": "application/json"}


def _rejecting(call: Received) -> bytes:
    return orjson.dumps({"rejected": [] if call.token is None else [call.token]})


def _rang(times: int) -> dict[str, str]:
    """Say how often it has rung, for `ringback push conform`."""
    return {RANG: str(times)}


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
