"""An independent client, written from the protocol's page alone, holds a conversation."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from examples import wire_client
from examples.wire_client import converse
from gateway.protocol import CloseCode, Role
from tests.running import PATIENCE, PATIENT, Running, running


class Person:
    """Somebody at the independent client: types lines, and looks at the screen."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.screen: list[str] = []
        self._shown: asyncio.Queue[str] = asyncio.Queue()

    async def typing(self) -> AsyncIterator[str]:
        while (line := await self.lines.get()) is not None:
            yield line

    def show(self, line: str) -> None:
        self.screen.append(line)
        self._shown.put_nowait(line)

    async def sees(self) -> str:
        """The next line on the screen."""
        async with asyncio.timeout(PATIENCE):
            return await self._shown.get()


@asynccontextmanager
async def at_the_client(
    it: Running, token: str | None = None
) -> AsyncIterator[tuple[Person, asyncio.Task[int]]]:
    person = Person()
    token = token if token is not None else it.token(Role.CUSTOMER, "c-42")
    url = it.chat_url("/v1/chat")
    conversing = asyncio.create_task(converse(url, token, person.typing(), person.show))
    try:
        yield person, conversing
    finally:
        conversing.cancel()
        await asyncio.gather(conversing, return_exceptions=True)


async def test_it_holds_a_conversation_and_leaves_cleanly(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, at_the_client(it) as (person, done):
        await person_is_there(it, person)
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="how can I help?")
        assert await person.sees() == "a-1: how can I help?"
        assert (await agent.take("receipt", state="delivered"))["seq"] == 2
        assert (await agent.take("receipt", state="read"))["seq"] == 2
        person.lines.put_nowait("where is my order?")
        assert (await agent.take("message"))["text"] == "where is my order?"
        person.lines.put_nowait(None)
        async with asyncio.timeout(PATIENCE):
            assert await done == CloseCode.GOODBYE
        assert (await it.outcome(2))["outcome"] == "acked"


async def test_what_is_as_long_as_a_text_may_be_is_sent_whatever_it_is_written_in(
    tmp_path: Path,
) -> None:
    """Written with escapes, emoji are longer than a frame may be."""
    async with running(tmp_path, delivery=PATIENT) as it, at_the_client(it) as (person, _):
        await person_is_there(it, person)
        agent = await it.agent(open="c-42")
        longest = "\N{GRINNING FACE}" * 8_000
        person.lines.put_nowait(longest)
        assert (await agent.take("message"))["text"] == longest


async def person_is_there(it: Running, person: Person) -> None:
    """Write once, so that the customer exists and is seen to have arrived."""
    await it.write(text="welcome")
    assert await person.sees() == "crm: welcome"


async def test_after_a_broken_connection_it_resumes_and_says_again_what_had_no_answer(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, at_the_client(it) as (person, _):
        await person_is_there(it, person)
        agent = await it.agent(open="c-42")
        for session in list(it.gateway.core.context.hub.everyone()):
            if session.identity.role is Role.CUSTOMER:
                session.close(CloseCode.RESTART)
        await agent.take("presence", in_chat=False)
        await agent.ask("send", "sent", customer="c-42", text="while you were away")
        person.lines.put_nowait("I was away")
        assert await person.sees() == "a-1: while you were away"
        assert (await agent.take("message"))["text"] == "I was away"
        assert person.screen == ["crm: welcome", "a-1: while you were away"]


async def test_what_has_to_wait_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    slow = {"sends_per_minute": 1, "burst": 1}
    async with (
        running(tmp_path, delivery=PATIENT, limits=slow) as it,
        at_the_client(it) as (person, _),
    ):
        await person_is_there(it, person)
        agent = await it.agent(open="c-42")
        for line in ("one", "two"):
            person.lines.put_nowait(line)
        assert (await agent.take("message"))["text"] == "one"
        await agent.ask("send", "sent", customer="c-42", text="I am here")
        assert await person.sees() == "a-1: I am here"
        assert (await agent.take("receipt", state="delivered"))["seq"] == 3


async def test_a_token_that_is_not_accepted_keeps_it_away(tmp_path: Path) -> None:
    async with (
        running(tmp_path, delivery=PATIENT) as it,
        at_the_client(it, token="no token") as (person, done),
    ):
        async with asyncio.timeout(PATIENCE):
            assert await done == CloseCode.BAD_TOKEN
        assert person.screen == []


async def test_it_runs_from_the_command_line(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(text="welcome")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "examples.wire_client"),
            *(it.chat_url("/v1/chat"), it.token(Role.CUSTOMER, "c-42")),
            cwd=Path(__file__).parent.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            process.stdin.write(b"hello\n")
            process.stdin.close()
            assert await process.wait() == 0
            assert await process.stdout.read() == b"crm: welcome\n"
        _, told = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert [message["text"] for message in told["messages"]] == ["welcome", "hello"]


async def test_without_an_address_and_a_token_it_says_how_it_is_called() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.wire_client", "--help"),
        cwd=Path(__file__).parent.parent,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said == b"usage: python -m examples.wire_client ws://HOST:PORT/v1/chat TOKEN\n"


def test_it_knows_nothing_of_the_servers_code() -> None:
    tree = ast.parse(Path(wire_client.__file__).read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"aiohttp"}
