"""All SQL, set-based: one statement takes many rows.

The cost of a call is the hop to the database's thread, not the row, so a batch is a few statements
whatever its size. What is asked goes in as one JSON array through `json_each`; what is written, as
bound values, of which SQLite takes a row in a third of the time that `json_extract` needs (`docs/
performance.md`). Reading functions map rows to records; writing functions return statements.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import orjson

from storage.records import (
    BEGINNING,
    Answered,
    Conversation,
    Cut,
    Device,
    DeviceState,
    Event,
    Key,
    Message,
    Outcome,
    RingInHand,
    Span,
    Wishes,
    named,
)
from storage.schema import COUNTED
from storage.vault import Sealed, Unreadable, Vault

astuple, replace = msgspec.structs.astuple, msgspec.structs.replace

Statement = tuple[str, Sequence[Any]]
"""One SQL statement and its parameters."""

# The columns, in the order of the records' fields: a field that is a record has several.
MESSAGE = tuple(Message.__struct_fields__)
_NESTED = {
    "covered": ("covered_seq", "covered_ord"),
    "ring": ("ring", "ring_seq", "ring_ord", "attempt"),
    "answered": ("verdict", "verdict_at"),
    "sealed": ("sealed", "sealed_by"),
}
_RUNG = Device.__struct_fields__.index("covered")  # from there on it is `ringing`'s row


def _flat(fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(chain.from_iterable(_NESTED.get(name, (name,)) for name in fields))


DEVICE = _flat(Device.__struct_fields__[:_RUNG])
RINGING = _flat(Device.__struct_fields__[_RUNG:])
WISHES = tuple(Wishes.__struct_fields__)
_OWN = Conversation.__struct_fields__.index("settled")  # from there on it is other tables' rows
CONVERSATION = ("id", *Key._fields, *Conversation.__struct_fields__[2:_OWN])


def _columns(names: Iterable[str], table: str = "") -> str:
    return ", ".join(f"{table}{name}" for name in names)


class Into(NamedTuple):
    """A table and its columns, as what rows are written into. `upsert` is what else may happen."""

    table: str
    columns: Sequence[str]
    upsert: str = ""

    def statement(self, size: int) -> str:
        """Writes so many rows."""
        row = f"({', '.join('?' * len(self.columns))})"
        values = ", ".join([row] * size)
        return f"INSERT INTO {self.table} ({_columns(self.columns)}) VALUES {values} {self.upsert}"  # noqa: S608


def _upsert(table: str, columns: Sequence[str], key: str, fixed: Sequence[str] = ()) -> Into:
    changes = ", ".join(f"{n} = excluded.{n}" for n in columns if n != key and n not in fixed)
    return Into(table, columns, f"ON CONFLICT ({key}) DO UPDATE SET {changes}")


def rows(values: Iterable[Any]) -> tuple[str]:
    """The one parameter of a set-based statement."""
    return (orjson.dumps(list(values), default=tuple).decode(),)


def by_tenant(keys: Iterable[Key]) -> tuple[str]:
    """The same of customers: they are listed by tenant."""
    customers: dict[str, list[str]] = {}
    for tenant, customer in keys:
        customers.setdefault(tenant, []).append(customer)
    return (orjson.dumps(customers).decode(),)


def by_conversation(*values: dict[int, int]) -> tuple[str]:
    """The same of one number for each conversation, by its id, as often as something is asked."""
    return (orjson.dumps(values, option=orjson.OPT_NON_STR_KEYS).decode(),)


# Writing. Order matters: parents before children, deletions before insertions.

_CONVERSATION_COLUMNS = (*CONVERSATION, "newest_counted_seq")
_DEVICE_COLUMNS = (*DEVICE, "tenant", "conversation")
_RINGING_COLUMNS = ("device", *RINGING)
_EVENT_COLUMNS = ("id", "prev", *Event.__struct_fields__)
_SPAN_COLUMNS = ("conversation", *Span.__struct_fields__)

CONVERSATIONS = _upsert("conversations", _CONVERSATION_COLUMNS, "id", ("tenant", "customer"))
MESSAGES = Into("messages", MESSAGE)
EVENTS = Into("events", _EVENT_COLUMNS)
# What an index holds is not set again: SQLite would write the index though nothing in it changes.
# A registration whose token or installation changes is deleted first (`Transaction._beside`).
DEVICES = _upsert(
    "devices",
    _DEVICE_COLUMNS,
    "id",
    ("tenant", "conversation", "installation", "token", "sealed", "sealed_by"),
)
ALL_RINGING = _upsert("ringing", _RINGING_COLUMNS, "device")
_SPAN_KEY = ("conversation", "lo_seq")
SPANS = _upsert("outcomes", _SPAN_COLUMNS, ", ".join(_SPAN_KEY), _SPAN_KEY)
ALL_WISHES = _upsert("wishes", ("conversation", *WISHES), "conversation")
COUNTERS = Into(
    "counters",
    ("tenant", "name", "value"),
    "ON CONFLICT (tenant, name) DO UPDATE SET value = value + excluded.value",
)
DELETE_DEVICES = "DELETE FROM devices WHERE id IN (SELECT value FROM json_each(?))"
DELETE_SPANS = """
    DELETE FROM outcomes WHERE (conversation, lo_seq) IN (
        SELECT json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]') FROM json_each(?) j)
"""


NULL = math.nan
"""As a value of a row: SQLite stores it as NULL, and Python's `sqlite3` binds it as it is. For None
it looks for an adapter first: a thousand instructions."""


def conversation_row(c: Conversation) -> tuple[Any, ...]:
    tenant, customer = c.key
    newest = c.newest_counted
    return (
        c.id, tenant, customer,
        NULL if c.name is None else c.name,
        1 if c.live else 0,
        NULL if c.unanswered_since is None else c.unanswered_since,
        c.last_seq, c.last_ord, c.last_said, c.acked_seq, c.acked_ord, c.read_seq, c.read_ord,
        c.agent_acked_seq, c.agent_acked_said, c.agent_read_seq, c.agent_read_said, c.badge_seq,
        NULL if c.push_due_at is None else c.push_due_at,
        NULL if c.hold_from is None else c.hold_from,
        NULL if c.expires_at is None else c.expires_at,
        c.updated_at, c.last_event,
        0 if newest is None else newest.seq,
    )  # fmt: skip


def message_row(m: Message) -> tuple[Any, ...]:
    return (
        m.conversation, m.seq, m.ord, m.said, m.at, m.id, m.role, m.author,
        NULL if m.name is None else m.name,
        m.kind, m.text,
        NULL if m.data is None else m.data,
        NULL if m.title is None else m.title,
        NULL if m.expires_at is None else m.expires_at,
        NULL if m.ref is None else m.ref,
        NULL if m.route is None else m.route,
        NULL if m.reason is None else m.reason,
        NULL if m.sessions is None else m.sessions,
        NULL if m.due_at is None else m.due_at,
    )  # fmt: skip


def registration(d: Device) -> tuple[Any, ...]:
    """What of `d` is in its row of `devices`."""
    return astuple(d)[:_RUNG]


def device_row(c: Conversation, d: Device) -> tuple[Any, ...]:
    found_by, text, by = d.sealed or (d.token, None, None)
    return (
        d.id, d.installation, found_by, d.generation, d.registered_at, d.platform, d.app,
        d.environment, d.locale, d.time_zone, str(d.state), d.state_at, text, by, c.key.tenant,
        c.id,
    )  # fmt: skip


def ringing_row(d: Device) -> tuple[Any, ...]:
    claim, upto, attempt = (NULL, BEGINNING, 0) if d.ring is None else astuple(d.ring)
    verdict, verdict_at = (NULL, NULL) if d.answered is None else astuple(d.answered)
    return (
        d.id, d.covered.seq, d.covered.ord,
        NULL if d.badge is None else d.badge,
        1 if d.owes else 0, d.owed_ord,
        NULL if d.wake_at is None else d.wake_at,
        NULL if d.quiet_end is None else d.quiet_end,
        claim, upto.seq, upto.ord, attempt, verdict, verdict_at,
        NULL if d.unrung is None else d.unrung,
    )  # fmt: skip


def wishes_row(conversation: int, w: Wishes) -> tuple[Any, ...]:
    return (conversation, w.muted_until, int(w.proactive), w.time_zone, w.quiet_hours)


def span_row(conversation: int, s: Span) -> tuple[Any, ...]:
    reason = NULL if s.reason is None else s.reason
    return (conversation, s.lo_seq, s.lo_ord, s.hi_seq, s.hi_ord, str(s.outcome), reason)


def written(into: Into, given: Sequence[Sequence[Any]]) -> list[Statement]:
    """The statements that write the rows `given`.

    Each takes as many as the four leading binary digits of their number say: so they are few, and
    of few sizes, of which SQLite finds nearly every one prepared.
    """
    statements: list[Statement] = []
    while given:
        size = len(given)
        others = size.bit_length() - 4
        if others > 0:
            size = min(size >> others << others, LARGEST)
        part, given = given[:size], given[size:]
        values: list[Any] = []
        for row in part:
            values += row
        statements.append((_statement(into.table, size), values))
    return statements


def deletion(sql: str, values: Collection[Any]) -> list[Statement]:
    """`sql` over `values`, or nothing to do."""
    return [(sql, rows(values))] if values else []


LARGEST = 1024  # rows in one statement; SQLite takes 32,766 parameters
PREPARED = 256  # statements that a connection keeps: some forty of each table have up to 128 rows
TABLES = {
    t.table: t
    for t in (CONVERSATIONS, MESSAGES, EVENTS, DEVICES, ALL_RINGING, SPANS, ALL_WISHES, COUNTERS)
}


@cache
def _statement(table: str, size: int) -> str:
    return TABLES[table].statement(size)


# Reading for the writer: what a batch of changes needs to know.

LOAD_BY_KEY = f"""
    SELECT {_columns(CONVERSATION, "c.")}, {_columns(WISHES, "w.")}, c.newest_counted_seq
    FROM json_each(?) t CROSS JOIN json_each(t.value) j
    CROSS JOIN conversations c ON c.tenant = t.key AND c.customer = j.value
    LEFT JOIN wishes w ON w.conversation = c.id
"""  # noqa: S608
LOAD_DEVICES = f"""
    SELECT d.conversation, {_columns(DEVICE, "d.")}, {_columns(RINGING, "r.")} FROM json_each(?) j
    CROSS JOIN devices d ON d.conversation = j.value CROSS JOIN ringing r ON r.device = d.id
"""  # noqa: S608
LOAD_SPANS = f"""
    SELECT {_columns(_SPAN_COLUMNS, "o.")} FROM json_each(?) a CROSS JOIN json_each(a.value) j
    CROSS JOIN outcomes o ON o.conversation = j.key AND o.hi_ord > j.value
    ORDER BY o.conversation, o.lo_seq
"""  # noqa: S608
LOAD_MESSAGES = f"""
    SELECT {_columns(MESSAGE, "m.")} FROM json_each(?) a CROSS JOIN json_each(a.value) j
    CROSS JOIN messages m ON m.conversation = j.key AND m.seq = j.value
"""  # noqa: S608
LOAD_REFS = f"""
    SELECT {_columns(MESSAGE, "m.")} FROM json_each(?) j
    CROSS JOIN messages m ON m.conversation = json_extract(j.value, '$[0]')
        AND m.role = json_extract(j.value, '$[1]') AND m.author = json_extract(j.value, '$[2]')
        AND m.ref = json_extract(j.value, '$[3]')
"""  # noqa: S608
LOAD_MARKS = f"""
    SELECT m.conversation, m.seq, m.ord, m.said,
        (SELECT n.at FROM messages n WHERE n.conversation = m.conversation AND n.seq > m.seq
         AND {COUNTED} ORDER BY n.seq LIMIT 1)
    FROM json_each(?) j CROSS JOIN messages m ON m.conversation = json_extract(j.value, '$[0]')
        AND m.seq = json_extract(j.value, '$[1]')
"""  # noqa: S608
LOAD_UNACKED = f"""
    SELECT {_columns(MESSAGE, "m.")} FROM json_each(?) j
    CROSS JOIN messages m ON m.conversation = json_extract(j.value, '$[0]')
        AND m.seq > json_extract(j.value, '$[1]') AND m.ord > json_extract(j.value, '$[2]')
        AND m.ord <= json_extract(j.value, '$[3]') AND m.seq <= json_extract(j.value, '$[4]')
    WHERE {COUNTED} ORDER BY m.conversation, m.seq
"""  # noqa: S608
LOAD_OWNERS = """
    SELECT c.tenant, c.customer, d.id, d.installation, d.token FROM json_each(?) j
    CROSS JOIN devices d ON d.tenant = json_extract(j.value, '$[0]') AND (
        d.installation = json_extract(j.value, '$[1]') OR d.token = json_extract(j.value, '$[2]'))
    CROSS JOIN conversations c ON c.id = d.conversation
"""
LOAD_COUNTERS = "SELECT tenant, name, value FROM counters"
LOAD_META = "SELECT name, value FROM meta"
LOAD_DUE = """
    SELECT c.id, c.tenant, c.customer FROM conversations c
    WHERE c.id > ?1 AND (c.push_due_at IS NOT NULL OR c.expires_at IS NOT NULL OR EXISTS (
        SELECT 1 FROM devices d CROSS JOIN ringing r ON r.device = d.id
        WHERE d.conversation = c.id AND (r.wake_at IS NOT NULL OR (
            r.badge > c.last_ord - c.read_ord AND d.state = 'live'
            AND c.tenant IN (SELECT value FROM json_each(?3))))))
    ORDER BY c.id LIMIT ?2
"""
MAX_CONVERSATION = "SELECT coalesce(max(id), 0) FROM conversations"
MAX_EVENT = "SELECT coalesce(max(id), 0) FROM events"
MAX_DEVICE = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'devices'"
KEEP_DEVICE_IDS = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'devices'"
PUT_META = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
TOUCH = (
    "INSERT INTO meta (name, value) VALUES ('probe', hex(zeroblob(8192)))",
    "DELETE FROM meta WHERE name = 'probe'",
)
"""Take a few pages and give them back: fails where the disk is full."""
SET_META = """
    INSERT INTO meta (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
ONE_META = "SELECT value FROM meta WHERE name = ?"
KEYS_IN_USE = "SELECT DISTINCT sealed_by FROM devices"
SEALED_BY = "SELECT sealed_by, count(*) FROM devices GROUP BY sealed_by ORDER BY sealed_by"
TO_SEAL = """
    SELECT id, tenant, token, sealed, sealed_by FROM devices
    WHERE id > ? AND sealed_by IS NOT ? ORDER BY id LIMIT ?
"""
SEAL = "UPDATE devices SET token = ?, sealed = ?, sealed_by = ? WHERE id = ?"
RENEW_EPOCH = "UPDATE meta SET value = ? WHERE name = 'epoch'"
SKIP_BADGES = "UPDATE conversations SET badge_seq = badge_seq + ?"
SKIP_DEVICE_IDS = "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'devices'"
FORGETTABLE = """
    SELECT DISTINCT c.tenant, c.customer FROM devices d CROSS JOIN conversations c
    ON c.id = d.conversation WHERE d.state <> 'live' AND d.state_at < ? LIMIT 1000
"""

STALE = """
    SELECT DISTINCT c.tenant, c.customer FROM devices d JOIN conversations c
    ON c.id = d.conversation WHERE d.tenant = ? AND d.state = 'live' AND d.registered_at < ?
    LIMIT 1000
"""

# Reading for people and clients.

HISTORY = f"""
    SELECT {_columns(MESSAGE)} FROM messages
    WHERE conversation = ? AND seq < ? ORDER BY seq DESC LIMIT ?
"""  # noqa: S608
AFTER = f"""
    SELECT {_columns(MESSAGE)} FROM messages
    WHERE conversation = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""  # noqa: S608
ONE_MESSAGE = f"SELECT {_columns(MESSAGE)} FROM messages WHERE conversation = ? AND seq = ?"  # noqa: S608
OUTCOME_OF = """
    SELECT outcome, reason FROM outcomes
    WHERE conversation = ? AND lo_seq < ? AND hi_seq >= ?
"""
EVENTS_OF = f"""
    WITH RECURSIVE chain (id) AS (
        VALUES (?1) UNION ALL SELECT e.prev FROM chain JOIN events e ON e.id = chain.id
    )
    SELECT {_columns(Event.__struct_fields__, "e.")} FROM chain JOIN events e ON e.id = chain.id
    WHERE e.seq >= ?2 AND e.from_seq <= ?3 AND (?4 IS NULL OR e.event = ?4) ORDER BY e.id
"""  # noqa: S608
INBOX = """
    SELECT c.tenant, c.customer FROM conversations c
    WHERE c.tenant = ? AND c.last_seq > 0 AND (c.updated_at, c.id) < (?, ?)
        AND (? = 'all' OR (? = 'live' AND c.live)
            OR (? = 'unanswered' AND c.unanswered_since IS NOT NULL))
    ORDER BY c.updated_at DESC, c.id DESC LIMIT ?
"""


_STATES = {str(state): state for state in DeviceState}
_OUTCOMES = {str(outcome): outcome for outcome in Outcome}
"""By what is stored: an enumeration's own way, a call of it, takes six times as long."""


def to_device(row: Sequence[Any], tenant: str, vault: Vault) -> Device:
    """A registration with its token opened; one whose token does not open is dead."""
    (
        id, installation, token, generation, registered_at, platform, app, environment, locale,
        time_zone, state, state_at, text, by, covered_seq, covered_ord, badge, owes, owed_ord,
        wake_at, quiet_end, claim, ring_seq, ring_ord, attempt, verdict, verdict_at, unrung,
    ) = row  # fmt: skip
    ring = None if claim is None else RingInHand(claim, named(Cut, (ring_seq, ring_ord)), attempt)
    answered = None if verdict is None else Answered(verdict, verdict_at)
    device = Device(
        id, installation, token, generation, registered_at, platform, app, environment, locale,
        time_zone, _STATES[state], state_at, None, named(Cut, (covered_seq, covered_ord)), badge,
        owes == 1, owed_ord, wake_at, quiet_end, ring, answered, unrung,
    )  # fmt: skip
    if by is None:
        return device
    sealed = Sealed(token, text, by)
    try:
        return replace(device, token=vault.open(tenant, id, sealed), sealed=sealed)
    except Unreadable:
        return replace(
            device,
            token="",
            sealed=sealed,
            state=DeviceState.DEAD,
            state_at=device.registered_at,
            ring=None,
            owes=wake_at is not None,
        )


def to_span(row: Sequence[Any]) -> Span:
    lo_seq, lo_ord, hi_seq, hi_ord, outcome, reason = row
    return Span(lo_seq, lo_ord, hi_seq, hi_ord, _OUTCOMES[outcome], reason)


def to_conversation(
    row: Sequence[Any],
    settled: tuple[Span, ...],
    devices: tuple[Device, ...],
    newest: Message | None,
    newest_counted: Message | None,
) -> Conversation:
    id, tenant, customer, name, live, *marks = row[: len(CONVERSATION)]
    muted_until, proactive, time_zone, quiet_hours = row[len(CONVERSATION) : -1]
    wishes = None
    if proactive is not None:
        wishes = Wishes(
            muted_until=muted_until,
            proactive=bool(proactive),
            time_zone=time_zone,
            quiet_hours=quiet_hours,
        )
    beside = (settled, devices, newest, newest_counted, wishes)
    fields = (id, named(Key, (tenant, customer)), name, live == 1, *marks, *beside)
    return Conversation(*fields)
