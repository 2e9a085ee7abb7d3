"""Chat: messages, as customers, agents and services write them, and the conversation they make.

Decides what is accepted, under which `ref`, and what is decided of a message at its commit. Who is
there is in `gateway.presence`, acks and reads in `gateway.marks`.

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
from typing import Any

import msgspec
import orjson

from gateway import delivery, frames, protocol
from gateway.context import Change, Context, existing, no_such_customer
from gateway.delivery import Reason
from gateway.protocol import ErrorCode, FrameError, MessageKind, Role
from gateway.session import AgentSession, CustomerSession, Held
from gateway.wanted import no_live_device
from gateway.wishes import is_muted, is_unwanted
from push.backends import choose
from storage import outcomes
from storage.errors import Unavailable
from storage.records import Conversation, Draft, Key, Message, is_counted
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace
_CHAT, _CUSTOMER = MessageKind.CHAT, Role.CUSTOMER


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


class Posted(msgspec.Struct, frozen=True):
    """What became of a posting. `duplicate` if its `ref` had been sent before."""

    message: Message
    duplicate: bool


class _Decided(msgspec.Struct, frozen=True):
    """What is decided of a message at its commit; of one that is not counted, nothing.

    When it expires, its route and why, the sessions that it is written to, when its push is due.
    """

    expires_at: float | None = None
    route: str | None = None
    reason: str | None = None
    sessions: str | None = None
    due_at: float | None = None


_NOTHING_DECIDED = _Decided()


class Chat:
    """Messages, and the conversation that they are."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._hub = context.hub
        self._limits = context.limits
        self._tell = context.tell

    # Sending

    def post(self, posting: Posting, *, create: bool = False) -> asyncio.Future[Posted]:
        """Append a message; `create` makes the customer if nobody has seen them before.

        A service's message lets chat pass: however many connections it posts through, it is
        answered as fast as the others leave room, and takes the loop from nobody (I8).

        The future raises `FrameError` (`not_found`, `conflict`, `bad_frame`) or `Unavailable`.
        """
        return self._store.submit(
            *self.send(posting, None, create=create), later=posting.role is Role.SERVICE
        )

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
        id = f"m_{self._context.new_id()}"

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
            tx.after_commit(lambda: self._tell.message(c, message, sender, c.live != was_live))
            return Posted(message, False)

        refs = () if ref is None else ((key, str(posting.role), posting.author, ref),)
        return change, Needs(keys=(key,), refs=refs)

    def _append(
        self, tx: Transaction, c: Conversation, posting: Posting, data: str | None, id: str
    ) -> tuple[Conversation, Message]:
        if posting.expires_at is not None and posting.expires_at <= tx.now:
            raise FrameError(ErrorCode.BAD_FRAME, "expires_at: has passed; give a time to come")
        changes: dict[str, Any] = {}
        if posting.kind is _CHAT:
            since = None
            if posting.role is _CUSTOMER:
                since = tx.now if c.unanswered_since is None else c.unanswered_since
            live = c.live or posting.role is not Role.SERVICE  # which could not end it again
            changes = {"live": live, "unanswered_since": since}
        decided = _NOTHING_DECIDED
        if is_counted(posting.role, posting.kind):
            decided = self._decide(tx, c, posting)
            changes["push_due_at"] = decided.due_at
            if c.hold_from is not None and not outcomes.pending(c):
                changes["hold_from"] = None  # what joins held before was not this message
        draft = Draft(
            id=id,
            role=str(posting.role),
            author=posting.author,
            name=posting.name,
            kind=str(posting.kind),
            text=posting.text,
            data=data,
            title=posting.title,
            expires_at=decided.expires_at,
            ref=posting.ref,
            route=decided.route,
            reason=decided.reason,
            sessions=decided.sessions,
            due_at=decided.due_at,
        )
        return tx.append_message(c, draft, **changes)

    def _decide(self, tx: Transaction, c: Conversation, posting: Posting) -> _Decided:
        """Of a counted message."""
        tenant = self._context.rules(posting.key.tenant)
        in_chat = self._hub.is_in_chat(posting.key)
        expires_at = posting.expires_at
        if expires_at is None:
            expires_at = tx.now + tenant.expires_after
        if in_chat:
            routing = delivery.route(in_chat=True)
        else:
            within = self._within_reach(c)
            routing = delivery.route(
                in_chat=False,
                endpoint=bool(tenant.backends) and (within > 0 or not c.live_devices),
                live_devices=within,
                otherwise=no_live_device(c),
                unwanted=None if c.wishes is None else _unwanted(c, posting.kind, tx.now),
            )
        sessions = " ".join([session.label for session in self._hub.sessions(posting.key)])
        return _Decided(
            expires_at=expires_at,
            route=str(routing.route),
            reason=str(routing.reason),
            sessions=sessions or None,
            due_at=self._context.due(c, tx.now, in_chat=in_chat),
        )

    def _within_reach(self, c: Conversation) -> int:
        """How many of the customer's devices a configured backend rings."""
        backends = self._context.rules(c.tenant).backends
        return sum(choose(backends, d.environment, d.app) is not None for d in c.live_devices)

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
            tx.after_commit(lambda: self._tell.sent(sender, first, posting.key, duplicate=True))
        return Posted(first, True)

    def end(self, key: Key) -> asyncio.Future[None]:
        """An agent ends the conversation: it is no longer live."""

        def change(tx: Transaction) -> None:
            c = existing(tx, key)
            if not c.live:
                return
            c = tx.put(replace(c, live=False, unanswered_since=None, updated_at=tx.now))
            tx.after_commit(lambda: self._tell.status(c))

        return self._store.submit(change, Needs(keys=(key,)))

    # Following

    async def open(self, session: AgentSession, frame: protocol.Open) -> None:
        """Answer with the conversation as it is, then follow it without a gap."""
        key = session.key(frame.customer)

        def change(tx: Transaction) -> Conversation:
            tx.after_commit(follow)
            return existing(tx, key)

        def follow() -> None:
            """In the order of changes: what this commit did before is in the opening."""
            session.opened[key] = Held(session.bound)
            self._hub.watch(session, key)

        await session.out.has_read()  # as for pages: several openings would be more than may wait
        try:
            c = await self._store.submit(change, Needs(keys=(key,)))
        except Unavailable:  # of others in the same commit: this one only reads
            c = await self._context.existing(key)
            follow()
        try:
            messages, more = await self._opening(c, frame.after)
        except Unavailable:
            self._hub.unwatch(session, key)
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
                "in_chat": self._hub.is_in_chat(key),
                "live": c.live,
                "devices": self._within_reach(c),
                "messages": [
                    frames.for_agent(m, c.customer, session.identity.sub) for m in messages
                ],
                "more": more,
            }
        )
        session.release(key)

    async def _opening(self, c: Conversation, after: int | None) -> tuple[list[Message], bool]:
        if after is not None and 0 <= c.last_seq - after <= self._limits.resume:
            missed = await self._store.after(c, after)
            return frames.page(missed, self._context.room, more=False)
        newest, more = await self._store.history(c, None, protocol.HISTORY_DEFAULT)
        return frames.page(newest, self._context.room, more=more)


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
