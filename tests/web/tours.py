"""Every page in every state that it has, one after the other: for pictures, and for axe.

A tour yields the name of a state with the page in it, and goes on from there. Who follows it may
resize the page and change its colour scheme, and touches nothing else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Page, Route, expect

from gateway.clock import Clock
from gateway.protocol import Role
from tests.running import PATIENCE, QUICK, Running, Wire
from tests.web.desk import earlier
from tests.web.test_console import customer
from tests.web.test_console import scene as console_scene
from tests.web.test_demo_page import ask, played, say, turn
from tests.web.test_ops_page import sign_in
from tests.web.test_widget import connected, field, launcher, opened, write
from tests.web.test_widget import scene as widget_scene

States = AsyncGenerator[tuple[str, Page], None]
Tour = Callable[..., States]
"""Of a directory for the database, and options of the browser's context."""

SIZES = ((375, 812), (768, 1024), (1440, 900))
"""Of a phone, a tablet and a desk, in CSS pixels."""
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

LONG = (
    "Thank you for your patience. I have talked to the depot in Hamburg: the parcel was sorted to "
    "the wrong belt on Tuesday night, which is why the tracking page has not moved since.\n\n"
    "It is on the way again now and should be with you on Thursday before noon. If that does not "
    "suit you, tell me a day, a neighbour or a parcel shop, and I will have it changed."
)
UNBROKEN = "ZX" + "0123456789" * 9
LINK = "https://acme.example/track/Z1"
LONG_LINK = f"{LINK}-2026-11-27-0000000001?lang=en&from=chat"
ARABIC = "مرحبا، متى سيصل طردي رقم Z1؟"
HEBREW = "תודה רבה! אפשר להשאיר אצל השכנים."
SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...given) { super(...given); sockets.push(this); }
};"""


FASTER = """
const slow = setTimeout;
window.setTimeout = (run, ms) => slow(run, ms / 40);
"""
HELD = 2.0  # seconds of ours for which the page's next look waits for the gateway's time to pass


async def colleague(it: Running) -> Wire:
    """Zoe, an agent who follows the conversation of c-42."""
    wire = await it.raw("/v1/agent")
    await wire.send("hello", token=it.token(Role.AGENT, "zoe", name="Zoe"))
    wire.welcome = await wire.take("welcome")
    await wire.ask("open", "conversation", customer="c-42")
    return wire


async def cut(page: Page) -> None:
    """The network is gone, and the page's sockets with it."""
    await page.context.set_offline(True)
    await page.evaluate("window.sockets?.forEach((it) => it.close())")


async def widget(directory: Path, **options: Any) -> States:
    """The chat widget on a company's page."""
    limits = {"text_chars": 2000}
    async with widget_scene(directory, limits=limits, **options) as stage:
        it = stage.it
        await stage.visit.context.add_init_script(SOCKETS)
        new = await opened(stage, "?sub=c-1")
        yield "widget-new", new

        with earlier(it, days=2):
            await it.write(text=f"Your order Z1 has shipped: {LINK}", title="Shipped")
        mira = await it.customer()
        zoe = await colleague(it)
        with earlier(it, days=1):
            await mira.ask("send", "sent", text="Hi! Where is my parcel?")
            for text in (
                "Of course, one moment please.",
                "The driver left it with your neighbour at number 12. Shall we deliver it again?",
            ):
                await zoe.ask("send", "sent", customer="c-42", text=text)
            await mira.send("read", seq=4)
            await mira.send("bye")
        await zoe.ask("send", "sent", customer="c-42", text="Did you find it?")
        page = await stage.visit.page()
        await connected(page)
        await expect(launcher(page)).to_have_accessible_name("Open chat, 1 unread message")
        yield "widget-closed", page

        await launcher(page).click()
        await write(page, "I did. Thank you!")
        await zoe.take("message", seq=6)
        await zoe.send("read", customer="c-42", seq=5)
        await zoe.send("ack", customer="c-42", seq=6)
        await expect(page.locator("li.own .mark")).to_have_text(["Read", "Delivered"])
        yield "widget-thread", page

        await zoe.ask("send", "sent", customer="c-42", text=LONG)
        await write(page, ARABIC)
        await zoe.ask("send", "sent", customer="c-42", text=HEBREW)
        await write(page, f"And what is {UNBROKEN}? See {LONG_LINK}")
        await expect(page.locator("li.own .mark").last).to_have_text("Sent")
        await zoe.send("typing", customer="c-42", on=True)
        await expect(page.locator(".typing")).to_contain_text("is typing")
        yield "widget-texts", page

        await page.locator(".thread").evaluate("(it) => it.scrollTo(0, 0)")
        await zoe.ask("send", "sent", customer="c-42", text="That is its number.")
        await expect(page.locator(".down")).to_be_visible()
        yield "widget-scrolled", page

        await page.locator(".down").click()
        await field(page).fill(LONG * 6)
        await field(page).press("Enter")
        await expect(page.locator(".problem")).not_to_be_empty()
        yield "widget-too-long", page

        await field(page).fill("")
        await cut(page)
        await expect(page.locator(".notice")).to_contain_text("No connection")
        await write(page, "Could it be left in the garden shed?")
        await expect(page.locator("li.own .mark").last).to_have_text("Waiting for a connection")
        yield "widget-offline", page

        await page.context.set_offline(False)
        await page.evaluate("document.querySelector('ringback-chat').client.nudge()")
        await expect(page.locator("li.own .mark").last).to_have_text("Sent")
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        await expect(page.locator(".notice")).to_contain_text("You were signed out.")
        await write(page, "Hello? Is anybody still there?")
        await expect(page.locator("li.own.failed")).to_be_visible()
        yield "widget-failed", page


async def demo(_: Path, **options: Any) -> States:
    """The demo's page, with the phone in each of its states."""
    async with played(**options) as page:
        yield "demo-start", page
        await ask(page, "Hi! Where is my parcel?")
        await say(page, "Hello Alice, let me see.")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await page.get_by_label("Lock phone").check()
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await say(page, "It left Hamburg today and should be with you on Thursday.")
        await expect(page.locator("article .chip")).to_have_text(["pushed", "acked"])
        await expect(page.locator("#lock-screen .note")).to_be_visible()
        yield "demo-locked", page

        await page.get_by_label("Background").check()
        await page.get_by_label("Lock phone").uncheck()
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await say(page, LONG)
        await expect(page.locator("#home-screen .note")).to_have_count(2)
        await expect(page.locator("article .chip").first).to_have_text("pushed")
        yield "demo-home", page

        await page.get_by_label("Background").uncheck()
        await expect(page.locator("#thread small").last).to_have_text("read")
        await turn(page, "Kill gateway", on=True)
        # Before the network is swallowed, and a try to connect with it for 15 s.
        await expect(page.locator("ringback-chat .notice")).to_contain_text("No connection")
        for name in ("Airplane mode", "Backend down"):
            await turn(page, name, on=True)
        await say(page, f"{ARABIC} {LONG_LINK}")
        await expect(page.locator("#thread small").last).to_have_text("waiting for the gateway")
        yield "demo-broken", page


async def console(directory: Path, **options: Any) -> States:
    """The agents' console."""
    limits = {"text_chars": 1000}
    async with console_scene(directory, delivery=QUICK, limits=limits, **options) as (it, at):
        page = at.page
        await page.add_init_script(SOCKETS)
        await page.reload()
        yield "console-sign-in", page
        await at.sign_in(it.token(Role.CUSTOMER, "c-42"))
        await expect(page.locator("#sign-in-error")).not_to_be_empty()
        yield "console-refused", page
        await at.sign_in()
        await expect(page.locator("#list-state")).to_contain_text("All quiet")
        yield "console-empty", page

        await it.register("c-42", "phone-1", "t-1")
        with earlier(it, days=2):
            await it.write("c-42", f"Your order Z1 has shipped: {LINK}", title="Shipped")
        with earlier(it, days=1):
            mira = await customer(it, name="Mira Novak", text="Hi! Where is my parcel?")
            zoe = await colleague(it)
            await zoe.ask("send", "sent", customer="c-42", text=LONG)
            await mira.send("read", seq=3)
            await mira.quiet()
        for sub, name, text in (
            ("c-44", "Jonas Weber", "Can I change the address?"),
            ("c-45", "عائشة الفاسي", ARABIC),
            ("c-46", "Maximiliane von Hohenlohe-Langenburg zu Sayn", f"See {LONG_LINK}"),
            ("customer-0000-4711-with-a-long-id", None, "Hello?"),
            ("c-43", "Amina Diallo", "Thank you, that was quick!"),
        ):
            with earlier(it, days={"c-44": 0.003, "c-46": 0.1}.get(sub, 0)):
                await customer(it, sub, name=name, text=text)
        await zoe.ask("open", "conversation", customer="c-43")
        await zoe.send("read", customer="c-43", seq=1)
        await zoe.ask("send", "sent", customer="c-43", text="You are welcome. Have a nice day!")
        await mira.ask("send", "sent", text="Good morning! It is still not here.")
        await expect(page.locator("#list .row")).to_have_count(6)
        yield "console-inbox", page

        await at.open("c-46")
        await at.write(f"{HEBREW}\n{UNBROKEN}")
        await expect(page.locator(".message.ours .mark")).to_be_visible()
        yield "console-texts", page

        await at.open()
        await expect(page.locator("#past")).to_contain_text("begins here")
        await at.write("Hello Mira, let me see.")
        mark = page.locator(".message.ours .mark").last
        told = await mira.take("message", text="Hello Mira, let me see.")
        await mira.send("read", seq=told["seq"])
        await expect(mark).to_have_text("✓✓ Read")
        await mira.send("typing", on=True)
        await expect(page.locator("#typing")).to_contain_text("is writing")
        await page.locator("#draft").fill("It left Hamburg today, and\nshould be with you on")
        yield "console-conversation", page

        await page.locator("#draft").fill("/")
        yield "console-replies", page
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await expect(page.locator("#editing")).to_be_visible()
        yield "console-editing", page
        await page.keyboard.press("Escape")
        await page.keyboard.press("Alt+h")
        yield "console-shortcuts", page
        await page.keyboard.press("Escape")

        await mira.send("bye")
        await expect(page.locator("#presence")).to_contain_text("Not in chat")
        it.backend.answers += [503]
        await at.write("It left Hamburg today and should be with you on Thursday.")
        await expect(mark).to_have_text("↗ Pushed")
        await mark.click()
        await expect(page.locator("#panel")).to_contain_text("(HTTP 200")
        yield "console-why", page
        await page.keyboard.press("Alt+i")
        await expect(page.locator("#panel")).to_contain_text("accepted, ")
        yield "console-customer", page
        await page.keyboard.press("Escape")
        await page.keyboard.press("Alt+e")
        await expect(page.locator("#ending")).to_be_visible()
        yield "console-ending", page
        await page.keyboard.press("Escape")

        await at.write(LONG * 3)
        await expect(at.messages().last).to_contain_text("Not sent: text: ")
        await cut(page)
        await expect(page.locator("#link")).to_contain_text("is kept")
        await at.write("Meanwhile.")
        await expect(at.messages().last).to_contain_text("Waiting to be sent")
        yield "console-away", page
        await page.context.set_offline(False)
        await page.reload()
        await page.locator("#search").fill("nobody")
        await expect(page.locator("#list-state")).to_contain_text("Nothing found")
        yield "console-nothing-found", page


async def ops(directory: Path, *, asked: int = 12, **options: Any) -> States:
    """The operations page, after so many looks; time passes faster than it does elsewhere."""
    async with console_scene(directory, delivery=QUICK, **options) as (it, at):
        page = at.page
        await page.add_init_script(FASTER)
        await page.goto(it.url("/console/ops"))
        yield "ops-sign-in", page
        await sign_in(page, it.token(Role.AGENT, "x"))
        await expect(page.get_by_role("alert")).to_contain_text("its role must be service")
        yield "ops-refused", page
        looks: asyncio.Queue[None] = asyncio.Queue()

        async def look(route: Route) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(looks.get(), HELD)
            await route.continue_()

        async def passed() -> None:
            """Two seconds of the gateway's have passed, and the page has looked."""
            clock = it.gateway.core.clock
            assert isinstance(clock, Clock)
            clock._offset += 2.0
            async with page.expect_response("**/v1/ops"):
                looks.put_nowait(None)

        await page.route("**/v1/ops", look)
        looks.put_nowait(None)
        await sign_in(page, it.token(Role.SERVICE, "ops"))
        await expect(page.locator("#who")).to_have_text("acme")
        yield "ops-new", page

        for n in range(8):
            await it.register(f"away-{n}", f"phone-{n}", f"t-{n}")
        wires = {n: await it.customer(f"c-{n}") for n in range(8)}
        for step in range(asked):
            pushed = {}
            for n in range(round(4 + 2 * math.sin(step / 9) + math.sin(step / 2))):
                pushed[f"away-{n}"] = await it.write(f"away-{n}", "Your parcel is here.")
                if n in wires:
                    seq = await it.write(f"c-{n}", "Your parcel is here.")
                    await wires[n].send("ack", seq=seq)
            match step % 30:
                case 7:
                    it.backend.answers += [503] * 3
                case 11:
                    wires.pop(max(wires)).vanish()
                    await it.write("nobody", "Your parcel is here.")
                case 21:
                    wires[len(wires)] = await it.customer(f"c-{len(wires)}")
                case _:
                    for who, seq in pushed.items():
                        await it.settled(seq, "pushed", who)
            await passed()
        yield "ops-busy", page

        it.backend.otherwise = 503
        async with asyncio.timeout(PATIENCE):
            while await page.locator("#health").inner_text() != "Failing":
                for n in range(8):
                    await it.write(f"away-{n}", "Your parcel is here.")
                await passed()
        yield "ops-failing", page
        await cut(page)
        await expect(page.locator("#state")).to_contain_text("Not reached since")
        yield "ops-not-reached", page


TOURS: tuple[Tour, ...] = (widget, demo, console, ops)
