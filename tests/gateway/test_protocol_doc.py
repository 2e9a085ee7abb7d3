"""docs/protocol.md and gateway/protocol.py say the same: read both, compare both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from gateway import protocol, sentences
from gateway.auth import MAX_TOKEN_CHARS
from gateway.config import sections
from gateway.config.auth import Auth
from gateway.config.values import Leeway
from gateway.deadletters import Replay
from gateway.decoding import decode_agent, decode_body, decode_customer
from gateway.delivery import Action, Reason
from gateway.policies import Policy
from gateway.preferences import wishes_of
from gateway.protocol import (
    AGENT_FRAMES,
    AGENT_LIMITS,
    CLOSE_REASONS,
    CUSTOMER_FRAMES,
    CUSTOMER_LIMITS,
    HTTP_STATUS,
    SERVER_FRAMES,
    CloseCode,
    ErrorCode,
    Limits,
    PostCampaign,
    PostMessage,
    PutDevice,
    PutPreferences,
    ReplayDeadLetters,
    Role,
    may_reconnect,
)
from gateway.why import WaitsFor

DOC = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
SENT_TO = {"customer": SERVER_FRAMES[Role.CUSTOMER], "agent": SERVER_FRAMES[Role.AGENT]}
TAKEN_FROM = {"customer": CUSTOMER_FRAMES, "agent": AGENT_FRAMES}
OBJECTS: dict[str, Any] = {
    "from": protocol.Author,
    "conversation": protocol.ConversationEntry,
    "conversations": protocol.ConversationEntry,
    "last": protocol.AgentMessage,
}


# Reading the page


def section(title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def table(title: str, first: str) -> list[list[str]]:
    """The rows of the table in that section whose first heading is `first`."""
    lines = iter(section(title).splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return rows
    raise AssertionError(f"no table {first} under {title}")


def words(cell: str) -> list[str]:
    """What a cell has in code quotes."""
    return re.findall(r"`([^`]+)`", cell)


def fields(cell: str) -> dict[str, bool]:
    """Field names of a cell, and whether each must be there."""
    return {word.rstrip("?"): not word.endswith("?") for word in words(cell)}


def frames(title: str) -> dict[str, dict[str, bool]]:
    rows = table(title, "type")
    told = {words(row[0])[0]: fields(row[1]) for row in rows}
    assert len(told) == len(rows), "a type is listed twice"
    return told


def examples(*info: str) -> list[Any]:
    """The JSON of the code blocks marked so: one value in all, or one per line."""
    marked = re.escape(" ".join(("json", *info)))
    values: list[Any] = []
    for block in re.findall(rf"^```{marked}$\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL):
        try:
            values.append(json.loads(block))
        except json.JSONDecodeError:
            values.extend(json.loads(line) for line in block.splitlines())
    assert values, f"no examples {info}"
    return values


def number(cell: str) -> float:
    found = re.search(r"[0-9][0-9,]*(\.[0-9]+)?", cell)
    assert found, f"no number in {cell}"
    return float(found[0].replace(",", ""))


# What the code says


def struct_fields(kind: type[msgspec.Struct]) -> dict[str, bool]:
    return {field.name: field.required for field in msgspec.structs.fields(kind)}


def typed_fields(kind: Any) -> dict[str, bool]:
    required = dict.fromkeys(kind.__required_keys__, True)
    told = required | dict.fromkeys(kind.__optional_keys__, False)
    return {name: needed for name, needed in told.items() if name != "type"}


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a frame field's type, as far as the type says."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (str, int, bool):
        return type(value) is kind
    if kind is float:
        return type(value) in (int, float)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return value in list(kind)
    return True


def check_object(value: Any, kind: Any, message: Any) -> None:
    """Every required key is there, no unknown one, each of its type, objects within too."""
    assert isinstance(value, dict)
    assert kind.__required_keys__ <= set(value), f"missing in {value}"
    assert set(value) <= kind.__required_keys__ | kind.__optional_keys__, f"unknown in {value}"
    hints = get_type_hints(kind)
    for name, item in value.items():
        assert fits(item, hints[name]), f"{name} in {value}"
        if name == "messages":
            for entry in item:
                check_object(entry, message, message)
        elif name == "limits":
            assert set(item) == set(Limits.__struct_fields__)
        elif name in OBJECTS:
            for entry in item if isinstance(item, list) else [item]:
                check_object(entry, OBJECTS[name], message)
    if "role" in value:
        assert value["role"] in list(Role)
    if "kind" in value:
        assert value["kind"] in list(protocol.MessageKind)


# Frames


@pytest.mark.parametrize("side", ["customer", "agent"])
def test_the_doc_lists_exactly_the_frames_and_fields_that_a_client_may_send(side: str) -> None:
    told = frames(f"{side.capitalize()} to server")
    assert told == {tag: struct_fields(kind) for tag, kind in TAKEN_FROM[side].items()}


@pytest.mark.parametrize("side", ["customer", "agent"])
def test_the_doc_lists_exactly_the_frames_and_fields_that_the_server_sends(side: str) -> None:
    told = frames(f"Server to {side}")
    assert told == {tag: typed_fields(kind) for tag, kind in SENT_TO[side].items()}


def test_the_doc_lists_exactly_the_fields_of_the_objects_within_frames() -> None:
    told = {words(row[0])[0]: fields(row[1]) for row in table("Objects", "object")}
    assert told == {
        "resume": struct_fields(protocol.Resume),
        "from": typed_fields(protocol.Author),
        "limits": dict.fromkeys(Limits.__struct_fields__, True),
        "conversation": typed_fields(protocol.ConversationEntry),
    }


def test_the_doc_lists_exactly_the_words_of_every_field_that_has_few() -> None:
    told = {row[0].replace("`", ""): words(row[1]) for row in table("Words", "field")}
    assert told == {
        "role": list(Role),
        "kind": list(protocol.MessageKind),
        "state of a session": list(protocol.SessionState),
        "filter": list(protocol.InboxFilter),
        "route": list(protocol.Route),
        "state of a receipt": list(protocol.ReceiptState),
    }


# Examples


@pytest.mark.parametrize(
    ("side", "decode"), [("customer", decode_customer), ("agent", decode_agent)]
)
def test_every_frame_of_a_client_has_an_example_that_the_real_decoder_takes(
    side: str, decode: Any
) -> None:
    shown = set()
    for example in examples("client", side):
        frame = decode(json.dumps(example))
        shown.add(type(frame))
        known = {"type", *struct_fields(type(frame))}
        assert set(example) <= known, f"unknown in {example}"
    assert shown == set(TAKEN_FROM[side].values())


@pytest.mark.parametrize("side", ["customer", "agent"])
def test_every_frame_of_the_server_has_an_example_with_exactly_allowed_fields(side: str) -> None:
    shown = set()
    for example in examples("server", side):
        kind = SENT_TO[side][example["type"]]
        check_object(example, kind, SENT_TO[side]["message"])
        shown.add(example["type"])
    assert shown == set(SENT_TO[side])


def test_every_optional_field_is_shown_in_some_example() -> None:
    """All but a hello's `ref` and the like, which every frame may have."""
    for side, kinds in SENT_TO.items():
        for tag, kind in kinds.items():
            shown = {
                name
                for example in examples("server", side)
                if example["type"] == tag
                for name in example
            }
            assert set(typed_fields(kind)) - shown <= {"ref", "data", "duplicate", "retry_after"}


def test_the_times_in_server_examples_are_as_the_server_writes_them() -> None:
    def times(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                if name in ("at", "server_time", "updated_at", "registered_at"):
                    yield item
                yield from times(item)
        elif isinstance(value, list):
            for item in value:
                yield from times(item)

    found = list(
        times([examples("server", "customer"), examples("server", "agent"), examples("http")])
    )
    assert len(found) > 10
    for text in found:
        assert protocol.timestamp(protocol.parse_timestamp(text)) == text


def test_the_limits_in_the_welcomes_are_the_defaults() -> None:
    for side, limits in (("customer", CUSTOMER_LIMITS), ("agent", AGENT_LIMITS)):
        (welcome,) = [e for e in examples("server", side) if e["type"] == "welcome"]
        assert welcome["limits"] == limits.as_field()


def test_every_block_of_json_is_json() -> None:
    infos = set(re.findall(r"^```(json.*)$", DOC, re.MULTILINE))
    assert infos == {
        "json client customer",
        "json client agent",
        "json server customer",
        "json server agent",
        "json http",
        "json http message",
        "json http campaign",
        "json http range",
        "json http registration",
        "json http preferences",
        "json http policy",
        "json backend",
    }
    for info in infos:
        assert examples(*info.split()[1:])


# Limits and codes


def test_the_doc_lists_exactly_the_limits_with_their_defaults() -> None:
    told = {words(row[0])[0]: (number(row[1]), number(row[2])) for row in table("Limits", "limit")}
    ours, agents = CUSTOMER_LIMITS.as_field(), AGENT_LIMITS.as_field()
    assert told == {name: (ours[name], agents[name]) for name in Limits.__struct_fields__}


FIXED: Mapping[str, str] = {
    "`ref`, `Idempotency-Key`": "REF_CHARS",
    "any id, `installation`, `epoch`, `platform`, `app`, `environment`, `locale`, `time_zone`": (
        "ID_CHARS"
    ),
    "device token": "TOKEN_CHARS",
    "`title`": "TITLE_CHARS",
    "`cursor`": "CURSOR_CHARS",
    "nesting of JSON, the frame itself being the first level": "JSON_DEPTH",
    "`seq`, `before`, `after`": "SEQ_MAX",
    "`limit` of a page": "HISTORY_MAX",
    "`limit` when absent": "HISTORY_DEFAULT",
    "time until `hello`": "HELLO_TIMEOUT",
    "time between pings": "PING_INTERVAL",
    "time until an `ack` should be sent": "ACK_WITHIN",
    "bad frames in a row": "BAD_FRAMES_IN_A_ROW",
    "unsent bytes of a session": "OUTBOUND_BYTES",
    "a `ref` is remembered for at least": "REF_KEPT_DAYS",
    "first reconnect backoff": "BACKOFF_FIRST",
    "longest reconnect backoff": "BACKOFF_MAX",
    "`rate` of a campaign when absent": "RATE_DEFAULT",
    "`rate` of a campaign": "RATE_MAX",
    "recipients of a campaign": "AUDIENCE_MAX",
    "a campaign with its recipients in the JSON body": "AUDIENCE_BYTES",
    "campaigns of a tenant that are not over": "CAMPAIGNS_OPEN",
}


def test_the_doc_lists_exactly_the_fixed_limits() -> None:
    told = {row[0]: number(row[1]) for row in table("Limits", "what")}
    assert told == {what: getattr(protocol, name) for what, name in FIXED.items()}
    in_code = {
        name
        for name, value in vars(protocol).items()
        if re.fullmatch(r"[A-Z][A-Z_]+", name) and type(value) in (int, float)
    }
    assert in_code == set(FIXED.values())


def test_the_doc_says_how_long_a_token_may_be() -> None:
    assert f"A token has at most {MAX_TOKEN_CHARS:,} characters" in section("Tokens")


def test_the_doc_says_how_much_clocks_may_differ() -> None:
    (default,) = (it.default for it in msgspec.structs.fields(Auth) if it.name == "leeway")
    (most,) = (it.le for it in get_args(Leeway) if isinstance(it, msgspec.Meta))
    assert f"Clocks may differ by {default:g} s" in section("Tokens")
    assert f"which is at most {most:g} s" in section("Tokens")


def test_the_doc_says_which_of_these_an_operator_may_set() -> None:
    (told,) = re.findall(r"an operator may set \[(.*?)\]", section("Limits"))
    names = {name.lower() for name in FIXED.values()}
    assert words(told) == [
        f"limits.{it}" for it in sections.Limits.__struct_fields__ if it in names
    ]


def test_the_doc_lists_exactly_the_error_codes_with_their_http_status() -> None:
    told = {words(row[0])[0]: int(row[1]) for row in table("Error codes", "code")}
    assert told == {code.value: HTTP_STATUS[code] for code in ErrorCode}


def test_the_doc_lists_exactly_the_close_codes_and_what_a_client_does() -> None:
    rows = table("Close codes", "code")
    assert [int(row[0]) for row in rows] == [code.value for code in CloseCode]
    for code, meaning, client in rows:
        assert meaning == CLOSE_REASONS[CloseCode(int(code))]
        assert client.startswith("reconnects" if may_reconnect(int(code)) else "stays away")


def test_every_code_named_anywhere_in_the_doc_exists() -> None:
    named = re.findall(r"`error` `([a-z_]+)`", DOC)
    assert named
    assert set(named) <= set(ErrorCode)
    codes = {int(code) for code in re.findall(r"(?<![0-9.,])(4[05][0-9]{2})(?![0-9])", DOC)}
    assert codes - {4000, 4499, 4500} <= set(CloseCode)


# HTTP


def test_the_doc_lists_exactly_the_fields_of_the_http_bodies() -> None:
    told = {row[0]: fields(row[1]) for row in table("HTTP API", "body")}
    assert told == {
        "a message": struct_fields(PostMessage),
        "a campaign": struct_fields(PostCampaign),
        "a range": struct_fields(ReplayDeadLetters),
        "a registration": struct_fields(PutDevice),
        "preferences": struct_fields(PutPreferences),
    }


def test_the_examples_of_http_bodies_are_taken_and_show_every_field() -> None:
    (message,) = examples("http", "message")
    decode_body(json.dumps(message).encode(), PostMessage)
    assert set(message) == set(struct_fields(PostMessage))
    (campaign,) = examples("http", "campaign")
    decode_body(json.dumps(campaign).encode(), PostCampaign)
    assert set(campaign) == set(struct_fields(PostCampaign))
    (ranged,) = examples("http", "range")
    decode_body(json.dumps(ranged).encode(), ReplayDeadLetters)
    assert set(ranged) == set(struct_fields(ReplayDeadLetters))
    (registration,) = examples("http", "registration")
    decode_body(json.dumps(registration).encode(), PutDevice)
    assert set(registration) == set(struct_fields(PutDevice))
    (preferences,) = examples("http", "preferences")
    assert wishes_of(decode_body(json.dumps(preferences).encode(), PutPreferences))
    assert set(preferences) == set(struct_fields(PutPreferences))


def test_the_example_of_a_problem_is_one_of_the_error_codes() -> None:
    (problem,) = [value for value in examples("http") if "code" in value]
    assert problem["status"] == HTTP_STATUS[ErrorCode(problem["code"])]
    assert set(problem) == {"type", "title", "status", "detail", "code"}


def test_the_doc_lists_exactly_the_calls_that_the_http_listener_serves() -> None:
    files = (Path(__file__).parents[2] / "gateway").rglob("*.py")
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    served = {
        (method.upper(), re.sub(r"\{[A-Za-z]+\}", "{}", path))
        for method, path in re.findall(r'web\.(get|post|put|delete)\(\s*f?"(/v1/[^"]*)"', source)
    }
    told = set()
    for row in table("HTTP API", "call"):
        method, path = words(row[0])[0].split()
        told.add((method, re.sub(r"\{[a-z]+\}", "{}", path)))
    assert told == served


def test_the_doc_lists_exactly_the_events_policies_and_waits_of_a_message() -> None:
    title = "HTTP API"
    told = [name for row in table(title, "event") for name in words(row[0])]
    assert sorted(told) == sorted(sentences.EVENTS)
    assert [words(row[0])[0] for row in table(title, "policy")] == list(Policy)
    (waits,) = re.findall(r"`waiting` says what for: (.*?); with", section(title))
    assert set(words(waits)) - {"for"} == set(WaitsFor)


def test_the_doc_lists_exactly_what_may_come_of_a_replay() -> None:
    assert [name for row in table("HTTP API", "`replay`") for name in words(row[0])] == list(Replay)


def test_the_example_of_a_dry_run_is_of_words_that_there_are() -> None:
    (example,) = examples("http", "policy")
    assert Policy(example["policy"]["name"])
    for entry in example["policy"]["devices"]:
        assert Action(entry["action"]) in sentences.WOULD
        assert Reason(entry["reason"]) in sentences.REASONS


# The page itself


def test_the_paths_and_the_subprotocol_are_named() -> None:
    for name in (protocol.CUSTOMER_PATH, protocol.AGENT_PATH, protocol.SUBPROTOCOL):
        assert re.search(rf"`(GET )?{re.escape(name)}`", section("Transport"))


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", DOC, re.MULTILINE)
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings
    }
    links = re.findall(r"\]\(#([^)]*)\)", DOC)
    assert links
    assert set(links) <= anchors
