"""What the tests of `push` share: sample rings, and a book, a backend and a clock on strings."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

from aiohttp import ClientResponse

from push.guard import LOOPBACK
from push.ring import (
    Attempt,
    Claim,
    DeviceRef,
    Endpoint,
    Pause,
    Ring,
    RingKind,
    Target,
    Verdict,
    VerdictKind,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9s"
TOKEN = "the-device-token"
ACCEPTED = Verdict(VerdictKind.ACCEPTED, "http_200", 200)


def a_ring(kind: RingKind = RingKind.MESSAGE, **changes: Any) -> Ring:
    """Return the ring of the protocol's example (or its badge and proactive sisters)."""
    silent = kind is RingKind.BADGE
    values: dict[str, Any] = {
        "id": "r_01",
        "kind": kind,
        "customer": "c-42",
        "seq": 9,
        "title": None if silent else "New Message",
        "text": None if silent else "Hello, how can we help?",
        "unread": 0 if silent else 3,
        "badge_seq": 17,
        "live": True,
        "expires_at": 1795510800.0,
        "platform": "ios",
    }
    return Ring(**(values | changes))


def a_claim(
    device: int = 1, *, tenant: str = "acme", attempt: int = 1, ring: Ring | None = None
) -> Claim:
    """Return a claim on one of a customer's devices."""
    target = Target(TOKEN, "fp-1")
    ref = DeviceRef(tenant, "c-42", device)
    return Claim(ref, 1, ring or a_ring(id=f"r_{tenant}_{device}"), target, attempt)


def an_endpoint(**changes: Any) -> Endpoint:
    """Return push settings that fit the protocol's example, for a backend that may be here."""
    values: dict[str, Any] = {
        "tenant": "acme",
        "url": "https://push.acme.example/ring",
        "auth_token": "auth-token",
        "allow_networks": LOOPBACK,
    }
    return Endpoint(**(values | changes))


class Answered(ClientResponse):
    """A response that aioresponses can build on aiohttp 3.14, which wants a stream writer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


class Clock:
    """Epoch seconds that move only when told; `sleep` waits for `tick`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._asleep = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was ticked that far."""
        self.slept.append(seconds)
        woken = asyncio.Event()
        entry = (self.now + seconds, woken)
        self._sleepers.append(entry)
        self._asleep.set()
        try:
            await woken.wait()
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)

    async def asleep(self, count: int = 1) -> None:
        """Wait until at least so many sleepers sleep."""
        while len(self._sleepers) < count:
            self._asleep.clear()
            await self._asleep.wait()

    def tick(self, seconds: float) -> None:
        """Move on, waking whoever is due."""
        self.now += seconds
        for entry in list(self._sleepers):
            if entry[0] <= self.now:
                self._sleepers.remove(entry)
                entry[1].set()


@dataclass
class Book:
    """A RingBook that answers from a script: a claim, None, or an exception to raise.

    With nothing scripted for a device it has nothing to ring. `on_settle` stands for what the
    real book does of itself, such as waking. `seen` gets ("look"|"settle", ref), in order.
    """

    looks: dict[DeviceRef, deque[Claim | Exception | None]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    settle_errors: deque[Exception] = field(default_factory=deque)
    settled: list[tuple[Claim, Attempt]] = field(default_factory=list)
    seen: list[tuple[str, DeviceRef]] = field(default_factory=list)
    on_settle: Callable[[Claim, Attempt], None] = lambda *_: None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def owes(self, *answers: Claim | Exception | None, ref: DeviceRef | None = None) -> DeviceRef:
        """Script the next looks at one device, and return the device."""
        claims = [answer for answer in answers if isinstance(answer, Claim)]
        ref = ref or claims[0].ref
        self.looks[ref].extend(answers)
        return ref

    async def look(self, ref: DeviceRef, pause: Pause | None = None) -> Claim | Pause | None:
        if pause is not None:
            await self._note(pause.value, ref)
            return pause if self.looks[ref] else None
        await self._note("look", ref)
        answer = self.looks[ref].popleft() if self.looks[ref] else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def settle(self, claim: Claim, attempt: Attempt) -> None:
        if self.settle_errors:
            await self._note("settle failed", claim.ref)
            raise self.settle_errors.popleft()
        self.settled.append((claim, attempt))
        self.on_settle(claim, attempt)
        await self._note("settle", claim.ref)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until the book's record says so."""
        async with self.changed:
            await self.changed.wait_for(happened)

    async def until_settled(self, count: int) -> None:
        """Wait until so many attempts are settled."""
        await self.until(lambda: len(self.settled) >= count)

    def count(self, what: str, ref: DeviceRef) -> int:
        """Return how often that happened to that device."""
        return self.seen.count((what, ref))

    async def _note(self, what: str, ref: DeviceRef) -> None:
        async with self.changed:
            self.seen.append((what, ref))
            self.changed.notify_all()


class Backend:
    """Stands for the caller: gives scripted verdicts, holds calls back, counts those in flight."""

    def __init__(self) -> None:
        self.verdicts: deque[Verdict] = deque()
        self.calls: list[Claim] = []
        self.endpoints: list[Endpoint] = []
        self.answered: list[Claim] = []
        self.in_flight: dict[str, int] = defaultdict(int)
        self.most_in_flight: dict[str, int] = defaultdict(int)
        self.held: set[str] = set()
        self._changed = asyncio.Condition()

    def hold(self, tenant: str) -> None:
        """Let this tenant's calls hang until `release`."""
        self.held.add(tenant)

    async def release(self, tenant: str) -> None:
        """Let this tenant's calls come back, now and from now on."""
        self.held.discard(tenant)
        async with self._changed:
            self._changed.notify_all()

    async def until_called(self, count: int, tenant: str = "acme") -> None:
        """Wait until so many calls of the tenant have gone out."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: sum(claim.ref.tenant == tenant for claim in self.calls) >= count
            )

    async def call(self, endpoint: Endpoint, claim: Claim, now: float) -> tuple[Verdict, float]:
        tenant = endpoint.tenant
        self.in_flight[tenant] += 1
        self.most_in_flight[tenant] = max(self.most_in_flight[tenant], self.in_flight[tenant])
        try:
            async with self._changed:
                self.calls.append(claim)
                self.endpoints.append(endpoint)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: tenant not in self.held)
            self.answered.append(claim)
            return (self.verdicts.popleft() if self.verdicts else ACCEPTED), 12.5
        finally:
            self.in_flight[tenant] -= 1
