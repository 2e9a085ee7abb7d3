"""The context: what every use case stands on, one object for all of them.

What is known of the tenants and of the time, who hears of what, and what holds all pushes back.
Decides nothing: the use cases are in `gateway.presence` (who is there), `gateway.marks` (acks and
reads), `gateway.chat` (messages), and those of pushes in `gateway.owing` and `gateway.ringing`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from gateway import delivery, protocol
from gateway.delivery import Patience, Reason, Timing
from gateway.hub import Hub
from gateway.protocol import ErrorCode, FrameError, Limits
from gateway.telling import Telling
from gateway.wishes import TenantHours, quiet_hours_end
from push.backends import Backend
from push.content import Content
from storage.records import Conversation, Detail, Device, Key
from storage.store import Needs, Store
from storage.transaction import Transaction

R = TypeVar("R")
Change = tuple[Callable[[Transaction], R], Needs]
"""A use case that is yet to be given to the store, by `submit` or `enqueue`."""

IDS = 256  # ids made from one call for randomness: the call costs more than the rest of an id


class TenantRules(msgspec.Struct, frozen=True):
    """What the delivery rule needs to know of a tenant. `expires_after` in seconds."""

    backends: tuple[Backend, ...] = ()
    expires_after: float = 86_400.0
    content: Content = Content()
    hours: TenantHours = TenantHours()
    token_expires_after: float = math.inf  # without a push section: as long as that is out


_NO_PUSH = TenantRules()


class Context:
    """The same object for all use cases."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        timing: Timing,
        limits: Limits,
        tenants: Mapping[str, TenantRules],
        clock: Callable[[], float],
        room: int,
    ) -> None:
        self.room = room
        """Bytes that one page of messages may take: half of what may wait for a session."""
        self.store = store
        self.hub = hub
        self.timing = timing
        self.limits = limits
        self.tenants = tenants
        self.tell = Telling(hub, store.peek)
        self.clock = clock
        self.draining = False
        self._ids: list[str] = []
        self.restart_grace_until = 0.0
        """Until then, after a start, nobody is rung (rule 9)."""
        self.calling: set[int] = set()
        """The devices, by id, for which a call is out."""

    def rules(self, tenant: str) -> TenantRules:
        """The tenant's rules; those of one without push, if it was taken out of the configuration:
        housekeeping and late sign-outs still meet its rows."""
        return self.tenants.get(tenant, _NO_PUSH)

    def quiet_hours_end(self, now: float, c: Conversation, device: Device) -> float | None:
        """When the quiet hours end in which the device is now; None outside of them."""
        return quiet_hours_end(now, c.wishes, device.time_zone, self.rules(c.key.tenant).hours)

    def is_calling(self, device: Device) -> bool:
        """Whether a call for this device is out: then its settling decides its next time, no
        earlier than a hold that began meanwhile allows."""
        return device.id in self.calling

    def patience(self, key: Key, now: float, *, in_chat: bool) -> Patience | None:
        """What a message to this customer may take before it is due; None: it is due at once."""
        if in_chat:
            return Patience(self.timing.ack_timeout)
        until = self.hub.grace_until(key, now)
        return Patience(self.timing.ack_timeout, until) if until > now else None

    def due(self, c: Conversation, now: float, *, in_chat: bool) -> float:
        """When the push for a message that is pending from now on is due (rule 1)."""
        grace_until = (
            0.0 if in_chat else max(self.restart_grace_until, self.hub.grace_until(c.key, now))
        )
        ack_timeout = self.timing.ack_timeout
        return delivery.due_after_commit(
            c.push_due_at, now, grace_until, in_chat=in_chat, ack_timeout=ack_timeout
        )

    async def existing(self, key: Key) -> Conversation:
        """The conversation as last committed. Raises `FrameError` `not_found`."""
        c = await self.store.conversation(key)
        if c is None:
            raise no_such_customer()
        return c

    def new_id(self) -> str:
        """16 hex digits that nothing else has."""
        if not self._ids:
            pool = secrets.token_hex(8 * IDS)
            self._ids = [pool[at : at + 16] for at in range(0, len(pool), 16)]
        return self._ids.pop()


def due_moved(tx: Transaction, c: Conversation, why: Reason, to: float | None) -> None:
    """Record that the push for what is unacknowledged is due at another time than it was."""
    if to is not None and c.acked_seq < c.last_seq:
        until = protocol.timestamp(to)
        tx.event(c, c.acked_seq + 1, c.last_seq, "due_moved", Detail(reason=why, until=until))


def existing(tx: Transaction, key: Key) -> Conversation:
    """The conversation as the changes before this one left it. Raises `FrameError` `not_found`."""
    conversation = tx.conversation(key)
    if conversation is None:
        raise no_such_customer()
    return conversation


def no_such_customer() -> FrameError:
    return FrameError(ErrorCode.NOT_FOUND, "this tenant has no such customer")
