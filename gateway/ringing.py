"""Ringing: what may become of a device that owes a ring, from the look to the verdict.

Theory of operation. A device owes a ring from a fan-out on (`gateway.owing`). When its time has
come it is looked at (`judge`): the facts are gathered, `gateway.delivery` decides, and the decision
is carried out as a claim, a skip or a cancel. What a call came to is written by `settle`.
Everything here is a part of one change of the writer, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from gateway import delivery
from gateway.context import Context
from gateway.delivery import PAUSES, WISHES, Action, Facts, InHand, Reason
from gateway.owing import AGAIN, Owing, claimed, claimed_id, idle, unrung
from gateway.wanted import Wanted, all_unwanted, to_ring
from gateway.wishes import is_muted
from push import content
from push.backends import Backend
from push.ring import (
    ACCEPTED,
    BADGE,
    MESSAGE,
    PROACTIVE,
    Attempt,
    Claim,
    DeviceRef,
    Pause,
    Ring,
    Target,
    VerdictKind,
)
from storage import outcomes
from storage.deadletters import Cause, DeadLetter, dead_letter_put
from storage.outcomes import Trigger
from storage.records import (
    Answered,
    Conversation,
    Cut,
    Detail,
    Device,
    DeviceState,
    Key,
    Message,
    Outcome,
    RingInHand,
    fingerprint,
)
from storage.transaction import Transaction

replace = msgspec.structs.replace


class Ringing:
    """The changes of devices that owe a ring. No state of its own beyond what it was given."""

    def __init__(
        self,
        context: Context,
        owing: Owing,
        buried: Callable[[str, Cause], None],
        rejected: Callable[[str, DeviceState], None],
    ) -> None:
        """`buried` is told of every ring that is given up: whose tenant's it was, and why;
        `rejected` of every registration whose token is dead, and what became of it."""
        self._context = context
        self._owing = owing
        self._buried = buried
        self._rejected = rejected

    # The look and the claim

    def judge(
        self,
        tx: Transaction,
        c: Conversation,
        device: Device,
        ref: DeviceRef,
        pause: Pause | None,
    ) -> Claim | Pause | None:
        """Look at one device now (rule 7): the claim, or None and in its row what is next; `pause`
        if it is what would be rung waits for.
        """
        in_chat = self._context.hub.is_in_chat(c.key)
        patience = self._context.patience(c.key, tx.now, in_chat=in_chat)
        wanted = to_ring(tx, c, device, patience)
        quiet = self._context.quiet_hours_end(tx.now, c, device)
        backend = self._owing.backend(c.key.tenant, device)
        facts = self._facts(tx, c, device, in_chat, backend, wanted, quiet, pause)
        decision = delivery.look(facts)
        if wanted.unwanted and decision.action is Action.RING:
            c = self._leave_be(tx, c, wanted.unwanted)  # first: to them the ring is none of theirs
        last_seq = c.last_seq
        if wanted.due is not None and decision.action is Action.SKIP:
            last_seq = wanted.due.seq
        self._owing.looked(tx, c, device, decision, last_seq)
        match decision.action:
            case Action.RING:
                held, ring = self._claim(tx, c, device, wanted)
            case Action.BADGE:
                held, ring = self._claim(tx, c, device, Wanted())
            case Action.RETRY:
                held = _held(device)
                held = replace(held, attempt=held.attempt + 1)
                ring = claimed(held)
                tx.put(c.with_device(replace(device, ring=held)))
            case Action.WAIT:
                if decision.reason is Reason.QUIET_HOURS:
                    tx.put(c.with_device(replace(device, wake_at=quiet, quiet_end=quiet)))
                elif decision.reason in (Reason.IN_CHAT, Reason.LEFT):
                    tx.put(c.with_device(replace(device, wake_at=wanted.due_at)))
                return pause if decision.reason in PAUSES else None
            case Action.SKIP:
                opted_out = decision.reason is Reason.OPTED_OUT
                upto = (wanted.upto or device.covered) if opted_out else c.last
                upto = min(upto, wanted.due or upto)
                self._skip(tx, c, device, decision.reason, upto, facts.badge_is_high)
                return None
            case Action.CANCEL:
                self._cancel(tx, c, device, decision.reason, facts.badge_is_high)
                return None
        return Claim(
            ref=ref,
            generation=device.generation,
            ring=ring,
            target=Target(device.token, fingerprint(device.token)),
            attempt=held.attempt,
            backend=backend.name if backend is not None else "",
            stands=partial(self._stands, c.key, device.id, device.generation),
        )

    def _stands(self, key: Key, id: int, generation: int) -> bool:
        """Whether this registration is still there, as far as the memory tells."""
        c = self._context.store.peek(key)
        device = c.device(id) if c is not None else None
        return c is None or (device is not None and device.generation == generation)

    def _facts(
        self,
        tx: Transaction,
        c: Conversation,
        device: Device,
        in_chat: bool,
        backend: Backend | None,
        wanted: Wanted,
        quiet: float | None,
        pause: Pause | None,
    ) -> Facts:
        tells_badges = backend is not None and backend.silent
        in_hand = None
        if device.ring is not None:
            ring, upto = claimed(device.ring), device.ring.upto
            silent = ring.kind is BADGE
            in_hand = InHand(
                silent=silent,
                acked=not silent and upto.ord <= c.acked_ord,
                read=not silent and upto.ord <= c.read_ord,
                expired=ring.expires_at <= tx.now,
                taken=tells_badges,
                current=ring.unread == c.unread,
                unwanted=all_unwanted(tx, c, device),
            )
        behind = device.owed_ord - c.done_ord(device)
        return Facts(
            endpoint=backend is not None,
            live=device.live,
            early=device.wake_at is None or device.wake_at > tx.now,
            in_chat=in_chat,
            in_hand=in_hand,
            behind=behind if behind > 0 else 0,
            all_expired=wanted.newest is None and not wanted.unwanted,
            too_soon=wanted.due_at is not None,
            all_read=c.read_ord == c.last_ord,
            badge_is_high=device.badge is not None and device.badge > c.unread and tells_badges,
            paused=None if pause is None else Reason(pause),
            muted=is_muted(c.wishes, tx.now),
            unwanted=wanted.newest is None,
            quiet=quiet is not None,
        )

    def _skip(
        self,
        tx: Transaction,
        c: Conversation,
        device: Device,
        reason: Reason,
        upto: Cut,
        correct: bool,
    ) -> None:
        """Do not ring: nothing is owed any more, or only the number on the icon (`correct`), which
        wakes nobody. What is skipped for a wish of the customer's is settled here for good.
        """
        if reason not in WISHES:
            # Its ring in hand, if any, is over: only a backend that is gone leads here with one.
            c = tx.put(c.with_device(idle(device)))
            if reason is Reason.EXPIRED:  # of very many it may have done so unseen
                c = self._owing.expire(tx, c)
            self._owing.settle_undeliverable(tx, c)
            return
        owes = correct or upto.ord < device.owed_ord
        wake = tx.now if correct or upto > device.covered else tx.now + AGAIN
        device = replace(
            device,
            unrung=unrung(c, device, reason),
            covered=upto,
            owes=owes,
            wake_at=wake if owes else None,
        )
        self._owing.settle_undeliverable(tx, tx.put(c.with_device(device)))

    def _leave_be(
        self, tx: Transaction, c: Conversation, unwanted: tuple[Message, ...]
    ) -> Conversation:
        """Settle messages that nobody wants to be rung for, while others are rung for.

        One that a ring in hand covers is left to it: it may have rung already.
        """
        for message in unwanted:
            if not any(d.covered.ord < message.ord <= d.rung_to.ord for d in c.live_devices):
                trigger, reason = Trigger.NO_DEVICE_LEFT, Reason.OPTED_OUT.value
                c, _ = self._owing.move(tx, c, message.before, message.cut, trigger, reason)
        return c

    def _claim(
        self, tx: Transaction, c: Conversation, device: Device, wanted: Wanted
    ) -> tuple[RingInHand, Ring]:
        """Fix device, coverage and content (rule 7). Under this id nothing changes any more."""
        newest, upto = wanted.newest, wanted.upto or device.covered
        tenant, unread = self._context.rules(c.key.tenant), c.unread
        expires_at = tx.now + tenant.expires_after
        if newest is None:  # silent: only the number
            kind, title, text, seq = BADGE, None, None, c.last_seq
        else:
            kind = PROACTIVE if newest.kind == "proactive" else MESSAGE
            words = content.words(tenant.content, newest.title, newest.text, device.locale)
            title, text, seq = words.title, words.text, newest.seq
            expires_at = newest.expires_at or expires_at
        ring = Ring(
            id=f"r_{self._context.new_id()}",
            kind=kind,
            customer=c.key.customer,
            seq=seq,
            title=title,
            text=text,
            unread=unread,
            badge_seq=c.badge_seq,
            live=c.live,
            expires_at=expires_at,
            platform=device.platform,
            app=device.app,
            environment=device.environment,
            locale=device.locale,
            installation=device.installation,
            claimed_at=tx.now,
            since=min(c.left_from(device), seq),
        )
        held = RingInHand(msgspec.json.encode(ring).decode(), upto, attempt=1)
        owes = newest is not None and device.owed_ord > upto.ord  # what nobody is rung for, say
        badge = max(device.badge or 0, unread)  # until it is taken the icon shows what it did
        device = replace(device, ring=held, badge=badge, owes=owes, wake_at=tx.now)
        # The hold of its retries is counted anew; that of what it does not cover goes on (rule 5).
        held_from = c.hold_from if newest is None and outcomes.pending(c) else None
        c = c.with_device(device)
        c = tx.put(c if c.hold_from == held_from else replace(c, hold_from=held_from))
        tx.event(
            c,
            ring.since if newest else c.last_seq,
            upto.seq if newest else c.last_seq,
            "claimed",
            Detail(ring=ring.id, kind=kind, unread=unread, device=fingerprint(device.token)),
        )
        return held, ring

    def _cancel(
        self, tx: Transaction, c: Conversation, device: Device, reason: Reason, correct: bool
    ) -> None:
        """End the ring in hand without another call; look again at once for what else is owed.

        After a wish there is no such look unless more is owed, or the number on the icon is to be
        corrected (`correct`): it would record that all is acknowledged.
        """
        if reason is Reason.EXPIRED:
            last = device.answered.verdict if device.answered else None
            self._bury(tx, c, device, Cause.EXPIRED, last, None)
        settled = reason in (Reason.ACKED, Reason.READ, *WISHES)
        covered = device.rung_to if settled else device.covered
        # What the ring covered beyond the fan-out is owed still: nothing else asks for it.
        owed = max(device.owed_ord, device.rung_to.ord)
        ended = replace(
            device, ring=None, covered=covered, owes=True, owed_ord=owed, wake_at=tx.now
        )
        ring = claimed(_held(device))
        if reason is Reason.EXPIRED and ring.kind is BADGE:  # given up: no other is to follow it
            ended = replace(ended, badge=ring.unread)
        if reason not in WISHES:
            tx.put(c.with_device(ended))
            return
        owes = correct or covered.ord < owed
        wake = tx.now if owes else None
        ended = replace(ended, owes=owes, wake_at=wake, unrung=unrung(c, device, reason))
        self._owing.settle_undeliverable(tx, tx.put(c.with_device(ended)))

    # The verdict

    def settle(
        self, tx: Transaction, c: Conversation, claim: Claim, attempt: Attempt
    ) -> Conversation:
        """Write what came of a call, unless the registration or its ring is another by now."""
        device, verdict = _called(c, claim), attempt.verdict
        silent = claim.ring.kind is BADGE
        from_seq = upto = claim.ring.seq
        if device is not None and not silent:
            from_seq, upto = max(device.covered.seq + 1, claim.ring.since), device.rung_to.seq
        tx.event(
            c,
            min(from_seq, upto),
            upto,
            "late_verdict" if device is None else "attempt",
            Detail(
                ring=claim.ring.id,
                verdict=verdict.kind,
                reason=verdict.reason,
                status=verdict.status,
                attempt=claim.attempt,
                ms=round(attempt.ms, 1),
                device=claim.target.fingerprint,
            ),
        )
        if device is None:
            return c
        device = replace(device, answered=Answered(str(verdict.kind), tx.now))
        if verdict.kind is ACCEPTED:
            return self._accepted(tx, c, device, claim.ring)
        match verdict.kind:
            case VerdictKind.RETRY | VerdictKind.MISCONFIGURED:
                wake = min(attempt.retry_at or tx.now, claim.ring.expires_at)
                # What the backend asked for outlasts the ring: what came later waits for it, too.
                wake = max(wake, attempt.at + (verdict.retry_after or 0.0))
                if self._owing.backend(c.tenant, device) is None:
                    wake = tx.now  # taken out during the call: nothing is waited for
                wake = max(wake, device.wake_at or 0.0)  # a hold stands
                return tx.put(c.with_device(replace(device, wake_at=wake)))
            case VerdictKind.TOKEN_DEAD:
                state = DeviceState.QUARANTINED if attempt.quarantine else DeviceState.DEAD
                tx.after_commit(partial(self._rejected, c.tenant, state))
                device = replace(idle(device), state=state, state_at=tx.now)
            case VerdictKind.REFUSED:
                self._bury(tx, c, device, Cause.REFUSED, verdict.reason, verdict.status)
                why = device.unrung if silent else unrung(c, device, Reason.REFUSED)
                device = replace(_over(tx, device, claim.ring), unrung=why)
        return self._owing.settle_undeliverable(tx, tx.put(c.with_device(device)))

    def _bury(
        self,
        tx: Transaction,
        c: Conversation,
        device: Device,
        cause: Cause,
        answer: str | None,
        status: int | None,
    ) -> None:
        """Write down that the ring in hand is given up. A silent one leaves nothing to replay."""
        held = _held(device)
        ring = claimed(held)
        if ring.kind is BADGE:
            return
        letter = DeadLetter(
            id=ring.id,
            tenant=c.tenant,
            customer=c.customer,
            device=device.id,
            generation=device.generation,
            installation=device.installation,
            fingerprint=fingerprint(device.token),
            kind=ring.kind.value,
            lo_seq=device.covered.seq,
            lo_ord=device.covered.ord,
            seq=held.upto.seq,
            ord=held.upto.ord,
            cause=cause,
            answer=answer,
            status=status,
            attempts=held.attempt,
            at=tx.now,
        )
        tx.also(dead_letter_put(letter))
        tx.after_commit(lambda: self._buried(c.tenant, cause))

    def _accepted(
        self, tx: Transaction, c: Conversation, device: Device, ring: Ring
    ) -> Conversation:
        over = _over(tx, device, ring)
        covered, upto = device.covered, over.covered
        c = tx.put(c.with_device(over))
        if c.is_expiring(ring.claimed_at):
            c = self._owing.expire(tx, c)  # its own turn is late
        if upto.ord > covered.ord:
            if upto.ord <= c.acked_ord:
                tx.event(c, covered.seq + 1, upto.seq, "rang_after_ack")
            else:
                c = self._pushed(tx, c, ring, covered, upto)
        return self._owing.settle_undeliverable(tx, c)

    def _pushed(
        self, tx: Transaction, c: Conversation, ring: Ring, lo: Cut, hi: Cut
    ) -> Conversation:
        """What the ring covers was pushed, but for what had expired before it was claimed.

        Of very many expired ones not all are read: what is not known had expired long ago.
        """
        pushed = [(lo, hi)]
        beyond = [span.outcome for span in c.settled if lo < span.hi]
        if beyond:  # what has its outcome keeps it, as it is recorded
            pushed = [(span.lo, span.hi) for span in outcomes.pending(c)]
            if Outcome.EXPIRED in beyond:
                pushed += [
                    (m.before, m.cut)
                    for m in tx.unacked(c)
                    if not m.has_expired(ring.claimed_at)
                    if outcomes.outcome(c, m) is Outcome.EXPIRED
                ]
            pushed = [(max(lo, begin), min(hi, end)) for begin, end in pushed]
        for begin, end in pushed:
            if begin < end:
                c, _ = self._owing.move(tx, c, begin, end, Trigger.ACCEPTANCE)
        return c


def _called(c: Conversation, claim: Claim) -> Device | None:
    """The registration that the claim was made for, if it still is, with that ring in hand."""
    device = c.device(claim.ref.device)
    if device is None or device.generation != claim.generation or device.ring is None:
        return None
    return device if claimed_id(device.ring) == claim.ring.id else None


def _over(tx: Transaction, device: Device, ring: Ring) -> Device:
    """Its `ring` in hand is settled; what came meanwhile is looked at now, or when a hold ends."""
    wake = max(tx.now, device.wake_at or 0.0) if device.owes else None
    covered = device.rung_to
    return replace(device, ring=None, covered=covered, badge=ring.unread, wake_at=wake)


def _held(device: Device) -> RingInHand:
    """The ring in hand of a device that has one."""
    assert device.ring is not None  # noqa: S101  (for mypy: who asks has looked)
    return device.ring
