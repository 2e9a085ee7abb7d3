"""<ringback-chat> in a real browser, on a company's page, against a real gateway."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from examples.stage import free_ports
from gateway.protocol import Role
from tests.faults.process import process
from tests.faults.proxy import proxy
from tests.running import PATIENCE, PATIENT, QUICK, Running, backend, running
from tests.web.pages import Site, Visit, chromium, site, visit

SERVED = Path("gateway/web")
WIDGET = (
    "ringback-chat", "ringback-client", "connection", "timeline", "devices", "notifications",
    "browser", "elements", "style",
)  # fmt: skip
HIDE = """(hidden) => {
  Object.defineProperty(document, "visibilityState", {
    configurable: true, get: () => (hidden ? "hidden" : "visible"),
  });
  document.dispatchEvent(new Event("visibilitychange"));
}"""  # headless tabs are never hidden by themselves
LOG_SENDS = """
  sessionStorage.sent ??= "";
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (data) {
    sessionStorage.sent += `${data}\\n`;
    send.call(this, data);
  };
"""
CONNECTED = """async () => {
  await customElements.whenDefined("ringback-chat");
  const { client } = document.querySelector("ringback-chat");
  if (!client.connected) {
    await new Promise((done) => client.on("phase", ({ phase }) => phase === "connected" && done()));
  }
}"""  # the page's policy forbids the eval of wait_for_function
ALL_READ = """async () => {
  const { client } = document.querySelector("ringback-chat");
  if (!client.unread) return;
  await new Promise((done) => client.on("status", ({ unread }) => unread || done()));
}"""
ABSENT = """async () => {
  const { client } = document.querySelector("ringback-chat");
  if (client.state === "background") return;
  await new Promise((done) => client.on("state", (state) => state === "background" && done()));
}"""
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
PLACE = """(it, box) =>
  it.getBoundingClientRect().top - it.closest(box).getBoundingClientRect().top"""
OLDER = """
delete URL.canParse;
const { supports } = CSS;
CSS.supports = (...asked) => !`${asked}`.includes("light-dark") && supports(...asked);
const { replaceSync } = CSSStyleSheet.prototype;
CSSStyleSheet.prototype.replaceSync = function (text) {
  replaceSync.call(this, text.replaceAll("light-dark(", "unheard-of("));
};
"""  # what docs/web.md names and lacks the newest: Safari 16.4, say
CHAT = "document.querySelector('ringback-chat')"
HOSTILE = (
    '<img src=x onerror="window.pwned=1">',
    "<script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    '"><svg onload=window.pwned=1>',
    "https://x.example/\"onmouseover=window.pwned=1 https://y.example/'><b>",
)


@dataclass(slots=True)
class Scene:
    """A gateway, the company's site, a browser and a visitor in it."""

    it: Running
    site: Site
    browser: Browser
    visit: Visit


@asynccontextmanager
async def scene(
    directory: Path,
    *,
    delivery: dict[str, float] = PATIENT,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    async with (
        site() as company,
        chromium() as browser,
        running(
            directory, delivery=delivery, limits=limits, origins={"acme": [company.origin]}
        ) as it,
        visit(browser, company, **options) as visitor,
    ):
        company.gateway = it
        yield Scene(it, company, browser, visitor)


def launcher(page: Page) -> Locator:
    return page.locator("ringback-chat .launcher")


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def texts(page: Page) -> Locator:
    return page.locator("ringback-chat li .text")


async def opened(scene: Scene, query: str = "") -> Page:
    page = await scene.visit.page(query)
    await launcher(page).click()
    await connected(page)
    return page


async def connected(page: Page) -> None:
    await page.evaluate(CONNECTED)


async def write(page: Page, text: str) -> None:
    await field(page).fill(text)
    await field(page).press("Enter")


async def test_messages_go_both_ways_with_typing_and_marks(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await write(page, "Where is my order?")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        agent = await stage.it.agent(open="c-42")
        await field(page).press_sequentially("an")
        await agent.take("typing", on=True)
        await agent.send("typing", customer="c-42", on=True)
        await expect(page.locator(".typing")).to_contain_text("is typing")
        sent = await agent.ask("send", "sent", customer="c-42", text="On its way.")
        assert sent["route"] == "socket"
        await expect(texts(page)).to_have_text(["Where is my order?", "On its way."])
        await expect(page.locator(".typing")).to_be_empty()
        await agent.take("receipt", state="delivered")
        await agent.take("receipt", state="read")
        assert stage.it.backend.calls == []


async def test_a_closed_chat_rings_shows_a_badge_and_is_read_on_return(tmp_path: Path) -> None:
    async with scene(tmp_path, delivery=QUICK) as stage:
        await stage.it.register()
        page = await stage.visit.page()
        await connected(page)
        await stage.it.write(text="Your parcel is here.")
        assert (await stage.it.backend.take()).badge == 1
        await expect(launcher(page)).to_have_accessible_name("Open chat, 1 unread message")
        await launcher(page).click()
        await expect(texts(page)).to_have_text(["Your parcel is here."])
        assert (await stage.it.backend.take()).badge == 0
        await page.keyboard.press("Escape")
        await expect(launcher(page)).to_have_accessible_name("Open chat")


async def test_a_hidden_page_rings_and_a_shown_one_reads(tmp_path: Path) -> None:
    async with scene(tmp_path, delivery=QUICK) as stage:
        await stage.it.register()
        page = await opened(stage)
        await page.evaluate(HIDE, True)
        await rings_now(stage)
        await page.evaluate(HIDE, False)
        assert (await stage.it.backend.take()).badge == 0


async def test_a_page_that_is_left_does_not_say_background(tmp_path: Path) -> None:
    """A reload ends the socket with a grace, although a page is hidden on its way out."""
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await page.add_init_script(LOG_SENDS)
        await page.reload()
        await connected(page)
        await launcher(page).click()
        assert await states(page) == ["active"]
        await page.reload()
        await connected(page)
        assert await states(page) == []
        await launcher(page).click()
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
        await page.evaluate(HIDE, True)
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow'))")  # it was kept
        await page.evaluate(HIDE, False)
        assert await states(page) == ["active", "background", "active"]


async def test_a_page_that_nobody_touches_does_not_turn_active_when_it_is_left(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        stage.site.attributes["idle-after"] = "1"
        page = await stage.visit.page()
        await page.add_init_script(LOG_SENDS)
        await page.reload()
        await connected(page)
        await launcher(page).click()
        await page.evaluate(ABSENT)
        assert await states(page) == ["active", "background"]
        await page.reload()
        await connected(page)
        assert await states(page) == []


async def states(page: Page) -> list[str]:
    """The states that were told since the last look, over a reload too."""
    sent = await page.evaluate("[sessionStorage.sent, (sessionStorage.sent = '')][0]")
    frames = [json.loads(line) for line in sent.splitlines()]
    return [frame["state"] for frame in frames if frame["type"] == "state"]


async def test_a_browser_left_alone_turns_background_and_the_next_message_rings(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, delivery=QUICK) as stage:
        stage.site.attributes["idle-after"] = "1"
        await stage.it.register()
        page = await opened(stage)
        await rings_now(stage)
        await expect(texts(page)).to_have_text(["Anybody there?"])
        await page.mouse.move(10, 10)  # somebody comes back
        assert (await stage.it.backend.take()).badge == 0


async def test_a_time_that_is_no_number_of_seconds_is_the_usual_one(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.site.attributes["idle-after"] = "2m"
        page = await stage.visit.page()
        await page.clock.install()
        await page.reload()
        await connected(page)
        await launcher(page).click()
        await page.clock.fast_forward(121_000)
        await page.evaluate(ABSENT)


async def rings_now(stage: Scene) -> None:
    """Once the page has said that nobody looks, the next message rings."""
    agent = await stage.it.agent()
    if (await agent.ask("open", "conversation", customer="c-42"))["in_chat"]:
        await agent.take("presence", in_chat=False)
    await stage.it.write(text="Anybody there?")
    assert (await stage.it.backend.take()).badge == 1


async def test_what_is_written_offline_is_shown_so_and_goes_out_later(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, proxy(stage.it.gateway.ports["chat"]) as line:
        stage.site.attributes["url"] = f"ws://127.0.0.1:{line.port}/v1/chat"
        page = await opened(stage)
        await stage.visit.context.set_offline(True)
        line.close()
        await expect(page.locator(".notice")).to_contain_text("No connection")
        await write(page, "from the tunnel")
        await expect(page.locator("li.own .mark")).to_have_text("Waiting for a connection")
        await stage.visit.context.set_offline(False)
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        await expect(page.locator(".notice")).to_be_empty()


async def test_what_is_written_offline_survives_a_reload(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate(
            "document.querySelector('ringback-chat').client.stop();"
            "document.querySelector('ringback-chat').client.send('kept').catch(() => {})"
        )
        await write(page, "kept too")
        await page.reload()
        await launcher(page).click()
        await expect(texts(page)).to_have_text(["kept", "kept too"])
        await expect(page.locator("li.own .mark").last).to_have_text("Sent")


async def test_what_was_being_written_is_there_after_a_reload_for_who_wrote_it(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await field(page).fill("Half a\nsen\nten")
        height = "(it) => it.offsetHeight"
        tall = await field(page).evaluate(height)
        for sub, kept in (("c-43", ""), ("c-42", "Half a\nsen\nten")):
            await page.goto(f"{stage.site.origin}/?sub={sub}")
            await connected(page)
            await launcher(page).click()
            await expect(field(page)).to_have_value(kept)
        assert await field(page).evaluate(height) == tall
        await field(page).press("ControlOrMeta+End")
        await page.keyboard.type("ce")
        await page.keyboard.press("Enter")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        page = await opened(stage)  # what was sent is written no more
        await expect(texts(page)).to_have_count(1)
        await expect(field(page)).to_have_value("")
        await field(page).press_sequentially("private")
        await page.evaluate(f"{CHAT}.signOut()")
        for _ in range(2):
            await page.reload()
            await connected(page)
            await launcher(page).click()
            await expect(field(page)).to_have_value("")
            assert "private" not in await page.evaluate("JSON.stringify(localStorage)")


async def test_a_killed_gateway_is_found_again_with_every_message_once(tmp_path: Path) -> None:
    ports = zip(("CHAT", "HTTP"), free_ports(2), strict=True)
    fixed = {f"RINGBACK_SERVER__{name}": f"127.0.0.1:{port}" for name, port in ports}
    async with site() as company, chromium() as browser, backend() as rings:
        options: dict[str, Any] = {"delivery": PATIENT, "origins": {"acme": [company.origin]}}
        async with visit(browser, company) as visitor:
            async with process(tmp_path, rings, environment=fixed, **options) as first:
                company.gateway = first
                page = await visitor.page()
                await launcher(page).click()
                await connected(page)
                await write(page, "before")
                await expect(page.locator("li.own .mark")).to_have_text("Sent")
                await first.kill()
            await expect(page.locator(".notice")).to_contain_text("No connection")
            await write(page, "meanwhile")
            async with process(tmp_path, rings, environment=fixed, **options) as second:
                await expect(page.locator("li.own .mark").last).to_have_text("Sent")
                await second.write(text="after")
                await expect(texts(page)).to_have_text(["before", "meanwhile", "after"])


async def test_a_token_is_renewed_on_the_open_socket(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.site.ttl = 2
        page = await opened(stage)
        await page.evaluate(
            "window.phases = [];"
            "document.querySelector('ringback-chat').client.on('phase', (p) => phases.push(p))"
        )
        async with asyncio.timeout(PATIENCE):
            for _ in range(4):
                await stage.site.asked.get()
        await write(page, "still here")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        assert await page.evaluate("window.phases") == []


async def test_an_expired_token_is_replaced_once_the_company_has_one(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.site.ttl = 2
        page = await opened(stage)
        stage.site.answer = 503
        await expect(page.locator(".notice")).to_contain_text("No connection")
        stage.site.asked = asyncio.Queue()
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):  # what it says with 503 is no token
                await stage.site.asked.get()
        stage.site.answer = 200
        await write(page, "back")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")


async def test_signed_out_by_the_company_a_send_fails_visibly_and_may_be_retried(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        status, _ = await stage.it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        assert status == 204
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")
        await write(page, "hello?")
        await expect(page.locator("li.own .mark")).to_have_text("Not sent")
        await page.locator("li.own").get_by_role("button", name="Try again").click()
        await expect(page.locator("li.own .mark")).to_have_text("Sent")


async def test_signing_out_deregisters_the_device_and_leaves_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate(f"{CHAT}.client.registerDevice('browser-token')")
        await write(page, "private")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        assert await page.evaluate(f"{CHAT}.signOut()") is True
        status, told = await stage.it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert (status, told) == (200, {"devices": []})
        await expect(texts(page)).to_have_count(0)


async def test_signing_out_leaves_neither_a_draft_nor_what_was_read_out(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await stage.it.write(text="private")
        await expect(page.get_by_role("status").filter(has_text="private")).to_have_count(1)
        await field(page).fill("half a sen")
        await page.evaluate(f"{CHAT}.signOut()")
        assert "private" not in await page.evaluate(f"{CHAT}.shadowRoot.innerHTML")
        await page.evaluate(f"{CHAT}.client.start()")
        await launcher(page).click()
        await expect(field(page)).to_have_value("")


async def test_a_widget_that_may_ask_for_no_token_any_more_shows_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        agent = await stage.it.agent()
        await agent.ask("send", "sent", customer="c-42", text="private")
        await agent.send("typing", customer="c-42", on=True)
        await expect(page.locator(".typing")).to_contain_text("is typing")
        await stage.it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")
        await page.evaluate(f"{CHAT}.removeAttribute('token-url')")
        await expect(texts(page)).to_have_count(0)
        await expect(page.locator(".notice")).to_be_empty()
        await expect(page.locator(".greeting")).to_be_visible()
        told = stage.it.token(Role.CUSTOMER, "c-43")
        await page.evaluate(f"(token) => {{ {CHAT}.token = () => token; }}", told)
        await connected(page)
        await write(page, "of another")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")


async def test_two_tabs_show_the_same_and_read_for_each_other(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        one = await opened(stage)
        two = await stage.visit.page()
        await connected(two)
        await write(one, "from one")
        await expect(texts(two)).to_have_text(["from one"])
        await stage.it.write(text="to both")
        await expect(texts(two)).to_have_text(["from one", "to both"])
        await expect(launcher(two)).to_have_accessible_name("Open chat")
        await launcher(two).click()
        await write(two, "from two")
        await expect(texts(one)).to_have_text(["from one", "to both", "from two"])


async def test_of_two_tabs_the_one_that_somebody_looks_at_counts(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.it.register()
        one, two = await opened(stage), await opened(stage)
        await two.evaluate(HIDE, True)
        agent = await stage.it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="to both")
        await expect(texts(two)).to_have_text(["to both"])
        await stage.it.settled(1, "acked")
        await one.evaluate(HIDE, True)
        await agent.take("presence", in_chat=False)
        await agent.ask("send", "sent", customer="c-42", text="Anybody there?")
        assert (await stage.it.backend.take()).ring["seq"] == 2
        await stage.it.settled(2, "pushed")  # coming back while the call is out holds what follows
        await two.evaluate(HIDE, False)
        assert (await stage.it.backend.take()).badge == 0
        await one.evaluate(ALL_READ)
        assert await one.evaluate(f"{CHAT}.unread") == 0


async def test_a_slow_network_that_breaks_delays_and_neither_loses_nor_doubles(
    tmp_path: Path,
) -> None:
    said = [f"{number}{' all work and no play' * 200}" for number in range(6)]
    async with scene(tmp_path) as stage, proxy(stage.it.gateway.ports["chat"]) as line:
        stage.site.attributes["url"] = f"ws://127.0.0.1:{line.port}/v1/chat"
        page = await opened(stage)
        devtools = await stage.visit.context.new_cdp_session(page)
        await devtools.send("Network.enable")
        slow = {"offline": False, "latency": 300, "downloadThroughput": 4_000}
        await devtools.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": 4_000})
        for text in said[:3]:
            await write(page, text)
        await expect(page.locator("li.own .mark").last).to_have_text("Sending…")
        line.down = True
        line.close()
        await expect(page.locator(".notice")).to_contain_text("No connection")
        for text in said[3:]:
            await write(page, text)
        line.down = False
        fair = slow | {"downloadThroughput": 200_000, "uploadThroughput": 200_000}
        await devtools.send("Network.emulateNetworkConditions", fair)
        await expect(page.locator("li.own .mark").last).to_have_text("Sent")
        await expect(texts(page)).to_have_text(said)
        _, told = await stage.it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert [message["text"] for message in told["messages"]] == said


async def test_text_and_names_from_anybody_stay_text(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.site.name = stage.site.attributes["heading"] = HOSTILE[0]
        page = await opened(stage)
        await expect(page.get_by_role("dialog", name=HOSTILE[0])).to_be_visible()
        for hostile in HOSTILE:
            await write(page, hostile)
            await expect(page.locator("li.own .mark").last).to_have_text("Sent")
            await stage.it.write(text=hostile, title=hostile, data={"html": hostile})
            agent = await stage.it.agent(name=hostile)
            await agent.send("typing", customer="c-42", on=True)
            await expect(page.locator(".typing")).to_have_text(f"{hostile} is typing…")
            told = {"customer": "c-42", "text": hostile, "data": {hostile: [hostile]}}
            await agent.ask("send", "sent", **told)
            await expect(page.locator("li .author").last).to_have_text(hostile)
        await expect(texts(page)).to_have_text([text for text in HOSTILE for _ in range(3)])
        assert await page.evaluate("window.pwned") is None
        assert await page.locator("ringback-chat :is(img, script, b)").count() == 0
        links = await page.locator("ringback-chat li a").evaluate_all(
            "(all) => all.map((a) => [a.protocol, a.rel, a.target])"
        )
        assert {tuple(link) for link in links} == {
            ("https:", "noopener noreferrer nofollow", "_blank")
        }


async def test_a_browser_of_before_2024_shows_it_in_its_light_colours(tmp_path: Path) -> None:
    async with scene(tmp_path, color_scheme="dark") as stage:
        await stage.visit.context.add_init_script(OLDER)
        page = await opened(stage)
        await write(page, "See https://acme.example, please.")
        link = page.locator("ringback-chat li a")
        await expect(link).to_have_attribute("href", "https://acme.example")
        panel = page.get_by_role("dialog")
        await expect(panel).to_have_css("background-color", "rgb(255, 255, 255)")
        await expect(panel).to_have_css("color", "rgb(23, 26, 34)")


async def test_a_page_may_choose_light_or_dark_whatever_the_system_has(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        panel = page.get_by_role("dialog")
        await page.emulate_media(color_scheme="dark")
        await page.evaluate(f"{CHAT}.setAttribute('theme', 'light')")
        await expect(panel).to_have_css("background-color", "rgb(255, 255, 255)")
        await page.emulate_media(color_scheme="light")
        await page.evaluate(f"{CHAT}.setAttribute('theme', 'dark')")
        await expect(panel).to_have_css("background-color", "rgb(20, 22, 28)")


async def test_long_and_right_to_left_text_and_links_are_shown_as_they_are(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await write(page, "שלום, איפה ההזמנה שלי?")
        right = texts(page).first
        await expect(right).to_have_css("direction", "rtl")
        addresses = ["https://acme.example/a_(b)?c=d&e", "https://acme.example/A_(b)"]
        await stage.it.write(text="See ({}) or {}. ".format(*addresses) + "x" * 3000)
        await expect(page.locator("ringback-chat li a")).to_have_text(addresses)
        assert await page.locator(".thread").evaluate("(it) => it.scrollWidth <= it.clientWidth")
        await field(page).fill("y" * 8001)
        await field(page).press("Enter")
        problem = page.locator(".problem")
        await expect(problem).to_have_text("At most 8000 characters, please.")
        await expect(field(page)).to_have_value("y" * 8001)
        await field(page).press("Backspace")
        await expect(problem).to_be_empty()


async def test_what_was_said_today_was_said_yesterday_after_midnight(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await stage.it.write(text="Good evening.")
        await expect(page.locator("li.day")).to_have_text("Today")
        await page.evaluate(
            """() => { const now = Date.now() + 86_400_000;
            window.Date = class extends Date {
              constructor(...at) { super(...(at.length ? at : [now])); } }; }"""
        )
        await stage.it.write(text="Good morning.")
        await expect(page.locator("li.day")).to_have_text("Yesterday")


async def test_a_name_of_any_length_has_room_on_a_phone(tmp_path: Path) -> None:
    async with scene(tmp_path, viewport={"width": 360, "height": 640}) as stage:
        stage.site.attributes["heading"] = "h" * 60
        page = await opened(stage)
        agent = await stage.it.agent(name="n" * 120)
        await agent.ask("send", "sent", customer="c-42", text="Hello")
        await expect(page.locator("li .author")).to_be_visible()
        await agent.send("typing", customer="c-42", on=True)
        await expect(page.locator(".typing")).to_contain_text("is typing")
        for part in (".thread", ".head", ".panel"):
            wide = await page.locator(part).evaluate("(it) => it.scrollWidth > it.clientWidth")
            assert not wide, part


async def test_older_messages_come_with_scrolling_and_leave_the_view_where_it_was(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        for number in range(1, 131):
            await stage.it.write(text=f"offer {number}")
        other = await stage.it.customer()
        await other.send("read", seq=130)
        await other.quiet()
        page = await opened(stage)
        await expect(texts(page)).to_have_count(50)
        await expect(texts(page).last).to_be_in_viewport()
        await page.locator(".thread").evaluate("(it) => it.scrollTo(0, 0)")
        await expect(texts(page)).to_have_count(100)
        await expect(page.get_by_text("offer 81", exact=True)).to_be_in_viewport()
        await page.locator(".thread").evaluate("(it) => it.scrollTo(0, 0)")
        await expect(texts(page)).to_have_count(130)


async def test_older_messages_come_by_themselves_where_there_is_room_and_nothing_to_scroll(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 400, "height": 9000}) as stage:
        for number in range(110):
            await stage.it.write(text=f"offer {number}")
        other = await stage.it.customer()
        await other.send("read", seq=110)
        await other.quiet()
        page = await opened(stage)
        await expect(texts(page)).to_have_count(110)


async def test_what_somebody_reads_stays_in_its_place_when_a_message_comes_or_the_size_changes(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        for number in range(40):
            await stage.it.write(text=f"offer {number}")
        page = await opened(stage)
        await expect(texts(page)).to_have_count(40)
        await page.locator(".thread").evaluate("(it) => it.scrollTo(0, 900)")
        read = page.get_by_text("offer 25", exact=True)
        before = await read.evaluate(PLACE, ".thread")
        await stage.it.write(text="one\ntwo\nthree")
        await expect(page.locator(".down")).to_be_visible()
        assert await read.evaluate(PLACE, ".thread") == pytest.approx(before, abs=2)
        await page.set_viewport_size({"width": 1280, "height": 500})
        await page.evaluate(DRAWN)
        assert await read.evaluate(PLACE, ".thread") == pytest.approx(before, abs=2)


async def test_who_types_is_in_sight_of_whoever_is_at_the_newest_message(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        for number in range(40):
            await stage.it.write(text=f"offer {number}")
        page = await opened(stage)
        await expect(page.get_by_text("offer 39", exact=True)).to_be_in_viewport()
        agent = await stage.it.agent(open="c-42", name="Maximiliane " * 10)  # in several lines
        await agent.send("typing", customer="c-42", on=True)
        told = page.locator(".typing", has_text="is typing")  # not what is empty in its place later
        await expect(told).to_be_in_viewport(ratio=1)


async def test_a_page_in_no_language_of_this_world_has_a_chat_all_the_same(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate("document.documentElement.lang = 'no language'")
        await write(page, "hello")
        await expect(page.locator("li.own .mark")).to_have_text("Sent")


async def test_new_messages_below_are_said_to_be_there_until_somebody_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        for number in range(40):
            await stage.it.write(text=f"offer {number}")
        page = await opened(stage)
        await expect(texts(page)).to_have_count(40)
        thread, down = page.locator(".thread"), page.locator(".down")
        for way in ("by scrolling", "by the button"):
            await thread.evaluate("(it) => it.scrollTo(0, 900)")
            await stage.it.write(text=way)
            await expect(down).to_be_visible()
            if way == "by scrolling":
                await thread.evaluate("(it) => it.scrollTo(0, it.scrollHeight)")
            else:
                await down.click()
                await expect(field(page)).to_be_focused()
            await expect(page.get_by_text(way, exact=True)).to_be_in_viewport()
            await expect(down).to_be_hidden()


async def test_the_newest_message_stays_in_sight_when_the_page_changes_its_size(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        for number in range(12):
            await stage.it.write(text=f"offer {number}")
        for width, height in ((375, 812), (1440, 900), (1440, 500), (375, 420)):
            await page.set_viewport_size({"width": width, "height": height})
            await expect(texts(page).last).to_be_in_viewport(ratio=1)


async def test_what_a_page_says_of_all_its_texts_is_not_said_of_those_in_the_chat(
    tmp_path: Path,
) -> None:
    looks = """(it) => {
      const kept = ["color", "fontFamily", "fontSize", "fontWeight", "letterSpacing", "lineHeight",
        "textAlign", "textIndent", "textTransform", "whiteSpace", "webkitLocale"];
      const style = getComputedStyle(it);
      return kept.map((name) => `${name}: ${style[name]}`);
    }"""
    hostile = """(css) => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(css);
      document.adoptedStyleSheets = [sheet];
    }"""
    css = """* { color: red; font: italic 700 9px/1 cursive; letter-spacing: 4px;
      text-align: center; text-indent: 9px; text-transform: uppercase; white-space: nowrap }"""
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        agent = await stage.it.agent(open="c-42", name="Ada")
        await agent.ask("send", "sent", customer="c-42", text="One moment.")
        shown = [page.locator(f"ringback-chat {it}") for it in (".text", ".author", ".live", "h2")]
        before = [await it.evaluate(looks) for it in shown]
        assert 'webkitLocale: "en"' in before[0]
        await page.evaluate(hostile, css)
        assert [await it.evaluate(looks) for it in shown] == before


async def test_a_long_draft_leaves_room_for_the_chat_on_a_page_that_is_low(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        for width, height in ((667, 331), (640, 256), (320, 256), (568, 232)):
            await page.set_viewport_size({"width": width, "height": height})
            await field(page).fill("word " * 200)
            for part in ("Close chat", "Send"):
                button = page.get_by_role("dialog").get_by_role("button", name=part)
                await expect(button).to_be_in_viewport(ratio=1)
            thread = await page.get_by_role("region", name="Messages").bounding_box()
            assert thread is not None
            assert thread["height"] > 60, (width, height)


async def test_nothing_but_the_thread_can_be_scrolled_however_long_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        for number in range(15):
            await write(page, f"Number {number}")
        await expect(page.locator("ringback-chat li.own .mark")).to_have_text(["Sent"])
        await page.locator(".thread").evaluate("(it) => it.scrollTo(0, 0)")
        panel = page.get_by_role("dialog")
        await panel.evaluate("(it) => it.scrollTo(0, 1000)")  # as a search for a word would
        assert await panel.evaluate("(it) => it.scrollTop") == 0


async def test_a_page_that_is_printed_has_no_chat_over_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.emulate_media(media="print")
        await expect(launcher(page)).to_be_hidden()
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await page.evaluate(f"{CHAT}.setAttribute('inline', '')")  # a part of the page
        await expect(page.get_by_role("dialog")).to_be_visible()


async def test_every_step_goes_by_keyboard(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await connected(page)
        await page.keyboard.press("Tab")
        await expect(launcher(page)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(field(page)).to_be_focused()
        await page.keyboard.type("line one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("line two")
        await page.keyboard.press("Enter")
        await expect(texts(page)).to_have_text(["line one\nline two"])
        await expect(page.locator("li.own .mark")).to_have_text("Sent")
        await expect(field(page)).to_be_focused()
        await stage.it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")
        await page.keyboard.type("line three")
        await page.keyboard.press("Enter")
        await expect(page.locator("li.own .mark").last).to_have_text("Not sent")
        await page.keyboard.press("Shift+Tab")
        await expect(page.get_by_role("button", name="Delete")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(texts(page)).to_have_count(1)
        await expect(field(page)).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(page.get_by_role("region", name="Messages")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(page.get_by_role("button", name="Try again")).to_be_focused()
        await page.keyboard.press("Enter")
        await connected(page)
        await expect(field(page)).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(launcher(page)).to_be_focused()
        await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_a_chat_that_covers_the_page_leaves_nothing_of_it_to_be_reached(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 375, "height": 700}) as stage:
        page = await stage.visit.page()
        await page.evaluate(
            "document.querySelector('main').append(document.createElement('input'));"
            "addEventListener('ringback-close', () => (window.left = true))"
        )
        behind = page.locator("main input")
        await launcher(page).click()
        await expect(field(page)).to_be_focused()
        await page.keyboard.type("half a sen")
        modal = page.locator("ringback-chat .panel:modal")
        for width, covered in ((375, 1), (1000, 0), (375, 1)):
            await page.set_viewport_size({"width": width, "height": 700})
            await expect(modal).to_have_count(covered)
            await expect(field(page)).to_be_focused()
            await behind.focus()
            await expect(field(page) if covered else behind).to_be_focused()
            await field(page).focus()
        await page.evaluate(f"{CHAT}.style.display = 'none'")
        await expect(modal).to_have_count(0)
        await behind.focus()
        await expect(behind).to_be_focused()
        await page.evaluate(f"{CHAT}.style.display = ''")
        await expect(modal).to_have_count(1)
        await field(page).focus()
        await stage.it.write(text="Your parcel is here.")
        told = page.get_by_role("dialog").get_by_role("status")
        await expect(told.filter(has_text="Your parcel is here.")).to_have_count(1)
        await page.evaluate(f"{CHAT}.labels = {{}}")
        await behind.focus()
        await expect(field(page)).to_be_focused()
        await expect(field(page)).to_have_value("half a sen")
        assert await page.evaluate("window.left") is None
        moved = "(it) => { const chat = it; chat.remove(); document.body.append(chat); }"
        await page.locator("ringback-chat").evaluate(moved)
        await expect(modal).to_have_count(1)
        await behind.focus()
        await expect(behind).not_to_be_focused()
        await page.locator("ringback-chat .panel").evaluate("(it) => it.close()")  # as Back does
        await expect(launcher(page)).to_be_focused()
        assert await page.evaluate("window.left") is True
        await page.keyboard.press("Enter")
        await expect(modal).to_have_count(1)
        await page.keyboard.press("Escape")
        await expect(launcher(page)).to_be_focused()
        await behind.focus()
        await expect(behind).to_be_focused()


async def test_the_key_that_ends_a_composed_word_does_not_send_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.keyboard.type("日本")
        for composed in ({"isComposing": True}, {"keyCode": 229}):  # the second is Safari's
            await field(page).dispatch_event("keydown", {"key": "Enter", **composed})
        await expect(field(page)).to_have_value("日本")
        await page.keyboard.press("Enter")
        await expect(texts(page)).to_have_text(["日本"])


async def test_only_the_users_own_steps_move_the_focus(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await page.evaluate(
            "document.querySelector('main').append(document.createElement('input'))"
        )
        own = page.locator("main input")
        await own.focus()
        for shown in (True, False):
            await page.evaluate(f"{CHAT}.open = {str(shown).lower()}")
            await expect(page.get_by_role("dialog")).to_be_visible(visible=shown)
            await expect(own).to_be_focused()
        await launcher(page).click()
        await expect(field(page)).to_be_focused()
        await page.evaluate(f"{CHAT}.open = false")  # what has the focus goes away
        await expect(launcher(page)).to_be_focused()


async def test_other_words_change_nothing_else(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate("addEventListener('ringback-open', () => (window.again = true))")
        await page.keyboard.type("half a sen")
        await page.evaluate(f"{CHAT}.setAttribute('heading', 'Servus')")
        await page.evaluate(f"{CHAT}.labels = {{ ended: {{ 4503: 'Abgemeldet.' }} }}")
        await expect(page.get_by_role("dialog", name="Servus")).to_be_visible()
        await page.keyboard.type("tence")
        await expect(field(page)).to_have_value("half a sentence")
        assert await page.evaluate("window.again") is None
        await stage.it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        await expect(page.locator(".notice")).to_contain_text("Abgemeldet.")
        await page.evaluate(f"{CHAT}.labels = {{}}")
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")


async def test_what_comes_to_a_closed_chat_and_what_is_not_sent_is_announced(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await connected(page)
        said = page.get_by_role("status")
        await stage.it.write(text="Your parcel is here.")
        await expect(said.filter(has_text="Your parcel is here.")).to_have_count(1)
        await launcher(page).click()
        await stage.it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")
        await write(page, "hello?")
        await expect(said.filter(has_text="Not sent: hello?")).to_have_count(1)


async def test_what_one_writes_oneself_or_could_not_send_before_is_not_announced(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate("""localStorage.setItem("ringback send acme%20c-42 r-1", JSON.stringify(
            {ref: "r-1", text: "before", at: 0, state: "failed", error: {code: "forbidden"}}))""")
        page = await opened(stage)
        await write(page, "hello")
        await expect(page.locator("li.own .mark")).to_have_text(["Sent", "Not sent"])
        await expect(page.locator(".said")).to_be_empty()


async def test_a_token_may_come_as_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.site.bare = True
        await opened(stage)


async def test_the_page_is_told_of_every_unread_message_beyond_what_the_badge_shows(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await connected(page)
        await page.evaluate(
            "window.counts = [];"
            "addEventListener('ringback-unread', ({ detail }) => counts.push(detail.unread))"
        )
        for number in range(102):
            await stage.it.write(text=f"offer {number}")
        await expect(launcher(page)).to_have_accessible_name("Open chat, 102 unread messages")
        await expect(launcher(page)).to_have_text("99+")
        assert await page.evaluate("counts") == list(range(1, 103))


async def test_nothing_moves_for_who_asked_for_less_motion(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        for wish, animation in (("no-preference", "rise"), ("reduce", "none")):
            await page.emulate_media(reduced_motion=wish)  # type: ignore[arg-type]
            await launcher(page).click()
            panel = page.locator("ringback-chat .panel")
            assert await panel.evaluate("(it) => getComputedStyle(it).animationName") == animation
            await page.keyboard.press("Escape")


async def test_what_a_page_set_before_the_module_came_counts(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await connected(page)
        told = stage.it.token(Role.CUSTOMER, "c-43")
        name = await page.evaluate(
            """async (token) => {
              const old = document.querySelector("ringback-chat");
              const early = document.implementation.createHTMLDocument();
              const chat = early.createElement(old.localName);
              chat.token = async () => token;
              chat.labels = { title: "Servus" };
              chat.setAttribute("url", old.getAttribute("url"));
              old.replaceWith(chat);
              await new Promise((resolve) => chat.client.on("status", resolve));
              return chat.shadowRoot.querySelector("h2").textContent;
            }""",
            told,
        )
        assert name == "Servus"
        assert (await stage.it.call("GET", "/v1/customers/c-43/status", Role.SERVICE))[0] == 200


async def test_who_writes_before_the_page_has_a_token_is_told_and_keeps_what_was_written(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.visit.page()
        await page.evaluate(f"{CHAT}.removeAttribute('token-url')")
        await launcher(page).click()
        await field(page).fill("Hello?")
        await field(page).press("Enter")
        problem = page.locator("ringback-chat .problem")
        await expect(problem).to_have_text("Chat is not available. Please sign in again.")
        await expect(field(page)).to_have_value("Hello?")
        await page.evaluate(f"{CHAT}.setAttribute('token-url', '/token')")
        await page.evaluate(CONNECTED)
        await field(page).press("Enter")
        await expect(problem).to_have_text("")
        await expect(texts(page)).to_have_text(["Hello?"])


def test_the_widget_is_under_thirty_kilobytes_compressed_in_all() -> None:
    sizes = {name: len(gzip.compress((SERVED / f"{name}.js").read_bytes())) for name in WIDGET}
    assert sum(sizes.values()) < 30_000, sizes
