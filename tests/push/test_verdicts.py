"""The verdict table: every answer, and every way of getting none."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.ring import Verdict, VerdictKind
from push.verdicts import (
    NOT_SENT,
    RETRY_AFTER_MOST,
    Answer,
    Failure,
    advice,
    checked,
    is_unauthorised,
    judge,
    retry_after,
)
from tests.push.scripted import TOKEN

NOW = datetime(2026, 11, 24, 9, 0, 0, tzinfo=UTC).timestamp()


def verdict_on(status: int, body: bytes | None = b"", **headers: str) -> tuple[str, str]:
    verdict = judge(Answer(status, headers, body), TOKEN, NOW)
    assert verdict.status == status
    return verdict.kind.value, verdict.reason


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (200, "accepted", "http_200"),
        (201, "accepted", "http_201"),
        (202, "accepted", "http_202"),
        (204, "accepted", "http_204"),
        (299, "accepted", "http_299"),
        (410, "token_dead", "http_410"),
        (408, "retry", "http_408"),
        (425, "retry", "http_425"),
        (429, "retry", "http_429"),
        (500, "retry", "http_500"),
        (503, "retry", "http_503"),
        (599, "retry", "http_599"),
        (101, "retry", "http_101"),
        (600, "retry", "http_600"),
        (999, "retry", "http_999"),
        (400, "refused", "http_400"),
        (405, "refused", "http_405"),
        (413, "refused", "http_413"),
        (422, "refused", "http_422"),
        (499, "refused", "http_499"),
        (300, "misconfigured", "redirect"),
        (301, "misconfigured", "redirect"),
        (304, "misconfigured", "redirect"),
        (308, "misconfigured", "redirect"),
        (399, "misconfigured", "redirect"),
        (401, "misconfigured", "http_401"),
        (403, "misconfigured", "http_403"),
        (404, "misconfigured", "http_404"),
    ],
)
def test_the_status_decides(status: int, kind: str, reason: str) -> None:
    assert verdict_on(status) == (kind, reason)


@pytest.mark.parametrize("status", [200, 202, 301, 400, 401, 403, 404, 410, 429, 500])
def test_a_body_that_rejects_this_token_beats_every_status(status: int) -> None:
    body = orjson.dumps({"rejected": ["another", TOKEN]})
    assert verdict_on(status, body) == ("token_dead", "rejected")


def test_a_byte_order_mark_before_the_json_hides_no_rejection() -> None:
    body = b"\xef\xbb\xbf" + orjson.dumps({"rejected": [TOKEN]})
    assert verdict_on(200, body) == ("token_dead", "rejected")


@pytest.mark.parametrize(
    "body",
    [
        b'{"rejected": []}',
        b'{"rejected": ["another"]}',
        b'{"rejected": ["the-device-token-2"]}',
        b'{"rejected": "the-device-token"}',
        b'{"rejected": {"the-device-token": 1}}',
        b'{"rejected": null}',
        b'{"rejected": true}',
        b'{"error": {"rejected": ["the-device-token"]}}',
        b'["the-device-token"]',
        b'"the-device-token"',
        b'{"rejected": ["the-device-token"]',
        b'{"rejected": ["the-device-token"]} trailing',
        b"rejected: the-device-token",
        b"\xff\xfe\x00",
        b"[" * 60_000,
        b"",
        None,
    ],
)
def test_any_other_body_leaves_the_status_to_decide(body: bytes | None) -> None:
    assert verdict_on(200, body) == ("accepted", "http_200")
    assert verdict_on(404, body) == ("misconfigured", "http_404")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure.TIMEOUT, VerdictKind.RETRY),
        (Failure.CONNECT_TIMEOUT, VerdictKind.RETRY),
        (Failure.CONNECT, VerdictKind.RETRY),
        (Failure.DNS, VerdictKind.RETRY),
        (Failure.RESET, VerdictKind.RETRY),
        (Failure.BAD_HTTP, VerdictKind.RETRY),
        (Failure.INTERNAL, VerdictKind.RETRY),
        (Failure.MOVED, VerdictKind.RETRY),
        (Failure.TLS, VerdictKind.MISCONFIGURED),
        (Failure.CA_FILE, VerdictKind.MISCONFIGURED),
        (Failure.URL, VerdictKind.MISCONFIGURED),
        (Failure.ADDRESS, VerdictKind.MISCONFIGURED),
        (Failure.ADAPTER, VerdictKind.MISCONFIGURED),
        (Failure.SIGNING_SECRET, VerdictKind.MISCONFIGURED),
        (Failure.UNWRITABLE, VerdictKind.REFUSED),
        (Failure.CLIENT_CERTIFICATE, VerdictKind.MISCONFIGURED),
        (Failure.TOKEN_UNAVAILABLE, VerdictKind.RETRY),
        (Failure.TOKEN_REFUSED, VerdictKind.MISCONFIGURED),
        (Failure.TOKEN_UNREADABLE, VerdictKind.MISCONFIGURED),
        (Failure.TOKEN_TLS, VerdictKind.MISCONFIGURED),
    ],
)
def test_no_answer_is_retried_unless_a_setting_is_at_fault(
    failure: Failure, kind: VerdictKind
) -> None:
    verdict = judge(failure, TOKEN, NOW)
    assert (verdict.kind, verdict.reason) == (kind, failure.value)
    assert verdict.status is None
    assert verdict.retry_after is None


def test_every_failure_has_its_row_above() -> None:
    assert len(Failure) == 20


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("3600", 3600.0),
        ("3601", RETRY_AFTER_MOST),
        ("9" * 5000, RETRY_AFTER_MOST),
        ("Tue, 24 Nov 2026 09:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 09:00:30 -0000", 30.0),
        ("Tue, 24 Nov 2026 10:00:30 +0100", 30.0),
        ("Tuesday, 24-Nov-26 09:00:30 GMT", 30.0),
        ("Tue Nov 24 09:00:30 2026", 30.0),
        ("Tue, 24 Nov 2026 08:59:00 GMT", 0.0),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0.0),
        ("Wed, 25 Nov 2026 09:00:00 GMT", RETRY_AFTER_MOST),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("²", None),
        ("soon", None),
        ("Tue, 99 Nov 2026 99:00:30 GMT", None),
        ("\x00", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_garbage_is_ignored(
    value: str, seconds: float | None
) -> None:
    assert retry_after({"Retry-After": value}, NOW) == seconds


def test_a_date_without_a_zone_is_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after({"Retry-After": "Tue, 24 Nov 2026 09:00:30 -0000"}, NOW) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(value=st.text())
def test_no_retry_after_can_break_or_stretch_a_retry(value: str) -> None:
    seconds = retry_after({"retry-after": value}, NOW)
    assert seconds is None or 0.0 <= seconds <= RETRY_AFTER_MOST


def test_retry_after_is_told_with_retry_and_misconfigured_only() -> None:
    told = {
        status: judge(Answer(status, {"RETRY-AFTER": "9"}), TOKEN, NOW).retry_after
        for status in (503, 429, 404, 301, 200, 410, 400)
    }
    assert told == {503: 9.0, 429: 9.0, 404: 9.0, 301: 9.0, 200: None, 410: None, 400: None}


@pytest.mark.parametrize(
    "reason",
    ["redirect", "http_401", "http_403", "http_404"]
    + [f.value for f in Failure if judge(f, TOKEN, NOW).kind is VerdictKind.MISCONFIGURED],
)
def test_every_misconfiguration_has_its_own_advice(reason: str) -> None:
    assert advice(reason) != advice("something new")


def test_an_unforeseen_misconfiguration_still_gets_advice() -> None:
    assert "push settings" in advice("something new")


@pytest.mark.parametrize(
    ("outcome", "unauthorised"),
    [
        (Answer(401), True),
        (Answer(403), True),
        (Answer(404), False),
        (Answer(200), False),
        (Failure.TLS, False),
        (Answer(401, {}, b'{"rejected": ["the-device-token"]}'), False),
    ],
)
def test_other_credentials_are_worth_a_try_when_ours_were_refused(
    outcome: Answer | Failure, unauthorised: bool
) -> None:
    assert is_unauthorised(judge(outcome, TOKEN, NOW)) is unauthorised


@pytest.mark.parametrize(
    ("wait", "waits"),
    [(None, None), (5, 5.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), RETRY_AFTER_MOST)],
)
def test_what_an_adapter_says_can_be_waited_for(wait: float | None, waits: float | None) -> None:
    told = checked(Verdict("retry", "busy", 503, wait))  # type: ignore[arg-type]
    assert told == Verdict(VerdictKind.RETRY, "busy", 503, waits)
    assert told.kind is VerdictKind.RETRY


@pytest.mark.parametrize(
    "told",
    [
        None,
        "accepted",
        Verdict("taken", "ok"),  # type: ignore[arg-type]
        Verdict(VerdictKind.ACCEPTED, None),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_verdict_is_not_taken_for_one(told: object) -> None:
    with pytest.raises((AttributeError, msgspec.ValidationError)):
        checked(told)


def test_an_answer_shows_its_status_and_nothing_that_was_said() -> None:
    assert repr(Answer(200, {"Set-Cookie": "hush"}, b"hush")) == "Answer(status=200)"


def test_a_call_may_have_been_taken_unless_it_ended_before_it_left() -> None:
    assert set(Failure) - NOT_SENT == {
        Failure.TIMEOUT,
        Failure.RESET,
        Failure.BAD_HTTP,
        Failure.INTERNAL,
        Failure.TLS,
        Failure.CLIENT_CERTIFICATE,
    }
