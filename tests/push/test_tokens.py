"""When a token is asked for: as seldom as can be, and never twice at the same time."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from push.credentials import OAuth
from push.oauth import NoToken, Token
from push.tokens import KEPT, Tokens
from push.verdicts import Failure
from tests.simulation.virtual import VirtualLoop

UNAVAILABLE = NoToken(Failure.TOKEN_UNAVAILABLE, "503")
REFUSED = NoToken(Failure.TOKEN_REFUSED, "invalid_client")


def client(name: str = "ringback") -> OAuth:
    return OAuth(token_url="https://login.acme.example/t", client_id=name, client_secret="hush")


class Endpoint:
    """A token endpoint: gives what is scripted, then numbered tokens; can be held."""

    def __init__(self, *answers: Token | NoToken) -> None:
        self.answers = deque(answers)
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.called = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, oauth: OAuth) -> Token:
        self.asked += 1
        number = self.asked
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.called.set()
        try:
            await self.open.wait()
        finally:
            self.at_once -= 1
        answer = self.answers.popleft() if self.answers else Token(f"t{number}", 3600.0)
        if isinstance(answer, NoToken):
            raise answer
        return answer


def on_a_clock_of_its_own(story: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop(0.0)
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


async def test_a_token_is_kept_while_it_is_good() -> None:
    endpoint = Endpoint()
    tokens = Tokens(endpoint)
    assert [await tokens.token(client()) for _ in range(3)] == ["t1"] * 3
    assert endpoint.asked == 1


async def test_a_token_that_has_ended_is_asked_for_anew() -> None:
    endpoint = Endpoint(Token("short", 0.0))
    tokens = Tokens(endpoint)
    assert [await tokens.token(client()) for _ in range(3)] == ["short", "t2", "t2"]


def test_a_token_is_good_for_so_many_seconds_and_no_longer() -> None:
    async def hours() -> None:
        tokens = Tokens(Endpoint(Token("first", 100.0)))
        assert await tokens.token(client()) == "first"
        await asyncio.sleep(99.0)
        assert await tokens.token(client()) == "first"
        await asyncio.sleep(1.0)
        assert await tokens.token(client()) == "t2"

    on_a_clock_of_its_own(hours())


async def test_each_client_has_its_own() -> None:
    tokens = Tokens(Endpoint())
    assert await tokens.token(client("a")) == "t1"
    assert await tokens.token(client("b")) == "t2"
    assert await tokens.token(client("a")) == "t1"


async def test_a_hundred_who_need_one_at_once_cost_one_request() -> None:
    endpoint = Endpoint()
    endpoint.open.clear()
    tokens = Tokens(endpoint)
    waiting = [asyncio.ensure_future(tokens.token(client())) for _ in range(100)]
    await endpoint.called.wait()
    endpoint.open.set()
    assert await asyncio.gather(*waiting) == ["t1"] * 100
    assert endpoint.asked == 1


async def test_a_hundred_whose_token_was_refused_cost_one_renewal() -> None:
    endpoint = Endpoint()
    tokens = Tokens(endpoint)
    old = await tokens.token(client())
    endpoint.open.clear()
    endpoint.called.clear()
    waiting = [asyncio.ensure_future(tokens.renewed(client(), old)) for _ in range(100)]
    await endpoint.called.wait()
    waiting += [asyncio.ensure_future(tokens.renewed(client(), old)) for _ in range(100)]
    endpoint.open.set()
    assert await asyncio.gather(*waiting) == ["t2"] * 200
    assert await tokens.renewed(client(), old) == "t2"
    assert await tokens.token(client()) == "t2"
    assert (endpoint.asked, endpoint.most_at_once) == (2, 1)


async def test_who_needs_a_token_while_it_is_renewed_waits_for_nobody_s_second_request() -> None:
    endpoint = Endpoint(Token("first", 0.0))
    tokens = Tokens(endpoint)
    old = await tokens.token(client())
    endpoint.open.clear()
    endpoint.called.clear()
    renewal = asyncio.ensure_future(tokens.renewed(client(), old))
    await endpoint.called.wait()
    another = asyncio.ensure_future(tokens.token(client()))
    endpoint.open.set()
    assert (await renewal, await another) == ("t2", "t2")
    assert endpoint.most_at_once == 1


async def test_a_backend_that_refuses_every_token_does_not_cost_one_a_call() -> None:
    endpoint = Endpoint()
    tokens = Tokens(endpoint)
    first = await tokens.token(client())
    second = await tokens.renewed(client(), first)
    assert second == "t2"
    assert await tokens.renewed(client(), second) is None
    assert endpoint.asked == 2


def test_a_token_that_is_refused_a_minute_after_the_last_is_renewed_as_that_was() -> None:
    async def minutes() -> None:
        tokens = Tokens(Endpoint())
        second = await tokens.renewed(client(), await tokens.token(client()))
        assert second is not None
        await asyncio.sleep(59.0)
        assert await tokens.renewed(client(), second) is None
        await asyncio.sleep(1.0)
        assert await tokens.renewed(client(), second) == "t3"

    on_a_clock_of_its_own(minutes())


async def test_a_second_call_with_a_refused_token_asks_again_if_its_renewal_failed() -> None:
    tokens = Tokens(Endpoint(Token("old", 3600.0), UNAVAILABLE))
    old = await tokens.token(client())
    with pytest.raises(NoToken):
        await tokens.renewed(client(), old)
    assert await tokens.renewed(client(), old) == "t3"


async def test_a_refused_token_is_not_used_again_though_its_renewal_failed() -> None:
    endpoint = Endpoint(Token("old", 3600.0), UNAVAILABLE)
    tokens = Tokens(endpoint)
    old = await tokens.token(client())
    with pytest.raises(NoToken):
        await tokens.renewed(client(), old)
    assert await tokens.token(client()) == "t3"
    assert endpoint.asked == 3


async def test_a_renewal_of_what_is_not_known_is_a_first_request() -> None:
    assert await Tokens(Endpoint()).renewed(client(), "from before") == "t1"


async def test_all_who_wait_hear_that_there_is_none_and_the_next_asks_again() -> None:
    endpoint = Endpoint(REFUSED)
    endpoint.open.clear()
    tokens = Tokens(endpoint)
    waiting = [asyncio.ensure_future(tokens.token(client())) for _ in range(3)]
    await endpoint.called.wait()
    endpoint.open.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers == [REFUSED] * 3
    assert await tokens.token(client()) == "t2"


async def test_the_same_failure_is_logged_once_until_it_works_again_and_shows_no_secret() -> None:
    endpoint = Endpoint(REFUSED, REFUSED, Token("works", 0.0), REFUSED)
    tokens = Tokens(endpoint)
    with capture_logs() as logs:
        for _ in range(4):
            try:
                await tokens.token(client())
            except NoToken:
                continue
    told = ("ringback", "token_refused (invalid_client)")
    assert [(log["client"], log["problem"]) for log in logs] == [told] * 2
    assert "hush" not in str(logs)


async def test_who_gives_up_waiting_takes_the_token_from_nobody_else() -> None:
    endpoint = Endpoint()
    endpoint.open.clear()
    tokens = Tokens(endpoint)
    impatient = asyncio.ensure_future(tokens.token(client()))
    await endpoint.called.wait()
    patient = asyncio.ensure_future(tokens.token(client()))
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    endpoint.open.set()
    assert await patient == "t1"
    assert endpoint.asked == 1


async def test_a_failure_that_nobody_waits_for_any_more_is_no_noise() -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    endpoint = Endpoint(REFUSED)
    endpoint.open.clear()
    tokens = Tokens(endpoint)
    impatient = asyncio.ensure_future(tokens.token(client()))
    await endpoint.called.wait()
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    endpoint.open.set()
    while endpoint.at_once:
        await asyncio.sleep(0)
    assert await tokens.token(client()) == "t2"
    del impatient  # or its cancellation holds the frames that hold the request
    gc.collect()
    assert noise == []


async def test_closing_ends_the_request_that_is_out() -> None:
    endpoint = Endpoint()
    endpoint.open.clear()
    tokens = Tokens(endpoint)
    waiting = asyncio.ensure_future(tokens.token(client()))
    await endpoint.called.wait()
    await tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert endpoint.at_once == 0


async def test_of_very_many_clients_the_oldest_is_forgotten() -> None:
    endpoint = Endpoint()
    tokens = Tokens(endpoint)
    for number in range(KEPT + 1):
        await tokens.token(client(str(number)))
    assert await tokens.token(client("1")) == "t2"
    assert await tokens.token(client("0")) == f"t{KEPT + 2}"
