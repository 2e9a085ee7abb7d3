"""The delivery rule: when a push is due, where a message goes, what a look at a device decides.

Theory of operation. Everything here is a function of facts: no clock, no socket, no database. The
writer gathers the facts at the moment of judgement and keeps what comes back, with its reason, so
that every decision can be told later. One due time per customer and one wake time per device carry
all pending pushes; a backlog therefore coalesces by itself::

    commit ──> due (ack_timeout in chat, at once or after a grace otherwise)
                │ ack, read: later, or never     leave: earlier     join: held, at most max_hold
                v
             fan-out: every live device that is behind owes a ring
                v
             look at one device ──> claim ──> call ──> verdict
                │                     ^                  │
                │                     └──── retry ───────┘
                └─> skip, or wait (its ack timeout or a grace, quiet hours), with its reason

Outcomes and their transitions are in `storage.outcomes`; who is in chat is known by `gateway.hub`.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from gateway.protocol import BACKOFF_FIRST, CloseCode, Route


class Reason(StrEnum):
    """Why something was decided. These words are in frames, metrics and `ringback why`."""

    IN_CHAT = "in_chat"
    NOT_IN_CHAT = "not_in_chat"
    ACK_TIMEOUT = "ack_timeout"
    NO_DEVICE = "no_device"
    NO_ENDPOINT = "no_endpoint"
    TOKEN_DEAD = "token_dead"  # noqa: S105
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    EXPIRED = "expired"
    ACKED = "acked"
    READ = "read"
    READ_ELSEWHERE = "read_elsewhere"
    SUPERSEDED = "superseded"
    HELD = "held"
    RETRY = "retry"
    LEFT = "left"
    ACKED_HERE = "acked_here"
    ACKED_ELSEWHERE = "acked_elsewhere"
    UNREAD = "unread"
    ENDPOINT_DOWN = "endpoint_down"
    SUSPENDED = "suspended"
    MUTED = "muted"
    OPTED_OUT = "opted_out"
    QUIET_HOURS = "quiet_hours"


WISHES = frozenset({Reason.MUTED, Reason.OPTED_OUT})
"""The customer's own wishes: what is not rung for one of them is settled, and no failure."""
PAUSES = frozenset({Reason.ENDPOINT_DOWN, Reason.SUSPENDED})
"""Why an endpoint is not called at present."""
UNHEARD = {True: Reason.ACK_TIMEOUT, False: Reason.NOT_IN_CHAT}
"""Why a push is wanted, by whether the customer is in chat."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The delays of the rule, in seconds."""

    ack_timeout: float
    disconnect_grace: float
    restart_window: float
    restart_grace: float
    max_hold: float


class Patience(msgspec.Struct, frozen=True):
    """How long a message may take to be acknowledged before it is due: so many `seconds` in chat
    (rule 1), but no longer than `until` (epoch seconds), the end of a grace (rule 4).
    """

    seconds: float
    until: float = math.inf

    def ends(self, at: float) -> float:
        """When a message of that time is due."""
        return min(at + self.seconds, self.until)


class Routing(msgspec.Struct, frozen=True):
    """Where a message goes at the moment of its commit, and why."""

    route: Route
    reason: Reason


_TO_CHAT = Routing(Route.SOCKET, Reason.IN_CHAT)


def route(
    *,
    in_chat: bool,
    endpoint: bool = False,
    live_devices: int = 0,
    otherwise: Reason = Reason.NO_DEVICE,
    unwanted: Reason | None = None,
) -> Routing:
    """Where a counted message goes now. `otherwise` says why no device is live, if none is;
    `unwanted` why the customer does not want to be rung for it, if so. For a customer in
    chat nothing else matters.
    """
    if in_chat:
        return _TO_CHAT
    if not endpoint:
        return Routing(Route.NONE, Reason.NO_ENDPOINT)
    if not live_devices:
        return Routing(Route.NONE, otherwise)
    if unwanted is not None:
        return Routing(Route.NONE, unwanted)
    return Routing(Route.PUSH, Reason.NOT_IN_CHAT)


# Due times (rules 1, 3, 4, 5)


def due_after_commit(
    standing: float | None, now: float, grace_until: float, *, in_chat: bool, ack_timeout: float
) -> float:
    """When the push for a message committed now is due. A due time that stands is not moved back.

    `grace_until` is the end of a grace or hold that may still run.
    """
    due = now + ack_timeout if in_chat else max(now, grace_until)
    return due if standing is None else min(standing, due)


def due_after_ack(
    standing: float | None, oldest_unacked_at: float | None, patience: Patience | None
) -> float | None:
    """When the push is due after an ack; `oldest_unacked_at` is None when nothing is left.

    A due time that a hold moved stands: an ack in the midst of a replay makes nothing due earlier.
    Without `patience` none is moved: a part was read by somebody who is not in chat.
    """
    if standing is None or oldest_unacked_at is None:
        return None
    return standing if patience is None else max(standing, patience.ends(oldest_unacked_at))


def due_after_leaving(standing: float | None, now: float, grace: float) -> float | None:
    """When the push is due after the last active session ended or went to the background."""
    return None if standing is None else min(standing, now + grace)


def held(time: float, now: float, hold_from: float, timing: Timing) -> float:
    """`time` moved so that nobody is rung while a replay is on its way, within `max_hold`."""
    return max(time, min(now + timing.ack_timeout, hold_from + timing.max_hold))


def within_reason(due: float, now: float, timing: Timing, backoff: float = 0.0) -> float:
    """`due`, unless no rule could have set it so late: then the clock was set back meanwhile.

    `backoff` is how long a ring in hand was told to wait when it last failed.
    """
    longest = max(timing.ack_timeout, timing.max_hold, timing.disconnect_grace + BACKOFF_FIRST)
    return min(due, now + max(longest, timing.restart_grace, backoff))


def grace_after(code: int | None, timing: Timing) -> float:
    """How long a customer whose socket closed with `code` may take to come back unrung."""
    if code in (CloseCode.GOODBYE, CloseCode.SIGNED_OUT):
        return 0.0
    if code == CloseCode.RESTART:
        return timing.restart_window
    if code in (CloseCode.SLOW_READER, CloseCode.TOKEN_EXPIRED, CloseCode.SERVER_FAULT):
        return timing.disconnect_grace + BACKOFF_FIRST
    return timing.disconnect_grace


# The look (rules 7 and 8)


class Action(StrEnum):
    """What a look at a device leads to."""

    RING = "ring"
    BADGE = "badge"
    RETRY = "retry"
    CANCEL = "cancel"
    SKIP = "skip"
    WAIT = "wait"


class InHand(msgspec.Struct, frozen=True):
    """The facts about a ring that was claimed and not settled."""

    silent: bool
    acked: bool = False
    read: bool = False
    expired: bool = False
    taken: bool = True  # a badge ring's backend has silent rings
    current: bool = True  # a badge ring still tells the present number
    unwanted: bool = False  # it is for nothing but proactive messages, and they are not wanted


class Facts(msgspec.Struct, frozen=True):
    """What a look judges, all taken from the state just committed."""

    endpoint: bool = True
    live: bool = True
    early: bool = False  # a join moved the wake time after the look was asked for
    in_chat: bool = False
    in_hand: InHand | None = None
    behind: int = 0  # counted messages neither acked nor covered by an earlier ring
    all_expired: bool = False
    too_soon: bool = False  # all that it would be rung for may be acknowledged in time (`Patience`)
    all_read: bool = False
    badge_is_high: bool = False  # the device was told more unread than there are now
    paused: Reason | None = None  # why the endpoint is not called at present
    muted: bool = False  # by the customer, for now
    unwanted: bool = False  # all that has not expired is proactive, and the customer opted out
    quiet: bool = False  # these are quiet hours where the customer is


class Decision(msgspec.Struct, frozen=True):
    """The answer to a look."""

    action: Action
    reason: Reason


def look(facts: Facts) -> Decision:
    """What to do about one device now. A ring in hand may only be repeated or cancelled.

    While the endpoint is paused, what would go out waits; all else is decided as ever.
    """
    decision = _look(facts)
    if facts.paused is not None and decision.action in _GOES_OUT:
        return Decision(Action.WAIT, facts.paused)
    return decision


_GOES_OUT = (Action.RING, Action.BADGE, Action.RETRY)
_RING = {in_chat: Decision(Action.RING, why) for in_chat, why in UNHEARD.items()}


def _look(facts: Facts) -> Decision:
    if not facts.live:
        return Decision(Action.SKIP, Reason.TOKEN_DEAD)
    if not facts.endpoint:
        return Decision(Action.SKIP, Reason.NO_ENDPOINT)
    if facts.early:
        return Decision(Action.WAIT, Reason.HELD)
    if facts.in_hand is not None:
        return _look_again(facts.in_hand, facts)
    if facts.behind and not facts.all_expired:
        if facts.too_soon:
            return Decision(Action.WAIT, Reason.IN_CHAT if facts.in_chat else Reason.LEFT)
        wished = _wished(facts, facts.unwanted)
        if wished is not None:
            return Decision(Action.SKIP, wished)
        if facts.quiet:
            return Decision(Action.WAIT, Reason.QUIET_HOURS)
        return _RING[facts.in_chat]
    if facts.badge_is_high:
        return Decision(Action.BADGE, Reason.READ_ELSEWHERE)
    if facts.behind:
        return Decision(Action.SKIP, Reason.EXPIRED)
    return Decision(Action.SKIP, Reason.READ if facts.all_read else Reason.ACKED)


def _wished(facts: Facts, unwanted: bool) -> Reason | None:
    """The wish for which the device is not rung at all: then nothing is owed any more."""
    if facts.muted:
        return Reason.MUTED
    return Reason.OPTED_OUT if unwanted else None


def _look_again(ring: InHand, facts: Facts) -> Decision:
    if ring.read:
        return Decision(Action.CANCEL, Reason.READ)
    if ring.acked:
        return Decision(Action.CANCEL, Reason.ACKED)
    if ring.expired:
        return Decision(Action.CANCEL, Reason.EXPIRED)
    if ring.silent:
        if not ring.taken:
            return Decision(Action.CANCEL, Reason.NO_ENDPOINT)
        if ring.current:
            return Decision(Action.RETRY, Reason.RETRY)
        return Decision(Action.CANCEL, Reason.SUPERSEDED)
    wished = _wished(facts, ring.unwanted)
    if wished is not None:
        return Decision(Action.CANCEL, wished)
    if facts.quiet:
        return Decision(Action.WAIT, Reason.QUIET_HOURS)
    return Decision(Action.RETRY, Reason.RETRY)
