"""The brute-force recount: what the rows say, compared with what they should say.

Decides what is broken in a database, in one consistent view of it, running gateway or not; prints
nothing and mends nothing. Everything is counted from the messages themselves, one conversation at a
time and one message at a time: cursors, ranks, spans and counters are what is judged, never what is
believed. Memory grows with the spans and devices of one conversation, not with the database.

A message's outcome is read as `storage.outcomes` defines it: the span that covers it, else acked up
to the acked cursor, else pending.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from storage import campaigns
from storage.database import NO_ROOM, snapshot
from storage.errors import CannotOpen
from storage.loading import Known
from storage.records import DeviceState, Outcome, is_counted

KEPT = 10_000
"""Findings that are kept. At the bound the rest are only counted."""

UNSORTED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_GETTEMPPATH)
"""Errors that tell nothing of a file to which nothing is written: what has to be sorted has no
room in the system's directory of temporary files."""


MISTYPED = "a value of its rows is not of its column's type: it is recounted no further"


class Rule(StrEnum):
    """What a finding is about."""

    INTEGRITY = "integrity"
    FOREIGN_KEY = "foreign_key"
    COUNTER = "counter"
    OUTCOME = "outcome"
    SPAN = "span"
    SEQ = "seq"
    RANK = "rank"
    CURSOR = "cursor"
    UNREAD = "unread"
    FORGOTTEN = "forgotten"
    DEVICE = "device"
    EVENT = "event"
    CAMPAIGN = "campaign"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is broken, and where. `device` is a registration's id, never its token."""

    rule: Rule
    problem: str
    tenant: str | None = None
    customer: str | None = None
    seq: int | None = None
    device: int | None = None


class Balance(msgspec.Struct, frozen=True):
    """One tenant's counted messages, recounted, beside the counters that are stored.

    A message with two outcomes counts under both: then the sum is more than was accepted.
    """

    tenant: str
    counted: dict[str, int]
    stored: dict[str, int]

    @property
    def conserved(self) -> bool:
        """The conservation law (I2)."""
        return self.counted["accepted"] == sum(self.counted[name] for name in Outcome)

    @property
    def holds(self) -> bool:
        """It is conserved, and the stored counters say the same."""
        return self.conserved and self.counted == self.stored


class Audit(msgspec.Struct, frozen=True):
    """What a recount came to. `more` findings were not kept."""

    balances: list[Balance]
    findings: list[Finding]
    more: int
    conversations: int
    messages: int

    @property
    def holds(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class _Report:
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    def __call__(self, rule: Rule, problem: str, c: _Row | None = None, **where: Any) -> None:
        if len(self.findings) == KEPT:
            self.more += 1
            return
        if c is not None:
            where |= {"tenant": c.tenant, "customer": c.customer}
        self.findings.append(Finding(rule, problem, **where))


class _Row(NamedTuple):
    """A conversation's row, as far as it is judged."""

    id: int
    tenant: str
    customer: str
    last_seq: int
    last_ord: int
    last_said: int
    acked_seq: int
    acked_ord: int
    read_seq: int
    read_ord: int
    agent_acked_seq: int
    agent_acked_said: int
    agent_read_seq: int
    agent_read_said: int
    newest_counted_seq: int
    push_due_at: float | None
    expires_at: float | None


class _Message(NamedTuple):
    seq: int
    ord: int
    said: int
    role: str
    kind: str
    expires_at: float | None

    @property
    def counted(self) -> bool:
        return is_counted(self.role, self.kind)


class _Span(NamedTuple):
    lo_seq: int
    lo_ord: int
    hi_seq: int
    hi_ord: int
    outcome: str
    reason: str | None


class _Device(NamedTuple):
    id: int
    tenant: str
    state: str
    covered_seq: int
    covered_ord: int
    owes: int
    owed_ord: int
    wake_at: float | None
    ring: str | None
    ring_seq: int
    ring_ord: int
    attempt: int


class _Ring(msgspec.Struct, frozen=True):
    """What a ring in hand must be, to be called again after a restart."""

    id: str
    kind: Literal["message", "proactive", "badge"]
    customer: str
    seq: int
    unread: int
    badge_seq: int
    live: bool
    expires_at: float
    title: str | None = None
    text: str | None = None


def audit(path: Path, now: float) -> Audit:
    """Recount the database at `path`; `now` in epoch seconds. Raises `CannotOpen`, also for want of
    room for what has to be sorted."""
    report = _Report()
    tallies: dict[str, Counter[str]] = {}
    conversations = messages = 0
    with snapshot(path) as db:
        stored = {}
        try:
            _whole(db, report)
            for c in _select(db, _Row, "conversations", "ORDER BY id"):
                try:
                    walk = _conversation(db, c, now, report)
                except TypeError:
                    report(Rule.INTEGRITY, MISTYPED, c)
                    walk = _Walk()
                tallies.setdefault(str(c.tenant), Counter()).update(walk.tally)
                conversations += 1
                messages += walk.messages
            stored = _stored(db)
            _strays(db, report)
            _chains(db, report)
            for tenant, problem in campaigns.problems(db.execute):
                report(Rule.CAMPAIGN, problem, tenant=tenant)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) in UNSORTED:
                raise CannotOpen(f"cannot recount the database {path}: {NO_ROOM}") from error
            report(Rule.INTEGRITY, f"cannot be read further, and is recounted no further: {error}")
    balances = [
        Balance(tenant, _named(tallies.get(tenant, {})), _named(stored.get(tenant, {})))
        for tenant in sorted(tallies.keys() | stored.keys())
    ]
    for balance in balances:
        _balanced(balance, report)
    return Audit(balances, report.findings, report.more, conversations, messages)


def _select(
    db: sqlite3.Connection, kind: type[Any], table: str, rest: str, *parameters: Any
) -> Iterator[Any]:
    """Rows of `table` as `kind`, one at a time."""
    columns = ", ".join(kind._fields)
    return map(kind._make, db.execute(f"SELECT {columns} FROM {table} {rest}", parameters))  # noqa: S608


def _whole(db: sqlite3.Connection, report: _Report) -> None:
    """What SQLite itself can tell."""
    for (problem,) in db.execute("PRAGMA integrity_check"):
        if problem != "ok":
            report(Rule.INTEGRITY, problem)
    for table, _, parent, _ in db.execute("PRAGMA foreign_key_check"):
        report(Rule.FOREIGN_KEY, f"a row of {table} has no row in {parent}")


def _stored(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    stored: dict[str, dict[str, int]] = {}
    for tenant, name, value in db.execute("SELECT tenant, name, value FROM counters"):
        stored.setdefault(str(tenant), {})[name] = value  # a damaged one may be bytes
    return stored


def _strays(db: sqlite3.Connection, report: _Report) -> None:
    """Rows whose other half is not there."""
    for (id,) in db.execute(
        "SELECT DISTINCT conversation FROM events EXCEPT SELECT id FROM conversations"
    ):
        report(Rule.FOREIGN_KEY, f"events of a conversation that is not there: {id}")
    for id, tenant, customer in db.execute(
        """
        SELECT d.id, c.tenant, c.customer FROM devices d JOIN conversations c
        ON c.id = d.conversation WHERE d.id NOT IN (SELECT device FROM ringing)
        """
    ):
        problem = "has no row in ringing: it cannot be loaded, and is never rung"
        report(Rule.DEVICE, problem, tenant=tenant, customer=customer, device=id)


def _chains(db: sqlite3.Connection, report: _Report) -> None:
    """Events that nobody would find: each names the one before it, the conversation the last."""
    for id, tenant, customer in db.execute(
        """
        SELECT e.id, c.tenant, c.customer FROM (
            SELECT id, conversation, prev, lag(id, 1, 0) OVER of AS before FROM events
            WINDOW of AS (PARTITION BY conversation ORDER BY id)
        ) AS e JOIN conversations c ON c.id = e.conversation WHERE e.prev <> e.before
        """
    ):
        problem = f"event {id} does not name the one before it"
        report(Rule.EVENT, problem, tenant=tenant, customer=customer)
    for tenant, customer in db.execute(
        """
        SELECT c.tenant, c.customer FROM conversations c LEFT JOIN (
            SELECT conversation, max(id) AS id FROM events GROUP BY conversation
        ) AS e ON e.conversation = c.id WHERE c.last_event <> coalesce(e.id, 0)
        """
    ):
        report(Rule.EVENT, "does not name its last event", tenant=tenant, customer=customer)


def _named(counts: dict[str, int] | Counter[str]) -> dict[str, int]:
    """Every name, also those that are 0; a counter with a name of its own stays visible."""
    names = dict.fromkeys(("accepted", *Outcome), 0)
    return {str(name): value for name, value in {**names, **counts}.items()}


def _balanced(balance: Balance, report: _Report) -> None:
    tenant = balance.tenant
    if not balance.conserved:
        accepted = balance.counted["accepted"]
        outcomes = sum(balance.counted[name] for name in Outcome)
        problem = f"{accepted} messages were accepted and have {outcomes} outcomes (I2)"
        report(Rule.OUTCOME, problem, tenant=tenant)
    for name, value in balance.stored.items():
        counted = balance.counted.get(name, 0)
        if value != counted:
            problem = f"the counter {name} is {value}, but there are {counted}"
            report(Rule.COUNTER, problem, tenant=tenant)


# One conversation


@dataclass(slots=True)
class _Walk:
    """What one pass over a conversation's messages counted."""

    ords: dict[int, int] = field(default_factory=lambda: {0: 0})
    said: dict[int, int] = field(default_factory=lambda: {0: 0})
    tally: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    last: int = 0
    newest_counted: int = 0
    unread: int = 0
    waiting: int = 0
    pending: int | None = None
    """The first pending message that has not expired."""
    expires: tuple[float, int] | None = None
    """The earliest time at which a pending message expires, and its seq."""


def _conversation(db: sqlite3.Connection, c: _Row, now: float, report: _Report) -> _Walk:
    of_it = "WHERE conversation = ? ORDER BY"
    spans = list(_select(db, _Span, "outcomes", f"{of_it} lo_seq", c.id))
    devices = list(_select(db, _Device, "devices JOIN ringing ON device = id", f"{of_it} id", c.id))
    places = {c.last_seq, c.acked_seq, c.read_seq, c.agent_acked_seq, c.agent_read_seq}
    places.update(*((span.lo_seq, span.hi_seq) for span in spans))
    places.update(*((device.covered_seq, device.ring_seq) for device in devices))
    messages = _select(db, _Message, "messages", f"{of_it} seq", c.id)
    walk = _Walk()
    _take(walk, c, _with_outcomes(messages, spans, c.acked_seq), places, now, report)
    _cursors(c, walk, report)
    for span in spans:
        _span(c, span, walk, report)
    for device in devices:
        _device(c, device, walk, report)
    _forgotten(c, devices, walk, report)
    return walk


def _with_outcomes(
    messages: Iterable[_Message], spans: list[_Span], acked: int
) -> Iterator[tuple[_Message, list[str]]]:
    """Each message with every outcome that it has: one, if all is well; none if not counted."""
    ahead = list(reversed(spans))
    over: list[_Span] = []
    for message in messages:
        while ahead and ahead[-1].lo_seq < message.seq:
            over.append(ahead.pop())
        over = [span for span in over if message.seq <= span.hi_seq]
        if not message.counted:
            yield message, []
        elif over:
            yield message, [span.outcome for span in over]
        else:
            yield message, [Outcome.ACKED if message.seq <= acked else Outcome.PENDING]


def _take(
    walk: _Walk,
    c: _Row,
    messages: Iterable[tuple[_Message, list[str]]],
    places: set[int],
    now: float,
    report: _Report,
) -> None:
    """Count the messages, and judge the place that each says it has."""
    ord = said = 0
    for message, outcomes in messages:
        seq, counted, mine = message.seq, message.counted, message.role == "customer"
        if seq != walk.last + 1:
            report(Rule.SEQ, f"seq has a gap: after {walk.last} comes {seq} (I4)", c, seq=seq)
            ord, said = message.ord - counted, message.said - mine  # judge the rest by itself
        ord += counted
        said += mine
        if (message.ord, message.said) != (ord, said):
            problem = f"ranks ord {message.ord} and said {message.said}, counted {ord} and {said}"
            report(Rule.RANK, problem, c, seq=seq)
        if seq in places:
            walk.ords[seq], walk.said[seq] = ord, said
        walk.last = seq
        walk.messages += 1
        walk.waiting += mine and seq > c.agent_read_seq
        if counted:
            walk.newest_counted = seq
            walk.unread += seq > c.read_seq
            _tally(walk, c, message, outcomes, now, report)


def _tally(
    walk: _Walk, c: _Row, message: _Message, outcomes: list[str], now: float, report: _Report
) -> None:
    walk.tally["accepted"] += 1
    for outcome in outcomes:
        walk.tally[outcome] += 1
    if len(outcomes) > 1:
        problem = f"has {len(outcomes)} outcomes: {' and '.join(outcomes)}"
        report(Rule.OUTCOME, problem, c, seq=message.seq)
    if outcomes == [Outcome.PENDING]:
        if message.expires_at is not None:
            mine = (message.expires_at, message.seq)
            walk.expires = min(walk.expires or mine, mine)
        if walk.pending is None and (message.expires_at is None or message.expires_at > now):
            walk.pending = message.seq


def _cursors(c: _Row, walk: _Walk, report: _Report) -> None:
    """The cursors name places that there are, with the ranks that those have."""
    if c.last_seq != walk.last:
        problem = f"last_seq is {c.last_seq}, the newest message {walk.last}"
        report(Rule.CURSOR, problem, c, seq=c.last_seq)
    if c.newest_counted_seq != walk.newest_counted:
        problem = f"newest_counted_seq is {c.newest_counted_seq}, counted {walk.newest_counted}"
        report(Rule.CURSOR, problem, c, seq=c.newest_counted_seq)
    for name, seq, rank, ranks in (
        ("last_ord", c.last_seq, c.last_ord, walk.ords),
        ("last_said", c.last_seq, c.last_said, walk.said),
        ("acked_ord", c.acked_seq, c.acked_ord, walk.ords),
        ("read_ord", c.read_seq, c.read_ord, walk.ords),
        ("agent_acked_said", c.agent_acked_seq, c.agent_acked_said, walk.said),
        ("agent_read_said", c.agent_read_seq, c.agent_read_said, walk.said),
    ):
        if seq not in ranks:
            report(Rule.CURSOR, f"{name}: its cursor {seq} is at no message", c, seq=seq)
        elif rank != ranks[seq]:
            report(Rule.CURSOR, f"{name} is {rank}, counted {ranks[seq]}", c, seq=seq)
    if (c.agent_acked_seq or 0) < c.agent_read_seq:
        problem = f"agents have read up to {c.agent_read_seq}, received up to {c.agent_acked_seq}"
        report(Rule.CURSOR, problem, c, seq=c.agent_read_seq)
    for name, told, counted in (
        ("unread", c.last_ord - c.read_ord, walk.unread),
        ("waiting", c.last_said - c.agent_read_said, walk.waiting),
    ):
        if told != counted:
            report(Rule.UNREAD, f"{name} would be told as {told}, counted {counted} (I5)", c)


def _span(c: _Row, span: _Span, walk: _Walk, report: _Report) -> None:
    """A span of outcomes lies within the conversation, and its ranks are those of its ends."""
    name = f"span {span.lo_seq} to {span.hi_seq}, {span.outcome}"
    if span.hi_ord <= c.acked_ord and span.outcome != Outcome.PUSHED:
        report(Rule.SPAN, f"{name}: all of it was acknowledged", c, seq=span.hi_seq)
    if span.outcome == Outcome.UNDELIVERABLE and span.reason is None:
        report(Rule.SPAN, f"{name}: for no reason", c, seq=span.hi_seq)
    if span.hi_seq > walk.last:
        problem = f"{name}: points beyond the newest message, {walk.last}"
        report(Rule.SPAN, problem, c, seq=span.hi_seq)
        return
    for seq, rank in ((span.lo_seq, span.lo_ord), (span.hi_seq, span.hi_ord)):
        counted = walk.ords.get(seq)
        if rank != counted:
            report(Rule.SPAN, f"{name}: its ord at {seq} is {rank}, counted {counted}", c, seq=seq)


def _forgotten(c: _Row, devices: list[_Device], walk: _Walk, report: _Report) -> None:
    """Somebody will look at what is pending: at a due time, at a device, or to expire it."""
    owing = any(d.state == "live" and d.wake_at is not None and (d.owes or d.ring) for d in devices)
    if walk.pending is not None and c.push_due_at is None and not owing:
        problem = "is pending, and nobody will look at it: nothing is due and no live device owes"
        report(Rule.FORGOTTEN, problem, c, seq=walk.pending)
    if walk.expires is None:
        return
    at, seq = walk.expires
    if c.expires_at is None:
        report(Rule.FORGOTTEN, "is pending and would never expire", c, seq=seq)
    elif c.expires_at > at and c.last_ord - c.acked_ord <= Known.UNACKED:
        report(Rule.FORGOTTEN, "is pending and would expire too late", c, seq=seq)


def _device(c: _Row, d: _Device, walk: _Walk, report: _Report) -> None:
    """A registration's coverage goes forward, and its ring in hand can be called again."""

    def broken(problem: str) -> None:
        report(Rule.DEVICE, problem, c, device=d.id)

    if d.tenant != c.tenant:
        broken(f"belongs to the tenant {d.tenant}")
    for name, seq, rank in (
        ("covered", d.covered_seq, d.covered_ord),
        ("ring", d.ring_seq, d.ring_ord),
    ):
        if walk.ords.get(seq) != rank:
            broken(f"{name}_seq {seq} has {name}_ord {rank}, counted {walk.ords.get(seq)}")
    if d.owed_ord > c.last_ord:
        broken(f"owed_ord {d.owed_ord} lies beyond the conversation's, {c.last_ord}")
    if d.state not in set(DeviceState):
        broken("has a state that there is not: its conversation cannot be loaded")
    if d.state != "live" and (d.owes or d.ring is not None):
        broken(f"is {d.state}, but still owes a ring")
    if (d.owes or d.ring is not None) and d.wake_at is None:
        broken("owes a ring, but would never be looked at")
    if d.ring is None:
        if d.ring_seq or d.ring_ord or d.attempt:
            broken("has no ring in hand, but covers something by one")
        return
    if d.ring_seq < d.covered_seq:
        broken(f"its coverage runs backwards: from {d.covered_seq} to {d.ring_seq} by its ring")
    if d.attempt < 1:
        broken("has a ring in hand that was never called")
    try:
        ring = msgspec.json.decode(d.ring, type=_Ring)
    except (msgspec.MsgspecError, UnicodeError):
        broken("its ring in hand does not decode")  # and what it says is not for showing
    else:
        if ring.customer != c.customer:
            broken("its ring in hand is for another customer")
