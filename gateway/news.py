"""News for inboxes: an agent who asked for the inbox hears of every change of a conversation.

Theory of operation. A change costs a frame for each agent of the tenant who asked. Told by itself
it also costs a write to each of their sockets, which is by far the larger part. So `AT_ONCE` frames
of a tenant leave at once in every `EVERY` seconds. What comes beyond that leaves when these are
over, together in one write for each agent, with only the newest state of each conversation.

A broadcast to thousands would even then take the loop from everybody (I8), and more of the agents'
lines than they have. So no more than `FRAMES` frames leave each time, in equal parts for tenants
that have more to tell, and the rest waits for the next time. A change for more agents than that is
told whole, and its tenant waits that much longer. Conversations in which somebody talks come first:
live ones, except those whose newest message is a broadcast's, as many tenants never end one.

Bound (I9): `WAITING` conversations of a tenant in which nobody talks, and `TALKING` in which
somebody does; beyond it the one of them that has waited longest is not told of. An agent who asks
for the inbox again sees it, and everybody does when it changes next.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway import frames, protocol
from gateway.hub import Hub
from gateway.protocol import MessageKind
from gateway.session import AgentSession
from storage.records import Conversation, Key, Message

EVERY = 0.02  # seconds
AT_ONCE = 32  # frames
FRAMES = 400  # for 50 agents about 1 ms of the loop, half of it their writes
WAITING = TALKING = 20_000
_PROACTIVE = MessageKind.PROACTIVE


@dataclass(slots=True)
class _Tenant:
    """What waits, the longest first, and how many frames may leave: `left` at the time `at` (the
    loop's clock), less than none if a change was for more agents than that."""

    talking: dict[Key, Conversation] = field(default_factory=dict)
    others: dict[Key, Conversation] = field(default_factory=dict)
    left: int = 0
    at: float = float("-inf")
    timer: asyncio.TimerHandle | None = None  # while something waits

    def may_tell(self, now: float, part: int) -> bool:
        """Whether a change may be told of, where `part` frames may leave in `EVERY` seconds."""
        if now >= self.at + EVERY:  # as the timer's: a difference is rounded otherwise
            self.left = int(min(part, self.left + part * ((now - self.at) / EVERY)))
            self.at = now
        return self.left > 0

    def put(self, c: Conversation) -> None:
        if c.live and (c.key in self.talking or not _is_broadcast(c.newest)):
            waiting, other, bound = self.talking, self.others, TALKING
        else:
            waiting, other, bound = self.others, self.talking, WAITING
        other.pop(c.key, None)
        waiting[c.key] = c
        if len(waiting) > bound:
            del waiting[next(iter(waiting))]

    def take(self) -> Conversation | None:
        """The next that is to be told of."""
        for waiting in (self.talking, self.others):
            if waiting:
                return waiting.pop(next(iter(waiting)))
        return None


def _is_broadcast(message: Message | None) -> bool:
    return message is not None and message.kind == _PROACTIVE


class News:
    """Tells the agents that the hub has for a tenant's inbox."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tenants: dict[str, _Tenant] = {}
        self._waiting = 0  # tenants for which something waits

    def changed(self, c: Conversation) -> None:
        """Tell of a conversation that changed, now or soon, in the order of the changes. One
        without a message is in no inbox, and not told of."""
        name = c.key.tenant
        inboxes = self._hub.inboxes(name)
        if not inboxes or not c.last_seq:
            return
        tenant = self._tenants.setdefault(name, _Tenant())
        if tenant.timer is None:
            now, part = asyncio.get_running_loop().time(), self._part()
            if tenant.may_tell(now, part) and tenant.left > part - AT_ONCE:
                self._tell(tenant, inboxes, c)
                return
            self._wait(tenant, name)
        tenant.put(c)

    def _part(self) -> int:
        """The frames of one tenant, beside those for which something waits."""
        return max(1, FRAMES // (self._waiting + 1))

    def _wait(self, tenant: _Tenant, name: str) -> None:
        self._waiting += 1
        loop = asyncio.get_running_loop()
        tenant.timer = loop.call_at(tenant.at + EVERY, self._go_on, name)

    def _go_on(self, name: str) -> None:
        """Tell as much of what waits as may be told now."""
        tenant, inboxes = self._tenants[name], self._hub.inboxes(name)
        tenant.timer = None
        self._waiting -= 1
        if not inboxes:
            del self._tenants[name]
            return
        now = asyncio.get_running_loop().time()
        while tenant.may_tell(now, self._part()):
            c = tenant.take()
            if c is None:
                return
            self._tell(tenant, inboxes, c)
        self._wait(tenant, name)

    def _tell(self, tenant: _Tenant, inboxes: tuple[AgentSession, ...], c: Conversation) -> None:
        text = protocol.encode(frames.inbox_update(c, in_chat=self._hub.is_in_chat(c.key)))
        for session in inboxes:
            session.write(text)
        tenant.left -= len(inboxes)
