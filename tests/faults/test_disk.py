"""A disk that is full or fails: nothing is confirmed that is not there, and it passes by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.protocol import Role
from storage.database import Database, copy
from storage.errors import CannotOpen
from tests import recount
from tests.faults.disk import SYNCS, TROUBLES, Scale, disk_failures, disk_full, failing, small_disk
from tests.faults.needs import needs
from tests.faults.process import process
from tests.running import PATIENT, backend


async def test_while_writes_or_syncs_fail_nothing_is_confirmed_that_a_crash_would_lose(
    tmp_path: Path,
) -> None:
    needs("strace")
    result = await disk_failures(tmp_path, Scale(rounds=1, sends=800, customers=16, agents=2))
    assert result.clean, result
    assert result.injected == len(TROUBLES)
    assert "killed in the middle 2 times" in result.note
    assert result.sends >= 800


async def test_on_a_full_disk_nothing_is_confirmed_that_a_crash_would_lose(tmp_path: Path) -> None:
    needs(root=True)
    result = await disk_full(tmp_path, Scale(rounds=2, sends=800, customers=16, agents=2))
    assert result.clean, result
    assert result.injected == 2
    assert "killed in the middle 1 times" in result.note
    assert result.sends >= 800


async def test_after_a_failed_sync_memory_and_file_agree_and_the_place_is_given_again(
    tmp_path: Path,
) -> None:
    needs("strace")
    path = tmp_path / "ringback.db"
    async with backend() as ears:
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            customer, agent = await it.customer(), await it.agent()
            await agent.ask("send", "sent", ref="r1", customer="c-42", text="one")
            async with failing(*SYNCS, error="EIO")(it):
                refused = await agent.ask("send", "error", ref="r2", customer="c-42", text="two")
                assert refused["code"] == "unavailable"
                _, told = await it.call("GET", "/v1/customers/c-42/status", Role.SERVICE)
                assert (told["seq"], told["unread"]) == (1, 1)
                assert [m.text for m in recount.check(path)] == ["one"]
            third = await agent.ask("send", "sent", ref="r3", customer="c-42", text="three")
            second = await agent.ask("send", "sent", ref="r2", customer="c-42", text="two")
            assert (third["seq"], second["seq"]) == (2, 3)
            assert "duplicate" not in second
            heard = [f["text"] for f in await customer.quiet() if f["type"] == "message"]
            assert heard == ["one", "three", "two"]
            await it.kill()
        assert [m.text for m in recount.check(path)] == ["one", "three", "two"]


async def test_what_was_refused_may_be_there_after_a_kill_and_is_confirmed_once(
    tmp_path: Path,
) -> None:
    needs("strace")
    path = tmp_path / "ringback.db"
    async with backend() as ears:
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            await it.customer()
            agent = await it.agent()
            await agent.ask("send", "sent", ref="r1", customer="c-42", text="one")
            async with failing(*SYNCS, error="EIO")(it):
                await agent.ask("send", "error", ref="r2", customer="c-42", text="two")
                await it.kill()
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            agent = await it.agent()
            again = await agent.ask("send", "sent", ref="r2", customer="c-42", text="two")
            assert (again["seq"], again["duplicate"]) == (2, True)
            third = await agent.ask("send", "sent", ref="r3", customer="c-42", text="three")
            assert third["seq"] == 3
            told = recount.check(path)
            assert [(m.seq, m.text) for m in told] == [(1, "one"), (2, "two"), (3, "three")]
            assert told[1].id == again["id"]


async def test_a_directory_that_cannot_be_synced_is_a_reason_not_to_start(tmp_path: Path) -> None:
    needs("strace")
    inject = (
        *("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(tmp_path)),
        *("-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"),
    )
    async with backend() as ears:
        with pytest.raises(AssertionError, match=r"cannot open the database .* Input/output error"):
            async with process(tmp_path, ears, wrapped_in=inject, delivery=PATIENT):
                pass


@pytest.mark.parametrize("beside", [-8, 0, 8])
async def test_a_backup_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path, beside: int
) -> None:
    """Not enough for the copy itself, or for what SQLite writes beside it."""
    needs(root=True)
    path = tmp_path / "ringback.db"
    async with Database(path):
        pass
    size = f"{path.stat().st_size // 1024 + beside}k"
    async with small_disk(tmp_path / "small", size) as place:
        with pytest.raises(CannotOpen, match="cannot write"):
            copy(path, place / "copy.db")
        assert list(place.iterdir()) == []
