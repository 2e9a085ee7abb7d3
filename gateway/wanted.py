"""Which messages a device is to be rung for, from the conversation as the writer sees it.

Decides what of a backlog is neither acknowledged nor expired nor against the customer's wishes.
Leaves to others: whether it is rung for now (`gateway.delivery`), and the claim.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.wishes import is_unwanted
from storage import outcomes
from storage.records import Conversation, Cut, Device, Message
from storage.transaction import Transaction


class Wanted(NamedTuple):
    """The newest message to ring for, and how far a ring for it covers.

    `unwanted` are messages for which the customer does not want to be rung; with nothing else,
    `upto` is how far all are known to be that.
    """

    newest: Message | None = None
    upto: Cut | None = None
    unwanted: tuple[Message, ...] = ()


def to_ring(tx: Transaction, c: Conversation, device: Device) -> Wanted:
    """What the device was not rung for, has not expired, and the customer wants to be rung for.

    What is not due yet is taken along; by itself it is no reason to ring.
    """
    newest = c.newest_counted
    behind = max(device.covered_ord, c.acked_ord)
    if newest is None or newest.ord <= behind:
        return Wanted()
    if not sees_each(c, tx.now):
        return Wanted(newest, c.last)
    fresh = [
        m
        for m in tx.unacked(c)
        if m.ord > behind and (m.expires_at is None or m.expires_at > tx.now)
    ]
    unwanted = tuple(m for m in fresh if is_unwanted(c.wishes, m.kind))
    wanted = [m for m in fresh if not is_unwanted(c.wishes, m.kind)]
    if wanted and wanted[0].ord > device.owed_ord:
        owed = tuple(m for m in unwanted if m.ord <= device.owed_ord)
        return Wanted(None, owed[-1].cut if owed else None, owed)
    if not wanted:
        return Wanted(None, _read_upto(tx, c, behind), unwanted)
    after = sum(m.ord > wanted[-1].ord for m in unwanted)
    upto = c.last if wanted[-1].ord + after == c.last_ord else wanted[-1].cut
    return Wanted(wanted[-1], upto, unwanted)


def _read_upto(tx: Transaction, c: Conversation, behind: int) -> Cut:
    """How far the pending messages after ord `behind` were read without a gap (`Store.UNACKED`)."""
    upto = None
    for span in outcomes.pending(c)[:1]:
        behind = max(behind, span.lo_ord)
    for m in tx.unacked(c):
        if m.ord == behind + 1:
            behind, upto = m.ord, m.cut
    return c.last if upto is None or behind == c.last_ord else upto


def sees_each(c: Conversation, now: float) -> bool:
    """Whether `to_ring` needs the unacknowledged messages one by one: the newest says too little.

    Asked before the look, to have them read, and again when it is judged: time has passed.
    """
    newest = c.newest_counted
    expired = newest is None or (newest.expires_at is not None and newest.expires_at <= now)
    return expired or opted_out(c) or any(d.owes and d.owed_ord < c.last_ord for d in c.devices)


def opted_out(c: Conversation) -> bool:
    """Whether there are kinds of messages for which the customer does not want to be rung."""
    return c.wishes is not None and not c.wishes.proactive


def all_unwanted(tx: Transaction, c: Conversation, device: Device) -> bool:
    """Whether the ring in hand covers only what the customer does not want to be rung for.

    Of very many unacknowledged messages not all are read: what is not known is wanted.
    """
    if not opted_out(c):
        return False
    behind = max(device.covered_ord, c.acked_ord)
    covered = [m for m in tx.unacked(c) if behind < m.ord <= device.ring_ord]
    whole = len(covered) == device.ring_ord - behind
    return whole and all(is_unwanted(c.wishes, m.kind) for m in covered)
