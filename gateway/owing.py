"""Owing: from a time in a conversation's row to what is owed, or to an outcome without a ring.

Theory of operation. When a due time comes (`come_due`), every device that is behind owes a ring
from then on (rule 6); what has expired, or has no device left that could be rung for it, gets that
outcome. What a device that owes is rung for, and whether, is in `gateway.ringing`. Everything here
is a part of one change of the writer: it judges and writes a `Transaction`, and tells of it only
after the commit. Nothing here knows of alarms, of the worker, or of what is being called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from gateway import delivery
from gateway.context import Context, due_moved
from gateway.delivery import Action, Decision, Reason
from gateway.protocol import ReceiptState
from gateway.wanted import due_by_itself, no_live_device
from push.backends import Backend, choose
from push.ring import Ring
from storage import outcomes
from storage.outcomes import Move, Trigger
from storage.records import (
    PENDING,
    Conversation,
    Cut,
    Detail,
    Device,
    Message,
    Outcome,
    RingInHand,
    fingerprint,
)
from storage.transaction import Transaction

replace = msgspec.structs.replace

UNRUNG = (Reason.OPTED_OUT, Reason.MUTED, Reason.NO_DEVICE, Reason.REFUSED)
"""Why a device may be left unrung for good. A later one speaks for more: an opt-out is of one kind
of message, a mute of one time, and who passed by what had been given up was not asked at all."""
AGAIN = 1.0  # seconds until what one change could not look at is looked at


class Owing:
    """What is owed to whom. No state of its own beyond what it was given."""

    def __init__(self, context: Context, decided: Callable[[str, Decision], None]) -> None:
        """`decided` is told of every decision of a look, and whose tenant's it is."""
        self._context = context
        self._decided = decided

    # What has become due

    def come_due(self, tx: Transaction, c: Conversation) -> Conversation:
        """Do what the times in the row say by now: expire, fan out; and mend what cannot be."""
        if c.is_expiring(tx.now):
            c = self.expire(tx, c)
        due = c.push_due_at
        if due is not None and due <= tx.now:
            c = self._fan_out(tx, c)
        elif due is not None:
            near = delivery.within_reason(due, tx.now, self._context.timing)
            if near != due:
                c = tx.put(replace(c, push_due_at=near))
        c = self.settle_undeliverable(tx, self._give_up(tx, c))
        return self._bring_near(tx, self._correct_icons(tx, c))

    def expire(self, tx: Transaction, c: Conversation) -> Conversation:
        """Settle what has passed its time, and find out when the next will."""
        waiting = [
            (m, m.expires_at)
            for m in tx.unacked(c)
            if m.expires_at is not None and outcomes.outcome(c, m) is PENDING
        ]
        for first, last in outcomes.runs([m for m, at in waiting if at <= tx.now]):
            reason = Reason.EXPIRED.value
            c, _ = self.move(tx, c, first.before, last.cut, Trigger.EXPIRY, reason)
        left = [(m, at) for m, at in waiting if at > tx.now]
        nearest = min((at for _, at in left), default=None)
        pending = outcomes.pending(c)
        if pending and not any(m.ord == pending[0].lo_ord + 1 for m in tx.unacked(c)):
            nearest = tx.now  # beyond what one change looks at (`Known.UNACKED`): the next does
        elif pending and nearest is None:
            nearest = tx.now + AGAIN
        return tx.put(replace(c, expires_at=nearest))

    def _fan_out(self, tx: Transaction, c: Conversation) -> Conversation:
        """Every live device that is behind owes a ring from now on (rule 6): once something is due
        by itself, else nothing is given up either."""
        waiting = outcomes.pending(c)
        if not waiting:
            return tx.put(replace(c, push_due_at=None))
        in_chat = self._context.hub.is_in_chat(c.key)
        patience = self._context.patience(c.key, tx.now, in_chat=in_chat)
        later = due_by_itself(tx, c, patience)
        if later is not None:
            due_moved(tx, c, Reason.IN_CHAT if in_chat else Reason.LEFT, later)
            return tx.put(replace(c, push_due_at=later))
        first, last = waiting[0].lo_seq + 1, waiting[-1].hi_seq
        tx.event(c, first, last, "due", Detail(reason=delivery.UNHEARD[in_chat]))
        devices = tuple([_owing(device, c.last_ord, tx.now) for device in c.devices])
        return tx.put(replace(c, push_due_at=None, devices=devices))

    def settle_undeliverable(self, tx: Transaction, c: Conversation) -> Conversation:
        """Pending messages for which no device is left that is not settled become undeliverable;
        what has expired meanwhile has expired.

        The reason is why a device that is left was not rung, or why there is none. A device that is
        behind, and that nothing would lead to, counts as just registered: its backend may be new,
        or there were more messages than one look sees.
        """
        if c.is_expiring(tx.now):
            c = self.expire(tx, c)
        waiting = outcomes.pending(c)
        if not waiting:
            return c
        settled, tenant = waiting[0].lo, c.key.tenant
        c = _hold_the_rest(tx, c, settled)
        if tenant not in self._context.tenants:  # judged when it is configured again
            return c if c.push_due_at is not None else tx.put(replace(c, push_due_at=tx.now))
        live = [d for d in c.devices if d.live and self.backend(tenant, d) is not None]
        if live:
            behind = [device for device in live if device.covered <= settled]
            if behind:
                not_led_to = [device for device in behind if not device.owes and not device.ring]
                if c.push_due_at is None and not_led_to:
                    due = tx.now + self._context.timing.ack_timeout
                    c = tx.put(replace(c, push_due_at=due))
                return c
            upto = min(device.covered for device in live)
            reasons = [Reason(device.unrung) for device in live if device.unrung is not None]
            reason = max(reasons, key=UNRUNG.index, default=Reason.NO_DEVICE).value
        elif any(device.ring is not None for device in c.live_devices):
            return c  # it is out to a backend that is gone since: its answer decides
        elif c.push_due_at is None:
            upto = c.last
            lacking = bool(self._context.rules(tenant).backends) and not c.live_devices
            reason = (no_live_device(c) if lacking else Reason.NO_ENDPOINT).value
        else:
            return c
        c, moves = self.move(tx, c, Cut(0, 0), upto, Trigger.NO_DEVICE_LEFT, reason)
        return self.settle_undeliverable(tx, c) if moves else c  # what is left needs somebody too

    def _give_up(self, tx: Transaction, c: Conversation) -> Conversation:
        """Whose endpoint was taken out of the configuration: nothing is owed to it any more.

        A call that is out ends first: what the endpoint accepts has rung.
        """
        waiting = [
            device
            for device in c.devices
            if device.wake_at is not None and self.backend(c.key.tenant, device) is None
            if not self._context.is_calling(device)
        ]
        for device in waiting:
            self._no_endpoint(tx, c, device)
            c = c.with_device(idle(device))
        return tx.put(c) if waiting else c

    def _correct_icons(self, tx: Transaction, c: Conversation) -> Conversation:
        """What was read while a phone had no backend that could tell it corrects the number on its
        icon now that it has one (rule 8)."""
        before = c
        for device in c.devices:
            if device.badge is None or device.badge <= c.unread or device.wake_at is not None:
                continue
            backend = self.backend(c.tenant, device) if device.live else None
            if backend is not None and backend.silent:
                c = c.with_device(replace(device, owes=True, wake_at=tx.now))
        return c if c is before else tx.put(c)

    def _no_endpoint(self, tx: Transaction, c: Conversation, device: Device) -> None:
        """Record the decision not to ring a device, which no look will take."""
        if self._context.rules(c.tenant).backends:  # else the message's own reason says it
            self.looked(tx, c, device, Decision(Action.SKIP, Reason.NO_ENDPOINT), c.last_seq)

    def _bring_near(self, tx: Transaction, c: Conversation) -> Conversation:
        """No device waits for the end of quiet hours that are others by now, or, if the clock was
        set back while nobody ran, longer than it was told."""
        before = c
        for device in c.devices:
            if device.wake_at is not None and device.wake_at > tx.now:
                near = self._near(tx, c, device, device.wake_at)
                if near != device.wake_at:
                    c = c.with_device(replace(device, wake_at=near))
        return c if c is before else tx.put(c)

    def _near(self, tx: Transaction, c: Conversation, device: Device, wake_at: float) -> float:
        if not device.waits_for_morning:
            timing, backoff = self._context.timing, _backoff(device, wake_at)
            return delivery.within_reason(wake_at, tx.now, timing, backoff)
        quiet = self._context.quiet_hours_end(tx.now, c, device)
        return wake_at if quiet == wake_at else self._at_once(tx, c)

    def reconsider(self, tx: Transaction, c: Conversation) -> Conversation:
        """Wishes or zones are others: who waits for the end of quiet hours is looked at anew."""
        for device in c.devices:
            if device.waits_for_morning:
                c = c.with_device(replace(device, wake_at=self._at_once(tx, c)))
        return tx.put(c)

    def _at_once(self, tx: Transaction, c: Conversation) -> float:
        """Now, or later while a replay may be on its way (rule 5): it may just have begun."""
        if c.hold_from is None or not self._context.hub.is_in_chat(c.key):
            return tx.now
        return delivery.held(tx.now, tx.now, c.hold_from, self._context.timing)

    # Where, and who hears of it

    def looked(
        self, tx: Transaction, c: Conversation, device: Device, decision: Decision, last_seq: int
    ) -> None:
        tx.after_commit(lambda: self._decided(c.key.tenant, decision))
        from_seq = c.left_from(device)
        upto = device.ring.upto.seq if device.ring else last_seq
        tx.event(
            c,
            min(from_seq, upto),
            upto,
            "look",
            Detail(
                action=decision.action,
                reason=decision.reason,
                device=fingerprint(device.token),
                installation=device.installation,
            ),
        )

    def backend(self, tenant: str, device: Device) -> Backend | None:
        """Where the device is rung: the ring in hand by what it was claimed with."""
        told: Device | _Told = device
        if device.ring is not None:
            told = msgspec.json.decode(device.ring.claim, type=_Told)
        return choose(self._context.rules(tenant).backends, told.environment, told.app)

    def move(
        self,
        tx: Transaction,
        c: Conversation,
        lo: Cut,
        hi: Cut,
        trigger: Trigger,
        reason: str | None = None,
    ) -> tuple[Conversation, tuple[Move, ...]]:
        """`Transaction.transition`; agents hear of outcomes as receipts, after the commit. Once
        all that was pending has its outcome, nothing is due, held or about to expire.
        """
        c, moves = tx.transition(c, lo, hi, trigger, reason)
        if PENDING in [move.origin for move in moves] and not outcomes.pending(c):
            c = tx.put(replace(c, push_due_at=None, hold_from=None, expires_at=None))
        for move in moves:
            span = move.span
            state = _RECEIPTS.get(span.outcome)
            if state is not None:
                told = (c.key, span.lo_seq + 1, span.hi_seq, state, tx.now, span.reason)
                tx.after_commit(partial(self._context.tell.receipt, *told))
        return c, moves


_RECEIPTS = {
    Outcome.PUSHED: ReceiptState.PUSHED,
    Outcome.EXPIRED: ReceiptState.EXPIRED,
    Outcome.UNDELIVERABLE: ReceiptState.UNDELIVERABLE,
}


class _Told(msgspec.Struct, frozen=True):
    """Of a stored ring, its id and what the app had told by which its backend is chosen."""

    id: str
    environment: str | None = None
    app: str | None = None


def unrung(c: Conversation, device: Device, reason: Reason) -> str:
    """Why `device`, which is about to cover more for this `reason`, was not rung: the one reason
    that speaks for all that it covers then and that is still pending.
    """
    reasons = [reason]
    waiting = outcomes.pending(c)
    if device.unrung is not None and waiting and waiting[0].lo_ord < device.covered.ord:
        reasons.append(Reason(device.unrung))
    return max(reasons, key=UNRUNG.index).value


def pending_again(
    tx: Transaction, c: Conversation, messages: list[Message], trigger: Trigger
) -> Conversation:
    """`messages` (rising) that were given up are pending again. A device that passed them by
    meanwhile was not asked for them: why it was not rung for others is no reason of theirs."""
    if not messages:
        return c
    before = c
    c = tx.make_pending(c, messages, trigger)
    for device in c.devices:
        if device.covered.ord >= messages[0].ord:
            c = c.with_device(replace(device, unrung=unrung(before, device, Reason.NO_DEVICE)))
    return tx.put(c)


def _hold_the_rest(tx: Transaction, c: Conversation, settled: Cut) -> Conversation:
    """What joins held of others, which are `settled`, takes nothing from the rest (rule 5)."""
    if c.hold_from is None:
        return c
    rest = next((m.at for m in tx.unacked(c) if m.ord > settled.ord), c.hold_from)
    return c if rest <= c.hold_from else tx.put(replace(c, hold_from=rest))


def _owing(device: Device, upto: int, now: float) -> Device:
    """It owes a ring for what it is behind by up to this ord, if it may be rung."""
    if not device.live or device.rung_to.ord >= upto:
        return device
    wake = now if device.wake_at is None else device.wake_at
    return replace(device, owes=True, owed_ord=upto, wake_at=wake)


def claimed(held: RingInHand) -> Ring:
    """The ring as it was claimed."""
    return msgspec.json.decode(held.claim, type=Ring)


def claimed_id(held: RingInHand) -> str:
    """Its id alone: that takes half as long."""
    return msgspec.json.decode(held.claim, type=_Told).id


def _backoff(device: Device, wake_at: float) -> float:
    """How long the ring in hand was told to wait after its last verdict; 0 without one."""
    if device.ring is None:
        return 0.0
    answered = device.answered.at if device.answered else 0.0
    return wake_at - max(claimed(device.ring).claimed_at, answered)


def idle(device: Device) -> Device:
    """Nothing is owed to it any more: a later look for the number on the icon rings for none of
    it."""
    return replace(device, ring=None, owes=False, owed_ord=device.covered.ord, wake_at=None)
