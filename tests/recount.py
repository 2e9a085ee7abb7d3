"""Counting everything again from the rows, as somebody would who trusts no cursor and no counter.

Plain SQL and plain Python over a database file; nothing of the project's own code is used, so that
a mistake there cannot excuse itself here.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Told(NamedTuple):
    """One counted message: whose it is, what it says, and the one outcome that it has."""

    tenant: str
    customer: str
    seq: int
    id: str
    text: str
    outcome: str


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of the file, whether a gateway is running or not."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("BEGIN")
        yield db
    finally:
        db.close()


def check(path: Path) -> list[Told]:
    """Raise `AssertionError` with what is broken; else every counted message, as it stands."""
    with reading(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        told = []
        for (id,) in db.execute("SELECT id FROM conversations").fetchall():
            told += conversation(db, id)
        counters(db, told)
        check_devices(db)
        return told


def counters(db: sqlite3.Connection, told: list[Told]) -> None:
    """The conservation law (I2): every tenant's stored counters are what is there to count."""
    tally: Counter[tuple[str, str]] = Counter()
    for message in told:
        tally[message.tenant, "accepted"] += 1
        tally[message.tenant, message.outcome] += 1
    rows = db.execute("SELECT tenant, name, value FROM counters").fetchall()
    stored = {(tenant, name): value for tenant, name, value in rows if value}
    assert stored == dict(tally), f"counters {stored} are not what is there: {dict(tally)} (I2)"


def check_devices(db: sqlite3.Connection) -> None:
    """A token and an installation belong to one customer (I6)."""
    for name in ("token", "installation"):
        twice = db.execute(
            f"SELECT tenant, count(*) FROM devices GROUP BY tenant, {name} HAVING count(*) > 1"
        ).fetchall()
        assert not twice, f"a {name} belongs to two (I6)"


def conversation(db: sqlite3.Connection, id: int) -> list[Told]:
    """Recount one conversation: its places, ranks, unread, outcomes; and that nothing is forgotten.

    A pending message must have somebody who will look at it: a due time, or a device that owes.
    """
    row = db.execute(
        "SELECT tenant, customer, acked_seq, read_seq, last_seq, acked_ord, read_ord, last_ord,"
        " last_said, agent_acked_seq, agent_acked_said, agent_read_seq, agent_read_said,"
        " push_due_at FROM conversations WHERE id = ?",
        (id,),
    ).fetchone()
    tenant, customer, acked, read, last, acked_ord, read_ord, last_ord, said, *rest = row
    agent_acked, agent_acked_said, agent_read, agent_read_said, due = rest
    name = f"{tenant}/{customer}"
    messages = db.execute(
        "SELECT seq, ord, said, role, kind, id, text FROM messages"
        " WHERE conversation = ? ORDER BY seq",
        (id,),
    ).fetchall()
    spans = db.execute(
        "SELECT lo_seq, hi_seq, outcome FROM outcomes WHERE conversation = ?", (id,)
    ).fetchall()
    assert [m[0] for m in messages] == list(range(1, last + 1)), f"{name}: seq has a gap (I4)"
    told: list[Told] = []
    ords, words = {0: 0}, {0: 0}
    for seq, ord, spoken, role, kind, message_id, text in messages:
        counted = role != "customer" and kind != "system"
        ords[seq] = ords[seq - 1] + counted
        words[seq] = words[seq - 1] + (role == "customer")
        assert (ord, spoken) == (ords[seq], words[seq]), f"{name}: ranks of {seq}"
        if counted:
            found = [outcome for lo, hi, outcome in spans if lo < seq <= hi]
            assert len(found) <= 1, f"{name}: message {seq} has two outcomes"
            outcome = found[0] if found else "acked" if seq <= acked else "pending"
            told.append(Told(tenant, customer, seq, message_id, text, outcome))
    assert (acked_ord, read_ord, last_ord) == (ords[acked], ords[read], ords[last]), f"{name}: ords"
    assert last_ord - read_ord == sum(m.seq > read for m in told), f"{name}: unread (I5)"
    assert (said, agent_read_said) == (words[last], words[agent_read]), f"{name}: said"
    assert agent_acked_said == words[agent_acked], f"{name}: said, up to what agents received"
    assert agent_read <= agent_acked <= last, f"{name}: the agents' marks"
    if any(m.outcome == "pending" for m in told):
        (owing,) = db.execute(
            "SELECT count(*) FROM devices JOIN ringing ON device = id"
            " WHERE conversation = ? AND state = 'live'"
            " AND wake_at IS NOT NULL AND (owes OR ring IS NOT NULL)",
            (id,),
        ).fetchone()
        assert due is not None or owing, f"{name}: a pending message that nobody will look at"
    return told


class Claimed(NamedTuple):
    """A claim, in the order of commits: which messages it covers, and how far acks had come."""

    customer: str
    ring: str
    kind: str
    from_seq: int
    seq: int
    acked_before: int


def claims(db: sqlite3.Connection) -> list[Claimed]:
    """Every claim that was committed, beside the furthest ack or read committed before it."""
    found: list[Claimed] = []
    acked: dict[str, int] = {}
    for customer, event, from_seq, seq, detail in db.execute(
        "SELECT c.tenant || '/' || c.customer, e.event, e.from_seq, e.seq, e.detail"
        " FROM events e JOIN conversations c ON c.id = e.conversation ORDER BY e.id"
    ):
        if event in ("acked", "read"):
            acked[customer] = max(acked.get(customer, 0), seq)
        elif event == "claimed":
            about: dict[str, Any] = json.loads(detail)
            before = acked.get(customer, 0)
            found.append(Claimed(customer, about["ring"], about["kind"], from_seq, seq, before))
    return found
