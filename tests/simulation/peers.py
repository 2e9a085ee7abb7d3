"""The peers: customers' apps and agents, as they see the world, on lines without sockets.

A `Line` is the `gateway.talk.Socket` of one connection. A peer believes nothing but the frames
that it gets, checks each against the protocol's promises (I4, I5, I8), and remembers what it said:
that is the evidence for an outcome of `acked`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson

from gateway.protocol import CloseCode
from gateway.talk import Closed, Take
from storage.records import Wishes
from tests.simulation.virtual import Process

Frame = dict[str, Any]
ABNORMAL = 1006  # what the library reports for a connection that broke off


class Line:
    """One connection between a peer and one life of the process."""

    def __init__(
        self,
        process: Process,
        hear: Callable[[Frame], None],
        ended: Callable[[int | None], None],
        bound: int,
    ) -> None:
        self.process = process
        self.over = False
        self.silent = False
        """Half-open: what either side writes is swallowed."""
        self._hear = hear
        self._ended = ended
        self._bound = bound
        self._swallowed = 0
        self._code: int | None = None
        self._inbox: deque[str] = deque()
        self._waiting: asyncio.Future[None] | None = None

    # The peer's end

    def say(self, type: str, **fields: Any) -> None:
        """Write a frame; whether it arrives is another matter."""
        if not self.over and not self.silent:
            told = {name: value for name, value in fields.items() if value is not None}
            self._inbox.append(orjson.dumps({"type": type, **told}).decode())
            self._wake()

    def end(self, code: int, *, lost: bool = False) -> None:
        """The connection is over; `lost`: what was written and not read is gone with it."""
        if self.over:
            return
        self.over = True
        self._code = self._code or code
        if lost:
            self._inbox.clear()
        self._wake()
        self._ended(self._code)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # The server's end

    @property
    def bearer(self) -> str | None:
        return None

    @property
    def origin(self) -> str | None:
        return None

    @property
    def code(self) -> int | None:
        return self._code

    async def recv(self) -> str:
        await self.process.turn()
        while not self._inbox:
            if self.over:
                raise Closed
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._inbox.popleft()

    async def converse(self, take: Take) -> NoReturn:
        while True:
            later = take(await self.recv())
            if later is not None:
                await later()

    def send(self, data: bytes) -> None:
        if not self.process.edge() or self.over:
            return
        if not self.silent:
            self._hear(orjson.loads(data))
            return
        self._swallowed += len(data)
        if self._swallowed > self._bound:
            self.close(CloseCode.SLOW_READER)

    async def stream(self, data: bytes) -> None:
        await self.process.turn()
        if self.over:
            raise Closed
        self.send(data)

    async def has_read(self) -> None:
        if self.over:
            raise Closed

    def answered(self) -> None:
        pass  # nobody pings here

    def close(self, code: CloseCode) -> None:
        if self._code is None:
            self._code = code.value
            loop = asyncio.get_running_loop()
            loop.call_later(2.0 if self.silent else 0.0, self.end, code.value)

    async def hang_up(self, code: CloseCode, detail: str = "") -> None:
        await self.process.turn()
        if self._code is None:
            self._code = code.value
        if self.silent:
            await asyncio.sleep(2.0)
        if self.process.alive:
            self.end(code.value)


@dataclass(eq=False, slots=True)
class Visit:
    """One connection of a customer's app: what it said and saw on this line."""

    customer: Customer
    line: Line
    active: bool
    acks: bool
    """Whether it acknowledges at once; else only when a step says so."""
    resume: int | None
    began: float
    expect: int | None = None
    """The seq that has to come next; None before the welcome."""
    noted: int = 0
    seen: int = 0
    marks: tuple[int, int] = (0, 0)
    """How far the agents had received and read, as last told."""
    left_at: float | None = None
    code: int | None = None

    @property
    def in_chat(self) -> bool:
        """Whether the server must hold this customer to be in chat: welcomed, active, not over."""
        return self.expect is not None and self.active and not self.line.over

    def ack(self, seq: int) -> None:
        """Acknowledge; what an active session says is evidence, in the background it is noted."""
        if self.line.over or self.line.silent:
            return
        self.line.say("ack", seq=seq)
        if self.active:
            self.customer.evidence = max(self.customer.evidence, seq)
        else:
            self.noted = max(self.noted, seq)

    def read(self, seq: int) -> None:
        """Tell that everything up to `seq` was seen: evidence in any state."""
        if not self.line.over and not self.line.silent:
            self.line.say("read", seq=seq)
            self.customer.evidence = max(self.customer.evidence, seq)

    def turn(self, active: bool, now: float) -> None:
        """Come to the front, or go to the background."""
        if self.line.over or self.line.silent or self.active is active:
            return
        self.line.say("state", state="active" if active else "background")
        self.active = active
        if active:
            self.began = now
            self.customer.evidence = max(self.customer.evidence, self.noted)
        else:
            self.customer.left(now, 0.0)

    def bye(self, now: float) -> None:
        """Say that it goes, and go."""
        self.line.say("bye")
        if self.active and self.expect is not None:
            self.active = False
            self.customer.left(now, 0.0)

    def hear(self, frame: Frame) -> None:
        """Take one frame, and hold it against what was promised."""
        say = self.customer.complain
        match frame["type"]:
            case "welcome":
                self._welcomed(frame)
            case "message":
                self._advance(frame["seq"], "message")
                if not frame["text"].startswith(self.customer.marker):
                    say(f"a message of another customer: seq {frame['seq']} (I8)")
                if self.acks:
                    self.ack(frame["seq"])
            case "sent":
                if not frame.get("duplicate"):
                    self._advance(frame["seq"], "sent")
                self.customer.sent(frame)
            case "status":
                self.customer.recount(frame)
                self._marked(frame)
            case "error" if frame["code"] not in ("unavailable", "rate_limited"):
                say(f"error {frame['code']}: {frame['message']}")
            case _:
                pass

    def _marked(self, frame: Frame) -> None:
        """The agents' marks are such as agents said, and never go back."""
        acked, read = frame["agents_acked_seq"], frame["agents_read_seq"]
        if not self.customer.agents.said(acked, read):
            self.customer.complain(f"the marks {acked} and {read} are no agent's")
        if acked < self.marks[0] or read < self.marks[1]:
            self.customer.complain(f"the marks {self.marks} went back to {acked} and {read}")
        self.marks = (acked, read)

    def _welcomed(self, frame: Frame) -> None:
        self.customer.recount(frame)
        self._marked(frame)
        self.customer.epoch = frame["epoch"]
        if frame["resumed"]:
            assert self.resume is not None
            self.expect = self.resume + 1
        elif self.resume is not None:  # it reloads with `history`
            self.expect = frame["seq"] + 1
        else:
            self.expect = max(frame["read_seq"], frame["seq"] - 500) + 1
        self.seen = self.expect - 1
        self.customer.seen = max(self.customer.seen, self.seen)

    def _advance(self, seq: int, what: str) -> None:
        if self.expect is None or seq != self.expect:
            self.customer.complain(f"{what} {seq} where {self.expect} had to come (I4)")
        self.expect = seq + 1
        self.seen = seq
        self.customer.seen = max(self.customer.seen, seq)


@dataclass(slots=True)
class Wished:
    """What was asked for on a customer's behalf; `certain` is what surely stands now."""

    ever: list[Wishes] = field(default_factory=list)
    certain: Wishes | None = None
    quiet_until: float = 0.0


@dataclass(slots=True)
class Said:
    """Which seqs of one customer's agents ever told that they received, and read."""

    ack: set[int] = field(default_factory=lambda: {0})
    read: set[int] = field(default_factory=lambda: {0})

    def said(self, acked: int, read: int) -> bool:
        """Whether these marks may be the agents': a read is an ack too."""
        return acked in self.ack | self.read and read in self.read and read <= acked


@dataclass(eq=False, slots=True)
class Customer:
    """A person with an app: what it remembers, and what it ever confirmed."""

    tenant: str
    id: str
    complain: Callable[[str], None]
    recount: Callable[[Frame], None]
    sent: Callable[[Frame], None]
    visits: list[Visit] = field(default_factory=list)
    epoch: str | None = None
    seen: int = 0
    evidence: int = 0
    """The furthest seq that the server may take for acknowledged."""
    left_at: float = -1.0
    """When the last session left chat."""
    agents: Said = field(default_factory=Said)
    ends: list[tuple[float, float]] = field(default_factory=list)
    """Every end of an active session, and the grace that it leaves."""

    @property
    def marker(self) -> str:
        return f"{self.tenant}/{self.id}:"

    @property
    def in_chat(self) -> bool:
        """For sure, as the server must see it by now."""
        return any(visit.in_chat for visit in self.visits)

    @property
    def grace(self) -> float:
        """Since the customer left. Of sessions that end together, any may be the last to go."""
        return min(grace for at, grace in self.ends if abs(at - self.left_at) < 1.0)

    def left(self, now: float, grace: float, *, welcomed: bool = True) -> None:
        """An active session has ended; one that was not welcomed may not have been in chat."""
        self.ends.append((now, grace))
        if welcomed and not any(v.active and not v.line.over for v in self.visits):
            self.left_at = now


@dataclass(eq=False, slots=True)
class Agent:
    """An agent's console: sends, and sends again under the same ref what was not answered."""

    tenant: str
    complain: Callable[[str], None]
    sent: Callable[[Frame], None]
    line: Line | None = None
    unanswered: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What was sent under a ref: to whom, and the text."""
    known: dict[str, int] = field(default_factory=dict)
    """The newest seq of each customer's that this agent has heard of."""

    def send(self, ref: str, customer: str, text: str) -> None:
        self.unanswered[ref] = (customer, text)
        if self.line is not None:
            self.line.say("send", ref=ref, customer=customer, text=text)

    def again(self) -> None:
        """Repeat what has no answer."""
        for ref, (customer, text) in list(self.unanswered.items()):
            self.send(ref, customer, text)

    def tell(self, what: str, customer: Customer, seq: int) -> None:
        """Tell that everything up to `seq` came here (`ack`), or was seen (`read`)."""
        if self.line is not None and not self.line.over:
            self.line.say(what, customer=customer.id, seq=seq)
            (customer.agents.ack if what == "ack" else customer.agents.read).add(seq)

    def hear(self, frame: Frame) -> None:
        if frame.get("customer") and "seq" in frame:
            customer = frame["customer"]
            self.known[customer] = max(self.known.get(customer, 0), frame["seq"])
        match frame["type"]:
            case "sent":
                self.sent(frame)
                self.unanswered.pop(frame["ref"], None)
            case "message" | "receipt" if not frame.get("customer"):
                self.complain("a frame to an agent without its customer")
            case "error" if frame["code"] == "not_found":
                self.unanswered.pop(frame.get("ref", ""), None)
            case "error" if frame["code"] not in ("unavailable", "rate_limited"):
                self.complain(f"an agent got error {frame['code']}: {frame['message']}")
            case _:
                pass
