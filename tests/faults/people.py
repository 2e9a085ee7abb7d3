"""Who uses a gateway that dies: agents, a service and customers who outlive every process of it.

Each `work`s on one process until that dies, and goes on with the next one. What was sent and not
confirmed is sent again under its ref, and so are the last few that were: to the sender it is all
the same. The `Ledger` notes what senders were told, and what they should never have been told.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

import aiohttp
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway.protocol import Role
from tests.faults.accounts import Confirmed
from tests.running import Running, Wire

WINDOW = 24  # sends of one agent that wait for their answer, so that a commit holds many
AGAIN = 2  # confirmed sends that are sent again after a restart


@dataclass(slots=True)
class Ledger:
    """What all senders were told. `enough` are to be confirmed, then nobody begins a new send."""

    enough: int
    customers: tuple[str, ...]
    rng: Random
    confirmed: dict[str, Confirmed] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    unavailable: int = 0
    repeated: int = 0
    """Answers `duplicate` to sends whose first answer never came: they had been committed."""

    @property
    def full(self) -> bool:
        return len(self.confirmed) >= self.enough

    async def refuse(self) -> None:
        """Somebody was told `unavailable`: they come again, but not at once."""
        self.unavailable += 1
        await asyncio.sleep(0.01)

    def confirm(self, ref: str, customer: str, text: str, told: dict[str, Any]) -> None:
        now = Confirmed(customer, told["seq"], told["id"], text)
        before = self.confirmed.setdefault(ref, now)
        if before != now:
            self.wrong.append(f"{ref}: first sent as {before.seq}, then as {now.seq}")
        elif before is now and told.get("duplicate"):
            self.repeated += 1


@dataclass(slots=True)
class Outbox:
    """One sender's sends: who they are for and what they say, until they are confirmed."""

    name: str
    ledger: Ledger
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)
    sent: list[tuple[str, tuple[str, str]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new(self, customer: str | None = None) -> str:
        """A message nobody has sent before; its ref."""
        ref = f"{self.name}-{next(self._numbers)}"
        to = customer or self.ledger.rng.choice(self.ledger.customers)
        self.waiting[ref] = (to, f"{ref} for {to}")
        return ref

    def again(self) -> list[str]:
        """What to send after a restart: all that waits, and the last few that do not."""
        old = dict(self.sent[-AGAIN:])
        self.waiting = {**old, **self.waiting}
        return list(self.waiting)

    def confirm(self, ref: str, told: dict[str, Any]) -> None:
        about = self.waiting.pop(ref)
        self.sent = [*self.sent[-AGAIN:], (ref, about)]
        self.ledger.confirm(ref, *about, told)


class Desk:
    """An agent who keeps a window of sends in flight."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.box = Outbox(name, ledger)

    async def work(self, it: Running) -> None:
        box, ledger = self.box, self.box.ledger
        wire = await it.agent(box.name, open=ledger.customers[0])
        for ref in box.again():
            await self._send(wire, ref)
        while box.waiting or not ledger.full:
            while len(box.waiting) < WINDOW and not ledger.full:
                await self._send(wire, box.new())
            frame = json.loads(await wire.socket.recv())
            if frame["type"] == "sent":
                box.confirm(frame["ref"], frame)
            elif frame["type"] == "error":
                if frame["code"] == "unavailable":
                    await ledger.refuse()
                    await self._send(wire, frame["ref"])
                else:
                    ledger.wrong.append(f"{box.name} was told {frame}")
                    return

    async def _send(self, wire: Wire, ref: str) -> None:
        customer, text = self.box.waiting[ref]
        await wire.send("send", ref=ref, customer=customer, text=text)


class Shop:
    """A service that sends over HTTP, one at a time."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.box = Outbox(name, ledger)

    async def work(self, it: Running) -> None:
        for ref in self.box.again():
            await self._send(it, ref)
        while not self.box.ledger.full:
            await self._send(it, self.box.new())

    async def _send(self, it: Running, ref: str) -> None:
        customer, text = self.box.waiting[ref]
        while ref in self.box.waiting:
            status, told = await it.call(
                "POST",
                "/v1/messages",
                Role.SERVICE,
                self.box.name,
                headers={"Idempotency-Key": ref},
                json={"customer": customer, "text": text},
            )
            if status == 201:
                self.box.confirm(ref, told)
            elif status == 503:
                await self.box.ledger.refuse()
            else:
                self.box.ledger.wrong.append(f"{self.box.name} was told {status} {told}")
                del self.box.waiting[ref]


class Habit(StrEnum):
    """What a customer does with the chat."""

    READS = "in chat, acks, answers now and then, and drops now and then"
    STARES = "in chat, acks nothing"
    BACKGROUND = "connected in the background"
    AWAY = "no socket"


class Phone:
    """A customer. With a device, it is registered at every start of the app.

    Who is away does not start the app again: what they are owed is the gateway's to remember.
    """

    def __init__(self, name: str, habit: Habit, ledger: Ledger, *, device: bool) -> None:
        self.name = name
        self.habit = habit
        self.device = device
        self.box = Outbox(name, ledger)
        self._epoch: str | None = None
        self._seq = 0

    async def work(self, it: Running) -> None:
        while self.device and not await self._register(it):
            await self.box.ledger.refuse()
        self.device = self.device and self.habit is not Habit.AWAY
        while self.habit is not Habit.AWAY:
            with suppress(ConnectionClosed):  # if the gateway is gone, the next one fails
                await self._look(it)

    async def _register(self, it: Running) -> bool:
        status, told = await it.call(
            "PUT",
            f"/v1/devices/phone of {self.name}",
            Role.CUSTOMER,
            self.name,
            json={"token": f"token of {self.name}", "platform": "ios"},
        )
        if status not in (200, 503):
            self.box.ledger.wrong.append(f"{self.name} was told {status} {told}")
        return status != 503

    async def _look(self, it: Running) -> None:
        """One session, until it drops (of its own accord only when it reads)."""
        rng = self.box.ledger.rng
        hello: dict[str, Any] = {}
        if self.habit is Habit.READS and self._epoch is not None:
            hello["resume"] = {"epoch": self._epoch, "seq": self._seq}
        if self.habit is Habit.BACKGROUND:
            hello["state"] = "background"
        wire = await it.customer(self.name, **hello)
        if not wire.welcome["resumed"]:
            self._seq = -1
        self._epoch = wire.welcome["epoch"]
        if self.habit is Habit.READS:
            for ref in self.box.again():
                await wire.send("send", ref=ref, text=self.box.waiting[ref][1])
        for _ in range(rng.randint(20, 400)) if self.habit is Habit.READS else itertools.count():
            await self._hear(wire, json.loads(await wire.socket.recv()), rng)
        wire.vanish()

    async def _hear(self, wire: Wire, frame: dict[str, Any], rng: Random) -> None:
        ledger = self.box.ledger
        if frame["type"] not in ("message", "sent"):
            if frame["type"] == "error" and frame["code"] != "unavailable":
                ledger.wrong.append(f"{self.name} was told {frame}")
            elif frame["type"] == "error" and frame.get("ref") in self.box.waiting:
                await ledger.refuse()
                ref = frame["ref"]
                await wire.send("send", ref=ref, text=self.box.waiting[ref][1])
            return
        seq = frame["seq"]
        if frame["type"] == "sent" and frame.get("duplicate") and seq <= self._seq:
            self.box.confirm(frame["ref"], frame)
            return
        if self._seq not in (-1, seq - 1):
            ledger.wrong.append(f"{self.name} got {seq} after {self._seq} (I4)")
        self._seq = seq
        if frame["type"] == "sent":
            self.box.confirm(frame["ref"], frame)
        elif self.habit is not Habit.STARES:
            await wire.send("ack", seq=seq)
            if self.habit is Habit.READS and rng.random() < 0.1 and not ledger.full:
                ref = self.box.new(self.name)
                await wire.send("send", ref=ref, text=self.box.waiting[ref][1])


Work = Callable[[Running], Coroutine[Any, Any, None]]


async def until_it_dies(work: Work, it: Running) -> None:
    """Work, and take it as it comes when the gateway is gone."""
    with suppress(ConnectionClosed, InvalidHandshake, OSError, EOFError, aiohttp.ClientError):
        await work(it)
