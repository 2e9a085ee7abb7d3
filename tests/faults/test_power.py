"""Power loss: whatever the disk kept of what was not synced, what was confirmed is there."""

from __future__ import annotations

from pathlib import Path

from tests.faults.needs import needs
from tests.faults.power import (
    NAME,
    Scale,
    choose,
    failing,
    power_loss,
    record,
    replay,
)
from tests.faults.recording import Created, Removed, Sent, Synced, Written


async def test_no_confirmed_send_is_lost_at_any_cut_of_the_power(tmp_path: Path) -> None:
    needs("strace")
    recording = await record(tmp_path, 60)
    kinds = {type(event) for event in recording.events}
    assert kinds >= {Created, Written, Synced, Removed, Sent}
    checkpoints = [e for e in recording.events if isinstance(e, Synced) and e.name == NAME]
    assert len(checkpoints) >= 5  # so that cuts fall into them
    seen = {e.ref: e.id for e in recording.events if isinstance(e, Sent)}
    assert seen.items() >= recording.told.items()  # every `sent` has its place in the recording
    scale = Scale(60, cuts=100)
    result = await replay(recording, tmp_path / "cut", scale, choose(recording, scale))
    assert result.clean, result


async def test_with_synchronous_normal_confirmed_sends_are_lost(tmp_path: Path) -> None:
    needs("strace")
    result = await power_loss(tmp_path, Scale(24, cuts=30, level="NORMAL"))
    assert result.lost


async def test_syncs_that_fail_confirm_nothing_and_spoil_nothing(tmp_path: Path) -> None:
    needs("strace")
    recording = await record(tmp_path, 70, inject=failing(25))
    failed = [e for e in recording.events if isinstance(e, Synced) and e.failed]
    assert failed
    scale = Scale(70, cuts=60, failing=25)
    result = await replay(recording, tmp_path / "cut", scale, choose(recording, scale))
    assert result.clean, result
