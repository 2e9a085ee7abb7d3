"""Registrations over time: what is forgotten, what is kept, and web apps that register by HTTP."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.devices import Registration
from gateway.presence import Presence
from gateway.protocol import Role, SessionState
from gateway.session import CustomerSession
from storage.errors import Fault
from storage.records import Key
from storage.store import Needs
from tests.running import PATIENCE, PATIENT, Gate, Running, running

DAY = 86_400.0


async def test_who_registers_on_and_on_is_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    """Each takes the place of another, and the message's story tells of it."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        customer = await it.customer()
        for number in range(200):
            about = {"installation": f"phone-{number}", "token": f"token-{number}"}
            await customer.send("register_device", ref=f"r-{number}", **about)
        error = await customer.take("error")
        assert error["code"] == "rate_limited"
        assert 0 < error["retry_after"] <= 1
        await customer.ask("ping", "pong")
        bucket = it.gateway.core.devices._rates.of("acme", Role.CUSTOMER, "c-42")
        bucket.per_minute = 1.0  # however slowly the calls are made: it stays empty
        path, body = "/v1/devices/another", {"token": "another"}
        answers = [await it.call("PUT", path, Role.CUSTOMER, "c-42", json=body) for _ in range(3)]
        assert (429, "rate_limited") in [(status, told.get("code")) for status, told in answers]
        await it.register("c-1", "another", "another")
        assert len((await it.outcome(1))["events"]) < 130


async def test_a_dead_registration_is_forgotten_after_a_week_and_not_before(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(410)
        await it.write()
        await it.settled(1, "undeliverable")
        devices = it.gateway.core.devices

        async def listed() -> int:
            _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
            return len(told["devices"])

        await devices.forget(it.gateway.core.clock() - 7 * DAY)
        assert await listed() == 1
        await devices.forget(it.gateway.core.clock() + 1)
        assert await listed() == 0


async def test_of_two_dead_registrations_only_the_older_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        between = 0.0
        for seq, phone in ((1, "old"), (2, "new")):
            between = it.gateway.core.clock()
            await it.register(installation=phone, token=f"token of {phone}")
            it.backend.answers.append(410)
            await it.write()
            await it.settled(seq, "undeliverable")
        await it.gateway.core.devices.forget(between)
        _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert [device["installation"] for device in told["devices"]] == ["new"]


async def test_who_deregisters_in_the_chat_is_rung_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        customer = await it.customer(state="background")
        await customer.ask("deregister_device", "ok", installation="phone")
        await it.write()
        assert (await it.settled(1, "undeliverable"))["reason"] == "no_device"
        assert it.backend.calls == []


async def test_a_sign_out_leaves_no_registration_not_even_a_dead_one(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.answers.append(410)
        await it.write()
        await it.settled(1, "undeliverable")
        await it.register(installation="tablet", token="another")
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert told["devices"] == []


async def test_a_web_app_of_the_tenant_may_call_and_another_may_not(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        asked = {"Access-Control-Request-Method": "PUT"}
        for origin, allowed in (
            ("https://app.acme.example", "https://app.acme.example"),
            ("https://evil.example", None),
        ):
            async with it.http.options(
                it.url("/v1/devices/phone"), headers={"Origin": origin, **asked}
            ) as answer:
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed


async def test_a_wave_of_rejections_is_quarantined_and_a_registration_ends_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        it.backend.answers.extend([410] * 30)
        for i in range(30):
            await it.register(f"c-{i}", f"phone-{i}", f"token-{i}")
            await it.write(f"c-{i}")
            await it.settled(1, "undeliverable", f"c-{i}")
        reasons = [(await it.outcome(1, f"c-{i}"))["reason"] for i in range(30)]
        assert reasons == ["token_dead"] * 20 + ["quarantined"] * 10
        _, text = await it.call("GET", "/metrics", listener="admin")
        for state, many in (("dead", 20.0), ("quarantined", 10.0)):
            name = "ringback_rejected_registrations_total"
            assert f'{name}{{state="{state}",tenant="acme"}} {many}' in text
        assert how_many_are_in_quarantine(it) == [("acme", 10)]
        await it.register("c-29", "phone-29", "token-29")
        await it.settled(1, "pushed", "c-29")
        assert how_many_are_in_quarantine(it) == [("acme", 9)]


def how_many_are_in_quarantine(it: Running) -> list[tuple[str, int]]:
    """As the documentation says that it is asked, beside the gateway."""
    doc = Path("docs/operations.md").read_text()
    (asked,) = re.findall(r'^sqlite3 -readonly ringback.db "(SELECT .*)"$', doc, re.M)
    file = it.gateway.core.database.path
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return database.execute(asked).fetchall()


async def test_an_app_that_was_installed_anew_keeps_its_token_and_the_ring_in_hand(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="phone", token="t-1")
        gate = Gate(503)
        it.backend.answers.append(gate)
        await it.write()
        first = await it.backend.take()
        await it.register(installation="reinstalled", token="t-1")
        gate.open.set()
        assert (await it.backend.take()).raw == first.raw
        await it.settled(1, "pushed")
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert [device["installation"] for device in listed["devices"]] == ["reinstalled"]
        await it.register(installation="phone", token="t-2")  # free for another token
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert len(listed["devices"]) == 2


async def test_between_two_registrations_of_one_customer_nothing_is_undeliverable(
    tmp_path: Path,
) -> None:
    """The only live phone takes up the token of a dead registration."""
    async with running(tmp_path) as it:
        await it.register(installation="old", token="t-1")
        it.backend.answers.append(410)
        await it.write()
        await it.settled(1, "undeliverable")
        gate = Gate(503)
        it.backend.answers.append(gate)
        await it.register(installation="new", token="t-2")
        await it.backend.take()
        await it.backend.take()
        await it.register(installation="new", token="t-1")
        gate.open.set()
        await it.settled(1, "pushed")
        told = await it.gateway.core.store.told(Key("acme", "c-42"), 1)
        assert told is not None
        moves = [event.detail for event in told.events if event.event == "outcome"]
        assert [orjson.loads(detail or "")["outcome"] for detail in moves] == [
            "undeliverable",
            "pending",
            "pushed",
        ]


async def test_a_token_given_up_and_taken_up_in_one_commit_costs_nobody_a_registration(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register("anna", "annas", "t-1")
        devices = it.gateway.core.devices
        await asyncio.gather(
            devices.register(Key("acme", "anna"), None, Registration("annas", "t-2")),
            devices.register(Key("acme", "ben"), None, Registration("bens", "t-1")),
        )
        for customer, installation in (("anna", "annas"), ("ben", "bens")):
            path = f"/v1/customers/{customer}/devices"
            _, listed = await it.call("GET", path, Role.SERVICE)
            assert [device["installation"] for device in listed["devices"]] == [installation]


async def test_a_change_that_breaks_the_schema_harms_no_other_of_its_batch(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        store = it.gateway.core.store
        faults: list[Exception] = []
        store.failed = faults.append

        def broken(tx: object) -> None:
            tx._messages.append(  # type: ignore[attr-defined]
                store_message(conversation=999_999)
            )

        bad = store.submit(broken, Needs())
        good = it.write(text="good")
        with pytest.raises(Fault):
            await bad
        assert await good == 1
        assert len(faults) == 1


def store_message(conversation: int) -> object:
    """A message of a conversation that does not exist: the foreign key refuses it."""
    from storage.records import Message

    return Message(
        conversation=conversation, seq=1, ord=1, said=0, id="m", role="agent", author="a",
        name=None, kind="chat", text="t", data=None, title=None, at=1.0, expires_at=None,
        ref=None, route=None, reason=None, sessions=None, due_at=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "leave",
    [
        lambda presence, session: presence.leave(session, 1000),
        lambda presence, session: presence.set_state(session, SessionState.BACKGROUND),
    ],
    ids=["ends", "turns to the background"],
)
async def test_a_fault_in_its_batch_takes_nothing_from_a_leaving_session(
    tmp_path: Path, leave: Callable[[Presence, CustomerSession], None]
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="hello")
        await customer.take("message")
        core = it.gateway.core
        (session,) = core.context.hub.sessions(Key("acme", "c-42"))
        core.store.failed = lambda error: None

        def broken(tx: object) -> None:
            tx._messages.append(store_message(conversation=999_999))  # type: ignore[attr-defined]

        bad = core.store.submit(broken, Needs())
        leave(core.presence, session)
        with pytest.raises(Fault):
            await bad
        await agent.take("presence", in_chat=False)
        assert (await it.backend.take()).badge == 1


@pytest.mark.parametrize("token", ["device-token", "another"])
async def test_what_is_read_while_a_token_is_dead_clears_the_badge_once_it_is_registered_again(
    tmp_path: Path, token: str
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.settled(await it.write(), "pushed")
        it.backend.answers.append(410)
        await it.settled(await it.write(), "undeliverable")
        web = await it.customer()
        await web.send("read", seq=2)
        await web.take("status")
        await it.register(token=token)
        badges = [(await it.backend.take()).badge for _ in range(3)]
        assert badges == [1, 2, 0]
        assert it.backend.calls[-1].ring["kind"] == "badge"


@pytest.mark.parametrize("token", ["the first", "a renewed one"])
@pytest.mark.parametrize("ends", ["moved", "signed_out", "changed"])
async def test_a_call_that_waits_for_its_credentials_while_the_phone_changes_hands_is_not_made(
    tmp_path: Path, token: str, ends: str
) -> None:
    """The token endpoint is slow: the ring is claimed, and no request is on its way."""
    gate, asked = asyncio.Event(), asyncio.Event()
    given, rung = list[int](), list[tuple[str, str]]()

    async def give(request: web.Request) -> web.Response:
        given.append(1)
        if token == "the first" or len(given) == 2:
            asked.set()
            await gate.wait()
        return web.json_response({"access_token": "an-access-token"})

    async def ring(request: web.Request) -> web.Response:
        told = await request.json()
        rung.append((told["deviceToken"], told["notification"]["customer"]))
        return web.Response(status=200 if gate.is_set() else 401)

    app = web.Application()
    app.router.add_post("/token", give)
    app.router.add_post("/ring", ring)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    oauth = {"token_url": f"{url}/token", "client_id": "c", "client_secret": "hush"}
    push = {"endpoint": f"{url}/ring", "credentials": {"oauth": oauth}}
    try:
        async with running(tmp_path, push=push) as it:
            await it.register("ann", token="t1")
            await it.write("ann", "for Ann's eyes")
            await asked.wait()
            expected = [] if token == "the first" else [("t1", "ann")]
            assert rung == expected
            if ends == "moved":
                await it.register("bob", token="t1")
            elif ends == "signed_out":
                await it.call("POST", "/v1/customers/ann/sign_out", Role.SERVICE)
            else:
                await it.register("ann", token="t2")
                expected = [*expected, ("t2", "ann")]
            gate.set()
            await it.settled(1, "pushed" if ends == "changed" else "undeliverable", "ann")
            late = list[dict[str, Any]]()
            async with asyncio.timeout(PATIENCE):
                while not late:
                    await asyncio.sleep(0.01)
                    events = (await it.outcome(1, "ann"))["events"]
                    late = [e for e in events if e["event"] == "late_verdict"]
            assert [e["reason"] for e in late] == ["moved"]
            assert rung == expected
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("ends", ["signed_out", "deregistered"])
async def test_a_phone_signed_out_during_a_call_and_registered_again_is_rung_under_another_id(
    tmp_path: Path, ends: str
) -> None:
    """The request that is out cannot be called back, and its answer changes nothing any more."""
    async with running(tmp_path) as it:
        await it.register()
        gate = Gate()
        it.backend.answers.append(gate)
        await it.write()
        first = await it.backend.take()
        if ends == "signed_out":
            await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        else:
            await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-42")
        await it.register()
        second = await it.backend.take()
        assert second.body["deviceToken"] == first.body["deviceToken"]
        assert second.ring["seq"] == first.ring["seq"] == 1
        assert second.ring["id"] != first.ring["id"]
        assert first.status is None
        gate.open.set()
        await it.settled(1, "pushed")
