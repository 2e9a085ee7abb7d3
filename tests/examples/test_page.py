"""The page of the reference backend, in a real browser: from the button to the notification.

Everything is real but the push service of the browser's maker, which is on the internet: the page
gets a fake one's subscription from `PushManager.subscribe`, and what that fake was sent is handed
to the page's service worker as the browser would.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from gateway.protocol import Role
from tests.examples.test_customer_backend import world
from tests.faults.needs import needs
from tests.push.scripted import SECRET
from tests.running import PATIENCE, Backend, Running, running
from tests.web.test_axe import axe_source, violations


@asynccontextmanager
async def browsing(origin: str) -> AsyncIterator[Page]:
    """A page of a browser that may show notifications of `origin`."""
    needs("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context = await browser.new_context()
        context.set_default_timeout(2000 * PATIENCE)
        await context.grant_permissions(["notifications"], origin=origin)
        yield await context.new_page()
        await browser.close()


async def test_a_browser_is_registered_by_the_page_and_shows_each_ring_once(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as at:
        port = int(at.endpoint.url.rpartition(":")[2].removesuffix("/ring"))
        origin = f"http://127.0.0.1:{port}"
        push = {"auth_token": "auth-token", "signing_secret": SECRET}
        async with (
            running(tmp_path, Backend(port), push=push, origins={"acme": [origin]}) as it,
            browsing(origin) as page,
        ):
            await registered(page, it, at.browser.subscription)
            assert await violations(page, axe_source()) == []
            title, text = "<img src=x onerror=alert(1)>", "Grüße 👋 & <b>more</b>"
            seq = await it.write(text=text, title=title)
            await it.settled(seq, "pushed")
            (sent,) = at.push_service.sent
            await deliver(page, origin, sent.body, sent.body)  # a double that nobody could stop
            await page.wait_for_function(f"{SHOWN}.then(all => all.length > 0)")
            assert await page.evaluate(SHOWN) == [[title, text]]


SHOWN = """navigator.serviceWorker.getRegistration()
    .then(worker => worker.getNotifications())
    .then(all => all.map(each => [each.title, each.body]))"""


async def registered(page: Page, it: Running, subscription: dict[str, Any]) -> None:
    """Fill in the form as a person would."""
    told = json.dumps(subscription)
    await page.add_init_script(f"PushManager.prototype.subscribe = async () => ({told})")
    await page.goto(it.backend.url.removesuffix("ring"))
    await page.get_by_label("HTTP API").fill(it.url("/"))
    await page.get_by_label("customer's token").fill("another's")
    await page.get_by_role("button").click()
    await page.get_by_text("It did not work: Ringback answered 401").wait_for()
    await page.get_by_label("customer's token").fill(it.token(Role.CUSTOMER, "c-42"))
    await page.get_by_role("button").click()
    await page.get_by_text("Registered as installation").wait_for()


async def deliver(page: Page, origin: str, *payloads: dict[str, Any]) -> None:
    """What the browser does when its push service has something for the page."""
    workers: asyncio.Queue[str] = asyncio.Queue()

    def told(event: dict[str, Any]) -> None:
        for each in event["registrations"]:
            workers.put_nowait(each["registrationId"])

    session = await page.context.new_cdp_session(page)
    session.on("ServiceWorker.workerRegistrationUpdated", told)
    await session.send("ServiceWorker.enable")
    async with asyncio.timeout(PATIENCE):
        worker = await workers.get()
    for payload in payloads:
        await session.send(
            "ServiceWorker.deliverPushMessage",
            {"origin": f"{origin}/", "registrationId": worker, "data": json.dumps(payload)},
        )
