"""Presence: who comes into chat and who leaves, and what that does to pushes that are due.

Decides how a session begins (where its replay starts), what joining holds back (rule 5) and what
leaving makes due (rule 4). Changes of the one writer, as all use cases are: see `gateway.chat`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec

from gateway import delivery, frames, protocol
from gateway.context import Context, due_moved
from gateway.delivery import Reason
from gateway.marks import Marks
from gateway.protocol import CloseCode, SessionState
from gateway.session import CustomerSession, Held
from storage.errors import Unavailable
from storage.records import Conversation, Key
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace


class Joined(NamedTuple):
    """How a session begins: the replay is what comes after `start`, up to `conversation.last`."""

    conversation: Conversation
    resumed: bool
    start: int

    @property
    def acked(self) -> int:
        """What was acknowledged by coming: who resumes has all up to there."""
        return self.start if self.resumed else 0

    @property
    def own(self) -> int:
        """Where the session's own acks begin: where it resumed, or at the read mark."""
        return self.start if self.resumed else self.conversation.read_seq


class Presence:
    """The customers' sessions, from their welcome to their end."""

    def __init__(self, context: Context, marks: Marks) -> None:
        self._context = context
        self._marks = marks
        self._store = context.store
        self._hub = context.hub
        self._limits = context.limits
        self._welcome_limits = context.limits.as_field()
        self._tell = context.tell
        self._clock = context.clock

    async def join(
        self, session: CustomerSession, resume: protocol.Resume | None, ref: str | None = None
    ) -> Joined:
        """Enter: judge the resume, hold what is due, send `welcome`. What was missed is to be
        replayed; until then the session holds what comes.

        Raises `Unavailable` when the customer is new and cannot be written.
        """
        key = session.key
        session.held = held = Held(session.bound)
        seq = resume.seq if resume is not None else None

        def change(tx: Transaction) -> Joined:
            c = tx.conversation(key) or tx.create(key, session.identity.name)
            c = self._named(tx, c, session.identity.name)
            joined = self._start(c, resume)
            if joined.resumed and tx.mark(c, joined.start) is None:
                joined = Joined(c, False, c.last_seq)  # of this very commit: nobody has it yet
            session.acked = joined.own
            # Changes before this one, in the same commit, are in the replay and told of only now.
            tx.after_commit(held.forget)
            self._enter(tx, c, session)
            return joined._replace(conversation=self._count(tx, c, session, joined.acked))

        try:
            joined = await self._store.submit(change, Needs(keys=(key,), mark=seq))
        except Unavailable:
            # The disk is full, say: who is known may still read.
            known = await self._store.conversation(key)
            if known is None:
                raise
            self._hub.join(session)
            held.forget()
            self._make_room(key)
            self._tell_anyway(key)
            joined = self._start(known, resume)
            session.acked = joined.own
            session.unwritten = joined.acked
        self._welcome(session, joined, ref)
        return joined

    def rename(self, session: CustomerSession) -> None:
        """The session has another token: the name in it is the customer's."""
        key, name = session.key, session.identity.name

        def change(tx: Transaction) -> None:
            c = tx.conversation(key)
            if c is not None:
                self._named(tx, c, name)

        with suppress(Unavailable):  # refused: the next token tells it again
            self._store.enqueue(change, Needs(keys=(key,)), lambda value, error: None)

    def _named(self, tx: Transaction, c: Conversation, name: str | None) -> Conversation:
        if name in (None, c.name):
            return c
        renamed = tx.put(replace(c, name=name))
        tx.after_commit(lambda: self._tell.inboxes(renamed))
        return renamed

    def _start(self, c: Conversation, resume: protocol.Resume | None) -> Joined:
        if resume is None:
            return Joined(c, False, max(c.read_seq, c.last_seq - self._limits.resume))
        missing = c.last_seq - resume.seq
        fits = resume.epoch == self._store.meta["epoch"] and 0 <= missing <= self._limits.resume
        return Joined(c, fits, resume.seq if fits else c.last_seq)

    def _count(
        self, tx: Transaction, c: Conversation, session: CustomerSession, seq: int
    ) -> Conversation:
        """What a session acknowledged by coming counts, and what is due is held."""
        if seq:
            c = self._marks.received(tx, c, session, seq)
        return self._hold(tx, c) if session.active else c

    def _enter(self, tx: Transaction, c: Conversation, session: CustomerSession) -> None:
        was_in_chat = self._hub.is_in_chat(session.key)
        self._hub.join(session)
        tx.undo(lambda: self._hub.leave(session))
        tx.after_commit(lambda: self._make_room(session.key))
        tx.after_commit(lambda: self._tell.presence(c.key, c, was_in_chat))

    def _make_room(self, key: Key) -> None:
        """The oldest sessions go; one that is already closing, however slowly, no longer counts."""
        here = [session for session in self._hub.sessions(key) if not session.closed]
        for session in here[: max(0, len(here) - self._limits.sessions)]:
            session.close(CloseCode.TOO_MANY_SESSIONS)

    def _welcome(self, session: CustomerSession, joined: Joined, ref: str | None) -> None:
        c = joined.conversation
        welcome: protocol.Welcome = {
            "type": "welcome",
            "session": session.id,
            "customer": c.customer,
            "epoch": self._store.meta["epoch"],
            "seq": c.last_seq,
            "read_seq": c.read_seq,
            "unread": c.unread,
            "live": c.live,
            "agents_acked_seq": c.agent_acked_seq,
            "agents_read_seq": c.agent_read_seq,
            "resumed": joined.resumed,
            "limits": self._welcome_limits,
            "server_time": protocol.timestamp(self._clock()),
        }
        if ref is not None:
            welcome["ref"] = ref
        session.write(protocol.encode(welcome))

    async def replay(self, session: CustomerSession, joined: Joined) -> None:
        """Send what was missed, as fast as it is read, and then what came meanwhile. Raises
        `Unavailable`, and what the socket raises."""
        c = joined.conversation
        for message in await self._store.after(c, joined.start):
            await session.stream(frames.for_customer(message, c.customer))
        session.release()

    def leave(self, session: CustomerSession, code: int | None) -> None:
        """The session ended with close code `code`: start the grace that fits."""
        grace = delivery.grace_after(code, self._context.timing)
        unwritten = session.unwritten or 0

        def change(tx: Transaction) -> None:
            was_in_chat = self._hub.is_in_chat(session.key)
            if self._hub.leave(session):
                tx.undo(lambda: self._hub.join(session))
                self._write_late(tx, session, unwritten)
                self._left(tx, session.key, was_in_chat, grace)

        needs = Needs(keys=(session.key,), mark=unwritten)
        self._submit_quietly(session.key, change, needs, lambda: self._hub.leave(session))

    def set_state(self, session: CustomerSession, state: SessionState) -> None:
        """Active: in chat again, and acks noted in the background count. Background: left."""
        unwritten = session.unwritten or 0
        seq = session.noted.seq if state is SessionState.ACTIVE else unwritten

        def change(tx: Transaction) -> None:
            if session.state is state:
                return
            was_in_chat = self._hub.is_in_chat(session.key)
            if session.active:
                self._write_late(tx, session, unwritten)
            tx.undo(partial(setattr, session, "state", session.state))
            session.state = state
            c = tx.conversation(session.key)
            if session.active and c is not None:
                c = self._marks.acknowledge(tx, c, session.noted, session)
                self._hold(tx, c)
                tx.after_commit(lambda: self._tell.presence(session.key, c, was_in_chat))
            else:
                self._left(tx, session.key, was_in_chat, 0.0)

        def otherwise() -> None:
            session.state = state
            session.unwritten = max(session.unwritten or 0, session.noted.seq)

        needs = Needs(keys=(session.key,), mark=seq)
        self._submit_quietly(session.key, change, needs, otherwise)

    def catch_up(self) -> None:
        """The disk takes writes again: write what sessions acknowledged by coming while it did not,
        and hold what is due. No client says that again: a phone that has everything would ring."""
        for session in self._hub.everyone():
            if isinstance(session, CustomerSession) and session.unwritten is not None:
                self._write_anew(session, session.unwritten)

    def _write_late(self, tx: Transaction, session: CustomerSession, seq: int) -> None:
        """Write what it had acknowledged by coming, while it still is in chat: an ack of a session
        that is not would only be noted."""
        c = tx.conversation(session.key)
        if seq and c is not None:
            self._marks.received(tx, c, session, seq)

    def _write_anew(self, session: CustomerSession, seq: int) -> None:
        key = session.key

        def change(tx: Transaction) -> None:
            c = tx.conversation(key)
            if c is None or session.unwritten is None:
                return
            tx.after_commit(lambda: setattr(session, "unwritten", None))
            self._count(tx, c, session, seq)

        with suppress(Unavailable):  # refused again: it stays unwritten
            needs = Needs(keys=(key,), mark=seq)
            self._store.enqueue(change, needs, lambda value, error: None)

    def _left(self, tx: Transaction, key: Key, was_in_chat: bool, grace: float) -> None:
        known = c = tx.conversation(key)
        tx.after_commit(lambda: self._tell.presence(key, known, was_in_chat))
        if not was_in_chat or self._hub.is_in_chat(key):
            return
        self._hub.begin_grace(key, tx.now + grace)
        if c is None:
            return
        due = delivery.due_after_leaving(c.push_due_at, tx.now, grace)
        if due != c.push_due_at:
            c = replace(c, push_due_at=due)
            due_moved(tx, c, Reason.LEFT, due)
        for device in c.devices:
            # A backoff stands; while a call is out, the time is nothing but a hold's end.
            unclaimed = device.owes and device.ring is None
            if unclaimed or self._context.is_calling(device):
                wake = delivery.due_after_leaving(device.wake_at, tx.now, grace)
                c = c.with_device(replace(device, wake_at=wake))
        if c is not tx.conversation(key):
            tx.put(c)

    def _hold(self, tx: Transaction, c: Conversation) -> Conversation:
        """Somebody came into chat: nobody is rung while the replay is on its way (rule 5)."""
        waiting = [device for device in c.devices if device.wake_at is not None]
        if c.push_due_at is None and not waiting:
            return c
        # No later than now: else, after the clock was set back, joins could hold for as long.
        since = tx.now if c.hold_from is None else min(c.hold_from, tx.now)
        moved: list[float] = []

        def later(time: float | None) -> float | None:
            if time is None:
                return None
            held = delivery.held(time, tx.now, since, self._context.timing)
            if held != time:
                moved.append(held)
            return held

        c = replace(c, hold_from=since, push_due_at=later(c.push_due_at))
        for device in waiting:
            c = c.with_device(replace(device, wake_at=later(device.wake_at)))
        due_moved(tx, c, Reason.HELD, max(moved, default=None))
        return tx.put(c)

    def _submit_quietly(
        self,
        key: Key,
        change: Callable[[Transaction], Any],
        needs: Needs,
        otherwise: Callable[[], Any],
    ) -> None:
        """For what nobody waits for: if the disk refuses, memory at least is told, and agents."""

        def done(value: Any, error: Exception | None) -> None:
            if error is not None:
                otherwise()
                self._tell_anyway(key)

        try:
            self._store.enqueue(change, needs, done)
        except Unavailable as error:
            done(None, error)

    def _tell_anyway(self, key: Key) -> None:
        """Tell agents who is there, though the disk refused to take it: memory knows."""
        self._tell.presence(key, self._store.peek(key), not self._hub.is_in_chat(key))
