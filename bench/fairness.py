"""Bar 7: what one tenant's excess costs another's conversations.

Tenant `acme` chats, open loop, and its p99 from send to delivery is measured: alone, then beside
each of these of tenant `other`, then beside all of them. Rate limits are lifted, so that what is
seen is the fairness of the queues.

- broadcast: an agent writes to customer after customer, 64 unconfirmed sends at a time
- broadcast, 50 desks: the same, while as many agents follow that tenant's inbox
- slow reader: a customer who reads nothing is sent 8,000 characters at a time, until the gateway
  says that they are not in chat any more; then the customer is back, and again reads nothing
- hanging backend: pushes are due for 2,000 customers, and the backend takes them and never answers
- history: a customer pages through everything, 200 messages at a time, again and again
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count, cycle

from bench import bulk, chat, push, servers, wire
from bench.chat import Chat, Window
from bench.plot import NINES, Plot, percentiles
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size
from gateway.protocol import Role

CONVERSATIONS = 100
HISTORY = bulk.Group("h-", 1, 20_000, tenant="other")
AUDIENCE = bulk.Group("b-", 1000, 0, tenant="other")
SLOW = bulk.Group("s-", 1, 0, tenant="other")
WAITING = bulk.Group("p-", 2000, 1, pending=True, tenant="other")
WINDOW = 64
DESKS = 50
LONG_TEXT = "x" * 8000
SEQ = re.compile(rb'"seq":(\d+)')

Excess = Callable[[Process], Awaitable[None]]


async def broadcast(process: Process) -> None:
    agent = await wire.hello(process, Role.AGENT, "loud", "other")
    sends = zip(count(), cycle(AUDIENCE.names()), strict=False)

    def send() -> None:
        ref, name = next(sends)
        told = {"type": "send", "ref": f"b-{ref}", "customer": name, "text": "x" * 100}
        agent.send(json.dumps(told).encode())

    def heard(frame: bytes) -> None:
        assert b'"type":"error"' not in frame[:48], frame
        if b'"type":"sent"' in frame[:48]:
            send()

    agent.heard = heard
    for _ in range(WINDOW):
        send()
    await asyncio.Event().wait()


async def slow_reader(process: Process) -> None:
    agent = await wire.hello(process, Role.AGENT, "writer", "other")
    (name,) = SLOW.names()
    refs = count()
    while True:
        reader = await wire.hello(process, Role.CUSTOMER, name, "other")
        reader.transport.pause_reading()
        kernel = reader.transport.get_extra_info("socket")
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or it reads megabytes ahead
        in_chat = True
        while in_chat:
            told = {"type": "send", "ref": f"s-{next(refs)}", "customer": name, "text": LONG_TEXT}
            sent = await agent.ask(json.dumps(told).encode(), b'"ref":')
            in_chat = b'"route":"socket"' in sent
        reader.cut()


async def page_through(process: Process) -> None:
    (name,) = HISTORY.names()
    reader = await wire.hello(process, Role.CUSTOMER, name, "other")
    before = None
    while True:
        asked = {"type": "history", "ref": "h", "limit": 200}
        page = await reader.ask(
            json.dumps(asked if before is None else asked | {"before": before}).encode(),
            b'"type":"history"',
        )
        oldest = SEQ.search(page)
        before = int(oldest[1]) if oldest is not None and b'"more":true' in page else None


async def desks(process: Process) -> None:
    """Agents who follow the inbox of who broadcasts, and read all that they are told."""
    await chat.desks(process, DESKS, "other")
    await asyncio.Event().wait()


async def nothing(process: Process) -> None:
    """The hanging backend needs no client: what is due is in the database."""


EXCESSES: dict[str, list[Excess]] = {
    "alone": [],
    "broadcast": [broadcast],
    f"broadcast, {DESKS} desks": [desks, broadcast],
    "slow reader": [slow_reader],
    "hanging backend": [nothing],
    "history": [page_through],
    "all of them": [broadcast, slow_reader, nothing, page_through],
}


async def measure(report: Report, rate: float, size: Size) -> None:
    """Every case in every round, at `rate` messages a second."""
    found: dict[str, list[Window]] = {name: [] for name in EXCESSES}
    for _ in range(size.rounds):
        for name, excesses in EXCESSES.items():
            found[name].append(await _beside(excesses, rate, size))
    alone = [w.delay_ms(0.99) for w in found["alone"]]
    for name, windows in found.items():
        if name != "alone":
            report.rows.append(
                Row(
                    "7 fairness",
                    f"others' p99 beside: {name}, at {rate:,.0f}/s",
                    "ms",
                    [w.delay_ms(0.99) for w in windows],
                    alone,
                    "ms, alone",
                    at_most=2,
                )
            )
    report.plots.append(
        Plot(
            "fairness",
            f"From send to delivery, {rate:,.0f}/s, beside another tenant's excess",
            "percentile",
            "ms",
            {
                name: [
                    (x, y * 1000)
                    for x, y in percentiles(sorted(d for w in windows for d in w.delays))
                ]
                for name, windows in found.items()
            },
            NINES,
            log=True,
        )
    )


async def _beside(excesses: list[Excess], rate: float, size: Size) -> Window:
    async with push.backend(hangs=True) as never:
        with servers.scratch() as directory:
            waiting = [WAITING] if nothing in excesses else []
            bulk.write(directory, HISTORY, AUDIENCE, SLOW, *waiting)
            with servers.gateway(directory, neighbour=never.url, restart_grace=2.0) as process:
                load = await Chat.open(process, chat.names(CONVERSATIONS), size.agents)
                tasks = [asyncio.ensure_future(excess(process)) for excess in excesses]
                try:
                    if waiting:
                        await never.reached(1)
                    return await chat.pace(
                        load, rate, asyncio.sleep(size.warm), asyncio.sleep(size.seconds)
                    )
                finally:
                    for task in tasks:
                        task.cancel()
                    for task in tasks:
                        with suppress(asyncio.CancelledError):
                            await task
                    load.close()
