"""Back-off and rejection waves, as functions of time and chance."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.retry import PACE_AHEAD, WAVE_SECONDS, Pace, RejectionWave, delay
from tests.dice import Highest, Lowest


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (10**9, 300)]
)
def test_the_longest_delay_doubles_from_one_second_to_five_minutes(
    attempt: int, longest: float
) -> None:
    assert delay(attempt, Highest(), 1.0, 300.0) == longest


def test_jitter_reaches_down_to_no_delay_at_all() -> None:
    assert delay(5, Lowest(), 1.0, 300.0) == 0.0


def test_jitter_spreads_the_devices_over_the_whole_span() -> None:
    rng = Random(7)
    drawn = [delay(10, rng, 1.0, 300.0) for _ in range(1000)]
    assert min(drawn) < 30 < 270 < max(drawn)


@given(
    attempt=st.integers(1, 100),
    seed=st.integers(),
    wish=st.floats(0, 3600),
)
def test_retry_after_is_a_floor_and_the_jitter_comes_on_top(
    attempt: int, seed: int, wish: float
) -> None:
    assert wish <= delay(attempt, Random(seed), 1.0, 300.0, wish) <= wish + 300.0


def wave_of(dead: int, alive: int, at: float = 1000.0) -> RejectionWave:
    wave = RejectionWave()
    for number in range(dead + alive):
        wave.record(at, dead=number < dead)
    return wave


@pytest.mark.parametrize(
    ("dead", "alive", "expected"),
    [
        (0, 0, False),
        (20, 0, False),
        (21, 0, True),
        (21, 20, True),
        (21, 21, False),
        (1000, 1001, False),
        (1001, 1000, True),
    ],
)
def test_a_wave_is_more_than_twenty_and_more_than_half(
    dead: int, alive: int, expected: bool
) -> None:
    assert wave_of(dead, alive).is_wave(1000.0) is expected


def test_a_wave_is_over_a_minute_later() -> None:
    wave = wave_of(50, 0)
    assert wave.is_wave(1059.0)
    assert not wave.is_wave(1060.0)


def test_rejections_spread_over_more_than_a_minute_are_no_wave() -> None:
    wave = RejectionWave()
    for second in range(0, 400, 4):
        wave.record(float(second), dead=True)
        assert not wave.is_wave(float(second))


def test_good_answers_of_the_same_minute_weigh_against_a_wave() -> None:
    wave = wave_of(0, 30, at=1000.0)
    for number in range(25):
        wave.record(1030.0, dead=True)
        assert not wave.is_wave(1030.0), number
    assert wave.is_wave(1060.0)


def test_good_answers_weigh_for_a_minute_of_their_own_whenever_the_first_one_came() -> None:
    wave = wave_of(0, 1, at=1000.0)
    for number in range(55):
        wave.record(1030.0, dead=number < 25)
    assert not wave.is_wave(1060.0)


def test_memory_stays_bounded_under_any_traffic() -> None:
    wave = RejectionWave()
    for tenth in range(20_000):
        wave.record(1000.0 + tenth / 10, dead=tenth % 3 == 0)
    assert len(wave._seconds) <= WAVE_SECONDS


def test_a_clock_that_steps_back_loses_no_answer() -> None:
    wave = wave_of(15, 0, at=1000.0)
    for _ in range(10):
        wave.record(990.0, dead=True)
    assert wave.is_wave(990.0)
    assert wave.is_wave(1000.0)


# The pace of calls.


def taken_in(seconds: float, rate: float, step: float = 0.001) -> list[float]:
    """When calls could go out, asked at every step."""
    pace, taken, now = Pace(), [], 0.0
    while now < seconds:
        while pace.take(now, rate) == 0.0:
            taken.append(now)
        now += step
    return taken


@pytest.mark.parametrize("rate", [0.5, 1.0, 20.0, 500.0])
def test_there_are_as_many_calls_as_the_rate_says_in_every_stretch_of_time(rate: float) -> None:
    taken = taken_in(10.0, rate)
    assert len(taken) == pytest.approx(10.0 * rate, rel=0.02, abs=1.0)
    for first in taken:
        within = sum(first <= at < first + 1.0 for at in taken)
        assert within <= rate * (1.0 + PACE_AHEAD) + 1.0


def test_who_has_to_wait_is_told_how_long() -> None:
    pace = Pace()
    assert pace.take(100.0, 2.0) == 0.0
    assert pace.take(100.0, 2.0) == 0.5
    assert pace.take(100.4, 2.0) == pytest.approx(0.1)
    assert pace.take(100.5, 2.0) == 0.0


def test_a_quiet_time_saves_nothing_up() -> None:
    pace = Pace()
    assert pace.take(0.0, 1.0) == 0.0
    assert pace.take(1000.0, 1.0) == 0.0
    assert pace.take(1000.0, 1.0) == 1.0


def test_what_was_taken_and_not_used_is_there_again() -> None:
    pace = Pace()
    assert pace.take(100.0, 4.0) == 0.0
    assert pace.take(100.24, 4.0) == 0.0
    pace.give_back(4.0)
    assert pace.take(100.24, 4.0) == 0.0
    assert pace.take(100.24, 4.0) == pytest.approx(0.26)


def test_without_a_rate_nobody_waits() -> None:
    pace = Pace()
    assert [pace.take(0.0, None) for _ in range(1000)] == [0.0] * 1000
    pace.give_back(None)
    assert pace.take(0.0, 1.0) == 0.0
