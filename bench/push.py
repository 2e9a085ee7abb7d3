"""Bar 5: pushes a second to a local backend, and a backlog that is due at once, beside live chat.

The backend is as lean as the load's client and runs in the load's process, so that it is not what
is measured. The reference is a bare aiohttp client that POSTs the same body with the same headers
to the same backend, as many at a time. A push of the gateway is two durable commits (the claim and
the verdict), the signature and the call.

Also: the time from a socket's death to its push, beyond what was configured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, cast

from aiohttp import ClientSession, TCPConnector

from bench import bulk, chat, servers, wire
from bench.chat import Chat, clock
from bench.pushfloor import Part
from bench.report import Report, Row
from bench.servers import Process
from bench.size import Size
from gateway.protocol import Role

IN_FLIGHT = 256  # calls at a time, as the gateway's configuration has it
CONVERSATIONS = 100  # of the chat beside the backlog
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Backend:
    """A customer backend that answers 200 at once, or never."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs = hangs
        self.calls = 0
        self.first = self.last = 0.0
        self.request = (b"", b"")
        """Head and body of the newest call."""
        self.url = ""
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    def called(self, head: bytes, body: bytes) -> None:
        self.last = clock()
        self.first = self.first or self.last
        self.calls += 1
        self.request = (head, body)
        for entry in [one for one in self._awaited if one[0] <= self.calls]:
            self._awaited.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    async def reached(self, calls: int, patience: float = 600.0) -> None:
        """Wait until there were so many calls."""
        if self.calls < calls:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((calls, future))
            await asyncio.wait_for(future, patience)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with a Content-Length, as aiohttp's client sends it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(data, 0, end)
            start = end + 4
            stop = start + (int(length[1]) if length is not None else 0)
            if len(data) < stop:
                break
            self._backend.called(data[:end], data[start:stop])
            if not self._backend.hangs:
                self._transport.write(OK)
            data = data[stop:]
        self._rest = data


@asynccontextmanager
async def backend(*, hangs: bool = False) -> AsyncIterator[Backend]:
    it = Backend(hangs=hangs)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(it), "127.0.0.1", 0, backlog=1024)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ring"
    try:
        yield it
    finally:
        server.close()


async def bare_client(url: str, headers: dict[str, str], body: bytes) -> None:
    """The reference, in a process of its own: POST until it is ended."""
    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def post() -> None:
            while True:
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()

        print("{}", flush=True)
        await asyncio.gather(*(post() for _ in range(IN_FLIGHT)))


def run_bare_client() -> None:
    import uvloop

    url, headers, body = sys.argv[1:]
    uvloop.run(bare_client(url, json.loads(headers), body.encode()))


async def rate(report: Report, size: Size) -> None:
    """Pushes a second: so many customers are due at once; first call to last."""
    ours, floors, posts = list[Rate](), list[Rate](), list[Rate]()
    for _ in range(size.rounds):
        async with backend() as it:
            ours.append(await _ours(it, size))
            posts.append(await _bare(it, size))
        async with backend() as another:
            floors.append(await _floor(another, Part.OUTCOMES, it.request, size))
    report.rows += [
        Row(
            "5 pushes",
            f"{size.pushes:,} due at once, signed",
            "/s",
            [one.rate for one in ours],
            [one.rate for one in posts],
            "POSTs/s, bare aiohttp client",
            at_least=0.4,
            load=[one.load for one in ours],
        ),
        Row(
            "",
            "against the floor (bench/pushfloor.py)",
            "/s",
            [one.rate for one in ours],
            [one.rate for one in floors],
            "/s, what is promised, as lean as can be",
            load=[one.load for one in floors],
            note="load CPU of the floor",
        ),
    ]


async def parts(report: Report, size: Size) -> None:
    """Add rows: what each part of a push costs at the least, beside the bare call and ours."""
    ours, posts = list[Rate](), list[Rate]()
    floors: dict[Part, list[Rate]] = {part: [] for part in Part}
    for _ in range(size.rounds):
        async with backend() as it:
            ours.append(await _ours(it, size))
            posts.append(await _bare(it, size))
        for part, rates in floors.items():
            async with backend() as another:
                rates.append(await _floor(another, part, it.request, size))
    costs = {part.name.lower(): rates for part, rates in floors.items()}
    report.rows += [
        Row(
            "" if number else "5 floor",
            f"CPU per push: {name}",
            "µs",
            [one.cpu_us for one in rates],
            [one.cpu_us for one in posts],
            "µs per POST, bare aiohttp client",
            load=[one.load for one in rates],
        )
        for number, (name, rates) in enumerate({**costs, "ringback": ours}.items())
    ]


class Rate(NamedTuple):
    """Calls a second, CPU of the caller's process for each, and the share that the load used."""

    rate: float
    cpu_us: float
    load: float


async def _drained(it: Backend, process: Process, pushes: int) -> Rate:
    """How fast so many calls came, from the first to the last."""
    await it.reached(1)
    own, cpu = time.process_time(), process.cpu()
    await it.reached(pushes)
    took = it.last - it.first
    own, cpu = time.process_time() - own, process.cpu() - cpu
    return Rate(pushes / took, cpu / pushes * 1e6, own / took)


async def _ours(it: Backend, size: Size) -> Rate:
    with servers.scratch() as directory:
        bulk.write(directory, bulk.Group("p-", size.pushes, 1, pending=True))
        with servers.gateway(directory, endpoint=it.url) as process:
            found = await _drained(it, process, size.pushes)
            await settled(process, size.pushes)
            return found


async def _floor(it: Backend, part: Part, request: tuple[bytes, bytes], size: Size) -> Rate:
    with floor(it, part, request, size.pushes) as process:
        return await _drained(it, process, size.pushes)


@contextmanager
def floor(
    it: Backend,
    part: Part,
    request: tuple[bytes, bytes],
    pushes: int,
    under: Sequence[str] = (),
) -> Iterator[Process]:
    """The floor (`bench.pushfloor`) in its own process, calling `it` with such requests."""
    headers, body = _as_sent(request)
    given = (part.name, it.url, str(pushes), json.dumps(headers), body)
    code = "import uvloop; from bench.pushfloor import main; uvloop.run(main())"
    with (
        servers.scratch() as directory,
        servers.python(code, str(directory / "floor.db"), *given, under=under) as process,
    ):
        yield process


async def settled(process: Process, pushed: int) -> None:
    """Wait until the database says of every message that it was pushed; each once."""
    until = clock() + chat.PATIENCE
    while (found := process.counter("pushed")) != pushed:
        if clock() > until:
            raise RuntimeError(f"{pushed} were called for, {found} are recorded as pushed")
        await asyncio.sleep(0.05)


async def _bare(it: Backend, size: Size) -> Rate:
    with bare(it, it.request) as process:
        await asyncio.sleep(size.warm)
        before, began, cpu, own = it.calls, clock(), process.cpu(), time.process_time()
        await asyncio.sleep(size.seconds)
        calls, took = it.calls - before, clock() - began
        cpu, own = process.cpu() - cpu, time.process_time() - own
        return Rate(calls / took, cpu / calls * 1e6, own / took)


@contextmanager
def bare(it: Backend, request: tuple[bytes, bytes], under: Sequence[str] = ()) -> Iterator[Process]:
    """The bare client in its own process, calling `it` with such requests."""
    headers, body = _as_sent(request)
    code = "from bench.push import run_bare_client; run_bare_client()"
    with servers.python(code, it.url, json.dumps(headers), body, under=under) as process:
        yield process


def _as_sent(request: tuple[bytes, bytes]) -> tuple[dict[str, str], str]:
    """The headers and the body of a call, for who makes the same."""
    head, body = request
    given = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    own = ("host", "content-length")
    return {k: v for k, v in given.items() if k.lower() not in own}, body.decode()


async def backlog(report: Report, chat_rate: float, size: Size) -> None:
    """So many customers are due at once while others chat, open loop."""
    rates, posts, delays, refused = list[float](), list[float](), list[float](), 0
    for _ in range(size.rounds):
        async with backend() as it:
            with servers.scratch() as directory:
                bulk.write(directory, bulk.Group("p-", size.backlog, 1, pending=True))
                with servers.gateway(directory, endpoint=it.url, restart_grace=4.0) as process:
                    load = await Chat.open(process, chat.names(CONVERSATIONS), size.agents)
                    window = await chat.pace(
                        load, chat_rate, it.reached(1), it.reached(size.backlog)
                    )
                    await settled(process, size.backlog)
                    load.close()
                    rates.append(size.backlog / (it.last - it.first))
                    delays.append(window.delay_ms(0.99))
                    refused += load.refused
            posts.append((await _bare(it, size)).rate)
    report.rows += [
        Row(
            "5 backlog",
            f"{size.backlog:,} due at once, chat at {chat_rate:,.0f}/s",
            "/s",
            rates,
            posts,
            "POSTs/s, bare aiohttp client",
            at_least=0.4,
        ),
        Row(
            "5 backlog",
            "chat p99 meanwhile",
            "ms",
            delays,
            at_most=30,
            note=f"{refused:,} sends refused as unavailable, and repeated" if refused else "",
        ),
    ]


async def deaths(report: Report, size: Size, ack_timeout: float = 0.5) -> None:
    """Milliseconds from a socket's death to the push, beyond what was configured.

    Silent: nothing is read any more; counted from the send, beyond `ack_timeout`. Cut: counted from
    the cut, beyond the grace. One customer at a time.
    """
    silent, cut = list[float](), list[float]()
    async with backend() as it:
        with servers.gateway(endpoint=it.url, ack_timeout=ack_timeout) as process:
            agent = await wire.hello(process, Role.AGENT, "a")
            async with ClientSession() as http:
                for i in range(2 * size.deaths):
                    name = f"d-{i}"
                    socket = await wire.hello(process, Role.CUSTOMER, name)
                    async with http.put(
                        f"http://127.0.0.1:{process.ports['http']}/v1/devices/phone-{i}",
                        json={"token": f"t-{i}"},
                        headers={
                            "Authorization": f"Bearer {wire.token(process, Role.CUSTOMER, name)}"
                        },
                    ) as answer:
                        assert answer.status == 200
                    socket.transport.pause_reading()
                    before = it.calls
                    sent = clock()
                    await agent.ask(
                        f'{{"type":"send","ref":"{i}","customer":"{name}","text":"hello"}}'.encode(),
                        b'"type":"sent"',
                    )
                    died = clock()
                    if i % 2:
                        socket.cut()
                    await it.reached(before + 1)
                    if i % 2:
                        cut.append((it.last - died - servers.GRACE) * 1000)
                    else:
                        silent.append((it.last - sent - ack_timeout) * 1000)
                        socket.cut()
    report.rows += [
        Row("time to push", f"silent socket, beyond ack_timeout ({size.deaths})", "ms", silent),
        Row("time to push", f"cut socket, beyond disconnect_grace ({size.deaths})", "ms", cut),
    ]
