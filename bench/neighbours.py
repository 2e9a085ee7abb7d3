"""Bar 8: what one tenant's dead backend costs another's pushes.

Tenant `acme` sends to a customer who is not in chat, one message at a time, and from the send to
the call at its backend is measured: alone, then beside tenant `other`, for 2,000 of whose customers
a push is due, whose backend hangs (takes the calls and never answers), fails (answers 503) or is
gone (refuses connections). The runs are interleaved, each with a gateway and a database of its own.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from bench import bulk, push, servers, wire
from bench.chat import clock
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size
from gateway.protocol import Role

CUSTOMERS = 50
PAUSE = 0.01  # seconds between a call and the next send
WAITING = bulk.Group("p-", 2000, 1, pending=True, tenant="other")


@asynccontextmanager
async def alone() -> AsyncIterator[str]:
    yield ""


@asynccontextmanager
async def hanging() -> AsyncIterator[str]:
    async with push.backend(hangs=True) as it:
        yield it.url


@asynccontextmanager
async def failing() -> AsyncIterator[str]:
    async def refuse(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=503)

    app = web.Application()
    app.router.add_post("/ring", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/ring"
    await runner.cleanup()


@asynccontextmanager
async def gone() -> AsyncIterator[str]:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/ring"


CASES = {"alone": alone, "hangs": hanging, "fails": failing, "is gone": gone}


async def measure(report: Report, size: Size) -> None:
    """Every case in every round; the median of each run."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(size.rounds):
        for name, case in CASES.items():
            async with case() as neighbour:
                found[name].append(statistics.median(await _latencies(neighbour, size.latencies)))
    for name in list(CASES)[1:]:
        report.rows.append(
            Row(
                "8 neighbours",
                f"median from send to push, beside a backend that {name}",
                "ms",
                found[name],
                found["alone"],
                "ms, alone",
                at_most=1.5,
            )
        )


async def _latencies(neighbour: str, count: int) -> list[float]:
    """Milliseconds from the send to the call; with no `neighbour` nobody else is there."""
    async with push.backend() as it:
        with servers.scratch() as directory:
            bulk.write(directory, *([WAITING] if neighbour else []))
            there = neighbour or servers.NOWHERE
            with servers.gateway(directory, endpoint=it.url, neighbour=there) as process:
                await _register(process)
                agent = await wire.hello(process, Role.AGENT, "a")
                found = []
                for number in range(count + CUSTOMERS):  # the first round warms up
                    await asyncio.sleep(PAUSE)
                    before, sent = it.calls, clock()
                    await agent.ask(
                        f'{{"type":"send","ref":"{number}","customer":"n-{number % CUSTOMERS}",'
                        f'"text":"hello"}}'.encode(),
                        b'"type":"sent"',
                    )
                    await it.reached(before + 1)
                    found.append((it.last - sent) * 1000)
                return found[CUSTOMERS:]


async def _register(process: Process) -> None:
    async with ClientSession() as http:
        for number in range(CUSTOMERS):
            name = f"n-{number}"
            async with http.put(
                f"http://127.0.0.1:{process.ports['http']}/v1/devices/phone-{number}",
                json={"token": f"t-{number}"},
                headers={"Authorization": f"Bearer {wire.token(process, Role.CUSTOMER, name)}"},
            ) as answer:
                assert answer.status == 200
