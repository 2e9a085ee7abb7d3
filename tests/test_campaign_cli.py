"""`ringback campaign`, as somebody at a terminal meets it, against a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.protocol import Role, timestamp
from tests.running import PATIENCE, PATIENT, Running, running
from tests.test_cli import RINGBACK, Ended, environ_of, ringback, written

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python


def here(it: Running, tenant: str = "acme") -> dict[str, str]:
    """How the command finds this gateway."""
    token = it.token(Role.SERVICE, "crm", tenant)
    return {"RINGBACK_URL": it.url("/"), "RINGBACK_TOKEN": token}


async def campaign(it: Running, *words: str) -> Ended:
    return await ringback(
        Path(it.gateway.config.storage.path).parent, "campaign", *words, **here(it)
    )


async def sent(it: Running, *words: str) -> str:
    """A campaign that was begun and is not followed; its id."""
    ended = await campaign(it, "send", "--no-wait", "--text", "hello", *words)
    assert ended.code == 0, ended
    return str(re.findall("cp_[0-9a-f]+", ended.err)[0])


@pytest.fixture
def people(tmp_path: Path) -> str:
    path = tmp_path / "people.csv"
    path.write_text("customer,name\nc-1,Ann\nc-2,Ben\nc-1,Ann\n")
    return str(path)


async def test_a_file_is_sent_followed_and_reported(tmp_path: Path, people: str) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.customer("c-1")
        ended = await campaign(it, "send", people, "--text", "Hi {name}", "--title", "Sale")
        assert ended.code == 0, ended
        assert "2 recipients (1 came more than once)" in ended.err
        counts = dict(line.rsplit(maxsplit=1) for line in ended.out.splitlines())
        assert (counts["recipients"], counts["  left"]) == ("2", "0")
        _, page = await it.call("GET", "/v1/customers/c-2/messages", Role.SERVICE)
        assert [m["text"] for m in page["messages"]] == ["Hi Ben"]
        await it.settled(1, "undeliverable", "c-2")
        shown = await campaign(it, "report", re.findall("cp_[0-9a-f]+", ended.err)[0])
        assert [line.rsplit(maxsplit=1) for line in shown.out.splitlines()] == [
            ["recipients", "2"],
            ["  rung", "0"],
            ["  in chat", "0"],
            ["  pending", "1"],
            ["  failed: no_device", "1"],
            ["  left", "0"],
            ["read", "0"],
        ]


async def test_for_machines_it_prints_the_campaign_alone(tmp_path: Path) -> None:
    people = tmp_path / "PEOPLE.CSV"
    people.write_text("customer\nc-1\nc-2\n")
    async with running(tmp_path, delivery=PATIENT) as it:
        ends = timestamp(time.time() + 600.0)
        words = ("--text", "hi", "--title", "Sale", "--expires-at", ends, "--json")
        told = json.loads((await campaign(it, "send", str(people), *words)).out)
        assert (told["state"], told["recipients"]) == ("finished", 2)
        assert (told["text"], told["title"], told["expires_at"]) == ("hi", "Sale", ends)
        page = json.loads((await campaign(it, "list", "--json")).out)
        assert page["campaigns"] == [told]
        assert page["more"] is False


async def test_with_the_configuration_alone_a_token_is_made(tmp_path: Path, people: str) -> None:
    async with running(tmp_path, tenants=("acme",)) as it:
        config = str(tmp_path / "ringback.toml")
        url = it.url("").rstrip("/")
        ended = await ringback(
            tmp_path, "campaign", "send", people, "--text", "hi", "-c", config, RINGBACK_URL=url
        )
        assert ended.code == 0, ended
        ended = await ringback(tmp_path, "campaign", "list", "-c", config, RINGBACK_URL=url)
        assert "finished" in ended.out


async def test_where_none_can_be_made_it_is_said_where_to_give_one(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "acme.pem").write_bytes(pem)
    auth = '[tenants.acme.auth]\nalgorithm = "ES256"\npublic_key_file = "acme.pem"\n'
    (tmp_path / "ringback.toml").write_text(auth)
    told = (await ringback(tmp_path, "campaign", "list", "-c", "ringback.toml")).refused()
    assert "signs with ES256" in told
    assert "give one of a service in RINGBACK_TOKEN" in told


async def test_whose_token_was_not_accepted_is_told(tmp_path: Path) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    written(desk).rename(desk / "acme.toml")  # with a secret that is not the gateway's
    async with running(tmp_path) as it:
        for words, whose in (
            (("-c", "acme.toml"), "made for the tenant acme of acme.toml"),
            ((), "made for the development tenant: give --config, or a token in RINGBACK_TOKEN"),
            (("--token", "x"), "the one in --token or RINGBACK_TOKEN"),
        ):
            ended = await ringback(desk, "campaign", "list", "--url", it.url("/"), *words)
            line = ended.refused()
            assert line.startswith("ringback: the token was not accepted"), line
            assert line.endswith(f"; it was {whose}"), line


async def test_a_token_may_end_with_its_files_line(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        token = it.token(Role.SERVICE, "crm") + "\n"
        ended = await ringback(tmp_path, "campaign", "list", **here(it) | {"RINGBACK_TOKEN": token})
        assert ended.code == 0, ended


async def test_json_lines_and_all_devices_are_audiences_too(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register("c-9", "phone", "t-9")
        lines = tmp_path / "people.jsonl"
        lines.write_text('"c-1"\n{"customer": "c-2"}\n')
        first = await sent(it, str(lines))
        second = await sent(it, "--all-devices")
        for id, recipients in ((first, 2), (second, 1)):
            told = json.loads((await campaign(it, "show", id, "--json")).out)
            assert told["recipients"] == recipients
        for limit in (1, 2):
            listed = await campaign(it, "list", "--limit", str(limit))
            assert [id in listed.out for id in (first, second)] == [limit == 2, True]
            assert ("There are older ones" in listed.err) is (limit == 1)


def _heed_ctrl_c() -> None:
    """As in a terminal, also where the tests run in the background and SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_ctrl_c_before_the_answer_does_not_say_that_nothing_is_sent(
    tmp_path: Path, people: str
) -> None:
    """The gateway has the whole audience, and its answer is on the way."""
    async with running(tmp_path) as it:
        gateway = urlsplit(it.url(""))
        answered = asyncio.Event()

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, there = await asyncio.open_connection(gateway.hostname, gateway.port)
            forth = asyncio.create_task(_forward(reader, there))
            if await answers.read(1):
                answered.set()
            await forth
            there.close()
            writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        environ = here(it) | {"RINGBACK_URL": f"http://127.0.0.1:{port}"}
        process = await asyncio.create_subprocess_exec(
            RINGBACK, "campaign", "send", people, "--text", "hi", "--key", "summer",
            env=environ_of(environ), stderr=asyncio.subprocess.PIPE, preexec_fn=_heed_ctrl_c,
        )  # fmt: skip
        assert process.stderr is not None
        async with server, asyncio.timeout(3 * PATIENCE):
            await answered.wait()
            process.send_signal(signal.SIGINT)
            said = (await process.stderr.read()).decode()
            assert await process.wait() == 130
        assert "the campaign may be running" in said
        assert "--key summer" in said
        assert "nothing is sent" not in said
        assert "cp_" in (await campaign(it, "list")).out


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def terminal(it: Running, *words: str) -> AsyncIterator[Process]:
    """The command while it runs; at the end it is not left running."""
    process = await asyncio.create_subprocess_exec(
        RINGBACK, "campaign", *words,
        env=environ_of(here(it)), stdout=PIPE, stderr=PIPE, preexec_fn=_heed_ctrl_c,
    )  # fmt: skip
    try:
        async with asyncio.timeout(3 * PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def said_until(process: Process, text: str) -> str:
    """What it says on stderr, up to `text` and a little more."""
    assert process.stderr is not None
    said = ""
    while text not in said:
        more = (await process.stderr.read(1_000)).decode()
        assert more, said
        said += more
    return said


async def test_ctrl_c_leaves_it_running_and_says_so(tmp_path: Path, people: str) -> None:
    async with running(tmp_path) as it:
        async with terminal(it, "send", people, "--text", "hi", "--rate", "0.01") as process:
            said = await said_until(process, "Campaign cp_")
            process.send_signal(signal.SIGINT)
            said += (await process.communicate())[1].decode()
            assert process.returncode == 130
        assert "The campaign goes on without this command." in said
        assert "Traceback" not in said
        id = re.findall("cp_[0-9a-f]+", said)[0]
        told = json.loads((await campaign(it, "show", id, "--json")).out)
        assert (told["state"], told["left"]) == ("running", 1)


@asynccontextmanager
async def proxy(
    it: Running, *answers: int | None, text: str = "<h1>there is no gateway</h1>"
) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """One in front of the gateway: where it is, and when all of its own `answers` were given.

    None of them is the gateway's. The others have this `text`.
    """
    left, given = list(answers), asyncio.Event()

    async def forward(request: web.Request) -> web.Response:
        status = left.pop(0) if left else None
        if not left:
            given.set()
        if status is not None:
            return web.Response(status=status, text=text)
        headers = {"Authorization": request.headers["Authorization"]}
        url = it.url(request.path_qs)
        async with it.http.request(request.method, url, headers=headers) as answer:
            return web.Response(status=answer.status, body=await answer.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", given
    finally:
        await runner.cleanup()


async def test_a_proxy_whose_gateway_is_away_is_waited_for_too(tmp_path: Path, people: str) -> None:
    async with running(tmp_path) as it, proxy(it, None, 502, 503, 504) as (url, given):
        id = await sent(it, people, "--rate", "0.01")
        environ = here(it) | {"RINGBACK_URL": url}
        words = ("campaign", "show", id, "--follow")
        following = asyncio.create_task(ringback(tmp_path, *words, **environ))
        async with asyncio.timeout(3 * PATIENCE):
            await given.wait()
        await it.call("POST", f"/v1/campaigns/{id}/cancel", Role.SERVICE, "crm")
        ended = await following
        assert (ended.code, "The campaign is cancelled." in ended.err) == (0, True), ended


async def test_an_answer_that_leaves_open_what_became_of_it_says_how_to_ask_again(
    tmp_path: Path, people: str
) -> None:
    async with running(tmp_path) as it, proxy(it, 502) as (url, _):
        environ = here(it) | {"RINGBACK_URL": url}
        words = ("campaign", "send", people, "--text", "hi")
        ended = await ringback(tmp_path, *words, **environ)
        assert ended.code == 2
        assert "answered HTTP 502" in ended.err
        assert "again with --key cli-" in ended.err


async def test_it_is_paused_resumed_cancelled_and_reported(tmp_path: Path, people: str) -> None:
    async with running(tmp_path) as it:
        id = await sent(it, people, "--rate", "0.01")
        for step, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
            ended = await campaign(it, step, id)
            assert ended.code == 0, ended
            assert f"Campaign {id} is {state}" in ended.err
        refused = (await campaign(it, "resume", id)).refused()
        assert refused == "ringback: this campaign is cancelled already"
        told = json.loads((await campaign(it, "report", id, "--json")).out)
        assert told["skipped"] == {"cancelled": 1}
        assert "cancelled" in (await campaign(it, "show", id)).out
        followed = await campaign(it, "show", id, "--follow")
        assert (followed.code, "The campaign is cancelled." in followed.err) == (0, True)


async def test_what_a_campaign_says_is_shown_and_commands_no_terminal(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        said = {"text": "hi\x1b[2J\nthere", "audience": ["c-1"]}
        _, told = await it.call("POST", "/v1/campaigns", Role.SERVICE, json=said)
        shown = (await campaign(it, "show", told["id"])).out
        assert "hi\\x1b[2J" in shown
        assert "\x1b" not in shown


async def test_one_that_has_yet_to_begin_is_followed_to_its_end(
    tmp_path: Path, people: str
) -> None:
    async with running(tmp_path) as it:
        soon = timestamp(time.time() + 600.0)
        begins = f"It begins at {soon}."
        ended = await campaign(it, "send", people, "--text", "hello", "--send-at", soon)
        assert (ended.code, begins in ended.err) == (0, True), "and it does not wait for that"
        id = re.findall("cp_[0-9a-f]+", ended.err)[0]
        async with terminal(it, "show", id, "--follow") as process:
            await said_until(process, begins)
            it.pass_time(600.0)
            out, _ = await process.communicate()
            assert process.returncode == 0, out
        counts = dict(line.rsplit(maxsplit=1) for line in out.decode().splitlines())
        assert (counts["recipients"], counts["  left"]) == ("2", "0")


async def test_the_same_key_is_the_same_campaign(tmp_path: Path, people: str) -> None:
    async with running(tmp_path) as it:
        words = ("send", people, "--no-wait", "--text", "hello", "--key", "summer")
        first, again = await campaign(it, *words), await campaign(it, *words)
        told = first.err.rstrip()
        assert again.err.rstrip() == f"{told} It was sent before, under this key."


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["send", "--text", "hi"], "give a file of recipients, or --all-devices, and not both"),
        (["send", "none.csv", "--text", "hi"], "cannot read none.csv: No such file"),
        (["send", "people.txt", "--text", "hi"], "people.txt: the file must be called .csv"),
        (["send", "people.csv", "--text", "Hi {nmae}"], "the file has no column nmae"),
        (["send", "people.csv", "--text", "Hi {name"], "text: at character 4: a field is written"),
        (["send", "people.csv", "--text", "hi", "--rate", "0"], "rate: must be a number from 0.01"),
        (["send", "people.csv", "--text", "hi", "--rate", "nan"], "--rate: give a number"),
        (["send", "people.csv", "--text", "hi", "--send-at", "noon"], "send_at: must be an RFC"),
        (["send", "people.csv", "--text", "hi", "--key", "a\nb"], "--key: must be UTF-8 without"),
        (["send", "people.csv", "--text", "hi", "--key", ""], "Idempotency-Key: give 1 to 64"),
        (["send", "people.csv", "--text", "hi", "--key", "\udce9"], "--key: must be UTF-8 without"),
        (["show", "cp_none"], "this tenant has no such campaign"),
        (["show", "\udce9"], "this tenant has no such campaign"),
        (["pause", "a/b?c"], "this tenant has no such campaign"),
        (["list", "--token", "x"], "the token was not accepted"),
        (["list", "--token", "x\ny"], "--token: this is no token"),
        (["list", "--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
        (["list", "--url", "http://push..example"], "no answer from http://push..example"),
        (["list", "--url", "localhost"], "--url: give http://HOST:PORT"),
    ],
)
async def test_what_is_wrong_is_one_line(
    tmp_path: Path, people: str, words: list[str], problem: str
) -> None:
    async with running(tmp_path) as it:
        ended = await campaign(it, *words)
        shown = [line for line in ended.err.splitlines() if line.startswith("ringback: ")]
        assert (ended.code, len(shown)) == (2, 1), ended
        assert problem in shown[0]
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("listener", ["chat", "admin"])
async def test_who_asks_another_listener_is_told_that_it_is_not_the_api(
    tmp_path: Path, listener: str
) -> None:
    async with running(tmp_path) as it:
        url = it.url("", listener)
        line = (await campaign(it, "list", "--url", url)).refused()
        assert line.startswith(f"ringback: {url} answered HTTP 404, not as the HTTP API does: is")


async def test_a_web_page_at_the_address_is_told_not_to_be_the_api(tmp_path: Path) -> None:
    async with running(tmp_path) as it, proxy(it, 200) as (url, _):
        line = (await campaign(it, "list", "--url", url)).refused()
        assert line.startswith(f"ringback: {url} answered HTTP 200, not as the HTTP API does: is")


@pytest.mark.parametrize(
    "words",
    [
        ("campaign", "list"),
        ("campaign", "show", "cp_1"),
        ("campaign", "report", "cp_1"),
        ("campaign", "pause", "cp_1"),
        ("campaign", "send", "--all-devices", "--text", "hi"),
        ("deadletters", "list"),
        ("deadletters", "show", "r_1"),
        ("deadletters", "replay", "--all"),
    ],
)
async def test_another_service_at_the_address_is_told_not_to_be_the_api(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    told = '{"id": "1", "campaigns": [{"id": "1"}], "dead_letters": [{}], "replay": 1}'
    async with running(tmp_path) as it, proxy(it, 200, text=told) as (url, _):
        line = (await ringback(tmp_path, *words, "--url", url, **here(it))).refused()
        assert f"{url} answered HTTP 200, not as the HTTP API does: is this its address" in line


async def test_the_bad_lines_of_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("customer\nc-1\n" + "x" * 200 + "\n")
    async with running(tmp_path) as it:
        ended = await campaign(it, "send", str(path), "--text", "hi")
        assert ended.code == 2
        assert "line 3: customer: must be a string of 1 to 128 characters" in ended.err
        assert "Nothing was sent" in ended.err


async def test_a_tenant_whose_tokens_cannot_be_made_is_told_how_to_give_one(
    tmp_path: Path,
) -> None:
    async with running(tmp_path):
        path = tmp_path / "ringback.toml"
        ended = await ringback(tmp_path, "campaign", "list", "-c", str(path))
        assert "--url: the configuration has port 0" in ended.refused()
        ended = await ringback(
            tmp_path, "campaign", "list", "-c", str(path), RINGBACK_URL="http://127.0.0.1:1"
        )
        assert "--tenant: give one of acme, other" in ended.refused()
