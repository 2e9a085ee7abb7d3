"""The main job, end to end: in chat no push, not in chat a push, and every message one outcome."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway import inbox
from gateway.protocol import Role
from storage.store import Needs, Store
from tests.running import PATIENCE, PATIENT, QUICK, Gate, running


async def test_who_turns_to_the_chat_is_seen_there(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer(state="background")
        agent = await it.agent(open="c-42")
        for state in ("active", "background"):
            await customer.send("state", state=state)
            frame = await agent.take("presence")
            assert (frame["in_chat"], frame["sessions"]) == (state == "active", 1)


async def test_a_status_comes_only_when_the_read_mark_moves(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        await it.write()
        await it.write()
        for seq in (1, 1, 2):
            await customer.send("read", seq=seq)
        assert [(await customer.take("status"))["read_seq"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("kind", ["chat", "proactive", "system"])
async def test_a_conversation_is_live_for_what_people_write_until_an_agent_ends_it(
    tmp_path: Path, kind: str
) -> None:
    """What a service writes, who is no agent and cannot end it, changes nothing."""
    async with running(tmp_path, delivery=PATIENT) as it:
        customer, agent = await it.customer(), await it.agent()

        async def live() -> Any:
            await it.write(kind=kind)
            _, told = await it.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42")
            return told["live"]

        assert await live() is False
        await agent.ask("send", "sent", customer="c-42", text="hello")
        assert await live() is True
        await agent.ask("end", "ok", customer="c-42")
        assert await live() is False
        await customer.ask("send", "sent", text="one more thing")
        assert await live() is True


async def test_who_waits_for_an_answer_does_so_since_their_first_message_and_no_offer_is_one(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer, agent = await it.customer(), await it.agent()

        async def unanswered() -> list[Any]:
            page = await agent.ask("inbox", "inbox", filter="unanswered")
            return [entry["unanswered_since"] for entry in page["conversations"]]

        first = await customer.ask("send", "sent", text="where is my order?")
        await customer.ask("send", "sent", text="hello?")
        assert await unanswered() == [first["at"]]
        await it.write(kind="proactive")
        await it.write(kind="system")
        assert await unanswered() == [first["at"]]
        await agent.ask("send", "sent", customer="c-42", text="it is on its way")
        assert await unanswered() == []


async def test_a_conversation_that_an_agent_ended_waits_for_no_answer_and_is_the_latest_to_change(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        agent = await it.agent()
        for sub in ("c-1", "c-2"):
            customer = await it.customer(sub)
            await customer.ask("send", "sent", text="thank you, that is all")
        await agent.ask("end", "ok", customer="c-1")
        for filter, listed in (("all", ["c-1", "c-2"]), ("unanswered", ["c-2"])):
            page = await agent.ask("inbox", "inbox", filter=filter)
            assert [entry["customer"] for entry in page["conversations"]] == listed


async def test_the_newest_name_that_a_customer_s_token_tells_is_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write()
        agent = await it.agent()
        shown = []
        for name in ("Ada", None, "Ada Lovelace"):
            await it.customer(token=it.token(Role.CUSTOMER, "c-42", name=name))
            (entry,) = (await agent.ask("inbox", "inbox"))["conversations"]
            shown.append(entry["name"])
        assert shown == ["Ada", "Ada", "Ada Lovelace"]


async def test_a_name_that_comes_with_a_refresh_is_shown_too(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write()
        agent = await it.agent()
        customer = await it.customer(token=it.token(Role.CUSTOMER, "c-42", name="Ada"))
        await agent.ask("inbox", "inbox")
        for name in ("Ada", None, "Ada Lovelace"):
            token = it.token(Role.CUSTOMER, "c-42", name=name)
            await customer.ask("refresh", "ok", token=token)
        update = (await agent.take("inbox_update"))["conversation"]
        assert update["name"] == "Ada Lovelace", "and what it was already is no news"


async def test_in_chat_a_message_is_acked_and_the_backend_gets_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        sent = await agent.ask("send", "sent", customer="c-42", text="hello")
        assert (sent["route"], sent["reason"]) == ("socket", "in_chat")
        message = await customer.take("message")
        assert (message["seq"], message["text"]) == (1, "hello")
        await customer.send("ack", seq=1)
        receipt = await agent.take("receipt", state="delivered")
        assert (receipt["from_seq"], receipt["seq"]) == (1, 1)
        told = await it.settled(1, "acked")
        assert [event["event"] for event in told["events"]] == ["committed", "written", "acked"]
        assert it.backend.calls == []


async def test_whoever_sends_is_told_by_the_answer_alone_and_everybody_else_by_the_message(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        phone, web = await it.customer(), await it.customer()
        ann, bob = await it.agent("ann", open="c-42"), await it.agent("bob", open="c-42")
        for seq, (sender, whose) in enumerate(((ann, {"customer": "c-42"}), (phone, {})), 1):
            ref = f"r-{seq}"
            sent = await sender.ask("send", "sent", text="hello", ref=ref, **whose)
            assert sent["seq"] == seq
            for wire in (phone, web, ann, bob):
                told = [frame for frame in await wire.quiet() if frame["type"] == "message"]
                assert [frame["seq"] for frame in told] == ([] if wire is sender else [seq])
                own = sender is phone and wire is web
                assert [frame["ref"] for frame in told if "ref" in frame] == ([ref] if own else [])


async def test_agents_hear_of_what_is_read_of_theirs_and_inboxes_of_who_comes_first_and_goes_last(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        phone, agent = await it.customer(), await it.agent(open="c-42")
        await phone.ask("send", "sent", text="hello")
        await agent.ask("inbox", "inbox", filter="all")
        await agent.quiet()
        await phone.send("read", seq=1)  # their own
        web = await it.customer()
        await web.send("bye")
        assert await web.closed() == 1000
        told = [frame["type"] for frame in await agent.quiet()]
        assert [type for type in told if type != "presence"] == ["inbox_update"]  # what is read
        await phone.send("bye")
        assert (await agent.take("inbox_update"))["conversation"]["in_chat"] is False


async def test_an_ack_that_says_nothing_new_is_told_to_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        for text in ("one", "two"):
            await agent.ask("send", "sent", customer="c-42", text=text)
        for seq in (1, 1, 2, 2, 1):
            await customer.send("ack", seq=seq)
        await customer.send("read", seq=2)
        told = [await agent.take("receipt") for _ in range(3)]
        assert [(r["state"], r["from_seq"], r["seq"]) for r in told] == [
            ("delivered", 1, 1),
            ("delivered", 2, 2),
            ("read", 1, 2),
        ]


async def test_of_what_came_in_the_background_the_furthest_ack_counts(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        customer = await it.customer(state="background")
        agent = await it.agent(open="c-42")
        for text in ("one", "two"):
            await agent.ask("send", "sent", customer="c-42", text=text)
        for seq in (2, 1):
            await customer.send("ack", seq=seq)
        await customer.send("state", state="active")
        receipt = await agent.take("receipt", state="delivered")
        assert (receipt["from_seq"], receipt["seq"]) == (1, 2)


async def test_in_the_background_a_message_rings_with_unread_1(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="zero")
        await customer.take("message")
        await customer.send("read", seq=1)
        await agent.take("receipt", state="read")
        await customer.send("state", state="background")
        await agent.take("presence", in_chat=False)
        sent = await agent.ask("send", "sent", customer="c-42", text="one")
        assert (sent["route"], sent["reason"]) == ("push", "not_in_chat")
        call = await it.backend.take()
        assert call.badge == 1
        assert call.body["payload"]["aps"]["alert"]["body"] == "one"
        assert (await agent.take("receipt", state="pushed"))["seq"] == 2
        assert (await it.settled(2, "pushed"))["outcome"] == "pushed"


async def test_a_half_dead_socket_falls_through_to_push(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="anybody?")
        assert (await it.backend.take()).badge == 1
        told = await it.settled(1, "pushed")
        looks = [e for e in told["events"] if e["event"] == "look"]
        assert [(e["action"], e["reason"]) for e in looks] == [("ring", "ack_timeout")]


@pytest.mark.parametrize("state", ["active", "background"])
async def test_reading_elsewhere_clears_the_badge_with_a_silent_ring(
    tmp_path: Path, state: str
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write()
        assert (await it.backend.take()).badge == 1
        await it.settled(1, "pushed")
        web = await it.customer(state=state)
        await web.take("message")
        await web.send("read", seq=1)
        status = await web.take("status")
        assert (status["unread"], status["read_seq"]) == (0, 1)
        badge = await it.backend.take()
        assert badge.ring["kind"] == "badge"
        assert badge.body["payload"]["aps"] == {"badge": 0, "content-available": 1}


async def test_a_phone_that_was_never_rung_is_not_told_of_what_is_read(tmp_path: Path) -> None:
    """Its icon shows what the app set: no ring of ours made a number that is wrong now."""
    async with running(tmp_path) as it:
        await it.register()
        phone, web = await it.customer(installation="phone"), await it.customer()
        for seq in (1, 2):
            assert await it.write() == seq
            await web.take("message", seq=seq)
            await web.send("ack", seq=seq)
        await phone.send("read", seq=1)
        assert (await web.take("status"))["unread"] == 1
        await web.send("read", seq=2)
        assert (await phone.take("status", read_seq=2))["unread"] == 0
        for wire in (phone, web):
            await wire.send("bye")
        await it.write()
        assert (await it.backend.take()).ring["kind"] == "proactive"


async def test_a_ring_that_comes_after_its_own_phone_has_read_is_corrected(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        gate = Gate()
        it.backend.answers.append(gate)
        await it.register()
        await it.write()
        assert (await it.backend.take()).badge == 1
        phone = await it.customer(installation="phone")
        await phone.send("read", seq=1)
        await phone.take("status")
        gate.open.set()
        badge = await it.backend.take()
        assert (badge.ring["kind"], badge.badge) == ("badge", 0)


async def test_who_comes_back_gets_what_was_missed_in_order(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        agent = None
        customer = await it.customer()
        epoch = customer.welcome["epoch"]
        agent = await it.agent(open="c-42")
        for i in range(5):
            await agent.ask("send", "sent", customer="c-42", text=f"m{i}")
        await customer.take("message", seq=2)
        customer.vanish()
        await agent.take("presence", in_chat=False)
        again = await it.customer(resume={"epoch": epoch, "seq": 2})
        assert again.welcome["resumed"] is True
        frames = await again.quiet()
        assert [f["seq"] for f in frames if f["type"] == "message"] == [3, 4, 5]
        assert (await it.outcome(2))["outcome"] == "acked"
        assert (await it.outcome(3))["outcome"] == "pending"


async def test_a_replay_larger_than_the_outbound_bound_arrives_whole(tmp_path: Path) -> None:
    limits = {"outbound_bytes": 200_000, "agent_burst": 1000}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        agent = await it.agent()
        await it.write(text="first")
        for _ in range(150):
            await agent.ask("send", "sent", customer="c-42", text="x" * 8000)
        customer = await it.customer()
        seqs = [(await customer.take("message"))["seq"] for _ in range(151)]
        assert seqs == list(range(1, 152))


async def test_a_page_of_long_messages_is_cut_to_what_one_frame_may_hold(tmp_path: Path) -> None:
    limits = {"agent_burst": 1000}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        agent = await it.agent()
        await it.write(text="first")
        for _ in range(40):
            await agent.ask("send", "sent", customer="c-42", text="語" * 8000)
        customer = await it.customer()
        seen: list[int] = []
        before: dict[str, int] = {}
        more = True
        while more:
            page = await customer.ask("history", "history", limit=200, **before)
            seen = [m["seq"] for m in page["messages"]] + seen
            before, more = {"before": seen[0]}, page["more"]
            assert sum(len(m["text"].encode()) for m in page["messages"]) <= 512 * 1024
        assert seen == list(range(1, 42))


async def test_an_inbox_hears_who_comes_into_chat_and_leaves(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(text="so that there is a conversation")
        agent = await it.agent()
        await agent.ask("inbox", "inbox")
        customer = await it.customer()
        assert (await agent.take("inbox_update"))["conversation"]["in_chat"] is True
        await customer.send("state", state="background")
        assert (await agent.take("inbox_update"))["conversation"]["in_chat"] is False


async def test_an_inbox_never_goes_back_to_what_a_conversation_was_before(tmp_path: Path) -> None:
    """Who comes, leaves or turns just before the messages of the same commit is told of first."""
    async with running(tmp_path, delivery=PATIENT) as it:
        store = it.gateway.core.store
        customer, agent = await it.customer(state="background"), await it.agent()
        await agent.ask("inbox", "inbox")
        other = await it.raw("/v1/chat")
        for n, (wire, type, fields) in enumerate(
            (
                (other, "hello", {"token": it.token(Role.CUSTOMER, "c-42")}),
                (other, "bye", {}),
                (customer, "state", {"state": "active"}),
            )
        ):
            with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
                store.submit(lambda tx: tx.touch(), Needs())
                await waiting(store, 0)
                await wire.send(type, **fields)
                await waiting(store, 1)
                for i in range(2):
                    await agent.send("send", ref=f"{n}-{i}", customer="c-42", text="x")
                await waiting(store, 3)
                db.execute("ROLLBACK")
            await agent.take("sent", ref=f"{n}-1")
        updates = [f["conversation"] for f in await agent.quiet() if f["type"] == "inbox_update"]
        told = [update["seq"] for update in updates]
        assert told == sorted(told)
        assert (updates[-1]["seq"], updates[-1]["in_chat"]) == (6, True)


async def test_a_change_before_the_page_has_come_is_told_and_the_page_has_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, free = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        asked.set()
        await free.wait()

    monkeypatch.setattr(inbox, "_sleep", sleep)
    monkeypatch.setattr(inbox, "PAGES", 1 / 1_000)  # who has had one waits, however slow we are
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(text="so that there is a conversation")
        agent = await it.agent()
        await agent.ask("history", "history", customer="c-42")
        await agent.send("inbox", ref="i")
        await asyncio.wait_for(asked.wait(), PATIENCE)  # for its turn
        await it.write(text="meanwhile")
        assert (await agent.next())["conversation"]["seq"] == 2
        free.set()
        assert [e["seq"] for e in (await agent.next())["conversations"]] == [2]


async def test_a_message_of_the_very_commit_in_which_somebody_came_is_told_once(
    tmp_path: Path,
) -> None:
    """To a customer who joins and to an agent who opens: it is in what they are given first."""
    async with running(tmp_path, delivery=PATIENT) as it:
        store = it.gateway.core.store
        await it.customer()
        agent, other = await it.agent(), await it.agent("a-2")
        customer = await it.raw("/v1/chat")
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            store.submit(lambda tx: tx.touch(), Needs())
            await waiting(store, 0)
            await agent.send("send", ref="r1", customer="c-42", text="one")
            await waiting(store, 1)
            await customer.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
            await waiting(store, 2)
            await other.send("open", ref="o1", customer="c-42")
            await waiting(store, 3)
            await agent.send("send", ref="r2", customer="c-42", text="two")
            await waiting(store, 4)
            db.execute("ROLLBACK")
        assert (await customer.take("welcome"))["seq"] == 1
        for seq in (1, 2):
            assert (await customer.take("message"))["seq"] == seq
        opened = await other.take("conversation")
        assert [m["seq"] for m in opened["messages"]] == [1]
        assert (await other.take("message"))["seq"] == 2
        for wire in (customer, other):
            assert not [frame for frame in await wire.quiet() if frame["type"] == "message"]


async def test_a_resume_from_a_message_of_the_very_commit_is_told_to_reload(
    tmp_path: Path,
) -> None:
    """Nobody can have it yet: `resume.seq` is beyond the newest."""
    async with running(tmp_path, delivery=PATIENT) as it:
        store = it.gateway.core.store
        epoch = (await it.customer()).welcome["epoch"]
        agent, customer = await it.agent(), await it.raw("/v1/chat")
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            store.submit(lambda tx: tx.touch(), Needs())
            await waiting(store, 0)
            await agent.send("send", ref="r1", customer="c-42", text="one")
            await waiting(store, 1)
            token, resume = it.token(Role.CUSTOMER, "c-42"), {"epoch": epoch, "seq": 1}
            await customer.send("hello", token=token, resume=resume)
            await waiting(store, 2)
            db.execute("ROLLBACK")
        welcome = await customer.take("welcome")
        assert (welcome["seq"], welcome["resumed"]) == (1, False)
        assert await customer.quiet() == []
        await agent.take("sent")
        assert (await it.outcome(1))["outcome"] == "pending"
        new = await it.customer("c-new", resume={"epoch": epoch, "seq": 0})
        assert new.welcome["resumed"] is True


async def test_what_is_said_right_after_a_send_is_judged_after_it_in_the_very_commit_too(
    tmp_path: Path,
) -> None:
    """Whether both are in one commit is chance; what is beyond both is refused all the same."""
    async with running(tmp_path, delivery=PATIENT) as it:
        store = it.gateway.core.store
        customer, agent = await it.customer(), await it.agent()
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            store.submit(lambda tx: tx.touch(), Needs())
            await waiting(store, 0)
            for text in ("one", "two"):
                await customer.send("send", ref=text, text=text)
            await customer.send("read", seq=1)
            await customer.send("ack", ref="beyond", seq=3)
            await waiting(store, 4)
            await agent.send("read", customer="c-42", seq=2)
            await waiting(store, 5)
            db.execute("ROLLBACK")
        refused = await customer.take("error")
        assert (refused["code"], refused["ref"]) == ("bad_frame", "beyond")
        assert (await customer.take("status", read_seq=1))["seq"] == 2
        assert (await customer.take("status", agents_read_seq=2))["seq"] == 2
        assert not [f for w in (customer, agent) for f in await w.quiet() if f["type"] == "error"]


async def test_an_ack_from_the_background_does_not_count_for_the_moment_in_chat_before_it(
    tmp_path: Path,
) -> None:
    """All of it in one commit that is judged twice, for a ref in it was used before."""
    async with running(tmp_path, delivery=PATIENT) as it:
        store = it.gateway.core.store
        customer, agent = await it.customer(state="background"), await it.agent()
        await agent.ask("send", "sent", ref="r1", customer="c-42", text="one")
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            store.submit(lambda tx: tx.touch(), Needs())
            await waiting(store, 0)
            await customer.send("state", state="active")
            await customer.send("state", state="background")
            await customer.send("ack", seq=1)
            await waiting(store, 3)
            await agent.send("send", ref="r1", customer="c-42", text="one")
            await waiting(store, 4)
            db.execute("ROLLBACK")
        assert (await agent.take("sent"))["duplicate"] is True
        await it.settled(1, "undeliverable")
        await customer.send("state", state="active")
        await it.settled(1, "acked")


async def waiting(store: Store, changes: int) -> None:
    """Until the writer is at work and so many changes wait for it."""
    async with asyncio.timeout(PATIENCE):
        while store.waiting != changes:
            await asyncio.sleep(0)


async def test_who_pages_through_everything_waits_and_gets_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds))

    monkeypatch.setattr(inbox, "_sleep", sleep)
    monkeypatch.setattr(inbox, "PAGES", 1 / 1_000)
    async with running(tmp_path, delivery=PATIENT) as it:
        for i in range(3):
            await it.write(text=f"m{i}")
        customer, other = await it.customer(), await it.customer()
        seqs: list[int] = []
        for _ in range(3):
            before = {"before": seqs[0]} if seqs else {}
            page = await customer.ask("history", "history", limit=1, **before)
            seqs[:0] = [message["seq"] for message in page["messages"]]
        await other.ask("history", "history")
        assert seqs == [1, 2, 3]
        assert waits == [1_000, 2_000]  # nobody waits for another's pages
