"""Random days as agents see them: once all is quiet, what a desk was told is what is."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
import structlog

from gateway import auth, frames
from gateway.protocol import Role
from storage.records import Key, Outcome
from tests.simulation.days import CUSTOMERS, MEMORY, Day
from tests.simulation.disk import Health
from tests.simulation.model import SETTLE
from tests.simulation.peers import ABNORMAL, Frame, Line

RUNS, STEPS = 40, 120
BATCH = 10
QUIET = SETTLE + 4.0  # seconds in which what was asked for is answered
TOLD = {Outcome.PUSHED, Outcome.EXPIRED, Outcome.UNDELIVERABLE}


@dataclass(slots=True)
class Opened:
    """A conversation that a desk has open, as it was told of it."""

    upto: int
    in_chat: bool
    delivered: int
    read: int
    since: int
    sessions: int | None = None
    outcomes: dict[int, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Desk:
    """An agent who looks at the inbox and at whole conversations."""

    day: Day
    tenant: str
    name: str
    line: Line | None = None
    opened: dict[str, Opened] = field(default_factory=dict)
    inbox: dict[str, Any] | None = None

    @property
    def here(self) -> bool:
        """Whether it is connected to this life of the process."""
        line = self.line
        return line is not None and not line.over and line.process is self.day.world.process

    def connect(self) -> None:
        world = self.day.world
        assert world.core is not None
        self.opened, self.inbox = {}, None
        self.line = line = Line(
            world.process,
            lambda frame: self.hear(frame) if self.line is line else None,
            lambda code: None,
            1 << 20,
        )
        token = auth.issue(
            world.config, self.tenant, Role.AGENT, self.name, ttl=86_400.0, now=world.now
        )
        line.say("hello", token=token)
        world.spawn(world.core.sessions.serve(line, Role.AGENT))

    def ask(self, what: str, customer: str, ref: str) -> None:
        assert self.line is not None
        match what:
            case "inbox":
                self.line.say("inbox", ref=ref)
            case "send":
                text = self.day.world.text(self.day.world.person(self.tenant, customer))
                self.line.say("send", ref=ref, customer=customer, text=text)
            case _:
                self.line.say(what, ref=f"{what} {customer}", customer=customer)

    def hear(self, frame: Frame) -> None:
        seen = self.opened.get(frame.get("customer", ""))
        match frame["type"]:
            case "conversation":
                acked, read, seq = frame["acked_seq"], frame["read_seq"], frame["seq"]
                opened = Opened(seq, frame["in_chat"], acked, read, seq)
                self.opened[frame["customer"]] = opened
            case "message" | "sent" if seen is not None and not frame.get("duplicate"):
                if frame["seq"] != seen.upto + 1:
                    self.complain(f"{frame['type']} {frame['seq']} after {seen.upto} (I4)")
                seen.upto = frame["seq"]
            case "presence" if seen is not None:
                seen.in_chat, seen.sessions = frame["in_chat"], frame["sessions"]
            case "receipt" if seen is not None:
                self.receipt(seen, frame)
            case "inbox":
                self.inbox = (self.inbox or {}) | {c["customer"]: c for c in frame["conversations"]}
            case "inbox_update":
                told = frame["conversation"]
                self.inbox = (self.inbox or {}) | {told["customer"]: told}
            case "ok" if frame["ref"].startswith("close "):
                self.opened.pop(frame["ref"].removeprefix("close "), None)
            case "error" if frame.get("ref", "").startswith("open "):
                self.opened.pop(frame["ref"].removeprefix("open "), None)
            case "message" | "presence" | "receipt":
                self.complain(f"{frame['type']} of {frame['customer']}, who is not open")
            case _:
                pass

    def receipt(self, seen: Opened, frame: Frame) -> None:
        if frame["seq"] > seen.upto:
            self.complain(f"a receipt of {frame['seq']} before the message")
        match frame["state"]:
            case "delivered":
                seen.delivered = max(seen.delivered, frame["seq"])
            case "read":
                seen.read = max(seen.read, frame["seq"])
            case state:
                for seq in range(frame["from_seq"], frame["seq"] + 1):
                    seen.outcomes[seq] = (state, frame.get("reason"))

    def complain(self, what: str) -> None:
        self.day.world.violate(f"the desk {self.tenant}/{self.name}: {what}")

    # Held against what is

    def check(self) -> int:
        """How many conversations were as told; complains of those that were not."""
        core = self.day.world.core
        assert core is not None
        known = {c: core.store.peek(Key(self.tenant, c)) for _, c in CUSTOMERS}
        for customer, c in known.items():
            if c is None or not c.last_seq or self.inbox is None:
                continue
            in_chat = core.hub.is_in_chat(c.key)
            entry = orjson.loads(orjson.dumps(frames.entry(c, in_chat=in_chat)))
            told = self.inbox.get(customer)
            if told != entry:
                self.complain(f"its inbox has {told}, it is {entry}")
        open_ = [(seen, c) for name, seen in self.opened.items() if (c := known.get(name))]
        for seen, c in open_:
            here = core.hub.sessions(c.key)
            if seen.in_chat != core.hub.is_in_chat(c.key) or seen.sessions not in (None, len(here)):
                self.complain(f"told in_chat {seen.in_chat}, {seen.sessions}; it is {len(here)}")
            if seen.upto != c.last_seq:
                self.complain(f"has {seen.upto} messages of {c.customer} of {c.last_seq}")
            for seq, ord in self.counted(c.key):
                if seq <= c.acked_seq and seq > seen.delivered:
                    self.complain(f"{c.customer} {seq} was acked, never told as delivered")
                if seq <= c.read_seq and seq > seen.read:
                    self.complain(f"{c.customer} {seq} was read, never told as such")
                span = next((s for s in c.settled if s.lo_ord < ord <= s.hi_ord), None)
                if span is None or seq <= max(seen.since, c.acked_seq):
                    continue
                if span.outcome in TOLD and seen.outcomes.get(seq) != (span.outcome, span.reason):
                    self.complain(f"{c.customer} {seq}: told {seen.outcomes.get(seq)}, is {span}")
        return len(open_)

    def counted(self, key: Key) -> list[tuple[int, int]]:
        return self.day.world.look(
            "SELECT m.seq, m.ord FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE c.tenant = ? AND c.customer = ? AND m.role <> 'customer'"
            " AND m.kind <> 'system'",
            key,
        )


class DeskDay(Day):
    """A random day, a disk that is often bad, and three desks."""

    def __init__(self, seed: str, directory: Path) -> None:
        super().__init__(seed, directory)
        names = (("acme", "a-2"), ("acme", "a-3"), ("other", "b-1"))
        self.desks = [Desk(self, tenant, name) for tenant, name in names]
        self.checked: Counter[str] = Counter()

    def step(self, number: int) -> None:
        super().step(number)
        rng = Random(f"{self.seed}:desk:{number}")
        if self.world.core is None:
            return
        desk = rng.choice(self.desks)
        who = rng.choice([customer for tenant, customer in CUSTOMERS if tenant == desk.tenant])
        match rng.choice(("asks", "asks", "asks", "goes", "disk", "rests", "")):
            case "asks":
                if not desk.here:
                    desk.connect()
                for what in rng.sample(("inbox", "open", "open", "close", "send"), 2):
                    desk.ask(what, who, f"{what} {number}")
            case "goes" if desk.here and desk.line is not None:
                desk.line.end(rng.choice((ABNORMAL, 1000)), lost=True)
            case "disk":
                self.disk(rng, self.world.person(desk.tenant, who))
            case "rests":
                self.rest()
            case _:
                pass

    def rest(self) -> None:
        """Nothing happens for a while; then every desk must know what is."""
        world = self.world
        world.disk_turns(Health.GOOD)
        world.run(QUIET)
        if world.core is not None and not world.core.store.waiting:
            for desk in self.desks:
                if desk.here:
                    self.checked["open"] += desk.check()
                    self.checked["inbox"] += desk.inbox is not None
        world.verify()


@pytest.mark.parametrize("first", range(0, RUNS, BATCH))
def test_what_desks_are_told_is_what_is(first: int) -> None:
    checked: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
            day = DeskDay(f"desks {seed}", Path(name))
            try:
                day.live(range(STEPS))
            finally:
                day.world.close()
                structlog.reset_defaults()
            checked += day.checked
    # Days on which nobody looks would prove little.
    assert min(checked["open"], checked["inbox"]) > 5 * BATCH
