"""The agent's client: what an agent does, and what the frames mean to a desk.

Decides which conversations are open and up to where, and what is opened or asked for again after a
reconnect. Frames are handed on as they came: what to show of them is left to the program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Any

from gateway.clientside.base import Client
from gateway.clientside.errors import NotUnderstood
from gateway.clientside.link import Link
from gateway.clientside.outbox import Request
from gateway.clientside.tokens import Token
from gateway.clientside.told import (
    AgentSent,
    AgentWelcome,
    Frame,
    InboxPage,
    Opened,
    Page,
    understood,
)
from gateway.protocol import HISTORY_DEFAULT, PING_INTERVAL, InboxFilter, Limits


class AgentClient(Client):
    """An agent's desk: the inbox, and the conversations that are open.

    `on_frame` gets every frame as it came, in order; of an open conversation each message once.
    After a reconnect the open conversations are opened again where they were: their `conversation`
    frame comes, then each message missed (`more` in it says that even older ones are missing), and
    the inbox is asked for again if it was.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        on_frame: Callable[[Frame], object] | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        ping_interval: float | None = PING_INTERVAL,
    ) -> None:
        self._open: dict[str, int] = {}  # customer: everything up to this seq has arrived
        self._reopening: set[str] = set()
        self._inbox: Frame | None = None
        self.welcome: AgentWelcome | None = None
        """How the newest session began."""
        self._link = Link(
            url,
            token,
            hello=dict,
            welcomed=self._welcomed,
            received=self._received,
            on_frame=on_frame,
            rng=rng,
            sleep=sleep,
            ping_interval=ping_interval,
        )

    # What an agent does

    async def inbox(
        self,
        cursor: str | None = None,
        limit: int = HISTORY_DEFAULT,
        filter: InboxFilter | str = InboxFilter.ALL,
    ) -> InboxPage:
        """A page of the tenant's conversations; from then on `inbox_update` frames come."""
        frame: Frame = {"type": "inbox", "limit": limit, "filter": InboxFilter(filter)}
        self._inbox = frame
        return understood(await self._link.ask({**frame, "cursor": cursor}), InboxPage)

    async def open(self, customer: str, after: int | None = None) -> Opened:
        """Follow a conversation; with the messages after `after`, or the newest 50."""
        frame = {"type": "open", "customer": customer, "after": after}
        return understood(await self._link.ask(frame), Opened)

    async def close_conversation(self, customer: str) -> None:
        """Follow it no more."""
        self._open.pop(customer, None)
        await self._link.ask({"type": "close", "customer": customer})

    async def send(
        self, customer: str, text: str, data: Mapping[str, Any] | None = None
    ) -> AgentSent:
        """Send a message; returns once it is on the server's disk, and where it went."""
        given = None if data is None else dict(data)
        frame = {"type": "send", "customer": customer, "text": text, "data": given}
        return understood(await self._link.ask(frame, is_send=True), AgentSent)

    async def ack(self, customer: str, seq: int) -> None:
        """This desk has everything of the customer's up to `seq`: they are shown that it was
        delivered. Nothing while away."""
        await self._link.say({"type": "ack", "customer": customer, "seq": seq})

    async def read(self, customer: str, seq: int) -> None:
        """Move the agents' shared read mark, and so ack; nothing while away."""
        await self._link.say({"type": "read", "customer": customer, "seq": seq})

    async def typing(self, customer: str, on: bool = True) -> None:
        """Tell the customer and the other agents; nothing while away."""
        await self._link.say({"type": "typing", "customer": customer, "on": on})

    async def history(
        self, customer: str, before: int | None = None, limit: int = HISTORY_DEFAULT
    ) -> Page:
        """The `limit` messages (1 to 200) before `before`, or the newest."""
        frame = {"type": "history", "customer": customer, "limit": limit, "before": before}
        return understood(await self._link.ask(frame), Page)

    async def end(self, customer: str) -> None:
        """End the conversation: it is no longer live."""
        await self._link.ask({"type": "end", "customer": customer})

    # What the link asks and tells

    def _welcomed(self, frame: Frame) -> Limits:
        self.welcome = understood(frame, AgentWelcome)
        self._reopening.clear()
        for customer in self._open:
            self._reopen(customer)
        if self._inbox is not None:
            self._link.ask_quietly(self._inbox)
        return self.welcome.limits

    def _reopen(self, customer: str) -> None:
        self._reopening.add(customer)
        after = self._open[customer]
        self._link.ask_quietly({"type": "open", "customer": customer, "after": after})

    def _received(self, frame: Frame, request: Request | None) -> None:
        kind, customer = frame.get("type"), frame.get("customer")
        if kind == "conversation" and request is not None:
            self._opened(frame, request)
            return
        if kind in ("message", "sent") and isinstance(customer, str) and customer in self._open:
            is_new = self._is_next(customer, frame.get("seq"))
            if kind == "message" and not is_new:
                return
        if kind == "error" and request is not None and request.quiet:
            self._open.pop(request.frame.get("customer", ""), None)
        self._link.hand_on(frame)

    def _is_next(self, customer: str, seq: object) -> bool:
        if not isinstance(seq, int) or seq <= self._open[customer]:
            return False
        if seq > self._open[customer] + 1:
            if customer not in self._reopening:
                self._reopen(customer)
            return False
        self._open[customer] = seq
        return True

    def _opened(self, frame: Frame, request: Request) -> None:
        customer, seq = str(frame.get("customer")), frame.get("seq")
        if request.quiet and customer not in self._open:
            return  # closed meanwhile
        last = self._open.get(customer, 0)
        self._reopening.discard(customer)
        self._open[customer] = seq if isinstance(seq, int) else 0
        self._link.hand_on(frame)
        if request.quiet:
            with suppress(NotUnderstood):
                understood(frame, Opened)
                for message in frame["messages"]:
                    if message["seq"] > last:
                        self._link.hand_on(message)
