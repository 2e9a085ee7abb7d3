"""Many jobs, on all cores.

Not in `__main__`: where processes are not forked, as from Python 3.14 on, they do not find it.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tests.simulation.days import Report, run
from tests.simulation.world import Violation

Job = TypeVar("Job")
Told = TypeVar("Told")


def _prepare() -> None:
    """As `ringback serve` does: a full collection of what lives for long is time wasted."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)


def one_day(job: tuple[int, int]) -> Report | str:
    """Live the day of this seed, of so many steps: its report, or what was violated."""
    seed, steps = job
    try:
        return run(str(seed), range(steps))
    except Violation as broken:
        return str(broken)


def many(one: Callable[[Job], Told], work: Iterable[Job], jobs: int) -> Iterator[Told]:
    """What came of each, in order."""
    if jobs == 1:
        yield from map(one, work)
        return
    with multiprocessing.Pool(jobs, _prepare) as pool:
        yield from pool.imap(one, work, chunksize=4)
