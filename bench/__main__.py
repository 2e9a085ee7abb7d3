"""`make bench`: the figures of the README, each as a ratio to a reference measured in the same run.

An absolute time says more about the machine than about the program; the ratio to the bare echo of
the same library, interleaved, says what a durable message costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import uvloop
from aiohttp import ClientSession, web
from rich.console import Console
from rich.table import Table

from bench import load, servers
from gateway.protocol import Role

console = Console()


async def throughput(conversations: int, rounds: int, seconds: float) -> list[Any]:
    """Echo and full path in turn, each round on fresh servers."""
    echoes, flows = [], []
    for _ in range(rounds):
        with servers.bare_echo() as echo:
            echoes.append(await load.echo_rate(echo, conversations, seconds))
        with servers.gateway() as gateway:
            flows.append(await load.chat_rate(gateway, conversations, seconds))
    ratio = statistics.median(f.rate / e for f, e in zip(flows, echoes, strict=True))
    delays = sorted(ms for flow in flows for ms in flow.delivery_ms)
    return [
        f"{conversations} conversations",
        f"{statistics.median(f.rate for f in flows):,.0f}/s",
        f"{statistics.median(echoes):,.0f}/s",
        f"{ratio:.2f}",
        f"{statistics.median(f.cpu_us for f in flows):.0f} µs",
        f"{delays[len(delays) // 2]:.1f} / {delays[len(delays) * 99 // 100]:.1f} ms",
    ]


class Ears:
    """A customer backend that notes when it was called for whom."""

    def __init__(self) -> None:
        self.heard: dict[str, asyncio.Future[float]] = {}
        self.port = 0

    def listen_for(self, customer: str) -> asyncio.Future[float]:
        future = self.heard[customer] = asyncio.get_running_loop().create_future()
        return future

    async def serve(self, request: web.Request) -> web.Response:
        body = await request.json()
        future = self.heard.get(body["payload"]["ringback"]["customer"])
        if future is not None and not future.done():
            future.set_result(time.perf_counter())
        return web.Response()


async def time_to_push(deaths: int, ack_timeout: float) -> tuple[list[float], list[float]]:
    """Milliseconds from a socket's death to the push, beyond what was configured.

    First: sockets that go silent (nothing is read or answered any more), counted from the send,
    beyond `ack_timeout`. Second: sockets that are cut, counted from the cut, beyond the grace.
    """
    ears = Ears()
    app = web.Application()
    app.router.add_post("/ring", ears.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    silent, cut = [], []
    with servers.gateway(f"http://127.0.0.1:{port}/ring", ack_timeout) as gateway:
        agent = await load.hello(gateway, Role.AGENT, "a")
        async with ClientSession() as http:
            for i in range(2 * deaths):
                name = f"d-{i}"
                await http.put(
                    f"http://127.0.0.1:{gateway.ports['http']}/v1/devices/phone-{i}",
                    json={"token": f"t-{i}"},
                    headers={"Authorization": f"Bearer {load.token(gateway, Role.CUSTOMER, name)}"},
                )
                socket = await load.hello(gateway, Role.CUSTOMER, name)
                socket.transport.pause_reading()
                rung = ears.listen_for(name)
                await agent.send(
                    f'{{"type":"send","ref":"{name}","customer":"{name}","text":"hello"}}'
                )
                sent = time.perf_counter()
                await agent.recv()
                if i % 2:
                    socket.transport.abort()
                    dead = time.perf_counter()
                    cut.append((await rung - dead - 0.2) * 1000)
                else:
                    silent.append((await rung - sent - ack_timeout) * 1000)
                    socket.transport.abort()
    await runner.cleanup()
    return silent, cut


def spread(values: list[float]) -> str:
    values = sorted(values)
    return (
        f"min {values[0]:.1f}, median {values[len(values) // 2]:.1f}, "
        f"p99 {values[len(values) * 99 // 100]:.1f}, max {values[-1]:.1f} ms"
    )


async def main(options: argparse.Namespace) -> None:
    servers.pin_load()
    table = Table(
        "full path, synchronous=FULL", "messages", "bare echo", "ratio", "CPU", "p50 / p99"
    )
    for conversations in (100, 1000):
        table.add_row(*await throughput(conversations, options.rounds, options.seconds))
    console.print(table)
    with servers.gateway() as gateway:
        bytes_each = await load.idle_bytes(gateway, options.idle)
    console.print(
        f"memory per idle authenticated customer at {options.idle:,}: {bytes_each / 1024:.1f} KiB"
    )
    silent, cut = await time_to_push(options.deaths, 0.5)
    console.print(f"silent socket to push, beyond ack_timeout: {spread(silent)}")
    console.print(f"cut socket to push, beyond disconnect_grace: {spread(cut)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--deaths", type=int, default=50)
    uvloop.run(main(parser.parse_args()))
