"""Every way of showing who we are, against real servers that look."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace as replace_fields
from standardwebhooks import Webhook, WebhookVerificationError

from push import caller as calling
from push.caller import ANSWER_BYTES, Caller
from push.credentials import ClientCertificate, Credentials, OAuth
from push.guard import LOOPBACK
from push.ring import Endpoint, Verdict
from tests.push.scripted import OLD_SECRET, SECRET, a_claim, a_ring, an_endpoint
from tests.push.served import request_of, saying, serving

NOW = 1795507200.0


@dataclass
class Company:
    """A customer backend and its token endpoint: a good token is one that it gave last."""

    port: int = 0
    token: str | None = None
    given: int = 0
    forms: list[dict[str, list[str]]] = field(default_factory=list)
    basics: list[str | None] = field(default_factory=list)
    calls: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    token_answers: list[web.Response | str] = field(default_factory=list)
    refuses_all: int | None = None
    at_once: int = 0
    most_at_once: int = 0

    @property
    def oauth(self) -> OAuth:
        return OAuth(
            token_url=f"http://127.0.0.1:{self.port}/token",
            client_id="ringback",
            client_secret="hush",
            allow_networks=LOOPBACK,
        )

    def endpoint(self, **changes: Any) -> Endpoint:
        url = f"http://127.0.0.1:{self.port}/ring"
        credentials = Credentials(oauth=self.oauth)
        return an_endpoint(
            **({"url": url, "allow_networks": LOOPBACK, "credentials": credentials} | changes)
        )

    async def give(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.forms.append(parse_qs(await request.text()))
        self.basics.append(request.headers.get("Authorization"))
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.token_answers.pop(0) if self.token_answers else None
        if answer == "hang up":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, web.Response):
            return answer
        self.given += 1
        self.token = f"t{self.given}"
        return web.json_response({"access_token": self.token, "token_type": "Bearer"})

    async def ring(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(request)
        self.bodies.append(await request.read())
        if self.refuses_all is not None:
            return web.Response(status=self.refuses_all)
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        return web.Response(status=200 if known else 401)

    @property
    def shown(self) -> list[str | None]:
        return [call.headers.get("Authorization") for call in self.calls]


@asynccontextmanager
async def company() -> AsyncIterator[Company]:
    it = Company()
    app = web.Application()
    app.router.add_post("/token", it.give)
    app.router.add_post("/ring", it.ring)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    it.port = runner.addresses[0][1]
    try:
        yield it
    finally:
        await runner.cleanup()


async def verdict_of(caller: Caller, endpoint: Endpoint) -> Verdict:
    verdict, _ = await caller.call(endpoint, a_claim(), NOW)
    return verdict


async def headers_seen(caller: Caller, **changes: Any) -> dict[str, str]:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request_of(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serving(serve) as server:
        url = f"http://127.0.0.1:{server.port}/ring"
        endpoint = an_endpoint(url=url, allow_networks=LOOPBACK, **changes)
        assert (await verdict_of(caller, endpoint)).kind == "accepted"
    lines = seen[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


# What a request shows.


async def test_bearer_static_headers_and_signature_go_together(caller: Caller) -> None:
    credentials = Credentials(headers=(("X-Api-Key", "k"), ("X-Team", "blue")), bearer="t0ken")
    headers = await headers_seen(caller, credentials=credentials, signing_secrets=(SECRET,))
    assert headers["Authorization"] == "Bearer t0ken"
    assert (headers["X-Api-Key"], headers["X-Team"]) == ("k", "blue")
    assert headers["webhook-signature"].startswith("v1,")


async def test_basic_is_a_user_and_a_password(caller: Caller) -> None:
    headers = await headers_seen(caller, credentials=Credentials(basic=("ringback", "pass")))
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"ringback:pass"


async def test_an_independent_library_verifies_either_signature_and_notices_tampering(
    caller: Caller,
) -> None:
    claim = a_claim(ring=a_ring())
    endpoint = an_endpoint(signing_secrets=(SECRET, OLD_SECRET), url="http://127.0.0.1:9/")
    sent = (await caller.exchange(endpoint, claim, time.time())).sent
    assert sent is not None
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(sent.body, dict(sent.headers))["authToken"] == "auth-token"
    other = dict(sent.headers) | {"webhook-id": "r_02"}
    for body, headers in ((sent.body + b" ", dict(sent.headers)), (sent.body, other)):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, headers)


# OAuth2.


async def test_a_token_is_fetched_once_and_shown_by_every_call(caller: Caller) -> None:
    async with company() as it:
        for _ in range(3):
            assert (await verdict_of(caller, it.endpoint())).kind == "accepted"
    assert it.shown == ["Bearer t1"] * 3
    assert it.forms == [{"grant_type": ["client_credentials"]}]
    assert it.basics == ["Basic " + base64.b64encode(b"ringback:hush").decode()]


async def test_a_token_that_was_revoked_is_renewed_once_and_the_same_ring_goes_out_again(
    caller: Caller,
) -> None:
    async with company() as it:
        await verdict_of(caller, it.endpoint())
        it.token = "revoked"
        assert (await verdict_of(caller, it.endpoint())).kind == "accepted"
    assert it.shown == ["Bearer t1", "Bearer t1", "Bearer t2"]
    ids = [call.headers["webhook-id"] for call in it.calls]
    assert (ids[1], it.bodies[1]) == (ids[2], it.bodies[2])


async def test_a_claim_that_no_longer_stands_when_its_token_is_renewed_is_not_called_again(
    caller: Caller,
) -> None:
    async with company() as it:
        await verdict_of(caller, it.endpoint())
        it.token = "revoked"
        claim = replace_fields(a_claim(), stands=lambda: len(it.calls) < 2)
        verdict, _ = await caller.call(it.endpoint(), claim, NOW)
        assert (verdict.kind, verdict.reason, verdict.status) == ("retry", "moved", None)
        assert (it.given, it.shown) == (2, ["Bearer t1", "Bearer t1"])
        assert (await verdict_of(caller, it.endpoint())).kind == "accepted"


async def test_a_claim_that_does_not_stand_costs_nobody_else_a_token(caller: Caller) -> None:
    async with company() as it:
        claim = replace_fields(a_claim(), stands=lambda: False)
        verdict, _ = await caller.call(it.endpoint(), claim, NOW)
        assert (verdict.reason, it.given, it.shown) == ("moved", 1, [])
        assert (await verdict_of(caller, it.endpoint())).kind == "accepted"
        assert it.given == 1


async def test_a_hundred_calls_with_a_revoked_token_cost_one_renewal(caller: Caller) -> None:
    async with company() as it:
        await verdict_of(caller, it.endpoint())
        it.token = "revoked"
        calls = [caller.call(it.endpoint(), a_claim(device), NOW) for device in range(100)]
        assert {verdict.kind for verdict, _ in await asyncio.gather(*calls)} == {"accepted"}
    assert (it.given, it.most_at_once) == (2, 1)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_again_after_one_renewal_is_misconfigured(
    caller: Caller, status: int
) -> None:
    async with company() as it:
        it.refuses_all = status
        verdict = await verdict_of(caller, it.endpoint())
        assert (verdict.kind, verdict.reason) == ("misconfigured", f"http_{status}")
        assert it.shown == ["Bearer t1", "Bearer t2"]
        await verdict_of(caller, it.endpoint())
    assert it.given == 2
    assert it.shown[2:] == ["Bearer t2"]


async def test_403_is_no_reason_to_renew_where_it_speaks_of_the_token_of_the_device(
    caller: Caller,
) -> None:
    async with company() as it:
        it.refuses_all = 403
        endpoint = it.endpoint(adapter="liveperson", options='{"brand_id": "1"}')
        assert (await verdict_of(caller, endpoint)).kind == "token_dead"
    assert it.given == 1


def answering(status: int, body: bytes = b"") -> web.Response:
    return web.Response(status=status, body=body)


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (answering(503), "retry", "token_unavailable"),
        (answering(429), "retry", "token_unavailable"),
        ("hang up", "retry", "token_unavailable"),
        (answering(200, b"x" * (ANSWER_BYTES + 1)), "retry", "token_unavailable"),
        (answering(401, b'{"error": "invalid_client"}'), "misconfigured", "token_refused"),
        (answering(404), "misconfigured", "token_refused"),
        (web.Response(status=302, headers={"Location": "/ring"}), "misconfigured", "token_refused"),
        (answering(200, b"<html>"), "misconfigured", "token_unreadable"),
        (answering(200, b"{}"), "misconfigured", "token_unreadable"),
    ],
)
async def test_without_a_token_the_backend_is_not_called_and_the_verdict_says_why(
    caller: Caller, answer: web.Response | str, kind: str, reason: str
) -> None:
    async with company() as it:
        it.token_answers.append(answer)
        verdict = await verdict_of(caller, it.endpoint())
        assert (verdict.kind, verdict.reason, verdict.status) == (kind, reason, None)
        assert it.calls == []
        assert (await verdict_of(caller, it.endpoint())).kind == "accepted"


async def test_a_renewal_that_fails_is_the_verdict_of_the_call(caller: Caller) -> None:
    async with company() as it:
        await verdict_of(caller, it.endpoint())
        it.token = "revoked"
        it.token_answers.append(answering(503))
        verdict = await verdict_of(caller, it.endpoint())
    assert (verdict.kind, verdict.reason) == ("retry", "token_unavailable")


async def test_a_token_endpoint_that_is_silent_does_not_hold_a_call_up(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "TOKEN_TIMEOUT", 0.05)
    async with company() as it, serving(saying(b"", then="hang")) as silent:
        oauth = replace(it.oauth, token_url=f"http://127.0.0.1:{silent.port}/token")
        endpoint = it.endpoint(credentials=Credentials(oauth=oauth))
        verdict = await verdict_of(caller, endpoint)
        assert (verdict.kind, verdict.reason) == ("retry", "token_unavailable")
        short = replace(endpoint, timeout=0.01)
        assert (await verdict_of(caller, short)).reason == "token_unavailable"


async def test_a_token_endpoint_inside_our_network_is_not_called(caller: Caller) -> None:
    async with company() as it:
        oauth = replace(it.oauth, allow_networks=frozenset())
        verdict = await verdict_of(caller, it.endpoint(credentials=Credentials(oauth=oauth)))
    assert (verdict.kind, verdict.reason, it.forms) == ("misconfigured", "forbidden_address", [])


async def test_a_token_endpoint_that_is_not_trusted_or_no_address_is_a_setting_of_ours(
    caller: Caller, tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with company() as it, serving(saying(b""), tls) as stranger:
        settings: list[tuple[dict[str, Any], str]] = [
            ({"token_url": f"https://127.0.0.1:{stranger.port}/token"}, "token_tls"),
            ({"ca_file": str(tmp_path / "none.pem")}, "token_tls"),
            ({"token_url": "ftp://127.0.0.1/"}, "token_refused"),
        ]
        for changes, reason in settings:
            credentials = Credentials(oauth=replace(it.oauth, **changes))
            verdict = await verdict_of(caller, it.endpoint(credentials=credentials))
            assert (verdict.kind, verdict.reason) == ("misconfigured", reason)


# Mutual TLS.


@dataclass
class Authority:
    """A private authority, a server of its own that asks for certificates, and a client's files."""

    directory: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def file(self, name: str, *blobs: trustme.Blob) -> str:
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    def client(self, name: str = "client") -> ClientCertificate:
        made = self.ca.issue_cert("ringback.acme.example")
        return ClientCertificate(
            certificate=self.file(f"{name}.pem", *made.cert_chain_pems),
            key=self.file(f"{name}.key", made.private_key_pem),
        )


async def test_a_client_certificate_opens_a_backend_that_asks_for_one(
    caller: Caller, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(ok), authority.server()) as server:
        endpoint = an_endpoint(
            url=f"https://127.0.0.1:{server.port}/ring",
            allow_networks=LOOPBACK,
            ca_file=authority.file("ca.pem", authority.ca.cert_pem),
        )
        shown = replace(endpoint, credentials=Credentials(certificate=authority.client()))
        assert (await verdict_of(caller, shown)).kind == "accepted"
        nothing_shown = await verdict_of(caller, endpoint)
        assert nothing_shown.kind != "accepted"
        stranger = Authority(tmp_path).client("stranger")
        refused = replace(endpoint, credentials=Credentials(certificate=stranger))
        assert (await verdict_of(caller, refused)).kind != "accepted"


async def test_a_certificate_that_cannot_be_used_is_a_setting_of_ours(
    caller: Caller, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    mixed = ClientCertificate(
        certificate=authority.client("a").certificate, key=authority.client("b").key
    )
    gone = ClientCertificate(certificate=str(tmp_path / "none.pem"))
    for certificate in (mixed, gone):
        endpoint = an_endpoint(credentials=Credentials(certificate=certificate))
        verdict = await verdict_of(caller, endpoint)
        assert (verdict.kind, verdict.reason) == ("misconfigured", "client_certificate")


async def test_a_certificate_that_was_renewed_on_disk_is_taken_up_when_told(
    caller: Caller, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    serials: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            serials.append(writer.get_extra_info("peercert")["serialNumber"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    async with serving(serve, authority.server()) as server:
        endpoint = an_endpoint(
            url=f"https://127.0.0.1:{server.port}/ring",
            allow_networks=LOOPBACK,
            ca_file=authority.file("ca.pem", authority.ca.cert_pem),
            credentials=Credentials(certificate=authority.client()),
        )
        await verdict_of(caller, endpoint)
        authority.client()  # the same files, another certificate
        await verdict_of(caller, endpoint)
        caller.read_files_anew()
        await verdict_of(caller, endpoint)
    assert serials[0] == serials[1] != serials[2]
