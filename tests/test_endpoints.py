"""Customer backends that fail, and several of them for one tenant, end to end."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace

from gateway.protocol import Role, timestamp
from storage.records import Key
from tests.running import (
    PATIENCE,
    QUICK,
    Backend,
    Gate,
    Running,
    backend,
    busy,
    change,
    running,
    settings,
)

SLOW_PROBES = {"breaker_after": 2, "retry_first": 60.0, "retry_max": 60.0}
QUICK_PROBES = {"breaker_after": 2, "retry_first": 0.05, "retry_max": 0.1}


async def fail(it: Running) -> None:
    """Let the backend fail, and two customers' rings find out."""
    it.backend.otherwise = 503
    for number in (1, 2):
        await it.register(f"c-{number}", installation=f"phone-{number}", token=f"t{number}")
        await it.write(customer=f"c-{number}")
        await it.backend.take()
    await until(it, lambda: it.load.open)


def owing(it: Running, customer: str = "c-42") -> bool:
    """Whether a phone of the customer's waits for something."""
    c = it.gateway.core.store.peek(Key("acme", customer))
    assert c is not None
    return any(device.wake_at is not None for device in c.devices)


async def until(it: Running, holds: Any) -> None:
    while True:
        changed = it.next_commit()
        if holds():
            return
        await changed.wait()


async def recorded(it: Running, customer: str, name: str) -> dict[str, Any]:
    """What is told of its first message, once there is an event of that name."""
    while True:
        changed = it.next_commit()
        told = await it.outcome(1, customer)
        if any(event["event"] == name for event in told["events"]):
            return told
        await changed.wait()


async def waiting_for(it: Running, customer: str) -> list[dict[str, Any]]:
    """What its first message waits for, once a look has been recorded."""
    return list((await recorded(it, customer, "look"))["waiting"])


async def test_what_waits_for_a_failing_backend_is_told_and_burns_no_attempt(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=SLOW_PROBES) as it:
        it.retry_late()
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3")
        (waits,) = await waiting_for(it, "c-3")
        assert (waits["for"], waits["installation"]) == ("endpoint", "phone-3")
        looks = [e for e in (await it.outcome(1, "c-3"))["events"] if e["event"] == "look"]
        assert [(e["action"], e["reason"]) for e in looks] == [("wait", "endpoint_down")]
        assert len(it.backend.calls) == 2
        _, page = await it.call("GET", "/metrics", listener="admin")
        assert 'ringback_push_down{backend="",tenant="acme"} 1.0' in page
        assert 'ringback_push_down{backend="",tenant="other"} 0.0' in page
        assert 'ringback_push_suspended{backend="",tenant="acme"} 0.0' in page
        assert 'ringback_push_waiting{backend="",tenant="acme"} 1.0' in page


async def test_a_backend_that_fails_is_left_alone_and_everything_comes_when_it_works(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=QUICK_PROBES) as it:
        await fail(it)
        everybody = [f"c-{number}" for number in range(1, 20)]
        for number in range(3, 20):
            await it.register(f"c-{number}", installation=f"phone-{number}", token=f"t{number}")
            await it.write(customer=f"c-{number}")
        it.backend.otherwise = 200
        for customer in everybody:
            await it.settled(1, "pushed", customer)
        assert sorted(c.ring["customer"] for c in it.backend.calls if c.accepted) == sorted(
            everybody
        )
        assert not it.load.open


async def test_what_expires_while_the_endpoint_fails_is_not_rung_afterwards(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push=QUICK_PROBES) as it:
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3", expires_at=timestamp(time.time() + 60.0))
        it.pass_time(60.0)
        await it.settled(1, "expired", "c-3")
        it.backend.otherwise = 200
        for customer in ("c-1", "c-2"):
            await it.settled(1, "pushed", customer)
        accepted = {call.ring["customer"] for call in it.backend.calls if call.accepted}
        assert accepted == {"c-1", "c-2"}


async def test_who_reads_in_chat_while_the_endpoint_fails_is_not_rung_afterwards(
    tmp_path: Path,
) -> None:
    delivery = QUICK | {"ack_timeout": 60.0, "max_hold": 60.0}
    async with running(tmp_path, push=QUICK_PROBES, delivery=delivery) as it:
        await fail(it)
        await it.register("c-3", installation="phone-3", token="t3")
        await it.write(customer="c-3")
        customer = await it.customer("c-3")
        await customer.take("message")
        await customer.send("ack", seq=1)
        await it.settled(1, "acked", "c-3")
        it.backend.otherwise = 200
        for other in ("c-1", "c-2"):
            await it.settled(1, "pushed", other)
        accepted = {call.ring["customer"] for call in it.backend.calls if call.accepted}
        assert accepted == {"c-1", "c-2"}


# More than one backend


def a_backend(at: Backend, environment: str, **more: Any) -> dict[str, Any]:
    settings = {"endpoint": at.url, "auth_token": "qa", "environment": environment}
    return settings | QUICK_PROBES | more


async def test_a_tester_s_phone_rings_at_the_test_backend_and_a_customer_s_at_production(
    tmp_path: Path,
) -> None:
    async with (
        backend() as qa,
        running(tmp_path, push={"backends": {"qa": a_backend(qa, "sandbox")}}) as it,
    ):
        await it.register("tester", "phone-1", "qa-token", environment="sandbox")
        await it.register("c-1", "phone-2", "t-2", environment="production")
        await it.register("c-2", "phone-3", "t-3")
        for customer in ("tester", "c-1", "c-2"):
            await it.write(customer)
            await it.settled(1, "pushed", customer)
        assert [call.ring["customer"] for call in qa.calls] == ["tester"]
        assert [call.body["authToken"] for call in qa.calls] == ["qa"]
        assert [call.ring["customer"] for call in it.backend.calls] == ["c-1", "c-2"]


async def test_an_app_s_own_backend_goes_before_that_of_all(tmp_path: Path) -> None:
    async with (
        backend() as other,
        running(
            tmp_path, push={"backends": {"shop": a_backend(other, "production", app="shop")}}
        ) as it,
    ):
        await it.register("c-1", "phone-1", "t-1", app="shop")
        await it.register("c-2", "phone-2", "t-2", app="bank")
        for customer in ("c-1", "c-2"):
            await it.write(customer)
            await it.settled(1, "pushed", customer)
        assert [call.ring["customer"] for call in other.calls] == ["c-1"]
        assert [call.ring["customer"] for call in it.backend.calls] == ["c-2"]


async def test_a_retry_goes_to_the_app_s_own_backend_too(tmp_path: Path) -> None:
    async with (
        backend() as other,
        running(
            tmp_path, push={"backends": {"shop": a_backend(other, "production", app="shop")}}
        ) as it,
    ):
        other.answers = [503]
        await it.register("c-1", "phone-1", "t-1", app="shop")
        await it.write("c-1")
        await it.settled(1, "pushed", "c-1")
        assert [call.status for call in other.calls] == [503, 200]
        assert it.backend.calls == []


async def test_a_device_without_a_backend_of_its_environment_is_not_rung_and_that_is_told(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register("tester", "phone-1", "qa-token", environment="sandbox")
        await it.write("tester")
        told = await it.settled(1, "undeliverable", "tester")
        assert told["reason"] == "no_endpoint"
        committed = told["events"][0]
        assert (committed["route"], committed["reason"]) == ("none", "no_endpoint")
        (look,) = [event for event in told["events"] if event["event"] == "look"]
        assert (look["action"], look["reason"], look["installation"]) == (
            "skip",
            "no_endpoint",
            "phone-1",
        )
        assert it.backend.calls == []


async def test_a_customer_s_other_phones_ring_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register("c-1", "phone-1", "qa-token", environment="sandbox")
        await it.register("c-1", "phone-2", "t-2")
        await it.write("c-1")
        told = await it.settled(1, "pushed", "c-1")
        assert [call.body["deviceToken"] for call in it.backend.calls] == ["t-2"]
        looks = {e["installation"]: e["reason"] for e in told["events"] if e["event"] == "look"}
        assert looks == {"phone-1": "no_endpoint", "phone-2": "not_in_chat"}


async def test_an_agent_is_told_how_many_devices_have_a_backend(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        agent = await it.agent()
        await it.register("c-1", "phone-1", "qa-token", environment="sandbox")
        assert (await agent.ask("open", "conversation", customer="c-1"))["devices"] == 0
        await it.register("c-1", "phone-2", "t-2")
        assert (await agent.ask("open", "conversation", customer="c-1"))["devices"] == 1


async def test_a_test_backend_that_fails_holds_no_customer_up_and_its_phone_may_change_sides(
    tmp_path: Path,
) -> None:
    async with (
        backend() as qa,
        running(tmp_path, push={"backends": {"qa": a_backend(qa, "sandbox", **SLOW_PROBES)}}) as it,
    ):
        it.retry_late()
        qa.otherwise = 503
        for number in (1, 2, 3):
            about = {"environment": "sandbox"}
            await it.register(f"tester-{number}", f"phone-{number}", f"qa-{number}", **about)
            await it.write(f"tester-{number}")
            if number < 3:
                await qa.take()
        (waits,) = await waiting_for(it, "tester-3")
        assert waits["for"] == "endpoint"
        await it.register("c-1", "phone-9", "t-9")
        await it.write("c-1")
        await it.settled(1, "pushed", "c-1")
        await it.register("tester-3", "phone-3", "t-3", environment="production")
        await it.settled(1, "pushed", "tester-3")
        assert [call.body["deviceToken"] for call in it.backend.calls] == ["t-9", "t-3"]
        assert len(qa.calls) == 2


@asynccontextmanager
async def production_busy(directory: Path) -> AsyncIterator[tuple[Running, Backend, Gate]]:
    """As `busy`, beside a backend for testers that is free."""
    async with (
        backend() as qa,
        busy(directory, backends={"qa": a_backend(qa, "sandbox")}) as (it, gate),
    ):
        yield it, qa, gate


async def test_a_phone_that_waits_for_a_free_call_may_change_sides(tmp_path: Path) -> None:
    async with production_busy(tmp_path) as (it, qa, gate):
        await it.register("c-42", "phone-2", "t-2")
        await it.write("c-42")
        while not it.load.waiting:
            await asyncio.sleep(0.01)
        await it.register("c-42", "phone-2", "t-2", environment="sandbox")
        assert (await qa.take()).ring["customer"] == "c-42"
        await it.settled(1, "pushed", "c-42")
        gate.open.set()
        await it.settled(1, "pushed", "c-1")
        assert len(it.backend.calls) == 1


async def test_a_phone_is_rung_though_another_waits_for_a_free_call_elsewhere(
    tmp_path: Path,
) -> None:
    async with production_busy(tmp_path) as (it, qa, gate):
        await it.register("c-42", "phone-2", "t-2")
        await it.register("c-42", "phone-3", "t-3", environment="sandbox")
        for seq in (1, 2):
            await it.write("c-42")
            assert (await qa.take()).ring["seq"] == seq
            await it.settled(seq, "pushed", "c-42")
        assert it.load.waiting == 1
        gate.open.set()
        assert (await it.backend.take()).ring["seq"] == 2


async def test_a_ring_whose_backend_was_taken_out_of_the_configuration_is_given_up(
    tmp_path: Path,
) -> None:
    async with backend() as qa:
        qa.otherwise = 503
        with_qa = {"backends": {"qa": a_backend(qa, "sandbox", retry_first=60.0, retry_max=60.0)}}
        async with running(tmp_path, push=with_qa) as it:
            await it.register("tester", "phone-1", "qa-token", environment="sandbox")
            await it.write("tester")
            await qa.take()
            await recorded(it, "tester", "attempt")
        async with running(tmp_path) as it:
            told = await it.settled(1, "undeliverable", "tester")
            assert told["reason"] == "no_endpoint"
            assert it.backend.calls == []


async def test_who_came_back_before_what_was_taken_out_is_given_up_changes_nothing_of_that(
    tmp_path: Path,
) -> None:
    async with backend() as qa:
        qa.answers.append(web.Response(status=503, headers={"Retry-After": "600"}))
        with_qa = {"backends": {"qa": a_backend(qa, "sandbox")}}
        async with running(tmp_path, push=with_qa) as it:
            await it.register("tester", "phone-1", "qa-token", environment="sandbox")
            await it.write("tester")
            await recorded(it, "tester", "attempt")
        async with running(tmp_path, delivery=QUICK | {"restart_grace": 60.0}) as it:
            await it.customer("tester", state="background")
            assert (await it.outcome(1, "tester"))["outcome"] == "pending"
            it.pass_time(61.0)
            told = await it.settled(1, "undeliverable", "tester")
            assert told["reason"] == "no_endpoint"


async def test_a_backend_that_is_taken_out_while_running_gives_up_what_waited_for_it(
    tmp_path: Path,
) -> None:
    async with backend() as qa:
        qa.otherwise = 503
        push = {"backends": {"qa": a_backend(qa, "sandbox")}}
        async with running(tmp_path, push=push) as it:
            testers = [f"tester-{number}" for number in range(1, 6)]
            for number, tester in enumerate(testers):
                await it.register(tester, f"phone-{number}", f"t-{number}", environment="sandbox")
                await it.write(tester)
            for _ in range(4):
                await qa.take()
            it.gateway.take_up(settings(tmp_path, it.backend.url))
            for tester in testers:
                told = await it.settled(1, "undeliverable", tester)
                assert told["reason"] == "no_endpoint"
            assert it.backend.calls == []


async def test_what_was_given_up_with_its_backend_is_not_rung_for_when_both_are_back(
    tmp_path: Path,
) -> None:
    """Nor when something comes that the customer does not want, which leads back to it."""
    async with backend() as qa:
        push = {"backends": {"qa": a_backend(qa, "sandbox")}}
        async with running(tmp_path, push=push) as it:
            await it.register("tester", "phone-1", "t-1", environment="sandbox")
            with_both = it.gateway.config
            it.gateway.take_up(settings(tmp_path, it.backend.url))
            told = await it.settled(
                await it.write("tester", kind="chat"), "undeliverable", "tester"
            )
            assert told["reason"] == "no_endpoint"
            it.gateway.take_up(with_both)
            path = "/v1/customers/tester/preferences"
            assert (await it.call("PUT", path, Role.SERVICE, json={"proactive": False}))[0] == 200
            told = await it.settled(await it.write("tester"), "undeliverable", "tester")
            assert told["reason"] == "opted_out"
            await it.settled(await it.write("tester", kind="chat"), "pushed", "tester")
            assert [call.ring["seq"] for call in qa.calls] == [3]


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_is_read_while_the_push_section_is_out_corrects_the_icon_when_it_is_back(
    tmp_path: Path, *, restarts: bool
) -> None:
    """The number stayed too high until the next ring."""
    async with backend() as rings:
        async with running(tmp_path, rings) as it:
            await it.register()
            await it.settled(await it.write(), "pushed")
            assert (await rings.take()).badge == 1
            with_push = it.gateway.config
            acme = replace(with_push.tenants["acme"], push=None)
            it.gateway.take_up(change(with_push, tenants=with_push.tenants | {"acme": acme}))
            customer = await it.customer()
            await customer.send("read", seq=1)
            await customer.take("status", unread=0)
            await until(it, lambda: not owing(it))
            if not restarts:
                it.gateway.take_up(with_push)
                call = await rings.take()
        if restarts:
            async with running(tmp_path, rings) as it:
                call = await rings.take()
        assert (call.ring["kind"], call.badge) == ("badge", 0)


async def test_what_lacked_a_backend_rings_once_there_is_one_and_the_app_registers_again(
    tmp_path: Path,
) -> None:
    async with backend() as qa, running(tmp_path) as it:
        await it.register("tester", "phone-1", "t-1", environment="sandbox")
        told = await it.settled(await it.write("tester"), "undeliverable", "tester")
        assert told["reason"] == "no_endpoint"
        push = {"backends": {"qa": a_backend(qa, "sandbox")}}
        it.gateway.take_up(settings(tmp_path, it.backend.url, push=push))
        await it.register("tester", "phone-1", "t-1", environment="sandbox")
        await it.settled(1, "pushed", "tester")
        assert [call.ring["seq"] for call in qa.calls] == [1]
        assert it.backend.calls == []


async def test_what_a_phone_was_rung_past_is_not_taken_up_again_though_another_has_no_backend(
    tmp_path: Path,
) -> None:
    async with backend() as qa:
        push = {"backends": {"qa": a_backend(qa, "sandbox")}}
        async with running(tmp_path, push=push) as it:
            await it.register("c-1", "phone-1", "t-1", environment="sandbox")
            await it.register("c-1", "phone-2", "t-2", environment="staging")
            with_both = it.gateway.config
            it.gateway.take_up(settings(tmp_path, it.backend.url))
            await it.settled(await it.write("c-1"), "undeliverable", "c-1")
            it.gateway.take_up(with_both)
            await it.settled(await it.write("c-1"), "pushed", "c-1")
            await it.register("c-1", "phone-1", "t-1", environment="sandbox")
            told = await it.outcome(1, "c-1")
            assert (told["outcome"], told["reason"]) == ("undeliverable", "no_endpoint")
            moves = [event["outcome"] for event in told["events"] if event["event"] == "outcome"]
            assert moves == ["undeliverable"]


async def test_a_reload_makes_anew_only_what_its_tenant_changed(tmp_path: Path) -> None:
    """Of a thousand tenants with fifty backends each it took a second, and nobody was served."""
    async with running(tmp_path) as it:
        core, config = it.gateway.core, it.gateway.config
        acme = config.tenants["acme"]
        assert acme.push is not None
        tenants = {f"t-{n}": acme for n in range(3)} | config.tenants
        core.take_up(change(config, tenants=tenants))
        before = {endpoint.tenant: endpoint for endpoint in core._endpoints}
        other = replace(acme, push=replace(acme.push, in_flight=7))
        copies = {name: copy.deepcopy(tenant) for name, tenant in tenants.items()}
        core.take_up(change(config, tenants=copies | {"t-1": other}))
        after = {endpoint.tenant: endpoint for endpoint in core._endpoints}
        assert after.keys() == before.keys()
        assert [name for name in after if after[name] is not before[name]] == ["t-1"]
        assert after["t-1"].in_flight == 7


async def test_a_reload_reads_certificates_anew(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(trusted))
    async with running(tmp_path, delivery=QUICK, push={"ca_file": str(trusted)}) as it:
        await it.register()
        await it.settled(await it.write(), "pushed")
        trusted.write_text("no certificate")
        await it.settled(await it.write(), "pushed")
        it.gateway.take_up(it.gateway.config)
        seq = await it.write()
        async with asyncio.timeout(PATIENCE):
            while not any(e.get("reason") == "ca_file" for e in (await it.outcome(seq))["events"]):
                await asyncio.sleep(0.01)
