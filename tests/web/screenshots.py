"""The pictures of the README, of the real thing: `make screenshots`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import Page, expect

from gateway.protocol import Role
from tests.running import QUICK
from tests.web.test_console import customer
from tests.web.test_console import scene as console
from tests.web.test_demo_page import ask, played, say
from tests.web.test_widget import opened, scene, write

PICTURES = Path("docs/images")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    await widget()
    await demo()
    await desks()


async def demo() -> None:
    """The demo's page: Alice's phone is locked, and Ann's message has rung it."""
    async with played(width=1280) as page:
        await page.emulate_media(reduced_motion="reduce")
        await ask(page, "Hi! Where is my parcel?")
        await say(page, "Hello Alice, let me see.")
        await expect(page.locator("#thread small")).to_have_text(["read"])
        await page.get_by_label("Lock phone").check()
        await expect(page.locator("#presence")).to_have_text("Alice is not in chat")
        await say(page, "It left Hamburg today and should be with you on Thursday.")
        await expect(page.locator("article .chip")).to_have_text(["pushed", "acked"])
        await expect(page.locator("#lock-screen .note")).to_be_visible()
        await page.locator(":focus").blur()
        await page.screenshot(path=PICTURES / "demo.png")


async def widget() -> None:
    """Play a short conversation and photograph the widget in both schemes."""
    with tempfile.TemporaryDirectory() as directory:
        async with scene(Path(directory), device_scale_factor=2) as stage:
            await stage.it.write(
                text="Your order Z1 has shipped: https://acme.example/track/Z1", title="Shipped"
            )
            page = await opened(stage)
            await write(page, "Hi! It says delivered, but nothing is here.")
            await write(page, "Could you have a look?")
            await expect(page.locator("li.own .mark")).to_have_text(["Sent"])
            agent = await stage.it.agent("zoe")
            await agent.send("read", customer="c-42", seq=3)
            await expect(page.locator("li.own .mark")).to_have_text("Read")
            for text in (
                "Of course, one moment please.",
                "The driver left it with your neighbour at number 12. Shall we deliver it again?",
            ):
                await agent.ask("send", "sent", customer="c-42", text=text)
            await write(page, "No need. Thank you!")
            await agent.send("ack", customer="c-42", seq=6)
            await expect(page.locator("li.own .mark").last).to_have_text("Delivered")
            for scheme in SCHEMES:
                await photograph(page, scheme)


async def desks() -> None:
    """The agents' console with the story of a push, and how it goes for who runs it."""
    with tempfile.TemporaryDirectory() as directory:
        async with console(
            Path(directory), delivery=QUICK, viewport={"width": 1280, "height": 760}
        ) as (it, at):
            for sub, name, text in (
                ("c-44", "Jonas Weber", "Can I change the address?"),
                ("c-43", "Amina Diallo", "Thank you, that was quick!"),
                ("c-42", "Mira Novak", "Hi! Where is my parcel?"),
            ):
                phone = await customer(it, sub, name=name)
                await phone.ask("send", "sent", text=text)
            await it.register("c-42", "phone-1", "t-1")
            await at.sign_in(at.token(name="Ada"))
            await at.open()
            await at.write("Hello Mira, let me see.")
            mark = at.page.locator(".message.ours .mark").last
            told = await phone.take("message")
            await phone.send("read", seq=told["seq"])
            await expect(mark).to_have_text("✓✓ Read")
            await phone.send("bye")
            await expect(at.page.locator("#presence")).to_contain_text("Not in chat")
            it.backend.answers += [503]
            await at.write("It left Hamburg today and should be with you on Thursday.")
            await expect(mark).to_have_text("↗ Pushed")
            await mark.click()
            await expect(at.page.locator("#panel")).to_contain_text("(HTTP 200")
            await at.page.screenshot(path=PICTURES / "console.png")
            await at.page.goto(it.url("/console/ops"))
            await at.page.get_by_label("Service token").fill(it.token(Role.SERVICE, "ops"))
            await at.page.keyboard.press("Enter")
            await expect(at.page.locator("#health")).to_have_text("Up")
            await at.page.wait_for_timeout(9_000)  # until there is something to draw
            await at.page.screenshot(path=PICTURES / "ops.png")


async def photograph(page: Page, scheme: Literal["light", "dark"]) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": 768, "height": 700})
    panel = await page.locator("ringback-chat .panel").bounding_box()
    assert panel is not None
    corner = {
        "x": panel["x"] - 24,
        "y": panel["y"] - 24,
        "width": panel["width"] + 44,
        "height": 700 - panel["y"] + 24,
    }
    await page.screenshot(path=PICTURES / f"chat-{scheme}.png", clip=corner)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main())
