"""Every frame made of records: what it says, what it leaves out, and that protocol.py knows it."""

from typing import Any

import msgspec
import orjson
import pytest

from gateway import frames, protocol
from gateway.protocol import ErrorCode, FrameError, ReceiptState
from storage.records import Conversation, Key, Message

AT = 1_795_510_800.25
AT_TEXT = "2026-11-24T09:00:00.250Z"

MESSAGE = Message(
    conversation=3,
    seq=9,
    ord=4,
    said=5,
    id="m_9",
    role="agent",
    author="a-1",
    name=None,
    kind="chat",
    text="hello é",
    data=None,
    title="a title",
    at=AT,
    expires_at=AT + 60,
    ref="r-9",
    route="push",
    reason="not_in_chat",
    sessions="s-1 s-2",
    due_at=AT,
)
PLAIN = {
    "type": "message",
    "seq": 9,
    "id": "m_9",
    "from": {"role": "agent", "id": "a-1"},
    "text": "hello é",
    "kind": "chat",
    "at": AT_TEXT,
}
CONVERSATION = Conversation(
    id=3,
    key=Key("acme", "c-1"),
    live=True,
    last_seq=9,
    last_ord=4,
    last_said=5,
    acked_seq=7,
    acked_ord=3,
    read_seq=5,
    read_ord=1,
    agent_acked_seq=6,
    agent_acked_said=4,
    agent_read_seq=2,
    agent_read_said=2,
    badge_seq=17,
    updated_at=AT,
)


def changed(**fields: Any) -> Message:
    return msgspec.structs.replace(MESSAGE, **fields)


def told(frame: Any) -> Any:
    """`frame` as a client reads it."""
    return orjson.loads(protocol.encode(frame))


def fits(frame: Any, shape: Any) -> bool:
    """Whether `frame` has all fields that `shape` (a TypedDict) requires, and no unknown one."""
    known = shape.__required_keys__ | shape.__optional_keys__
    return bool(shape.__required_keys__ <= frame.keys() <= known)


# Messages


def test_a_message_tells_what_the_protocol_lists_and_nothing_of_its_delivery() -> None:
    assert told(frames.message(MESSAGE)) == PLAIN


def test_the_authors_name_is_told_if_known() -> None:
    named = frames.message(changed(name="Ann"))
    assert told(named)["from"] == {"role": "agent", "id": "a-1", "name": "Ann"}


def test_data_arrives_as_the_object_that_was_sent() -> None:
    assert told(frames.message(changed(data='{"a":[1,{"b":null}]}')))["data"] == {
        "a": [1, {"b": None}]
    }


def test_a_ref_is_told_only_if_asked_for_and_there_is_one() -> None:
    assert told(frames.message(MESSAGE, ref=True)) == PLAIN | {"ref": "r-9"}
    assert told(frames.message(changed(ref=None), ref=True)) == PLAIN


def test_agents_are_told_whose_conversation_it_is() -> None:
    assert told(frames.message(MESSAGE, customer="c-1")) == PLAIN | {"customer": "c-1"}


@pytest.mark.parametrize(
    ("role", "author", "own"),
    [("customer", "c-1", True), ("customer", "c-2", False), ("agent", "c-1", False)],
)
def test_a_customer_sees_the_ref_of_what_the_customer_wrote(
    role: str, author: str, own: bool
) -> None:
    frame = told(frames.for_customer(changed(role=role, author=author), "c-1"))
    assert frame.get("ref") == ("r-9" if own else None)
    assert "customer" not in frame


@pytest.mark.parametrize(
    ("role", "author", "own"),
    [("agent", "a-1", True), ("agent", "a-2", False), ("service", "a-1", False)],
)
def test_an_agent_sees_the_ref_of_what_this_agent_wrote(role: str, author: str, own: bool) -> None:
    frame = told(frames.for_agent(changed(role=role, author=author), "c-1", "a-1"))
    assert frame.get("ref") == ("r-9" if own else None)
    assert frame["customer"] == "c-1"


# Pages


def texts(*sizes: int) -> list[Message]:
    return [changed(seq=n, text="x" * size) for n, size in enumerate(sizes, 1)]


@pytest.mark.parametrize(
    ("sizes", "room", "kept", "older"),
    [
        ((3, 3, 3), 9, [1, 2, 3], False),
        ((3, 3, 3), 8, [2, 3], True),
        ((3, 3, 3), 3, [3], True),
        ((3, 3, 30), 3, [3], True),
        ((30,), 3, [1], False),
        ((30, 1, 1), 3, [2, 3], True),
        ((), 3, [], False),
    ],
)
def test_a_page_keeps_the_newest_that_fit_and_at_least_one(
    sizes: tuple[int, ...], room: int, kept: list[int], older: bool
) -> None:
    page, more = frames.page(texts(*sizes), room, more=False)
    assert ([m.seq for m in page], more) == (kept, older)


def test_a_page_that_fits_has_more_if_there_was_more() -> None:
    page, more = frames.page(texts(1, 1), 10, more=True)
    assert (len(page), more) == (2, True)


def test_a_page_is_measured_in_bytes_with_the_data() -> None:
    wide = [changed(seq=1, text="x"), changed(seq=2, text="éé"), changed(seq=3, data='{"a":1}')]
    size = len("éé".encode()) + len(MESSAGE.text.encode()) + len('{"a":1}')
    assert [m.seq for m in frames.page(wide, size, more=False)[0]] == [2, 3]
    assert [m.seq for m in frames.page(wide, size - 1, more=False)[0]] == [3]


# Answers


def test_the_answer_to_a_send_names_its_place() -> None:
    answer = told(frames.sent(MESSAGE, duplicate=False))
    assert answer == {"type": "sent", "ref": "r-9", "seq": 9, "id": "m_9", "at": AT_TEXT}


def test_the_answer_to_a_repeated_send_says_so() -> None:
    first = told(frames.sent(MESSAGE, duplicate=False))
    assert told(frames.sent(MESSAGE, duplicate=True)) == first | {"duplicate": True}


@pytest.mark.parametrize("duplicate", [False, True])
def test_an_agent_is_also_answered_where_the_message_went(duplicate: bool) -> None:
    answer = told(frames.agent_sent(MESSAGE, "c-1", duplicate=duplicate))
    assert answer == told(frames.sent(MESSAGE, duplicate=duplicate)) | {
        "customer": "c-1",
        "route": "push",
        "reason": "not_in_chat",
    }


def test_an_error_tells_code_and_message() -> None:
    error = FrameError(ErrorCode.CONFLICT, "used before")
    assert told(frames.error(error)) == {
        "type": "error",
        "code": "conflict",
        "message": "used before",
    }


def test_an_error_tells_the_ref_and_when_to_try_again() -> None:
    error = FrameError(ErrorCode.RATE_LIMITED, "too fast", "r-1", retry_after=1 / 3)
    frame = told(frames.error(error))
    assert (frame["ref"], frame["retry_after"]) == ("r-1", 0.333)


def test_an_error_without_a_ref_is_told_under_that_of_its_request() -> None:
    error = FrameError(ErrorCode.FORBIDDEN, "for somebody else")
    assert told(frames.error(error, "r-2"))["ref"] == "r-2"
    named = FrameError(ErrorCode.CONFLICT, "used before", "r-1")
    assert told(frames.error(named, "r-2"))["ref"] == "r-1"


def test_an_error_that_may_be_retried_at_once_says_zero() -> None:
    error = FrameError(ErrorCode.RATE_LIMITED, "too fast", retry_after=0.0)
    assert told(frames.error(error))["retry_after"] == 0


# The conversation


def test_the_status_is_computed_from_the_cursors() -> None:
    assert told(frames.status(CONVERSATION)) == {
        "type": "status",
        "seq": 9,
        "read_seq": 5,
        "unread": 3,
        "badge_seq": 17,
        "live": True,
        "agents_acked_seq": 6,
        "agents_read_seq": 2,
    }
    assert frames.status(CONVERSATION) == {"type": "status", **frames.facts(CONVERSATION)}


def test_an_inbox_entry_counts_what_the_agents_have_not_read() -> None:
    assert told(frames.entry(CONVERSATION, in_chat=True)) == {
        "customer": "c-1",
        "live": True,
        "in_chat": True,
        "seq": 9,
        "unread": 3,
        "waiting": 3,
        "updated_at": AT_TEXT,
    }


def test_an_inbox_entry_shows_the_name_and_the_newest_message() -> None:
    c = msgspec.structs.replace(CONVERSATION, name="Cleo", newest=changed(data='{"a":1}'))
    entry = told(frames.entry(c, in_chat=False))
    assert (entry["name"], entry["in_chat"]) == ("Cleo", False)
    assert entry["last"] == PLAIN | {"customer": "c-1", "data": {"a": 1}}


def test_an_inbox_entry_says_since_when_a_customer_waits_for_an_answer() -> None:
    c = msgspec.structs.replace(CONVERSATION, unanswered_since=AT)
    assert told(frames.entry(c, in_chat=True))["unanswered_since"] == AT_TEXT


def test_an_inbox_update_carries_the_entry() -> None:
    frame = frames.inbox_update(CONVERSATION, in_chat=True)
    assert frame == {
        "type": "inbox_update",
        "conversation": frames.entry(CONVERSATION, in_chat=True),
    }


def test_a_receipt_names_the_messages_their_state_and_the_time() -> None:
    receipt = told(frames.receipt("c-1", 2, 9, ReceiptState.DELIVERED, AT))
    assert receipt == {
        "type": "receipt",
        "customer": "c-1",
        "from_seq": 2,
        "seq": 9,
        "state": "delivered",
        "at": AT_TEXT,
    }


def test_a_receipt_gives_the_reason_if_there_is_one() -> None:
    receipt = frames.receipt("c-1", 2, 9, ReceiptState.UNDELIVERABLE, AT, "no_device")
    assert told(receipt)["reason"] == "no_device"


def test_presence_tells_the_number_of_sessions() -> None:
    assert told(frames.presence("c-1", in_chat=False, sessions=2)) == {
        "type": "presence",
        "customer": "c-1",
        "in_chat": False,
        "sessions": 2,
    }


@pytest.mark.parametrize(
    ("frame", "shape"),
    [
        (frames.for_customer(MESSAGE, "c-1"), protocol.Message),
        (frames.for_agent(MESSAGE, "c-1", "a-1"), protocol.AgentMessage),
        (frames.sent(MESSAGE, duplicate=True), protocol.Sent),
        (frames.agent_sent(MESSAGE, "c-1", duplicate=True), protocol.AgentSent),
        (frames.status(CONVERSATION), protocol.Status),
        (frames.entry(CONVERSATION, in_chat=True), protocol.ConversationEntry),
        (frames.inbox_update(CONVERSATION, in_chat=True), protocol.InboxUpdate),
        (frames.receipt("c-1", 1, 2, ReceiptState.READ, AT, "x"), protocol.Receipt),
        (frames.presence("c-1", in_chat=True, sessions=1), protocol.Presence),
        (
            frames.error(FrameError(ErrorCode.INTERNAL, "x", "r", retry_after=1)),
            protocol.Error,
        ),
    ],
)
def test_every_frame_has_the_fields_that_the_protocol_declares(frame: Any, shape: Any) -> None:
    assert fits(frame, shape)
