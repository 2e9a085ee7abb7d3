"""Every adapter against a real server: the whole request, all five verdicts, and bad answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from msgspec.structs import replace as replace_fields
from structlog.testing import capture_logs

from push.adapters import Adapter, Answer, Failure, Request, adapter_named, names
from push.adapters.named import ADAPTERS
from push.caller import ANSWER_BYTES, Caller
from push.ring import Endpoint, Ring, RingKind, Target, Verdict, VerdictKind
from tests.push.scripted import TOKEN, a_claim, a_ring
from tests.push.served import Server, local, saying, serving

OPTIONS: dict[str, dict[str, Any]] = {
    "asapp": {},
    "standard": {},
    "liveperson": {"brand_id": "90588711"},
    "zendesk": {},
    "matrix": {"app_id": "com.acme.app"},
    "template": {"path": "/devices/{token}", "headers": {"X-Kind": "{kind}"}, "body": "{text}"},
}
NOW = 1795507200.0


def endpoint_of(server: Server, adapter: str, **changes: Any) -> Endpoint:
    options = orjson.dumps(OPTIONS[adapter]).decode()
    return local(server, adapter=adapter, options=options, **changes)


def answer(status: int, body: bytes = b"", head: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    line = f"HTTP/1.1 {status} As Scripted\r\n".encode()
    return line + head + b"Content-Length: " + length + b"\r\n\r\n" + body


@pytest.mark.parametrize("adapter", OPTIONS)
async def test_the_whole_request_is_what_the_adapter_wrote_with_the_ring_s_id(
    caller: Caller, adapter: str
) -> None:
    seen: list[bytes] = []
    async with serving(saying(answer(200), "go on", seen)) as server:
        endpoint = endpoint_of(server, adapter)
        claim = a_claim(ring=a_ring())
        assert (await caller.call(endpoint, claim, NOW))[0].kind == "accepted"
    made = adapter_named(adapter, endpoint.options).request(claim.ring, claim.target, endpoint)
    path = "/devices/the-device-token" if adapter == "template" else "/ring"
    extra = "X-Kind: message\r\n" if adapter == "template" else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "User-Agent: ringback\r\nAccept-Encoding: identity\r\n"
        f"Content-Type: application/json\r\n{extra}"
        f"webhook-id: r_01\r\nwebhook-timestamp: {NOW:.0f}\r\n"
        f"Accept: */*\r\nContent-Length: {len(made.body)}\r\n\r\n"
    )
    assert seen == [head.encode() + made.body]


ANSWERS: dict[str, tuple[bytes, str]] = {
    "taken": (answer(200), "accepted"),
    "taken, with garbage": (answer(202, b"<html>\xff"), "accepted"),
    "taken, too long": (answer(200, b"x" * (ANSWER_BYTES + 1)), "accepted"),
    "taken, cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "accepted"),
    "gone": (answer(410), "token_dead"),
    "rejected": (answer(200, orjson.dumps({"rejected": [TOKEN]})), "token_dead"),
    "another rejected": (answer(200, b'{"rejected": ["another"]}'), "accepted"),
    "broken": (answer(500), "retry"),
    "busy": (answer(429, b"", b"Retry-After: 7\r\n"), "retry"),
    "no HTTP": (b"220 mail.acme.example ESMTP\r\n\r\n", "retry"),
    "hung up": (b"", "retry"),
    "wrong": (answer(422, b'{"error": "no"}'), "refused"),
    "not found": (answer(404), "misconfigured"),
    "not known": (answer(401), "misconfigured"),
    "elsewhere": (answer(302, b"", b"Location: /\r\n"), "misconfigured"),
}


@pytest.mark.parametrize("said", ANSWERS)
@pytest.mark.parametrize("adapter", OPTIONS)
async def test_every_answer_is_a_verdict(caller: Caller, adapter: str, said: str) -> None:
    raw, kind = ANSWERS[said]
    async with serving(saying(raw)) as server:
        verdict, _ = await caller.call(endpoint_of(server, adapter), a_claim(), NOW)
    assert verdict.kind == kind
    assert verdict.retry_after == (7.0 if said == "busy" else None)


@pytest.mark.parametrize("adapter", OPTIONS)
async def test_403_is_the_token_for_liveperson_and_our_credentials_for_all_others(
    caller: Caller, adapter: str
) -> None:
    async with serving(saying(answer(403))) as server:
        verdict, _ = await caller.call(endpoint_of(server, adapter), a_claim(), NOW)
    assert verdict.kind == ("token_dead" if adapter == "liveperson" else "misconfigured")


@pytest.mark.parametrize("adapter", OPTIONS)
async def test_a_silence_is_tried_again(caller: Caller, adapter: str) -> None:
    async with serving(saying(b"", then="hang")) as server:
        endpoint = endpoint_of(server, adapter, timeout=0.05)
        verdict, _ = await caller.call(endpoint, a_claim(), NOW)
    assert (verdict.kind, verdict.reason) == ("retry", "timeout")


@pytest.mark.parametrize("adapter", [name for name in OPTIONS if name != "zendesk"])
async def test_a_badge_goes_out_without_a_word_of_the_message(caller: Caller, adapter: str) -> None:
    seen: list[bytes] = []
    async with serving(saying(answer(200), "go on", seen)) as server:
        claim = a_claim(ring=a_ring(RingKind.BADGE))
        verdict, _ = await caller.call(endpoint_of(server, adapter), claim, NOW)
    assert verdict.kind == "accepted"
    assert b"Hello" not in seen[0]


async def test_a_token_that_would_lead_to_another_path_is_refused_and_never_sent(
    caller: Caller,
) -> None:
    called: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.append(True)

    async with serving(serve) as server:
        claim = replace_fields(a_claim(), target=Target("..", "fp-1"))
        verdict, _ = await caller.call(endpoint_of(server, "template"), claim, NOW)
    assert (verdict.kind, verdict.reason, called) == ("refused", "unwritable", [])


@pytest.mark.parametrize(
    ("adapter", "options"), [("matrxi", "{}"), ("matrix", "{}"), ("standard", '{"x": 1}')]
)
async def test_an_adapter_that_cannot_be_used_is_a_setting_of_ours(
    caller: Caller, adapter: str, options: str
) -> None:
    async with serving(saying(answer(200))) as server:
        endpoint = local(server, adapter=adapter, options=options)
        verdict, _ = await caller.call(endpoint, a_claim(), NOW)
    assert (verdict.kind, verdict.reason) == ("misconfigured", "adapter")


@pytest.mark.parametrize(
    ("status", "kind"), [(200, "accepted"), (410, "token_dead"), (500, "retry"), (422, "refused")]
)
async def test_somebody_s_adapter_that_breaks_at_an_answer_does_not_undo_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, status: int, kind: str
) -> None:
    def breaks(outcome: Answer | Failure, token: str, now: float) -> Verdict:
        raise KeyError(token)

    adapter = replace(adapter_named("standard"), verdict=breaks)
    monkeypatch.setitem(ADAPTERS, f"odd-{status}", lambda options: adapter)
    with capture_logs() as logs:
        async with serving(saying(answer(status))) as server:
            endpoint = local(server, adapter=f"odd-{status}")
            verdict, _ = await caller.call(endpoint, a_claim(), NOW)
    assert verdict.kind == kind
    assert [(log["adapter"], log["error"]) for log in logs] == [(f"odd-{status}", "KeyError")]
    assert TOKEN not in str(logs)


@pytest.mark.parametrize("said", [None, "accepted", Verdict(VerdictKind.RETRY, 503)])  # type: ignore[arg-type]
async def test_what_is_no_verdict_undoes_no_answer_either(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    adapter = replace(adapter_named("standard"), verdict=lambda outcome, token, now: said)
    monkeypatch.setitem(ADAPTERS, "odd", lambda options: adapter)
    adapter_named.cache_clear()
    with capture_logs() as logs:
        async with serving(saying(answer(200))) as server:
            verdict, _ = await caller.call(local(server, adapter="odd"), a_claim(), NOW)
    assert verdict == Verdict(VerdictKind.ACCEPTED, "http_200", 200)
    assert [log["event"] for log in logs] == ["the push adapter broke at an answer"]


async def test_what_was_not_called_is_told_as_such_whatever_an_adapter_makes_of_failures(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker counts failures of the backend, and goes by the reason."""
    failing = Verdict(VerdictKind.RETRY, "gateway_down")
    adapter = replace(adapter_named("standard"), verdict=lambda outcome, token, now: failing)
    monkeypatch.setitem(ADAPTERS, "odd", lambda options: adapter)
    adapter_named.cache_clear()
    async with serving(saying(answer(200))) as server:
        claim = replace_fields(a_claim(), stands=lambda: False)
        verdict, _ = await caller.call(local(server, adapter="odd"), claim, NOW)
    assert verdict == Verdict(VerdictKind.RETRY, "moved")


async def test_an_adapter_s_path_is_no_more_of_the_host_s_name(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(saying(answer(200))) as there, serving(saying(answer(200))) as server:
        elsewhere = Adapter(lambda *_: Request({}, b"", f"@127.0.0.1:{there.port}/ring"))
        monkeypatch.setitem(ADAPTERS, "odd", lambda options: elsewhere)
        adapter_named.cache_clear()
        with capture_logs() as logs:
            verdict, _ = await caller.call(local(server, adapter="odd"), a_claim(), NOW)
    assert (verdict.kind, verdict.reason) == ("retry", "internal")
    assert (there.connections, server.connections) == (0, 0)
    assert [log["adapter"] for log in logs] == ["odd"]


async def test_somebody_s_adapter_that_breaks_at_a_ring_costs_an_attempt(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
        raise KeyError(target.token)

    monkeypatch.setitem(ADAPTERS, "odd", lambda options: Adapter(breaks))
    adapter_named.cache_clear()
    with capture_logs() as logs:
        async with serving(saying(answer(200))) as server:
            verdict, _ = await caller.call(local(server, adapter="odd"), a_claim(), NOW)
    assert (verdict.kind, verdict.reason, server.connections) == ("retry", "internal", 0)
    assert [log["adapter"] for log in logs] == ["odd"]


def test_every_adapter_of_ours_is_tried_here() -> None:
    assert names() == list(OPTIONS)
