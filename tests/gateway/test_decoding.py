"""What decodes, and what is refused and how it is told."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import decoding, protocol
from gateway.decoding import decode_agent, decode_body, decode_customer
from gateway.protocol import (
    AGENT_FRAMES,
    CUSTOMER_FRAMES,
    JSON_DEPTH,
    ErrorCode,
    FrameError,
    InboxFilter,
    Limits,
    MessageKind,
    PostCampaign,
    PostMessage,
    PutDevice,
    PutPreferences,
    ReplayDeadLetters,
    SessionState,
)

SECRET = "the-words-that-must-not-come-back"


def frame(type: str, **fields: Any) -> str:
    return json.dumps({"type": type, **fields})


def refusal(raw: str | bytes, limits: Limits | None = None) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode_customer(raw, limits or Limits())
    return caught.value


def body_refusal(raw: bytes, kind: Any = PostMessage) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode_body(raw, kind)
    return caught.value


def nested(levels: int) -> dict[str, Any]:
    """An object of so many levels."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


# What is taken


def test_a_hello_with_nothing_in_it_is_an_active_session_without_token_or_resume() -> None:
    hello = decode_customer(frame("hello"))
    assert hello == protocol.Hello(
        token=None, state=SessionState.ACTIVE, installation=None, resume=None
    )


def test_a_full_hello_tells_its_state_installation_and_where_to_resume() -> None:
    raw = frame(
        "hello",
        token="t",
        state="background",
        installation="i-1",
        resume={"epoch": "e", "seq": 7},
    )
    hello = decode_customer(raw)
    assert isinstance(hello, protocol.Hello)
    assert hello.state is SessionState.BACKGROUND
    assert hello.resume == protocol.Resume(epoch="e", seq=7)
    assert (hello.token, hello.installation) == ("t", "i-1")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            frame("send", ref="r", text="hi", data={"a": [1, None]}),
            protocol.Send(ref="r", text="hi", data={"a": [1, None]}),
        ),
        (frame("ack", seq=0), protocol.Ack(seq=0)),
        (frame("read", seq=2**53, ref="r"), protocol.Read(seq=2**53, ref="r")),
        (frame("typing", on=False), protocol.Typing(on=False)),
        (frame("state", state="active"), protocol.State(state=SessionState.ACTIVE)),
        (frame("history", ref="r"), protocol.History(ref="r", before=None, limit=50)),
        (
            frame("register_device", ref="r", installation="i", token="t" * 4096),
            protocol.RegisterDevice(ref="r", installation="i", token="t" * 4096),
        ),
        (
            frame("deregister_device", ref="r", installation="i"),
            protocol.DeregisterDevice(ref="r", installation="i"),
        ),
        (frame("refresh", ref="r", token="t"), protocol.Refresh(ref="r", token="t")),
        (frame("ping"), protocol.Ping()),
        (frame("bye"), protocol.Bye()),
    ],
)
def test_each_customer_frame_decodes_to_its_own_type(raw: str, expected: object) -> None:
    assert decode_customer(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (frame("hello", token="t"), protocol.AgentHello(token="t")),
        (
            frame("inbox", ref="r", filter="live", limit=1, cursor="c"),
            protocol.Inbox(ref="r", filter=InboxFilter.LIVE, limit=1, cursor="c"),
        ),
        (frame("open", ref="r", customer="c"), protocol.Open(ref="r", customer="c", after=None)),
        (frame("close", ref="r", customer="c"), protocol.Close(ref="r", customer="c")),
        (
            frame("send", ref="r", customer="c", text="hi"),
            protocol.AgentSend(ref="r", customer="c", text="hi"),
        ),
        (frame("ack", customer="c", seq=3), protocol.AgentAck(customer="c", seq=3)),
        (frame("read", customer="c", seq=3), protocol.AgentRead(customer="c", seq=3)),
        (frame("typing", customer="c", on=True), protocol.AgentTyping(customer="c", on=True)),
        (
            frame("history", ref="r", customer="c", before=9, limit=200),
            protocol.AgentHistory(ref="r", customer="c", before=9, limit=200),
        ),
        (frame("end", ref="r", customer="c"), protocol.End(ref="r", customer="c")),
        (frame("refresh", ref="r", token="t"), protocol.Refresh(ref="r", token="t")),
        (frame("ping", ref="p"), protocol.Ping(ref="p")),
        (frame("bye"), protocol.Bye()),
    ],
)
def test_each_agent_frame_decodes_to_its_own_type(raw: str, expected: object) -> None:
    assert decode_agent(raw) == expected


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    raw = '{"type":"ping","ref":"p","future":{"n":1e999,"list":[1,2]}}'
    assert decode_customer(raw) == protocol.Ping(ref="p")


def test_the_type_may_come_last() -> None:
    assert decode_customer('{"seq":4,"type":"ack"}') == protocol.Ack(seq=4)


def test_text_may_have_8000_code_points_though_they_are_32000_bytes() -> None:
    text = "\U0001f600" * 8000
    sent = decode_customer(frame("send", ref="r", text=text))
    assert isinstance(sent, protocol.Send)
    assert sent.text == text


def test_text_keeps_tabs_newlines_and_other_controls() -> None:
    sent = decode_customer(frame("send", ref="r", text="a\tb\nc\x07"))
    assert isinstance(sent, protocol.Send)
    assert sent.text == "a\tb\nc\x07"


def test_a_backslash_before_u0000_is_not_a_nul() -> None:
    sent = decode_customer(frame("send", ref="r", text="\\u0000", data={"a": ["\\u0000"]}))
    assert isinstance(sent, protocol.Send)
    assert sent.text == "\\u0000"


def test_ids_may_hold_any_letters_and_spaces() -> None:
    opened = decode_agent(frame("open", ref="r\u00a0\U0001f600", customer="Zoë Ω\u3000x"))
    assert opened == protocol.Open(ref="r\u00a0\U0001f600", customer="Zoë Ω\u3000x")


def test_a_frame_of_exactly_32_levels_is_taken() -> None:
    sent = decode_customer(frame("send", ref="r", text="x", data=nested(JSON_DEPTH - 1)))
    assert isinstance(sent, protocol.Send)
    assert sent.data == nested(JSON_DEPTH - 1)


def test_however_many_brackets_there_are_they_are_not_gone_through_one_by_one() -> None:
    """They took the loop a hundred times as long as the rest of a frame."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    raw = '{"type":"ping","x":[' + "[]," * 20_000 + "1]}"
    sys.setprofile(count)
    try:
        decode_customer(raw)
    finally:
        sys.setprofile(None)
    assert calls < 100


def test_brackets_side_by_side_or_in_strings_are_not_depth() -> None:
    data = {"flat": [[] for _ in range(500)], "text": '[{"' * 300 + "\\"}
    sent = decode_customer(frame("send", ref="r", text="x", data=data))
    assert isinstance(sent, protocol.Send)
    assert sent.data == data


def test_a_token_of_any_form_is_left_to_be_judged_as_a_token() -> None:
    for token in ("", "t" * 10_000, "a\nb\0"):
        for decode in (decode_customer, decode_agent):
            hello = decode(frame("hello", token=token))
            assert isinstance(hello, protocol.Hello | protocol.AgentHello)
            assert hello.token == token


# What is refused


@pytest.mark.parametrize(
    "raw", ["", "nul", "{", '{"type":"ping"} x', "{'type':'ping'}", "\ufeff{}"]
)
def test_what_is_not_json_is_a_bad_frame(raw: str) -> None:
    error = refusal(raw)
    assert (error.code, error.message) == (
        ErrorCode.BAD_FRAME,
        "not JSON; send one JSON object",
    )


@pytest.mark.parametrize("raw", ["[]", "3", '"ping"', "null", "true"])
def test_what_is_not_an_object_is_a_bad_frame(raw: str) -> None:
    error = refusal(raw)
    assert (error.code, error.message) == (ErrorCode.BAD_FRAME, "not a JSON object; send one")


@pytest.mark.parametrize("decode", [decode_customer, decode_agent])
def test_a_binary_frame_is_a_bad_frame_even_if_it_holds_json(decode: Any) -> None:
    with pytest.raises(FrameError, match="binary") as caught:
        decode(b'{"type":"ping"}')
    assert caught.value.code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize(
    "fields", [{"ref": "r"}, {"ref": "r", "type": 3}, {"ref": "r", "type": SECRET}]
)
def test_a_missing_or_unknown_type_is_answered_with_the_known_ones(fields: dict[str, Any]) -> None:
    error = refusal(json.dumps(fields))
    assert error.code is ErrorCode.BAD_FRAME
    assert error.ref == "r"
    assert error.message.startswith("type: ")
    assert all(known in error.message for known in CUSTOMER_FRAMES)
    assert SECRET not in error.message


def test_the_types_of_agents_are_unknown_to_customers() -> None:
    assert refusal(frame("inbox", ref="r")).message.startswith("type: must be one of hello, send")


Kind = type[msgspec.Struct]
BODIES = (PostMessage, PutDevice, PutPreferences)
KINDS: list[Kind] = [*CUSTOMER_FRAMES.values(), *AGENT_FRAMES.values(), *BODIES]
REQUIRED = [
    (kind, field.name) for kind in KINDS for field in msgspec.structs.fields(kind) if field.required
]
GOOD = {
    "ref": "r",
    "text": "x",
    "seq": 1,
    "on": True,
    "state": "active",
    "installation": "i",
    "token": "t",
    "customer": "c",
}


def decode_as(kind: Kind, fields: dict[str, Any]) -> Any:
    if kind in BODIES:
        body: Any = kind
        return decode_body(json.dumps(fields).encode(), body)
    raw = frame(str(kind.__struct_config__.tag), **fields)
    return decode_customer(raw) if kind in CUSTOMER_FRAMES.values() else decode_agent(raw)


@pytest.mark.parametrize(("kind", "name"), REQUIRED)
def test_a_missing_field_is_named_with_what_it_must_be(kind: Kind, name: str) -> None:
    needed = [field.name for field in msgspec.structs.fields(kind) if field.required]
    complete = {field: GOOD[field] for field in needed}
    assert type(decode_as(kind, complete)) is kind
    with pytest.raises(FrameError) as caught:
        decode_as(kind, {field: value for field, value in complete.items() if field != name})
    assert caught.value.code is ErrorCode.BAD_FRAME
    assert caught.value.message.startswith(f"{name}: missing; must be ")
    assert caught.value.ref == (None if name == "ref" else complete.get("ref"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_ill_typed_field_is_named_with_what_it_must_be(kind: Kind) -> None:
    fields = msgspec.structs.fields(kind)
    complete = {field.name: GOOD[field.name] for field in fields if field.required}
    for field in fields:
        with pytest.raises(FrameError) as caught:
            decode_as(kind, complete | {field.name: [SECRET]})
        assert caught.value.code is ErrorCode.BAD_FRAME
        assert caught.value.message.startswith(f"{field.name}: must be ")
        assert SECRET not in caught.value.message


@pytest.mark.parametrize("seq", [-1, 1.0, 1.5, True, "1", None, 2**53 + 1, 10**400])
def test_a_seq_is_an_integer_that_javascript_can_count_to(seq: object) -> None:
    error = refusal(frame("ack", seq=seq, ref="r"))
    assert error.code is ErrorCode.BAD_FRAME
    assert error.message == "seq: must be an integer from 0 to 9007199254740992"
    assert error.ref == "r"


def test_a_number_of_any_length_is_refused_and_the_ref_still_answered() -> None:
    error = refusal('{"type":"ack","ref":"r","seq":' + "9" * 6000 + "}")
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message.startswith("seq: must be ")


@pytest.mark.parametrize("limit", [0, 201, -1, 1.5])
def test_a_page_has_1_to_200_messages(limit: object) -> None:
    error = refusal(frame("history", ref="r", limit=limit))
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message == "limit: must be an integer from 1 to 200"


@pytest.mark.parametrize(
    "value", ["asleep", f"{SECRET} - at `$.{SECRET}`", f"Expected `str` of length <= 3 {SECRET}"]
)
def test_a_word_that_is_not_one_of_the_allowed_is_answered_with_those(value: str) -> None:
    error = refusal(frame("state", state=value))
    assert error.code is ErrorCode.BAD_FRAME
    assert error.message == "state: must be one of active, background"


def test_a_half_resume_names_the_field_within() -> None:
    error = refusal(frame("hello", resume={"epoch": "e"}))
    assert error.message == "resume.seq: missing; must be an integer from 0 to 9007199254740992"
    error = refusal(frame("hello", resume={"epoch": "", "seq": 1}))
    assert error.message == "resume.epoch: must be a string of 1 to 128 characters"


def test_an_empty_text_is_a_bad_frame() -> None:
    error = refusal(frame("send", ref="r", text=""))
    assert (error.code, error.message) == (
        ErrorCode.BAD_FRAME,
        "text: must be a string that is not empty",
    )


def test_a_text_of_8001_characters_is_too_large() -> None:
    error = refusal(frame("send", ref="r", text="x" * 8001))
    assert (error.code, error.ref) == (ErrorCode.TOO_LARGE, "r")
    assert error.message == "text: 8001 characters, at most 8000 are allowed"


def test_the_configured_limits_count_not_the_defaults() -> None:
    error = refusal(frame("send", ref="r", text="xxxx"), Limits(text_chars=3))
    assert error.message == "text: 4 characters, at most 3 are allowed"
    error = refusal(frame("send", ref="r", text="x", data={"a": 12}), Limits(data_bytes=7))
    assert error.message == "data: 8 bytes of JSON, at most 7 are allowed"


def test_data_is_measured_as_json_without_blanks() -> None:
    exact = {"a": "x" * (16_384 - len('{"a":""}'))}
    decode_customer(json.dumps({"type": "send", "ref": "r", "text": "x", "data": exact}, indent=9))
    error = refusal(frame("send", ref="r", text="x", data={"a": exact["a"] + "x"}))
    assert (error.code, error.ref) == (ErrorCode.TOO_LARGE, "r")
    assert error.message == "data: 16385 bytes of JSON, at most 16384 are allowed"


@pytest.mark.parametrize("data", [[], "x", 3, True])
def test_data_must_be_an_object(data: object) -> None:
    error = refusal(frame("send", ref="r", text="x", data=data))
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message.startswith("data: must be a JSON object")


def test_data_with_integers_beyond_64_bits_is_a_bad_frame() -> None:
    error = refusal(frame("send", ref="r", text="x", data={"n": 2**64}))
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message == "data: integers must fit in 64 bits"


def test_data_with_a_number_beyond_a_double_is_a_bad_frame() -> None:
    error = refusal('{"type":"send","ref":"r","text":"x","data":{"n":1e999}}')
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message == "data: must be a JSON object, its numbers within 64 bits"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"text": "a\0b"}, "text"),
        ({"text": "x", "data": {"a": "\0"}}, "data"),
        ({"text": "x", "data": {"\0": 1}}, "data"),
        ({"text": "x", "data": {"a": [1, {"b": ["\0"]}]}}, "data"),
    ],
)
def test_nul_in_text_or_anywhere_in_data_is_a_bad_frame(fields: Any, name: str) -> None:
    error = refusal(frame("send", ref="r", **fields))
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message == f"{name}: must not contain NUL"


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\uD83D x"])
def test_half_of_a_surrogate_pair_is_a_bad_frame_wherever_it_is(escape: str) -> None:
    for raw in (
        f'{{"type":"send","ref":"r","text":"{escape}"}}',
        f'{{"type":"send","ref":"r","text":"x","data":{{"{escape}":1}}}}',
        f'{{"type":"send","ref":"r","text":"x","data":{{"a":["{escape}"]}}}}',
    ):
        error = refusal(raw)
        assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
        assert error.message.startswith("half of a surrogate pair")


def test_half_of_a_surrogate_pair_in_the_ref_itself_is_answered_without_ref() -> None:
    error = refusal('{"type":"send","ref":"\\ud800","text":"x"}')
    assert error.message.startswith("half of a surrogate pair")
    assert error.ref is None


def test_a_string_that_python_made_with_a_surrogate_is_a_bad_frame_too() -> None:
    error = refusal('{"type":"send","ref":"r","text":"\ud800"}')
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert refusal("\ud800").message == "not JSON; send one JSON object"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_a_bad_frame(number: str) -> None:
    error = refusal(f'{{"type":"send","ref":"r","text":"x","data":{{"n":{number}}}}}')
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message.startswith("NaN and Infinity are not JSON")


@pytest.mark.parametrize(
    "raw",
    [
        frame("send", ref="r", text="x", data=nested(JSON_DEPTH)),
        frame("ping", ref="r", future=nested(JSON_DEPTH)),
    ],
)
def test_a_frame_of_33_levels_is_a_bad_frame_also_in_unknown_fields(raw: str) -> None:
    error = refusal(raw)
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
    assert error.message == "nested too deeply; at most 32 levels are allowed"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("closed", [True, False])
def test_nesting_that_would_exhaust_a_parser_is_one_bad_frame(opening: str, closed: bool) -> None:
    levels = 10_000
    closing = ("]" if opening == "[" else "}") * levels if closed else ""
    error = refusal('{"type":"ping","ref":"r","q":' + opening * levels + "0" + closing + "}")
    assert error.code is ErrorCode.BAD_FRAME
    assert error.message == "nested too deeply; at most 32 levels are allowed"


def test_a_string_that_never_ends_hides_its_brackets_and_is_not_json() -> None:
    for tail in ("", "\\", '\\"' * 20_000):
        assert refusal('{"type":"' + "[" * 50 + tail).message == "not JSON; send one JSON object"


CONTROLS = ["\0", "a\n", "\x1f", "\x7f", "a\x85b"]
UNSPOKEN = {kind for kind in vars(protocol).values() if getattr(kind, "__origin__", None) is str}
UNSPOKEN -= {protocol.Text, protocol.Title}  # what people say


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_but_what_people_say_has_no_control_characters(kind: Kind) -> None:
    fields = msgspec.structs.fields(kind)
    complete = {field.name: GOOD[field.name] for field in fields if field.required}
    for field in fields:
        if not UNSPOKEN.isdisjoint({field.type, *get_args(field.type)}):
            with pytest.raises(FrameError, match=f"{field.name}: must not contain control"):
                decode_as(kind, complete | {field.name: "a\n"})


@pytest.mark.parametrize("control", CONTROLS)
def test_ids_and_device_tokens_have_no_control_characters(control: str) -> None:
    device = {"ref": "r", "installation": "i", "token": "t"}
    optional = {"platform": "p", "app": "a", "environment": "e", "locale": "l", "time_zone": "z"}
    for name in ("installation", "token", *optional):
        error = refusal(frame("register_device", **(device | optional | {name: control})))
        assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, "r")
        assert error.message == f"{name}: must not contain control characters"
    error = refusal(frame("ping", ref=control))
    assert error.message == "ref: must not contain control characters"
    assert error.ref is None
    error = body_refusal(json.dumps({"token": control}).encode(), PutDevice)
    assert error.message == "token: must not contain control characters"
    for fields in ({"customer": control}, {"customer": "c", "cursor": control}):
        with pytest.raises(FrameError, match="must not contain control characters"):
            decode_agent(frame("inbox" if "cursor" in fields else "open", ref="r", **fields))


@pytest.mark.parametrize(
    ("type", "name", "most"),
    [
        ("ping", "ref", 64),
        ("hello", "installation", 128),
        ("register_device", "token", 4096),
        ("register_device", "platform", 128),
    ],
)
def test_a_field_may_be_as_long_as_its_limit_and_no_longer(type: str, name: str, most: int) -> None:
    rest = {"ref": "r", "installation": "i", "token": "t"} if type == "register_device" else {}
    decode_customer(frame(type, **(rest | {name: "é" * most})))
    error = refusal(frame(type, **(rest | {name: "é" * (most + 1)})))
    assert error.code is ErrorCode.TOO_LARGE
    assert error.message.startswith(f"{name}: must be ")
    assert str(most) in error.message
    assert refusal(frame(type, **(rest | {name: ""}))).code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("ref", ["", "r" * 65, 3, None, ["r"], "a\nb"])
def test_a_ref_that_is_none_itself_is_not_given_back(ref: object) -> None:
    assert refusal(frame("no such type", ref=ref)).ref is None


def test_no_error_gives_back_what_was_sent() -> None:
    token = SECRET + "\n"
    for raw in (
        frame("register_device", ref="r", installation="i", token=token),
        frame("send", ref="r", text=SECRET + "\0"),
        frame("send", ref="r", text=SECRET * 1000),
        frame("send", ref="r", text="x", data={SECRET: 2**70}),
        frame("send", ref="r", text="x", data=SECRET),
        frame(SECRET),
        frame("state", state=SECRET),
        '{"type":"' + SECRET,
        '{"type":"refresh","ref":"r","token":["' + SECRET + '"]}',
    ):
        error = refusal(raw)
        assert SECRET not in f"{error} {error!r} {error.message}"
        assert error.__cause__ is None


# HTTP bodies


def test_a_posted_message_has_its_kind_title_and_expiry() -> None:
    raw = orjson.dumps(
        {
            "customer": "c",
            "text": "x",
            "kind": "system",
            "title": "Your\torder",
            "expires_at": "2026-11-24T10:00:00.5+01:00",
        }
    )
    posted = decode_body(raw, PostMessage)
    assert posted.kind is MessageKind.SYSTEM
    assert posted.title == "Your\torder"
    assert posted.expires_at == datetime(2026, 11, 24, 9, 0, 0, 500_000, tzinfo=UTC)


def test_a_posted_message_needs_only_customer_and_text() -> None:
    posted = decode_body(b'{"customer":"c","text":"x"}', PostMessage)
    assert (posted.kind, posted.title, posted.expires_at, posted.data) == (None,) * 4


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("text", "", "text: must be a string that is not empty"),
        ("text", "x" * 8_001, "text: 8001 characters, at most 8000 are allowed"),
        ("text", "a\0b", "text: must not contain NUL"),
        ("audience", "everybody", "audience: must be the word devices, or a list"),
        ("audience", ["c-1", 7], "audience: must be the word devices, or a list"),
        ("rate", 0, "rate: must be a number from 0.01 to 10000"),
        ("rate", 10_001, "rate: must be a number from 0.01 to 10000"),
        ("unknown", "delete", "unknown: must be one of create, skip"),
        ("send_at", "tomorrow", "send_at: must be an RFC 3339 time"),
        ("send_at", "0001-01-01T00:00:00Z", "send_at: must be a time from 1970"),
        ("expires_at", "0001-01-01T00:00:00Z", "expires_at: must be a time from 1970"),
        ("data", {"x": "y" * 17_000}, "data: 17008 bytes of JSON"),
    ],
)
def test_a_campaign_that_is_none_is_refused_by_the_field(
    field: str, value: object, problem: str
) -> None:
    error = body_refusal(orjson.dumps({"text": "x", field: value}), PostCampaign)
    assert error.message.startswith(problem)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("cause", "boredom", "cause: must be one of refused, expired"),
        ("since", "noon", "since: must be an RFC 3339 time"),
        ("until", "0001-01-01T00:00:00Z", "until: must be a time from 1970"),
        ("customer", "c\n", "customer: must not contain control characters"),
        ("customer", None, "customer: must be a string of 1 to 128 characters"),
        ("cause", None, "cause: must be one of refused, expired"),
        ("since", None, "since: must be an RFC 3339 time"),
        ("until", None, "until: must be an RFC 3339 time"),
    ],
)
def test_a_range_of_dead_letters_that_is_none_is_refused(
    field: str, value: object, problem: str
) -> None:
    error = body_refusal(orjson.dumps({field: value}), ReplayDeadLetters)
    assert error.message.startswith(problem)


@pytest.mark.parametrize("name", ["custmer", "customers", SECRET, "` - at `$.customer`", ""])
def test_a_slip_in_the_name_of_a_condition_is_refused_with_the_names_that_there_are(
    name: str,
) -> None:
    error = body_refusal(orjson.dumps({name: "c-42"}), ReplayDeadLetters)
    assert error.code is ErrorCode.BAD_FRAME
    known = "customer, cause, since, until, cursor"
    assert error.message == f"an unknown field; the known ones are {known}"


def test_a_slip_in_the_name_of_a_campaigns_field_is_refused_with_the_names_that_there_are() -> None:
    error = body_refusal(b'{"text": "x", "sendAt": "2026-11-25T08:00:00Z"}', PostCampaign)
    assert error.message.startswith("an unknown field; the known ones are text, audience, title,")
    assert "send_at" in error.message


def test_a_campaign_needs_only_a_text_and_goes_at_a_moderate_pace() -> None:
    told = decode_body(b'{"text": "Hi {name}"}', PostCampaign)
    assert (told.audience, told.rate, told.unknown) == (None, 100.0, protocol.Unknown.CREATE)


@pytest.mark.parametrize("value", ["2026-11-24T09:00:00", "tomorrow", 1_790_000_000, "", True])
def test_an_expiry_needs_a_date_and_a_zone(value: object) -> None:
    error = body_refusal(orjson.dumps({"customer": "c", "text": "x", "expires_at": value}))
    assert error.code is ErrorCode.BAD_FRAME
    assert error.message == "expires_at: must be an RFC 3339 time with a zone, as a string"


WRITABLE = "must be a time from 1970 to 9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    "value",
    [
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_an_expiry_that_cannot_be_written_as_utc_is_refused(value: str) -> None:
    error = body_refusal(orjson.dumps({"customer": "c", "text": "x", "expires_at": value}))
    assert error.message == f"expires_at: {WRITABLE}"


def test_a_mute_that_cannot_be_written_as_utc_is_refused() -> None:
    raw = b'{"muted_until": "9999-12-31T23:59:59-23:59"}'
    error = body_refusal(raw, PutPreferences)
    assert error.message == f"muted_until: {WRITABLE}"
    good = decode_body(b'{"muted_until": "9999-12-31T23:59:59Z"}', PutPreferences)
    assert good.muted_until is not None
    assert good.proactive


@pytest.mark.parametrize(
    ("fields", "code", "start"),
    [
        ({"text": ""}, ErrorCode.BAD_FRAME, "text: must be "),
        ({"text": "x" * 8001}, ErrorCode.TOO_LARGE, "text: 8001 characters"),
        ({"title": "a\0"}, ErrorCode.BAD_FRAME, "title: must not contain NUL"),
        ({"title": "t" * 201}, ErrorCode.TOO_LARGE, "title: must be "),
        ({"title": ""}, ErrorCode.BAD_FRAME, "title: must be "),
        ({"kind": "badge"}, ErrorCode.BAD_FRAME, "kind: must be one of chat, proactive, system"),
        ({"customer": "c" * 129}, ErrorCode.TOO_LARGE, "customer: must be "),
        ({"customer": "\n"}, ErrorCode.BAD_FRAME, "customer: must not contain control"),
    ],
)
def test_a_posted_message_is_judged_like_a_frame(
    fields: dict[str, Any], code: ErrorCode, start: str
) -> None:
    error = body_refusal(json.dumps({"customer": "c", "text": "x"} | fields).encode())
    assert error.code is code
    assert error.message.startswith(start)


def test_a_body_may_begin_with_a_byte_order_mark_as_some_languages_write_utf8() -> None:
    assert decode_body(b'\xef\xbb\xbf{"customer":"c","text":"x"}', PostMessage).text == "x"


def test_a_body_that_is_not_utf8_not_json_or_no_object_is_told_apart() -> None:
    assert body_refusal(b'{"customer":"\xff","text":"x"}').message.startswith("not UTF-8")
    assert body_refusal(b"customer=c&text=x").message.startswith("not JSON")
    assert body_refusal(b"[]").message.startswith("not a JSON object")


def test_an_id_from_a_path_is_judged_like_one_in_a_frame() -> None:
    assert decoding.check_id("c-42", "customer") == "c-42"
    assert decoding.check_id("é" * 128, "customer") == "é" * 128
    for text, code in (
        ("", ErrorCode.BAD_FRAME),
        ("c" * 129, ErrorCode.TOO_LARGE),
        ("a\nb", ErrorCode.BAD_FRAME),
        ("\udc80", ErrorCode.BAD_FRAME),
    ):
        with pytest.raises(FrameError, match=r"^customer: must") as caught:
            decoding.check_id(text, "customer")
        assert caught.value.code is code


# Anything at all

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=70)
    | st.sampled_from(
        [*CUSTOMER_FRAMES, *AGENT_FRAMES, "active", "live", "r", "2026-01-01T00:00Z"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
NAMES = sorted({field.name for kind in KINDS for field in msgspec.structs.fields(kind)})
OBJECTS = st.builds(
    lambda tag, fields: {"type": tag, **fields},
    st.sampled_from([*CUSTOMER_FRAMES, *AGENT_FRAMES]),
    st.dictionaries(st.sampled_from(NAMES), ANY, max_size=6),
)


def judge(decode: Callable[[], object]) -> None:
    """The decoder gives a frame, or an error that can be answered; it raises nothing else."""
    try:
        decode()
    except FrameError as refused:
        error = refused
    else:
        return
    assert error.message
    answer: protocol.Error = {"type": "error", "code": error.code, "message": error.message}
    if error.ref is not None:
        answer["ref"] = error.ref
    assert json.loads(protocol.encode(answer))["code"] == error.code


def judge_everywhere(raw: str) -> None:
    body = raw.encode("utf-8", "surrogatepass")
    judge(lambda: decode_customer(raw))
    judge(lambda: decode_agent(raw))
    judge(lambda: decode_body(body, PostMessage))
    judge(lambda: decode_body(body, PutDevice))
    judge(lambda: decode_body(body, PutPreferences))


@given(st.text())
def test_no_text_breaks_a_decoder(raw: str) -> None:
    judge_everywhere(raw)


@given(OBJECTS | ANY)
@example({"type": "ack", "seq": math.nan})
def test_no_json_breaks_a_decoder(value: Any) -> None:
    judge_everywhere(json.dumps(value))


@given(OBJECTS, st.data())
def test_no_frame_that_was_cut_or_spoilt_breaks_a_decoder(value: Any, data: st.DataObject) -> None:
    raw = json.dumps(value)
    at = data.draw(st.integers(0, len(raw)))
    insert = st.sampled_from(["", "[" * 40, "]", "\\ud800", '"', "NaN", "1e999", "9" * 5000, "\\"])
    drop = data.draw(st.integers(0, 3))
    judge_everywhere(raw[:at] + data.draw(insert) + raw[at + drop :])


@given(st.binary())
def test_no_bytes_break_a_decoder(raw: bytes) -> None:
    assert refusal(raw).code is ErrorCode.BAD_FRAME
    judge(lambda: decode_body(raw, PutDevice))


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text('a[{"\\é\U0001f600'),
        max_size=5,
    ),
)
def test_a_good_send_comes_through_unchanged(text: str, data: dict[str, Any]) -> None:
    for raw in (
        frame("send", ref="r", text=text, data=data),
        json.dumps({"type": "send", "ref": "r", "text": text, "data": data}, ensure_ascii=False),
    ):
        sent = decode_customer(raw)
        assert isinstance(sent, protocol.Send)
        assert (sent.text, sent.data) == (text, data)
