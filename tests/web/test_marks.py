"""How far the customer's own messages came: the widget in one browser, the console in another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.running import PATIENCE, PATIENT, running
from tests.web.desk import desk
from tests.web.pages import chromium, site, visit
from tests.web.test_widget import connected, launcher, opened, scene, write


def mark(page: Page) -> Locator:
    return page.locator("ringback-chat li.own .mark")


async def test_what_a_customer_writes_is_sent_then_delivered_then_read(tmp_path: Path) -> None:
    async with (
        site() as company,
        chromium() as browser,
        running(tmp_path, delivery=PATIENT, origins={"acme": [company.origin]}) as it,
        visit(browser, company) as visitor,
    ):
        company.gateway = it
        page = await visitor.page()
        await launcher(page).click()
        await connected(page)
        await write(page, "Where is my order?")
        await expect(mark(page)).to_have_text("Sent")
        async with desk(browser, it) as at:
            await at.sign_in()
            await expect(at.row()).to_be_visible()
            await expect(mark(page)).to_have_text("Delivered")
            await at.open()
            await expect(mark(page)).to_have_text("Read")
            await page.reload()
            await launcher(page).click()
            await expect(mark(page)).to_have_text("Read")


async def test_a_console_acks_many_messages_that_came_together_once(tmp_path: Path) -> None:
    async with chromium() as browser, running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        async with desk(browser, it) as at:
            acked: list[int] = []

            def told(frame: str | bytes) -> None:
                said = json.loads(frame)
                if said["type"] == "ack":
                    acked.append(said["seq"])

            at.page.on("websocket", lambda ws: ws.on("framesent", told))
            await at.page.reload()
            await at.sign_in()
            await expect(at.page.locator("#list-state")).to_contain_text("All quiet")
            await customer.send("send", ref="r", text="first")
            await customer.take("status", agents_acked_seq=1, agents_read_seq=0)
            many = 15
            for i in range(many):
                await customer.send("send", ref=f"r{i}", text=f"m{i}")
            await customer.take("status", agents_acked_seq=1 + many, agents_read_seq=0)
            async with asyncio.timeout(PATIENCE):  # the browser tells of them later than they come
                while 1 + many not in acked:
                    await asyncio.sleep(0.01)
            assert sum(seq > 1 for seq in acked) < many


async def test_one_check_is_sent_two_are_delivered_and_in_the_accent_colour_read(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await write(page, "Where is my order?")
        agent = await stage.it.agent()
        checks = page.locator("ringback-chat li.own .about svg")
        looks = []
        for type, word in ((None, "Sent"), ("ack", "Delivered"), ("read", "Read")):
            if type is not None:
                await agent.send(type, customer="c-42", seq=1)
            await expect(mark(page)).to_have_text(word)
            shape = await checks.locator("path").get_attribute("d")
            assert shape is not None
            colour = await checks.evaluate("(it) => getComputedStyle(it).fill")
            looks.append((shape.count("z"), colour))
        accent = await page.locator("ringback-chat .send").evaluate(
            "(it) => getComputedStyle(it).backgroundColor"
        )
        (one, plain), (two, muted), read = looks
        assert (one, two, read) == (1, 2, (2, accent))
        assert plain == muted != accent


async def test_the_words_of_the_marks_may_be_others(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        await page.evaluate(
            "document.querySelector('ringback-chat').labels = {delivered: 'Da', read: 'Gelesen'}"
        )
        await write(page, "Servus")
        agent = await stage.it.agent()
        for type, word in (("ack", "Da"), ("read", "Gelesen")):
            await agent.send(type, customer="c-42", seq=1)
            await expect(mark(page)).to_have_text(word)


@pytest.mark.parametrize("answered", [False, True])
async def test_only_the_last_of_a_group_has_a_mark_and_it_is_its_own(
    tmp_path: Path, answered: bool
) -> None:
    async with scene(tmp_path) as stage:
        page = await opened(stage)
        agent = await stage.it.agent()
        await write(page, "one")
        await expect(mark(page)).to_have_text("Sent")
        if answered:
            await agent.ask("send", "sent", customer="c-42", text="yes?")
        await agent.send("read", customer="c-42", seq=1)
        await expect(mark(page)).to_have_text("Read")
        await write(page, "two")
        await expect(mark(page)).to_have_text(["Read", "Sent"] if answered else ["Sent"])
