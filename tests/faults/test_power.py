"""Power loss: whatever the disk kept of what was not synced, what was confirmed is there."""

from __future__ import annotations

from pathlib import Path

from websockets.exceptions import ConnectionClosed

from tests.faults.needs import needs
from tests.faults.power import (
    AMID,
    NAME,
    Recording,
    Scale,
    choose,
    confirmed,
    failing,
    power_loss,
    record,
    replay,
)
from tests.faults.process import process
from tests.faults.recording import Created, Removed, Sent, Synced, Written, read, wrapper
from tests.faults.served import served
from tests.running import PATIENT, backend


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
    recording = await record(tmp_path, 70, inject=failing(AMID))
    failed = [e for e in recording.events if isinstance(e, Synced) and e.failed]
    assert failed
    scale = Scale(70, cuts=60, failing=AMID)
    result = await replay(recording, tmp_path / "cut", scale, choose(recording, scale))
    assert result.clean, result


async def test_what_a_killed_process_had_not_synced_is_synced_before_it_is_confirmed(
    tmp_path: Path,
) -> None:
    """The commit was written; the sync never happened; the restart finds the commit in memory."""
    needs("strace")
    await _confirmed_after_a_restart(tmp_path, failing(AMID, "signal=SIGKILL"))


async def test_what_a_failed_sync_left_in_memory_is_written_anew_before_it_is_confirmed(
    tmp_path: Path,
) -> None:
    """After a failed sync the kernel calls the pages clean: a further sync would do nothing."""
    needs("strace")
    await _confirmed_after_a_restart(tmp_path, failing(AMID))


async def _confirmed_after_a_restart(directory: Path, inject: tuple[str, ...]) -> None:
    texts = {f"r{i}": f"text of r{i}" for i in range(100)}
    command = served("FULL", 1_000_000)  # no checkpoint: it would sync what is to be seen unsynced
    first, second = directory / "trace-0", directory / "trace-1"
    async with backend() as ears:
        async with process(
            directory, ears, wrapped_in=wrapper(first, *inject), command=command, delivery=PATIENT
        ) as it:
            for i in range(6):
                await it.customer(f"c-{i}")
            agent = await it.agent()
            unconfirmed = ""
            try:
                for unconfirmed, text in texts.items():
                    customer = f"c-{int(unconfirmed[1:]) % 6}"
                    await agent.send("send", ref=unconfirmed, customer=customer, text=text)
                    if (await agent.next())["type"] == "error":
                        break
            except ConnectionClosed:
                pass
            await it.kill()
        events = read(first, directory / NAME)
        async with process(
            directory, ears, wrapped_in=wrapper(second), command=command, delivery=PATIENT
        ) as it:
            agent = await it.agent()
            await confirmed(agent, {unconfirmed: texts[unconfirmed]})
            await it.kill()
        events += read(second, directory / NAME)
    told = [at for at, event in enumerate(events, 1) if isinstance(event, Sent)]
    assert [e.ref for e in events if isinstance(e, Sent)].count(unconfirmed) == 1
    recording = Recording(events, texts, {})
    result = await replay(recording, directory / "cut", Scale(0, None, tries=20), told[-1:])
    assert result.clean, result
