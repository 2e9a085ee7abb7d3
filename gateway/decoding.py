"""Decoding: from what came to a frame or an HTTP body, or to what exactly is wrong with it.

Decides: whether what came is one of the frames of `gateway.protocol`, and the words of a refusal.
Raises `FrameError`, and nothing else, whatever comes.

How a frame is judged: if there are brackets within its own they are counted, and only if there are
many is the depth measured, so that no input reaches a parser's recursion limit; then one msgspec
decode finds type and fields; then come the few rules that a schema cannot say.
The cause of a refusal is worked out only after one. A refusal names the field and what would be
right, never what was sent: it may be a token or a customer's words.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final, TypeVar, get_args

import msgspec
import orjson
from msgspec import Struct

from gateway.protocol import (
    AGENT_FRAMES,
    AGENT_LIMITS,
    CURSOR_CHARS,
    CUSTOMER_FRAMES,
    CUSTOMER_LIMITS,
    HISTORY_MAX,
    ID_CHARS,
    JSON_DEPTH,
    LATEST,
    RATE_MAX,
    REF_CHARS,
    SEQ_MAX,
    TITLE_CHARS,
    TOKEN_CHARS,
    UNFIT,
    AgentFrame,
    AgentSend,
    Cursor,
    CustomerFrame,
    Data,
    DeviceToken,
    ErrorCode,
    FrameError,
    Id,
    InboxFilter,
    Limits,
    MessageKind,
    Moment,
    PageSize,
    PostCampaign,
    PostMessage,
    PutDevice,
    PutPreferences,
    Rate,
    Ref,
    ReplayDeadLetters,
    Resume,
    Send,
    Seq,
    SessionState,
    Text,
    Title,
    Unknown,
)

_CUSTOMER: Final = msgspec.json.Decoder[CustomerFrame](CustomerFrame)
_AGENT: Final = msgspec.json.Decoder[AgentFrame](AgentFrame)
_BODIES: Final[Mapping[type, msgspec.json.Decoder[Any]]] = {
    body: msgspec.json.Decoder(body)
    for body in (PostMessage, PostCampaign, ReplayDeadLetters, PutDevice, PutPreferences)
}
Body = TypeVar("Body", PostMessage, PostCampaign, ReplayDeadLetters, PutDevice, PutPreferences)

_FRAME_TYPES: Final[Mapping[msgspec.json.Decoder[Any], Mapping[str, type[Struct]]]] = {
    _CUSTOMER: CUSTOMER_FRAMES,
    _AGENT: AGENT_FRAMES,
}


def decode_customer(raw: str | bytes, limits: Limits = CUSTOMER_LIMITS) -> CustomerFrame:
    """A customer's text frame. Raises FrameError, and nothing else."""
    frame: CustomerFrame = _decode(raw, _CUSTOMER, limits)
    return frame


def decode_agent(raw: str | bytes, limits: Limits = AGENT_LIMITS) -> AgentFrame:
    """An agent's text frame. Raises FrameError, and nothing else."""
    frame: AgentFrame = _decode(raw, _AGENT, limits)
    return frame


def decode_body(raw: bytes, body: type[Body], limits: Limits = CUSTOMER_LIMITS) -> Body:
    """The JSON body of an HTTP call. Raises FrameError, and nothing else."""
    try:
        text = raw.decode("utf-8-sig")  # RFC 8259, section 8.1
    except UnicodeDecodeError:
        raise FrameError(ErrorCode.BAD_FRAME, "not UTF-8; send one JSON object in UTF-8") from None
    decoded: Body = _decode(text, _BODIES[body], limits)
    return decoded


def check_id(text: str, name: str) -> str:
    """`text`, if it can be an id; else FrameError about `name`. For ids outside of JSON."""
    if not 1 <= len(text) <= ID_CHARS:
        code = ErrorCode.TOO_LARGE if text else ErrorCode.BAD_FRAME
        raise FrameError(code, f"{name}: must be {_BY_TYPE[Id]}")
    check_plain(text, name, None)
    return text


def _decode(raw: str | bytes, decoder: msgspec.json.Decoder[Any], limits: Limits) -> Any:
    if not isinstance(raw, str):
        raise FrameError(ErrorCode.BAD_FRAME, "binary frame; send JSON in text frames")
    nested = "[" in raw or "{" in raw[1:]
    if nested and raw.count("{") + raw.count("[") > JSON_DEPTH and _depth(raw) > JSON_DEPTH:
        raise FrameError(
            ErrorCode.BAD_FRAME,
            f"nested too deeply; at most {JSON_DEPTH} levels are allowed",
            _ref(_lenient(raw)),
        )
    try:
        frame = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explain(raw, decoder, str(error)) from None
    except (msgspec.DecodeError, UnicodeError):
        raise _not_json(raw) from None
    kind = type(frame)
    for name in _PLAIN[kind]:
        value = getattr(frame, name)
        if value and not value.isprintable():
            check_plain(value, name, frame)
    if kind in _WORDED:
        _check_content(frame, limits)
        if "\\u0000" in raw:  # JSON has no other way to write it
            _check_no_nul(frame)
    for name in _MOMENTS[kind]:
        moment = getattr(frame, name)
        if moment:
            _check_moment(name, moment)
    return frame


# Depth. Without the strings, which may be cut off at the end, brackets are structure.

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_STEP: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # a level down, or one up again
_NO_STEP: Final = bytes(set(range(256)) - set(b"[{]}"))


def _depth(raw: str) -> int:
    """Levels of nesting, unknown fields included; the frame itself is the first."""
    steps = _STRING.sub("", raw).encode(errors="replace").translate(_STEP, _NO_STEP)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


# What a schema cannot say

_WORDED: Final = frozenset({Send, AgentSend, PostMessage, PostCampaign})
_KINDS: Final = (*get_args(CustomerFrame), *get_args(AgentFrame), *_BODIES)


def _of_types(*types: Any) -> Mapping[type[Struct], tuple[str, ...]]:
    """For each frame and body, the fields of one of these types, optional or not."""
    return {
        kind: tuple(
            field.name
            for field in msgspec.structs.fields(kind)
            if not {field.type, *get_args(field.type)}.isdisjoint(types)
        )
        for kind in _KINDS
    }


_MOMENTS: Final = _of_types(Moment)
_PLAIN: Final = _of_types(Ref, Id, DeviceToken, Cursor)
"""What may not hold control characters. A JSON Web Token is for `gateway.auth`."""


def check_plain(text: str, name: str, frame: Any) -> None:
    """Raise `FrameError` if `text` has control characters, or others that cannot be stored."""
    if UNFIT.search(text):
        ref = getattr(frame, "ref", None)
        clean = None if ref is None or UNFIT.search(ref) else ref
        raise FrameError(ErrorCode.BAD_FRAME, f"{name}: must not contain control characters", clean)


def _check_content(frame: Send | AgentSend | PostMessage | PostCampaign, limits: Limits) -> None:
    if len(frame.text) > limits.text_chars:
        raise FrameError(
            ErrorCode.TOO_LARGE,
            f"text: {len(frame.text)} characters, at most {limits.text_chars} are allowed",
            getattr(frame, "ref", None),
        )
    if frame.data is None:
        return
    ref = getattr(frame, "ref", None)
    try:
        size = len(orjson.dumps(frame.data))
    except TypeError:
        raise FrameError(ErrorCode.BAD_FRAME, "data: integers must fit in 64 bits", ref) from None
    if size > limits.data_bytes:
        raise FrameError(
            ErrorCode.TOO_LARGE,
            f"data: {size} bytes of JSON, at most {limits.data_bytes} are allowed",
            ref,
        )


def _check_no_nul(frame: Send | AgentSend | PostMessage | PostCampaign) -> None:
    for name in ("text", "title", "data"):
        if _has_nul(getattr(frame, name, None)):
            ref = getattr(frame, "ref", None)
            raise FrameError(ErrorCode.BAD_FRAME, f"{name}: must not contain NUL", ref)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any("\x00" in key or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _check_moment(name: str, moment: datetime) -> None:
    if not _EARLIEST <= moment <= LATEST:
        right = f"a time from {_EARLIEST.year} to {LATEST:%Y-%m-%dT%H:%M:%SZ}"
        raise FrameError(ErrorCode.BAD_FRAME, f"{name}: must be {right}")


# What was wrong

_PLACE: Final = re.compile(r" - at `\$\.?([a-z_.]*)[^`]*`\Z")
_UNKNOWN: Final = "Object contains unknown field"
_MISSING: Final = re.compile(r"Object missing required field `([a-z_]+)`")
_TOO_LONG: Final = re.compile(r"Expected `str[^`]*` of length <= [0-9]+")


def _explain(raw: str, decoder: msgspec.json.Decoder[Any], error: str) -> FrameError:
    """What is wrong and what would be right, without repeating what was sent.

    `error` is msgspec's; its end says the place, and only its own words are looked for in the rest.
    """
    told = _lenient(raw)
    ref = _ref(told)
    if not isinstance(told, dict):
        return FrameError(ErrorCode.BAD_FRAME, "not a JSON object; send one")
    if error.startswith(_UNKNOWN):
        known = ", ".join(decoder.type.__struct_fields__)
        return FrameError(ErrorCode.BAD_FRAME, f"an unknown field; the known ones are {known}", ref)
    place = _PLACE.search(error)
    path = place[1].rstrip(".") if place else ""
    missing = _MISSING.match(error)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
    right = _right(path.rpartition(".")[2], decoder)
    if missing:
        return FrameError(ErrorCode.BAD_FRAME, f"{path}: missing; must be {right}", ref)
    code = ErrorCode.TOO_LARGE if _TOO_LONG.match(error) else ErrorCode.BAD_FRAME
    return FrameError(code, f"{path}: must be {right}", ref)


def _one_of(words: Iterable[str]) -> str:
    return f"one of {', '.join(words)}"


_BY_TYPE: Final[Mapping[Any, str]] = {
    Ref: f"a string of 1 to {REF_CHARS} characters",
    Id: f"a string of 1 to {ID_CHARS} characters",
    Title: f"a string of 1 to {TITLE_CHARS} characters",
    Cursor: f"a string of 1 to {CURSOR_CHARS} characters, as the answer before told it",
    Text: "a string that is not empty",
    Data: "a JSON object, its numbers within 64 bits",
    Seq: f"an integer from 0 to {SEQ_MAX}",
    PageSize: f"an integer from 1 to {HISTORY_MAX}",
    Rate: f"a number from 0.01 to {RATE_MAX:.0f}, in recipients per second",
    Moment: "an RFC 3339 time with a zone, as a string",
    Resume: "an object with epoch and seq, as a welcome told them",
    bool: "true or false",
    **{words: _one_of(words) for words in (SessionState, InboxFilter, MessageKind, Unknown)},
}
_RIGHT: Final[Mapping[str, str]] = {
    **{
        field.name: _BY_TYPE[type]
        for kind in (*_KINDS, Resume)
        for field in msgspec.structs.fields(kind)
        for type in (field.type, *get_args(field.type))
        if type in _BY_TYPE
    },
    "token": f"a token as a string; for a device, of 1 to {TOKEN_CHARS} characters",
    "quiet_hours": "hours such as 22:00-07:00, or off, as a string",
    "cause": "one of refused, expired",
    "audience": "the word devices, or a list of ids and of objects with customer",
}
"""What would be right, per field."""


def _right(field: str, decoder: msgspec.json.Decoder[Any]) -> str:
    return _one_of(_FRAME_TYPES[decoder]) if field == "type" else _RIGHT[field]


def _not_json(raw: str) -> FrameError:
    """Of text that msgspec does not take for JSON, and of what Python's laxer parser does."""
    told = _lenient(raw)
    if told is None:
        return FrameError(ErrorCode.BAD_FRAME, "not JSON; send one JSON object")
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeError:
        problem = "half of a surrogate pair; send whole Unicode characters"
    else:
        problem = "NaN and Infinity are not JSON; send finite numbers"
    return FrameError(ErrorCode.BAD_FRAME, problem, _ref(told))


def _lenient(raw: str) -> Any:
    """What `raw` says, also if it is not quite JSON; None if nothing can be made of it.

    As floats, integers may have any number of digits.
    """
    try:
        return json.loads(raw, parse_int=float)
    except (ValueError, RecursionError):
        return None


def _ref(told: Any) -> str | None:
    ref = told.get("ref") if isinstance(told, dict) else None
    if not isinstance(ref, str) or not 1 <= len(ref) <= REF_CHARS or UNFIT.search(ref):
        return None
    return ref
