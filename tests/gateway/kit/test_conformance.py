"""`ringback push conform`: a right backend passes, and each broken one fails for its reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.kit import report
from gateway.kit.backend import Answered, FakeBackend
from gateway.kit.behaviours import HELP
from gateway.kit.bench import Bench, Finding, Result
from gateway.kit.conformance import CHECKS, run
from gateway.kit.probe import RANG
from push.caller import Caller
from push.credentials import Credentials
from tests.push.scripted import SECRET, an_endpoint

CONTRACT = Path(__file__).parents[3] / "docs" / "push-contract.md"
DEAD = "the-token-of-an-app-that-is-gone"
GOOD = "the-token-of-a-test-device"

Spoil = Middleware


class Unseen:
    """A screen that nobody looks at."""

    def arrived(self, call: Any, double: bool) -> None: ...

    def answered(self, call: Any, double: bool, answered: Answered, *_: Any) -> None: ...


@asynccontextmanager
async def serving(spoil: Spoil | None = None, **settings: Any) -> AsyncIterator[str]:
    """A right backend, spoiled on the way in or out."""
    it = FakeBackend(Unseen(), **({"auth_token": "auth-token", "secrets": (SECRET,)} | settings))
    it.behave(f"dead {DEAD}")
    app = it.application()
    if spoil is not None:
        app.middlewares.append(web.middleware(spoil))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/ring"
    await runner.cleanup()


async def conform(
    spoil: Spoil | None = None,
    token: str | None = GOOD,
    dead_token: str | None = DEAD,
    endpoint: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[dict[str, Finding], str, bool]:
    """The findings by the checks' names, the report for machines, and the verdict."""
    async with serving(spoil, **settings) as url, Caller() as caller:
        values = {"url": url, "signing_secrets": (SECRET,), "timeout": 5.0} | (endpoint or {})
        bench = Bench(an_endpoint(**values), caller, token, dead_token)
        found = await run(bench)
        told = json.dumps(report.as_json(found, bench))
        return {check.name: it for check, it in found}, told, report.conforms(found)


def with_result(found: dict[str, Finding], result: Result) -> set[str]:
    return {name for name, finding in found.items() if finding.result is result}


async def body_of(request: web.Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(await request.read())
    return body


async def test_a_right_backend_passes_every_check() -> None:
    found, told, conforms = await conform()
    assert with_result(found, Result.PASS) == {check.name for check in CHECKS}
    assert conforms
    assert not any(secret in told for secret in (GOOD, DEAD, SECRET, "auth-token"))


def test_every_check_points_at_a_heading_of_the_contract() -> None:
    headings = re.findall(r"^#+ (.+)$", CONTRACT.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert {check.anchor for check in CHECKS} <= anchors
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_the_guide_shows_the_report_and_the_behaviours_as_they_are() -> None:
    guide = CONTRACT.with_name("connect-your-backend.md").read_text()
    assert [check.name for check in CHECKS if f" {check.name} " not in guide] == []
    assert [check.name for check in CHECKS if f"  {check.title}  " not in guide] == []
    assert f"{len(CHECKS)} pass: the backend conforms" in guide
    assert HELP in guide


# Backends that are broken in one way


async def refuses_proactive(request: web.Request, handler: Handler) -> web.StreamResponse:
    kind = (await body_of(request))["payload"]["ringback"]["kind"]
    return web.Response(status=422) if kind == "proactive" else await handler(request)


async def refuses_badges(request: web.Request, handler: Handler) -> web.StreamResponse:
    kind = (await body_of(request))["payload"]["ringback"]["kind"]
    return web.Response(status=400) if kind == "badge" else await handler(request)


async def breaks_without_text(request: web.Request, handler: Handler) -> web.StreamResponse:
    body = await body_of(request)
    silent = body["payload"]["ringback"]["kind"] == "badge"
    fine = silent or "alert" in body["payload"]["aps"]
    return await handler(request) if fine else web.Response(status=500)


async def knows_only_ascii(request: web.Request, handler: Handler) -> web.StreamResponse:
    fine = (await request.read()).isascii()
    return await handler(request) if fine else web.Response(status=500)


async def takes_4_kb_in_all(request: web.Request, handler: Handler) -> web.StreamResponse:
    fine = len(await request.read()) < 4096
    return await handler(request) if fine else web.Response(status=413)


async def knows_every_field(request: web.Request, handler: Handler) -> web.StreamResponse:
    known = {"authToken", "deviceToken", "payload", "notification"}
    fine = (await body_of(request)).keys() <= known
    return await handler(request) if fine else web.Response(status=422)


async def reads_one_packet(request: web.Request, handler: Handler) -> web.StreamResponse:
    request._read_bytes = await request.content.readany()
    return await handler(request)


async def lets_the_unsigned_in(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request) if "webhook-signature" in request.headers else web.Response()


async def verifies_what_it_parsed(request: web.Request, handler: Handler) -> web.StreamResponse:
    request._read_bytes = (await request.read()).strip()
    return await handler(request)


async def reads_the_first_signature(request: web.Request, handler: Handler) -> web.StreamResponse:
    headers = request.headers.copy()
    headers["webhook-signature"] = headers.get("webhook-signature", "").partition(" ")[0]
    other = request.clone(headers=headers)
    other._match_info = request.match_info
    return await handler(other)


def rings_every_time() -> Spoil:
    rung: Counter[str] = Counter()

    async def spoil(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if response.status == 200 and response.headers[RANG] == "1":
            rung[request.headers["webhook-id"]] += 1
            response.headers[RANG] = str(rung[request.headers["webhook-id"]])
        return response

    return spoil


def says_conflict_to_a_double() -> Spoil:
    seen: set[str] = set()

    async def spoil(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        id = request.headers["webhook-id"]
        if response.status == 200 and id in seen:
            return web.Response(status=409)
        seen.add(id)
        return response

    return spoil


async def sends_late_badges_on(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if response.status == 200:
        response.headers[RANG] = "1"
    return response


async def drops_all_that_is_late(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if (await body_of(request))["payload"]["badgeSeq"] == 15:
        response.headers[RANG] = "0"
    return response


async def refuses_dead_tokens(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    return web.Response(status=400) if response.status == 410 else response


async def takes_dead_tokens(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    return web.Response() if response.status == 410 else response


@pytest.mark.parametrize(
    ("spoil", "failing", "said"),
    [
        (refuses_proactive, {"proactive"}, "422: refused"),
        (refuses_badges, {"badge", "late_badge"}, "400: refused"),
        (breaks_without_text, {"no_text"}, "500: retry"),
        (knows_only_ascii, {"unicode", "large"}, "500: retry"),
        (takes_4_kb_in_all, {"large"}, "413: refused"),
        (knows_every_field, {"unknown_fields"}, "422: refused"),
        (reads_one_packet, {"slow"}, "401: misconfigured"),
        (lets_the_unsigned_in, {"signature_missing"}, "anybody on the network"),
        (verifies_what_it_parsed, {"body_changed"}, "anybody on the network"),
        (reads_the_first_signature, {"rotation"}, "401: misconfigured"),
        (rings_every_time(), {"double", "double_at_once"}, "it rang 2 times"),
        (says_conflict_to_a_double(), {"double", "double_at_once"}, "409: refused"),
        (sends_late_badges_on, {"late_badge"}, "the icon now lies"),
        (drops_all_that_is_late, {"late_message"}, "only its number is late"),
        (refuses_dead_tokens, {"dead_token"}, "say 410"),
        (takes_dead_tokens, {"dead_token"}, "called for ever"),
    ],
    ids=lambda it: getattr(it, "__qualname__", "").partition(".")[0] or None,
)
async def test_a_backend_that_is_broken_in_one_way_fails_for_that_reason(
    spoil: Spoil, failing: set[str], said: str
) -> None:
    found, told, conforms = await conform(spoil)
    assert with_result(found, Result.FAIL) == failing
    assert all(said in found[name].said for name in failing)
    assert all(found[name].calls for name in failing), "what was sent and came is shown"
    assert not conforms
    assert not any(secret in told for secret in (GOOD, DEAD, SECRET, "auth-token"))


async def test_a_backend_that_checks_no_signature_fails_each_forgery() -> None:
    found, _, _ = await conform(secrets=())
    assert with_result(found, Result.FAIL) == {
        "signature_wrong",
        "signature_missing",
        "body_changed",
        "id_changed",
        "timestamp_old",
        "timestamp_future",
    }


async def test_a_backend_that_takes_recordings_fails_only_for_the_timestamps() -> None:
    at = 0.0

    async def remembers_the_time(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal at
        at = float(request.headers["webhook-timestamp"])
        return await handler(request)

    found, _, _ = await conform(remembers_the_time, clock=lambda: at)
    assert with_result(found, Result.FAIL) == {"timestamp_old", "timestamp_future"}


async def test_a_backend_that_checks_no_auth_token_fails_for_that() -> None:
    found, _, _ = await conform(auth_token=None)
    assert with_result(found, Result.FAIL) == {"credentials"}


async def test_a_backend_that_looks_at_no_header_lets_callers_in_without_credentials() -> None:
    async def wants_a_bearer(request: web.Request, handler: Handler) -> web.StreamResponse:
        right = request.headers.get("Authorization") == "Bearer the-bearer-token"
        return await handler(request) if right else web.Response(status=401)

    ours = {"credentials": Credentials(bearer="the-bearer-token")}
    found, told, _ = await conform(wants_a_bearer, endpoint=ours)
    assert found["credentials"].result is Result.PASS
    found, told, _ = await conform(endpoint=ours)
    assert with_result(found, Result.FAIL) == {"credentials"}
    assert "the-bearer-token" not in told


# What is allowed, but will hurt


async def forbids_with_400(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    return web.Response(status=400) if response.status == 401 else response


async def talks_too_much(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    assert isinstance(response, web.Response)
    response.body = b" " * 70_000
    return response


async def hangs_up(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers["Connection"] = "close"
    response.force_close()
    return response


async def test_a_forgery_that_is_refused_with_400_is_a_warning() -> None:
    found, _, conforms = await conform(forbids_with_400)
    warned = with_result(found, Result.WARN)
    assert warned == {
        check.name for check in CHECKS if check.anchor == "checking-the-signature"
    } - {"rotation"} | {"credentials"}
    assert "401" in found["body_changed"].said
    assert conforms


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [(talks_too_much, "answers", "64 KiB"), (hangs_up, "keep_alive", "handshake")],
)
async def test_answers_that_are_too_long_and_connections_that_close_are_warnings(
    spoil: Spoil, name: str, said: str
) -> None:
    found, _, conforms = await conform(spoil)
    assert with_result(found, Result.WARN) == {name}
    assert said in found[name].said
    assert conforms


# What cannot be seen


async def says_no_more(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers.popall(RANG, None)
    return response


async def test_whether_it_rang_once_is_unknown_when_the_backend_does_not_say() -> None:
    found, _, conforms = await conform(says_no_more)
    unknown = {"double", "double_at_once", "late_badge", "late_message"}
    assert with_result(found, Result.UNKNOWN) == unknown
    assert all(RANG in found[name].said for name in unknown)
    assert conforms


async def test_without_a_dead_token_an_accepted_bogus_one_proves_nothing() -> None:
    found, _, conforms = await conform(token=None, dead_token=None)
    assert with_result(found, Result.UNKNOWN) == {"dead_token"}
    assert "--dead-token" in found["dead_token"].said
    assert conforms


async def test_a_backend_that_knows_a_made_up_token_to_be_dead_passes_too() -> None:
    async def asks_apns(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        return web.Response(status=410) if response.status == 200 else response

    found, _, conforms = await conform(asks_apns, token=None, dead_token=None)
    assert conforms
    assert "--token" in found["message"].said
    assert found["dead_token"].result is Result.PASS
    for name in ("double", "double_at_once", "late_badge", "late_message"):
        assert found[name].result is Result.UNKNOWN
        assert "nothing rings" in found[name].said
    found, _, conforms = await conform(asks_apns)
    assert not conforms, "a token that is given is to be rung"


async def test_a_right_backend_passes_in_another_form_too() -> None:
    ours = {"adapter": "standard", "credentials": Credentials(bearer="the-bearer-token")}
    headers = {"Authorization": "Bearer the-bearer-token"}
    found, _, _ = await conform(endpoint=ours, auth_token=None, headers=headers)
    assert with_result(found, Result.PASS) == {check.name for check in CHECKS}


async def test_of_a_form_without_badges_nothing_is_known_about_badges() -> None:
    found, _, _ = await conform(endpoint={"adapter": "zendesk"}, auth_token=None)
    assert found["message"].result is Result.PASS
    for name in ("badge", "late_badge"):
        assert found[name].result is Result.UNKNOWN
        assert "no silent rings" in found[name].said


async def test_a_form_that_is_no_json_object_has_no_further_fields() -> None:
    async def takes_all(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response()

    ours = {"adapter": "template", "options": '{"body": ["{token}", "{text?}"]}'}
    found, _, _ = await conform(takes_all, endpoint=ours)
    assert found["unknown_fields"].result is Result.UNKNOWN
    assert "no JSON object" in found["unknown_fields"].said


async def test_a_forgery_that_kills_a_token_fails_whatever_the_status() -> None:
    async def forbids(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        return web.Response(status=403) if response.status == 401 else response

    options = '{"brand_id": "1"}'
    found, _, _ = await conform(
        forbids, endpoint={"adapter": "liveperson", "options": options}, auth_token=None
    )
    assert found["body_changed"].result is Result.FAIL, "there 403 means that the token is dead"


async def test_without_secrets_nothing_about_signatures_is_known() -> None:
    bare = {"signing_secrets": (), "auth_token": ""}
    found, _, _ = await conform(endpoint=bare, secrets=(), auth_token=None)
    assert found["body_changed"].result is Result.UNKNOWN
    assert "no signing secret" in found["rotation"].said
    assert found["credentials"].result is Result.UNKNOWN


@pytest.mark.parametrize(
    ("behaviour", "said"), [("503", "503"), ("redirect", "final address"), ("drop", "reset")]
)
async def test_when_a_plain_message_is_not_taken_nothing_else_is_tried(
    behaviour: str, said: str
) -> None:
    async def misbehaves(request: web.Request, handler: Handler) -> web.StreamResponse:
        if behaviour == "drop":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status={"redirect": 307}.get(behaviour, 503))

    found, _, conforms = await conform(misbehaves)
    assert found["message"].result is Result.FAIL
    assert said in found["message"].said
    assert with_result(found, Result.UNKNOWN) == found.keys() - {"message"}
    assert not conforms
