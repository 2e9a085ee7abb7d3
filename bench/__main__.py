"""`make bench`: every bar, each beside a reference measured in the same run, in one table.

    make bench                                   everything, about 40 minutes
    make bench ARGS=--quick                      a smoke run: whether it works, not how fast
    make bench ARGS="--only throughput latency --rounds 3 --seconds 10"
    make bench ARGS="--backlog 10000"            less of what takes longest

The table and the plots are written to bench/results/. What is measured how: bench/README.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from pathlib import Path

import uvloop
from rich.console import Console

from bench import connections, fairness, growth, latency, neighbours, push, servers, throughput
from bench.peers import PEERS
from bench.report import Report
from bench.size import QUICK, Size

RESULTS = Path(__file__).parent / "results"
console = Console(width=None if sys.stdout.isatty() else 200)  # a file is as wide as the table


class Bench:
    """One run: what was found, and the rates that later measurements build on."""

    def __init__(self, size: Size, files: int) -> None:
        self.size = size
        self.report = Report()
        self._files = files
        self._rates: dict[int, tuple[float, float]] = {}

    async def throughput(self) -> None:
        for conversations in self.size.conversations:
            found = await throughput.measure(self.report, conversations, self.size)
            self._rates[conversations] = found

    async def floor(self) -> None:
        for conversations in self.size.conversations:
            await throughput.parts(self.report, conversations, self.size)
        await push.parts(self.report, self.size)

    async def latency(self) -> None:
        for conversations in self.size.conversations:
            flow, echo = await self._rate(conversations)
            await latency.measure(self.report, conversations, (flow / 2, echo / 2), self.size)

    async def memory(self) -> None:
        await connections.memory(self.report, self.size)

    async def connects(self) -> None:
        await connections.rate(self.report, self.size)
        await connections.restart(self.report, self.size)

    async def push(self) -> None:
        await push.rate(self.report, self.size)
        flow, _ = await self._rate(push.CONVERSATIONS)
        await push.backlog(self.report, flow / 4, self.size)

    async def growth(self) -> None:
        await growth.spread(self.report, self._files, self.size)
        await growth.stored(self.report, self.size)

    async def fairness(self) -> None:
        flow, _ = await self._rate(fairness.CONVERSATIONS)
        await fairness.measure(self.report, flow / 4, self.size)

    async def neighbours(self) -> None:
        await neighbours.measure(self.report, self.size)

    async def deaths(self) -> None:
        await push.deaths(self.report, self.size)

    async def _rate(self, conversations: int) -> tuple[float, float]:
        """The throughput, from one round if it was not asked for."""
        if conversations not in self._rates:
            flow = await throughput.full_path(conversations, self.size)
            echo = await throughput.echo(conversations, self.size)
            self._rates[conversations] = flow.rate, echo.rate
        return self._rates[conversations]


SECTIONS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "throughput": Bench.throughput,
    "floor": Bench.floor,
    "latency": Bench.latency,
    "memory": Bench.memory,
    "connects": Bench.connects,
    "push": Bench.push,
    "growth": Bench.growth,
    "fairness": Bench.fairness,
    "neighbours": Bench.neighbours,
    "deaths": Bench.deaths,
}


async def main(options: argparse.Namespace) -> int:
    """Measure what was asked for. What fails is told under the table; the rest goes on."""
    size = QUICK if options.quick else Size()
    given = {f.name: getattr(options, f.name, None) for f in fields(Size)}
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    bench = Bench(size, servers.prepare_load())
    others, failed = servers.Others(), 0
    for name in options.only or SECTIONS:
        began = time.monotonic()
        try:
            with console.status(f"measuring {name}"):
                await SECTIONS[name](bench)
        except (RuntimeError, OSError) as error:
            failed += 1
            bench.report.remark(f"{name} FAILED: {type(error).__name__}: {error}")
        bench.report.write(options.results)
        console.print(f"{name}: {time.monotonic() - began:.0f} s")
    bench.report.remark(f"Other programs used {others.share():.0%} of the machine meanwhile.")
    bench.report.show(console)
    bench.report.write(options.results)
    console.print(f"written to {options.results}/")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, help="some of the measurements")
    add("--quick", action="store_true", help="everything small, once")
    add("--rounds", type=int, help="how often each is measured (5)")
    add("--seconds", type=float, help="how long at a time (5)")
    add("--peers", nargs="*", choices=PEERS, help="which others are measured too (all)")
    add("--agents", type=int, help="agents' sockets (4)")
    add("--in-flight", type=int, help="messages in flight per conversation, or echo (1)")
    add("--idle", type=int, help="idle customers for the memory (8,000)")
    add("--connects", type=int, help="customers who connect, and resume (5,000)")
    add("--backlog", type=int, help="customers due at once (100,000)")
    add("--results", type=Path, default=RESULTS, help="where to write (bench/results)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(uvloop.run(main(arguments())))
