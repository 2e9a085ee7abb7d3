"""From a ring to one tenant's agreed HTTP request, and from the response to a verdict.

Decides the bytes of the body. Leaves the signature to `push.signing`, the wire to `push.caller`,
and what is in the ring to the claim. Pure and deterministic: under unchanged settings the same
ring gives the same bytes on every attempt. A further adapter is one `Adapter` in `ADAPTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from push import verdicts
from push.ring import Endpoint, PushError, Ring, RingKind, Target, Verdict
from push.verdicts import Answer, Failure


class UnknownAdapterError(PushError):
    """A tenant names an adapter that does not exist. `name` is what it asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no push adapter is called {name!r}; there are: {', '.join(ADAPTERS)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Request:
    """What is POSTed to the customer backend, before signing. Never shown: it holds the token."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One agreed format: how a ring is written, and how the answer to it is read."""

    request: Callable[[Ring, Target, Endpoint], Request]
    verdict: Callable[[Answer | Failure, str, float], Verdict]


def asapp_request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
    """Write `ring` in the default format (docs/push-contract.md), as compact JSON."""
    identity = {
        "id": ring.id,
        "kind": ring.kind.value,
        "customer": ring.customer,
        "seq": ring.seq,
    }
    body: dict[str, Any] = {
        "authToken": endpoint.auth_token,
        "deviceToken": target.token,
        "payload": {
            "aps": _aps(ring),
            "UnreadMessages": ring.unread,
            "isLiveChat": ring.live,
            "badgeSeq": ring.badge_seq,
            "ringback": identity,
        },
        "notification": {
            **identity,
            **({} if ring.platform is None else {"platform": ring.platform}),
            "expiresAt": _rfc3339(ring.expires_at),
        },
    }
    return Request({"Content-Type": "application/json"}, orjson.dumps(body))


def _aps(ring: Ring) -> dict[str, Any]:
    if ring.kind is RingKind.BADGE:
        return {"badge": ring.unread, "content-available": 1}
    alert = {k: v for k, v in (("title", ring.title), ("body", ring.text)) if v is not None}
    return {**({"alert": alert} if alert else {}), "badge": ring.unread, "sound": "default"}


def _rfc3339(epoch: float) -> str:
    """Write epoch seconds as UTC with milliseconds, as everywhere on the wire."""
    stamp = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


asapp: Final = Adapter(request=asapp_request, verdict=verdicts.judge)

ADAPTERS: Final[Mapping[str, Adapter]] = {"asapp": asapp}


def adapter_named(name: str) -> Adapter:
    """Return the adapter of that name. Raises `UnknownAdapterError`."""
    try:
        return ADAPTERS[name]
    except KeyError:
        raise UnknownAdapterError(name) from None
