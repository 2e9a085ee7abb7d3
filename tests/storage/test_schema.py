"""What the schema itself forbids, whatever the code above it does."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from storage import sql
from storage.records import Conversation, Cut, Device, Key, RingInHand
from storage.schema import COUNTED, MIGRATIONS
from storage.sql import conversation_row, device_row, ringing_row


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = 1")
    for migration in MIGRATIONS:
        for statement in migration:
            connection.execute(statement)
    yield connection
    connection.close()


def insert(db: sqlite3.Connection, table: str, values: tuple[Any, ...] | dict[str, Any]) -> None:
    columns = f" ({', '.join(values)})" if isinstance(values, dict) else ""
    given = tuple(values.values()) if isinstance(values, dict) else values
    db.execute(f"INSERT INTO {table}{columns} VALUES ({', '.join('?' * len(given))})", given)


def conversation(db: sqlite3.Connection, id: int = 1, tenant: str = "acme", **fields: Any) -> None:
    c = Conversation(id, Key(tenant, f"c-{id}"), **fields)
    names = [row[1] for row in db.execute("PRAGMA table_info(conversations)")]
    order = (
        "id", "tenant", "customer", "name", "live", "unanswered_since", "last_seq", "last_ord",
        "last_said", "acked_seq", "acked_ord", "read_seq", "read_ord", "agent_acked_seq",
        "agent_acked_said", "agent_read_seq", "agent_read_said", "badge_seq", "push_due_at",
        "hold_from", "expires_at", "updated_at", "last_event", "newest_counted_seq",
    )  # fmt: skip
    assert sorted(names) == sorted(order)
    insert(db, "conversations", dict(zip(order, conversation_row(c), strict=True)))


def device(db: sqlite3.Connection, id: int, where: Conversation, **fields: Any) -> None:
    given: dict[str, Any] = {
        "installation": f"i-{id}",
        "token": f"t-{id}",
        "generation": 1,
        "registered_at": 1.0,
    }
    registered = Device(id=id, **given | fields)
    names = (*sql.DEVICE, "tenant", "conversation")
    insert(db, "devices", dict(zip(names, device_row(where, registered), strict=True)))
    names = ("device", *sql.RINGING)
    insert(db, "ringing", dict(zip(names, ringing_row(registered), strict=True)))


def message(db: sqlite3.Connection, seq: int, **fields: Any) -> None:
    given: dict[str, Any] = {
        "conversation": 1,
        "seq": seq,
        "ord": seq,
        "said": 0,
        "id": f"m_{seq}",
        "role": "agent",
        "author": "a-1",
        "kind": "chat",
        "text": "hello",
        "at": 1.0,
    }
    insert(db, "messages", given | fields)


ONE = Conversation(1, Key("acme", "c-1"))
TWO = Conversation(2, Key("acme", "c-2"))
ELSEWHERE = Conversation(3, Key("other", "c-3"))


@pytest.fixture
def people(db: sqlite3.Connection) -> sqlite3.Connection:
    for c in (ONE, TWO, ELSEWHERE):
        conversation(db, c.id, c.tenant, last_seq=9, last_ord=9)
    return db


def test_a_token_belongs_to_one_registration_of_a_tenant(people: sqlite3.Connection) -> None:
    device(people, 1, ONE, token="t")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        device(people, 2, TWO, token="t")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        device(people, 3, ONE, token="t")
    device(people, 4, ELSEWHERE, token="t")


def test_an_installation_holds_at_most_one_token(people: sqlite3.Connection) -> None:
    device(people, 1, ONE, installation="i")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        device(people, 2, TWO, installation="i")
    device(people, 3, ELSEWHERE, installation="i")


def test_the_id_of_a_deleted_device_is_not_given_again(people: sqlite3.Connection) -> None:
    device(people, 7, ONE)
    people.execute("DELETE FROM devices")
    people.execute(
        """INSERT INTO devices (tenant, conversation, installation, token, generation,
        registered_at, state) VALUES ('acme', 1, 'i', 't', 1, 1, 'live')"""
    )
    assert people.execute("SELECT id FROM devices").fetchall() == [(8,)]


def test_what_a_deleted_device_was_rung_for_goes_with_it(people: sqlite3.Connection) -> None:
    """Also where an operator deletes it: their `sqlite3` does not hold rows to their references."""
    people.execute("PRAGMA foreign_keys = 0")
    device(people, 7, ONE)
    device(people, 8, TWO)
    people.execute("DELETE FROM devices WHERE id = 7")
    assert people.execute("SELECT device FROM ringing").fetchall() == [(8,)]


@pytest.mark.parametrize("owing", [{"owes": True}, {"ring": RingInHand("{}", Cut(1, 1), 1)}])
def test_a_device_that_owes_a_ring_knows_when_to_wake(
    people: sqlite3.Connection, owing: dict[str, Any]
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        device(people, 1, ONE, **owing)
    device(people, 2, ONE, wake_at=5.0, **owing)


def test_a_customer_has_one_conversation_per_tenant(db: sqlite3.Connection) -> None:
    conversation(db, 1)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        db.execute(
            "INSERT INTO conversations SELECT 2, tenant, customer, name, live,"
            " last_seq, last_ord, last_said, acked_seq, acked_ord, read_seq, read_ord,"
            " agent_read_seq, agent_read_said, badge_seq, newest_counted_seq, push_due_at,"
            " hold_from, expires_at, updated_at, last_event, agent_acked_seq, agent_acked_said,"
            " unanswered_since"
            " FROM conversations"
        )


@pytest.mark.parametrize(
    "cursors",
    [
        {"last_seq": 3, "acked_seq": 4},
        {"last_seq": 3, "acked_seq": 2, "read_seq": 3},
        {"last_seq": 3, "last_ord": 1, "acked_seq": 3, "acked_ord": 2},
        {"last_seq": 3, "last_ord": 2, "acked_seq": 3, "acked_ord": 1, "read_ord": 2},
        {"last_seq": 3, "last_ord": 4},
        {"last_seq": 3, "agent_acked_seq": 4},
        {"last_seq": 3, "agent_acked_seq": 1, "agent_read_seq": 2},
    ],
)
def test_cursors_stay_in_their_order(db: sqlite3.Connection, cursors: dict[str, Any]) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        conversation(db, **cursors)


def test_a_place_holds_one_message(people: sqlite3.Connection) -> None:
    message(people, 1)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        message(people, 1)


def test_a_ref_is_used_once_per_conversation_and_sender(people: sqlite3.Connection) -> None:
    message(people, 1, ref="r")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        message(people, 2, ref="r")
    message(people, 2, ref="r", author="a-2")
    message(people, 3, ref="r", role="customer")
    message(people, 4, ref="r", conversation=2)
    message(people, 5, ref=None)
    message(people, 6, ref=None)


def test_everything_belongs_to_a_conversation_that_exists(db: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        message(db, 1)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        device(db, 1, ONE)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        insert(db, "outcomes", (1, 0, 0, 1, 1, "pushed", None))


@pytest.mark.parametrize(
    "span",
    [
        (1, 0, 0, 1, 1, "pending", None),
        (1, 0, 0, 1, 1, "acked", None),
        (1, 2, 2, 2, 2, "pushed", None),
        (1, 2, 2, 3, 2, "pushed", None),
    ],
)
def test_a_span_has_messages_and_an_outcome_that_is_kept(
    people: sqlite3.Connection, span: tuple[Any, ...]
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        insert(people, "outcomes", span)
    insert(people, "outcomes", (1, 0, 0, 1, 1, "pushed", None))


@pytest.mark.parametrize(
    ("role", "kind", "counted"),
    [
        ("agent", "chat", True),
        ("service", "chat", True),
        ("service", "proactive", True),
        ("service", "system", False),
        ("customer", "chat", False),
    ],
)
def test_counted_is_what_the_company_owes_the_customer(
    people: sqlite3.Connection, role: str, kind: str, counted: bool
) -> None:
    message(people, 1, role=role, kind=kind)
    found = people.execute(f"SELECT count(*) FROM messages WHERE {COUNTED}").fetchone()
    assert found == (int(counted),)


def test_no_statement_of_a_migration_begins_or_ends_a_transaction() -> None:
    """Each migration is one transaction together with its `user_version`."""
    first_words = {s.split()[0].upper() for migration in MIGRATIONS for s in migration}
    assert first_words.isdisjoint({"BEGIN", "COMMIT", "END", "ROLLBACK", "VACUUM", "ATTACH"})
