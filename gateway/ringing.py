"""Ringing: what may become of a device's row, from owing a ring to its verdict.

Theory of operation. A device owes a ring from a fan-out on (`come_due`). When its time has come it
is looked at (`judge`): the facts are gathered, `gateway.delivery` decides, and the decision is
carried out as a claim, a skip or a cancel. What a call came to is written by `settle`. Everything
here is a part of one change of the writer: it judges and writes a `Transaction`, and tells of it
only after the commit. Nothing here knows of alarms, of the worker, or of what is being called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import orjson

from gateway import delivery
from gateway.context import Context
from gateway.delivery import PAUSES, WISHES, Action, Decision, Facts, InHand, Reason
from gateway.protocol import ReceiptState
from gateway.wanted import Wanted, all_unwanted, no_live_device, to_ring
from gateway.wishes import is_muted
from push import content
from push.backends import Backend, choose
from push.ring import Attempt, Claim, DeviceRef, Pause, Ring, RingKind, Target, VerdictKind
from push.verdicts import RETRY_AFTER_MOST
from storage import outcomes
from storage.deadletters import Cause, DeadLetter, dead_letter_put
from storage.outcomes import Move, Trigger
from storage.records import (
    Conversation,
    Cut,
    Device,
    DeviceState,
    Key,
    Message,
    Outcome,
    fingerprint,
)
from storage.transaction import Transaction

replace = msgspec.structs.replace

UNRUNG = (Reason.OPTED_OUT, Reason.MUTED, Reason.REFUSED)
"""Why a device may be left unrung for good. A later one speaks for more: an opt-out is of one kind
of message, a mute of one time."""
AGAIN = 1.0  # seconds until what one change could not look at is looked at


class Ringing:
    """The changes of devices that owe a ring. No state of its own beyond what it was given."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.decided: Callable[[str, Decision], None] = lambda tenant, decision: None
        """Told of every decision of a look, for the metrics."""
        self.buried: Callable[[str, Cause], None] = lambda tenant, cause: None
        """Told of every ring that was given up, for the metrics."""

    # What has become due

    def come_due(self, tx: Transaction, c: Conversation) -> Conversation:
        """Do what the times in the row say by now: expire, fan out; and mend what cannot be."""
        if c.expires_at is not None and c.expires_at <= tx.now:
            c = self._expire(tx, c)
        if c.push_due_at is not None:
            due = delivery.within_reason(c.push_due_at, tx.now, self._context.timing)
            if due != c.push_due_at:
                c = tx.put(replace(c, push_due_at=due))
            if due <= tx.now:
                c = self._fan_out(tx, c)
        return self._bring_near(tx, self.settle_undeliverable(tx, self._give_up(tx, c)))

    def _expire(self, tx: Transaction, c: Conversation) -> Conversation:
        """Settle what has passed its time, and find out when the next will."""
        spans = outcomes.pending(c)
        waiting = [
            (m, m.expires_at)
            for m in tx.unacked(c)
            if m.expires_at is not None and any(s.lo_ord < m.ord <= s.hi_ord for s in spans)
        ]
        for message, expires_at in waiting:
            if expires_at <= tx.now:
                reason = Reason.EXPIRED.value
                c, _ = self._move(tx, c, message.before, message.cut, Trigger.EXPIRY, reason)
        nearest = min((at for _, at in waiting if at > tx.now), default=None)
        if not outcomes.pending(c):
            return _nothing_left(tx, c)
        # Beyond what one change looks at (`Known.UNACKED`) there may be more: look again soon.
        return tx.put(replace(c, expires_at=nearest or tx.now + AGAIN))

    def _fan_out(self, tx: Transaction, c: Conversation) -> Conversation:
        """Every live device that is behind owes a ring from now on (rule 6)."""
        waiting = outcomes.pending(c)
        if not waiting:
            return tx.put(replace(c, push_due_at=None, hold_from=None))
        in_chat = self._context.hub.is_in_chat(c.key)
        why = Reason.ACK_TIMEOUT if in_chat else Reason.NOT_IN_CHAT
        tx.event(c, waiting[0].lo_seq + 1, waiting[-1].hi_seq, "due", reason=why)
        c = replace(c, push_due_at=None)
        for device in c.live_devices:
            if max(device.covered, device.ring_to).ord >= c.last_ord:
                continue
            wake = tx.now if device.wake_at is None else device.wake_at
            owing = replace(device, owes=True, owed_ord=c.last_ord, wake_at=wake)
            c = c.with_device(owing)
        return tx.put(c)

    def settle_undeliverable(self, tx: Transaction, c: Conversation) -> Conversation:
        """Pending messages for which no device is left that is not settled become undeliverable.

        The reason is why a device that is left was not rung, or why there is none. If there is one
        to which nothing would lead, it is as if it had just been registered: a backend for it may
        be new, or there were more messages than one look sees.
        """
        waiting = outcomes.pending(c)
        if not waiting:  # what joins held before holds nothing of what comes, or is pending again
            return c if c.hold_from is None else tx.put(replace(c, hold_from=None))
        if c.tenant not in self._context.tenants:  # judged when it is configured again
            return c if c.push_due_at is not None else tx.put(replace(c, push_due_at=tx.now))
        backends = self._context.rules(c.tenant).backends
        live = [device for device in c.live_devices if self.backend(c.tenant, device) is not None]
        if live:
            upto = min(device.covered for device in live)
            if upto <= waiting[0].lo:
                behind = [device for device in live if device.covered <= waiting[0].lo]
                led_to = all(device.owes or device.ring is not None for device in behind)
                if c.push_due_at is None and not led_to:
                    due = tx.now + self._context.timing.ack_timeout
                    c = tx.put(replace(c, push_due_at=due))
                return c
            reasons = [Reason(device.unrung) for device in live if device.unrung is not None]
            reason = max(reasons, key=UNRUNG.index, default=Reason.NO_DEVICE).value
        elif any(device.ring is not None for device in c.live_devices):
            return c  # it is out to a backend that is gone since: its answer decides
        elif c.push_due_at is None:
            upto = c.last
            lacking = bool(backends) and not c.live_devices
            reason = (no_live_device(c) if lacking else Reason.NO_ENDPOINT).value
        else:
            return c
        c, moves = self._move(tx, c, Cut(0, 0), upto, Trigger.NO_DEVICE_LEFT, reason)
        return self.settle_undeliverable(tx, c) if moves else c  # what is left needs somebody too

    def _give_up(self, tx: Transaction, c: Conversation) -> Conversation:
        """Whose endpoint was taken out of the configuration: nothing is owed to it any more.

        A call that is out ends first: what the endpoint accepts has rung.
        """
        waiting = [
            device
            for device in c.devices
            if device.wake_at is not None and self.backend(c.tenant, device) is None
            if not self._context.calling(c.key, device.id)
        ]
        for device in waiting:
            self._no_endpoint(tx, c, device)
            idle = replace(_without_ring(device, device.covered), owes=False, wake_at=None)
            c = c.with_device(idle)
        return tx.put(c) if waiting else c

    def _no_endpoint(self, tx: Transaction, c: Conversation, device: Device) -> None:
        """Record the decision not to ring a device, which no look will take."""
        if self._context.rules(c.tenant).backends:  # else the message's own reason says it
            self._looked(tx, c, device, Decision(Action.SKIP, Reason.NO_ENDPOINT), c.last)

    def _bring_near(self, tx: Transaction, c: Conversation) -> Conversation:
        """If the clock was set back while nobody ran, no device waits longer than it was told."""
        before = c
        for device in c.devices:
            if device.wake_at is not None and device.wake_at > tx.now:
                quiet = self._context.quiet_hours_end(tx.now, c, device) or 0.0
                backoff = max(_backoff(device), quiet - tx.now)
                near = delivery.within_reason(device.wake_at, tx.now, self._context.timing, backoff)
                house = self._context.houses_before.get(c.tenant)
                if house and device.wake_at == self._context.quiet_hours_end(
                    tx.now, c, device, house
                ):
                    near = self._at_once(tx, c)  # it waits for the end of hours that are others now
                if near != device.wake_at:
                    c = c.with_device(replace(device, wake_at=near))
        return c if c is before else tx.put(c)

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
        wanted = to_ring(tx, c, device, self._context.patience(c.key, tx.now))
        quiet = self._context.quiet_hours_end(tx.now, c, device)
        backend = self.backend(c.tenant, device)
        facts = self._facts(tx, c, device, backend, wanted, quiet, pause)
        decision = delivery.look(facts)
        about = wanted.due if decision.action is Action.SKIP else None
        self._looked(tx, c, device, decision, about or c.last)
        match decision.action:
            case Action.WAIT:
                if decision.reason is Reason.QUIET_HOURS:
                    tx.put(c.with_device(replace(device, wake_at=quiet)))
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
                self._cancel(tx, c, device, decision.reason)
                return None
            case Action.RETRY:
                ring = msgspec.json.decode(device.ring or "", type=Ring)
                device = replace(device, attempt=device.attempt + 1)
                tx.put(c.with_device(device))
            case Action.RING:
                c = self._leave_be(tx, c, wanted.unwanted)
                device, ring = self._claim(tx, c, device, wanted)
            case Action.BADGE:
                device, ring = self._claim(tx, c, device, Wanted())
        return Claim(
            ref=ref,
            generation=device.generation,
            ring=ring,
            target=Target(device.token, fingerprint(device.token)),
            attempt=device.attempt,
            backend=backend.name if backend is not None else "",
            stands=partial(self._stands, c.key, device.id, device.generation),
        )

    def _stands(self, key: Key, id: int, generation: int) -> bool:
        """Whether this registration is still there, as far as the memory tells."""
        c = self._context.store.peek(key)
        device = c.device(id) if c is not None else None
        return c is None or (device is not None and device.generation == generation)

    def _looked(
        self, tx: Transaction, c: Conversation, device: Device, decision: Decision, last: Cut
    ) -> None:
        tx.after_commit(lambda: self.decided(c.tenant, decision))
        from_seq = c.left_from(device)
        upto = device.ring_seq if device.ring else last.seq
        tx.event(
            c,
            min(from_seq, upto),
            upto,
            "look",
            action=decision.action,
            reason=decision.reason,
            device=fingerprint(device.token),
            installation=device.installation,
        )

    def _facts(
        self,
        tx: Transaction,
        c: Conversation,
        device: Device,
        backend: Backend | None,
        wanted: Wanted,
        quiet: float | None,
        pause: Pause | None,
    ) -> Facts:
        in_hand = None
        if device.ring is not None:
            ring = msgspec.json.decode(device.ring, type=Ring)
            silent = ring.kind is RingKind.BADGE
            in_hand = InHand(
                silent=silent,
                acked=not silent and device.ring_ord <= c.acked_ord,
                read=not silent and device.ring_ord <= c.read_ord,
                expired=ring.expires_at <= tx.now,
                current=ring.unread == c.unread,
                unwanted=all_unwanted(tx, c, device),
            )
        silent = backend is not None and backend.silent
        behind = device.owed_ord - max(device.covered_ord, c.acked_ord)
        return Facts(
            endpoint=backend is not None,
            live=device.live,
            early=device.wake_at is None or device.wake_at > tx.now,
            in_chat=self._context.hub.is_in_chat(c.key),
            in_hand=in_hand,
            behind=max(0, behind),
            all_expired=wanted.newest is None and not wanted.unwanted,
            too_soon=wanted.due_at is not None,
            all_read=c.read_ord == c.last_ord,
            badge_is_high=device.badge is not None and device.badge > c.unread and silent,
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
        """Nothing is owed, or but the number on the icon (`correct`), for which nobody is woken.

        What the customer does not want to be rung for is settled, on this device, for good.
        """
        if reason not in WISHES:
            # Its ring in hand, if any, is over: only a backend that is gone leads here with one.
            device = _without_ring(device, device.covered)
            device = replace(device, owes=False, wake_at=None)
            c = tx.put(c.with_device(device))
            if reason is Reason.EXPIRED:  # of very many, its turn came late
                c = self._expire(tx, c)
            self.settle_undeliverable(tx, c)
            return
        owes = correct or upto.ord < device.owed_ord
        wake = tx.now if correct or upto > device.covered else tx.now + AGAIN
        device = replace(
            device,
            unrung=_unrung(c, device, reason),
            covered_seq=upto.seq,
            covered_ord=upto.ord,
            owes=owes,
            wake_at=wake if owes else None,
        )
        self.settle_undeliverable(tx, tx.put(c.with_device(device)))

    def _leave_be(
        self, tx: Transaction, c: Conversation, unwanted: tuple[Message, ...]
    ) -> Conversation:
        """Settle messages that nobody wants to be rung for, while others are rung for.

        One that a ring in hand covers is left to it: it may have rung already.
        """
        in_hand = [device for device in c.live_devices if device.ring is not None]
        for message in unwanted:
            if not any(d.covered_ord < message.ord <= d.ring_ord for d in in_hand):
                trigger, reason = Trigger.NO_DEVICE_LEFT, Reason.OPTED_OUT.value
                c, _ = self._move(tx, c, message.before, message.cut, trigger, reason)
        return c

    def reconsider(self, tx: Transaction, c: Conversation, before: Conversation) -> Conversation:
        """Wishes or zones are other than `before`: who waits for the end of quiet hours is looked
        at anew."""
        for device in before.devices:
            now = c.device(device.id)
            until = self._context.quiet_hours_end(tx.now, before, device)
            if now is not None and until is not None and now.wake_at == device.wake_at == until:
                c = c.with_device(replace(now, wake_at=self._at_once(tx, c)))
        return tx.put(c)

    def _at_once(self, tx: Transaction, c: Conversation) -> float:
        """Now, or later while a replay may be on its way (rule 5): it may just have begun."""
        if c.hold_from is None or not self._context.hub.is_in_chat(c.key):
            return tx.now
        return delivery.held(tx.now, tx.now, c.hold_from, self._context.timing)

    def _claim(
        self, tx: Transaction, c: Conversation, device: Device, wanted: Wanted
    ) -> tuple[Device, Ring]:
        """Fix device, coverage and content (rule 7). Under this id nothing changes any more."""
        newest, upto = wanted.newest, wanted.upto or device.covered
        tenant = self._context.rules(c.tenant)
        expires_at = tx.now + tenant.expires_after
        if newest is None:  # silent: only the number
            kind, title, text, seq = RingKind.BADGE, None, None, c.last_seq
        else:
            kind = RingKind.PROACTIVE if newest.kind == "proactive" else RingKind.MESSAGE
            words = content.words(tenant.content, newest.title, newest.text, device.locale)
            title, text, seq = words.title, words.text, newest.seq
            expires_at = newest.expires_at or expires_at
        ring = Ring(
            id=f"r_{self._context.new_id()}",
            kind=kind,
            customer=c.customer,
            seq=seq,
            title=title,
            text=text,
            unread=c.unread,
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
        device = replace(
            device,
            ring=msgspec.json.encode(ring).decode(),
            ring_seq=upto.seq,
            ring_ord=upto.ord,
            attempt=1,
            badge=c.unread,
            owes=False,
            wake_at=tx.now,
        )
        c = tx.put(replace(c.with_device(device), hold_from=None))
        tx.event(
            c,
            ring.since if newest else c.last_seq,
            upto.seq if newest else c.last_seq,
            "claimed",
            ring=ring.id,
            kind=kind,
            unread=c.unread,
            device=fingerprint(device.token),
        )
        return device, ring

    def _cancel(self, tx: Transaction, c: Conversation, device: Device, reason: Reason) -> None:
        """End the ring in hand without another call; look again at once for what else is owed."""
        if reason is Reason.EXPIRED:
            self._bury(tx, c, device, Cause.EXPIRED, device.verdict, None)
        settled = reason in (Reason.ACKED, Reason.READ, *WISHES)
        covered = device.ring_to if settled else device.covered
        # What the ring covered beyond the fan-out is owed still: nothing else asks for it.
        owed = max(device.owed_ord, device.ring_ord)
        ended = _without_ring(device, covered)
        ended = replace(ended, owes=True, owed_ord=owed, wake_at=tx.now)
        if reason not in WISHES:
            tx.put(c.with_device(ended))
            return
        ended = replace(ended, unrung=_unrung(c, device, reason))
        self.settle_undeliverable(tx, tx.put(c.with_device(ended)))

    # The verdict

    def settle(
        self, tx: Transaction, c: Conversation, claim: Claim, attempt: Attempt
    ) -> Conversation:
        """Write what came of a call, unless the registration or its ring is another by now."""
        device = c.device(claim.ref.device)
        mine = (
            device is not None
            and device.ring is not None
            and device.generation == claim.generation
            and orjson.loads(device.ring)["id"] == claim.ring.id
        )
        verdict = attempt.verdict
        silent = claim.ring.kind is RingKind.BADGE
        upto = device.ring_seq if mine and device and not silent else claim.ring.seq
        first = max(device.covered_seq + 1, claim.ring.since) if device else upto
        from_seq = first if mine and not silent else upto
        tx.event(
            c,
            min(from_seq, upto),
            upto,
            "attempt" if mine else "late_verdict",
            ring=claim.ring.id,
            verdict=verdict.kind,
            reason=verdict.reason,
            status=verdict.status,
            attempt=claim.attempt,
            ms=round(attempt.ms, 1),
            device=claim.target.fingerprint,
        )
        if device is None or not mine:
            return c
        told: dict[str, Any] = {"verdict": verdict.kind.value, "verdict_at": tx.now}
        device = replace(device, **told)
        match verdict.kind:
            case VerdictKind.RETRY | VerdictKind.MISCONFIGURED:
                wake = min(attempt.retry_at or tx.now, claim.ring.expires_at)
                wake = max(wake, device.wake_at or 0.0)  # a hold stands
                return tx.put(c.with_device(replace(device, wake_at=wake)))
            case VerdictKind.ACCEPTED:
                return self._accepted(tx, c, device)
            case VerdictKind.TOKEN_DEAD:
                state = DeviceState.QUARANTINED if attempt.quarantine else DeviceState.DEAD
                device = replace(
                    _without_ring(device, device.covered),
                    state=state,
                    state_at=tx.now,
                    owes=False,
                    wake_at=None,
                )
            case VerdictKind.REFUSED:
                self._bury(tx, c, device, Cause.REFUSED, verdict.reason, verdict.status)
                unrung = device.unrung if silent else _unrung(c, device, Reason.REFUSED)
                device = replace(_over(tx, device), unrung=unrung)
        return self.settle_undeliverable(tx, tx.put(c.with_device(device)))

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
        ring = msgspec.json.decode(device.ring or "", type=Ring)
        if ring.kind is RingKind.BADGE:
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
            lo_seq=device.covered_seq,
            lo_ord=device.covered_ord,
            seq=device.ring_seq,
            ord=device.ring_ord,
            cause=cause,
            answer=answer,
            status=status,
            attempts=device.attempt,
            at=tx.now,
        )
        tx.also(dead_letter_put(letter))
        tx.after_commit(lambda: self.buried(c.tenant, cause))

    def _accepted(self, tx: Transaction, c: Conversation, device: Device) -> Conversation:
        ring = msgspec.json.decode(device.ring or "", type=Ring)
        covered, upto = device.covered, device.ring_to
        c = tx.put(c.with_device(_over(tx, device)))
        if c.expires_at is not None and c.expires_at <= ring.claimed_at:
            c = self._expire(tx, c)  # its own turn is late
        if upto.ord > covered.ord:
            if upto.ord <= c.acked_ord:
                tx.event(c, covered.seq + 1, upto.seq, "rang_after_ack")
            c = self._pushed(tx, c, ring, covered, upto)
            if not outcomes.pending(c):
                return _nothing_left(tx, c)
        return self.settle_undeliverable(tx, c)

    def _pushed(
        self, tx: Transaction, c: Conversation, ring: Ring, lo: Cut, hi: Cut
    ) -> Conversation:
        """What the ring covers was pushed, but for what had expired before it was claimed.

        Of very many expired ones not all are read: what is not known had expired long ago.
        """
        expired = [s for s in outcomes.segments(c) if s.outcome is Outcome.EXPIRED]
        pushed = [(span.lo, span.hi) for span in outcomes.pending(c)]
        for m in tx.unacked(c):
            lately = m.expires_at is None or m.expires_at > ring.claimed_at
            if lately and any(s.lo_ord < m.ord <= s.hi_ord for s in expired):
                pushed.append((m.before, m.cut))
        for begin, end in pushed:
            if max(lo, begin) < min(hi, end):
                c, _ = self._move(tx, c, max(lo, begin), min(hi, end), Trigger.ACCEPTANCE)
        return c

    # Where, and who hears of it

    def backend(self, tenant: str, device: Device) -> Backend | None:
        """Where the device is rung: the ring in hand by what it was claimed with."""
        told = _Told(device.environment, device.app)
        if device.ring is not None:
            told = msgspec.json.decode(device.ring, type=_Told)
        return choose(self._context.rules(tenant).backends, told.environment, told.app)

    def _move(
        self,
        tx: Transaction,
        c: Conversation,
        lo: Cut,
        hi: Cut,
        trigger: Trigger,
        reason: str | None = None,
    ) -> tuple[Conversation, tuple[Move, ...]]:
        """`Transaction.transition`; agents hear of outcomes as receipts, after the commit."""
        c, moves = tx.transition(c, lo, hi, trigger, reason)
        for move in moves:
            span = move.span
            state = _RECEIPTS.get(span.outcome)
            if state is not None:
                tx.after_commit(
                    lambda s=span, state=state: self._context.tell.receipt(  # type: ignore[misc]
                        c.key, s.lo_seq + 1, s.hi_seq, state, tx.now, s.reason
                    )
                )
        return c, moves


_RECEIPTS = {
    Outcome.PUSHED: ReceiptState.PUSHED,
    Outcome.EXPIRED: ReceiptState.EXPIRED,
    Outcome.UNDELIVERABLE: ReceiptState.UNDELIVERABLE,
}


class _Told(msgspec.Struct, frozen=True):
    """What the app told by which its backend is chosen; of a stored ring, that part."""

    environment: str | None = None
    app: str | None = None


def _nothing_left(tx: Transaction, c: Conversation) -> Conversation:
    """All has its outcome: nothing is due, held or about to expire."""
    return tx.put(replace(c, push_due_at=None, hold_from=None, expires_at=None))


def _backoff(device: Device) -> float:
    """How long the ring in hand was told to wait after its last verdict; 0 before the first.

    What is longer than any backoff was the end of quiet hours.
    """
    if device.ring is None or device.wake_at is None:
        return 0.0
    ring = msgspec.json.decode(device.ring, type=Ring)
    wait = device.wake_at - max(ring.claimed_at, device.verdict_at or 0.0)
    return wait if wait <= 2 * RETRY_AFTER_MOST else 0.0  # which jitter is added to


def _without_ring(device: Device, covered: Cut) -> Device:
    return replace(
        device,
        ring=None,
        ring_seq=0,
        ring_ord=0,
        attempt=0,
        covered_seq=covered.seq,
        covered_ord=covered.ord,
    )


def _unrung(c: Conversation, device: Device, reason: Reason) -> str:
    """Why `device`, about to cover more for this reason, was not rung: the reason that speaks for
    all that it will cover and that is still pending.
    """
    reasons = [reason]
    waiting = outcomes.pending(c)
    if device.unrung is not None and waiting and waiting[0].lo_ord < device.covered_ord:
        reasons.append(Reason(device.unrung))
    return max(reasons, key=UNRUNG.index).value


def _over(tx: Transaction, device: Device) -> Device:
    """The ring in hand is settled; what came meanwhile is looked at now, or when a hold ends."""
    device = _without_ring(device, max(device.covered, device.ring_to))
    return replace(device, wake_at=max(tx.now, device.wake_at or 0.0) if device.owes else None)
