"""Requests that a tenant wrote itself: what comes out, and where what is wrong is."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from push.adapters import Answer, Failure, OptionError, Unwritable, template
from push.adapters.template import FIELDS
from push.ring import Ring, RingKind, Target, Verdict, VerdictKind
from tests.push.scripted import TOKEN, a_ring, an_endpoint

TARGET = Target(TOKEN, "fp-1")
NESTED: Any = "x"
for _ in range(32):
    NESTED = [NESTED]


def written(given: object, ring: Ring | None = None, token: str = TOKEN) -> Any:
    """What a body of this template becomes."""
    adapter = template.make({"body": given})
    return orjson.loads(adapter.request(ring or a_ring(), Target(token, "fp"), an_endpoint()).body)


def test_a_whole_request_is_exactly_what_the_template_says() -> None:
    adapter = template.make(
        {
            "path": "/v2/devices/{token}?from={tenant}",
            "headers": {"X-Customer": "{customer}", "X-Locale": "{locale?}", "X-Kind": "chat"},
            "body": {
                "to": "{token}",
                "line": "{title}: {text}",
                "title": "{title?}",
                "app": "{app?}",
                "badge": "{unread}",
                "live": "{live}",
                "tags": ["ringback", "{locale?}", "{kind}", 7, None],
            },
        }
    )
    request = adapter.request(a_ring(title=None), Target("a/b ü", "fp"), an_endpoint())
    assert request.path == "/v2/devices/a%2Fb%20%C3%BC?from=acme"
    assert request.headers == {
        "Content-Type": "application/json",
        "X-Customer": "c-42",
        "X-Kind": "chat",
    }
    assert request.body.decode() == (
        '{"to":"a/b ü","line":": Hello, how can we help?","badge":3,"live":true,'
        '"tags":["ringback","message",7,null]}'
    )


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("{unread}", 3),
        ("{live}", True),
        ("{title}", "New Message"),
        ("{locale}", None),
        ("{unread} new", "3 new"),
        ("live={live}", "live=true"),
        ("in {locale}", "in "),
        ("{{unread}}", "{unread}"),
        ("{{{unread}}}", "{3}"),
        ("{id}{kind}", "r_01message"),
        ("", ""),
        ({"{{a}}": 1.5}, {"{a}": 1.5}),
        ({"a": "{locale?}", "b": ["{locale?}"]}, {"b": []}),
    ],
)
def test_a_field_alone_keeps_its_type_and_within_a_text_is_text(
    given: object, becomes: object
) -> None:
    assert written(given) == becomes


def test_there_is_a_field_for_everything_that_is_known_of_a_ring() -> None:
    ring = a_ring(
        app="com.acme.app", environment="sandbox", locale="de", installation="i-1", id="r_9"
    )
    assert written({name: f"{{{name}}}" for name in FIELDS}, ring) == {
        "id": "r_9",
        "kind": "message",
        "tenant": "acme",
        "customer": "c-42",
        "seq": 9,
        "title": "New Message",
        "text": "Hello, how can we help?",
        "unread": 3,
        "badge_seq": 17,
        "live": True,
        "priority": "high",
        "collapse_id": "ringback-message",
        "expires_at": "2026-11-24T09:00:00.000Z",
        "expires_epoch": 1795510800,
        "token": TOKEN,
        "platform": "ios",
        "app": "com.acme.app",
        "environment": "sandbox",
        "locale": "de",
        "installation": "i-1",
        "auth_token": "auth-token",
    }


def test_whatever_is_in_a_field_cannot_break_out_of_the_json() -> None:
    text = '"}], "x": {unread} {{ \\ \n ☃ \u2028'
    assert written({"a": "{text}", "b": "<{text}>"}, a_ring(text=text)) == {
        "a": text,
        "b": f"<{text}>",
    }


def test_a_header_is_ascii_whatever_is_in_a_field() -> None:
    adapter = template.make({"body": {}, "headers": {"X-Title": "re: {title}"}})
    request = adapter.request(a_ring(title="50 %\r\nü"), TARGET, an_endpoint())
    assert request.headers["X-Title"] == "re: 50 %25%0D%0A%C3%BC"


def test_the_content_type_can_be_another() -> None:
    adapter = template.make({"body": {}, "headers": {"content-type": "application/vnd.acme+json"}})
    request = adapter.request(a_ring(), TARGET, an_endpoint())
    assert request.headers == {"content-type": "application/vnd.acme+json"}


@pytest.mark.parametrize("token", ["..", "."])
def test_a_token_cannot_lead_to_another_path(token: str) -> None:
    adapter = template.make({"body": {}, "path": "/devices/{token}/ring"})
    with pytest.raises(Unwritable):
        adapter.request(a_ring(), Target(token, "fp"), an_endpoint())


def test_a_path_with_a_field_that_is_empty_is_not_written() -> None:
    adapter = template.make({"body": {}, "path": "/{locale}/ring"})
    with pytest.raises(Unwritable):
        adapter.request(a_ring(), TARGET, an_endpoint())


def test_a_badge_is_written_by_its_own_part_laid_over_the_rest() -> None:
    adapter = template.make(
        {
            "path": "/ring",
            "headers": {"X-A": "b"},
            "body": {"text": "{text}"},
            "badge": {"body": {"badge": "{unread}"}},
        }
    )
    assert adapter.silent
    request = adapter.request(a_ring(RingKind.BADGE, unread=2), TARGET, an_endpoint())
    assert (request.path, request.body, request.headers["X-A"]) == ("/ring", b'{"badge":2}', "b")


def test_without_a_part_for_badges_none_are_made() -> None:
    assert not template.make({"body": {}}).silent


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "body: is missing; expected the body of the request, as JSON"),
        (
            {"bodi": 1},
            "bodi: is not a known option; expected one of path, headers, body, badge, verdicts",
        ),
        ({"body": "{unred}"}, "body: has {unred}, which is no field; expected {unread}"),
        (
            {"body": {"aps": [1, {"badge": "{unred}"}]}},
            "body.aps[1].badge: has {unred}, which is no field; expected {unread}",
        ),
        (
            {"body": {"x": "{}"}},
            f"body.x: has {{}}, which is no field; expected one of {', '.join(FIELDS)}",
        ),
        (
            {"body": {"x": "a {title b"}},
            'body.x: has a single "{"; expected {field}, or {{ or }} for a brace',
        ),
        (
            {"body": {"x": "a } b"}},
            'body.x: has a single "}"; expected {field}, or {{ or }} for a brace',
        ),
        (
            {"body": {"x": "a {title?}"}},
            "body.x: has {title?} within a longer text;"
            " expected {title}, which is empty when there is none",
        ),
        (
            {"body": {"{token}": 1}},
            "body.{token}: has a field in a name; expected fields in values only ({{ for a brace)",
        ),
        ({"body": "{title?}"}, "body: can be left out; expected a field without ?"),
        ({"body": NESTED}, "body" + "[0]" * 32 + ": is too deep; expected at most 32 levels"),
        (
            {"body": 1, "path": "ring"},
            'path: is "ring"; expected a path such as "/v2/devices/{token}"',
        ),
        (
            {"body": 1, "path": 5},
            'path: is 5; expected a path such as "/v2/devices/{token}"',
        ),
        (
            {"body": 1, "path": "//evil.example/"},
            'path: is "//evil.example/"; expected a path such as "/v2/devices/{token}"',
        ),
        (
            {"body": 1, "path": "/a/../b"},
            "path: has a character or a step that a path cannot have;"
            ' expected a path such as "/v2/devices/{token}"',
        ),
        (
            {"body": 1, "path": "/a b"},
            "path: has a character or a step that a path cannot have;"
            ' expected a path such as "/v2/devices/{token}"',
        ),
        ({"body": 1, "path": "/{tokn}"}, "path: has {tokn}, which is no field; expected {token}"),
        ({"body": 1, "headers": []}, "headers: is []; expected an object of texts"),
        (
            {"body": 1, "headers": {"X-A": "b", "x-a": "c"}},
            "headers: has a name twice, in two spellings; expected each name once",
        ),
        (
            {"body": 1, "headers": {"X": 5}},
            "headers.X: is 5; expected a text of printable ASCII characters",
        ),
        (
            {"body": 1, "headers": {"X": "a\nb"}},
            'headers.X: is "a\\nb"; expected a text of printable ASCII characters',
        ),
        (
            {"body": 1, "headers": {"a b": "c"}},
            "headers.a b: is no name of a header; expected letters, digits and -",
        ),
        (
            {"body": 1, "headers": {"Host": "c"}},
            "headers.Host: is set by the gateway itself; expected another header",
        ),
        (
            {"body": 1, "headers": {"Webhook-Id": "c"}},
            "headers.Webhook-Id: is set by the gateway itself; expected another header",
        ),
        (
            {"body": 1, "badge": True},
            "badge: is true; expected an object with path, headers or body",
        ),
        (
            {"body": 1, "badge": {"verdicts": {}}},
            "badge.verdicts: is not a known option; expected one of path, headers, body",
        ),
        (
            {"body": 1, "badge": {"body": {"n": "{unred}"}}},
            "badge.body.n: has {unred}, which is no field; expected {unread}",
        ),
        (
            {"body": 1, "verdicts": [404]},
            'verdicts: is [404]; expected statuses with verdicts, such as {"404": "token_dead"}',
        ),
        (
            {"body": 1, "verdicts": {"4xx": "refused"}},
            "verdicts.4xx: is no HTTP status;"
            ' expected statuses with verdicts, such as {"404": "token_dead"}',
        ),
        (
            {"body": 1, "verdicts": {"404": "dead"}},
            'verdicts.404: is "dead"; expected one of'
            " accepted, token_dead, retry, refused, misconfigured",
        ),
    ],
)
def test_what_is_wrong_with_a_template_is_named_with_its_place(
    options: dict[str, Any], line: str
) -> None:
    with pytest.raises(OptionError) as caught:
        template.make(options)
    assert str(caught.value) == line


def test_statuses_can_mean_something_else_and_the_rest_means_what_it_always_does() -> None:
    verdicts = {"404": "token_dead", "409": "accepted", "400": "retry", "200": "refused"}
    judge = template.make({"body": {}, "verdicts": verdicts}).verdict
    assert judge(Answer(404), TOKEN, 0.0) == Verdict(VerdictKind.TOKEN_DEAD, "http_404", 404)
    assert judge(Answer(409, {"Retry-After": "7"}), TOKEN, 0.0).retry_after is None
    retry = judge(Answer(400, {"Retry-After": "7"}), TOKEN, 0.0)
    assert retry == Verdict(VerdictKind.RETRY, "http_400", 400, 7.0)
    assert judge(Answer(500), TOKEN, 0.0).kind is VerdictKind.RETRY
    assert judge(Failure.TIMEOUT, TOKEN, 0.0).kind is VerdictKind.RETRY
    rejected = Answer(200, {}, json.dumps({"rejected": [TOKEN]}).encode())
    assert judge(rejected, TOKEN, 0.0).kind is VerdictKind.TOKEN_DEAD
