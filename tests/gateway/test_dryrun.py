"""The facts of a dry run, as gathered from rows and events: what was known when it was judged."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from gateway.dryrun import dry_run
from gateway.policies import Policy
from push.backends import OWN, Backend
from storage.records import Conversation, Device, DeviceState, Event, Key, Message, Outcome
from storage.store import Told

AT = 1_795_510_800.0
NOW = AT + 1000
MESSAGE = Message(
    conversation=3, seq=9, ord=4, said=5, id="m_9", role="agent", author="a-1", name=None,
    kind="chat", text="t", data=None, title=None, at=AT, expires_at=AT + 5000, ref=None,
    route="socket", reason="in_chat", sessions=None, due_at=AT + 5,
)  # fmt: skip
PHONE = Device(7, "phone-1", "t-1", 1, registered_at=AT - 60)
D, P, U, B = Policy.DEFAULT, Policy.PER_DEVICE, Policy.UNREAD_AFTER, Policy.BACKGROUND_ONLY


def event(after: float, name: str, **detail: Any) -> Event:
    return Event(3, 8, 9, AT + after, name, orjson.dumps(detail).decode() if detail else None)


def look(after: float, action: str, reason: str, **who: Any) -> Event:
    who = {"device": "old", "installation": "phone-1"} | who
    return event(after, "look", action=action, reason=reason, **who)


def acked(after: float, name: str = "acked", installation: str | None = "phone-1") -> Event:
    known = {} if installation is None else {"installation": installation}
    return event(after, name, session="s_1", **known)


DUE = event(5, "due", reason="ack_timeout")
AWAY = event(5, "due", reason="not_in_chat")
RUNG = look(5, "ring", "ack_timeout")


def decided(
    policy: Policy,
    *events: Event,
    outcome: Outcome | None = Outcome.PUSHED,
    device: Device | None = PHONE,
    now: float = NOW,
    backends: tuple[Backend, ...] = (OWN,),
    after: float = 60.0,
    why: str | None = None,
    **message: Any,
) -> list[tuple[str, str]]:
    c = Conversation(3, Key("acme", "c-1"), devices=() if device is None else (device,))
    told = Told(msgspec.structs.replace(MESSAGE, **message), c, outcome, why, list(events))
    answer = dry_run(told, policy, now=now, backends=backends, after=after)
    assert answer["name"] == policy
    assert answer.get("after") == (after if policy is U else None)
    return [(entry["action"], entry["reason"]) for entry in answer["devices"]]


@pytest.mark.parametrize(
    ("policy", "events", "fields", "decision"),
    [
        # What was looked at is judged by what was committed before that look.
        (D, [DUE, RUNG], {}, ("ring", "ack_timeout")),
        (D, [AWAY, look(5, "ring", "not_in_chat")], {}, ("ring", "not_in_chat")),
        (D, [DUE, RUNG, acked(5)], {}, ("ring", "ack_timeout")),
        (D, [DUE, acked(5), look(5, "skip", "acked")], {}, ("skip", "acked")),
        (D, [DUE, acked(5), event(5, "read"), look(5, "skip", "read")], {}, ("skip", "read")),
        (D, [DUE, look(5, "skip", "token_dead")], {}, ("skip", "token_dead")),
        (D, [DUE, look(6000, "skip", "expired")], {}, ("skip", "expired")),
        (D, [DUE, look(5, "skip", "token_dead"), look(9, "ring", "not_in_chat")], {},
         ("ring", "not_in_chat")),
        (D, [DUE, look(5, "wait", "held"), RUNG], {}, ("ring", "ack_timeout")),
        (D, [DUE, look(5, "ring", "ack_timeout", installation="phone-2")], {"device": None},
         ("ring", "ack_timeout")),
        (D, [DUE, look(5, "skip", "opted_out"), event(5, "outcome", outcome="undeliverable"),
             look(9, "ring", "not_in_chat")], {"outcome": Outcome.UNDELIVERABLE},
         ("skip", "opted_out")),  # it was rung for what came later
        # Without a look: by the fan-out, or by the due time set at the commit.
        (D, [acked(1)], {"outcome": Outcome.ACKED}, ("skip", "acked")),
        (D, [DUE, acked(6)], {"outcome": Outcome.ACKED}, ("skip", "acked")),
        (D, [], {"outcome": Outcome.PENDING}, ("wait", "in_chat")),
        (D, [], {"outcome": Outcome.PENDING, "route": "push"}, ("wait", "not_in_chat")),
        (D, [DUE], {"device": msgspec.structs.replace(PHONE, owes=True, owed_ord=4, wake_at=NOW)},
         ("wait", "in_chat")),
        (D, [DUE, event(9, "outcome")], {"outcome": Outcome.EXPIRED}, ("skip", "expired")),
        (D, [DUE], {"device": msgspec.structs.replace(PHONE, registered_at=AT + 90)},
         ("skip", "no_device")),
        (D, [DUE], {"device": msgspec.structs.replace(
            PHONE, state=DeviceState.QUARANTINED, state_at=AT - 1)}, ("skip", "quarantined")),
        (D, [DUE, look(5, "skip", "acked")], {"device": None}, ("ring", "ack_timeout")),
        (D, [], {"outcome": Outcome.ACKED, "backends": ()}, ("skip", "no_endpoint")),
        (D, [DUE], {"device": msgspec.structs.replace(PHONE, environment="sandbox")},
         ("skip", "no_endpoint")),
        # What is configured since changes nothing of what was recorded.
        (D, [DUE, RUNG], {"backends": ()}, ("ring", "ack_timeout")),
        (D, [DUE, RUNG], {"device": msgspec.structs.replace(PHONE, environment="sandbox")},
         ("ring", "ack_timeout")),
        (D, [DUE, look(5, "skip", "no_endpoint")], {"outcome": Outcome.UNDELIVERABLE},
         ("skip", "no_endpoint")),
        (D, [DUE], {"outcome": Outcome.UNDELIVERABLE, "why": "no_endpoint"},
         ("skip", "no_endpoint")),
        (D, [], {"outcome": Outcome.ACKED, "due_at": None, "route": None},
         ("ring", "not_in_chat")),
        # Which phone acknowledged, and when.
        (P, [acked(1)], {"outcome": Outcome.ACKED}, ("skip", "acked_here")),
        (P, [acked(1, installation="phone-2")], {"outcome": Outcome.ACKED},
         ("ring", "acked_elsewhere")),
        (P, [acked(1, installation=None)], {"outcome": Outcome.ACKED}, ("ring", "acked_elsewhere")),
        (P, [acked(1, installation="phone-2"), acked(4, "acked_too")],
         {"outcome": Outcome.ACKED}, ("skip", "acked_here")),
        (P, [acked(1, installation="phone-2"), acked(90, "acked_too")],
         {"outcome": Outcome.ACKED}, ("ring", "acked_elsewhere")),
        (P, [acked(1, installation="phone-2")], {"outcome": Outcome.ACKED, "now": AT + 2},
         ("wait", "in_chat")),
        # Reading, at a moment of its own.
        (U, [acked(1)], {"outcome": Outcome.ACKED}, ("ring", "unread")),
        (U, [acked(1), event(59, "read")], {"outcome": Outcome.ACKED}, ("skip", "read")),
        (U, [acked(1), event(61, "read")], {"outcome": Outcome.ACKED}, ("ring", "unread")),
        (U, [acked(1)], {"outcome": Outcome.ACKED, "now": AT + 59}, ("wait", "in_chat")),
        (U, [], {"outcome": Outcome.ACKED, "expires_at": AT + 30}, ("skip", "expired")),
        (U, [DUE], {"device": msgspec.structs.replace(PHONE, registered_at=AT + 90)},
         ("skip", "no_device")),
        # In chat when it was judged.
        (B, [DUE, RUNG], {}, ("skip", "in_chat")),
        (B, [AWAY, look(5, "ring", "not_in_chat")], {}, ("ring", "not_in_chat")),
        (B, [acked(1)], {"outcome": Outcome.ACKED}, ("skip", "acked")),
    ],
)  # fmt: skip
def test_the_facts_are_those_of_the_moment_of_judging(
    policy: Policy, events: list[Event], fields: dict[str, Any], decision: tuple[str, str]
) -> None:
    assert decided(policy, *events, **fields) == [decision]


def test_a_message_without_outcome_rings_nobody_under_any_policy() -> None:
    assert decided(D, outcome=None) == []


def test_a_look_of_an_early_version_is_known_by_the_token_alone() -> None:
    from storage.records import fingerprint

    detail = {"action": "ring", "reason": "not_in_chat", "device": fingerprint("t-1")}
    assert decided(D, DUE, event(5, "look", **detail)) == [("ring", "not_in_chat")]


def test_a_device_that_is_gone_is_named_as_it_was() -> None:
    c = Conversation(3, Key("acme", "c-1"))
    told = Told(MESSAGE, c, Outcome.PUSHED, None, [DUE, RUNG])
    (entry,) = dry_run(told, D, now=NOW, backends=(OWN,))["devices"]
    assert (entry["device"], entry["installation"]) == ("old", "phone-1")
    early = event(5, "look", action="ring", reason="not_in_chat", device="cd34")
    told = Told(MESSAGE, c, Outcome.PUSHED, None, [early])
    (entry,) = dry_run(told, D, now=NOW, backends=(OWN,))["devices"]
    assert entry == {"device": "cd34", "action": "ring", "reason": "not_in_chat"}


def test_a_device_that_was_only_held_and_is_gone_was_not_rung() -> None:
    assert decided(D, DUE, look(5, "wait", "held"), device=None) == [("skip", "no_device")]
