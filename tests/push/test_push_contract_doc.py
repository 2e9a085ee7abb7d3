"""docs/push-contract.md shows a backend: it rings once, and what APNs did not take comes again."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from push.caller import Caller
from push.lane import INITIAL_WINDOW
from push.ring import Verdict, VerdictKind
from tests.push.scripted import ACCEPTED, OLD_SECRET, SECRET, TOKEN, a_claim, an_endpoint

DOCS = Path(__file__).parents[2] / "docs"
DOC = (DOCS / "push-contract.md").read_text("utf-8")


class Company:
    """What the page calls "yours": ids that are kept with their transaction, and APNs."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.rung: list[str] = []
        self.apns: list[bool | Exception] = []
        """What APNs makes of the next rings; of any further one, that it is taken."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        before = set(self.ids)
        try:
            yield
        except Exception:
            self.ids = before
            raise

    async def first_time(self, id: str) -> bool:
        is_new = id not in self.ids
        self.ids.add(id)
        return is_new

    async def send_to_apns(self, token: str, payload: dict[str, Any]) -> bool:
        answer = self.apns.pop(0) if self.apns else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.rung.append(token)
        return answer

    async def verdicts(self, *, calls: int, secret: str = SECRET) -> list[Verdict]:
        """What becomes of one ring that is sent so many times to the backend of the page."""
        source = re.search(r"```python\n(.*?)```", DOC, re.S)
        assert source is not None
        space: dict[str, Any] = {
            "AUTH_TOKEN": "auth-token",
            "transaction": self.transaction,
            "first_time": self.first_time,
            "send_to_apns": self.send_to_apns,
        }
        exec(source[1], space)  # noqa: S102
        app = web.Application()
        app.add_routes([web.post("/ring", space["ring"])])
        async with TestServer(app) as server, Caller() as caller:
            url = str(server.make_url("/ring"))
            endpoint = an_endpoint(url=url, signing_secrets=(secret,))
            return [(await caller.call(endpoint, a_claim(), time.time()))[0] for _ in range(calls)]


async def test_the_backend_that_the_page_shows_rings_once() -> None:
    company = Company()
    assert await company.verdicts(calls=2) == [ACCEPTED, ACCEPTED]
    assert company.rung == [TOKEN]


async def test_what_apns_did_not_take_rings_when_it_comes_again() -> None:
    company = Company()
    company.apns = [OSError("APNs is down")]
    failed, then = await company.verdicts(calls=2)
    assert (failed.kind, failed.status) == (VerdictKind.RETRY, 500)
    assert then == ACCEPTED
    assert company.rung == [TOKEN]


async def test_a_token_that_apns_does_not_know_is_dead() -> None:
    company = Company()
    company.apns = [False]
    assert await company.verdicts(calls=1) == [Verdict(VerdictKind.TOKEN_DEAD, "rejected", 200)]


async def test_what_another_signed_is_no_ring() -> None:
    company = Company()
    (refused,) = await company.verdicts(calls=1, secret=OLD_SECRET)
    assert refused.status == 401
    assert company.rung == []


def test_how_many_calls_go_out_at_a_time_is_told_as_it_is() -> None:
    at_first = f"after a quiet moment {INITIAL_WINDOW}, and with each that ends one more"
    assert f"({an_endpoint().in_flight} by default; {at_first})" in DOC
    assert at_first in (DOCS / "configuration.md").read_text("utf-8")
