"""Telling: who hears of what, after a commit. Writes frames to sessions and decides nothing else.

Called from `after_commit`, in the order of the changes, so that every socket gets its frames in
rising seq. A frame is encoded once and written to many.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway import frames, protocol
from gateway.hub import Hub
from gateway.news import News
from gateway.protocol import ReceiptState
from gateway.session import AgentSession, CustomerSession, Session
from storage.records import Conversation, Key, Message


class Telling:
    """What the hub's sessions are told. `peek` gives a conversation that is in memory."""

    def __init__(
        self,
        hub: Hub,
        peek: Callable[[Key], Conversation | None],
    ) -> None:
        self._hub = hub
        self._peek = peek
        self._news = News(hub)

    def sent(
        self,
        sender: CustomerSession | AgentSession,
        message: Message,
        key: Key,
        *,
        duplicate: bool,
    ) -> None:
        """Answer the sender, in the order of seq."""
        if isinstance(sender, AgentSession):
            answer = frames.agent_sent(message, key.customer, duplicate=duplicate)
            sender.deliver(key, protocol.encode(answer))
        else:
            answer = frames.sent(message, duplicate=duplicate)
            sender.deliver(protocol.encode(answer))

    def customer_typing(self, session: CustomerSession, on: bool) -> None:
        """Tell the agents; never stored."""
        if self._hub.watched(session.key):
            frame: protocol.AgentTypingNotice = {
                "type": "typing",
                "customer": session.key.customer,
                "from": _who(session),
                "on": on,
            }
            self._hub.tell_watchers(session.key, protocol.encode(frame))

    def agent_typing(self, session: AgentSession, key: Key, *, on: bool) -> None:
        """Tell the customer and the other agents; never stored."""
        frame: protocol.TypingNotice = {"type": "typing", "from": _who(session), "on": on}
        self._hub.deliver(key, protocol.encode(frame))
        theirs: protocol.AgentTypingNotice = {**frame, "customer": key.customer}
        self._hub.tell_watchers(key, protocol.encode(theirs), session)

    def message(
        self,
        c: Conversation,
        message: Message,
        sender: CustomerSession | AgentSession | None,
        turned_live: bool,
    ) -> None:
        """Tell everybody of a message: the sender by `sent`, the others by `message`."""
        key = c.key
        if sender is not None:
            self.sent(sender, message, key, duplicate=False)
        if self._hub.sessions(key):
            text = protocol.encode(frames.for_customer(message, key.customer))
            self._hub.deliver(key, text, sender)
        encoded: dict[bool, bytes] = {}
        for session in self._hub.watchers(key):
            if session is sender:
                continue
            own = frames.is_by_agent(message, session.identity.sub)
            if own not in encoded:
                told = frames.message(message, ref=own, customer=key.customer)
                encoded[own] = protocol.encode(told)
            session.frame_bucket.give()
            session.deliver(key, encoded[own])
        if turned_live:
            self._hub.deliver(key, protocol.encode(frames.status(c)))
        self.inboxes(c)

    def inboxes(self, c: Conversation) -> None:
        """Tell the agents that asked for their inbox."""
        self._news.changed(c)

    def status(self, c: Conversation) -> None:
        """Tell the customer's sessions, and the inboxes."""
        self._hub.deliver(c.key, protocol.encode(frames.status(c)))
        self.inboxes(c)

    def agents_marks(self, c: Conversation) -> None:
        """Tell the customer's sessions how far the agents are, once for a commit: its last."""
        now = self._peek(c.key) or c
        if (now.agent_acked_said, now.agent_read_said) == (c.agent_acked_said, c.agent_read_said):
            self._hub.deliver(c.key, protocol.encode(frames.status(c)))

    def read(self, before: Conversation, c: Conversation, at: float) -> None:
        """Tell how far the customer has read."""
        self.status(c)
        if c.read_ord != before.read_ord:
            self.receipt(c.key, before.read_seq + 1, c.read_seq, ReceiptState.READ, at)

    def receipt(
        self,
        key: Key,
        from_seq: int,
        seq: int,
        state: ReceiptState,
        at: float,
        reason: str | None = None,
    ) -> None:
        """Tell the agents that have the conversation open what became of their messages, and when:
        at the time of the commit, as it is recorded."""
        if self._hub.watched(key):
            frame = frames.receipt(key.customer, from_seq, seq, state, at, reason)
            self._hub.tell_watchers(key, protocol.encode(frame))

    def presence(self, key: Key, c: Conversation | None, was_in_chat: bool) -> None:
        """Tell who is there, and the inboxes if the customer came into chat or left. `c` is the
        conversation as of then, if there is one: later changes of the commit are told after."""
        in_chat = self._hub.is_in_chat(key)
        if self._hub.watched(key):
            sessions = len(self._hub.sessions(key))
            frame = frames.presence(key.customer, in_chat=in_chat, sessions=sessions)
            self._hub.tell_watchers(key, protocol.encode(frame))
        if in_chat is not was_in_chat and c is not None:
            self.inboxes(c)


def _who(session: Session) -> protocol.Author:
    identity = session.identity
    return frames.author(identity.role.value, identity.sub, identity.name)
