"""Random days of the whole core on a virtual clock; the seed of a failure replays it exactly."""

from __future__ import annotations

import pytest

from tests.simulation.days import run

RUNS, STEPS = 200, 100
BATCH = 10


@pytest.mark.parametrize("batch", range(RUNS // BATCH))
def test_random_days_break_no_invariant(batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        run(str(seed), range(STEPS))
