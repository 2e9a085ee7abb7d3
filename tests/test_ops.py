"""A tenant's figures: what is so, and nothing of another tenant's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.campaigns.lanes import Waiting
from gateway.protocol import Role
from push.worker import Load
from tests.faults.needs import missing
from tests.running import PATIENCE, QUICK, Running, running


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


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How many functions are called meanwhile, by all that the loop does: `call` says it."""
    told = Counter[str]()
    sys.setprofile(lambda frame, event, argument: told.update((event,)))
    try:
        yield told
    finally:
        sys.setprofile(None)


async def test_a_tenants_figures_are_read_without_a_look_at_the_other_tenants(
    tmp_path: Path,
) -> None:
    """A page of one of a thousand tenants held everybody up for 0.1 s, whenever it was renewed."""
    async with running(tmp_path) as it:
        core = it.gateway.core
        metrics = core.metrics
        others = [replace(core._endpoints[0], tenant=f"t-{n}") for n in range(1_000)]
        core._worker.take_up([*core._endpoints, *others])
        for endpoint in others:
            metrics.looks[endpoint.tenant]["ring", "not_in_chat"] += 1
            metrics.calls[endpoint.tenant].observe(0.1)
        with counted() as told:
            await figures(it)
        assert told["call"] < 10_000
        with counted() as told:
            assert core._waiting("acme") == Waiting()
        assert told["call"] < 100


async def test_metrics_are_written_down_while_everybody_is_served(tmp_path: Path) -> None:
    """With a thousand tenants it takes a second, and nobody was."""
    async with running(tmp_path) as it:
        metrics, begun, served = it.gateway.core.metrics, threading.Event(), threading.Event()

        def loads() -> dict[tuple[str, str], Load]:
            begun.set()
            assert served.wait(PATIENCE)
            return {("acme", ""): Load(7, 0)}

        metrics._loads = loads
        asking = asyncio.create_task(it.call("GET", "/metrics", listener="admin"))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        assert (await it.call("GET", "/healthz", listener="admin"))[0] == 200
        served.set()
        status, text = await asking
        assert status == 200
        assert 'ringback_push_waiting{backend="",tenant="acme"} 7.0' in text


async def test_a_ring_that_was_given_up_is_counted_by_its_cause(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register("anna", "phone", "t-1")
        it.backend.answers += [422]
        await it.write("anna")
        await it.settled(1, "undeliverable", "anna")
        assert (await figures(it))["dead_letters"] == [{"cause": "refused", "count": 1}]
        assert (await figures(it, "other"))["dead_letters"] == []


async def test_what_is_alerted_on_is_at_0_before_it_rises(tmp_path: Path) -> None:
    """Prometheus sees no rise in a figure that was not there before: the first went unnoticed."""
    async with running(tmp_path) as it:
        _, text = await it.call("GET", "/metrics", listener="admin")
        for tenant in ("acme", "other"):
            for cause in ("refused", "expired"):
                zero = f'ringback_dead_letters_total{{cause="{cause}",tenant="{tenant}"}} 0.0'
                assert zero in text
            for state in ("dead", "quarantined"):
                name = "ringback_rejected_registrations_total"
                assert f'{name}{{state="{state}",tenant="{tenant}"}} 0.0' in text
        for figure in ("faults_total", "writer_refused_total", "writer_failing"):
            assert f"ringback_{figure} 0.0" in text


async def test_open_files_are_told_with_their_limit(tmp_path: Path) -> None:
    if sys.platform != "linux":
        missing("Linux, which tells a process of its files")
    async with running(tmp_path) as it:
        _, text = await it.call("GET", "/metrics", listener="admin")
        told = dict(line.split() for line in text.splitlines() if line.startswith("process_"))
        assert 0 < float(told["process_open_fds"]) < float(told["process_max_fds"])


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
