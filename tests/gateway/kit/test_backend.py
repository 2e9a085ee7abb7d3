"""`ringback backend`: what it answers, called over a real socket by the caller that rings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.kit.backend import Answered, FakeBackend
from gateway.kit.received import Received
from gateway.kit.screen import line
from push.caller import Caller, Exchange
from push.ring import RingKind, VerdictKind
from tests.push.scripted import OLD_SECRET, SECRET, TOKEN, a_claim, a_ring, an_endpoint
from tests.running import PATIENCE


@dataclass
class Noted:
    """A screen that keeps what it is shown."""

    calls: list[tuple[Received, bool, Answered]] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def arrived(self, call: Received, double: bool) -> None:
        self.waiting.set()

    def answered(
        self,
        call: Received,
        double: bool,
        answered: Answered,
        headers: Mapping[str, str],
        raw: bytes,
    ) -> None:
        self.calls.append((call, double, answered))
        self.ended.set()


class Running:
    def __init__(self, it: FakeBackend, screen: Noted, port: int, caller: Caller) -> None:
        self.it, self.screen, self.port, self.caller = it, screen, port, caller

    async def ring(
        self, id: str = "r_01", kind: RingKind = RingKind.MESSAGE, **changes: Any
    ) -> Exchange:
        ring = {k: changes.pop(k) for k in ("badge_seq",) if k in changes}
        values = {"signing_secrets": (SECRET,), "timeout": PATIENCE} | changes
        endpoint = an_endpoint(url=f"http://127.0.0.1:{self.port}/any/path", **values)
        claim = a_claim(ring=a_ring(kind, id=id, **ring))
        return await self.caller.exchange(endpoint, claim, time.time())

    def last(self) -> Answered:
        return self.screen.calls[-1][2]


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    screen = Noted()
    it = FakeBackend(screen, "auth-token", (SECRET,))
    runner = web.AppRunner(it.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Caller() as caller:
        yield Running(it, screen, runner.addresses[0][1], caller)
    await runner.cleanup()


async def test_a_right_call_is_accepted_and_a_double_is_shown_as_one() -> None:
    async with running() as at:
        assert (await at.ring()).verdict.kind is VerdictKind.ACCEPTED
        assert (await at.ring()).verdict.kind is VerdictKind.ACCEPTED
        assert [double for _, double, _ in at.screen.calls] == [False, True]
        assert at.last().why == "rung before, not again"


async def test_what_is_not_signed_by_us_or_has_another_auth_token_is_refused() -> None:
    async with running() as at:
        for changes in ({"signing_secrets": (OLD_SECRET,)}, {"auth_token": "other"}):
            assert (await at.ring(**changes)).verdict.reason == "http_401"
        assert (await at.ring()).verdict.kind is VerdictKind.ACCEPTED, "a refused id is not seen"


async def test_a_late_badge_is_dropped() -> None:
    async with running() as at:
        await at.ring("r_1", badge_seq=5)
        await at.ring("r_2", RingKind.BADGE, badge_seq=4)
        assert at.last().why == "a late badge, dropped"
        await at.ring("r_3", RingKind.BADGE, badge_seq=6)
        assert at.last().why == "rung"


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        ("503", VerdictKind.RETRY, "http_503"),
        ("410", VerdictKind.TOKEN_DEAD, "http_410"),
        ("reject", VerdictKind.TOKEN_DEAD, "rejected"),
        ("drop", VerdictKind.RETRY, "reset"),
        ("redirect", VerdictKind.MISCONFIGURED, "redirect"),
        ("bad-json", VerdictKind.ACCEPTED, "http_200"),
        ("slow 0.01", VerdictKind.ACCEPTED, "http_200"),
        (f"dead {TOKEN}", VerdictKind.TOKEN_DEAD, "rejected"),
    ],
)
async def test_each_misbehaviour_is_what_it_says_and_the_screen_agrees_with_the_caller(
    behaviour: str, kind: VerdictKind, reason: str
) -> None:
    async with running() as at:
        at.it.behave(behaviour)
        verdict = (await at.ring()).verdict
        assert (verdict.kind, verdict.reason) == (kind, reason)
        await at.screen.ended.wait()
        assert at.last().verdict == verdict


async def test_retry_after_reaches_the_caller() -> None:
    async with running() as at:
        at.it.behave("429 30")
        assert (await at.ring()).verdict.retry_after == 30.0


async def test_a_behaviour_for_two_calls_ends_by_itself() -> None:
    async with running() as at:
        at.it.behave("503 x2")
        reasons = [(await at.ring()).verdict.reason for _ in range(3)]
        assert reasons == ["http_503", "http_503", "http_200"]


async def test_a_call_hangs_until_another_behaviour_or_until_the_caller_hangs_up() -> None:
    async with running() as at:
        at.it.behave("hang")
        call = asyncio.create_task(at.ring())
        await at.screen.waiting.wait()
        at.it.behave("503")
        assert (await call).verdict.reason == "http_503"
        at.it.behave("hang")
        at.screen.waiting.clear()
        at.screen.ended.clear()
        while not at.screen.waiting.is_set():  # on a slow machine it may not even have arrived
            assert (await at.ring(timeout=0.1)).verdict.reason == "timeout"
        await at.screen.ended.wait()
        assert at.last().why == "the caller hung up"
        assert at.last().verdict.kind is VerdictKind.RETRY


async def test_the_control_url_takes_the_same_words_and_explains_the_rest() -> None:
    async with running() as at, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{at.port}/control"
        async with http.post(url, data="429 30") as answer:
            assert (answer.status, await answer.text()) == (200, "429 30\n")
        assert (await at.ring()).verdict.reason == "http_429"
        async with http.post(url, data="dance") as answer:
            assert answer.status == 400
            assert "'dance' is no behaviour" in await answer.text()
        async with http.get(url) as answer:
            assert (await answer.text()).startswith("429 30\n")


async def test_no_web_page_and_nobody_behind_a_tunnel_tells_it_what_to_do() -> None:
    """A browser's page may POST to loopback unasked, and a tunnel's calls come from loopback."""
    async with running() as at, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{at.port}/control"
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Host": f"evil.example:{at.port}"},
            {"Host": "abc.tunnel.example"},
            {"Host": "127.0.0.1:no-port"},
        ):
            for method in ("POST", "GET"):
                async with http.request(method, url, data="503", headers=headers) as answer:
                    assert answer.status == 403, headers
        for name in ("localhost", "127.0.0.1"):
            async with http.get(url, headers={"Host": f"{name}:{at.port}"}) as answer:
                assert (await answer.text()).startswith("ok\n")


async def test_a_line_on_the_screen_says_all_of_a_call_and_shows_no_token() -> None:
    async with running() as at:
        await at.ring("r_01")
        await at.ring("r_01")
        told = line(*at.screen.calls[1], at="12:00:00")
        for part in ("r_01", "message", "badge 3", "signature ok", "DOUBLE", "200", "accepted"):
            assert part in told
        assert TOKEN not in told


async def test_a_call_that_is_no_ring_at_all_is_answered_and_shown() -> None:
    async with running() as at, aiohttp.ClientSession() as http:
        async with http.post(f"http://127.0.0.1:{at.port}/ring", data=b"\xff{") as answer:
            assert answer.status == 401
        call, _, _ = at.screen.calls[0]
        assert (call.id, call.order) == ("", None)
