"""What a backend must remember across restarts, in one SQLite file.

A company would have two tables in its own database. Each call is one short transaction; that they
hold up the event loop for a moment is the price of a small example.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

KEPT = 25 * 3600  # seconds: rings live for 24 h unless configured otherwise, and a little

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rings (
    id TEXT PRIMARY KEY, at REAL NOT NULL, rang INTEGER NOT NULL, dead INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rings_at ON rings (at);
CREATE TABLE IF NOT EXISTS badges (place TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""


class Memory:
    """Rings that are done with, and the newest number of each icon."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a 200 must outlive the power
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def done(self, id: str) -> tuple[int, bool] | None:
        """How often this ring was sent on, and whether its token was dead; None if it is new."""
        row = self._db.execute("SELECT rang, dead FROM rings WHERE id = ?", (id,)).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def finish(self, id: str, *, rang: int, dead: bool) -> None:
        """Note what became of a ring, before anybody is told; forget the oldest."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "INSERT INTO rings VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " at = excluded.at, rang = rang + excluded.rang, dead = excluded.dead",
            (id, now, rang, dead),
        )
        self._db.execute("DELETE FROM rings WHERE at < ?", (now - KEPT,))
        self._db.execute("COMMIT")

    def is_late(self, token: str, customer: str, seq: int) -> bool:
        """Tell whether a newer number was given to this icon; if not, this is the newest now.

        By device and customer: phones change hands.
        """
        place = hashlib.sha256(f"{token}\0{customer}".encode()).hexdigest()
        changed = self._db.execute(
            "INSERT INTO badges VALUES (?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq"
            " WHERE excluded.seq >= seq",
            (place, seq),
        )
        return changed.rowcount == 0
