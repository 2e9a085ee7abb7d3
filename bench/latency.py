"""Bar 2: from send to delivery at half the measured throughput, open loop.

Delays count from the time at which a message was due, so a stall is charged to all that it held up.
The echo beside it, there and back at half of its own throughput, says what the machine adds. And
the same while desks follow the inbox: in a contact centre all agents are told of each message.
"""

from __future__ import annotations

import asyncio

from bench import chat, servers
from bench.chat import Chat, Echo, Window
from bench.plot import NINES, Plot, percentiles
from bench.report import Report, Row
from bench.size import Size

BARS = {"p50": (0.5, 1.5), "p99": (0.99, 15.0)}  # milliseconds at most
DESKS = 50


async def measure(
    report: Report, conversations: int, rates: tuple[float, float], size: Size
) -> None:
    """`rates` are the messages a second: of the gateway, and of the echo beside it."""
    flows, echoes, crowded = list[Window](), list[Window](), list[Window]()
    for _ in range(size.rounds):
        with servers.bare_echo() as process:
            echoes.append(await _paced(await Echo.open(process, conversations), rates[1], size))
        with servers.gateway() as process:
            load = await Chat.open(process, chat.names(conversations), size.agents)
            flows.append(await _paced(load, rates[0], size))
        with servers.gateway() as process:
            load = await Chat.open(process, chat.names(conversations), size.agents)
            agents = await chat.desks(process, DESKS)
            crowded.append(await _paced(load, rates[0], size))
            for agent in agents:
                agent.cut()
    late = max(chat.quantile(w.late, 0.99) for w in flows) * 1000
    for name, (part, bar) in BARS.items():
        report.rows.append(
            Row(
                "2 latency",
                f"{conversations:,} conversations, {name} at {rates[0]:,.0f}/s",
                "ms",
                [w.delay_ms(part) for w in flows],
                [w.delay_ms(part) for w in echoes],
                f"ms, echo at {rates[1]:,.0f}/s",
                at_most=bar,
                of_value=True,
                note=f"messages left late by p99 {late:.2f} ms",
            )
        )
        report.rows.append(
            Row(
                "2 latency",
                f"{conversations:,} conversations, {name}, {DESKS} desks follow the inbox",
                "ms",
                [w.delay_ms(part) for w in crowded],
                [w.delay_ms(part) for w in flows],
                "ms, without them",
            )
        )
    report.plots.append(
        Plot(
            f"latency-{conversations}",
            f"{conversations:,} conversations at half of the throughput",
            "percentile",
            "ms",
            {
                f"send to delivery, {rates[0]:,.0f}/s": _line(flows),
                f"the same, {DESKS} desks follow the inbox": _line(crowded),
                f"bare echo, there and back, {rates[1]:,.0f}/s": _line(echoes),
            },
            NINES,
            log=True,
        )
    )


async def _paced(load: Chat | Echo, rate: float, size: Size) -> Window:
    window = await chat.pace(load, rate, asyncio.sleep(size.warm), asyncio.sleep(size.seconds))
    load.close()
    return window


def _line(windows: list[Window]) -> list[tuple[float, float]]:
    together = sorted(delay for window in windows for delay in window.delays)
    return [(x, y * 1000) for x, y in percentiles(together)]
