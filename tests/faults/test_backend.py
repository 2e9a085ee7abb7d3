"""A customer backend that does everything wrong: each fault at a small scale, on a real process."""

from __future__ import annotations

from pathlib import Path

from tests.faults import backend, outages, registrations
from tests.running import backend as customer_backend
from tests.running import running


async def test_every_kind_of_answer_has_its_verdict_and_every_message_its_outcome(
    tmp_path: Path,
) -> None:
    result = await backend.answers(tmp_path, each=1)
    assert result.clean, result
    assert result.injected >= len(backend.KINDS)
    assert result.repeated == backend.TWICE  # accepted when we had given up


async def test_backends_that_cannot_be_reached_are_tried_until_they_can(tmp_path: Path) -> None:
    result = await backend.unreachable(tmp_path, each=2)
    assert result.clean, result
    assert result.injected >= backend.TWICE * result.sends


async def test_a_long_outage_costs_the_retries_of_one_ring_and_one_further(
    tmp_path: Path,
) -> None:
    result = await outages.outage(tmp_path, messages=1_000)
    assert result.clean, result
    assert (result.sends, result.injected >= 8) == (1_000, True)


async def test_a_ring_accepted_just_before_a_kill_is_repeated_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    result = await outages.swallowed_answers(tmp_path, kills=1, each=10)
    assert result.clean, result
    assert result.repeated == 10


async def test_a_wave_of_rejections_is_quarantined_and_registering_undoes_it(
    tmp_path: Path,
) -> None:
    result = await outages.rejections(tmp_path, customers=30)
    assert result.clean, result


async def test_a_hanging_backend_keeps_no_ring_of_another_tenant_waiting(tmp_path: Path) -> None:
    result = await outages.neighbours(tmp_path, rings=40)
    assert result.clean, result


async def test_registering_during_a_ring_changes_nothing_of_it_and_rings_nobody_wrongly(
    tmp_path: Path,
) -> None:
    result = await registrations.registrations(tmp_path, phones=4)
    assert result.clean, result
    assert result.injected == 4 * len(registrations.CHANGES)
    assert result.repeated  # some were accepted when we had given up


async def test_after_a_restart_with_other_settings_only_the_credential_of_a_ring_is_new(
    tmp_path: Path,
) -> None:
    async with customer_backend() as ears:
        async with running(tmp_path, ears) as it:
            await it.register()
            ears.answers.extend([503] * 1_000)
            await it.write()
            first = await ears.take()
        ears.answers.clear()
        push = {"auth_token": "another-auth-token", "title": "Another Title"}
        async with running(tmp_path, ears, push=push) as it:
            await it.settled(1, "pushed")
            again = ears.calls[-1]
            assert again.headers["webhook-id"] == first.headers["webhook-id"]
            assert first.body.pop("authToken") == "backend-auth-token"
            assert again.body.pop("authToken") == "another-auth-token"
            assert first.body == again.body
            await it.settled(await it.write(), "pushed")
            assert ears.calls[-1].body["payload"]["aps"]["alert"]["title"] == "Another Title"
