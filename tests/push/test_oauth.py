"""The request for an OAuth2 token, and what each answer to it means."""

from __future__ import annotations

import base64
from dataclasses import replace
from urllib.parse import parse_qs

import orjson
import pytest

from push.credentials import OAuth
from push.oauth import NoToken, Token, read_token, token_request
from push.verdicts import Answer, Failure

OAUTH = OAuth(
    token_url="https://login.acme.example/token", client_id="ring back", client_secret="s&c:ret"
)


def test_a_client_shows_itself_by_basic_with_both_parts_encoded() -> None:
    headers, body = token_request(OAUTH)
    assert body == b"grant_type=client_credentials"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Accept"] == "application/json"
    shown = base64.b64decode(headers["Authorization"].removeprefix("Basic "))
    assert shown == b"ring+back:s%26c%3Aret"


def test_or_in_the_body_for_servers_that_take_no_basic() -> None:
    wanted = replace(OAUTH, in_body=True, scope="push send", audience="https://push.acme.example")
    headers, body = token_request(wanted)
    assert "Authorization" not in headers
    assert parse_qs(body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["push send"],
        "audience": ["https://push.acme.example"],
        "client_id": ["ring back"],
        "client_secret": ["s&c:ret"],
    }


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (3600, 3570.0),
        (60, 30.0),
        (10, 5.0),
        (0, 0.0),
        (-5, 0.0),
        ("3600", 3570.0),
        (3600.5, 3570.5),
        (10**9, 86370.0),
        (None, 270.0),
        (True, 270.0),
        ("soon", 270.0),
        ("9" * 5000, 270.0),
        ("٣", 270.0),
        ([], 270.0),
    ],
)
def test_a_token_is_used_until_a_little_before_its_end(expires_in: object, seconds: float) -> None:
    told = {"access_token": "t0ken", "token_type": "bearer", "expires_in": expires_in}
    token = read_token(Answer(200, {}, orjson.dumps(told)))
    assert token == Token("t0ken", seconds)
    assert "t0ken" not in repr(token)


def test_a_token_type_may_be_missing() -> None:
    assert read_token(Answer(200, {}, b'{"access_token": "t"}')).text == "t"


def test_a_token_is_used_with_every_character_that_one_may_have() -> None:
    text = "!AZ.az-09_+/=~"  # RFC 6749, appendix A.12, but for the space
    assert read_token(Answer(200, {}, orjson.dumps({"access_token": text}))).text == text


@pytest.mark.parametrize(
    ("status", "body", "failure", "code"),
    [
        (200, None, Failure.TOKEN_UNAVAILABLE, "the answer was cut off, or too long"),
        (200, b"<html>", Failure.TOKEN_UNREADABLE, "no access_token"),
        (200, b"[1]", Failure.TOKEN_UNREADABLE, "no access_token"),
        (200, b"{}", Failure.TOKEN_UNREADABLE, "no access_token"),
        (200, b'{"access_token": 5}', Failure.TOKEN_UNREADABLE, "no access_token"),
        (200, b'{"access_token": ""}', Failure.TOKEN_UNREADABLE, "no access_token"),
        (200, b'{"access_token": "a\\r\\nX: y"}', Failure.TOKEN_UNREADABLE, "no access_token"),
        (
            200,
            b'{"access_token": "t", "token_type": "mac"}',
            Failure.TOKEN_UNREADABLE,
            "token_type is not Bearer",
        ),
        (
            200,
            b'{"access_token": "t", "token_type": 1}',
            Failure.TOKEN_UNREADABLE,
            "token_type is not Bearer",
        ),
        (400, b'{"error": "invalid_scope"}', Failure.TOKEN_REFUSED, "invalid_scope"),
        (401, b'{"error": "invalid_client"}', Failure.TOKEN_REFUSED, "invalid_client"),
        (401, b'{"error": "my secret is hush"}', Failure.TOKEN_REFUSED, "http_401"),
        (401, b'{"error": {"code": 401}}', Failure.TOKEN_REFUSED, "http_401"),
        (400, b'{"error": ["invalid_scope"]}', Failure.TOKEN_REFUSED, "http_400"),
        (404, None, Failure.TOKEN_REFUSED, "http_404"),
        (302, b"", Failure.TOKEN_REFUSED, "http_302"),
        (429, b"", Failure.TOKEN_UNAVAILABLE, "http_429"),
        (500, b"{}", Failure.TOKEN_UNAVAILABLE, "http_500"),
        (503, b"<html>", Failure.TOKEN_UNAVAILABLE, "http_503"),
    ],
)
def test_any_other_answer_is_no_token_and_says_why(
    status: int, body: bytes | None, failure: Failure, code: str
) -> None:
    with pytest.raises(NoToken) as caught:
        read_token(Answer(status, {}, body))
    assert (caught.value.failure, caught.value.code) == (failure, code)
    assert str(caught.value) == f"{failure.value} ({code})"
