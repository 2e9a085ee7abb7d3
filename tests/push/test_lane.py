"""Whose turn it is at one endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from push import breaker
from push.lane import INITIAL_WINDOW, Lane, Turn
from push.ring import DeviceRef, Pause
from tests.push.scripted import an_endpoint

NOW = 1_000_000.0
FIRST, SECOND, THIRD = (DeviceRef("acme", "c-42", device) for device in (1, 2, 3))


def a_lane(*woken: DeviceRef, down: float | None = None, **changes: Any) -> Lane:
    """A lane whose breaker is open until `down`, if given."""
    lane = Lane(an_endpoint(**changes))
    if down is not None:
        lane.health = replace(breaker.WELL, until=down)
    for ref in woken:
        lane.wake(ref)
    return lane


def take(lane: Lane, now: float = NOW) -> Turn | float | None:
    turn = lane.turn(now)
    if isinstance(turn, Turn):
        lane.working[turn.ref] = None
    return turn


def test_turns_come_in_the_order_of_waking_and_once_each() -> None:
    lane = a_lane(FIRST, SECOND, FIRST)
    assert [take(lane), take(lane), take(lane)] == [Turn(FIRST), Turn(SECOND), None]


def test_there_are_in_flight_turns_at_a_time() -> None:
    lane = a_lane(FIRST, SECOND, in_flight=1)
    turn = take(lane)
    assert take(lane) is None
    assert turn == Turn(FIRST)
    lane.done(turn, called=True, parked=False)
    assert take(lane) == Turn(SECOND)


def taken(lane: Lane) -> list[Turn]:
    """All the turns that there are now."""
    found = []
    while isinstance(turn := take(lane), Turn):
        found.append(turn)
    return found


def many(count: int) -> list[DeviceRef]:
    return [DeviceRef("acme", "c-42", device) for device in range(count)]


def test_few_calls_go_out_at_first_and_with_each_that_ends_one_more() -> None:
    lane = a_lane(*many(200), in_flight=INITIAL_WINDOW + 4)
    begun = taken(lane)
    assert len(begun) == INITIAL_WINDOW
    for more in (2, 2, 2, 2, 1, 1):
        lane.done(begun.pop(), called=True, parked=False)
        fresh = taken(lane)
        assert len(fresh) == more
        begun = fresh + begun


def test_what_ends_without_a_call_lets_no_further_calls_go_out() -> None:
    lane = a_lane(*many(200), in_flight=200)
    first, *_ = taken(lane)
    lane.done(first, called=False, parked=False)
    assert len(taken(lane)) == 1


def test_after_a_quiet_moment_it_begins_anew() -> None:
    lane = a_lane(*many(200), in_flight=200)
    while begun := taken(lane):
        for turn in begun:
            lane.done(turn, called=True, parked=False)
    for ref in many(200):
        lane.wake(ref)
    assert len(taken(lane)) == INITIAL_WINDOW


def test_of_other_settings_nothing_is_known() -> None:
    lane = a_lane(*many(200), in_flight=200)
    for turn in taken(lane)[1:]:
        lane.done(turn, called=True, parked=False)
    lane.take_up(an_endpoint(in_flight=100))
    assert len(taken(lane)) == INITIAL_WINDOW - 1


def test_who_wants_no_turn_any_more_gets_none() -> None:
    lane = a_lane(FIRST, SECOND)
    lane.parked[THIRD] = None
    for ref in (FIRST, THIRD):
        lane.forget(ref)
    assert [take(lane), take(lane)] == [Turn(SECOND), None]


def test_while_the_endpoint_is_down_everybody_is_told_once_and_parked() -> None:
    lane = a_lane(FIRST, SECOND, down=NOW + 5.0)
    for ref in (FIRST, SECOND):
        turn = take(lane)
        assert turn == Turn(ref, Pause.ENDPOINT_DOWN)
        lane.done(turn, called=False, parked=True)
        lane.wake(ref)
    assert take(lane) == NOW + 5.0


def test_a_probe_is_the_first_who_was_parked_and_nobody_goes_beside_it() -> None:
    lane = a_lane(THIRD, down=NOW)
    lane.parked.update({FIRST: None, SECOND: None})
    turn = take(lane)
    assert turn == Turn(FIRST, probe=True)
    told = take(lane)
    assert told == Turn(THIRD, Pause.ENDPOINT_DOWN)
    lane.done(told, called=False, parked=True)
    assert take(lane) is None
    lane.done(turn, called=False, parked=False)
    assert take(lane) == Turn(SECOND, probe=True)


def test_a_probe_whose_result_is_known_is_not_given_back() -> None:
    lane = a_lane(FIRST, down=NOW)
    turn = take(lane)
    assert isinstance(turn, Turn)
    lane.health = breaker.WELL
    lane.done(turn, called=True, parked=False)
    assert lane.health == breaker.WELL


def test_the_rate_makes_turns_wait_and_what_was_not_used_is_given_back() -> None:
    lane = a_lane(FIRST, SECOND, THIRD, rate_per_second=10.0)
    turn = take(lane)
    assert isinstance(turn, Turn)
    assert take(lane) == NOW + 0.1
    lane.done(turn, called=False, parked=False)
    turn = take(lane)
    assert turn == Turn(SECOND)
    lane.done(turn, called=True, parked=False)
    assert take(lane) == NOW + 0.1
    assert take(lane, NOW + 0.1) == Turn(THIRD)


def test_to_be_told_of_a_pause_costs_nothing_of_the_rate() -> None:
    lane = a_lane(FIRST, SECOND, down=NOW + 5.0, rate_per_second=0.1)
    for ref in (FIRST, SECOND):
        turn = take(lane)
        assert turn == Turn(ref, Pause.ENDPOINT_DOWN)
        lane.done(turn, called=False, parked=True)
    assert take(lane, NOW + 5.0) == Turn(FIRST, probe=True)


def test_after_the_end_nobody_has_a_turn() -> None:
    lane = a_lane(FIRST, SECOND)
    turn = take(lane)
    assert isinstance(turn, Turn)
    lane.again[FIRST] = ""
    lane.parked[THIRD] = None
    lane.clear()
    lane.done(turn, called=True, parked=False)
    assert take(lane) is None
    assert lane.again == {}


def test_new_settings_begin_with_a_clean_slate() -> None:
    lane = a_lane(FIRST, SECOND, down=NOW + 60.0, rate_per_second=0.1)
    lane.is_gone = True
    lane.pace.take(NOW, 0.1)
    lane.take_up(an_endpoint(rate_per_second=10.0))
    assert take(lane) == Turn(FIRST)
    assert not lane.is_gone
