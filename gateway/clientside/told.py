"""What the server tells, as data: frames as they came, and the shapes of those that a client reads.

Decides what is understood: fields that are not known are passed over; one that lacks, or has the
wrong type, raises `NotUnderstood`. What follows from a frame is left to those who asked.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from gateway.clientside.errors import NotUnderstood
from gateway.protocol import Limits, MessageKind, Role, Route

Frame = dict[str, Any]
T = TypeVar("T")


def decoded(raw: bytes) -> Frame:
    """A frame, or an empty one for what is none: a client passes over what it does not know."""
    try:
        frame = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return frame if isinstance(frame, dict) and isinstance(frame.get("type"), str) else {}


def understood(frame: Frame, kind: type[T]) -> T:
    try:
        understood: T = msgspec.convert(frame, kind)
    except msgspec.ValidationError:
        raise NotUnderstood(str(frame.get("type"))) from None
    return understood


class Author(msgspec.Struct, frozen=True):
    """Who wrote."""

    role: Role
    id: str
    name: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a conversation. `at` is RFC 3339; `ref` is only on one's own."""

    seq: int
    id: str
    author: Author = msgspec.field(name="from")
    text: str
    kind: MessageKind
    at: str
    data: dict[str, Any] | None = None
    ref: str | None = None
    customer: str | None = None
    """Whose conversation: told to agents only."""

    def __repr__(self) -> str:
        return f"Message(seq={self.seq}, id={self.id!r})"


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a customer's session began."""

    session: str
    customer: str
    epoch: str
    seq: int
    read_seq: int
    unread: int
    live: bool
    resumed: bool
    limits: Limits
    server_time: str
    agents_acked_seq: int = 0
    agents_read_seq: int = 0


class AgentWelcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent's session began."""

    session: str
    agent: str
    tenant: str
    limits: Limits
    server_time: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where the conversation stands, as last told. `badge_seq` is None until a `status` came.

    A message of one's own is delivered up to `agents_acked_seq`, read up to `agents_read_seq`.
    """

    seq: int
    read_seq: int
    unread: int
    live: bool
    badge_seq: int | None = None
    agents_acked_seq: int = 0
    agents_read_seq: int = 0


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's message is on the server's disk; `duplicate` if the answer came again."""

    ref: str
    seq: int
    id: str
    at: str
    duplicate: bool = False


class AgentSent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's message is on the server's disk, and where it went at that moment."""

    ref: str
    customer: str
    seq: int
    id: str
    at: str
    route: Route
    reason: str | None = None
    duplicate: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Messages in rising seq; `more` if there are older ones."""

    messages: list[Message]
    more: bool


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as an agent opened it. `devices` says how many."""

    customer: str
    seq: int
    read_seq: int
    acked_seq: int
    unread: int
    in_chat: bool
    live: bool
    devices: int
    messages: list[Message]
    more: bool


class InboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as an inbox lists it. `unanswered_since` is None unless the customer waits."""

    customer: str
    live: bool
    unanswered_since: str | None = None
    in_chat: bool
    seq: int
    unread: int
    waiting: int
    updated_at: str
    name: str | None = None
    last: Message | None = None


class InboxPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the inbox; `cursor` asks for the next one."""

    conversations: list[InboxEntry]
    cursor: str | None = None


class Device(msgspec.Struct, frozen=True):
    """A device as it was registered: the part that is of use."""

    deregistration_key: str
