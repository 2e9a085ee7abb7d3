"""What is recorded, in plain sentences: one for every word that a decision, an attempt or an
outcome can have.

Decides only how things are said. A skipped push is told as the decision that it was, with its
reason. Tests walk the enums and the recorded events: a new word without a sentence fails them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.delivery import Action, Reason
from gateway.protocol import Route
from gateway.why import WaitsFor
from push.ring import RingKind, VerdictKind
from push.verdicts import REDIRECT, REJECTED, Failure
from storage.records import Outcome

REASONS: Final[Mapping[Reason, str]] = {
    Reason.IN_CHAT: "the customer has the chat open",
    Reason.NOT_IN_CHAT: "the customer does not have the chat open",
    Reason.ACK_TIMEOUT: "the chat is open, but nothing was acknowledged in time",
    Reason.NO_DEVICE: "no device was registered",
    Reason.NO_ENDPOINT: "there is no push endpoint for it",
    Reason.TOKEN_DEAD: "the customer backend said that the device token is dead",
    Reason.QUARANTINED: "its token is in quarantine: it was rejected in a wave of rejections",
    Reason.REFUSED: "the customer backend refused the ring",
    Reason.EXPIRED: "it has expired",
    Reason.ACKED: "already acknowledged",
    Reason.READ: "already read",
    Reason.READ_ELSEWHERE: "messages were read elsewhere, and its icon shows too high a number",
    Reason.SUPERSEDED: "the number on the icon has changed since",
    Reason.HELD: "the customer has just come into chat, and gets what was missed there first",
    Reason.RETRY: "the last attempt did not succeed, and the ring is still wanted",
    Reason.LEFT: "the customer left the chat",
    Reason.ACKED_HERE: "already acknowledged on this very device",
    Reason.ACKED_ELSEWHERE: "acknowledged, but not on this device",
    Reason.UNREAD: "not read in time",
    Reason.ENDPOINT_DOWN: "the customer backend fails; what is for it waits, while one ring at a"
    " time tries",
    Reason.SUSPENDED: "the customer backend has failed for so long that it is only tried now and"
    " then",
    Reason.MUTED: "the customer has muted all rings for now",
    Reason.OPTED_OUT: "the customer does not want to be rung for proactive messages",
    Reason.QUIET_HOURS: "these are the customer's quiet hours",
}
ACTIONS: Final[Mapping[Action, str]] = {
    Action.RING: "rung",
    Action.BADGE: "rung silently, to correct the number on its icon",
    Action.RETRY: "rung again, with the same content",
    Action.CANCEL: "not rung again, the ring is cancelled",
    Action.SKIP: "not rung",
    Action.WAIT: "not rung yet",
}
WOULD: Final[Mapping[Action, str]] = {
    Action.RING: "would ring",
    Action.SKIP: "would not ring",
    Action.WAIT: "has not decided yet about",
}
VERDICTS: Final[Mapping[VerdictKind, str]] = {
    VerdictKind.ACCEPTED: "accepted by the customer backend",
    VerdictKind.TOKEN_DEAD: "the device token is dead: this registration is rung no more",
    VerdictKind.RETRY: "did not succeed, to be tried again",
    VerdictKind.REFUSED: "refused: this ring is given up",
    VerdictKind.MISCONFIGURED: "the push endpoint is misconfigured, to be tried again",
}
FAILURES: Final[Mapping[str, str]] = {
    Failure.TIMEOUT: "no answer in time",
    Failure.CONNECT_TIMEOUT: "no connection in time",
    Failure.CONNECT: "no connection",
    Failure.DNS: "the backend's name is not known",
    Failure.RESET: "the connection broke",
    Failure.BAD_HTTP: "the answer was no HTTP",
    Failure.INTERNAL: "a fault of ringback",
    Failure.MOVED: "nothing was called",
    Failure.TLS: "its certificate is not trusted",
    Failure.CA_FILE: "the configured ca_file cannot be used",
    Failure.URL: "the configured address cannot be used",
    Failure.ADDRESS: "its name leads to an address that may not be called",
    Failure.ADAPTER: "the configured adapter cannot be used",
    Failure.CLIENT_CERTIFICATE: "the client certificate cannot be used, or one is wanted",
    Failure.TOKEN_UNAVAILABLE: "no OAuth2 token was to be had",
    Failure.TOKEN_REFUSED: "the token endpoint did not accept the configured client",
    Failure.TOKEN_UNREADABLE: "the token endpoint's answer was no token",
    Failure.TOKEN_TLS: "the token endpoint's certificate is not trusted",
    Failure.UNWRITABLE: "it cannot be written in the configured form",
    Failure.SIGNING_SECRET: "the configured signing secret cannot be used",
    REJECTED: "the answer lists the token as rejected",
    REDIRECT: "redirects are not followed",
}
KINDS: Final[Mapping[RingKind, str]] = {
    RingKind.MESSAGE: "a message",
    RingKind.PROACTIVE: "a proactive message",
    RingKind.BADGE: "silent, only the number",
}
ROUTES: Final[Mapping[Route, str]] = {
    Route.SOCKET: "it goes to the open sockets",
    Route.PUSH: "it goes to push",
    Route.NONE: "there is no way to the customer now",
}
OUTCOMES: Final[Mapping[Outcome, str]] = {
    Outcome.PENDING: "it has no outcome yet",
    Outcome.ACKED: "the customer received it in chat",
    Outcome.PUSHED: "the customer backend accepted a ring that covers it",
    Outcome.EXPIRED: "its time ran out before the customer could be reached",
    Outcome.UNDELIVERABLE: "no device is left that could be rung",
}
WAITS: Final[Mapping[WaitsFor, str]] = {
    WaitsFor.DUE: "an acknowledgement; without one a push is due at {until}",
    WaitsFor.OVERDUE: "a gateway: its push was due at {until}, and nobody has acted on it; one that"
    " has just started waits for its restart grace first",
    WaitsFor.LOOK: "the push worker to look at {device}{at}",
    WaitsFor.ANSWER: "the answer to attempt {attempt} of ring {ring} to {device}",
    WaitsFor.RETRY: "the next attempt of ring {ring} to {device}{at}; attempt {attempt} did not"
    " succeed",
    WaitsFor.ENDPOINT: "the customer backend, which fails; {device} has its turn when a ring gets"
    " through",
    WaitsFor.EARLIER_RING: "an earlier ring, {ring}, to {device} (attempt {attempt}); then its turn"
    " comes",
}
_REMOVED: Final[Mapping[str, str]] = {
    "moved": "its token or installation was registered for another customer",
    "deregistered": "it was deregistered",
    "signed_out": "the customer was signed out everywhere",
    "stale": "its app had not registered it again for too long",
    "too_many": "the customer registered more than are kept, and it was dead or told longest ago",
}


def clock(at: str, beside: str = "") -> str:
    """The time of day of a timestamp, as everything here shows it; with its date, if that is
    another than the one of the timestamp `beside`.
    """
    same = not beside or at[:10] == beside[:10]
    return at[11:23] if same else f"{at[:10]} {at[11:23]}"


def summary(answer: Mapping[str, Any]) -> list[str]:
    """The answer of the deliveries call in a few sentences: the outcome, and what is awaited."""
    if answer["outcome"] is None:
        return ["It has no outcome: only agent and proactive messages have one."]
    outcome = Outcome(answer["outcome"])
    said = OUTCOMES[outcome]
    why = answer.get("reason")
    if why is not None and outcome is not Outcome.ACKED:
        said += f": {_because(why)}"
    if "since" in answer:
        said += f" (since {answer['since']})"
    lines = [f"{said[0].upper()}{said[1:]}."]
    lines += [f"{_who_has_it(answer['events'])}."]
    last = answer["events"][-1].get("at", "") if answer["events"] else ""
    if outcome is Outcome.PENDING:
        lines += [f"It waits for {waits(entry, last)}." for entry in answer.get("waiting", ())]
        ends = (entry["expires"] for entry in answer["events"] if "expires" in entry)
        lines += [f"It expires at {clock(end, last)}." for end in ends]
    return lines


def in_words(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the deliveries call with its `summary`, and each event with its `words`."""
    events = [{**entry, "words": told(entry)} for entry in answer["events"]]
    return {**answer, "summary": summary(answer), "events": events}


def _who_has_it(events: list[Any]) -> str:
    """Who acknowledged it, and who was rung for it."""
    acked = [f"by session {_who(entry)}" for entry in events if entry["event"] == "acked"]
    called = [e for e in events if e["event"] in ("attempt", "late_verdict")]
    silent = {e["ring"] for e in events if e["event"] == "claimed" and e["kind"] == RingKind.BADGE}
    rings = {entry["ring"] for entry in called} - silent
    said = f"Acknowledged {acked[0]}" if acked else "Not acknowledged"
    return f"{said}; {len(rings) or 'no'} ring{'s' if len(rings) > 1 else ''} sent for it"


def waits(entry: Mapping[str, Any], last: str) -> str:
    """One thing that a pending message waits for; `last` is the time of its last event."""
    until = clock(entry["until"], last) if "until" in entry else ""
    at = f" at {until}" if until else ""
    values = {**entry, "device": _device(entry), "until": until, "at": at}
    return WAITS[WaitsFor(entry["for"])].format(**values)


def told(entry: Mapping[str, Any]) -> str:
    """One event of the timeline."""
    return EVENTS[entry["event"]](entry)


def would(policy: Mapping[str, Any]) -> list[str]:
    """What another policy would have decided, a sentence for each device."""
    name = f"Policy {policy['name']}"
    if "after" in policy:
        name += f" ({policy['after']:g} s)"
    lines = [
        f"{name} {WOULD[Action(entry['action'])]} {_device(entry)}: {_because(entry['reason'])}."
        for entry in policy["devices"]
    ]
    return lines or [f"{name}: no device is known, so it would ring nobody."]


def _because(reason: str) -> str:
    return REASONS[Reason(reason)]


def _device(entry: Mapping[str, Any]) -> str:
    """A device by its token's fingerprint, and its installation if that is recorded."""
    name = f"device {entry.get('device')}"
    return f"{name} ({entry['installation']})" if "installation" in entry else name


def _who(entry: Mapping[str, Any]) -> str:
    name = str(entry["session"])
    return f"{name} ({entry['installation']})" if "installation" in entry else name


def _committed(e: Mapping[str, Any]) -> str:
    if "route" not in e:
        return "on disk; nobody is rung for a message of this kind"
    said = f"on disk; {ROUTES[Route(e['route'])]}: {_because(e['reason'])}"
    if "due" in e and e["due"] == e.get("at"):
        said += "; a push is due at once"
    elif "due" in e:
        said += f"; a push is due at {clock(e['due'], e.get('at', ''))} unless acknowledged"
    return said


def _written(e: Mapping[str, Any]) -> str:
    seen = {
        "active": ", which has the chat on screen",
        "background": ", which is in the background",
    }
    return f"to the socket of session {_who(e)}{seen.get(e.get('state', ''), '')}"


def _look(e: Mapping[str, Any]) -> str:
    return f"{_device(e)} is {ACTIONS[Action(e['action'])]}: {_because(e['reason'])}"


def _claimed(e: Mapping[str, Any]) -> str:
    kind = KINDS[RingKind(e["kind"])]
    return f"ring {e['ring']} to {_device(e)} is fixed: {kind}, {e['unread']} unread"


def _attempt(e: Mapping[str, Any]) -> str:
    verdict = VERDICTS[VerdictKind(e["verdict"])]
    why = FAILURES.get(e["reason"])
    answer = [f"HTTP {e['status']}"] if "status" in e else []
    details = ", ".join([*answer, *([why] if why else []), f"{e['ms']} ms"])
    return f"attempt {e['attempt']} of ring {e['ring']} to {_device(e)}: {verdict} ({details})"


def _outcome(e: Mapping[str, Any]) -> str:
    why = f": {_because(e['reason'])}" if "reason" in e else ""
    return f"{e['outcome']}, was {e['was']}{why}"


EVENTS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "committed": _committed,
    "written": _written,
    "acked": lambda e: f"by session {_who(e)}",
    "acked_too": lambda e: f"by session {_who(e)} as well",
    "read": lambda e: f"in session {_who(e)}",
    "due_moved": lambda e: (
        f"the push is due at {clock(e['until'], e.get('at', ''))} now: {_because(e['reason'])}"
    ),
    "due": lambda e: f"a push is wanted: {_because(e['reason'])}",
    "look": _look,
    "claimed": _claimed,
    "attempt": _attempt,
    "late_verdict": lambda e: f"changes nothing, the registration is another by now: {_attempt(e)}",
    "outcome": _outcome,
    "replayed": lambda e: (
        f"ring {e['ring']}, which was given up, is asked for anew: it will be another"
    ),
    "rang_after_ack": lambda e: "the ring was on its way when the acknowledgement came",
    "acked_after_ring": lambda e: f"by session {_who(e)}, after the ring; it stays pushed",
    "device_removed": lambda e: f"a device is gone: {_REMOVED[e['reason']]}",
}
"""Every event that is recorded, and how it is told."""
