"""Particular days on the virtual clock, told step by step: what takes too long to wait for."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, time
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import msgspec
import orjson
import pytest
import structlog

from gateway.config.push import Calls, PushBackend
from gateway.protocol import MessageKind
from gateway.sentences import in_words
from gateway.why import deliveries
from gateway.wishes import QuietHours
from storage.errors import Unavailable
from storage.loading import Known
from storage.records import Key, Wishes
from tests.simulation.days import Day
from tests.simulation.disk import LATENCIES, Health
from tests.simulation.ears import Heard, Mood
from tests.simulation.peers import ABNORMAL, Customer, Visit
from tests.simulation.world import World

replace = msgspec.structs.replace

ANNA = ("acme", "anna")


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    """A world that has just started, and is ended and checked afterwards."""
    it = Day("scenario", tmp_path)
    it.world.start()
    try:
        yield it
        it.end()
    finally:
        it.world.close()
        structlog.reset_defaults()


def due_in_chat(world: World, since: float) -> float:
    """When a message of that time is due in chat, but for what a float of epoch seconds rounds."""
    return since + world.timing.ack_timeout - 1e-6


def off_by(clock: Callable[[], float], seconds: float) -> Callable[[], float]:
    return lambda: clock() + seconds


def rung(day: Day) -> list[Heard]:
    return [heard for heard in day.world.ears.log if heard.kind != "badge"]


def comes(world: World, customer: Customer) -> Visit:
    """Into chat, to stay, and to acknowledge nothing by itself."""
    visit = world.visit(customer, active=True, acks=False, resume=False, ttl=9999.0)
    assert visit is not None
    return visit


def test_ten_minutes_of_500_cost_the_retries_of_one_ring_and_one_further_ring(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.FAILS
    for _ in range(300):
        world.write(anna, MessageKind.PROACTIVE, None)
        world.run(2.0)
    failing = rung(day)
    assert len({heard.ring for heard in failing}) == 1
    assert len({heard.body for heard in failing}) == 1
    assert [heard.attempt for heard in failing] == list(range(1, len(failing) + 1))
    assert len(failing) < 60  # 1 s doubling to 60 s, with full jitter
    world.ears.mood = Mood.ACCEPTS
    world.run(600.0)
    taken = [heard for heard in rung(day) if heard.took]
    assert [heard.seq for heard in taken] == [failing[0].seq, 300]
    assert taken[0].body == failing[0].body
    assert set(world.model.outcomes.values()) == {"pushed"}


def test_a_200_that_comes_after_we_gave_up_is_asked_for_again_with_the_same_bytes(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.LATE
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(60.0)
    late = rung(day)
    assert len(late) > 1
    assert len({(heard.ring, heard.body) for heard in late}) == 1
    assert Counter(world.model.outcomes.values()) == {"pending": 2}
    world.ears.mood = Mood.ACCEPTS
    world.run(300.0)
    assert [heard.seq for heard in rung(day)[len(late) :]] == [1, 2]
    assert Counter(world.model.outcomes.values()) == {"pushed": 2}


def test_a_backend_that_rejects_everything_leaves_nothing_pending(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.mood = Mood.REJECTS
    for number in range(3):
        world.register(anna, f"phone-{number}", f"TOKEN-{number}")
    world.run(1.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(10.0)
    assert len(rung(day)) == 3
    assert set(world.model.outcomes.values()) == {"undeliverable"}
    world.ears.mood = Mood.ACCEPTS
    world.register(anna, "phone-1", "TOKEN-new")
    world.run(10.0)
    assert rung(day)[-1].token == "TOKEN-new"
    assert set(world.model.outcomes.values()) == {"pushed"}


def test_a_token_that_changes_during_a_call_is_rung_when_the_call_has_ended(day: Day) -> None:
    """The verdict is the old token's and changes nothing; but the phone is let go by it."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.LATE
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(2.0)
    world.ears.mood = Mood.ACCEPTS
    world.register(anna, "phone-1", "TOKEN-2")
    world.run(60.0)
    assert [heard.token for heard in rung(day)] == ["TOKEN-1", "TOKEN-2"]
    assert set(world.model.outcomes.values()) == {"pushed"}


class Takes(Random):
    """A backend that is slow takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds = seconds

    def uniform(self, a: float, b: float) -> float:
        return self.seconds


@pytest.mark.parametrize("mood", [Mood.SLOW, Mood.LATE])
def test_an_answer_that_comes_after_the_customer_came_back_rings_nobody_at_once(
    day: Day, mood: Mood
) -> None:
    """What came during the call, or a retry of it, waits for the replay to be acknowledged."""
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.rng = Takes(4.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = mood
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(2.0 if mood is Mood.SLOW else 13.5)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(0.5)
    assert len(rung(day)) == 1
    came = world.process.loop.time()
    world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(10.0)
    again = rung(day)[1:]
    assert again
    assert all(heard.at >= due_in_chat(world, came) for heard in again)


def test_what_a_cancelled_ring_covered_beyond_the_fan_out_is_still_owed(day: Day) -> None:
    """The ring covers more than the device was asked to ring for, and expires in hand."""
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.rng = Takes(4.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.SLOW
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(0.5)
    world.write(anna, MessageKind.PROACTIVE, None)  # asked for while the first ring is in hand
    world.run(0.5)
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    assert visit is not None
    world.run(4.5)
    world.ears.mood = Mood.BUSY
    world.write(anna, MessageKind.PROACTIVE, None)
    world.write(anna, MessageKind.PROACTIVE, 3.0)
    world.run(1.0)
    assert [heard.seq for heard in rung(day)] == [1, 4]
    visit.bye(world.now)  # due, and nobody is marked: the ring in hand covers it
    world.run(0.5)
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(0.1)
    assert visit is not None
    visit.ack(2)
    visit.bye(world.now)
    world.ears.mood = Mood.ACCEPTS
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1, 4, 3]
    assert [world.model.outcomes[1, seq] for seq in (1, 2, 3, 4)] == [
        "pushed",
        "acked",
        "pushed",
        "expired",
    ]


def test_of_two_that_are_owed_the_second_rings_when_the_first_was_acknowledged(day: Day) -> None:
    """At the very look at which the first one's ring in hand is cancelled."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.FAILS
    for _ in range(2):
        world.write(anna, MessageKind.CHAT, None)
        world.run(3.0)
    visit = comes(world, anna)
    world.run(0.5)
    visit.ack(1)
    world.run(0.5)
    world.ears.mood = Mood.ACCEPTS
    visit.line.end(ABNORMAL)
    world.run(30.0)
    assert world.model.outcomes == {(1, 1): "acked", (1, 2): "pushed"}
    rows = world.look("SELECT detail FROM events WHERE event = 'look' ORDER BY id")
    looks = [orjson.loads(detail) for (detail,) in rows]
    assert [(look["action"], look["reason"]) for look in looks[-2:]] == [
        ("cancel", "acked"),
        ("ring", "not_in_chat"),
    ]


def test_a_flapping_phone_still_rings_within_the_longest_hold(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(10.0)
    agent = world.agent("acme")
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(1.0)
    agent.send("a-1", "anna", world.text(anna))
    began = world.now
    while not rung(day):
        world.run(0.5)
        assert visit is not None
        visit.line.end(ABNORMAL)
        visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
        world.run(0.5)
        assert world.now - began < world.timing.max_hold + 2.0
    assert world.now - began > world.timing.ack_timeout


def test_what_is_written_meanwhile_holds_a_message_of_a_flapping_phone_no_longer(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(10.0)
    agent = world.agent("acme")
    visit = comes(world, anna)
    world.run(1.0)
    began = world.now
    while not rung(day):
        agent.send(f"a-{world.now}", "anna", world.text(anna))
        world.run(0.5)
        visit.line.end(ABNORMAL)
        visit = comes(world, anna)
        world.run(0.5)
        assert world.now - began < world.timing.max_hold + 2.0
    assert world.now - began > world.timing.ack_timeout


def test_what_expired_takes_nothing_from_the_hold_of_what_came_after_it(day: Day) -> None:
    """A phone that flaps for as long as joins may hold the first message, which has expired."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, 20.0)
    for number in range(9):
        world.run(2.0)
        if number == 4:
            world.write(anna, MessageKind.CHAT, None)
        world.run(1.0)
        visit.line.end(ABNORMAL)
        world.run(0.5)
        came = world.process.loop.time()
        visit = comes(world, anna)
    assert world.model.outcomes == {(1, 1): "expired", (1, 2): "pending"}
    world.run(10.0)
    assert [heard.seq for heard in rung(day)] == [2]
    assert rung(day)[0].at >= due_in_chat(world, came)


def test_what_waited_before_takes_nothing_from_the_hold_of_a_new_message(day: Day) -> None:
    """A badge that cannot be told is held when somebody comes; a message of later is held anew."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.ears.mood = Mood.RESETS
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=86_400.0)
    world.run(1.0)
    assert visit is not None
    visit.read(1)
    world.run(60.0)
    visit.turn(True, world.now)
    world.run(2 * world.timing.max_hold)
    world.register(anna, "phone-1", "TOKEN-2")
    world.run(10.0)
    agent = world.agent("acme")
    agent.send("a-1", "anna", world.text(anna))
    world.run(3.0)
    came = world.process.loop.time()
    world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(1.0)
    world.ears.mood = Mood.ACCEPTS
    while not (told := [heard for heard in rung(day) if heard.seq == 2]):
        world.run(0.1)
    assert told[0].at >= due_in_chat(world, came)


def test_a_number_on_the_icon_that_is_out_of_date_is_not_told_any_more(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    for _ in range(2):
        world.write(anna, MessageKind.PROACTIVE, None)
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    assert visit is not None
    for seq in (1, 2):
        world.run(15.0)
        visit.read(seq)
    world.run(60.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(400.0)
    badges = [heard for heard in world.ears.log if heard.kind == "badge"]
    told = [(heard.took, orjson.loads(heard.body)["payload"]["aps"]["badge"]) for heard in badges]
    assert (False, 1) in told
    assert [number for took, number in told if took] == [0]


def test_after_an_expiry_nobody_looks_before_the_next(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, 5.0)
    world.write(anna, MessageKind.CHAT, 60.0)
    world.run(20.0)
    assert world.model.outcomes == {(1, 1): "expired", (1, 2): "pending"}
    latest = "SELECT max(expires_at) FROM messages"
    assert world.look("SELECT expires_at FROM conversations") == world.look(latest)


def test_who_leaves_one_of_two_chats_has_not_left(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit, _ = comes(world, anna), comes(world, anna)
    world.run(15.0)
    written = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    visit.line.end(ABNORMAL)
    world.run(15.0)
    assert rung(day)[0].at >= due_in_chat(world, written)
    assert world.look("SELECT count(*) FROM events WHERE event = 'due_moved'") == [(0,)]


def test_a_number_on_the_icon_that_is_right_is_not_told_again(day: Day) -> None:
    world, (anna, ben) = day.world, two_with_one_slot(day)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(15.0)
    visit = comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.5)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.CHAT, None)
    world.run(2.0)  # anna's second message is due, and its look waits for the only slot
    visit.ack(2)
    visit.read(1)
    world.run(30.0)
    assert [heard.kind for heard in world.ears.log if heard.customer == "anna"] == ["proactive"]


def test_a_phone_that_dies_beside_one_that_was_muted_leaves_no_word_of_a_refusal(day: Day) -> None:
    """The reason is that of the phone that is left: it was muted, and no backend refused."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.HANGS
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.wish(anna, Wishes(muted_until=world.now + 8.0), 0.0)
    world.run(10.0)
    world.ears.mood = Mood.GONE
    world.run(60.0)
    assert world.model.outcomes == {(1, 1): "undeliverable"}
    with closing(sqlite3.connect(day.world.path)) as db:
        assert db.execute("SELECT reason FROM outcomes").fetchall() == [("muted",)]


@pytest.mark.parametrize("again", [False, True])
def test_what_is_pending_again_is_not_laid_to_what_a_phone_was_not_rung_for_meanwhile(
    day: Day, again: bool
) -> None:
    """The first phone passes by what an agent wrote while there was no backend. The opt-out for
    which it is not rung speaks of offers only, and so it does of the next one."""
    world, anna = day.world, day.world.person(*ANNA)
    push = world.config.tenants["acme"].push
    world.register(anna, "phone-1", "TOKEN-1")
    world.wish(anna, Wishes(proactive=False), 0.0)
    reload(day)
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    world.configure("acme", push, 0.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(30.0)
    asked = "SELECT hi_seq, reason FROM outcomes ORDER BY hi_seq"
    assert world.look(asked) == [(1, "no_endpoint"), (2, "opted_out")]
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(1.0)
    if again:
        world.write(anna, MessageKind.PROACTIVE, None)
    assert world.look(asked) == [(2, "opted_out")]
    world.deregister(anna, "phone-2")
    world.run(30.0)
    assert world.look(asked)[0] == (1, "no_device")
    world.register(anna, "phone-3", "TOKEN-3")
    world.run(30.0)
    assert [(heard.seq, heard.token) for heard in rung(day)] == [(1, "TOKEN-3")]


def test_an_icon_is_not_corrected_through_an_adapter_that_cannot_do_so_silently(day: Day) -> None:
    """The ring was claimed for another adapter: it would be a notification that says nothing."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    world.run(1.0)
    assert visit is not None
    visit.read(1)
    world.run(15.0)
    world.ears.mood = Mood.ACCEPTS
    heard = len(world.ears.log)
    reload(day, adapter="template", options='{"body": {"deviceToken": "{token}"}}')
    world.run(600.0)
    assert len(world.ears.log) == heard
    assert world.look("SELECT ring, owes FROM ringing") == [(None, 0)]
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(15.0)
    assert [heard.seq for heard in rung(day)] == [1, 2]


class Slow(Random):
    """A disk that takes 20 ms for each statement."""

    def choice(self, seq: Any) -> Any:
        return 0.02 if seq is LATENCIES else super().choice(seq)


@pytest.mark.parametrize("late", range(0, 10, 3))
@pytest.mark.parametrize("busy", ["anna", "ben"])
def test_what_expires_while_a_due_time_waits_for_the_writer_expires_then(
    day: Day, late: int, busy: str
) -> None:
    """Every committed state is recounted: what is pending must have somebody who looks at it."""
    world, anna, other = day.world, day.world.person(*ANNA), day.world.person("acme", busy)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(20.0)
    world.ears.mood = Mood.FAILS
    world.disk.rng = Slow(1)
    world.write(anna, MessageKind.PROACTIVE, world.timing.ack_timeout + 0.002 + late / 250)
    world.run(world.timing.ack_timeout - 0.5)
    for _ in range(40):  # so that what is due has to wait
        world.write(other, MessageKind.PROACTIVE, None)
        world.run(0.05)
    world.run(0.5)
    assert world.model.outcomes[1, 1] == "expired"
    assert visit is not None
    visit.line.end(1000)


def test_what_outlives_the_newest_message_rings_though_that_expired_while_a_look_waited(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.write(anna, MessageKind.PROACTIVE, 3.0)
    world.run(1.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    core = world.core
    assert core is not None
    clock = core.book._clock
    asked = iter([clock()] * 4)  # the due time and the look wait from now until they are judged
    core.book._clock = lambda: next(asked, None) or clock()
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1]
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "expired"}


def reload(day: Day, **push: Any) -> None:
    """SIGHUP, with other settings of acme's push section; without any, it has none."""
    acme = day.world.config.tenants["acme"]
    assert acme.push is not None
    day.world.configure("acme", replace(acme.push, **push) if push else None, 0.0)
    day.world.run(0.1)


def two_with_one_slot(day: Day) -> tuple[Customer, Customer]:
    """Anna and Ben, each with a phone: the look at one waits for the call to the other's, of 4 s
    where the backend is slow."""
    world, anna, ben = day.world, day.world.person(*ANNA), day.world.person("acme", "ben")
    world.ears.rng = Takes(4.0)
    reload(day, in_flight=1)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(ben, "phone-2", "TOKEN-2")
    return anna, ben


@pytest.mark.parametrize("mood", [Mood.ACCEPTS, Mood.FAILS])
def test_what_came_without_an_endpoint_is_not_rung_for_when_an_icon_is_corrected(
    day: Day, mood: Mood
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    push = world.config.tenants["acme"].push
    assert push is not None
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    for _ in range(2):
        world.write(anna, MessageKind.CHAT, None)
        world.run(5.0)
    world.ears.mood = mood
    if mood is Mood.FAILS:  # it is owed when its endpoint goes
        world.write(anna, MessageKind.CHAT, None)
        world.run(5.0)
    reload(day)
    world.write(anna, MessageKind.CHAT, None)
    world.run(15.0)
    assert "undeliverable" in world.model.outcomes.values()
    rings = len(rung(day))
    world.ears.mood = Mood.ACCEPTS
    world.configure("acme", push, 0.0)
    world.run(5.0)
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    world.run(1.0)
    assert visit is not None
    visit.read(2)
    world.run(15.0)
    assert world.ears.log[-1].kind == "badge"
    assert len(rung(day)) == rings


def test_what_a_device_owes_is_not_put_off_when_something_older_is_replayed(day: Day) -> None:
    """A message in chat is due, and its look waits for the only slot."""
    world, (anna, ben) = day.world, two_with_one_slot(day)
    world.run(15.0)
    world.ears.mood = Mood.REFUSES
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    comes(world, anna)
    world.run(1.0)
    written = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.5)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.CHAT, None)
    world.run(1.0)
    assert world.model.outcomes[1, 1] == "undeliverable"
    world.ears.mood = Mood.ACCEPTS
    world.replay("acme")
    world.run(30.0)
    assert set(world.model.outcomes.values()) == {"pushed"}
    rings = [heard for heard in rung(day) if heard.customer == "anna" and heard.took]
    assert [heard.seq for heard in rings] == [2]
    assert rings[0].at - written < 10.0
    assert "already acknowledged" not in str(words_of(world, 2))


def test_a_phone_whose_backend_is_new_is_rung_for_what_is_tried_on_another(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(anna, "phone-2", "TOKEN-2", environment="sandbox")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(10.0)
    reload(day, backends=sandbox(day))
    world.run(10.0)
    assert {heard.token for heard in rung(day)} == {"TOKEN-1", "TOKEN-2"}
    world.ears.mood = Mood.ACCEPTS
    world.run(100.0)
    assert set(world.model.outcomes.values()) == {"pushed"}


def test_what_an_endpoint_accepts_that_was_taken_away_during_the_call_was_pushed(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.rng = Takes(4.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.SLOW
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    reload(day)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(10.0)
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "undeliverable"}


@pytest.mark.parametrize("environment", [None, "sandbox"])
def test_an_endpoint_that_was_taken_away_during_a_call_that_fails_is_waited_for_no_longer(
    day: Day, environment: str | None
) -> None:
    """Of a retry that is minutes away nothing can come any more."""
    world, anna = day.world, day.world.person(*ANNA)
    reload(day, retry_first=600.0, retry_max=600.0)
    reload(day, backends=sandbox(day))
    world.register(anna, "phone-1", "TOKEN-1", environment=environment)
    world.run(15.0)
    world.ears.mood = Mood.HANGS
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    reload(day, **{} if environment is None else {"backends": {}})
    assert world.model.outcomes == {(1, 1): "pending"}
    world.run(15.0)
    assert world.look("SELECT outcome, reason FROM outcomes") == [("undeliverable", "no_endpoint")]


@pytest.mark.parametrize(
    ("mood", "again"),
    [
        (Mood.REFUSES, lambda world, anna: world.replay("acme")),
        (Mood.GONE, lambda world, anna: world.register(anna, "phone-1", "TOKEN-2")),
    ],
    ids=["a letter that is replayed", "a dead token that is told anew"],
)
def test_what_is_owed_again_does_not_ring_before_it_is_due(
    day: Day, mood: Mood, again: Callable[[World, Customer], None]
) -> None:
    """Somebody is in chat, and a look for the number on the icon comes first."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.ears.mood = mood
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.ears.mood = Mood.ACCEPTS
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    assert visit is not None
    world.run(1.0)
    again(world, anna)
    since = world.process.loop.time()
    world.run(1.0)
    visit.read(1)
    world.run(30.0)
    told = world.ears.log[2:]
    assert [heard.kind for heard in told] == ["badge", "proactive"]
    assert told[1].at >= due_in_chat(world, since)


class Long(Random):
    """A backend that is slow takes two seconds longer than anybody is held."""

    def uniform(self, a: float, b: float) -> float:
        return 32.0


def test_a_hold_goes_on_while_a_device_waits_for_its_turn(day: Day) -> None:
    """The backend's only call is another's, for longer than a phone that flaps may be held."""
    world, anna, ben = day.world, day.world.person(*ANNA), day.world.person("acme", "ben")
    world.ears.rng = Long(1)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(ben, "phone-2", "TOKEN-2")
    world.run(15.0)
    reload(day, in_flight=1)
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(1.0)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.PROACTIVE, None)
    world.run(0.5)
    world.ears.mood = Mood.ACCEPTS
    world.write(anna, MessageKind.PROACTIVE, None)
    began = world.now
    while len(rung(day)) < 2:
        world.run(0.5)
        assert visit is not None
        visit.line.end(ABNORMAL)
        visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
        world.run(0.5)
        assert world.now - began < world.timing.max_hold + 5.0


def test_a_backoff_stands_though_a_message_comes_and_through_a_restart(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    reload(day, retry_first=600.0, retry_max=600.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.ACCEPTS
    ((wakes_at,),) = world.look("SELECT wake_at FROM ringing")
    assert wakes_at > world.now + 5 * world.timing.max_hold
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.shut_down()
    world.start()
    world.run(wakes_at - world.now - 1.0)
    assert len(rung(day)) == 1
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1, 1, 2]


def test_an_icon_that_is_to_be_corrected_cuts_no_backoff_short(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    reload(day, retry_first=600.0, retry_max=600.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.ACCEPTS
    ((wakes_at,),) = world.look("SELECT wake_at FROM ringing")
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    world.run(1.0)
    assert visit is not None
    visit.read(1)
    world.run(wakes_at - world.now - 1.0)
    assert [heard.seq for heard in world.ears.log] == [1, 2]
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1, 2, 2]


def test_lifted_quiet_hours_hold_nothing_back_any_more(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    reload(day, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    assert not rung(day)
    reload(day, quiet_hours=None)
    world.run(world.timing.max_hold + 5.0)
    assert [heard.seq for heard in rung(day)] == [1]


def test_a_reload_that_cannot_read_at_once_who_waits_lifts_quiet_hours_when_it_can(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the phone rings when they would have ended: nothing else looks at who waits for that."""

    async def fails(*asked: Any) -> NoReturn:
        raise Unavailable("disk I/O error")

    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    reload(day, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    assert world.core is not None
    with monkeypatch.context() as disk, structlog.testing.capture_logs() as logged:
        disk.setattr(world.core.database, "scan", fails)
        reload(day, quiet_hours=None)
        world.run(10.0)
        assert not rung(day)
    assert [line["event"] for line in logged].count("what waits is not judged anew yet") == 1
    world.run(world.timing.max_hold + 5.0)
    assert [heard.seq for heard in rung(day)] == [1]


def test_a_reload_on_a_full_disk_lifts_quiet_hours_when_it_takes_writes_again(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    reload(day, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    world.disk_turns(Health.FULL)
    reload(day, quiet_hours=None)
    world.run(10.0)
    assert not rung(day)
    world.disk_turns(Health.GOOD)
    world.run(5.0)
    assert [heard.seq for heard in rung(day)] == [1]


def test_a_reload_while_what_waits_is_judged_by_the_one_before_lifts_quiet_hours(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many wait that not all may be judged at once, and a commit of others takes its time."""
    world, anna, ben = day.world, day.world.person(*ANNA), day.world.person("acme", "ben")
    monkeypatch.setattr("gateway.alarms.AT_ONCE", 1)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    acme = world.config.tenants["acme"].push
    assert acme is not None
    quiet = replace(acme, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.configure("acme", quiet, 0.0)
    world.run(0.1)
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    world.disk.rng = Slow(1)
    world.configure("acme", replace(quiet, title="Another"), 0.0)
    for _ in range(53):
        world.write(ben, MessageKind.CHAT, None)
        world.run(0.003)
    world.configure("acme", acme, 0.0)
    world.run(60.0)
    assert [heard.customer for heard in rung(day)] == ["anna"]


def test_who_waits_for_the_end_of_quiet_hours_is_not_looked_at_anew_where_that_is_as_before(
    day: Day,
) -> None:
    """The hours are others since a reload, and end at the same time."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    reload(day, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.write(anna, MessageKind.CHAT, None)
    world.run(10.0)
    reload(day, quiet_hours=QuietHours(time(1, 0), time(23, 59)))
    for _ in range(2):
        world.write(anna, MessageKind.CHAT, None)
        world.run(10.0)
    assert world.look("SELECT count(*) FROM events WHERE event = 'look'") == [(1,)]
    reload(day, quiet_hours=None)
    world.run(10.0)
    assert [heard.seq for heard in rung(day)] == [3]


def test_a_clock_that_was_set_while_we_run_is_told_once_until_it_is_right_again(day: Day) -> None:
    core = day.world.core
    assert core is not None
    with structlog.testing.capture_logs() as logged:
        for off in (20.0, 7_200.0, 7_260.0, 0.5, -7_200.0):
            core.wall = off_by(core.clock, off)
            day.world.run(130.0)
    told = [(line["log_level"], line["seconds"]) for line in logged if "clock" in line["event"]]
    assert told == [("warning", 7_200), ("warning", -7_200)]


def test_who_has_more_unacknowledged_than_one_look_sees_is_rung_for_all(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Known, "UNACKED", 5)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    for number in range(20):
        world.write(anna, MessageKind.PROACTIVE, None if number < 15 else 20.0)
        world.run(0.1)
    world.run(30.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(300.0)
    assert Counter(world.model.outcomes.values()) == {"pushed": 15, "expired": 5}


def test_the_rows_of_a_tenant_that_is_not_configured_wait_for_it(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(5.0)
    (_, key), *_ = world.keys
    whole = world.config
    world.shut_down()
    world.config = replace(whole, tenants={"other": whole.tenants["other"]})
    world.start()
    world.run(60.0)
    world.deregister_late("phone-1", key)
    world.run(60.0)
    assert world.model.outcomes == {(1, 1): "pending"}
    world.shut_down()
    world.config = whole
    world.ears.mood = Mood.ACCEPTS
    world.start()
    world.run(60.0)
    assert {heard.token for heard in rung(day) if heard.took} == {"TOKEN-2"}
    assert len({heard.ring for heard in rung(day) if heard.token == "TOKEN-2"}) == 1
    assert world.model.outcomes == {(1, 1): "pushed"}


def test_a_sign_out_while_the_tenant_is_not_configured_settles_nothing_of_the_other_phone(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(15.0)
    (_, key), *_ = world.keys
    world.wish(anna, Wishes(quiet_hours="00:00-23:59"), world.now + 86_400.0)
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    whole = world.config
    world.shut_down()
    world.config = replace(whole, tenants={"other": whole.tenants["other"]})
    world.start()
    world.deregister_late("phone-1", key)
    world.run(60.0)
    world.shut_down()
    world.config = whole
    world.start()
    world.wish(anna, Wishes(), 0.0)
    world.run(60.0)
    assert {heard.token for heard in rung(day)} == {"TOKEN-2"}
    assert world.model.outcomes == {(1, 1): "pushed"}


def test_what_joins_held_before_takes_nothing_from_a_message_that_is_pending_again(
    day: Day,
) -> None:
    """It had been undeliverable meanwhile; the app registers, and comes into chat."""
    world, anna = day.world, day.world.person(*ANNA)
    world.run(15.0)
    first = world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(2.0)
    second = world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(20.0)
    assert first is not None
    assert second is not None
    first.line.end(ABNORMAL)
    second.line.end(ABNORMAL)
    world.run(600.0)
    assert world.model.outcomes == {(1, 1): "undeliverable"}
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(4.0)
    came = world.process.loop.time()
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(30.0)
    assert rung(day)[0].at >= due_in_chat(world, came)


def sandbox(day: Day) -> dict[str, PushBackend]:
    """A further backend of acme's, for phones of the sandbox."""
    acme = day.world.config.tenants["acme"].push
    assert acme is not None
    own = {name: getattr(acme, name) for name in Calls.__struct_fields__}
    return {"sand": PushBackend(**own, environment="sandbox")}


def test_of_what_one_phone_was_refused_the_rest_is_left_to_another(day: Day) -> None:
    """It had no backend for a while, and has been refused the first message before."""
    world, anna, ben = day.world, day.world.person(*ANNA), day.world.person("acme", "ben")
    backends = sandbox(day)
    reload(day, backends=backends)
    world.register(anna, "phone-1", "TOKEN-1", environment="sandbox")
    world.register(anna, "phone-2", "TOKEN-2")
    world.register(ben, "phone-3", "TOKEN-3")
    world.register(ben, "phone-4", "TOKEN-4")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(ben, MessageKind.PROACTIVE, None)
    core = world.core
    assert core is not None
    while not core._worker.loads()["acme", ""].open:
        world.run(0.3)
    world.ears.mood = Mood.REFUSES
    world.write(anna, MessageKind.PROACTIVE, None)
    while world.ears.log[-1].token != "TOKEN-1":
        world.run(0.02)
    world.ears.mood = Mood.FAILS
    reload(day, backends={})
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    reload(day, backends=backends)
    world.ears.mood = Mood.REFUSES
    world.run(200.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(200.0)
    told = [heard for heard in rung(day) if heard.token == "TOKEN-1" and heard.seq == 2]
    assert told, "the first phone is rung for what came after"


def test_what_a_phone_was_rung_for_since_is_not_laid_to_a_refusal(day: Day) -> None:
    """It had no backend at the first message, and is told anew at the next start of the app."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1", environment="sandbox")
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(5.0)
    reload(day, backends=sandbox(day))
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(5.0)
    assert [heard.seq for heard in rung(day)] == [2]
    world.register(anna, "phone-1", "TOKEN-1", environment="sandbox")
    world.run(30.0)
    with closing(sqlite3.connect(world.path)) as db:
        assert db.execute("SELECT DISTINCT reason FROM outcomes ORDER BY lo_seq").fetchall() == [
            ("no_endpoint",),
            (None,),
        ]


def test_a_ring_in_hand_does_not_wait_for_quiet_hours_that_were_lifted(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    reload(day, quiet_hours=QuietHours(time(0, 0), time(23, 59)))
    world.ears.mood = Mood.ACCEPTS
    world.run(60.0)
    failed = len(rung(day))
    reload(day, quiet_hours=None)
    world.run(1.0)
    assert len(rung(day)) == failed + 1


def test_a_ring_in_hand_does_not_wait_for_quiet_hours_of_two_reloads_ago(day: Day) -> None:
    """The second may come before all that waits was judged by the first. Of hours that end sooner
    than a backoff may, nothing else tells that it is not one."""
    world, anna = day.world, day.world.person(*ANNA)
    acme = world.config.tenants["acme"].push
    assert acme is not None
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    ends = datetime.fromtimestamp(world.now + 3600.0, UTC)
    reload(day, quiet_hours=QuietHours(time(0, 0), ends.time().replace(second=0, microsecond=0)))
    world.ears.mood = Mood.ACCEPTS
    world.run(60.0)
    failed = len(rung(day))
    world.configure("acme", replace(acme, quiet_hours=QuietHours(time(0, 0), time(0, 1))), 0.0)
    world.configure("acme", acme, 0.0)
    world.run(1.0)
    assert len(rung(day)) == failed + 1


def test_of_more_than_one_look_sees_an_opt_out_settles_only_what_was_seen(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Known, "UNACKED", 3)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.wish(anna, Wishes(proactive=False), 0.0)
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    for number in range(1, 10):
        world.write(anna, MessageKind.CHAT if number == 5 else MessageKind.PROACTIVE, None)
    world.run(1.0)
    assert visit is not None
    visit.line.end(1000)
    world.run(60.0)
    assert [heard.seq for heard in rung(day)] == [5]
    assert world.model.outcomes[1, 5] == "pushed"


def test_an_opt_out_is_settled_on_a_new_phone_beyond_what_one_look_sees(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new phone was not rung for the many before it, which another was."""
    monkeypatch.setattr(Known, "UNACKED", 3)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    for _ in range(10):
        world.write(anna, MessageKind.PROACTIVE, None)
        world.run(2.0)
    world.run(15.0)
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(15.0)
    assert Counter(world.model.outcomes.values()) == {"pushed": 10, "undeliverable": 1}


def test_what_a_busy_backend_asked_for_is_waited_for_though_its_ring_expires_before(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.BUSY
    world.write(anna, MessageKind.PROACTIVE, 5.0)
    world.run(1.0)
    world.ears.mood = Mood.ACCEPTS
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    first, second = rung(day)
    assert (first.seq, second.seq) == (1, 2)
    assert second.at >= first.at + 20.0


def test_a_ring_that_expires_during_its_call_takes_nothing_from_the_hold(day: Day) -> None:
    """Somebody came into chat meanwhile; what is left to be rung for waits for the replay."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.HANGS
    world.write(anna, MessageKind.PROACTIVE, 5.0)
    world.run(0.5)
    world.write(anna, MessageKind.CHAT, None)
    world.run(12.0)
    came = world.process.loop.time()
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [2]
    assert rung(day)[0].at >= due_in_chat(world, came)


def test_what_expires_while_others_are_in_chat_leaves_them_their_own_time(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, 4.0)
    world.run(3.0)
    wrote = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [3]
    assert rung(day)[0].at >= due_in_chat(world, wrote)


def test_what_came_after_a_message_that_expired_in_hand_has_its_own_time(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.PROACTIVE, 5.0)
    world.run(1.0)
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(4.5)
    wrote = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.ears.mood = Mood.ACCEPTS
    world.run(30.0)
    assert rung(day)[-1].seq == 2
    assert rung(day)[-1].at >= due_in_chat(world, wrote)


@pytest.mark.parametrize("takes", [4.0, 6.0])
def test_what_a_ring_took_along_leaves_no_due_time_to_what_came_after(
    day: Day, takes: float
) -> None:
    """It is accepted before, or after, the due time of what it took along. Day 1009774."""
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.rng = Takes(4.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.SLOW
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.2)
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.3)
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(4.8)
    world.ears.rng = Takes(takes)
    world.write(anna, MessageKind.CHAT, None)  # the next ring, for the second, takes it along
    world.run(3.5 if takes == 4.0 else 4.7)
    wrote = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1, 3, 5]
    assert rung(day)[-1].at >= due_in_chat(world, wrote)


def test_a_ring_that_expired_in_hand_leaves_what_it_took_along_its_own_time(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    world.ears.mood = Mood.BUSY
    world.write(anna, MessageKind.CHAT, 5.5)
    world.run(4.5)
    wrote = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.4)
    world.write(anna, MessageKind.CHAT, 1.0)
    world.run(0.6)
    world.ears.mood = Mood.ACCEPTS
    world.run(30.0)
    assert [heard.at >= due_in_chat(world, wrote) for heard in rung(day) if heard.seq == 2] == [
        True
    ]


@pytest.mark.parametrize("patience", [2.0, None])
def test_what_is_left_by_a_partial_ack_has_its_own_time(day: Day, patience: float | None) -> None:
    """What came next has expired meanwhile, or is all that was due."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    if patience is not None:
        world.write(anna, MessageKind.PROACTIVE, patience)
    world.run(3.5)
    wrote = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    visit.ack(1)
    world.run(30.0)
    assert [heard.at >= due_in_chat(world, wrote) for heard in rung(day)] == [True]


@pytest.mark.parametrize(
    ("patience", "moved", "looks"), [(4.0, ["in_chat", "left"], 1), (None, [], 2)]
)
def test_who_leaves_does_not_wait_for_what_was_not_due_in_chat(
    day: Day, patience: float | None, moved: list[str], looks: int
) -> None:
    """The due time of an older one has come, and the newer one waits for its own: before the device
    owes a ring, if the older one has expired, and on the device, if it is not wanted."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.wish(anna, Wishes(proactive=False), 0.0)
    visit = comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, patience)
    world.run(3.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(2.5)
    visit.bye(world.now)
    left = world.process.loop.time()
    world.run(30.0)
    assert [heard.at < left + 1.0 for heard in rung(day)] == [True]
    told = world.look("SELECT detail ->> 'reason' FROM events WHERE event = 'due_moved'")
    assert [reason for (reason,) in told] == moved
    # The one that waits, and the one that rings: what waits is not looked at all the time.
    assert world.look("SELECT count(*) FROM events WHERE event = 'look'") == [(looks,)]


def test_who_turns_to_the_background_has_no_grace(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    visit.turn(False, world.now)
    world.run(world.timing.disconnect_grace / 2)
    assert [heard.seq for heard in rung(day)] == [1]


def test_in_chat_a_mute_settles_only_what_is_due_before_its_end(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    world.wish(anna, Wishes(muted_until=world.now + 6.0), 0.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.9)
    world.write(anna, MessageKind.CHAT, None)
    world.run(60.0)
    assert world.model.outcomes == {(1, 1): "undeliverable", (1, 2): "pushed"}


@pytest.mark.parametrize("quiet", [False, True])
def test_what_expired_before_a_ring_was_claimed_was_not_pushed_by_it(
    day: Day, *, quiet: bool
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.RESETS  # nothing reaches the backend
    if quiet:
        world.wish(anna, Wishes(quiet_hours="00:00-23:59"), world.now + 86_400.0)
    for patience in (None, 10.0, 10.0, None, 10.0) if quiet else (10.0,):
        world.write(anna, MessageKind.PROACTIVE, patience)
    world.run(60.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(1800.0)
    if quiet:
        world.wish(anna, Wishes(), 0.0)
    else:
        world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    told = [world.model.outcomes[1, seq] for seq in range(1, len(world.model.outcomes) + 1)]
    gone = ["pushed", "expired", "expired", "pushed", "expired"]
    assert told == (gone if quiet else ["expired", "pushed"])


def test_an_ack_of_a_part_that_makes_nothing_due_at_another_time_is_no_move(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    first = world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    assert first is not None
    world.run(15.0)
    for _ in range(3):
        world.write(anna, MessageKind.CHAT, None)
        world.run(0.5)
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(0.5)
    first.ack(1)
    world.run(0.1)
    moved = world.look("SELECT detail ->> 'reason' FROM events WHERE event = 'due_moved'")
    assert moved == [("held",)], "until an ack timeout after the second session came"


def test_with_a_claim_the_hold_of_what_it_covers_is_over(day: Day) -> None:
    """That of its retries is counted anew (rule 5): its own first hold took from it."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    world.visit(anna, active=True, acks=False, resume=False, ttl=9999.0)
    world.run(0.1)
    asked = "SELECT hold_from IS NULL, (SELECT ring IS NULL FROM ringing) FROM conversations"
    assert world.look(asked) == [(0, 1)]
    world.ears.mood = Mood.FAILS
    world.run(5.1)
    assert world.look(asked) == [(1, 0)]


def test_of_whom_more_was_acknowledged_than_was_owed_the_look_says_so(day: Day) -> None:
    """What came after the fan-out was acknowledged with it, while the look waited for its turn."""
    world, (anna, ben) = day.world, two_with_one_slot(day)
    world.run(15.0)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.CHAT, None)
    world.run(0.5)
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    visit = comes(world, anna)
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    visit.ack(2)
    world.run(30.0)
    asked = """SELECT detail ->> 'action', detail ->> 'reason' FROM events e
        JOIN conversations c ON c.id = e.conversation WHERE event = 'look' AND customer = 'anna'"""
    assert world.look(asked)[-1:] == [("skip", "acked")]
    assert [heard.customer for heard in rung(day)] == ["ben"]


def test_while_a_ring_is_called_again_and_again_nothing_is_due_anew(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(120.0)
    assert len(world.look("SELECT 1 FROM events WHERE event = 'attempt'")) > 3
    assert world.look("SELECT count(*) FROM events WHERE event = 'due'") == [(1,)]


def test_without_any_endpoint_that_is_the_reason_whoever_has_a_phone(day: Day) -> None:
    """Nobody need look for why this customer has none."""
    world, anna = day.world, day.world.person(*ANNA)
    asked = "SELECT outcome, reason FROM outcomes"
    reload(day)
    world.write(anna, MessageKind.CHAT, None)
    world.run(15.0)
    assert world.look(asked) == [("undeliverable", "no_endpoint")]
    world.register(anna, "phone-1", "TOKEN-1")
    world.write(anna, MessageKind.CHAT, None)
    world.run(15.0)
    assert world.look(asked) == [("undeliverable", "no_endpoint")]


def test_a_dead_phone_is_not_looked_at_again_for_a_message_or_for_its_icon(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.GONE
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.ACCEPTS
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(10.0)
    visit = comes(world, anna)
    world.run(1.0)
    visit.read(1)
    world.run(1.0)
    visit.line.end(ABNORMAL)
    world.run(5.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    asked = "SELECT detail ->> 'installation' FROM events WHERE event = 'look'"
    looks = Counter(phone for (phone,) in world.look(asked))
    assert looks["phone-1"] == 1
    assert looks["phone-2"] >= 2


def test_a_phone_that_is_being_rung_for_it_owes_nothing_more_when_another_comes(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(30.0)
    asked = """SELECT installation, owes, ring IS NULL FROM devices JOIN ringing ON device = id
        ORDER BY installation"""
    assert world.look(asked) == [("phone-1", 0, 0), ("phone-2", 0, 0)]


def test_who_came_and_left_during_a_call_does_not_hold_its_retry(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.HANGS
    world.write(anna, MessageKind.CHAT, None)
    world.run(14.0)
    visit = comes(world, anna)
    world.run(0.5)
    visit.line.end(ABNORMAL)
    world.run(10.0)
    asked = "SELECT max(at) - min(at) FROM events WHERE event = 'look'"
    ((waited,),) = world.look(asked)
    assert 15.0 < waited < 16.5, "its timeout and its backoff, not the hold of 5 s"


def test_a_verdict_that_is_handed_in_twice_says_nothing_of_the_next_ring(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    core = world.core
    assert core is not None
    settle, settled = core.book.settle, []

    async def settling(*told: Any) -> None:
        settled.append(told)
        await settle(*told)

    monkeypatch.setattr(core.book, "settle", settling)
    world.register(anna, "phone-1", "TOKEN-1")
    world.write(anna, MessageKind.CHAT, None)
    world.run(15.0)
    world.ears.mood = Mood.HANGS
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    world.spawn(settle(*settled[0]))
    world.run(1.0)
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "pending"}
    assert world.look("SELECT count(*) FROM events WHERE event = 'late_verdict'") == [(1,)]


def test_what_another_phone_takes_changes_nothing_of_what_is_recorded_as_pushed(day: Day) -> None:
    """It registered behind a system message, and so begins within what the first one was rung for:
    the record was taken out and written anew, from there on."""
    world, anna = day.world, day.world.person(*ANNA)
    reload(day, in_flight=1)
    world.write(anna, MessageKind.CHAT, 0.3)
    world.run(1.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.write(anna, MessageKind.SYSTEM, None)
    world.run(1.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    assert [heard.token for heard in rung(day)] == ["TOKEN-1", "TOKEN-2"]
    recorded = world.look("SELECT lo_seq, hi_seq, outcome FROM outcomes")
    assert recorded == [(0, 1, "undeliverable"), (1, 3, "pushed")]


def test_who_is_beyond_what_one_look_sees_is_not_taken_for_opted_out(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two phones one waits for its turn, at a message that the other is far beyond."""
    monkeypatch.setattr(Known, "UNACKED", 3)
    world, anna, ben = day.world, day.world.person(*ANNA), day.world.person("acme", "ben")
    reload(day, backends={"sand": replace(sandbox(day)["sand"], in_flight=1)})
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(anna, "phone-2", "TOKEN-2", environment="sandbox")
    world.register(ben, "phone-3", "TOKEN-3", environment="sandbox")
    world.wish(anna, Wishes(proactive=False), 0.0)
    visit = comes(world, anna)
    world.run(15.0)
    world.ears.mood = Mood.HANGS
    world.write(ben, MessageKind.CHAT, None)
    world.run(0.5)
    world.ears.mood = Mood.ACCEPTS
    for number in range(1, 10):
        world.write(anna, MessageKind.CHAT if number == 5 else MessageKind.PROACTIVE, None)
    world.run(1.0)
    visit.line.end(1000)
    world.run(3.0)
    world.deregister(anna, "phone-2")
    world.run(60.0)
    assert 5 in [heard.seq for heard in rung(day) if heard.customer == "anna" and heard.took]


def test_a_refused_badge_makes_no_refusal_of_what_was_muted(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    reload(day, breaker_after=1000)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(anna, "phone-2", "TOKEN-2")
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    assert visit is not None
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.BUSY
    world.write(anna, MessageKind.CHAT, None)
    world.run(3.5)
    world.register(anna, "phone-2", "TOKEN-3")  # its ring is given up; it owes in 5 s
    world.wish(anna, Wishes(muted_until=world.now + 8.0), 0.0)
    world.run(7.0)
    world.ears.mood = Mood.REFUSES
    visit.read(2)
    world.run(4.0)
    world.ears.mood = Mood.GONE
    world.run(60.0)
    assert world.look("SELECT reason FROM outcomes ORDER BY lo_seq DESC LIMIT 1") == [("muted",)]


def test_what_lacked_a_phone_lacks_one_again_when_the_new_one_goes(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1", environment="sandbox")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    reload(day, backends=sandbox(day))
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(1.0)
    world.deregister(anna, "phone-2")
    world.run(10.0)
    assert world.look("SELECT reason FROM outcomes ORDER BY lo_seq LIMIT 1") == [("no_device",)]
    assert world.look("SELECT push_due_at FROM conversations") == [(None,)]


def test_what_lacked_a_phone_and_has_expired_is_not_taken_up_for_a_new_one(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    world.write(anna, MessageKind.CHAT, 5.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(10.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(10.0)
    assert world.model.outcomes == {(1, 1): "undeliverable", (1, 2): "pushed"}


def test_who_says_again_to_be_in_chat_has_no_longer_to_acknowledge(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(15.0)
    written = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.0)
    visit.line.say("state", state="active")
    world.run(10.0)
    assert [heard.seq for heard in rung(day)] == [1]
    assert rung(day)[0].at < written + world.timing.ack_timeout + 1.0


def test_who_turns_to_the_chat_is_not_rung_before_there_was_time_to_acknowledge(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = world.visit(anna, active=False, acks=False, resume=False, ttl=9999.0)
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    failed = len(rung(day))
    world.ears.mood = Mood.ACCEPTS
    turned = world.process.loop.time()
    assert visit is not None
    visit.turn(True, turned)
    world.run(30.0)
    assert [heard.seq for heard in rung(day)[failed:]] == [1]
    assert rung(day)[failed].at >= due_in_chat(world, turned)


def test_acks_of_older_messages_do_not_hold_the_rest_for_longer(day: Day) -> None:
    """A flapping phone that gets one older message through each time."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(10.0)
    visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
    world.run(1.0)
    for _ in range(50):
        world.write(anna, MessageKind.CHAT, None)
    world.run(0.1)
    began = world.now
    for number in range(1, 50):
        world.run(0.9)
        assert visit is not None
        visit.ack(number)
        world.run(0.1)
        visit.line.end(ABNORMAL)
        visit = world.visit(anna, active=True, acks=False, resume=False, ttl=3600.0)
        world.run(0.5)
        if rung(day):
            break
    assert world.now - began < world.timing.max_hold + 5.0


@pytest.mark.parametrize("hours", [1.0, 12.0])
def test_a_ring_in_hand_does_not_wait_for_quiet_hours_that_a_restart_lifted(
    day: Day, hours: float
) -> None:
    """Hours that end sooner than a backoff may, too."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.5)
    ends = datetime.fromtimestamp(world.now + 3600.0 * hours, UTC)
    reload(day, quiet_hours=QuietHours(time(0, 0), ends.time().replace(second=0, microsecond=0)))
    world.ears.mood = Mood.ACCEPTS
    world.run(60.0)
    failed = len(rung(day))
    acme = world.config.tenants["acme"]
    assert acme.push is not None
    world.shut_down()
    world.configure("acme", replace(acme.push, quiet_hours=None), 0.0)
    world.start()
    world.run(100.0)
    assert len(rung(day)) == failed + 1


def test_what_expired_while_its_device_waited_takes_nothing_along_within_a_grace(day: Day) -> None:
    """Found by day 1004078."""
    world, (anna, ben) = day.world, two_with_one_slot(day)
    visit = comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, 6.0)
    world.run(4.5)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.CHAT, None)
    world.run(3.4)
    world.ears.mood = Mood.ACCEPTS
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.2)
    visit.line.end(ABNORMAL)
    left = world.process.loop.time()
    world.run(30.0)
    rings = [heard for heard in rung(day) if heard.customer == "anna"]
    assert [heard.seq for heard in rings] == [2]
    assert 1.0 <= rings[0].at - left < 2.0


@pytest.mark.parametrize("read", [False, True])
def test_a_ring_that_is_given_up_says_whether_it_was_read_or_only_acknowledged(
    day: Day, read: bool
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.run(2.0)
    visit = comes(world, anna)
    world.run(1.0)
    (visit.read if read else visit.ack)(1)
    world.run(60.0)
    given_up = (
        "SELECT json_extract(detail, '$.reason') FROM events WHERE event = 'look'"
        " AND json_extract(detail, '$.action') = 'cancel'"
    )
    assert world.look(given_up) == [("read" if read else "acked",)]


def test_an_opt_out_settles_nothing_of_what_came_after_and_is_not_yet_due(day: Day) -> None:
    world, (anna, ben) = day.world, two_with_one_slot(day)
    comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(4.5)
    world.ears.mood = Mood.SLOW
    world.write(ben, MessageKind.CHAT, None)
    world.run(2.0)  # the first message is due, and its look waits for the only slot
    world.ears.mood = Mood.ACCEPTS
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.run(0.5)
    written = world.process.loop.time()
    world.write(anna, MessageKind.CHAT, None)
    world.run(30.0)
    rings = [heard for heard in rung(day) if heard.customer == "anna"]
    assert [heard.seq for heard in rings] == [2]
    assert rings[0].at >= due_in_chat(world, written)
    looks = "SELECT count(*) FROM events WHERE event = 'look' AND seq <= 2 AND conversation = ?"
    assert world.look(looks, (1,)) == [(2,)]
    unwanted = "SELECT from_seq, seq FROM events WHERE detail LIKE '%opted_out%' AND event = 'look'"
    assert world.look(unwanted) == [(1, 1)]


def test_what_a_ring_takes_along_was_looked_at_with_the_rest(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    comes(world, anna)
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(3.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.0)
    assert [heard.seq for heard in rung(day)] == [2]
    assert world.look("SELECT from_seq, seq FROM events WHERE event = 'look'") == [(1, 2)]


def test_in_chat_what_nobody_rings_for_has_its_own_time_too(day: Day) -> None:
    """A chat message is due; the proactive one that the customer opted out of is not."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    comes(world, anna)
    world.run(15.0)
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.5)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(2.0)
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "pending"}
    world.run(30.0)
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "undeliverable"}
    assert [heard.seq for heard in rung(day)] == [1]


def test_what_nobody_rings_for_takes_nothing_along_within_a_grace(day: Day) -> None:
    """Like day 20002159, whose older message had expired when the device was looked at."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(15.0)
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(4.3)
    world.write(anna, MessageKind.CHAT, None)
    world.run(0.2)
    visit.line.end(ABNORMAL)
    left = world.process.loop.time()
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [2]
    assert 1.0 <= rung(day)[0].at - left < 2.0


def test_who_has_just_come_into_chat_is_not_rung_when_quiet_hours_are_lifted(day: Day) -> None:
    """Found by day 20000692."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.wish(anna, Wishes(quiet_hours="00:00-23:59"), 0.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(4.5)
    assert rung(day) == []
    comes(world, anna)
    began = world.process.loop.time()
    world.run(0.1)
    world.wish(anna, Wishes(), 0.0)
    world.run(30.0)
    assert [heard.seq for heard in rung(day)] == [1]
    assert rung(day)[0].at >= due_in_chat(world, began)


def test_an_icon_is_corrected_in_quiet_hours_too(day: Day) -> None:
    """Of two phones both wait for the morning; on a third all is read."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.wish(anna, Wishes(quiet_hours="00:00-23:59"), world.now + 86_400.0)
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    visit = comes(world, anna)
    world.run(1.0)
    visit.read(2)
    world.run(60.0)
    assert [heard.kind for heard in world.ears.log] == ["message", "message", "badge", "badge"]


def test_a_correction_of_an_icon_that_fails_is_tried_again(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.FAILS
    comes(world, anna).read(1)
    world.run(1.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(60.0)
    badges = [heard for heard in world.ears.log if heard.kind == "badge"]
    assert badges[-1].took
    assert len({(heard.ring, heard.body) for heard in badges}) == 1
    assert len(badges) > 1


@pytest.mark.parametrize("meanwhile", ["acked", "new token", "taken out", "dead"])
def test_a_correction_of_an_icon_that_could_not_be_told_is_owed_until_one_is(
    day: Day, meanwhile: str
) -> None:
    """The backend fails, and the number that it could not be told is of no use any more."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.FAILS
    visit = comes(world, anna)
    visit.read(1)
    world.run(0.3)
    assert [heard.kind for heard in world.ears.log] == ["message", "badge"]
    read = 1
    match meanwhile:
        case "acked":
            world.write(anna, MessageKind.CHAT, None)
            world.run(0.3)
            visit.ack(2)
            read = 2
        case "new token":
            world.register(anna, "phone-1", "TOKEN-2")
        case "taken out":
            push = world.settings["acme"][-1].push
            world.configure("acme", None, 0.0)
            world.run(5.0)
            world.configure("acme", push, 0.0)
        case _:
            world.ears.mood = Mood.GONE
            world.run(60.0)
            world.register(anna, "phone-1", "TOKEN-2")
    world.run(1.0)
    world.ears.mood = Mood.ACCEPTS
    world.run(100.0)
    visit.read(read)
    world.run(100.0)
    told = [orjson.loads(h.body)["payload"]["aps"]["badge"] for h in world.ears.log if h.took]
    assert told[0] == 1
    assert told[-1] == 0


def test_a_correction_of_an_icon_that_expires_is_not_followed_by_another(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    push = world.settings["acme"][-1].push
    assert push is not None
    world.configure("acme", replace(push, expires_after=30.0), 0.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    world.ears.mood = Mood.FAILS
    comes(world, anna).read(1)
    world.run(300.0)
    assert len({heard.ring for heard in world.ears.log}) == 2


def test_what_may_have_rung_already_is_not_settled_by_an_opt_out_on_another_phone(
    day: Day,
) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.ears.rng = Takes(4.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.SLOW
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(0.5)
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(0.5)
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    assert [(heard.token, heard.seq) for heard in rung(day)] == [("TOKEN-1", 1), ("TOKEN-2", 2)]
    world.run(60.0)
    assert world.model.outcomes == {(1, 1): "pushed", (1, 2): "pushed"}


def test_what_had_expired_beyond_what_one_look_sees_is_not_pushed_by_a_new_phone(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Known, "UNACKED", 3)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    for _ in range(10):
        world.write(anna, MessageKind.PROACTIVE, 5.0)
        world.run(0.1)
    world.run(60.0)
    assert Counter(world.model.outcomes.values()) == {"expired": 10}
    world.ears.mood = Mood.ACCEPTS
    world.register(anna, "phone-2", "TOKEN-2")
    world.run(10.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(100.0)
    assert Counter(world.model.outcomes.values()) == {"expired": 10, "pushed": 1}


@pytest.mark.parametrize("mood", [Mood.ACCEPTS, Mood.FAILS])
def test_what_expired_while_nobody_ran_is_neither_pushed_nor_pending_however_many_there_are(
    day: Day, monkeypatch: pytest.MonkeyPatch, mood: Mood
) -> None:
    """What came last has not expired, and is rung for at once."""
    monkeypatch.setattr(Known, "UNACKED", 3)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    for _ in range(10):
        world.write(anna, MessageKind.PROACTIVE, 60.0)
        world.run(0.1)
    world.shut_down()
    world.run(100.0)
    world.ears.mood = mood
    world.start()
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(30.0)
    last = "pushed" if mood is Mood.ACCEPTS else "pending"
    assert Counter(world.model.outcomes.values()) == {"expired": 10, last: 1}


def test_what_expired_unseen_amid_very_many_expires_when_its_turn_comes(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be due, and its device let be, again and again. Day 1034."""
    monkeypatch.setattr(Known, "UNACKED", 2)
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    for _ in range(5):
        world.write(anna, MessageKind.PROACTIVE, 5.0)
    world.run(30.0)
    world.ears.mood = Mood.REFUSES
    world.run(90.0)
    told = [outcome for _, outcome in sorted(world.model.outcomes.items())]
    assert told == ["undeliverable", *["expired"] * 5]


def test_what_expires_at_once_without_a_gap_is_one_thing_that_happened(day: Day) -> None:
    """A thousand messages were a thousand rows and receipts, and for 25 ms nobody was served."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    for number in range(6):
        world.write(anna, MessageKind.PROACTIVE, None if number == 2 else 30.0 - number)
        world.run(1.0)
    world.run(40.0)
    told = [outcome for _, outcome in sorted(world.model.outcomes.items())]
    assert told == ["expired", "expired", "pending", "expired", "expired", "expired"]
    happened = "SELECT from_seq, seq FROM events WHERE event = 'outcome' ORDER BY id"
    assert world.look(happened) == [(1, 2), (4, 6)]


def test_what_a_registration_makes_pending_again_is_one_thing_that_happened(day: Day) -> None:
    """With a thousand messages that had lacked a device 20 ms of the loop, and as many rows."""
    world, anna = day.world, day.world.person(*ANNA)
    world.run(15.0)
    for number in range(6):
        world.write(anna, MessageKind.PROACTIVE, 5.0 if number == 2 else None)
        world.run(1.0)
    world.run(10.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(30.0)
    told = [outcome for _, outcome in sorted(world.model.outcomes.items())]
    assert told == ["pushed", "pushed", "undeliverable", "pushed", "pushed", "pushed"]
    again = 'SELECT from_seq, seq FROM events WHERE detail LIKE \'%"outcome":"pending"%\''
    assert world.look(again) == [(1, 2), (4, 6)]


@pytest.mark.parametrize("after", range(100, 400, 20))
def test_what_expires_while_a_look_waits_is_not_laid_to_a_wish(day: Day, after: int) -> None:
    """It is the newest of what nobody is rung for, as the customer wants. Day 95000841."""
    world, anna = day.world, day.world.person(*ANNA)
    world.run(15.0)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    world.wish(anna, Wishes(proactive=False), 0.0)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(world.timing.ack_timeout - 0.1)
    world.disk.rng = Slow(1)
    world.write(anna, MessageKind.CHAT, after / 1000)
    world.run(30.0)
    rang = after >= 220  # the claim is then
    assert len(rung(day)) == rang
    assert world.model.outcomes == {
        (1, 1): "undeliverable",
        (1, 2): "pushed" if rang else "expired",
    }


@pytest.mark.parametrize("after", range(100, 400, 20))
def test_what_expires_while_its_ring_is_accepted_is_pushed(day: Day, after: int) -> None:
    """The verdict may wait for the writer behind the expiry: what was claimed before it rang."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.disk.rng = Slow(1)
    world.write(anna, MessageKind.CHAT, after / 1000)
    world.run(30.0)
    assert world.model.outcomes == {(1, 1): "pushed" if rung(day) else "expired"}


def test_what_has_expired_when_its_only_phone_goes_is_not_undeliverable(day: Day) -> None:
    """It expires while what a deregistration judges is read."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.PROACTIVE, 5.0)
    world.run(4.99)
    world.disk.rng = Slow(1)
    world.deregister(anna, "phone-1")
    world.run(30.0)
    assert world.model.outcomes == {(1, 1): "expired"}


def opts_out_and_in_again(day: Day) -> Customer:
    """1 is wanted, and fails; 2 is given up; the phone that owes both has a new token."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.wish(anna, Wishes(proactive=False), 0.0)
    visit = comes(world, anna)
    world.run(15.0)
    world.ears.mood = Mood.FAILS
    world.write(anna, MessageKind.CHAT, None)
    world.write(anna, MessageKind.PROACTIVE, None)
    world.run(1.0)
    visit.line.end(1000)
    world.run(3.0)
    assert world.model.outcomes == {(1, 1): "pending", (1, 2): "undeliverable"}
    world.wish(anna, Wishes(), 0.0)
    world.register(anna, "phone-1", "TOKEN-2")
    world.ears.mood = Mood.ACCEPTS
    return anna


def test_what_was_given_up_is_not_shown_for_what_was_not(day: Day) -> None:
    opts_out_and_in_again(day)
    day.world.run(30.0)
    assert [(heard.token, heard.seq) for heard in rung(day) if heard.took] == [("TOKEN-2", 1)]
    assert day.world.model.outcomes == {(1, 1): "pushed", (1, 2): "undeliverable"}


def test_nobody_is_rung_for_nothing_but_what_was_given_up(day: Day) -> None:
    visit = comes(day.world, opts_out_and_in_again(day))
    day.world.run(0.2)
    visit.read(1)
    day.world.run(0.2)
    visit.line.end(1000)
    day.world.run(30.0)
    assert [heard for heard in rung(day) if heard.took] == []
    assert day.world.model.outcomes == {(1, 1): "acked", (1, 2): "undeliverable"}


def words_of(world: World, seq: int) -> dict[str, Any]:
    """What `ringback why` says of a message of Anna's."""
    assert world.core is not None
    told = world.process.loop.run_until_complete(world.core.store.told(Key(*ANNA), seq))
    assert told is not None
    return in_words(deliveries(told, world.now))


def test_a_ring_for_what_came_later_is_not_said_to_be_sent_for_what_had_expired(day: Day) -> None:
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    visit = comes(world, anna)
    world.run(10.0)
    world.write(anna, MessageKind.CHAT, 3.0)
    world.run(4.0)
    visit.line.end(1000)
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(5.0)
    assert world.model.outcomes == {(1, 1): "expired", (1, 2): "pushed"}
    expired, pushed = words_of(world, 1), words_of(world, 2)
    assert expired["summary"][-1] == "Not acknowledged; no ring sent for it."
    assert expired["events"][-1]["event"] == "outcome"
    assert pushed["summary"][-1] == "Not acknowledged; 1 ring sent for it."


def test_what_nobody_acknowledged_is_not_said_to_be_acknowledged(day: Day) -> None:
    """It expired in chat, and then an icon turned out to need no correction any more."""
    world, anna = day.world, day.world.person(*ANNA)
    world.register(anna, "phone-1", "TOKEN-1")
    world.run(1.0)
    world.write(anna, MessageKind.CHAT, None)
    world.run(1.0)
    visit = comes(world, anna)
    world.run(10.0)
    world.ears.mood = Mood.LATE
    visit.read(1)
    world.run(5.0)
    world.write(anna, MessageKind.CHAT, 3.0)
    world.run(20.0)
    assert world.model.outcomes[1, 2] == "expired"
    assert world.look("SELECT count(*) FROM events WHERE detail LIKE '%superseded%'") == [(1,)]
    assert "already acknowledged" not in str(words_of(world, 2))
