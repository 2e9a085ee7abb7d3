"""The records that storage keeps: frozen values that say only what follows from themselves.

A *counted* message is one that the company owes the customer: an agent's or a proactive one. Only
counted messages have an outcome and count as unread. Three ranks place a message: `seq` (its place
among all), `ord` (how many counted messages there are up to and including it) and `said` (how many
the customer wrote). Ranks make every count a subtraction: unread is `last_ord - read_ord`, never a
counter that goes up and down.

A *cut* is a place between messages, after `seq` and with `ord` counted messages before it. Cursors
and ranges are made of cuts.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import orjson

from storage.vault import Sealed


class Key(NamedTuple):
    """Names one conversation: the tenant, and the customer id that the tenant chose."""

    tenant: str
    customer: str


named = tuple.__new__
"""Makes a named tuple, of its class and its values: the class's own way costs three times as much,
and these are made often."""


class Cut(NamedTuple):
    """A place between messages: after `seq`, with `ord` counted messages up to there."""

    seq: int
    ord: int


BEGINNING = Cut(0, 0)


class Outcome(StrEnum):
    """How the customer learned of a counted message."""

    PENDING = "pending"
    ACKED = "acked"
    PUSHED = "pushed"
    EXPIRED = "expired"
    UNDELIVERABLE = "undeliverable"

    __hash__ = str.__hash__  # it equals this string; and an Enum's own is a call of Python


PENDING, ACKED, UNDELIVERABLE = Outcome.PENDING, Outcome.ACKED, Outcome.UNDELIVERABLE
"""By themselves: as `Outcome.PENDING` each costs a thousand instructions (Python 3.11)."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """The counted messages after `lo` up to and including `hi`, which share an outcome."""

    lo_seq: int
    lo_ord: int
    hi_seq: int
    hi_ord: int
    outcome: Outcome
    reason: str | None = None

    @property
    def lo(self) -> Cut:
        return named(Cut, (self.lo_seq, self.lo_ord))

    @property
    def hi(self) -> Cut:
        return named(Cut, (self.hi_seq, self.hi_ord))

    @property
    def count(self) -> int:
        return self.hi_ord - self.lo_ord


def is_counted(role: str, kind: str) -> bool:
    """Whether the company owes the customer what this role writes in this kind."""
    return role != "customer" and kind != "system"


class Message(msgspec.Struct, frozen=True):
    """One entry of a conversation: its place, given at its commit, and all that its `Draft` says,
    in the same order. Times are seconds since the epoch; `data` is JSON text.

    `route`, `reason`, `sessions` and `due_at` are what was decided at commit. `sessions` are those
    that it was written to, space-separated, each `id:state:installation` as far as known.
    """

    conversation: int
    seq: int
    ord: int
    said: int
    at: float
    id: str
    role: str
    author: str
    name: str | None
    kind: str
    text: str
    data: str | None
    title: str | None
    expires_at: float | None
    ref: str | None
    route: str | None
    reason: str | None
    sessions: str | None
    due_at: float | None

    @property
    def cut(self) -> Cut:
        return named(Cut, (self.seq, self.ord))

    @property
    def before(self) -> Cut:
        """The place before it, of a counted message."""
        return named(Cut, (self.seq - 1, self.ord - 1))

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, seq={self.seq}, kind={self.kind!r})"


class Draft(msgspec.Struct, frozen=True):
    """A message before its commit gave it a place."""

    id: str
    role: str
    author: str
    name: str | None
    kind: str
    text: str
    data: str | None = None
    title: str | None = None
    expires_at: float | None = None
    ref: str | None = None
    route: str | None = None
    reason: str | None = None
    sessions: str | None = None
    due_at: float | None = None

    @property
    def counted(self) -> bool:
        return is_counted(self.role, self.kind)

    def __repr__(self) -> str:
        return f"Draft(id={self.id!r}, kind={self.kind!r})"


@lru_cache(maxsize=4096)  # a ring needs it for each of its events
def fingerprint(token: str) -> str:
    """What a device token is called wherever it is not used: 12 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


class DeviceState(StrEnum):
    """Whether a registration may be rung. A dead or quarantined one is kept for 7 days."""

    LIVE = "live"
    DEAD = "dead"
    QUARANTINED = "quarantined"


_LIVE = DeviceState.LIVE


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a customer said about being rung. `quiet_hours` is `22:00-07:00`, `off`, or unsaid.

    `proactive` is false when no proactive message is to ring.
    """

    muted_until: float | None = None
    proactive: bool = True
    time_zone: str | None = None
    quiet_hours: str | None = None


class RingInHand(msgspec.Struct, frozen=True):
    """A ring that was claimed and is not settled: its claim (JSON, as sent), up to where it covers,
    and how many calls were made of it.
    """

    claim: str
    upto: Cut
    attempt: int

    def __repr__(self) -> str:
        return f"RingInHand(upto={self.upto}, attempt={self.attempt})"


class Answered(msgspec.Struct, frozen=True):
    """What a customer backend last answered for a device, as a verdict, and when."""

    verdict: str
    at: float


class Device(msgspec.Struct, frozen=True):
    """One registration: an installation's device token and how far it has been rung.

    What is before `covered` changes when the app registers or the token dies, and lies in a table
    of its own; what is from there on, with each push.
    `token` is the token itself; `sealed` is how it is stored, if not as it is.
    It has been rung up to `covered`, and from there is what its `ring` in hand covers. `owes` says
    that a look is wanted, `wake_at` when, `owed_ord` up to which counted message a fan-out asked
    for. `quiet_end` is when the quiet hours end that it was last found in. `badge` is the highest
    number that its icon may show: it was told it last, or that was tried since. `unrung` is why it
    was last not rung for some of what it covers.
    """

    id: int
    installation: str
    token: str
    generation: int
    registered_at: float
    platform: str | None = None
    app: str | None = None
    environment: str | None = None
    locale: str | None = None
    time_zone: str | None = None
    state: DeviceState = DeviceState.LIVE
    state_at: float | None = None
    sealed: Sealed | None = None
    covered: Cut = BEGINNING
    badge: int | None = None
    owes: bool = False
    owed_ord: int = 0
    wake_at: float | None = None
    quiet_end: float | None = None
    ring: RingInHand | None = None
    answered: Answered | None = None
    unrung: str | None = None

    @property
    def found_by(self) -> str:
        """What this registration's token is found by, within its tenant."""
        return self.token if self.sealed is None else self.sealed.lookup

    @property
    def live(self) -> bool:
        return self.state is _LIVE

    @property
    def waits_for_morning(self) -> bool:
        """Whether it waits for the end of quiet hours: no other wait ends at that very moment."""
        return self.wake_at is not None and self.wake_at == self.quiet_end

    @property
    def rung_to(self) -> Cut:
        """Up to where it will have been rung once its ring in hand, if any, is settled."""
        held = self.ring
        return self.covered if held is None or held.upto < self.covered else held.upto

    def __repr__(self) -> str:
        return f"Device(id={self.id}, generation={self.generation}, state={self.state})"


class Conversation(msgspec.Struct, frozen=True):
    """A customer's row with all that decisions need: cursors, due times, devices, open outcomes.

    `settled` holds the spans, neither pending nor acked, that reach beyond the last acked message.
    """

    id: int
    key: Key
    name: str | None = None
    live: bool = False
    unanswered_since: float | None = None
    last_seq: int = 0
    last_ord: int = 0
    last_said: int = 0
    acked_seq: int = 0
    acked_ord: int = 0
    read_seq: int = 0
    read_ord: int = 0
    agent_acked_seq: int = 0
    agent_acked_said: int = 0
    agent_read_seq: int = 0
    agent_read_said: int = 0
    badge_seq: int = 0
    push_due_at: float | None = None
    hold_from: float | None = None
    expires_at: float | None = None
    updated_at: float = 0.0
    last_event: int = 0
    settled: tuple[Span, ...] = ()
    devices: tuple[Device, ...] = ()
    newest: Message | None = None
    newest_counted: Message | None = None
    wishes: Wishes | None = None

    @property
    def tenant(self) -> str:
        return self.key.tenant

    @property
    def customer(self) -> str:
        return self.key.customer

    @property
    def last(self) -> Cut:
        return named(Cut, (self.last_seq, self.last_ord))

    @property
    def acked(self) -> Cut:
        return named(Cut, (self.acked_seq, self.acked_ord))

    @property
    def unread(self) -> int:
        """Counted messages after the customer's read mark (I5)."""
        return self.last_ord - self.read_ord

    @property
    def waiting(self) -> int:
        """The customer's messages after the agents' shared read mark."""
        return self.last_said - self.agent_read_said

    @property
    def live_devices(self) -> tuple[Device, ...]:
        return tuple([d for d in self.devices if d.live])

    def is_expiring(self, now: float) -> bool:
        """Whether the time of some of what is pending has come."""
        return self.expires_at is not None and self.expires_at <= now

    def left_from(self, device: Device) -> int:
        """The first place that is neither acknowledged nor covered on `device`."""
        covered = device.covered.seq
        return (covered if covered > self.acked_seq else self.acked_seq) + 1

    def done_ord(self, device: Device) -> int:
        """How many counted messages are acknowledged, or covered on `device`."""
        covered = device.covered.ord
        return covered if covered > self.acked_ord else self.acked_ord

    def device(self, id: int) -> Device | None:
        for device in self.devices:
            if device.id == id:
                return device
        return None

    def with_device(self, device: Device) -> Conversation:
        """This conversation with `device` in the place of the registration of the same id."""
        devices = list(self.devices)
        for at, registered in enumerate(devices):
            if registered.id == device.id:
                devices[at] = device
                break
        else:
            devices.append(device)
        return msgspec.structs.replace(self, devices=tuple(devices))

    def without_device(self, id: int) -> Conversation:
        return msgspec.structs.replace(self, devices=tuple(d for d in self.devices if d.id != id))


class Detail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What else is recorded of an event, as its name has it; what is None is not told."""

    ring: str | None = None
    kind: str | None = None
    unread: int | None = None
    action: str | None = None
    outcome: str | None = None
    was: str | None = None
    verdict: str | None = None
    reason: str | None = None
    status: int | None = None
    attempt: int | None = None
    ms: float | None = None
    until: str | None = None
    device: str | None = None
    session: str | None = None
    installation: str | None = None


class Event(msgspec.Struct, frozen=True):
    """One recorded fact about the counted messages from `from_seq` to `seq`. `detail` is JSON."""

    conversation: int
    from_seq: int
    seq: int
    at: float
    event: str
    detail: str | None = None

    @property
    def details(self) -> dict[str, Any]:
        """What `detail` says."""
        told: dict[str, Any] = orjson.loads(self.detail or "{}")
        return told
