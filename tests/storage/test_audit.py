"""A real database, damaged with plain SQL in every way that `ringback check` must notice."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.protocol import Role
from storage import audit
from storage.audit import Audit, Rule
from storage.errors import CannotOpen
from storage.loading import Known
from storage.records import Outcome
from tests.running import PATIENCE, PATIENT, QUICK, Running, running
from tests.storage.stored import draft, opened, post

TEXT = "nobody may read this in a finding"


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which every outcome occurs, one ring is in hand and one push is not yet due."""
    directory = tmp_path_factory.mktemp("day")
    asyncio.run(_live(directory))
    return directory / "ringback.db"


async def _live(directory: Path) -> None:
    slow = {"retry_first": 600.0, "retry_max": 600.0}
    unhurried = QUICK | {"ack_timeout": PATIENCE, "max_hold": PATIENCE}
    async with running(directory, delivery=unhurried, push=slow) as it:
        it.retry_late()
        await it.register("anna", "phone-1", "t-1")
        anna = await it.customer("anna")
        await anna.ask("send", "sent", text=TEXT)
        agent = await it.agent()
        await agent.send("read", customer="anna", seq=1)
        await anna.take("status", agents_read_seq=1)
        for _ in range(3):
            await it.write("anna", TEXT)
        await anna.take("message", seq=4)
        await anna.send("read", seq=2)
        await anna.send("ack", seq=3)
        await it.settled(3, "acked", "anna")
        it.pass_time(PATIENCE)
        await it.settled(4, "pushed", "anna")
        await it.write("ben", TEXT)
        await it.settled(1, "undeliverable", "ben")
        await it.backend.take()
        await _gwen(it)
        it.backend.answers += [503, 503]
        await it.register("cleo", "phone-2", "t-2")
        await it.write("cleo", TEXT, expires_at=_in(60.0))
        await it.backend.take()
        it.pass_time(60.0)
        await it.settled(1, "expired", "cleo")
        await it.write("cleo", TEXT)
        await it.call("GET", "/v1/me/status", Role.CUSTOMER, "cleo")
        await it.backend.take()
        while True:
            changed = it.next_commit()
            told = await it.outcome(2, "cleo")
            if "attempt" in [event["event"] for event in told["events"]]:
                break
            await changed.wait()
    async with running(directory, delivery=PATIENT) as it:
        await it.customer("ben")
        await it.write("ben", TEXT)
        await it.write("ben", TEXT, kind="system")
        await _campaign(it)


async def _gwen(it: Running) -> None:
    """Her tablet's token is dead; she waits for an answer, and read what was pushed: her phone's
    badge is in hand, and what comes then expires."""
    it.backend.answers.append(410)
    await it.register("gwen", "tablet", "t-4")
    await it.write("gwen", TEXT)
    await it.settled(1, "undeliverable", "gwen")
    await it.register("gwen", "phone-3", "t-3")
    it.pass_time(PATIENCE)  # in which the app could have fetched it
    await it.settled(1, "pushed", "gwen")
    for _ in range(2):
        await it.backend.take()
    gwen = await it.customer("gwen")
    await gwen.ask("send", "sent", text=TEXT)
    it.backend.answers.append(503)
    await gwen.send("read", seq=1)
    assert (await it.backend.take()).ring["kind"] == "badge"
    await gwen.send("bye")
    await gwen.closed()
    await it.write("gwen", TEXT, expires_at=_in(60.0))


async def _campaign(it: Running) -> None:
    """One that is paused: sent to one, skipped one, and one is left."""
    told = {"text": TEXT, "audience": ["dora", "eve", "fred"], "rate": 0.5, "unknown": "skip"}
    await it.write("dora", TEXT)
    _, campaign = await it.call("POST", "/v1/campaigns", Role.SERVICE, "crm", json=told)
    while campaign["sent"] + campaign["skipped"] < 2:
        path = f"/v1/campaigns/{campaign['id']}"
        _, campaign = await it.call("GET", path, Role.SERVICE, "crm")
    _, campaign = await it.call("POST", f"{path}/pause", Role.SERVICE, "crm")
    assert campaign["left"] == 1


def _in(seconds: float) -> str:
    from gateway.protocol import timestamp

    return timestamp(time.time() + seconds)


@pytest.fixture
def path(day: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(day, tmp_path / "ringback.db"))


@contextmanager
def damaging(path: Path) -> Iterator[sqlite3.Connection]:
    """The file without the constraints that would refuse the damage."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = 1")
        yield db


def found(path: Path) -> Audit:
    return audit.audit(path, time.time())


def test_all_holds_in_a_database_that_nobody_damaged(path: Path) -> None:
    told = found(path)
    assert told.findings == []
    assert told.holds
    (acme,) = told.balances
    assert acme.holds
    assert acme.counted["accepted"] == 11
    assert all(acme.counted[outcome] for outcome in Outcome)
    assert (told.conversations, told.messages) == (5, 14)


CONVERSATION = "UPDATE conversations SET {} WHERE customer = 'anna'"
DEVICE = "UPDATE devices SET {} WHERE installation = 'phone-2'"
RINGING = (
    "UPDATE ringing SET {} WHERE device = (SELECT id FROM devices WHERE installation = 'phone-2')"
)
OWES = "ring = NULL, ring_seq = 0, ring_ord = 0, attempt = 0, owes = 1"
SPAN = (
    "INSERT INTO outcomes SELECT id, {}, 'expired', 'expired' FROM conversations"
    " WHERE customer = 'anna'"
)


@pytest.mark.parametrize(
    ("damage", "rule", "said"),
    [
        ("UPDATE counters SET value = value + 1 WHERE name = 'acked'", Rule.COUNTER, "acked is 3"),
        ("DELETE FROM counters WHERE name = 'pushed'", Rule.COUNTER, "pushed is 0, but there are"),
        ("INSERT INTO counters VALUES ('ghost', 'pushed', 2)", Rule.COUNTER, "there are 0"),
        (SPAN.format("2, 1, 4, 3"), Rule.OUTCOME, "anna 4: has 2 outcomes: expired and pushed"),
        (SPAN.format("2, 1, 4, 3"), Rule.OUTCOME, "11 messages were accepted and have 12 outcomes"),
        (SPAN.format("0, 0, 3, 2"), Rule.SPAN, "anna 3: span 0 to 3, expired: all of it was ack"),
        (SPAN.format("4, 3, 9, 8"), Rule.SPAN, "anna 9: span 4 to 9, expired: points beyond"),
        ("UPDATE outcomes SET hi_ord = 7 WHERE outcome = 'pushed'", Rule.SPAN, "is 7, counted 3"),
        ("UPDATE outcomes SET lo_ord = 0 WHERE outcome = 'pushed'", Rule.SPAN, "is 0, counted 2"),
        (
            "UPDATE outcomes SET reason = NULL WHERE outcome = 'undeliverable'",
            Rule.SPAN,
            "ben 1: span 0 to 1, undeliverable: for no reason",
        ),
        ("DELETE FROM messages WHERE seq = 3", Rule.SEQ, "anna 4: seq has a gap: after 2 comes 4"),
        ("UPDATE messages SET ord = 9 WHERE seq = 3", Rule.RANK, "anna 3: ranks ord 9 and said 1"),
        ("UPDATE messages SET said = 0 WHERE seq = 3", Rule.RANK, "ranks ord 2 and said 0"),
        (CONVERSATION.format("acked_ord = 1"), Rule.CURSOR, "anna 3: acked_ord is 1, counted 2"),
        (CONVERSATION.format("read_ord = 2"), Rule.CURSOR, "anna 2: read_ord is 2, counted 1"),
        (CONVERSATION.format("read_ord = 2"), Rule.UNREAD, "unread would be told as 1, counted 2"),
        (CONVERSATION.format("read_seq = 3"), Rule.UNREAD, "unread would be told as 2, counted 1"),
        (CONVERSATION.format("last_said = 3"), Rule.UNREAD, "waiting would be told as 2"),
        (CONVERSATION.format("agent_acked_seq = 0"), Rule.CURSOR, "read up to 1, received up to 0"),
        (
            CONVERSATION.format("agent_acked_seq = NULL"),
            Rule.CURSOR,
            "cursor None is at no message",
        ),
        (CONVERSATION.format("agent_acked_said = 0"), Rule.CURSOR, "is 0, counted 1"),
        (CONVERSATION.format("agent_acked_seq = 5"), Rule.CURSOR, "its cursor 5 is at no message"),
        (CONVERSATION.format("last_seq = 3"), Rule.CURSOR, "last_seq is 3, the newest message 4"),
        (CONVERSATION.format("acked_seq = 8"), Rule.CURSOR, "its cursor 8 is at no message"),
        (CONVERSATION.format("newest_counted_seq = 2"), Rule.CURSOR, "is 2, counted 4"),
        (
            "UPDATE conversations SET push_due_at = NULL WHERE customer = 'ben'",
            Rule.FORGOTTEN,
            "ben 2: is pending, and nobody will look at it",
        ),
        (
            "UPDATE conversations SET expires_at = NULL WHERE customer = 'ben'",
            Rule.FORGOTTEN,
            "ben 2: is pending and would never expire",
        ),
        (
            "UPDATE conversations SET expires_at = 1e12 WHERE customer = 'ben'",
            Rule.FORGOTTEN,
            "ben 2: is pending and would expire too late",
        ),
        (
            "UPDATE ringing SET ring = NULL, ring_seq = 0, ring_ord = 0, attempt = 0, owes = 0",
            Rule.FORGOTTEN,
            "cleo 2: is pending, and nobody will look at it",
        ),
        (DEVICE.format("state = 'dead'"), Rule.FORGOTTEN, "cleo 2: is pending, and nobody"),
        (DEVICE.format("state = 'dead'"), Rule.DEVICE, "is dead, but still owes a ring"),
        (DEVICE.format("state = 'lively'"), Rule.DEVICE, "has a state that there is not"),
        (RINGING.format("wake_at = NULL"), Rule.DEVICE, "would never be looked at"),
        (RINGING.format("ring = '{\"id\": 7}'"), Rule.DEVICE, "its ring in hand does not decode"),
        (RINGING.format("ring = x'ff'"), Rule.DEVICE, "its ring in hand does not decode"),
        (
            RINGING.format("ring = replace(ring, '\"cleo\"', '\"anna\"')"),
            Rule.DEVICE,
            "its ring in hand is for another customer",
        ),
        (RINGING.format("ring_seq = 1, covered_seq = 2"), Rule.DEVICE, "runs backwards: from 2 to"),
        (RINGING.format("covered_ord = 2"), Rule.DEVICE, "covered_seq 0 has covered_ord 2"),
        (RINGING.format("ring_ord = 1"), Rule.DEVICE, "ring_seq 2 has ring_ord 1, counted 2"),
        (RINGING.format("owed_ord = 9"), Rule.DEVICE, "owed_ord 9 lies beyond"),
        (RINGING.format("attempt = 0"), Rule.DEVICE, "was never called"),
        (
            "; ".join((DEVICE.format("state = 'dead'"), RINGING.format(OWES))),
            Rule.DEVICE,
            "is dead, but still owes a ring",
        ),
        ("DELETE FROM ringing WHERE ring IS NOT NULL", Rule.DEVICE, "has no row in ringing"),
        (RINGING.format(f"wake_at = NULL, {OWES}"), Rule.DEVICE, "would never be looked at"),
        (
            RINGING.format("ring = NULL, ring_ord = 0, attempt = 0"),
            Rule.DEVICE,
            "has no ring in hand, but covers something",
        ),
        (
            RINGING.format("ring = NULL, ring_seq = 0, attempt = 0"),
            Rule.DEVICE,
            "has no ring in hand, but covers something",
        ),
        (
            RINGING.format("ring = NULL, ring_seq = 0, ring_ord = 0"),
            Rule.DEVICE,
            "has no ring in hand, but covers something",
        ),
        (DEVICE.format("tenant = 'other'"), Rule.DEVICE, "belongs to the tenant other"),
        (
            "UPDATE devices SET conversation = 99 WHERE installation = 'phone-2'",
            Rule.FOREIGN_KEY,
            "a row of devices has no row in conversations",
        ),
        (
            "UPDATE events SET conversation = 99 WHERE id = 1",
            Rule.FOREIGN_KEY,
            "events of a conversation that is not there: 99",
        ),
        (
            "UPDATE events SET prev = 0 WHERE id = (SELECT max(id) FROM events WHERE prev > 0)",
            Rule.EVENT,
            "does not name the one before it",
        ),
        (
            "UPDATE conversations SET last_event = 0 WHERE customer = 'anna'",
            Rule.EVENT,
            "does not name its last event",
        ),
        (
            "UPDATE campaigns SET total = 4",
            Rule.CAMPAIGN,
            "its recipients are 4, counted 3",
        ),
        ("UPDATE campaigns SET sent = 2", Rule.CAMPAIGN, "says that 2 were sent, counted 1"),
        ("UPDATE campaigns SET skipped = 0", Rule.CAMPAIGN, "that 0 were skipped, counted 1"),
        ("UPDATE campaigns SET cursor = 1", Rule.CAMPAIGN, "recipient 2 is beyond its cursor 1"),
        ("UPDATE campaigns SET cursor = 3", Rule.CAMPAIGN, "recipient 3 is beyond its cursor 3"),
        (
            "UPDATE messages SET ref = 'another' WHERE ref LIKE 'cp_%'",
            Rule.CAMPAIGN,
            "recipient 1 has no message 2",
        ),
        (
            "UPDATE campaign_recipients SET seq = 1 WHERE n = 1",
            Rule.CAMPAIGN,
            "recipient 1 has no message 1",
        ),
        ("UPDATE campaigns SET sent = 2", Rule.CAMPAIGN, "has 1 messages, and recorded 2"),
    ],
)
def test_damage_is_found_and_named(path: Path, damage: str, rule: Rule, said: str) -> None:
    with damaging(path) as db:
        for each in damage.split("; "):
            assert db.execute(each).rowcount >= 1
    told = found(path)
    assert not told.holds
    lines = [(f.rule, f"{f.customer} {f.seq}: {f.problem}") for f in told.findings]
    assert [line for line in lines if line[0] is rule and said in line[1]], lines
    placed = [f for f in told.findings if f.rule not in (Rule.INTEGRITY, Rule.FOREIGN_KEY)]
    of_tenants = (Rule.COUNTER, Rule.OUTCOME, Rule.CAMPAIGN)
    assert all(f.tenant and (f.customer or f.rule in of_tenants) for f in placed)
    of_messages = (Rule.SEQ, Rule.RANK, Rule.CURSOR, Rule.SPAN, Rule.FORGOTTEN)
    nowhere = [f for f in placed if f.rule in of_messages and f.seq is None]
    assert all("cursor None" in f.problem for f in nowhere)
    assert all(f.device is not None for f in placed if f.rule is Rule.DEVICE)


def test_an_index_that_lost_a_row_is_found(path: Path) -> None:
    with damaging(path) as db:
        db.execute("PRAGMA writable_schema = 1")
        db.execute(
            "UPDATE sqlite_schema SET sql = 'CREATE INDEX devices_conversation ON devices (id)'"
            " WHERE name = 'devices_conversation'"
        )
    told = found(path)
    assert [f for f in told.findings if f.rule is Rule.INTEGRITY and "index" in f.problem]


def test_a_file_with_torn_pages_is_reported_and_not_a_crash(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    told = found(path)
    assert {f.rule for f in told.findings} >= {Rule.INTEGRITY}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE messages SET seq = 'x' WHERE rowid = 3",
        CONVERSATION.format("last_said = x'ff'"),
        RINGING.format("covered_seq = 'x'"),
    ],
)
def test_a_value_of_another_type_is_reported_and_the_others_are_recounted(
    path: Path, damage: str
) -> None:
    """SQLite stores it, and its own check does not mind."""
    with damaging(path) as db:
        assert db.execute(damage).rowcount == 1
    told = found(path)
    (mistyped,) = [f for f in told.findings if f.problem == audit.MISTYPED]
    assert (mistyped.rule, mistyped.tenant) == (Rule.INTEGRITY, "acme")
    assert told.conversations == 5
    assert "dora" not in {f.customer for f in told.findings}


def test_a_tenant_whose_name_is_no_text_is_reported_and_not_a_crash(path: Path) -> None:
    with damaging(path) as db:
        assert db.execute("UPDATE counters SET tenant = x'ff' WHERE name = 'acked'").rowcount == 1
    assert [f.problem for f in found(path).findings if f.rule is Rule.COUNTER] == [
        "the counter acked is 0, but there are 2",
        "the counter acked is 2, but there are 0",
    ]


def test_an_outcome_that_is_none_is_found(path: Path) -> None:
    with damaging(path) as db:
        db.execute("UPDATE outcomes SET outcome = 'eaten' WHERE outcome = 'pushed'")
    told = found(path)
    assert not told.holds
    assert not told.balances[0].conserved


def test_a_balance_holds_if_it_is_conserved_and_the_counters_say_the_same(path: Path) -> None:
    with damaging(path) as db:
        db.execute("UPDATE counters SET value = value + 1 WHERE name = 'acked'")
    (balance,) = found(path).balances
    assert (balance.conserved, balance.holds) == (True, False)
    with damaging(path) as db:
        db.execute("UPDATE counters SET value = value - 1 WHERE name = 'acked'")
        db.execute("UPDATE counters SET name = 'eaten' WHERE name = 'pushed'")
        db.execute("UPDATE outcomes SET outcome = 'eaten' WHERE outcome = 'pushed'")
    (balance,) = found(path).balances
    assert balance.counted == balance.stored
    assert (balance.conserved, balance.holds) == (False, False)


def test_a_pending_message_that_has_expired_is_not_forgotten_while_the_gateway_is_down(
    path: Path,
) -> None:
    with damaging(path) as db:
        db.execute("UPDATE conversations SET push_due_at = NULL WHERE customer = 'ben'")
    later = time.time() + 2 * 86_400.0
    rules = {f.rule for f in audit.audit(path, later).findings}
    assert Rule.FORGOTTEN not in rules


def test_what_a_device_owes_and_has_not_in_hand_yet_is_not_forgotten(path: Path) -> None:
    with damaging(path) as db:
        db.execute(RINGING.format(OWES))
    assert found(path).findings == []


async def test_the_first_message_that_nobody_looks_at_is_named_whether_it_expires_or_not(
    tmp_path: Path,
) -> None:
    path, later = tmp_path / "ringback.db", time.time() + 1_000.0
    async with opened(path) as (store, _):
        for text, expires_at in (("a", None), ("b", later), ("c", None)):
            await post(store, draft(text, expires_at=expires_at))
    with damaging(path) as db:
        db.execute("UPDATE conversations SET push_due_at = NULL")
    assert [f.seq for f in found(path).findings if "nobody will look" in f.problem] == [1]


@pytest.mark.parametrize("late", [False, True])
async def test_of_several_that_expire_the_earliest_says_when_somebody_has_to_look(
    tmp_path: Path, late: bool
) -> None:
    path, now = tmp_path / "ringback.db", time.time()
    async with opened(path) as (store, _):
        for seconds in (2_000.0, 1_000.0, 3_000.0):
            await post(store, draft(expires_at=now + seconds))
    if late:
        with damaging(path) as db:
            db.execute("UPDATE conversations SET expires_at = ?", (now + 1_500.0,))
    too_late = [f.seq for f in found(path).findings if "would expire too late" in f.problem]
    assert too_late == ([2] if late else [])


@pytest.mark.parametrize(("many", "told"), [(2, [1]), (3, [])])
async def test_of_more_than_is_kept_in_mind_it_may_not_be_known_which_expires_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, told: list[int]
) -> None:
    monkeypatch.setattr(Known, "UNACKED", 2)
    path, later = tmp_path / "ringback.db", time.time() + 1_000.0
    async with opened(path) as (store, _):
        for n in range(many):
            await post(store, draft(str(n), expires_at=later + n))
    with damaging(path) as db:
        db.execute("UPDATE conversations SET expires_at = ?", (later + many,))
    assert [f.seq for f in found(path).findings if "too late" in f.problem] == told


def test_findings_beyond_the_bound_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with damaging(path) as db:
        db.execute("UPDATE messages SET ord = ord + 7")
    all_of_them = len(found(path).findings)
    monkeypatch.setattr(audit, "KEPT", 2)
    told = found(path)
    assert len(told.findings) == 2
    assert told.more == all_of_them - 2
    assert not told.holds


def test_no_text_and_no_token_is_in_a_finding(path: Path) -> None:
    with damaging(path) as db:
        db.execute("UPDATE devices SET tenant = 'x'")
        db.execute("UPDATE ringing SET ring = substr(ring, 1, 100), covered_ord = 9")
        db.execute("UPDATE messages SET ord = 9, said = 9")
    told = repr(found(path))
    assert "does not decode" in told
    assert TEXT not in told
    assert "t-2" not in told


def test_what_is_committed_while_the_recount_runs_does_not_disturb_it(path: Path) -> None:
    """One view: half of a change would break every law."""
    from storage.database import snapshot

    with snapshot(path) as db:
        before = db.execute("SELECT count(*) FROM messages").fetchone()
        with damaging(path) as other:
            other.execute("DELETE FROM messages WHERE seq = 1")
        assert db.execute("SELECT count(*) FROM messages").fetchone() == before


@pytest.mark.parametrize("what", ["nothing", "text", "another", "newer"])
def test_what_is_not_our_database_cannot_be_audited(path: Path, what: str) -> None:
    if what == "nothing":
        path.unlink()
    elif what == "text":
        path.write_text("this is no database, whatever it is named; " * 100)
    else:
        with damaging(path) as db:
            pragma = "application_id" if what == "another" else "user_version"
            db.execute(f"PRAGMA {pragma} = 77")
    with pytest.raises(CannotOpen):
        found(path)
