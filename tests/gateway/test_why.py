"""What became of a message, told from its row and its events, for machines and for people."""

from typing import Any

import msgspec
import orjson
import pytest

from gateway import why
from storage.records import (
    Conversation,
    Cut,
    Device,
    DeviceState,
    Event,
    Key,
    Message,
    Outcome,
    RingInHand,
    fingerprint,
)
from storage.store import Told

AT = 1_795_510_800.0
AT_TEXT = "2026-11-24T09:00:00.000Z"
MESSAGE = Message(
    conversation=3,
    seq=9,
    ord=4,
    said=5,
    id="m_9",
    role="agent",
    author="a-1",
    name="Ann",
    kind="chat",
    text="the secret text",
    data='{"a":1}',
    title="the secret title",
    at=AT,
    expires_at=AT + 60,
    ref="r-9",
    route="socket",
    reason="in_chat",
    sessions="s-1 s-2:active s-3:background:my%20phone%3A1",
    due_at=AT + 5,
)
FROM_CUSTOMER = msgspec.structs.replace(
    MESSAGE, role="customer", route=None, reason=None, sessions=None, due_at=None, expires_at=None
)


def event(after: float, name: str, **detail: Any) -> Event:
    text = orjson.dumps(detail).decode() if detail else None
    return Event(3, 8, 9, AT + after, name, text)


def told(
    *events: Event,
    outcome: Outcome | None = Outcome.PENDING,
    reason: str | None = None,
    message: Message = MESSAGE,
    due: float | None = None,
    devices: tuple[Device, ...] = (),
) -> Told:
    c = Conversation(3, Key("acme", "c-1"), push_due_at=due, devices=devices)
    return Told(message, c, outcome, reason, list(events))


def held(ring: str, ord: int, attempt: int) -> RingInHand:
    return RingInHand(ring, Cut(2 * ord, ord), attempt)


def device(**fields: Any) -> Device:
    return Device(7, "phone-1", "the secret token", 1, AT, **fields)


def test_a_timeline_begins_with_the_commit_and_the_sessions_written_to() -> None:
    assert why.timeline(told()) == [
        {
            "at": "2026-11-24T09:00:00.000Z",
            "event": "committed",
            "route": "socket",
            "reason": "in_chat",
            "due": "2026-11-24T09:00:05.000Z",
            "expires": "2026-11-24T09:01:00.000Z",
        },
        {"at": "2026-11-24T09:00:00.000Z", "event": "written", "session": "s-1"},
        {"at": AT_TEXT, "event": "written", "session": "s-2", "state": "active"},
        {
            "at": AT_TEXT,
            "event": "written",
            "session": "s-3",
            "state": "background",
            "installation": "my phone:1",
        },
    ]


def test_a_message_that_owes_nothing_was_only_committed() -> None:
    assert why.timeline(told(message=FROM_CUSTOMER)) == [
        {"at": "2026-11-24T09:00:00.000Z", "event": "committed"}
    ]


def test_events_follow_in_order_with_what_was_recorded() -> None:
    told_ = told(
        event(5, "due", reason="ack_timeout"),
        event(5.125, "attempt", attempt=1, status=200, ms=12.5, device="ab12"),
        event(6, "removed"),
    )
    assert why.timeline(told_)[4:] == [
        {"at": "2026-11-24T09:00:05.000Z", "event": "due", "reason": "ack_timeout"},
        {
            "at": "2026-11-24T09:00:05.125Z",
            "event": "attempt",
            "attempt": 1,
            "status": 200,
            "ms": 12.5,
            "device": "ab12",
        },
        {"at": "2026-11-24T09:00:06.000Z", "event": "removed"},
    ]


def test_deliveries_give_outcome_and_reason_beside_the_timeline() -> None:
    told_ = told(event(1, "due"), outcome=Outcome.UNDELIVERABLE, reason="no_device")
    assert why.deliveries(told_, AT) == {
        "customer": "c-1",
        "seq": 9,
        "outcome": "undeliverable",
        "reason": "no_device",
        "events": why.timeline(told_),
    }


def test_deliveries_say_since_when_the_outcome_stands() -> None:
    acked = told(event(2, "acked", session="s-1"), outcome=Outcome.ACKED)
    assert why.deliveries(acked, AT)["since"] == "2026-11-24T09:00:02.000Z"
    assert "waiting" not in why.deliveries(acked, AT)
    assert "since" not in why.deliveries(told(), AT)


def test_without_a_reason_none_is_given() -> None:
    assert "reason" not in why.deliveries(told(outcome=Outcome.PENDING), AT)


def test_the_reason_of_a_push_is_that_of_the_look_whose_ring_was_accepted_first() -> None:
    story = [
        event(1, "look", action="ring", reason="not_in_chat", device="a"),
        event(2, "attempt", verdict="refused", device="a"),
        event(5, "look", action="ring", reason="ack_timeout", device="b"),
        event(6, "look", action="retry", reason="retry", device="b"),
        event(7, "look", action="ring", reason="not_in_chat", device="c"),
        event(8, "attempt", verdict="accepted", device="b"),
        event(8, "outcome", outcome="pushed", was="pending"),
        event(9, "attempt", verdict="accepted", device="c"),
    ]
    assert why.reason(told(*story, outcome=Outcome.PUSHED)) == "ack_timeout"
    assert why.reason(told(outcome=Outcome.PUSHED)) is None


def test_a_ring_for_what_came_after_the_end_is_not_told_as_the_message_s_own() -> None:
    phone = {"device": "ab12"}
    mine = [
        event(5, "due", reason="ack_timeout"),
        event(5, "look", action="ring", reason="ack_timeout", **phone),
        event(5, "claimed", ring="r_1", kind="message", unread=1, **phone),
        event(6, "attempt", ring="r_1", verdict="retry", attempt=1, **phone),
        event(60, "outcome", outcome="expired", was="pending"),
        event(61, "look", action="cancel", reason="expired", **phone),
        event(61, "look", action="skip", reason="expired", **phone),
    ]
    of_the_next = [
        event(80, "due_moved", reason="left", until=AT_TEXT),
        event(90, "look", action="ring", reason="not_in_chat", **phone),
        event(90, "claimed", ring="r_2", kind="message", unread=2, **phone),
        event(91, "attempt", ring="r_2", verdict="retry", attempt=1, **phone),
        event(92, "look", action="retry", reason="retry", **phone),
        event(93, "attempt", ring="r_2", verdict="accepted", attempt=2, **phone),
    ]
    of_one_beside_it = [
        event(94, "outcome", outcome="undeliverable", was="pending", reason="opted_out"),
        event(94, "claimed", ring="r_3", kind="message", unread=2, **phone),
        event(95, "attempt", ring="r_3", verdict="accepted", attempt=1, **phone),
    ]
    again = [
        event(96, "outcome", outcome="pending", was="undeliverable"),
        event(97, "look", action="ring", reason="not_in_chat", **phone),
        event(97, "claimed", ring="r_4", kind="message", unread=2, **phone),
        event(98, "attempt", ring="r_4", verdict="accepted", attempt=1, **phone),
    ]
    assert list(why.own_events(told(*mine, *of_the_next))) == mine
    both = told(*of_one_beside_it, *again)
    assert list(why.own_events(both)) == [of_one_beside_it[0], *again]
    late = event(62, "attempt", ring="r_1", verdict="accepted", attempt=1, **phone)
    assert list(why.own_events(told(*mine[:5], late)))[-1] == late


def test_an_acknowledgement_is_no_end() -> None:
    events = [
        event(1, "outcome", outcome="expired", was="pending"),
        event(2, "acked", session="s-1"),
        event(3, "look", action="skip", reason="acked", device="ab12"),
    ]
    assert list(why.own_events(told(*events))) == events


def test_the_reason_of_an_ack_is_that_the_customer_was_in_chat() -> None:
    assert why.reason(told(outcome=Outcome.ACKED)) == "in_chat"


def test_a_message_that_the_customer_wrote_has_no_outcome() -> None:
    assert why.deliveries(told(outcome=None, message=FROM_CUSTOMER), AT)["outcome"] is None


def test_nothing_of_the_content_is_told() -> None:
    ring = orjson.dumps({"id": "r_1", "text": "the secret text"}).decode()
    phone = device(ring=held(ring, 4, 1), wake_at=AT)
    everything = repr(why.deliveries(told(event(1, "due"), devices=(phone,)), AT))
    assert "r_1" in everything
    assert "secret" not in everything


@pytest.mark.parametrize(
    ("outcome", "events", "after"),
    [
        (Outcome.PENDING, [event(5, "due")], None),
        (None, [], None),
        (Outcome.ACKED, [event(1, "acked", session="s-1")], 1),
        (Outcome.PUSHED, [event(5, "due"), event(6, "outcome", outcome="pushed")], 6),
        (
            Outcome.PUSHED,
            [event(6, "outcome", outcome="pushed"), event(9, "acked", session="s-1")],
            6,
        ),
        (
            Outcome.ACKED,
            [
                event(6, "outcome", outcome="expired"),
                event(7, "outcome", outcome="acked", was="expired"),
                event(7, "acked"),
                event(8, "read"),
            ],
            7,
        ),
        (
            Outcome.UNDELIVERABLE,
            [
                event(1, "outcome", outcome="undeliverable"),
                event(2, "outcome", outcome="pending", was="undeliverable"),
                event(3, "outcome", outcome="undeliverable"),
            ],
            3,
        ),
        (
            Outcome.PENDING,
            [
                event(1, "outcome", outcome="undeliverable"),
                event(2, "outcome", outcome="pending", was="undeliverable"),
            ],
            None,
        ),
    ],
)
def test_the_time_of_the_outcome_is_that_of_the_event_that_gave_it(
    outcome: Outcome | None, events: list[Event], after: float | None
) -> None:
    decided = why.decided_at(told(*events, outcome=outcome))
    assert decided == (None if after is None else AT + after)


RING = orjson.dumps({"id": "r_1"}).decode()
PHONE = {"device": fingerprint("the secret token"), "installation": "phone-1"}
SOON = "2026-11-24T09:00:05.000Z"


@pytest.mark.parametrize(
    ("stands", "waits"),
    [
        ({"due": AT + 5}, [{"for": "due", "until": SOON}]),
        ({"due": AT}, [{"for": "overdue", "until": AT_TEXT}]),
        ({"devices": (device(),)}, []),
        (
            {"devices": (device(owes=True, owed_ord=4, wake_at=AT),)},
            [{"for": "look", **PHONE}],
        ),
        (
            {"devices": (device(owes=True, owed_ord=4, wake_at=AT + 5),)},
            [{"for": "look", **PHONE, "until": SOON}],
        ),
        ({"devices": (device(owes=True, owed_ord=3, wake_at=AT),)}, []),
        (
            {"devices": (device(ring=held(RING, 4, 1), wake_at=AT),)},
            [{"for": "answer", **PHONE, "ring": "r_1", "attempt": 1}],
        ),
        (
            {"devices": (device(ring=held(RING, 4, 2), wake_at=AT + 5),)},
            [{"for": "retry", **PHONE, "ring": "r_1", "attempt": 2, "until": SOON}],
        ),
        (
            {"devices": (device(ring=held(RING, 3, 2), owes=True, owed_ord=4, wake_at=AT + 5),)},
            [{"for": "earlier_ring", **PHONE, "ring": "r_1", "attempt": 2, "until": SOON}],
        ),
        (
            {"devices": (device(owes=True, owed_ord=4, wake_at=AT, state=DeviceState.DEAD),)},
            [],
        ),
    ],
)
def test_what_a_pending_message_waits_for_is_read_from_the_rows(
    stands: dict[str, Any], waits: list[dict[str, Any]]
) -> None:
    assert why.deliveries(told(**stands), AT)["waiting"] == waits


PAUSED = event(5, "look", action="wait", reason="endpoint_down", **PHONE)


@pytest.mark.parametrize(
    ("stands", "events", "what"),
    [
        ({"owes": True, "owed_ord": 4, "wake_at": AT}, [PAUSED], "endpoint"),
        ({"ring": held(RING, 4, 1), "wake_at": AT}, [PAUSED], "endpoint"),
        ({"owes": True, "owed_ord": 4, "wake_at": AT + 5}, [PAUSED], "look"),
        (
            {"ring": held(RING, 4, 1), "wake_at": AT},
            [PAUSED, event(6, "claimed", **PHONE)],
            "answer",
        ),
        (
            {"owes": True, "owed_ord": 4, "wake_at": AT},
            [event(4, "look", action="wait", reason="held", **PHONE), event(5, "read")],
            "look",
        ),
    ],
)
def test_a_device_waits_for_its_endpoint_if_that_is_the_last_that_was_decided_of_it(
    stands: dict[str, Any], events: list[Event], what: str
) -> None:
    (waits,) = why.waiting(told(*events, devices=(device(**stands),)), AT, 0.0)
    assert waits["for"] == what


def test_a_retry_that_is_due_waits_for_its_turn_and_for_no_answer() -> None:
    failed = event(5, "attempt", ring="r_1", attempt=1, **PHONE)
    for attempt, what in ((1, "retry"), (2, "answer")):
        (waits,) = why.waiting(
            told(failed, devices=(device(ring=held(RING, 4, attempt), wake_at=AT),)), AT, 0.0
        )
        assert (waits["for"], waits["attempt"]) == (what, attempt)


def test_after_a_start_the_grace_is_what_it_waits_for() -> None:
    assert why.waiting(told(due=AT - 9), AT, restart_grace_until=AT + 5) == [
        {"for": "due", "until": SOON}
    ]
