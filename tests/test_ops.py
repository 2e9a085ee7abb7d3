"""A tenant's figures: what is so, and nothing of another tenant's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.protocol import Role
from tests.running import QUICK, Running, running


async def figures(it: Running, tenant: str = "acme") -> dict[str, Any]:
    status, told = await it.call("GET", "/v1/ops", Role.SERVICE, "crm", tenant=tenant)
    assert status == 200
    return dict(told)


async def test_a_tenants_figures_tell_its_sessions_messages_calls_and_backends(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register("anna", "phone", "t-1")
        it.backend.answers += [503]
        await it.write("anna")
        await it.settled(1, "pushed", "anna")
        anna = await it.customer("anna")
        await anna.take("message", seq=1)
        await it.agent()
        told = await figures(it)
        assert told["tenant"] == "acme"
        assert told["draining"] is False
        assert told["sessions"] == {"active": 1, "background": 0, "agent": 1}
        assert told["messages"]["accepted"] == told["messages"]["pushed"] == 1
        assert {"action": "ring", "reason": "not_in_chat", "count": 1} in told["looks"]
        assert {(a["verdict"], a["reason"], a["count"]) for a in told["attempts"]} == {
            ("retry", "http_503", 1),
            ("accepted", "http_200", 1),
        }
        assert told["dead_letters"] == []
        assert told["call_seconds"]["count"] == 2
        assert told["ring_seconds"]["count"] == 1
        assert 0 < told["ring_seconds"]["p50"] <= told["ring_seconds"]["p99"]
        (backend,) = told["backends"]
        assert backend["state"] == "up"


async def test_a_ring_that_was_given_up_is_counted_by_its_cause(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register("anna", "phone", "t-1")
        it.backend.answers += [422]
        await it.write("anna")
        await it.settled(1, "undeliverable", "anna")
        assert (await figures(it))["dead_letters"] == [{"cause": "refused", "count": 1}]
        assert (await figures(it, "other"))["dead_letters"] == []


async def test_a_socket_that_is_turned_away_is_counted_once_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        customer = await it.customer()
        await customer.ask("refresh", "error", token="no token")
        for hello in ({"token": "no token"}, {}, {"token": it.token(Role.AGENT, "a-1")}):
            wire = await it.raw("/v1/chat")
            await wire.send("hello", **hello)
            await wire.closed()
        _, page = await it.call("GET", "/metrics", listener="admin")
        name = "ringback_rejected_sockets_total"
        assert sorted(line for line in page.splitlines() if line.startswith(name)) == [
            f'{name}{{reason="{reason}"}} 1.0'
            for reason in ("bad_token", "token_malformed", "wrong_role")
        ]


async def test_a_call_whose_token_is_not_accepted_is_counted_with_the_reason(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        forged = it.token(Role.SERVICE, "crm")[:-8] + "AAAAAAAA"
        for token, status in (("no token", 401), (forged, 401), (it.token(Role.AGENT, "a-1"), 403)):
            headers = {"Authorization": f"Bearer {token}"}
            async with it.http.get(it.url("/v1/ops"), headers=headers) as answer:
                assert answer.status == status
        _, page = await it.call("GET", "/metrics", listener="admin")
        name = "ringback_refused_calls_total"
        assert sorted(line for line in page.splitlines() if line.startswith(name)) == [
            f'{name}{{reason="{reason}"}} 1.0'
            for reason in ("token_bad_signature", "token_malformed")
        ]


async def test_a_tenants_figures_tell_nothing_of_another(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register("anna", "phone", "t-1")
        await it.write("anna")
        await it.settled(1, "pushed", "anna")
        await it.customer("anna")
        await it.agent()
        told = await figures(it, "other")
        assert told["sessions"] == {"active": 0, "background": 0, "agent": 0}
        assert set(told["messages"].values()) == {0}
        assert told["looks"] == told["attempts"] == []
        idle = {"name": "", "waiting": 0, "calling": 0, "state": "up"}
        assert told["backends"] == [idle]  # its own, though it is the same address here
        assert told["call_seconds"] == {"count": 0, "p50": None, "p95": None, "p99": None}
