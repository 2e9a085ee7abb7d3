"""An agent at the console in a real browser. Whatever the browser complains of fails the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page

from gateway.clock import Clock
from gateway.protocol import Role
from tests.running import Running
from tests.web.pages import NETWORK, VIOLATIONS


class Desk:
    """One tab with the console, and all that it complained of."""

    def __init__(self, it: Running, page: Page) -> None:
        self.it = it
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(20_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def token(self, sub: str = "a-1", name: str | None = "Ada", ttl: float = 600.0) -> str:
        return self.it.token(Role.AGENT, sub, name=name, ttl=ttl)

    async def sign_in(self, token: str | None = None) -> None:
        """By keyboard: the field has the focus."""
        await self.page.locator("#token:focus").wait_for()
        await self.page.keyboard.insert_text(token or self.token())
        await self.page.keyboard.press("Enter")

    def row(self, customer: str = "c-42") -> Locator:
        return self.page.locator(f'[data-customer="{customer}"]')

    def messages(self) -> Locator:
        return self.page.locator("#messages .message")

    async def open(self, customer: str = "c-42") -> None:
        await self.row(customer).click()
        await self.page.locator("#draft:focus").wait_for()

    async def write(self, text: str) -> None:
        await self.page.locator("#draft").fill(text)
        await self.page.keyboard.press("Enter")

    async def check(self) -> None:
        self.complaints += await self.page.evaluate("window.violations ?? []")
        assert not self.complaints, "\n".join(self.complaints)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(NETWORK):
            self.complaints.append(message.text)


@asynccontextmanager
async def desk(browser: Browser, it: Running, **options: Any) -> AsyncIterator[Desk]:
    """The console, not signed in; at the end, nothing may have been complained of."""
    context = await browser.new_context(**options)
    try:
        page = await context.new_page()
        at = Desk(it, page)
        await page.add_init_script(VIOLATIONS)
        await page.goto(it.url("/console"))
        yield at
        await at.check()
    finally:
        await context.close()


@contextmanager
def earlier(it: Running, *, days: float) -> Iterator[None]:
    """The gateway dates what is done within so long ago."""
    clock = it.gateway.core.clock
    assert isinstance(clock, Clock)
    clock._offset -= days * 86_400
    it.gateway.core.context.restart_grace_until = 0.0  # the start was long ago, too
    it.gateway.core.book.alarms.floor = 0.0
    try:
        yield
    finally:
        clock._offset += days * 86_400
