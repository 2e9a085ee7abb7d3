"""`ringback serve` with SQLite set otherwise: `python -m tests.faults.served LEVEL PAGES serve …`.

LEVEL is what `PRAGMA synchronous` becomes (FULL: whatever the product itself sets), PAGES after how
many the log is folded back. Operators have no such options, and the product verifies FULL at its
start; so this adds to that check, in this process only.
"""

from __future__ import annotations

import sys

from gateway.commands.cli import main
from storage import database


def served(level: str, pages: int) -> tuple[str, ...]:
    """The command that serves so, for `tests.faults.process`."""
    here = "tests.faults.served"
    return (sys.executable, "-m", here, level, str(pages), "serve", "--config")


def set_otherwise(level: str, pages: str) -> None:
    """Change how long the log gets, and what every writing connection is set to before its first
    write."""
    database.LONG, database.CHECKPOINT = int(pages), 2 * int(pages)
    checked = database._durable

    async def otherwise(writer: database.Connection) -> None:
        await checked(writer)
        if level != "FULL":
            await writer.execute_fetchall(f"PRAGMA synchronous = {level}")

    database._durable = otherwise


if __name__ == "__main__":
    _, level, pages, *sys.argv[1:] = sys.argv
    set_otherwise(level, pages)
    main()
