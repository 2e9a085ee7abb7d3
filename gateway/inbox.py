"""What agents and clients look up: the inbox and histories; and the welcome of an agent.

Reading only. An inbox's cursor is `updated_at` and the id of the conversation shown that changed
longest ago, opaque to clients.

A page of an inbox costs a look at all of a tenant's conversations. So for each tenant one page is
looked up at a time, and agents who ask for the same one before that has begun share it: after a
restart a hundred of them ask at once, and nobody waits for a hundred looks (I8).
"""

from __future__ import annotations

import asyncio
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway import frames, protocol
from gateway.context import Context
from gateway.protocol import ErrorCode, FrameError
from gateway.session import AgentSession, CustomerSession, Session
from storage.records import Conversation, Key, Message

_sleep = asyncio.sleep
PAGES = 20.0  # a second, for each session; who asks faster waits
FIRST = (float("1e308"), 2**62)


class _Asked(NamedTuple):
    """A page of an inbox, as it is looked for."""

    tenant: str
    which: str
    before: tuple[float, int]
    limit: int


class Inbox:
    """Look-ups for sessions and for the HTTP API."""

    def __init__(self, context: Context, agent_limits: Mapping[str, int | float]) -> None:
        self._context = context
        self._limits = agent_limits
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked: dict[_Asked, asyncio.Task[list[Conversation]]] = {}  # not yet begun

    def arrive(self, session: AgentSession, ref: str | None) -> None:
        """Welcome an agent."""
        self._context.hub.arrive(session)
        welcome: protocol.AgentWelcome = {
            "type": "welcome",
            "session": session.id,
            "agent": session.identity.sub,
            "tenant": session.tenant,
            "limits": self._limits,
            "server_time": protocol.timestamp(self._context.clock()),
        }
        if ref is not None:
            welcome["ref"] = ref
        session.send(welcome)

    async def page(self, session: AgentSession, frame: protocol.Inbox) -> None:
        """Answer with a page of conversations, newest first; from now on tell of every change."""
        self._context.hub.follow_inbox(session)
        await _pace(session)
        before = FIRST if frame.cursor is None else _read_cursor(frame.cursor)
        asked = _Asked(session.tenant, frame.filter.value, before, frame.limit + 1)
        found = await self._look_with_others(asked)
        # As they are in this turn of the loop: of what changed since, updates have told.
        found = [self._context.store.peek(c.key) or c for c in found]
        newest = (c.newest for c in found[: frame.limit])
        shown = found[: frames.fitting(newest, self._context.room)]
        answer: protocol.InboxPage = {
            "type": "inbox",
            "ref": frame.ref,
            "conversations": [
                frames.entry(c, in_chat=self._context.hub.is_in_chat(c.key)) for c in shown
            ],
        }
        if len(found) > len(shown):
            # Not the last's: if it has changed since its place was read, it is the newest by now.
            answer["cursor"] = _cursor(min(shown, key=_place))
        session.send(answer)

    async def _look_with_others(self, asked: _Asked) -> list[Conversation]:
        look = self._asked.get(asked)
        if look is None:
            look = self._asked[asked] = asyncio.create_task(self._look(asked), name="inbox")
            look.add_done_callback(_noticed)
        await asyncio.wait([look])  # one who asked may leave; the others stay
        return look.result()

    async def _look(self, asked: _Asked) -> list[Conversation]:
        async with self._turn[asked.tenant]:
            del self._asked[asked]  # to whoever asks from now on, what is found may be old
            return await self._context.store.inbox(*asked)

    async def history(
        self,
        session: CustomerSession | AgentSession,
        key: Key,
        frame: protocol.History | protocol.AgentHistory,
    ) -> None:
        """Answer with a page of a conversation's past."""
        await _pace(session)
        c, messages, more = await self.past(key, frame.before, frame.limit)
        page: protocol.HistoryPage | protocol.AgentHistoryPage
        if isinstance(session, AgentSession):
            sub = session.identity.sub
            page = {
                "type": "history",
                "ref": frame.ref,
                "customer": c.customer,
                "messages": [frames.for_agent(m, c.customer, sub) for m in messages],
                "more": more,
            }
        else:
            page = {
                "type": "history",
                "ref": frame.ref,
                "messages": [frames.for_customer(m, c.customer) for m in messages],
                "more": more,
            }
        session.send(page)

    async def past(
        self, key: Key, before: int | None, limit: int
    ) -> tuple[Conversation, list[Message], bool]:
        """A conversation and its messages before `before`. Raises `FrameError` `not_found`."""
        c = await self._context.existing(key)
        found, more = await self._context.store.history(c, before, limit)
        messages, more = frames.page(found, self._context.room, more=more)
        return c, messages, more


def _noticed(look: asyncio.Task[Any]) -> None:
    """Its error is for those who asked; if none of them is left, for nobody."""
    if not look.cancelled():
        look.exception()


async def _pace(session: Session) -> None:
    """A client that pages through everything waits, so that it does not take the loop from those
    who chat. To a slow reader one page is written at a time: several are more than may wait."""
    await session.out.has_read()
    now = asyncio.get_running_loop().time()
    wait = session.page_at - now
    session.page_at = max(now, session.page_at) + 1 / PAGES
    if wait > 0:
        await _sleep(wait)


def _place(c: Conversation) -> tuple[float, int]:
    return c.updated_at, c.id


def _cursor(c: Conversation) -> str:
    return urlsafe_b64encode(f"{c.updated_at!r} {c.id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[float, int]:
    try:
        at, _, id = urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        place = float(at), int(id)
        if not (math.isfinite(place[0]) and 0 <= place[1] < 2**63):
            raise ValueError
        return place
    except ValueError:
        raise FrameError(
            ErrorCode.BAD_FRAME, "cursor: not one of ours; give the one of the page before"
        ) from None
