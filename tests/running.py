"""What end-to-end tests run against: a real gateway, SQLite file, sockets and customer backend.

Nothing here sleeps to wait: `Wire.take` waits for a frame, `Backend.take` for a call.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway import auth
from gateway.clock import Clock
from gateway.config.reading import load
from gateway.config.sections import Config
from gateway.protocol import Role
from gateway.server import Gateway
from push.worker import Load
from tests import canary
from tests.dice import Highest

PATIENCE = 10.0  # seconds after which a test gives up waiting; never a measure of anything

SECRET = "s" * 48
SIGNING = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwtest"

QUICK = {
    "ack_timeout": 0.3,
    "disconnect_grace": 0.1,
    "restart_window": 0.1,
    "restart_grace": 0.2,
    "max_hold": 2.0,
}
"""Delays of the delivery rule for tests that want them over soon."""

PATIENT = QUICK | {"ack_timeout": 60.0, "disconnect_grace": 60.0, "max_hold": 60.0}
"""Delays for tests in which no timeout may come."""


@dataclass(slots=True)
class Call:
    """One request that the backend got."""

    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes
    status: int | None = None
    """What the backend answered; None while it has not, or never did."""
    at: float = field(default_factory=time.monotonic)
    """When it had come, by the monotonic clock."""

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299

    @property
    def ring(self) -> dict[str, Any]:
        """What the app would find of ours in the notification."""
        ringback: dict[str, Any] = self.body["payload"]["ringback"]
        return ringback

    @property
    def badge(self) -> int:
        badge: int = self.body["payload"]["aps"]["badge"]
        return badge


Answer = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Backend:
    """A customer backend. `answers` are used up in order; then all get `otherwise`."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    answers: list[int | web.Response | Answer] = field(default_factory=list)
    otherwise: int | Answer = 200
    _arrived: asyncio.Queue[Call] = field(default_factory=asyncio.Queue)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ring"

    async def take(self) -> Call:
        """The next call that no test has taken yet."""
        async with asyncio.timeout(PATIENCE):
            return await self._arrived.get()

    @property
    def untaken(self) -> int:
        return self._arrived.qsize()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        call = Call(dict(request.headers), json.loads(raw), raw)
        answer = self.answers.pop(0) if self.answers else self.otherwise
        self.calls.append(call)
        self._arrived.put_nowait(call)
        if isinstance(answer, int):
            answer = web.Response(status=answer)
        response = answer if isinstance(answer, web.Response) else await answer(call)
        call.status = response.status
        return response


class Gate:
    """An answer of a backend that waits until the test lets it go."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.open = asyncio.Event()

    async def __call__(self, call: Call) -> web.StreamResponse:
        await self.open.wait()
        return web.Response(status=self.status)


@asynccontextmanager
async def backend() -> AsyncIterator[Backend]:
    """A backend that listens on a free port of loopback."""
    it = Backend()
    app = web.Application()
    app.router.add_post("/ring", it._serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.port = runner.addresses[0][1]
    try:
        yield it
    finally:
        await runner.cleanup()


def settings(
    directory: Path,
    endpoint: str | None,
    *,
    delivery: dict[str, float] | None = None,
    limits: dict[str, Any] | None = None,
    push: dict[str, Any] | None = None,
    tenants: tuple[str, ...] = ("acme", "other"),
    origins: dict[str, list[str]] | None = None,
    storage: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
) -> Config:
    """A configuration for tests: free ports, a database in `directory`, equal tenants."""
    rings = None
    if endpoint is not None:
        rings = {
            "endpoint": endpoint,
            "auth_token": "backend-auth-token",
            "signing_secret": SIGNING,
            "retry_first": 0.05,
            "retry_max": 0.1,
            **(push or {}),
        }
    tenant: dict[str, Any] = {
        "origins": ["https://app.acme.example"],
        "auth": {"algorithm": "HS256", "secret": SECRET},
    }
    if rings is not None:
        tenant["push"] = rings
    told = {
        "server": dict.fromkeys(("chat", "http", "admin"), "127.0.0.1:0") | (server or {}),
        "storage": {"url": f"sqlite:///{directory / 'ringback.db'}", **(storage or {})},
        "delivery": QUICK if delivery is None else delivery,
        "limits": limits or {},
        "tenants": {
            name: tenant | {"origins": (origins or {}).get(name, tenant["origins"])}
            for name in tenants
        },
    }
    path = directory / "ringback.toml"
    path.write_text(_toml(told))
    return load(path, {})


def _toml(tables: dict[str, Any], prefix: str = "") -> str:
    plain = {k: v for k, v in tables.items() if not isinstance(v, dict)}
    lines = [f"[{prefix}]"] if prefix and plain else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n"
    for key, value in tables.items():
        if isinstance(value, dict):
            text += _toml(value, f"{prefix}.{key}" if prefix else key)
    return text


class Wire:
    """A bare WebSocket that speaks frames; acknowledges nothing by itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}
        self._skipped: list[dict[str, Any]] = []

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def take(self, type: str, **wanted: Any) -> dict[str, Any]:
        """The next frame of this type with these fields; others are kept for later takes."""
        for i, frame in enumerate(self._skipped):
            if _fits(frame, type, wanted):
                return self._skipped.pop(i)
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = json.loads(await self.socket.recv())
                if _fits(frame, type, wanted):
                    return dict(frame)
                self._skipped.append(frame)

    async def next(self) -> dict[str, Any]:
        """The very next frame, whatever it is."""
        if self._skipped:
            return self._skipped.pop(0)
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
            return frame

    async def ask(self, type: str, answer: str, **fields: Any) -> dict[str, Any]:
        """Send a request and take its answer, by `ref`."""
        ref = fields.setdefault("ref", f"q{next(_refs)}")
        await self.send(type, **fields)
        return await self.take(answer, ref=ref)

    async def quiet(self) -> list[dict[str, Any]]:
        """Everything that had been sent before a ping was answered: what came, and nothing else."""
        ref = f"q{next(_refs)}"
        await self.send("ping", ref=ref)
        frames, self._skipped = self._skipped, []
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = json.loads(await self.socket.recv())
                if frame["type"] == "pong" and frame.get("ref") == ref:
                    return frames
                frames.append(frame)

    async def closed(self) -> int | None:
        """Wait until the server has closed; the code."""
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    self._skipped.append(json.loads(await self.socket.recv()))
            except ConnectionClosed:
                return self.socket.close_code

    def vanish(self) -> None:
        """Cut the TCP connection without a word."""
        self.socket.transport.abort()


_refs = itertools.count()


def _fits(frame: dict[str, Any], type: str, wanted: dict[str, Any]) -> bool:
    return frame["type"] == type and all(frame.get(k) == v for k, v in wanted.items())


class Running:
    """A gateway in this process, with its backend and what clients need."""

    def __init__(self, gateway: Gateway, backend: Backend) -> None:
        self.gateway = gateway
        self.backend = backend
        self.http = aiohttp.ClientSession()
        self._wires: list[Wire] = []

    def token(
        self,
        role: Role,
        sub: str,
        tenant: str = "acme",
        *,
        name: str | None = None,
        ttl: float = 600.0,
    ) -> str:
        return auth.issue(self.gateway.config, tenant, role, sub, name=name, ttl=ttl)

    def url(self, path: str, listener: str = "http") -> str:
        return f"http://127.0.0.1:{self.gateway.ports[listener]}{path}"

    def chat_url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.gateway.ports['chat']}{path}"

    async def raw(self, path: str, **options: Any) -> Wire:
        """A socket that has not said hello."""
        wire = Wire(await connect(self.chat_url(path), compression=None, proxy=None, **options))
        self._wires.append(wire)
        return wire

    async def customer(self, sub: str = "c-42", tenant: str = "acme", **hello: Any) -> Wire:
        wire = await self.raw("/v1/chat")
        hello.setdefault("token", self.token(Role.CUSTOMER, sub, tenant))
        await wire.send("hello", **hello)
        wire.welcome = await wire.take("welcome")
        return wire

    async def agent(
        self,
        sub: str = "a-1",
        tenant: str = "acme",
        *,
        open: str | None = None,
        name: str | None = None,
    ) -> Wire:
        wire = await self.raw("/v1/agent")
        await wire.send("hello", token=self.token(Role.AGENT, sub, tenant, name=name))
        wire.welcome = await wire.take("welcome")
        if open is not None:
            await wire.ask("open", "conversation", customer=open)
        return wire

    async def call(
        self,
        method: str,
        path: str,
        role: Role | None = None,
        sub: str = "x",
        *,
        tenant: str = "acme",
        listener: str = "http",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> tuple[int, Any]:
        """An HTTP call: status and JSON (or text)."""
        canary.asked(options.get("json"))
        headers = dict(headers or {})
        if role is not None:
            headers["Authorization"] = f"Bearer {self.token(role, sub, tenant)}"
        async with self.http.request(
            method, self.url(path, listener), headers=headers, **options
        ) as answer:
            text = await answer.text()
            told = json.loads(text) if "json" in answer.content_type else text
            return answer.status, told

    async def register(
        self,
        sub: str = "c-42",
        installation: str = "phone",
        token: str = "device-token",
        tenant: str = "acme",
        **about: str,
    ) -> str:
        """Register a device over HTTP; the deregistration key."""
        status, told = await self.call(
            "PUT",
            f"/v1/devices/{installation}",
            Role.CUSTOMER,
            sub,
            tenant=tenant,
            json={"token": token, "platform": "ios", **about},
        )
        assert status == 200, told
        key: str = told["deregistration_key"]
        return key

    async def write(self, customer: str = "c-42", text: str = "offer", **more: Any) -> int:
        """A proactive message by the tenant's service; its seq."""
        status, told = await self.call(
            "POST",
            "/v1/messages",
            Role.SERVICE,
            "crm",
            json={"customer": customer, "text": text, **more},
        )
        assert status == 201, told
        seq: int = told["seq"]
        return seq

    async def outcome(self, seq: int, customer: str = "c-42") -> dict[str, Any]:
        """What is recorded of one message."""
        status, told = await self.call(
            "GET", f"/v1/customers/{customer}/deliveries?seq={seq}", Role.SERVICE
        )
        assert status == 200, told
        answer: dict[str, Any] = told
        return answer

    async def settled(self, seq: int, outcome: str, customer: str = "c-42") -> dict[str, Any]:
        """Wait until a message's outcome is `outcome`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                changed = self.next_commit()
                told = await self.outcome(seq, customer)
                if told["outcome"] == outcome:
                    return told
                await changed.wait()

    @property
    def load(self) -> Load:
        """How the backend of `acme` is, and what waits for it."""
        return self.gateway.core.loads()["acme", ""]

    def retry_late(self) -> None:
        """From now on what failed is tried again after the whole of its back-off: of full jitter
        it may be at once, however long that is."""
        self.gateway.core._worker._rng = Highest()

    def pass_time(self, seconds: float) -> None:
        """So long has passed for the gateway, at once: what became due meanwhile is due now."""
        core = self.gateway.core
        assert isinstance(core.clock, Clock)
        core.clock._offset += seconds
        core.book.alarms._arm()
        for lane in core.campaigns._lanes.values():
            lane.wake.set()

    def next_commit(self) -> asyncio.Event:
        """An event that the next commit sets."""
        event = asyncio.Event()
        store = self.gateway.core.store
        before = store.changed

        def changed(conversation: Any) -> None:
            store.changed = before
            before(conversation)
            event.set()

        store.changed = changed
        return event

    def hang_up(self) -> None:
        """Cut every socket."""
        for wire in self._wires:
            wire.vanish()

    async def close(self) -> None:
        self.hang_up()
        await self.http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@asynccontextmanager
async def running(
    directory: Path, backend_: Backend | None = None, **options: Any
) -> AsyncIterator[Running]:
    """A gateway over the database in `directory`; run it again there to restart it."""
    async with backend() if backend_ is None else _given(backend_) as it:
        configured = settings(directory, it.url, **options)
        gateway = Gateway(configured)
        async with Running(gateway, it) as all_of_it, gateway:  # clients outlive the gateway
            yield all_of_it


@asynccontextmanager
async def busy(directory: Path, **push: Any) -> AsyncIterator[tuple[Running, Gate]]:
    """A gateway whose only call to `acme`'s backend is out, for c-1, until the gate opens."""
    async with running(directory, push={"in_flight": 1, **push}) as it:
        gate = Gate()
        it.backend.answers.append(gate)
        await it.register("c-1", installation="another", token="token-of-c-1")
        await it.write("c-1")
        await it.backend.take()
        yield it, gate


@asynccontextmanager
async def _given(it: Backend) -> AsyncIterator[Backend]:
    yield it


def change(of: Config, **sections: Any) -> Config:
    """The configuration with whole sections replaced."""
    return msgspec.structs.replace(of, **sections)
