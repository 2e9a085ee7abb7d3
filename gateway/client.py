"""The Python client: a customer's and an agent's side of the wire, with a socket that comes back.

This is what programs import; the parts that do it are in `gateway.clientside`. A client keeps a
socket open until the server says for good (or the owner says) that it should stay away::

    start ──> connecting ──hello, welcome──> connected ──end──> waiting ──┐
                  ^                                                       │ jitter, 1012 window
                  └───────────────────────────────────────────────────────┘
    close, bye, abort, or a code after which clients stay away ──> ended ──start──> connecting

Requests wait in the outbox while there is no socket and are written again, under the same ref, on
the next one. A send therefore either returns what the server confirmed, or raises, and if the
client ends before the answer, the message may or may not have been committed. Sends keep their
order except around `rate_limited` and `unavailable`; who needs it always awaits each send.

What they raise is drawn in `gateway.clientside.errors`. Waiting longer than a `timeout` raises the
built-in `TimeoutError`. Proxies of the environment are not used. Callbacks are called in the event
loop, in order, and must not block; one that raises is reported to the loop's exception handler and
changes nothing else.
"""

from __future__ import annotations

from gateway.clientside.agent import AgentClient
from gateway.clientside.customer import CustomerClient
from gateway.clientside.errors import (
    ClientError,
    ConnectionEnded,
    NotUnderstood,
    OutboxFull,
    RequestFailed,
)
from gateway.clientside.notifications import (
    NotificationStatus,
    conversation_status,
    is_double,
    is_ours,
    should_open_chat,
)
from gateway.clientside.told import (
    AgentSent,
    InboxEntry,
    InboxPage,
    Message,
    Opened,
    Page,
    Sent,
    Status,
)

__all__ = [
    "AgentClient",
    "AgentSent",
    "ClientError",
    "ConnectionEnded",
    "CustomerClient",
    "InboxEntry",
    "InboxPage",
    "Message",
    "NotUnderstood",
    "NotificationStatus",
    "Opened",
    "OutboxFull",
    "Page",
    "RequestFailed",
    "Sent",
    "Status",
    "conversation_status",
    "is_double",
    "is_ours",
    "should_open_chat",
]
