"""News for inboxes: an agent who asked for the inbox hears of every change of a conversation.

Theory of operation. A change costs a frame for each agent of the tenant that asked. Few are told at
once. What a broadcast to thousands does would take the loop from everybody (I8) and more of the
agents' lines than they have: so in every `EVERY` seconds `FRAMES` frames leave for a tenant, and
what is beyond waits for the next, of each conversation only the newest state. Those come first in
which somebody talks: live ones, but for those whose newest message is a broadcast's. Many tenants
never end a conversation.

Bound (I9): `WAITING` conversations of a tenant in which nobody talks; beyond it the one that has
waited longest is not told of. Who asks for the inbox again has it, or all when it changes next.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway import frames, protocol
from gateway.hub import Hub
from gateway.session import AgentSession
from gateway.wishes import PROACTIVE
from storage.records import Conversation, Key, Message

EVERY = 0.02  # seconds
FRAMES = 400  # some 2 ms of the loop
WAITING = 20_000


@dataclass(slots=True)
class _Tenant:
    """What waits, the longest first, and how many frames may leave `until` (the loop's clock)."""

    talking: dict[Key, Conversation] = field(default_factory=dict)
    others: dict[Key, Conversation] = field(default_factory=dict)
    until: float = 0.0
    left: int = 0
    timer: asyncio.TimerHandle | None = None  # while something waits

    def allows(self, frames: int) -> bool:
        """Whether so many more may leave now: those of one change always may, if none have."""
        return self.left >= frames or self.left == FRAMES

    def put(self, c: Conversation) -> None:
        if c.live and (c.key in self.talking or not _is_broadcast(c.newest)):
            self.others.pop(c.key, None)
            self.talking[c.key] = c
            return
        self.talking.pop(c.key, None)
        self.others[c.key] = c
        if len(self.others) > WAITING:
            del self.others[next(iter(self.others))]

    def take(self) -> Conversation | None:
        """The next that is to be told of."""
        for waiting in (self.talking, self.others):
            if waiting:
                return waiting.pop(next(iter(waiting)))
        return None


def _is_broadcast(message: Message | None) -> bool:
    return message is not None and message.kind == PROACTIVE


class News:
    """Tells the agents that the hub has for a tenant's inbox."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tenants: dict[str, _Tenant] = {}

    def changed(self, c: Conversation) -> None:
        """Tell of a conversation that changed, now or soon: in the order of the changes. Of one
        without a message nothing is told, it is in no inbox."""
        inboxes = self._hub.inboxes(c.tenant)
        if not inboxes or not c.last_seq:
            return
        tenant = self._tenants.setdefault(c.tenant, _Tenant())
        if tenant.timer is None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            if now >= tenant.until:
                tenant.until, tenant.left = now + EVERY, FRAMES
            if tenant.allows(len(inboxes)):
                self._tell(tenant, inboxes, c)
                return
            tenant.timer = loop.call_at(tenant.until, self._go_on, c.tenant)
        tenant.put(c)

    def _go_on(self, name: str) -> None:
        """Tell as much of what waits as may be told now."""
        tenant, inboxes = self._tenants[name], self._hub.inboxes(name)
        if not inboxes:
            del self._tenants[name]
            return
        loop = asyncio.get_running_loop()
        tenant.until, tenant.left = loop.time() + EVERY, FRAMES
        tenant.timer = None
        while tenant.allows(len(inboxes)):
            c = tenant.take()
            if c is None:
                return
            self._tell(tenant, inboxes, c)
        tenant.timer = loop.call_at(tenant.until, self._go_on, name)

    def _tell(self, tenant: _Tenant, inboxes: tuple[AgentSession, ...], c: Conversation) -> None:
        text = protocol.encode(frames.inbox_update(c, in_chat=self._hub.is_in_chat(c.key)))
        for session in inboxes:
            session.write(text)
        tenant.left -= len(inboxes)
