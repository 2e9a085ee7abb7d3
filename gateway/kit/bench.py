"""What the conformance checks stand on: test rings to one backend, and what is found.

Leaves to `gateway.kit.checks` what is checked, to `gateway.kit.report` how it is told. Every ring
leaves through the caller and the adapter that ring for real.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec
import orjson

from gateway.kit import probe
from push.adapters import adapter_named
from push.caller import Caller, Exchange, Signed
from push.ring import Endpoint, Ring, RingKind, VerdictKind
from push.verdicts import Answer


class Result(StrEnum):
    """Of one check. `warn`: allowed, but it will hurt; `unknown`: not to be seen from outside."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `said` in a sentence, and the calls that show it."""

    result: Result
    said: str
    calls: tuple[Exchange, ...] = ()


@dataclass(slots=True)
class Bench:
    """One backend under test. `token` None: a bogus one, of which it may say that it is dead."""

    endpoint: Endpoint
    caller: Caller
    token: str | None = None
    dead_token: str | None = None
    calls: list[Exchange] = field(default_factory=list)
    customer: str = field(default_factory=lambda: f"{probe.CUSTOMER}-{secrets.token_hex(3)}")
    bogus: str = field(default_factory=lambda: f"ringback-bogus-{secrets.token_hex(8)}")

    def a_ring(self, title: str, text: str = "A test.", **changes: Any) -> Ring:
        """Return a test ring; the title says on the phone which check it belongs to."""
        told: dict[str, Any] = {"customer": self.customer, "title": None, "text": None}
        if changes.get("kind") is not RingKind.BADGE:
            told |= {"title": f"Ringback: {title}", "text": text}
        return probe.ring(**(told | changes))

    async def call(
        self,
        ring: Ring,
        *,
        token: str | None = None,
        at: float = 0.0,
        alter: Callable[[Signed], Signed] = lambda signed: signed,
        **endpoint: Any,
    ) -> Exchange:
        """Ring, at so many seconds from now, with a changed endpoint or a spoiled request."""
        claim = probe.claim_of(ring, token or self.token or self.bogus, self.endpoint.tenant)
        exchange = await self.caller.exchange(
            replace(self.endpoint, **endpoint), claim, time.time() + at, alter
        )
        self.calls.append(exchange)
        return exchange

    def taken(self, call: Exchange) -> bool:
        """Tell whether the request was understood: accepted, or a bogus token told to be dead."""
        dead = self.token is None and call.verdict.kind is VerdictKind.TOKEN_DEAD
        return dead or call.verdict.kind is VerdictKind.ACCEPTED

    @property
    def silent(self) -> bool:
        """Whether this form of the request has rings that only correct a number."""
        return adapter_named(self.endpoint.adapter, self.endpoint.options).silent

    @property
    def dates_badges(self) -> bool:
        """Whether this form of the request says which of two numbers is the newer."""
        ring = self.a_ring("badge", kind=RingKind.BADGE)
        older = msgspec.structs.replace(ring, badge_seq=ring.badge_seq - 1)
        return self._body(ring) != self._body(older)

    @property
    def has_fields(self) -> bool:
        """Whether this form of the request is a JSON object."""
        try:
            return isinstance(orjson.loads(self._body(self.a_ring("message"))), dict)
        except orjson.JSONDecodeError:
            return False

    def _body(self, ring: Ring) -> bytes:
        adapter = adapter_named(self.endpoint.adapter, self.endpoint.options)
        target = probe.claim_of(ring, self.bogus, self.endpoint.tenant).target
        return adapter.request(ring, target, self.endpoint).body

    @property
    def signs(self) -> bool:
        return bool(self.endpoint.signing_secrets)


def rang(call: Exchange) -> int | None:
    """Return how often the backend says that it has rung for this id; None if it does not say."""
    if not isinstance(call.came, Answer):
        return None
    told = next((v for k, v in call.came.headers.items() if k.lower() == probe.RANG), "")
    return int(told) if told.isascii() and told.isdigit() else None


def brief(call: Exchange) -> str:
    """Return what came, in a few words."""
    status, kind = call.verdict.status, call.verdict.kind.value.replace("_", " ")
    return f"{call.verdict.reason}: {kind}" if status is None else f"{status}: {kind}"
