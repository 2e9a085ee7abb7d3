"""The same world under Hypothesis, which finds less and shrinks better."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.simulation.days import CUSTOMERS, MEMORY, PAUSES, STEPS, Day


class Life(RuleBasedStateMachine):
    """One world; every rule is a step of `days`. At the end all must end well."""

    def __init__(self) -> None:
        super().__init__()
        place = MEMORY if MEMORY.is_dir() else None
        self._directory = tempfile.TemporaryDirectory(dir=place)
        self._day = Day("life", Path(self._directory.name))
        self._day.world.start()

    @rule(
        name=st.sampled_from(list(STEPS)),
        who=st.sampled_from(CUSTOMERS),
        pause=st.sampled_from(PAUSES),
        rng=st.integers(0, 2**16),
    )
    def step(self, name: str, who: tuple[str, str], pause: float, rng: int) -> None:
        self._day.do(name, who, pause, Random(rng))

    def teardown(self) -> None:
        try:
            if not self._day.world.violations:
                self._day.end()
        finally:
            self._day.world.close()
            self._directory.cleanup()
            structlog.reset_defaults()


Life.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
test_no_sequence_of_steps_breaks_an_invariant = Life.TestCase
