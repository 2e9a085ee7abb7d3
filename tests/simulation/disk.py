"""The disk: real SQLite in this thread, behind the connection that `storage.database` asks for.

A statement takes no time or a little, may be refused while the disk is bad, and is an edge at which
the process may die. After each commit of the writer somebody is told which conversations changed,
before the process learns that it was committed: so every committed state is seen once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from enum import Enum
from random import Random
from typing import Any, cast

from storage import sql as statements
from storage.database import TRANSACTION
from storage.sql import Statement
from tests.simulation.virtual import Process

LATENCIES = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.02, 0.05)


class Health(Enum):
    """What the disk does: works, has no room, or does not confirm a commit."""

    GOOD = "good"
    FULL = "full"
    FAILING = "failing"


class Disk:
    """One file for all lives of a process; `connect` stands for `aiosqlite.connect`."""

    def __init__(self, rng: Random, committed: Callable[[sqlite3.Connection, list[int]], None]):
        self.health = Health.GOOD
        self.committed = committed
        self.rng = rng
        self.open: list[Connection] = []

    def connect(self, process: Process) -> Callable[..., Any]:
        """What opens connections for this life of the process."""

        async def connect(path: str, **options: Any) -> Connection:
            await process.turn()
            connection = Connection(self, process, sqlite3.connect(path, **options))
            self.open.append(connection)
            return connection

        return connect

    def cut(self) -> None:
        """The process is gone: what it had not committed is undone."""
        for connection in self.open:
            connection.db.close()
        self.open.clear()


class Connection:
    """A connection as aiosqlite's, without the thread."""

    def __init__(self, disk: Disk, process: Process, db: sqlite3.Connection) -> None:
        self.db = db
        self._disk = disk
        self._process = process
        self._touched: list[int] = []

    @property
    def in_transaction(self) -> bool:
        return self.db.in_transaction

    async def execute_fetchall(
        self, sql: str, parameters: Iterable[Any] | None = None
    ) -> Iterable[Any]:
        if sql == TRANSACTION:
            await self.execute_fetchall("BEGIN IMMEDIATE")
            for statement in cast(Iterable[Statement], parameters):
                await self.execute_fetchall(*statement)
            return await self.execute_fetchall("COMMIT")
        await self._process.turn()
        wait = self._disk.rng.choice(LATENCIES)
        if wait:
            await asyncio.sleep(wait)
            if not self._process.alive:
                await asyncio.Future()
        given: Any = parameters or ()
        self._refuse(sql)
        rows = self.db.execute(sql, given).fetchall()
        if sql.startswith("INSERT INTO conversations "):
            self._touched += given[:: len(statements.CONVERSATIONS.columns)]
        elif sql == "ROLLBACK":
            self._touched.clear()
        elif sql == "COMMIT":
            touched, self._touched = self._touched, []
            self._disk.committed(self.db, touched)
        if not self._process.edge():
            await asyncio.Future()
        return rows

    async def close(self) -> None:
        self.db.close()
        if self in self._disk.open:
            self._disk.open.remove(self)

    def _refuse(self, sql: str) -> None:
        if self._disk.health is Health.FULL and sql.lstrip()[:6] in ("INSERT", "UPDATE"):
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        if self._disk.health is Health.FAILING and sql == "COMMIT":
            raise _error("disk I/O error", sqlite3.SQLITE_IOERR_FSYNC)


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
