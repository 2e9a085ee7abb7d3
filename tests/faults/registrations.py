"""Apps register while a ring is in hand: what was claimed stays as it is, or ends.

The first call for every device is held back by the backend; the app registers, in one of several
ways; only then the backend fails the call, or accepts it when we have given up. So every
registration is committed while exactly one call for the old one is on the wire.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.protocol import Role
from tests.faults.accounts import Confirmed, Result, audit
from tests.faults.hostile import Behaviour, Exchange, Hostile, hostile
from tests.faults.process import ROOMY, Process, process
from tests.faults.steps import PUSH, found_wrong, in_turn, say, settled
from tests.running import QUICK, Call


class Phone(NamedTuple):
    """A customer with a phone, and what will happen to its registration."""

    customer: str
    token: str
    change: str


class Held:
    """Holds the first call of each device back until it is told how to go on."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.arrived: dict[str, asyncio.Event] = {}
        self.registered: dict[str, asyncio.Event] = {}

    def expect(self, token: str) -> None:
        self.arrived[token] = asyncio.Event()
        self.registered[token] = asyncio.Event()

    def misbehave(self, call: Call) -> Behaviour | None:
        token = call.body["deviceToken"]
        self.seen[token] += 1
        return self._hold if self.seen[token] == 1 and token in self.arrived else None

    async def _hold(self, x: Exchange) -> None:
        token = x.call.body["deviceToken"]
        self.arrived[token].set()
        await self.registered[token].wait()
        if int(token.rpartition("-")[2]) % 2:
            await x.gone()  # until we have given up; then it accepts after all
            x.call.status = 200
        else:
            await x.answer(503)


CHANGES = ("same", "token", "owner", "installation")


async def registrations(directory: Path, phones: int) -> Result:
    """`phones` customers for each way in which an app registers while its ring is in hand."""
    held, wrong = Held(), list[str]()
    people = [
        Phone(f"c-{change}-{i}", f"t-{change}-{i}", change)
        for i in range(phones)
        for change in CHANGES
    ]
    async with hostile() as backend:
        backend.misbehave = held.misbehave
        push = PUSH | {"in_flight": 512, "timeout": 1.0}
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=push) as it:
            told = await in_turn(partial(_change, it, backend, held, phone) for phone in people)
            sends = [send for sent, _ in told for send in sent]
            await settled(directory)
            await it.stop()
    for phone, (_, mark) in zip(people, told, strict=True):
        wrong += CHECKS[phone.change](phone, backend.log.calls[:mark], backend.log.calls[mark:])
    result = audit(
        "registrations during a ring", len(people), directory / "ringback.db", sends,
        backend.log.calls,
    )  # fmt: skip
    return found_wrong(result, *wrong)


async def _change(
    it: Process, backend: Hostile, held: Held, phone: Phone
) -> tuple[list[Confirmed], int]:
    """Ring a phone and register anew while the call is out; how many calls came before that."""
    held.expect(phone.token)
    await _register(it, phone.customer, "phone", phone.token, "ios")
    sends = [await say(it, phone.customer, "hello")]
    await held.arrived[phone.token].wait()
    match phone.change:
        case "same":
            await _register(it, phone.customer, "phone", phone.token, "android")
        case "token":
            await _register(it, phone.customer, "phone", f"new-{phone.token}", "ios")
        case "owner":  # with the app as it is, or installed anew
            installation = "phone" if int(phone.token[-1]) < 2 else "heirloom"
            await _register(it, f"heir-{phone.customer}", installation, phone.token, "ios")
        case "installation":
            await _register(it, phone.customer, "reinstalled", phone.token, "ios")
    mark = len(backend.log.calls)
    held.registered[phone.token].set()
    if phone.change == "owner":
        sends.append(await say(it, f"heir-{phone.customer}", "for the heir"))
    return sends, mark


async def _register(
    it: Process, customer: str, installation: str, token: str, platform: str
) -> None:
    """Installations are per customer here; a phone that changes hands keeps its own."""
    name = f"{installation}-{customer.removeprefix('heir-')}"
    status, told = await it.call(
        "PUT",
        f"/v1/devices/{name}",
        Role.CUSTOMER,
        customer,
        json={"token": token, "platform": platform, "locale": f"for {platform}"},
    )
    assert status == 200, told


Check = Callable[[Phone, list[Call], list[Call]], list[str]]


def _of(phone: Phone, calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.ring["customer"] == phone.customer]


def _one_ring(phone: Phone, before: list[Call], after: list[Call]) -> list[str]:
    """It is still the same phone: one ring, repeated under its id with the same bytes."""
    bodies = {call.raw for call in _of(phone, before + after)}
    repeated = len(_of(phone, after))
    if len(bodies) == 1 and repeated == 1:
        return []
    return [f"{phone.customer}: {len(bodies)} bodies, {repeated} calls after registering"]


def _new_ring(phone: Phone, before: list[Call], after: list[Call]) -> list[str]:
    """The old token is not called again; the new one gets a ring of its own."""
    tokens = [call.body["deviceToken"] for call in _of(phone, after)]
    ids = {call.ring["id"] for call in _of(phone, before + after)}
    if tokens == [f"new-{phone.token}"] and len(ids) == 2:
        return []
    return [f"{phone.customer}: {tokens} called after the token changed, {len(ids)} rings"]


def _no_ring(phone: Phone, before: list[Call], after: list[Call]) -> list[str]:
    """The phone is another's now: nothing goes out for its first owner, the heir is rung."""
    former = len(_of(phone, after))
    heir = [call for call in after if call.ring["customer"] == f"heir-{phone.customer}"]
    if former == 0 and len(heir) == 1 and heir[0].body["deviceToken"] == phone.token:
        return []
    return [f"{phone.customer}: {former} calls for the former owner, {len(heir)} for the heir"]


CHECKS: dict[str, Check] = {
    "same": _one_ring,
    "token": _new_ring,
    "owner": _no_ring,
    "installation": _one_ring,
}

LONG: tuple[Callable[[Path], Awaitable[Result]], ...] = (partial(registrations, phones=250),)
