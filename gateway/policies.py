"""Policies: which devices a message rings, judged from what is known of one message and one device.

Only `default` rings anybody: the delivery rule of `gateway.delivery` and `gateway.ringing` is that
policy, spread over due times and looks. Here it stands beside the others as one function of facts,
so that `ringback why --policy` can say what another would have decided, and a test that `default`
agrees with what really happened. Gathering the facts is left to `gateway.dryrun`.

| policy | a device is spared when |
|---|---|
| `default` | the message was acknowledged in chat, on whatever device |
| `per_device` | this very installation acknowledged it |
| `unread_after` | it was read (acknowledging is not enough) within some seconds |
| `background_only` | it was acknowledged, or the chat was open at the moment of judging |
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.delivery import UNHEARD, Action, Decision, Reason

UNREAD_AFTER = 60.0  # seconds after the commit when `unread_after` judges, unless told otherwise
AFTER_MOST = 2**31  # of those that it may be told


class Policy(StrEnum):
    """The policies by name."""

    DEFAULT = "default"
    PER_DEVICE = "per_device"
    UNREAD_AFTER = "unread_after"
    BACKGROUND_ONLY = "background_only"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was known of a message and a device when the policy judged, or is known so far."""

    endpoint: bool = True
    unringable: Reason | None = None  # why the device could not be rung then, if so
    judged: bool = True  # the moment of judging has come
    in_chat: bool = False  # some session of the customer had the chat on screen
    acked: bool = False  # by any session that counts
    acked_here: bool = False  # by a session of this installation
    read: bool = False
    expired: bool = False


def decide(policy: Policy, facts: Facts) -> Decision:
    """`RING`, `SKIP` or, as long as nothing has decided it, `WAIT`."""
    if not facts.endpoint:
        return Decision(Action.SKIP, Reason.NO_ENDPOINT)
    if facts.unringable is not None:
        return Decision(Action.SKIP, facts.unringable)
    spared = _spared(policy, facts)
    if spared is not None:
        return Decision(Action.SKIP, spared)
    if not facts.judged:
        return Decision(Action.WAIT, Reason.IN_CHAT if facts.in_chat else Reason.NOT_IN_CHAT)
    if facts.expired:
        return Decision(Action.SKIP, Reason.EXPIRED)
    return Decision(Action.RING, _why(policy, facts))


def _spared(policy: Policy, facts: Facts) -> Reason | None:
    """Why this device stays silent though it could be rung; None if it does not."""
    received = Reason.READ if facts.read else Reason.ACKED if facts.acked else None
    match policy:
        case Policy.DEFAULT:
            return received
        case Policy.PER_DEVICE:
            return Reason.ACKED_HERE if facts.acked_here else None
        case Policy.UNREAD_AFTER:
            return Reason.READ if facts.read else None
        case _:
            return received or (Reason.IN_CHAT if facts.judged and facts.in_chat else None)


def _why(policy: Policy, facts: Facts) -> Reason:
    if policy is Policy.UNREAD_AFTER:
        return Reason.UNREAD
    if facts.acked:  # only `per_device` comes here with a message that was acknowledged
        return Reason.ACKED_ELSEWHERE
    return UNHEARD[facts.in_chat]
