"""Everybody at once: agents, a service and customers at work on one process after another.

The accounts at the end are those of `tests.faults.accounts`, and three things more: a ref and a
text are there once, nobody was told what they should not have been, and what the last process had
in memory was what its file said.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

from gateway.protocol import Role
from tests import recount
from tests.faults.accounts import Result, audit
from tests.faults.people import Desk, Habit, Ledger, Phone, Shop, Work, until_it_dies
from tests.faults.process import Process
from tests.running import PATIENCE, Backend

_METRIC = re.compile(r'^ringback_messages\{outcome="(\w+)",tenant="(\w+)"\} ([\d.e+]+)$', re.M)


class Crowd:
    """Customers of every habit, with a device and without, and those who write to them."""

    def __init__(self, sends: int, customers: int, agents: int, rng: Random) -> None:
        names = tuple(f"c-{i}" for i in range(customers))
        habits = list(Habit)
        self.ledger = Ledger(sends, names, rng)
        self.senders: list[Desk | Shop] = [Desk(f"agent{i}", self.ledger) for i in range(agents)]
        self.senders += [Shop(f"shop{i}", self.ledger) for i in range(4)]
        self.phones = [
            Phone(name, habits[i % 4], self.ledger, device=i % 8 < 6)
            for i, name in enumerate(names)
        ]
        self.unanswered = 0
        """Sends that waited for their answer when a process died."""
        self._wrong: list[str] = []
        self._living: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []

    async def begin(self, it: Process) -> None:
        """Make the customers: agents may write only to those whom somebody knows."""
        for name in self.ledger.customers:
            await it.write(name, f"welcome, {name}")

    def work(self, it: Process) -> None:
        """Everybody comes to this process."""
        self._living = _at_work([phone.work for phone in self.phones], it)
        self._sending = _at_work([sender.work for sender in self.senders], it)

    async def confirmed(self, sends: float) -> None:
        """Wait until so many sends are confirmed in all."""
        while len(self.ledger.confirmed) < min(sends, self.ledger.enough):
            await asyncio.sleep(0.005)

    def waiting(self) -> list[str]:
        """Whom the unconfirmed sends are for."""
        return [to for sender in self.senders for to, _ in sender.box.waiting.values()]

    async def die(self, it: Process) -> None:
        """SIGKILL, and wait until everybody has noticed."""
        await it.kill()
        self.unanswered += len(self.waiting())
        await asyncio.gather(*self._sending, *self._living)

    async def settle(self, it: Process, ears: Backend) -> None:
        """All is sent; customers drop, the backend accepts, nothing is pending; then stop."""
        await asyncio.gather(*self._sending)
        while any(phone.box.waiting for phone in self.phones):
            await asyncio.sleep(0.01)
        ears.otherwise = 200
        for task in self._living:
            task.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        it.hang_up()
        async with asyncio.timeout(6 * PATIENCE):
            while (await _counters(it))["acme", "pending"]:
                await asyncio.sleep(0.05)
        self._wrong += await _disagreements(it, [phone.name for phone in self.phones])
        await it.stop()

    def result(self, fault: str, injected: int, path: Path, ears: Backend, note: str) -> Result:
        result = audit(fault, injected, path, self.ledger.confirmed.values(), ears.calls, note=note)
        return replace(
            result,
            doubled=[*result.doubled, *_said_twice(path)],
            unaccounted=[*result.unaccounted, *self.ledger.wrong, *self._wrong],
        )


def _at_work(works: Iterable[Work], it: Process) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(until_it_dies(work, it)) for work in works]


async def _counters(it: Process) -> Counter[tuple[str, str]]:
    _, told = await it.call("GET", "/metrics", listener="admin")
    found = _METRIC.findall(told)
    return Counter({(tenant, outcome): int(float(n)) for outcome, tenant, n in found})


async def _disagreements(it: Process, customers: Iterable[str]) -> list[str]:
    """Where the process's memory is not what its file says. Nothing may be going on."""
    path = it.gateway.config.storage.path
    tally: Counter[tuple[str, str]] = Counter()
    for message in recount.check(path):
        tally[message.tenant, "accepted"] += 1
        tally[message.tenant, message.outcome] += 1
    counters = await _counters(it)
    wrong = [] if counters == tally else [f"memory counts {counters}, the file {tally}"]
    with recount.reading(path) as db:
        rows = {
            name: found
            for name, *found in db.execute(
                "SELECT customer, last_seq, read_seq, badge_seq, last_ord - read_ord"
                " FROM conversations"
            )
        }
    for name in customers:
        _, told = await it.call("GET", f"/v1/customers/{name}/status", Role.SERVICE)
        memory = [told[field] for field in ("seq", "read_seq", "badge_seq", "unread")]
        if memory != rows[name]:
            wrong.append(f"{name}: {memory} in memory, {rows[name]} in the file")
    return wrong


def _said_twice(path: Path) -> list[str]:
    """Every text here was made once; every ref too."""
    with closing(sqlite3.connect(path)) as db:
        return [
            f"{what}: {times} times"
            for column in ("text", "ref")
            for what, times in db.execute(
                f"SELECT {column}, count(*) FROM messages WHERE {column} IS NOT NULL"
                f" GROUP BY {column} HAVING count(*) > 1"
            )
        ]
