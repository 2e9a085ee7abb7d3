"""The clients of the measurements: little work per frame, so that the server is what is seen."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from bench.servers import Process
from gateway import auth
from gateway.protocol import Role

TEXT = "x" * 100  # with the rest of the frame about 150 bytes


def token(process: Process, role: Role, sub: str) -> str:
    assert process.config is not None
    return auth.issue(process.config, "acme", role, sub, ttl=3600.0)


async def open_socket(process: Process, path: str = "/") -> ClientConnection:
    return await connect(
        f"ws://127.0.0.1:{process.ports['chat']}{path}",
        compression=None,
        ping_interval=None,
        max_queue=None,
        open_timeout=60,
    )


async def hello(process: Process, role: Role, sub: str, **more: Any) -> ClientConnection:
    """A session that has been welcomed."""
    path = "/v1/chat" if role is Role.CUSTOMER else "/v1/agent"
    socket = await open_socket(process, path)
    told = {"type": "hello", "token": token(process, role, sub), **more}
    await socket.send(json.dumps(told))
    assert json.loads(await socket.recv())["type"] == "welcome"
    return socket


async def echo_rate(process: Process, connections: int, seconds: float) -> float:
    """Echoes per second over so many connections, one in flight on each."""
    sockets = [await open_socket(process) for _ in range(connections)]
    frame = json.dumps({"type": "send", "text": TEXT})
    count = 0
    until = time.perf_counter() + seconds

    async def run(socket: ClientConnection) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await socket.send(frame)
            await socket.recv()
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*map(run, sockets))
    rate = count / (time.perf_counter() - began)
    await asyncio.gather(*(socket.close() for socket in sockets))
    return rate


@dataclass(slots=True)
class Flow:
    """The full path: send, commit, delivery, ack; `sent` and receipt to the agent."""

    rate: float = 0.0
    cpu_us: float = 0.0
    delivery_ms: list[float] = field(default_factory=list)


async def chat_rate(process: Process, conversations: int, seconds: float) -> Flow:
    """Messages per second, one in flight in each conversation, four agents' sockets in all."""
    names = [f"c-{i}" for i in range(conversations)]
    customers = [await hello(process, Role.CUSTOMER, name) for name in names]
    agents = [await hello(process, Role.AGENT, f"a-{i}") for i in range(4)]
    flow = Flow()
    sent_at: dict[str, float] = {}
    until = 0.0
    count = 0
    done = asyncio.Event()
    idle = 0

    def frame(name: str) -> str:
        nonlocal count
        count += 1
        sent_at[name] = time.perf_counter()
        told = {"type": "send", "ref": str(count), "customer": name, "text": TEXT}
        return json.dumps(told)

    async def customer(name: str, socket: ClientConnection) -> None:
        async for raw in socket:
            if '"message"' in str(raw[:40]):
                flow.delivery_ms.append((time.perf_counter() - sent_at[name]) * 1000)
                await socket.send(f'{{"type":"ack","seq":{json.loads(raw)["seq"]}}}')

    async def agent(socket: ClientConnection, mine: list[str]) -> None:
        nonlocal idle
        for name in mine:
            await socket.send(json.dumps({"type": "open", "ref": "o", "customer": name}))
            await socket.recv()
        for name in mine:
            await socket.send(frame(name))
        async for raw in socket:
            if '"receipt"' not in str(raw[:40]):
                continue
            if time.perf_counter() < until:
                await socket.send(frame(json.loads(raw)["customer"]))
            else:
                idle += 1
                if idle == conversations:
                    done.set()

    tasks = [asyncio.create_task(customer(n, s)) for n, s in zip(names, customers, strict=True)]
    began, cpu = time.perf_counter(), process.cpu()
    until = began + seconds
    tasks += [asyncio.create_task(agent(s, names[i::4])) for i, s in enumerate(agents)]
    await asyncio.wait_for(done.wait(), seconds + 60)
    took = time.perf_counter() - began
    flow.rate = count / took
    flow.cpu_us = (process.cpu() - cpu) / count * 1e6
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(s.close() for s in (*customers, *agents)))
    return flow


async def idle_bytes(process: Process, connections: int) -> float:
    """Resident bytes per idle, authenticated customer."""
    warm = [await hello(process, Role.CUSTOMER, f"warm-{i}") for i in range(200)]
    before = process.memory()
    sockets = []
    for start in range(0, connections, 50):
        sockets += await asyncio.gather(
            *(hello(process, Role.CUSTOMER, f"i-{start + i}") for i in range(50))
        )
    grown = process.memory() - before
    for socket in (*warm, *sockets):
        socket.transport.abort()
    return grown / connections
