"""What customers are told of how far their messages came: what agents said, no more and no less."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol import Role
from storage.store import Needs
from tests.recount import check
from tests.running import PATIENT, Running, Wire, running
from tests.test_chat import waiting


@asynccontextmanager
async def talking(directory: Path, says: int = 2) -> AsyncIterator[tuple[Running, Wire, Wire]]:
    """A customer who wrote so many messages, and an agent who has not yet said anything."""
    async with running(directory, delivery=PATIENT) as it:
        customer = await it.customer()
        for i in range(says):
            await customer.ask("send", "sent", text=f"m{i}")
        await customer.take("status", live=True)
        yield it, customer, await it.agent(open="c-42")


def marks(told: dict[str, Any]) -> tuple[int, int]:
    return told["agents_acked_seq"], told["agents_read_seq"]


async def test_what_no_agent_acked_is_not_delivered(tmp_path: Path) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        assert marks(customer.welcome) == (0, 0)
        await customer.ask("send", "sent", text="one more")
        await agent.take("message")  # it was written to the agent's socket: that is no delivery
        await agent.quiet()
        assert await customer.quiet() == []
        assert marks((await it.customer()).welcome) == (0, 0)


async def test_what_an_agent_acks_and_then_reads_every_session_is_told(tmp_path: Path) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        other = await it.customer(state="background")
        await agent.send("ack", customer="c-42", seq=1)
        for wire in (customer, other):
            assert marks(await wire.take("status")) == (1, 0)
        await agent.send("read", customer="c-42", seq=1)
        for wire in (customer, other):
            assert marks(await wire.take("status")) == (1, 1)
        await agent.send("ack", customer="c-42", seq=2)
        for wire in (customer, other):
            assert marks(await wire.take("status")) == (2, 1)
            assert not [frame for frame in await wire.quiet() if frame["type"] == "status"]
        assert marks((await it.customer()).welcome) == (2, 1)
    check(tmp_path / "ringback.db")


async def test_a_read_is_an_ack_too(tmp_path: Path) -> None:
    async with talking(tmp_path) as (_, customer, agent):
        await agent.send("read", customer="c-42", seq=2)
        assert marks(await customer.take("status")) == (2, 2)
    check(tmp_path / "ringback.db")


@pytest.mark.parametrize("type", ["ack", "read"])
async def test_agents_marks_never_go_back(tmp_path: Path, type: str) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        other = await it.agent("a-2")
        await agent.send("read", customer="c-42", seq=2)
        await customer.take("status")
        await other.send(type, customer="c-42", seq=1)
        await other.send(type, customer="c-42", seq=2)
        await other.ask("open", "conversation", customer="c-42")
        assert await customer.quiet() == []
        assert marks((await it.customer()).welcome) == (2, 2)


async def test_marks_that_pass_no_message_of_the_customer_are_told_to_nobody(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path) as (_, customer, agent):
        await agent.send("read", customer="c-42", seq=2)
        await customer.take("status")
        await agent.ask("send", "sent", customer="c-42", text="an answer")
        await agent.send("ack", customer="c-42", seq=3)
        await agent.send("read", customer="c-42", seq=3)
        await agent.ask("end", "ok", customer="c-42")
        assert (await customer.next())["type"] == "message"
        ended = await customer.next()  # by `live`, as ever; the marks stand in it
        assert (ended["type"], ended["live"], marks(ended)) == ("status", False, (3, 3))
        assert await customer.quiet() == []


@pytest.mark.parametrize("type", ["ack", "read"])
async def test_an_ack_beyond_the_newest_message_is_refused(tmp_path: Path, type: str) -> None:
    async with talking(tmp_path) as (_, customer, agent):
        error = await agent.ask(type, "error", customer="c-42", seq=3)
        assert error["code"] == "bad_frame"
        assert await customer.quiet() == []


@pytest.mark.parametrize("type", ["ack", "read"])
async def test_an_ack_for_who_is_not_known_here_is_not_found(tmp_path: Path, type: str) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        assert (await agent.ask(type, "error", customer="nobody", seq=0))["code"] == "not_found"
        stranger = await it.agent(tenant="other")
        assert (await stranger.ask(type, "error", customer="c-42", seq=1))["code"] == "not_found"
        assert await customer.quiet() == []


async def test_marks_of_one_commit_are_told_once(tmp_path: Path) -> None:
    """Also when the last of them passes none of the customer's messages, and tells nothing."""
    async with talking(tmp_path, says=3) as (it, customer, agent):
        store = it.gateway.core.store
        other = await it.agent("a-2")
        await agent.ask("send", "sent", customer="c-42", text="an answer")
        await customer.take("message")
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            store.submit(lambda tx: tx.touch(), Needs())
            await waiting(store, 0)
            said = (("ack", 1), ("ack", 2), ("read", 1), ("ack", 3), ("read", 3), ("ack", 4))
            for count, (type, seq) in enumerate(said, 1):
                await (agent, other)[count % 2].send(type, customer="c-42", seq=seq)
                await waiting(store, count)
            db.execute("ROLLBACK")
        assert marks(await customer.take("status")) == (3, 3)
        assert await customer.quiet() == []


async def test_an_ack_that_moves_no_mark_writes_nothing(tmp_path: Path) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        await agent.send("ack", customer="c-42", seq=2)
        await customer.take("status")
        before = it.gateway.core.store.commits
        for other in (agent, await it.agent("a-2")):  # every console says it
            await other.send("ack", customer="c-42", seq=2)
            await other.ask("open", "conversation", customer="c-42")
        assert it.gateway.core.store.commits == before


async def test_a_restart_keeps_the_marks(tmp_path: Path) -> None:
    async with talking(tmp_path) as (_, customer, agent):
        await agent.send("ack", customer="c-42", seq=2)
        await agent.send("read", customer="c-42", seq=1)
        await customer.take("status", agents_read_seq=1)
    async with running(tmp_path, delivery=PATIENT) as it:
        assert marks((await it.customer()).welcome) == (2, 1)
        for path, role in (("me", Role.CUSTOMER), ("customers/c-42", Role.SERVICE)):
            _, told = await it.call("GET", f"/v1/{path}/status", role, "c-42")
            assert marks(told) == (2, 1)


async def test_acks_change_no_inbox_and_reads_do(tmp_path: Path) -> None:
    async with talking(tmp_path) as (it, customer, agent):
        desk = await it.agent("a-2")
        await desk.ask("inbox", "inbox")
        await agent.send("ack", customer="c-42", seq=2)
        await customer.take("status")
        assert await desk.quiet() == []
        await agent.send("read", customer="c-42", seq=2)
        assert (await desk.take("inbox_update"))["conversation"]["waiting"] == 0
