"""The demo's page in a real browser: gateway, backend, network and switches are real."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Locator, Page, Route, WebSocket, expect

from examples import webdemo
from examples.stage import DemoFailed, Timeline
from tests.web.pages import NETWORK, VIOLATIONS, chromium, hold

GONE = "The demo’s server does not answer: is it still running?"
HOSTILE = '<img src=x onerror="window.pwned=1">'


@asynccontextmanager
async def played(
    width: int = 1440, token_lasts: float = 600.0, **options: Any
) -> AsyncIterator[Page]:
    """The page, once Alice is in chat and can be rung; at the end nothing was complained of."""
    complaints: list[str] = []
    async with (
        webdemo.opened(Timeline(), token_lasts=token_lasts) as (url, looking),
        chromium() as browser,
    ):
        context = await browser.new_context(viewport={"width": width, "height": 900}, **options)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text)
                if said.type in ("error", "warning") and not said.text.startswith(NETWORK)
                else None
            ),
        )
        await page.add_init_script(VIOLATIONS)
        await page.goto(url)
        await page.wait_for_selector("body[data-registered]")
        await expect(page.locator("#presence")).to_have_text("Alice is in chat")
        yield page
        complaints += await page.evaluate("window.violations")
        assert complaints == []
        assert await page.evaluate("window.pwned") is None
        assert not looking.done()


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message to Alice").fill(text)
    await page.keyboard.press("Enter")


async def ask(page: Page, text: str) -> None:
    """Alice writes."""
    alice = page.locator("ringback-chat textarea")
    await alice.fill(text)
    await alice.press("Enter")
    await expect(page.locator("#thread p").last).to_have_text(text)


async def turn(page: Page, name: str, *, on: bool) -> None:
    """Turn a switch by keyboard, and wait until it has had its effect."""
    switch = page.get_by_label(name)
    await reach(page, switch)
    await page.keyboard.press("Space")
    await expect(switch).to_be_enabled()
    await expect(switch).to_be_checked(checked=on)
    await expect(switch).to_be_focused()


async def reach(page: Page, it: Locator) -> None:
    """With the Tab key alone."""
    for _ in range(25):
        if await it.evaluate("(it) => it.matches(':focus')"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {it}")


async def test_every_step_goes_by_keyboard() -> None:
    async with played() as page:
        alice = page.locator("ringback-chat textarea")
        ann = page.get_by_label("Message to Alice")
        marks = page.locator("#thread small")
        note = page.locator("#lock-screen .note")
        await reach(page, alice)
        await page.keyboard.type("Where is it?")
        await page.keyboard.press("Enter")
        await expect(page.locator("#thread p")).to_have_text(["Where is it?"])
        await reach(page, page.get_by_role("button", name="Your parcel left Hamburg today."))
        await page.keyboard.press("Enter")
        await expect(marks).to_have_text(["read"])

        await turn(page, "Background", on=True)
        await reach(page, ann)
        await page.keyboard.type("In the background.")
        await page.keyboard.press("Enter")
        await reach(page, page.get_by_role("button", name="Open Acme, 1 unread"))
        await page.keyboard.press("Enter")
        await expect(alice).to_be_focused()
        await expect(marks).to_have_text(["read", "read"])

        await turn(page, "Lock phone", on=True)
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await reach(page, page.get_by_role("button", name="Unlock"))
        await page.keyboard.press("Enter")
        await expect(alice).to_be_focused()
        await expect(page.locator("#presence")).to_have_text("Alice is in chat")

        await turn(page, "Lock phone", on=True)
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await reach(page, ann)
        await page.keyboard.type("Locked.")
        await page.keyboard.press("Enter")
        await expect(note).to_contain_text(["Locked."])
        await reach(page, note)
        await page.evaluate("document.getElementById('canned').firstChild.click()")
        await expect(note).to_contain_text(["Hello Alice", "Locked."])
        await expect(note.last).to_be_focused()  # what rings meanwhile does not take it away
        await page.keyboard.press("Enter")
        await expect(alice).to_be_focused()
        await expect(marks.last).to_have_text("read")

        for name in ("Airplane mode", "Kill gateway", "Backend down"):
            await turn(page, name, on=True)
            await turn(page, name, on=False)
        await expect(page.locator("#presence")).to_have_text("Alice is in chat")


async def test_a_switch_that_takes_its_time_takes_the_focus_from_nobody() -> None:
    async with played() as page:
        let_go = await hold(page, "**/switch")
        switch = page.get_by_label("Backend down")
        await reach(page, switch)
        await page.keyboard.press("Space")
        await expect(switch).to_be_disabled()
        ann = page.get_by_label("Message to Alice")
        await ann.focus()
        let_go()
        await expect(switch).to_be_enabled()
        await page.keyboard.type("Hello Alice")
        await expect(ann).to_have_value("Hello Alice")


async def test_a_switch_that_cannot_be_turned_says_why_and_stays_as_it_was() -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=500, body="It did not start.")

    async def away(route: Route) -> None:
        await route.abort()

    async with played() as page:
        switch, trouble = page.get_by_label("Backend down"), page.locator("#trouble")
        for answer, why in ((refuse, "It did not start."), (away, GONE)):
            await page.route("**/switch", answer)
            await switch.click()
            await expect(trouble).to_have_text(why)
            await expect(switch).not_to_be_checked()
            await page.unroute("**/switch")
        await turn(page, "Backend down", on=True)
        await expect(trouble).to_be_empty()


async def test_a_page_whose_server_went_away_says_so_until_it_is_back() -> None:
    async with played() as page:
        await page.route("**/events", lambda route: route.abort())
        await page.reload()
        await expect(page.locator("#trouble")).to_have_text(GONE)
        await page.unroute("**/events")
        await expect(page.locator("#trouble")).to_be_empty()


async def test_tokens_that_end_meanwhile_are_renewed_and_nobody_notices() -> None:
    async with played(token_lasts=6.0) as page:  # a page that is this busy renews in time
        await ask(page, "Before.")
        opened: list[WebSocket] = []
        page.on("websocket", lambda it: opened.append(it))

        async def renewed_twice(role: str) -> None:
            for _ in range(2):
                await page.wait_for_event("request", lambda it: it.url.endswith(role))

        await asyncio.gather(renewed_twice("customer"), renewed_twice("agent"))
        await ask(page, "After.")
        await say(page, "I am here, too.")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        assert opened == [], "both sockets are still the first ones"


async def test_a_page_that_is_reloaded_and_a_second_one_show_what_is_so() -> None:
    async with played() as page:
        await turn(page, "Lock phone", on=True)
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await say(page, "Ring!")
        await expect(page.locator("#lock-screen .note")).to_contain_text(["Ring!"])
        await turn(page, "Backend down", on=True)
        looked = await hold(page, "**/events")
        await page.reload()
        await expect(page.locator("ringback-chat .text")).to_have_text(["Ring!"])
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await page.get_by_label("Background").check()
        looked()
        await expect(page.locator("#signal")).to_have_text("5G")
        await expect(page.get_by_role("button", name="Open Acme", exact=True)).to_be_visible()
        await expect(page.locator("#home-screen .note")).to_have_count(0)
        other = await page.context.new_page()
        await other.goto(page.url)
        await expect(other.get_by_label("Backend down")).to_be_checked()
        await expect(other.locator("#thread small")).to_have_text(["read"])
        await turn(other, "Backend down", on=False)
        await expect(page.get_by_label("Backend down")).not_to_be_checked()
        await say(other, "One of the two is looked at.")
        await expect(page.locator("#thread small").last).to_have_text("read")
        await expect(page.locator("#home-screen .note")).to_have_count(0)


async def test_in_chat_nothing_rings_and_locked_the_phone_does_until_alice_is_back() -> None:
    async with played() as page:
        typing = page.locator("#typing")
        await page.locator("ringback-chat textarea").press_sequentially("Where")
        await expect(typing).to_have_text("Alice is typing…")
        await ask(page, f"Where is it? {HOSTILE}")
        await expect(typing).to_be_empty()
        await say(page, "On its way.")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await expect(page.locator("article .chip")).to_have_text(["acked"])

        await page.get_by_label("Lock phone").check()
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await say(page, HOSTILE)
        note = page.locator("#lock-screen .note")
        await expect(note).to_contain_text(HOSTILE)
        await expect(note.get_by_label("1 unread")).to_be_visible()
        rang = page.locator("#rang")  # for who does not see it
        await expect(rang).to_have_text(f"The phone rings: {HOSTILE}. 1 unread.")
        await expect(page.locator("article .chip")).to_have_text(["pushed", "acked"])
        await expect(page.locator("article").first).to_contain_text(HOSTILE)

        await note.press("Enter")
        await expect(page.locator("ringback-chat .text").last).to_have_text(HOSTILE)
        await expect(page.locator("#thread small").last).to_have_text("read")


async def test_a_message_into_airplane_mode_is_pushed_and_rings_once_the_phone_is_back() -> None:
    async with played() as page:
        await say(page, "Hello!")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await turn(page, "Airplane mode", on=True)
        await expect(page.locator("#signal")).to_contain_text("no network")
        await say(page, "Are you there?")
        await expect(page.locator("#thread small").last).to_have_text("the phone rang")
        await expect(page.locator("article").first).to_contain_text(
            "nothing was acknowledged in time"
        )
        await turn(page, "Airplane mode", on=False)
        await expect(page.locator("ringback-chat .text").last).to_have_text("Are you there?")


async def test_what_ann_writes_while_the_gateway_is_dead_arrives_once_it_is_back() -> None:
    async with played() as page:
        await say(page, "Before.")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await turn(page, "Kill gateway", on=True)
        await expect(page.locator("#presence")).to_contain_text("The gateway is away")
        await expect(page.locator("#presence")).not_to_have_class("here")
        await say(page, "Meanwhile.")
        await expect(page.locator("#thread small").last).to_have_text("waiting for the gateway")
        await page.reload()
        await expect(page.locator("#thread small")).to_have_text(["waiting for the gateway"])
        await turn(page, "Kill gateway", on=False)
        await page.wait_for_selector("body[data-registered]")
        await expect(page.locator("#thread small")).to_have_text(["read", "read"])
        await expect(page.locator("ringback-chat .text")).to_have_text(["Before.", "Meanwhile."])


async def test_a_state_of_before_a_switch_was_turned_does_not_turn_it_back() -> None:
    told = {"seq": 7, "text": "late", "outcome": "pending", "summary": "", "events": []}
    rest = {"rings": [], "ringsBefore": 0, "messages": [told]}
    before = dict.fromkeys(("airplane", "killed", "broken"), False) | {"turns": 0} | rest
    turned = asyncio.Event()

    async def late(route: Route) -> None:
        await turned.wait()
        body = f"data: {json.dumps(before)}\n\n"
        await route.fulfill(body=body, content_type="text/event-stream")

    async with played() as page:
        await page.route("**/events", late)
        await page.reload()
        await turn(page, "Backend down", on=True)
        turned.set()
        await expect(page.locator("article")).to_contain_text("late")
        assert await page.get_by_label("Backend down").is_checked()


async def test_a_switch_that_is_turned_before_the_rest_of_the_page_has_come_is_turned() -> None:
    async with played() as page:
        come = await hold(page, "**/places")
        await page.reload()
        async with page.expect_response("**/switch"):
            await page.get_by_label("Backend down").check()
        come()
        await page.wait_for_selector("body[data-registered]")
        await expect(page.get_by_label("Backend down")).to_be_checked()


async def test_anns_newest_message_stays_in_sight_when_the_page_changes_its_width() -> None:
    async with played() as page:
        for number in range(4):
            await say(page, f"{number} " + "Your parcel left Hamburg today. " * 9)
        await expect(page.locator("#thread small")).to_have_text(["read"] * 4)
        newest = page.locator("#thread p").last
        for width in (375, 1440, 768):
            await page.set_viewport_size({"width": width, "height": 3000})
            await expect(newest).to_be_in_viewport(ratio=1)


async def test_a_backend_that_is_down_rings_once_it_is_up_again() -> None:
    async with played() as page:
        await page.get_by_label("Background").check()
        await turn(page, "Backend down", on=True)
        await say(page, "Ring!")
        await expect(page.locator("article")).to_contain_text("HTTP 503")
        await turn(page, "Backend down", on=False)
        await expect(page.locator("#home-screen .note")).to_contain_text("Ring!")
        await page.get_by_role("button", name="Open Acme, 1 unread").press("Enter")
        await expect(page.locator("ringback-chat .text")).to_have_text(["Ring!"])


async def test_a_port_that_is_taken_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webdemo, "Stage", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = f"^--port {port}: Address already in use; choose another$"
        with pytest.raises(DemoFailed, match=said):
            async with webdemo.opened(Timeline(), port):
                pass


async def test_other_pages_and_other_names_get_no_token_and_turn_no_switch() -> None:
    async with webdemo.opened(Timeline()) as (url, _), aiohttp.ClientSession() as http:
        async with http.get(f"{url}/token?role=agent", headers={"Host": "rebound.example"}) as got:
            assert got.status == 403
        told, plain = '{"name": "killed", "on": true}', {"Content-Type": "text/plain"}
        async with http.post(f"{url}/switch", data=told, headers=plain) as got:
            assert got.status == 415
        async with http.post(f"{url}/switch", json={"name": "world", "on": True}) as got:
            assert got.status == 400
