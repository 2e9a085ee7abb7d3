"""The customer's client: what a customer does, and what the frames mean to an app.

Decides what is asked for, acknowledged and told to the program when a message arrives, a gap shows
or a session begins. What is held is left to `gateway.clientside.timeline`.
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
from gateway.clientside.timeline import Reloaded, Taken, Timeline
from gateway.clientside.tokens import Token
from gateway.clientside.told import (
    Author,
    Device,
    Frame,
    Message,
    Page,
    Sent,
    Status,
    Welcome,
    understood,
)
from gateway.clientside.watch import Watch, call
from gateway.protocol import (
    HISTORY_DEFAULT,
    PING_INTERVAL,
    Limits,
    MessageKind,
    Role,
    SessionState,
)


class CustomerClient(Client):
    """A customer's app: one conversation, held in `messages`.

    `token` is a JWT, or what is asked for one, and again when it has expired. `state` is `active`
    while the chat is on screen. With `auto_ack` every message is acknowledged when it arrives (a
    burst once); without it only by `ack` and `read`, and a resume begins at the last of them.
    `on_message` gets each new message in order, one's own too; `on_reload` gets all messages held
    when they do not follow what was held before; `on_frame` gets every frame as it came.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        state: SessionState | str = SessionState.ACTIVE,
        installation: str | None = None,
        auto_ack: bool = True,
        on_message: Callable[[Message], object] | None = None,
        on_reload: Callable[[list[Message]], object] | None = None,
        on_frame: Callable[[Frame], object] | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        ping_interval: float | None = PING_INTERVAL,
    ) -> None:
        self._state = SessionState(state)
        self._installation = installation
        self._auto_ack = auto_ack
        self._on_message = on_message
        self._on_reload = on_reload
        self._timeline = Timeline()
        self._acked = 0  # by the app, without auto_ack
        self._read = 0
        self._reload_ref: str | None = None
        self._watch: Watch[Message] = Watch()
        self.welcome: Welcome | None = None
        """How the newest session began."""
        self.status: Status | None = None
        """What the server last told: unread, live, read_seq, badge_seq, the agents' marks."""
        self._link = Link(
            url,
            token,
            hello=self._hello,
            welcomed=self._welcomed,
            received=self._received,
            on_frame=on_frame,
            rng=rng,
            sleep=sleep,
            ping_interval=ping_interval,
        )
        self._link.on_end = self._watch.end

    @property
    def messages(self) -> list[Message]:
        """The messages held, in order of seq with no gap, the newest 10,000 at most."""
        return self._timeline.messages

    @property
    def seq(self) -> int:
        """Everything up to this seq has arrived."""
        return self._timeline.held

    # What a customer does

    async def send(self, text: str, data: Mapping[str, Any] | None = None) -> Sent:
        """Send a message; returns once it is on the server's disk, however long that takes."""
        frame = {"type": "send", "text": text, "data": None if data is None else dict(data)}
        return understood(await self._link.ask(frame, is_send=True), Sent)

    async def ack(self, seq: int) -> None:
        """Everything up to `seq` is received. While away: told by the next resume."""
        self._acked = max(self._acked, seq)
        await self._link.say({"type": "ack", "seq": seq})

    async def read(self, seq: int | None = None) -> None:
        """Everything up to `seq` (None: all that has arrived) is seen. While away: told later."""
        seq = self._timeline.held if seq is None else seq
        self._read = max(self._read, seq)
        self._acked = max(self._acked, seq)
        if seq > 0:
            await self._link.say({"type": "read", "seq": seq})

    async def set_state(self, state: SessionState | str) -> None:
        """The chat comes on screen (`active`) or leaves it (`background`).

        Returns once the server has taken it. While away: told by the next hello.
        """
        self._state = SessionState(state)
        if self._link.connected:
            self._link.note({"type": "state", "state": self._state})
            await self.ping()

    async def typing(self, on: bool = True) -> None:
        """Tell the agents; nothing while away."""
        await self._link.say({"type": "typing", "on": on})

    async def history(self, before: int | None = None, limit: int = HISTORY_DEFAULT) -> Page:
        """The `limit` messages (1 to 200) before `before`, or the newest."""
        frame = {"type": "history", "limit": limit, "before": before}
        return understood(await self._link.ask(frame), Page)

    async def register_device(
        self,
        installation: str,
        token: str,
        *,
        platform: str | None = None,
        app: str | None = None,
        environment: str | None = None,
        locale: str | None = None,
        time_zone: str | None = None,
    ) -> str:
        """Register this installation's device token; returns the deregistration key."""
        frame = {
            "type": "register_device",
            "installation": installation,
            "token": token,
            "platform": platform,
            "app": app,
            "environment": environment,
            "locale": locale,
            "time_zone": time_zone,
        }
        return understood(await self._link.ask(frame), Device).deregistration_key

    async def deregister_device(self, installation: str) -> None:
        """Ring this installation no more."""
        await self._link.ask({"type": "deregister_device", "installation": installation})

    async def wait_message(
        self, wanted: int | Callable[[Message], object], timeout: float | None = 10.0
    ) -> Message:
        """The message with this seq, or the first one held or to come that fits.

        Raises `TimeoutError` after `timeout` seconds.
        """
        fits = wanted if callable(wanted) else lambda message: message.seq == wanted
        return await self._watch.wait(fits, self.messages, timeout)

    # What the link asks and tells

    def _hello(self) -> Frame:
        frame: Frame = {"state": self._state}
        if self._installation is not None:
            frame["installation"] = self._installation
        if self._timeline.epoch is not None:
            held = self._timeline.held
            seq = held if self._auto_ack else min(held, max(self._acked, self._first_held()))
            frame["resume"] = {"epoch": self._timeline.epoch, "seq": seq}
        return frame

    def _first_held(self) -> int:
        """What had been read, and so received, before the first message held."""
        messages = self._timeline.messages
        return messages[0].seq - 1 if messages else self._timeline.held

    def _welcomed(self, frame: Frame) -> Limits:
        welcome = self.welcome = understood(frame, Welcome)
        same = welcome.epoch == self._timeline.epoch
        badge_seq = self.status.badge_seq if same and self.status is not None else None
        self.status = Status(
            seq=welcome.seq,
            read_seq=welcome.read_seq,
            unread=welcome.unread,
            live=welcome.live,
            badge_seq=badge_seq,
            agents_acked_seq=welcome.agents_acked_seq,
            agents_read_seq=welcome.agents_read_seq,
        )
        self._reload_ref = None
        if not same:
            self._acked = self._read = 0
        elif self._read > welcome.read_seq:
            self._link.note({"type": "read", "seq": self._read})
        if self._timeline.welcome(welcome):
            self._ask_for_page(None)
        self._link.holding = not self._timeline.caught_up
        return welcome.limits

    def _received(self, frame: Frame, request: Request | None) -> None:
        kind = frame.get("type")
        with suppress(NotUnderstood):  # a seq that was in it is missed, and asked for, later
            if kind == "message":
                self._arrived(understood(frame, Message))
            elif kind == "sent":
                self._was_sent(frame, request)
            elif kind == "status":
                self.status = understood(frame, Status)
            elif request is not None and request.ref == self._reload_ref:
                self._reload(frame)
        self._link.holding = not self._timeline.caught_up
        self._link.wake()
        self._link.hand_on(frame)

    def _was_sent(self, frame: Frame, request: Request | None) -> None:
        if request is None or not request.is_send or self.welcome is None:
            return  # whatever it was, its seq is missed, and asked for, later
        sent = understood(frame, Sent)
        message = Message(
            seq=sent.seq,
            id=sent.id,
            author=Author(Role.CUSTOMER, self.welcome.customer),
            text=request.frame["text"],
            data=request.frame.get("data"),
            kind=MessageKind.CHAT,
            at=sent.at,
            ref=sent.ref,
        )
        self._arrived(message, own=True)

    def _arrived(self, message: Message, *, own: bool = False) -> None:
        taken = self._timeline.take(message)
        if taken is Taken.NEW:
            self._tell([message], ack=not own)
        elif taken is Taken.GAP:
            self._ask_for_page(None)
        if message.ref is not None and not own:
            self._settle(message)

    def _settle(self, message: Message) -> None:
        """A send whose answer was lost comes back in the replay, with its ref."""
        answer = {"type": "sent", "seq": message.seq, "id": message.id, "at": message.at}
        self._link.settle(message.ref or "", {**answer, "ref": message.ref, "duplicate": True})

    def _ask_for_page(self, before: int | None) -> None:
        frame = {"type": "history", "limit": HISTORY_DEFAULT, "before": before}
        self._reload_ref = self._link.ask_quietly(frame)

    def _reload(self, frame: Frame) -> None:
        if frame.get("type") != "history":
            self._link.drop()  # the next welcome begins anew
            return
        page = understood(frame, Page)
        for message in page.messages:
            if message.ref is not None:
                self._settle(message)
        step = self._timeline.page(page)
        if not isinstance(step, Reloaded):
            self._ask_for_page(step)
            return
        self._reload_ref = None
        self._tell(step.new, ack=True, one_by_one=step.connected)
        if not step.connected:
            call(self._on_reload, list(self.messages))

    def _tell(self, new: list[Message], *, ack: bool, one_by_one: bool = True) -> None:
        if new and ack and self._auto_ack:
            self._link.note({"type": "ack", "seq": self._timeline.held})
        for message in new:
            self._watch.add(message)
            if one_by_one:
                call(self._on_message, message)
