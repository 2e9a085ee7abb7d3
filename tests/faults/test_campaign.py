"""SIGKILL amid a campaign: nobody is forgotten, and nobody gets it twice."""

from __future__ import annotations

from pathlib import Path

from tests.faults.campaign import Scale, killed


async def test_a_campaign_killed_on_the_way_reaches_every_recipient_once(tmp_path: Path) -> None:
    result = await killed(tmp_path, Scale(recipients=500, kills=2, rate=1_000.0))
    assert result.clean, result
    assert result.sends == 500
