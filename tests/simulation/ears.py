"""The customer backends: what they heard, and what they answer, in order of arrival.

Stands for `push.caller`: the request is made by the real adapter and the answer judged by it; only
the wire between is missing. A backend hears a request whole or not at all, and its log is the
truth about what was rung, whatever the process learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

import orjson

from push.adapters import adapter_named
from push.ring import Claim, Endpoint, Verdict
from push.verdicts import Answer, Failure
from tests.simulation.virtual import Process


class Mood(Enum):
    """How a backend takes a call."""

    ACCEPTS = "accepts"
    SLOW = "slow"  # accepts, after some seconds
    LATE = "late"  # accepts, after we gave up
    HANGS = "hangs"  # never takes it
    RESETS = "resets"
    RESETS_AFTER = "resets_after"  # takes it, and the answer is lost
    BUSY = "busy"  # 429 with Retry-After
    FAILS = "fails"  # 500
    GONE = "gone"  # 410
    REJECTS = "rejects"  # 200 with the token in `rejected`
    REFUSES = "refuses"  # 422
    MISPLACED = "misplaced"  # 404


STATUS = {Mood.BUSY: 429, Mood.FAILS: 500, Mood.GONE: 410, Mood.REFUSES: 422, Mood.MISPLACED: 404}
TAKES = {Mood.ACCEPTS, Mood.SLOW, Mood.LATE, Mood.RESETS_AFTER}


@dataclass(frozen=True, slots=True)
class Heard:
    """One request, as it arrived. `took`: the backend rang, or will."""

    at: float
    tenant: str
    customer: str
    device: int
    generation: int
    ring: str
    attempt: int
    kind: str
    seq: int
    expires_at: float
    token: str
    body: bytes
    mood: Mood

    @property
    def took(self) -> bool:
        return self.mood in TAKES


class Ears:
    """All backends of all tenants."""

    def __init__(
        self,
        rng: Random,
        arriving: Callable[[Heard], None],
        answered: Callable[[Heard, Verdict], None],
    ) -> None:
        self.rng = rng
        self.mood = Mood.ACCEPTS
        self.moody = 0.0
        """How often a call meets another mood than the present one."""
        self.log: list[Heard] = []
        self.out: dict[int, int] = {}
        self.arriving = arriving
        self.answered = answered

    def calls(self, process: Process) -> Any:
        """The `BackendCalls` of this life of the process."""
        self.out.clear()
        return _Calls(self, process)

    async def take(
        self, process: Process, endpoint: Endpoint, claim: Claim, now: float
    ) -> tuple[Verdict, float]:
        await process.turn()
        adapter = adapter_named(endpoint.adapter, endpoint.options)
        body = adapter.request(claim.ring, claim.target, endpoint).body
        heard = self._hear(endpoint, claim, body)
        began = process.loop.time()
        device = claim.ref.device
        self.out[device] = self.out.get(device, 0) + 1
        try:
            outcome = await self._answer(heard, endpoint)
        finally:
            self.out[device] -= 1
        await process.turn()
        verdict = adapter.verdict(outcome, claim.target.token, now)
        self.answered(heard, verdict)
        return verdict, (process.loop.time() - began) * 1000

    def _hear(self, endpoint: Endpoint, claim: Claim, body: bytes) -> Heard:
        mood = self.mood
        if self.moody and self.rng.random() < self.moody:
            mood = self.rng.choice(list(Mood))
        ring = claim.ring
        heard = Heard(
            at=asyncio.get_running_loop().time(),
            tenant=endpoint.tenant,
            customer=ring.customer,
            device=claim.ref.device,
            generation=claim.generation,
            ring=ring.id,
            attempt=claim.attempt,
            kind=ring.kind.value,
            seq=ring.seq,
            expires_at=ring.expires_at,
            token=orjson.loads(body)["deviceToken"],
            body=body,
            mood=mood,
        )
        self.arriving(heard)
        if mood not in (Mood.HANGS, Mood.RESETS):
            self.log.append(heard)
        return heard

    async def _answer(self, heard: Heard, endpoint: Endpoint) -> Answer | Failure:
        match heard.mood:
            case Mood.HANGS | Mood.LATE:
                await asyncio.sleep(endpoint.timeout)
                return Failure.TIMEOUT
            case Mood.RESETS | Mood.RESETS_AFTER:
                await asyncio.sleep(0.01)
                return Failure.RESET
            case Mood.SLOW:
                await asyncio.sleep(self.rng.uniform(0.1, 0.9 * endpoint.timeout))
            case _:
                await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.2, 3.0)))
        if heard.mood is Mood.REJECTS:
            return Answer(200, {}, orjson.dumps({"rejected": [heard.token]}))
        headers = {"Retry-After": "20"} if heard.mood is Mood.BUSY else {}
        return Answer(STATUS.get(heard.mood, 200), headers, b"")


class _Calls:
    def __init__(self, ears: Ears, process: Process) -> None:
        self._ears = ears
        self._process = process

    async def call(self, endpoint: Endpoint, claim: Claim, now: float) -> tuple[Verdict, float]:
        return await self._ears.take(self._process, endpoint, claim, now)
