"""From records to frames: how what is stored is told to clients. Decides only the wording."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from gateway import protocol
from gateway.protocol import ReceiptState, timestamp
from storage.records import Conversation, Message


def author(role: str, id: str, name: str | None) -> protocol.Author:
    """Who wrote, or types, as `from`."""
    told: protocol.Author = {"role": role, "id": id}
    if name is not None:
        told["name"] = name
    return told


def message(m: Message, *, ref: bool = False, customer: str | None = None) -> Any:
    """A message frame. `ref` for the sender's own sessions; `customer` for agents."""
    told: dict[str, Any] = {"type": "message"}
    if customer is not None:
        told["customer"] = customer
    told["seq"] = m.seq
    told["id"] = m.id
    told["from"] = author(m.role, m.author, m.name)
    told["text"] = m.text
    told["kind"] = m.kind
    told["at"] = timestamp(m.at)
    if m.data is not None:
        told["data"] = orjson.Fragment(m.data)
    if ref and m.ref is not None:
        told["ref"] = m.ref
    return told


def for_customer(m: Message, customer: str) -> Any:
    """A message as the customer's sessions get it: with `ref` if the customer wrote it."""
    return message(m, ref=m.role == "customer" and m.author == customer)


def for_agent(m: Message, customer: str, agent: str) -> Any:
    """A message as an agent's sessions get it: with `ref` if this agent wrote it."""
    return message(m, ref=is_by_agent(m, agent), customer=customer)


def is_by_agent(m: Message, agent: str) -> bool:
    """Whether this agent wrote it."""
    return m.role == "agent" and m.author == agent


def weight(message: Message) -> int:
    """Bytes of what somebody said, as it is written; what else is in a frame is short."""
    return len(orjson.dumps(message.text)) - 2 + len((message.data or "").encode())


def fitting(messages: Iterable[Message | None], room: int) -> int:
    """How many of them, from the first on, have at most `room` bytes; one at least, however long it
    is."""
    size = many = 0
    for message in messages:
        size += 0 if message is None else weight(message)
        if size > room and many:
            break
        many += 1
    return many


def page(messages: list[Message], room: int, *, more: bool) -> tuple[list[Message], bool]:
    """The newest of `messages` (rising) with at most `room` bytes, and whether there are older."""
    many = fitting(reversed(messages), room)
    return (messages, more) if many == len(messages) else (messages[-many:], True)


def sent(message: Message, *, duplicate: bool) -> Any:
    """The answer to a customer's send."""
    told: dict[str, Any] = {
        "type": "sent",
        "ref": message.ref,
        "seq": message.seq,
        "id": message.id,
        "at": timestamp(message.at),
    }
    if duplicate:
        told["duplicate"] = True
    return told


def agent_sent(message: Message, customer: str, *, duplicate: bool) -> Any:
    """The answer to an agent's send: also where the message went at its commit."""
    told = sent(message, duplicate=duplicate)
    told["customer"] = customer
    told["route"] = message.route
    told["reason"] = message.reason
    return told


def facts(conversation: Conversation) -> dict[str, Any]:
    """What `status` frames and calls have in common."""
    return {
        "seq": conversation.last_seq,
        "read_seq": conversation.read_seq,
        "unread": conversation.unread,
        "badge_seq": conversation.badge_seq,
        "live": conversation.live,
        "agents_acked_seq": conversation.agent_acked_seq,
        "agents_read_seq": conversation.agent_read_seq,
    }


def status(conversation: Conversation) -> Any:
    """A `status` frame."""
    return {"type": "status", **facts(conversation)}


def entry(conversation: Conversation, *, in_chat: bool) -> protocol.ConversationEntry:
    """A conversation as an inbox shows it."""
    told: protocol.ConversationEntry = {
        "customer": conversation.customer,
        "live": conversation.live,
        "in_chat": in_chat,
        "seq": conversation.last_seq,
        "unread": conversation.unread,
        "waiting": conversation.waiting,
        "updated_at": timestamp(conversation.updated_at),
    }
    if conversation.unanswered_since is not None:
        told["unanswered_since"] = timestamp(conversation.unanswered_since)
    if conversation.name is not None:
        told["name"] = conversation.name
    if conversation.newest is not None:
        told["last"] = for_agent(conversation.newest, conversation.customer, "")
    return told


def inbox_update(conversation: Conversation, *, in_chat: bool) -> protocol.InboxUpdate:
    """An `inbox_update` frame."""
    return {"type": "inbox_update", "conversation": entry(conversation, in_chat=in_chat)}


def receipt(
    customer: str,
    from_seq: int,
    seq: int,
    state: ReceiptState,
    at: float,
    reason: str | None = None,
) -> protocol.Receipt:
    """A `receipt` frame for the agents' messages from `from_seq` to `seq`."""
    told: protocol.Receipt = {
        "type": "receipt",
        "customer": customer,
        "from_seq": from_seq,
        "seq": seq,
        "state": state,
        "at": timestamp(at),
    }
    if reason is not None:
        told["reason"] = reason
    return told


def presence(customer: str, *, in_chat: bool, sessions: int) -> protocol.Presence:
    """A `presence` frame."""
    return {"type": "presence", "customer": customer, "in_chat": in_chat, "sessions": sessions}


def error(error: protocol.FrameError, ref: str | None = None) -> protocol.Error:
    """An `error` frame, under the error's own `ref` if it has one, else under this."""
    told: protocol.Error = {"type": "error", "code": error.code, "message": error.message}
    ref = error.ref or ref
    if ref is not None:
        told["ref"] = ref
    if error.retry_after is not None:
        told["retry_after"] = round(error.retry_after, 3)
    return told
