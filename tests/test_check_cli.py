"""`ringback check` as an operator meets it: what it prints, and what its exit code says."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from storage.database import copy
from tests.faults.needs import needs
from tests.running import QUICK, running
from tests.test_cli import RINGBACK, Ended, end_of, environ_of, ringback

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python

CONFIG = ("check", "--config", "ringback.toml")


async def test_all_holds_beside_a_running_gateway(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register()
        await it.settled(await it.write(), "pushed")
        await it.settled(await it.write("c-43"), "undeliverable", "c-43")
        told = await ringback(tmp_path, *CONFIG)
        as_json = await ringback(tmp_path, *CONFIG, "--json")
    assert (told.code, told.err) == (0, "")
    assert re.search(r"acme +2 +0 +0 +1 +0 +1  holds, and so say the counters", told.out)
    assert "all holds: 2 conversations, 2 messages" in told.out
    (acme,) = json.loads(as_json.out)["tenants"]
    assert acme["counted"] == acme["stored"]
    assert json.loads(as_json.out)["holds"] is True


async def test_what_is_broken_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register()
        await it.settled(await it.write(text="the secret text"), "pushed")
    with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
        db.execute("UPDATE counters SET value = 5 WHERE name = 'pushed'")
        db.execute("UPDATE messages SET ord = 7")
        db.execute('UPDATE ringing SET ring = \'{"text": "the secret text"}\', wake_at = 1')
    told = await ringback(tmp_path, "check", "--database", "ringback.db")
    assert (told.code, told.err) == (1, "")
    for line in (
        "BROKEN: the counters differ",
        "acme c-42 seq 1: ranks ord 7 and said 0, counted 1 and 0",
        "acme c-42 device 1: its ring in hand does not decode",
        "acme: the counter pushed is 5, but there are 1",
    ):
        assert line in told.out, told.out
    as_json = await ringback(tmp_path, "check", "--database", "ringback.db", "--json")
    assert as_json.code == 1
    assert {f["rule"] for f in json.loads(as_json.out)["findings"]} == {"rank", "device", "counter"}
    for secret in ("the secret text", "device-token"):
        assert secret not in told.out + as_json.out


async def test_what_cannot_be_opened_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    assert (
        "there is no database"
        in (await ringback(tmp_path, "check", "--database", "nowhere.db")).refused()
    )
    (tmp_path / "notes.db").write_text("these are only notes " * 100)
    line = (await ringback(tmp_path, "check", "--database", "notes.db")).refused()
    assert "notes.db" in line
    assert not list(tmp_path.glob("nowhere*"))
    line = (await ringback(tmp_path, "check", "--database", f"{'x' * 300}.db")).refused()
    assert line.endswith("File name too long")


async def test_where_nothing_can_be_written_the_exit_code_does_not_say_that_it_is_broken(
    tmp_path: Path,
) -> None:
    async with running(tmp_path):
        pass
    full = await _to(tmp_path, "/dev/full")
    assert full == (2, "ringback: the system refuses: [Errno 28] No space left on device\n")
    assert await _to(tmp_path, "&-") == (0, "")


async def _to(directory: Path, where: str) -> tuple[int | None, str]:
    """Exit code and stderr of a check whose stdout goes there."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'"$@" >{where}', "sh", RINGBACK, *CONFIG),
        cwd=directory,
        env=environ_of({"PYTHONUNBUFFERED": ""}),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


NOWHERE = (
    "mount -t tmpfs -o ro tmpfs /var/tmp && mount --bind /tmp /tmp && mount -o remount,ro,bind /tmp"
)
TOO_SMALL = "mount -t tmpfs -o size=64k tmpfs /var/tmp"


@pytest.mark.parametrize("machine", [NOWHERE, TOO_SMALL])
async def test_what_cannot_be_sorted_for_want_of_room_is_not_said_to_be_broken(
    tmp_path: Path, machine: str
) -> None:
    """In a container of which only the database's directory can be written, say."""
    needs(root=True)
    async with running(tmp_path) as it:
        await it.write()
    with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            " INSERT INTO events (conversation, from_seq, seq, at, event, prev)"
            " SELECT c.id, 1, 1, 5.0, 'e', c.last_event + i - 1 FROM n, conversations c"
        )
        db.execute("UPDATE conversations SET last_event = last_event + 100000")
    copy(tmp_path / "ringback.db", tmp_path / "copy.db")
    told = await _on(f"{machine} && cd /var/tmp", "check", "--database", tmp_path / "copy.db")
    assert told.refused() == (
        f"ringback: cannot recount the database {tmp_path / 'copy.db'}: there is no room for"
        " temporary files: let SQLITE_TMPDIR name a directory that has some"
    )
    whole = await ringback(tmp_path, "check", "--database", "copy.db")
    assert whole.code == 0, whole


async def test_a_database_beside_which_nothing_can_be_written_is_to_be_copied_elsewhere(
    tmp_path: Path,
) -> None:
    """Of a stopped gateway, in a snapshot of a file system, say."""
    needs(root=True)
    async with running(tmp_path):
        pass
    database = tmp_path / "ringback.db"
    machine = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    for words in (("check",), ("backup", "/dev/null"), ("why", "--tenant", "acme", "c-42", "1")):
        told = await _on(machine, *words, "--config", tmp_path / "ringback.toml")
        assert told.refused() == (
            f"ringback: cannot read the database {database}: nothing can be written beside it:"
            " copy it, with any -wal, to where that can be"
        ), words


async def _on(machine: str, *words: str | Path) -> Ended:
    """The command on a machine whose file systems were changed so, for it alone."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", f'{machine} && exec "$@"', "sh", RINGBACK, *words),
        env=environ_of({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await end_of(process)
