"""The answer to "what became of this message, and why": one timeline from what was recorded.

The same for the deliveries call, for `ringback why` and for the demo's table. Made of the message's
row (what was decided at its commit) and of its events; nothing is guessed.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.delivery import Reason
from gateway.protocol import timestamp
from storage.records import Event, Message, Outcome
from storage.store import Told


def timeline(told: Told) -> list[dict[str, Any]]:
    """The message's events in order, each {`at`, `event`, `reason?`, `session?`, `device?`, …}."""
    return _committed(told.message) + [_event(event) for event in told.events]


def deliveries(told: Told) -> dict[str, Any]:
    """The answer of `GET /v1/customers/{id}/deliveries`."""
    answer: dict[str, Any] = {
        "customer": told.conversation.customer,
        "seq": told.message.seq,
        "outcome": told.outcome.value if told.outcome else None,
        "events": timeline(told),
    }
    why = reason(told)
    if why is not None:
        answer["reason"] = why
    return answer


def reason(told: Told) -> str | None:
    """Why it came to the outcome: what is recorded as such, or by the look that rang."""
    if told.outcome is Outcome.ACKED:
        return Reason.IN_CHAT.value
    if told.outcome is Outcome.PUSHED:
        looks = [entry["reason"] for entry in timeline(told) if entry.get("action") == "ring"]
        return str(looks[-1]) if looks else None
    return told.reason


def decided_at(told: Told) -> float | None:
    """When the message got the outcome that it has, in epoch seconds; None while pending."""
    if told.outcome is Outcome.PENDING:
        return None
    for event in reversed(told.events):
        detail = orjson.loads(event.detail) if event.detail else {}
        if event.event == "outcome" and detail.get("outcome") == told.outcome:
            return event.at
        if event.event == "acked" and told.outcome is Outcome.ACKED:
            return event.at
    return None


def _committed(message: Message) -> list[dict[str, Any]]:
    at = timestamp(message.at)
    first: dict[str, Any] = {"at": at, "event": "committed"}
    if message.route is not None:
        first |= {"route": message.route, "reason": message.reason}
    if message.due_at is not None:
        first["due"] = timestamp(message.due_at)
    written = [
        {"at": at, "event": "written", "session": session}
        for session in (message.sessions or "").split()
    ]
    return [first, *written]


def _event(event: Event) -> dict[str, Any]:
    detail = orjson.loads(event.detail) if event.detail else {}
    return {"at": timestamp(event.at), "event": event.event, **detail}


def lines(told: Told) -> list[tuple[str, str, str]]:
    """The timeline for people: (time of day, event, what there is to say of it)."""
    shown = []
    for entry in timeline(told):
        rest = " ".join(
            f"{name}={value}" for name, value in entry.items() if name not in ("at", "event")
        )
        shown.append((entry["at"][11:23], entry["event"], rest))
    return shown
