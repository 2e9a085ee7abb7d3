"""The session hub: who is connected, who is in chat, and who watches which conversation.

Decides nothing. It is changed by the writer's changes in their order (`join`, `leave`), so that a
decision made there sees the sessions as they were in that order. It holds sessions, never messages.
So it is where the writer is, also if sockets are elsewhere (docs/design.md, the two seams).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.session import AgentSession, CustomerSession, Session
from storage.records import Key


class Hub:
    """All sessions of this process."""

    def __init__(self) -> None:
        self._customers: dict[Key, list[CustomerSession]] = {}
        self._agents: dict[str, set[AgentSession]] = {}
        self._inboxes: dict[str, set[AgentSession]] = {}
        self._watchers: dict[Key, set[AgentSession]] = {}
        self._graces: dict[Key, float] = {}

    # Customers

    def join(self, session: CustomerSession) -> None:
        """Add a session (again does nothing)."""
        room = self._customers.setdefault(session.key, [])
        if session not in room:
            room.append(session)

    def leave(self, session: CustomerSession) -> bool:
        """Remove a session; whether it was there."""
        room = self._customers.get(session.key, [])
        if session not in room:
            return False
        room.remove(session)
        if not room:
            del self._customers[session.key]
        return True

    def sessions(self, key: Key) -> Sequence[CustomerSession]:
        """The customer's sessions, oldest first."""
        return self._customers.get(key, ())

    def is_in_chat(self, key: Key) -> bool:
        """Whether at least one session of the customer has the chat on screen."""
        room = self._customers.get(key)
        return room is not None and True in [session.active for session in room]

    def deliver(self, key: Key, data: bytes, but: Session | None = None) -> None:
        """Write an encoded frame to all the customer's sessions."""
        for session in tuple(self.sessions(key)):
            if session is not but:
                session.frame_bucket.give()
                session.deliver(data)

    def begin_grace(self, key: Key, until: float) -> None:
        """Note that a grace of this customer runs until then; an earlier one ended by a return."""
        self._graces[key] = until

    def grace_until(self, key: Key, now: float) -> float:
        """The end of the customer's grace, or 0."""
        until = self._graces.get(key, 0.0)
        if until and until <= now:
            del self._graces[key]
            return 0.0
        return until

    def forget_graces(self, now: float) -> None:
        """Drop the graces that have ended, so that they do not pile up."""
        self._graces = {k: t for k, t in self._graces.items() if t > now}

    # Agents

    def arrive(self, session: AgentSession) -> None:
        self._agents.setdefault(session.tenant, set()).add(session)

    def depart(self, session: AgentSession) -> None:
        for key in tuple(session.opened):
            self.unwatch(session, key)
        for room in (self._agents, self._inboxes):
            agents = room.get(session.tenant, set())
            agents.discard(session)
            if not agents:
                room.pop(session.tenant, None)

    def watch(self, session: AgentSession, key: Key) -> None:
        self._watchers.setdefault(key, set()).add(session)

    def unwatch(self, session: AgentSession, key: Key) -> None:
        session.opened.pop(key, None)
        watchers = self._watchers.get(key, set())
        watchers.discard(session)
        if not watchers:
            self._watchers.pop(key, None)

    def watched(self, key: Key) -> bool:
        return key in self._watchers

    def tell_watchers(self, key: Key, data: bytes, but: AgentSession | None = None) -> None:
        """Write an encoded frame to the agents that have this conversation open."""
        for session in self.watchers(key):
            if session is not but:
                session.deliver(key, data)

    def watchers(self, key: Key) -> tuple[AgentSession, ...]:
        """The agents that have this conversation open."""
        return tuple(self._watchers.get(key, ()))

    def follow_inbox(self, session: AgentSession) -> None:
        self._inboxes.setdefault(session.tenant, set()).add(session)

    def inboxes(self, tenant: str) -> tuple[AgentSession, ...]:
        """The tenant's agents that asked for their inbox."""
        return tuple(self._inboxes.get(tenant, ()))

    # All

    def everyone(self) -> Iterator[CustomerSession | AgentSession]:
        for room in self._customers.values():
            yield from tuple(room)
        for agents in self._agents.values():
            yield from tuple(agents)

    def counts(self, tenant: str | None = None) -> dict[str, int]:
        """How many sessions there are, of one tenant or of all."""
        rooms = [
            room for key, room in self._customers.items() if tenant is None or key.tenant == tenant
        ]
        agents = self._agents.values() if tenant is None else [self._agents.get(tenant, set())]
        active = sum(session.active for room in rooms for session in room)
        return {
            "active": active,
            "background": sum(map(len, rooms)) - active,
            "agent": sum(map(len, agents)),
        }
