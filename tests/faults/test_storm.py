"""After a restart all come back at once: none is rung, all have every message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm import storm


@pytest.mark.parametrize("drains", [False, True], ids=["killed", "drained"])
async def test_who_comes_back_after_a_restart_has_everything_and_is_not_rung(
    tmp_path: Path, drains: bool
) -> None:
    result = await storm(tmp_path, 200, drains=drains, window=2.0)
    assert result.clean, result
    assert result.sends >= 400
