"""Random scripts, played on the real core and by the delivery rule's reference, line by line.

A script is drawn from its seed: what a few people, phones and backends do, and how long nothing
happens after each. Both sides write a log in the same words; every outcome, look, call and number
has to be the same at the same time. What differs is told with the shortest script that shows it.

Nothing here takes time but what the reference says: the disk none, a backend the same each time.
What happens in one instant may do so in any order.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
import structlog

from gateway.protocol import MessageKind
from storage.records import Wishes
from tests.simulation.days import MEMORY, configuration
from tests.simulation.ears import Heard, Mood
from tests.simulation.peers import ABNORMAL, Customer, Visit
from tests.simulation.reference import DISCONNECT_GRACE, NEVER, Log, Reference
from tests.simulation.world import EPOCH, Violation, World

NO_BREAKER = 1_000_000
MOST_OF_AN_ANSWER = 20.0  # seconds after which no call is out any more
END = 150.0  # seconds after a script in which what is under way ends
INSTANT, SAME = 0.005, 0.02  # seconds within which there is no order; and which are no difference

CUSTOMERS = ("anna",) * 7 + ("ben",)
SESSIONS, PHONES, TOKENS = ("v", "v", "v", "w"), ("p1", "p2"), ("T1", "T2", "T3")
STATES = (True, True, True, False)
CODES = {"reset": ABNORMAL, "close": 1000, "away": 1001}
MOODS = ("accepts", "accepts", "slow", "hangs", "fails", "busy", "refuses", "gone")
WISHES = ("nothing", "muted 3.3", "muted 40", "opted_out", "opted_out", "quiet 1", "quiet 2")

STEPS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "write": (
        CUSTOMERS,
        ("chat",) * 4 + ("proactive",) * 4 + ("system",),
        (None,) * 6 + (0.73, 3.37, 8.41, 20.3),
    ),
    "come": (CUSTOMERS, SESSIONS, STATES, (None, 0, 1)),
    "turn": (CUSTOMERS, SESSIONS),
    "leave": (CUSTOMERS, SESSIONS, ("bye", *CODES)),
    "flap": (("anna",), ("v",)),
    "ack": (CUSTOMERS, SESSIONS, (0, 1, 1, 2)),
    "read": (CUSTOMERS, SESSIONS, (0, 1, 1, 2)),
    "register": (CUSTOMERS, PHONES, TOKENS),
    "deregister": (CUSTOMERS, PHONES),
    "sign_out": (CUSTOMERS,),
    "mood": (MOODS,),
    "wish": (CUSTOMERS, WISHES),
    "kill": (),
}
"""What may happen, and the arguments to choose from. Of a seq: how far it is from the newest."""

LIFE = "write 12 come 8 turn 5 leave 6 ack 6 read 4 register 3 mood 5 deregister 1 wish 3 kill 1"
PAUSES = (0.0, 0.01, 0.05, 0.3, 0.9, 1.1, 2.0, 3.0, 4.7, 5.1, 12.0, 31.0)
SHORT = (0.0, 0.05, 0.3, 0.9, 2.0, 3.0, 4.7, 5.1)
FLAPS = (2.0, 3.0, 3.6, 4.2)  # no longer than an ack timeout with what a flap takes
PROFILES = (
    (LIFE + " sign_out 1", 14, PAUSES),
    ("flap 16 write 4 ack 1 read 1 mood 1", 32, FLAPS),
    ("register 6 write 8 mood 7 deregister 2 come 3 leave 2 ack 3 read 2 kill 1", 12, PAUSES),
    ("write 12 come 4 ack 12 read 3 turn 1 leave 1 mood 1", 14, SHORT),
    ("write 12 come 4 ack 2 read 2 leave 2 mood 10 wish 12 register 2 deregister 1", 14, PAUSES),
)
"""How often each step comes, how many there are at most, and what passes after each; the seeds have
them in turn."""


class Step(NamedTuple):
    """Something happens, and then nothing for `pause` seconds."""

    do: str
    told: tuple[Any, ...]
    pause: float


Script = list[Step]
PHONE = Step("register", ("anna", "p1", "T1"), 0.7)
TABLET = Step("register", ("anna", "p2", "T2"), 0.7)
CHAT = Step("come", ("anna", "v", True, None), 0.7)
BEGINNINGS = ((CHAT,), (CHAT,), (PHONE,), (PHONE, CHAT), (PHONE, TABLET), (TABLET, PHONE, CHAT))


def drawn(seed: int) -> Script:
    """The script of that seed."""
    rng = Random(f"script:{seed}")
    weights, most, pauses = PROFILES[seed % len(PROFILES)]
    words, script = weights.split(), [*rng.choice(BEGINNINGS)]
    for do in rng.choices(words[::2], [int(n) for n in words[1::2]], k=rng.randint(3, most)):
        told = tuple(rng.choice(choices) for choices in STEPS[do])
        pause = rng.choice(pauses) + rng.uniform(0.002, 0.03)  # so that no two times are the same
        script.append(Step(do, told, pause))
    return script


class Middling(Random):
    """Nothing is left to chance: what is in the middle comes."""

    def choice(self, seq: Any) -> Any:
        return seq[len(seq) // 2]

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Impossible(Exception):
    """There is nothing to do it with: nobody is there, or no message."""


class Play:
    """One script on both sides."""

    def __init__(self, directory: Path) -> None:
        self.log = Log()
        """The gateway's."""
        self.played: list[str] = []
        self._outcomes: dict[tuple[str, int], tuple[str, str]] = {}
        self._looks = 0
        self._visits: dict[tuple[str, str], Visit] = {}
        world = self.world = World("script", directory, configuration(NO_BREAKER), Middling)
        world.disk.committed = self._committed
        world.ears.arriving = self._arriving
        world.ears.answered = lambda heard, verdict: None
        (directory / "ringback.db").write_bytes(_empty())
        world.start()
        self.rule = Reference(self._now)

    @property
    def _now(self) -> float:
        return self.world.process.loop.time()

    def run(self, seconds: float) -> None:
        self.world.run(seconds)
        self.rule.advance(self._now)

    def step(self, step: Step) -> None:
        """Do it, if there is anything to do it with."""
        with suppress(Impossible):
            self.do(step)

    def do(self, step: Step) -> None:
        """Do it. Raises `Impossible`."""
        told = f"{self._now:9.4f}  {step.do} {' '.join(map(str, step.told))}"
        getattr(self, step.do)(*step.told)
        self.played.append(told)
        self.run(step.pause)

    def wait(self) -> None:
        """Nothing happens."""

    def judge(self) -> None:
        """Hold the gateway to the invariants, too, as the random days do."""
        world, model = self.world, self.world.model

        def committed(db: sqlite3.Connection, touched: list[int]) -> None:
            model.committed(db, touched)
            self._committed(db, touched)

        def arriving(it: Heard) -> None:
            model.arriving(it)
            self._arriving(it)

        world.disk.committed, world.ears.arriving = committed, arriving
        world.ears.answered = model.answered

    def forget(self, customer: str) -> None:
        """Nothing more happens to this customer, and what did is told no more."""
        self.sign_out(customer)
        self.run(MOST_OF_AN_ANSWER)
        self.rule.customers.clear()
        self.mood("accepts")
        for told in (self.played, self.log.lines, self.rule.log.lines):
            told.clear()

    def differs(self) -> str:
        """Nothing, or what differs so far: the script as it was played, and both logs."""
        table = _beside(_in_order(self.rule.log), _in_order(self.log))
        return "\n".join((*self.played, *table)) if table else ""

    # What the gateway did, in the reference's words

    def _committed(self, db: sqlite3.Connection, touched: list[int]) -> None:
        for id in sorted(set(touched)):
            for customer, seq, outcome, reason in db.execute(OUTCOMES, (id,)):
                told = (outcome, reason if outcome == "undeliverable" else "")
                if self._outcomes.get((customer, seq)) != told:
                    self._outcomes[customer, seq] = told
                    self.log.outcome(self._now, customer, seq, *told)
        for id, customer, detail in db.execute(LOOKS, (self._looks,)).fetchall():
            self._looks = id
            it = json.loads(detail)
            if it["action"] not in ("wait", "skip"):
                phone = it["installation"]
                self.log.look(self._now, customer, phone, it["action"], it["reason"])

    def _arriving(self, it: Heard) -> None:
        unread = orjson.loads(it.body)["payload"]["UnreadMessages"]
        self.log.call(self._now, it.customer, it.token, it.kind, it.seq, unread, it.attempt)

    # Steps. `Impossible` if there is nothing to do it with

    def _person(self, customer: str) -> Customer:
        return self.world.person("acme", customer)

    def _visit(self, customer: str, session: str) -> Visit:
        if (customer, session) not in self._visits:
            raise Impossible
        return self._visits[customer, session]

    def _seq(self, customer: str, behind: int) -> int:
        return max(0, len(self.rule.customer(customer).messages) - behind)

    def _place(self, customer: str, behind: int) -> int:
        """A seq that there is."""
        if not (seq := self._seq(customer, behind)):
            raise Impossible
        return seq

    def write(self, customer: str, kind: str, expires_in: float | None) -> None:
        self.world.write(self._person(customer), MessageKind(kind), expires_in)
        self.rule.write(customer, kind, expires_in)

    def come(self, customer: str, session: str, active: bool, behind: int | None) -> None:
        if (customer, session) in self._visits:
            raise Impossible
        person, resume = self._person(customer), None
        if behind is not None and person.epoch is not None:
            resume = person.seen = self._seq(customer, behind)
        visit = self.world.visit(
            person, active=active, acks=False, resume=resume is not None, ttl=86_400.0
        )
        assert visit is not None
        self._visits[customer, session] = visit
        self.rule.come(customer, session, active, resume)

    def turn(self, customer: str, session: str) -> None:
        visit = self._visit(customer, session)
        visit.turn(not visit.active, self.world.now)
        self.rule.turn(customer, session, visit.active)

    def leave(self, customer: str, session: str, how: str) -> None:
        visit = self._visit(customer, session)
        if how == "bye":
            visit.bye(self.world.now)
        else:
            visit.line.end(CODES[how])
        del self._visits[customer, session]
        self.rule.leave(customer, session, 0.0 if how in ("bye", "close") else DISCONNECT_GRACE)

    def flap(self, customer: str, session: str) -> None:
        """The line breaks off, and somebody is back within the grace."""
        with suppress(Impossible):
            self.leave(customer, session, "reset")
            self.run(0.5)
        self.come(customer, session, True, None)

    def ack(self, customer: str, session: str, behind: int) -> None:
        seq = self._place(customer, behind)
        self._visit(customer, session).ack(seq)
        self.rule.ack(customer, session, seq)

    def read(self, customer: str, session: str, behind: int) -> None:
        seq = self._place(customer, behind)
        self._visit(customer, session).read(seq)
        self.rule.reads(customer, session, seq)

    def register(self, customer: str, installation: str, token: str) -> None:
        self.world.register(self._person(customer), installation, token)
        self.rule.register(customer, installation, token)

    def deregister(self, customer: str, installation: str) -> None:
        self.world.deregister(self._person(customer), installation)
        self.rule.deregister(customer, installation)

    def sign_out(self, customer: str) -> None:
        self.world.sign_out(self._person(customer))
        self._visits = {key: v for key, v in self._visits.items() if key[0] != customer}
        self.rule.sign_out(customer)

    def mood(self, mood: str) -> None:
        self.world.ears.mood = Mood(mood)
        self.rule.mood = mood

    def wish(self, customer: str, wish: str) -> None:
        """A mute of seconds, an opt-out, quiet hours of minutes, or nothing any more."""
        what, _, much = wish.partition(" ")
        begin = self._now - self._now % 60.0
        end = begin + 60.0 * int(much) if what == "quiet" else 0.0
        muted_for = float(much) if what == "muted" else 0.0
        hours = (f"{datetime.fromtimestamp(EPOCH + at, UTC):%H:%M}" for at in (begin, end))
        wishes = Wishes(
            muted_until=self.world.now + muted_for if muted_for else None,
            proactive=what != "opted_out",
            quiet_hours="-".join(hours) if end else None,
        )
        self.world.wish(self._person(customer), wishes, 0.0)
        self.rule.wish(customer, muted_for=muted_for, proactive=wishes.proactive, quiet_until=end)

    def kill(self) -> None:
        self.world.process.alive = False
        self.world.run(0.0)
        self._visits.clear()
        self.rule.kill()
        self.world.start()


OUTCOMES = """
    SELECT c.customer, m.seq,
        coalesce(o.outcome, iif(m.seq <= c.acked_seq, 'acked', 'pending')), coalesce(o.reason, '')
    FROM messages m JOIN conversations c ON c.id = m.conversation
    LEFT JOIN outcomes o ON o.conversation = c.id AND o.lo_seq < m.seq AND m.seq <= o.hi_seq
    WHERE c.id = ? AND m.role <> 'customer' AND m.kind <> 'system' ORDER BY m.seq"""
LOOKS = """
    SELECT e.id, c.customer, e.detail
    FROM events e JOIN conversations c ON c.id = e.conversation
    WHERE e.id > ? AND e.event = 'look' ORDER BY e.id"""


@cache
def _empty() -> bytes:
    """A database that was just made: to make one takes longer than a script."""
    with tempfile.TemporaryDirectory() as name:
        world = World("empty", Path(name), configuration(NO_BREAKER))
        world.start()
        world.close()
        structlog.reset_defaults()
        return (Path(name) / "ringback.db").read_bytes()


@contextmanager
def playing() -> Iterator[Play]:
    """Both sides, on a gateway that was just made."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        it = Play(Path(name))
        try:
            yield it
        finally:
            it.world.close()
            structlog.reset_defaults()


def play(script: Script) -> str:
    """Nothing, or what differs: the script as it was played, and both logs."""
    with playing() as it:
        try:
            for step in script:
                it.step(step)
            it.run(END)
        except Violation as broken:
            return "\n".join((*it.played, str(broken)))
        return it.differs()


def _in_order(log: Log) -> list[tuple[float, str]]:
    """By time, and what is of one instant by its words."""
    began, ordered = -NEVER, []
    for at, text in sorted(log.lines):
        began = began if at - began < INSTANT else at
        ordered.append((began, text, at))
    return [(at, text) for _, text, at in sorted(ordered)]


def _beside(rule: list[tuple[float, str]], gateway: list[tuple[float, str]]) -> list[str]:
    """Both logs, marked from where on they differ; none if they do not."""
    table, differs = [f"   {'by the rule':66}   by the gateway"], False
    for pair in zip_longest(rule, gateway, fillvalue=(NEVER, "")):
        (at, text), (at_gateway, text_gateway) = pair
        differs = differs or text != text_gateway or abs(at - at_gateway) > SAME
        left, right = (f"{at:9.4f}  {text}" if text else "" for at, text in pair)
        mark = ">" if differs else " "
        table.append(f" {mark} {left:66} {mark} {right}".rstrip())
    return table if differs else []


def shortest(script: Script) -> Script:
    """What is left of a script of which both sides differ, if no step but the first, without which
    the gateway were a new one, can be left out."""
    size = len(script) // 2
    while size:
        for start in range(len(script) - size, 0, -1):
            less = script[:start] + script[start + size :]
            if play(less):
                script = less
                break
        else:
            size //= 2
    return script


def compare(seed: int) -> str:
    """Nothing, or what differs in the script of that seed, at its shortest."""
    script = drawn(seed)
    return f"seed {seed}:\n{play(shortest(script))}" if play(script) else ""
