"""What synchronous=FULL costs: the writer alone, with FULL and with NORMAL in turn, in one run.

`python -m bench.durability` prints messages per second and the time of a single commit. Only the
ratio says anything: absolute figures are those of the disk.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from storage.database import Database
from storage.records import Draft, Key
from storage.store import Needs, Store
from storage.transaction import Transaction

WRITERS, ROUNDS, SECONDS = 64, 7, 2.0


async def rate(store: Store, writers: int) -> float:
    """Messages committed per second, so many senders at a time, each waiting for its commit."""
    count, until = 0, time.perf_counter() + SECONDS

    async def write(customer: str) -> None:
        nonlocal count
        key = Key("acme", customer)

        def change(tx: Transaction) -> None:
            c = tx.conversation(key) or tx.create(key, None)
            tx.append_message(c, Draft(f"m_{count}", "agent", "a", None, "chat", "x" * 150))

        while time.perf_counter() < until:
            await store.submit(change, Needs(keys=(key,)))
            count += 1

    await asyncio.gather(*(write(f"c-{i}") for i in range(writers)))
    return count / SECONDS


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        async with Database(Path(name) / "bench.db") as database:
            store = Store(database, time.time)
            await store.start()
            for writers in (1, WRITERS):
                rates: dict[str, list[float]] = {"FULL": [], "NORMAL": []}
                for _ in range(ROUNDS):
                    for level, found in rates.items():
                        await database.read_for_write(f"PRAGMA synchronous = {level}")
                        found.append(await rate(store, writers))
                ratios = [f / n for f, n in zip(rates["FULL"], rates["NORMAL"], strict=True)]
                full, normal = (statistics.median(rates[level]) for level in ("FULL", "NORMAL"))
                print(
                    f"{writers} at a time: FULL {full:,.0f}/s, NORMAL {normal:,.0f}/s, ratio "
                    f"{min(ratios):.2f}/{statistics.median(ratios):.2f}/{max(ratios):.2f}"
                    f" (min/median/max of {ROUNDS}); one commit with FULL {1000 / full:.2f} ms"
                    if writers == 1
                    else f"{writers} at a time: FULL {full:,.0f}/s, NORMAL {normal:,.0f}/s, ratio "
                    f"{min(ratios):.2f}/{statistics.median(ratios):.2f}/{max(ratios):.2f}"
                )
            await store.stop()


if __name__ == "__main__":
    asyncio.run(main())
