"""Every short script, not random ones: what those meet once in thousands is met here for sure.

Breadth first: a script that led somewhere new, and one step more. Where it leads is all that both
sides keep, with times as far off as they are. Where another script has led already, nothing new can
come of it. Each is played by a customer of its own, on a gateway that serves many of them one after
another, beside the reference; and the simulation's model holds every commit to the invariants.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, cast

import msgspec

from storage.records import Key, RingInHand
from tests.simulation.reference import MAX_HOLD, NEVER, Message
from tests.simulation.scripts import END, Play, Script, Step, playing
from tests.simulation.world import EPOCH, Violation

CUSTOMERS = 50  # of one gateway: with more a recount takes longer than a start
PAUSE = 0.006  # seconds that a step takes which does not wait
GRAIN = 0.05  # seconds: times that are closer are the same


def _step(do: str, *told: Any, pause: float = PAUSE) -> Step:
    return Step(do, told, pause)


STEPS = {
    "chat": _step("write", "chat", None),
    "brief": _step("write", "chat", 3.37),
    "offer": _step("write", "proactive", 8.41),
    "come": _step("come", "v", True, None),
    "come_back": _step("come", "v", True, 0),
    "come_behind": _step("come", "v", False, None),
    "come_too": _step("come", "w", True, None),
    "turn": _step("turn", "v"),
    "bye": _step("leave", "v", "bye"),
    "cut": _step("leave", "v", "reset"),
    "cut_too": _step("leave", "w", "reset"),
    "ack": _step("ack", "v", 0),
    "ack_part": _step("ack", "v", 1),
    "ack_too": _step("ack", "w", 0),
    "read": _step("read", "v", 0),
    "read_part": _step("read", "v", 1),
    "phone": _step("register", "p1", "T1"),
    "other_token": _step("register", "p1", "T3"),
    "tablet": _step("register", "p2", "T2"),
    "moved": _step("register", "p2", "T1"),
    "no_phone": _step("deregister", "p1"),
    "no_tablet": _step("deregister", "p2"),
    "opted_out": _step("wish", "opted_out"),
    "no_wish": _step("wish", "nothing"),
    "muted": _step("wish", "muted 3.3"),
    "second": _step("wait", pause=1.3),
    "timeout": _step("wait", pause=5.2),
    **{mood: _step("mood", mood) for mood in ("accepts", "fails", "gone", "refuses")},
}


class Scope(NamedTuple):
    """Scripts that begin so and go on with these steps (names in `STEPS`); so many messages."""

    begins: str
    steps: str
    messages: int = 3


TIMES = " second timeout"
SCOPES = {
    "alone": Scope(
        "",
        "chat brief come come_behind turn bye cut ack ack_part read phone no_phone accepts fails"
        " gone refuses" + TIMES,
    ),
    "phones": Scope(
        "phone tablet",
        "chat offer come cut ack_part read phone other_token moved no_phone no_tablet accepts"
        " fails gone refuses" + TIMES,
    ),
    "sessions": Scope(
        "phone come",
        "chat brief come_back come_behind come_too turn cut cut_too ack ack_too read_part" + TIMES,
    ),
    "wishes": Scope(
        "phone come",
        "chat offer come turn ack_part read_part opted_out no_wish muted accepts fails" + TIMES,
    ),
}


class Found(NamedTuple):
    """Of one length: how many scripts there are, how many led somewhere new, and what differs."""

    length: int
    scripts: int
    new: int
    differs: list[str]


def every(scope: Scope, longest: int) -> Iterator[Found]:
    """Play them all, the short ones first: up to so many steps beyond the beginning."""
    field = Field(scope)
    begins = [STEPS[name] for name in scope.begins.split()]
    begun = [(begins, field.play(begins) or ())]
    for length in range(1, longest + 1):
        longer, scripts, differs = list[tuple[Script, tuple[Step, ...]]](), 0, list[str]()
        for script in ([*script, step] for script, steps in begun for step in steps):
            scripts += 1
            try:
                if (steps := field.play(script)) is not None:
                    longer.append((script, steps))
            except Violation as told:
                differs.append(str(told))
        begun = longer
        yield Found(length, scripts, len(longer), differs)
    field.close()


class Field:
    """Where scripts are played, one after another, and what they led to."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._steps = [STEPS[name] for name in scope.steps.split()]
        self._seen = set[Hashable]()
        self._played = 0
        self._gateway = ExitStack()

    def close(self) -> None:
        self._gateway.close()

    def play(self, script: Script) -> tuple[Step, ...] | None:
        """What may come next, if it leads where none has led. Raises `Violation` with what differs,
        or does not hold."""
        if self._played % CUSTOMERS == 0:
            self._gateway.close()
            self._it = self._gateway.enter_context(playing())
            self._it.judge()
        it, who = self._it, f"c{self._played}"
        self._played += 1
        try:
            for step in script:
                it.do(_of(step, who))
            state = where(it, who)
            if state in self._seen:
                it.forget(who)
                return None
            self._seen.add(state)
            steps = tuple(step for step in self._steps if self._may(step, who))
            it.run(END)
            if told := it.differs():
                raise Violation(told)
            it.forget(who)
        except Violation as broken:
            self._played = 0  # with a new gateway
            told = str(broken) if "\n" in str(broken) else "\n".join((*it.played, str(broken)))
            raise Violation(told) from None
        return steps

    def _may(self, step: Step, who: str) -> bool:
        """Whether there is something to do it with, and it would be something."""
        c, what = self._it.rule.customer(who), step.told[0] if step.told else ""
        match step.do:
            case "write":
                return len(c.messages) < self._scope.messages
            case "come":
                return what not in c.sessions
            case "ack" | "read":
                return what in c.sessions and len(c.messages) > step.told[1]
            case "turn" | "leave":
                return what in c.sessions
            case "deregister":
                return f"{what}-{who}" in c.devices
            case "mood":
                return bool(what != self._it.rule.mood)
        return True


def _of(step: Step, who: str) -> Step:
    """The step, of that customer."""
    if step.do in ("register", "deregister"):
        return step._replace(told=(who, *(f"{name}-{who}" for name in step.told)))
    return step if step.do in ("mood", "wait", "kill") else step._replace(told=(who, *step.told))


# Where a script leads

WITHOUT = "id text name key newest newest_counted last_event updated_at badge_seq registered_at"
NO_MATTER = frozenset(f"{WITHOUT} generation unanswered_since customer since".split())


def where(it: Play, who: str) -> Hashable:
    """All that both sides keep of a customer."""
    core, key, now = it.world.core, Key("acme", who), it.world.now
    assert core is not None
    c, hub = core.store.peek(key), core.hub
    devices = c.devices if c is not None else ()
    rings = [d.ring and msgspec.json.decode(d.ring.claim) for d in devices]
    calling = [core.context.is_calling(d) for d in devices]
    sessions = [(session.active, session.noted) for session in hub.sessions(key)]
    kept = (
        c,
        rings,
        calling,
        sessions,
        hub.grace_until(key, now),
        core.context.restart_grace_until,
    )
    return _plain((kept, it.rule.customers.get(who), it.rule.nothing_until, it.rule.mood), now)


def _plain(it: Any, now: float) -> Hashable:
    """With times from now on, as far as they matter."""
    match it:
        case float():
            at = it - now if it > EPOCH / 2 else it + EPOCH - now
            return None if it == NEVER else round(max(at, -MAX_HOLD) / GRAIN)
        case Message(outcome="acked"):
            return it.kind
        case RingInHand():
            return it.upto, it.attempt
        case str():
            return it.partition("-")[0]  # what is a customer's own is called so by all
        case dict():
            return _plain([pair for pair in it.items() if pair[0] not in NO_MATTER], now)
        case list() | tuple():
            return tuple([_plain(each, now) for each in it])
    if is_dataclass(it):
        return _plain([getattr(it, f.name) for f in fields(it) if f.name not in NO_MATTER], now)
    if isinstance(it, msgspec.Struct):
        named = [name for name in it.__struct_fields__ if name not in NO_MATTER]
        return _plain([getattr(it, name) for name in named], now)
    return cast(Hashable, it)
