"""Whether, when and how a client comes back."""

from __future__ import annotations

import pytest

from gateway.clientside.comeback import Backoff, End, Step, after_end
from gateway.protocol import CloseCode
from tests.dice import Dice, Lowest


@pytest.mark.parametrize(
    "code",
    [
        CloseCode.GOODBYE,
        CloseCode.TOO_BIG,
        CloseCode.BAD_TOKEN,
        CloseCode.WRONG_ROLE,
        CloseCode.PROTOCOL_BROKEN,
        CloseCode.SIGNED_OUT,
        CloseCode.TOO_MANY_SESSIONS,
        4999,
    ],
)
def test_a_client_stays_away_after_codes_that_say_so(code: int) -> None:
    assert after_end(End(code), Backoff(Dice()), 5.0) == Step(None)


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1011, 4000, 4001, 4499])
def test_a_client_comes_back_with_jitter_after_all_other_codes(code: int | None) -> None:
    dice = Dice()
    assert after_end(End(code), Backoff(dice), 5.0) == Step(1.0)
    assert dice.asked == [(0.0, 1.0)]


def test_where_there_are_too_many_already_a_client_never_comes_back_at_once() -> None:
    crowded = End(CloseCode.TOO_MANY_CONNECTIONS)
    assert after_end(crowded, Backoff(Lowest()), 5.0) == Step(1.0)
    assert after_end(crowded, Backoff(Dice()), 5.0) == Step(2.0)


def test_jitter_doubles_up_to_30_seconds_and_begins_anew_after_a_welcome() -> None:
    dice = Dice()
    backoff = Backoff(dice)
    waits = [after_end(End(), backoff, 5.0).wait for _ in range(8)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert {low for low, _ in dice.asked} == {0.0}
    backoff.reset()
    assert after_end(End(), backoff, 5.0).wait == 1.0


def test_after_a_restart_a_client_comes_back_within_the_window_however_often_it_failed() -> None:
    dice = Dice()
    backoff = Backoff(dice)
    for _ in range(5):
        backoff.after_failure()
    assert after_end(End(CloseCode.RESTART), backoff, 7.5) == Step(7.5)
    assert dice.asked[-1] == (0.0, 7.5)


def test_an_expired_token_is_replaced_by_a_fresh_one() -> None:
    assert after_end(End(CloseCode.TOKEN_EXPIRED), Backoff(Dice()), 5.0).fresh_token
    assert not after_end(End(CloseCode.SLOW_READER), Backoff(Dice()), 5.0).fresh_token


def test_a_refused_token_that_was_kept_is_replaced_by_a_fresh_one() -> None:
    refused = End(CloseCode.BAD_TOKEN)
    assert after_end(refused, Backoff(Dice()), 5.0, token_kept=True) == Step(1.0, fresh_token=True)
    wrong_role = End(CloseCode.WRONG_ROLE)
    assert after_end(wrong_role, Backoff(Dice()), 5.0, token_kept=True) == Step(None)


@pytest.mark.parametrize(
    ("status", "comes_back"),
    [(400, False), (403, False), (404, False), (408, True), (425, True), (429, True), (503, True)],
)
def test_a_refused_handshake_is_tried_again_only_if_it_may_pass(
    status: int, comes_back: bool
) -> None:
    assert (after_end(End(status=status), Backoff(Dice()), 5.0).wait is not None) is comes_back
