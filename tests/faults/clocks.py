"""The clock jumps by two hours, both ways: while the gateway runs, and while it is down.

The real process runs under libfaketime, which shows it the machine's time plus an offset that is
read from a file at every look; the monotonic clock stays true. Everybody else's clock is right.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

from gateway import auth
from gateway.protocol import Role
from tests import recount
from tests.faults import hostile as bad
from tests.faults.accounts import Confirmed, Result, audit
from tests.faults.hostile import Behaviour, Hostile, hostile, status
from tests.faults.process import ROOMY, Process, process
from tests.faults.steps import PUSH, database, found_wrong, in_turn, rung, settled
from tests.running import PATIENT, QUICK, Call, Wire

TWO_HOURS = 7_200.0
HOUR = 3_600.0
HOURLY = PATIENT | {"ack_timeout": HOUR, "max_hold": HOUR}
PENDING = "SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'pending'"


@dataclass(slots=True)
class FalseClock:
    """What the gateway takes for the time. `offset` is how far it is off, in seconds."""

    directory: Path
    offset: float = 0.0

    def environment(self) -> dict[str, str]:
        """What to start the gateway with."""
        self.jump(self.offset)
        for left in Path("/dev/shm").glob("*faketime_s*_*"):  # noqa: S108
            # By a process that was killed; another that is given its number would not start.
            if not Path("/proc", left.name.rpartition("_")[2]).exists():
                left.unlink(missing_ok=True)
        asked = subprocess.run(
            ["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {
            "LD_PRELOAD": asked.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self.directory / "offset"),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, offset: float) -> None:
        """From now on the gateway's machine is off by so much."""
        self.offset = offset
        new = self.directory / "offset.new"
        new.write_text(f"{offset:+.0f}")
        new.replace(self.directory / "offset")

    def now(self) -> float:
        return time.time() + self.offset


def token(it: Process, clock: FalseClock, role: Role, sub: str) -> str:
    """A fresh token by somebody whose clock agrees with the gateway's machine."""
    return auth.issue(it.gateway.config, "acme", role, sub, ttl=600.0, now=clock.now())


async def call(
    it: Process, clock: FalseClock, method: str, path: str, role: Role, sub: str, **told: Any
) -> Any:
    """An HTTP call with such a token."""
    headers = {"Authorization": f"Bearer {token(it, clock, role, sub)}"}
    code, answer = await it.call(method, path, headers=headers, json=told)
    assert code in (200, 201), (code, answer)
    return answer


async def say(it: Process, clock: FalseClock, customer: str, text: str, **more: Any) -> Confirmed:
    """A message by the service, as it was confirmed."""
    told = {"customer": customer, "text": text, **more}
    answer = await call(it, clock, "POST", "/v1/messages", Role.SERVICE, "crm", **told)
    return Confirmed(customer, answer["seq"], answer["id"], text)


async def shown(it: Process, clock: FalseClock) -> list[str]:
    """Whether the process really sees the false time: its HTTP server dates its answers by it."""
    async with it.http.get(it.url("/healthz", "admin")) as answer:
        date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    off = date - clock.now()
    return [f"the clock is off by {off:.0f} s from what it should be"] if abs(off) > HOUR else []


async def in_chat(it: Process, clock: FalseClock, names: list[str]) -> list[Wire]:
    """Customers with a phone and an open chat, who acknowledge nothing by themselves."""

    async def one(name: str) -> Wire:
        await register(it, clock, name)
        return await it.customer(name, token=token(it, clock, Role.CUSTOMER, name))

    return await in_turn(partial(one, name) for name in names)


async def register(it: Process, clock: FalseClock, name: str) -> None:
    """A phone for a customer."""
    path = f"/v1/devices/phone-{name}"
    await call(it, clock, "PUT", path, Role.CUSTOMER, name, token=f"t-{name}")


# While running: nothing comes early


async def nothing_early(directory: Path, customers: int) -> Result:
    """Unacked messages, an expiry and a backoff wait an hour; the clock jumps over all of them."""
    clock, wrong = FalseClock(directory), list[str]()
    names = [f"c-{i}" for i in range(customers)]
    later = status(503, "Retry-After: 3600")
    async with hostile() as backend:
        backend.misbehave = lambda call: later if call.body["deviceToken"] == "t-later" else None
        async with process(
            directory, backend.log, environment=clock.environment(),
            delivery=HOURLY, limits=ROOMY, push=PUSH,
        ) as it:  # fmt: skip
            sends = await rung(it, [("acme", "later", "t-later")])
            wires = await in_chat(it, clock, names)
            hour = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + HOUR))
            sends += [await say(it, clock, name, "hello", expires_at=hour) for name in names]
            jumps = (TWO_HOURS, -TWO_HOURS, 0.0)
            for offset in jumps:
                clock.jump(offset)
                wrong += await shown(it, clock)
                again = [partial(say, it, clock, name, "more") for name in (*names, "later")]
                sends += await in_turn(again)  # every row is looked at again
                sends.append(await _canary(it, clock, backend, f"canary{offset:+.0f}"))
            called = sorted(call.ring["customer"] for call in backend.log.calls)
            expected = sorted(["later", *(f"canary{offset:+.0f}" for offset in jumps)])
            if called != expected:
                wrong.append(f"called {called}, not {expected}")
            mine = token(it, clock, Role.CUSTOMER, "later")
            wires.append(await it.customer("later", token=mine))
            for wire in wires:
                await wire.send("ack", seq=1 + len(jumps))
            await database(directory, PENDING, lambda rows: rows == [(0,)])
            await it.kill()
    result = audit(
        "clock jumps, nothing is early", len(jumps), directory / "ringback.db", sends,
        backend.log.calls,
    )  # fmt: skip
    return found_wrong(result, *wrong, *_stamped_wrong(backend.log.calls, sends))


async def _canary(it: Process, clock: FalseClock, backend: Hostile, name: str) -> Confirmed:
    """Somebody who is not in chat is rung at once: pushing goes on, and is dated rightly."""
    await register(it, clock, name)
    sent = await say(it, clock, name, "are you there?")
    await backend.until(
        lambda: any(call.ring["customer"] == name and call.accepted for call in backend.log.calls)
    )
    return sent


def _stamped_wrong(calls: list[Call], sends: list[Confirmed]) -> list[str]:
    """Canaries that were signed with another time than their machine's (which their name tells)."""
    wrong = []
    for called in calls:
        name = called.ring["customer"]
        if name.startswith("canary"):
            stamp = int(called.headers["webhook-timestamp"])
            if abs(stamp - time.time() - float(name.removeprefix("canary"))) > HOUR:
                wrong.append(f"{name}: signed as of {stamp}")
    return wrong


# While running: everything goes on


async def goes_on(directory: Path, customers: int, rounds: int) -> Result:
    """Acks time out and backoffs end as if no clock had jumped in their midst."""
    clock, wrong = FalseClock(directory), list[str]()
    sends: list[Confirmed] = []
    delivery = QUICK | {"ack_timeout": 0.5}
    async with hostile() as backend:
        backend.misbehave = bad.first(1, [status(503, "Retry-After: 1")])
        async with process(
            directory, backend.log, environment=clock.environment(),
            delivery=delivery, limits=ROOMY, push=PUSH,
        ) as it:  # fmt: skip
            jumps = [-TWO_HOURS, TWO_HOURS] * rounds
            for i, offset in enumerate(jumps):
                names = [f"c-{i}-{j}" for j in range(customers)]
                await in_chat(it, clock, names)
                sends += await in_turn(partial(say, it, clock, name, "hello") for name in names)
                clock.jump(offset)
                wrong += await shown(it, clock)
                await settled(directory)
            await it.kill()
    rings = {call.ring["id"] for call in backend.log.calls}
    if len(rings) != len(sends):
        wrong.append(f"{len(rings)} rings for {len(sends)} phones")
    result = audit(
        "clock jumps, all goes on", len(jumps), directory / "ringback.db", sends, backend.log.calls
    )
    return found_wrong(result, *wrong)


# Across a restart


STATES = {
    # what a customer's message is doing at the kill: its outcome two hours later, and earlier
    "chat": ("pushed", "pushed"),  # on a socket, unacked, due in a minute
    "backoff": ("pushed", "pushed"),  # its ring failed and waits
    "call": ("pushed", "pushed"),  # its ring is out
    "expiring": ("expired", "pushed"),  # on a socket, unacked, expires in an hour
    "acked": ("acked", "acked"),
    "pushed": ("pushed", "pushed"),
}


async def restarts(directory: Path, offset: float, customers: int) -> Result:
    """The gateway dies with messages in every state; the clock is another when it comes back."""
    clock = FalseClock(directory)
    names = [f"{state}-{i}" for i in range(customers) for state in STATES]
    async with hostile() as backend:
        backend.misbehave = _by_name
        async with process(
            directory, backend.log, environment=clock.environment(),
            delivery=HOURLY, limits=ROOMY, push=PUSH | {"timeout": HOUR},
        ) as it:  # fmt: skip
            sends = await _in_every_state(it, clock, names)
            await backend.until(lambda: backend.open == customers)
            await it.kill()
        backend.misbehave = lambda call: None
        clock.jump(offset)
        async with process(
            directory, backend.log, environment=clock.environment(),
            delivery=QUICK, limits=ROOMY, push=PUSH,
        ) as it:  # fmt: skip
            wrong = await shown(it, clock)
            await settled(directory)
            outcomes = {m.customer: m.outcome for m in recount.check(directory / "ringback.db")}
            rings = {(call.ring["customer"], call.ring["id"]) for call in backend.log.calls}
            sends += await in_turn(partial(say, it, clock, name, "and now?") for name in names)
            await settled(directory)
            await it.kill()
    for name in names:
        expected = STATES[name.partition("-")[0]][offset < 0]
        rung = sum(customer == name for customer, _ in rings)
        if (outcomes[name], rung) != (expected, int(expected == "pushed")):
            wrong.append(f"{name}: {outcomes[name]}, {rung} rings; it should be {expected}")
    path = directory / "ringback.db"
    fault = f"restart with the clock {offset / HOUR:+.0f} h"
    return found_wrong(audit(fault, 1, path, sends, backend.log.calls), *wrong)


def _by_name(call: Call) -> Behaviour | None:
    behaviours = {"backoff": status(503, "Retry-After: 2"), "call": bad.hang}
    return behaviours.get(call.ring["customer"].partition("-")[0])


async def _in_every_state(it: Process, clock: FalseClock, names: list[str]) -> list[Confirmed]:
    async def one(name: str) -> Confirmed:
        state = name.partition("-")[0]
        await register(it, clock, name)
        wire = await it.customer(name) if state in ("chat", "expiring", "acked") else None
        more = {}
        if state == "expiring":
            hour = time.gmtime(time.time() + HOUR)
            more = {"expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", hour)}
        sent = await say(it, clock, name, "hello", **more)
        if state == "acked" and wire is not None:
            await wire.send("ack", seq=sent.seq)
            await wire.quiet()
        return sent

    sends = await in_turn(partial(one, name) for name in names)
    each = len(names) // len(STATES)
    for query, enough in (
        ("SELECT count(*) FROM ringing WHERE verdict = 'retry' AND ring IS NOT NULL", each),
        ("SELECT count(*) FROM ringing WHERE verdict = 'accepted' AND ring IS NULL", each),
        ("SELECT count(*) FROM conversations WHERE acked_seq = 1", each),
    ):
        await database(clock.directory, query, partial(_are, enough))
    return sends


def _are(count: int, rows: list[Any]) -> bool:
    return rows == [(count,)]


LONG: tuple[Callable[[Path], Awaitable[Result]], ...] = (
    partial(nothing_early, customers=100),
    partial(goes_on, customers=50, rounds=3),
    partial(restarts, offset=TWO_HOURS, customers=30),
    partial(restarts, offset=-TWO_HOURS, customers=30),
)
