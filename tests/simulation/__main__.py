"""Random days by the thousand: `python -m tests.simulation --runs 10000 --steps 200`.

A failure prints its seed; `--seed 77 --steps 200` replays it, and `--shrink` finds the few steps
that it needs. With `--reference` it is short scripts, compared with the delivery rule's reference:
of those that differ the shortest is told. With `--short phones` it is every script of so many steps
at most (`--steps 4`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import repeat

from tests.simulation.days import Report, run, shrink
from tests.simulation.many import many, one_day
from tests.simulation.scripts import compare
from tests.simulation.short import SCOPES, every
from tests.simulation.world import Violation

PROGRESS = 1_000  # runs after which it is told how far it is


@dataclass(slots=True)
class Total:
    """What many runs went through."""

    runs: int = 0
    steps: int = 0
    sends: int = 0
    deaths: int = 0
    rings: int = 0
    repeated: int = 0
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.runs += 1
        self.steps += report.steps
        self.sends += report.sends
        self.deaths += report.deaths
        self.rings += report.rings
        self.repeated += report.repeated
        self.moves += report.moves


def simulate(runs: int, steps: int, *, first: int = 0, jobs: int = 1, stop: bool = False) -> Total:
    """Live many days. `stop` at the first violation."""
    total = Total()
    for report in many(one_day, zip(range(first, first + runs), repeat(steps)), jobs):
        if isinstance(report, str):
            total.runs += 1
            total.violations.append(report)
            print(report, file=sys.stderr, flush=True)
            if stop:
                break
        else:
            total.add(report)
        if total.runs % PROGRESS == 0:
            print(f"{total.runs:,} days", file=sys.stderr, flush=True)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--stop", action="store_true", help="end at the first violation")
    parser.add_argument("--reference", action="store_true", help="scripts beside the reference")
    parser.add_argument("--short", choices=SCOPES, help="every script of these steps")
    parser.add_argument("--seed", help="replay one run")
    parser.add_argument("--shrink", action="store_true", help="with --seed: find the few steps")
    options = parser.parse_args()
    if options.reference:
        first, runs = (
            (options.first, options.runs) if options.seed is None else (int(options.seed), 1)
        )
        return _compare(range(first, first + runs), options.jobs, options.stop)
    if options.short is not None:
        return _play_all(options.short, options.steps)
    if options.seed is not None:
        return _replay(options.seed, options.steps, options.shrink)
    total = simulate(
        options.runs, options.steps, first=options.first, jobs=options.jobs, stop=options.stop
    )
    moves = ", ".join(f"{a or 'new'} to {b}: {n:,}" for (a, b), n in sorted(total.moves.items()))
    print(
        f"{total.runs:,} runs, {total.steps:,} steps, {total.sends:,} confirmed sends, "
        f"{total.deaths:,} deaths, {total.rings:,} rings ({total.repeated:,} heard again under "
        f"their id)\n{moves}\n{len(total.violations)} violations"
    )
    return 1 if total.violations else 0


def _compare(seeds: range, jobs: int, stop: bool) -> int:
    """Play scripts beside the reference. `stop` at the first difference."""
    runs = differences = 0
    for told in many(compare, seeds, jobs):
        runs += 1
        if told:
            differences += 1
            print(told, flush=True)
            if stop:
                break
        if runs % PROGRESS == 0:
            print(f"{runs:,} scripts", file=sys.stderr, flush=True)
    print(f"{runs:,} scripts, {differences} differences from the reference")
    return 1 if differences else 0


def _play_all(scope: str, longest: int) -> int:
    differences = 0
    for found in every(SCOPES[scope], longest):
        differences += len(found.differs)
        for told in found.differs:
            print(told, flush=True)
        print(
            f"{found.length} steps: {found.scripts:,} scripts, {found.new:,} led somewhere new, "
            f"{len(found.differs)} differ",
            flush=True,
        )
    return 1 if differences else 0


def _replay(seed: str, steps: int, shrinks: bool) -> int:
    try:
        print(run(seed, range(steps)))
    except Violation as broken:
        print(broken)
        if shrinks:
            why = str(broken).partition(": ")[2].partition("\n")[0]
            few = shrink(seed, steps, _kind(why))
            print(f"the steps that it needs: {few}")
            try:
                run(seed, few)
            except Violation as again:
                print(again)
        return 1
    return 0


def _kind(why: str) -> str:
    """The part of a violation that says which promise it breaks, without names and numbers."""
    found = why.rpartition("(")[2].partition(")")[0]
    return found or why.rpartition(": ")[2][:20]


if __name__ == "__main__":
    sys.exit(main())
