"""Records: what follows from their fields, and what they keep to themselves."""

import re
from typing import Any

import msgspec
import pytest

from storage.records import (
    Conversation,
    Cut,
    Device,
    DeviceState,
    Draft,
    Event,
    Key,
    Message,
    Outcome,
    RingInHand,
    Span,
    fingerprint,
)
from storage.vault import Sealed

SECRET = "never to be seen"


def device(id: int, **fields: Any) -> Device:
    return Device(
        id=id,
        installation=f"i-{id}",
        token=f"{SECRET} {id}",
        generation=2,
        registered_at=1.0,
        **fields,
    )


def message(**fields: Any) -> Message:
    given: dict[str, Any] = dict.fromkeys(Message.__struct_fields__) | {
        "conversation": 1,
        "seq": 9,
        "ord": 4,
        "said": 5,
        "id": "m_9",
        "kind": "chat",
        "text": SECRET,
        "title": SECRET,
        "data": f'{{"a":"{SECRET}"}}',
    }
    return Message(**given | fields)


CONVERSATION = Conversation(
    id=1,
    key=Key("acme", "c-1"),
    last_seq=9,
    last_ord=4,
    last_said=5,
    acked_seq=7,
    acked_ord=3,
    read_seq=5,
    read_ord=1,
    agent_read_said=2,
)


def test_unread_is_the_counted_messages_after_the_read_mark() -> None:
    assert CONVERSATION.unread == 3


def test_waiting_is_what_the_customer_wrote_after_the_agents_read_mark() -> None:
    assert CONVERSATION.waiting == 3


def test_a_conversation_is_named_by_tenant_and_customer() -> None:
    assert CONVERSATION.key == ("acme", "c-1")
    assert (CONVERSATION.tenant, CONVERSATION.customer) == CONVERSATION.key


def test_cursors_are_cuts() -> None:
    assert (CONVERSATION.last, CONVERSATION.acked) == (Cut(9, 4), Cut(7, 3))
    assert message().cut == Cut(9, 4)
    assert message().before == Cut(8, 3)


@pytest.mark.parametrize(
    ("held", "upto"),
    [
        (None, Cut(3, 2)),
        (RingInHand("{}", Cut(9, 4), 1), Cut(9, 4)),
        (RingInHand("{}", Cut(0, 0), 1), Cut(3, 2)),
    ],
)
def test_a_device_is_rung_up_to_where_its_ring_in_hand_covers(
    held: RingInHand | None, upto: Cut
) -> None:
    assert device(1, covered=Cut(3, 2), ring=held).rung_to == upto


@pytest.mark.parametrize(
    ("covered", "first", "done"), [(Cut(0, 0), 8, 3), (Cut(8, 3), 9, 3), (Cut(9, 4), 10, 4)]
)
def test_what_is_left_for_a_device_is_neither_acknowledged_nor_covered(
    covered: Cut, first: int, done: int
) -> None:
    phone = device(1, covered=covered)
    assert (CONVERSATION.left_from(phone), CONVERSATION.done_ord(phone)) == (first, done)


def test_a_span_counts_its_counted_messages() -> None:
    span = Span(2, 1, 9, 4, Outcome.PUSHED)
    assert (span.lo, span.hi, span.count) == (Cut(2, 1), Cut(9, 4), 3)


@pytest.mark.parametrize(("expires_at", "over"), [(None, False), (9.0, True), (9.1, False)])
def test_what_expires_has_expired_at_its_time(expires_at: float | None, over: bool) -> None:
    assert message(expires_at=expires_at).has_expired(9.0) is over
    c = msgspec.structs.replace(CONVERSATION, expires_at=expires_at)
    assert c.is_expiring(9.0) is over


def test_an_event_says_its_details_if_it_has_any() -> None:
    assert Event(1, 8, 9, 0.5, "due", '{"reason":"not_in_chat"}').details == {
        "reason": "not_in_chat"
    }
    assert Event(1, 8, 9, 0.5, "due").details == {}


@pytest.mark.parametrize(
    ("state", "live"),
    [(DeviceState.LIVE, True), (DeviceState.DEAD, False), (DeviceState.QUARANTINED, False)],
)
def test_only_a_live_registration_may_be_rung(state: DeviceState, live: bool) -> None:
    c = CONVERSATION.with_device(device(1, state=state)).with_device(device(2))
    assert [d.id for d in c.live_devices] == ([1, 2] if live else [2])
    assert device(1, state=state).live is live


@pytest.mark.parametrize(
    ("wake_at", "quiet_end", "waits"),
    [
        (5.0, 5.0, True),
        (6.0, 5.0, False),
        (5.0, None, False),
        (None, 5.0, False),
        (None, None, False),
    ],
)
def test_a_device_waits_for_the_morning_while_it_wakes_then(
    wake_at: float | None, quiet_end: float | None, waits: bool
) -> None:
    assert device(1, wake_at=wake_at, quiet_end=quiet_end).waits_for_morning is waits


def test_a_new_device_comes_last_and_a_known_one_keeps_its_place() -> None:
    c = CONVERSATION.with_device(device(1)).with_device(device(2))
    c = c.with_device(device(1, badge=3))
    assert [(d.id, d.badge) for d in c.devices] == [(1, 3), (2, None)]


def test_a_device_is_found_by_its_id_and_removed_by_it() -> None:
    c = CONVERSATION.with_device(device(1)).with_device(device(2))
    assert c.device(2) == device(2)
    assert c.device(3) is None
    assert c.without_device(1).devices == (device(2),)
    assert c.without_device(3) == c


def test_records_cannot_be_changed_in_place() -> None:
    record: Any
    for record, name in ((CONVERSATION, "last_seq"), (message(), "seq"), (device(1), "owes")):
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


@pytest.mark.parametrize(
    ("role", "kind", "counted"),
    [
        ("agent", "chat", True),
        ("service", "proactive", True),
        ("agent", "system", False),
        ("customer", "chat", False),
    ],
)
def test_what_the_company_owes_the_customer_is_counted(role: str, kind: str, counted: bool) -> None:
    assert Draft("m_9", role, "a", None, kind, "hello").counted is counted


def test_a_message_is_its_place_and_then_its_draft() -> None:
    assert Message.__struct_fields__[5:] == Draft.__struct_fields__


def test_no_repr_tells_a_token_a_ring_or_a_text() -> None:
    draft = Draft("m_9", "agent", "a", SECRET, "chat", SECRET, data=SECRET, title=SECRET)
    rung = device(1, ring=RingInHand(f'{{"text":"{SECRET}"}}', Cut(9, 4), 1))
    full = msgspec.structs.replace(
        CONVERSATION, devices=(rung,), newest=message(), newest_counted=message()
    )
    told = repr([draft, message(), rung, rung.ring, full])
    assert SECRET not in told
    assert "m_9" in told
    assert "generation=2" in told


def test_a_fingerprint_names_a_token_and_does_not_tell_it() -> None:
    assert fingerprint("the-device-token") == fingerprint("the-device-token")
    assert fingerprint("the-device-token") != fingerprint("another")
    assert re.fullmatch("[0-9a-f]{12}", fingerprint("the-device-token"))


def test_a_registration_is_found_by_its_token_or_by_the_hash_that_stands_for_it() -> None:
    assert device(1).found_by == f"{SECRET} 1"
    assert device(1, sealed=Sealed("ab12")).found_by == "ab12"
