"""The network between the client and the gateway, hurt in every way: nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.faults.disconnects import Acks, disconnects
from tests.faults.lines import Death


async def test_a_death_within_50_ms_of_the_send_leaves_one_outcome_the_true_one(
    tmp_path: Path,
) -> None:
    result, trials = await disconnects(tmp_path, 280, together=40)
    assert result.clean, result
    assert result.sends == result.injected == 280
    assert set(Counter(trial.death for trial in trials).values()) == {40}
    assert {trial.acks for trial in trials} == set(Acks)
    for death in Death:
        here = [trial for trial in trials if trial.death is death]
        assert {trial.died_at > trial.sent_at for trial in here} == {True, False}, death
