"""`make soak`: every fault at its long scale, and one table of what was lost, doubled, unaccounted.

The short forms of the same coroutines are in `make test`. Exit code 1 if anything is not clean.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.accounts import Result
from tests.simulation.__main__ import simulate

Fault = Callable[[Path], Awaitable[Result]]
FAULTS = (
    "kill",
    "campaign",
    "power",
    "disk",
    "network",
    "slow",
    "disconnects",
    "storm",
    "backend",
    "outages",
    "registrations",
    "clocks",
)
COLUMNS = ("fault", "injected", "confirmed sends", "lost", "doubled", "unaccounted", "repeated")


def long_forms() -> list[tuple[str, Fault]]:
    """Every long form of every fault, by the name of its file."""
    found: list[tuple[str, Fault]] = []
    for name in FAULTS:
        module = import_module(f"tests.faults.{name}")
        found += [(name, fault) for fault in module.LONG]
    return found


def days(runs: int, steps: int) -> Result:
    """The simulation as one row."""
    total = simulate(runs, steps, first=1_000_000, jobs=multiprocessing.cpu_count())
    return Result(
        f"simulation: {total.runs:,} days of {steps} steps, death between any two effects",
        total.deaths,
        total.sends,
        unaccounted=total.violations,
        repeated=total.repeated,
        note=f"{total.steps:,} steps, {total.rings:,} rings",
    )


async def one(fault: Fault) -> Result:
    with tempfile.TemporaryDirectory() as name:
        return await fault(Path(name))


def row(result: Result) -> tuple[str, ...]:
    return (
        result.fault,
        f"{result.injected:,}",
        f"{result.sends:,}",
        *(str(len(found)) for found in (result.lost, result.doubled, result.unaccounted)),
        f"{result.repeated:,}",
    )


def show(results: list[Result]) -> None:
    """The table for people, and the same as Markdown for the README."""
    console = Console(width=160)
    table = Table(*COLUMNS, "note")
    for result in results:
        table.add_row(*row(result), result.note)
    console.print(table)
    print(f"| {' | '.join(COLUMNS)} |\n|---|" + "---|" * (len(COLUMNS) - 1))
    for result in results:
        print(f"| {' | '.join(row(result))} |")
    for result in results:
        for line in (*result.lost, *result.doubled, *result.unaccounted)[:20]:
            print(f"NOT CLEAN  {result.fault}: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--only", default="", help=f"simulation, or one of {', '.join(FAULTS)}")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    work: list[tuple[str, Callable[[], Result]]] = [
        (name, functools.partial(lambda fault: asyncio.run(one(fault)), fault))
        for name, fault in long_forms()
    ]
    work.append(("simulation", lambda: days(options.runs, options.steps)))
    results = []
    for name, run in work:
        if options.only not in ("", name):
            continue
        began = time.monotonic()
        result = run()
        took = time.monotonic() - began
        print(f"{took:6.0f} s  {' | '.join(row(result))}  {result.note}", flush=True)
        results.append(result)
    show(results)
    return 0 if all(result.clean for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
