"""Every word that can be recorded has its sentence; nothing is told as silence or as key=value."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from gateway import delivery, sentences
from gateway.delivery import Action, Facts, InHand, Reason
from gateway.protocol import Route
from gateway.why import WaitsFor
from push.ring import RingKind, VerdictKind
from push.verdicts import Answer, Failure, judge
from storage.records import Outcome

ROOT = Path(__file__).parents[2]
AT = "2026-11-24T09:00:05.000Z"
DEVICE = {"device": "ab12", "installation": "phone-1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Reason, sentences.REASONS),
        (Action, sentences.ACTIONS),
        (VerdictKind, sentences.VERDICTS),
        (RingKind, sentences.KINDS),
        (Route, sentences.ROUTES),
        (Outcome, sentences.OUTCOMES),
        (WaitsFor, sentences.WAITS),
    ],
)
def test_every_word_has_a_sentence(words: type[StrEnum], said: Any) -> None:
    assert set(said) == set(words)
    assert all(text and "=" not in text for text in said.values())


def test_every_failure_of_a_call_has_a_sentence() -> None:
    answers = [Answer(status) for status in (200, 302, 404, 410, 422, 503)]
    told = [*Failure, *answers, Answer(200, {}, b'{"rejected": ["t"]}')]
    for outcome in told:
        reason = judge(outcome, "t", 0.0).reason
        assert reason in sentences.FAILURES or reason.startswith("http_"), reason
    assert set(Failure) <= set(sentences.FAILURES)


def events_in_code() -> Iterator[str]:
    """The names given to `Transaction.event`, read from the source."""
    for path in (*ROOT.glob("gateway/**/*.py"), *ROOT.glob("storage/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "event" and len(node.args) >= 4:
                for part in ast.walk(node.args[3]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value


def test_every_event_that_is_recorded_is_told() -> None:
    found = set(events_in_code())
    assert {"look", "attempt", "late_verdict", "due_moved", "acked_too"} <= found
    assert set(sentences.EVENTS) == found | {"committed", "written"}


def test_every_look_that_there_can_be_is_told_as_a_decision_with_its_reason() -> None:
    flags = (False, True)
    names = ("endpoint", "live", "early", "in_chat", "all_expired", "all_read", "badge_is_high")
    in_hands = [None] + [
        InHand(silent=s, acked=a, read=r, expired=e, taken=t, current=c)
        for s, a, r, e, t, c in itertools.product(flags, repeat=6)
    ]
    decisions = {
        delivery.look(
            Facts(
                **dict(zip(names, values, strict=True)),
                in_hand=in_hand,
                behind=behind,
                paused=paused,
            )
        )
        for paused in (None, Reason.ENDPOINT_DOWN, Reason.SUSPENDED)
        for values in itertools.product(flags, repeat=len(names))
        for in_hand in in_hands
        for behind in (0, 2)
    }
    assert {decision.action for decision in decisions} == set(Action)
    for decision in decisions:
        action, reason = decision.action, decision.reason
        said = sentences.told(
            {"event": "look", "action": action.value, "reason": reason.value, **DEVICE}
        )
        assert said == (
            f"device ab12 (phone-1) is {sentences.ACTIONS[action]}: {sentences.REASONS[reason]}"
        )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"event": "committed", "route": "socket", "reason": "in_chat", "due": AT},
            "on disk; it goes to the open sockets: the customer has the chat open; a push is due at"
            " 09:00:05.000 unless acknowledged",
        ),
        (
            {
                "event": "committed",
                "route": "push",
                "reason": "not_in_chat",
                "at": AT,
                "due": AT,
            },
            "on disk; it goes to push: the customer does not have the chat open; a push is due at"
            " once",
        ),
        (
            {"event": "committed", "route": "none", "reason": "no_device"},
            "on disk; there is no way to the customer now: no device was registered",
        ),
        ({"event": "committed"}, "on disk; nobody is rung for a message of this kind"),
        ({"event": "written", "session": "s_1"}, "to the socket of session s_1"),
        (
            {"event": "written", "session": "s_1", "state": "active", "installation": "phone-1"},
            "to the socket of session s_1 (phone-1), which has the chat on screen",
        ),
        (
            {"event": "written", "session": "s_1", "state": "background"},
            "to the socket of session s_1, which is in the background",
        ),
        ({"event": "acked", "session": "s_1"}, "by session s_1"),
        (
            {"event": "acked_too", "session": "s_2", "installation": "phone-2"},
            "by session s_2 (phone-2) as well",
        ),
        ({"event": "read", "session": "s_1"}, "in session s_1"),
        (
            {"event": "due_moved", "reason": "held", "until": AT},
            "the push is due at 09:00:05.000 now: the customer has just come into chat, and gets"
            " what was missed there first",
        ),
        (
            {"event": "due", "reason": "not_in_chat"},
            "a push is wanted: the customer does not have the chat open",
        ),
        (
            {"event": "look", "action": "skip", "reason": "acked", "device": "ab12"},
            "device ab12 is not rung: already acknowledged",
        ),
        (
            {"event": "claimed", "ring": "r_1", "kind": "message", "unread": 3, **DEVICE},
            "ring r_1 to device ab12 (phone-1) is fixed: a message, 3 unread",
        ),
        (
            {
                "event": "attempt",
                "ring": "r_1",
                "verdict": "accepted",
                "reason": "http_200",
                "status": 200,
                "attempt": 2,
                "ms": 14.2,
                "device": "ab12",
            },
            "attempt 2 of ring r_1 to device ab12: accepted by the customer backend (HTTP 200,"
            " 14.2 ms)",
        ),
        (
            {
                "event": "late_verdict",
                "ring": "r_1",
                "verdict": "retry",
                "reason": "timeout",
                "attempt": 1,
                "ms": 15000.0,
                "device": "ab12",
            },
            "changes nothing, the registration is another by now: attempt 1 of ring r_1 to device"
            " ab12: did not succeed, to be tried again (no answer in time, 15000.0 ms)",
        ),
        ({"event": "outcome", "outcome": "pushed", "was": "pending"}, "pushed, was pending"),
        (
            {"event": "outcome", "outcome": "expired", "was": "pending", "reason": "expired"},
            "expired, was pending: it has expired",
        ),
        ({"event": "rang_after_ack"}, "the ring was on its way when the acknowledgement came"),
        (
            {"event": "acked_after_ring", "session": "s_1"},
            "by session s_1, after the ring; it stays pushed",
        ),
        (
            {"event": "device_removed", "reason": "moved"},
            "a device is gone: its token or installation was registered for another customer",
        ),
    ],
)
def test_an_event_is_told_in_a_sentence(entry: dict[str, Any], said: str) -> None:
    assert sentences.told(entry) == said


def test_the_summary_says_the_outcome_who_acknowledged_and_who_was_rung() -> None:
    events = [
        {"event": "attempt", "ring": "r_1"},
        {"event": "attempt", "ring": "r_1"},
        {"event": "late_verdict", "ring": "r_2"},
        {"event": "claimed", "ring": "r_3", "kind": "badge"},
        {"event": "attempt", "ring": "r_3"},
    ]
    pushed = {"outcome": "pushed", "reason": "ack_timeout", "since": AT, "events": events}
    assert sentences.summary(pushed) == [
        "The customer backend accepted a ring that covers it: the chat is open, but nothing was"
        f" acknowledged in time (since {AT}).",
        "Not acknowledged; 2 rings sent for it.",
    ]
    acked = {"event": "acked", "session": "s_1", "installation": "phone-1"}
    assert sentences.summary({"outcome": "acked", "reason": "in_chat", "events": [acked]}) == [
        "The customer received it in chat.",
        "Acknowledged by session s_1 (phone-1); no ring sent for it.",
    ]
    assert sentences.summary({"outcome": None}) == [
        "It has no outcome: only agent and proactive messages have one."
    ]


def test_a_time_of_another_day_has_its_date() -> None:
    due = {"event": "committed", "route": "push", "reason": "not_in_chat", "at": AT}
    tomorrow = "2026-11-25T07:00:00.000Z"
    assert sentences.told(due | {"due": tomorrow}).endswith(
        "is due at 2026-11-25 07:00:00.000 unless acknowledged"
    )
    waits = {"for": "look", "device": "9f86d081884c", "until": tomorrow}
    pending = {"outcome": "pending", "events": [due], "waiting": [waits]}
    assert sentences.summary(pending)[-1].endswith(" at 2026-11-25 07:00:00.000.")


def test_until_when_a_pending_message_waits_is_told_and_of_no_other() -> None:
    written = {"event": "committed", "at": AT, "expires": "2026-11-25T09:00:05.000Z"}
    told = {"outcome": "pending", "events": [written], "waiting": []}
    assert sentences.summary(told)[-1] == "It expires at 2026-11-25 09:00:05.000."
    assert "expires" not in " ".join(sentences.summary(told | {"outcome": "acked"}))


def test_an_answer_in_words_has_a_summary_and_words_for_each_event() -> None:
    acked = {"at": AT, "event": "acked", "session": "s_1"}
    answer = {"seq": 9, "outcome": "acked", "reason": "in_chat", "events": [acked]}
    assert sentences.in_words(answer) == {
        **answer,
        "summary": sentences.summary(answer),
        "events": [{**acked, "words": "by session s_1"}],
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"for": "due", "until": AT},
            "an acknowledgement; without one a push is due at 09:00:05.000",
        ),
        (
            {"for": "overdue", "until": AT},
            "a gateway: its push was due at 09:00:05.000, and nobody has acted on it; one that has"
            " just started waits for its restart grace first",
        ),
        ({"for": "look", **DEVICE}, "the push worker to look at device ab12 (phone-1)"),
        (
            {"for": "look", "until": AT, **DEVICE},
            "the push worker to look at device ab12 (phone-1) at 09:00:05.000",
        ),
        (
            {"for": "answer", "ring": "r_1", "attempt": 1, **DEVICE},
            "the answer to attempt 1 of ring r_1 to device ab12 (phone-1)",
        ),
        (
            {"for": "retry", "ring": "r_1", "attempt": 2, "until": AT, **DEVICE},
            "the next attempt of ring r_1 to device ab12 (phone-1) at 09:00:05.000; attempt 2 did"
            " not succeed",
        ),
        (
            {"for": "endpoint", **DEVICE},
            "the customer backend, which fails; device ab12 (phone-1) has its turn when a ring gets"
            " through",
        ),
        (
            {"for": "earlier_ring", "ring": "r_1", "attempt": 2, **DEVICE},
            "an earlier ring, r_1, to device ab12 (phone-1) (attempt 2); then its turn comes",
        ),
    ],
)
def test_a_pending_message_says_what_it_waits_for(entry: dict[str, Any], said: str) -> None:
    assert sentences.waits(entry, "") == said
    told = {"outcome": "pending", "events": [], "waiting": [entry]}
    assert sentences.summary(told)[-1] == f"It waits for {said}."


def test_what_another_policy_would_have_decided_is_told_for_each_device() -> None:
    devices = [
        {"action": "ring", "reason": "acked_elsewhere", **DEVICE},
        {"action": "skip", "reason": "acked_here", "device": "cd34"},
    ]
    assert sentences.would({"name": "per_device", "devices": devices}) == [
        "Policy per_device would ring device ab12 (phone-1): acknowledged, but not on this device.",
        "Policy per_device would not ring device cd34: already acknowledged on this very device.",
    ]
    waiting = {"action": "wait", "reason": "in_chat", "device": "cd34"}
    assert sentences.would({"name": "unread_after", "after": 60.0, "devices": [waiting]}) == [
        "Policy unread_after (60 s) has not decided yet about device cd34: the customer has the"
        " chat open."
    ]
    assert sentences.would({"name": "default", "devices": []}) == [
        "Policy default: no device is known, so it would ring nobody."
    ]
