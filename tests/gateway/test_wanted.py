"""What a device is to be rung for, where more is unacknowledged than one look reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.delivery import Patience
from gateway.wanted import all_unwanted, to_ring
from storage.records import Conversation, Cut, Device, Key, Message, RingInHand, Wishes
from storage.transaction import Ids, Loaded, Transaction
from storage.vault import Vault


def message(ord: int, kind: str) -> Message:
    told: dict[str, Any] = {
        "role": "service",
        "author": "crm",
        "name": None,
        "kind": kind,
        "text": "x",
    }
    rest: dict[str, Any] = dict.fromkeys(
        ("data", "title", "ref", "route", "reason", "sessions", "due_at")
    )
    return Message(
        conversation=1, seq=ord, ord=ord, said=0, at=0.0, id=f"m-{ord}", expires_at=None,
        **told, **rest,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("read", "unwanted"),
    [
        ({4: "proactive", 5: "proactive", 6: "proactive"}, True),
        ({4: "proactive", 5: "chat", 6: "proactive"}, False),
        ({4: "proactive", 6: "proactive"}, False),
        ({}, False),
    ],
)
def test_a_ring_is_unwanted_only_if_all_that_it_covers_is_known_to_be(
    read: dict[int, str], unwanted: bool
) -> None:
    """It covers 4 to 6."""
    device = Device(
        1, "phone", "token", 1, 0.0, covered=Cut(3, 3), ring=RingInHand("{}", Cut(6, 6), 1)
    )
    key = Key("acme", "c-1")
    c = Conversation(
        1, key, last_seq=9, last_ord=9, devices=(device,), wishes=Wishes(proactive=False)
    )
    loaded = Loaded(unacked={key: [message(ord, kind) for ord, kind in read.items()]})
    tx = Transaction(1.0, {key: c}, loaded, Ids(2, 2, 1), Vault())
    assert all_unwanted(tx, c, device) is unwanted


@pytest.mark.parametrize(("at", "due_at"), [(100.0, 105.0), (104.9, 109.9), (105.1, None)])
def test_a_message_of_a_time_that_is_yet_to_come_is_not_waited_for(
    at: float, due_at: float | None
) -> None:
    """The clock was set back after it came."""
    device = Device(1, "phone", "token", 1, 0.0, owes=True, owed_ord=1)
    key = Key("acme", "c-1")
    newest = msgspec.structs.replace(message(1, "chat"), at=at)
    c = Conversation(1, key, last_seq=1, last_ord=1, devices=(device,), newest_counted=newest)
    loaded = Loaded(unacked={key: [newest]})
    tx = Transaction(104.95, {key: c}, loaded, Ids(2, 2, 1), Vault())
    wanted = to_ring(tx, c, device, Patience(5.0))
    assert wanted.newest == newest
    assert wanted.due_at == due_at
