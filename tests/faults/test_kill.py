"""SIGKILL: nothing confirmed is lost, nothing sent again is doubled, nothing is forgotten."""

from __future__ import annotations

from pathlib import Path

from tests.faults.kill import Scale, kills


async def test_killed_at_random_moments_nothing_is_lost_doubled_or_forgotten(
    tmp_path: Path,
) -> None:
    result = await kills(tmp_path, Scale(kills=4, sends=1_500, customers=24, agents=3))
    assert result.clean, result
    assert result.injected == 4
    assert result.sends >= 1_500
    assert "; 0 sends unanswered" not in result.note  # it died under load
