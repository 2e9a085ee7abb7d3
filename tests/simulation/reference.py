"""The delivery rule of docs/design.md in executable form: what happens when, by brute force.

Written from docs/design.md and docs/protocol.md alone, to be read beside them and to judge the
gateway by (`tests.simulation.scripts`): nothing here comes from what it judges. Where the gateway
keeps cursors and ranges, this keeps every message with its outcome, and what became of it on every
device; nothing is remembered that can be counted anew. Commits, calls and frames take no time here
but what a backend takes to answer, and nobody asks who may do what: it is the rule and no more.

Time is in seconds. A time that will not come is `NEVER`. Numbers in the comments are the rule's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

NEVER = math.inf
ACK_TIMEOUT = 5.0
DISCONNECT_GRACE = 1.0
MAX_HOLD = 30.0
RESTART_GRACE = 10.0
EXPIRES_AFTER = 3_600.0
RETRY_FIRST, RETRY_MOST, RETRY_AFTER = 1.0, 60.0, 20.0
ANSWERS = {"hangs": 15.0, "slow": 6.8}
"""How long a backend takes to answer that is so; any other takes a moment."""
MOMENT = 0.2
LACKED = ("no_device", "token_dead")
"""Reasons of undeliverable that a registration mends."""
SPEAKS_FOR_MORE = ("opted_out", "muted", "refused")
"""Why a device was not rung: of several devices' reasons the last of these is the message's."""


@dataclass(slots=True)
class Log:
    """What can be seen of a delivery, a line each: when, and what."""

    lines: list[tuple[float, str]] = field(default_factory=list)

    def outcome(self, at: float, customer: str, seq: int, outcome: str, reason: str) -> None:
        self.lines.append((at, f"{customer} {seq}: {outcome} {reason}".rstrip()))

    def look(self, at: float, customer: str, phone: str, action: str, reason: str) -> None:
        self.lines.append((at, f"{customer} {phone}: {action}, {reason}"))

    def call(
        self, at: float, customer: str, token: str, kind: str, seq: int, unread: int, attempt: int
    ) -> None:
        what = f"{kind} {seq}, {unread} unread, attempt {attempt}"
        self.lines.append((at, f"{customer} {token}: called, {what}"))


@dataclass(slots=True)
class Message:
    """One entry of a conversation. A `system` message is not counted, and has no outcome."""

    seq: int
    at: float
    expires_at: float
    kind: str
    outcome: str = ""
    reason: str = ""


@dataclass(slots=True)
class Ring:
    """One notification to one device, as it was claimed; a `badge` covers no messages."""

    kind: str
    covers: list[Message]
    seq: int
    unread: int
    expires_at: float
    attempt: int = 0
    mood: str = ""
    out: bool = False
    """Whether a call is out, under way to its answer."""


@dataclass(slots=True)
class Device:
    """A registration, and what became of every message on it."""

    installation: str
    token: str
    live: bool = True
    settled: dict[int, str] = field(default_factory=dict)
    """The seqs that are over here: rung, or why not."""
    owed: int = 0
    """Up to which seq a fan-out asked for a ring."""
    ring: Ring | None = None
    wake_at: float = NEVER
    busy_until: float = 0.0
    """When the last call has its answer, were it one for the token of before."""
    badge: int = 0
    """The highest number that its icon may show."""


@dataclass(slots=True)
class Session:
    """An open WebSocket after its hello. `noted`: what it acknowledged in the background."""

    active: bool
    noted: int


@dataclass(slots=True)
class Customer:
    """A customer's row, with their messages, sessions, devices and wishes."""

    id: str
    messages: list[Message] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    acked: int = 0
    read: int = 0
    due: float = NEVER
    grace_until: float = 0.0
    hold_from: float = NEVER
    """When joins first held what is pending."""
    muted_until: float = 0.0
    proactive: bool = True
    quiet_until: float = 0.0

    @property
    def in_chat(self) -> bool:
        return any(session.active for session in self.sessions.values())

    @property
    def unread(self) -> int:
        return sum(m.kind != "system" and m.seq > self.read for m in self.messages)

    @property
    def pending(self) -> list[Message]:
        return [m for m in self.messages if m.outcome == "pending"]

    @property
    def live(self) -> list[Device]:
        return [d for d in self.devices.values() if d.live]


class Reference:
    """The rule. What somebody does is a method; what comes of it by itself comes in `advance`."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.mood = "accepts"
        """How the backends take calls: a word of `tests.simulation.ears.Mood`."""
        self.log = Log()
        self.customers: dict[str, Customer] = {}
        self.nothing_until = 0.0
        """After a start everything is held back until then."""

    def customer(self, id: str) -> Customer:
        return self.customers.setdefault(id, Customer(id))

    def advance(self, to: float) -> None:
        """Let time pass: whatever is due happens, the earliest first."""
        while True:
            at, what = min(self._due(), key=lambda due: due[0], default=(NEVER, None))
            if what is None or at > to:
                break
            self.now = max(self.now, at)
            what()
        self.now = to

    def _due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for c in self.customers.values():
            for m in c.pending:
                yield max(m.expires_at, self.nothing_until), partial(self._settle, c)
            yield max(c.due, self.nothing_until), partial(self._fan_out, c)
            for d in c.devices.values():
                if d.ring is not None and d.ring.out:
                    yield d.busy_until, partial(self._answer, c, d, d.ring)
                else:
                    wake_at = max(d.wake_at, d.busy_until, self.nothing_until)
                    yield wake_at, partial(self._look, c, d)

    # 1, 2: commit

    def write(self, customer: str, kind: str, expires_in: float | None) -> None:
        c = self.customer(customer)
        expires_at = self.now + (expires_in or EXPIRES_AFTER)
        m = Message(len(c.messages) + 1, self.now, expires_at, kind)
        c.messages.append(m)
        if kind != "system":
            self._begins(c, m)
            c.due = min(c.due, self._earliest(c, m))

    def _earliest(self, c: Customer, m: Message) -> float:
        """When this message is due by itself: nobody is rung for it before."""
        if c.in_chat:
            return m.at + ACK_TIMEOUT
        if c.grace_until > self.now:
            return min(m.at + ACK_TIMEOUT, c.grace_until)
        return self.now

    # 3: ack

    def ack(self, customer: str, session: str, seq: int) -> None:
        c = self.customer(customer)
        told = c.sessions[session]
        told.noted = max(told.noted, seq)
        if told.active:
            self._acknowledge(c, seq)

    def reads(self, customer: str, session: str, seq: int) -> None:
        c = self.customer(customer)
        self._acknowledge(c, seq)
        c.read = max(c.read, seq)
        for d in c.live:  # 8: what makes no noise does not wait for the end of quiet hours
            if d.badge > c.unread and d.wake_at in (NEVER, c.quiet_until):
                d.wake_at = self.now

    def _acknowledge(self, c: Customer, seq: int) -> None:
        if seq <= c.acked:
            return
        c.acked = seq
        for m in c.messages[:seq]:
            if m.outcome in ("pending", "expired", "undeliverable"):
                self._ends(c, m, "acked")

    # 4: leaving

    def leave(self, customer: str, session: str, grace: float) -> None:
        c = self.customer(customer)
        if c.sessions.pop(session).active:
            self._left(c, grace)

    def _left(self, c: Customer, grace: float) -> None:
        if c.in_chat:
            return
        c.grace_until = self.now + grace
        if c.due < NEVER:
            c.due = min(c.due, c.grace_until)
        for d in c.devices.values():
            if d.wake_at < NEVER and (d.ring is None or d.ring.out):  # else a backoff stands
                d.wake_at = min(d.wake_at, c.grace_until)

    # 5: joining

    def come(self, customer: str, session: str, active: bool, resume: int | None) -> None:
        self.customer(customer).sessions[session] = Session(False, resume or 0)
        if active:
            self.turn(customer, session, active)

    def turn(self, customer: str, session: str, active: bool) -> None:
        c = self.customer(customer)
        told = c.sessions[session]
        told.active = active
        if not active:
            self._left(c, 0.0)
            return
        self._acknowledge(c, told.noted)
        if c.due < NEVER or any(d.wake_at < NEVER for d in c.devices.values()):
            c.hold_from = max([min(c.hold_from, self.now), *(m.at for m in c.pending[:1])])
        c.due = max(c.due, self._held(c))
        for d in c.devices.values():
            d.wake_at = max(d.wake_at, self._held(c))

    def _held(self, c: Customer) -> float:
        """Until when a join of this moment holds everything."""
        return min(self.now + ACK_TIMEOUT, c.hold_from + MAX_HOLD)

    # 6: fan-out

    def _fan_out(self, c: Customer) -> None:
        c.due = self._earliest(c, c.pending[0])  # what it was set for may be acked, or expired
        if c.due > self.now:
            return
        c.due = NEVER
        for d in c.live:
            d.owed = len(c.messages)
            if d.wake_at == NEVER:
                d.wake_at = self.now
        self._settle(c)

    def _open(self, c: Customer, d: Device) -> list[Message]:
        """What this device may be rung for: it is not over on it, not acked, and not expired."""
        return [
            m
            for m in c.messages
            if m.outcome in ("pending", "pushed") and m.seq > c.acked and m.expires_at > self.now
            if m.seq not in d.settled
        ]

    def _asked(self, c: Customer, d: Device) -> list[Message]:
        return [m for m in self._open(c, d) if m.seq <= d.owed and d.live]

    def _owes(self, c: Customer, d: Device) -> bool:
        """Whether there is something to be looked at: a ring, or the number on its icon."""
        return bool(self._asked(c, d)) or (d.live and d.badge > c.unread)

    # 7: look, claim and call

    def _look(self, c: Customer, d: Device) -> None:
        d.wake_at = NEVER
        if d.ring is not None:
            why = self._cancels(c, d.ring)
            if why is None and self._is_quiet(c) and d.ring.kind != "badge":
                d.wake_at = c.quiet_until
                return
            if why is None:
                self._call(c, d, d.ring, "retry", "retry")
                return
            self.log.look(self.now, c.id, d.installation, "cancel", why)
            if why in ("muted", "opted_out"):  # 10: it may have rung for them already
                d.settled.update((m.seq, why) for m in d.ring.covers if m.seq not in d.settled)
            d.owed, d.ring = max(d.owed, d.ring.seq), None
        asked, fresh = self._asked(c, d), self._open(c, d)
        wanted = [m for m in asked if not self._unwanted(c, m)]
        if wanted and self._earliest(c, wanted[0]) > self.now:
            d.wake_at = self._earliest(c, wanted[0])
            return
        covers = [m for m in fresh if wanted and not self._unwanted(c, m)]
        if covers and self._is_quiet(c):
            d.wake_at = c.quiet_until
            return
        along = covers[-1].seq if covers else 0
        for m in fresh:  # 10
            due = m.seq <= d.owed and self._earliest(c, m) <= self.now
            if (why := self._unwanted(c, m)) and (due or m.seq < along):
                d.settled[m.seq] = why
        left = self._asked(c, d)
        if covers:
            last = covers[-1]
            kind = "message" if last.kind == "chat" else "proactive"
            ring = Ring(kind, covers, last.seq, c.unread, last.expires_at)
            self._claim(c, d, ring, "ack_timeout" if c.in_chat else "not_in_chat")
        elif left:
            d.wake_at = self._earliest(c, left[0])
        elif d.badge > c.unread:  # 8
            ring = Ring("badge", [], len(c.messages), c.unread, self.now + EXPIRES_AFTER)
            self._claim(c, d, ring, "read_elsewhere")
        self._settle(c)

    def _claim(self, c: Customer, d: Device, ring: Ring, reason: str) -> None:
        d.ring = ring
        if ring.covers or not c.pending:
            c.hold_from = NEVER
        self._call(c, d, ring, "badge" if ring.kind == "badge" else "ring", reason)

    def _cancels(self, c: Customer, ring: Ring) -> str | None:
        if ring.kind == "badge":
            return "superseded" if c.unread != ring.unread else None
        if ring.seq <= c.acked:
            return "read" if ring.seq <= c.read else "acked"
        if ring.expires_at <= self.now:
            return "expired"
        left = [
            m
            for m in ring.covers
            if m.seq > c.acked and m.expires_at > self.now and m.outcome != "undeliverable"
        ]
        reasons = [self._unwanted(c, m) for m in left]
        return reasons[0] if reasons and all(reasons) else None

    def _call(self, c: Customer, d: Device, ring: Ring, action: str, reason: str) -> None:
        ring.attempt += 1
        ring.mood, ring.out = self.mood, True
        d.wake_at = self.now  # or when a hold ends that begins meanwhile
        d.busy_until = self.now + ANSWERS.get(ring.mood, MOMENT)
        d.badge = max(d.badge, ring.unread)
        self.log.look(self.now, c.id, d.installation, action, reason)
        self.log.call(self.now, c.id, d.token, ring.kind, ring.seq, ring.unread, ring.attempt)

    def _answer(self, c: Customer, d: Device, ring: Ring) -> None:
        ring.out = False
        if ring.mood in ("hangs", "fails", "busy"):
            backoff = min(RETRY_MOST, RETRY_FIRST * 2 ** (ring.attempt - 1)) / 2
            asked = self.now + (RETRY_AFTER if ring.mood == "busy" else 0.0)
            d.wake_at = max(min(asked + backoff, ring.expires_at), asked, d.wake_at)
            return
        d.ring = None
        d.live = ring.mood != "gone"
        if d.live:  # else it shows what it did
            d.badge = ring.unread
        for m in ring.covers if d.live else ():
            d.settled[m.seq] = "refused" if ring.mood == "refuses" else "rung"
            if ring.mood != "refuses" and m.outcome in ("pending", "expired"):
                self._ends(c, m, "pushed")
        if not self._owes(c, d):
            d.wake_at = NEVER
        self._settle(c)

    # 9: start

    def kill(self) -> None:
        """The process is killed, and started again."""
        self.nothing_until = self.now + RESTART_GRACE
        for c in self.customers.values():
            c.sessions.clear()
            c.grace_until = 0.0
            for d in c.devices.values():
                d.busy_until = 0.0
                if d.ring is not None and d.ring.out:
                    d.ring.out, d.wake_at = False, self.now

    # 10: wishes

    def wish(self, customer: str, muted_for: float, proactive: bool, quiet_until: float) -> None:
        c = self.customer(customer)
        self._look_anew(c)
        c.muted_until, c.proactive = self.now + muted_for, proactive
        c.quiet_until = quiet_until

    def _look_anew(self, c: Customer) -> None:
        """At who waits for the end of quiet hours: of who is in chat, as if they had just come."""
        for d in c.devices.values():
            if self._is_quiet(c) and d.wake_at == c.quiet_until:
                comes = c.in_chat and c.hold_from < NEVER
                d.wake_at = max(self.now, self._held(c) if comes else 0.0)

    def _is_quiet(self, c: Customer) -> bool:
        return c.quiet_until > self.now

    def _unwanted(self, c: Customer, m: Message) -> str | None:
        if c.muted_until > self.now:
            return "muted"
        return "opted_out" if m.kind == "proactive" and not c.proactive else None

    # Outcomes

    def _begins(self, c: Customer, m: Message) -> None:
        if not c.pending:
            c.hold_from = NEVER  # what joins held before was not this message
        self._ends(c, m, "pending")

    def _ends(self, c: Customer, m: Message, outcome: str, reason: str = "") -> None:
        m.outcome, m.reason = outcome, reason
        self.log.outcome(self.now, c.id, m.seq, outcome, reason)
        if not c.pending:
            c.due = c.hold_from = NEVER

    def _settle(self, c: Customer) -> None:
        """What has expired, and what no device is left for, has its outcome; the rest is due."""
        for m in c.pending:
            if m.expires_at <= self.now:
                self._ends(c, m, "expired")
        for m in c.pending:
            over = [d.settled.get(m.seq) for d in c.live]
            if all(over) and (over or c.due == NEVER):  # without a device it is told when it is due
                lacks = LACKED[bool(c.devices)]
                reason = max(filter(None, over), key=SPEAKS_FOR_MORE.index, default=lacks)
                self._ends(c, m, "undeliverable", reason)
        if c.due == NEVER and any(
            d.wake_at == NEVER and m.seq not in d.settled for m in c.pending[:1] for d in c.live
        ):
            c.due = self.now + ACK_TIMEOUT  # nothing would lead to it

    # Registrations (I6)

    def register(self, customer: str, installation: str, token: str) -> None:
        c = self.customer(customer)
        for other in self.customers.values():
            for d in list(other.devices.values()):
                if other is not c and (d.installation == installation or d.token == token):
                    self._remove(other, d)
                elif other is c and d.token == token:  # the same phone, whatever it is called
                    del c.devices[d.installation]
                    d.installation = installation
                    c.devices[installation] = d
        lacked = [
            m
            for m in c.messages
            if m.outcome == "undeliverable" and m.reason in LACKED and m.expires_at > self.now
        ]
        self._look_anew(c)
        old = c.devices.get(installation)
        if old is None or old.token != token or not old.live:
            new = c.devices[installation] = Device(installation, token)
            if old is not None:  # the same phone: what was refused there, or is owed, is so still
                new.settled = old.settled
                new.badge, new.busy_until = old.badge, old.busy_until
                if self._asked(c, old) or old.ring is not None:
                    new.owed = max(old.owed, old.ring.seq if old.ring is not None else 0)
                if self._owes(c, new):
                    new.wake_at = self.now + ACK_TIMEOUT
            if not self._asked(c, new):  # it begins behind what has its outcome by now
                first = min((m.seq for m in c.pending + lacked), default=len(c.messages) + 1)
                new.settled = dict.fromkeys(range(1, first), "before") | new.settled
        for m in lacked:
            self._begins(c, m)
        if c.pending:
            c.due = min(c.due, self.now + ACK_TIMEOUT)
        self._settle(c)

    def deregister(self, customer: str, installation: str) -> None:
        c = self.customer(customer)
        if installation in c.devices:
            self._remove(c, c.devices[installation])

    def sign_out(self, customer: str) -> None:
        """The tenant signs the customer out everywhere."""
        c = self.customer(customer)
        was_in_chat = c.in_chat
        c.sessions.clear()
        if was_in_chat:
            self._left(c, 0.0)
        for d in list(c.devices.values()):
            self._remove(c, d)
        self._settle(c)

    def _remove(self, c: Customer, d: Device) -> None:
        del c.devices[d.installation]
        self._settle(c)
