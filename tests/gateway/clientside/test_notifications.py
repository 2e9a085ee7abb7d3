"""What a notification means to the app, whoever it came from."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.clientside.notifications import (
    NotificationStatus,
    conversation_status,
    is_double,
    is_ours,
    should_open_chat,
)
from push.ring import RingKind


def payload(kind: str = "message", **ring: Any) -> dict[str, Any]:
    return {
        "aps": {"alert": {"title": "New Message", "body": "Hello"}, "badge": 3},
        "UnreadMessages": 3,
        "isLiveChat": True,
        "badgeSeq": 17,
        "ringback": {"id": "r_01", "kind": kind, "customer": "c-42", "seq": 9, **ring},
    }


GARBAGE: list[object] = [
    None,
    7,
    "ringback",
    [],
    ["ringback"],
    {},
    {"aps": {"badge": 3}, "UnreadMessages": 3},
    {"ringback": None},
    {"ringback": "yes"},
    {"ringback": [1]},
]


def test_a_notification_of_ours_tells_the_status() -> None:
    assert is_ours(payload())
    assert conversation_status(payload()) == NotificationStatus(
        unread=3,
        live=True,
        badge_seq=17,
        seq=9,
        customer="c-42",
        kind=RingKind.MESSAGE,
        id="r_01",
    )


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_notification_of_somebody_else_is_not_ours(garbage: object) -> None:
    assert not is_ours(garbage)
    assert conversation_status(garbage) is None
    assert not should_open_chat(garbage)
    assert not is_double(garbage, 100)


@pytest.mark.parametrize("wrong", ["3", -1, 2.5, True, None, [], {}])
def test_ill_typed_fields_count_as_not_said(wrong: object) -> None:
    told = {"ringback": dict.fromkeys(("id", "kind", "customer", "seq"), wrong)}
    told["ringback"] |= {"id": 5, "customer": []}
    told |= {"UnreadMessages": wrong, "badgeSeq": wrong, "isLiveChat": 1}  # type: ignore[dict-item]
    assert conversation_status(told) == NotificationStatus(unread=0, live=False)


@pytest.mark.parametrize("kind", ["message", "proactive"])
def test_a_tapped_message_opens_the_chat(kind: str) -> None:
    assert should_open_chat(payload(kind))


@pytest.mark.parametrize("kind", ["badge", "a kind of the future", None])
def test_what_is_no_message_opens_no_chat_and_is_no_double(kind: Any) -> None:
    assert not should_open_chat(payload(kind))
    assert not is_double(payload(kind), 100)


@pytest.mark.parametrize(("seen", "double"), [(8, False), (9, True), (10, True)])
def test_a_notification_of_what_was_seen_in_chat_is_a_double(seen: int, double: bool) -> None:
    assert is_double(payload(), seen) is double
    assert should_open_chat(payload(), seen) is not double


def test_a_notification_that_names_no_place_is_no_double() -> None:
    assert not is_double(payload(seq=None), 100)
    assert should_open_chat(payload(seq=None), 100)
