"""The contract kit on the command line, against real processes, sockets and databases."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from storage.records import fingerprint
from tests.running import PATIENCE, SIGNING, Backend, Call, Running, backend, running
from tests.test_cli import RINGBACK, Ended, environ_of, ringback, written

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python

TOKEN = "the-device-token"
CONFIG = ("--config", "ringback.toml")


@dataclass
class Shown:
    """A `ringback backend` and what it said."""

    process: asyncio.subprocess.Process
    url: str
    introduction: str

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode()

    async def type(self, text: str) -> str:
        """Type a line, and return the first line that it answers."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.write(f"{text}\n".encode())
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stderr.readline()).decode().strip()


@asynccontextmanager
async def shown(directory: Path, *words: str, **environ: str) -> AsyncIterator[Shown]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        RINGBACK,
        "backend",
        "--port",
        "0",
        *words,
        cwd=directory,
        env=environ_of(environ),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(3 * PATIENCE):
            introduction = (await process.stderr.readline()).decode()
            introduction += (await process.stderr.readline()).decode()
        url = introduction.partition("ready: ")[2].partition("/ring")[0]
        yield Shown(process, url, introduction)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def push_test(directory: Path, *words: str, **environ: str) -> Ended:
    return await ringback(directory, "push", "test", *CONFIG, *words, **environ)


def at(url: str, **more: str) -> dict[str, str]:
    return {"RINGBACK_TENANTS__ACME__PUSH__ENDPOINT": url, **more}


def counted(directory: Path) -> dict[str, list[Any]]:
    """Everything in the database that says what became of anything."""
    with closing(sqlite3.connect(directory / "ringback.db")) as db:
        listed = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name for (name,) in listed]
        return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


# ringback backend


async def test_a_test_ring_goes_from_one_command_to_the_other(tmp_path: Path) -> None:
    written(tmp_path)
    async with shown(tmp_path, *CONFIG, "--verbose") as it:
        assert "checks the signature and the credential" in it.introduction
        ended = await push_test(tmp_path, "--token", TOKEN, **at(f"{it.url}/ring"))
        assert (ended.code, ended.err) == (0, "")
        assert "verdict: accepted (http_200)" in ended.out
        told = ""
        while "accepted" not in told:
            told += await it.line()
    for text in (ended.out, told):
        assert TOKEN not in text
        assert fingerprint(TOKEN) in text
        assert '"authToken": "***"' in text
        assert "webhook-signature: v1,***\n" in text
    assert "signature ok, credential ok" in told


async def test_typed_behaviours_change_the_answers(tmp_path: Path) -> None:
    written(tmp_path)
    async with shown(tmp_path, *CONFIG, "--behave", "503 x1") as it:
        assert "It does: 503 x1" in it.introduction
        ended = await push_test(tmp_path, "--token", TOKEN, **at(f"{it.url}/ring"))
        assert ended.code == 1
        assert "verdict: retry (http_503)" in ended.out
        assert await it.type("reject") == "It does: reject"
        ended = await push_test(tmp_path, "--token", TOKEN, **at(f"{it.url}/ring"))
        assert "verdict: token_dead (rejected)" in ended.out
        assert "'dance' is no behaviour" in await it.type("dance")
        assert it.process.stdin is not None
        it.process.stdin.write(b"quit\n")
        async with asyncio.timeout(PATIENCE):
            assert await it.process.wait() == 0


async def test_with_nothing_given_it_is_the_backend_of_the_development_gateway(
    tmp_path: Path,
) -> None:
    async with shown(tmp_path) as it:
        assert "no signature" in it.introduction
        dev = {"RINGBACK_TENANTS__DEV__PUSH__ENDPOINT": f"{it.url}/ring"}
        ended = await ringback(tmp_path, "push", "test", "--token", TOKEN, **dev)
        assert ended.code == 0, ended
        assert "signature not checked, credential ok" in await it.line()


async def test_it_asks_for_no_credential_that_it_was_not_given_or_that_is_not_sent(
    tmp_path: Path,
) -> None:
    async with shown(tmp_path, "--signing-secret", SIGNING) as it:
        assert "it checks the signature and no credential" in it.introduction
    written(tmp_path)
    form = {
        "RINGBACK_TENANTS__ACME__PUSH__ADAPTER": "liveperson",
        "RINGBACK_TENANTS__ACME__PUSH__OPTIONS": json.dumps({"brand_id": "9"}),
    }
    async with shown(tmp_path, *CONFIG, **form) as it:
        ended = await push_test(tmp_path, "--token", TOKEN, **at(f"{it.url}/ring", **form))
        assert ended.code == 0, ended
        assert "signature ok" in await it.line()


async def test_for_machines_each_event_is_a_line_of_json(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        RINGBACK,
        "backend",
        "--json",
        "--port",
        "0",
        cwd=tmp_path,
        env=environ_of({"BACKEND_SIGNING_SECRET": SIGNING}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(3 * PATIENCE):
            url = json.loads(await process.stdout.readline())["url"]
            async with aiohttp.ClientSession() as http, http.post(f"{url}/ring", data="{}"):
                pass
            ring = json.loads(await process.stdout.readline())
            answered = json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()
    assert (ring["event"], ring["signature"]) == ("ring", "missing")
    assert (answered["event"], answered["status"]) == ("answered", 401)
    assert answered["verdict"] == "misconfigured"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--signing-secret", "whsec_short"), "--signing-secret: "),
        (("--config", "missing.toml"), "missing.toml"),
        (("--host", "192.0.2.1"), "choose another with --host or --port"),
        (("--host", "chat..example"), "--host: "),
        (("--host", ""), "--host: "),  # which would be every address of this machine
    ],
)
async def test_a_backend_that_cannot_be_run_says_why_in_one_line(
    tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    line = (await ringback(tmp_path, "backend", "--port", "0", *words)).refused()
    assert named in line


async def test_a_behaviour_that_does_not_exist_is_answered_with_those_that_do(
    tmp_path: Path,
) -> None:
    ended = await ringback(tmp_path, "backend", "--behave", "dance")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("ringback: --behave: 'dance' is no behaviour")
    assert "bad-json" in ended.err


# ringback push test


@asynccontextmanager
async def registered(directory: Path) -> AsyncIterator[tuple[Running, Backend]]:
    """A running gateway whose customer has a phone and two unread messages."""
    async with backend() as there, running(directory, there) as it:
        await it.register(token=TOKEN)
        await it.write(text="one")
        await it.settled(await it.write(text="two"), "pushed")
        while there.untaken:
            await there.take()
        yield it, there


async def test_a_token_in_the_path_of_a_template_is_masked_there_too(tmp_path: Path) -> None:
    options = {"path": "/devices/{token}", "body": {"badge": "{unread}"}}
    template = {
        "RINGBACK_TENANTS__ACME__PUSH__ADAPTER": "template",
        "RINGBACK_TENANTS__ACME__PUSH__OPTIONS": json.dumps(options),
    }
    written(tmp_path)
    async with backend() as it:
        token = "the device/token"
        url = f"http://127.0.0.1:{it.port}/ring"
        ended = await push_test(tmp_path, "--token", token, **at(url, **template))
    assert ended.code == 1  # this backend has no such path
    assert f"POST http://127.0.0.1:{it.port}/devices/***{fingerprint(token)}\n" in ended.out
    assert "the%20device" not in ended.out
    assert token not in ended.out


async def test_a_registered_device_is_rung_beside_a_running_gateway(tmp_path: Path) -> None:
    async with registered(tmp_path) as (it, there):
        before = counted(tmp_path)
        ended = await push_test(
            tmp_path, "--tenant", "acme", "--device", "phone", "--text", "Grüße ☎"
        )
        assert (ended.code, ended.err) == (0, "")
        call = await there.take()
        assert call.body["deviceToken"] == TOKEN
        assert call.body["payload"]["aps"]["alert"]["body"] == "Grüße ☎"
        assert call.badge == 2, "the icon keeps its number"
        assert call.ring["id"].startswith("r_test_")
        assert (call.ring["customer"], call.ring["seq"]) == ("c-42", 2)
        assert counted(tmp_path) == before
        assert (await it.outcome(2))["outcome"] == "pushed"


async def test_a_template_finds_the_installation_of_a_registered_device(tmp_path: Path) -> None:
    options = {"path": "/devices/{installation}", "body": {"who": "{installation}"}}
    async with registered(tmp_path) as (_, there):
        template = {
            "RINGBACK_TENANTS__ACME__PUSH__ADAPTER": "template",
            "RINGBACK_TENANTS__ACME__PUSH__OPTIONS": json.dumps(options),
        }
        to = ("--tenant", "acme", "--device", "phone")
        ended = await push_test(tmp_path, *to, **template)
        assert f"POST {there.url.removesuffix('/ring')}/devices/phone\n" in ended.out
        assert '"who": "phone"' in ended.out


async def test_what_a_backend_answers_is_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    async def obey(call: Call) -> web.StreamResponse:
        return web.Response(text="one\x1b[2J\r\ntwo\x9b31m\ttabbed")

    async with registered(tmp_path) as (_, there):
        there.otherwise = obey
        ended = await push_test(tmp_path, "--tenant", "acme", "--device", "phone")
        assert "  one\\x1b[2J\n  two\\x9b31m\ttabbed\n" in ended.out
        told = await ringback(tmp_path, "push", "conform", there.url, "--verbose")
        assert "    one\\x1b[2J\n    two\\x9b31m" in told.out
        assert "\x1b" not in told.out


async def test_a_dead_token_is_told_and_the_registration_stays(tmp_path: Path) -> None:
    async with registered(tmp_path) as (_, there):
        before = counted(tmp_path)
        there.otherwise = 410
        ended = await push_test(tmp_path, "--tenant", "acme", "--device", "phone", "--silent")
        assert ended.code == 1
        assert "verdict: token_dead (http_410)" in ended.out
        assert "content-available" in ended.out
        assert counted(tmp_path) == before


async def test_a_device_is_rung_at_the_backend_of_its_environment_or_not_at_all(
    tmp_path: Path,
) -> None:
    async with backend() as qa, backend() as there:
        backends = {"qa": {"environment": "sandbox", "endpoint": qa.url, "auth_token": "qa"}}
        async with running(tmp_path, there, push={"backends": backends}) as it:
            await it.register(token=TOKEN, environment="sandbox")
            await it.register("c-2", "phone-2", "another", environment="staging", app="acme.app")
            acme = ("--tenant", "acme")
            ended = await push_test(tmp_path, *acme, "--device", "phone")
            assert ended.code == 0
            assert (await qa.take()).body["deviceToken"] == TOKEN
            ended = await push_test(tmp_path, *acme, "--device", "phone-2")
            assert "no backend for its environment staging and app acme.app" in ended.refused()
            ended = await push_test(tmp_path, *acme, "--device", "phone-2", "--backend", "qa")
            assert ended.code == 0, "as was asked for"
            assert (await qa.take()).body["deviceToken"] == "another"
            ended = await push_test(tmp_path, *acme, "--token", TOKEN, "--backend", "qa")
            assert (ended.code, len(qa.calls)) == (0, 3)
            ended = await push_test(tmp_path, *acme, "--token", TOKEN, "--backend", "q")
            assert (ended.code, "there are: qa" in ended.err) == (2, True)
            assert there.calls == []


async def test_for_machines_it_is_one_json_object(tmp_path: Path) -> None:
    async with registered(tmp_path) as (_, there):
        there.otherwise = 503
        ended = await push_test(tmp_path, "--tenant", "acme", "--device", "phone", "--json")
        told = json.loads(ended.out)
        assert (ended.code, told["verdict"], told["status"]) == (1, "retry", 503)
        assert TOKEN not in ended.out


async def test_nothing_listens_is_a_verdict_with_what_to_do(tmp_path: Path) -> None:
    written(tmp_path)
    ended = await push_test(tmp_path, "--token", TOKEN, **at("http://127.0.0.1:9/ring"))
    assert ended.code == 1
    assert "no answer: connect" in ended.out
    assert "is the backend running" in ended.out


async def test_what_cannot_be_tested_is_one_line(tmp_path: Path) -> None:
    async with registered(tmp_path):
        acme = ("--tenant", "acme")
        assert "--tenant" in (await push_test(tmp_path, "--token", "t")).refused()
        assert "--device" in (await push_test(tmp_path, *acme)).refused()
        both = await push_test(tmp_path, *acme, "--device", "phone", "--token", "t")
        assert "either --device" in both.refused()
        other = await push_test(tmp_path, *acme, "--device", "tablet")
        assert "no installation 'tablet'" in other.refused()
        foreign = await push_test(tmp_path, "--tenant", "other", "--device", "phone")
        assert "no installation 'phone'" in foreign.refused()
        for option in ("--token", "--device"):
            latin = await push_test(tmp_path, *acme, option, "t\udce9")
            assert f"{option}: must be UTF-8" in latin.refused()


async def test_a_tenant_without_a_backend_is_told_which_section_is_missing(tmp_path: Path) -> None:
    config = written(tmp_path)
    config.write_text(config.read_text().partition("[tenants.acme.push]")[0])
    for words in (("push", "test", "--token", TOKEN), ("push", "conform"), ("backend",)):
        line = (await ringback(tmp_path, *words, *CONFIG)).refused()
        assert "tenants.acme.push: is missing" in line


async def test_without_a_database_there_is_no_device(tmp_path: Path) -> None:
    written(tmp_path)
    assert "no database" in (await push_test(tmp_path, "--device", "phone")).refused()


# What others wrote

COMMANDS = "\x1b]52;c;cHduZWQ=\x07\x1b[2J\x9b5m"
"""To a terminal: what the clipboard is from now on, a cleared screen, a blinking text."""


def commands_nothing(shown: str) -> bool:
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown) is None


async def test_an_answer_that_commands_terminals_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    async def hostile(call: Call) -> web.StreamResponse:
        return web.Response(status=422, text=f"no {COMMANDS}")

    await ringback(tmp_path, "init")
    async with backend() as it:
        it.otherwise = hostile
        for words in (("test", "--token", TOKEN), ("conform",)):
            ended = await ringback(tmp_path, "push", *words, *CONFIG, **at(it.url))
            assert ended.code == 1, ended.err
            assert "no \\x1b]52;c;cHduZWQ=\\x07\\x1b[2J\\x9b5m" in ended.out, words
            assert commands_nothing(ended.out), words


async def test_a_call_that_commands_terminals_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    said: dict[str, Any] = {"kind": f"message{COMMANDS}", "title": COMMANDS}
    async with shown(tmp_path, "--verbose") as it, aiohttp.ClientSession() as http:
        for body in (json.dumps(said), COMMANDS):
            headers = {"webhook-id": "r_\x9b31m"}
            async with http.post(f"{it.url}/ring", data=body, headers=headers) as answer:
                assert answer.status == 401
            told = ""
            while "misconfigured" not in told:
                told += await it.line()
            assert "r_\\x9b31m" in told
            assert commands_nothing(told)


# ringback push conform


async def conform(directory: Path, *words: str, **environ: str) -> Ended:
    return await ringback(directory, "push", "conform", *words, **environ)


async def test_a_right_backend_conforms_and_the_report_says_so(tmp_path: Path) -> None:
    written(tmp_path)
    async with shown(tmp_path, *CONFIG) as it:
        ended = await conform(tmp_path, f"{it.url}/ring", *CONFIG, "--token", TOKEN)
        assert (ended.code, ended.err) == (0, "")
        assert "the backend conforms" in ended.out
        assert not re.search(r"^(fail|warn)", ended.out, re.MULTILINE)


async def test_a_broken_backend_is_told_what_was_sent_what_came_and_what_is_asked(
    tmp_path: Path,
) -> None:
    async with shown(tmp_path) as it:  # it checks no signatures
        environ = {"BACKEND_AUTH_TOKEN": "dev", "BACKEND_SIGNING_SECRET": SIGNING}
        ended = await conform(tmp_path, f"{it.url}/ring", "--token", TOKEN, **environ)
        assert (ended.code, ended.err) == (1, "")
        assert "fail     body_changed" in ended.out
        told = ended.out.partition("\nfail: a changed body is refused (body_changed)")[2]
        for part in (
            "contract: The signature is over",
            "docs/push-contract.md#checking-the-signature",
            f"POST {it.url}/ring",
            f'"deviceToken": "***{fingerprint(TOKEN)}"',
            "came, after",
        ):
            assert part in told
        assert "does NOT conform" in ended.out
        assert not any(secret in ended.out for secret in (TOKEN, SIGNING, '"dev"'))


async def test_the_report_for_machines_has_every_check(tmp_path: Path) -> None:
    async with shown(tmp_path) as it:
        url = f"{it.url}/ring"
        ended = await conform(tmp_path, url, "--auth-token", "dev", "--json")
        told = json.loads(ended.out)
        assert (ended.code, told["conforms"], told["signed"]) == (0, True, False)
        results = {check["name"]: check["result"] for check in told["checks"]}
        assert results["message"] == "pass"
        assert results["body_changed"] == "unknown"
        assert all(
            {"found", "contract", "see", "calls"} <= check.keys() for check in told["checks"]
        )


async def test_of_a_backend_that_is_not_there_nothing_could_be_tried(tmp_path: Path) -> None:
    ended = await conform(tmp_path, "http://127.0.0.1:9/ring")
    assert ended.code == 2
    assert "is the backend running" in ended.out
    assert "not tried" in ended.out
    assert "the backend did not answer" in ended.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "give the backend's URL"),
        (("push.acme.example/ring",), "https://"),
        (("http://[",), "https://"),
        (("http://127.0.0.1:99999/",), "https://"),
        (("http://127.0.0.1:0/",), "https://"),
        (("http://push..example/",), "https://"),
        (("http://127.0.0.1:9/", "--dead-token", "t\udce9"), "--dead-token: must be UTF-8"),
        (("http://127.0.0.1:9/", "--signing-secret", "whsec_x"), "--signing-secret: "),
        (("http://127.0.0.1:9/", "--config", "missing.toml"), "missing.toml"),
        (("http://127.0.0.1:9/", "--adapter", "pigeon"), "pigeon"),
    ],
)
async def test_what_cannot_be_checked_is_one_line(
    tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    assert named in (await conform(tmp_path, *words)).refused()


@pytest.mark.parametrize(
    ("adapter", "options", "said"),
    [
        ("zendesk", {}, "this form of the request has no silent rings"),
        ("liveperson", {"brand_id": "9"}, "does not say how old a number is"),
    ],
)
async def test_a_form_that_cannot_say_it_is_no_fault_of_the_backend(
    tmp_path: Path, adapter: str, options: dict[str, str], said: str
) -> None:
    form = {
        "RINGBACK_TENANTS__ACME__PUSH__ADAPTER": adapter,
        "RINGBACK_TENANTS__ACME__PUSH__OPTIONS": json.dumps(options),
    }
    written(tmp_path)
    async with backend() as it:
        url = f"http://127.0.0.1:{it.port}/ring"
        words = (*CONFIG, "--token", TOKEN)
        ended = await conform(tmp_path, *words, "--json", **at(url, **form))
    told = {check["name"]: check for check in json.loads(ended.out)["checks"]}
    assert told["late_badge"]["result"] == "unknown"
    assert said in told["late_badge"]["found"]


async def test_a_form_without_silent_rings_is_not_tried_with_one(tmp_path: Path) -> None:
    written(tmp_path)
    form = {"RINGBACK_TENANTS__ACME__PUSH__ADAPTER": "zendesk"}
    at_once = at("http://127.0.0.1:9/ring", **form)
    ended = await push_test(tmp_path, "--token", TOKEN, "--silent", **at_once)
    assert "zendesk has no silent rings" in ended.refused()
