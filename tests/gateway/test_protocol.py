"""The wire vocabulary by itself: what is sent, which codes say what, and times."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import protocol
from gateway.protocol import (
    AGENT_FRAMES,
    AGENT_LIMITS,
    CLOSE_REASONS,
    CUSTOMER_FRAMES,
    HTTP_STATUS,
    SERVER_FRAMES,
    CloseCode,
    ErrorCode,
    FrameError,
    Limits,
    MessageKind,
    Role,
    close_reason,
    may_reconnect,
    parse_timestamp,
    timestamp,
)

SECRET = "the-words-that-must-not-come-back"


# What must not be seen


@pytest.mark.parametrize(
    "held",
    [
        protocol.Hello(token=SECRET),
        protocol.AgentHello(token=SECRET),
        protocol.Refresh(ref="r", token=SECRET),
        protocol.RegisterDevice(ref="r", installation="i", token=SECRET),
        protocol.Send(ref="r", text=SECRET),
        protocol.AgentSend(ref="r", customer="c", text=SECRET),
        protocol.PostMessage(customer="c", text=SECRET),
        protocol.PostCampaign(text=SECRET),
        protocol.PutDevice(token=SECRET),
    ],
)
def test_the_repr_of_a_frame_tells_neither_token_nor_text(held: object) -> None:
    assert repr(held) == f"{type(held).__name__}(...)"


# What is sent


def test_a_frame_is_encoded_without_blanks_in_utf8() -> None:
    notice: protocol.TypingNotice = {
        "type": "typing",
        "from": {"role": Role.AGENT, "id": "a", "name": "Zoë"},
        "on": True,
    }
    text = '{"type":"typing","from":{"role":"agent","id":"a","name":"Zoë"},"on":true}'
    assert protocol.encode(notice) == text.encode()


def test_an_error_frame_tells_its_code_as_a_word() -> None:
    error: protocol.Error = {"type": "error", "code": ErrorCode.NOT_FOUND, "message": "no such"}
    assert protocol.encode(error) == b'{"type":"error","code":"not_found","message":"no such"}'


def test_the_limits_field_tells_every_limit_in_force() -> None:
    assert AGENT_LIMITS.as_field() == {
        "frame_bytes": 65_536,
        "text_chars": 8_000,
        "data_bytes": 16_384,
        "resume": 500,
        "sends_per_minute": 600,
        "burst": 100,
        "sessions": 10,
        "ack_timeout": 5.0,
        "restart_window": 5.0,
    }
    assert (Limits().sends_per_minute, Limits().burst) == (100, 20)


def test_the_registries_know_each_frame_by_its_type() -> None:
    assert CUSTOMER_FRAMES["send"] is protocol.Send
    assert AGENT_FRAMES["send"] is protocol.AgentSend
    assert SERVER_FRAMES[Role.CUSTOMER]["message"] is protocol.Message
    assert SERVER_FRAMES[Role.AGENT]["message"] is protocol.AgentMessage
    assert SERVER_FRAMES[Role.AGENT]["conversation"] is protocol.ConversationOpened
    assert "status" not in SERVER_FRAMES[Role.AGENT]


def test_a_refusal_can_say_when_to_try_again() -> None:
    error = FrameError(ErrorCode.RATE_LIMITED, "too many messages", "r", retry_after=1.5)
    assert (error.retry_after, error.ref, str(error)) == (1.5, "r", "too many messages")


def test_every_error_code_has_an_http_status_and_every_close_code_a_reason() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)
    assert set(CLOSE_REASONS) == set(CloseCode)
    assert all(400 <= status <= 599 for status in HTTP_STATUS.values())
    assert all(0 < len(reason.encode()) <= 123 for reason in CLOSE_REASONS.values())


def test_a_closing_frame_says_what_was_wrong_as_far_as_it_has_room() -> None:
    assert close_reason(CloseCode.BAD_TOKEN) == "token not accepted"
    told = close_reason(CloseCode.PROTOCOL_BROKEN, "x" * 106)
    assert (len(told), told) == (123, "protocol broken: " + "x" * 106)
    cut = close_reason(CloseCode.PROTOCOL_BROKEN, "x" * 107)
    assert (len(cut), cut) == (123, "protocol broken: " + "x" * 103 + "...")


# Coming back


@pytest.mark.parametrize(
    ("code", "back"),
    [
        (None, True),
        (1000, False),
        (1001, True),
        (1005, True),
        (1006, True),
        (1009, False),
        (1011, True),
        (1012, True),
        (3000, True),
        (4000, True),
        (4001, True),
        (4002, True),
        (4003, True),
        (4499, True),
        (4500, False),
        (4501, False),
        (4502, False),
        (4503, False),
        (4504, False),
        (4999, False),
        (5000, True),
    ],
)
def test_the_range_of_a_close_code_says_whether_to_come_back(code: int | None, back: bool) -> None:
    assert may_reconnect(code) is back


# Times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.001, "1970-01-01T00:00:01.001Z"),
        (1_795_510_800.9999, "2026-11-24T09:00:00.999Z"),
        (1_795_510_800.001, "2026-11-24T09:00:00.001Z"),
        (951_782_400.25, "2000-02-29T00:00:00.250Z"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_a_time_is_utc_with_milliseconds_rounded_down(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


@given(st.integers(0, 253_402_300_799_999))
@example(70_368_744_177_665)  # where a float of seconds is off by more than a microsecond
@example(253_402_300_799_999)
def test_every_millisecond_survives_being_written_and_read(milliseconds: int) -> None:
    text = timestamp(milliseconds / 1000)
    assert timestamp(parse_timestamp(text)) == text
    assert round(parse_timestamp(text) * 1000) == milliseconds


@given(st.floats(0, 4e9))
@example(1764108961.44996)
def test_what_was_told_of_a_time_is_found_by_it(seconds: float) -> None:
    told = parse_timestamp(timestamp(seconds))
    first, last = protocol.span(told, told)
    assert first is not None
    assert last is not None
    assert first - 1e-6 <= seconds <= last + 1e-6
    assert protocol.span(None, None) == (None, None)


def test_a_time_with_another_zone_is_the_same_moment() -> None:
    assert parse_timestamp("2026-11-24T10:00:00+01:00") == parse_timestamp("2026-11-24T09:00:00Z")


@pytest.mark.parametrize("text", ["", "2026-11-24", "2026-11-24T09:00:00", "24.11.2026", "now"])
def test_what_is_not_a_time_with_a_zone_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_timestamp(text)


def test_a_secret_in_what_is_not_a_time_is_not_told() -> None:
    with pytest.raises(ValueError, match="RFC 3339") as caught:
        parse_timestamp(SECRET)
    assert SECRET not in str(caught.value)


def test_each_role_gets_the_kind_that_fits_it_without_saying() -> None:
    firsts = {role: kinds[0] for role, kinds in protocol.ALLOWED_KINDS.items()}
    assert firsts == {
        Role.CUSTOMER: MessageKind.CHAT,
        Role.AGENT: MessageKind.CHAT,
        Role.SERVICE: MessageKind.PROACTIVE,
    }
    assert set(protocol.ALLOWED_KINDS[Role.SERVICE]) == set(MessageKind)
