"""Particular days on the virtual clock, told step by step: what takes too long to wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.protocol import MessageKind
from tests.simulation.days import Day
from tests.simulation.ears import Heard, Mood
from tests.simulation.peers import ABNORMAL

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


def rung(day: Day) -> list[Heard]:
    return [heard for heard in day.world.ears.log if heard.kind != "badge"]


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
