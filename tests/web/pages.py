"""A company's web page with the widget on it, a real browser, and a gateway that may be reached.

The page is the two lines of docs/web.md under a strict Content-Security-Policy, on an origin of its
own. A test fails for whatever the browser complains of: console errors, uncaught exceptions, policy
violations. What Chromium itself says of a network that is down is not counted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    async_playwright,
    expect,
)

from gateway import auth
from gateway.protocol import Role
from tests.faults.needs import needs
from tests.running import Running

expect.set_options(timeout=20_000)  # when a test gives up waiting; never a measure of anything
NETWORK = ("WebSocket connection to", "Failed to load resource")
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""

NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
}
"""  # as a browser that was told to keep no data of sites

CONTENT = """<body><header><b>acme</b><span>Send</span><span>Prices</span></header>
<main><h1>Parcels, fast.</h1>
<p>Next day to any door in the country, and a person to talk to while it is on its way.</p>
<ul><li><b>By noon</b>or you have your money back</li>
<li><b>To a neighbour</b>if you say so in chat</li>
<li><b>Until ten</b>we answer, on weekends too</li></ul></main>"""


@dataclass(slots=True)
class Site:
    """The company's server: its page and where its page gets tokens."""

    port: int = 0
    ttl: float = 600.0
    name: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    answer: int = 200
    """The HTTP status of the token endpoint."""
    bare: bool = False
    """Whether it answers with the token alone, and not with JSON."""
    asked: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Whose tokens were asked for."""
    gateway: Running | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _token(self, request: web.Request) -> web.Response:
        assert self.gateway is not None
        self.asked.put_nowait(request.query.get("sub", "c-42"))
        if self.answer != 200:
            return web.Response(status=self.answer, text="Nobody is signed in.")
        told = auth.issue(
            self.gateway.gateway.config,
            "acme",
            Role.CUSTOMER,
            request.query.get("sub", "c-42"),
            name=self.name,
            ttl=self.ttl,
        )
        return web.Response(text=f"{told}\n") if self.bare else web.json_response({"token": told})

    def _page(self, request: web.Request) -> web.Response:
        assert self.gateway is not None
        http, chat = self.gateway.url(""), self.gateway.chat_url("/v1/chat")
        sub = request.query.get("sub", "c-42")
        attributes = {"url": chat, "http": http, "token-url": f"/token?sub={sub}"} | self.attributes
        chat = attributes["url"]
        told = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
        policy = [
            "default-src 'none'",
            f"script-src {http}/web/",
            f"connect-src 'self' {http} {chat}",
            "style-src 'self'",
            "base-uri 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
        return web.Response(
            text=f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Acme</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/acme.css"></head>
{CONTENT}
<script type="module" src="{http}/web/ringback-chat.js"></script>
<ringback-chat {told}></ringback-chat>
</body></html>""",
            content_type="text/html",
            headers={"Content-Security-Policy": "; ".join(policy)},
        )


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A company's server on a free port."""
    it = Site()

    async def page(request: web.Request) -> web.Response:
        return it._page(request)

    async def token(request: web.Request) -> web.Response:
        return it._token(request)

    async def nothing(request: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()

    async def style(request: web.Request) -> web.FileResponse:
        return web.FileResponse(Path(__file__).with_name("acme.css"))

    app.add_routes(
        [
            web.get("/", page),
            web.get("/acme.css", style),
            web.get("/token", token),
            web.get("/favicon.ico", nothing),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.port = runner.addresses[0][1]
    try:
        yield it
    finally:
        await runner.cleanup()


_chromium: Browser | None = None
_started = AsyncExitStack()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The machine's own Chromium, headless and as new; skips or fails where there is none.

    It goes on for the next test, on the same loop, until `stop_chromium`.
    """
    global _chromium
    needs("chromium")
    if _chromium is None or not _chromium.is_connected():
        await stop_chromium()
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        playwright = await _started.enter_async_context(async_playwright())
        _chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        _started.push_async_callback(_chromium.close)
    try:
        yield _chromium
    finally:
        for context in _chromium.contexts:
            await context.close()


async def stop_chromium() -> None:
    """End it, if it was started."""
    await _started.aclose()


async def hold(page: Page, url: str) -> Callable[[], None]:
    """Requests of these addresses wait until what is returned is called."""
    let_go = asyncio.Event()

    async def later(route: Route) -> None:
        await let_go.wait()
        await route.continue_()

    await page.route(url, later)
    return let_go.set


class Visit:
    """One browser profile on the company's site, and all that it complained of."""

    def __init__(self, site: Site, context: BrowserContext) -> None:
        self.site = site
        self.context = context
        self.complaints: list[str] = []
        self._pages: list[Page] = []

    async def page(self, query: str = "") -> Page:
        """The site in a new tab."""
        page = await self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.add_init_script(VIOLATIONS)
        await page.goto(f"{self.site.origin}/{query}")
        self._pages.append(page)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(NETWORK):
            self.complaints.append(message.text)

    async def check(self) -> None:
        for page in self._pages:
            self.complaints += await page.evaluate("window.violations ?? []")
        assert not self.complaints, "\n".join(self.complaints)


@asynccontextmanager
async def visit(browser: Browser, site: Site, **options: Any) -> AsyncIterator[Visit]:
    """A visitor's browser; at the end, nothing may have been complained of."""
    context = await browser.new_context(**options)
    try:
        it = Visit(site, context)
        yield it
        await it.check()
    finally:
        await context.close()
