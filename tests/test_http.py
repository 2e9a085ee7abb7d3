"""The HTTP API and the admin listener: what every call answers, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace
from structlog.testing import capture_logs
from yarl import URL

from gateway import server
from gateway.config.values import Address
from gateway.http import admin, api
from gateway.protocol import Role, parse_timestamp
from gateway.server import CannotStart, Gateway
from push import caller
from storage.store import Needs
from tests.line import line
from tests.running import PATIENCE, PATIENT, Gate, Running, change, running, settings

CALLS: list[tuple[str, str, set[Role], Any]] = [
    ("POST", "/v1/messages", {Role.SERVICE, Role.AGENT}, {"customer": "c-42", "text": "x"}),
    ("GET", "/v1/customers/c-42/messages", {Role.SERVICE, Role.AGENT}, None),
    ("GET", "/v1/customers/c-42/status", {Role.SERVICE, Role.AGENT}, None),
    ("GET", "/v1/customers/c-42/deliveries?seq=1", {Role.SERVICE, Role.AGENT}, None),
    ("GET", "/v1/customers/c-42/devices", {Role.SERVICE}, None),
    ("GET", "/v1/me/status", {Role.CUSTOMER}, None),
    ("PUT", "/v1/devices/phone", {Role.CUSTOMER}, {"token": "t"}),
    ("DELETE", "/v1/devices/phone", {Role.CUSTOMER}, None),
    ("POST", "/v1/campaigns", {Role.SERVICE}, {"text": "x", "audience": ["c-42"]}),
    ("GET", "/v1/campaigns", {Role.SERVICE}, None),
    ("GET", "/v1/ops", {Role.SERVICE}, None),
    ("GET", "/v1/dead_letters", {Role.SERVICE}, None),
    ("POST", "/v1/dead_letters/replay", {Role.SERVICE}, {}),
    ("POST", "/v1/customers/c-42/sign_out", {Role.SERVICE}, None),
]


async def test_every_call_is_open_to_its_roles_and_to_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        for method, path, roles, body in CALLS:
            options = {} if body is None else {"json": body}
            for role in Role:
                status, told = await it.call(method, path, role, "c-42", **options)
                if role in roles:
                    assert status in (200, 201, 204), (method, path, role, told)
                else:
                    assert (status, told["code"]) == (403, "forbidden"), (method, path, role)
            status, told = await it.call(method, path, **options)
            assert (status, told["code"]) == (401, "unauthorized"), (method, path)
            bad = {"Authorization": "Bearer " + it.token(Role.SERVICE, "crm")[:-4] + "AAAA"}
            status, told = await it.call(method, path, headers=bad, **options)
            assert (status, told["code"]) == (401, "unauthorized"), (method, path)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer a.b.c", "Bearer é"]
)
async def test_no_usable_token_is_401_and_says_how_to_give_one(
    tmp_path: Path, authorization: str
) -> None:
    async with running(tmp_path) as it:
        headers = {"Authorization": authorization}
        async with it.http.get(it.url("/v1/me/status"), headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/customers//status", 404),
        ("GET", "/v1/messages", 405),
        ("DELETE", "/v1/messages", 405),
        ("POST", "/v1/me/status", 405),
    ],
)
async def test_an_unknown_path_or_method_is_a_problem(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with running(tmp_path) as it:
        headers = {"Authorization": f"Bearer {it.token(Role.SERVICE, 'crm')}"}
        async with it.http.request(method, it.url(path), headers=headers) as answer:
            assert answer.status == status
            assert answer.content_type == "application/problem+json"
            problem = json.loads(await answer.text())
            assert problem["status"] == status
            assert {"type", "title", "detail", "code"} <= set(problem)
            assert ("Allow" in answer.headers) is (status == 405)


async def test_who_asks_the_wrong_port_learns_of_the_right_one(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for place in ("/v1/chat", "/v1/agent"):
            _, problem = await it.call("GET", place)
            assert "server.chat" in problem["detail"]
        chat = f"http://127.0.0.1:{it.gateway.ports['chat']}"
        async with it.http.put(f"{chat}/v1/devices/phone-1") as answer:
            assert (answer.status, "server.http" in await answer.text()) == (404, True)


# Messages


async def test_a_service_writes_to_somebody_new_and_learns_where_it_went(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        body = {"customer": "c-42", "text": "offer", "title": "For you", "data": {"sku": 7}}
        status, told = await it.call("POST", "/v1/messages", Role.SERVICE, "crm", json=body)
        assert status == 201
        assert (told["seq"], told["route"], told["reason"]) == (1, "none", "no_device")
        await it.register()
        _, told = await it.call("POST", "/v1/messages", Role.SERVICE, "crm", json=body)
        assert (told["seq"], told["route"], told["reason"]) == (2, "push", "not_in_chat")
        customer = await it.customer()
        _, told = await it.call("POST", "/v1/messages", Role.SERVICE, "crm", json=body)
        assert (told["seq"], told["route"], told["reason"]) == (3, "socket", "in_chat")
        message = await customer.take("message", seq=3)
        assert message["id"] == told["id"]
        assert (message["kind"], message["data"]) == ("proactive", {"sku": 7})
        assert message["from"] == {"role": "service", "id": "crm"}


async def test_the_kinds_are_those_of_the_role(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        body = {"customer": "c-42", "text": "x"}
        for role, kind, status in (
            (Role.SERVICE, None, 201),
            (Role.SERVICE, "chat", 201),
            (Role.SERVICE, "system", 201),
            (Role.AGENT, None, 201),
            (Role.AGENT, "chat", 201),
            (Role.AGENT, "proactive", 403),
            (Role.AGENT, "system", 403),
        ):
            more = {} if kind is None else {"kind": kind}
            got, _ = await it.call("POST", "/v1/messages", role, "w", json=body | more)
            assert got == status, (role, kind)
        _, page = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        kinds = [m["kind"] for m in page["messages"]]
        assert kinds == ["proactive", "proactive", "chat", "system", "chat", "chat"]
        _, status_now = await it.call("GET", "/v1/customers/c-42/status", Role.SERVICE)
        assert status_now["unread"] == 5, "a system message does not count"
        told = await it.outcome(4)
        assert told["outcome"] is None


async def test_only_a_service_makes_a_customer(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        body = {"customer": "nobody", "text": "x"}
        status, told = await it.call("POST", "/v1/messages", Role.AGENT, "a-1", json=body)
        assert (status, told["code"]) == (404, "not_found")
        assert (await it.call("POST", "/v1/messages", Role.SERVICE, "crm", json=body))[0] == 201


@pytest.mark.parametrize("key", ["a\u200bb", "order\u00a017", "\U000e0001", "é" * 64])
async def test_an_idempotency_key_is_whatever_a_ref_may_be(tmp_path: Path, key: str) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        headers = {"Idempotency-Key": key}
        body = {"customer": "c-42", "text": "shipped"}
        for status in (201, 201):
            told = await it.call("POST", "/v1/messages", Role.SERVICE, headers=headers, json=body)
            assert told[0] == status
        assert told[1]["duplicate"] is True


async def test_an_idempotency_key_that_is_not_utf8_is_refused_for_that(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        body = json.dumps({"customer": "c-42", "text": "shipped"})
        async with line(it) as peer:
            peer.say(
                "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
                f"Idempotency-Key: é\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            )
            status, _, told = await peer.answer()
        assert (status, json.loads(told)["detail"]) == (400, "Idempotency-Key: not UTF-8")


async def test_a_system_message_cannot_have_expired_before_it_came(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for kind in ("system", "proactive", "chat"):
            body = {"customer": "c-42", "text": "x", "kind": kind}
            past = {"expires_at": "2020-01-01T00:00:00Z"}
            status, told = await it.call("POST", "/v1/messages", Role.SERVICE, json=body | past)
            assert (status, told["code"]) == (400, "bad_frame"), kind


async def test_an_idempotency_key_makes_a_repeat_harmless(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        key = {"Idempotency-Key": "order-17"}
        body = {"customer": "c-42", "text": "shipped"}

        async def post(role: Role = Role.SERVICE, sub: str = "crm", **more: Any) -> tuple[int, Any]:
            return await it.call("POST", "/v1/messages", role, sub, headers=key, json=body | more)

        (_, first), (_, other) = await asyncio.gather(post(), post())
        assert sorted("duplicate" in told for told in (first, other)) == [False, True]
        assert (first["seq"], first["id"]) == (other["seq"], other["id"]) == (1, first["id"])
        status, again = await post()
        assert (status, again["id"], again["duplicate"]) == (201, first["id"], True)
        status, told = await post(text="cancelled")
        assert (status, told["code"]) == (409, "conflict")
        assert (await post(sub="shop"))[1]["seq"] == 2, "a key is its sender's"
        _, page = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert [m["seq"] for m in page["messages"]] == [1, 2]


async def test_an_expiry_that_has_passed_is_refused_and_one_to_come_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        now = datetime.now(UTC)
        for gone in (now - timedelta(hours=1), datetime(1970, 1, 1, tzinfo=UTC)):
            body = {"customer": "c-42", "text": "x", "expires_at": gone.isoformat()}
            status, told = await it.call("POST", "/v1/messages", Role.SERVICE, json=body)
            assert (status, told["code"]) == (400, "bad_frame")
            assert told["detail"].startswith("expires_at")
        body |= {"expires_at": (now + timedelta(minutes=1)).isoformat()}
        await it.customer()
        key = {"Idempotency-Key": "for-now"}

        async def post() -> tuple[int, Any]:
            return await it.call("POST", "/v1/messages", Role.SERVICE, headers=key, json=body)

        assert (await post())[1]["seq"] == 1
        it.pass_time(60.0)
        assert (await it.settled(1, "expired"))["reason"] == "expired"
        status, again = await post()  # who asks again hears what became of it, not that it is late
        assert (status, again["seq"], again["duplicate"]) == (201, 1, True)


async def test_history_over_http_is_paged(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for i in range(1, 4):
            await it.write(text=f"m{i}")
        _, page = await it.call("GET", "/v1/customers/c-42/messages?limit=2", Role.AGENT)
        assert [m["text"] for m in page["messages"]] == ["m2", "m3"]
        assert page["more"] is True
        _, page = await it.call("GET", "/v1/customers/c-42/messages?before=2", Role.AGENT)
        assert [m["text"] for m in page["messages"]] == ["m1"]
        assert page["more"] is False
        for before in (0, 1):  # as in a frame: what a conversation without a message has as its seq
            page = await it.call("GET", f"/v1/customers/c-42/messages?before={before}", Role.AGENT)
            assert page == (200, {"messages": [], "more": False})
        for path in ("messages", "status", "devices", "deliveries?seq=1"):
            status, told = await it.call("GET", f"/v1/customers/nobody/{path}", Role.SERVICE)
            assert (status, told["code"]) == (404, "not_found"), path
        status, _ = await it.call("GET", "/v1/customers/c-42/deliveries?seq=4", Role.SERVICE)
        assert status == 404


async def test_deliveries_tell_what_became_of_a_message(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(token="a-device-token")
        await it.write()
        told = await it.settled(1, "pushed")
        assert (told["customer"], told["seq"]) == ("c-42", 1)
        names = [e["event"] for e in told["events"]]
        assert names == ["committed", "due", "look", "claimed", "attempt", "outcome"]
        attempt = told["events"][4]
        assert (attempt["verdict"], attempt["status"], attempt["attempt"]) == ("accepted", 200, 1)
        assert attempt["ms"] >= 0
        assert len(attempt["device"]) == 12
        times = [parse_timestamp(e["at"]) for e in told["events"]]
        assert times == sorted(times)
        assert "a-device-token" not in json.dumps(told)


# Status and devices


async def test_an_id_in_the_path_may_have_any_character(tmp_path: Path) -> None:
    id = "{a}/b?c#d%2F+ é<b>\\"
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(id)
        key = await it.register(id, quote(id, safe=""))
        path = f"/v1/customers/{quote(id, safe='')}/devices"
        status, told = await it.call("GET", path, Role.SERVICE)
        assert (status, told["devices"][0]["installation"]) == (200, id)
        path, headers = f"/v1/devices/{quote(id, safe='')}", {"Ringback-Deregistration-Key": key}
        assert (await it.call("DELETE", path, headers=headers))[0] == 204


async def test_an_id_in_the_path_that_is_no_utf8_is_nobodys(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        url = URL(it.url("/v1/customers/Zo%EB/preferences"), encoded=True)
        headers = {"Authorization": f"Bearer {it.token(Role.SERVICE, 'crm')}"}
        async with it.http.put(url, headers=headers, json={"proactive": False}) as answer:
            assert answer.status == 400
            told = await answer.json(content_type=None)
        assert told["detail"] == "customer: not UTF-8; percent-encode it in UTF-8"
        path = "/v1/customers/Zo%25EB/preferences"
        assert (await it.call("GET", path, Role.SERVICE))[0] == 404


async def test_status_is_the_same_for_the_customer_and_for_the_company(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        _, mine = await it.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42")
        nothing = {"unread": 0, "live": False, "in_chat": False, "seq": 0, "read_seq": 0}
        nothing |= {"agents_acked_seq": 0, "agents_read_seq": 0}
        assert mine == nothing | {"badge_seq": 0}
        status, _ = await it.call("GET", "/v1/customers/c-42/status", Role.SERVICE)
        assert status == 404, "asking for the badge makes nobody known"
        await it.write()
        customer = await it.customer()
        await customer.take("message")
        _, mine = await it.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42")
        assert mine == nothing | {"unread": 1, "in_chat": True, "seq": 1, "badge_seq": 1}
        for role in (Role.SERVICE, Role.AGENT):
            assert (await it.call("GET", "/v1/customers/c-42/status", role))[1] == mine
        await customer.send("read", seq=1)
        status_frame = await customer.take("status")
        _, mine = await it.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42")
        assert mine == {k: v for k, v in status_frame.items() if k != "type"} | {"in_chat": True}
        assert (mine["unread"], mine["badge_seq"]) == (0, 2)


async def test_devices_are_listed_by_fingerprint_and_removed_idempotently(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        about = {"platform": "ios", "app": "shop", "environment": "sandbox", "locale": "de"}
        status, told = await it.call(
            "PUT",
            "/v1/devices/phone",
            Role.CUSTOMER,
            "c-42",
            json={"token": "a-device-token", **about},
        )
        assert (status, set(told)) == (200, {"installation", "deregistration_key"})
        await it.register(installation="tablet", token="another-token")
        await it.write()
        await it.settled(1, "pushed")
        while it.backend.untaken:
            await it.backend.take()
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        phone, tablet = listed["devices"]
        assert phone.items() >= {"installation": "phone", "state": "live", **about}.items()
        assert len(phone["device"]) == 12
        assert parse_timestamp(phone["registered_at"]) > 0
        assert tablet["installation"] == "tablet"
        assert "token" not in json.dumps(listed)
        for _ in range(2):
            gone = await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-42")
            assert gone == (204, "")
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert [d["installation"] for d in listed["devices"]] == ["tablet"]


async def test_registering_over_http_needs_no_socket_and_is_seen_by_agents(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        agent = await it.agent()
        assert (await agent.ask("open", "error", customer="c-42"))["code"] == "not_found"
        await it.register()
        opened = await agent.ask("open", "conversation", customer="c-42")
        assert (opened["devices"], opened["in_chat"], opened["seq"]) == (1, False, 0)


# Operators


async def test_health_readiness_and_metrics_are_on_the_admin_listener(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.customer()
        await it.agent()
        await it.write()
        assert await it.call("GET", "/healthz", listener="admin") == (200, "ok\n")
        assert await it.call("GET", "/readyz", listener="admin") == (200, "ok\n")
        status, text = await it.call("GET", "/metrics", listener="admin")
        assert status == 200
        for line in (
            'ringback_messages{outcome="accepted",tenant="acme"} 1.0',
            'ringback_messages{outcome="pending",tenant="acme"} 1.0',
            'ringback_messages{outcome="pushed",tenant="acme"} 0.0',
            'ringback_unbalanced_messages{tenant="acme"} 0.0',
            'ringback_sessions{state="active"} 1.0',
            'ringback_sessions{state="agent"} 1.0',
            "ringback_draining 0.0",
        ):
            assert line in text
        rising = {line.split()[2] for line in text.splitlines() if line.endswith(" counter")}
        assert all(name.endswith("_total") for name in rising)
        assert "ringback_writer_commits_total" in rising
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await it.call("GET", path))[0] == 404, "not on the public listener"


async def test_it_is_ready_when_all_listen_and_a_start_that_fails_then_leaves_nobody_listening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_try", lambda name, address: None)  # taken right after it
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        given = settings(tmp_path, None)
        admin = Address("127.0.0.1", taken.getsockname()[1])
        gateway = Gateway(change(given, server=replace(given.server, admin=admin)))
        with pytest.raises(CannotStart, match=r"server\.admin"):
            await gateway.start()
    assert gateway.ports.keys() == {"chat", "http"}
    for port in gateway.ports.values():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_readiness_may_be_asked_while_messages_are_written(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()

        async def chat() -> None:
            for i in range(15):
                await customer.ask("send", "sent", text=f"m{i}")

        async def ask() -> list[int]:
            return [(await it.call("GET", "/readyz", listener="admin"))[0] for _ in range(30)]

        _, *statuses = await asyncio.gather(chat(), ask(), ask())
        assert [set(s) for s in statuses] == [{200}, {200}]
        page = await customer.ask("history", "history")
        assert [m["seq"] for m in page["messages"]] == list(range(1, 16))


async def test_a_draining_gateway_is_not_ready_but_healthy(tmp_path: Path) -> None:
    slow = PATIENT | {"restart_window": 2.0, "restart_grace": 3.0}
    async with running(tmp_path, delivery=slow) as it:
        customer = await it.customer()
        stopping = asyncio.create_task(it.gateway.stop())
        assert await customer.closed() == 1012
        assert await it.call("GET", "/readyz", listener="admin") == (503, "draining\n")
        assert (await it.call("GET", "/healthz", listener="admin"))[0] == 200
        text = (await it.call("GET", "/metrics", listener="admin"))[1]
        assert "ringback_draining 1.0" in text
        await stopping


async def test_who_watches_is_answered_until_the_calls_that_are_out_have_ended(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        it.backend.answers = [gate := Gate()]
        seq = await it.write()
        await it.backend.take()
        stopping = asyncio.create_task(it.gateway.stop())
        await _refused(it, "http")
        for _ in range(20):
            ready = await it.call("GET", "/readyz", listener="admin")
            assert ready == (503, "draining\n")
            assert (await it.call("GET", "/healthz", listener="admin"))[0] == 200
            text = (await it.call("GET", "/metrics", listener="admin"))[1]
            assert "ringback_draining 1.0" in text
        gate.open.set()
        await stopping
        await _refused(it, "admin")
    async with running(tmp_path, delivery=PATIENT) as it:
        assert (await it.outcome(seq))["outcome"] == "pushed"


async def _refused(it: Running, listener: str) -> None:
    """Until the listener takes no connection any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await it.call("GET", "/", listener=listener)
            except aiohttp.ClientConnectionError:
                return


@contextmanager
def _full_disk(directory: Path) -> Iterator[None]:
    """No file of this process can grow beyond the database's log: every commit fails."""
    largest = (directory / "ringback.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_refuses_writes_lets_reading_go_on_and_recovers(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await customer.ask("send", "sent", text="before")
        with _full_disk(tmp_path):
            error = await customer.ask("send", "error", ref="r1", text="x" * 8_000)
            assert error["code"] == "unavailable"
            status, _ = await it.call("GET", "/readyz", listener="admin")
            assert status == 503
            body = {"customer": "c-42", "text": "x" * 8_000}
            status, problem = await it.call("POST", "/v1/messages", Role.SERVICE, json=body)
            assert (status, problem["code"]) == (503, "unavailable")
            page = await customer.ask("history", "history")
            assert [m["text"] for m in page["messages"]] == ["before"]
            opened = await agent.ask("history", "history", customer="c-42")
            assert len(opened["messages"]) == 1
            again = await it.customer()
            assert again.welcome["seq"] == 1
        assert (await it.call("GET", "/readyz", listener="admin"))[0] == 200
        sent = await customer.ask("send", "sent", ref="r1", text="x" * 8_000)
        assert (sent["seq"], "duplicate" in sent) == (2, False)
        assert (await agent.take("message", seq=2))["text"] == "x" * 8_000


async def test_a_disk_that_stands_still_is_not_ready_and_readiness_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "READY_WITHIN", 0.1)
    async with running(tmp_path, delivery=PATIENT) as it:
        database, disk = it.gateway.core.database, asyncio.Event()
        write = database.write

        async def stand_still(statements: Any) -> None:
            await disk.wait()
            await write(statements)

        with monkeypatch.context() as patch:
            patch.setattr(database, "write", stand_still)
            for _ in range(2):
                status, told = await it.call("GET", "/readyz", listener="admin")
                assert (status, told) == (503, "the database was not written for 0.1 seconds\n")
            assert (await it.call("GET", "/healthz", listener="admin"))[0] == 200
            disk.set()
        monkeypatch.setattr(admin, "READY_WITHIN", PATIENCE)
        assert await it.call("GET", "/readyz", listener="admin") == (200, "ok\n")


async def test_a_caller_that_hangs_up_in_the_middle_hurts_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        with socket.create_connection(("127.0.0.1", it.gateway.ports["http"])) as half:
            token = it.token(Role.SERVICE, "crm")
            half.sendall(
                b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer " + token.encode() + b"\r\nContent-Length: 1000\r\n\r\n{"
            )
        assert await it.write() == 1


async def _half_a_body(it: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A call of which five bytes of fifty have come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.ports["http"])
    token = it.token(Role.CUSTOMER, "c-42")
    head = (
        "PUT /v1/devices/phone HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        "Content-Length: 50",
    )
    writer.write("\r\n".join(head).encode() + b'\r\n\r\n{"tok')
    await writer.drain()
    return reader, writer


async def test_a_body_that_stops_coming_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_WITHIN", 0.2)
    async with running(tmp_path) as it:
        reader, writer = await _half_a_body(it)
        async with asyncio.timeout(PATIENCE):
            assert b" 400 " in await reader.readline()
        writer.close()


async def test_who_hangs_up_in_a_body_is_no_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reading, ended = web.Request.read, asyncio.Event(), asyncio.Event()

    async def watched(request: web.Request) -> bytes:
        reading.set()
        try:
            return await read(request)
        finally:
            ended.set()

    monkeypatch.setattr(web.Request, "read", watched)
    async with running(tmp_path) as it, asyncio.timeout(PATIENCE):
        with capture_logs() as logs:
            _, writer = await _half_a_body(it)
            await reading.wait()
            writer.close()
            await ended.wait()
        assert [entry for entry in logs if entry["log_level"] == "error"] == []
        assert b"ringback_faults_total 0.0" in it.gateway.core.metrics.now()()


async def test_a_fault_of_ours_is_counted_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        monkeypatch.setattr(it.gateway.core.devices, "sign_out", None)
        status, told = await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        assert (status, told["code"]) == (500, "internal")
        assert b"ringback_faults_total 1.0" in it.gateway.core.metrics.now()()
        await it.register()
        monkeypatch.setattr(it.gateway.core.book._ringing, "judge", None)
        await it.write()
        async with asyncio.timeout(PATIENCE):
            while b"ringback_faults_total 2.0" not in it.gateway.core.metrics.now()():
                await asyncio.sleep(0.01)
        customer = await it.customer()
        monkeypatch.setattr(it.gateway.core.chat, "_append", None)
        with capture_logs() as logs:
            refused = await customer.ask("send", "error", text="hello")
        assert (refused["code"], refused["message"]) == ("internal", "internal fault")
        assert [entry["event"] for entry in logs] == ["a change failed"]
        assert b"ringback_faults_total 3.0" in it.gateway.core.metrics.now()()


async def test_a_fault_of_ours_is_logged_with_the_path_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded, what a caller wrote could be lines of its own in the log."""
    async with running(tmp_path) as it:
        monkeypatch.setattr(it.gateway.core.dead_letters, "one", None)
        path = "/v1/dead_letters/x%0A2026-11-30%20all%20is%20well"
        with capture_logs() as logs:
            assert (await it.call("GET", path, Role.SERVICE))[0] == 500
        assert [line["path"] for line in logs if line["event"] == "a call failed"] == [path]


async def test_a_call_that_broke_is_a_fault_of_ours_and_one_that_was_answered_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, push={"retry_first": 600.0, "retry_max": 600.0}) as it:
        await it.register()
        await it.settled(await it.write(), "pushed")
        assert b"ringback_faults_total 0.0" in it.gateway.core.metrics.now()()
        monkeypatch.setattr(caller, "_written", None)
        await it.write()
        async with asyncio.timeout(PATIENCE):
            while b"ringback_faults_total 1.0" not in it.gateway.core.metrics.now()():
                await asyncio.sleep(0.01)


async def test_a_fault_of_ours_on_a_socket_is_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError

    async with running(tmp_path) as it:
        core = it.gateway.core
        wire = await it.customer()
        monkeypatch.setattr(core.marks, "ack", lambda session, seq: (broken, Needs()))
        await wire.send("ack", seq=1)
        assert (await wire.take("error"))["code"] == "internal"
        assert b"ringback_faults_total 1.0" in core.metrics.now()()
        monkeypatch.setattr(core.marks, "ack", broken)
        await wire.send("ack", seq=1)
        assert await wire.closed() == 1011
        assert b"ringback_faults_total 2.0" in core.metrics.now()()
        monkeypatch.setattr(core.presence, "replay", broken)
        wire = await it.raw("/v1/chat")
        await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
        assert await wire.closed() == 1011
        assert b"ringback_faults_total 3.0" in core.metrics.now()()
