"""Bar 1: durable messages per second, as a ratio to a bare echo, and to others where installed.

Closed loop. Every round starts fresh servers, one after the other, on the same core.
"""

from __future__ import annotations

import statistics

from bench import chat, servers
from bench.chat import Chat, Echo, Load, Window
from bench.floor import Part
from bench.peers import PEERS, Missing, Peer
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size

BARS = {100: 0.35, 1000: 0.60}


async def _saturated(load: Load, lanes: int, size: Size) -> Window:
    return await chat.saturate(load, lanes * size.in_flight, size.warm, size.seconds)


async def echo(connections: int, size: Size) -> Window:
    with servers.bare_echo() as process:
        load = await Echo.open(process, connections)
        window = await _saturated(load, connections, size)
        load.close()
        return window


async def floor(conversations: int, size: Size, part: Part) -> Window:
    with servers.floor(part.name) as process:
        load = await Chat.open(process, chat.names(conversations), size.agents)
        window = await _saturated(load, conversations, size)
        load.close()
        return window


async def full_path(conversations: int, size: Size) -> Window:
    with servers.gateway() as process:
        load = await Chat.open(process, chat.names(conversations), size.agents)
        window = await _saturated(load, conversations, size)
        _recount(process, load)
        load.close()
        return window


async def relayed(peer: Peer, conversations: int, size: Size) -> Window:
    """The same load through another's server. Raises `Missing`."""
    with peer.serve() as process:
        load = await peer.load(process, conversations)
        return await _saturated(load, conversations, size)


def _recount(process: Process, load: Chat) -> None:
    """What was counted here is what the database holds: every message, each acked."""
    found = process.counter("accepted"), process.counter("acked")
    if found != (load.sent, load.sent):
        raise RuntimeError(f"{load.sent} messages were confirmed; stored and acked: {found}")


async def measure(report: Report, conversations: int, size: Size) -> tuple[float, float]:
    """Add the rows; the median rates, of the gateway and of the echo."""
    echoes, floors, flows = list[Window](), list[Window](), list[Window]()
    others: dict[str, list[Window]] = {name: [] for name in size.peers}
    for _ in range(size.rounds):
        echoes.append(await echo(conversations, size))
        floors.append(await floor(conversations, size, Part.CHECKED))
        flows.append(await full_path(conversations, size))
        for name in list(others):
            try:
                others[name].append(await relayed(PEERS[name], conversations, size))
            except Missing as missing:
                del others[name]
                report.remark(f"not measured: {missing}")
    report.rows += [
        Row(
            "1 throughput",
            f"{conversations:,} conversations, durable",
            "/s",
            [w.rate for w in flows],
            [w.rate for w in echoes],
            "echoes/s",
            at_least=BARS.get(conversations),
            load=[w.load for w in flows],
            note=_servers_share(flows),
        ),
        Row(
            "",
            "server CPU per message",
            "µs",
            [w.cpu_us for w in flows],
            [w.cpu_us for w in echoes],
            "µs per echo",
            load=[w.load for w in echoes],
            note=f"load CPU of the echo; {_servers_share(echoes)}",
        ),
        Row(
            "",
            "against the floor (bench/floor.py)",
            "/s",
            [w.rate for w in flows],
            [w.rate for w in floors],
            "/s, what is promised, as lean as can be",
            load=[w.load for w in floors],
            note=f"load CPU of the floor; {_servers_share(floors)}",
        ),
    ]
    report.rows += [
        Row(
            "",
            f"against {PEERS[name].name}",
            "/s",
            [w.rate for w in flows],
            [w.rate for w in windows],
            "/s",
            at_least=PEERS[name].at_least,
            load=[w.load for w in windows],
            note=f"load CPU of the other; {_servers_share(windows)}",
        )
        for name, windows in others.items()
    ]
    return statistics.median(w.rate for w in flows), statistics.median(w.rate for w in echoes)


async def parts(report: Report, conversations: int, size: Size) -> None:
    """Add rows: what each part of the promise costs at the least, beside the echo and ours."""
    echoes, flows = list[Window](), list[Window]()
    floors: dict[Part, list[Window]] = {part: [] for part in Part}
    for _ in range(size.rounds):
        echoes.append(await echo(conversations, size))
        for part, windows in floors.items():
            windows.append(await floor(conversations, size, part))
        flows.append(await full_path(conversations, size))
    costs = {part.name.lower(): windows for part, windows in floors.items()}
    for number, (name, windows) in enumerate({**costs, "ringback": flows}.items()):
        report.rows.append(
            Row(
                "" if number else "1 floor",
                f"{conversations:,} conversations, CPU per message: {name}",
                "µs",
                [w.cpu_us for w in windows],
                [w.cpu_us for w in echoes],
                "µs per echo",
                load=[w.load for w in windows],
            )
        )


def _servers_share(windows: list[Window]) -> str:
    return f"server CPU {statistics.median(w.server for w in windows):.0%}"
