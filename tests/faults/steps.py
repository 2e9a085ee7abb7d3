"""What the faults of backends and clocks share: many customers at once, and waiting in the rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gateway.protocol import Role
from tests import recount
from tests.faults.accounts import Confirmed, Result
from tests.running import PATIENCE, Running

R = TypeVar("R")

PUSH = {
    "breaker_after": 1_000_000,  # each device is to try by itself, however many fail
    "timeout": 1.5,
    "connect_timeout": 1.0,
    "retry_first": 0.02,
    "retry_max": 0.1,
    "in_flight": 64,
}
SENDERS = 32  # requests of ours at a time


async def say(
    it: Running, customer: str, text: str, tenant: str = "acme", **more: Any
) -> Confirmed:
    """A message by the tenant's service, as it was confirmed."""
    told = {"customer": customer, "text": text, **more}
    code, answer = await it.call(
        "POST", "/v1/messages", Role.SERVICE, "crm", tenant=tenant, json=told
    )
    assert code == 201, answer
    return Confirmed(customer, answer["seq"], answer["id"], text, tenant)


async def chatter(it: Running, customer: str, messages: int) -> list[Confirmed]:
    """Many messages of an agent, as they were confirmed."""
    agent = await it.agent()

    async def write() -> None:
        for i in range(messages):
            await agent.send("send", ref=f"r{i}", customer=customer, text=f"text r{i}")

    writing = asyncio.create_task(write())
    confirmed: list[Confirmed] = []
    while len(confirmed) < messages:
        frame = await agent.next()
        if frame["type"] == "sent":
            text = f"text {frame['ref']}"
            confirmed.append(Confirmed(customer, frame["seq"], frame["id"], text))
    await writing
    return confirmed


async def in_turn(calls: Iterable[Callable[[], Awaitable[R]]]) -> list[R]:
    """Make many calls, a few at a time."""
    slots = asyncio.Semaphore(SENDERS)

    async def one(call: Callable[[], Awaitable[R]]) -> R:
        async with slots:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls))


async def rung(
    it: Running, customers: Iterable[tuple[str, str, str]], text: str = "hello"
) -> list[Confirmed]:
    """Register a phone for each (tenant, customer, device token), and write to them."""

    async def one(tenant: str, customer: str, token: str) -> Confirmed:
        await it.register(customer, f"phone-{customer}", token, tenant)
        return await say(it, customer, text, tenant)

    return await in_turn(partial(one, *who) for who in customers)


async def settled(directory: Path, patience: float = 6 * PATIENCE) -> None:
    """Wait until nothing is pending and no device owes anything: look into the database."""
    await database(
        directory,
        "SELECT (SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'pending')"
        " + (SELECT count(*) FROM ringing WHERE wake_at IS NOT NULL)",
        lambda rows: rows == [(0,)],
        patience,
    )


async def database(
    directory: Path,
    query: str,
    enough: Callable[[list[Any]], bool],
    patience: float = 6 * PATIENCE,
) -> list[Any]:
    """Wait until the rows of `query` are enough, whatever process writes them; the rows."""
    async with asyncio.timeout(patience):
        while True:
            with recount.reading(directory / "ringback.db") as db:
                rows = db.execute(query).fetchall()
            if enough(rows):
                return rows
            await asyncio.sleep(0.02)


ATTEMPTS = (
    "SELECT c.tenant, c.customer, e.detail FROM events e"
    " JOIN conversations c ON c.id = e.conversation WHERE e.event = 'attempt' ORDER BY e.id"
)


def attempts(rows: list[Any]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Per tenant and customer, the verdicts of their attempts in order, each with its reason."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for tenant, customer, detail in rows:
        told = json.loads(detail)
        found.setdefault((tenant, customer), []).append((told["verdict"], told["reason"]))
    return found


def found_wrong(result: Result, *wrong: str) -> Result:
    """The result, with what else was found wrong."""
    return replace(result, unaccounted=[*result.unaccounted, *wrong])
