"""What a change may do to a conversation, and that one that fails leaves no trace."""

from typing import Any

import orjson
import pytest

from storage import outcomes, sql
from storage.errors import NotRead
from storage.outcomes import Trigger
from storage.records import Conversation, Cut, Detail, Device, Event, Key, Message, Outcome, Span
from storage.transaction import Ids, Loaded, Mark, Owner, Transaction, replace
from storage.vault import Vault
from tests.storage.stored import KEY, draft

NOW = 1_795_510_800.0
OTHER = Key("acme", "c-2")
DEVICE = Device(id=4, installation="i-1", token="t-1", generation=1, registered_at=1.0)


def begin(*committed: Conversation, loaded: Loaded | None = None) -> Transaction:
    return Transaction(
        NOW, {c.key: c for c in committed}, loaded or Loaded(), Ids(7, 5, 1), Vault()
    )


def written(tx: Transaction) -> dict[str, list[Any]]:
    """The rows that a batch would write, by table, and what it would delete, by statement."""
    found: dict[str, list[Any]] = {}
    for statement, given in many(tx):
        if statement.lstrip().startswith("DELETE"):
            found[statement] = orjson.loads(given[0])
        else:
            table = statement.split()[2]
            width = len(sql.TABLES[table].columns)
            values = [None if value is sql.NULL else value for value in given]
            rows = [values[at : at + width] for at in range(0, len(values), width)]
            found.setdefault(table, []).extend(rows)
    return found


def many(tx: Transaction) -> list[Any]:
    return [(text, given) for text, given in tx.statements() if text != sql.KEEP_DEVICE_IDS]


def fresh(tx: Transaction, key: Key = KEY) -> Conversation:
    return tx.create(key, "Ann")


def state(tx: Transaction) -> Any:
    """All that a change can leave behind."""
    return (
        dict(tx.changed),
        many(tx),
        tx.counters(),
        list(tx.callbacks),
        tx.sent_before(KEY, "agent", "a-1", "r"),
        tx.owner_of_installation("acme", "i-1"),
        tx.owner_of_token("acme", "t-1"),
        tx.unacked(tx.conversation(KEY) or Conversation(0, KEY)),
    )


# Messages


def test_messages_get_their_places_in_all_three_ranks() -> None:
    tx = begin()
    c = fresh(tx)
    places = []
    for role, kind in [
        ("customer", "chat"),
        ("agent", "chat"),
        ("service", "system"),
        ("service", "proactive"),
    ]:
        c, m = tx.append_message(c, draft(role=role, kind=kind))
        places.append((m.seq, m.ord, m.said))
        assert (c.last_seq, c.last_ord, c.last_said) == places[-1]
    assert places == [(1, 0, 1), (2, 1, 1), (3, 1, 1), (4, 2, 1)]
    assert c.unread == 2


def test_a_counted_message_is_accepted_pending_unread_and_raises_the_badge_seq() -> None:
    tx = begin()
    c, m = tx.append_message(fresh(tx), draft())
    assert (c.unread, c.badge_seq, c.newest, c.newest_counted) == (1, 1, m, m)
    assert tx.counters() == {("acme", "accepted"): 1, ("acme", "pending"): 1}


def test_what_the_customer_writes_counts_as_nothing() -> None:
    tx = begin()
    c, m = tx.append_message(fresh(tx), draft(role="customer"))
    assert (c.unread, c.badge_seq, c.newest, c.newest_counted) == (0, 0, m, None)
    assert tx.counters() == {}
    assert c.expires_at is None


def test_the_conversation_expires_with_its_first_message_to_expire() -> None:
    tx = begin()
    c = fresh(tx)
    seen = []
    for expires_at in (None, NOW + 60, NOW + 30, None, NOW + 90):
        c, _ = tx.append_message(c, draft(expires_at=expires_at))
        seen.append(c.expires_at)
    assert seen == [None, NOW + 60, NOW + 30, NOW + 30, NOW + 30]


def test_further_fields_are_changed_together_with_the_message() -> None:
    tx = begin()
    c, m = tx.append_message(fresh(tx), draft(), live=True, push_due_at=NOW + 5)
    assert (c.live, c.push_due_at, c.updated_at, m.at) == (True, NOW + 5, NOW, NOW)
    assert tx.conversation(KEY) == c


def test_a_ref_is_known_to_the_changes_that_follow() -> None:
    tx = begin()
    _, m = tx.append_message(fresh(tx), draft(ref="r"))
    assert tx.sent_before(KEY, "agent", "a-1", "r") == m
    for other in [
        (OTHER, "agent", "a-1", "r"),
        (KEY, "customer", "a-1", "r"),
        (KEY, "agent", "a-2", "r"),
        (KEY, "agent", "a-1", "s"),
    ]:
        assert tx.sent_before(*other) is None


def test_unacked_are_the_counted_messages_after_the_cursor_also_of_this_batch() -> None:
    tx = begin(loaded=Loaded(unacked={KEY: []}))
    c = fresh(tx)
    messages: list[Message] = []
    for role in ("agent", "customer", "agent", "agent"):
        c, m = tx.append_message(c, draft(role=role))
        messages.append(m)
    assert tx.unacked(c) == [messages[0], messages[2], messages[3]]
    c, _ = tx.acknowledge(c, messages[2].cut)
    assert tx.unacked(c) == [messages[3]]


def test_what_is_unacked_is_asked_for_unless_there_is_nothing() -> None:
    tx = begin()
    assert tx.unacked(fresh(tx)) == []
    c, m = tx.append_message(fresh(tx), draft())
    with pytest.raises(NotRead) as lacking:
        tx.unacked(c)
    assert lacking.value.keys == (KEY,)
    c, _ = tx.acknowledge(c, m.cut)
    assert tx.unacked(c) == []


# Acks and reads


def three_messages(tx: Transaction) -> Conversation:
    c = fresh(tx)
    for _ in range(3):
        c, _ = tx.append_message(c, draft(expires_at=NOW + 60), hold_from=NOW)
    return c


def test_what_is_pending_again_was_not_held_by_the_joins_before() -> None:
    tx = begin()
    c, message = tx.append_message(fresh(tx), draft())
    settled, _ = tx.transition(c, message.before, message.cut, Trigger.NO_DEVICE_LEFT, "no_device")
    held = tx.put(replace(settled, hold_from=NOW))
    assert tx.make_pending(held, [], Trigger.REGISTRATION).hold_from == NOW
    assert tx.make_pending(held, [message], Trigger.REGISTRATION).hold_from is None


def test_what_is_pending_again_beside_others_leaves_their_hold() -> None:
    tx = begin()
    c, message = tx.append_message(fresh(tx), draft())
    c, _ = tx.transition(c, message.before, message.cut, Trigger.NO_DEVICE_LEFT, "no_device")
    c, _ = tx.append_message(c, draft(), hold_from=NOW)
    assert tx.make_pending(c, [message], Trigger.REGISTRATION).hold_from == NOW


def test_an_ack_of_everything_ends_hold_and_expiry_and_counts() -> None:
    tx = begin()
    c, moves = tx.acknowledge(three_messages(tx), Cut(3, 3))
    assert (c.acked, c.hold_from, c.expires_at) == (Cut(3, 3), None, None)
    assert [(m.origin, m.span.outcome, m.span.count) for m in moves] == [
        (Outcome.PENDING, Outcome.ACKED, 3)
    ]
    assert tx.counters()["acme", "acked"] == 3
    assert tx.counters()["acme", "pending"] == 0
    assert tx.conversation(KEY) == c


def test_an_ack_after_which_nothing_is_pending_ends_hold_and_expiry() -> None:
    tx = begin()
    c = three_messages(tx)
    c, _ = tx.transition(c, Cut(2, 2), Cut(3, 3), Trigger.EXPIRY)
    c, _ = tx.acknowledge(c, Cut(2, 2))
    assert (c.acked, c.hold_from, c.expires_at) == (Cut(2, 2), None, None)


def test_an_ack_of_what_had_its_outcome_keeps_the_hold_of_what_joins_hold_now() -> None:
    tx = begin()
    c = three_messages(tx)
    c, _ = tx.transition(c, Cut(0, 0), Cut(3, 3), Trigger.ACCEPTANCE)
    c, _ = tx.acknowledge(c, Cut(3, 3))
    assert (c.acked, c.hold_from, c.expires_at) == (Cut(3, 3), NOW, None)


def test_a_partial_ack_keeps_hold_and_expiry() -> None:
    tx = begin()
    c, _ = tx.acknowledge(three_messages(tx), Cut(2, 2))
    assert (c.acked, c.hold_from, c.expires_at) == (Cut(2, 2), NOW, NOW + 60)


def test_an_ack_of_only_the_customers_own_message_keeps_the_hold() -> None:
    tx = begin()
    c, _ = tx.append_message(fresh(tx), draft(role="customer"))
    c, _ = tx.append_message(c, draft(expires_at=NOW + 60), hold_from=NOW)
    c, moves = tx.acknowledge(c, Cut(1, 0))
    assert (c.acked, c.hold_from, c.expires_at, moves) == (Cut(1, 0), NOW, NOW + 60, ())


def test_a_touch_writes_and_changes_nothing() -> None:
    tx = begin()
    tx.touch()
    assert len(tx.statements()) > 0
    assert tx.changed == {}


def test_an_ack_of_what_was_acked_changes_nothing() -> None:
    tx = begin(loaded=Loaded(unacked={KEY: []}))
    c, _ = tx.acknowledge(three_messages(tx), Cut(2, 2))
    before = state(tx)
    assert tx.acknowledge(c, Cut(2, 2)) == (c, ())
    assert tx.acknowledge(c, Cut(1, 1)) == (c, ())
    assert state(tx) == before


def test_reading_raises_the_badge_seq_only_when_unread_changes() -> None:
    tx = begin()
    c = three_messages(tx)
    c, _ = tx.append_message(c, draft(role="customer"))
    c, _ = tx.acknowledge(c, Cut(4, 3))
    c = tx.mark_read(c, Cut(3, 3))
    assert (c.read_seq, c.unread, c.badge_seq) == (3, 0, 4)
    c = tx.mark_read(c, Cut(4, 3))
    assert (c.read_seq, c.unread, c.badge_seq) == (4, 0, 4)
    assert tx.mark_read(c, Cut(2, 2)) is c


# Outcomes


def events(tx: Transaction) -> list[Event]:
    names = Event.__struct_fields__
    found = written(tx).get("events", [])
    return [Event(**dict(zip(names, row[2:], strict=True))) for row in found]


def test_outcomes_are_counted_written_and_recorded_with_their_reason() -> None:
    tx = begin()
    c = three_messages(tx)
    c, _ = tx.transition(c, Cut(0, 0), Cut(2, 2), Trigger.NO_DEVICE_LEFT, "no_device")
    assert tx.counters() == {
        ("acme", "accepted"): 3,
        ("acme", "pending"): 1,
        ("acme", "undeliverable"): 2,
    }
    assert written(tx)["outcomes"] == [[7, 0, 0, 2, 2, "undeliverable", "no_device"]]
    (event,) = events(tx)
    assert (event.from_seq, event.seq, event.event, event.at) == (1, 2, "outcome", NOW)
    assert orjson.loads(event.detail or "") == {
        "outcome": "undeliverable",
        "was": "pending",
        "reason": "no_device",
    }


def test_what_is_pending_again_is_what_was_named_and_expires_in_time() -> None:
    tx = begin()
    c, messages = fresh(tx), list[Message]()
    for expires_at in (NOW + 90, NOW + 60, None):
        c, m = tx.append_message(c, draft(expires_at=expires_at))
        messages.append(m)
    c, _ = tx.transition(c, Cut(0, 0), Cut(3, 3), Trigger.NO_DEVICE_LEFT, "no_device")
    c = tx.put(replace(c, expires_at=None))
    assert tx.make_pending(c, messages[2:], Trigger.REPLAY).expires_at is None
    c = tx.make_pending(c, messages[:1], Trigger.REGISTRATION)
    assert (outcomes.pending(c), c.expires_at) == ([Span(0, 0, 1, 1, Outcome.PENDING)], NOW + 90)
    c = tx.make_pending(c, messages[1:], Trigger.REGISTRATION)
    assert (c.settled, c.expires_at) == ((), NOW + 60)
    assert tx.conversation(KEY) == c
    assert tx.make_pending(c, [], Trigger.REPLAY) is c


def test_an_ack_in_chat_is_not_recorded_twice() -> None:
    tx = begin()
    tx.acknowledge(three_messages(tx), Cut(3, 3))
    assert events(tx) == []


def test_an_ack_after_expiry_is_recorded_as_a_change_of_outcome() -> None:
    tx = begin()
    c = three_messages(tx)
    c, _ = tx.transition(c, Cut(0, 0), Cut(3, 3), Trigger.EXPIRY, "expired")
    tx.acknowledge(c, Cut(3, 3))
    assert [orjson.loads(e.detail or "")["outcome"] for e in events(tx)] == ["expired", "acked"]
    assert "outcomes" not in written(tx)


def test_an_event_without_details_has_none() -> None:
    tx = begin()
    tx.event(fresh(tx), 1, 2, "due")
    assert events(tx) == [Event(7, 1, 2, NOW, "due", None)]


def test_of_an_events_details_what_is_none_is_not_told() -> None:
    tx = begin()
    tx.event(fresh(tx), 1, 2, "attempt", Detail(reason="timeout", status=None, attempt=0))
    assert events(tx) == [Event(7, 1, 2, NOW, "attempt", '{"reason":"timeout","attempt":0}')]


# Devices


def test_a_registered_device_owns_its_installation_and_its_token() -> None:
    tx = begin()
    c = tx.move_token(fresh(tx), DEVICE)
    assert c.devices == (DEVICE,)
    assert tx.owner_of_installation("acme", "i-1") == Owner(KEY, 4)
    assert tx.owner_of_token("acme", "t-1") == Owner(KEY, 4)
    assert tx.owner_of_token("other", "t-1") is None


def test_a_removed_device_owns_nothing() -> None:
    tx = begin()
    c = tx.remove_device(tx.move_token(fresh(tx), DEVICE), DEVICE)
    assert c.devices == ()
    assert tx.owner_of_installation("acme", "i-1") is None
    assert tx.owner_of_token("acme", "t-1") is None


def test_removing_a_device_takes_nothing_from_a_later_owner() -> None:
    tx = begin()
    first = tx.move_token(fresh(tx), DEVICE)
    second = replace(DEVICE, id=5)
    tx.move_token(fresh(tx, OTHER), second)
    tx.remove_device(first, DEVICE)
    assert tx.owner_of_token("acme", "t-1") == Owner(OTHER, 5)
    assert tx.owner_of_installation("acme", "i-1") == Owner(OTHER, 5)


def test_a_token_that_moves_is_deleted_before_it_is_inserted() -> None:
    mine = Conversation(1, KEY, devices=(DEVICE,))
    tx = begin(mine)
    tx.remove_device(mine, DEVICE)
    tx.move_token(fresh(tx, OTHER), replace(DEVICE, id=tx.new_device_id()))
    order = [text for text, _ in many(tx)]
    assert order.index(sql.DELETE_DEVICES) < order.index(sql.DEVICES.statement(1))
    assert written(tx)[sql.DELETE_DEVICES] == [4]


def test_a_device_whose_token_changes_makes_room_first() -> None:
    mine = Conversation(1, KEY, devices=(DEVICE,))
    tx = begin(mine)
    tx.move_token(mine, replace(DEVICE, token="t-2", generation=2))
    assert written(tx)[sql.DELETE_DEVICES] == [4]
    assert len(written(tx)["devices"]) == 1


def test_of_a_device_that_is_only_rung_the_registration_is_not_written() -> None:
    mine = Conversation(1, KEY, devices=(DEVICE,))
    tx = begin(mine)
    tx.put(mine.with_device(replace(DEVICE, covered=Cut(1, 1))))
    assert "devices" not in written(tx)
    assert [row[:3] for row in written(tx)["ringing"]] == [[4, 1, 1]]


def test_a_device_that_did_not_change_is_not_written() -> None:
    mine = Conversation(1, KEY, devices=(DEVICE,))
    tx = begin(mine)
    tx.put(replace(mine, live=True))
    assert not written(tx).keys() & {"devices", "ringing"}
    assert sql.DELETE_DEVICES not in written(tx)


def test_device_ids_rise_and_the_highest_is_kept_even_if_its_device_went_again() -> None:
    tx = begin()
    assert [tx.new_device_id(), tx.new_device_id()] == [5, 6]
    assert (sql.KEEP_DEVICE_IDS, (6,)) in tx.statements()
    assert begin().statements() == []


# Failing alone


def everything(tx: Transaction) -> None:
    """A change that does all that a change can do."""
    c = tx.conversation(KEY) or tx.create(KEY, None)
    c, m = tx.append_message(c, draft("two", ref="r"), live=True)
    c, _ = tx.transition(c, Cut(0, 0), m.cut, Trigger.EXPIRY, "expired")
    c, _ = tx.acknowledge(c, m.cut)
    c = tx.mark_read(c, m.cut)
    tx.event(c, 1, 1, "due")
    tx.after_commit(lambda: None)
    tx.also(("SELECT 1", ()))
    c = tx.move_token(c, DEVICE)
    tx.remove_device(c, DEVICE)
    tx.move_token(fresh(tx, OTHER), DEVICE)


@pytest.mark.parametrize("first", [False, True])
def test_rolling_back_leaves_everything_as_it_was(first: bool) -> None:
    tx = begin(loaded=Loaded(unacked={KEY: []}))
    if first:
        c, _ = tx.append_message(fresh(tx), draft("one"))
        tx.move_token(c, replace(DEVICE, id=3))
        tx.after_commit(lambda: None)
    before = state(tx)
    savepoint = tx.savepoint()
    everything(tx)
    assert state(tx) != before
    tx.rollback(savepoint)
    assert state(tx) == before


def test_what_was_committed_is_seen_until_it_is_changed() -> None:
    mine = Conversation(1, KEY)
    tx = begin(mine)
    assert tx.conversation(KEY) is mine
    assert tx.conversation(OTHER) is None
    changed = tx.put(replace(mine, live=True))
    assert tx.conversation(KEY) is changed


def test_a_mark_is_known_only_if_it_was_asked_for() -> None:
    mark = Mark(Cut(3, 2), 1, NOW)
    mine = Conversation(1, KEY)
    tx = begin(mine, loaded=Loaded(marks={(KEY, 3): mark}))
    assert tx.mark(mine, 3) is mark
    assert tx.mark(mine, 4) is None


def test_a_message_of_this_batch_is_a_cut_too_until_its_change_is_undone() -> None:
    tx = begin()
    c, _ = tx.append_message(fresh(tx), draft())
    before = tx.savepoint()
    c, _ = tx.append_message(c, draft(role="customer"))
    assert tx.appended(c, 1) == Mark(Cut(1, 1), 0, None)
    assert tx.appended(c, 2) == Mark(Cut(2, 1), 1, None)
    assert tx.appended(c, 3) is None
    tx.rollback(before)
    assert tx.appended(c, 2) is None
