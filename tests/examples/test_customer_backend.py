"""The reference customer backend: what reaches FCM, APNs and browsers, and what is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace as replace_fields

from examples.customer_backend import tokens
from examples.customer_backend.apns import Apns, Key
from examples.customer_backend.app import CustomerBackend
from examples.customer_backend.fcm import Fcm
from examples.customer_backend.memory import Memory
from examples.customer_backend.sending import Sender
from examples.customer_backend.webpush import WebPush
from gateway.kit.bench import Bench, Result
from gateway.kit.conformance import CHECKS, run
from push.caller import Caller, Exchange
from push.ring import Endpoint, RingKind, Target, VerdictKind
from push.verdicts import Answer
from tests.examples import vendors
from tests.examples.vendors import Browser, Vendor
from tests.push.scripted import OLD_SECRET, SECRET, a_claim, a_ring, an_endpoint
from tests.running import PATIENCE

ANDROID = tokens.write(platform="android", token="fcm-token:APA91_x-y")
IOS = tokens.write(platform="ios", token="0a1b" * 16)
SANDBOX = tokens.write(platform="ios", token="0a1b" * 16, sandbox=True)
GONE = tokens.write(platform="android", token=vendors.GONE)
GONE_IOS = tokens.write(platform="ios", token=vendors.GONE_IOS)


@dataclass
class World:
    """The backend, everything that it talks to, and Ringback's caller before it."""

    endpoint: Endpoint
    caller: Caller
    fcm: Vendor
    apns: Vendor
    push_service: Vendor
    browser: Browser

    async def ring(
        self, token: str = ANDROID, kind: RingKind = RingKind.MESSAGE, **changes: Any
    ) -> Exchange:
        values = {"id": f"r_{time.monotonic_ns()}", "expires_at": time.time() + 600} | changes
        claim = a_claim(ring=a_ring(kind, **values))
        claim = replace_fields(claim, target=Target(token, ""))
        return await self.caller.exchange(self.endpoint, claim, time.time())


@asynccontextmanager
async def world(
    directory: Path,
    *,
    away: bool = False,
    without: type | None = None,
    apns_patience: float = PATIENCE,
) -> AsyncIterator[World]:
    """Everything runs. Entered again with the same directory, the backend was restarted.

    With `away` no vendor can be reached; `without` one way is not set up.
    """
    authority = trustme.CA()
    async with AsyncExitStack() as stack:
        fcm = await stack.enter_async_context(vendors.fcm())
        apns = await stack.enter_async_context(vendors.apns(authority))
        service, browser = await stack.enter_async_context(vendors.push_service(authority))
        tls = vendors.client_tls(authority)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls))
        )
        account = vendors.service_account(directory, f"{fcm.url}/token")
        key = Key(vendors.apns_key(directory), "K1", "TEAM", "example.acme.app")
        browsers = WebPush(http, directory / "vapid.pem", "mailto:a@acme.example", ("localhost",))
        port = int(apns.url.rpartition(":")[2])
        server = ("localhost", 9 if away else port)
        phones = Apns(key, server=server, tls=tls, patience=apns_patience)
        stack.callback(phones.close)
        senders: dict[type, Sender] = {
            tokens.Android: Fcm(http, account, "http://127.0.0.1:9" if away else fcm.url),
            tokens.Ios: phones,
            tokens.Web: browsers,
        }
        memory = Memory(directory / "backend.db")
        stack.callback(memory.close)
        it = CustomerBackend(
            "auth-token",
            [OLD_SECRET, SECRET],
            memory,
            {kind: sender for kind, sender in senders.items() if kind is not without},
            browsers.public_key,
        )
        runner = web.AppRunner(it.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/ring"
        endpoint = an_endpoint(url=url, signing_secrets=(SECRET,), timeout=PATIENCE)
        caller = await stack.enter_async_context(Caller())
        yield World(endpoint, caller, fcm, apns, service, browser)


# What reaches the phone


async def test_a_message_reaches_android_by_fcm(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        assert (await at.ring(id="r_01")).verdict.kind is VerdictKind.ACCEPTED
        (sent,) = at.fcm.sent
        assert sent.headers["authorization"] == "Bearer access-1"
        assert sent.to == "fcm-token:APA91_x-y"
        assert sent.body["notification"] == {
            "title": "New Message",
            "body": "Hello, how can we help?",
        }
        assert sent.body["android"]["notification"]["notification_count"] == 3
        assert sent.body["android"]["notification"]["tag"] == "r_01"
        assert 0 < int(sent.body["android"]["ttl"].removesuffix("s")) <= 600
        assert json.loads(sent.body["data"]["ringback"])["id"] == "r_01"
        assert all(isinstance(value, str) for value in sent.body["data"].values())
        await at.ring(id="r_02")
        assert at.fcm.sent[1].headers["authorization"] == "Bearer access-1", "it is kept"


async def test_a_message_reaches_ios_by_apns(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        assert (await at.ring(IOS, id="r_01", text="Grüße 👋")).verdict.status == 200
        (sent,) = at.apns.sent
        assert sent.to == "0a1b" * 16
        assert sent.headers["apns-topic"] == "example.acme.app"
        assert sent.headers["apns-push-type"] == "alert"
        assert sent.headers["apns-collapse-id"] == "r_01"
        assert sent.headers["apns-priority"] == "10"
        assert sent.body["aps"]["alert"]["body"] == "Grüße 👋"
        assert sent.body["ringback"]["id"] == "r_01"


async def test_a_badge_is_silent_on_ios_and_android_and_nothing_in_a_browser(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as at:
        for token in (IOS, ANDROID, at.browser.token):
            assert (await at.ring(token, RingKind.BADGE)).verdict.kind is VerdictKind.ACCEPTED
        assert at.apns.sent[0].headers["apns-push-type"] == "background"
        assert at.apns.sent[0].headers["apns-priority"] == "5"
        assert at.apns.sent[0].body["aps"] == {"badge": 0, "content-available": 1}
        assert "notification" not in at.fcm.sent[0].body
        assert at.push_service.sent == []


async def test_a_message_reaches_a_browser_that_alone_can_read_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        assert (await at.ring(at.browser.token, id="r_01")).verdict.status == 200
        (sent,) = at.push_service.sent
        assert sent.body["aps"]["alert"]["body"] == "Hello, how can we help?"
        assert sent.headers["content-encoding"] == "aes128gcm"
        assert 0 < int(sent.headers["ttl"]) <= 600
        claims = sent.headers["authorization"].partition("t=")[2].partition(",")[0]
        told = jwt.decode(claims, options={"verify_signature": False})
        assert told["aud"] == at.push_service.url
        assert told["sub"] == "mailto:a@acme.example"


async def test_no_push_service_is_asked_to_keep_a_ring_longer_than_it_may(tmp_path: Path) -> None:
    """FCM refuses a `ttl` of more than 28 days."""
    async with world(tmp_path) as at:
        for token in (ANDROID, at.browser.token):
            await at.ring(token, expires_at=time.time() + 366 * 86_400)
        asked = at.fcm.sent[0].body["android"]["ttl"], at.push_service.sent[0].headers["ttl"]
        assert asked == ("2419200s", "2419200")


async def test_the_vapid_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at, aiohttp.ClientSession() as http:
        page = at.endpoint.url.removesuffix("ring")
        async with http.get(f"{page}vapid-key") as answer:
            first = await answer.text()
        async with http.get(page) as answer:
            assert "Ring this browser" in await answer.text()
    assert (tmp_path / "vapid.pem").stat().st_mode & 0o777 == 0o600
    async with (
        world(tmp_path) as at,
        aiohttp.ClientSession() as http,
        http.get(at.endpoint.url.replace("/ring", "/vapid-key")) as answer,
    ):
        assert await answer.text() == first
    assert len(first) == 87, "65 bytes, base64url"


# Once


async def test_the_same_ring_twice_is_sent_once_even_after_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        for _ in range(2):
            assert (await at.ring(id="r_01")).verdict.kind is VerdictKind.ACCEPTED
        assert len(at.fcm.sent) == 1
    async with world(tmp_path) as at:
        assert (await at.ring(id="r_01")).verdict.kind is VerdictKind.ACCEPTED
        assert at.fcm.sent == []


async def test_the_same_ring_twice_at_a_time_is_sent_once(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.fcm.may_answer.clear()
        calls = [asyncio.create_task(at.ring(id="r_01")) for _ in range(3)]
        await at.fcm.reached.wait()
        at.fcm.may_answer.set()
        kinds = {call.verdict.kind for call in await asyncio.gather(*calls)}
        assert kinds == {VerdictKind.ACCEPTED}
        assert len(at.fcm.sent) == 1


async def test_who_hangs_up_and_asks_again_gets_what_became_of_the_first(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.fcm.may_answer.clear()
        hasty = replace(at, endpoint=replace(at.endpoint, timeout=0.2))
        assert (await hasty.ring(id="r_01")).verdict.reason == "timeout"
        again = asyncio.create_task(at.ring(id="r_01"))
        at.fcm.may_answer.set()
        assert (await again).verdict.kind is VerdictKind.ACCEPTED
        assert len(at.fcm.sent) == 1


async def test_what_could_not_be_sent_is_sent_when_asked_again(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.fcm.answer(503, None, **{"Retry-After": "7"})
        first = (await at.ring(id="r_01")).verdict
        assert (first.kind, first.retry_after) == (VerdictKind.RETRY, 7.0)
        assert (await at.ring(id="r_01")).verdict.kind is VerdictKind.ACCEPTED
        assert len(at.fcm.sent) == 2


async def test_a_late_badge_is_dropped_and_a_late_message_loses_its_number(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as at:
        await at.ring(IOS, badge_seq=20)
        await at.ring(IOS, RingKind.BADGE, badge_seq=19)
        await at.ring(IOS, badge_seq=19)
        await at.ring(IOS, RingKind.BADGE, badge_seq=1, customer="somebody-else")
        badges = [sent.body["aps"].get("badge") for sent in at.apns.sent]
        assert badges == [3, None, 0]


async def test_what_has_expired_rings_nobody(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        late = await at.ring(expires_at=time.time() - 1)
        assert late.verdict.kind is VerdictKind.ACCEPTED
        assert at.fcm.sent == []


# What the vendors say


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (404, vendors.fcm_error(404, "UNREGISTERED"), VerdictKind.TOKEN_DEAD),
        (
            400,
            vendors.fcm_error(400, "INVALID_ARGUMENT", "The registration token is not valid"),
            VerdictKind.TOKEN_DEAD,
        ),
        (400, vendors.fcm_error(400, "INVALID_ARGUMENT", "bad ttl"), VerdictKind.REFUSED),
        (403, vendors.fcm_error(403, "SENDER_ID_MISMATCH"), VerdictKind.RETRY),
        (404, "no such project", VerdictKind.RETRY),
        (429, vendors.fcm_error(429, "QUOTA_EXCEEDED"), VerdictKind.RETRY),
        (500, vendors.fcm_error(500, "INTERNAL"), VerdictKind.RETRY),
    ],
)
async def test_each_answer_of_fcm_becomes_the_right_verdict(
    tmp_path: Path, status: int, told: Any, kind: VerdictKind
) -> None:
    async with world(tmp_path) as at:
        at.fcm.answer(status, told)
        assert (await at.ring()).verdict.kind is kind


async def test_an_access_token_that_was_revoked_is_renewed_once(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.fcm.answer(401, vendors.fcm_error(401, "THIRD_PARTY_AUTH_ERROR"))
        assert (await at.ring()).verdict.kind is VerdictKind.ACCEPTED
        assert at.fcm.sent[1].headers["authorization"] == "Bearer access-2"


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (410, "Unregistered", VerdictKind.TOKEN_DEAD),
        (410, "ExpiredToken", VerdictKind.TOKEN_DEAD),
        (400, "BadDeviceToken", VerdictKind.TOKEN_DEAD),
        (400, "DeviceTokenNotForTopic", VerdictKind.RETRY),
        (403, "ExpiredProviderToken", VerdictKind.RETRY),
        (413, "PayloadTooLarge", VerdictKind.REFUSED),
        (429, "TooManyRequests", VerdictKind.RETRY),
        (503, "ServiceUnavailable", VerdictKind.RETRY),
    ],
)
async def test_each_answer_of_apns_becomes_the_right_verdict(
    tmp_path: Path, status: int, reason: str, kind: VerdictKind
) -> None:
    async with world(tmp_path) as at:
        at.apns.answer(status, {"reason": reason})
        assert (await at.ring(IOS)).verdict.kind is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, VerdictKind.TOKEN_DEAD),
        (410, VerdictKind.TOKEN_DEAD),
        (403, VerdictKind.RETRY),
        (413, VerdictKind.REFUSED),
        (429, VerdictKind.RETRY),
        (500, VerdictKind.RETRY),
    ],
)
async def test_each_answer_of_a_push_service_becomes_the_right_verdict(
    tmp_path: Path, status: int, kind: VerdictKind
) -> None:
    async with world(tmp_path) as at:
        at.push_service.answer(status, None, **{"Retry-After": "9"})
        verdict = (await at.ring(at.browser.token)).verdict
        assert verdict.kind is kind
        assert verdict.retry_after == (9.0 if kind is VerdictKind.RETRY else None)


async def test_a_dead_token_is_named_in_the_answer_also_the_second_time(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        for _ in range(2):
            told = await at.ring(GONE_IOS, id="r_01")
            assert told.verdict.kind is VerdictKind.TOKEN_DEAD
            assert isinstance(told.came, Answer)
            assert json.loads(told.came.body or b"") == {"rejected": [GONE_IOS]}
        assert len(at.apns.sent) == 1


async def test_vendors_that_cannot_be_reached_are_asked_later(tmp_path: Path) -> None:
    async with world(tmp_path, away=True) as at:
        for token in (ANDROID, IOS, Browser("https://localhost:9/push").token):
            assert (await at.ring(token)).verdict.reason == "http_503"


async def test_an_answer_of_apple_that_comes_too_late_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, apns_patience=0.2) as at:
        await at.ring(IOS)  # there is a connection now
        at.apns.may_answer.clear()
        assert (await at.ring(IOS, id="r_01")).verdict.kind is VerdictKind.RETRY
        at.apns.may_answer.set()
        await at.apns.answered_late.wait()
        assert (await at.ring(IOS, id="r_01")).verdict.kind is VerdictKind.ACCEPTED
        collapsed = [sent.headers["apns-collapse-id"] for sent in at.apns.sent[1:]]
        assert collapsed == ["r_01", "r_01"], "the phone shows the second in place of the first"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_way_that_is_not_set_up_is_no_fault_of_the_token(tmp_path: Path) -> None:
    async with world(tmp_path, without=tokens.Ios) as at:
        assert (await at.ring(IOS)).verdict.kind is VerdictKind.RETRY


# Tokens


@pytest.mark.parametrize(
    "token",
    [
        "not base64!",
        "bm90IGpzb24",
        tokens.write(platform="windows", token="x"),
        tokens.write(platform="ios", token="../../3/device/other"),
        tokens.write(platform="android", token=7),
        tokens.write(platform="web", subscription={"endpoint": "https://localhost/"}),
        "W1tb" * 2000,
    ],
)
async def test_a_token_that_no_app_of_ours_made_is_dead(tmp_path: Path, token: str) -> None:
    async with world(tmp_path) as at:
        assert (await at.ring(token)).verdict.kind is VerdictKind.TOKEN_DEAD
        assert at.fcm.sent == at.apns.sent == at.push_service.sent == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://localhost/push",
        "https://169.254.169.254/latest",
        "https://localhost.evil.example/push",
        "https://evil.example/localhost",
        "https://[",
        "file:///etc/passwd",
    ],
)
async def test_a_subscription_may_not_name_any_server_but_a_push_service(
    tmp_path: Path, endpoint: str
) -> None:
    async with world(tmp_path) as at:
        token = Browser(endpoint).token
        assert (await at.ring(token)).verdict.kind is VerdictKind.TOKEN_DEAD


async def test_keys_that_are_none_are_dead(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        keys = {"p256dh": "AAAA", "auth": "AAAA"}
        subscription = {"endpoint": at.browser.endpoint, "keys": keys}
        token = tokens.write(platform="web", subscription=subscription)
        assert (await at.ring(token)).verdict.kind is VerdictKind.TOKEN_DEAD


# The contract


@pytest.mark.parametrize(("good", "dead"), [(ANDROID, GONE), (IOS, GONE_IOS)])
async def test_it_passes_every_conformance_check(tmp_path: Path, good: str, dead: str) -> None:
    async with world(tmp_path) as at:
        found = await run(Bench(at.endpoint, at.caller, good, dead))
        results = {check.name: finding.result for check, finding in found}
        assert results == {check.name: Result.PASS for check in CHECKS}
