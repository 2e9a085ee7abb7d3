"""The demo in a browser, to play with: `make demo-web`, or `python -m examples.demo --web`.

One page: a customer's phone, an agent's desk, and the gateway's decisions as they are recorded. Its
switches are real: airplane mode swallows the phone's packets, the gateway is killed with SIGKILL,
the backend answers 503. `WebDemo` serves the page and tells it what is so, as one state, whenever
that changes. Only for browsers of this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiohttp import web

from examples.stage import FAILURES, ROOT, DemoFailed, Ring, Stage, Timeline
from gateway import sentences, why
from gateway.protocol import Role
from storage.store import Told

CUSTOMER: Final = "alice"
LOOK_EVERY: Final = 0.3  # seconds between two looks at what is recorded
MESSAGES: Final = 12  # of the newest, whose decisions are shown
RINGS: Final = 50

DELAYS: Final = {
    "ack_timeout": 3.0,
    "disconnect_grace": 1.0,
    "restart_window": 1.0,
    "restart_grace": 3.0,
    "max_hold": 10.0,
}
"""The delays of the delivery rule, in seconds: long enough to see, short enough to wait for."""

PEOPLE: Final[Mapping[str, tuple[Role, str, str]]] = {
    "customer": (Role.CUSTOMER, CUSTOMER, "Alice"),
    "agent": (Role.AGENT, "ann", "Ann"),
}


class WebDemo:
    """The page's server. It changes the stage only by the page's switches."""

    def __init__(self, stage: Stage, port: int, token_lasts: float) -> None:
        self._stage = stage
        self._token_lasts = token_lasts
        self._names = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._on = dict.fromkeys(("airplane", "killed", "broken"), False)
        self._turns = 0  # switches turned so far: a state tells up to which it is
        self._turning = asyncio.Lock()
        self._state = ""
        self._changed = asyncio.Condition()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/places", self._places),
                web.get("/token", self._token),
                web.get("/events", self._events),
                web.post("/switch", self._switch),
                web.static("/page", ROOT / "examples" / "web"),
                web.static("/web", ROOT / "gateway" / "web"),
            ]
        )
        return app

    async def look(self) -> None:
        """Tell pages what is so, whenever it has changed. Until cancelled."""
        while True:
            state = json.dumps(await self._now())
            if state != self._state:
                async with self._changed:
                    self._state = state
                    self._changed.notify_all()
            await asyncio.sleep(LOOK_EVERY)

    async def _now(self) -> dict[str, Any]:
        rings = self._stage.backend.rung
        return {
            **self._on,
            "turns": self._turns,
            "rings": [_ring(ring) for ring in rings[-RINGS:]],
            "ringsBefore": max(0, len(rings) - RINGS),
            "messages": [_decisions(told) for told in await self._stage.lately(CUSTOMER, MESSAGES)],
        }

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Other pages that the browser has open get no token and turn no switch."""
        if request.host not in self._names:
            raise web.HTTPForbidden(text="this page is for browsers of this machine\n")
        answer = await handler(request)
        if not answer.prepared:
            answer.headers["Content-Security-Policy"] = self._policy()
            answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
            answer.headers["X-Content-Type-Options"] = "nosniff"
            answer.headers["Cache-Control"] = "no-cache"
        return answer

    def _policy(self) -> str:
        places = " ".join(self._addresses().values())
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self' {places}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        )

    def _addresses(self) -> dict[str, str]:
        """The phone reaches the gateway through the network that can fail; Ann does not."""
        return {
            "phone": f"ws://127.0.0.1:{self._stage.network.port}",
            "desk": self._stage.gateway.chat_url(""),
            "http": self._stage.gateway.url("http"),
        }

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(ROOT / "examples" / "web" / "index.html")

    async def _places(self, request: web.Request) -> web.Response:
        return web.json_response(self._addresses())

    async def _token(self, request: web.Request) -> web.Response:
        """What a company's server gives to whoever is signed in there."""
        who = PEOPLE.get(request.query.get("role", ""))
        if who is None:
            raise web.HTTPBadRequest(text="role: give customer or agent\n")
        return web.json_response({"token": self._stage.token(*who, self._token_lasts)})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        told = ""
        with suppress(ConnectionError):
            while True:
                told = await self._after(told)
                await answer.write(f"data: {told}\n\n".encode())
        return answer

    async def _after(self, told: str) -> str:
        """The state that is not `told` any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state != told)
            return self._state

    async def _switch(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # what no other origin may send unasked
            raise web.HTTPUnsupportedMediaType(text="the body must be JSON\n")
        match await request.json():
            case {"name": str(name), "on": bool(on)} if name in self._on:
                pass
            case _:
                raise web.HTTPBadRequest(text="give name and on\n")
        async with self._turning:
            if self._on[name] is not on:
                try:
                    await self._turn(name, on=on)
                except FAILURES as error:
                    raise web.HTTPInternalServerError(text=str(error)) from None
                self._on[name] = on
                self._turns += 1
            return web.json_response({"turns": self._turns})

    async def _turn(self, name: str, *, on: bool) -> None:
        stage = self._stage
        if name == "killed":
            await (stage.gateway.kill() if on else stage.gateway.start(DELAYS))
        elif name == "broken":
            await stage.backend.behave("503" if on else "ok")
            stage.show.line("backend", "is down" if on else "is up again")
        elif on:
            stage.network.blackhole()
            stage.show.line("network", "swallows everything that Alice's phone says or is told")
        else:
            stage.network.heal()
            stage.show.line("network", "is back")


def _ring(ring: Ring) -> dict[str, Any]:
    return {"text": ring.text, "badge": ring.badge}


def _decisions(told: Told) -> dict[str, Any]:
    answer = why.deliveries(told, told.message.at)
    return {
        "seq": told.message.seq,
        "text": told.message.text,
        "outcome": answer["outcome"],
        "summary": " ".join(sentences.summary(answer)),
        "events": [
            {
                "at": sentences.clock(entry["at"]),
                "event": entry["event"],
                "what": sentences.told(entry),
            }
            for entry in answer["events"]
        ],
    }


@asynccontextmanager
async def opened(
    show: Timeline, port: int = 0, token_lasts: float = 600.0
) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """Everything runs: the page's address, and what ends only if something went wrong.

    `port` 0 takes a free one. `token_lasts` in seconds: the page renews its tokens by itself.
    """
    try:
        taken = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise DemoFailed(
            f"--port {port}: {os.strerror(error.errno or 0)}; choose another"
        ) from None
    with taken:
        port = taken.getsockname()[1]
        origins = (f"http://127.0.0.1:{port}", f"http://localhost:{port}")
        async with Stage(show, DELAYS, origins) as stage:
            demo = WebDemo(stage, port, token_lasts)
            runner = web.AppRunner(demo.application(), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            looking = asyncio.create_task(demo.look())
            try:
                await web.SockSite(runner, taken).start()
                yield origins[0], looking
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                await runner.cleanup()
