"""What customers wish of rings, from the API to the backend: what rings, what does not, and why."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.protocol import Role, timestamp
from tests.running import PATIENCE, PATIENT, QUICK, Call, Gate, Running, running
from tests.test_transitions import balance

FOREVER = "9999-12-31T23:59:59Z"


async def wish(it: Running, by: Role = Role.CUSTOMER, **wishes: Any) -> dict[str, Any]:
    path = "/v1/me/preferences" if by is Role.CUSTOMER else "/v1/customers/c-42/preferences"
    status, told = await it.call("PUT", path, by, "c-42", json=wishes)
    assert status == 200, told
    answer: dict[str, Any] = told
    return answer


def looks(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(e["action"], e["reason"]) for e in told["events"] if e["event"] == "look"]


async def looked(it: Running, seq: int, *look: str) -> dict[str, Any]:
    """Wait until a device was looked at for the message with this action and reason."""
    async with asyncio.timeout(PATIENCE):
        while True:
            changed = it.next_commit()
            told = await it.outcome(seq)
            if look in looks(told):
                return told
            await changed.wait()


async def attempted(it: Running, seq: int, times: int) -> None:
    """Wait until the answers to so many calls for the message are recorded."""
    async with asyncio.timeout(PATIENCE):
        while True:
            changed = it.next_commit()
            events = (await it.outcome(seq))["events"]
            if sum(event["event"] == "attempt" for event in events) == times:
                return
            await changed.wait()


def hours(begin: float, end: float) -> str:
    """Quiet hours in UTC, from so many minutes from now until so many minutes from now."""
    now = datetime.now(UTC)
    times = [(now + timedelta(minutes=m)).strftime("%H:%M") for m in (begin, end)]
    return "-".join(times)


NOW_QUIET = (-60.0, 60.0)


# The API


async def test_the_customer_and_the_service_set_and_see_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        wishes = {"muted_until": FOREVER, "proactive": False, "time_zone": "Europe/Vienna"}
        told = await wish(it, Role.SERVICE, **wishes, quiet_hours="22:00-07:00")
        assert told == wishes | {
            "muted_until": "9999-12-31T23:59:59.000Z",
            "quiet_hours": "22:00-07:00",
        }
        assert await it.call("GET", "/v1/me/preferences", Role.CUSTOMER, "c-42") == (200, told)
        assert await wish(it, quiet_hours="off") == {"proactive": True, "quiet_hours": "off"}
        path = "/v1/customers/c-42/preferences"
        assert await it.call("GET", path, Role.SERVICE) == (
            200,
            {"proactive": True, "quiet_hours": "off"},
        )


async def test_wishes_outlive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await wish(it, proactive=False)
    async with running(tmp_path) as it:
        await it.register()
        await it.write()
        assert (await it.settled(1, "undeliverable"))["reason"] == "opted_out"


async def test_who_said_nothing_wishes_nothing_and_strangers_are_not_found(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert await it.call("GET", "/v1/me/preferences", Role.CUSTOMER, "new") == (
            200,
            {"proactive": True},
        )
        status, _ = await it.call("GET", "/v1/customers/new/preferences", Role.SERVICE)
        assert status == 404
        await it.write("known")
        told = await it.call("GET", "/v1/customers/known/preferences", Role.SERVICE)
        assert told == (200, {"proactive": True}), "who is known and said nothing"


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/v1/me/preferences", Role.SERVICE),
        ("/v1/me/preferences", Role.AGENT),
        ("/v1/customers/c-42/preferences", Role.CUSTOMER),
        ("/v1/customers/c-42/preferences", Role.AGENT),
    ],
)
async def test_wishes_are_for_the_customer_and_the_service_alone(
    tmp_path: Path, path: str, role: Role
) -> None:
    async with running(tmp_path) as it:
        assert (await it.call("GET", path, role))[0] == 403
        assert (await it.call("PUT", path, role, json={}))[0] == 403


@pytest.mark.parametrize(
    ("wishes", "detail"),
    [
        ({"time_zone": "Vienna"}, "time_zone: is not known; give one such as Europe/Vienna"),
        ({"time_zone": "../../etc/passwd"}, "time_zone: is not known"),
        ({"quiet_hours": "22-7"}, "quiet_hours: is no such time; give hours such as 22:00-07:00"),
        ({"quiet_hours": "07:00-07:00"}, "quiet_hours: begins when it ends; give hours"),
        ({"muted_until": "tomorrow"}, "muted_until: must be an RFC 3339 time with a zone"),
        ({"proactive": "no"}, "proactive: must be true or false"),
    ],
)
async def test_a_wish_that_cannot_be_kept_is_refused_and_nothing_changes(
    tmp_path: Path, wishes: dict[str, Any], detail: str
) -> None:
    async with running(tmp_path) as it:
        await wish(it, proactive=False)
        status, problem = await it.call(
            "PUT", "/v1/me/preferences", Role.CUSTOMER, "c-42", json=wishes
        )
        assert (status, problem["code"]) == (400, "bad_frame")
        assert problem["detail"].startswith(detail)
        assert await it.call("GET", "/v1/me/preferences", Role.CUSTOMER, "c-42") == (
            200,
            {"proactive": False},
        )


# Mute


async def test_who_has_muted_is_not_rung_and_the_sender_is_told_why(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, muted_until=FOREVER)
        agent = await it.agent(open="c-42")
        sent = await agent.ask("send", "sent", customer="c-42", text="hello", ref="m1")
        assert (sent["route"], sent["reason"]) == ("none", "muted")
        receipt = await agent.take("receipt", state="undeliverable")
        assert receipt["reason"] == "muted"
        told = await it.settled(1, "undeliverable")
        assert looks(told) == [("skip", "muted")]
        assert it.backend.calls == []
        assert await balance(it) == {"accepted": 1, "undeliverable": 1}
        _, metrics = await it.call("GET", "/metrics", listener="admin")
        assert 'ringback_looks_total{action="skip",reason="muted",tenant="acme"} 1.0' in metrics


async def test_a_mute_that_is_over_rings_for_what_comes_then_with_all_that_is_unread(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, muted_until=timestamp(time.time() + 3600))
        await it.write(text="one")
        await it.settled(1, "undeliverable")
        await wish(it)
        await it.write(text="two")
        call = await it.backend.take()
        await it.settled(2, "pushed")
        assert (call.ring["seq"], call.badge) == (2, 2)
        assert (await it.outcome(1))["reason"] == "muted"
        assert it.backend.untaken == 0
        assert await balance(it) == {"accepted": 2, "pushed": 1, "undeliverable": 1}


async def test_of_what_a_customer_wrote_a_mute_settles_nothing_that_is_to_come(
    tmp_path: Path,
) -> None:
    """The customer's own messages have places, and count for no ring."""
    async with running(tmp_path) as it:
        await it.register()
        customer = await it.customer()
        for number in (1, 2):
            await customer.ask("send", "sent", text=f"question {number}")
        await customer.send("bye")
        await customer.closed()
        await wish(it, muted_until=FOREVER)
        await it.write(text="one")
        await it.settled(3, "undeliverable")
        await wish(it)
        await it.write(text="two")
        assert (await it.backend.take()).badge == 2
        await it.settled(4, "pushed")
        assert "claimed" not in [event["event"] for event in (await it.outcome(3))["events"]]


async def test_who_has_muted_still_gets_everything_in_chat(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, muted_until=FOREVER)
        await it.write()
        await it.settled(1, "undeliverable")
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        assert it.backend.calls == []


async def test_a_ring_in_hand_is_not_repeated_once_the_customer_mutes(tmp_path: Path) -> None:
    push = {"retry_first": 0.2, "retry_max": 0.2}
    async with running(tmp_path, push=push) as it:
        it.backend.otherwise = 503
        await it.register()
        await it.write()
        await it.backend.take()
        await wish(it, muted_until=FOREVER)
        told = await it.settled(1, "undeliverable")
        assert told["reason"] == "muted"
        assert ("cancel", "muted") in looks(told)
        calls = len(it.backend.calls)
        await wish(it)
        it.backend.otherwise = 200
        await it.write()
        await it.settled(2, "pushed")
        rings = {call.ring["id"] for call in it.backend.calls[:calls]}
        assert len(rings) == 1
        assert [call.ring["seq"] for call in it.backend.calls[calls:]] == [2]


async def test_who_opts_out_is_not_rung_again_though_a_chat_message_expired_before(
    tmp_path: Path,
) -> None:
    """The ring in hand begins before the one that expired, and is not for it."""
    push = {"retry_first": 0.2, "retry_max": 0.2}
    async with running(tmp_path, push=push) as it:
        it.backend.otherwise = 503
        await it.register()
        await it.write(kind="chat", expires_at=timestamp(time.time() + 60.0))
        await it.backend.take()
        it.pass_time(60.0)
        await it.settled(1, "expired")
        await it.write()
        while (await it.backend.take()).ring["seq"] == 1:
            pass
        await wish(it, proactive=False)
        told = await it.settled(2, "undeliverable")
        assert told["reason"] == "opted_out"
        assert ("cancel", "opted_out") in looks(told)


async def test_of_a_ring_cancelled_for_a_wish_nothing_is_said_to_be_acknowledged(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push={"retry_first": 0.2, "retry_max": 0.2}) as it:
        it.backend.otherwise = 503
        await it.register()
        await it.write()
        await it.backend.take()
        await wish(it, muted_until=FOREVER)
        await it.settled(1, "undeliverable")
        await wish(it)
        it.backend.otherwise = 200
        await it.write()
        await it.settled(2, "pushed")
        assert looks(await it.outcome(1))[-1] == ("cancel", "muted")


async def test_the_number_on_an_icon_is_corrected_for_who_has_muted(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write()
        await it.backend.take()
        await it.settled(1, "pushed")
        await wish(it, muted_until=FOREVER)
        customer = await it.customer(installation="laptop")
        await customer.take("message")
        await customer.send("read", seq=1)
        call = await it.backend.take()
        assert (call.ring["kind"], call.badge) == ("badge", 0)


async def test_several_devices_of_who_has_muted_settle_a_message_once(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for n in range(3):
            await it.register(installation=f"phone-{n}", token=f"token-{n}")
        await wish(it, muted_until=FOREVER)
        await it.write()
        told = await it.settled(1, "undeliverable")
        assert looks(told) == [("skip", "muted")] * 3
        assert [e["event"] for e in told["events"]].count("outcome") == 1


# Opt-out


async def test_who_opted_out_is_rung_for_chat_and_not_for_proactive_messages(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, proactive=False)
        await it.write(text="buy!")
        told = await it.settled(1, "undeliverable")
        assert (told["reason"], looks(told)) == ("opted_out", [("skip", "opted_out")])
        assert told["events"][0]["route"] == "none"
        await it.write(text="hello", kind="chat")
        call = await it.backend.take()
        told = await it.settled(2, "pushed")
        assert told["events"][0]["route"] == "push"
        assert (call.ring["seq"], call.ring["kind"], call.badge) == (2, "message", 2)


async def test_of_a_mixed_backlog_the_newest_that_is_wanted_rings_and_each_has_its_outcome(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
    async with running(tmp_path, delivery=QUICK | {"restart_grace": 60.0}) as it:
        await wish(it, proactive=False)
        for text, kind in (("a", "proactive"), ("b", "chat"), ("c", "proactive")):
            await it.write(text=text, kind=kind)
        it.pass_time(60.0)
        call = await it.backend.take()
        await it.settled(2, "pushed")
        assert (call.ring["seq"], call.ring["kind"], call.badge) == (2, "message", 3)
        for seq in (1, 3):
            told = await it.outcome(seq)
            assert (told["outcome"], told["reason"]) == ("undeliverable", "opted_out")
            assert looks(told) == []  # the look that rang was for the other
        await wish(it)
        await it.write(text="d")
        later = await it.backend.take()
        await it.settled(4, "pushed")
        assert (later.ring["seq"], later.badge) == (4, 4)
        assert await balance(it) == {"accepted": 4, "pushed": 2, "undeliverable": 2}


# Quiet hours


async def test_in_quiet_hours_a_ring_waits_and_what_is_acked_meanwhile_never_rings(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, quiet_hours=hours(*NOW_QUIET))
        await it.write()
        told = await looked(it, 1, "wait", "quiet_hours")
        assert looks(told) == [("wait", "quiet_hours")]
        (waiting,) = told["waiting"]
        assert waiting["for"] == "look"
        end = datetime.fromisoformat(waiting["until"])
        assert timedelta(minutes=58) < end - datetime.now(UTC) <= timedelta(minutes=60)
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        await wish(it)  # it would ring now
        await it.write(text="another")
        await customer.take("message")
        await customer.send("ack", seq=2)
        await it.settled(2, "acked")
        assert it.backend.calls == []


async def test_when_quiet_hours_are_lifted_what_waited_rings_at_once_and_once(
    tmp_path: Path,
) -> None:
    push = {"quiet_hours": hours(*NOW_QUIET)}
    async with running(tmp_path, push=push) as it:
        await it.register()
        for text in ("one", "two"):
            await it.write(text=text)
        await looked(it, 1, "wait", "quiet_hours")
        await wish(it, quiet_hours="off")
        call = await it.backend.take()
        await it.settled(2, "pushed")
        await it.settled(1, "pushed")
        assert (call.ring["seq"], call.badge) == (2, 2)
        assert it.backend.untaken == 0


async def test_expiry_holds_in_quiet_hours(tmp_path: Path) -> None:
    async with running(tmp_path, push={"quiet_hours": hours(*NOW_QUIET)}) as it:
        await it.register()
        await it.write(expires_at=timestamp(time.time() + 60.0))
        await looked(it, 1, "wait", "quiet_hours")
        it.pass_time(60.0)
        told = await it.settled(1, "expired")
        assert set(looks(told)) == {("wait", "quiet_hours")}
        assert it.backend.calls == []


async def test_a_ring_in_hand_waits_for_the_morning_too_and_is_then_the_same(
    tmp_path: Path,
) -> None:
    push = {"retry_first": 0.2, "retry_max": 0.2}
    async with running(tmp_path, push=push) as it:
        it.backend.answers.append(503)
        await it.register()
        await it.write()
        first = await it.backend.take()
        await wish(it, quiet_hours=hours(*NOW_QUIET))
        await looked(it, 1, "wait", "quiet_hours")
        await wish(it)
        again = await it.backend.take()
        await it.settled(1, "pushed")
        assert again.raw == first.raw


async def test_a_wait_for_the_morning_outlives_a_restart(tmp_path: Path) -> None:
    push = {"quiet_hours": hours(*NOW_QUIET)}
    async with running(tmp_path, push=push) as it:
        await it.register()
        await it.write()
        await looked(it, 1, "wait", "quiet_hours")
    async with running(tmp_path, push=push) as it:
        (waiting,) = (await it.outcome(1))["waiting"]
        until = datetime.fromisoformat(waiting["until"])
        assert until - datetime.now(UTC) > timedelta(minutes=50)
        await wish(it, quiet_hours="off")
        assert (await it.backend.take()).ring["seq"] == 1


async def test_quiet_hours_are_by_the_clock_where_the_phone_is(tmp_path: Path) -> None:
    """It is a time at which it is night in one of two zones that are twelve hours apart."""
    near, far = "Etc/GMT-1", "Etc/GMT+11"
    here = datetime.now(UTC) + timedelta(hours=1)
    night = "-".join((here + timedelta(hours=h)).strftime("%H:%M") for h in (-2, 2))
    async with running(tmp_path, push={"quiet_hours": night}) as it:
        await it.register(time_zone=near)
        await it.write()
        told = await looked(it, 1, "wait", "quiet_hours")
        assert looks(told) == [("wait", "quiet_hours")]
        await it.register(time_zone=far)  # the phone has travelled
        assert (await it.backend.take()).ring["seq"] == 1
        await it.settled(1, "pushed")


async def test_what_was_refused_stays_so_beside_what_was_then_opted_out_of(tmp_path: Path) -> None:
    """The opt-out is of the later message; it speaks for no chat that a backend had refused."""
    gone = asyncio.Event()

    async def by_phone(call: Call) -> web.StreamResponse:
        if call.body["deviceToken"] == "t-1":
            return web.Response(status=422)
        await gone.wait()
        return web.Response(status=410)

    async with running(tmp_path, delivery=QUICK) as it:
        await it.register(installation="phone-1", token="t-1")
        await it.register(installation="phone-2", token="t-2")
        it.backend.answers += [by_phone] * 2
        chat = await it.write(kind="chat")
        for _ in range(2):
            await it.backend.take()
        await wish(it, proactive=False)
        await looked(it, await it.write(), "skip", "opted_out")
        gone.set()
        assert (await it.settled(chat, "undeliverable"))["reason"] == "refused"


async def test_of_a_mute_on_one_phone_and_an_opt_out_on_another_the_mute_is_the_reason(
    tmp_path: Path,
) -> None:
    async def fails(call: Call) -> web.StreamResponse:
        waits = call.body["deviceToken"] == "tablet-token"
        return web.Response(status=503 if waits else 200, headers={"Retry-After": "600"})

    async with running(tmp_path) as it:
        it.backend.otherwise = fails
        await wish(it, proactive=False)
        await it.register()
        await it.register(installation="tablet", token="tablet-token")
        await it.write(kind="chat")
        await attempted(it, 1, 2)
        await it.write()
        told = await looked(it, 2, "skip", "opted_out")
        assert told["outcome"] == "pending"
        await wish(it, proactive=False, muted_until=FOREVER)
        it.pass_time(700.0)
        assert (await it.settled(2, "undeliverable"))["reason"] == "muted"


async def test_a_refusal_of_what_was_acknowledged_meanwhile_is_recorded_after_an_opt_out_too(
    tmp_path: Path,
) -> None:
    gate = Gate(422)
    async with running(tmp_path) as it:
        await it.register()
        await wish(it, proactive=False)
        await it.settled(await it.write(), "undeliverable")
        it.backend.answers.append(gate)
        seq = await it.write(kind="chat")
        await it.backend.take()
        customer = await it.customer()
        await customer.send("ack", seq=seq)
        await it.settled(seq, "acked")
        gate.open.set()
        await attempted(it, seq, 1)
        await customer.send("bye")
        await it.settled(await it.write(kind="chat"), "pushed")


async def test_what_was_opted_out_of_is_not_what_a_later_ring_says(tmp_path: Path) -> None:
    """Its customer wants such again, and the phone has another token since."""
    async with running(tmp_path, delivery=QUICK | {"ack_timeout": 1.0, "max_hold": 5.0}) as it:
        await it.register()
        await wish(it, proactive=False)
        customer = await it.customer()
        await it.write(text="wanted", kind="chat")
        await it.write(text="unwanted")
        gate = Gate(500)
        it.backend.answers.append(gate)
        await customer.send("bye")
        assert (await it.backend.take()).body["payload"]["aps"]["alert"]["body"] == "wanted"
        await it.settled(2, "undeliverable")
        await wish(it)
        await it.register(token="another-token")
        gate.open.set()
        call = await it.backend.take()
        assert call.body["deviceToken"] == "another-token"
        assert call.body["payload"]["aps"]["alert"]["body"] == "wanted"
        await it.settled(1, "pushed")
        assert (await it.outcome(2))["outcome"] == "undeliverable"


async def test_what_a_registration_made_pending_again_expires_at_its_time(tmp_path: Path) -> None:
    """Though its phone waits for the end of quiet hours, and nobody looks at it before."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(expires_at=timestamp(time.time() + 1_800.0))
        await it.settled(1, "undeliverable")
        await it.customer()
        await it.write(expires_at=timestamp(time.time() + 30.0))
        it.pass_time(30.0)
        await it.settled(2, "expired")  # and nothing is left that expires
        await wish(it, time_zone="UTC", quiet_hours=hours(*NOW_QUIET))
        await it.register()
        it.pass_time(60.0)
        await looked(it, 1, "wait", "quiet_hours")
        it.pass_time(1_710.0)
        await it.settled(1, "expired")
        assert it.backend.calls == []


@pytest.mark.parametrize("phone", ["the same again", "another"])
async def test_a_new_registration_is_not_rung_for_what_was_rung_before_it(
    tmp_path: Path, phone: str
) -> None:
    """What comes then is not wanted: it leads back to nothing older."""
    async with running(tmp_path) as it:
        await it.register()
        await it.write(text="hello", kind="chat")
        await it.settled(1, "pushed")
        if phone == "another":
            await it.register(installation="tablet", token="tablet-token")
        else:
            await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-42")
            await it.register()
        await wish(it, proactive=False)
        await it.write(text="buy!")
        told = await it.settled(2, "undeliverable")
        assert told["reason"] == "opted_out"
        await it.write(text="are you there?", kind="chat")
        await it.settled(3, "pushed")
        assert {call.ring["seq"] for call in it.backend.calls} == {1, 3}
        assert len([call for call in it.backend.calls if call.ring["seq"] == 1]) == 1
