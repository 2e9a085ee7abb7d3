"""The delivery rule against a real backend: when it rings, how often, with what, and when not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from gateway.protocol import Role, timestamp
from push.ring import DeviceRef
from storage.loading import Known
from storage.records import Key
from storage.sql import Statement
from storage.store import Needs
from storage.transaction import Transaction
from tests.running import PATIENCE, PATIENT, QUICK, Call, Gate, Running, busy, running

SLOW_ACK = QUICK | {"ack_timeout": 60.0, "max_hold": 60.0}


async def events(it: Running, seq: int, name: str) -> list[dict[str, object]]:
    return [e for e in (await it.outcome(seq))["events"] if e["event"] == name]


async def recorded(it: Running, seq: int, name: str) -> None:
    """Wait until an event of this name is recorded: listen first, then look."""
    while True:
        changed = it.next_commit()
        if await events(it, seq, name):
            return
        await changed.wait()


async def decided(it: Running, seq: int) -> list[object]:
    """What the looks decided, once one was for something other than to wait."""
    while True:
        changed = it.next_commit()
        actions = [e["action"] for e in await events(it, seq, "look")]
        if actions and actions[-1] != "wait":
            return actions
        await changed.wait()


async def looked(it: Running, seq: int, action: str) -> None:
    """Wait until a look has decided so."""
    while True:
        changed = it.next_commit()
        if any(e["action"] == action for e in await events(it, seq, "look")):
            return
        await changed.wait()


async def test_messages_while_the_backend_is_slow_become_one_further_ring(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        gate = Gate()
        it.backend.answers.append(gate)
        await it.write(text="one")
        assert (await it.backend.take()).badge == 1
        await it.write(text="two")
        last = await it.write(text="three")
        gate.open.set()
        further = await it.backend.take()
        assert (further.badge, further.ring["seq"]) == (3, last)
        await it.settled(last, "pushed")
        assert len(it.backend.calls) == 2


async def test_what_was_acknowledged_before_a_ring_was_claimed_is_told_as_not_rung(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register()
        phone = await it.customer()
        first = await it.write(text="one")
        await phone.take("message", seq=first)
        await phone.send("ack", seq=first)
        await it.settled(first, "acked")
        await phone.send("state", state="background")
        it.backend.answers += [503]
        second = await it.write(text="two")
        await it.settled(second, "pushed")
        assert len(await events(it, second, "attempt")) == 2
        for name in ("claimed", "attempt"):
            assert await events(it, first, name) == []


async def test_a_thousand_messages_in_an_outage_cost_one_ring_and_one_further(
    tmp_path: Path,
) -> None:
    # The call that is held must not time out while a slow machine takes the thousand.
    async with running(tmp_path, push={"timeout": 600.0}) as it:
        await it.register()
        it.backend.answers.extend([503] * 5)
        gate = Gate(503)
        it.backend.answers.append(gate)
        await it.write(text="first")
        for _ in range(6):
            first = await it.backend.take()
        await asyncio.gather(*(it.write(text=f"m{i}") for i in range(1000)))
        gate.open.set()
        again = await it.backend.take()
        assert again.raw == first.raw
        further = await it.backend.take()
        assert further.badge == 1001
        await it.settled(1001, "pushed")
        assert len({call.headers["webhook-id"] for call in it.backend.calls}) == 2
        assert it.gateway.core.store.counters["acme", "pushed"] == 1001


async def test_a_retry_sends_the_same_bytes_under_the_same_id(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.extend([500, 429, 408])
        await it.write()
        calls = [await it.backend.take() for _ in range(4)]
        assert len({call.raw for call in calls}) == 1
        assert len({call.headers["webhook-id"] for call in calls}) == 1
        told = await it.settled(1, "pushed")
        attempts = [e for e in told["events"] if e["event"] == "attempt"]
        assert [e["verdict"] for e in attempts] == ["retry", "retry", "retry", "accepted"]


async def test_a_ring_that_waits_is_cancelled_when_the_customer_acks(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        await it.register()
        it.backend.answers.append(web.Response(status=503, headers={"Retry-After": "600"}))
        await it.write()
        await it.backend.take()
        await recorded(it, 1, "attempt")
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        assert (await it.settled(1, "acked"))["outcome"] == "acked"
        it.pass_time(600.0)
        await looked(it, 1, "cancel")
        assert len(it.backend.calls) == 1


async def test_who_comes_into_chat_does_not_cut_a_backoff_short(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(web.Response(status=503, headers={"Retry-After": "600"}))
        await it.write()
        await it.backend.take()
        await recorded(it, 1, "attempt")
        customer = await it.customer()
        await customer.take("message")
        it.pass_time(60.0)
        await it.register("c-1", installation="another", token="token-of-c-1")
        await it.write("c-1")
        assert (await it.backend.take()).ring["customer"] == "c-1"


async def test_within_the_grace_a_reload_rings_nobody(tmp_path: Path) -> None:
    delivery = QUICK | {"disconnect_grace": 60.0, "ack_timeout": 60.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=delivery) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        customer.vanish()
        await agent.take("presence", in_chat=False)
        sent = await agent.ask("send", "sent", customer="c-42", text="still there?")
        assert sent["route"] == "push"
        back = await it.customer()
        assert (await back.take("message"))["text"] == "still there?"
        await back.send("ack", seq=1)
        await it.settled(1, "acked")
        assert it.backend.calls == []


async def test_a_bye_has_no_grace(tmp_path: Path) -> None:
    delivery = QUICK | {"disconnect_grace": 60.0, "ack_timeout": 60.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=delivery) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="bye?")
        await customer.take("message")
        await customer.send("bye")
        assert await customer.closed() == 1000
        assert (await it.backend.take()).badge == 1


async def test_who_vanishes_after_a_bye_has_left_all_the_same(tmp_path: Path) -> None:
    delivery = QUICK | {"disconnect_grace": 60.0, "ack_timeout": 1.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=delivery) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="bye?")
        customer.socket.transport.pause_reading()  # the close is never answered
        await customer.send("bye")
        await it.backend.take()
        assert (await it.settled(1, "pushed"))["reason"] == "not_in_chat"


async def test_leaving_with_unacked_messages_rings_after_the_grace(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="hello")
        await customer.take("message")
        customer.vanish()
        assert (await it.backend.take()).badge == 1


async def test_an_ack_from_the_background_counts_once_the_session_is_active(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        customer = await it.customer(state="background")
        await it.write()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await customer.quiet()
        assert (await it.settled(1, "undeliverable"))["reason"] == "no_device"
        await customer.send("state", state="active")
        await it.settled(1, "acked")


async def test_a_partial_ack_leaves_the_rest_to_the_push(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="one")
        await agent.ask("send", "sent", customer="c-42", text="two")
        await customer.take("message", seq=2)
        await customer.send("ack", seq=1)
        call = await it.backend.take()
        assert (call.ring["seq"], call.badge) == (2, 2)
        await it.settled(2, "pushed")
        assert (await it.outcome(1))["outcome"] == "acked"


async def test_who_left_and_reads_a_part_elsewhere_is_rung_for_the_rest_after_the_grace(
    tmp_path: Path,
) -> None:
    """A read in the background is an ack, but gives the rest no time: nobody is in chat."""
    async with running(tmp_path, delivery=PATIENT | {"disconnect_grace": 1.0}) as it:
        await it.register()
        phone, web = await it.customer(), await it.customer(state="background")
        agent = await it.agent(open="c-42")
        first, second = [await it.write(text=text) for text in ("one", "two")]
        await phone.take("message", seq=second)
        phone.vanish()
        await agent.take("presence", in_chat=False)
        await web.send("read", seq=first)
        assert (await it.backend.take()).ring["seq"] == second


async def test_a_flapping_phone_still_rings(tmp_path: Path) -> None:
    delivery = QUICK | {"ack_timeout": 0.5, "max_hold": 1.0, "disconnect_grace": 0.5}
    as_often_as_it_likes = {"attempts_per_minute": 1_000_000}
    async with running(tmp_path, delivery=delivery, limits=as_often_as_it_likes) as it:
        await it.register()
        await it.customer()
        agent = await it.agent()
        await agent.ask("send", "sent", customer="c-42", text="hello")
        rung = asyncio.create_task(it.backend.take())
        while not rung.done():
            phone = await it.customer()
            phone.vanish()
        assert (await rung).badge == 1


async def test_a_dead_token_is_never_called_again_and_the_message_says_why(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(410)
        await it.write()
        told = await it.settled(1, "undeliverable")
        assert told["reason"] == "token_dead"
        assert (await it.settled(await it.write(), "undeliverable"))["reason"] == "token_dead"
        assert len(it.backend.calls) == 1
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert [device["state"] for device in listed["devices"]] == ["dead"]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "accepted"),
        (422, "refused"),
        (410, "token_dead"),
        (503, "retry"),
        (404, "misconfigured"),
    ],
)
async def test_what_came_of_the_last_push_is_told_of_a_device(
    tmp_path: Path, status: int, verdict: str
) -> None:
    async with running(tmp_path, push={"retry_first": 60.0, "retry_max": 60.0}) as it:

        async def last_push() -> object:
            _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
            return told["devices"][0].get("last_push")

        it.retry_late()
        await it.register()
        assert await last_push() is None
        it.backend.answers.append(status)
        await it.write()
        await recorded(it, 1, "attempt")
        (attempt,) = await events(it, 1, "attempt")
        assert await last_push() == {"verdict": verdict, "at": attempt["at"]}


async def test_a_rejected_token_in_a_200_is_dead_too(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(token="t-1")
        it.backend.answers.append(web.json_response({"rejected": ["t-1"]}))
        await it.write()
        assert (await it.settled(1, "undeliverable"))["reason"] == "token_dead"


async def test_a_refused_ring_is_a_dead_letter_and_the_next_message_rings_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(422)
        await it.write()
        assert (await it.settled(1, "undeliverable"))["reason"] == "refused"
        await it.settled(await it.write(), "pushed")
        assert (await it.outcome(1))["outcome"] == "undeliverable"


async def test_a_misconfigured_endpoint_is_retried_and_no_token_dies(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.extend([404, 401, 403, web.Response(status=302)])
        await it.write()
        told = await it.settled(1, "pushed")
        verdicts = [e["verdict"] for e in told["events"] if e["event"] == "attempt"]
        assert verdicts == ["misconfigured"] * 4 + ["accepted"]


async def test_with_two_devices_one_acceptance_is_enough(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="phone", token="t-1")
        await it.register(installation="tablet", token="t-2")
        it.backend.answers.append(422)
        await it.write()
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 2


async def test_a_message_expires_while_the_backend_is_down(tmp_path: Path) -> None:
    push = {"expires_after": "1m"}
    async with running(tmp_path, push=push) as it:
        await it.register()
        it.backend.answers.extend([503] * 1000)
        await it.write()
        await it.backend.take()
        it.pass_time(60.0)
        told = await it.settled(1, "expired")
        assert told["reason"] == "expired"
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")


async def test_an_acceptance_after_the_expiry_makes_it_pushed(tmp_path: Path) -> None:
    async with running(tmp_path, push={"expires_after": "1m"}) as it:
        await it.register()
        gate = Gate()
        it.backend.answers.append(gate)
        await it.write()
        await it.backend.take()
        it.pass_time(60.0)
        await it.settled(1, "expired")
        gate.open.set()
        await it.settled(1, "pushed")


async def test_an_ack_during_the_call_is_the_outcome_and_the_ring_a_fact_beside_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        await it.register()
        gate = Gate()
        it.backend.answers.append(gate)
        await it.write()
        await it.backend.take()
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        gate.open.set()
        await recorded(it, 1, "rang_after_ack")
        assert (await it.outcome(1))["outcome"] == "acked"


async def test_registering_rearms_what_lacked_a_device(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write(text="nobody to ring")
        assert (await it.settled(1, "undeliverable"))["reason"] == "no_device"
        await it.register()
        assert (await it.backend.take()).body["payload"]["aps"]["alert"]["body"] == "nobody to ring"
        await it.settled(1, "pushed")


async def test_a_new_token_replaces_the_old_one_even_for_a_waiting_ring(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(token="old")
        gate = Gate(503)
        it.backend.answers.append(gate)
        await it.write()
        assert (await it.backend.take()).body["deviceToken"] == "old"
        await it.register(token="new")
        gate.open.set()
        assert (await it.backend.take()).body["deviceToken"] == "new"
        await it.settled(1, "pushed")
        assert [call.body["deviceToken"] for call in it.backend.calls] == ["old", "new"]


async def test_registering_the_same_token_anew_changes_nothing_of_a_ring_that_was_claimed(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        gate = Gate(503)
        it.backend.answers.append(gate)
        await it.write()
        first = await it.backend.take()
        about = {"token": "device-token", "platform": "android", "locale": "de"}
        status, _ = await it.call("PUT", "/v1/devices/phone", Role.CUSTOMER, "c-42", json=about)
        assert status == 200
        gate.open.set()
        again = await it.backend.take()
        assert again.raw == first.raw
        await it.settled(1, "pushed")
        await it.write()  # a further ring is claimed anew
        assert (await it.backend.take()).body["notification"]["platform"] == "android"


async def test_a_phone_that_changed_hands_never_rings_for_the_first_person(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register("anna", token="t-1")
        gate = Gate(410)
        it.backend.answers.append(gate)
        await it.write("anna", "for anna")
        await it.backend.take()
        await it.register("ben", token="t-1")
        assert (await it.settled(1, "undeliverable", "anna"))["reason"] == "no_device"
        gate.open.set()  # a late verdict of the first owner's ring
        await it.write("ben", "for ben")
        call = await it.backend.take()
        assert call.ring["customer"] == "ben"
        await it.settled(1, "pushed", "ben")
        await it.settled(await it.write("anna", "again"), "undeliverable", "anna")
        assert [call.ring["customer"] for call in it.backend.calls] == ["anna", "ben"]


async def test_what_was_committed_before_a_stop_rings_after_the_start(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent()
        await agent.ask("send", "sent", customer="c-42", text="an offer")
        await customer.take("message")
        assert it.backend.calls == []
    async with running(tmp_path) as it:
        assert (await it.backend.take()).badge == 1
        await it.settled(1, "pushed")


async def test_sessions_closed_by_a_restart_come_back_unrung(tmp_path: Path) -> None:
    delivery = QUICK | {"restart_grace": 60.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent()
        await agent.ask("send", "sent", customer="c-42", text="before")
        await customer.take("message")
        epoch = customer.welcome["epoch"]
    assert await customer.closed() == 1012
    async with running(tmp_path, delivery=delivery) as it:
        back = await it.customer(resume={"epoch": epoch, "seq": 1})
        assert back.welcome["resumed"] is True
        await it.settled(1, "acked")
        assert it.backend.calls == []


async def test_a_proactive_message_rings_with_its_title(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write(title="Sale", text="Everything must go")
        call = await it.backend.take()
        assert call.body["payload"]["aps"]["alert"] == {
            "title": "Sale",
            "body": "Everything must go",
        }
        assert call.ring["kind"] == "proactive"


async def test_a_ring_that_is_accepted_while_its_expiry_is_written_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed before, and has rung: its verdict waits behind the expiry for the writer."""
    async with running(tmp_path) as it:
        await it.register()
        gate = Gate()
        it.backend.answers.append(gate)
        core = it.gateway.core
        write = core.database.write

        async def answered_meanwhile(statements: Sequence[Statement]) -> None:
            expires = any(sql.startswith("INSERT INTO outcomes") for sql, _ in statements)
            if expires and not gate.open.is_set():
                gate.open.set()
                async with asyncio.timeout(PATIENCE):
                    while not core.store.waiting:
                        await asyncio.sleep(0.01)
            await write(statements)

        monkeypatch.setattr(core.database, "write", answered_meanwhile)
        await it.write(expires_at=timestamp(time.time() + 60.0))
        await it.backend.take()
        it.pass_time(60.0)
        told = await it.settled(1, "pushed")
        outcomes = [e["outcome"] for e in told["events"] if e["event"] == "outcome"]
        assert outcomes == ["expired", "pushed"]


async def test_a_system_message_neither_rings_nor_counts(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write(text="agent changed", kind="system")
        await it.write(text="real")
        call = await it.backend.take()
        assert (call.badge, call.ring["seq"]) == (1, 2)
        await it.settled(2, "pushed")
        assert (await it.outcome(1))["outcome"] is None
        assert it.gateway.core.store.counters["acme", "accepted"] == 1


async def test_a_turn_to_background_has_no_grace_even_soon_after_a_reload(tmp_path: Path) -> None:
    delivery = QUICK | {"disconnect_grace": 60.0, "ack_timeout": 60.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=delivery) as it:
        await it.register()
        agent = await it.agent()
        await it.write(text="so that the agent can open it")
        await agent.ask("open", "conversation", customer="c-42")
        await it.settled(1, "pushed")
        await it.backend.take()
        first = await it.customer()
        await agent.take("presence", in_chat=True)
        first.vanish()
        await agent.take("presence", in_chat=False)
        back = await it.customer()
        await agent.take("presence", in_chat=True)
        await back.send("state", state="background")
        await agent.take("presence", in_chat=False)
        await agent.ask("send", "sent", customer="c-42", text="now")
        assert (await it.backend.take()).ring["seq"] == 2


async def test_a_new_gateway_rings_at_once_and_a_restarted_one_after_its_grace(
    tmp_path: Path,
) -> None:
    delivery = QUICK | {"restart_grace": 60.0, "max_hold": 60.0}
    async with running(tmp_path, delivery=delivery) as it:
        await it.register()
        await it.write()
        await it.settled(1, "pushed")
    async with running(tmp_path, delivery=delivery) as it:
        seq = await it.write()
        told = await it.outcome(seq)
        assert told["outcome"] == "pending"
        committed = told["events"][0]
        assert committed["due"] > committed["at"]


async def test_an_ack_after_the_push_is_a_fact_beside_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write()
        await it.settled(1, "pushed")
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        await recorded(it, 1, "acked_after_ring")
        assert (await it.outcome(1))["outcome"] == "pushed"


async def test_a_phone_on_which_it_is_read_is_not_told_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write(text="one")
        await it.backend.take()
        await it.settled(1, "pushed")
        customer = await it.customer(state="background", installation="phone")
        await customer.send("read", seq=1)
        await customer.take("status", read_seq=1)
        await it.write(text="two")
        call = await it.backend.take()
        assert (call.ring["kind"], call.badge) == ("proactive", 1)


async def test_what_is_read_on_a_phone_while_its_ring_is_tried_again_corrects_its_icon(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.write(text="one")
        assert (await it.backend.take()).badge == 1
        await it.settled(1, "pushed")
        it.backend.answers += [503]
        await it.write(text="two")
        assert (await it.backend.take()).badge == 2
        customer = await it.customer(state="background", installation="phone")
        await customer.send("read", seq=1)
        assert (await it.backend.take()).badge == 2, "under its id nothing changes any more"
        corrected = await it.backend.take()
        assert (corrected.ring["kind"], corrected.badge) == ("badge", 1)


async def test_a_form_without_a_number_makes_no_silent_ring(tmp_path: Path) -> None:
    async with running(tmp_path, push={"adapter": "zendesk"}) as it:
        await it.register()
        await it.write(text="one")
        await it.backend.take()
        await it.settled(1, "pushed")
        web = await it.customer(state="background")
        await web.send("read", seq=1)
        while True:
            changed = it.next_commit()
            looks = await events(it, 1, "look")
            if len(looks) == 2:
                break
            await changed.wait()
        assert looks[1]["action"] == "skip"
        await it.write(text="two")
        call = await it.backend.take()
        assert call.body["notification"]["body"] == "two"
        assert len(it.backend.calls) == 2


async def test_what_the_app_told_of_its_installation_reaches_the_backend(tmp_path: Path) -> None:
    async with running(tmp_path, push={"adapter": "standard"}) as it:
        await it.register()
        await it.write()
        device = (await it.backend.take()).body["device"]
        assert (device["installation"], device["platform"]) == ("phone", "ios")


async def test_who_has_left_the_memory_when_the_call_goes_out_is_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Known, "CACHE", 0)
    async with running(tmp_path) as it:
        await it.register()
        await it.write()
        await it.settled(1, "pushed")


async def test_two_alarms_of_one_commit_are_one_look(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        await it.register()
        await it.customer()
        seq = await it.write()
        it.backend.answers.append(503)
        core, key = it.gateway.core, Key("acme", "c-42")

        def is_due(tx: Transaction) -> None:
            c = tx.conversation(key)
            assert c is not None
            tx.put(replace(c, push_due_at=tx.now))

        core.context.timing = replace(
            core.context.timing, ack_timeout=0.0
        )  # else it waits for an ack
        core.store.submit(is_due, Needs(keys=(key,)))
        core.book._anew.add(key)  # else it waits until that is committed
        for _ in range(2):
            core.book._tick(key)
        assert [(await it.backend.take()).badge for _ in range(2)] == [1, 1]
        told = await it.settled(seq, "pushed")
        assert [e["action"] for e in told["events"] if e["event"] == "look"] == ["ring", "retry"]


def count_ticks(it: Running) -> list[Key]:
    """Whose rows are judged from now on because their time has come."""
    ticks: list[Key] = []
    store = it.gateway.core.store
    enqueue = store.enqueue

    def counting(apply: Any, needs: Needs, done: Any, *, later: bool = False) -> None:
        if apply.__qualname__.startswith("Book._tick"):
            ticks.extend(needs.keys)
        enqueue(apply, needs, done, later=later)

    store.enqueue = counting  # type: ignore[method-assign]
    return ticks


async def test_a_push_is_judged_once_when_it_is_due(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        ticks = count_ticks(it)
        await it.settled(await it.write(), "pushed")
        it.pass_time(1.0)
        await it.settled(await it.write("c-1"), "undeliverable", "c-1")
        assert ticks == [("acme", "c-42"), ("acme", "c-1")]


async def test_what_was_acknowledged_in_time_is_not_judged_when_it_would_be_due(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=SLOW_ACK) as it:
        await it.register()
        customer = await it.customer()
        ticks = count_ticks(it)
        seq = await it.write()
        await customer.take("message")
        await customer.send("ack", seq=seq)
        await it.settled(seq, "acked")
        it.pass_time(61.0)
        await it.settled(await it.write("c-1"), "undeliverable", "c-1")
        assert ticks == [("acme", "c-1")]
        seq = await it.write()
        it.pass_time(61.0)
        await it.settled(seq, "pushed")
        assert ticks == [("acme", "c-1"), ("acme", "c-42")]


@asynccontextmanager
async def one_waits(directory: Path, **push: object) -> AsyncIterator[tuple[Running, Gate]]:
    """c-42's push is due, and the only call is out for another until the gate opens."""
    async with busy(directory, **push) as (it, gate):
        await it.register()
        await it.write()
        while not it.load.waiting:
            await asyncio.sleep(0.01)
        yield it, gate


async def test_what_waits_for_a_free_call_is_told_and_rings_once_for_all(tmp_path: Path) -> None:
    async with one_waits(tmp_path) as (it, gate):
        told = await it.outcome(1)
        assert [entry["for"] for entry in told["waiting"]] == ["look"]
        last = await it.write(text="another")
        gate.open.set()
        call = await it.backend.take()
        assert (call.badge, call.ring["seq"]) == (2, last)
        told = await it.settled(1, "pushed")
        words = [entry["event"] for entry in told["events"] if entry["event"] != "due"]
        assert words == ["committed", "look", "claimed", "attempt", "outcome"]
        assert len(it.backend.calls) == 2


async def test_who_acknowledges_while_a_call_is_awaited_is_not_rung(tmp_path: Path) -> None:
    async with one_waits(tmp_path) as (it, gate):
        customer = await it.customer()
        await customer.take("message")
        await customer.send("ack", seq=1)
        told = await it.settled(1, "acked")
        gate.open.set()
        await it.settled(1, "pushed", "c-1")
        while it.load.waiting or it.load.working:
            await asyncio.sleep(0.01)
        assert (await decided(it, 1))[-1] == "skip"
        assert len(it.backend.calls) == 1
        assert "claimed" not in [entry["event"] for entry in told["events"]]
        await customer.send("bye")
        await customer.closed()
        await it.write()
        assert (await it.backend.take()).badge == 2


async def test_what_expires_while_a_call_is_awaited_expires_then(tmp_path: Path) -> None:
    async with one_waits(tmp_path, expires_after="1m") as (it, gate):
        it.pass_time(60.0)
        assert (await it.settled(1, "expired"))["reason"] == "expired"
        gate.open.set()
        await it.settled(1, "pushed", "c-1")
        await it.write()
        assert (await it.backend.take()).ring["seq"] == 2


async def test_who_signs_out_while_a_call_is_awaited_is_undeliverable_at_once(
    tmp_path: Path,
) -> None:
    async with one_waits(tmp_path) as (it, gate):
        status, _ = await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-42")
        assert status == 204
        assert (await it.settled(1, "undeliverable"))["reason"] == "no_device"
        gate.open.set()
        await it.settled(1, "pushed", "c-1")
        assert len(it.backend.calls) == 1


async def test_a_second_phone_is_rung_though_the_first_one_s_call_hangs(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="phone", token="device-1")
        await it.register(installation="tablet", token="tablet")
        gate = Gate()

        async def answer(call: Call) -> web.StreamResponse:
            return await gate(call) if call.body["deviceToken"] == "device-1" else web.Response()

        it.backend.otherwise = answer
        for seq in (1, 2, 3):
            await it.write()
            await it.settled(seq, "pushed")
        assert [call.body["deviceToken"] for call in it.backend.calls].count("device-1") == 1
        gate.open.set()


async def test_a_new_token_while_a_call_is_awaited_leaves_the_app_time_to_ack(
    tmp_path: Path,
) -> None:
    async with one_waits(tmp_path) as (it, gate):
        await it.register(token="renewed")
        gate.open.set()
        call = await it.backend.take()
        assert call.body["deviceToken"] == "renewed"
        (look,) = [e for e in (await it.settled(1, "pushed"))["events"] if e["event"] == "claimed"]
        (first,) = [e for e in (await it.outcome(1))["events"] if e["event"] == "committed"]
        waited = datetime.fromisoformat(look["at"]) - datetime.fromisoformat(first["at"])
        assert waited.total_seconds() >= QUICK["ack_timeout"]


async def test_who_comes_into_chat_while_a_call_is_awaited_is_held(tmp_path: Path) -> None:
    async with one_waits(tmp_path) as (it, gate):
        await it.customer()
        gate.open.set()
        await it.settled(1, "pushed", "c-1")
        call = await it.backend.take()
        told = await it.settled(1, "pushed")
        assert call.ring["seq"] == 1
        assert told["reason"] == "ack_timeout"
        assert [e["reason"] for e in told["events"] if e["event"] == "due_moved"] == ["held"]


async def test_a_look_that_waits_for_the_writer_when_draining_starts_rings_nobody(
    tmp_path: Path,
) -> None:
    async with busy(tmp_path) as (it, gate):
        await it.register()
        await it.write()
        core, key = it.gateway.core, Key("acme", "c-42")
        while (c := core.store.peek(key)) is None or not c.devices[0].owes:
            await asyncio.sleep(0)
        look = asyncio.create_task(core.book.look(DeviceRef("acme", "c-42", c.devices[0].id)))
        await asyncio.sleep(0)  # it has its place in the queue
        core.drain()
        assert await look is None
        gate.open.set()
    assert len(it.backend.calls) == 1
