"""Test rings, and what may be shown of a call that was made with one.

Decides what a test ring looks like. A test ring leaves as a real one does, through the tenant's
adapter, credentials and the caller, but it is nobody's: no message is behind it, nothing of it is
recorded, and its id begins with `r_test_`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from gateway.kit import masking
from push.caller import Exchange
from push.ring import Claim, DeviceRef, Endpoint, Ring, RingKind, Target
from push.verdicts import Answer
from storage.records import fingerprint

RANG: Final = "ringback-rang"
"""The header of an answer in which a backend may say how often it has rung for this webhook-id."""
CUSTOMER: Final = "ringback-test"
EXPIRES_AFTER: Final = 600.0  # seconds; nobody wants to be rung by yesterday's test
WIDTH: Final = 400  # characters of a line of the request
SHOWN: Final = 2_000  # characters of an answer's body


def ring(**changes: Any) -> Ring:
    """Return a message ring to nobody in particular, changed by `changes`."""
    values: dict[str, Any] = {
        "id": new_id(),
        "kind": RingKind.MESSAGE,
        "customer": CUSTOMER,
        "seq": 1,
        "title": "Ringback",
        "text": "A test. Nothing is to be done.",
        "unread": 1,
        "badge_seq": 1,
        "live": True,
        "expires_at": time.time() + EXPIRES_AFTER,
        "claimed_at": time.time(),
    }
    return Ring(**(values | changes))


def new_id() -> str:
    """Return a ring id that no real ring has."""
    return f"r_test_{secrets.token_hex(6)}"


def claim_of(ring: Ring, token: str, tenant: str) -> Claim:
    """Return the permission to call for `ring`, which concerns no device row."""
    target = Target(token, fingerprint(token))
    return Claim(DeviceRef(tenant, ring.customer, 0), 0, ring, target, 1)


def _masks(endpoint: Endpoint, *tokens: str) -> dict[str, str]:
    """Return what is to be masked wherever it turns up, and what is shown for it."""
    credentials = endpoint.credentials
    secret = (
        endpoint.auth_token,
        *endpoint.signing_secrets,
        *(value for _, value in credentials.headers),
        credentials.bearer or "",
        *(credentials.basic or ())[1:],
    )
    shown = {text: masking.MASK for text in secret if text}
    return shown | {token: f"{masking.MASK}{fingerprint(token)}" for token in tokens}


def address(url: str, hidden: Mapping[str, str] | None = None) -> str:
    """Return `url` without what may be a credential in its user name, path or query."""
    parts = urlsplit(url)
    path = "/".join(_segment(segment, hidden or {}) for segment in parts.path.split("/"))
    query = masking.MASK if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))


def _segment(segment: str, hidden: Mapping[str, str]) -> str:
    plain = unquote(segment)
    masked = masking.text(plain, hidden)
    return segment if masked == plain else masked


def told(exchange: Exchange, endpoint: Endpoint, *tokens: str) -> dict[str, Any]:
    """Return one call as it may be shown: without the endpoint's secrets and these tokens."""
    hidden = _masks(endpoint, *tokens)
    return {
        "sent": _sent(exchange, endpoint, hidden),
        "came": _came(exchange, hidden),
        "ms": round(exchange.ms, 1),
        "verdict": exchange.verdict.kind.value,
        "reason": exchange.verdict.reason,
    }


def _sent(exchange: Exchange, endpoint: Endpoint, hidden: dict[str, str]) -> list[str]:
    """Return the request as lines, masked, each cut to a bearable length."""
    url = endpoint.url if exchange.sent is None else str(exchange.sent.url)
    lines = [f"POST {address(url, hidden)}"]
    if exchange.sent is not None:
        lines += masking.headers(exchange.sent.headers)
        lines += ["", *masking.body(exchange.sent.body, hidden).splitlines()]
    return [line if len(line) <= WIDTH else f"{line[:WIDTH]}… ({len(line)})" for line in lines]


def _came(exchange: Exchange, hidden: dict[str, str]) -> list[str]:
    """Return the answer as lines, masked; or why there is none."""
    answer = exchange.came
    if not isinstance(answer, Answer):
        return [f"no answer: {answer.value}"]
    lines = [str(answer.status)]
    lines += [line for line in masking.headers(answer.headers) if not line.endswith(masking.MASK)]
    if answer.body is None:
        lines += ["", "(a body that did not arrive whole, in time and within 64 KiB)"]
    elif answer.body:
        lines += ["", *masking.body(answer.body, hidden)[:SHOWN].splitlines()]
    return lines
