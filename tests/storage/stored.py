"""A store on a real file for tests, and a look at the same file from outside."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.database import Database
from storage.records import Conversation, Draft, Key, Message
from storage.store import Needs, Store
from storage.transaction import Transaction

KEY = Key("acme", "c-1")


@dataclass(slots=True)
class Clock:
    """A clock that a test sets."""

    now: float = 1_795_510_800.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(path: Path, clock: Clock | None = None) -> AsyncIterator[tuple[Store, Database]]:
    """A started store over `path` and its database; stopped and closed at the end."""
    async with Database(path) as database:
        store = Store(database, clock or Clock())
        await store.start()
        try:
            yield store, database
        finally:
            await store.stop()


@contextmanager
def outside(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it: committed state only."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def rows(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of one query from outside."""
    with outside(path) as connection:
        return connection.execute(sql, parameters).fetchall()


def draft(
    text: str = "hello",
    *,
    role: str = "agent",
    kind: str = "chat",
    ref: str | None = None,
    author: str = "a-1",
    expires_at: float | None = None,
) -> Draft:
    return Draft(f"m_{text}", role, author, None, kind, text, ref=ref, expires_at=expires_at)


def known(tx: Transaction, key: Key) -> Conversation:
    """The conversation, made if it is new."""
    return tx.conversation(key) or tx.create(key, None)


@dataclass(slots=True)
class Post:
    """A change that appends a message, or finds the one that has its `ref`."""

    draft: Draft
    key: Key = KEY

    @property
    def needs(self) -> Needs:
        d = self.draft
        refs = () if d.ref is None else ((self.key, d.role, d.author, d.ref),)
        return Needs(keys=(self.key,), refs=refs)

    def __call__(self, tx: Transaction) -> Message:
        c, d = known(tx, self.key), self.draft
        if d.ref is not None:
            first = tx.sent_before(self.key, d.role, d.author, d.ref)
            if first is not None:
                return first
        return tx.append_message(c, d)[1]


def post(store: Store, given: Draft, key: Key = KEY) -> asyncio.Future[Message]:
    """Submit a message at once: what is posted without awaiting between goes into one batch."""
    change = Post(given, key)
    return store.submit(change, change.needs)
