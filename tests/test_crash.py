"""The process dies: what was confirmed is there after the restart, and ends in one outcome."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from pathlib import Path

from gateway.protocol import CloseCode, Role
from tests.faults.process import process
from tests.running import PATIENCE, PATIENT, QUICK, backend


async def test_a_message_confirmed_before_a_kill_rings_once_after_the_restart(
    tmp_path: Path,
) -> None:
    async with backend() as ears:
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            await it.register()
            await it.customer()
            agent = await it.agent()
            await agent.ask("send", "sent", customer="c-42", text="an offer")
            await it.kill()
        async with process(tmp_path, ears, delivery=QUICK) as it:
            assert (await ears.take()).body["payload"]["aps"]["alert"]["body"] == "an offer"
            while (await it.outcome(1))["outcome"] != "pushed":
                await asyncio.sleep(0)
            assert len(ears.calls) == 1


async def test_a_ring_whose_answer_a_kill_swallowed_is_repeated_under_its_id(
    tmp_path: Path,
) -> None:
    async with backend() as ears:
        never = asyncio.Event()

        async def hang(call: object) -> None:
            await never.wait()

        ears.answers.append(hang)  # type: ignore[arg-type]
        async with process(tmp_path, ears, delivery=QUICK) as it:
            await it.register()
            await it.write(text="one")
            first = await ears.take()
            await it.write(text="two")  # must not change what was claimed
            await it.kill()
        async with process(tmp_path, ears, delivery=QUICK) as it:
            again = await ears.take()
            assert again.raw == first.raw
            assert again.headers["webhook-id"] == first.headers["webhook-id"]
            further = await ears.take()
            assert (further.badge, further.ring["seq"]) == (2, 2)
        never.set()


async def test_sends_confirmed_under_load_survive_a_kill_without_a_gap(tmp_path: Path) -> None:
    confirmed: list[int] = []
    async with backend() as ears, process(tmp_path, ears, delivery=PATIENT) as it:
        await it.customer()
        agent = await it.agent()

        async def confirm() -> None:
            while True:
                confirmed.append((await agent.take("sent"))["seq"])
                if len(confirmed) == 50:
                    os.kill(it.pid, signal.SIGKILL)

        reading = asyncio.create_task(confirm())
        for i in range(100):
            await agent.send("send", ref=f"r{i}", customer="c-42", text=f"m{i}")
        await asyncio.gather(reading, return_exceptions=True)
        await it.child.wait()
    with sqlite3.connect(tmp_path / "ringback.db") as db:
        seqs = [seq for (seq,) in db.execute("SELECT seq FROM messages ORDER BY seq")]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert seqs == list(range(1, len(seqs) + 1))
    assert set(confirmed) <= set(seqs)


async def test_the_same_ref_after_a_crash_gets_the_first_answer(tmp_path: Path) -> None:
    async with backend() as ears:
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            customer = await it.customer()
            first = await customer.ask("send", "sent", ref="u-1", text="did you get this?")
            await it.kill()
        async with process(tmp_path, ears, delivery=PATIENT) as it:
            customer = await it.customer()
            again = await customer.ask("send", "sent", ref="u-1", text="did you get this?")
            assert again["duplicate"] is True
            assert (again["seq"], again["id"]) == (first["seq"], first["id"])
            status, told = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
            assert (status, len(told["messages"])) == (200, 1)


async def test_a_log_whose_reader_stands_still_holds_up_nobody(tmp_path: Path) -> None:
    async with backend() as ears, process(tmp_path, ears) as it:
        it.stall_log()
        async with asyncio.timeout(3 * PATIENCE):
            for number in range(1, 101):
                it.signal(signal.SIGHUP)  # a line in the log, beyond what the pipe takes
                assert await it.write() == number
        it.read_log()
        async with asyncio.timeout(PATIENCE):
            while it.log.count("configuration reloaded") < 50:  # of two at once there is but one
                await asyncio.sleep(0.01)
        it.stall_log()
        async with asyncio.timeout(3 * PATIENCE):
            for number in range(101, 201):
                it.signal(signal.SIGHUP)
                assert await it.write() == number
            it.signal(signal.SIGTERM)
            while it.child.returncode is None:  # to `wait` for it is to wait for the end of its log
                await asyncio.sleep(0.01)
        assert it.child.returncode == 0
        it.read_log()


async def test_a_log_that_cannot_be_written_holds_up_nobody(tmp_path: Path) -> None:
    async with backend() as ears, process(tmp_path, ears, push={"breaker_after": 1}) as it:
        await it.register()
        phone = await it.customer("c-2")
        await it.lose_log()
        ears.answers += [500, 404]  # both are news: the endpoint fails, it is misconfigured
        for number in (1, 2):
            assert await it.write() == number
            async with asyncio.timeout(PATIENCE):
                while (await it.outcome(number))["outcome"] != "pushed":
                    await asyncio.sleep(0.01)
            it.signal(signal.SIGHUP)
        assert await it.stop() == 0
        assert await phone.closed() == CloseCode.RESTART
