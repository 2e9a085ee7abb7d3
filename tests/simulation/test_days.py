"""Random days of the whole core on a virtual clock; the seed of a failure replays it exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.days import run
from tests.simulation.model import LAWFUL

RUNS, STEPS = 200, 100
BATCH = 20
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("first", range(0, RUNS, BATCH))
def test_random_days_break_no_invariant(first: int) -> None:
    moves: Counter[tuple[str, str]] = Counter()
    deaths = rings = 0
    for seed in range(first, first + BATCH):
        report = run(str(seed), range(STEPS))
        moves += report.moves
        deaths += report.deaths
        rings += report.rings
    # Days that exercise little would prove little.
    assert deaths > BATCH / 2
    assert rings > BATCH
    assert set(moves) >= LAWFUL - {("expired", "pushed"), ("expired", "acked")}


def test_a_seed_replays_exactly_in_another_process_with_another_hash_seed() -> None:
    told = set()
    for hash_seed in ("1", "2"):
        command = (sys.executable, "-m", "tests.simulation", "--seed", "7", "--steps", "60")
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    told.add(f"{run('7', range(60))}\n")
    assert len(told) == 1
    assert "trace=" in told.pop()


def test_days_are_lived_in_processes_of_their_own_too() -> None:
    command = (sys.executable, "-m", "tests.simulation", "--runs=2", "--steps=20", "--jobs=2")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("2 runs, 40 steps"), done
    assert (done.returncode, done.stderr) == (0, "")
