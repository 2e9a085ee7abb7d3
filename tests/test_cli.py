"""The command line as an operator meets it: every problem is one line on stderr and exit code 2."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from typer.main import get_command

from gateway.commands.cli import app
from gateway.config.starter import config_text
from gateway.core import ABSENT, PUT_BACK
from gateway.protocol import Role
from storage.database import copy
from storage.errors import CannotOpen
from storage.schema import MIGRATIONS
from tests.running import PATIENCE, PATIENT, Running, running

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python

RINGBACK = Path(sys.executable).with_name("ringback")
FREE_PORTS = {f"RINGBACK_SERVER__{name}": "127.0.0.1:0" for name in ("CHAT", "HTTP", "ADMIN")}
SHORT = {
    "RINGBACK_DELIVERY__RESTART_WINDOW": "0.1",
    "RINGBACK_DELIVERY__RESTART_GRACE": "0.2",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left behind."""

    code: int | None
    out: str
    err: str

    def refused(self) -> str:
        """The one line that says why, having checked that there is nothing else."""
        assert self.code == 2, self
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("ringback: ")
        return line


async def ringback(directory: Path, *words: str, **environ: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        RINGBACK,
        *words,
        cwd=directory,
        env=environ_of(environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await end_of(process)


async def end_of(process: asyncio.subprocess.Process) -> Ended:
    """Wait for it. One that does not come to it is ended, or the next test would be blamed."""
    try:
        async with asyncio.timeout(3 * PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode() if err else "")


def environ_of(more: dict[str, str]) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RINGBACK_", "COV_"))}
    return clean | {"NO_COLOR": "1", "COLUMNS": "200"} | more


@dataclass(frozen=True, slots=True)
class Serving:
    """A `ringback serve` that said that it is ready, and what it said until then."""

    process: asyncio.subprocess.Process
    said: str

    @property
    def http(self) -> str:
        return self.said.partition("/v1/agent, ")[2].partition("/v1,")[0]

    @property
    def admin(self) -> str:
        return self.said.partition("admin ")[2].split()[0]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        async with asyncio.timeout(3 * PATIENCE):
            out, err = await self.process.communicate()
        return Ended(self.process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def serving(
    directory: Path, *words: str, program: tuple[str | Path, ...] = (RINGBACK,), **environ: str
) -> AsyncIterator[Serving]:
    process = await asyncio.create_subprocess_exec(
        *program,
        "serve",
        *words,
        cwd=directory,
        env=environ_of(FREE_PORTS | SHORT | environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(3 * PATIENCE):
            while "Ringback is ready" not in said and '"event": "ready"' not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        yield Serving(process, said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def written(directory: Path) -> Path:
    """A configuration as `ringback init` writes it (that it does so, its own tests say)."""
    path = directory / "ringback.toml"
    path.write_text(config_text("acme"))
    return path


def _files(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".lock"}


# From nothing to a running gateway


def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as there:
        there.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("host", [*(("[::1]", "[::]") if _has_ipv6() else ()), "0.0.0.0"])  # noqa: S104
async def test_where_it_listens_is_said_as_a_url_and_other_commands_find_it_there(
    tmp_path: Path, host: str
) -> None:
    config = str(written(tmp_path))
    everywhere = dict.fromkeys(FREE_PORTS, f"{host}:0")
    async with serving(tmp_path, "-c", config, program=(RINGBACK,), **everywhere) as it:
        url = re.escape(f"{host}:")
        (port,) = re.findall(rf"ws://{url}\d+/v1/chat .* http://{url}(\d+)/v1, ", it.said)
        here = {"RINGBACK_SERVER__HTTP": f"{host}:{port}"}
        ended = await ringback(tmp_path, "campaign", "list", "-c", config, **here)
        assert ended.code == 0, ended


async def test_init_writes_a_private_file_that_works_and_never_overwrites_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ringback.toml"
    assert (await ringback(tmp_path, "init")).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    good = await ringback(tmp_path, "check-config", "--config", "ringback.toml")
    assert (good.code, good.err) == (0, "The configuration is good: acme\n")
    before = file.read_text()
    assert "ringback.toml exists" in (await ringback(tmp_path, "init")).refused()
    assert file.read_text() == before
    assert (await ringback(tmp_path, "init", "b.toml", "--tenant", "b")).code == 0
    assert file.read_text() != (tmp_path / "b.toml").read_text()


async def test_init_that_cannot_write_it_all_leaves_nothing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", str(RINGBACK), "init"),
        cwd=tmp_path,
        env=environ_of({}),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    told = "ringback: cannot write ringback.toml: File too large\n"
    assert (process.returncode, err.decode()) == (2, told)
    assert not list(tmp_path.iterdir())


async def test_serve_runs_what_init_wrote_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    assert (await ringback(tmp_path, "init")).code == 0
    async with serving(tmp_path, "--config", "ringback.toml") as it:
        told = await ringback(
            tmp_path, "token", "--config", "ringback.toml", "--role", "service", "--sub", "crm"
        )
        assert (told.code, told.err) == (0, "")
        headers = {"Authorization": f"Bearer {told.out.strip()}"}
        async with aiohttp.ClientSession() as http:
            body = {"customer": "c-42", "text": "hello"}
            url = f"{it.http}/v1/messages"
            async with http.post(url, json=body, headers=headers) as answer:
                assert answer.status == 201
            async with http.get(f"{it.admin}/readyz") as answer:
                assert answer.status == 200
        ended = await it.stop()
        assert (ended.code, ended.out) == (0, "")
        assert "Traceback" not in it.said + ended.err
        assert (tmp_path / "ringback.db").stat().st_mode & 0o077 == 0


async def test_sigint_ends_it_with_0_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        assert (await it.stop(signal.SIGINT)).code == 0


async def test_it_runs_and_ends_well_though_stdin_was_closed_before_the_start(
    tmp_path: Path,
) -> None:
    closed = ("sh", "-c", 'exec "$@" <&-', "sh", str(RINGBACK))
    async with serving(tmp_path, program=closed) as it:
        ended = await it.stop()
    assert (ended.code, "Assertion" in ended.err) == (0, False)


async def test_serve_without_a_configuration_says_that_it_is_for_development(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as it:
        assert "DEVELOPMENT" in it.said
        assert "tenant dev" in it.said
        told = await ringback(tmp_path, "token", "--sub", "c-42")
        headers = {"Authorization": f"Bearer {told.out.strip()}"}
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{it.http}/v1/me/status", headers=headers) as answer,
        ):
            assert answer.status == 200
        assert (tmp_path / "ringback-dev.secret").stat().st_mode & 0o077 == 0
        assert (await it.stop()).code == 0


# What the operator has to mend


@pytest.mark.parametrize("command", ["serve", "check-config", "token", "why"])
async def test_a_configuration_that_cannot_be_used_is_one_line(
    tmp_path: Path, command: str
) -> None:
    words = {"token": ("--sub", "x"), "why": ("c-42", "1")}.get(command, ())
    (tmp_path / "bad.toml").write_text("[server]\nchatt = 'x'\n")
    before = _files(tmp_path)
    line = (await ringback(tmp_path, command, *words, "--config", "bad.toml")).refused()
    assert "server.chatt" in line
    assert "chat" in line.partition("expected")[2]
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("ack_timeout", "-1", "delivery.ack_timeout"),
        ("restart_grace", "1.0", "delivery.restart_grace"),
        ("chat", '"nowhere"', "server.chat"),
        ("algorithm", '"none"', "auth.algorithm"),
        ("secret", '"short"', "auth.secret"),
        ("endpoint", '"http://push.acme.example/ring"', "push.endpoint"),
        ("url", "", "ringback.toml"),
    ],
)
async def test_each_impossible_value_is_one_line_that_names_the_key(
    tmp_path: Path, key: str, value: str, named: str
) -> None:
    line = (await _changed(tmp_path, f"{key} = {value}", key)).refused()
    assert named in line
    assert "expected" in line
    assert "short" not in line, "a secret's value is not shown"


async def test_an_unreadable_key_file_is_one_line(tmp_path: Path) -> None:
    line = (await _changed(tmp_path, 'secret_file = "missing.key"', "secret")).refused()
    assert "auth.secret_file" in line
    assert "missing.key" in line


async def _changed(directory: Path, by: str, key: str) -> Ended:
    """What `check-config` says of init's file with one line changed; it changes nothing."""
    file = directory / "ringback.toml"
    lines = config_text("acme").split("\n")
    assert sum(line.startswith(f"{key} = ") for line in lines) == 1
    file.write_text("\n".join(by if x.startswith(f"{key} = ") else x for x in lines))
    before = _files(directory)
    ended = await ringback(directory, "check-config", "--config", "ringback.toml")
    assert _files(directory) == before
    return ended


async def test_an_unreadable_configuration_is_one_line(tmp_path: Path) -> None:
    line = (await ringback(tmp_path, "serve", "--config", "nowhere.toml")).refused()
    assert "nowhere.toml" in line
    assert _files(tmp_path) == {}


def test_whether_a_file_can_be_read_is_told_by_the_commands_in_one_line() -> None:
    commands: list[Any] = [get_command(app)]
    for command in commands:  # which grows
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            told = parameter.get_runtime_param()
            if told is not None and told.annotation is Path:
                assert not told.parameter_info.readable, (command.name, parameter.name)
    assert len(commands) > 20


@pytest.mark.parametrize("name", ["chat", "http", "admin"])
async def test_an_occupied_port_is_one_line_and_makes_no_database(
    tmp_path: Path, name: str
) -> None:
    written(tmp_path)
    before = _files(tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        occupied = FREE_PORTS | {f"RINGBACK_SERVER__{name.upper()}": address}
        ended = await ringback(tmp_path, "serve", "--config", "ringback.toml", **occupied)
    line = ended.refused()
    assert f"server.{name}" in line
    assert address in line
    assert _files(tmp_path) == before


async def test_an_address_that_is_not_here_is_told_as_that(tmp_path: Path) -> None:
    written(tmp_path)
    away = FREE_PORTS | {"RINGBACK_SERVER__CHAT": "192.0.2.1:8080"}
    line = (await ringback(tmp_path, "serve", "--config", "ringback.toml", **away)).refused()
    assert "server.chat" in line
    assert "choose one of this machine" in line


async def test_the_exit_code_is_the_commands_own_where_nobody_can_be_told(tmp_path: Path) -> None:
    """On a full disk, say: 120, which Python 3.14 would end with, says neither yes nor no."""
    for words, code in (("init",), 0), (("check-config", "--config", "nowhere.toml"), 2):
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", '"$@" 2>/dev/full', "sh", RINGBACK, *words),
            cwd=tmp_path,
            env=environ_of({}),
        )
        assert await process.wait() == code, words


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("check", "--help"), ("keys", "new")]
)
async def test_what_cannot_be_written_is_one_line_whatever_is_asked_for(
    tmp_path: Path, words: tuple[str, ...], unbuffered: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", '"$@" >/dev/full', "sh", str(RINGBACK), *words),
        cwd=tmp_path,
        env=environ_of({"PYTHONUNBUFFERED": unbuffered}),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    told = "ringback: the system refuses: [Errno 28] No space left on device\n"
    assert (process.returncode, err.decode()) == (2, told)


async def test_a_command_that_neither_serves_nor_calls_starts_without_what_does(
    tmp_path: Path,
) -> None:
    """To import it is most of a start: of `ringback token`, with everything, more than half."""
    environ = {"PYTHONPROFILEIMPORTTIME": "1"}  # each module that is imported, in a line on stderr
    ended = await ringback(tmp_path, "token", "--sub", "c-42", **environ)
    assert ended.code == 0, ended
    imported = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "gateway.auth" in imported
    assert imported.isdisjoint({"gateway.server", "aiohttp", "structlog", "uvloop", "websockets"})


async def test_which_version_it_is(tmp_path: Path) -> None:
    ended = await ringback(tmp_path, "--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"ringback {version('ringback')}, schema ")


async def test_a_database_that_another_process_holds_is_one_line(tmp_path: Path) -> None:
    written(tmp_path)
    async with serving(tmp_path, "--config", "ringback.toml") as it:
        second = await ringback(tmp_path, "serve", "--config", "ringback.toml", **FREE_PORTS)
        line = second.refused()
        assert "ringback.db" in line
        assert "another process" in line
        async with aiohttp.ClientSession() as http, http.get(f"{it.admin}/readyz") as answer:
            assert answer.status == 200


async def test_a_database_of_a_newer_version_is_one_line_and_untouched(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write()
    with closing(sqlite3.connect(tmp_path / "ringback.db")) as database:
        database.execute("PRAGMA user_version = 99")
    before = _files(tmp_path)
    line = (await ringback(tmp_path, "serve", "--config", "ringback.toml")).refused()
    assert "newer version" in line
    assert _files(tmp_path) == before
    words = ("why", "--config", "ringback.toml", "--tenant", "acme", "c-42", "1")
    assert "99" in (await ringback(tmp_path, *words)).refused()
    assert (tmp_path / "ringback.db").read_bytes() == before["ringback.db"]


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 40, None])
async def test_a_file_that_is_no_database_of_ours_is_one_line_and_untouched(
    tmp_path: Path, content: bytes | None
) -> None:
    written(tmp_path)
    path = tmp_path / "ringback.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE somebody_elses (x)")
    before = _files(tmp_path)
    ended = await ringback(tmp_path, "serve", "--config", "ringback.toml", **FREE_PORTS)
    assert "ringback.db" in ended.refused()
    assert _files(tmp_path) == before


BROKEN = """
from gateway.commands.cli import app
from storage.store import Store

async def breaks(self):
    raise RuntimeError("a fault of ours")

Store._gather = breaks
app()
"""


async def test_a_fault_that_ends_the_writer_ends_the_gateway_with_1(tmp_path: Path) -> None:
    async with serving(tmp_path, program=(sys.executable, "-c", BROKEN)) as it:
        with suppress(aiohttp.ClientError):  # it writes; another of its writes may have been first
            async with aiohttp.ClientSession() as http, http.get(f"{it.admin}/readyz"):
                pass
        async with asyncio.timeout(3 * PATIENCE):
            _, err = await it.process.communicate()
        said = it.said + err.decode()
        assert it.process.returncode == 1
        assert "a fault of ours" in said
        assert said.splitlines()[-1].startswith("ringback: ended by a fault of its own")


# Looking things up


async def test_why_tells_of_a_message_while_the_gateway_runs(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(token="a-device-token")
        await it.write(text="a text")
        await it.settled(1, "pushed")
        words = ("why", "--config", "ringback.toml", "--tenant", "acme", "c-42")
        told = await ringback(tmp_path, *words, "1")
        assert (told.code, told.err) == (0, "")
        assert "message 1 of c-42: pushed" in told.out
        for event in ("committed", "due", "look", "claimed", "attempt", "accepted by"):
            assert event in told.out
        assert "a-device-token" not in told.out
        assert "a text" not in told.out
        line = (await ringback(tmp_path, *words, "2")).refused()
        assert "no message 2" in line
        foreign = await ringback(
            tmp_path, "why", "--config", "ringback.toml", "--tenant", "other", "c-42", "1"
        )
        assert "other" in foreign.refused()
        assert (await it.write()) == 2, "looking hurts nobody"


async def test_a_backup_is_whole_while_others_write_and_can_be_gone_back_to(tmp_path: Path) -> None:
    copied = tmp_path / "copy.db"
    words = ("backup", str(copied), "--config", "ringback.toml")
    async with running(tmp_path) as it:
        before = await it.write(text="before")
        writing = asyncio.create_task(_keep_writing(it))
        told = await ringback(tmp_path, *words)
        writing.cancel()
        assert (told.code, told.out) == (0, "")
        assert copied.stat().st_mode & 0o777 == 0o600
        path = it.gateway.config.storage.path
        epoch = it.gateway.core.store.meta["epoch"]
        assert str(copied) in (await ringback(tmp_path, *words)).refused(), "it is not overwritten"
    held = await ringback(tmp_path, "check", "--database", str(copied))
    assert (held.code, "all holds" in held.out) == (0, True), held
    assert copied.read_bytes()[18:20] == b"\1\1", "no write-ahead log: it can be read where none is"
    for name in (path, *path.parent.glob(path.name + "-*")):
        name.unlink()
    copied.rename(path)
    assert (await ringback(tmp_path, "renew-epoch", "--config", "ringback.toml")).code == 0
    async with running(tmp_path) as it:
        assert it.gateway.core.store.meta["epoch"] != epoch
        assert await it.outcome(before)


async def test_that_a_tenant_is_not_configured_whose_messages_wait_is_told(tmp_path: Path) -> None:
    """A slip in its name, and nobody was rung or told of it."""
    tenants = ("acme", "other")
    async with running(tmp_path, tenants=tenants, delivery=PATIENT) as it:
        await it.customer()
        await it.write()
    with capture_logs() as logs:
        async with running(tmp_path, tenants=("other",)):
            pass
        async with running(tmp_path, tenants=tenants):
            pass
    told = [entry["tenants"] for entry in logs if entry["event"] == ABSENT]
    assert told == [["acme"]]


async def test_who_goes_back_to_a_backup_and_forgets_the_epoch_is_warned(tmp_path: Path) -> None:
    """A client that had seen more would resume among other messages of the same `seq`."""
    database, copied = tmp_path / "ringback.db", tmp_path / "copy.db"
    warning = ("warning", PUT_BACK)
    async with running(tmp_path) as it:
        await it.write()
        copy(database, copied)
    for new_epoch, warned in ((False, True), (True, False)):
        shutil.copy(copied, database)
        if new_epoch:
            assert (await ringback(tmp_path, "renew-epoch", "-c", "ringback.toml")).code == 0
        with capture_logs() as logs:
            async with running(tmp_path):
                pass
            async with running(tmp_path):
                pass
        told = [(line["log_level"], line["event"]) for line in logs]
        assert told.count(warning) == warned, "once, and not for who did it right"


async def test_a_start_that_migrates_says_so_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path) as it:
            await it.write()
    assert not [line for line in logs if "schema" in line], "a new file has nothing to migrate"
    known = len(MIGRATIONS)
    monkeypatch.setattr("storage.database.MIGRATIONS", (*MIGRATIONS, ("CREATE NONSENSE",)))
    with capture_logs() as logs, pytest.raises(CannotOpen):
        async with running(tmp_path):
            pass
    told = [(line["schema"], line["to"]) for line in logs if "schema" in line]
    assert told == [(known, known + 1)], "before, and whatever comes of it"


async def _keep_writing(it: Running) -> None:
    while True:
        await it.write(text="meanwhile")


@pytest.mark.parametrize("words", [("renew-epoch",), ("keys", "rotate")])
async def test_what_is_done_to_a_database_makes_none(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = written(tmp_path)
    before = _files(tmp_path)
    ended = await ringback(tmp_path, *words, "--config", str(config))
    assert "there is no database" in ended.refused()
    assert _files(tmp_path) == before


@pytest.mark.parametrize("name", ["../x", 'Acme GmbH"]', "a\nb", ""])
async def test_init_writes_nothing_for_what_is_no_tenants_name(tmp_path: Path, name: str) -> None:
    refused = (await ringback(tmp_path, "init", "--tenant", name)).refused()
    assert "1 to 128 of a-z 0-9" in refused
    assert not _files(tmp_path)


async def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    config = written(tmp_path)
    config.write_text("\ufeff" + config.read_text(), encoding="utf-8")
    assert (await ringback(tmp_path, "check-config", "--config", str(config))).code == 0


async def test_a_backup_that_cannot_be_made_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    missing = await ringback(tmp_path, "backup", "copy.db", "--database", "none.db")
    assert "none.db" in missing.refused()
    async with running(tmp_path) as it:
        path = str(it.gateway.config.storage.path)
        nowhere = await ringback(tmp_path, "backup", "no/copy.db", "--database", path)
        assert "no/copy.db" in nowhere.refused()
    assert not (tmp_path / "copy.db").exists()


async def test_why_answers_after_the_gateway_ended(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.customer()
        await it.write()
    told = await ringback(
        tmp_path, "why", "--config", "ringback.toml", "--tenant", "acme", "c-42", "1"
    )
    assert told.code == 0
    assert "message 1 of c-42: pending" in told.out


async def test_why_without_a_database_makes_none(tmp_path: Path) -> None:
    written(tmp_path)
    before = _files(tmp_path)
    line = (await ringback(tmp_path, "why", "--config", "ringback.toml", "c-42", "1")).refused()
    assert "ringback.db" in line
    assert _files(tmp_path) == before


async def test_a_token_is_printed_alone_and_is_accepted(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        words = ("token", "--config", "ringback.toml", "--tenant", "acme")
        told = await ringback(
            tmp_path, *words, "--role", "customer", "--sub", "c-42", "--name", "Ada"
        )
        assert (told.code, told.err, len(told.out.splitlines())) == (0, "", 1)
        customer = await it.customer(token=told.out.strip())
        await customer.ask("send", "sent", text="hello")
        _, page = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert page["messages"][0]["from"] == {"role": "customer", "id": "c-42", "name": "Ada"}
        for more, named in (
            (("--tenant", "nobody", "--sub", "x"), "--tenant"),
            (("--tenant", "acme", "--sub", ""), "sub"),
            (("--tenant", "acme", "--sub", "x", "--ttl", "0"), "ttl"),
            (("--sub", "x"), "--tenant"),
        ):
            ended = await ringback(tmp_path, "token", "--config", "ringback.toml", *more)
            assert named in ended.refused(), more


@pytest.mark.parametrize(
    "words",
    [("check-config",), ("token", "--sub", "c-42"), ("why", "c-42", "1"), ("push", "test")],
    ids=lambda words: words[0],
)
async def test_who_forgets_to_name_the_configuration_that_is_here_is_told(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    written(tmp_path)
    note = "Note: ringback.toml is here, and not used: for it give --config ringback.toml"
    assert note in (await ringback(tmp_path, *words)).err.splitlines()
    assert note not in (await ringback(tmp_path, *words, "-c", "ringback.toml")).err


async def test_that_device_tokens_are_not_encrypted_is_told_at_each_start_and_by_a_check(
    tmp_path: Path,
) -> None:
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "encryption_key" not in line))
    async with serving(tmp_path, "--config", "ringback.toml") as it:
        assert "warning: device tokens are not encrypted at rest" in it.said
        await it.stop()
    checked = await ringback(tmp_path, "check-config", "--config", "ringback.toml")
    good, note = checked.err.splitlines()
    assert (checked.code, good) == (0, "The configuration is good: acme")
    assert note.startswith("Note: device tokens are not encrypted at rest: put what `ringback keys")


async def test_logs_can_be_json(tmp_path: Path) -> None:
    written(tmp_path)
    words = ("--config", "ringback.toml")
    async with serving(tmp_path, *words, RINGBACK_LOG__FORMAT="json") as it:
        ended = await it.stop()
        told = [json.loads(line) for line in (it.said + ended.err).splitlines()]
        events = [entry["event"] for entry in told if entry["level"] == "info"]
        assert events == ["ready", "stopping", "stopped"]


async def test_a_reload_that_is_asked_for_while_it_starts_is_done_when_it_has(
    tmp_path: Path,
) -> None:
    """Its file may have been read before it was changed."""
    written(tmp_path)
    code = """if True:
        import os, signal
        from gateway.commands import serving
        from gateway.__main__ import main

        def load(path):
            settings = read(path)
            if settings.log.level == "info":
                path.write_text(path.read_text() + '[log]\\nlevel = "warning"\\n')
                os.kill(os.getpid(), signal.SIGHUP)
            return settings

        read, serving.load = serving.load, load
        main()
    """
    program = (sys.executable, "-c", code)
    async with serving(tmp_path, "--config", "ringback.toml", program=program) as it:
        assert it.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while b"configuration reloaded" not in (line := await it.process.stderr.readline()):
                pass
        assert b"kept=['log.level']" in line, "which needs a restart"
        assert (await it.stop()).code == 0


async def test_ctrl_c_while_a_commands_loop_is_made_ends_it_without_a_traceback() -> None:
    code = """if True:
        import asyncio, os, selectors, signal
        from gateway.commands.common import run_async

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

        class Interrupted(selectors.DefaultSelector):
            def __init__(self):
                os.kill(os.getpid(), signal.SIGINT)
                super().__init__()

        selectors.DefaultSelector = Interrupted
        try:
            run_async(asyncio.sleep(60))
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = await end_of(process)
    assert (ended.code, ended.out, ended.err) == (0, "interrupted\n", "")
