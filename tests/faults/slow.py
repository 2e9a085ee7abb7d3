"""Readers that do not keep up: closed with 4001, bounded in memory, and nothing is lost to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.faults.accounts import Result
from tests.faults.lines import LOOPBACK, App, Death, Desk
from tests.faults.network import account
from tests.faults.proxy import proxy
from tests.faults.stage import TIMING, Stage, stage
from tests.running import PATIENCE

LIMITS = {"outbound_bytes": 262_144, "resume": 50_000}
TEXT = "\U0001f514" * 7_000  # 28,000 bytes
TRICKLE, FAST = 200, 1_000_000_000  # bytes a second
SLACK = 10.0  # megabytes
STEP = 10  # messages
TOGETHER = 32  # sends in flight


async def slow_readers(directory: Path, readers: int, messages: int) -> Result:
    """Messages pour in on readers of three kinds, `readers` of each.

    Some read nothing and are cut off, some a trickle through a proxy, and some nothing until the
    gateway holds more for them than it may: these are told 4001. The gateway's memory stays within
    the bound, a resume brings the rest; two customers beside them get all of theirs, unrung.
    """
    delivery = TIMING | {"ack_timeout": 60.0, "disconnect_grace": 60.0, "max_hold": 60.0}
    async with stage(directory, delivery=delivery, limits=LIMITS) as it, proxy(it.port) as by:
        well = await it.in_chat(["well-0", "well-1"])
        paused = [await _small(it, f"paused-{i}") for i in range(readers)]
        stuck = [await _small(it, f"stuck-{i}") for i in range(readers)]
        trickling = await it.in_chat([f"trickle-{i}" for i in range(readers)], by.port)
        slow = [*stuck, *paused, *trickling]
        await _warm_up(it, messages, well)
        before = _memory(it.gateway.pid)
        for app in (*paused, *stuck):
            app.line.transport.pause_reading()
        for app in trickling:
            by.tunnel(app.line).slow(TRICKLE)
        for app in stuck:
            await _pour_until_stuck(it, app, well)
        for app in (*paused, *trickling):
            await _pour(it, app.sub, messages, well)
        grown = _memory(it.gateway.pid) - before
        for app in paused:
            app.line.transport.resume_reading()
        for app in trickling:
            by.tunnel(app.line).slow(FAST)
        codes = [await asyncio.wait_for(app.line.ended, 3 * PATIENCE) for app in slow]
        first = sum(len(app.texts) for app in slow)
        for app in slow:
            await app.come(it.port)
            await app.line.ask("ping")
        await it.settled()
        wrong = it.incomplete((*well, *slow))
        wrong += [f"{call.ring['customer']}: rung" for call in it.ears.calls]
        if codes[:readers] != [4001] * readers or not set(codes) <= {4001, None}:
            wrong.append(f"closed with {codes}")
        poured = 2 * readers * messages * 28_000 / 1e6
        allowed = 3 * readers * LIMITS["outbound_bytes"] / 1e6 + SLACK
        if grown > allowed:
            wrong.append(f"the gateway grew by {grown:.0f} MB; the bound allows {allowed:.0f} MB")
        note = (
            f"{codes.count(4001)} told 4001, {codes.count(None)} cut off, {first:,} messages before"
            f" that; the gateway grew by {grown:.0f} MB while {poured:.0f} MB were sent"
        )
        return account("slow readers", 3 * readers, it, wrong, note)


async def _warm_up(it: Stage, messages: int, beside: Sequence[App]) -> None:
    """The same load without a reader: what that costs is no backlog."""
    away = it.app("away")
    await away.come(it.port)
    away.line.die(Death.BYE)
    await _pour(it, "away", messages, beside)


async def _small(it: Stage, name: str) -> App:
    """In chat, with a kernel that takes little for it."""
    app = it.app(name)
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    tcp.connect((LOOPBACK, it.port))
    tcp.setblocking(False)
    await app.come(it.port, sock=tcp)
    await app.register()
    return app


async def _pour(it: Stage, name: str, messages: int, beside: Sequence[App]) -> None:
    """`messages` to one customer, from all agents at once, and a few to others in between."""
    numbers = iter(range(messages))

    async def write(desk: Desk) -> None:
        for i in numbers:
            await desk.write(name, TEXT)
            if i % 20 == 0:
                await desk.write(beside[i // 20 % len(beside)].sub, "are you well?")

    await asyncio.gather(*(write(it.desk(i)) for i in range(TOGETHER)))


async def _pour_until_stuck(it: Stage, app: App, beside: Sequence[App]) -> None:
    """Pour until the gateway's kernel takes nothing more, so that the rest is in the gateway.

    A step is more than `outbound_bytes`. Then read on: the close has been decided, just now.
    """
    kernel = -1
    while (unsent := _unsent(it.port, app.line.port)) > kernel:
        kernel = unsent
        await _pour(it, app.sub, STEP, beside)
    app.line.transport.resume_reading()
    await asyncio.wait_for(app.line.ended, PATIENCE)


def _unsent(here: int, there: int) -> int:
    """Bytes that the kernel holds for a connection on loopback, at its end with port `here`."""
    ends = f" 0100007F:{here:04X} 0100007F:{there:04X} "
    (row,) = [row for row in Path("/proc/net/tcp").read_text().splitlines() if ends in row]
    return int(row.partition(ends)[2].split()[1].partition(":")[0], 16)


def _memory(pid: int) -> float:
    """Resident megabytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


LONG = (partial(slow_readers, readers=8, messages=600),)
