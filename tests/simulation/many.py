"""Many random days, on all cores.

Not in `__main__`: where processes are not forked, as from Python 3.14 on, they do not find it.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from itertools import repeat

from tests.simulation.days import Report, run
from tests.simulation.world import Violation


def _prepare() -> None:
    """As `ringback serve` does: a full collection of what lives for long is time wasted."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)


def _one(job: tuple[int, int]) -> Report | str:
    seed, steps = job
    try:
        return run(str(seed), range(steps))
    except Violation as broken:
        return str(broken)


def many(first: int, runs: int, steps: int, jobs: int) -> Iterator[Report | str]:
    """One report, or what was violated, per run; in order."""
    work = zip(range(first, first + runs), repeat(steps))
    if jobs == 1:
        yield from map(_one, work)
        return
    with multiprocessing.Pool(jobs, _prepare) as pool:
        yield from pool.imap(_one, work, chunksize=4)
