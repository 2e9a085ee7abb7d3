"""The call itself: what leaves, and what each way of failing becomes.

Shapes and failure classes run against aioresponses; where the network matters a real server
answers, byte by byte.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses
from msgspec.structs import replace as replace_fields
from standardwebhooks import Webhook
from structlog.testing import capture_logs
from yarl import URL

from push import caller as calling
from push.adapters import Adapter, Request, adapter_named
from push.caller import ANSWER_BYTES, Caller, Signed
from push.content import BOUND
from push.ring import Claim, Endpoint, Ring, Target, Verdict, VerdictKind
from push.verdicts import Answer
from tests.push.scripted import OLD_SECRET, SECRET, TOKEN, Answered, a_claim, a_ring, an_endpoint
from tests.push.served import OK, Server, local, request_of, saying, serving
from tests.running import PATIENCE

PLACE = "https://push.acme.example/ring"


async def verdict_of(caller: Caller, endpoint: Endpoint) -> Verdict:
    verdict, ms = await caller.call(endpoint, a_claim(), time.time())
    assert 0.0 <= ms < (endpoint.timeout + 10.0) * 1000.0
    return verdict


def kind_and_reason(verdict: Verdict) -> tuple[str, str]:
    return verdict.kind.value, verdict.reason


# What leaves.


async def test_the_request_is_one_signed_post_of_the_adapter_s_body(
    caller: Caller, backend: aioresponses
) -> None:
    backend.post(PLACE, status=200, response_class=Answered)
    endpoint = an_endpoint(signing_secrets=(SECRET, OLD_SECRET))
    claim = a_claim(ring=a_ring())
    verdict, _ = await caller.call(endpoint, claim, time.time())
    assert verdict == Verdict(VerdictKind.ACCEPTED, "http_200", 200)
    [(method, url)] = backend.requests
    [sent] = backend.requests[(method, url)]
    assert (method, url) == ("POST", URL(PLACE))
    assert sent.kwargs["allow_redirects"] is False
    headers, body = sent.kwargs["headers"], sent.kwargs["data"]
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "r_01"
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers)["deviceToken"] == TOKEN


async def test_an_adapter_that_reads_tokens_is_written_with_none_but_them(
    caller: Caller, backend: aioresponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
        if target.token != TOKEN:
            raise ValueError("no token of ours")
        return Request({}, orjson.dumps([target.token, ring.text]))

    monkeypatch.setattr(calling, "adapter_named", lambda name, options: Adapter(request))
    backend.post(PLACE, status=200, response_class=Answered)
    claim = a_claim(ring=a_ring(text="long " * 2_000))
    verdict, _ = await caller.call(an_endpoint(), claim, time.time())
    assert verdict.kind is VerdictKind.ACCEPTED
    [[sent]] = backend.requests.values()
    assert BOUND - 5 <= len(sent.kwargs["data"]) <= BOUND


async def test_a_retry_sends_the_same_bytes_under_the_same_id_signed_anew(
    caller: Caller, backend: aioresponses
) -> None:
    backend.post(PLACE, status=503, response_class=Answered, repeat=True)
    endpoint = an_endpoint(signing_secrets=(SECRET,))
    await caller.call(endpoint, a_claim(attempt=1), 1000.0)
    await caller.call(endpoint, a_claim(attempt=2), 1900.0)
    first, second = (call.kwargs for call in backend.requests[("POST", URL(PLACE))])
    assert first["data"] == second["data"]
    assert first["headers"]["webhook-id"] == second["headers"]["webhook-id"]
    assert first["headers"]["webhook-timestamp"] == "1000"
    assert second["headers"]["webhook-timestamp"] == "1900"
    assert first["headers"]["webhook-signature"] != second["headers"]["webhook-signature"]


async def test_on_the_wire_it_is_plain_http_without_cookies_or_compression(
    caller: Caller,
) -> None:
    seen: list[bytes] = []

    async with serving(
        saying(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: sid=1; Path=/\r\n\r\n"), "go on", seen)
    ) as server:
        by_name = an_endpoint(url=f"http://localhost:{server.port}/")  # of an address none is kept
        for _ in range(2):
            verdict, _ = await caller.call(by_name, a_claim(), 1_800_000_000.0)
            assert verdict.kind is VerdictKind.ACCEPTED
        assert server.connections == 1  # kept alive
    assert len(seen) == 2
    assert seen[0] == seen[1]
    head = seen[1].split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post / http/1.1\r\n")
    assert b"accept-encoding: identity" in head
    assert b"user-agent: ringback" in head
    assert b"cookie" not in head


async def test_of_a_call_that_was_not_made_the_adapter_is_not_asked(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asapp = adapter_named("asapp", "{}")
    dead = Verdict(VerdictKind.TOKEN_DEAD, "http_200", 200)
    strict = replace(asapp, verdict=lambda outcome, token, now: dead)
    monkeypatch.setattr(calling, "adapter_named", lambda name, options: strict)
    async with serving(saying(OK)) as server:
        claim = replace_fields(a_claim(), stands=lambda: False)
        verdict, _ = await caller.call(local(server), claim, time.time())
    assert kind_and_reason(verdict) == ("retry", "moved")


async def test_a_claim_that_no_longer_stands_when_it_is_connected_is_not_called(
    caller: Caller,
) -> None:
    seen: list[bytes] = []
    async with serving(saying(OK, "go on", seen)) as server:
        claim = replace_fields(a_claim(), stands=lambda: server.connections == 0)
        verdict, _ = await caller.call(local(server), claim, time.time())
        assert kind_and_reason(verdict) == ("retry", "moved")
        assert (await verdict_of(caller, local(server))).kind is VerdictKind.ACCEPTED
        assert (len(seen), server.connections) == (1, 1)  # that connection served another


async def test_a_proxy_of_the_environment_is_not_used(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(saying(OK)) as server:
        assert (await verdict_of(caller, local(server))).kind is VerdictKind.ACCEPTED


# What the answer means, through the whole call.


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (204, "", ("accepted", "http_204")),
        (200, "<html>garbage", ("accepted", "http_200")),
        (200, '{"rejected":["the-device-token"]}', ("token_dead", "rejected")),
        (404, '{"rejected":["the-device-token"]}', ("token_dead", "rejected")),
        (410, "", ("token_dead", "http_410")),
        (404, "", ("misconfigured", "http_404")),
        (401, "", ("misconfigured", "http_401")),
        (422, "", ("refused", "http_422")),
        (500, "", ("retry", "http_500")),
    ],
)
async def test_an_answer_gets_its_verdict(
    caller: Caller, backend: aioresponses, status: int, body: str, expected: tuple[str, str]
) -> None:
    backend.post(PLACE, status=status, body=body, response_class=Answered)
    assert kind_and_reason(await verdict_of(caller, an_endpoint())) == expected


async def test_retry_after_comes_through(caller: Caller, backend: aioresponses) -> None:
    backend.post(PLACE, status=429, headers={"Retry-After": "30"}, response_class=Answered)
    assert (await verdict_of(caller, an_endpoint())).retry_after == 30.0


KEY = ConnectionKey("push.acme.example", 443, True, True, None, None, None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), ("retry", "timeout")),
        (aiohttp.ServerTimeoutError(), ("retry", "timeout")),
        (aiohttp.ConnectionTimeoutError(), ("retry", "connect_timeout")),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(1, "x")), ("retry", "dns")),
        (aiohttp.ClientConnectorError(KEY, OSError(1, "x")), ("retry", "connect")),
        (aiohttp.ServerDisconnectedError(), ("retry", "reset")),
        (aiohttp.ClientOSError(104, "reset"), ("retry", "reset")),
        (ConnectionResetError(), ("retry", "reset")),
        (aiohttp.ClientPayloadError(), ("retry", "bad_http")),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "x")), ("misconfigured", "tls")),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("x")),
            ("misconfigured", "tls"),
        ),
        (caused(aiohttp.ClientOSError(1, "alert"), ssl.SSLError()), ("misconfigured", "tls")),
        (caused(aiohttp.ClientOSError(1, "eof"), ssl.SSLEOFError()), ("retry", "reset")),
        (aiohttp.InvalidURL("x"), ("misconfigured", "url")),
        (ZeroDivisionError(), ("retry", "internal")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_failure_gets_its_verdict(
    caller: Caller, backend: aioresponses, error: Exception, expected: tuple[str, str]
) -> None:
    backend.post(PLACE, exception=error)
    verdict = await verdict_of(caller, an_endpoint())
    assert kind_and_reason(verdict) == expected
    assert verdict.status is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "not a url"}, "url"),
        ({"url": "ftp://push.acme.example/"}, "url"),
        ({"url": "http://127.0.0.1:99999/"}, "url"),
        ({"adapter": "matrxi"}, "adapter"),
        ({"signing_secrets": ("whsec_short",)}, "signing_secret"),
        ({"ca_file": "/nonexistent/ca.pem"}, "ca_file"),
    ],
)
async def test_a_setting_that_cannot_work_is_misconfigured(
    caller: Caller, changes: dict[str, Any], reason: str
) -> None:
    verdict = await verdict_of(caller, an_endpoint(**changes))
    assert kind_and_reason(verdict) == ("misconfigured", reason)


async def test_a_fault_of_ours_is_a_retry_and_is_logged_without_token_or_text(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    claim = a_claim(ring=a_ring(text="hush \ud800"))  # no JSON can carry a lone surrogate
    with capture_logs() as logs:
        verdict, _ = await caller.call(an_endpoint(), claim, 0.0)
    assert kind_and_reason(verdict) == ("retry", "internal")
    [entry] = logs
    assert (entry["tenant"], entry["ring"], entry["error"]) == ("acme", "r_01", "TypeError")
    for shown in (repr(logs), caplog.text):
        assert "hush" not in shown
        assert TOKEN not in shown


# Where the network matters.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(caller: Caller, status: int) -> None:
    async with serving(saying(OK)) as elsewhere:
        answer = (
            f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{elsewhere.port}/\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        async with serving(saying(answer)) as server:
            verdict = await verdict_of(caller, local(server))
        assert kind_and_reason(verdict) == ("misconfigured", "redirect")
        assert elsewhere.connections == 0


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await writer.drain()


async def test_an_endless_body_is_cut_off_and_the_status_decides(caller: Caller) -> None:
    async with serving(endless) as server:
        verdict = await verdict_of(caller, local(server))
        assert kind_and_reason(verdict) == ("accepted", "http_200")
        await server.closed.wait()  # the connection was hung up, not left to fill memory


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n"])
async def test_who_says_what_is_no_answer_without_end_is_hung_up_on(
    caller: Caller, said: bytes
) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        while True:
            writer.write(said * 1000)
            await writer.drain()

    async with serving(endless) as server:
        verdict = await verdict_of(caller, local(server, timeout=PATIENCE))
        assert kind_and_reason(verdict) == ("retry", "bad_http")
        await server.closed.wait()


async def test_who_goes_on_and_on_after_an_answer_is_hung_up_on(caller: Caller) -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK)
        while True:
            await writer.drain()
            writer.write(b"\r\n" * 1000)

    async with serving(chatty) as server:
        assert (await verdict_of(caller, local(server))).kind is VerdictKind.ACCEPTED
        await asyncio.wait_for(server.closed.wait(), 10)


async def test_what_one_answer_may_have_each_on_a_connection_may(caller: Caller) -> None:
    body = orjson.dumps({"rejected": [TOKEN]}).ljust(ANSWER_BYTES)
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with serving(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + answer, "")) as server:
        for _ in range(5):
            assert (await verdict_of(caller, local(server))).kind.value == "token_dead"
        assert server.connections == 1


@pytest.mark.parametrize(("spare", "expected"), [(0, "token_dead"), (1, "accepted")])
async def test_a_body_counts_up_to_64_kib_and_not_beyond(
    caller: Caller, spare: int, expected: str
) -> None:
    body = orjson.dumps({"rejected": [TOKEN]}).ljust(ANSWER_BYTES + spare)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with serving(saying(head + body)) as server:
        assert (await verdict_of(caller, local(server))).kind.value == expected


@pytest.mark.parametrize(("then", "timeout"), [("close", 15.0), ("hang", 2.0)])
async def test_once_the_status_arrived_a_body_that_never_ends_does_not_undo_it(
    caller: Caller, then: str, timeout: float
) -> None:
    async def verdict_on(status: int) -> tuple[str, str]:
        answer = f"HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n{{".encode()
        async with serving(saying(answer, then)) as server:
            verdict = await verdict_of(caller, local(server, timeout=timeout))
            await server.closed.wait()
            return kind_and_reason(verdict)

    assert await asyncio.gather(*map(verdict_on, (200, 410, 503, 422))) == [
        ("accepted", "http_200"),
        ("token_dead", "http_410"),
        ("retry", "http_503"),
        ("refused", "http_422"),
    ]


@pytest.mark.parametrize(
    ("answer", "then", "reason"),
    [
        (b"", "close", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", "reset"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "close", "bad_http"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "close", "bad_http"),
        (b"", "hang", "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "hang", "timeout"),
        (b"HTTP/1.1 102 Processing\r\n\r\n", "hang", "timeout"),
    ],
)
async def test_no_whole_status_and_headers_is_a_retry(
    caller: Caller, answer: bytes, then: str, reason: str
) -> None:
    async with serving(saying(answer, then)) as server:
        timeout = 0.2 if then == "hang" else 15.0
        verdict = await verdict_of(caller, local(server, timeout=timeout))
        assert kind_and_reason(verdict) == ("retry", reason)
        await server.closed.wait()


async def test_a_port_where_nobody_listens_is_a_retry(caller: Caller) -> None:
    async with serving(saying(OK)) as server:
        gone = local(server)
    assert kind_and_reason(await verdict_of(caller, gone)) == ("retry", "connect")


async def test_a_backend_that_accepts_no_connection_in_time_is_a_retry(caller: Caller) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # never begins the TLS handshake

    async with serving(silent) as server:
        endpoint = an_endpoint(url=f"https://127.0.0.1:{server.port}/", connect_timeout=0.1)
        verdict = await verdict_of(caller, endpoint)
    assert kind_and_reason(verdict) == ("retry", "connect_timeout")


async def test_a_stale_kept_alive_connection_costs_one_retry_and_repeats_nothing(
    caller: Caller,
) -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await request_of(reader)
        requests += 1
        writer.write(OK)
        await request_of(reader)  # reads the second request, and hangs up on it
        requests += 1

    async with serving(serve) as server:
        verdicts = [kind_and_reason(await verdict_of(caller, local(server))) for _ in range(3)]
        assert verdicts == [("accepted", "http_200"), ("retry", "reset"), ("accepted", "http_200")]
        assert requests == 3
        assert server.connections == 2


async def test_a_compressed_answer_is_not_unpacked(caller: Caller) -> None:
    body = gzip.compress(orjson.dumps({"rejected": [TOKEN]}))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serving(saying(head.encode() + body)) as server:
        verdict = await verdict_of(caller, local(server))
    assert kind_and_reason(verdict) == ("accepted", "http_200")


async def test_a_cancelled_call_hangs_up(caller: Caller) -> None:
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        arrived.set()
        await reader.read()

    async with serving(serve) as server:
        call = asyncio.create_task(caller.call(local(server), a_claim(), 0.0))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.closed.wait()


async def test_one_tenant_s_hanging_backend_takes_no_connection_from_another(
    caller: Caller,
) -> None:
    arrived = asyncio.Semaphore(0)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        arrived.release()
        await reader.read()

    async with serving(hang) as slow, serving(saying(OK)) as quick:
        calls = [asyncio.create_task(verdict_of(caller, local(slow))) for _ in range(120)]
        for _ in calls:
            await arrived.acquire()
        assert (await verdict_of(caller, local(quick))).kind is VerdictKind.ACCEPTED
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


# TLS.


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def presenting(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_a_private_authority_is_trusted_through_ca_file_only(
    caller: Caller, authority: trustme.CA, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    async with serving(saying(OK), presenting(authority, "127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/ring"
        untrusted = await verdict_of(caller, an_endpoint(url=url))
        missing = await verdict_of(caller, an_endpoint(url=url, ca_file=str(ca_file)))
        ca_file.write_text("this is no certificate")
        garbage = await verdict_of(caller, an_endpoint(url=url, ca_file=str(ca_file)))
        authority.cert_pem.write_to_path(ca_file)
        trusted = await verdict_of(caller, an_endpoint(url=url, ca_file=str(ca_file)))
        ca_file.unlink()  # it was read once; taking it away is no outage
        remembered = await verdict_of(caller, an_endpoint(url=url, ca_file=str(ca_file)))
    assert kind_and_reason(untrusted) == ("misconfigured", "tls")
    assert kind_and_reason(missing) == ("misconfigured", "ca_file")
    assert kind_and_reason(garbage) == ("misconfigured", "ca_file")
    assert kind_and_reason(trusted) == ("accepted", "http_200")
    assert kind_and_reason(remembered) == ("accepted", "http_200")


async def test_a_certificate_for_another_name_is_misconfigured(
    caller: Caller, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(saying(OK), presenting(authority, "other.example")) as server:
        verdict = await verdict_of(
            caller,
            an_endpoint(
                url=f"https://127.0.0.1:{server.port}/ring", ca_file=str(tmp_path / "ca.pem")
            ),
        )
    assert kind_and_reason(verdict) == ("misconfigured", "tls")


async def test_a_connection_that_is_cut_within_the_handshake_is_a_retry(caller: Caller) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(serve) as server:
        endpoint = an_endpoint(url=f"https://127.0.0.1:{server.port}/ring")
        assert kind_and_reason(await verdict_of(caller, endpoint)) == ("retry", "connect")


async def test_https_to_a_plain_http_port_is_misconfigured(caller: Caller) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with serving(serve) as server:
        endpoint = an_endpoint(url=f"https://127.0.0.1:{server.port}/ring")
        assert kind_and_reason(await verdict_of(caller, endpoint)) == ("misconfigured", "tls")


@pytest.mark.parametrize(
    ("answer", "scheme", "reason"),
    [
        (None, "http", "connect"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "http", "http_200"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "https", "tls"),
    ],
)
async def test_a_call_that_failed_is_freed_at_once_and_waits_for_no_collector(
    caller: Caller, answer: bytes | None, scheme: str, reason: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer or b"")
        await writer.drain()

    async def fail(server: Server) -> None:
        endpoint = an_endpoint(url=f"{scheme}://127.0.0.1:{server.port}/ring")
        assert (await verdict_of(caller, endpoint)).reason == reason

    gc.collect()
    gc.disable()
    try:
        async with serving(serve) as server:
            if answer is not None:
                await fail(server)
        if answer is None:
            await fail(server)
        await asyncio.sleep(0)  # the connection has been told
        left = [thing for thing in gc.get_objects(0) if isinstance(thing, Claim | Signed)]
        assert left == []
    finally:
        gc.enable()


async def test_a_closed_caller_still_gives_a_verdict() -> None:
    caller = Caller()
    await caller.close()
    assert (await verdict_of(caller, an_endpoint())).kind is VerdictKind.RETRY


async def test_an_exchange_tells_what_was_sent_and_what_came() -> None:
    claim = a_claim()
    async with serving(saying(OK)) as server, Caller() as caller:
        it = await caller.exchange(local(server, signing_secrets=(SECRET,)), claim, time.time())
    assert it.sent is not None
    assert Webhook(SECRET).verify(it.sent.body, dict(it.sent.headers))
    assert isinstance(it.came, Answer)
    assert (it.came.status, it.came.body) == (200, b"{}")
    assert it.verdict.kind is VerdictKind.ACCEPTED
    assert TOKEN not in repr(it)


async def test_what_is_altered_after_signing_leaves_as_it_was_made() -> None:
    seen: list[bytes] = []
    async with serving(saying(OK, "go on", seen)) as server, Caller() as caller:
        await caller.exchange(
            local(server, signing_secrets=(SECRET,)),
            a_claim(),
            time.time(),
            alter=lambda signed: replace_fields(signed, body=b"spoiled"),
        )
    assert seen[0].endswith(b"\r\n\r\nspoiled")


def slowly(signed: Signed) -> Signed:
    length = {"Content-Length": str(len(signed.body))}
    return replace_fields(signed, headers={**signed.headers, **length}, pause=0.05)


async def test_a_pause_in_the_body_changes_when_it_arrives_and_nothing_else() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.extend((head, await reader.read(65_536), await reader.read(65_536)))
        writer.write(OK)
        await writer.drain()

    async with serving(serve) as server, Caller() as caller:
        it = await caller.exchange(local(server), a_claim(), time.time(), alter=slowly)
    assert it.verdict.kind is VerdictKind.ACCEPTED
    assert it.sent is not None
    head, first, second = seen
    assert f"Content-Length: {len(it.sent.body)}\r\n".encode() in head
    assert b"chunked" not in head
    assert first + second == it.sent.body
    assert second
