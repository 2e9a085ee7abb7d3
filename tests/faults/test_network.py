"""The network between the client and the gateway, hurt in every way: nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.faults.disconnects import Acks, disconnects
from tests.faults.lines import Death
from tests.faults.needs import needs
from tests.faults.network import half_open, pulled_out, stopped, torn
from tests.faults.slow import slow_readers


async def test_a_death_within_50_ms_of_the_send_leaves_one_outcome_the_true_one(
    tmp_path: Path,
) -> None:
    result, trials = await disconnects(tmp_path, 210, together=15)
    assert result.clean, result
    assert result.sends == result.injected == 210
    assert Counter(trial.death for trial in trials) == dict.fromkeys(Death, 30)
    assert {trial.acks for trial in trials} == set(Acks)
    assert {trial.died_at > trial.sent_at for trial in trials} == {True, False}


async def test_a_half_open_socket_falls_through_to_push_at_the_ack_timeout(tmp_path: Path) -> None:
    result = await half_open(tmp_path, sockets=30)
    assert result.clean, result
    assert result.sends == result.injected == 30


async def test_a_network_that_is_gone_falls_through_to_push_and_may_come_back(
    tmp_path: Path,
) -> None:
    needs("ip", root=True)
    result = await pulled_out(tmp_path, customers=20)
    assert result.clean, result
    assert result.sends == result.injected == 20


async def test_a_stopped_client_is_rung_once_and_its_late_ack_is_a_fact(tmp_path: Path) -> None:
    result = await stopped(tmp_path, customers=20)
    assert result.clean, result
    assert result.sends == result.injected == 40


async def test_half_a_frame_is_no_frame_and_nothing_is_lost_with_it(tmp_path: Path) -> None:
    result = await torn(tmp_path, rounds=40)
    assert result.clean, result
    assert result.sends == result.injected == 80


async def test_a_slow_reader_is_closed_bounded_and_gets_the_rest(tmp_path: Path) -> None:
    result = await slow_readers(tmp_path, readers=1, messages=500)
    assert result.clean, result
    assert result.sends > 1_500
