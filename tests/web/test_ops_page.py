"""The operations page in a real browser: what it shows, to whom, and what it does when nobody
answers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import ConsoleMessage, Page, Route, expect

from gateway import auth
from gateway.protocol import Role
from tests.running import QUICK, Running, running
from tests.web.pages import NETWORK, NO_STORAGE, VIOLATIONS, chromium, hold

HOSTILE = '<img src=x onerror="window.pwned=1">'
pytestmark = pytest.mark.timeout(90)


@asynccontextmanager
async def operations(it: Running, **options: Any) -> AsyncIterator[Page]:
    """The page, as opened by somebody who has not signed in; nothing may be complained of."""
    complaints: list[str] = []
    async with chromium() as browser:
        context = await browser.new_context(**options)
        page = await context.new_page()

        def said(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not message.text.startswith(NETWORK):
                complaints.append(message.text)

        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.add_init_script(VIOLATIONS)
        await page.goto(it.url("/console/ops"))
        yield page
        complaints += await page.evaluate("window.violations ?? []")
    assert not complaints, "\n".join(complaints)


async def sign_in(page: Page, token: str) -> None:
    """By keyboard alone: the field has the focus."""
    await page.keyboard.insert_text(token)
    await page.keyboard.press("Enter")


async def some(it: Running) -> None:
    """One message that was pushed at the second attempt, and somebody in chat."""
    await it.register("anna", "phone", "t-1")
    it.backend.answers += [503]
    await it.write("anna", "x")
    await it.settled(1, "pushed", "anna")
    await it.customer("ben")


async def test_with_the_storage_switched_off_only_a_reload_asks_for_the_token_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=QUICK) as it, operations(it) as page:
        await page.add_init_script(NO_STORAGE)
        await page.reload()
        await expect(page.locator("#token")).to_be_focused()
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(page.locator("#who")).to_have_text("acme")


async def test_an_operator_sees_how_it_goes_and_the_page_follows(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await some(it)
        async with operations(it) as page:
            await sign_in(page, it.token(Role.SERVICE, "ops"))
            await expect(page.locator("#who")).to_have_text("acme")
            await expect(page.locator("#active")).to_have_text("1")
            await expect(page.locator("#health")).to_have_text("Up")
            await expect(page.get_by_role("status")).to_have_text("Live")
            await expect(page.get_by_label("0 acknowledged in chat, 1 pushed")).to_be_visible()
            answers = page.get_by_role("table", name="Answers of backends")
            await expect(answers.get_by_role("row", name="retry http 503 1")).to_be_visible()
            await expect(answers.get_by_role("row", name="accepted http 200 1")).to_be_visible()
            await it.write("anna", "y")
            await expect(answers.get_by_role("row", name="accepted http 200 2")).to_be_visible()
            letters = page.get_by_role("table", name="Dead letters")
            await expect(letters).to_contain_text("No ring was given up.")
            it.backend.answers += [422]
            await it.write("anna", "z")
            await expect(letters.get_by_role("row", name="refused 1")).to_be_visible()


async def test_every_figure_is_shown_as_what_it_is(tmp_path: Path) -> None:
    some_of_all = {
        "sessions": {"active": 2, "background": 3, "agent": 1},
        "messages": {
            "accepted": 20, "acked": 8, "pushed": 6, "pending": 3, "expired": 2, "undeliverable": 1,
        },
        "backends": [
            {"name": "", "waiting": 4, "calling": 5, "state": "up"},
            {"name": "qa", "waiting": 6, "calling": 7, "state": "down"},
        ],
        "attempts": [{"verdict": "token_dead", "reason": "http_410", "count": 1234}],
        "call_seconds": {"count": 30, "p50": 0.021, "p95": 0.31, "p99": 1.0},
        "ring_seconds": {"count": 40, "p50": 2.4, "p95": 300.0, "p99": 300.0},
    }  # fmt: skip
    async with running(tmp_path) as it, operations(it) as page:

        async def answer(route: Route) -> None:
            got = await route.fetch()
            await route.fulfill(response=got, json=await got.json() | some_of_all)

        await page.route("**/v1/ops", answer)
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        for name, value, more in (
            ("In chat", "2", "3 in background, 1 agent"),
            ("Waiting for a push", "22", "12 being called for"),
            ("Time to ring", "2.4 s", "median; p95 5 min, of 40"),
            ("Backend", "Failing", "answers in 21 ms, p95 310 ms"),
        ):
            heading = page.get_by_role("heading", name=name, exact=True)
            tile = page.locator(".tile", has=heading)
            await expect(tile.locator("p")).to_have_text([value, more])
        for lately in ("22 devices now, at most 50", "2 customers now, at most 2"):
            await expect(page.get_by_role("img", name=lately)).to_be_visible()
        await expect(page.locator("#legend b")).to_have_text(["8", "6", "3", "2", "1"])
        begin = "(parts) => parts.map((part) => part.x.baseVal.value)"
        bar = await page.locator("#outcomes rect").evaluate_all(begin)
        assert bar == [0, 400, 700, 850, 950]
        for table, cells in (
            ("Backends", ["default", "Up", "4", "5", "qa", "Failing", "6", "7"]),
            ("Answers of backends since the start", ["token dead", "HTTP 410", "1,234"]),
            ("Decisions about devices since the start", ["No device was looked at yet."]),
        ):
            told = page.get_by_role("table", name=table, exact=True).get_by_role("cell")
            await expect(told).to_have_text(cells)


@pytest.mark.parametrize("role", [Role.AGENT, Role.CUSTOMER])
async def test_only_a_service_token_opens_it_and_nothing_is_kept_of_another(
    tmp_path: Path, role: Role
) -> None:
    async with running(tmp_path) as it, operations(it) as page:
        await sign_in(page, it.token(role, "x"))
        await expect(page.get_by_role("alert")).to_contain_text("its role must be service")
        await expect(page.locator("#figures")).to_be_hidden()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_what_is_typed_as_a_token_is_never_markup(tmp_path: Path) -> None:
    async with running(tmp_path) as it, operations(it) as page:
        await sign_in(page, "<img src=x onerror=alert(1)>")
        await expect(page.get_by_role("alert")).to_contain_text("not accepted")
        assert await page.locator("img").count() == 0


async def test_names_and_reasons_are_never_markup(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it, operations(it) as page:
        await some(it)

        async def answer(route: Route) -> None:
            got = await route.fetch()
            told = await got.json()
            told |= {"tenant": HOSTILE, "draining": True}
            for entry in told["backends"]:
                entry["name"] = HOSTILE
            for entry in told["attempts"] + told["looks"]:
                entry |= dict.fromkeys(entry.keys() - {"count"}, HOSTILE)
            await route.fulfill(response=got, json=told)

        await page.route("**/v1/ops", answer)
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(page.locator("#who")).to_have_text(HOSTILE)
        await expect(page.get_by_role("alert")).to_contain_text("shutting down")
        for table in ("Backends", "Answers of backends", "Decisions about devices"):
            cell = page.get_by_role("table", name=table).get_by_role("cell", name=HOSTILE)
            await expect(cell.first).to_be_visible()
        assert await page.evaluate("window.pwned") is None
        assert await page.locator("img").count() == 0


async def test_a_token_that_ends_is_asked_for_anew_and_all_goes_by_keyboard(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it, operations(it) as page:
        long_ago = time.time() - 10.0  # it has ended 5 s ago, of 10 s that are forgiven
        token = auth.issue(it.gateway.config, "acme", Role.SERVICE, "ops", ttl=5.0, now=long_ago)
        await sign_in(page, token)
        await expect(page.locator("#who")).to_have_text("acme")
        await expect(page.get_by_role("alert")).to_contain_text("may have expired")
        await expect(page.get_by_label("Service token")).to_be_focused()
        await page.keyboard.insert_text(it.token(Role.SERVICE, "ops"))
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Sign in")).to_be_focused()
        await page.keyboard.press("Space")
        await expect(page.get_by_role("status")).to_have_text("Live")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Sign out")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Service token")).to_be_focused()


async def test_a_gateway_that_does_not_answer_is_told_and_its_return_is_seen(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=QUICK) as it, operations(it) as page:
        state = page.get_by_role("status")
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(state).to_have_text("Live")
        await page.context.set_offline(True)
        await expect(state).to_contain_text("Not reached since")
        await expect(state).to_contain_class("stale")
        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(state).to_have_text("Not reached")  # by who signed in now
        await page.context.set_offline(False)
        await expect(state).to_have_text("Live")
        await expect(state).not_to_contain_class("stale")
        answer = await hold(page, "**/v1/ops")  # the connection stands, and nothing comes
        await expect(state).to_contain_text("Not reached since")
        answer()
        await expect(state).to_have_text("Live")


async def test_who_signs_in_sees_nothing_of_the_tenant_before(tmp_path: Path) -> None:
    async with running(tmp_path) as it, operations(it) as page:
        for name in ("anna", "ben"):
            await it.customer(name)
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(page.get_by_role("img", name="2 customers now, at most 2")).to_be_visible()
        answer = await hold(page, "**/v1/ops")
        async with page.expect_request("**/v1/ops"):
            pass
        await page.get_by_role("button", name="Sign out").click()
        async with page.expect_response("**/v1/ops") as late:
            answer()
        await (await late.value).finished()
        await expect(page.locator("#figures")).to_be_hidden()
        await sign_in(page, it.token(Role.SERVICE, "ops", "other"))
        await expect(page.locator("#who")).to_have_text("other")
        await expect(page.get_by_role("img", name="0 customers now, at most 1")).to_be_visible()


async def test_it_stays_signed_in_over_a_reload_until_it_is_left(tmp_path: Path) -> None:
    async with running(tmp_path) as it, operations(it) as page:
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(page.locator("#who")).to_have_text("acme")
        await page.reload()
        await expect(page.locator("#who")).to_have_text("acme")
        other = await page.context.new_page()
        await other.goto(page.url)
        await expect(other.get_by_label("Service token")).to_be_visible()  # it stays in its tab
        await page.get_by_role("button", name="Sign out").click()
        await page.reload()
        await expect(page.get_by_label("Service token")).to_be_visible()
