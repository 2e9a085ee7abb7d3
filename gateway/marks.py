"""Marks: how far the customer has received and read, and how far the agents have.

Decides what an ack counts for, and what it does to a push that is due (rule 3); which icons show
too much once something was read (rule 8). Changes of the one writer: see `gateway.chat`.
"""

from __future__ import annotations

from functools import partial

import msgspec

from gateway import delivery
from gateway.context import Change, Context, due_moved, existing
from gateway.delivery import Reason
from gateway.protocol import ErrorCode, FrameError, ReceiptState
from gateway.session import CustomerSession
from storage import outcomes
from storage.records import Conversation, Cut, Detail, Key, Outcome
from storage.store import Needs
from storage.transaction import Mark, Transaction

replace = msgspec.structs.replace
_DELIVERED = ReceiptState.DELIVERED


class Marks:
    """The cursors of conversations: the customer's own, and those that the agents share."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tell = context.tell

    # The customer's

    def ack(self, session: CustomerSession, seq: int) -> Change[None]:
        """The session has everything up to `seq`."""
        key = session.key

        def change(tx: Transaction) -> None:
            self.received(tx, existing(tx, key), session, seq)

        return change, Needs(keys=(key,), mark=seq)

    def read(self, session: CustomerSession, seq: int) -> Change[None]:
        """The customer has seen everything up to `seq`: an ack in any state of the session."""
        key = session.key

        def change(tx: Transaction) -> None:
            c = existing(tx, key)
            cut = self._mark(tx, c, seq).cut
            before = c
            c = self.acknowledge(tx, c, cut, session)
            c = tx.mark_read(c, cut)
            if c.read_seq == before.read_seq:
                return
            if c.unread != before.unread:
                first, phone = before.read_seq + 1, session.installation
                detail = Detail(session=session.id, installation=phone)
                tx.event(c, first, c.read_seq, "read", detail)
                c = self._correct_badges(tx, c, phone)
            tx.after_commit(lambda: self._tell.read(before, c, tx.now))

        return change, Needs(keys=(key,), mark=seq)

    def received(
        self, tx: Transaction, c: Conversation, session: CustomerSession, seq: int
    ) -> Conversation:
        """The session has everything up to `seq`: in the background that is noted, and counts once
        it is active."""
        cut = self._mark(tx, c, seq).cut
        if not session.active:
            tx.undo(partial(setattr, session, "noted", session.noted))
            session.noted = max(session.noted, cut)
            return c
        return self.acknowledge(tx, c, cut, session)

    def _note_too(
        self, tx: Transaction, c: Conversation, session: CustomerSession, seq: int
    ) -> None:
        """Another session had acknowledged before: a fact for whoever asks which phones have it."""
        phone = session.installation
        if phone is None:
            return
        first, upto = session.acked + 1, min(seq, c.acked_seq)
        if upto >= first:
            detail = Detail(session=session.id, installation=phone)
            tx.event(c, first, upto, "acked_too", detail)
        self._note(tx, session, seq)

    def _note(self, tx: Transaction, session: CustomerSession, seq: int) -> None:
        """How far this session itself has acknowledged."""
        if seq > session.acked:
            tx.undo(partial(setattr, session, "acked", session.acked))
            session.acked = seq

    def _mark(self, tx: Transaction, c: Conversation, seq: int) -> Mark:
        """The place after message `seq`. Raises `FrameError` if there is no such message."""
        mark = tx.mark(c, seq) or tx.appended(c, seq)
        if mark is None:
            raise FrameError(
                ErrorCode.BAD_FRAME, f"seq {seq} is beyond the newest message, {c.last_seq}"
            )
        return mark

    def acknowledge(
        self, tx: Transaction, c: Conversation, cut: Cut, session: CustomerSession
    ) -> Conversation:
        """Everything up to `cut` is acknowledged, by this session, and with it what was due for it
        (rule 3)."""
        before = c
        if cut.ord <= c.acked_ord:
            self._note_too(tx, c, session, cut.seq)
            return tx.acknowledge(c, cut)[0]
        oldest = patience = None
        if cut.ord < c.last_ord and any(span.hi_ord > cut.ord for span in outcomes.pending(c)):
            mark = tx.mark(c, cut.seq)
            oldest = tx.now if mark is None or mark.next_at is None else mark.next_at
            in_chat = self._context.hub.is_in_chat(c.key)
            patience = self._context.patience(c.key, tx.now, in_chat=in_chat)
        due = delivery.due_after_ack(c.push_due_at, oldest, patience)
        held = c.hold_from
        if held is not None and oldest is not None:
            held = max(held, oldest)  # what joins held of others takes nothing from the rest
        c, _ = tx.acknowledge(c, cut, push_due_at=due, hold_from=held)
        first, last, phone = before.acked_seq + 1, c.acked_seq, session.installation
        tx.event(c, first, last, "acked", Detail(session=session.id, installation=phone))
        if phone is not None:
            self._note(tx, session, cut.seq)
        for span in before.settled:
            if span.outcome is Outcome.PUSHED and span.lo_ord < c.acked_ord:
                lo = max(span.lo_seq, before.acked_seq) + 1
                hi, detail = min(span.hi_seq, c.acked_seq), Detail(session=session.id)
                tx.event(c, lo, hi, "acked_after_ring", detail)
        if due not in (None, before.push_due_at):
            due_moved(tx, c, Reason.ACKED, due)
        tx.after_commit(partial(self._tell.receipt, c.key, first, last, _DELIVERED, tx.now))
        return c

    def _correct_badges(self, tx: Transaction, c: Conversation, reader: str | None) -> Conversation:
        """Devices that were told more than is unread now owe a silent ring (rule 8), but not the
        reader's own, unless a ring in hand is about to tell it the old number.
        """
        for device in c.live_devices:
            if device.badge is None or device.badge <= c.unread:
                continue
            if device.installation == reader and device.ring is None:
                c = c.with_device(replace(device, badge=c.unread))
            else:
                wake = device.wake_at
                if wake is None or device.waits_for_morning:
                    wake = tx.now  # a silent ring does not wait for it
                c = c.with_device(replace(device, owes=True, wake_at=wake))
        return tx.put(c)

    # The agents'

    def agent_ack(self, key: Key, seq: int) -> Change[None]:
        """An agent's client has everything up to `seq`: move the mark that agents share."""

        def change(tx: Transaction) -> None:
            self._agents_received(tx, existing(tx, key), seq)

        return change, Needs(keys=(key,), mark=seq)

    def agent_read(self, key: Key, seq: int) -> Change[None]:
        """Move the agents' shared read mark: an ack too."""

        def change(tx: Transaction) -> None:
            c = existing(tx, key)
            if seq <= c.agent_read_seq:
                return
            said = self._mark(tx, c, seq).said
            c = self._agents_received(tx, c, seq)
            before, c = c, tx.put(replace(c, agent_read_seq=seq, agent_read_said=said))
            if said > before.agent_read_said:
                tx.after_commit(lambda: self._tell.agents_marks(c))
            tx.after_commit(lambda: self._tell.inboxes(c))

        return change, Needs(keys=(key,), mark=seq)

    def _agents_received(self, tx: Transaction, c: Conversation, seq: int) -> Conversation:
        if seq <= c.agent_acked_seq:
            return c
        said = self._mark(tx, c, seq).said
        before, c = c, tx.put(replace(c, agent_acked_seq=seq, agent_acked_said=said))
        if said > before.agent_acked_said:
            tx.after_commit(lambda: self._tell.agents_marks(c))
        return c
