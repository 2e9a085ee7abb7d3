"""A request is shown whole, but for what must not be seen."""

from __future__ import annotations

from gateway.kit import masking


def test_only_headers_known_to_be_harmless_are_shown() -> None:
    given = {
        "Content-Type": "application/json",
        "webhook-id": "r_1",
        "webhook-signature": "v1,abc= v1,def=",
        "Authorization": "Bearer secret",
        "X-Api-Key": "secret",
    }
    assert masking.headers(given) == [
        "Content-Type: application/json",
        "webhook-id: r_1",
        "webhook-signature: v1,*** v1,***",
        "Authorization: ***",
        "X-Api-Key: ***",
    ]


def test_a_secret_is_masked_wherever_it_is_in_a_json_body() -> None:
    raw = (
        rb'{"a": "secret", "secret": ["x-secret-y", 1, null, {"b": "s\u0065cret"}], "t": "tok\"en"}'
    )
    shown = masking.body(raw, {"secret": "***", 'tok"en': "***fp"})
    assert "secret" not in shown
    assert "tok" not in shown
    assert "x-***-y" in shown
    assert "***fp" in shown


def test_a_very_short_secret_is_masked_only_where_it_is_the_whole_text() -> None:
    shown = masking.body(b'{"authToken": "dev", "deviceToken": "device"}', {"dev": "***"})
    assert '"authToken": "***"' in shown
    assert '"deviceToken": "device"' in shown


def test_a_body_that_is_no_json_is_masked_as_text() -> None:
    assert masking.body(b"token=secret&x=\xff", {"secret": "***"}) == "token=***&x=\ufffd"


def test_of_two_secrets_the_longer_is_masked_whole() -> None:
    assert masking.body(b"x abcdefg", {"abcdef": "1", "abcdefg": "2"}) == "x 2"
