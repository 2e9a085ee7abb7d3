"""After a restart all come back at once: none is rung, all have every message."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.lines import LOOPBACK
from tests.faults.process import process
from tests.faults.storm import storm
from tests.running import PATIENCE, backend


@pytest.mark.parametrize("drains", [False, True], ids=["killed", "drained"])
async def test_who_comes_back_after_a_restart_has_everything_and_is_not_rung(
    tmp_path: Path, drains: bool
) -> None:
    result = await storm(tmp_path, 120, drains=drains, window=1.0)
    assert result.clean, result
    assert result.sends >= 240


async def test_a_gateway_that_is_busy_lets_hundreds_wait_to_be_accepted(tmp_path: Path) -> None:
    async with backend() as ears, process(tmp_path, ears) as it:
        it.signal(signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE):
            knocking = [
                asyncio.open_connection(LOOPBACK, it.gateway.ports["chat"]) for _ in range(400)
            ]
            for _, writer in await asyncio.gather(*knocking):
                writer.close()
        it.signal(signal.SIGCONT)
