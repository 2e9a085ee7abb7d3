"""Bar 6: whether what a message costs grows with conversations and with what is stored.

The cost is the server's CPU time per message, with the same number in flight everywhere, spread
over more or fewer conversations, and over a small or a large database. Also: opening a
conversation, and a welcome with its unread count, with a long history and with a short one, in turn
on an idle gateway; and the time from the start of the process until it listens.
"""

from __future__ import annotations

import statistics
from itertools import count

from bench import bulk, chat, servers, wire
from bench.chat import Chat, clock
from bench.plot import Plot
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size
from gateway.protocol import Role

IN_FLIGHT = 100
TALKING = 1000  # conversations that carry messages in the large database
LONG, SHORT = 10, 100  # customers with a long history, which is a tenth of all, and with a short
PAGE = 100  # messages of a short history: more than one opening shows
UNREAD = 10
ASKS = 100
WITHIN = 1.5
SPARE = 100  # files that a process needs beside its customers' sockets


async def spread(report: Report, files: int, size: Size) -> None:
    """Cost per message with few, more, many conversations; every customer is connected."""
    sizes = [min(n, files - SPARE) for n in size.spreads]
    costs: dict[int, list[float]] = {n: [] for n in sizes}
    loads: dict[int, list[float]] = {n: [] for n in sizes}
    for _ in range(size.rounds):
        for n in sizes:
            with servers.gateway() as process:
                window = await _cost(process, n, size)
                costs[n].append(window.cpu_us)
                loads[n].append(window.load)
    _add(report, "conversations", costs, loads)


async def stored(report: Report, size: Size) -> None:
    """Cost per message with so much stored; opening, welcome and start on the same databases."""
    costs: dict[int, list[float]] = {n: [] for n in size.stored}
    loads: dict[int, list[float]] = {n: [] for n in size.stored}
    starts: dict[int, list[float]] = {n: [] for n in size.stored}
    opening, welcoming = _Pairs(), _Pairs()
    with servers.scratch() as top:
        for n in size.stored:
            (top / str(n)).mkdir()
            bulk.write(top / str(n), *_groups(n, size))
        for _ in range(size.rounds):
            for n in size.stored:
                with servers.gateway(top / str(n), graceful=True) as process:
                    starts[n].append(process.ready_after)
                    if n == size.stored[-1]:
                        await _open(process, opening)
                        await _welcome(process, welcoming)
                    window = await _cost(process, TALKING, size)
                    costs[n].append(window.cpu_us)
                    loads[n].append(window.load)
    _add(report, "stored messages", costs, loads)
    long = size.stored[-1] // 10 // LONG
    for what, pairs in (("opening a conversation", opening), ("welcome with unread", welcoming)):
        report.rows.append(
            Row(
                "6 growth",
                f"{what} of {long:,} messages",
                "ms",
                pairs.long,
                pairs.short,
                f"ms, of {PAGE} messages",
                at_most=WITHIN,
            )
        )
    for n in size.stored:
        report.rows.append(
            Row(
                "6 start",
                f"start with {n:,} messages, {size.customers if n else 0:,} customers",
                "s",
                starts[n],
                at_most=3,
            )
        )


class _Pairs:
    """Medians of a round, of the long history and of the short."""

    def __init__(self) -> None:
        self.long: list[float] = []
        self.short: list[float] = []

    def add(self, times: dict[str, list[float]]) -> None:
        self.long.append(statistics.median(times["l-"]) * 1000)
        self.short.append(statistics.median(times["s-"]) * 1000)


def _groups(messages: int, size: Size) -> list[bulk.Group]:
    if not messages:
        return [bulk.Group("c-", TALKING, 0)]
    rest = messages - messages // 10 - SHORT * PAGE
    others = size.customers - LONG - SHORT
    return [
        bulk.Group("c-", others, max(1, rest // others)),
        bulk.Group("l-", LONG, messages // 10 // LONG, unread=UNREAD),
        bulk.Group("s-", SHORT, PAGE, unread=UNREAD),
    ]


async def _cost(process: Process, conversations: int, size: Size) -> chat.Window:
    load = await Chat.open(process, chat.names(conversations), size.agents)
    window = await chat.saturate(load, IN_FLIGHT, size.warm, size.seconds)
    load.close()
    return window


async def _open(process: Process, pairs: _Pairs) -> None:
    agent = await wire.hello(process, Role.AGENT, "a")
    times: dict[str, list[float]] = {"l-": [], "s-": []}
    refs = count()
    for i in range(ASKS):
        for prefix, found in times.items():
            ref, name = f"o-{next(refs)}", f"{prefix}{i % LONG:05}"
            began = clock()
            await agent.ask(
                f'{{"type":"open","ref":"{ref}","customer":"{name}"}}'.encode(),
                f'"ref":"{ref}"'.encode(),
            )
            found.append(clock() - began)
    agent.cut()
    pairs.add(times)


async def _welcome(process: Process, pairs: _Pairs) -> None:
    times: dict[str, list[float]] = {"l-": [], "s-": []}
    for i in range(ASKS):
        for prefix, found in times.items():
            said = wire.hello_of(process, Role.CUSTOMER, f"{prefix}{i % LONG:05}")
            began = clock()
            socket, welcome = await wire.welcomed(process, Role.CUSTOMER, said)
            found.append(clock() - began)
            assert b'"unread":%d' % UNREAD in welcome
            socket.cut()
    pairs.add(times)


def _add(
    report: Report, of: str, costs: dict[int, list[float]], loads: dict[int, list[float]]
) -> None:
    sizes = list(costs)
    report.rows += [
        Row("6 growth", f"server CPU per message, {n:,} {of}", "µs", costs[n], load=loads[n])
        for n in sizes
    ]
    rounds = list(zip(*costs.values(), strict=True))
    report.rows.append(
        Row(
            "6 growth",
            f"the dearest over the cheapest, by {of}",
            "",
            [max(one) / min(one) for one in rounds],
            at_most=WITHIN,
        )
    )
    report.plots.append(
        Plot(
            f"growth-{of.replace(' ', '-')}",
            f"What a message costs, by {of}",
            of,
            "server CPU, µs per message",
            {
                name: [(float(i), pick(costs[n])) for i, n in enumerate(sizes)]
                for name, pick in (
                    ("median", statistics.median),
                    ("minimum", min),
                    ("maximum", max),
                )
            },
            {float(i): f"{n:,}" for i, n in enumerate(sizes)},
        )
    )
