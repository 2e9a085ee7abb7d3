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
TOGETHER = 32  # sends in flight


async def slow_readers(directory: Path, readers: int, messages: int) -> Result:
    """Readers that read nothing, and others a trickle through a proxy, while messages pour in.

    Each is closed with 4001 (or cut off, when it does not even take that), its backlog stays within
    the bound, a resume brings the rest; two customers beside them get all of theirs, unrung.
    """
    delivery = TIMING | {"ack_timeout": 60.0, "disconnect_grace": 60.0, "max_hold": 60.0}
    async with stage(directory, delivery=delivery, limits=LIMITS) as it, proxy(it.port) as by:
        well = await it.in_chat(["well-0", "well-1"])
        slow = [await _small(it, f"slow-{i}") for i in range(readers)]
        trickling = await it.in_chat([f"trickle-{i}" for i in range(readers)], by.port)
        for app in trickling:
            by.tunnel(app.line).slow(TRICKLE)
        warm = it.app("away")
        await warm.come(it.port)
        warm.line.die(Death.BYE)
        await _pour(it, "away", messages, beside=well)  # what any load costs
        before = _memory(it.gateway.pid)
        for app in slow:
            app.line.transport.pause_reading()
        for app in (*slow, *trickling):
            await _pour(it, app.sub, messages, beside=well)
            if app in slow:
                app.line.transport.resume_reading()
            else:
                by.tunnel(app.line).slow(FAST)
        grown = _memory(it.gateway.pid) - before
        codes = [
            await asyncio.wait_for(app.line.ended, 3 * PATIENCE) for app in (*slow, *trickling)
        ]
        first = sum(len(app.texts) for app in (*slow, *trickling))
        for app in (*slow, *trickling):
            await app.come(it.port)
            await app.line.ask("ping")
        await it.settled()
        wrong = it.incomplete((*well, *slow, *trickling))
        wrong += [f"{call.ring['customer']}: rung" for call in it.ears.calls]
        wrong += [f"a slow reader was closed with {c}" for c in codes if c not in (4001, None)]
        if 4001 not in codes:
            wrong.append("nobody was told 4001")
        poured = 2 * readers * messages * 28_000 / 1e6
        allowed = 2 * readers * LIMITS["outbound_bytes"] / 1e6 + SLACK
        if grown > allowed:
            wrong.append(f"the gateway grew by {grown:.0f} MB; the bound allows {allowed:.0f} MB")
        note = (
            f"{codes.count(4001)} told 4001, {codes.count(None)} cut off, {first:,} messages before"
            f" that; the gateway grew by {grown:.0f} MB while {poured:.0f} MB were sent"
        )
        return account("slow readers", 2 * readers, it, wrong, note)


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


def _memory(pid: int) -> float:
    """Resident megabytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


LONG = (partial(slow_readers, readers=8, messages=600),)
