"""Where a call may not go: hostile endpoints through the real caller, to the socket.

Only the resolver is a fake, because what it stands for is somebody else's DNS. A server listens on
loopback all the time: what reaches it was not stopped.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from structlog.testing import capture_logs

from push.backends import Backend
from push.caller import Caller
from push.guard import LOOPBACK
from push.ring import Endpoint, Verdict, VerdictKind
from tests.push.scripted import TOKEN, a_claim, an_endpoint
from tests.push.served import OK, Server, saying, serving


class Dns(AbstractResolver):
    """Answers for any name with the next of its answers, the last one from then on."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer
        ]

    async def close(self) -> None: ...


@pytest.fixture
async def inside() -> AsyncIterator[Server]:
    """What must not be reached."""
    async with serving(saying(OK)) as server:
        yield server


async def verdict_of(caller: Caller, endpoint: Endpoint) -> Verdict:
    verdict, _ = await caller.call(endpoint, a_claim(), time.time())
    return verdict


def to(server: Server, host: str = "push.acme.example", **changes: Any) -> Endpoint:
    return an_endpoint(
        url=f"http://{host}:{server.port}/ring", **({"allow_networks": ()} | changes)
    )


FORBIDDEN = Verdict(VerdictKind.MISCONFIGURED, "forbidden_address")

HOSTILE_LITERALS = [
    ("127.0.0.1", "loopback"),
    ("[::1]", "loopback"),
    ("0.0.0.0", "unspecified"),  # noqa: S104
    ("[::]", "unspecified"),
    ("10.0.0.1", "private"),
    ("172.16.0.1", "private"),
    ("192.168.0.1", "private"),
    ("[fd00::1]", "private"),
    ("169.254.1.1", "link_local"),
    ("[fe80::1]", "link_local"),
    ("[fec0::1]", "site_local"),
    ("100.64.0.1", "shared"),
    ("169.254.169.254", "metadata"),
    ("[fd00:ec2::254]", "metadata"),
    ("224.0.0.1", "multicast"),
    ("[ff02::1]", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("192.0.2.1", "documentation"),
    ("198.18.0.1", "benchmarking"),
    ("[::ffff:127.0.0.1]", "ipv4_mapped"),
    ("[::ffff:7f00:1]", "ipv4_mapped"),
    ("[::127.0.0.1]", "ipv4_compatible"),
    ("[64:ff9b::7f00:1]", "nat64"),
    ("[64:ff9b:1::7f00:1]", "nat64"),
    ("[2002:7f00:1::]", "6to4"),
    ("[2001:0:7f00:1::]", "teredo"),
    ("localhost", "loopback"),
]


@pytest.mark.parametrize(("host", "why"), HOSTILE_LITERALS)
async def test_a_hostile_address_in_the_url_is_refused_with_its_reason(
    inside: Server, host: str, why: str
) -> None:
    async with Caller() as caller:
        with capture_logs() as logs:
            verdict = await verdict_of(caller, to(inside, host))
    assert verdict == FORBIDDEN
    assert why in [entry["why"] for entry in logs]
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0"])
async def test_a_spelling_of_old_that_the_c_library_takes_for_loopback_is_no_way_in(
    inside: Server, host: str
) -> None:
    """The HTTP client refuses most as URLs; what it passes on to the resolver is refused here."""
    async with Caller() as caller:
        verdict = await verdict_of(caller, to(inside, host))
    assert verdict.kind is VerdictKind.MISCONFIGURED
    assert verdict.reason in ("url", "forbidden_address")
    assert inside.connections == 0


HOSTILE_ANSWERS = [
    (["127.0.0.1"], ["loopback"]),
    (["::1"], ["loopback"]),
    (["10.1.2.3", "192.168.1.1"], ["private"]),
    (["fd00::1", "127.0.0.1"], ["private", "loopback"]),
    (["169.254.169.254"], ["metadata"]),
    (["100.64.0.1"], ["shared"]),
    (["::ffff:127.0.0.1"], ["ipv4_mapped"]),
    (["64:ff9b::7f00:1"], ["nat64"]),
    (["2002:7f00:1::"], ["6to4"]),
    (["fec0::1"], ["site_local"]),
    (["0.0.0.0"], ["unspecified"]),  # noqa: S104
]


@pytest.mark.parametrize(("answer", "reasons"), HOSTILE_ANSWERS)
async def test_a_harmless_name_with_hostile_addresses_is_refused_with_every_reason(
    inside: Server, answer: list[str], reasons: list[str]
) -> None:
    async with Caller(Dns(answer)) as caller:
        with capture_logs() as logs:
            assert await verdict_of(caller, to(inside)) == FORBIDDEN
    assert sorted(entry["why"] for entry in logs) == sorted(reasons)
    assert inside.connections == 0


async def test_a_name_that_turns_to_loopback_after_it_was_looked_up_is_refused(
    inside: Server,
) -> None:
    """Rebinding: judged is what is connected to, however harmless the last answer was."""
    dns = Dns(["192.0.2.1"], ["127.0.0.1"])
    async with Caller(dns) as caller:
        assert (await dns.resolve("push.acme.example"))[0]["host"] == "192.0.2.1"  # a check's look
        with capture_logs() as logs:
            assert await verdict_of(caller, to(inside)) == FORBIDDEN
    assert [(entry["why"], entry["address"]) for entry in logs] == [("loopback", "127.0.0.1")]
    assert len(dns.asked) == 2
    assert inside.connections == 0


async def test_each_backend_of_each_tenant_is_told_of_with_its_address(inside: Server) -> None:
    own, bolt = to(inside, "127.0.0.1"), to(inside, "127.0.0.1", tenant="bolt")
    qa = replace(own, backend=Backend("qa", "sandbox"))
    async with Caller() as caller:
        with capture_logs() as logs:
            for endpoint in (own, qa, qa, bolt):
                assert await verdict_of(caller, endpoint) == FORBIDDEN
    told = [(entry["tenant"], entry.get("backend")) for entry in logs]
    assert told == [("acme", None), ("acme", "qa"), ("bolt", None)]


async def test_the_allowlist_lets_its_network_through(inside: Server) -> None:
    async with Caller(Dns(["127.0.0.1"])) as caller:
        verdict = await verdict_of(caller, to(inside, allow_networks=LOOPBACK))
    assert verdict.kind is VerdictKind.ACCEPTED
    assert inside.connections == 1


async def test_of_several_addresses_only_those_that_may_be_called_are_tried(
    inside: Server,
) -> None:
    async with Caller(Dns(["10.1.2.3", "127.0.0.1", "::ffff:127.0.0.1"])) as caller:
        verdict = await verdict_of(caller, to(inside, allow_networks=LOOPBACK))
    assert verdict.kind is VerdictKind.ACCEPTED


async def test_what_an_address_that_may_be_called_answers_is_not_laid_to_another() -> None:
    dns = Dns(["10.1.2.3", "127.0.0.1"])
    async with serving(saying(b"what?\r\n\r\n")) as server, Caller(dns) as caller:
        verdict = await verdict_of(caller, to(server, allow_networks=LOOPBACK))
    assert (verdict.kind, verdict.reason) == (VerdictKind.RETRY, "bad_http")


async def test_a_connection_that_one_tenant_may_have_is_not_lent_to_another() -> None:
    """The pool knows connections by host and port: both tenants name the same ones."""

    async with serving(saying(OK, "go on")) as server, Caller(Dns(["127.0.0.1"])) as caller:
        allowed = to(server, allow_networks=LOOPBACK)
        for _ in range(2):
            assert (await verdict_of(caller, allowed)).kind is VerdictKind.ACCEPTED
        assert server.connections == 1  # kept alive, and there for the taking
        assert await verdict_of(caller, to(server, tenant="bolt")) == FORBIDDEN
        assert (await verdict_of(caller, allowed)).kind is VerdictKind.ACCEPTED
        assert server.connections == 1


async def test_calls_at_the_same_time_are_not_taken_for_one_another() -> None:
    async with serving(saying(OK)) as server, Caller(Dns(["127.0.0.1"])) as caller:
        gone = an_endpoint(url="http://gone.example:1/", allow_networks=LOOPBACK)
        verdicts = await asyncio.gather(
            *(verdict_of(caller, endpoint) for endpoint in (to(server), gone) for _ in range(20))
        )
    assert verdicts[:20] == [FORBIDDEN] * 20
    assert {verdict.reason for verdict in verdicts[20:]} == {"connect"}


async def test_a_call_is_not_taken_for_one_before_it(inside: Server) -> None:
    gone = an_endpoint(url="http://gone.example:1/", allow_networks=LOOPBACK)
    async with Caller(Dns(["127.0.0.1"])) as caller:
        assert await verdict_of(caller, to(inside)) == FORBIDDEN
        assert (await verdict_of(caller, gone)).reason == "connect"


async def test_an_address_that_is_still_refused_after_a_reload_is_told_again(
    inside: Server,
) -> None:
    async with Caller() as caller:
        with capture_logs() as logs:
            for _ in range(2):
                await verdict_of(caller, to(inside, "127.0.0.1"))
                caller.read_files_anew()
    assert [entry["why"] for entry in logs] == ["loopback"] * 2


async def test_the_operator_is_told_the_address_once_and_what_to_do(inside: Server) -> None:
    async with Caller(Dns(["10.1.2.3"])) as caller:
        with capture_logs() as logs:
            for _ in range(5):
                await verdict_of(caller, to(inside))
    [entry] = logs
    assert (entry["log_level"], entry["tenant"]) == ("error", "acme")
    assert (entry["address"], entry["why"]) == ("10.1.2.3", "private")
    assert "allow_networks" in entry["advice"]
    assert TOKEN not in repr(logs)
