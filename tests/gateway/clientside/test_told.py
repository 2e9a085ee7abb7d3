"""What a client makes of the server's frames."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.clientside.errors import NotUnderstood
from gateway.clientside.told import Author, Message, Page, decoded, understood
from gateway.protocol import MessageKind, Role


def frame(**fields: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "seq": 1,
        "id": "m_1",
        "from": {"role": "agent", "id": "a-1"},
        "text": "hello",
        "kind": "chat",
        "at": "2026-01-01T00:00:00.000Z",
    } | fields


@pytest.mark.parametrize("raw", [b"not json", b"[1]", b"7", b'{"seq": 1}', b'{"type": 1}', b"\xff"])
def test_what_is_no_frame_counts_as_an_empty_one(raw: bytes) -> None:
    assert decoded(raw) == {}


def test_a_frame_is_understood_whatever_else_is_in_it() -> None:
    raw = json.dumps(frame(unknown="field")).encode()
    assert understood(decoded(raw), Message) == Message(
        seq=1,
        id="m_1",
        author=Author(Role.AGENT, "a-1"),
        text="hello",
        kind=MessageKind.CHAT,
        at="2026-01-01T00:00:00.000Z",
    )


@pytest.mark.parametrize("wrong", [{"seq": "many"}, {"from": None}, {"kind": "song"}])
def test_a_frame_with_a_field_of_the_wrong_type_is_not_understood(wrong: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood) as strange:
        understood(frame(**wrong), Message)
    assert strange.value.frame_type == "message"


def test_the_text_of_a_message_is_not_in_its_repr() -> None:
    secret = understood(frame(text="secret"), Message)
    assert "secret" not in repr(secret)
    assert "secret" not in repr(Page(messages=[secret], more=False))
