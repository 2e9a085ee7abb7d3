"""Bars 3 and 4: what an idle customer costs, how fast customers come in, and all at once.

A connection is counted when it is of use: for a customer after hello with `resume` and the welcome
that says that nothing was missed; for the bare reference after one echo.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial

from bench import bulk, servers, wire
from bench.chat import clock, each
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size
from bench.wire import Wire
from gateway.protocol import Role

WARM = 200  # connections before memory is counted: what is allocated once
MESSAGES = 10  # stored for each customer who resumes
BACK_WITHIN = 1.0  # seconds in which clients come back after a crash, as the protocol has them do
EPOCH = re.compile(rb'"epoch":"([^"]+)"')


async def memory(report: Report, size: Size) -> None:
    """Resident bytes per connection: idle customers, and bare connections after one echo."""
    ours, bare = [], []
    for _ in range(min(size.rounds, 3)):
        with servers.bare_echo() as process:
            bare.append(await _bytes_each(process, partial(_echoed, process), size.idle))
        with servers.gateway() as process:
            said = _hellos(process, WARM + size.idle, None)
            ours.append(await _bytes_each(process, partial(_nth, process, said), size.idle))
    report.rows.append(
        Row(
            "3 memory",
            f"idle authenticated customer, at {size.idle:,}",
            "KB",
            ours,
            bare,
            "KB, bare websockets",
            at_most=24,
            of_value=True,
        )
    )


async def _bytes_each(
    process: Process, connect: Callable[[int], Awaitable[Wire]], count: int
) -> float:
    sockets = await each(connect, range(WARM))
    before = process.memory()
    sockets += await each(connect, range(WARM, WARM + count))
    grown = process.memory() - before
    for socket in sockets:
        socket.cut()
    return grown / count / 1000


async def rate(report: Report, size: Size) -> None:
    """Connections a second, `AT_ONCE` in the making at a time."""
    ours, bare = [], []
    for _ in range(size.rounds):
        with servers.bare_echo() as process:
            bare.append(await _per_second(partial(_echoed, process), size.connects))
        with servers.scratch() as directory:
            bulk.write(directory, bulk.Group("c-", size.connects, MESSAGES))
            with servers.gateway(directory) as process:
                said = _hellos(process, size.connects, await _epoch(process))
                ours.append(await _per_second(partial(_nth, process, said), size.connects))
    report.rows.append(
        Row(
            "4 connects",
            "connect, hello, resume with nothing missed",
            "/s",
            [r for r, _ in ours],
            [r for r, _ in bare],
            "/s, bare: connect and one echo",
            at_least=0.5,
            load=[share for _, share in ours],
            note=f"load CPU of the reference {max(share for _, share in bare):.0%}",
        )
    )


async def _per_second(connect: Callable[[int], Awaitable[Wire]], count: int) -> tuple[float, float]:
    """Connections a second, and the share of its core that the load used."""
    began, own = clock(), time.process_time()
    sockets = await each(connect, range(count))
    took, used = clock() - began, time.process_time() - own
    for socket in sockets:
        socket.cut()
    return count / took, used / took


async def restart(report: Report, size: Size) -> None:
    """All customers are connected; the gateway is killed and started; all come back within 1 s.

    An error is whoever is not welcomed with `resumed`, at the first attempt.
    """
    errors, blocked, back = list[float](), list[float](), list[float]()
    for _ in range(min(size.rounds, 3)):
        with servers.scratch() as directory:
            bulk.write(directory, bulk.Group("c-", size.connects, MESSAGES))
            with servers.gateway(directory) as process:
                said = _hellos(process, size.connects, await _epoch(process))
                before = await each(partial(_nth, process, said), range(size.connects))
            for socket in before:
                socket.cut()
            with servers.gateway(directory) as process:
                process.blocked()
                began = clock()
                came = await asyncio.gather(
                    *(_comes_back(process, hello) for hello in said), return_exceptions=True
                )
                back.append(clock() - began)
                blocked.append(process.blocked() * 1000)
                sockets = [one for one in came if isinstance(one, Wire)]
                errors.append(len(came) - len(sockets))
                for socket in sockets:
                    socket.cut()
    what = f"{size.connects:,} clients resume after a kill"
    report.rows += [
        Row("4 restart", f"{what}: errors", "", errors, at_most=0),
        Row("4 restart", f"{what}: the loop was blocked for", "ms", blocked, at_most=50),
        Row("4 restart", f"{what}: until the last is back", "s", back),
    ]


async def _comes_back(process: Process, said: bytes) -> Wire:
    await asyncio.sleep(random.random() * BACK_WITHIN)
    return await _in(process, said)


async def _epoch(process: Process) -> str:
    socket, welcome = await wire.welcomed(
        process, Role.CUSTOMER, wire.hello_of(process, Role.CUSTOMER, "nobody")
    )
    socket.cut()
    found = EPOCH.search(welcome)
    assert found is not None
    return found[1].decode()


def _hellos(process: Process, count: int, epoch: str | None) -> list[bytes]:
    resume = (epoch, MESSAGES) if epoch is not None else None
    return [wire.hello_of(process, Role.CUSTOMER, f"c-{i:05}", resume=resume) for i in range(count)]


async def _in(process: Process, said: bytes) -> Wire:
    socket, welcome = await wire.welcomed(process, Role.CUSTOMER, said)
    if b'"resume"' in said and b'"resumed":true' not in welcome:
        raise ConnectionError("the resume was refused")
    return socket


async def _nth(process: Process, said: list[bytes], i: int) -> Wire:
    return await _in(process, said[i])


async def _echoed(process: Process, _: int) -> Wire:
    socket = await wire.connect(process.ports["chat"])
    await socket.ask(b"x" * 150, b"x")
    return socket
