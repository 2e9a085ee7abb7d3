"""The agent console in a real browser against a real gateway, as an agent and customers see it."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import WebSocketRoute, expect

from examples.stage import free_ports
from gateway.protocol import CloseCode, Role
from tests.faults.process import process
from tests.running import PATIENCE, PATIENT, QUICK, Running, Wire, backend, running
from tests.web.desk import Desk, desk, earlier
from tests.web.pages import NO_STORAGE, chromium, hold
from tests.web.test_widget import PLACE

HOSTILE = (
    '<img src=x onerror="window.pwned=1">',
    "<script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    "https://x.example/\"onmouseover=window.pwned=1 <b>'",
    "{{chat}}",
)


@asynccontextmanager
async def scene(
    directory: Path,
    *,
    delivery: dict[str, float] = PATIENT,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Running, Desk]]:
    async with (
        chromium() as browser,
        running(directory, delivery=delivery, limits=limits) as it,
        desk(browser, it, **options) as at,
    ):
        yield it, at


async def customer(
    it: Running, sub: str = "c-42", *, name: str | None = "Mira", text: str = "hi", **hello: Any
) -> Wire:
    """A customer in chat who has written."""
    wire = await it.customer(sub, token=it.token(Role.CUSTOMER, sub, name=name), **hello)
    await wire.ask("send", "sent", text=text)
    return wire


MORE = 101
"""More conversations than there are in a page."""


def crowd(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(MORE)]


class Sockets:
    """The console's sockets, as a network that is up or down would have them."""

    def __init__(self) -> None:
        self.up = True
        self._open: list[WebSocketRoute] = []

    async def arrive(self, socket: WebSocketRoute) -> None:
        if self.up:
            socket.connect_to_server()
            self._open.append(socket)
        else:
            await socket.close(code=1013)

    async def cut(self) -> None:
        self.up = False
        while self._open:
            await self._open.pop().close(code=1013)

    async def mend(self, at: Desk) -> None:
        self.up = True
        await at.page.evaluate("dispatchEvent(new Event('online'))")


async def switchable(at: Desk) -> Sockets:
    """Before anybody has signed in."""
    sockets = Sockets()
    await at.page.route_web_socket("**/v1/agent", sockets.arrive)
    await at.page.reload()
    return sockets


# Signing in


async def test_a_token_that_is_none_for_agents_is_refused_with_what_would_be_right(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        problem = at.page.locator("#sign-in-error")
        for token, said in (
            ("nonsense", "This is no token"),
            (it.token(Role.CUSTOMER, "c-42"), "the role agent, and this one has customer"),
            (at.token()[:-6] + "AAAAAA", "The token was not accepted"),
        ):
            await at.sign_in(token)
            await expect(problem).to_contain_text(said)
        await at.sign_in()
        await expect(at.page.locator("#who")).to_have_text("Ada · acme")


async def test_whose_clock_is_wrong_signs_in_all_the_same(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await at.page.add_init_script("const { now } = Date; Date.now = () => now() + 7_200_000;")
        await at.page.reload()
        await customer(it)
        await at.sign_in()
        await expect(at.row()).to_be_visible()


async def test_whose_clock_is_wrong_is_told_how_long_customers_wait_by_the_gateways(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        await at.page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=2))
        await customer(it)
        await at.sign_in()
        await expect(at.row().locator("time")).to_have_text("now")
        await at.open()
        await expect(at.page.locator("#messages .day")).to_have_text("Today")


async def test_a_token_stays_in_the_tab_and_out_of_the_address(tmp_path: Path) -> None:
    async with scene(tmp_path) as (_, at):
        await at.sign_in()
        await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
        assert at.page.url.endswith("/console")
        kept = await at.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
        assert json.loads(kept) == [{}, ""]
        await at.page.reload()
        await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
        await at.page.get_by_role("button", name="Sign out").click()
        await expect(at.page.locator("#token")).to_be_focused()
        await at.page.reload()
        await expect(at.page.locator("#token")).to_be_focused()


async def test_an_expired_token_asks_for_a_fresh_one_and_keeps_what_was_written(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        await at.page.context.set_offline(True)
        await at.write("into the tunnel")
        await expect(at.messages().last).to_contain_text("Waiting to be sent")
        await at.page.keyboard.type("half a sen")
        (session,) = it.gateway.core.hub.inboxes("acme")
        assert isinstance(session.expiry, asyncio.TimerHandle)
        session.expiry._run()  # the end of the token comes
        await at.page.context.set_offline(False)
        await expect(at.page.locator("#sign-in-error")).to_contain_text("Your token has expired")
        await at.sign_in()
        assert (await mira.take("message"))["text"] == "into the tunnel"
        await expect(at.page.locator("#draft")).to_be_focused()
        await at.page.keyboard.type("tence")
        await at.page.keyboard.press("Enter")
        assert (await mira.take("message"))["text"] == "half a sentence"
        await expect(at.page.locator(".message.ours .mark")).to_have_count(2)
        _, told = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert len(told["messages"]) == 3


async def test_who_signs_in_finds_nothing_of_the_one_before(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        await at.sign_in()
        await expect(at.page).to_have_title("(1) Ringback console")
        await at.page.locator("#search").fill("nobody")
        await at.page.get_by_role("button", name="Sign out").click()
        await expect(at.page).to_have_title("Ringback console")
        await at.sign_in(at.token("a-2"))
        await expect(at.row()).to_be_visible()
        await expect(at.page.locator("#search")).to_have_value("")


async def test_who_signs_out_leaves_nothing_of_a_customer_in_the_page(tmp_path: Path) -> None:
    """Whoever sits there next may look into the page, and is nobody's agent."""
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await mira.ask("send", "sent", text="my number is 4711")
        await at.sign_in()
        await at.open()
        await at.write("thank you, 4711")
        await at.messages().last.locator(".mark").click()
        await expect(at.page.locator("#panel")).to_contain_text("thank you, 4711")
        await at.page.locator("#draft").fill("about 4711")
        whole = "document.documentElement.outerHTML + document.querySelector('#draft').value"
        assert "4711" in await at.page.evaluate(whole)
        await at.page.get_by_role("button", name="Sign out").click()
        await expect(at.page.locator("#token")).to_be_focused()
        left = await at.page.evaluate(whole)
        for word in ("4711", "Mira", "c-42", "Ada"):
            assert word not in left
        await at.sign_in()
        await at.open()
        await expect(at.messages()).to_have_count(3)
        await expect(at.page.locator("#draft")).to_have_value("about 4711")


async def test_a_token_that_ends_behind_a_dialog_is_asked_for_after_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        for key in ("Alt+h", "Alt+e"):
            await at.sign_in()
            await at.open()
            await at.page.keyboard.press(key)
            await expect(at.page.locator("dialog[open]")).to_be_visible()
            async with asyncio.timeout(PATIENCE):  # the rows may be of the token before
                while not (sessions := it.gateway.core.hub.inboxes("acme")):
                    await asyncio.sleep(0.01)
            sessions[0].close(CloseCode.TOKEN_EXPIRED)
            async with asyncio.timeout(PATIENCE):
                while it.gateway.core.hub.inboxes("acme"):
                    await asyncio.sleep(0.01)
            await expect(at.page.locator("#sign-in-error")).to_contain_text("has expired")
            await at.page.keyboard.press("Escape")
            await expect(at.page.locator("#token")).to_be_focused()


# Conversations


async def test_messages_go_both_ways_with_typing_and_receipts(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await expect(at.row()).to_contain_text("hi")
        await at.open()
        await at.page.keyboard.type("Hello")
        assert (await mira.take("typing"))["on"] is True
        await at.page.keyboard.press("Enter")
        told = await mira.take("message")
        assert (told["text"], told["from"]["name"]) == ("Hello", "Ada")
        mark = at.page.locator(".message.ours .mark")
        await expect(mark).to_have_text("✓ Sent, in chat")
        await mira.send("ack", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Delivered")
        await mira.send("read", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Read")
        await mira.send("typing", on=True)
        await expect(at.page.locator("#typing")).to_have_text("Mira is writing…")
        await mira.ask("send", "sent", text="Thanks")
        await expect(at.messages().last).to_contain_text("Thanks")
        await expect(at.page.locator("#typing")).to_have_text("")
        await expect(at.row().locator(".badge")).to_have_count(0)  # the agents have read it
        await mira.send("bye")
        await expect(at.page.locator("#presence")).to_contain_text("Not in chat")


async def test_what_is_selected_stays_so_when_a_mark_changes(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        await at.write("Your code is 4711")
        told = await mira.take("message", text="Your code is 4711")
        mark = at.page.locator(".message.ours .mark")
        await expect(mark).to_have_text("✓ Sent, in chat")
        await at.messages().last.locator(".text").select_text()
        await mira.send("ack", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Delivered")
        assert await at.page.evaluate("getSelection().toString()") == "Your code is 4711"


async def test_an_agent_who_goes_elsewhere_in_the_middle_of_a_word_writes_there_no_more(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 400, "height": 800}) as (it, at):
        wires = [await customer(it, sub, name=sub) for sub in ("c-1", "c-2")]
        await at.sign_in()
        await at.open("c-1")
        for sub, wire, keys in zip(("c-1", "c-2"), wires, ("Alt+ArrowDown", "Escape"), strict=True):
            await expect(at.page.locator("#name")).to_have_text(sub)
            await at.page.keyboard.type("Hello")
            assert (await wire.take("typing"))["on"] is True
            await at.page.keyboard.press(keys)
            assert (await wire.take("typing"))["on"] is False


async def test_who_leaves_in_the_middle_of_a_word_writes_no_more(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        await expect(at.messages()).to_have_count(1)  # from here on it is told who writes
        await mira.send("typing", on=True)
        await expect(at.page.locator("#typing")).to_have_text("Mira is writing…")
        await mira.send("bye")
        await expect(at.page.locator("#presence")).to_contain_text("Not in chat")
        assert await at.page.locator("#typing").inner_text() == ""


async def test_the_newest_message_stays_in_sight_when_the_page_or_the_composer_changes_its_size(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        for number in range(12):
            await it.write(text=f"offer {number}")
        await at.sign_in()
        await at.open()
        newest = at.page.locator(".message .meta").last
        await expect(newest).to_be_in_viewport(ratio=1)
        await at.page.locator("#draft").fill("one\ntwo\nthree\nfour\nfive")
        await expect(newest).to_be_in_viewport(ratio=1)
        for width, height in ((375, 812), (1440, 900), (1440, 500), (375, 420)):
            await at.page.set_viewport_size({"width": width, "height": height})
            await expect(newest).to_be_in_viewport(ratio=1)


async def test_a_page_at_four_times_its_size_has_room_for_a_long_draft(tmp_path: Path) -> None:
    async with scene(tmp_path, viewport={"width": 320, "height": 256}) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.open()
        await at.page.locator("#draft").fill("\n".join("a long draft"))
        await expect(at.page.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
        await expect(at.page.locator("#scroll")).to_be_in_viewport()


async def test_a_push_is_marked_and_the_timeline_says_why(tmp_path: Path) -> None:
    async with scene(tmp_path, delivery=QUICK) as (it, at):
        await it.register()
        mira = await customer(it)
        await mira.send("bye")
        await at.sign_in()
        await at.open()
        await at.write("Are you there?")
        await it.backend.take()
        mark = at.page.locator(".message.ours .mark")
        await expect(mark).to_have_text("↗ Pushed")
        await at.page.keyboard.press("Alt+i")
        await expect(at.page.locator("#panel")).to_contain_text("accepted, ")
        await expect(at.page.locator("#panel dd").nth(1)).to_have_text("1")
        await mark.click()
        panel = at.page.locator("#panel")
        await expect(panel).to_contain_text("The customer backend accepted a ring that covers it")
        await expect(panel).to_contain_text("accepted by the customer backend (HTTP 200")
        await at.page.keyboard.press("Escape")
        await expect(panel).to_be_hidden()
        await expect(at.page.locator("#draft")).to_be_focused()


async def test_what_was_long_ago_says_the_day_and_the_year(tmp_path: Path) -> None:
    async with scene(tmp_path, delivery=QUICK, timezone_id="UTC", locale="en-GB") as (it, at):
        midnight = 400 + time.time() % 86_400 / 86_400
        with earlier(it, days=midnight + 0.05):
            seq = await it.write(text="Your parcel is on its way")
            await it.settled(seq, "undeliverable")
            then = (await it.outcome(seq))["events"][0]["at"]
        with earlier(it, days=midnight - 0.05):
            await it.register()
            told = await it.settled(seq, "pushed")
        day = date.fromisoformat(then[:10])
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        await at.open()
        heading = f"{day:%A}{day.day}{day:%B%Y}"
        shown = await at.page.locator(".day").inner_text()
        assert shown.replace(",", "").replace(" ", "") == heading
        await at.page.locator(".mark").click()
        await expect(at.page.locator(".timeline")).to_be_visible()  # drawn at once, as a whole
        times = await at.page.locator(".timeline time").all_inner_texts()
        days = [event["at"][:10] for event in told["events"]]
        assert [text[:10] for text in times if " " in text] == sorted(set(days))
        await at.page.keyboard.press("Alt+i")
        panel = at.page.locator("#panel")
        await expect(panel).to_contain_text(f"accepted, {day + timedelta(days=1):%A}")


async def test_an_answer_that_comes_late_is_not_shown_as_anothers(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        wires = [await customer(it, sub, name=sub) for sub in ("c-1", "c-2")]
        let_go = await hold(at.page, "**/c-1/deliveries*")
        await at.sign_in()
        for number, wire in enumerate(wires, 1):
            await at.open(f"c-{number}")
            await at.write(f"to c-{number}")
            await wire.take("message")
            await expect(at.page.locator(".message.ours .mark")).to_be_visible()
            await at.page.keyboard.press("Alt+w")
        panel = at.page.locator("#panel")
        await expect(panel).to_contain_text("It has no outcome yet")
        async with at.page.expect_response("**/c-1/deliveries*") as answer:
            let_go()
        await (await answer.value).finished()
        await expect(panel.locator("blockquote")).to_have_text("to c-2")


async def test_what_became_of_a_message_is_known_after_a_reload(tmp_path: Path) -> None:
    async with scene(tmp_path, delivery=QUICK) as (it, at):
        mira = await customer(it)
        await mira.send("bye")
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="No phone of yours")
        await agent.take("receipt", state="undeliverable")
        await at.sign_in()
        await at.open()
        mark = at.page.locator(".message.ours .mark")
        await expect(mark).to_have_text("! Not delivered, no device")


async def test_what_became_of_every_message_is_known_however_many_and_however_old(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, delivery=QUICK) as (it, at):
        await it.register()
        for number in range(70):
            seq = await it.write(text=f"Offer {number}")
        await it.settled(seq, "pushed")
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        await at.open()
        marks = at.page.locator(".message.ours .mark")
        await expect(marks).to_have_text(["↗ Pushed"] * 50)
        await at.page.locator("#scroll").evaluate("(it) => it.scrollTo(0, 0)")
        await expect(marks).to_have_text(["↗ Pushed"] * 70)


async def test_what_was_not_delivered_and_was_pushed_while_the_console_was_away_is_pushed(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, delivery=QUICK) as (it, at):
        sockets = await switchable(at)
        mira = await customer(it)
        await mira.send("bye")
        await at.sign_in()
        await at.open()
        await at.write("No phone of yours")
        mark = at.page.locator(".message.ours .mark")
        await expect(mark).to_have_text("! Not delivered, no device")
        await sockets.cut()
        await it.register()
        await it.settled(2, "pushed")
        await sockets.mend(at)
        await expect(mark).to_have_text("↗ Pushed")


async def test_no_field_is_so_small_that_a_phone_enlarges_the_page_for_it(tmp_path: Path) -> None:
    size = "(all) => all.map((it) => parseFloat(getComputedStyle(it).fontSize))"
    async with scene(tmp_path, viewport={"width": 375, "height": 667}) as (_, at):
        sizes = await at.page.locator("input, textarea").evaluate_all(size)
        assert len(sizes) == 4
        assert min(sizes) >= 16


async def test_the_inbox_has_the_unanswered_first_and_its_filters(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await at.sign_in()
        for sub in ("c-1", "c-2", "c-3"):
            await customer(it, sub, name=f"N {sub}")
            await expect(at.row(sub)).to_be_visible()
        agent = await it.agent(open="c-1")
        await agent.ask("send", "sent", customer="c-1", text="At once")
        names = at.page.locator("#list .name")
        await expect(names).to_have_text(["N c-2", "N c-3", "N c-1"])
        await agent.ask("open", "conversation", customer="c-3")
        await agent.ask("end", "ok", customer="c-3")
        await expect(names).to_have_text(["N c-2", "N c-1"])
        await at.page.locator("[data-filter=all]").click()
        await expect(names).to_have_text(["N c-2", "N c-1", "N c-3"])
        await at.page.locator("[data-filter=unanswered]").click()
        await expect(names).to_have_text(["N c-2"])
        await at.page.locator("#search").fill("nobody")
        await expect(at.page.locator("#list-state")).to_contain_text("Nothing found")
        await expect(at.page).to_have_title("(1) Ringback console")


async def test_what_changes_in_the_inbox_touches_no_row_that_stays_in_its_place(
    tmp_path: Path,
) -> None:
    """Else each message that anybody sends would lay all of a long inbox out anew."""
    async with scene(tmp_path) as (it, at):
        wires = [await customer(it, f"c-{n}", name=f"N {n}") for n in range(5)]
        names = at.page.locator("#list .name")
        await at.sign_in()
        await expect(names).to_have_text(["N 0", "N 1", "N 2", "N 3", "N 4"])
        await at.page.evaluate(
            """() => { window.touched = new Set();
            const name = (row) => touched.add(row.querySelector(".name").textContent);
            new MutationObserver((all) => all.forEach(({addedNodes, removedNodes}) =>
              [...addedNodes, ...removedNodes].forEach(name)))
              .observe(document.getElementById("list"), {childList: true}); }"""
        )
        await wires[1].ask("send", "sent", text="again")
        await expect(at.row("c-1")).to_contain_text("again")
        await (await it.agent()).ask("send", "sent", customer="c-0", text="At once")
        await expect(names).to_have_text(["N 1", "N 2", "N 3", "N 4", "N 0"])
        assert await at.page.evaluate("[...touched].sort()") == ["N 0", "N 1"]


async def test_a_row_that_is_pressed_is_chosen_whatever_comes_until_it_is_let_go(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        wires = [await customer(it, f"c-{n}", name=f"N {n}") for n in range(3)]
        names, title = at.page.locator("#list .name"), at.page.locator("#name")
        await at.sign_in()
        await expect(names).to_have_text(["N 0", "N 1", "N 2"])
        for n in (1, 2):
            await at.row(f"c-{n}").hover()
            await at.page.mouse.down()
            await wires[1].ask("send", "sent", text=f"again {n}")
            await customer(it, f"new-{n}")
            await expect(at.page).to_have_title(f"({3 + n}) Ringback console")
            await at.page.mouse.up()
            await expect(title).to_have_text(f"N {n}")
            await expect(at.row("c-1")).to_contain_text(f"again {n}")
            await expect(at.row(f"new-{n}")).to_be_visible()


async def test_who_waits_stays_among_the_unanswered_whatever_a_service_says_meanwhile(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.page.locator("[data-filter=unanswered]").click()
        for kind in ("proactive", "system"):
            await it.write(text=kind, kind=kind)
            await expect(at.row()).to_contain_text(kind)
        await expect(at.page).to_have_title("(1) Ringback console")


async def test_whoever_has_waited_longest_is_on_top_however_many_wait(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it, "c-first", name="First")
        for sub in crowd("c"):
            wire = await customer(it, sub)
            await wire.send("bye")
        await at.sign_in()
        unanswered = at.page.locator("[data-filter=unanswered]")
        await expect(unanswered).to_contain_text(f"{MORE + 1}")  # all are here
        await at.page.keyboard.press("Alt+u")
        await expect(at.page.locator("#name")).to_have_text("First")
        await at.page.locator("[data-filter=unanswered]").click()
        await expect(at.page.locator("#list .row")).to_have_count(MORE + 1)
        await expect(at.page.locator("#list .name").first).to_have_text("First")
        await expect(at.page).to_have_title(f"({MORE + 1}) Ringback console")


async def test_whoever_has_waited_longest_is_asked_for_before_the_connection_is_there(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        welcomes = await late(at, "welcome")
        await customer(it)
        await at.sign_in()
        let_go = await welcomes.get()
        await at.page.keyboard.press("Alt+u")
        let_go()
        await expect(at.page.locator("#name")).to_have_text("Mira")


async def test_the_end_is_asked_for_before_the_conversation_has_come(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        conversations = await late(at, "conversation")
        await at.sign_in()
        await at.open()
        let_go = await conversations.get()
        await at.page.keyboard.press("Alt+e")
        await expect(at.page.locator("dialog[open]")).to_be_visible()
        let_go()
        await at.page.get_by_role("button", name="End it").click()
        await expect(at.page.locator("#presence")).to_contain_text("ended")


async def test_a_search_goes_on_until_it_has_found_or_seen_all(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        for sub in ("p-first", *crowd("p")):
            await it.write(sub)
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        state = at.page.locator("#list-state")
        await expect(state).to_have_text("Scroll for more")
        await at.page.locator("#search").fill("p-first")
        await expect(at.row("p-first")).to_be_visible()
        await at.page.locator("#search").fill("nobody")
        await expect(state).to_contain_text("Nothing found")


async def test_a_list_that_cannot_be_scrolled_gets_more_by_itself(tmp_path: Path) -> None:
    async with scene(tmp_path, viewport={"width": 1000, "height": 9000}) as (it, at):
        for sub in ("p-first", *crowd("p")):
            await it.write(sub)
        await at.sign_in()
        await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
        await at.page.locator("[data-filter=all]").click()
        await expect(at.page.locator("#list .row")).to_have_count(MORE + 1)


async def test_the_page_itself_has_nothing_to_scroll_however_long_a_thread_is(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        for number in range(40):
            await it.write(text=f"offer {number}")
            await customer(it, f"d-{number}")
        await customer(it)
        await at.sign_in()
        await at.open()
        await expect(at.messages()).to_have_count(41)
        for width, height in ((1280, 720), (375, 667)):
            await at.page.set_viewport_size({"width": width, "height": height})
            assert await at.page.evaluate("document.documentElement.scrollHeight") == height


async def test_a_conversation_is_printed_whole_and_nothing_else(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        for number in range(40):
            await it.write(text=f"offer {number}")
        await customer(it)
        await at.sign_in()
        await at.open()
        await expect(at.messages()).to_have_count(41)
        await at.page.keyboard.press("Alt+i")
        await at.page.emulate_media(media="print")
        for gone in ("#bell", "#search", "#draft", "#panel", "#end"):
            await expect(at.page.locator(gone)).to_be_hidden()
        cut = "(it) => it.scrollHeight - it.clientHeight"
        assert await at.page.locator("#scroll").evaluate(cut) == 0
        await expect(at.page.locator("#name")).to_have_text("Mira")


async def test_the_past_comes_with_scrolling(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        agent = await it.agent(open="c-42")
        for n in range(70):
            await agent.ask("send", "sent", customer="c-42", text=f"line {n}")
        assert mira.welcome["customer"] == "c-42"
        await at.sign_in()
        await at.open()
        await expect(at.messages()).to_have_count(50)
        await at.page.locator("#scroll").evaluate("(box) => box.scrollTo(0, 0)")
        await expect(at.messages()).to_have_count(71)
        await expect(at.page.locator("#past")).to_have_text("The conversation begins here")


async def test_the_past_that_comes_late_moves_neither_what_is_read_nor_another_thread(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        pages = await late(at, "history")
        mira = await customer(it, "c-1", name="Mira")
        await customer(it, "c-2", name="Jonas")
        for number in range(100):
            await it.write("c-1", text=f"offer {number}")
            await it.write("c-2", text=f"offer {number}")
        await at.sign_in()
        await at.open("c-1")
        await expect(at.messages()).to_have_count(50)
        await at.page.locator("#scroll").evaluate("(box) => box.scrollTo(0, 0)")
        let_go = await pages.get()
        read = at.page.get_by_text("offer 55", exact=True)
        before = await read.evaluate(PLACE, "#scroll")
        await mira.ask("send", "sent", text="one\ntwo\nthree")
        await expect(at.messages()).to_have_count(51)
        let_go()
        await expect(at.messages()).to_have_count(101)
        assert await read.evaluate(PLACE, "#scroll") == pytest.approx(before, abs=2)

        await at.page.locator("#scroll").evaluate("(box) => box.scrollTo(0, 0)")
        let_go = await pages.get()
        await at.open("c-2")
        await expect(at.messages().last).to_be_in_viewport()
        let_go()
        await mira.ask("send", "sent", text="later")
        await expect(at.row("c-1")).to_contain_text("later")  # and so the page has come
        await expect(at.messages().last).to_be_in_viewport()


async def late(at: Desk, kind: str) -> asyncio.Queue[Callable[[], None]]:
    """Before anybody has signed in: what lets each answer of a kind go, as they come."""
    held: asyncio.Queue[Callable[[], None]] = asyncio.Queue()

    def arrive(socket: WebSocketRoute) -> None:
        def told(frame: str | bytes) -> None:
            if json.loads(frame)["type"] == kind:
                held.put_nowait(partial(socket.send, frame))
            else:
                socket.send(frame)

        socket.connect_to_server().on_message(told)

    await at.page.route_web_socket("**/v1/agent", arrive)
    await at.page.reload()
    return held


async def test_the_past_comes_by_itself_where_there_is_room_and_nothing_to_scroll(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 1000, "height": 9000}) as (it, at):
        for number in range(110):
            await it.write(text=f"offer {number}")
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        await at.open()
        await expect(at.messages()).to_have_count(110)


async def test_a_thread_of_a_proactive_message_says_what_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await it.write(text="An offer")
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        await at.open()
        await expect(at.messages()).to_contain_text(["proactive"])
        await expect(at.page.locator("#end")).to_be_disabled()


# When things go wrong


async def test_a_killed_gateway_costs_neither_a_draft_nor_a_message_nor_doubles_one(
    tmp_path: Path,
) -> None:
    ports = zip(("CHAT", "HTTP", "ADMIN"), free_ports(3), strict=True)
    environment = {f"RINGBACK_SERVER__{name}": f"127.0.0.1:{port}" for name, port in ports}
    async with chromium() as browser, backend() as rings, AsyncExitStack() as gateways:
        start = partial(process, tmp_path, rings, environment=environment, delivery=PATIENT)
        first = await gateways.enter_async_context(start())
        await customer(first)
        async with desk(browser, first) as at:
            await at.sign_in()
            await at.open()
            await at.write("before")
            await expect(at.page.locator(".message.ours .mark")).to_be_visible()
            await first.kill()
            await expect(at.page.locator("#link")).to_contain_text("is kept")
            await at.write("meanwhile")
            await expect(at.messages().last).to_contain_text("Waiting to be sent")
            await at.page.locator("#draft").fill("half a sen")
            second = await gateways.enter_async_context(start())
            await expect(at.page.locator(".message.ours .mark")).to_have_count(2)
            await expect(at.page.locator("#draft")).to_have_value("half a sen")
            await expect(at.page.locator("#link")).to_have_text("")
            _, told = await second.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
            assert [m["text"] for m in told["messages"]] == ["hi", "before", "meanwhile"]


async def test_who_is_in_chat_is_not_said_while_the_console_cannot_know(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        sockets = await switchable(at)
        await at.sign_in()
        mira = await customer(it)
        await at.open()
        await at.page.keyboard.press("Alt+i")
        presence, panel = at.page.locator("#presence"), at.page.locator("#panel")
        await expect(at.messages()).to_have_count(1)  # from here on it is told who writes
        await mira.send("typing", on=True)
        await expect(at.page.locator("#typing")).to_have_text("Mira is writing…")
        await expect(presence).to_have_text("In chat now · live")
        dot = at.row().locator(".dot")
        await expect(dot).to_have_css("background-color", IN_CHAT)
        await sockets.cut()
        await expect(at.page.locator("#link")).to_contain_text("what you see may be old")
        await expect(presence).to_have_text("In chat? Not known just now · live")
        await expect(panel).not_to_contain_text("on screen now")
        await expect(at.page.locator("#typing")).to_be_empty()
        await expect(dot).not_to_have_css("background-color", IN_CHAT)
        await sockets.mend(at)
        await expect(presence).to_have_text("In chat now · live")
        await expect(panel).to_contain_text("on screen now")
        await expect(dot).to_have_css("background-color", IN_CHAT)


IN_CHAT = "rgb(31, 157, 85)"
"""The colour that says that the customer is in chat."""


async def test_a_network_that_is_gone_is_noticed_when_the_system_says_so(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        through = True

        async def arrive(socket: WebSocketRoute) -> None:
            server = socket.connect_to_server()
            socket.on_message(lambda data: server.send(data) if through else None)
            server.on_message(lambda data: socket.send(data) if through else None)

        await at.page.route_web_socket("**/v1/agent", arrive)
        await at.page.reload()
        await at.sign_in()
        await customer(it)
        await at.open()
        through = False
        await at.page.evaluate("dispatchEvent(new Event('offline'))")
        await expect(at.page.locator("#link")).to_contain_text("is kept", timeout=10_000)


async def test_what_others_ended_meanwhile_waits_no_more_and_stays_chosen_with_its_draft(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        sockets = await switchable(at)
        await customer(it, "c-1", name="Mira")
        await customer(it, "c-2", name="Jonas")
        await at.sign_in()
        await at.page.locator("[data-filter=unanswered]").click()
        await at.open("c-1")
        await at.page.keyboard.type("half a sen")
        await sockets.cut()
        await expect(at.page.locator("#link")).to_contain_text("is kept")
        await (await it.agent("a-2")).ask("end", "ok", customer="c-1")
        for sub in crowd("p"):  # no page tells of her any more
            await it.write(sub)
        sockets.up = True
        await at.page.evaluate(
            """() => { const list = document.getElementById("list"); window.flickered = false;
            const kept = list.querySelector("[data-customer=c-2]").parentElement;
            new MutationObserver(() => { flickered ||= !list.contains(kept); })
              .observe(list, {childList: true});
            dispatchEvent(new Event("online")); }"""
        )
        await expect(at.page.locator("#list .name")).to_have_text(["Jonas"])
        assert await at.page.evaluate("flickered") is False
        await expect(at.page.locator("#name")).to_have_text("Mira")
        await expect(at.page.locator("#presence")).to_contain_text("ended")
        await expect(at.page.locator("#draft")).to_be_focused()
        await expect(at.page.locator("#draft")).to_have_value("half a sen")


async def test_what_came_to_another_conversation_while_the_console_was_away_is_there(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        sockets = await switchable(at)
        first, _ = [await customer(it, sub) for sub in ("c-1", "c-2")]
        await at.sign_in()
        await at.open("c-1")
        await expect(at.messages()).to_have_count(1)
        await at.open("c-2")
        await sockets.cut()
        await first.ask("send", "sent", text="meanwhile")
        await sockets.mend(at)
        await expect(at.row("c-1")).to_contain_text("meanwhile")
        await at.open("c-1")
        await expect(at.messages().last).to_contain_text("meanwhile")
        await first.ask("send", "sent", text="and now")
        await expect(at.messages().last).to_contain_text("and now")


async def test_an_ack_that_was_lost_with_its_connection_is_said_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        lost, sockets = asyncio.Event(), list[WebSocketRoute]()
        through = True

        async def arrive(socket: WebSocketRoute) -> None:
            server = socket.connect_to_server()
            sockets.append(socket)

            def said(data: str | bytes) -> None:
                if through:
                    server.send(data)
                elif '"ack"' in str(data):
                    lost.set()

            socket.on_message(said)

        await at.page.route_web_socket("**/v1/agent", arrive)
        await at.page.reload()
        mira = await customer(it)
        await at.sign_in()
        await mira.take("status", agents_acked_seq=1)
        through = False
        await mira.ask("send", "sent", text="two")
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
        through = True
        await sockets[0].close(code=1013)
        await at.page.evaluate("dispatchEvent(new Event('online'))")
        await mira.take("status", agents_acked_seq=2)


async def test_what_waits_is_shown_however_many_conversations_are_looked_at_meanwhile(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        sockets = await switchable(at)
        people = [f"c-{number}" for number in range(10)]
        for sub in people:
            await customer(it, sub)
        await at.sign_in()
        await at.open("c-0")
        await sockets.cut()
        await at.write("this waits")
        for sub in (*people[1:], "c-0"):
            await at.open(sub)
        await expect(at.messages().last).to_contain_text("this waits")
        await sockets.mend(at)
        await expect(at.page.locator(".message.ours .mark")).to_have_text("✓ Sent, in chat")


async def test_a_slow_network_and_airplane_mode_delay_and_lose_nothing(tmp_path: Path) -> None:
    said = ["slowly " * 1000, "into the tunnel", "and out again"]
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        marks = at.page.locator(".message.ours .mark")
        slow = {"offline": False, "latency": 300, "downloadThroughput": 8_000}
        devtools = await at.page.context.new_cdp_session(at.page)
        await devtools.send("Network.enable")
        await devtools.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": 500})
        await at.write(said[0])
        await expect(at.messages().last).to_contain_text("Waiting to be sent")
        await devtools.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": 8_000})
        await expect(marks).to_have_text(["✓ Sent, in chat"])
        await at.page.context.set_offline(True)
        await at.write(said[1])
        await expect(at.messages().last).to_contain_text("Waiting to be sent")
        await at.page.context.set_offline(False)
        await at.write(said[2])
        await expect(marks).to_have_count(3)
        assert [(await mira.take("message"))["text"] for _ in said] == [t.strip() for t in said]


async def test_two_tabs_of_an_agent_show_the_same_and_keep_their_own_drafts(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        other = Desk(it, await at.page.context.new_page())
        await other.page.goto(at.page.url)
        for one in (at, other):
            await one.sign_in()
            await one.open()
        await at.page.locator("#draft").fill("a draft")
        await other.write("from the other tab")
        await expect(at.messages().last).to_contain_text("from the other tab")
        await expect(at.page.locator("#draft")).to_have_value("a draft")
        await at.write("and from this one")
        await mira.take("message", seq=3)
        await mira.send("read", seq=3)
        for one in (at, other):
            await expect(one.page.locator(".message.ours .mark")).to_have_text(["✓✓ Read"] * 2)
        await other.check()


async def test_with_every_storage_switched_off_only_a_reload_loses_something(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.page.add_init_script(NO_STORAGE)
        await at.page.reload()
        await at.sign_in()
        await at.open()
        await at.page.keyboard.type("/hel")
        await at.page.keyboard.press("Enter")
        await at.page.keyboard.press("Enter")
        assert (await mira.take("message"))["text"].startswith("Hello Mira,")
        await at.page.locator(".message.ours .mark").click()
        await expect(at.page.locator("#panel")).to_contain_text("It has no outcome yet")
        await at.page.get_by_role("button", name="Sign out").click()
        await expect(at.page.locator("#token")).to_be_focused()


async def test_a_reload_while_offline_keeps_drafts_and_sends_what_waits_once(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        await at.page.evaluate(
            """() => { const sent = {ref: "kept-1", customer: "c-42", text: "kept"};
            const key = Object.keys(sessionStorage).find((k) => k.endsWith("draft c-42"));
            sessionStorage.setItem(`ringback ["acme","a-1"] unsent`, JSON.stringify([sent])); }"""
        )
        await at.page.locator("#draft").fill("draft")
        await at.page.reload()
        assert (await mira.take("message"))["text"] == "kept"
        await at.open()
        await expect(at.page.locator("#draft")).to_have_value("draft")
        await expect(at.messages().last).to_contain_text("kept")
        await at.page.reload()
        await at.open()
        await expect(at.messages()).to_have_count(2)


async def test_a_refused_message_says_why_and_may_be_tried_again(tmp_path: Path) -> None:
    async with scene(tmp_path, limits={"text_chars": 20}) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.open()
        await at.write("x" * 21)
        await expect(at.messages().last).to_contain_text("Not sent: text: 21 characters")
        again = at.page.get_by_role("button", name="Try again")
        await at.page.keyboard.press("Shift+Tab")
        await at.page.keyboard.press("Shift+Tab")
        await expect(again).to_be_focused()
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#draft")).to_be_focused()
        await expect(again).to_be_visible()
        await at.page.keyboard.press("Shift+Tab")
        await expect(at.page.get_by_role("button", name="Edit")).to_be_focused()
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#draft")).to_have_value("x" * 21)
        await at.page.keyboard.press("Backspace")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator(".message.ours .mark")).to_have_text("✓ Sent, in chat")
        await expect(at.messages()).to_have_count(2)
        await at.page.reload()
        await at.open()
        await expect(at.page.locator(".message.ours .mark")).to_have_text("✓ Sent, in chat")
        await expect(at.messages()).to_have_count(2)


async def test_a_text_that_is_too_long_is_said_to_be_while_it_is_written(tmp_path: Path) -> None:
    async with scene(tmp_path, limits={"text_chars": 20}) as (it, at):
        await customer(it, "c-1")
        await customer(it, "c-2")
        await at.sign_in()
        await at.open("c-1")
        problem = at.page.locator("#composer-error")
        await at.page.keyboard.insert_text("😀" * 20)
        await expect(problem).to_be_empty()
        await at.page.keyboard.type("x")
        await expect(problem).to_have_text("At most 20 characters, please.")
        await at.open("c-2")
        await expect(problem).to_be_empty()
        await at.open("c-1")
        await expect(problem).to_have_text("At most 20 characters, please.")
        await at.page.keyboard.press("Backspace")
        await expect(problem).to_be_empty()


async def test_half_of_a_character_keeps_no_message_from_being_sent(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        half = "(it) => { it.value = 'Thank you \\ud83d'; }"  # as a keyboard leaves of an emoji
        await at.page.locator("#draft").evaluate(half)
        await at.page.keyboard.press("Enter")
        await mira.take("message", text="Thank you \ufffd")


async def test_a_refused_message_is_shown_after_a_reload_and_not_sent_by_itself(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, limits={"text_chars": 20}) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.open()
        await at.write("x" * 21)
        await expect(at.messages().last).to_contain_text("Not sent: text: 21 characters")
        await at.page.add_init_script(
            "const { send } = WebSocket.prototype;"
            "WebSocket.prototype.send = function (data) {"
            "  document.documentElement.dataset.sent ??= '';"
            "  document.documentElement.dataset.sent += data; send.call(this, data); };"
        )
        await at.page.reload()
        await at.open()
        await expect(at.messages().last).to_contain_text("Not sent: text: 21 characters")
        sent = await at.page.evaluate("document.documentElement.dataset.sent")
        assert '"open"' in sent
        assert '"send"' not in sent
        await at.page.get_by_role("button", name="Edit").click()
        await at.page.keyboard.press("Backspace")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator(".message.ours .mark")).to_have_text("✓ Sent, in chat")
        await expect(at.messages()).to_have_count(2)


async def test_texts_names_and_ids_of_anybody_stay_text(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await at.sign_in(forged(role=HOSTILE[0]))
        await expect(at.page.locator("#sign-in-error")).to_contain_text(HOSTILE[0])
        await at.sign_in(forged(role="agent", tenant=HOSTILE[0], sub="a-1", name=HOSTILE[1]))
        await expect(at.page.locator("#sign-in-error")).to_contain_text("not accepted")
        await expect(at.page.locator("#who")).to_have_text(f"{HOSTILE[1]} · {HOSTILE[0]}")

        wires = {}
        for n, text in enumerate(HOSTILE):
            sub = f"{n}{text[:60]}"
            wires[text] = sub, await customer(it, sub, name=text, text=text, installation=text)
        colleague = await it.agent("a-2", name=HOSTILE[1])
        await at.sign_in(at.token(sub=HOSTILE[0], name=HOSTILE[1]))
        await expect(at.page.locator("#list .row")).to_have_count(len(HOSTILE))
        panel = at.page.locator("#panel")
        for _ in HOSTILE:
            await at.page.keyboard.press("Alt+u")
            await expect(at.messages()).to_have_count(1)
            shown = await at.messages().locator(".text").inner_text()
            sub, wire = wires[shown]
            await expect(at.page.locator("#name")).to_have_text(shown)
            await wire.send("typing", on=True)
            await expect(at.page.locator("#typing")).to_have_text(f"{shown} is writing…")
            await at.write(HOSTILE[0])
            await at.page.locator(".message.ours .mark").click()
            await expect(at.page.locator("blockquote")).to_have_text(HOSTILE[0])
            await expect(panel).to_contain_text(f"({shown})")  # why: its session's installation
            told = {"customer": sub, "text": shown, "data": {shown: [shown]}}
            await colleague.ask("send", "sent", **told)
            await expect(at.page.locator(".message .author").last).to_have_text(HOSTILE[1])
            await at.page.keyboard.press("Alt+i")
            await expect(panel).to_contain_text(sub)
            await at.page.keyboard.press("Escape")
        await it.write(sub, text=HOSTILE[0], title=HOSTILE[0], data={"html": HOSTILE[0]})
        await expect(at.page.locator(".message .author").last).to_have_text("crm · proactive")
        await at.page.locator("#search").fill(HOSTILE[0])
        await at.page.evaluate(
            "(text) => localStorage.setItem('ringback console replies', `x: ${text} {name}`)",
            HOSTILE[0],
        )
        await at.page.locator("#draft").fill("/x")
        await expect(at.page.locator("#reply-0")).to_contain_text(HOSTILE[0])
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#draft")).to_have_value(f"{HOSTILE[0]} {shown}")
        assert await at.page.evaluate("window.pwned") is None
        assert await at.page.locator("#app main img, #app main script, b b").count() == 0


async def test_no_text_of_a_customer_makes_the_page_stand_still(tmp_path: Path) -> None:
    """An address that ends in thousands of signs that may or may not be of it."""
    async with scene(tmp_path) as (it, at):
        address = f"https://acme.example/{'.' * 3_900}x"
        await customer(it, text=address + ")" * 3_900)
        await at.sign_in()
        await at.open()
        await expect(at.page.locator(".message a")).to_have_text(address)


def forged(**claims: Any) -> str:
    """A token of nobody's, as anybody may paste it."""
    parts = ({"alg": "HS256"}, {"exp": time.time() + 600, **claims})
    told = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*told, "c2ln"])


# By keyboard, and for everybody


async def test_an_agent_serves_several_customers_by_keyboard_alone(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it, "c-1", name="Mira")
        jonas = await customer(it, "c-2", name="Jonas")
        keys = at.page.keyboard
        await at.sign_in()
        await expect(at.page.locator("#list .row")).to_have_count(2)
        await keys.press("Alt+u")
        await expect(at.page.locator("#name")).to_have_text("Mira")
        await keys.type("/hel")
        await keys.press("Enter")
        await expect(at.page.locator("#draft")).to_have_value(
            "Hello Mira, thanks for writing. How can I help?"
        )
        await keys.press("Enter")
        assert (await mira.take("message"))["text"].startswith("Hello Mira,")
        await keys.type("a draft for Mira")
        await keys.press("Alt+u")
        await expect(at.page.locator("#name")).to_have_text("Jonas")
        await expect(at.page.locator("#draft")).to_have_value("")
        await keys.type("Hi Jonas")
        await keys.press("Enter")
        assert (await jonas.take("message"))["text"] == "Hi Jonas"
        await expect(at.page.locator(".message.ours .mark")).to_be_visible()
        await keys.press("Alt+w")
        await expect(at.page.locator("#panel")).to_contain_text("It has no outcome yet")
        await keys.press("Escape")
        await expect(at.page.locator("#draft")).to_be_focused()
        await keys.press("Shift+Tab")
        await expect(at.page.locator(".message.ours .mark")).to_be_focused()
        await keys.press("Enter")
        await expect(at.page.locator("#panel")).to_contain_text("It has no outcome yet")
        await keys.press("Escape")
        await keys.press("Alt+ArrowUp")
        await expect(at.page.locator("#name")).to_have_text("Mira")
        await expect(at.page.locator("#draft")).to_have_value("a draft for Mira")
        await keys.press("Alt+e")
        await expect(at.page.locator("#ending")).to_be_visible()
        await keys.press("Tab")
        await keys.press("Enter")
        assert (await mira.take("status", live=False))["live"] is False
        await expect(at.page.locator("#list .row")).to_have_count(1)
        await keys.press("Alt+h")
        await expect(at.page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
        await keys.press("Escape")
        await expect(at.page.locator("#help")).to_be_hidden()
        await keys.press("Alt+s")
        await expect(at.page.locator("#search")).to_be_focused()
        await keys.press("Alt+f")
        await expect(at.page.locator("#list .name")).to_have_text(["Jonas", "Mira"])
        await keys.press("Alt+2")
        await expect(at.page.locator("#name")).to_have_text("Mira")
        await keys.press("Alt+s")
        await keys.press("Shift+Tab")
        await expect(at.page.get_by_role("button", name="Sign out")).to_be_focused()
        await keys.press("Enter")
        await expect(at.page.locator("#token")).to_be_focused()


async def test_a_panel_that_covers_the_page_has_the_focus_and_nothing_behind_it(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 400, "height": 800}) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.open()
        details, panel = at.page.locator("#details"), at.page.locator("#panel")
        for _ in range(2):
            await details.click()
            await expect(panel.locator(":focus")).to_have_count(1)
            await expect(at.page.locator("#draft")).to_be_hidden()
            await panel.get_by_role("button", name="Close").press("Enter")
            await expect(details).to_be_focused()
        await expect(at.page.locator("#draft")).to_be_visible()


async def test_the_key_that_takes_the_first_found_writes_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        await at.sign_in()
        await expect(at.row()).to_be_visible()
        await at.page.keyboard.press("Alt+s")
        await at.page.keyboard.type("mira")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#draft")).to_be_focused()
        await expect(at.page.locator("#draft")).to_have_value("")


async def test_the_focus_is_never_lost(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        for sub in ("c-1", "c-2"):
            await customer(it, sub, name=sub)
        keys = at.page.keyboard
        filters, details = at.page.locator("[data-filter]"), at.page.locator("#details")
        await at.sign_in()
        await expect(filters.nth(1)).to_be_focused()
        await expect(at.row("c-2")).to_be_visible()

        colleague = await it.agent("a-2")
        await at.row("c-1").focus()
        await colleague.ask("end", "ok", customer="c-1")  # and so it leaves the list
        await expect(at.row("c-2")).to_be_focused()
        await colleague.ask("end", "ok", customer="c-2")
        await expect(filters.nth(1)).to_be_focused()

        await filters.nth(2).click()
        await at.open("c-1")
        await keys.press("Alt+i")
        await at.page.locator("#panel-close").focus()
        await keys.press("Enter")
        await expect(details).to_be_focused()
        for width in (900, 400):  # where there is no room for both
            await at.page.set_viewport_size({"width": width, "height": 800})
            await keys.press("Alt+i")
            await keys.press("Alt+s")
            await expect(at.page.locator("#search")).to_be_focused()
        await at.open("c-1")
        await at.page.locator("#back").focus()
        await keys.press("Enter")
        await expect(at.row("c-1")).to_be_focused()


async def test_the_chosen_conversation_is_in_sight_and_a_filter_begins_at_its_top(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, viewport={"width": 1000, "height": 500}) as (it, at):
        for number in range(20):
            await customer(it, f"c-{number}")
        rows = at.page.locator("#list .row")
        await at.sign_in()
        await expect(rows).to_have_count(20)
        await at.page.keyboard.press("Alt+1")
        await at.page.keyboard.press("Alt+ArrowUp")
        await expect(rows.last).to_have_attribute("aria-current", "true")
        await expect(rows.last).to_be_in_viewport()
        await at.page.keyboard.press("Alt+f")
        await expect(rows.first).to_be_in_viewport()


async def test_what_is_chosen_is_seen_where_the_system_forces_its_colours(tmp_path: Path) -> None:
    looks = """(all) => all.map((it) => {
      const { backgroundColor, borderInlineStartWidth } = getComputedStyle(it);
      return `${backgroundColor.match(/\\d+/g).slice(0, 3)} ${borderInlineStartWidth}`;
    })"""
    async with scene(tmp_path, forced_colors="active") as (it, at):
        for sub in ("c-1", "c-2", "c-3"):
            await customer(it, sub)
        await at.sign_in()
        await at.page.locator("[data-filter=all]").click()
        await at.open("c-3")
        await at.page.keyboard.type("/")
        for choice in ("[data-filter]", "#replies li", "#list .row"):
            seen = await at.page.locator(choice).evaluate_all(looks)
            assert sorted(map(seen.count, set(seen))) == [1, len(seen) - 1], (choice, seen)


async def test_on_a_mac_what_option_writes_is_written_and_control_makes_it_a_shortcut(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        mac = 'Object.defineProperty(Navigator.prototype, "platform", {get: () => "MacIntel"})'
        await at.page.add_init_script(mac)
        await at.page.reload()
        for sub in ("c-1", "c-2"):
            await customer(it, sub, name=sub)
        await at.sign_in()
        await at.open("c-1")
        await option(at, "KeyE", "ę")
        await option(at, "Digit2", "[")
        await option(at, "KeyU", "Dead")  # and then ü
        await expect(at.page.locator("#draft")).to_have_value("ę[")
        await expect(at.page.locator("#ending")).to_be_hidden()
        await option(at, "Digit2", "2", control=True)
        await expect(at.page.locator("#name")).to_have_text("c-2")
        await at.page.locator("#list button").first.focus()
        await option(at, "Digit1", "¡")
        await expect(at.page.locator("#name")).to_have_text("c-1")


async def option(at: Desk, code: str, key: str, *, control: bool = False) -> None:
    """A key with Option, and what it makes on a Mac."""
    devtools = await at.page.context.new_cdp_session(at.page)
    told = {"code": code, "key": key, "modifiers": 1 + 2 * control}
    text = {"text": key} if len(key) == 1 and not control else {}
    await devtools.send("Input.dispatchKeyEvent", {"type": "keyDown", **told, **text})
    await devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **told})


HEARD = """() => {
  window.heard = [];
  const regions = "[role=log], [role=status], [role=alert], [aria-live]";
  const hear = new MutationObserver((changes) => changes.forEach(({ addedNodes }) =>
    addedNodes.forEach(({ textContent }) => textContent && heard.push(textContent))));
  for (const it of document.querySelectorAll(regions)) {
    hear.observe(it, { childList: true, subtree: true });
  }
}"""


async def test_a_screen_reader_is_told_what_is_new_and_that_once(tmp_path: Path) -> None:
    async with scene(tmp_path, limits={"text_chars": 100}) as (it, at):
        mira = await customer(it)
        for number in range(3):
            await mira.ask("send", "sent", text=f"and {number}")
        await at.sign_in()
        await at.row().wait_for()
        await at.page.evaluate(HEARD)

        async def heard() -> list[str]:
            told: list[str] = await at.page.evaluate("heard.splice(0)")
            return told

        await at.open()
        await expect(at.messages()).to_have_count(4)
        assert await heard() == ["Loading…", "The conversation begins here"]
        for text in ("One moment.", "Here it is."):
            await at.write(text)
            told = await mira.take("message", text=text)
            mark = at.messages().last.locator(".mark")
            await expect(mark).to_have_text("✓ Sent, in chat")
            assert await heard() == ["Sent, in chat"]
        await mira.send("ack", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Delivered")
        await mira.send("read", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Read")
        assert await heard() == ["Delivered", "Read"]
        await mira.ask("send", "sent", text="Thanks")
        zoe = await it.agent("a-2", name="Zoe", open="c-42")
        await zoe.ask("send", "sent", customer="c-42", text="Good bye")
        await expect(at.messages()).to_have_count(8)
        assert await heard() == ["Mira: Thanks", "Zoe: Good bye\nSent"]
        await at.write("x" * 101)
        await expect(at.messages().last.get_by_text("Not sent")).to_be_visible()
        assert await heard() == [
            "At most 100 characters, please.",
            "Not sent: text: 101 characters, at most 100 are allowed",
        ]


async def test_the_keys_that_compose_a_word_do_nothing_else(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        for sub in ("c-1", "c-2"):
            await customer(it, sub, name=sub)
        await at.sign_in()
        await at.open("c-1")
        devtools = await at.page.context.new_cdp_session(at.page)

        async def compose(text: str) -> None:
            told = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
            await devtools.send("Input.imeSetComposition", told)

        await compose("にほん")
        await at.page.keyboard.press("Escape")  # back to what was typed
        await expect(at.page.locator("#draft")).to_be_focused()
        await expect(at.page.locator("#draft")).to_have_value("にほん")
        await at.page.keyboard.press("Alt+s")
        await compose("C-2")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#list .row")).to_have_count(1)
        await expect(at.page.locator("#name")).to_have_text("c-1")


async def test_canned_replies_are_edited_and_kept(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        await at.sign_in()
        await at.open()
        await at.page.keyboard.type("/")
        await at.page.keyboard.press("ArrowUp")  # the last: edit
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#lines")).to_be_focused()
        await at.page.keyboard.press("Control+a")
        await at.page.keyboard.type("own: Mine, {name}.")
        await at.page.keyboard.press("Tab")
        await at.page.keyboard.press("Tab")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#lines")).to_be_hidden()
        await expect(at.page.locator("#draft")).to_be_focused()
        await at.page.keyboard.type("/own")
        await at.page.keyboard.press("Tab")
        await expect(at.page.locator("#draft")).to_have_value("Mine, Mira.")


async def test_what_begins_with_a_slash_and_names_no_reply_is_a_message(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        mira = await customer(it)
        await at.sign_in()
        await at.open()
        keys, draft = at.page.keyboard, at.page.locator("#draft")
        await keys.type("/reset")
        await expect(at.page.locator("#replies")).to_be_hidden()
        await keys.press("Enter")
        assert (await mira.take("message"))["text"] == "/reset"
        await expect(at.page.locator("#editing")).to_be_hidden()
        await keys.type("/hel")  # which names one, unless its replies are closed
        await keys.press("Escape")
        await expect(at.page.locator("#replies")).to_be_hidden()
        await expect(draft).to_have_value("/hel")
        await expect(draft).to_be_focused()
        await keys.press("Enter")
        assert (await mira.take("message"))["text"] == "/hel"


async def test_the_chosen_reply_is_in_sight_however_many_there_are(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await customer(it)
        await at.page.evaluate(
            """() => localStorage.setItem("ringback console replies",
            Array.from({length: 40}, (_, i) => `r${i}: reply ${i}`).join("\\n"))"""
        )
        await at.sign_in()
        await at.open()
        await at.page.keyboard.type("/")
        await at.page.keyboard.press("ArrowUp")
        chosen = at.page.locator("#replies [aria-selected=true]")
        await expect(chosen).to_be_in_viewport()
        await at.page.set_viewport_size({"width": 320, "height": 256})
        for key, reply in (("ArrowDown", "/r0"), ("ArrowUp", "Edit")):
            await at.page.keyboard.press(key)
            await expect(chosen).to_contain_text(reply)
            await expect(chosen).to_be_in_viewport(ratio=1)
        await at.page.keyboard.press("ArrowUp")
        await at.page.keyboard.press("Enter")
        await expect(at.page.locator("#draft")).to_have_value("reply 39")


async def test_the_desktop_is_told_of_what_nobody_looks_at(tmp_path: Path) -> None:
    async with scene(tmp_path) as (it, at):
        await at.page.add_init_script(NOTIFICATIONS)
        await at.page.reload()
        await at.sign_in()
        await bell(at)
        await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
        mira = await customer(it)
        await expect(at.row()).to_be_visible()
        assert await at.page.evaluate("told") == [["Mira", "hi"]]
        await at.open()
        await mira.ask("send", "sent", text="seen")
        await expect(at.messages()).to_have_count(2)
        assert len(await at.page.evaluate("told")) == 1


async def test_the_desktop_is_told_of_what_came_while_there_was_no_connection(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        await at.page.add_init_script(NOTIFICATIONS)
        sockets = await switchable(at)
        await customer(it, "c-1", name="Mira", text="of before")
        jonas = await customer(it, "c-2", name="Jonas")
        await at.sign_in()
        await bell(at)
        await at.page.keyboard.press("Alt+u")  # which waits until all have come
        await expect(at.page.locator("#name")).to_have_text("Mira")
        await sockets.cut()
        await expect(at.page.locator("#link")).to_contain_text("is kept")
        await jonas.ask("send", "sent", text="meanwhile")
        await customer(it, "c-3", name="Anna", text="for the first time")
        await sockets.mend(at)
        await expect(at.row("c-2")).to_contain_text("meanwhile")
        told = await at.page.evaluate("told")
        assert sorted(told) == [["Anna", "for the first time"], ["Jonas", "meanwhile"]]


async def test_where_a_page_may_show_no_notification_none_is_offered_and_nothing_breaks(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as (it, at):
        await at.page.add_init_script(ON_A_PHONE)
        sockets = await switchable(at)
        await at.sign_in()
        await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
        await expect(at.page.locator("#bell")).to_be_hidden()
        await at.page.evaluate("Notification.permission = 'granted'")  # of an earlier visit
        await at.page.evaluate("localStorage['ringback console notifications'] = 'yes'")
        await customer(it, "c-1", name="Mira")
        await at.row("c-1").wait_for()
        await sockets.cut()
        await customer(it, "c-2", name="Anna")
        await sockets.mend(at)
        await at.row("c-2").wait_for()


NOTIFICATIONS = """window.told = []; window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() { return (this.permission = "granted"); }
  constructor(title, {body} = {}) {
    super();
    if (Notification.permission === "granted") told.push([title, body]);
  }
};"""

ON_A_PHONE = """window.Notification = class {
  static permission = "default";
  static async requestPermission() { return (this.permission = "granted"); }
  constructor() { throw new TypeError("Illegal constructor"); }
};"""  # as Chromium on Android has it


async def bell(at: Desk) -> None:
    await at.page.locator("#bell").click()
    await expect(at.page.locator("#bell")).to_have_attribute("aria-pressed", "true")
