"""The worker against a scripted book and backend: order, bounds, back-off, draining."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aioresponses import aioresponses
from msgspec.structs import replace as replace_fields
from structlog.testing import capture_logs

from push.backends import Backend
from push.breaker import SUSPENDED_PROBE
from push.caller import Caller
from push.ring import (
    Attempt,
    BookUnavailable,
    Claim,
    DeviceRef,
    Endpoint,
    Pause,
    Verdict,
    VerdictKind,
)
from push.worker import COMPLAIN_EVERY, REST_FIRST, Load, PushWorker
from tests.push import scripted
from tests.push.scripted import (
    ACCEPTED,
    TOKEN,
    Answered,
    Book,
    Clock,
    a_claim,
    an_endpoint,
)

RETRY = Verdict(VerdictKind.RETRY, "http_503", 503)
TIMEOUT = Verdict(VerdictKind.RETRY, "timeout")
DEAD = Verdict(VerdictKind.TOKEN_DEAD, "rejected", 200)
REDIRECT = Verdict(VerdictKind.MISCONFIGURED, "redirect", 301)
REFUSED = Verdict(VerdictKind.REFUSED, "http_422", 422)


class Rig:
    """A worker with everything around it on strings."""

    def __init__(self, **endpoints: Endpoint) -> None:
        self.book = Book()
        self.backend = scripted.Backend()
        self.clock = Clock()
        self.heard: list[tuple[Claim, Attempt]] = []
        self.faults: list[float] = []
        self.worker = PushWorker(
            self.book,
            endpoints.values() or [an_endpoint()],
            self.clock,
            Random(7),
            lambda claim, attempt: self.heard.append((claim, attempt)),
            wall=self.clock,
            on_fault=lambda: self.faults.append(self.clock.now),
            sleep=self.clock.sleep,
        )

    async def until_quiet(self) -> None:
        """Let the loop turn until nobody has anything left to do but to wait."""
        for _ in range(50):
            await asyncio.sleep(0)

    def count(self, what: str) -> int:
        """How often that happened, to whichever device."""
        return sum(one == what for one, _ in self.book.seen)

    async def until_idle(self, tenant: str = "acme") -> None:
        """Let the loop turn until the tenant has nothing waiting and nothing working."""
        while self.worker.loads()[tenant, ""] != Load(0, 0):
            await asyncio.sleep(0)


@asynccontextmanager
async def started(**endpoints: Endpoint) -> AsyncIterator[Rig]:
    rig = Rig(**endpoints)
    rig.worker.start(rig.backend)
    try:
        yield rig
    finally:
        drain = asyncio.create_task(rig.worker.drain(0.0))
        while not drain.done():
            rig.clock.tick(1.0)
            await asyncio.sleep(0)
        await drain


async def settled_with(*verdicts: Verdict, claim: Claim | None = None) -> Attempt:
    """Ring one device that gets the verdicts in turn, and return its last attempt."""
    async with started() as rig:
        rig.backend.verdicts.extend(verdicts)
        for number in range(len(verdicts)):
            rig.worker.wake(rig.book.owes(claim or a_claim()))
            await rig.book.until_settled(number + 1)
        return rig.book.settled[-1][1]


# Look, call, settle.


async def test_a_woken_device_is_looked_at_called_and_settled() -> None:
    async with started() as rig:
        claim = a_claim()
        rig.worker.wake(rig.book.owes(claim))
        await rig.book.until_settled(1)
        await rig.until_idle()
        assert rig.book.seen == [("look", claim.ref), ("settle", claim.ref)]
        assert rig.backend.calls == [claim]
        attempt = Attempt(ACCEPTED, 12.5, rig.clock.now)
        assert rig.book.settled == [(claim, attempt)]
        assert rig.heard == [(claim, attempt)]


async def test_a_device_that_owes_nothing_is_not_called() -> None:
    async with started() as rig:
        ref = DeviceRef("acme", "c-42", 1)
        rig.worker.wake(ref)
        await rig.book.until(lambda: rig.book.count("look", ref) == 1)
        await rig.until_idle()
        assert rig.backend.calls == []
        assert rig.book.settled == []


async def test_wakes_before_the_start_are_kept_and_are_one() -> None:
    rig = Rig()
    ref = rig.book.owes(a_claim())
    for _ in range(3):
        rig.worker.wake(ref)
    assert rig.worker.loads()["acme", ""] == Load(waiting=1, working=0)
    await asyncio.sleep(0)
    assert rig.book.seen == []
    rig.worker.start(rig.backend)
    await rig.book.until_settled(1)
    await rig.until_idle()
    assert rig.book.count("look", ref) == 1
    await rig.worker.drain(0.0)


async def test_any_wakes_during_the_work_cause_one_more_look_afterwards() -> None:
    async with started() as rig:
        rig.backend.hold("acme")
        ref = rig.book.owes(a_claim())
        rig.worker.wake(ref)
        await rig.backend.until_called(1)
        for _ in range(5):
            rig.worker.wake(ref)
        assert rig.worker.loads()["acme", ""] == Load(waiting=0, working=1)
        await rig.backend.release("acme")
        await rig.book.until(lambda: rig.book.count("look", ref) == 2)
        await rig.until_idle()
        assert [what for what, _ in rig.book.seen] == ["look", "settle", "look"]


async def test_a_book_that_wakes_the_device_while_settling_gets_its_next_ring_looked_at() -> None:
    async with started() as rig:
        first, second = a_claim(), a_claim()
        ref = rig.book.owes(first, second)
        rig.book.on_settle = lambda claim, _: rig.worker.wake(claim.ref)
        rig.worker.wake(ref)
        await rig.book.until_settled(2)
        await rig.until_idle()
        assert rig.book.count("look", ref) == 3


async def test_a_device_never_has_two_calls_in_flight() -> None:
    async with started() as rig:
        rig.backend.hold("acme")
        ref = rig.book.owes(a_claim(attempt=1), a_claim(attempt=2))
        rig.worker.wake(ref)
        await rig.backend.until_called(1)
        rig.worker.wake(ref)
        await rig.backend.release("acme")
        await rig.book.until_settled(2)
        assert rig.backend.most_in_flight == {"acme": 1}


async def test_a_tenant_without_endpoint_is_logged_and_harms_nobody() -> None:
    async with started() as rig:
        with capture_logs() as logs:
            rig.worker.wake(DeviceRef("nobody", "c", 1))
        assert [(e["log_level"], e["tenant"]) for e in logs] == [("error", "nobody")]
        rig.worker.wake(rig.book.owes(a_claim()))
        await rig.book.until_settled(1)


# Bounds and fairness.


async def test_a_tenant_has_at_most_in_flight_calls_and_the_rest_wait_in_order() -> None:
    async with started(acme=an_endpoint(in_flight=3)) as rig:
        rig.backend.hold("acme")
        claims = [a_claim(device) for device in range(20)]
        for claim in claims:
            rig.worker.wake(rig.book.owes(claim))
        await rig.backend.until_called(3)
        assert rig.worker.loads()["acme", ""] == Load(waiting=17, working=3)
        await rig.backend.release("acme")
        await rig.book.until_settled(20)
        assert rig.backend.most_in_flight == {"acme": 3}
        assert rig.backend.calls == claims


async def test_a_tenant_s_backlog_does_not_delay_another_tenant() -> None:
    async with started(acme=an_endpoint(in_flight=2), bolt=an_endpoint(tenant="bolt")) as rig:
        rig.backend.hold("acme")
        for device in range(50):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        await rig.backend.until_called(2)
        rig.worker.wake(rig.book.owes(a_claim(tenant="bolt")))
        await rig.book.until_settled(1)
        assert rig.book.settled[0][0].ref.tenant == "bolt"
        assert rig.worker.loads()["acme", ""] == Load(waiting=48, working=2)


async def test_a_device_that_is_woken_again_and_again_does_not_starve_the_others() -> None:
    async with started(acme=an_endpoint(in_flight=1)) as rig:
        greedy = rig.book.owes(*[a_claim(1) for _ in range(5)])
        rig.book.on_settle = lambda claim, _: rig.worker.wake(greedy)
        rig.worker.wake(greedy)
        patient = a_claim(2)
        rig.worker.wake(rig.book.owes(patient))
        await rig.book.until_settled(6)
        assert rig.book.settled[1][0] == patient


# What the verdict becomes.


@pytest.mark.parametrize(
    "verdict", [ACCEPTED, DEAD, Verdict(VerdictKind.REFUSED, "http_400", 400)], ids=lambda v: v.kind
)
async def test_a_final_verdict_has_no_time_to_retry(verdict: Verdict) -> None:
    attempt = await settled_with(verdict)
    assert attempt.verdict == verdict
    assert attempt.retry_at is None


@pytest.mark.parametrize("verdict", [RETRY, TIMEOUT, REDIRECT], ids=lambda v: v.reason)
@pytest.mark.parametrize(("number", "longest"), [(1, 1.0), (4, 8.0), (30, 300.0)])
async def test_a_retry_is_due_within_the_back_off_of_its_attempt(
    verdict: Verdict, number: int, longest: float
) -> None:
    attempt = await settled_with(verdict, claim=a_claim(attempt=number))
    assert attempt.retry_at is not None
    assert attempt.at <= attempt.retry_at <= attempt.at + longest


async def test_a_retry_is_never_due_before_retry_after() -> None:
    verdict = Verdict(VerdictKind.RETRY, "http_429", 429, retry_after=90.0)
    attempt = await settled_with(verdict)
    assert attempt.retry_at is not None
    assert attempt.at + 90.0 <= attempt.retry_at <= attempt.at + 91.0


async def test_a_few_dead_tokens_are_believed_and_a_wave_is_quarantined() -> None:
    async with started() as rig:
        rig.backend.verdicts.extend([DEAD] * 30)
        for device in range(30):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        with capture_logs() as logs:
            await rig.book.until_settled(30)
        told = [entry for entry in logs if "in a wave" in entry["event"]]
        assert [entry["tenant"] for entry in told] == ["acme"], "once, and with what to do"
        assert "registers again" in told[0]["advice"]
        assert [a.quarantine for _, a in rig.book.settled] == [False] * 20 + [True] * 10
        rig.backend.verdicts.append(RETRY)
        rig.worker.wake(rig.book.owes(a_claim(40)))
        await rig.book.until_settled(31)
        assert not rig.book.settled[30][1].quarantine  # only a dead token can be


async def test_one_tenant_s_wave_quarantines_nobody_else_s_tokens() -> None:
    async with started(acme=an_endpoint(), bolt=an_endpoint(tenant="bolt")) as rig:
        rig.backend.verdicts.extend([DEAD] * 26)
        for device in range(25):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        await rig.book.until_settled(25)
        rig.worker.wake(rig.book.owes(a_claim(tenant="bolt")))
        await rig.book.until_settled(26)
        assert not rig.book.settled[25][1].quarantine


async def test_timeouts_are_no_answers_and_cannot_hide_a_wave() -> None:
    async with started(acme=an_endpoint(breaker_after=100)) as rig:
        rig.backend.verdicts.extend([TIMEOUT] * 40 + [DEAD] * 21)
        for device in range(61):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        await rig.book.until_settled(61)
        assert rig.book.settled[-1][1].quarantine


async def test_a_misconfigured_endpoint_is_told_once_a_minute_with_what_to_do() -> None:
    async with started() as rig:
        with capture_logs() as logs:
            for number, pause in enumerate((0.0, 1.0, COMPLAIN_EVERY - 2.0, 1.0, 1.0)):
                rig.clock.tick(pause)
                rig.backend.verdicts.append(REDIRECT)
                rig.worker.wake(rig.book.owes(a_claim(number)))
                await rig.book.until_settled(number + 1)
        assert len(logs) == 2
        assert logs[0]["log_level"] == "error"
        assert (logs[0]["tenant"], logs[0]["reason"]) == ("acme", "redirect")
        assert "final address" in logs[0]["advice"]
        assert TOKEN not in repr(logs)


async def test_rings_that_are_refused_are_told_of_once_a_minute_and_hide_nothing_worse() -> None:
    """They were given up one after the other, and the log had no word of it."""
    async with started() as rig:
        with capture_logs() as logs:
            for number, verdict in enumerate((REFUSED, REFUSED, REDIRECT)):
                rig.backend.verdicts.append(verdict)
                rig.worker.wake(rig.book.owes(a_claim(number)))
                await rig.book.until_settled(number + 1)
            rig.clock.tick(COMPLAIN_EVERY)
            rig.backend.verdicts.append(REFUSED)
            rig.worker.wake(rig.book.owes(a_claim(3)))
            await rig.book.until_settled(4)
        told = [(entry["log_level"], entry["reason"]) for entry in logs]
        refused = ("warning", REFUSED.reason)
        assert told == [refused, ("error", REDIRECT.reason), refused]
        assert "deadletters" in logs[0]["advice"]
        assert TOKEN not in repr(logs)


# When the book cannot write.


async def test_a_look_is_repeated_until_the_book_is_back() -> None:
    async with started() as rig:
        ref = rig.book.owes(BookUnavailable(), BookUnavailable("disk_full"), a_claim())
        rig.worker.wake(ref)
        for _ in range(2):
            await rig.clock.asleep()
            rig.clock.tick(60.0)
        await rig.book.until_settled(1)
        assert rig.book.count("look", ref) == 3
        assert len(rig.backend.calls) == 1


async def test_an_answer_is_kept_until_the_book_can_take_it_and_is_not_asked_for_again() -> None:
    async with started() as rig:
        rig.book.settle_errors.extend([BookUnavailable("disk_full")] * 3)
        ref = rig.book.owes(a_claim())
        with capture_logs() as logs:
            rig.worker.wake(ref)
            for _ in range(3):
                await rig.clock.asleep()
                assert rig.heard == []
                rig.clock.tick(60.0)
            await rig.book.until_settled(1)
        assert len(rig.backend.calls) == 1
        assert rig.book.settled[0][1].verdict == ACCEPTED
        assert rig.book.count("look", ref) == 1
        assert [(entry["log_level"], entry["reason"]) for entry in logs] == [
            ("warning", "disk_full")
        ]


async def test_the_waits_for_the_book_grow_and_stay_short() -> None:
    async with started() as rig:
        rig.worker.wake(rig.book.owes(*[BookUnavailable()] * 12, a_claim()))
        for _ in range(12):
            await rig.clock.asleep()
            rig.clock.tick(60.0)
        await rig.book.until_settled(1)
        assert max(rig.clock.slept[:3]) < 1.0
        assert 1.0 < max(rig.clock.slept) <= 5.0


# When something breaks that nobody foresaw.


def broken() -> Exception:
    return RuntimeError(f"quoted {TOKEN}")


async def test_a_device_whose_work_breaks_rests_and_is_looked_at_again() -> None:
    async with started() as rig:
        ref = rig.book.owes(broken(), a_claim(1))
        with capture_logs() as logs:
            rig.worker.wake(ref)
            await rig.clock.asleep()
            rig.worker.wake(ref)  # is no reason to cut the rest short
            assert rig.worker.loads()["acme", ""] == Load(0, 0)
            rig.worker.wake(rig.book.owes(a_claim(2)))
            await rig.book.until_settled(1)  # the others go on meanwhile
            rig.clock.tick(REST_FIRST)
            await rig.book.until_settled(2)
        assert rig.book.settled[1][0].ref == ref
        [entry] = logs
        assert (entry["log_level"], entry["error"]) == ("error", "RuntimeError")
        assert "scripted.py" in entry["where"]
        assert TOKEN not in repr(logs)
        assert len(rig.faults) == 1


async def test_work_that_breaks_every_time_is_tried_less_and_less_and_logged_once() -> None:
    async with started() as rig:
        ref = rig.book.owes(*[broken() for _ in range(8)], a_claim())
        with capture_logs() as logs:
            rig.worker.wake(ref)
            ticks = []
            for looks in range(1, 9):
                await rig.book.until(lambda looks=looks: rig.book.count("look", ref) == looks)  # type: ignore[misc]
                ticks.append(0)
                while rig.book.count("look", ref) == looks:
                    await rig.clock.asleep()
                    rig.clock.tick(REST_FIRST)
                    ticks[-1] += 1
                    for _ in range(5):
                        await asyncio.sleep(0)
            await rig.book.until_settled(1)
        assert ticks == [1, 2, 4, 8, 16, 32, 60, 60]  # of `REST_FIRST`, up to `REST_MOST`
        assert len(logs) == 1
        assert len(rig.faults) == 8  # each is counted


async def test_a_device_that_worked_again_is_news_when_it_breaks_again() -> None:
    async with started() as rig:
        ref = rig.book.owes(broken(), a_claim(), broken())
        with capture_logs() as logs:
            rig.worker.wake(ref)
            await rig.clock.asleep()
            rig.clock.tick(REST_FIRST)
            await rig.book.until_settled(1)
            await rig.until_idle()
            rig.worker.wake(ref)
            await rig.book.until(lambda: rig.book.count("look", ref) == 3)
            await rig.until_idle()
        assert len(logs) == 2


async def two_rest(rig: Rig) -> None:
    """Two devices broke, the second when half of the first one's rest was over."""
    first, second = (rig.book.owes(broken(), a_claim(device)) for device in (1, 2))
    rig.worker.wake(first)
    await rig.clock.asleep()
    rig.clock.tick(REST_FIRST / 2)
    rig.worker.wake(second)
    await rig.book.until(lambda: rig.book.count("look", second) == 1)


async def test_a_device_that_broke_later_is_looked_at_again_though_others_rest_no_more() -> None:
    async with started() as rig:
        await two_rest(rig)
        rig.clock.tick(REST_FIRST / 2)
        await rig.book.until_settled(1)
        await rig.clock.asleep()
        rig.clock.tick(REST_FIRST)
        await rig.book.until_settled(2)


async def test_a_device_that_broke_later_is_looked_at_again_though_another_s_call_takes_long() -> (
    None
):
    async with started() as rig:
        await two_rest(rig)
        rig.backend.hold("acme")
        rig.clock.tick(REST_FIRST / 2)
        await rig.backend.until_called(1)
        await rig.clock.asleep()
        rig.clock.tick(REST_FIRST)
        await rig.backend.until_called(2)
        await rig.backend.release("acme")
        await rig.book.until_settled(2)


async def test_several_broken_devices_rest_side_by_side() -> None:
    async with started() as rig:
        refs = [rig.book.owes(broken(), a_claim(device)) for device in range(3)]
        for ref in refs:
            rig.worker.wake(ref)
        await rig.clock.asleep()
        await rig.until_idle()
        assert len(rig.clock.slept) == 1
        rig.clock.tick(REST_FIRST)
        await rig.book.until_settled(3)


async def test_a_wake_that_came_while_the_work_broke_is_not_lost() -> None:
    async with started() as rig:
        rig.backend.hold("acme")
        ref = rig.book.owes(a_claim(), a_claim())
        rig.book.settle_errors.append(broken())
        rig.worker.wake(ref)
        await rig.backend.until_called(1)
        rig.worker.wake(ref)
        await rig.backend.release("acme")
        await rig.clock.asleep()
        assert rig.book.count("look", ref) == 1
        rig.clock.tick(REST_FIRST)
        await rig.book.until_settled(1)


# When the endpoint fails.


@asynccontextmanager
async def failing(devices: int = 30, **changes: Any) -> AsyncIterator[Rig]:
    """A rig whose endpoint has just opened its breaker: two of its devices failed."""
    endpoint = an_endpoint(**({"breaker_after": 2, "in_flight": 2} | changes))
    async with started(acme=endpoint, bolt=an_endpoint(tenant="bolt")) as rig:
        rig.backend.verdicts.extend([TIMEOUT, TIMEOUT])
        for device in range(devices):
            rig.worker.wake(rig.book.owes(a_claim(device)))
            if device == 1:
                await rig.book.until_settled(2)
        await rig.book.until(lambda: rig.count("endpoint_down") == devices - 2)
        await rig.clock.asleep()
        yield rig


async def test_while_an_endpoint_fails_its_rings_wait_and_no_attempt_is_burnt() -> None:
    async with failing() as rig:
        rig.worker.wake(rig.book.owes(a_claim(99)))
        await rig.book.until(lambda: rig.book.count("endpoint_down", a_claim(99).ref) == 1)
        await rig.until_quiet()
        assert len(rig.backend.calls) == 2
        assert rig.worker.loads()["acme", ""] == Load(waiting=29, working=0, open=True)
        for _ in range(3):  # nobody is told twice, however often it is woken
            rig.worker.wake(a_claim(99).ref)
        await rig.until_quiet()
        assert rig.book.count("endpoint_down", a_claim(99).ref) == 1


async def test_another_tenant_does_not_notice() -> None:
    async with failing() as rig:
        rig.worker.wake(rig.book.owes(a_claim(tenant="bolt")))
        await rig.book.until_settled(3)
        assert rig.book.settled[2][0].ref.tenant == "bolt"


async def test_one_ring_tries_and_when_it_gets_through_all_go_in_their_order() -> None:
    async with failing() as rig:
        rig.backend.hold("acme")
        rig.clock.tick(1.0)
        await rig.backend.until_called(3)
        await rig.until_quiet()
        assert len(rig.backend.calls) == 3
        rig.clock.tick(100.0)  # time alone brings no second one
        await rig.until_quiet()
        assert len(rig.backend.calls) == 3
        await rig.backend.release("acme")
        await rig.book.until_settled(30)
        assert [claim.ref.device for claim in rig.backend.calls] == list(range(30))
        assert rig.worker.loads()["acme", ""] == Load(0, 0)


async def test_each_probe_that_fails_doubles_the_wait_for_the_next_and_is_another_device() -> None:
    async with failing() as rig:
        rig.backend.verdicts.extend([TIMEOUT] * 4)
        for number, wait in enumerate((1.0, 2.0, 4.0, 8.0), 3):
            rig.clock.tick(wait - 0.5)
            await rig.until_quiet()
            assert len(rig.backend.calls) == number - 1
            rig.clock.tick(0.5)
            await rig.book.until_settled(number)
        assert [claim.ref.device for claim in rig.backend.calls] == list(range(6))


async def test_retry_after_holds_the_probe_back_too() -> None:
    async with failing() as rig:
        rig.backend.verdicts.append(Verdict(VerdictKind.RETRY, "http_429", 429, retry_after=90.0))
        rig.clock.tick(1.0)
        await rig.book.until_settled(3)
        rig.clock.tick(89.0)
        await rig.until_quiet()
        assert len(rig.backend.calls) == 3
        rig.clock.tick(1.0)
        await rig.book.until_settled(30)


async def test_a_probe_that_finds_nothing_to_ring_hands_its_turn_on() -> None:
    async with failing(devices=4) as rig:
        rig.book.looks[a_claim(2).ref].clear()  # acknowledged meanwhile, say
        rig.clock.tick(1.0)
        await rig.book.until_settled(3)
        assert rig.book.settled[2][0].ref.device == 3


async def test_a_probe_whose_work_breaks_hands_its_turn_on() -> None:
    async with failing(devices=4) as rig:
        rig.book.looks[a_claim(2).ref].appendleft(broken())
        with capture_logs():
            rig.clock.tick(1.0)
            await rig.book.until_settled(3)
        assert rig.book.settled[2][0].ref.device == 3


async def test_one_device_alone_does_not_stop_the_others() -> None:
    async with started(acme=an_endpoint(breaker_after=2)) as rig:
        rig.backend.verdicts.extend([TIMEOUT] * 5)
        for number in range(5):
            rig.worker.wake(rig.book.owes(a_claim(1)))
            await rig.book.until_settled(number + 1)
        assert not rig.worker.loads()["acme", ""].open


async def test_operators_are_told_that_it_fails_and_that_it_works_again() -> None:
    with capture_logs() as logs:
        async with failing() as rig:
            rig.clock.tick(1.0)
            await rig.book.until_settled(30)
    assert [(entry["log_level"], entry["tenant"]) for entry in logs] == [
        ("warning", "acme"),
        ("info", "acme"),
    ]


async def test_a_call_that_was_out_when_it_opened_and_fails_too_makes_the_wait_no_longer() -> None:
    async with started(acme=an_endpoint(breaker_after=2, in_flight=3)) as rig:
        rig.backend.hold("acme")
        rig.backend.verdicts.extend([TIMEOUT] * 3)
        for device in range(3):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        await rig.backend.until_called(3)
        await rig.backend.release("acme")
        await rig.book.until_settled(3)
        rig.worker.wake(rig.book.owes(a_claim(3)))
        await rig.clock.asleep()
        rig.clock.tick(1.0)
        await rig.book.until_settled(4)


async def test_a_probe_that_fails_is_no_news() -> None:
    with capture_logs() as logs:
        async with failing() as rig:
            rig.backend.verdicts.append(TIMEOUT)
            rig.clock.tick(1.0)
            await rig.book.until_settled(3)
            await rig.until_quiet()
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_after_a_long_failure_it_is_suspended_with_what_to_do_and_a_probe_ends_that() -> None:
    async with failing(suspend_after=7_200.0) as rig:
        with capture_logs() as logs:
            rig.backend.verdicts.append(TIMEOUT)
            rig.clock.tick(7_200.0)
            await rig.book.until_settled(3)
            rig.worker.wake(rig.book.owes(a_claim(99)))
            await rig.book.until(lambda: rig.book.count("suspended", a_claim(99).ref) == 1)
            assert rig.worker.loads()["acme", ""].suspended
            rig.clock.tick(SUSPENDED_PROBE - 1.0)
            await rig.until_quiet()
            assert len(rig.backend.calls) == 3
            rig.backend.verdicts.append(TIMEOUT)  # which is no news
            rig.clock.tick(1.0)
            await rig.book.until_settled(4)
            await rig.clock.asleep()
            rig.clock.tick(SUSPENDED_PROBE)
            await rig.book.until_settled(31)
            assert not rig.worker.loads()["acme", ""].suspended
    assert [entry["log_level"] for entry in logs] == ["error", "info"]
    assert "ringback push test" in logs[0]["advice"]
    assert logs[0]["hours"] == 2.0


async def test_a_drain_ends_the_wait_for_an_endpoint() -> None:
    async with failing() as rig:
        assert await rig.worker.drain(1000.0) == 0
        assert rig.worker.loads()["acme", ""] == Load(0, 0, open=True)
        rig.clock.tick(1000.0)
        await rig.until_quiet()
        assert len(rig.backend.calls) == 2


# Several backends of one tenant.

QA = Backend("qa", "sandbox")


def at_qa(device: int, **changes: Any) -> Claim:
    return replace_fields(a_claim(device), backend="qa", **changes)


@asynccontextmanager
async def with_qa_down() -> AsyncIterator[Rig]:
    """The tenant's own backend works, and its test backend has just failed for two devices."""
    qa = an_endpoint(backend=QA, breaker_after=2)
    async with started(own=an_endpoint(), qa=qa) as rig:
        for device in (1, 2):
            rig.backend.verdicts.append(TIMEOUT)
            rig.worker.wake(rig.book.owes(at_qa(device)), "qa")
            await rig.book.until_settled(device)
        yield rig


async def test_each_backend_has_its_own_breaker() -> None:
    async with with_qa_down() as rig:
        waits = rig.book.owes(at_qa(3))
        rig.worker.wake(waits, "qa")
        await rig.book.until(lambda: rig.book.count("endpoint_down", waits) == 1)
        rig.worker.wake(rig.book.owes(a_claim(4)))
        await rig.book.until_settled(3)
        assert rig.book.settled[2][0].ref.device == 4
        loads = rig.worker.loads()
        assert (loads["acme", ""].open, loads["acme", "qa"].open) == (False, True)
        assert loads["acme", "qa"].waiting == 1


async def test_the_log_tells_which_of_a_tenants_backends_is_misconfigured() -> None:
    async with started(own=an_endpoint(), qa=an_endpoint(backend=QA)) as rig:
        with capture_logs() as logs:
            for number, (claim, name) in enumerate([(at_qa(1), "qa"), (a_claim(2), "")], 1):
                rig.backend.verdicts.append(REDIRECT)
                rig.worker.wake(rig.book.owes(claim), name)
                await rig.book.until_settled(number)
        assert [(entry["tenant"], entry.get("backend")) for entry in logs] == [
            ("acme", "qa"),
            ("acme", None),
        ]


async def test_a_device_that_changes_sides_waits_no_longer_for_the_other_backend() -> None:
    async with with_qa_down() as rig:
        ref = rig.book.owes(replace_fields(a_claim(3)))
        rig.worker.wake(ref, "qa")
        await rig.book.until(lambda: rig.book.count("endpoint_down", ref) == 1)
        await rig.until_quiet()
        rig.worker.wake(ref)
        await rig.book.until_settled(3)
        assert rig.backend.endpoints[-1].backend.name == ""
        assert rig.worker.loads()["acme", "qa"].waiting == 0


async def test_a_device_that_changes_sides_while_it_is_worked_on_is_looked_at_there_after() -> None:
    async with with_qa_down() as rig:
        first, then = a_claim(3), at_qa(3)
        rig.backend.hold("acme")
        rig.worker.wake(rig.book.owes(first, then))
        await rig.backend.until_called(3)
        rig.worker.wake(first.ref, "qa")
        await rig.backend.release("acme")
        await rig.book.until(lambda: rig.book.count("endpoint_down", first.ref) == 1)
        await rig.until_quiet()
        assert rig.worker.loads()["acme", "qa"].waiting == 1


async def test_what_was_claimed_for_another_backend_by_the_time_it_was_looked_at_goes_there() -> (
    None
):
    async with started(own=an_endpoint(), qa=an_endpoint(backend=QA)) as rig:
        rig.worker.wake(rig.book.owes(at_qa(1)))
        await rig.book.until_settled(1)
        assert [endpoint.backend.name for endpoint in rig.backend.endpoints] == ["qa"]


# The pace.


async def test_calls_are_paced_and_none_is_dropped() -> None:
    async with started(acme=an_endpoint(rate_per_second=2.0)) as rig:
        for device in range(6):
            rig.worker.wake(rig.book.owes(a_claim(device)))
        await rig.book.until_settled(1)
        for called in range(1, 6):
            await rig.until_quiet()
            assert len(rig.backend.calls) == called
            await rig.clock.asleep()
            rig.clock.tick(0.5)
            await rig.book.until_settled(called + 1)


async def test_a_look_that_rings_nobody_costs_no_call_of_the_pace() -> None:
    async with started(acme=an_endpoint(rate_per_second=2.0, in_flight=1)) as rig:
        for device in range(10):
            rig.worker.wake(DeviceRef("acme", "c-42", device))
        rig.worker.wake(rig.book.owes(a_claim(10)))
        await rig.book.until_settled(1)
        assert rig.clock.slept == []


# Draining.


async def drained(rig: Rig, timeout: float = 10.0) -> asyncio.Task[int]:
    """Begin a drain and return once it waits."""
    task = asyncio.create_task(rig.worker.drain(timeout))
    await rig.clock.asleep()
    return task


async def test_a_drain_with_nothing_out_ends_at_once() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    assert await rig.worker.drain(1000.0) == 0


async def test_a_drain_starts_nothing_and_lets_what_is_out_finish_and_settle() -> None:
    rig = Rig(acme=an_endpoint(in_flight=1))
    rig.worker.start(rig.backend)
    rig.backend.hold("acme")
    out, waiting = a_claim(1), a_claim(2)
    rig.worker.wake(rig.book.owes(out))
    rig.worker.wake(rig.book.owes(waiting))
    await rig.backend.until_called(1)
    drain = await drained(rig)
    rig.worker.wake(rig.book.owes(a_claim(3)))
    assert rig.worker.loads()["acme", ""] == Load(waiting=0, working=1)
    await rig.backend.release("acme")
    assert await drain == 0
    assert [claim for claim, _ in rig.book.settled] == [out]
    assert rig.backend.calls == [out]
    assert rig.book.count("look", waiting.ref) == 0
    assert rig.worker.loads()["acme", ""] == Load(0, 0)


async def test_a_call_that_waited_for_the_book_before_has_the_drain_s_time_too() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    rig.backend.hold("acme")
    rig.worker.wake(rig.book.owes(BookUnavailable(), a_claim()))
    await rig.clock.asleep()
    rig.clock.tick(60.0)
    await rig.backend.until_called(1)
    drain = await drained(rig)
    await rig.backend.release("acme")
    assert await drain == 0
    assert len(rig.book.settled) == 1


async def test_a_call_that_outlasts_the_drain_is_cut_off_and_its_claim_stands() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    rig.backend.hold("acme")
    rig.worker.wake(rig.book.owes(a_claim()))
    await rig.backend.until_called(1)
    drain = await drained(rig, 10.0)
    rig.clock.tick(9.0)
    await asyncio.sleep(0)
    assert not drain.done()
    with capture_logs() as logs:
        rig.clock.tick(1.0)
        assert await drain == 1
    assert rig.book.settled == []
    assert rig.heard == []
    assert rig.backend.in_flight["acme"] == 0
    assert [(entry["log_level"], entry["calls"]) for entry in logs] == [("warning", 1)]


async def test_a_claim_that_comes_back_after_the_drain_began_is_not_called() -> None:
    rig = Rig()
    looked, go = asyncio.Event(), asyncio.Event()
    look = rig.book.look

    async def slow_look(ref: DeviceRef, pause: Pause | None = None) -> Claim | Pause | None:
        looked.set()
        await go.wait()
        return await look(ref, pause)

    rig.book.look = slow_look  # type: ignore[method-assign]
    rig.worker.start(rig.backend)
    rig.worker.wake(rig.book.owes(a_claim()))
    await looked.wait()
    drain = await drained(rig)
    go.set()
    assert await drain == 0
    assert rig.backend.calls == []
    assert rig.book.settled == []


async def test_a_drain_does_not_wait_for_a_book_that_nothing_is_owed_to() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    rig.worker.wake(rig.book.owes(BookUnavailable(), a_claim()))
    await rig.clock.asleep()
    assert await rig.worker.drain(1000.0) == 0
    assert rig.backend.calls == []


async def test_a_book_that_fails_after_the_drain_began_is_not_asked_again() -> None:
    rig = Rig()
    looked, go = asyncio.Event(), asyncio.Event()

    async def slow_look(ref: DeviceRef, pause: Pause | None = None) -> Claim | Pause | None:
        looked.set()
        await go.wait()
        raise BookUnavailable

    rig.book.look = slow_look  # type: ignore[method-assign]
    rig.worker.start(rig.backend)
    rig.worker.wake(DeviceRef("acme", "c-42", 1))
    await looked.wait()
    drain = await drained(rig)
    go.set()
    assert await drain == 0


async def test_a_device_that_had_a_slot_but_was_not_looked_at_yet_is_left_by_a_drain() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    ref = rig.book.owes(a_claim())
    rig.worker.wake(ref)
    assert rig.worker.loads()["acme", ""] == Load(waiting=0, working=1)
    assert await rig.worker.drain(1000.0) == 0
    assert rig.book.seen == []


async def test_a_drain_ends_the_rest_of_broken_devices() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    ref = rig.book.owes(broken(), a_claim())
    rig.worker.wake(ref)
    await rig.clock.asleep()
    assert await rig.worker.drain(1000.0) == 0
    rig.clock.tick(1000.0)
    await asyncio.sleep(0)
    assert rig.book.count("look", ref) == 1


async def test_a_drain_gives_an_unrecorded_answer_its_whole_time_and_then_gives_up() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    rig.book.settle_errors.extend([BookUnavailable()] * 1000)
    rig.worker.wake(rig.book.owes(a_claim()))
    await rig.book.until(lambda: ("settle failed", a_claim().ref) in rig.book.seen)
    drain = asyncio.create_task(rig.worker.drain(10.0))
    await rig.clock.asleep(2)  # the wait before the next settle, and the drain's own
    failed = rig.book.count("settle failed", a_claim().ref)
    for _ in range(9):
        await rig.clock.asleep()
        rig.clock.tick(1.0)
        for _ in range(5):
            await asyncio.sleep(0)
    assert not drain.done()
    assert rig.book.count("settle failed", a_claim().ref) > failed
    rig.clock.tick(1.0)
    assert await drain == 1


async def test_a_drain_that_is_itself_cut_short_leaves_no_call_running() -> None:
    rig = Rig()
    rig.worker.start(rig.backend)
    rig.backend.hold("acme")
    rig.worker.wake(rig.book.owes(a_claim()))
    await rig.backend.until_called(1)
    drain = await drained(rig)
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    await rig.until_idle()
    assert rig.backend.in_flight["acme"] == 0


async def test_with_a_real_caller_and_the_loop_s_own_sleep_it_needs_nothing_more(
    caller: Caller, backend: aioresponses
) -> None:
    endpoint = an_endpoint()
    backend.post(endpoint.url, status=202, response_class=Answered)
    book = Book()
    worker = PushWorker(
        book,
        [endpoint],
        time.time,
        Random(7),
        lambda *_: None,
        wall=time.time,
        on_fault=lambda: None,
    )
    worker.start(caller)
    worker.wake(book.owes(BookUnavailable(), a_claim()))
    await book.until_settled(1)
    assert book.settled[0][1].verdict == Verdict(VerdictKind.ACCEPTED, "http_202", 202)
    assert await worker.drain(5.0) == 0


async def test_new_settings_forget_the_failures_of_the_old_and_what_waited_goes_out() -> None:
    async with failing() as rig:
        waiting = [rig.book.owes(a_claim(device)) for device in (50, 51)]
        for ref in waiting:
            rig.worker.wake(ref)
        await rig.until_quiet()
        assert rig.worker.loads()["acme", ""].open
        rig.backend.verdicts.clear()
        settled = len(rig.book.settled)
        rig.book.owes(a_claim(50), ref=waiting[0])
        rig.book.owes(a_claim(51), ref=waiting[1])
        rig.worker.take_up([an_endpoint(auth_token="another", breaker_after=2)])
        await rig.book.until_settled(settled + 2)
        assert not rig.worker.loads()["acme", ""].open


@pytest.mark.parametrize(("token", "counts"), [("another", False), ("auth-token", True)])
async def test_how_calls_by_old_settings_end_says_nothing_of_the_new(
    token: str, counts: bool
) -> None:
    with capture_logs() as logs:
        async with started(acme=an_endpoint(breaker_after=2)) as rig:
            rig.backend.hold("acme")
            rig.backend.verdicts.extend([REDIRECT] * 2)
            for device in range(2):
                rig.worker.wake(rig.book.owes(a_claim(device)))
            await rig.backend.until_called(2)
            rig.worker.take_up([an_endpoint(auth_token=token, breaker_after=2)])
            await rig.backend.release("acme")
            await rig.book.until_settled(2)
            assert rig.worker.loads()["acme", ""].open is counts
    assert bool(logs) is counts


async def test_what_is_refused_by_old_settings_is_given_up_and_told_of_all_the_same() -> None:
    """It became a dead letter, which is for good, and the log had no word of it."""
    with capture_logs() as logs:
        async with started() as rig:
            rig.backend.hold("acme")
            rig.backend.verdicts.append(REFUSED)
            rig.worker.wake(rig.book.owes(a_claim()))
            await rig.backend.until_called(1)
            rig.worker.take_up([an_endpoint(auth_token="another")])
            await rig.backend.release("acme")
            await rig.book.until_settled(1)
    (told,) = logs
    assert (told["log_level"], told["reason"]) == ("warning", REFUSED.reason)
    assert "replay" in told["advice"]


async def test_the_same_settings_again_change_nothing() -> None:
    async with failing() as rig:
        rig.worker.take_up([an_endpoint(breaker_after=2, in_flight=2)])
        assert rig.worker.loads()["acme", ""].open


async def test_a_tenant_that_gets_an_endpoint_while_running_is_rung() -> None:
    async with started(acme=an_endpoint()) as rig:
        rig.worker.take_up([an_endpoint(tenant="new")])
        rig.worker.wake(rig.book.owes(a_claim(tenant="new")))
        await rig.book.until_settled(1)


async def test_a_higher_rate_counts_at_once() -> None:
    async with started(acme=an_endpoint(rate_per_second=0.001)) as rig:
        rig.worker.wake(rig.book.owes(a_claim(1)))
        rig.worker.wake(rig.book.owes(a_claim(2)))
        await rig.book.until_settled(1)
        await rig.until_quiet()
        rig.worker.take_up([an_endpoint(rate_per_second=1_000.0)])
        await rig.book.until_settled(2)


async def test_of_an_endpoint_that_was_taken_away_nothing_is_told_any_more() -> None:
    async with failing() as rig:
        rig.worker.take_up([an_endpoint(tenant="new")])
        assert rig.worker.loads() == {("new", ""): Load(0, 0)}
        rig.worker.take_up([an_endpoint(breaker_after=2, in_flight=2)])
        (load,) = rig.worker.loads().values()
        assert not load.open  # its failures are forgotten
