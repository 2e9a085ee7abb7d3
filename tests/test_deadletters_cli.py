"""`ringback deadletters`, as somebody at a terminal meets it, against a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.deadletters import Ranged
from storage.deadletters import Wanted
from storage.errors import Unavailable
from tests.running import Running, running
from tests.test_campaign_cli import here
from tests.test_cli import RINGBACK, Ended, end_of, environ_of, ringback
from tests.test_deadletters import refused

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python


async def deadletters(it: Running, *words: str) -> Ended:
    directory = it.gateway.config.storage.path.parent
    return await ringback(directory, "deadletters", *words, **here(it))


async def refused_by(it: Running, many: int) -> None:
    """A dead letter each of so many customers: `c-0` and so on."""
    for i in range(many):
        await it.register(f"c-{i}", f"phone-{i}", f"t-{i}")
        await refused(it, f"c-{i}")


async def test_they_are_listed_looked_at_and_replayed(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        listed = (await deadletters(it, "list")).out
        assert id in listed
        assert "http_422 (422)" in listed
        shown = (await deadletters(it, "show", id)).out
        assert shown.splitlines()[-1].split() == ["a", "replay", "now", "replayed"]
        assert json.loads((await deadletters(it, "show", id, "--json")).out)["id"] == id
        ended = await deadletters(it, "replay", id)
        assert (ended.code, ended.out.split()) == (0, ["replayed", "1"])
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 2
        shown = (await deadletters(it, "show", id)).out
        (when,) = re.findall("replayed_at *([0-9-]+T[0-9:]+)", shown)
        assert when.replace("T", " ") in (await deadletters(it, "list")).out


async def test_an_id_is_told_whole_in_the_narrowest_terminal_and_a_pipe_gets_whole_lines(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        narrow = here(it) | {"COLUMNS": "40"}
        terminal, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            RINGBACK, "deadletters", "list", env=environ_of(narrow), stdout=theirs
        )
        os.close(theirs)
        shown, code = await asyncio.gather(shown_on(terminal), process.wait())
        assert (code, id in shown) == (0, True), shown
        piped = await ringback(tmp_path, "deadletters", "list", **narrow)
        assert len(piped.out.splitlines()) == 2, piped.out


async def test_what_was_replayed_before_a_refusal_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        told = (await deadletters(it, "replay", id, "r_none")).refused()
        assert "r_none: this tenant has no such dead letter" in told
        assert "1 replayed" in told


async def test_what_was_replayed_of_a_range_before_a_call_failed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", 2)
    async with running(tmp_path) as it:
        await refused_by(it, 3)
        them = it.gateway.core.dead_letters
        replay_range = them.replay_range

        async def once(tenant: str, wanted: Wanted, cursor: str | None) -> Ranged:
            if cursor is not None:
                raise Unavailable("disk full")
            return await replay_range(tenant, wanted, cursor)

        monkeypatch.setattr(them, "replay_range", once)
        told = (await deadletters(it, "replay", "--all")).refused()
        assert "2 replayed, of 3 in all" in told


async def test_there_are_none_of_a_customer_whose_id_cannot_be(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        listed = await deadletters(it, "list", "--customer", "\udce9", "--json")
        assert json.loads(listed.out) == {"dead_letters": []}


async def test_a_range_is_replayed_call_after_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", 2)
    async with running(tmp_path) as it:
        await refused_by(it, 5)
        for limit in (4, 5):
            listed = await deadletters(it, "list", "--limit", str(limit))
            assert len(listed.out.splitlines()) == 1 + limit
            assert ("There are older ones" in listed.err) is (limit < 5)
        one = await deadletters(it, "replay", "--customer", "c-0", "--cause", "refused")
        assert one.out.split() == ["replayed", "1"]
        await it.settled(1, "pushed", "c-0")
        told = json.loads((await deadletters(it, "replay", "--all", "--json")).out)
        assert told == {"replay": {"replayed": 4, "already": 1}}
        none = await deadletters(it, "replay", "--until", "2020-01-01T00:00:00Z")
        assert (none.code, none.out.strip()) == (0, "")
        assert "There are none." in none.err


async def test_how_far_a_range_is_is_shown_at_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", 2)
    async with running(tmp_path) as it:
        await refused_by(it, 3)
        terminal, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            RINGBACK,
            *("deadletters", "replay", "--all", "--json"),
            env=environ_of(here(it)),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        shown, ended = await asyncio.gather(shown_on(terminal), end_of(process))
        assert json.loads(ended.out) == {"replay": {"replayed": 3}}
        assert re.search("replaying.*3/3", shown)
        assert (await deadletters(it, "replay", "--all")).err == ""


async def shown_on(terminal: int) -> str:
    """Everything until nobody has it open any more."""

    def read() -> str:
        shown = b""
        with suppress(OSError), open(terminal, "rb", buffering=0) as file:  # Linux: EIO at its end
            while more := file.read(4096):
                shown += more
        return shown.decode()

    return await asyncio.to_thread(read)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["replay"], "say which: ids, or a range"),
        (["replay", "r_1", "--all"], "say which: ids, or a range"),
        (["replay", "r_1"], "this tenant has no such dead letter"),
        (["show", "r/1"], "this tenant has no such dead letter"),
        (["list", "--since", "noon"], "since: give an RFC 3339 time"),
        (["list", "--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
    ],
)
async def test_what_is_wrong_is_one_line(tmp_path: Path, words: list[str], problem: str) -> None:
    async with running(tmp_path) as it:
        assert problem in (await deadletters(it, *words)).refused()
