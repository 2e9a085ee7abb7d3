"""What a customer backend can tell of one call: who it is from, and what is asked.

Decides whether signature and credential are right and what is shown of the request, whichever
adapter wrote it. Leaves to `gateway.kit.backend` what was seen before and the answer. Pure.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from gateway.kit.masking import MASK
from push import signing
from storage.records import fingerprint

TOLERANCE: Final = 300  # seconds; an older request may be a recorded one, played again
_NO_HEADERS: Final[Mapping[str, str]] = {}
_TOKEN_NAMES: Final = ("deviceToken", "device-token", "pushkey", "identifier", "token")
_UNREAD_NAMES: Final = ("UnreadMessages", "unread", "badge")


class Proof(StrEnum):
    """What there is to say of a signature or a credential. `UNTIMELY`: of too long ago or ahead."""

    OK = "ok"
    WRONG = "WRONG"
    UNTIMELY = "UNTIMELY"
    MISSING = "MISSING"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Received:
    """One call. `order` is the body, None if it is no JSON object. No repr shows what is secret."""

    id: str
    signature: Proof
    credential: Proof
    order: dict[str, Any] | None = field(repr=False)
    token: str | None = field(repr=False)
    kind: str | None
    customer: str | None
    seq: int | None
    badge: int | None
    unread: int | None
    badge_seq: int | None
    title: str | None = field(repr=False)
    text: str | None = field(repr=False)

    @property
    def device(self) -> str | None:
        return None if self.token is None else fingerprint(self.token)

    @property
    def refused(self) -> str | None:
        """Why this caller is not let in, if so."""
        for name, proof in (("signature", self.signature), ("credential", self.credential)):
            if proof not in (Proof.OK, Proof.UNCHECKED):
                return f"the {name} is {proof.value.lower()}"
        return None

    @property
    def masks(self) -> dict[str, str]:
        """What is to be masked of the body, and what is shown for it."""
        auth = (self.order or {}).get("authToken")
        found = {self.token: f"{MASK}{self.device}"} if self.token else {}
        return found | ({auth: MASK} if isinstance(auth, str) else {})


def read(
    headers: Mapping[str, str],
    raw: bytes,
    *,
    secrets: tuple[str, ...],
    auth_token: str | None,
    now: float,
    wanted: Mapping[str, str] = _NO_HEADERS,
) -> Received:
    """Return what there is to know of a call; `now` in epoch s. Raises nothing for a bad one.

    `auth_token` is what `authToken` must be, `wanted` which headers must be there; with neither
    the credential is not checked.
    """
    order = _object(raw)
    known = order or {}
    return Received(
        id=headers.get("webhook-id", ""),
        signature=_signature(headers, raw, secrets, now),
        credential=_credential(known.get("authToken"), auth_token, headers, wanted),
        order=order,
        token=_first(known, _TOKEN_NAMES, str),
        kind=_first(known, ("kind",), str),
        customer=_first(known, ("customer",), str),
        seq=_first(known, ("seq",), int),
        badge=_first(known, ("badge", *_UNREAD_NAMES), int),
        unread=_first(known, _UNREAD_NAMES, int),
        badge_seq=_first(known, ("badgeSeq", "badge_seq"), int),
        title=_first(known, ("title",), str),
        text=_first(known, ("body", "text", "alert"), str),
    )


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _signature(
    headers: Mapping[str, str], raw: bytes, secrets: tuple[str, ...], now: float
) -> Proof:
    if not secrets:
        return Proof.UNCHECKED
    given = headers.get("webhook-signature", "").split()
    sent = headers.get("webhook-timestamp", "")
    if not given or not sent.isascii() or not sent.isdigit() or len(sent) > 12:
        return Proof.WRONG if given else Proof.MISSING
    right = signing.headers(headers.get("webhook-id", ""), float(sent), raw, secrets)
    expected = right["webhook-signature"].split()
    if not any(_same(a, b) for a in given for b in expected):
        return Proof.WRONG
    return Proof.OK if abs(now - int(sent)) <= TOLERANCE else Proof.UNTIMELY


def _credential(
    token: object, auth_token: str | None, headers: Mapping[str, str], wanted: Mapping[str, str]
) -> Proof:
    pairs = [(headers.get(name), value) for name, value in wanted.items()]
    if auth_token is not None:
        pairs.append((token if isinstance(token, str) else None, auth_token))
    if not pairs:
        return Proof.UNCHECKED
    if any(given is None for given, _ in pairs):
        return Proof.MISSING
    same = [_same(given or "", expected) for given, expected in pairs]
    return Proof.OK if all(same) else Proof.WRONG


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _first(order: Any, names: tuple[str, ...], kind: type) -> Any:
    """The first value of that kind under one of these names, outermost first."""
    for name in names:
        for level in _levels(order):
            value = level.get(name)
            if isinstance(value, kind) and not isinstance(value, bool):
                return value
    return None


def _levels(order: Any) -> Iterator[dict[str, Any]]:
    """Every object within, breadth first."""
    waiting = [order]
    while waiting:
        at = waiting.pop(0)
        if isinstance(at, dict):
            yield at
            waiting.extend(at.values())
        elif isinstance(at, list):
            waiting.extend(at)
