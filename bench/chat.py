"""The load: messages through a gateway, or frames through an echo, closed loop or open loop.

One message is the full path: an agent's send, its commit, the delivery to the customer, the
customer's ack, and `sent` and the receipt back to the agent; only then it counts. Every message is
acknowledged by itself, though a client may acknowledge several at once. Every frame that is sent
is 150 bytes long, here and with the references.

Closed loop: so many messages are in flight, and each that comes back sends the next, in whichever
conversation is next in turn. Open loop: messages have times at which they are due, drawn at random,
and a delay counts from there, so that a stall is charged to everything that it held up.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from bench import wire
from bench.servers import Process
from bench.wire import Wire, framed
from gateway.protocol import Role

SIZE = 150  # bytes of payload
AT_ONCE = 64  # sockets opened at the same time
PATIENCE = 60.0  # seconds for what is in flight to come back
HEAD = 48  # a frame's type is within its first bytes
REF = 16  # digits
AGAIN = 0.1  # seconds until a send that was refused is repeated
TEXT = b'"text":"'
UNAVAILABLE = re.compile(rb'"code":"unavailable".*"ref":"(\d+)"')
SEQ = re.compile(rb'"seq":(\d+)')
ACKED = re.compile(rb'"acked_seq":(\d+)')
CUSTOMER = re.compile(rb'"customer":"([^"]+)"')

T = TypeVar("T")
R = TypeVar("R")
clock = time.perf_counter


@dataclass(slots=True)
class Window:
    """What was seen in one stretch of time."""

    rate: float
    cpu_us: float
    """The server's CPU time per message, in microseconds."""
    server: float
    """The part of a core that the server used."""
    load: float
    """The part of a core that the load generator used."""
    delays: list[float] = field(default_factory=list)
    """Seconds from send to delivery, rising; from when it was due, in an open loop."""
    late: list[float] = field(default_factory=list)
    """Seconds by which messages left after they were due, rising; open loop only."""

    def delay_ms(self, part: float) -> float:
        return quantile(self.delays, part) * 1000


def quantile(rising: list[float], part: float) -> float:
    return rising[min(len(rising) - 1, int(len(rising) * part))]


def names(conversations: int) -> list[str]:
    return [f"c-{i:05}" for i in range(conversations)]


async def each(make: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """`make` of every item, `AT_ONCE` at a time; the results in the order of the items."""
    todo = list(items)
    left, made = iter(enumerate(todo)), dict[int, R]()

    async def work() -> None:
        for i, item in left:
            made[i] = await make(item)

    await asyncio.gather(*(work() for _ in range(min(AT_ONCE, len(todo)))))
    return [made[i] for i in range(len(todo))]


Sender = tuple[Callable[[bytes], None], bytes, deque[float]]
"""How a sender writes, its frame, and the times of what is on the way."""


class Load(Protocol):
    """Something that carries messages, so that the loops below can drive it."""

    process: Process
    lanes: int
    """How many senders there are, each with conversations of its own."""
    sent: int
    done: int
    delays: list[float]
    again: Callable[[int], None] | None
    """Called with the lane when a message of it has come back."""

    def send(self, lane: int, due: float) -> None: ...

    def broken(self) -> str | None: ...


def fill(load: Load, in_flight: int) -> None:
    """Keep so many messages in flight in all: each that comes back sends the next."""
    load.again = lambda lane: load.send(lane, clock())
    for i in range(in_flight):
        load.send(i % load.lanes, clock())


async def saturate(load: Load, in_flight: int, warm: float, seconds: float) -> Window:
    """Closed loop with so many messages in flight in all."""
    fill(load, in_flight)
    await asyncio.sleep(warm)
    window = await _watch(load, asyncio.sleep(seconds))
    load.again = None
    await settle(load)
    return window


async def pace(
    load: Load, rate: float, warm: Awaitable[object], during: Awaitable[object]
) -> Window:
    """Open loop: so many messages a second, at random times (Poisson), whatever comes back.

    The window begins when `warm` is over and lasts as long as `during`. The loop spins instead of
    sleeping, because a timer is a millisecond coarse; so the load's share of CPU says nothing here,
    and the window says how late messages left instead.
    """
    rng, loop, late = random.Random(4), asyncio.get_running_loop(), list[float]()
    due, sent, running = clock(), 0, True

    def turn() -> None:
        nonlocal due, sent
        now = clock()
        while due <= now and running:
            late.append(now - due)
            load.send(sent % load.lanes, due)
            sent += 1
            due += rng.expovariate(rate)
        if running:
            loop.call_soon(turn)

    turn()
    try:
        await warm
        late.clear()
        window = await _watch(load, during)
    finally:
        running = False
    window.late = sorted(late)
    await settle(load)
    return window


async def _watch(load: Load, during: Awaitable[object]) -> Window:
    load.delays.clear()
    done, used, own, began = load.done, load.process.cpu(), time.process_time(), clock()
    await during
    took = clock() - began
    done, used, own = load.done - done, load.process.cpu() - used, time.process_time() - own
    _must_hold(load)
    if not done:
        raise RuntimeError(f"nothing came back within {took:.1f} s")
    return Window(done / took, used / done * 1e6, used / took, own / took, sorted(load.delays))


async def settle(load: Load) -> None:
    """Wait until everything sent has come back."""
    until = clock() + PATIENCE
    while load.done < load.sent:
        _must_hold(load)
        if clock() > until:
            raise RuntimeError(f"{load.sent - load.done} of {load.sent} messages never came back")
        await asyncio.sleep(0.01)
    _must_hold(load)


def _must_hold(load: Load) -> None:
    problem = load.broken()
    if problem is not None:
        raise RuntimeError(f"the load broke: {problem}")


@dataclass(slots=True)
class Talk:
    """One conversation: its agent's frame around the ref, which is also the text's beginning."""

    name: str
    prefix: bytes
    middle: bytes
    suffix: bytes
    acked: int = 0


class Chat:
    """Customers and agents on a gateway. `send` sends in the lane's next conversation.

    A send that is refused as `unavailable` is repeated under its ref until it is taken, as the
    protocol has it, and its delay still counts from the first time.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lanes = 0
        self.sent = self.done = self.confirmed = self.refused = 0
        self.delays: list[float] = []
        self.again: Callable[[int], None] | None = None
        self.opened: list[Wire] = []
        self._desks: list[tuple[Wire, deque[Talk]]] = []
        self._talks: dict[bytes, Talk] = {}
        self._on_the_way: dict[bytes, tuple[Talk, float]] = {}
        self._ref = time.time_ns() // 1000  # new in every run: a ref is an idempotency key
        self._before = b"%016d" % self._ref
        self._problem: str | None = None

    @classmethod
    async def open(
        cls, process: Process, names: list[str], agents: int = 4, tenant: str = "acme"
    ) -> Chat:
        """Connect everybody; each agent opens a share of the conversations."""
        chat = cls(process)
        chat.lanes = agents = min(agents, len(names))

        async def customer(name: str) -> None:
            socket = await wire.hello(process, Role.CUSTOMER, name, tenant)
            header, begin = framed(b"x" * SIZE)[:-SIZE], b'{"type":"send","ref":"'
            middle = f'","customer":"{name}","text":"'.encode()
            fill = SIZE - len(begin) - len(middle) - 2 * REF - 2
            talk = Talk(name, header + begin, middle, b"x" * fill + b'"}')
            chat._talks[name.encode()] = talk
            socket.heard = partial(chat._to_customer, socket.transport.write)
            socket.ended = chat._lost
            chat.opened.append(socket)

        async def agent(lane: int) -> tuple[Wire, deque[Talk]]:
            socket = await wire.hello(process, Role.AGENT, f"a-{lane}", tenant)
            mine = [chat._talks[name.encode()] for name in names[lane::agents]]
            for talk in mine:
                ask = f'{{"type":"open","ref":"o","customer":"{talk.name}"}}'.encode()
                told = ACKED.search(await socket.ask(ask, b'"type":"conversation"'))
                assert told is not None
                talk.acked = int(told[1])
            socket.heard = partial(chat._to_agent, lane)
            socket.ended = chat._lost
            chat.opened.append(socket)
            return socket, deque(mine)

        await each(customer, names)
        chat._desks = await each(agent, range(agents))
        return chat

    def send(self, lane: int, due: float) -> None:
        socket, talks = self._desks[lane]
        talk = talks[0]
        talks.rotate(-1)
        self.sent += 1
        self._ref += 1
        ref = b"%016d" % self._ref
        self._on_the_way[ref] = talk, due
        socket.transport.write(b"".join((talk.prefix, ref, talk.middle, ref, talk.suffix)))

    def broken(self) -> str | None:
        if self._problem is None and self.done == self.sent and self.confirmed < self.sent:
            return f"{self.sent - self.confirmed} of {self.sent} sends were not confirmed"
        return self._problem

    def close(self) -> None:
        for socket in self.opened:
            socket.cut()

    def _to_customer(self, write: Callable[[bytes], None], frame: bytes) -> None:
        if frame.find(b'"type":"message"', 0, HEAD) >= 0:
            at = frame.index(TEXT) + len(TEXT)
            ref = frame[at : at + REF]
            if ref <= self._before:  # replayed, unread, from an earlier round over this database
                return
            _, due = self._on_the_way.pop(ref)
            self.delays.append(clock() - due)
            found = SEQ.search(frame)
            assert found is not None
            write(framed(b'{"type":"ack","seq":%s}' % found[1]))

    def _to_agent(self, lane: int, frame: bytes) -> None:
        if frame.find(b'"type":"receipt"', 0, HEAD) >= 0:
            name, seq = CUSTOMER.search(frame), SEQ.search(frame)
            assert name is not None
            assert seq is not None
            talk = self._talks[name[1]]
            came = int(seq[1]) - talk.acked
            talk.acked += came
            self.done += came
            if self.again is not None:
                for _ in range(came):
                    self.again(lane)
        elif frame.find(b'"type":"sent"', 0, HEAD) >= 0:
            self.confirmed += 1
        elif frame.find(b'"type":"error"', 0, HEAD) >= 0:
            refused = UNAVAILABLE.search(frame)
            if refused is None:
                self._problem = frame.decode()
            else:
                self.refused += 1
                asyncio.get_running_loop().call_later(AGAIN, self._repeat, lane, refused[1])

    def _repeat(self, lane: int, ref: bytes) -> None:
        talk, _ = self._on_the_way[ref]
        frame = b"".join((talk.prefix, ref, talk.middle, ref, talk.suffix))
        self._desks[lane][0].transport.write(frame)

    def _lost(self) -> None:
        self._problem = "a socket was closed"


async def desks(process: Process, many: int, tenant: str = "acme") -> list[Wire]:
    """So many agents who follow the tenant's inbox, and read all that they are told."""
    agents = [await wire.hello(process, Role.AGENT, f"desk-{i}", tenant) for i in range(many)]
    for agent in agents:
        await agent.ask(b'{"type":"inbox","ref":"i"}', b'"type":"inbox"')
    return agents


class Relay:
    """Messages from senders to receivers. A lane is a sender and its receiver."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lanes = 0
        self.sent = self.done = 0
        self.delays: list[float] = []
        self.again: Callable[[int], None] | None = None
        self._senders: list[Sender] = []

    def between(self, senders: list[Sender]) -> Relay:
        """Itself, once everybody is connected."""
        self._senders, self.lanes = senders, len(senders)
        return self

    def send(self, lane: int, due: float) -> None:
        write, frame, on_the_way = self._senders[lane]
        on_the_way.append(due)
        self.sent += 1
        write(frame)

    def came(self, lane: int, on_the_way: deque[float]) -> None:
        self.delays.append(clock() - on_the_way.popleft())
        self.done += 1
        if self.again is not None:
            self.again(lane)

    def broken(self) -> str | None:
        return None


class Echo(Relay):
    """The same frames through a bare echo: a connection is its own receiver."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.opened: list[Wire] = []
        self._problem: str | None = None

    @classmethod
    async def open(cls, process: Process, connections: int) -> Echo:
        load = cls(process)
        load.opened = await each(lambda _: wire.connect(process.ports["chat"]), range(connections))
        frame, senders = framed(b"x" * SIZE), list[Sender]()
        for lane, socket in enumerate(load.opened):
            on_the_way = deque[float]()
            socket.heard = partial(load._back, lane, on_the_way)
            socket.ended = load._lost
            senders.append((socket.transport.write, frame, on_the_way))
        load.between(senders)
        return load

    def broken(self) -> str | None:
        return self._problem

    def close(self) -> None:
        for socket in self.opened:
            socket.cut()

    def _back(self, lane: int, on_the_way: deque[float], frame: bytes) -> None:
        self.came(lane, on_the_way)

    def _lost(self) -> None:
        self._problem = "a socket was closed"
