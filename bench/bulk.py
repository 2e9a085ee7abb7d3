"""Databases that are large from the start, written by SQL past the gateway. For measuring only.

What is written is what a gateway would have left: cursors, ranks, events and counters agree, which
`storage.audit` confirms for each that is made.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage import audit
from storage.schema import MIGRATIONS

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Group:
    """Customers `<prefix>00000`, …, each with so many messages by an agent.

    All are acked and, but for the newest `unread`, read; or, if `pending`, none is, a push is due
    for all, and the customer has a device.
    """

    prefix: str
    customers: int
    messages: int
    unread: int = 0
    pending: bool = False
    tenant: str = "acme"

    def names(self, count: int | None = None) -> list[str]:
        return [f"{self.prefix}{i:05}" for i in range(self.customers if count is None else count)]


def write(directory: Path, *groups: Group) -> None:
    """Make the database that `servers.gateway` opens in `directory`."""
    path = directory / "bench.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        for number, statements in enumerate(MIGRATIONS, 1):
            for sql in statements:
                db.execute(sql)
            db.execute(f"PRAGMA user_version = {number}")
        first = 1
        for group in groups:
            _write(db, group, first)
            first += group.customers
        db.execute("COMMIT")
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)  # now, rather than while something is measured
    os.close(descriptor)
    told = audit.audit(path, time.time())
    if not told.holds:
        raise RuntimeError(f"the database written for measuring is not consistent: {told.findings}")


_CONVERSATIONS = """
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    INSERT INTO conversations
        (id, tenant, customer, live, last_seq, last_ord, last_said, acked_seq,
         acked_ord, read_seq, read_ord, agent_acked_seq, agent_read_seq, agent_read_said, badge_seq,
         newest_counted_seq, push_due_at, expires_at, updated_at)
    SELECT :first + i - 1, :tenant, printf('%s%05d', :prefix, i - 1), :messages > 0,
        :messages, :messages, 0, :acked, :acked, :read, :read, 0, 0, 0, :messages, :messages,
        :due, :expires, :now
    FROM n
"""
_DEVICES = """
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    INSERT INTO devices
        (tenant, conversation, installation, token, generation, registered_at, platform, state)
    SELECT :tenant, :first + i - 1, printf('phone-%s%05d', :prefix, i - 1),
        printf('token-%s%05d', :prefix, i - 1), 1, :now, 'ios', 'live'
    FROM n
"""
_RINGING = """
    INSERT INTO ringing
        (device, covered_seq, covered_ord, owes, owed_ord, ring_seq, ring_ord, attempt)
    SELECT id, 0, 0, 0, 0, 0, 0, 0 FROM devices WHERE conversation BETWEEN :first AND :last
"""
_MESSAGES = """
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :messages)
    INSERT INTO messages
        (conversation, seq, ord, said, id, role, author, kind, text, at, expires_at, ref, route,
         reason, due_at)
    SELECT c.id, n.i, n.i, 0, printf('m_%x_%x', c.id, n.i), 'agent', 'a-bulk', 'chat', :text, :now,
        :expires, printf('r-%d', n.i), :route, :reason, :due
    FROM n CROSS JOIN conversations c WHERE c.id BETWEEN :first AND :last
"""
_ACKED = """
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :messages)
    INSERT INTO events (id, prev, conversation, from_seq, seq, at, event, detail)
    SELECT :events + (c.id - :first) * :messages + n.i,
        iif(n.i = 1, 0, :events + (c.id - :first) * :messages + n.i - 1),
        c.id, n.i, n.i, :now, 'acked', '{"session":"s_bulk"}'
    FROM conversations c CROSS JOIN n WHERE c.id BETWEEN :first AND :last
"""
_LAST_EVENTS = """
    UPDATE conversations SET last_event = :events + (id - :first + 1) * :messages
    WHERE id BETWEEN :first AND :last
"""
_COUNTER = """
    INSERT INTO counters (tenant, name, value) VALUES (:tenant, :name, :value)
    ON CONFLICT (tenant, name) DO UPDATE SET value = value + excluded.value
"""


def _write(db: sqlite3.Connection, group: Group, first: int) -> None:
    now = time.time()
    acked = 0 if group.pending else group.messages
    ((events,),) = db.execute("SELECT coalesce(max(id), 0) FROM events")
    given = {
        "tenant": group.tenant,
        "prefix": group.prefix,
        "count": group.customers,
        "first": first,
        "last": first + group.customers - 1,
        "messages": group.messages,
        "acked": acked,
        "read": max(0, acked - group.unread),
        "now": now,
        "events": events,
        "due": now if group.pending else None,
        "expires": now + DAY if group.pending else None,
        "text": "x" * 100,
        "route": "push" if group.pending else "socket",
        "reason": "not_in_chat" if group.pending else "in_chat",
    }
    db.execute(_CONVERSATIONS, given)
    if group.pending:
        db.execute(_DEVICES, given)
        db.execute(_RINGING, given)
    if group.messages:
        db.execute(_MESSAGES, given)
        if not group.pending:
            db.execute(_ACKED, given)
            db.execute(_LAST_EVENTS, given)
    state = "pending" if group.pending else "acked"
    for name in ("accepted", state):
        value = group.customers * group.messages
        db.execute(_COUNTER, {"tenant": group.tenant, "name": name, "value": value})
