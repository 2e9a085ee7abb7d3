"""The SQLite file: who may open it, that commits are durable, and what is left after a failure."""

import asyncio
import functools
import gc
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite
import msgspec
import pytest

from storage import database, sql
from storage.database import TRANSACTION, Connection, Database, copy, snapshot
from storage.errors import CannotOpen, Fault, RefTaken, StorageError, Unavailable
from storage.records import Answered, Cut, Device, DeviceState, Message, RingInHand
from storage.schema import APPLICATION_ID, MIGRATIONS
from storage.vault import Vault
from tests.storage.stored import outside, rows

OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from storage.database import Connection, Database
from storage.errors import CannotOpen

async def main():
    try:
        async with Database(Path(sys.argv[1])):
            print("opened")
    except CannotOpen as error:
        print(error.problem)

asyncio.run(main())
"""
NOTE = "INSERT INTO meta (name, value) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ringback.db"


@pytest.fixture
def any_umask() -> Iterator[None]:
    """The most careless umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


async def make(path: Path) -> None:
    async with Database(path) as db:
        await db.write([(NOTE, ("kept", "1"))])


async def problem_with(path: Path) -> str:
    """Why `path` cannot be opened; it must leave nothing open behind."""
    db = Database(path)
    with pytest.raises(CannotOpen) as caught:
        await db.open()
    with pytest.raises(Unavailable):
        await db.read("SELECT 1")
    assert "\n" not in caught.value.problem
    assert str(path) in caught.value.problem
    return caught.value.problem


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def open_elsewhere(path: Path) -> str:
    """What another process is told that opens the database."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, str(path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


# Durable


async def test_commits_are_durable_and_that_is_read_back(path: Path) -> None:
    async with Database(path) as db:
        assert await db.read_for_write("PRAGMA journal_mode") == [("wal",)]
        assert await db.read_for_write("PRAGMA synchronous") == [(2,)]
        assert await db.read_for_write("PRAGMA foreign_keys") == [(1,)]


async def test_a_file_system_without_durable_commits_is_refused(path: Path) -> None:
    """In memory there is no write-ahead log, so WAL is not what is read back."""
    async with aiosqlite.connect(":memory:", isolation_level=None) as connection:
        with pytest.raises(CannotOpen, match="journal_mode=memory") as caught:
            await database._durable(connection)
    assert "use a local disk" in caught.value.problem


async def test_what_was_written_is_there_for_everybody_when_write_returns(path: Path) -> None:
    async with Database(path) as db:
        await db.write([(NOTE, ("a", "1")), (NOTE, ("b", "2"))])
        seen = [("a", "1"), ("b", "2")]
        assert await db.read("SELECT * FROM meta ORDER BY name") == seen
        assert rows(path, "SELECT * FROM meta ORDER BY name") == seen


async def test_the_reading_connections_can_not_write_and_never_checkpoint(path: Path) -> None:
    async with Database(path) as db:
        for reading in (db.read, db.scan):
            with pytest.raises(Unavailable, match="readonly"):
                await reading(NOTE, ("a", "1"))
            assert await reading("PRAGMA wal_autocheckpoint") == [(0,)]


async def test_what_is_read_does_not_wait_for_a_scan(path: Path) -> None:
    done = threading.Event()

    async def connect(*given: Any, **more: Any) -> Connection:
        connection = await aiosqlite.connect(*given, **more)
        await connection.create_function("until_done", 0, lambda: done.wait(60))
        return connection

    async with Database(path, connect) as db:
        scanning = asyncio.create_task(db.scan("SELECT until_done()"))
        try:
            async with asyncio.timeout(30):
                assert await db.read("SELECT 1") == [(1,)]
                await db.write([(NOTE, ("a", "1"))])
                assert await db.read("SELECT name FROM meta") == [("a",)]
            assert not scanning.done()
        finally:
            done.set()
        assert await scanning == [(1,)]
        assert await db.scan("SELECT name FROM meta") == [("a",)]


async def test_reading_does_not_see_what_is_not_committed(path: Path) -> None:
    async with Database(path) as db:
        await db.read_for_write("BEGIN IMMEDIATE")
        await db.read_for_write(NOTE, ("a", "1"))
        assert await db.read("SELECT * FROM meta") == []
        await db.read_for_write("COMMIT")
        assert await db.read("SELECT name FROM meta") == [("a",)]


# Writing that fails


async def test_of_a_batch_that_fails_nothing_counts_and_the_next_goes_through(path: Path) -> None:
    async with Database(path) as db:
        with pytest.raises(Fault, match="UNIQUE"):
            await db.write([(NOTE, ("a", "1")), (NOTE, ("a", "again"))])
        assert rows(path, "SELECT * FROM meta") == []
        await db.write([(NOTE, ("b", "1"))])
        assert rows(path, "SELECT name FROM meta") == [("b",)]


async def test_a_full_disk_is_unavailable_until_there_is_space_again(path: Path) -> None:
    async with Database(path) as db:
        ((pages,),) = await db.read_for_write("PRAGMA page_count")
        await db.read_for_write(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Unavailable, match="full"):
            await db.write([(NOTE, ("small", "1")), (NOTE, ("big", "x" * 50_000))])
        assert rows(path, "SELECT name FROM meta") == []
        assert await db.read("SELECT 1") == [(1,)], "reading works"
        await db.read_for_write("PRAGMA max_page_count = 1000000")
        await db.write([(NOTE, ("big", "x" * 50_000))])
        assert rows(path, "SELECT name FROM meta") == [("big",)]


class Failing:
    """The connection to a disk that fails at one statement, as fsync does."""

    code: ClassVar[int] = sqlite3.SQLITE_IOERR_FSYNC

    def __init__(self, inner: Connection, *at: str) -> None:
        self.inner = inner
        self.at = at

    async def execute_fetchall(self, sql: str, parameters: Any = ()) -> Any:
        if sql == TRANSACTION:
            for statement, given in (("BEGIN IMMEDIATE", ()), *parameters, ("COMMIT", ())):
                await self.execute_fetchall(statement, given)
            return []
        if sql in self.at:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        return await self.inner.execute_fetchall(sql, parameters)

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction

    async def close(self) -> None:
        await self.inner.close()


class Cancelling(Failing):
    """The connection on which whoever runs one statement is cancelled meanwhile."""

    async def execute_fetchall(self, sql: str, parameters: Any = ()) -> Any:
        task = asyncio.current_task()
        if sql in self.at and task is not None:
            task.cancel()
        return await self.inner.execute_fetchall(sql, parameters)


@pytest.mark.parametrize(
    ("opening", "at"),
    [
        (Database.open, "PRAGMA foreign_keys = 1"),
        (Database.open, "PRAGMA user_version"),
        (Database.open, "PRAGMA query_only = 1"),
        (Database.open_to_read, "PRAGMA user_version"),
    ],
)
async def test_opening_that_is_cancelled_leaves_no_connection_whose_thread_goes_on(
    path: Path, opening: Callable[[Database], Coroutine[Any, Any, Database]], at: str
) -> None:
    await make(path)
    connections: list[aiosqlite.Connection] = []

    async def connect(*args: Any, **options: Any) -> Connection:
        connections.append(await aiosqlite.connect(*args, **options))
        return Cancelling(connections[-1], at)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(opening(Database(path, connect)))
    assert connections
    for connection in connections:
        with pytest.raises(ValueError, match="no active connection"):
            await connection.execute("SELECT 1")


class Noted(database._Transacting):
    """A connection that says whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.mark.parametrize("opening", [Database.open, Database.open_to_read])
async def test_opening_that_is_cancelled_before_there_is_a_connection_closes_it_once_it_is_there(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opening: Callable[[Database], Coroutine[Any, Any, Database]],
) -> None:
    """From Python 3.13 on one that is left open is warned of."""
    await make(path)
    connect, loop, opened = sqlite3.connect, asyncio.get_running_loop(), list[Noted]()

    def cancelling(*args: Any, **options: Any) -> Noted:
        loop.call_soon_threadsafe(task.cancel)
        opened.append(connect(*args, **options | {"factory": Noted}))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", cancelling)
    task = asyncio.create_task(opening(Database(path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [connection.closed for connection in opened] == [True]


@pytest.mark.parametrize("at", [("COMMIT",), ("COMMIT", "ROLLBACK"), ("BEGIN IMMEDIATE",)])
async def test_after_an_io_error_writing_goes_on_over_a_new_connection(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[str, ...]
) -> None:
    """The page cache of the connection that failed may not be what is on disk."""
    async with Database(path) as db:
        assert db._writer is not None
        monkeypatch.setattr(db, "_writer", Failing(db._writer, *at))
        with pytest.raises(Unavailable, match="I/O"):
            await db.write([(NOTE, ("a", "1"))])
        assert rows(path, "SELECT * FROM meta") == []
        assert not isinstance(db._writer, Failing)
        await db.write([(NOTE, ("b", "1"))])
        assert rows(path, "SELECT name FROM meta") == [("b",)]
        writer: object = db._writer
        assert await db.read_for_write("PRAGMA synchronous") == [(2,)]
        assert writer is not None, "and not over a new one each time"
        assert db._writer is writer


async def test_a_disk_that_stays_away_is_unavailable_until_it_is_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(path) as db:
        assert db._writer is not None
        monkeypatch.setattr(db, "_writer", Failing(db._writer, "COMMIT"))
        with pytest.raises(Unavailable):
            await db.write([(NOTE, ("a", "1"))])
        present = db.path
        db.path = path.parent / "away" / path.name
        for call in (db.write([(NOTE, ("a", "1"))]), db.read_for_write("SELECT 1")):
            with pytest.raises(Unavailable, match="cannot be opened again"):
                await call
        db.path = present
        assert await db.read_for_write("SELECT 1") == [(1,)]
        await db.write([(NOTE, ("b", "1"))])
        assert rows(path, "SELECT name FROM meta") == [("b",)]


class Noting(Failing):
    """The connection of which one wants to know what it was asked."""

    asked: ClassVar[list[str]] = []

    async def execute_fetchall(self, sql: str, parameters: Any = ()) -> Any:
        self.asked.append(sql)
        return await super().execute_fetchall(sql, parameters)


FOLD = "PRAGMA wal_checkpoint(PASSIVE)"


async def test_nothing_is_confirmed_in_a_file_that_was_removed_or_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there as long as it is open: what went into it then would be gone at the next start."""
    aside = path.with_name("aside.db")
    async with Database(path) as db:
        await db.write([(NOTE, ("a", "1"))])
        path.rename(aside)
        with pytest.raises(Unavailable, match="was removed or replaced"):
            await db.write([(NOTE, ("b", "2"))])
        aside.rename(path)
        await db.write([(NOTE, ("c", "3"))])
        assert db._writer is not None
        monkeypatch.setattr(db, "_writer", Failing(db._writer, "COMMIT"))
        with pytest.raises(Unavailable):
            await db.write([(NOTE, ("d", "4"))])
        path.rename(aside)
        path.write_bytes(aside.read_bytes())  # a backup, say
        with pytest.raises(Unavailable, match="was removed or replaced"):
            await db.write([(NOTE, ("e", "5"))])
        aside.rename(path)
        await db.write([(NOTE, ("f", "6"))])
    assert rows(path, "SELECT name FROM meta ORDER BY name") == [("a",), ("c",), ("f",)]


async def test_the_log_is_folded_back_between_commits_large_or_small(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONG", 40)
    async with Database(path) as db:
        await db.read_for_write("PRAGMA wal_autocheckpoint = 0")
        await db.read_for_write("PRAGMA synchronous = OFF")  # no slow disk is waited for so often
        for notes in (100, 10, 1):
            for commit in range(2_000 // notes):
                rows = [(NOTE, (f"{notes}-{commit}-{n}", "x" * 100)) for n in range(notes)]
                await db.write(rows)
                await db.fold_back_if_long()
            size = path.with_name(path.name + "-wal").stat().st_size // 4_096
            assert size < 500, "begun anew, though no commit folds it back"


async def test_what_could_not_be_read_is_freed_at_once_and_waits_for_no_collector(
    path: Path,
) -> None:
    async with Database(path) as db:
        gc.collect()
        gc.disable()
        try:
            for ask in (db.read, db.scan, db.read_for_write):
                with suppress(Unavailable):
                    await ask("SELECT nothing FROM nowhere")
                await ask("SELECT 1")  # the connection's thread holds the newest until then
            errors = Unavailable | sqlite3.Error
            left = [thing for thing in gc.get_objects(0) if isinstance(thing, errors)]
            assert left == []
        finally:
            gc.enable()


async def test_a_log_that_grew_beside_a_long_reader_gives_its_room_back(path: Path) -> None:
    async with Database(path) as db:

        async def write(what: str, megabytes: int) -> None:
            for n in range(megabytes):
                await db.write([(NOTE, (f"{what} {n}", "x" * 1_000_000))])
                await db.fold_back_if_long()

        log = path.with_name(path.name + "-wal")
        with snapshot(path) as reader:
            reader.execute("SELECT count(*) FROM meta").fetchall()
            await write("meanwhile", 12)
            assert log.stat().st_size > 12_000_000
        await write("later", 6)
        assert log.stat().st_size <= database.KEPT


async def test_after_commits_that_folded_the_log_themselves_it_is_folded_in_time_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONG", 40)
    monkeypatch.setattr(database, "CHECKPOINT", 80)
    async with Database(path) as db:
        inner = db._writer
        assert inner is not None
        await db.read_for_write("PRAGMA synchronous = OFF")  # no slow disk is waited for so often
        for number in range(2_000):
            await db.write([(NOTE, (f"{number}", "x"))])
        await db.fold_back_if_long()
        monkeypatch.setattr(db, "_writer", Noting(inner))
        Noting.asked.clear()
        for number in range(20):
            await db.write([(NOTE, (f"later {number}", "x"))])
            await db.fold_back_if_long()
        assert FOLD in Noting.asked


async def test_a_log_that_cannot_be_folded_back_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONG", 1)
    async with Database(path) as db:
        inner = db._writer
        assert inner is not None
        monkeypatch.setattr(db, "_writer", Noting(Failing(inner, FOLD)))
        await db.write([(NOTE, (f"{number}", "x")) for number in range(50)])
        Noting.asked.clear()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await db.fold_back_if_long()
        assert Noting.asked == [FOLD, FOLD]
        monkeypatch.setattr(db, "_writer", Noting(inner))
        await db.fold_back_if_long()
        await db.fold_back_if_long()
        assert Noting.asked == [FOLD, FOLD, FOLD], "once it is folded back there is nothing to do"
        await db.write([(NOTE, ("one more", "x"))])
        assert (await db.read("SELECT count(*) FROM meta")) == [(51,)]


async def test_who_reads_while_a_database_closes_is_told_that_it_is_not_open(path: Path) -> None:
    """A call over HTTP may outlast the stop of its listener."""
    db = await Database(path).open()
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="not open"):
        await db.read("SELECT 1")
    await closing


async def test_a_database_that_is_not_open_is_unavailable(path: Path) -> None:
    db = Database(path)
    for call in (
        db.write([]), db.read("SELECT 1"), db.scan("SELECT 1"), db.read_for_write("SELECT 1")
    ):  # fmt: skip
        with pytest.raises(Unavailable, match="not open"):
            await call
    async with db:
        assert await db.read("SELECT 1") == [(1,)]
    with pytest.raises(Unavailable, match="not open"):
        await db.write([])


def test_every_error_of_storage_has_one_base() -> None:
    assert issubclass(Unavailable, StorageError)
    assert issubclass(CannotOpen, StorageError)
    assert issubclass(Fault, StorageError)
    assert not issubclass(Fault, Unavailable), "trying again does not help"
    assert not issubclass(CannotOpen, Unavailable)


# Who may open it


async def test_a_second_process_is_refused_while_the_first_holds_the_database(path: Path) -> None:
    async with Database(path) as db:
        assert "held by another process" in await open_elsewhere(path)
        await db.write([(NOTE, ("a", "1"))])
    assert await open_elsewhere(path) == "opened"
    assert rows(path, "SELECT name FROM meta") == [("a",)]


async def test_a_second_opening_in_this_process_is_refused_too(path: Path) -> None:
    async with Database(path):
        with pytest.raises(CannotOpen, match="held by another process"):
            await Database(path).open()
    await make(path)


async def test_through_a_link_the_same_file_is_held(path: Path, tmp_path: Path) -> None:
    link = linked(path, tmp_path)
    async with Database(path):
        assert "held by another process" in await open_elsewhere(link)
    assert await open_elsewhere(link) == "opened"
    assert list(link.parent.iterdir()) == [link]


async def test_through_a_link_what_a_killed_process_left_is_written_anew(
    path: Path, tmp_path: Path
) -> None:
    killed, log = tmp_path / "killed.db", tmp_path / "killed.db-wal"
    async with Database(path) as db:
        await db.write([(NOTE, ("kept", "1"))])
        for copy, of in ((killed, ""), (log, "-wal")):
            copy.write_bytes(path.with_name(path.name + of).read_bytes())
    os.utime(log, (0.0, 0.0))
    async with Database(linked(killed, tmp_path)) as db:
        assert log.stat().st_mtime > 0.0
        assert await db.read("SELECT * FROM meta") == [("kept", "1")]


def linked(path: Path, directory: Path) -> Path:
    """A link to the file, in a directory of its own."""
    link = directory / "elsewhere" / "linked.db"
    link.parent.mkdir()
    link.symlink_to(path)
    return link


async def test_only_the_owner_may_read_the_files(path: Path, any_umask: None) -> None:
    async with Database(path) as db:
        await db.write([(NOTE, ("a", "1"))])
        names = {file.name: mode(file) for file in path.parent.iterdir()}
    assert names == dict.fromkeys(
        ["ringback.db", "ringback.db-wal", "ringback.db-shm", "ringback.db.lock"], 0o600
    )


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path, any_umask: None) -> None:
    await make(path)
    path.chmod(0o644)
    async with Database(path) as db:
        await db.write([(NOTE, ("a", "1"))])
        assert [mode(path), mode(path.with_name("ringback.db-wal"))] == [0o600, 0o600]


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["CREATE TABLE theirs (a)"], "not one of Ringback"),
        (["PRAGMA user_version = 1"], "not one of Ringback"),
        (["PRAGMA application_id = 7"], "not one of Ringback"),
        (
            [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 999"],
            "newer version of Ringback (schema 999",
        ),
    ],
)
async def test_a_file_of_others_or_of_a_newer_version_is_refused_unchanged(
    path: Path, statements: list[str], words: str
) -> None:
    with outside(path) as connection:
        for sql in statements:
            connection.execute(sql)
    before = path.read_bytes()
    assert words in await problem_with(path)
    assert path.read_bytes() == before
    assert [f.name for f in path.parent.iterdir() if f.name.startswith("ringback.db-")] == []


async def test_another_programs_file_keeps_its_mode(path: Path) -> None:
    with outside(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    path.chmod(0o640)
    await problem_with(path)
    assert mode(path) == 0o640


async def test_a_file_that_is_no_database_is_refused_unchanged(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 100)
    assert "not a database" in await problem_with(path)
    assert path.read_bytes() == b"Dear diary, " * 100


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    await problem_with(tmp_path / "missing" / "ringback.db")
    (tmp_path / "directory").mkdir()
    await problem_with(tmp_path / "directory")


async def test_a_refusal_lets_the_lock_go(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 100)
    await problem_with(path)
    path.unlink()
    await make(path)


# Opening to read


async def test_the_database_can_be_read_beside_the_process_that_writes(path: Path) -> None:
    async with Database(path) as db:
        await db.write([(NOTE, ("a", "1"))])
        beside = await Database(path).open_to_read()
        assert await beside.read("SELECT name FROM meta") == [("a",)]
        await db.write([(NOTE, ("b", "1"))])
        assert await beside.read("SELECT name FROM meta ORDER BY 1") == [("a",)]  # one moment
        later = await Database(path).open_to_read()
        assert await later.read("SELECT name FROM meta ORDER BY 1") == [("a",), ("b",)]
        await later.close()
        with pytest.raises(Unavailable):
            await beside.write([(NOTE, ("c", "1"))])
        with pytest.raises(Unavailable, match="readonly"):
            await beside.read(NOTE, ("c", "1"))
        await beside.close()
        await db.write([(NOTE, ("d", "1"))])


async def test_the_database_can_be_read_when_nobody_writes(path: Path) -> None:
    await make(path)
    db = await Database(path).open_to_read()
    assert await db.read("SELECT name FROM meta") == [("kept",)]
    await db.close()


@pytest.mark.parametrize("name", ["kept.db", ":memory:", "file:kept.db", "file:kept?mode=memory"])
async def test_a_backup_is_in_the_file_of_that_name_whatever_sqlite_makes_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await make(path)
    monkeypatch.chdir(path.parent)
    copy(path, Path(name))
    kept = path.parent / name
    assert [one for one in path.parent.iterdir() if not one.name.startswith(path.name)] == [kept]
    with snapshot(kept) as db:
        assert list(db.execute("SELECT name FROM meta")) == [("kept",)]


@pytest.mark.parametrize("handled", [1, 2])
async def test_a_backup_that_is_interrupted_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handled: int
) -> None:
    """By a signal amid the pages, of which Python hears after the first of them, or later."""
    await make(path)
    kept, steps = tmp_path / "kept.db", 0

    def interrupted(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == handled:
            raise KeyboardInterrupt

    class Heard(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, **options: Any) -> None:
            super().backup(target, **options | {"progress": interrupted})

    connect = functools.partial(sqlite3.connect, factory=Heard)
    monkeypatch.setattr(database, "STEP", 1)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(KeyboardInterrupt):
        copy(path, kept)
    assert steps == handled
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(kept.name)]


async def test_a_backup_beside_the_log_of_before_is_refused_until_that_is_gone(
    path: Path, tmp_path: Path
) -> None:
    """As a killed gateway leaves it: SQLite would take it for the backup's own."""
    kept, wal = tmp_path / "kept.db", path.with_name(path.name + "-wal")
    async with Database(path) as db:
        await db.write([(NOTE, ("kept", "1"))])
        copy(path, kept)
        await db.write([(NOTE, (f"lost-{n}", "1")) for n in range(500)])
        log = wal.read_bytes()
    wal.write_bytes(log)
    kept.rename(path)
    before = path.read_bytes()
    for opening in (Database(path).open, Database(path).open_to_read):
        with pytest.raises(CannotOpen, match=r"-wal is of another database, .*: remove it"):
            await opening()
    with pytest.raises(CannotOpen, match="of another database"), snapshot(path):
        pass
    assert (path.read_bytes(), wal.read_bytes()) == (before, log)
    wal.unlink()
    async with Database(path) as db:
        assert await db.read("SELECT name FROM meta") == [("kept",)]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere/ringback.db", "there is no directory {0}/nowhere: make it first"),
        ("file/ringback.db", "there is no directory {0}/file: make it first"),
        ("directory", "Is a directory"),
        ("held", "{0}/held.lock: Is a directory"),
    ],
)
async def test_where_no_database_can_be_made_it_is_said_what_is_in_the_way(
    tmp_path: Path, name: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    for made in ("directory", "held.lock"):
        (tmp_path / made).mkdir()
    with pytest.raises(CannotOpen) as refused:
        await Database(tmp_path / name).open()
    told = f"cannot open the database {tmp_path / name}: {problem.format(tmp_path)}"
    assert refused.value.problem == told


async def test_of_a_damaged_file_it_is_said_what_can_be_done(path: Path) -> None:
    await make(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * 200 + whole[300:])  # the first page, but for its head
    with pytest.raises(CannotOpen) as refused:
        await Database(path).open()
    told = "database disk image is malformed: put a backup in its place"
    assert refused.value.problem == f"cannot open the database {path}: {told}"


async def test_opening_to_read_makes_no_file(path: Path) -> None:
    with pytest.raises(CannotOpen, match="there is no database"):
        await Database(path).open_to_read()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ([f"PRAGMA user_version = {len(MIGRATIONS)}"], "not one of Ringback"),
        (
            [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 999"],
            "schema 999",
        ),
    ],
)
async def test_what_is_not_ours_or_newer_is_not_read_either(
    path: Path, statements: list[str], words: str
) -> None:
    with outside(path) as connection:
        for sql in statements:
            connection.execute(sql)
    with pytest.raises(CannotOpen, match=words):
        await Database(path).open_to_read()


async def test_what_is_no_database_cannot_be_read_either(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 100)
    with pytest.raises(CannotOpen, match="not a database"):
        await Database(path).open_to_read()


# Migrations


async def test_a_new_file_gets_all_migrations_and_keeps_what_it_has(path: Path) -> None:
    await make(path)
    await make_again(path)
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]


async def make_again(path: Path) -> None:
    async with Database(path) as db:
        assert await db.read("SELECT * FROM meta") == [("kept", "1")]


async def test_a_migration_that_fails_midway_leaves_everything_as_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    before = rows(path, "SELECT name, sql FROM sqlite_schema ORDER BY name")
    good = ("CREATE TABLE later (a)", "UPDATE meta SET value = '2'")
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, (*good, "CREATE NONSENSE")))
    assert "NONSENSE" in await problem_with(path)
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert rows(path, "SELECT name, sql FROM sqlite_schema ORDER BY name") == before
    assert rows(path, "SELECT * FROM meta") == [("kept", "1")]
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, good))
    async with Database(path) as db:
        assert await db.read("SELECT * FROM meta") == [("kept", "2")]
        assert await db.read("PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]


async def test_the_first_migration_that_fails_leaves_a_file_that_can_be_used_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (*MIGRATIONS[0], "CREATE NONSENSE")
    monkeypatch.setattr(database, "MIGRATIONS", (broken,))
    await problem_with(path)
    assert rows(path, "PRAGMA user_version") == [(0,)]
    monkeypatch.undo()
    await make(path)


class Roomless(Failing):
    """The connection on a machine of which no directory for temporary files can be written."""

    code = sqlite3.SQLITE_IOERR_GETTEMPPATH


async def test_a_migration_that_has_no_room_to_sort_says_what_it_needs(path: Path) -> None:
    async def connect(*args: Any, **options: Any) -> Connection:
        return Roomless(await aiosqlite.connect(*args, **options), MIGRATIONS[-1][0])

    with pytest.raises(CannotOpen, match="no room for temporary files: let SQLITE_TMPDIR name"):
        await Database(path, connect).open()
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS) - 1,)]
    await make(path)


def older(path: Path, schema: int) -> sqlite3.Connection:
    """A new file as it was made at that schema, to be filled and closed."""
    old = sqlite3.connect(path, isolation_level=None)
    for migration in MIGRATIONS[:schema]:
        for statement in migration:
            old.execute(statement)
    old.execute(f"PRAGMA user_version = {schema}")
    return old


SPOKEN = """
    INSERT INTO conversations (id, tenant, customer, live, last_seq, last_ord, last_said, acked_seq,
        acked_ord, read_seq, read_ord, agent_acked_seq, agent_read_seq, agent_read_said, badge_seq,
        newest_counted_seq, updated_at)
    VALUES (1, 'acme', 'c-1', 1, :last, :last, 0, 0, 0, 0, 0, 0, 0, 0, 1, :last, 5.0)
"""
"""A conversation of schema 10 or 11 in which only agents wrote."""


async def test_events_of_an_older_database_are_chained(path: Path) -> None:
    """Schema 2: what `ringback why` tells is the same, though the index is gone."""
    old = older(path, 1)
    for id in (1, 2, 3):
        old.execute(
            "INSERT INTO conversations VALUES (?, 'acme', ?, NULL, 1, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0,"
            " 2, 2, NULL, NULL, NULL, 5.0)",
            (id, f"c-{id}"),
        )
    for place in ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2)):
        old.execute(
            "INSERT INTO events (conversation, from_seq, seq, at, event)"
            " VALUES (?, ?, ?, 5.0, 'e')",
            place,
        )
    old.close()
    async with Database(path) as db:
        last = await db.read("SELECT id, last_event FROM conversations")
        assert last == [(1, 4), (2, 5), (3, 0)]
        found = [await db.read(sql.EVENTS_OF, (id, 2, 2, None)) for _, id in last]
        assert [[row[:3] for row in rows] for rows in found] == [
            [(1, 1, 2), (1, 2, 2)],
            [(2, 2, 2)],
            [],
        ]


async def test_what_agents_had_read_in_an_older_database_they_have_received(path: Path) -> None:
    """Schema 7: the mark of what agents received begins at that of what they read."""
    old = older(path, 6)
    for id, read, said in ((1, 0, 0), (2, 3, 2)):
        old.execute(
            "INSERT INTO conversations VALUES (?, 'acme', ?, NULL, 1, 0, 4, 1, 3, 0, 0, 0, 0, ?, ?,"
            " 0, 0, NULL, NULL, NULL, 5.0, 0)",
            (id, f"c-{id}", read, said),
        )
    old.close()
    async with Database(path) as db:
        marks = "agent_acked_seq, agent_acked_said, agent_read_seq, agent_read_said"
        assert await db.read(f"SELECT {marks} FROM conversations") == [(0, 0, 0, 0), (3, 2, 3, 2)]


async def test_who_waited_in_an_older_database_waits_since_it_was_last_changed(path: Path) -> None:
    """Schema 10: when somebody began to wait was not kept before."""
    old = older(path, 9)
    for id, unanswered in ((1, 0), (2, 1)):
        old.execute(
            "INSERT INTO conversations (id, tenant, customer, live, unanswered, last_seq, last_ord,"
            " last_said, acked_seq, acked_ord, read_seq, read_ord, agent_acked_seq, agent_read_seq,"
            " agent_read_said, badge_seq, newest_counted_seq, updated_at) VALUES (?, 'acme', ?, 1,"
            " ?, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5.0)",
            (id, f"c-{id}", unanswered),
        )
    old.close()
    async with Database(path) as db:
        since = await db.read("SELECT unanswered_since FROM conversations ORDER BY id")
        assert since == [(None,), (5.0,)]


async def test_what_a_phone_of_an_older_database_waits_for_is_not_known(path: Path) -> None:
    """Schema 11: when its quiet hours end was not kept before. It waits until then as it did."""
    old = older(path, 10)
    old.execute(SPOKEN, {"last": 1})
    old.execute(
        "INSERT INTO devices (id, tenant, conversation, installation, token, generation,"
        " registered_at, state, covered_seq, covered_ord, owes, owed_ord, wake_at, ring_seq,"
        " ring_ord, attempt) VALUES (7, 'acme', 1, 'i', 't', 1, 1, 'live', 0, 0, 1, 1, 9.5, 0,"
        " 0, 0)"
    )
    old.close()
    async with Database(path) as db:
        waits = await db.read(sql.LOAD_DEVICES, sql.rows([1]))
        phone = sql.to_device(waits[0][1:], "acme", Vault())
        assert (phone.id, phone.wake_at, phone.waits_for_morning) == (7, 9.5, False)


async def test_a_phone_of_an_older_database_is_rung_on(path: Path) -> None:
    """Schema 12: what it was rung for lies beside its registration. No id is given again."""
    old = older(path, 11)
    old.execute(SPOKEN, {"last": 3})
    phone = Device(
        7, "i", "t", 2, 1.0, "ios", "shop", "sandbox", "de", "UTC", DeviceState.QUARANTINED, 3.0,
        covered=Cut(1, 1), badge=4, owes=True, owed_ord=3, wake_at=5.0, quiet_end=15.0,
        ring=RingInHand("{}", Cut(3, 3), 6), answered=Answered("retry", 7.0), unrung="muted",
    )  # fmt: skip
    old.execute(
        "INSERT INTO devices (id, tenant, conversation, installation, token, generation,"
        " registered_at, platform, app, environment, locale, time_zone, state, state_at,"
        " covered_seq, covered_ord, badge, owes, owed_ord, wake_at, quiet_end, ring, ring_seq,"
        " ring_ord, attempt, verdict, verdict_at, unrung) VALUES (7, 'acme', 1, 'i', 't', 2, 1.0,"
        " 'ios', 'shop', 'sandbox', 'de', 'UTC', 'quarantined', 3.0, 1, 1, 4, 1, 3, 5.0, 15.0,"
        " '{}', 3, 3, 6, 'retry', 7.0, 'muted')"
    )
    old.execute("UPDATE sqlite_sequence SET seq = 9 WHERE name = 'devices'")
    old.close()
    async with Database(path) as db:
        ((_, *row),) = await db.read(sql.LOAD_DEVICES, sql.rows([1]))
        assert sql.to_device(row, "acme", Vault()) == phone
        assert await db.read(sql.MAX_DEVICE) == [(9,)]
        assert await db.read("PRAGMA foreign_key_check") == []


async def test_messages_of_an_older_database_are_all_kept(path: Path) -> None:
    """Schema 9: found as before, by place and by ref; and the log is not left as long as they."""
    old = older(path, 8)
    for id in (1, 2):
        old.execute(
            "INSERT INTO conversations (id, tenant, customer, live, unanswered, last_seq, last_ord,"
            " last_said, acked_seq, acked_ord, read_seq, read_ord, agent_read_seq, agent_read_said,"
            " badge_seq, newest_counted_seq, updated_at) VALUES (?, 'acme', ?, 1, 0, 2, 1, 1, 0, 0,"
            " 0, 0, 0, 0, 1, 1, 5.0)",
            (id, f"c-{id}"),
        )
    agents = ("agent", "a-1", "Ann", "proactive", "Sale", '{"x":1}', "Title", 9.5, "r", "push")
    rest = ("not_in_chat", "s_1:active", 5.5)
    messages = [
        Message(1, 1, 1, 0, 5.0, "m_1", *agents, *rest),
        Message(1, 2, 1, 1, 5.1, "m_2", "customer", "c-1", None, "chat", "Hi", *[None] * 8),
        Message(2, 1, 1, 0, 5.2, "m_3", *agents, *rest),
        Message(2, 2, 1, 1, 5.3, "m_4", "customer", "c-2", None, "chat", "Hi", *[None] * 8),
    ]
    values = ", ".join("?" * len(sql.MESSAGE))
    old.executemany(
        f"INSERT INTO messages ({', '.join(sql.MESSAGE)}) VALUES ({values})",
        map(msgspec.structs.astuple, messages),
    )
    old.close()
    async with Database(path) as db:
        found = [await db.read(sql.AFTER, (id, 0, 2, 2)) for id in (1, 2)]
        assert [Message(*row) for rows in found for row in rows] == messages
        by_ref = await db.read(sql.LOAD_REFS, sql.rows([(2, "agent", "a-1", "r")]))
        assert [Message(*row) for row in by_ref] == [messages[2]]
        assert path.with_name(path.name + "-wal").stat().st_size == 0
        again = msgspec.structs.replace(messages[0], seq=3, id="m_5")
        with pytest.raises(RefTaken):
            await db.write(sql.written(sql.MESSAGES, [msgspec.structs.astuple(again)]))
        with pytest.raises(Fault, match=r"messages\.seq"):
            await db.write(sql.written(sql.MESSAGES, [msgspec.structs.astuple(messages[1])]))


@pytest.mark.parametrize("many", [1, 2, 3, 7, 64, 100, 1_023, 1_024, 1_025, 1_500, 2_049, 5_000])
async def test_of_however_many_rows_each_is_written_once(path: Path, many: int) -> None:
    given = [(f"tenant-{n:04}", "accepted", n) for n in range(many)]
    async with Database(path) as db:
        await db.write(sql.written(sql.COUNTERS, given))
        found = await db.read("SELECT tenant, name, value FROM counters ORDER BY tenant")
    assert found == given
