"""When an endpoint may be called: every edge of the state machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from push.breaker import (
    PROBE_MOST,
    SUSPENDED_PROBE,
    WELL,
    Health,
    Permit,
    after,
    ask,
    probe,
    unused,
)
from push.ring import Endpoint, Pause, Verdict, VerdictKind
from tests.push.scripted import ACCEPTED, an_endpoint

NOW = 1_000_000.0
ENDPOINT = an_endpoint(breaker_after=3, suspend_after=3600.0)
FAILED = Verdict(VerdictKind.RETRY, "timeout")
CALL = Permit()


def failed(
    health: Health,
    *devices: int,
    now: float = NOW,
    verdict: Verdict = FAILED,
    endpoint: Endpoint = ENDPOINT,
) -> Health:
    for device in devices:
        health = after(health, verdict, device, now, endpoint)
    return health


def probed(health: Health, now: float, verdict: Verdict = FAILED) -> Health:
    assert ask(health, now) == Permit(probe=True)
    return after(probe(health), verdict, 9, now, ENDPOINT, probed=True)


OPEN = failed(WELL, 1, 2, 3)


def test_what_was_not_called_tells_nothing_of_the_endpoint() -> None:
    moved = Verdict(VerdictKind.RETRY, "moved")
    for health in (WELL, failed(WELL, 1, 2), OPEN, probe(OPEN)):
        assert after(health, moved, 3, NOW, ENDPOINT, probed=health.probing) is health


def test_it_opens_after_so_many_failures_in_a_row_and_says_till_when() -> None:
    assert ask(failed(WELL, 1, 2), NOW) == CALL
    assert ask(OPEN, NOW) == Permit(Pause.ENDPOINT_DOWN, NOW + 1.0)
    assert OPEN.open
    assert not WELL.open


@pytest.mark.parametrize(
    "kind", [VerdictKind.ACCEPTED, VerdictKind.TOKEN_DEAD, VerdictKind.REFUSED]
)
def test_any_answer_of_a_backend_that_works_begins_the_count_anew(kind: VerdictKind) -> None:
    health = after(failed(WELL, 1, 2), Verdict(kind, "x", 200), 1, NOW, ENDPOINT)
    assert health == WELL
    assert ask(failed(health, 1, 2), NOW) == CALL


@pytest.mark.parametrize("kind", [VerdictKind.RETRY, VerdictKind.MISCONFIGURED])
def test_both_kinds_of_failure_count(kind: VerdictKind) -> None:
    assert failed(WELL, 1, 2, 3, verdict=Verdict(kind, "x")).open


def test_one_device_s_failures_alone_open_nothing_however_many() -> None:
    assert not failed(WELL, *[7] * 100).open
    assert failed(WELL, *[7] * 100, 8).open


@pytest.mark.parametrize("devices", [(1, 1, 2), (1, 2, 1), (1, 2, 2)])
def test_it_opens_for_several_devices_whichever_failed_last(devices: tuple[int, ...]) -> None:
    assert failed(WELL, *devices).open


def test_a_device_s_failures_alone_suspend_what_never_succeeded_for_so_long() -> None:
    health = failed(WELL, 7, 7)
    assert not failed(health, 7, now=NOW + 3599.0).open
    assert failed(health, 7, now=NOW + 3600.0).suspended


def test_two_failures_far_apart_are_no_long_failure() -> None:
    assert not failed(failed(WELL, 1), 2, now=NOW + 10_000.0).open


def test_when_the_wait_is_over_one_call_goes_out_and_no_second_until_it_is_known() -> None:
    assert ask(OPEN, NOW + 1.0) == Permit(probe=True)
    assert ask(probe(OPEN), NOW + 1e6) == Permit(Pause.ENDPOINT_DOWN, None)


def test_a_probe_that_succeeds_closes_it() -> None:
    assert probed(OPEN, NOW + 1.0, ACCEPTED) == WELL


def test_a_probe_that_made_no_call_is_had_again() -> None:
    assert ask(unused(probe(OPEN)), NOW + 1.0) == Permit(probe=True)


def test_each_probe_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    health, waits, now = OPEN, [], NOW
    for _ in range(9):
        assert health.until is not None
        waits.append(health.until - now)
        now = health.until
        health = probed(health, now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, PROBE_MOST, PROBE_MOST, PROBE_MOST]


def test_the_wait_is_no_longer_than_a_retry_s() -> None:
    quick = an_endpoint(breaker_after=1, retry_first=0.05, retry_max=0.1)
    health = failed(WELL, 1, 2, endpoint=quick)
    for wait in (0.05, 0.1, 0.1):
        assert health.until == pytest.approx(NOW + wait)
        health = after(probe(health), FAILED, 1, NOW, quick, probed=True)


def test_retry_after_is_waited_for() -> None:
    told = replace(FAILED, retry_after=90.0)
    assert failed(failed(WELL, 1, 2), 3, verdict=told).until == NOW + 90.0
    assert probed(OPEN, NOW + 1.0, told).until == NOW + 91.0


def test_calls_that_were_out_when_it_opened_change_nothing_but_what_they_ask_for() -> None:
    assert failed(OPEN, 4, 5, now=NOW + 0.9) == OPEN
    assert failed(OPEN, 4, verdict=replace(FAILED, retry_after=30.0)).until == NOW + 30.0
    assert failed(probe(OPEN), 4).probing


def test_one_that_was_out_and_succeeds_closes_it() -> None:
    assert after(OPEN, ACCEPTED, 4, NOW, ENDPOINT) == WELL
    assert after(probe(OPEN), ACCEPTED, 4, NOW, ENDPOINT) == WELL


def test_without_success_for_long_it_is_suspended_and_probed_seldom() -> None:
    health = probed(OPEN, NOW + 3599.0)
    assert not health.suspended
    health = probed(health, NOW + 3700.0)
    assert health.suspended
    wait = Permit(Pause.SUSPENDED, NOW + 3700.0 + SUSPENDED_PROBE)
    assert ask(health, NOW + 3701.0) == wait
    assert probed(health, NOW + 3700.0 + SUSPENDED_PROBE, ACCEPTED) == WELL


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 3), st.booleans()), max_size=60))
def test_whatever_happens_there_is_at_most_one_probe_out_and_always_a_next_one(
    days: list[tuple[float, int, bool]],
) -> None:
    health, now = WELL, NOW
    for passes, device, works in days:
        now += passes
        answer = ask(health, now)
        if answer.pause is not None:
            assert answer.until is not None
            assert now < answer.until <= now + PROBE_MOST
            continue
        probing = answer.probe
        health = probe(health) if probing else health
        verdict = ACCEPTED if works else FAILED
        health = after(health, verdict, device, now, an_endpoint(breaker_after=2), probed=probing)
        assert not health.probing
        assert not (works and health.open)
