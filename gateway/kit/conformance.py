"""Conformance: what docs/push-contract.md asks of a customer backend, as a list of checks.

The first check decides whether the others mean anything. How each is seen from outside is in
`gateway.kit.checks`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.kit import checks
from gateway.kit.bench import Bench, Finding, Result
from push.ring import RingKind
from push.signing import new_secret


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a backend must do, or should. `anchor` is a heading of the contract."""

    name: str
    title: str
    contract: str
    anchor: str
    run: Callable[[Bench], Awaitable[Finding]]


# --- the list -----------------------------------------------------------------------------------

_REQUEST, _FIELDS, _SIGNATURE = "the-request", "the-fields", "checking-the-signature"
_ANSWER, _DOUBLES, _BADGES = "what-your-answer-means", "doubles", "late-badges"
_TAKE = "Answer 2xx when you have taken responsibility."
_VERIFY = "The signature is over webhook-id, webhook-timestamp and the raw body; check it first."
_TWICE = "The same id may come again: answer 200 without sending."

CHECKS: Final = (
    Check("message", "a message is taken", _TAKE, _ANSWER, checks.message),
    Check(
        "proactive",
        "a proactive message is taken",
        "The same shape; `kind` says so.",
        "a-proactive-message",
        partial(checks.taken, title="proactive", kind=RingKind.PROACTIVE, live=False),
    ),
    Check(
        "badge",
        "a silent badge is taken",
        "No alert, no sound; deliver it as a background notification.",
        "a-badge",
        checks.badge,
    ),
    Check(
        "no_text",
        "a ring without title and text is taken",
        "In the content mode `none` title and body are left out.",
        "what-a-notification-says",
        checks.no_text,
    ),
    Check(
        "unicode",
        "every character arrives",
        "The body is JSON in UTF-8.",
        _REQUEST,
        partial(checks.taken, title="unicode", text=checks.UNICODE),
    ),
    Check(
        "large",
        "the largest notification is taken",
        "All but the device token and `authToken` is at most 4,096 bytes.",
        "what-a-notification-says",
        partial(checks.taken, title="large", text=checks.LARGE),
    ),
    Check(
        "slow",
        "a body that comes slowly is read to its end",
        "Wait for the whole body; networks and proxies cut it as they like.",
        _REQUEST,
        checks.slow,
    ),
    Check(
        "unknown_fields",
        "unknown fields are ignored",
        "Ignore fields that you do not know. New ones may come.",
        _FIELDS,
        checks.unknown_fields,
    ),
    Check(
        "signature_wrong",
        "another secret's signature is refused",
        _VERIFY,
        _SIGNATURE,
        lambda bench: checks.forged(bench, signing_secrets=(new_secret(),)),
    ),
    Check(
        "signature_missing",
        "a request without a signature is refused",
        _VERIFY,
        _SIGNATURE,
        partial(checks.forged, alter=checks.unsigned),
    ),
    Check(
        "body_changed",
        "a changed body is refused",
        _VERIFY,
        _SIGNATURE,
        partial(checks.forged, alter=checks.other_body),
    ),
    Check(
        "id_changed",
        "another webhook-id is refused",
        _VERIFY,
        _SIGNATURE,
        partial(checks.forged, alter=checks.other_id),
    ),
    Check(
        "timestamp_old",
        "a request of an hour ago is refused",
        "Refuse timestamps that are more than five minutes off: it may be a recording.",
        _SIGNATURE,
        partial(checks.forged, at=-checks.HOUR),
    ),
    Check(
        "timestamp_future",
        "a request of the next hour is refused",
        "Refuse timestamps that are more than five minutes off.",
        _SIGNATURE,
        partial(checks.forged, at=checks.HOUR),
    ),
    Check(
        "rotation",
        "one good signature among two is enough",
        "During a rotation every request carries a signature for each secret.",
        _SIGNATURE,
        checks.rotation,
    ),
    Check(
        "credentials",
        "who lacks our credentials is refused",
        "`authToken`, or the header agreed with you, says who calls.",
        _FIELDS,
        checks.credentials,
    ),
    Check("double", "the same ring twice rings once", _TWICE, _DOUBLES, checks.double),
    Check(
        "double_at_once",
        "the same ring twice at the same time rings once",
        _TWICE,
        _DOUBLES,
        checks.double_at_once,
    ),
    Check(
        "late_badge",
        "a badge that comes late is dropped",
        "Keep the highest badgeSeq per device and customer; drop a badge with a lower one.",
        _BADGES,
        checks.late_badge,
    ),
    Check(
        "late_message",
        "a message that comes late still rings",
        "A message ring that is late should still ring; leave out its number.",
        _BADGES,
        checks.late_message,
    ),
    Check(
        "dead_token",
        "a dead token is said to be dead",
        'Answer 410, or {"rejected": ["<this device token>"]}.',
        _ANSWER,
        checks.dead_token,
    ),
    Check(
        "answers",
        "answers are whole, small and quick",
        "You have 15 s in all; of your answer at most 64 KiB is read.",
        _REQUEST,
        checks.answers,
    ),
    Check(
        "keep_alive",
        "connections stay open",
        "One POST per device and ring: keep connections alive.",
        _REQUEST,
        checks.keep_alive,
    ),
)


async def run(bench: Bench) -> list[tuple[Check, Finding]]:
    """Run all checks in order; without the first one the others mean nothing, and are unknown."""
    first, *others = CHECKS
    found = [(first, await first.run(bench))]
    for check in others:
        if found[0][1].result is Result.FAIL:
            not_tried = Finding(Result.UNKNOWN, f"not tried, because {first.name} failed")
            found.append((check, not_tried))
        else:
            found.append((check, await check.run(bench)))
    return found
