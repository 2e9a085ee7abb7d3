"""Which messages a device is to be rung for, from the conversation as the writer sees it.

Decides what of a backlog is neither acknowledged, expired, given up nor against the customer's
wishes; only where the newest message says too little are the others looked at.
Leaves to others: whether it is rung for now (`gateway.delivery`), and the claim.
"""

from __future__ import annotations

import msgspec

from gateway.delivery import Patience, Reason
from gateway.wishes import is_unwanted
from storage import outcomes
from storage.records import PENDING, UNDELIVERABLE, Conversation, Cut, Device, DeviceState, Message
from storage.transaction import Transaction


class Wanted(msgspec.Struct, frozen=True):
    """The newest message to ring for, and how far a ring for it covers.

    `unwanted` are the messages for which the customer does not want to be rung; if there are no
    others, `upto` is how far all are known to be such. `due_at` is when the first will be due
    (epoch seconds), if none is yet; `due` is up to where all are due, if not all are.
    """

    newest: Message | None = None
    upto: Cut | None = None
    unwanted: tuple[Message, ...] = ()
    due_at: float | None = None
    due: Cut | None = None


def to_ring(tx: Transaction, c: Conversation, device: Device, patience: Patience | None) -> Wanted:
    """What the device was not rung for, has not expired or been given up, and the customer wants to
    be rung for.

    There is `patience` in chat, and within a grace. What is due takes along what is not due yet;
    but if all that a fan-out asked for has expired, nothing is rung for what came after it.
    """
    newest = c.newest_counted
    behind = c.done_ord(device)
    if newest is None or newest.ord <= behind:
        return Wanted()
    if patience is None and not _sees_each(c, device, newest, tx.now):  # then all was asked for
        return Wanted(newest, c.last)
    fresh = [m for m in tx.unacked(c) if m.ord > behind and _may_ring(tx, c, m)]
    unwanted = tuple(m for m in fresh if is_unwanted(c.wishes, m.kind))
    wanted = [m for m in fresh if not is_unwanted(c.wishes, m.kind)]
    if wanted and wanted[0].ord > device.owed_ord:
        later = next(m for m in fresh if m.ord > device.owed_ord)
        asked = [m for m in fresh if m.ord <= device.owed_ord]
        due_at, due = _due(asked, asked, tx.now, patience)
        return Wanted(None, _read_upto(tx, c, behind), tuple(asked), due_at, due or later.before)
    due_at, due = _due(wanted or fresh, fresh, tx.now, patience)
    if not wanted:
        return Wanted(None, _read_upto(tx, c, behind), unwanted, due_at, due)
    if due is not None:  # what nobody rings for may still be acknowledged in time
        settled = max(wanted[-1].ord, due.ord)
        unwanted = tuple(m for m in unwanted if m.ord <= settled)
    after = sum(m.ord > wanted[-1].ord for m in unwanted)
    upto = c.last if wanted[-1].ord + after == c.last_ord else wanted[-1].cut
    return Wanted(wanted[-1], upto, unwanted, due_at, due)


def due_by_itself(tx: Transaction, c: Conversation, patience: Patience | None) -> float | None:
    """When the oldest pending message will be due (epoch seconds), if it is not yet: what a due
    time was set for may be acknowledged by now, or have expired.
    """
    if patience is None:
        return None
    pending = [m for m in tx.unacked(c) if outcomes.outcome(c, m) is PENDING]
    return _due(pending, pending, tx.now, patience)[0]


def _may_ring(tx: Transaction, c: Conversation, m: Message) -> bool:
    """Whether anybody may be rung for it: it has not expired, nor was it given up."""
    return not m.has_expired(tx.now) and outcomes.outcome(c, m) is not UNDELIVERABLE


def _due(
    asked: list[Message], fresh: list[Message], now: float, patience: Patience | None
) -> tuple[float | None, Cut | None]:
    """`Wanted.due_at`, of those `asked` for, and `Wanted.due`, of all that is `fresh`."""
    if patience is None:
        return None, None
    # One of the future: the clock was set back meanwhile, and it is not waited for that long.
    first = next((m for m in fresh if m.at <= now < patience.ends(m.at)), None)
    if first is None:
        return None, None
    due_at = patience.ends(asked[0].at) if asked[0].ord >= first.ord else None
    return due_at, first.before


def _read_upto(tx: Transaction, c: Conversation, behind: int) -> Cut | None:
    """How far the pending messages after ord `behind` were read without a gap (`Known.UNACKED`)."""
    upto = None
    for span in outcomes.pending(c)[:1]:
        behind = max(behind, span.lo_ord)
    for m in tx.unacked(c):
        if m.ord == behind + 1:
            behind, upto = m.ord, m.cut
    return c.last if behind == c.last_ord else upto


def _sees_each(c: Conversation, device: Device, newest: Message, now: float) -> bool:
    """Whether the unacknowledged messages matter one by one: the newest says too little. With
    patience they do in any case: the oldest decides when it is time.
    """
    given_up = outcomes.outcome(c, newest) is UNDELIVERABLE
    after = device.owes and device.owed_ord < c.last_ord  # what came since the fan-out
    return newest.has_expired(now) or given_up or after or opted_out(c)


def opted_out(c: Conversation) -> bool:
    """Whether there are kinds of messages for which the customer does not want to be rung."""
    return c.wishes is not None and not c.wishes.proactive


def all_unwanted(tx: Transaction, c: Conversation, device: Device) -> bool:
    """Whether the ring in hand covers only what the customer does not want to be rung for, beside
    what nobody may be rung for any more.

    Of very many unacknowledged messages not all are read: what is not known is wanted.
    """
    if not opted_out(c):
        return False
    behind = c.done_ord(device)
    covered = [m for m in tx.unacked(c) if behind < m.ord <= device.rung_to.ord]
    whole = len(covered) == device.rung_to.ord - behind
    return whole and all(is_unwanted(c.wishes, m.kind) for m in covered if _may_ring(tx, c, m))


def no_live_device(c: Conversation) -> Reason:
    """Why the customer has no registration that may be rung."""
    states = {device.state for device in c.devices}
    if DeviceState.QUARANTINED in states:
        return Reason.QUARANTINED
    return Reason.TOKEN_DEAD if states else Reason.NO_DEVICE
