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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import ClientSession, TCPConnector

from bench import bulk, chat, servers, wire
from bench.chat import Chat, clock
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
    ours, bare, loads = list[float](), list[float](), list[float]()
    for _ in range(size.rounds):
        async with backend() as it:
            with servers.scratch() as directory:
                bulk.write(directory, bulk.Group("p-", size.pushes, 1, pending=True))
                with servers.gateway(directory, endpoint=it.url) as process:
                    await it.reached(1)
                    own = time.process_time()
                    await it.reached(size.pushes)
                    took = it.last - it.first
                    ours.append(size.pushes / took)
                    loads.append((time.process_time() - own) / took)
                    await _settled(process, size.pushes)
            bare.append(await _bare(it, size))
    report.rows.append(
        Row(
            "5 pushes",
            f"{size.pushes:,} due at once, signed",
            "/s",
            ours,
            bare,
            "POSTs/s, bare aiohttp client",
            at_least=0.4,
            load=loads,
        )
    )


async def _settled(process: Process, pushed: int) -> None:
    """Wait until the database says of every message that it was pushed; each once."""
    until = clock() + chat.PATIENCE
    while (found := process.counter("pushed")) != pushed:
        if clock() > until:
            raise RuntimeError(f"{pushed} were called for, {found} are recorded as pushed")
        await asyncio.sleep(0.05)


async def _bare(it: Backend, size: Size) -> float:
    head, body = it.request
    lines = head.decode().split("\r\n")[1:]
    given = dict(line.split(": ", 1) for line in lines)
    headers = {k: v for k, v in given.items() if k.lower() not in ("host", "content-length")}
    code = "from bench.push import run_bare_client; run_bare_client()"
    with servers.python(code, it.url, json.dumps(headers), body.decode()):
        await asyncio.sleep(size.warm)
        before, began = it.calls, clock()
        await asyncio.sleep(size.seconds)
        return (it.calls - before) / (clock() - began)


async def backlog(report: Report, chat_rate: float, size: Size) -> None:
    """So many customers are due at once while others chat, open loop."""
    rates, bare, delays, refused = list[float](), list[float](), list[float](), 0
    for _ in range(size.rounds):
        async with backend() as it:
            with servers.scratch() as directory:
                bulk.write(directory, bulk.Group("p-", size.backlog, 1, pending=True))
                with servers.gateway(directory, endpoint=it.url, restart_grace=4.0) as process:
                    load = await Chat.open(process, chat.names(CONVERSATIONS), size.agents)
                    window = await chat.pace(
                        load, chat_rate, it.reached(1), it.reached(size.backlog)
                    )
                    await _settled(process, size.backlog)
                    load.close()
                    rates.append(size.backlog / (it.last - it.first))
                    delays.append(window.delay_ms(0.99))
                    refused += load.refused
            bare.append(await _bare(it, size))
    report.rows += [
        Row(
            "5 backlog",
            f"{size.backlog:,} due at once, chat at {chat_rate:,.0f}/s",
            "/s",
            rates,
            bare,
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
