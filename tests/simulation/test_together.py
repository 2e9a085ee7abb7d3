"""What happens in the same instant: two changes come to the same in one commit as in two.

Whether they share one is chance. So of everything that a customer, an agent, a service or the
gateway's own registrations do, every pair is made to wait for the same commit, in both orders, and
once more with a commit for each; then all that anybody can see has to be the same. A ref that was
used before makes the common commit be judged twice, as it often is.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from storage import turns
from storage.records import Wishes
from storage.store import Store
from tests import recount
from tests.simulation.days import MEMORY, Day
from tests.simulation.peers import ABNORMAL, Agent, Customer, Frame, Visit
from tests.simulation.world import World

SEEN = ("welcome", "message", "sent", "status", "receipt", "conversation")
"""Frames that are told in an order; of who is there only the newest state counts."""
ROWS = (
    "SELECT seq, role, text, kind, route, reason, due_at FROM messages ORDER BY conversation, seq",
    "SELECT customer, live, acked_seq, read_seq, badge_seq, push_due_at FROM conversations"
    " ORDER BY customer",
    "SELECT conversation, lo_seq, hi_seq, outcome, reason FROM outcomes ORDER BY 1, 2",
    "SELECT installation, token, generation, state, covered_seq, badge, owes, wake_at"
    " FROM devices JOIN ringing ON device = id ORDER BY id",
)


class Takes(Random):
    """A disk of which every statement takes so long, and a backend that answers at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds = seconds

    def choice(self, seq: Any) -> Any:
        return self.seconds if isinstance(seq[0], float) else seq[0]


class Scene:
    """Anna has the chat on screen at her phone, and a tablet in the background: two messages."""

    def __init__(self, day: Day) -> None:
        world = self.world = day.world
        self.anna, self.ben = world.person("acme", "anna"), world.person("acme", "ben")
        self.agent, self.times = world.agent("acme"), 0
        world.register(self.anna, "phone-1", "TOKEN-1")
        world.register(self.ben, "phone-2", "TOKEN-2")
        world.run(10.0)
        self.sessions: list[Visit | Agent] = [self.agent]
        self.tablet, self.phone = self.visit(active=False), self.visit(active=True)
        world.run(1.0)
        for number in range(2):
            self.agent.send(f"r-{number}", "anna", f"{self.anna.marker} TEXT-{number}")
            world.run(0.5)

    def visit(self, *, active: bool, resume: bool = False) -> Visit:
        visit = self.world.visit(self.anna, active=active, acks=False, resume=resume, ttl=9999.0)
        assert visit is not None
        self.sessions.append(visit)
        return visit

    def text(self, customer: Customer) -> tuple[str, str]:
        self.times += 1
        return f"n-{self.times}", f"{customer.marker} TEXT-new-{self.times}"

    def says(self) -> None:
        ref, text = self.text(self.anna)
        self.phone.line.say("send", ref=ref, text=text)

    def flaps(self) -> None:
        self.tablet.turn(True, self.world.now)
        self.tablet.turn(False, self.world.now)

    def repeats(self) -> None:
        """The agent's client sends again what had its answer."""
        self.agent.send("r-0", "anna", f"{self.anna.marker} TEXT-0")

    def mutes(self) -> None:
        self.world.wish(self.anna, Wishes(muted_until=self.world.now + 60.0), 0.0)

    def opens(self) -> None:
        assert self.agent.line is not None
        self.agent.line.say("open", ref=self.text(self.anna)[0], customer="anna")


WHAT: dict[str, Callable[[Scene], Any]] = {
    "an agent sends": lambda it: it.agent.send(it.text(it.anna)[0], "anna", it.text(it.anna)[1]),
    "the customer sends": Scene.says,
    "a part is acknowledged": lambda it: it.phone.ack(1),
    "all is read on the tablet": lambda it: it.tablet.read(2),
    "the tablet acknowledges all": lambda it: it.tablet.ack(2),
    "the tablet is on screen for a moment": Scene.flaps,
    "the phone is cut off": lambda it: it.phone.line.end(ABNORMAL),
    "the phone goes": lambda it: it.phone.turn(False, it.world.now),
    "somebody comes": lambda it: it.visit(active=True),
    "another token": lambda it: it.world.register(it.anna, "phone-1", "TOKEN-3"),
    "it is ben's phone now": lambda it: it.world.register(it.ben, "phone-1", "TOKEN-1"),
    "the service signs out": lambda it: it.world.sign_out(it.anna),
    "mute": Scene.mutes,
    "the agent opens": Scene.opens,
}


@contextmanager
def a_day() -> Iterator[Day]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        day = Day("together", Path(name))
        try:
            day.world.disk.rng = day.world.ears.rng = Takes(0.0)
            day.world.start()
            yield day
        finally:
            day.world.close()
            structlog.reset_defaults()


def come_to(told: defaultdict[Any, list[Frame]], *names: str) -> list[Any]:
    """All that can be seen after these have waited for the same commit."""
    told.clear()
    with a_day() as day:
        it, world = Scene(day), day.world
        assert world.core is not None
        world.disk.rng = Takes(0.02)
        world.spawn(world.core.store.check())  # this commit takes long enough
        world.run(0.01)
        for name in names:
            WHAT[name](it)
            world.run(0.002)
        it.repeats()
        world.run(0.002)
        world.disk.rng = Takes(0.0)
        world.run(0.5)
        soon = rows(world)
        world.run(90.0)
        recount.check(world.path)
        rings = [(h.kind, h.seq, h.token, h.took) for h in world.ears.log]
        return [soon, rows(world), rings, *[seen(told[who], who) for who in it.sessions]]


def rows(world: World) -> list[Any]:
    with closing(sqlite3.connect(world.path)) as db:
        return [db.execute(sql).fetchall() for sql in ROWS]


def seen(frames: list[Frame], who: Visit | Agent) -> Any:
    """What one session was told, without what is drawn by lot or was as it is by then; or with
    which code it was closed."""
    if who.line is not None and who.line.over:
        return who.line.code
    not_told = ("id", "session", "epoch", "messages", "in_chat")
    return [
        {name: value for name, value in frame.items() if name not in not_told}
        for frame in frames
        if frame["type"] in SEEN
    ]


@pytest.mark.parametrize("one", WHAT)
def test_two_come_to_the_same_in_one_commit_as_in_two(
    monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    told: defaultdict[Any, list[Frame]] = defaultdict(list)
    for peer in (Visit, Agent):

        def hear(self: Any, frame: Frame, real: Any = peer.hear) -> None:
            told[self].append(frame)
            real(self, frame)

        monkeypatch.setattr(peer, "hear", hear)
    for other in WHAT:
        together = come_to(told, one, other)
        with monkeypatch.context() as apart:
            apart.setattr(Store, "BATCH", 1)
            apart.setattr(turns, "LEAST", 1)
            assert together == come_to(told, one, other), other
