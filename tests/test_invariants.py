"""Random days in the life of three customers: after every step the invariants hold, recounted.

A real gateway, sockets and backend; the seed is in the test's name. What is checked is what the
rows say (I2, I5, I6, and that nothing pending is ever forgotten), by a brute-force recount.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from storage.audit import Audit, audit
from storage.records import Outcome
from tests.recount import Told, check
from tests.running import Running, Wire, running

CUSTOMERS = ("anna", "ben", "cleo")
PHONES = ("phone-1", "phone-2")
TOKENS = ("t-1", "t-2", "t-3")
ANSWERS = (200, 200, 200, 503, 410, 422, 404)
DELIVERY = {
    "ack_timeout": 0.05,
    "disconnect_grace": 0.02,
    "restart_window": 0.02,
    "restart_grace": 0.04,
    "max_hold": 0.2,
}


class Day:
    """One random history."""

    def __init__(self, it: Running, seed: int) -> None:
        self.it = it
        self.rng = random.Random(seed)
        self.wires: dict[str, list[Wire]] = {name: [] for name in CUSTOMERS}

    async def step(self) -> None:
        rng, name = self.rng, self.rng.choice(CUSTOMERS)
        self.it.backend.answers.append(rng.choice(ANSWERS))
        wires = self.wires[name]
        wire = rng.choice(wires) if wires else None
        what = rng.choice(["write", "write", "write", "register", "join", "leave", "ack", "read"])
        newest = (await self.status(name)).get("seq", 0)
        try:
            if what == "write":
                kind = rng.choice(["proactive", "chat", "system"])
                await self.it.write(name, text="x", kind=kind)
            elif what == "register":
                await self.it.register(name, rng.choice(PHONES), rng.choice(TOKENS))
            elif what == "join":
                state = rng.choice(["active", "background"])
                wires.append(await self.it.customer(name, state=state))
            elif wire is not None and what == "leave":
                wires.remove(wire)
                if rng.random() < 0.5:
                    wire.vanish()
                else:
                    await wire.send("bye")
            elif wire is not None and newest:
                await wire.send(what, seq=rng.randint(1, newest))
                await wire.quiet()
        except ConnectionClosed:
            wires.clear()

    async def status(self, name: str) -> Any:
        from gateway.protocol import Role

        _, told = await self.it.call("GET", f"/v1/customers/{name}/status", Role.SERVICE)
        return told


@pytest.mark.parametrize("seed", range(12))
async def test_a_random_day_keeps_every_invariant(tmp_path: Path, seed: int) -> None:
    limits = {"attempts_per_minute": 100_000, "sessions": 3}
    push = {"retry_first": 0.01, "retry_max": 0.03}
    path = tmp_path / "ringback.db"
    async with running(tmp_path, delivery=DELIVERY, limits=limits, push=push) as it:
        day = Day(it, seed)
        for _ in range(60):
            await day.step()
            check(path)
        for wires in day.wires.values():
            for wire in wires:
                wire.vanish()
        it.backend.answers.clear()  # from now on everything is accepted
        store = it.gateway.core.store
        while True:
            changed = it.next_commit()
            if not store.counters["acme", "pending"]:
                break
            await changed.wait()
        check(path)


def both(path: Path) -> tuple[list[Told], Audit]:
    """The two recounts of one moment: what is committed between them has them done again."""
    while True:
        told, theirs = check(path), audit(path, time.time())
        if check(path) == told:
            return told, theirs


@pytest.mark.parametrize("seed", [101, 102, 103])
async def test_the_recount_of_ringback_check_comes_to_the_same(tmp_path: Path, seed: int) -> None:
    limits = {"attempts_per_minute": 100_000, "sessions": 3}
    push = {"retry_first": 0.01, "retry_max": 0.03}
    seen: Counter[str] = Counter()
    async with running(tmp_path, delivery=DELIVERY, limits=limits, push=push) as it:
        day = Day(it, seed)
        for _ in range(60):
            await day.step()
            told, theirs = both(tmp_path / "ringback.db")
            assert theirs.findings == []
            counted = Counter(m.outcome for m in told)
            seen.update(counted)
            for balance in theirs.balances:
                assert balance.counted.pop("accepted") == len(told)
                assert balance.counted == {str(name): counted[name] for name in Outcome}
    assert len(seen) >= 3, "the day was too quiet to compare anything"
