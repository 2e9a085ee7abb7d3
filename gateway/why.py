"""The answer to "what became of this message, and why": one timeline from what was recorded.

The same for the deliveries call, for `ringback why` and for the demo's table. Made of the message's
row (what was decided at its commit), of its events, and for a pending message of the rows that say
what it waits for; nothing is guessed. `gateway.sentences` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

import orjson

from gateway.delivery import PAUSES, Action, Reason
from gateway.protocol import timestamp
from push.ring import VerdictKind
from storage.records import Device, Event, Message, Outcome, fingerprint
from storage.store import Told


class WaitsFor(StrEnum):
    """What a pending message waits for."""

    DUE = "due"  # an acknowledgement until then, then a push
    OVERDUE = "overdue"  # a gateway that runs and whose restart grace is over
    LOOK = "look"  # the push worker to look at a device
    ANSWER = "answer"  # the backend's answer to a call that is out
    ENDPOINT = "endpoint"  # the customer backend to work again
    RETRY = "retry"  # the next attempt of a ring that covers it
    EARLIER_RING = "earlier_ring"  # a ring in hand that does not cover it


_OF_A_DEVICE = ("look", "claimed", "attempt", "late_verdict")
_OF_ITS_RING = (Action.RETRY, Action.CANCEL)
_ENDS = (Outcome.EXPIRED, Outcome.UNDELIVERABLE)


def timeline(told: Told) -> list[dict[str, Any]]:
    """The message's events in order, each {`at`, `event`, `reason?`, `session?`, `device?`, …}."""
    return _committed(told.message) + [_event(event) for event in own_events(told)]


def own_events(told: Told) -> Iterator[Event]:
    """What happened for the message. Events are recorded for a range, and once the message has
    expired or is undeliverable, a ring that begins before it is for what came later.
    """
    ended = False
    others: set[str] = set()
    """Devices that were last looked at for other messages."""
    for event in told.events:
        about = event.details
        if event.event in ("outcome", "acked"):
            ended = about.get("outcome") in _ENDS
        if event.event not in _OF_A_DEVICE:
            if not (ended and event.event == "due_moved"):
                yield event
            continue
        device = about["device"]
        if event.event == "claimed" or about.get("action", Action.RETRY) not in _OF_ITS_RING:
            theirs = ended and about.get("reason") != Reason.EXPIRED
            (others.add if theirs else others.discard)(device)
        if device not in others:
            yield event


def deliveries(told: Told, now: float, restart_grace_until: float = 0.0) -> dict[str, Any]:
    """The answer of `GET /v1/customers/{id}/deliveries`.

    `now` in epoch seconds; until `restart_grace_until` nobody is rung, as far as the caller knows.
    """
    answer: dict[str, Any] = {
        "customer": told.conversation.customer,
        "seq": told.message.seq,
        "outcome": told.outcome.value if told.outcome else None,
        "events": timeline(told),
    }
    why = reason(told)
    if why is not None:
        answer["reason"] = why
    since = decided_at(told)
    if since is not None:
        answer["since"] = timestamp(since)
    if told.outcome is Outcome.PENDING:
        answer["waiting"] = waiting(told, now, restart_grace_until)
    return answer


def waiting(told: Told, now: float, restart_grace_until: float) -> list[dict[str, Any]]:
    """What a pending message waits for: [{`for`, `until?`, `device?`, `ring?`, `attempt?`, …}]."""
    due = told.conversation.push_due_at
    found: list[dict[str, Any]] = []
    if due is not None:
        held = max(due, restart_grace_until)
        what = WaitsFor.DUE if held > now else WaitsFor.OVERDUE
        found.append({"for": what.value, "until": timestamp(held)})
    for device in told.conversation.live_devices:
        if device.wake_at is not None:
            entry = _waiting_device(device, told, device.wake_at > now)
            found += [entry] if entry else []
    return found


def _waiting_device(device: Device, told: Told, asleep: bool) -> dict[str, Any] | None:
    """What this device does about the message; None if it is not concerned."""
    message = told.message
    entry: dict[str, Any] = {"device": fingerprint(device.token)}
    entry["installation"] = device.installation
    held = device.ring
    if held is not None:
        entry |= {"ring": orjson.loads(held.claim)["id"], "attempt": held.attempt}
    if held is not None and held.upto.ord >= message.ord:
        answered = _is_answered(told, entry["ring"], held.attempt)
        what = WaitsFor.RETRY if asleep or answered else WaitsFor.ANSWER
    elif device.owes and device.owed_ord >= message.ord:
        what = WaitsFor.LOOK if held is None else WaitsFor.EARLIER_RING
    else:
        return None
    if not asleep and _is_paused(told, entry["device"]):
        what = WaitsFor.ENDPOINT
    if asleep and device.wake_at is not None:
        entry["until"] = timestamp(device.wake_at)
    return {"for": what.value, **entry}


def _is_answered(told: Told, ring: str, attempt: int) -> bool:
    """Its next attempt is due, and waits for its turn."""
    details = (e.details for e in told.events if e.event == "attempt")
    return any((d["ring"], d["attempt"]) == (ring, attempt) for d in details)


def _is_paused(told: Told, device: str) -> bool:
    """The last that was decided of the device is that it waits for its endpoint."""
    for event in reversed(told.events):
        detail = event.details
        if detail.get("device") == device:
            return detail.get("reason") in PAUSES and event.event == "look"
    return False


def reason(told: Told) -> str | None:
    """Why it came to the outcome: what is recorded as such, or by the look that rang."""
    if told.outcome is Outcome.ACKED:
        return Reason.IN_CHAT.value
    if told.outcome is Outcome.PUSHED:
        return _rung_because(told)
    return told.reason


def _rung_because(told: Told) -> str | None:
    """Why the device was rung whose ring was accepted first: others may be rung for it too."""
    looks: dict[str, str] = {}
    accepted = None
    for entry in timeline(told):
        if entry.get("action") == Action.RING:
            looks[entry["device"]] = entry["reason"]
        elif entry["event"] == "attempt" and entry["verdict"] == VerdictKind.ACCEPTED:
            accepted = looks.get(entry["device"])
        elif entry["event"] == "outcome" and entry["outcome"] == Outcome.PUSHED:
            break
    return accepted


def decided_at(told: Told) -> float | None:
    """When the message got the outcome that it has, in epoch seconds; None while pending."""
    if told.outcome is Outcome.PENDING:
        return None
    for event in reversed(told.events):
        if event.event == "outcome" and event.details.get("outcome") == told.outcome:
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
    if message.expires_at is not None:
        first["expires"] = timestamp(message.expires_at)
    return [first, *({"at": at, "event": "written", **who} for who in _sessions(message))]


def _sessions(message: Message) -> list[dict[str, str]]:
    """The sessions that it was written to; early versions recorded no more than their ids."""
    names = ("session", "state", "installation")
    return [
        {name: unquote(part) for name, part in zip(names, label.split(":"), strict=False)}
        for label in (message.sessions or "").split()
    ]


def _event(event: Event) -> dict[str, Any]:
    return {"at": timestamp(event.at), "event": event.event, **event.details}
