"""A full disk: sends are refused plainly, reading works, and everything recovers with the space."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.client import CustomerClient
from gateway.protocol import CloseCode, Role
from storage.errors import Unavailable
from storage.store import Store
from tests.running import PATIENCE, PATIENT, Gate, Running, running


async def fill(it: Running) -> None:
    """SQLite's own limit makes the disk full for real: the write fails with SQLITE_FULL."""
    ((pages,),) = await it.gateway.core.database.read_for_write("PRAGMA page_count")
    await it.gateway.core.database.read_for_write(f"PRAGMA max_page_count = {pages}")


async def empty(it: Running) -> None:
    await it.gateway.core.database.read_for_write("PRAGMA max_page_count = 1000000")


async def test_with_a_full_disk_sends_are_unavailable_and_reading_works(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="before")
        await customer.take("message")
        await fill(it)

        refused, ref = None, ""
        for i in range(100):  # until the last free bytes of the last pages are used
            ref = f"r{i}"
            await agent.send("send", ref=ref, customer="c-42", text="x" * 8000)
            answer = await agent.next()
            if answer["type"] == "error":
                refused = answer
                break
        assert refused is not None
        assert (refused["code"], refused["ref"]) == ("unavailable", ref)
        history = await customer.ask("history", "history")
        newest = history["messages"][-1]["seq"]
        told = [f["seq"] for f in await customer.quiet() if f["type"] == "message"]
        assert told == list(range(2, newest + 1))
        status, page = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert (status, page["messages"][-1]["seq"]) == (200, newest)
        status, problem = await it.call(
            "POST",
            "/v1/messages",
            Role.SERVICE,
            json={"customer": "c-42", "text": "x" * 8000},
        )
        assert (status, problem["code"]) == (503, "unavailable")
        late = await it.customer()
        assert late.welcome["seq"] == newest

        await empty(it)
        sent = await agent.ask("send", "sent", ref=ref, customer="c-42", text="x" * 8000)
        assert sent["seq"] == newest + 1
        assert "duplicate" not in sent
        assert (await customer.take("message", seq=newest + 1))["text"] == "x" * 8000
        assert it.gateway.core.store.counters["acme", "accepted"] == newest + 1


async def test_readiness_fails_with_the_disk_and_recovers_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        assert await it.call("GET", "/readyz", listener="admin") == (200, "ok\n")
        await fill(it)
        status = 200
        for i in range(200):
            await it.call(
                "POST",
                "/v1/messages",
                Role.SERVICE,
                json={"customer": f"c-{i}", "text": "x" * 8000},
            )
            status, _ = await it.call("GET", "/readyz", listener="admin")
            if status != 200:
                break
        assert status == 503
        await empty(it)
        assert await it.call("GET", "/readyz", listener="admin") == (200, "ok\n")


async def refuses(statements: Any) -> None:
    """Stands for the writing of a database whose disk is full."""
    raise Unavailable("disk full")


async def test_that_the_disk_refuses_is_a_figure_until_it_takes_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the log had a word of it, one line for hours."""
    async with running(tmp_path, delivery=PATIENT) as it:

        async def told(name: str) -> float:
            _, text = await it.call("GET", "/metrics", listener="admin")
            (figure,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
            return float(figure.split()[1])

        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            for refused in (1, 2):
                path, body = "/v1/messages", {"customer": "c-42", "text": "not now"}
                assert (await it.call("POST", path, Role.SERVICE, json=body))[0] == 503
                assert await told("ringback_writer_refused_total") == refused
                assert await told("ringback_writer_failing") == 1
        await it.write()
        assert await told("ringback_writer_refused_total") == 2
        assert await told("ringback_writer_failing") == 0


async def test_who_comes_and_goes_while_the_disk_is_full_is_told_of_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        await it.write(text="what moves when somebody comes or goes")
        agent = await it.agent(open="c-42")
        await agent.ask("inbox", "inbox")
        monkeypatch.setattr(it.gateway.core.database, "write", refuses)
        for state in ("background", "active"):
            await customer.send("state", state=state)
            in_chat = state == "active"
            assert (await agent.take("presence"))["in_chat"] is in_chat
            assert (await agent.take("inbox_update"))["conversation"]["in_chat"] is in_chat
        other = await it.customer()
        assert (await agent.take("presence"))["sessions"] == 2
        for wire, left in ((customer, 1), (other, 0)):
            wire.vanish()
            told = await agent.take("presence")
            assert (told["in_chat"], told["sessions"]) == (left > 0, left)


async def test_who_opens_while_the_disk_is_full_follows_also_where_others_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open writes nothing, but waits for the commit of those who do; and who had it open before
    goes on."""
    writing, go_on = asyncio.Event(), asyncio.Event()

    async def refuses_in_time(statements: Any) -> None:
        writing.set()
        await go_on.wait()
        raise Unavailable("disk full")

    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(text="before")
        customer = await it.customer()
        follower, agent = await it.agent(open="c-42"), await it.agent("a-2")
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses_in_time)
            await customer.send("send", ref="c0", text="not now")
            await asyncio.wait_for(writing.wait(), PATIENCE)  # the rest waits for the next commit
            await customer.send("send", ref="c1", text="not now either")
            for wire in (follower, agent):
                await wire.send("open", ref="o1", customer="c-42")
            async with asyncio.timeout(PATIENCE):
                while it.gateway.core.store.waiting < 3:
                    await asyncio.sleep(0.001)
            go_on.set()
            for wire in (follower, agent):
                opened = await wire.take("conversation", ref="o1")
                assert [message["text"] for message in opened["messages"]] == ["before"]
            for number in range(2):
                told = await customer.take("error", ref=f"c{number}")
                assert told["code"] == "unavailable"
        await it.write(text="after")
        for wire in (follower, agent):
            assert (await wire.take("message"))["text"] == "after"


async def test_one_session_too_many_closes_the_oldest_while_the_disk_is_full_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"sessions": 2}) as it:
        oldest = await it.customer()
        await it.write(text="what is held when somebody comes")
        monkeypatch.setattr(it.gateway.core.database, "write", refuses)
        others = [await it.customer() for _ in range(2)]
        assert await oldest.closed() == CloseCode.TOO_MANY_SESSIONS
        for other in others:
            await other.ask("ping", "pong")


async def test_who_comes_while_too_much_waits_for_the_disk_gets_what_is_written_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Welcomed though no change of theirs could even wait."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.store, "QUEUE", 0)
            customer = await it.customer()
            assert (await customer.take("message"))["seq"] == 1
        assert await it.write() == 2
        assert (await customer.take("message"))["seq"] == 2


async def test_what_could_not_be_looked_at_while_the_disk_was_full_rings_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        write = it.gateway.core.database.write
        full = iter([True, True])

        async def refuses_looks(statements: Any) -> None:
            if any("look" in told for _, told in statements) and next(full, False):
                raise Unavailable("disk full")
            await write(statements)

        monkeypatch.setattr(it.gateway.core.database, "write", refuses_looks)
        await it.register()
        await it.settled(await it.write(), "pushed")
        assert next(full, None) is None
        assert len(it.backend.calls) == 1


async def test_what_a_backend_answers_while_the_disk_is_full_is_written_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        gate = Gate()
        it.backend.answers.append(gate)
        await it.register()
        seq = await it.write()
        await it.backend.take()
        refused = asyncio.Event()

        async def refuses(statements: Any) -> None:
            refused.set()
            raise Unavailable("disk full")

        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            gate.open.set()
            async with asyncio.timeout(PATIENCE):
                await refused.wait()
        await it.settled(seq, "pushed")
        assert len(it.backend.calls) == 1


@pytest.mark.parametrize("how", ["comes back", "turns active"])
@pytest.mark.parametrize("what", ["disk", "queue"])
async def test_what_is_acknowledged_by_coming_while_all_is_full_is_written_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    """Its client was welcomed, and says it no second time: the phone would ring for it."""
    async with running(tmp_path) as it:
        await it.register()
        await it.customer()
    async with running(tmp_path, delivery=PATIENT | {"restart_grace": 60.0}) as it:
        customer = await it.customer(installation="phone")
        seq = await it.write()
        await customer.take("message")
        if how == "turns active":
            await customer.send("state", state="background")
            await customer.send("ack", seq=seq)
            await customer.ask("ping", "pong")
        else:
            resume = {"epoch": customer.welcome["epoch"], "seq": seq}
            customer.vanish()
        with monkeypatch.context() as full:
            if what == "disk":
                full.setattr(it.gateway.core.database, "write", refuses)
            else:
                full.setattr(Store, "QUEUE", 0)
            if how == "turns active":
                await customer.send("state", state="active")
                await customer.ask("ping", "pong")
            else:
                back = await it.customer(resume=resume)
                assert back.welcome["resumed"] is True
            it.gateway.core.presence.catch_up()  # too early: it is refused once more
            status, _ = await it.call("GET", "/readyz", listener="admin")
            assert status == 503
        await it.write("c-1")  # nothing is rung before something is written
        await it.settled(seq, "acked")
        assert it.backend.calls == []


@pytest.mark.parametrize("how", ["leaves", "turns to the background"])
async def test_what_is_acknowledged_by_coming_while_the_disk_is_full_is_written_on_leaving_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """That they leave is the first that the disk takes again."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        seq = await it.write()
        await customer.take("message")
        resume = {"epoch": customer.welcome["epoch"], "seq": seq}
        customer.vanish()
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            back = await it.customer(resume=resume)
        if how == "leaves":
            await back.send("bye")
        else:
            await back.send("state", state="background")
        await it.settled(seq, "acked")
        assert it.backend.calls == []


async def test_an_ack_that_the_disk_refused_is_said_again_and_nobody_is_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running(tmp_path, delivery=PATIENT) as it,
        CustomerClient(
            it.chat_url("/v1/chat"), it.token(Role.CUSTOMER, "c-42"), auto_ack=False
        ) as app,
    ):
        await it.register()
        seq = await it.write()
        await app.wait_message(seq)
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            await app.ack(seq)
            refused = await app.wait_for(lambda frame: frame["type"] == "error")
            assert refused["code"] == "unavailable"
        await it.settled(seq, "acked")
        assert it.backend.calls == []


async def test_that_another_phone_has_it_too_is_recorded_though_the_disk_refused_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        phone, tablet = [await it.customer(installation=name) for name in ("phone", "tablet")]
        seq = await it.write()
        await tablet.send("ack", seq=seq)
        await it.settled(seq, "acked")
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            await phone.send("ack", seq=seq, ref="a")
            assert (await phone.take("error", ref="a"))["code"] == "unavailable"
        await phone.send("ack", seq=seq)
        await phone.ask("ping", "pong")
        await it.write("c-1")  # in a commit after it
        too = [e for e in (await it.outcome(seq))["events"] if e["event"] == "acked_too"]
        assert [e["installation"] for e in too] == ["phone"]


async def test_a_sign_out_that_the_disk_refused_takes_no_right_from_who_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service was told that it is not confirmed, and the session is open: it was not."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        with monkeypatch.context() as full:
            full.setattr(it.gateway.core.database, "write", refuses)
            status, told = await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
            assert (status, told["code"]) == (503, "unavailable")
        await customer.ask("register_device", "device", installation="phone", token="a-token")
        assert await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE) == (204, "")
        assert await customer.closed() == CloseCode.SIGNED_OUT
