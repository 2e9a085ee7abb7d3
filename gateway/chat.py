"""Chat: what customers, agents and services do to a conversation, as changes of the one writer.

Theory of operation. Every use case is a function over a `Transaction`, run in the writer's order
against the state just committed. It judges, writes, and notes what to tell whom after
the commit; nothing is told before. A write to a socket is not a delivery: until an ack comes, the
conversation's `push_due_at` stands, and `gateway.pushing` acts on it. When a push is due is decided
by `gateway.delivery`, what becomes of a message by `storage.outcomes`.

What a crash leaves is always a committed state: a sender without an answer sends again under the
same `ref` and gets the first answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson

from gateway import delivery, frames, protocol
from gateway.delivery import Patience, Reason, Timing
from gateway.hub import Hub
from gateway.protocol import (
    CloseCode,
    ErrorCode,
    FrameError,
    Limits,
    MessageKind,
    ReceiptState,
    Role,
    SessionState,
)
from gateway.session import AgentSession, CustomerSession, Held
from gateway.telling import Telling
from gateway.wishes import House, is_muted, is_unwanted, quiet_until
from push.backends import Backend, choose
from push.content import Content
from storage import outcomes
from storage.errors import Unavailable
from storage.records import (
    Conversation,
    Cut,
    Device,
    DeviceState,
    Draft,
    Key,
    Message,
    Outcome,
    is_counted,
)
from storage.store import Needs, Store
from storage.transaction import Mark, Transaction

R = TypeVar("R")
Change = tuple[Callable[[Transaction], R], Needs]
"""A use case that is yet to be given to the store, by `submit` or `enqueue`."""
replace = msgspec.structs.replace

IDS = 256  # ids made from one call for randomness: the call costs more than the rest of an id


class TenantRules(NamedTuple):
    """What the delivery rule needs to know of a tenant. `expires_after` in seconds."""

    backends: tuple[Backend, ...] = ()
    expires_after: float = 86_400.0
    content: Content = Content()
    house: House = House()
    token_expires_after: float = 270 * 86_400.0


_NO_PUSH = TenantRules()


class Posting(msgspec.Struct, frozen=True):
    """A message that somebody wants to send: the same for a socket and for HTTP."""

    key: Key
    role: Role
    author: str
    text: str
    ref: str | None
    kind: MessageKind = MessageKind.CHAT
    name: str | None = None
    data: Any = None
    title: str | None = None
    expires_at: float | None = None


class Posted(NamedTuple):
    """What became of a posting. `duplicate` if its `ref` had been sent before."""

    message: Message
    duplicate: bool


class Joined(NamedTuple):
    """How a session begins: the replay is what comes after `start`, up to `conversation.last`."""

    conversation: Conversation
    resumed: bool
    start: int


class Chat:
    """The use cases. One object, no state of its own beyond what it was given."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        timing: Timing,
        limits: Limits,
        tenants: Mapping[str, TenantRules],
        clock: Callable[[], float],
        room: int = 512 * 1024,
    ) -> None:
        self.room = room
        """Bytes that one page of messages may take: half of what may wait for a session."""
        self.store = store
        self.hub = hub
        self.timing = timing
        self.limits = limits
        self.welcome_limits = limits.as_field()
        self.tenants = tenants
        self.houses_before: dict[str, House] = {}
        """Of tenants whose hours a reload changed: who waits for their end waits no more."""
        self.tell = Telling(hub, store.peek)
        self.clock = clock
        self.draining = False
        self._ids: list[str] = []
        self.quiet_until = 0.0
        """Until then, after a start, nobody is rung (rule 9)."""
        self.calling: Callable[[Key, int], bool] = lambda key, device: False
        """Whether a call for this device is out: then its settling decides its next time, no
        earlier than a hold that began meanwhile allows."""

    def rules(self, tenant: str) -> TenantRules:
        """The tenant's rules; those of one without push, if it was taken out of the configuration:
        housekeeping and late sign-outs still meet its rows."""
        return self.tenants.get(tenant, _NO_PUSH)

    # A customer's session

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
            if session.identity.name not in (None, c.name):
                c = renamed = tx.put(replace(c, name=session.identity.name))
                tx.after_commit(lambda: self.tell.inboxes(renamed))
            joined = self._start(c, resume)
            if joined.resumed and tx.mark(c, joined.start) is None:
                joined = Joined(c, False, c.last_seq)  # of this very commit: nobody has it yet
            session.acked = joined.start
            # Changes before this one, in the same commit, are in the replay and told of only now.
            tx.after_commit(held.forget)
            self._enter(tx, c, session)
            if joined.resumed and seq is not None:
                c = self._received(tx, c, session, seq)
            if session.active:
                c = self._hold(tx, c)
            return joined._replace(conversation=c)

        mark = (key, seq) if seq is not None else None
        try:
            joined = await self.store.submit(change, Needs(keys=(key,), mark=mark))
        except Unavailable:
            # The disk is full, say: who is known may still read.
            known = await self.store.conversation(key)
            if known is None:
                raise
            self.hub.join(session)
            held.forget()
            self._make_room(key)
            self._tell_anyway(key)
            joined = self._start(known, resume)
        self._welcome(session, joined, ref)
        return joined

    def _start(self, c: Conversation, resume: protocol.Resume | None) -> Joined:
        if resume is None:
            return Joined(c, False, max(c.read_seq, c.last_seq - self.limits.resume))
        missing = c.last_seq - resume.seq
        fits = resume.epoch == self.store.meta["epoch"] and 0 <= missing <= self.limits.resume
        return Joined(c, fits, resume.seq if fits else c.last_seq)

    def _enter(self, tx: Transaction, c: Conversation, session: CustomerSession) -> None:
        was_in_chat = self.hub.is_in_chat(session.key)
        self.hub.join(session)
        tx.undo(lambda: self.hub.leave(session))
        tx.after_commit(lambda: self._make_room(session.key))
        tx.after_commit(lambda: self.tell.presence(c.key, c, was_in_chat))

    def _make_room(self, key: Key) -> None:
        """The oldest sessions go; one that is already closing, however slowly, no longer counts."""
        here = [session for session in self.hub.sessions(key) if not session.closed]
        for session in here[: max(0, len(here) - self.limits.sessions)]:
            session.close(CloseCode.TOO_MANY_SESSIONS)

    def _welcome(self, session: CustomerSession, joined: Joined, ref: str | None) -> None:
        c = joined.conversation
        welcome: Any = {
            "type": "welcome",
            "session": session.id,
            "customer": c.customer,
            "epoch": self.store.meta["epoch"],
            "seq": c.last_seq,
            "read_seq": c.read_seq,
            "unread": c.unread,
            "live": c.live,
            "agents_acked_seq": c.agent_acked_seq,
            "agents_read_seq": c.agent_read_seq,
            "resumed": joined.resumed,
            "limits": self.welcome_limits,
            "server_time": protocol.timestamp(self.clock()),
        }
        if ref is not None:
            welcome["ref"] = ref
        session.write(protocol.encode(welcome))

    async def replay(self, session: CustomerSession, joined: Joined) -> None:
        """Send what was missed, as fast as it is read, and then what came meanwhile. Raises
        `Unavailable`, and what the socket raises."""
        c = joined.conversation
        for message in await self.store.after(c, joined.start, c.last_seq):
            await session.stream(frames.for_customer(message, c.customer))
        session.release()

    def leave(self, session: CustomerSession, code: int | None) -> None:
        """The session ended with close code `code`: start the grace that fits."""
        grace = delivery.grace_after(code, self.timing)

        def change(tx: Transaction) -> None:
            was_in_chat = self.hub.is_in_chat(session.key)
            if self.hub.leave(session):
                tx.undo(lambda: self.hub.join(session))
                self._left(tx, session.key, was_in_chat, grace)

        needs = Needs(keys=(session.key,))
        self._submit_quietly(session.key, change, needs, lambda: self.hub.leave(session))

    def set_state(self, session: CustomerSession, state: SessionState) -> None:
        """Active: in chat again, and acks noted in the background count. Background: left."""

        def change(tx: Transaction) -> None:
            if session.state is state:
                return
            was_in_chat = self.hub.is_in_chat(session.key)
            tx.undo(lambda before=session.state: setattr(session, "state", before))  # type: ignore[misc]
            session.state = state
            c = tx.conversation(session.key)
            if session.active and c is not None:
                noted = session.noted
                c = self._acknowledge(tx, c, noted, noted.seq, session)
                self._hold(tx, c)
                tx.after_commit(lambda: self.tell.presence(session.key, c, was_in_chat))
            else:
                self._left(tx, session.key, was_in_chat, 0.0)

        needs = Needs(keys=(session.key,), mark=(session.key, session.noted.seq))
        self._submit_quietly(session.key, change, needs, lambda: setattr(session, "state", state))

    def _left(self, tx: Transaction, key: Key, was_in_chat: bool, grace: float) -> None:
        known = c = tx.conversation(key)
        tx.after_commit(lambda: self.tell.presence(key, known, was_in_chat))
        if not was_in_chat or self.hub.is_in_chat(key):
            return
        self.hub.keep_quiet(key, tx.now + grace)
        if c is None:
            return
        due = delivery.due_after_leaving(c.push_due_at, tx.now, grace)
        if due != c.push_due_at:
            c = replace(c, push_due_at=due)
            self._moved(tx, c, Reason.LEFT, due)
        for device in c.devices:
            # A backoff stands; while a call is out, the time is nothing but a hold's end.
            unclaimed = device.owes and device.ring is None
            if unclaimed or self.calling(key, device.id):
                wake = delivery.due_after_leaving(device.wake_at, tx.now, grace)
                c = c.with_device(replace(device, wake_at=wake))
        if c is not tx.conversation(key):
            tx.put(c)

    def quiet_hours_end(
        self, now: float, c: Conversation, device: Device, house: House | None = None
    ) -> float | None:
        """Of those in which the device is now, by the tenant's hours or by those of `house`."""
        return quiet_until(now, c.wishes, device.time_zone, house or self.rules(c.tenant).house)

    def patience(self, key: Key, now: float) -> Patience | None:
        """What a message to this customer may take before it is due; None: it is due at once."""
        if self.hub.is_in_chat(key):
            return Patience(self.timing.ack_timeout)
        until = self.hub.quiet_until(key, now)
        return Patience(self.timing.ack_timeout, until) if until > now else None

    def _hold(self, tx: Transaction, c: Conversation) -> Conversation:
        """Somebody came into chat: nobody is rung while the replay is on its way (rule 5)."""
        waiting = [device for device in c.devices if device.wake_at is not None]
        if c.push_due_at is None and not waiting:
            return c
        # No later than now: else, after the clock was set back, joins could hold for as long.
        since = tx.now if c.hold_from is None else min(c.hold_from, tx.now)

        def later(time: float) -> float:
            return delivery.held(time, tx.now, since, self.timing)

        times = (c.push_due_at, *(device.wake_at for device in waiting))
        standing = [time for time in times if time is not None]
        due = None if c.push_due_at is None else later(c.push_due_at)
        c = replace(c, hold_from=since, push_due_at=due)
        for device in waiting:
            c = c.with_device(replace(device, wake_at=later(device.wake_at or 0.0)))
        moved = [later(time) for time in standing if later(time) != time]
        self._moved(tx, c, Reason.HELD, max(moved, default=None))
        return tx.put(c)

    def _moved(self, tx: Transaction, c: Conversation, why: Reason, to: float | None) -> None:
        """Record that the push for what is unacknowledged is due at another time than it was."""
        if to is not None and c.acked_seq < c.last_seq:
            until = protocol.timestamp(to)
            tx.event(c, c.acked_seq + 1, c.last_seq, "due_moved", reason=why, until=until)

    # Acks and reads

    def ack(self, session: CustomerSession, seq: int) -> Change[None]:
        """The session has everything up to `seq`."""
        key = session.key

        def change(tx: Transaction) -> None:
            self._received(tx, _known(tx, key), session, seq)

        return change, Needs(keys=(key,), mark=(key, seq))

    def read(self, session: CustomerSession, seq: int) -> Change[None]:
        """The customer has seen everything up to `seq`: an ack in any state of the session."""
        key = session.key

        def change(tx: Transaction) -> None:
            c = _known(tx, key)
            cut = self._cut(tx, c, seq)
            before = c
            c = self._acknowledge(tx, c, cut, seq, session)
            c = tx.mark_read(c, cut)
            if c.read_seq == before.read_seq:
                return
            if c.unread != before.unread:
                tx.event(c, before.read_seq + 1, c.read_seq, "read", **_who(session))
                c = self._correct_badges(tx, c, session.installation)
            tx.after_commit(lambda: self.tell.read(before, c, tx.now))

        return change, Needs(keys=(key,), mark=(key, seq))

    def _received(
        self, tx: Transaction, c: Conversation, session: CustomerSession, seq: int
    ) -> Conversation:
        cut = self._cut(tx, c, seq)
        if not session.active:
            session.noted = max(session.noted, cut)
            return c
        return self._acknowledge(tx, c, cut, seq, session)

    def _note_too(
        self, tx: Transaction, c: Conversation, session: CustomerSession, seq: int
    ) -> None:
        """Another session had acknowledged before: a fact, for who asks which phones have it."""
        if session.installation is None:
            return
        upto = min(seq, c.acked_seq)
        if upto > session.acked:
            tx.event(c, session.acked + 1, upto, "acked_too", **_who(session))
        self._note(tx, session, seq)

    def _note(self, tx: Transaction, session: CustomerSession, seq: int) -> None:
        """How far this session itself has acknowledged."""
        if seq > session.acked:
            tx.undo(lambda before=session.acked: setattr(session, "acked", before))  # type: ignore[misc]
            session.acked = seq

    def _cut(self, tx: Transaction, c: Conversation, seq: int) -> Cut:
        return self._mark(tx, c, seq).cut

    def _mark(self, tx: Transaction, c: Conversation, seq: int) -> Mark:
        mark = tx.mark(c, seq)
        if mark is None:
            raise FrameError(
                ErrorCode.BAD_FRAME, f"seq {seq} is beyond the newest message, {c.last_seq}"
            )
        return mark

    def _acknowledge(
        self, tx: Transaction, c: Conversation, cut: Cut, seq: int, session: CustomerSession
    ) -> Conversation:
        before = c
        if cut.ord <= c.acked_ord:
            self._note_too(tx, c, session, seq)
            return tx.acknowledge(c, cut)[0]
        oldest = None
        if cut.ord < c.last_ord:
            mark = tx.mark(c, seq)
            oldest = tx.now if mark is None or mark.next_at is None else mark.next_at
        due = delivery.due_after_ack(c.push_due_at, oldest, self.timing.ack_timeout)
        held = c.hold_from
        if held is not None and oldest is not None:
            held = max(held, oldest)  # what joins held of others takes nothing from the rest
        c, _ = tx.acknowledge(c, cut, push_due_at=due, hold_from=held)
        tx.event(c, before.acked_seq + 1, c.acked_seq, "acked", **_who(session))
        if session.installation is not None:
            self._note(tx, session, seq)
        for span in before.settled:
            if span.outcome is Outcome.PUSHED and span.lo_ord < c.acked_ord:
                lo = max(span.lo_seq, before.acked_seq) + 1
                tx.event(
                    c, lo, min(span.hi_seq, c.acked_seq), "acked_after_ring", session=session.id
                )
        if due != before.push_due_at:
            self._moved(tx, c, Reason.ACKED, due)
        tx.after_commit(
            lambda: self.tell.receipt(
                c.key, before.acked_seq + 1, c.acked_seq, ReceiptState.DELIVERED, tx.now
            )
        )
        return c

    def _correct_badges(self, tx: Transaction, c: Conversation, reader: str | None) -> Conversation:
        """Devices that were told more than is unread now owe a silent ring (rule 8): but not the
        reader's own, unless a ring in hand tells it so only now.
        """
        for device in c.live_devices:
            if device.badge is None or device.badge <= c.unread:
                continue
            if device.installation == reader and device.ring is None:
                c = c.with_device(replace(device, badge=c.unread))
            else:
                wake = device.wake_at
                if wake is None or wake == self.quiet_hours_end(tx.now, c, device):
                    wake = tx.now  # what makes no noise does not wait for the morning
                c = c.with_device(replace(device, owes=True, wake_at=wake))
        return tx.put(c)

    # Sending

    def post(self, posting: Posting, *, create: bool = False) -> asyncio.Future[Posted]:
        """Append a message; `create` makes the customer if nobody has seen them before.

        The future raises `FrameError` (`not_found`, `conflict`, `bad_frame`) or `Unavailable`.
        """
        return self.store.submit(*self.send(posting, None, create=create))

    def send(
        self,
        posting: Posting,
        sender: CustomerSession | AgentSession | None,
        *,
        create: bool = False,
    ) -> Change[Posted]:
        """As `post`. The sender's session is answered with `sent` after the commit, in the order
        of seq.
        """
        key, ref = posting.key, posting.ref
        data = None if posting.data is None else orjson.dumps(posting.data).decode()
        id = f"m_{self.new_id()}"

        def change(tx: Transaction) -> Posted:
            c = tx.conversation(key)
            if c is None:
                if not create:
                    raise no_such_customer()
                c = tx.create(key, None)
            if ref is not None:
                first = tx.sent_before(key, posting.role, posting.author, ref)
                if first is not None:
                    return self._again(tx, posting, data, first, sender)
            was_live = c.live
            c, message = self._append(tx, c, posting, data, id)
            tx.after_commit(lambda: self.tell.message(c, message, sender, c.live != was_live))
            return Posted(message, False)

        refs = () if ref is None else ((key, posting.role.value, posting.author, ref),)
        return change, Needs(keys=(key,), refs=refs)

    def new_id(self) -> str:
        """16 hex digits that nothing else has."""
        if not self._ids:
            pool = secrets.token_hex(8 * IDS)
            self._ids = [pool[at : at + 16] for at in range(0, len(pool), 16)]
        return self._ids.pop()

    def _append(
        self, tx: Transaction, c: Conversation, posting: Posting, data: str | None, id: str
    ) -> tuple[Conversation, Message]:
        if posting.expires_at is not None and posting.expires_at <= tx.now:
            raise FrameError(ErrorCode.BAD_FRAME, "expires_at: has passed; give a time to come")
        changes: dict[str, Any] = {}
        if posting.kind is MessageKind.CHAT:
            since = None
            if posting.role is Role.CUSTOMER:
                since = tx.now if c.unanswered_since is None else c.unanswered_since
            changes = {"live": True, "unanswered_since": since}
        decided: dict[str, Any] = {}
        if is_counted(posting.role, posting.kind):
            decided = self._route(tx, c, posting)
            changes["push_due_at"] = decided["due_at"]
            if c.hold_from is not None and not outcomes.pending(c):
                changes["hold_from"] = None  # what joins held before held nothing of this message
        draft = Draft(
            id=id,
            role=posting.role.value,
            author=posting.author,
            name=posting.name,
            kind=posting.kind.value,
            text=posting.text,
            data=data,
            title=posting.title,
            ref=posting.ref,
            **decided,
        )
        return tx.append_message(c, draft, **changes)

    def _route(self, tx: Transaction, c: Conversation, posting: Posting) -> dict[str, Any]:
        """What is decided of a counted message at its commit, as fields of its draft."""
        tenant = self.rules(c.tenant)
        in_chat = self.hub.is_in_chat(posting.key)
        expires_at = posting.expires_at
        if expires_at is None:
            expires_at = tx.now + tenant.expires_after
        live = c.live_devices
        within = sum(choose(tenant.backends, d.environment, d.app) is not None for d in live)
        routing = delivery.route(
            in_chat=in_chat,
            endpoint=bool(tenant.backends) and (within > 0 or not live),
            live_devices=within,
            otherwise=no_live_device(c),
            unwanted=None if c.wishes is None else _unwanted(c, posting.kind, tx.now),
        )
        due = delivery.due_after_commit(
            c.push_due_at,
            tx.now,
            max(self.quiet_until, self.hub.quiet_until(posting.key, tx.now)),
            in_chat=in_chat,
            ack_timeout=self.timing.ack_timeout,
        )
        sessions = " ".join([session.label for session in self.hub.sessions(posting.key)])
        return {
            "expires_at": expires_at,
            "route": routing.route.value,
            "reason": routing.reason.value,
            "sessions": sessions or None,
            "due_at": due,
        }

    def _again(
        self,
        tx: Transaction,
        posting: Posting,
        data: str | None,
        first: Message,
        sender: CustomerSession | AgentSession | None,
    ) -> Posted:
        """The same `ref` once more: the first answer again, or a conflict."""
        same = (posting.text, posting.kind, posting.title)
        if same != (first.text, first.kind, first.title) or not _equal_json(data, first.data):
            raise FrameError(
                ErrorCode.CONFLICT,
                "this ref was used for another message; use a new one for each message",
            )
        if sender is not None:
            tx.after_commit(lambda: self.tell.sent(sender, first, posting.key, duplicate=True))
        return Posted(first, True)

    def end(self, key: Key) -> asyncio.Future[None]:
        """An agent ends the conversation: it is no longer live."""

        def change(tx: Transaction) -> None:
            c = _known(tx, key)
            if not c.live:
                return
            c = tx.put(replace(c, live=False, unanswered_since=None, updated_at=tx.now))
            tx.after_commit(lambda: self.tell.status(c))

        return self.store.submit(change, Needs(keys=(key,)))

    def agent_ack(self, key: Key, seq: int) -> Change[None]:
        """An agent's client has everything up to `seq`: move the mark that agents share."""

        def change(tx: Transaction) -> None:
            self._agents_received(tx, _known(tx, key), seq)

        return change, Needs(keys=(key,), mark=(key, seq))

    def agent_read(self, key: Key, seq: int) -> Change[None]:
        """Move the agents' shared read mark: an ack too."""

        def change(tx: Transaction) -> None:
            c = _known(tx, key)
            if seq <= c.agent_read_seq:
                return
            said = self._mark(tx, c, seq).said
            c = self._agents_received(tx, c, seq)
            before, c = c, tx.put(replace(c, agent_read_seq=seq, agent_read_said=said))
            if said > before.agent_read_said:
                tx.after_commit(lambda: self.tell.agents_marks(c))
            tx.after_commit(lambda: self.tell.inboxes(c))

        return change, Needs(keys=(key,), mark=(key, seq))

    def _agents_received(self, tx: Transaction, c: Conversation, seq: int) -> Conversation:
        if seq <= c.agent_acked_seq:
            return c
        said = self._mark(tx, c, seq).said
        before, c = c, tx.put(replace(c, agent_acked_seq=seq, agent_acked_said=said))
        if said > before.agent_acked_said:
            tx.after_commit(lambda: self.tell.agents_marks(c))
        return c

    async def open(self, session: AgentSession, frame: protocol.Open) -> None:
        """Answer with the conversation as it is, then follow it without a gap."""
        key = Key(session.tenant, frame.customer)

        def change(tx: Transaction) -> Conversation:
            tx.after_commit(follow)
            return _known(tx, key)

        def follow() -> None:
            """In the order of changes: what this commit did before is in the opening."""
            session.opened[key] = Held(session.bound)
            self.hub.watch(session, key)

        try:
            c = await self.store.submit(change, Needs(keys=(key,)))
            messages, more = await self._opening(c, frame.after)
        except Unavailable:
            self.hub.unwatch(session, key)
            raise
        session.send(
            {
                "type": "conversation",
                "ref": frame.ref,
                "customer": c.customer,
                "seq": c.last_seq,
                "read_seq": c.read_seq,
                "acked_seq": c.acked_seq,
                "unread": c.unread,
                "in_chat": self.hub.is_in_chat(key),
                "live": c.live,
                "devices": len(c.live_devices),
                "messages": [
                    frames.for_agent(m, c.customer, session.identity.sub) for m in messages
                ],
                "more": more,
            }
        )
        session.release(key)

    async def _opening(self, c: Conversation, after: int | None) -> tuple[list[Message], bool]:
        if after is not None and 0 <= c.last_seq - after <= self.limits.resume:
            return frames.page(await self.store.after(c, after, c.last_seq), self.room, more=False)
        newest, more = await self.store.history(c, c.last_seq + 1, protocol.HISTORY_DEFAULT)
        return frames.page(newest, self.room, more=more)

    # The writer

    def _submit_quietly(
        self,
        key: Key,
        change: Callable[[Transaction], Any],
        needs: Needs,
        otherwise: Callable[[], Any],
    ) -> None:
        """For what nobody waits for: if the disk refuses, memory at least is told, and agents."""

        def refused() -> None:
            otherwise()
            self._tell_anyway(key)

        def done(future: asyncio.Future[Any]) -> None:
            if not future.cancelled() and future.exception() is not None:
                refused()

        try:
            self.store.submit(change, needs).add_done_callback(done)
        except Unavailable:
            refused()

    def _tell_anyway(self, key: Key) -> None:
        """The disk refused what changed it, and memory is all that knows: tell who is there."""
        self.tell.presence(key, self.store.peek(key), not self.hub.is_in_chat(key))


def _unwanted(c: Conversation, kind: MessageKind, now: float) -> Reason | None:
    """Why the customer does not want to be rung for a message of this kind, if so."""
    if is_muted(c.wishes, now):
        return Reason.MUTED
    return Reason.OPTED_OUT if is_unwanted(c.wishes, kind.value) else None


def _equal_json(one: str | None, other: str | None) -> bool:
    """Whether both say the same; the order of an object's keys says nothing.

    As text, not as values: to Python `true` is equal to 1.
    """
    if one is None or other is None or one == other:
        return one == other
    return _in_order(one) == _in_order(other)


def _in_order(text: str) -> bytes:
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)


def _who(session: CustomerSession) -> dict[str, str | None]:
    """How events name a session: its id, and its installation if the app told it."""
    return {"session": session.id, "installation": session.installation}


def _known(tx: Transaction, key: Key) -> Conversation:
    conversation = tx.conversation(key)
    if conversation is None:
        raise no_such_customer()
    return conversation


def no_such_customer() -> FrameError:
    return FrameError(ErrorCode.NOT_FOUND, "this tenant has no such customer")


def no_live_device(c: Conversation) -> Reason:
    """Why the customer has no registration that may be rung."""
    states = {device.state for device in c.devices}
    if DeviceState.QUARANTINED in states:
        return Reason.QUARANTINED
    return Reason.TOKEN_DEAD if states else Reason.NO_DEVICE
