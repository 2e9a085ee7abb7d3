"""Limits, and what goes on within them: pages, the inbox, typing, marks. Every bound is named."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import inbox, pushing, sessions, sockets, talk
from gateway.alarms import AT_ONCE
from gateway.protocol import Role
from gateway.wire import Peer
from storage.errors import Unavailable
from storage.records import Key
from storage.sql import INBOX
from tests.running import PATIENCE, PATIENT, Running, Wire, running

STATUS = "/v1/customers/c-42/status"
PLENTY = {"agent_sends_per_minute": 1_000_000, "agent_burst": 100_000}


# Rates


async def test_beyond_the_burst_sends_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    limits = {"burst": 2, "sends_per_minute": 1}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer = await it.customer()
        assert customer.welcome["limits"]["burst"] == 2
        assert customer.welcome["limits"]["sends_per_minute"] == 1
        for text in ("one", "two"):
            await customer.ask("send", "sent", text=text)
        error = await customer.ask("send", "error", text="three")
        assert error["code"] == "rate_limited"
        assert 0 < error["retry_after"] <= 60
        await customer.ask("ping", "pong")
        page = await customer.ask("history", "history")
        assert [m["text"] for m in page["messages"]] == ["one", "two"]


async def test_behind_so_many_unconfirmed_sends_a_session_waits_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "IN_FLIGHT", 3)
    async with running(tmp_path, delivery=PATIENT, limits=PLENTY | {"burst": 100}) as it:
        customer = await it.customer()
        database, store = it.gateway.core.database, it.gateway.core.store
        write, enqueue, disk, asked = database.write, store.enqueue, asyncio.Event(), list[Any]()

        async def wait(statements: Any) -> None:
            await disk.wait()
            await write(statements)

        def count(change: Any, needs: Any, *rest: Any, **more: Any) -> None:
            asked.append(needs)
            enqueue(change, needs, *rest, **more)

        monkeypatch.setattr(database, "write", wait)
        monkeypatch.setattr(store, "enqueue", count)
        for i in range(10):
            await customer.send("send", ref=f"r-{i}", text=str(i))
        await customer.send("ping", ref="p")
        while len(asked) < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        disk.set()
        assert len(asked) == 3
        got = [(await customer.take("sent"))["ref"] for _ in range(10)]
        assert got == [f"r-{i}" for i in range(10)]
        assert (await customer.take("pong"))["ref"] == "p"


async def test_agents_have_a_rate_of_their_own_on_sockets_and_over_http(tmp_path: Path) -> None:
    limits = {"agent_burst": 1, "agent_sends_per_minute": 1}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        await it.customer()
        agent = await it.agent(open="c-42")
        assert agent.welcome["limits"]["burst"] == 1
        await agent.ask("send", "sent", customer="c-42", text="one")
        error = await agent.ask("send", "error", customer="c-42", text="two")
        assert error["code"] == "rate_limited"
        body = {"customer": "c-42", "text": "x"}
        statuses = [
            (await it.call("POST", "/v1/messages", Role.AGENT, "a-2", json=body))[0]
            for _ in range(2)
        ]
        assert statuses == [201, 429]
        headers = {"Authorization": f"Bearer {it.token(Role.AGENT, 'a-2')}"}
        async with it.http.post(it.url("/v1/messages"), json=body, headers=headers) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
            told = await answer.json(content_type=None)
            assert told["retry_after"] > 0
            assert told["detail"] == "too many messages: at most 1 a minute"
        assert (await it.call("POST", "/v1/messages", Role.AGENT, "a-3", json=body))[0] == 201


# Connections


async def test_one_session_too_many_closes_the_oldest(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"sessions": 2}) as it:
        first, second, third = [await it.customer() for _ in range(3)]
        assert await first.closed() == 4504
        stranger = await it.customer("c-1")
        for wire in (second, third, stranger):
            await wire.ask("ping", "pong")


async def test_a_session_that_will_not_close_does_not_save_the_next_oldest(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"sessions": 1}) as it:
        stubborn = await it.customer()
        stubborn.socket.transport.pause_reading()
        second = await it.customer()
        third = await it.customer()
        assert await second.closed() == 4504
        await third.ask("ping", "pong")


async def test_one_connection_too_many_is_closed_with_4003(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"connections": 2}) as it:
        customer, agent = await it.customer(), await it.agent()
        assert await (await it.raw("/v1/chat")).closed() == 4003
        await customer.ask("ping", "pong")
        await agent.ask("ping", "pong")


async def test_a_tenant_with_all_the_connections_it_can_get_leaves_some_to_others(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"connections": 10}) as it:
        bots = [await it.agent("bot") for _ in range(9)]
        tenth = await it.raw("/v1/agent")
        await tenth.send("hello", token=it.token(Role.AGENT, "bot"))
        assert await tenth.closed() == 4003
        assert "its tenant has its share" in (tenth.socket.close_reason or "")
        await it.customer("c-1", "other")
        _, told = await it.call("GET", "/metrics", listener="admin")
        assert 'ringback_rejected_sockets_total{reason="too_many_of_tenant"} 1.0' in told
        await bots[0].send("bye")
        assert await bots[0].closed() == 1000
        bots[1].socket.transport.abort()
        async with asyncio.timeout(PATIENCE):
            while it.gateway.core.hub.counts("acme")["agent"] > 7:
                await asyncio.sleep(0.01)
        await it.agent("bot")


async def test_connections_that_say_nothing_are_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They took the files that the database, health checks and pushes need."""
    monkeypatch.setattr(sockets, "BEYOND", 1)
    limits = {"connections": 2, "hello_timeout": 60.0}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer = await it.customer()
        port = it.gateway.ports["chat"]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                assert await silent[2][0].read() == b""
        await customer.ask("ping", "pong")
        assert not any(reader.at_eof() for reader, _ in silent[:2])
        silent[1][1].close()
        async with asyncio.timeout(PATIENCE):
            while len(it.gateway.sockets._peers) > 2:
                await asyncio.sleep(0.01)
        other = await it.customer("c-1")  # there is room again
        await other.ask("ping", "pong")
        for _, writer in silent:
            writer.close()


async def test_one_attempt_too_many_from_an_address_is_closed_with_4003(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"attempts_per_minute": 2}) as it:
        customer = await it.customer()
        other = await it.raw("/v1/chat", local_addr=("127.0.0.2", 0))
        assert (await it.customer("c-2")).welcome["customer"] == "c-2"
        assert await (await it.raw("/v1/agent")).closed() == 4003
        await other.send("hello", token=it.token(Role.CUSTOMER, "c-1"))
        assert (await other.take("welcome"))["customer"] == "c-1"
        await customer.ask("ping", "pong")


@pytest.mark.parametrize(("pause", "told"), [(60.0, 1), (0.0, 3)])
async def test_that_an_address_comes_too_often_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float, told: int
) -> None:
    monkeypatch.setattr(sockets, "COMPLAIN_EVERY", pause)
    async with running(tmp_path, delivery=PATIENT, limits={"attempts_per_minute": 1}) as it:
        await it.customer()
        with capture_logs() as logs:
            for _ in range(3):
                assert await (await it.raw("/v1/chat")).closed() == 4003
    logged = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["address"] for entry in logged] == ["127.0.0.1"] * told


async def test_of_so_many_addresses_attempts_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "ADDRESSES", 2)
    async with running(tmp_path, delivery=PATIENT) as it:
        for number in range(1, 6):
            await it.raw("/v1/chat", local_addr=(f"127.0.0.{number}", 0))
        assert len(it.gateway.sockets._attempts) <= 2


async def test_behind_a_trusted_proxy_attempts_count_to_the_client_that_it_names(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"attempts_per_minute": 1}) as it:

        async def come(said: str, address: str = "127.0.0.1") -> Wire:
            headers = {"X-Forwarded-For": said}
            return await it.raw("/v1/chat", additional_headers=headers, local_addr=(address, 0))

        first, second = await come("198.51.100.1"), await come("198.51.100.2")
        assert await (await come("203.0.113.9, 198.51.100.1")).closed() == 4003
        assert await (await come("198.51.100.2", "127.0.0.9")).closed() == 4003
        for client, name in ((first, "c-1"), (second, "c-2")):
            await client.send("hello", token=it.token(Role.CUSTOMER, name))
            assert (await client.take("welcome"))["customer"] == name


async def test_what_a_client_says_of_its_address_without_a_trusted_proxy_is_not_believed(
    tmp_path: Path,
) -> None:
    limits = {"attempts_per_minute": 1}
    async with running(
        tmp_path, delivery=PATIENT, limits=limits, server={"trusted_proxies": []}
    ) as it:
        first, second = [
            await it.raw("/v1/chat", additional_headers={"X-Forwarded-For": said})
            for said in ("198.51.100.1", "198.51.100.2")
        ]
        assert await second.closed() == 4003
        await first.send("hello", token=it.token(Role.CUSTOMER, "c-1"))
        assert (await first.take("welcome"))["customer"] == "c-1"


# A slow reader


async def test_who_does_not_read_is_closed_with_4001_and_resumes_without_a_gap(
    tmp_path: Path,
) -> None:
    limits = {"outbound_bytes": 65_536, "resume": 5_000, **PLENTY}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer = await _with_a_small_window(it)
        agent = await it.agent()
        customer.socket.transport.pause_reading()
        sent = 0
        while not _given_up(it):
            await agent.ask("send", "sent", customer="c-42", text="x" * 8_000)
            sent += 1
        for _ in range(5):
            await agent.ask("send", "sent", customer="c-42", text="into the gap")
            sent += 1
        customer.socket.transport.resume_reading()
        assert await customer.closed() == 4001
        got = [f["seq"] for f in customer._skipped if f["type"] == "message"]
        assert got == list(range(1, len(got) + 1))
        assert len(got) < sent
        resume = {"epoch": customer.welcome["epoch"], "seq": len(got)}
        again = await it.customer(resume=resume)
        assert again.welcome["resumed"] is True
        rest = [(await again.next())["seq"] for _ in range(sent - len(got))]
        assert rest == list(range(len(got) + 1, sent + 1))
        await agent.ask("send", "sent", customer="c-42", text="next")
        assert (await again.take("message"))["seq"] == sent + 1


async def _with_a_small_window(it: Running, ttl: float = 600.0) -> Wire:
    """A customer whose kernel takes little, so that the server's buffer fills soon."""
    wire = await it.raw("/v1/chat", sock=_small_socket(it))
    await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42", ttl=ttl))
    wire.welcome = await wire.take("welcome")
    return wire


def _small_socket(it: Running) -> socket.socket:
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    tcp.connect(("127.0.0.1", it.gateway.ports["chat"]))
    return tcp


def _given_up(it: Running) -> bool:
    """Whether the server has decided to close: only the server knows it while nobody reads."""
    (session,) = it.gateway.core.hub.sessions(Key("acme", "c-42"))
    assert isinstance(session.out, Peer)
    return session.out.code is not None


async def test_who_never_reads_again_is_cut_off(tmp_path: Path) -> None:
    limits = {"outbound_bytes": 65_536, **PLENTY}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer = await _with_a_small_window(it)
        agent = await it.agent(open="c-42")
        customer.socket.transport.pause_reading()
        while not _given_up(it):
            await agent.ask("send", "sent", customer="c-42", text="x" * 8_000)
        await agent.take("presence", in_chat=False)


async def test_more_missing_than_the_resume_limit_means_reload(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"resume": 3}) as it:
        customer = await it.customer()
        epoch = customer.welcome["epoch"]
        for i in range(5):
            await customer.ask("send", "sent", text=f"m{i}")
        fits = await it.customer(resume={"epoch": epoch, "seq": 2})
        assert fits.welcome["resumed"] is True
        assert [f["seq"] for f in await fits.quiet()] == [3, 4, 5]
        for resume in (
            {"epoch": epoch, "seq": 1},
            {"epoch": epoch, "seq": 6},
            {"epoch": "e" * 32, "seq": 5},
        ):
            reload = await it.customer(resume=resume)
            assert reload.welcome["resumed"] is False
            assert await reload.quiet() == []
        fresh = await it.customer()
        assert [f["seq"] for f in await fresh.quiet()] == [3, 4, 5], "the newest three at most"


# States


async def _in_chat(it: Running, expected: bool) -> None:
    """Wait until the customer is, or is not."""
    async with asyncio.timeout(PATIENCE):
        while (await it.call("GET", STATUS, Role.SERVICE))[1]["in_chat"] is not expected:
            await asyncio.sleep(0.01)


async def test_a_session_that_keeps_changing_its_state_waits_and_floods_no_agent(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        agent = await it.agent()
        await agent.ask("inbox", "inbox")
        customer = await it.customer()
        for _ in range(50):
            await customer.send("state", state="background")
            await customer.send("state", state="active")
        other = await it.customer("c-2")  # is held up by none of it
        await other.ask("ping", "pong")
        updates = [f for f in await agent.quiet() if f["type"] == "inbox_update"]
        assert len(updates) < 50  # of 100 changes: ten, and one a second
        await _in_chat(it, True)  # the last of them counts


async def test_a_customer_who_keeps_typing_floods_no_agent_and_the_last_of_it_counts(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer, agent = await it.customer(), await it.agent(open="c-42")
        for _ in range(50):
            await customer.send("typing", on=True)
        await customer.send("typing", on=False)
        told = 0
        while (await agent.take("typing"))["on"]:
            told += 1
        assert told < 50  # ten, and one a second


async def test_a_socket_that_ends_amid_its_states_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        for _ in range(100):
            await customer.send("state", state="active")
        customer.vanish()
        await _in_chat(it, False)


# A replay that is read slowly


@asynccontextmanager
async def _a_long_replay(
    directory: Path, ttl: float = 600.0, limits: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Running, Wire]]:
    """A customer who has been welcomed, and reads nothing of the 200 long messages that follow."""
    async with running(directory, delivery=PATIENT, limits=limits) as it:
        for _ in range(200):
            await it.write(text="x" * 8_000, data={"x": "x" * 8_000})
        customer = await _with_a_small_window(it, ttl)
        customer.socket.transport.pause_reading()
        yield it, customer


async def test_what_is_read_while_the_replay_comes_counts_at_once(tmp_path: Path) -> None:
    async with _a_long_replay(tmp_path) as (it, customer):
        await customer.send("read", seq=20)
        await it.settled(20, "acked")
        assert (await it.outcome(21))["outcome"] != "acked"
        await customer.send("ping", ref="behind")
        customer.socket.transport.resume_reading()
        frames = [frame["type"] for frame in await customer.quiet()]
        behind = frames[frames.index("status") :]
        assert "message" not in behind, "whatever is told comes behind the replay"
        assert "pong" in behind


async def test_who_leaves_while_the_replay_comes_has_left(tmp_path: Path) -> None:
    async with _a_long_replay(tmp_path) as (it, customer):
        assert (await it.call("GET", STATUS, Role.SERVICE))[1]["in_chat"] is True
        await customer.send("state", state="background")
        await _in_chat(it, False)


async def test_who_says_goodbye_while_the_replay_comes_has_left_and_gets_all_answers(
    tmp_path: Path,
) -> None:
    async with _a_long_replay(tmp_path) as (it, customer):
        await customer.send("send", ref="last", text="bye")
        await customer.send("bye")
        await _in_chat(it, False)
        customer.socket.transport.resume_reading()
        assert await customer.closed() == 1000
        assert [f["seq"] for f in customer._skipped if f["type"] == "message"][-1] == 200
        assert (await customer.take("sent", ref="last"))["seq"] == 201


async def test_what_waited_for_its_pace_ends_with_a_goodbye_while_the_replay_comes(
    tmp_path: Path,
) -> None:
    async with _a_long_replay(tmp_path) as (it, customer):
        agent, other = await it.agent(open="c-42"), await it.customer("c-2")
        await agent.ask("open", "conversation", customer="c-2")
        for _ in range(10):
            await customer.send("typing", on=False)
        await customer.send("typing", on=True)
        await customer.send("bye")
        await agent.take("presence", customer="c-42", sessions=0)
        for _ in range(10):
            await other.send("typing", on=False)
        await other.send("typing", on=True)
        await agent.take("typing", customer="c-2", on=True)  # it waited too, for longer
        typing = [f for f in agent._skipped if f["type"] == "typing"]
        assert [f["on"] for f in typing if f["customer"] == "c-42"] == [False] * 10


async def test_pages_asked_for_while_the_replay_comes_wait_for_its_end(tmp_path: Path) -> None:
    async with _a_long_replay(tmp_path) as (_, customer):
        for n in range(4):
            await customer.send("history", ref=f"h{n}")
        customer.socket.transport.resume_reading()
        for n in range(4):
            assert (await customer.take("history", ref=f"h{n}"))["more"] is True
        await customer.ask("ping", "pong")


async def test_what_is_read_behind_a_page_that_waits_for_the_replay_counts_at_once(
    tmp_path: Path,
) -> None:
    async with _a_long_replay(tmp_path) as (it, customer):
        await customer.send("history", ref="older")
        await customer.send("read", seq=20)
        await it.settled(20, "acked")
        await customer.send("bye")
        await _in_chat(it, False)
        customer.socket.transport.resume_reading()
        assert await customer.closed() == 1000
        told = [frame["type"] for frame in customer._skipped]
        assert told.count("message") == 200
        assert "message" not in told[told.index("history") :], "a page comes behind the replay"


async def test_more_pages_than_may_wait_for_the_replay_are_answered_too(tmp_path: Path) -> None:
    async with _a_long_replay(tmp_path) as (_, customer):
        for n in range(sessions.PAGES_BEHIND + 2):
            await customer.send("history", ref=f"h{n}", limit=1)
        customer.socket.transport.resume_reading()
        for n in range(sessions.PAGES_BEHIND + 2):
            assert (await customer.take("history", ref=f"h{n}"))["more"] is True


async def test_who_says_goodbye_and_does_not_read_is_cut_off(tmp_path: Path) -> None:
    quick = {"ping_interval": 30.0, "ping_timeout": 0.5}
    async with _a_long_replay(tmp_path, limits=quick) as (it, customer):
        await customer.send("bye")
        sockets = it.gateway.sockets
        async with asyncio.timeout(PATIENCE):
            while sockets._handlers:
                await asyncio.sleep(0.01)


async def test_who_acknowledges_more_and_more_of_a_replay_is_not_cut_off_as_dead(
    tmp_path: Path,
) -> None:
    """Where a proxy holds megabytes, the gateway sees nothing of its reader but this."""
    limits = {"ping_interval": 600.0, "ping_timeout": 60.0}  # the test says when it is looked at
    async with _a_long_replay(tmp_path, limits=limits) as (it, customer):
        (session,) = it.gateway.core.hub.sessions(Key("acme", "c-42"))
        peer = session.out
        assert isinstance(peer, Peer)
        peer.remind(asyncio.get_running_loop().time())
        for seq in range(1, 31):
            dead_at = peer.due
            await customer.send("ack", seq=seq)
            await it.settled(seq, "acked")
            assert peer.due > dead_at
            assert not peer._closing
        async with asyncio.timeout(PATIENCE):
            while not peer._closing:  # it says nothing more, and answers no ping
                peer.remind(peer.due)
                await asyncio.sleep(0.01)
        await _in_chat(it, False)


async def test_a_token_ends_while_the_replay_comes(tmp_path: Path) -> None:
    async with _a_long_replay(tmp_path, ttl=3.0) as (it, _):
        await _in_chat(it, False)


# Pages


async def test_pages_asked_for_at_once_come_all_and_hold_up_nothing_that_is_said(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for _ in range(100):
            await it.write(text="x" * 8_000)
        before = await it.customer()
        await before.send("read", seq=100)
        await it.settled(100, "acked")
        customer = await _with_a_small_window(it)
        customer.socket.transport.pause_reading()
        for n in range(sessions.PAGES_BEHIND - 1):
            await customer.send("history", ref=f"h{n}")
        await it.write()
        await customer.send("read", seq=101)
        await it.settled(101, "acked")
        await asyncio.sleep(sessions.PAGES_BEHIND / inbox.PAGES)  # in which all could have left
        customer.socket.transport.resume_reading()
        for n in range(sessions.PAGES_BEHIND - 1):
            assert len((await customer.take("history", ref=f"h{n}"))["messages"]) == 50


async def test_conversations_opened_at_once_come_all_however_slowly_they_are_read(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for n in range(6 * 50):
            await it.write(f"c-{n % 6}", text="x" * 8_000)
        agent = await it.raw("/v1/agent", sock=_small_socket(it))
        await agent.send("hello", token=it.token(Role.AGENT, "a-1"))
        await agent.take("welcome")
        agent.socket.transport.pause_reading()
        for n in range(6):
            await agent.send("open", ref=f"o{n}", customer=f"c-{n}")
        await agent.send("send", ref="behind", customer="c-0", text="hello")
        other = await it.agent()  # whoever reads has all of them meanwhile
        for n in range(6):
            await other.ask("open", "conversation", customer=f"c-{n}")
        agent.socket.transport.resume_reading()
        for n in range(6):
            assert len((await agent.take("conversation", ref=f"o{n}"))["messages"]) == 50
        await agent.take("sent", ref="behind")


async def test_an_inbox_page_ends_where_it_would_be_too_large(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for n in range(40):
            await it.write(f"c-{n}", text="é" * 1_000, data={"x": "漢" * 5_300})
        agent = await it.agent()
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await agent.ask("inbox", "inbox", limit=200, **cursor)
            assert len(json.dumps(page, ensure_ascii=False).encode()) < 600_000
            found += [entry["customer"] for entry in page["conversations"]]
            if "cursor" not in page:
                break
            cursor = {"cursor": page["cursor"]}
        assert found == [f"c-{n}" for n in reversed(range(40))]


async def test_history_is_read_in_pages_to_the_beginning(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        for i in range(1, 6):
            await customer.ask("send", "sent", ref=f"r{i}", text=f"m{i}", data={"i": i})
        page = await customer.ask("history", "history", limit=2)
        assert [(m["seq"], m["text"]) for m in page["messages"]] == [(4, "m4"), (5, "m5")]
        assert page["more"] is True
        assert page["messages"][0]["ref"] == "r4"
        assert page["messages"][0]["data"] == {"i": 4}
        page = await customer.ask("history", "history", limit=3, before=4)
        assert [m["seq"] for m in page["messages"]] == [1, 2, 3]
        assert page["more"] is False
        page = await customer.ask("history", "history", before=1)
        assert (page["messages"], page["more"]) == ([], False)
        page = await agent.ask("history", "history", customer="c-42", before=3, limit=1)
        assert page["customer"] == "c-42"
        assert [(m["seq"], m["customer"], "ref" in m) for m in page["messages"]] == [
            (2, "c-42", False)
        ]
        opened = await agent.ask("open", "conversation", customer="c-42", after=3)
        assert [m["seq"] for m in opened["messages"]] == [4, 5]


async def test_a_flood_of_a_services_calls_lets_those_who_chat_pass(tmp_path: Path) -> None:
    """With 64 calls at a time in equal parts another tenant's chat waited for 0.7 s."""
    async with running(tmp_path, delivery=PATIENT, limits=PLENTY) as it:
        await it.write("c-1")
        agent = await it.agent()
        database, store = it.gateway.core.database, it.gateway.core.store
        write, commits, held = database.write, asyncio.Semaphore(0), asyncio.Event()

        async def wait(statements: Any) -> None:
            held.set()
            await commits.acquire()
            await write(statements)

        async def post(number: int) -> None:
            asked = {"customer": f"c-{number}", "text": "offer"}
            call = it.call("POST", "/v1/messages", Role.SERVICE, tenant="other", json=asked)
            assert (await call)[0] == 201

        database.write = wait  # type: ignore[method-assign]
        posts = [asyncio.create_task(post(0))]
        await held.wait()
        posts += [asyncio.create_task(post(number)) for number in range(1, 40)]
        for number in range(40):
            await agent.send("send", ref=f"r-{number}", customer="c-1", text="hello")
        async with asyncio.timeout(PATIENCE):
            while store.waiting < 79:
                await asyncio.sleep(0.01)
            held.clear()
            commits.release()
            await held.wait()  # the next commit has been judged
        taken = 79 - store.waiting
        assert taken <= store.SHARED + store.LATER_SHARED
        commits.release()
        for number in range(store.SHARED):
            await agent.take("sent", ref=f"r-{number}")
        assert sum(task.done() for task in posts) <= 1 + store.LATER_SHARED
        for _ in range(80):
            commits.release()
        await asyncio.gather(*posts)


async def test_what_is_due_while_the_queue_is_full_is_not_refused_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal made room for the next: of a million that were due all were, in one turn."""
    monkeypatch.setattr(pushing, "RETRY_TICK", 0.05)
    async with running(tmp_path) as it:
        store, alarms = it.gateway.core.store, it.gateway.core.book.alarms
        enqueue, refused = store.enqueue, list[Any]()

        def count(change: Any, needs: Any, *rest: Any, **more: Any) -> None:
            try:
                enqueue(change, needs, *rest, **more)
            except Unavailable:
                refused.append(needs)
                raise

        monkeypatch.setattr(store, "enqueue", count)
        monkeypatch.setattr(store, "QUEUE", 0)
        for number in range(3 * AT_ONCE):
            alarms.set(Key("acme", f"c-{number}"), 0.0)
        while not refused:
            await asyncio.sleep(0)
        assert len(refused) == AT_ONCE
        monkeypatch.undo()
        async with asyncio.timeout(PATIENCE):
            while alarms._tenants["acme"].heap or alarms._judging:
                await asyncio.sleep(0.01)


async def test_agents_who_ask_for_the_same_page_at_once_share_one_look(tmp_path: Path) -> None:
    """After a restart they all do, and each look is at every conversation of the tenant."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write("c-1")
        database, inbox = it.gateway.core.database, it.gateway.core.inbox
        scan, looks, begun, go_on = database.scan, list[str](), asyncio.Event(), asyncio.Event()
        share, asking = inbox._look_with_others, list[Any]()

        async def wait(sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Any:
            looks.append(parameters[0])
            begun.set()
            if parameters[0] == "acme":
                await go_on.wait()
            return await scan(sql, parameters, tenant)

        async def count(asked: Any) -> Any:
            asking.append(asked)
            return await share(asked)

        database.scan = wait  # type: ignore[method-assign]
        inbox._look_with_others = count  # type: ignore[method-assign]
        first, leaving, *others = [await it.agent() for _ in range(5)]
        await first.send("inbox", ref="i")
        await begun.wait()
        for agent in (leaving, *others):
            await agent.send("inbox", ref="i")
        async with asyncio.timeout(PATIENCE):
            while len(asking) < 5:
                await asyncio.sleep(0.01)
        leaving.vanish()
        await it.write("c-2")  # since they asked: they are to be told of it
        stranger = await it.agent(tenant="other")
        assert (await stranger.ask("inbox", "inbox"))["conversations"] == []
        assert looks == ["acme", "other"]
        go_on.set()
        for agent in (first, *others):
            page = await agent.take("inbox")
            assert [c["customer"] for c in page["conversations"]] == ["c-2", "c-1"]
        assert looks == ["acme", "other", "acme"]
        assert len(asking) == 6


async def unreadable(sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Any:
    """In place of the database's reading."""
    raise Unavailable("the database cannot be read")


async def test_an_inbox_that_cannot_be_read_is_unavailable_and_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write("c-1")
        database = it.gateway.core.database
        scan = database.scan
        agent = await it.agent()
        database.scan = unreadable  # type: ignore[method-assign]
        assert (await agent.ask("inbox", "error"))["code"] == "unavailable"
        database.scan = scan  # type: ignore[method-assign]
        assert len((await agent.ask("inbox", "inbox"))["conversations"]) == 1


async def test_what_cannot_be_read_is_unavailable_to_who_is_there_and_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        customer, agent = await it.customer(), await it.agent()
        database = it.gateway.core.database
        read = database.read

        database.read = unreadable  # type: ignore[method-assign]
        told = await customer.ask("history", "error")
        assert (told["code"], "same ref" in told["message"]) == ("unavailable", True)
        told = await agent.ask("history", "error", customer="c-42")
        assert told["code"] == "unavailable"
        another = await it.raw("/v1/chat")
        await another.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
        assert await another.closed() == 1011, "what was missed cannot be sent: it comes back"
        database.read = read  # type: ignore[method-assign]
        assert len((await customer.ask("history", "history"))["messages"]) == 1
        assert (await agent.ask("history", "history", customer="c-42"))["messages"]


async def test_what_cannot_be_opened_again_is_not_open_any_more(tmp_path: Path) -> None:
    """It could not be followed without a gap; and nothing is kept for who does not ask again."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        agent = await it.agent(open="c-42")
        database = it.gateway.core.database
        read = database.read

        database.read = unreadable  # type: ignore[method-assign]
        told = await agent.ask("open", "error", customer="c-42")
        assert told["code"] == "unavailable"
        assert not it.gateway.core.hub.watched(Key("acme", "c-42"))
        database.read = read  # type: ignore[method-assign]
        await it.write(text="meanwhile")
        opened = await agent.ask("open", "conversation", customer="c-42", after=1)
        assert [m["text"] for m in opened["messages"]] == ["meanwhile"]
        await it.write(text="from then on")
        assert (await agent.take("message"))["text"] == "from then on"


async def test_the_inbox_is_paged_newest_first_and_filtered(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        agent = await it.agent()
        for name in ("c-1", "c-2", "c-3"):
            await (await it.customer(name)).ask("send", "sent", text=f"from {name}")
        await agent.ask("send", "sent", customer="c-2", text="answered")
        await it.write("c-4")
        await agent.ask("end", "ok", customer="c-3")

        async def listed(**fields: Any) -> tuple[list[str], str | None]:
            page = await agent.ask("inbox", "inbox", **fields)
            return [c["customer"] for c in page["conversations"]], page.get("cursor")

        assert await listed() == (["c-3", "c-4", "c-2", "c-1"], None)
        first, cursor = await listed(limit=3)
        assert first == ["c-3", "c-4", "c-2"]
        assert await listed(limit=3, cursor=cursor) == (["c-1"], None)
        assert await listed(filter="live") == (["c-2", "c-1"], None)
        assert await listed(filter="unanswered") == (["c-1"], None)
        page = await agent.ask("inbox", "inbox", filter="unanswered")
        (entry,) = page["conversations"]
        assert entry["last"]["text"] == "from c-1"
        assert (entry["waiting"], entry["unread"], entry["live"], entry["in_chat"]) == (
            1,
            0,
            True,
            True,
        )


async def test_an_inbox_is_paged_on_from_where_it_was_though_what_it_shows_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for n in range(4):
            await it.write(f"c-{n}")
        database = it.gateway.core.database
        read = database.read

        async def slowly(sql: str, parameters: tuple[Any, ...] = ()) -> Any:
            found = await read(sql, parameters)
            if sql == INBOX:
                monkeypatch.setattr(database, "read", read)
                await it.write("c-2")  # after the page was read, and before it is told
            return found

        agent = await it.agent()
        monkeypatch.setattr(database, "read", slowly)
        page = await agent.ask("inbox", "inbox", limit=2)
        assert [c["customer"] for c in page["conversations"]] == ["c-3", "c-2"]
        page = await agent.ask("inbox", "inbox", limit=2, cursor=page["cursor"])
        assert [c["customer"] for c in page["conversations"]] == ["c-1", "c-0"]


async def test_an_inbox_hears_of_every_change_and_only_once_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent, deaf = await it.agent(), await it.agent("a-2")
        await agent.ask("inbox", "inbox")
        await customer.ask("send", "sent", text="hello")
        update = (await agent.take("inbox_update"))["conversation"]
        assert (update["customer"], update["waiting"], update["live"]) == ("c-42", 1, True)
        await agent.send("read", customer="c-42", seq=1)
        assert (await agent.take("inbox_update"))["conversation"]["waiting"] == 0
        await it.write("c-9")
        update = (await agent.take("inbox_update"))["conversation"]
        assert (update["customer"], update["unread"], update["live"]) == ("c-9", 1, False)
        await agent.ask("end", "ok", customer="c-42")
        assert (await agent.take("inbox_update"))["conversation"]["live"] is False
        named = it.token(Role.CUSTOMER, "c-42", name="Ada")
        await it.customer(token=named, state="background")
        assert (await agent.take("inbox_update"))["conversation"]["name"] == "Ada"
        assert await deaf.quiet() == []


async def test_a_customer_is_told_as_unanswered_since_when_until_an_agent_answers_or_ends(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer, agent, other = await it.customer(), await it.agent(), await it.agent("a-2")
        await other.ask("inbox", "inbox")

        async def told() -> tuple[str, str | None]:
            entry = (await other.take("inbox_update"))["conversation"]
            page = await agent.ask("inbox", "inbox", filter="unanswered")
            since = entry.get("unanswered_since")
            listed = [c["unanswered_since"] for c in page["conversations"]]
            assert listed == ([since] if since is not None else [])
            return entry["last"]["kind"], since

        asked = (await customer.ask("send", "sent", text="Where is my order?"))["at"]
        assert await told() == ("chat", asked)
        await it.write(text="Summer sale")
        assert await told() == ("proactive", asked)
        await it.write(text="You are second in line", kind="system")
        assert await told() == ("system", asked)
        await customer.ask("send", "sent", text="Are you there?")
        assert await told() == ("chat", asked)
        await agent.ask("send", "sent", customer="c-42", text="On its way")
        assert await told() == ("chat", None)
        thanked = (await customer.ask("send", "sent", text="Thanks"))["at"]
        assert thanked > asked
        assert await told() == ("chat", thanked)
        await agent.ask("end", "ok", customer="c-42")
        assert await told() == ("chat", None)


async def test_the_agents_read_mark_is_shared_and_counts_only_the_customers(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent, other = await it.agent(), await it.agent("a-2")
        await customer.ask("send", "sent", text="1")
        await agent.ask("send", "sent", customer="c-42", text="2")
        await customer.ask("send", "sent", text="3")
        await other.ask("inbox", "inbox")
        await agent.send("read", customer="c-42", seq=2)
        assert (await other.take("inbox_update"))["conversation"]["waiting"] == 1
        await agent.send("read", customer="c-42", seq=1)
        page = await agent.ask("inbox", "inbox")
        assert page["conversations"][0]["waiting"] == 1, "the mark never goes back"


# What is relayed, never stored


async def test_typing_is_relayed_both_ways_and_not_back(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer, web = await it.customer(), await it.customer()
        agent, other = await it.agent(open="c-42"), await it.agent("a-2", open="c-42")
        away = await it.agent("a-3")
        named = await it.raw("/v1/chat")
        await named.send("hello", token=it.token(Role.CUSTOMER, "c-42", name="Zoë"))
        await named.take("welcome")
        await named.send("typing", on=True)
        for wire in (agent, other):
            assert (await wire.take("typing"))["from"]["name"] == "Zoë"
        await named.send("bye")
        await customer.send("typing", on=True)
        for wire in (agent, other):
            told = await wire.take("typing")
            assert (told["customer"], told["on"]) == ("c-42", True)
            assert told["from"] == {"role": "customer", "id": "c-42"}
        await agent.send("typing", customer="c-42", on=False)
        for wire in (customer, web):
            told = await wire.take("typing")
            assert (told["from"]["role"], told["from"]["id"]) == ("agent", "a-1")
            assert (told["on"], "customer" in told) == (False, False)
        assert (await other.take("typing"))["from"]["id"] == "a-1"
        for wire in (agent, away, customer):
            assert [f for f in await wire.quiet() if f["type"] == "typing"] == []
        assert customer.welcome["seq"] == 0
        assert (await customer.ask("history", "history"))["messages"] == []


async def test_a_closed_conversation_is_followed_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await customer.ask("send", "sent", text="one")
        assert (await agent.take("message"))["text"] == "one"
        await agent.ask("close", "ok", customer="c-42")
        await customer.ask("send", "sent", text="two")
        await customer.send("typing", on=True)
        await customer.ask("ping", "pong")
        assert await agent.quiet() == []


async def test_end_makes_the_conversation_not_live_until_somebody_writes(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        assert customer.welcome["live"] is False
        agent = await it.agent(open="c-42")
        await customer.ask("send", "sent", text="hello")
        assert (await customer.take("status"))["live"] is True
        await agent.ask("end", "ok", customer="c-42")
        assert (await customer.take("status"))["live"] is False
        assert (await it.customer()).welcome["live"] is False
        await agent.ask("end", "ok", customer="c-42")
        await agent.ask("send", "sent", customer="c-42", text="one more thing")
        assert (await customer.take("status"))["live"] is True


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.AGENT])
async def test_bye_closes_with_1000(tmp_path: Path, role: Role) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        wire = await (it.customer() if role is Role.CUSTOMER else it.agent())
        await wire.send("bye")
        assert await wire.closed() == 1000


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.AGENT])
async def test_what_was_sent_before_a_bye_is_answered_before_the_close(
    tmp_path: Path, role: Role
) -> None:
    """Who is closed with 1000 does not come back to ask."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.customer()
        wire = await (it.customer() if role is Role.CUSTOMER else it.agent())
        to = {} if role is Role.CUSTOMER else {"customer": "c-42"}
        for number in range(20):
            await wire.send("send", ref=f"r-{number}", text="on the way out", **to)
        await wire.send("bye")
        answers = [(await wire.take("sent"))["seq"] for _ in range(20)]
        assert answers == list(range(1, 21))
        assert await wire.closed() == 1000


async def test_stopping_closes_everybody_with_1012_even_before_hello(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"hello_timeout": 60.0}) as it:
        wires = [await it.customer(), await it.agent(), await it.raw("/v1/chat")]
        await it.gateway.stop()
        assert [await wire.closed() for wire in wires] == [1012, 1012, 1012]


def few_frames(monkeypatch: pytest.MonkeyPatch, *, at_once: float) -> list[float]:
    """Sessions may send so many frames, and none later; the waits that they are held to instead."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("gateway.session.FRAMES_PER_MINUTE", 1.0)
    monkeypatch.setattr("gateway.session.FRAMES_AT_ONCE", at_once)
    monkeypatch.setattr(talk, "_sleep", note)
    return waits


async def test_who_sends_more_frames_than_anybody_needs_waits_before_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = few_frames(monkeypatch, at_once=30.0)
    limits = {"sends_per_minute": 1, "burst": 1}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer = await it.customer("c-1")
        for _ in range(30):
            await customer.ask("ping", "pong")
        assert waits == []
        for _ in range(20):
            await customer.ask("ping", "pong")
        assert len(waits) == 20
        assert waits[-1] > 10 * waits[0], "each of them is to be waited for"
        await customer.ask("deregister_device", "ok", installation="i-1")  # what takes longer, too
        assert len(waits) == 21


async def test_what_a_session_is_told_it_may_acknowledge_at_any_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = few_frames(monkeypatch, at_once=10.0)
    limits = {"sends_per_minute": 1, "burst": 1, "agent_sends_per_minute": 1, "agent_burst": 1}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        customer, agent = await it.customer("c-1"), await it.agent()
        await it.write("c-1")
        await agent.ask("open", "conversation", customer="c-1")
        for seq in range(2, 32):
            await it.write("c-1")
            for wire, whose in ((customer, {}), (agent, {"customer": "c-1"})):
                await wire.take("message", seq=seq)
                await wire.send("ack", seq=seq, **whose)
        for wire in (customer, agent):
            await wire.ask("ping", "pong")
        assert waits == []
