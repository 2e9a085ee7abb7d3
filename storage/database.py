"""The SQLite file: opening it safely, writing a batch in one transaction, reading beside it.

One connection writes. SQLite before 3.51.3 can lose a checkpoint when two connections write or
checkpoint (the WAL-reset bug), so a lock file keeps a second process out, and the two reading
connections neither write nor checkpoint. WAL with synchronous=FULL is set and read back: a commit
that was confirmed survives power loss.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import aiosqlite

from storage.errors import CannotOpen, Fault, RefTaken, Unavailable
from storage.reading import InTurn
from storage.schema import APPLICATION_ID, MIGRATIONS
from storage.sql import PREPARED, Statement

LONG = 500  # pages, about, at which the write-ahead log is folded back: 1 ms without a commit
CHECKPOINT = 2 * LONG  # pages at which a commit folds it back itself
KEPT = 8_000_000  # bytes of it that stay on disk, however long it grew beside a long reader
PAGE = 20  # values, about, that fill a page of it
BESIDE = 100  # values' worth of pages that every commit writes, whatever is in it
STEP = 1_000  # pages that a backup copies at a time: a Ctrl-C waits for no more
_READS_ONLY = ("query_only = 1", "wal_autocheckpoint = 0")

NO_ROOM = "there is no room for temporary files: let SQLITE_TMPDIR name a directory that has some"
NOTHING_BESIDE = "nothing can be written beside it: copy it, with any -wal, to where that can be"

Rows = list[tuple[Any, ...]]

TRANSACTION = "a transaction of ours"
"""As SQL: run the statements that are given as parameters in one transaction, and commit it."""


class _Transacting(sqlite3.Connection):
    """A connection that knows `TRANSACTION`, so that a commit is one hop to its thread, not one
    for each statement."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql != TRANSACTION:
            return super().execute(sql, parameters)
        execute = self.cursor().execute
        execute("BEGIN IMMEDIATE")
        for statement, given in parameters:
            execute(statement, given)
        return execute("COMMIT")


class Connection(Protocol):
    """What is needed of a connection: aiosqlite's has it, over one that knows `TRANSACTION`.

    It is asked again before it has answered (`storage.reading`), and answers one after the other.
    """

    @property
    def in_transaction(self) -> bool: ...

    async def execute_fetchall(
        self, sql: str, parameters: Iterable[Any] | None = None
    ) -> Iterable[Any]: ...

    async def close(self) -> None: ...


async def connected(path: str, **options: Any) -> Connection:
    """As `aiosqlite.connect`, and cancelled meanwhile it leaves nothing open that nobody has."""
    opening = asyncio.ensure_future(aiosqlite.connect(path, **options))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(sqlite3.Error):
            await (await opening).close()
        raise


class Database:
    """One file, one process. `write` is for the one writer task; `read` may run beside it.

    `path` may lead through links: log, lock and what has to be synced are beside the file itself.
    `connect` is called as `aiosqlite.connect` is.
    """

    def __init__(
        self, path: Path, connect: Callable[..., Awaitable[Connection]] = connected
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self._connecting = connect
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._scanner: Connection | None = None
        self._reads, self._scans = InTurn(), InTurn()
        self.put_back = False  # the file was a backup of which nothing had been opened yet
        self.migrating: Callable[[int, int], None] = lambda before, after: None
        """Told from which schema to which what is there is migrated, before that begins."""
        self._lock: int | None = None
        self._file: tuple[int, int] | None = None  # which one it is, whatever it is called
        self._written = 0  # values since the log was last folded back

    async def open(self) -> Self:
        """Lock, open, verify and migrate.

        Raises `CannotOpen`, with nothing changed, when another process holds the file, when it is
        not ours, when a newer version wrote it, or when it cannot be read or written.
        """
        try:
            self._lock = _take_lock(self.path)
            self.put_back = _keeps_no_log(self.path)
            self._file = _which(self.path)
            self._writer = await self._connect()
            await self._migrate(self._writer)
            await _durable(self._writer)
            _sync_directory(self.path.parent)
            self._reader = await self._connect(*_READS_ONLY)
            self._scanner = await self._connect(*_READS_ONLY)
        except BaseException as error:  # cancelled too: the connection's thread would never end
            await self.close()
            if isinstance(error, sqlite3.Error | OSError):
                problem = f"cannot open the database {self.path}: {_problem(error, self.path)}"
                raise CannotOpen(problem) from error
            raise
        return self

    async def open_to_read(self) -> Self:
        """Open beside a process that writes, or when none does. Raises `CannotOpen`.

        All that is read until it is closed is as it was at the first reading.
        """
        existing(self.path)
        try:
            self._scanner = self._reader = await self._connecting(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
            ((version,),) = await self._reader.execute_fetchall("PRAGMA user_version")
            ((owner,),) = await self._reader.execute_fetchall("PRAGMA application_id")
            await self._reader.execute_fetchall("BEGIN")
            _readable(self.path, owner, version)
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error):
                problem = f"cannot read the database {self.path}: {_problem(error)}"
                raise CannotOpen(problem) from error
            raise
        return self

    async def close(self) -> None:
        """Close the readers first: the last to close checkpoints, and that must be the writer."""
        readers = dict.fromkeys((self._scanner, self._reader))
        self._scanner = self._reader = None  # who reads meanwhile: it is not open
        for connection in (*readers, self._writer):
            if connection is not None:
                await connection.close()
        self._writer = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def write(self, statements: Sequence[Statement]) -> None:
        """Run `statements` in one transaction that is on disk when this returns.

        Raises `Unavailable` when the disk did not confirm, `RefTaken` when a message's ref was
        used before, and `Fault` when the schema refused; then nothing of it counts.
        """
        writer = await self._writing()
        try:
            await writer.execute_fetchall(TRANSACTION, statements)
        except Exception as error:
            await self._abandon(writer, error)
            error.__traceback__ = None  # aiosqlite's frames, which have the future that has it
            if isinstance(error, sqlite3.IntegrityError) and "messages.ref" in str(error):
                raise RefTaken("a ref is taken") from error
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise Fault(f"the schema refused a statement: {error}") from error
            if not isinstance(error, sqlite3.Error):
                raise Fault(f"a value cannot be stored: {type(error).__name__}") from error
            raise Unavailable(f"the database did not confirm: {error}") from error
        self._written += BESIDE + sum([len(parameters) for _, parameters in statements])

    async def fold_back_if_long(self) -> None:
        """Write into the file what is in the write-ahead log, once that is about `LONG` pages.

        For the writer task, when everybody has been told of a commit: as a part of it, which SQLite
        offers, all of them would wait for this too. How many pages there are SQLite does not tell;
        a guess that is too low a commit makes up for. Raises `Unavailable`; then the next tries.
        """
        if self._written >= LONG * PAGE:
            await _fetch(await self._writing(), "PRAGMA wal_checkpoint(PASSIVE)", ())
            self._written = 0

    async def read(self, sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Rows:
        """Rows of a query over what is committed, on a connection of its own.

        It is asked for `tenant`, or for the gateway itself: they take turns.
        """
        return await self._reads.read(tenant, lambda: _fetch(self._reader, sql, parameters))

    async def scan(self, sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Rows:
        """As `read`, for a query that may look at a great many rows: what is read there does not
        wait for it."""
        return await self._scans.read(tenant, lambda: _fetch(self._scanner, sql, parameters))

    async def read_for_write(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        """Rows of a query on the writing connection, for the writer task between two commits."""
        return await _fetch(await self._writing(), sql, parameters)

    @asynccontextmanager
    async def leaving_nothing(self) -> AsyncIterator[None]:
        """Of what is replaced or deleted meanwhile nothing is left in the file, nor at the end in
        the log. For who alone writes. Raises `Unavailable`."""
        writer = await self._writing()
        await _fetch(writer, "PRAGMA secure_delete = 1", ())
        yield
        await _fetch(writer, "PRAGMA secure_delete = 0", ())
        await _fetch(writer, "PRAGMA wal_checkpoint(TRUNCATE)", ())

    async def rewrite(self) -> None:
        """Write the file anew, so that nothing is left in it of what was deleted or replaced.

        Needs as much room again for a while. Raises `Unavailable`.
        """
        writer = await self._writing()
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            await _fetch(writer, statement, ())

    async def _connect(self, *settings: str) -> Connection:
        connection = await self._connecting(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=5.0,
            cached_statements=PREPARED,
            factory=_Transacting,
        )
        try:
            for setting in ("foreign_keys = 1", *settings):
                await connection.execute_fetchall(f"PRAGMA {setting}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _migrate(self, writer: Connection) -> None:
        ((version,),) = await writer.execute_fetchall("PRAGMA user_version")
        ((owner,),) = await writer.execute_fetchall("PRAGMA application_id")
        ((tables,),) = await writer.execute_fetchall("SELECT count(*) FROM sqlite_schema")
        if (owner or version or tables) and owner != APPLICATION_ID:
            raise CannotOpen(f"{self.path} is a SQLite file, but not one of Ringback")
        if version > len(MIGRATIONS):
            raise CannotOpen(
                f"{self.path} was written by a newer version of Ringback (schema {version}, "
                f"this one knows up to {len(MIGRATIONS)}): install that version or restore a backup"
            )
        await _put_on_disk(writer, self.path.with_name(self.path.name + "-wal"))
        if version == len(MIGRATIONS):
            return
        if version:
            self.migrating(version, len(MIGRATIONS))
        await writer.execute_fetchall("PRAGMA journal_mode = WAL")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            await writer.execute_fetchall("BEGIN IMMEDIATE")
            for sql in statements:
                await writer.execute_fetchall(sql)
            await writer.execute_fetchall(f"PRAGMA user_version = {number}")
            await writer.execute_fetchall("COMMIT")
        if version:  # what was there may have been copied: the log is as long as that
            await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _writing(self) -> Connection:
        """The writing connection; a new one if the last was given up."""
        if self._lock is None:
            raise Unavailable("the database is not open")
        try:
            if _which(self.path) != self._file:  # SQLite would go on in a file that is no more
                raise CannotOpen(f"{self.path} was removed or replaced meanwhile: put it back")
            if self._writer is None:
                writer = await self._connect()
                try:
                    await _durable(writer)
                except BaseException:
                    await writer.close()
                    raise
                self._writer = writer
        except (sqlite3.Error, OSError, CannotOpen) as error:
            raise Unavailable(f"the database cannot be opened again: {error}") from error
        return self._writer

    async def _abandon(self, writer: Connection, error: Exception) -> None:
        """Roll back; after an I/O error give the connection up (its page cache may lie)."""
        doubtful = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
        try:
            if writer.in_transaction:
                await writer.execute_fetchall("ROLLBACK")
        except sqlite3.Error:
            doubtful = True
        if doubtful:
            self._writer = None
            with suppress(sqlite3.Error):
                await writer.close()


def existing(path: Path) -> Path:
    """`path`, for who is not to make a database there. Raises `CannotOpen`."""
    try:
        path.stat()
        _keeps_no_log(Path(os.path.realpath(path)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CannotOpen(f"there is no database {path}") from error
    except OSError as error:  # a directory that is another user's, say
        raise CannotOpen(f"cannot read the database {path}: {error.strerror}") from error
    return path


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of everything committed, read-only, beside a running gateway or not.

    For programs that do nothing else meanwhile: it blocks. As long as it is held, the gateway's
    write-ahead log cannot be folded back and grows. Raises `CannotOpen`.
    """
    existing(path)
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise CannotOpen(f"cannot read the database {path}: {_problem(error)}") from error
    with closing(db):
        try:
            db.execute("BEGIN")
            ((version,),) = db.execute("PRAGMA user_version").fetchall()
            ((owner,),) = db.execute("PRAGMA application_id").fetchall()
        except sqlite3.Error as error:
            raise CannotOpen(f"cannot read the database {path}: {_problem(error)}") from error
        _readable(path, owner, version)
        yield db


def copy(path: Path, to: Path) -> None:
    """Write everything that is committed, as it is at one moment, into the new file `to`.

    As `snapshot` for who may be beside it and how long. Raises `CannotOpen`, with nothing of `to`
    left if it could not be written; nor is there after a Ctrl-C, which ends it at once.
    """
    with snapshot(path) as db:
        try:
            made = os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise CannotOpen(f"{to} exists already: name a new file") from None
        except OSError as error:
            raise CannotOpen(f"cannot write {to}: {error.strerror}") from error
        try:
            with closing(sqlite3.connect(to.absolute())) as target:  # else a URI, or memory
                # In parts, between which Python hears of a signal. The snapshot stays the same.
                db.backup(target, pages=STEP, progress=lambda *_: None)
                target.execute("PRAGMA journal_mode = DELETE")  # so it is read where none may write
            os.fsync(made)
            _sync_directory(to.parent)
        except BaseException as error:
            for ending in ("", "-journal", "-wal", "-shm"):  # a full disk leaves these too
                to.with_name(to.name + ending).unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error | OSError):
                raise CannotOpen(f"cannot write {to}: {error}") from error
            raise
        finally:
            os.close(made)


def _problem(error: Exception, path: Path | None = None) -> str:
    """What went wrong, in SQLite's words or the system's, unless those tell of another thing.

    With `path`, which is being made if it is not there.
    """
    if isinstance(error, OSError) and path is not None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"there is no directory {path.parent}: make it first"
        beside = f"{error.filename}: " if error.filename not in (None, path, str(path)) else ""
        return f"{beside}{error.strerror}"
    match getattr(error, "sqlite_errorcode", None):
        case sqlite3.SQLITE_IOERR_GETTEMPPATH:
            return NO_ROOM
        case sqlite3.SQLITE_CANTOPEN:  # the file itself is there, and could be read
            return NOTHING_BESIDE
        case sqlite3.SQLITE_CORRUPT:
            return f"{error}: put a backup in its place"
    return str(error)


def _readable(path: Path, owner: int, version: int) -> None:
    """Raise `CannotOpen` unless a file with this header is one that this version reads."""
    if owner != APPLICATION_ID:
        raise CannotOpen(f"{path} is a SQLite file, but not one of Ringback")
    if version > len(MIGRATIONS):
        raise CannotOpen(
            f"{path} was written by a newer version of Ringback (schema {version}, this one knows"
            f" up to {len(MIGRATIONS)}): use that version"
        )
    if version < len(MIGRATIONS):
        raise CannotOpen(
            f"{path} is of an older version of Ringback (schema {version}, not"
            f" {len(MIGRATIONS)}): start the gateway once, or use that version"
        )


async def _fetch(connection: Connection | None, sql: str, parameters: tuple[Any, ...]) -> Rows:
    if connection is None:
        raise Unavailable("the database is not open")
    try:
        return list(await connection.execute_fetchall(sql, parameters))
    except sqlite3.Error as error:
        error.__traceback__ = None  # as in `write`
        raise Unavailable(f"the database cannot be read: {error}") from error


async def _durable(writer: Connection) -> None:
    ((mode,),) = await writer.execute_fetchall("PRAGMA journal_mode = WAL")
    await writer.execute_fetchall("PRAGMA synchronous = FULL")
    await writer.execute_fetchall("PRAGMA temp_store = MEMORY")  # what a statement may undo
    await writer.execute_fetchall(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    await writer.execute_fetchall(f"PRAGMA journal_size_limit = {KEPT}")
    ((synchronous,),) = await writer.execute_fetchall("PRAGMA synchronous")
    if (mode, synchronous) != ("wal", 2):
        raise CannotOpen(
            f"the file system does not allow durable commits (journal_mode={mode}, "
            f"synchronous={synchronous}; WAL and FULL are needed): use a local disk"
        )


async def _put_on_disk(writer: Connection, wal: Path) -> None:
    """Put on disk what an earlier process wrote and did not sync: it was killed, or a sync failed.

    Recovery takes such commits out of the page cache as good. Their senders come again under the
    same ref, are told `sent`, and no commit of ours would sync what that rests on. Written anew,
    not only synced: after a failed sync the kernel may hold the pages for clean.
    """
    await writer.execute_fetchall("BEGIN IMMEDIATE")  # no other program writes meanwhile
    try:
        _write_anew(wal)
    finally:
        await writer.execute_fetchall("ROLLBACK")


def _write_anew(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = 0
        while chunk := os.pread(file, 1 << 20, at):
            at += os.pwrite(file, chunk, at)
        os.fsync(file)
    finally:
        os.close(file)


def _keeps_no_log(path: Path) -> bool:
    """Whether the file keeps no log, as `copy` makes it. What has been opened to write does.

    Raises `CannotOpen` if there is one beside it all the same: it is of the database in whose place
    the backup was put, and SQLite would take it for its own.
    """
    with path.open("rb") as file:
        keeps_none = file.read(20)[18:] == b"\1\1"
    wal = path.with_name(path.name + "-wal")
    if keeps_none and wal.exists() and wal.stat().st_size:
        raise CannotOpen(
            f"{wal} is of another database, which was in the place of {path}: remove it, and the"
            " -shm beside it"
        )
    return keeps_none


def _which(path: Path) -> tuple[int, int] | None:
    """The file of that name, as the system knows it; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sync_directory(path: Path) -> None:
    """That the files are there is on disk too. SQLite does this, but goes on when it fails."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _new_or_ours(path: Path) -> bool:
    """By the file's header alone, before anything opens it: another program's keeps its mode."""
    with path.open("rb") as file:
        header = file.read(72)
    return not header or header[68:] == APPLICATION_ID.to_bytes(4, "big")


def _take_lock(path: Path) -> int:
    """Make the file readable by its owner only, and hold a lock beside it while open."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if _new_or_ours(path):
            path.chmod(0o600)
    except BlockingIOError:
        os.close(lock)
        raise CannotOpen(
            f"the database {path} is held by another process: stop the other gateway first"
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock
