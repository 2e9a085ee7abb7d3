"""Networks that go silent, clients that stop, and frames that are cut in half.

Each coroutine hurts real sockets between clients and a gateway process, lets everything settle and
accounts for every message. The deaths around the moment of a send are in `disconnects`, slow
readers in `slow`, the return of everybody after a restart in `storm`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from gateway.protocol import Role
from tests.faults.accounts import Result, audit
from tests.faults.lines import LOOPBACK, Desk, now
from tests.faults.netns import HERE, namespace
from tests.faults.process import ROOT
from tests.faults.proxy import Proxy, Way, proxy
from tests.faults.stage import TIMING, Stage, batches, spread, stage
from tests.running import PATIENCE


def account(
    fault: str, injected: int, it: Stage, wrong: Sequence[str] = (), note: str = ""
) -> Result:
    """What became of every message, and what clients and the fault itself found wrong."""
    result = audit(fault, injected, it.path, it.confirmed, it.ears.calls, note=note)
    return replace(result, unaccounted=[*result.unaccounted, *it.wrong, *wrong])


async def _write_to(it: Stage, names: Sequence[str]) -> dict[str, float]:
    """One message to each; when each was sent. Only to those in chat by the gateway's view."""
    sent_at = {}

    async def write(i: int, name: str) -> None:
        sent_at[name] = now()
        told = await it.desk(i).write(name, f"to {name}")
        assert told["route"] == "socket", told

    for group in batches(list(enumerate(names)), 50):
        await asyncio.gather(*(write(i, name) for i, name in group))
    return sent_at


# Half-open sockets

INTO_THE_MESSAGE = 40  # bytes; a message frame is longer
INTO_THE_ACK = 9


async def half_open(directory: Path, sockets: int) -> Result:
    """The network goes away and nobody is told: silent at once, or in the midst of a frame.

    Every customer acknowledges at once, if only the message came to it or the ack went out. Half of
    them come back in the end: what was pushed stays so, and the ack is a fact beside it.
    """
    names = [f"half-{i}" for i in range(sockets)]
    async with stage(directory) as it, proxy(it.port) as between:
        apps = await it.in_chat(names, between.port)
        for i, app in enumerate(apps):
            tunnel = between.tunnel(app.line)
            match i % 3:
                case 0:
                    tunnel.stall()
                case 1:
                    tunnel.stall(Way.DOWN, after=INTO_THE_MESSAGE)
                case 2:
                    tunnel.stall(Way.UP, after=INTO_THE_ACK)
        sent_at = await _write_to(it, names)
        await it.settled()
        struck = sum(between.tunnel(app.line).struck.is_set() for app in apps)
        ended = sum(app.line.ended.done() for app in apps)
        late = apps[::2]
        for app in late:
            app.line.dead = True
            await app.come(it.port, resume=app.has > 0)
            await app.line.ask("ping")
        wrong = _not_rung_once(it, names, "ack_timeout")
        beside = await it.recorded("acked_after_ring", [app.sub for app in late])
        wrong += [f"{a.sub}: its late ack is no fact" for a in late if a.sub not in beside]
        if (struck, ended) != (sockets, 0):
            wrong.append(f"{struck} of {sockets} sockets were half-open, {ended} ended")
        calls = it.calls()
        times = [calls[name][0].at - sent_at[name] - TIMING["ack_timeout"] for name in names]
        note = f"to push, beyond ack_timeout: {spread(times)}"
        return account("half-open sockets", sockets, it, wrong, note)


def _not_rung_once(it: Stage, names: Sequence[str], reason: str) -> list[str]:
    """Who was not rung exactly once and pushed, for `reason`."""
    calls, outcomes, reasons = it.calls(), it.outcomes(), it.reasons()
    return [
        f"{name}: rung {len(calls.get(name, ()))} times for {reasons.get(name)},"
        f" and {outcomes[name, 1]}"
        for name in names
        if (len(calls.get(name, ())), outcomes[name, 1], reasons.get(name)) != (1, "pushed", reason)
    ]


async def pulled_out(directory: Path, customers: int) -> Result:
    """True loss of every packet between the clients' network namespace and the gateway's.

    Needs root and `ip`. The link comes back after the phones were rung: what TCP then carries is
    acknowledged late, a fact beside what was pushed.
    """
    names = [f"pulled-{i}" for i in range(customers)]
    listening = {"RINGBACK_SERVER__CHAT": f"{HERE}:0"}
    async with namespace() as net, stage(directory, host=HERE, environment=listening) as it:
        await register(it, names)
        async with others(it, names, HERE, net.wrapper) as away:
            await net.cut()
            sent_at = await _write_to(it, names)
            await it.settled()
            wrong = _not_rung_once(it, names, "ack_timeout")
            await net.mend()
            for _ in names:
                await away.line()
            beside = await it.recorded("acked_after_ring", names)
            wrong += [f"{n}: its late ack is no fact" for n in names if n not in beside]
        calls = it.calls()
        times = [calls[name][0].at - sent_at[name] - TIMING["ack_timeout"] for name in names]
        note = f"to push, beyond ack_timeout: {spread(times)}"
        return account("network pulled out", customers, it, wrong, note)


# Stopped clients


class Others:
    """Customers in a process of their own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def stopped(self) -> bool:
        """Whether the kernel has stopped it."""
        status = Path(f"/proc/{self._child.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    async def line(self) -> str:
        """What it prints next."""
        assert self._child.stdout is not None
        async with asyncio.timeout(3 * PATIENCE):
            return (await self._child.stdout.readline()).decode().strip()


@asynccontextmanager
async def others(
    it: Stage, names: Sequence[str], host: str = LOOPBACK, wrapped_in: Sequence[str] = ()
) -> AsyncIterator[Others]:
    """`names` in chat from another process, acknowledging at once."""
    child = await asyncio.create_subprocess_exec(
        *wrapped_in,
        *(sys.executable, "-m", "tests.faults.lines", host, str(it.port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    tokens = " ".join(it.gateway.token(Role.CUSTOMER, name, ttl=3600) for name in names)
    assert child.stdin is not None
    child.stdin.write(tokens.encode() + b"\n")
    away = Others(child)
    try:
        assert await away.line() == "in chat"
        yield away
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def register(it: Stage, names: Sequence[str]) -> None:
    """A phone for each of `names`."""
    for name in names:
        await it.gateway.register(name, f"phone-{name}", f"token-{name}")


async def stopped(directory: Path, customers: int) -> Result:
    """A client's process stops (the kernel still takes what is sent) and goes on later.

    First it goes on in time: acknowledged, not rung. Then only after the phones were rung: pushed,
    with the acks as facts beside it.
    """
    names = [f"stopped-{i}" for i in range(customers)]
    async with stage(directory) as it:
        await register(it, names)
        async with others(it, names) as away:
            for again in (True, False):
                away.signal(signal.SIGSTOP)
                while not away.stopped():
                    await asyncio.sleep(0.001)
                sent_at = await _write_to(it, names)
                if again:
                    away.signal(signal.SIGCONT)
                    await it.settled()
                    early = len(it.calls())
            await it.settled()
            away.signal(signal.SIGCONT)
            for _ in range(2 * customers):
                await away.line()
            beside = await it.recorded("acked_after_ring", names)
        calls, outcomes = it.calls(), it.outcomes()
        times = [calls[name][0].at - sent_at[name] - TIMING["ack_timeout"] for name in names]
        wrong = [f"{name}: rung though it went on in time" for name in list(calls)[:early]]
        for name in names:
            told = (outcomes[name, 1], outcomes[name, 2], len(calls[name]), beside.get(name))
            if told != ("acked", "pushed", 1, 2):
                wrong.append(f"{name}: {told}")
        note = f"to push, beyond ack_timeout: {spread(times)}"
        return account("stopped clients", 2 * customers, it, wrong, note)


# Frames cut in half


async def torn(directory: Path, rounds: int) -> Result:
    """Resets in the middle of a frame: of a send, of its answer, of a message and of an ack.

    Half a send is no send, and the same `ref` sends it again; half an answer was a send, and the
    same `ref` gets it again. Half a message is not received and half an ack is none: half of these
    customers come back and resume, the phones of the others are rung.
    """
    delivery = TIMING | {"disconnect_grace": TIMING["ack_timeout"]}  # time to come back
    async with stage(directory, delivery=delivery) as it, proxy(it.port) as between:
        wrong: list[str] = []
        for group in batches(range(rounds), 25):
            found = await asyncio.gather(
                *(_torn_send(it, between, i, answered=i % 2 == 1) for i in group),
                *(_torn_delivery(it, between, i, ack=i % 2 == 1) for i in group),
            )
            wrong += [line for line in found if line]
        await it.settled()
        calls, outcomes = it.calls(), it.outcomes()
        for i in range(rounds):
            name = f"torn-{i}"
            told = (len(calls.get(name, ())), outcomes[name, 1])
            if told != ((0, "acked") if _comes_back(i) else (1, "pushed")):
                wrong.append(f"{name}: {told}")
        return account("resets in the middle of a frame", 2 * rounds, it, wrong)


def _comes_back(i: int) -> bool:
    return i % 4 < 2


async def _torn_send(it: Stage, between: Proxy, i: int, *, answered: bool) -> str | None:
    """An agent's send, or the answer to it, is cut; then the same again."""
    desk = Desk(it.gateway.token(Role.AGENT, f"torn-agent-{i}"))
    await desk.come(between.port)
    tunnel = between.tunnel(desk.line)
    if answered:
        tunnel.reset(Way.DOWN, after=INTO_THE_MESSAGE)
    else:
        tunnel.reset(Way.UP, after=INTO_THE_MESSAGE)
    customer, ref = f"nowhere-{i}", f"torn-{i}"
    await it.gateway.register(customer, f"phone-{customer}", f"token-{customer}")
    try:
        await desk.write(customer, "cut", ref)
        return f"{customer}: nothing was cut"
    except ConnectionResetError:
        pass
    told = await it.desk(i).line.ask("open", customer=customer)
    if told["seq"] > answered:
        return f"{customer}: half a send is message {told['seq']}"
    await desk.come(it.port)
    it.desks.append(desk)
    again = await desk.write(customer, "cut", ref)
    if (again["seq"], again.get("duplicate", False)) not in {(1, answered), (1, True)}:
        return f"{customer}: sent again, it is {again}"
    return None


async def _torn_delivery(it: Stage, between: Proxy, i: int, *, ack: bool) -> str | None:
    """A message, or the ack for it, is cut."""
    name = f"torn-{i}"
    (app,) = await it.in_chat([name], between.port)
    tunnel = between.tunnel(app.line)
    if ack:
        tunnel.reset(Way.UP, after=INTO_THE_ACK)
    else:
        tunnel.reset(Way.DOWN, after=INTO_THE_MESSAGE)
    await it.desk(i).write(name, f"to {name}")
    async with asyncio.timeout(PATIENCE):
        await tunnel.struck.wait()
        await app.line.ended
    if app.has != int(ack):
        return f"{name}: has {app.has}"
    if _comes_back(i):
        await app.come(it.port)
        await app.line.ask("ping")
    return None


LONG = (
    partial(half_open, sockets=1_000),
    partial(pulled_out, customers=500),
    partial(stopped, customers=500),
    partial(torn, rounds=1_000),
)
