"""A gateway gives itself the open files that its connections need, or says that it may not."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.faults.process import Process, process
from tests.running import PATIENT, Backend, backend

SOCKETS = 100


def limited(
    directory: Path, ears: Backend, soft: int, hard: int, connections: int
) -> AbstractAsyncContextManager[Process]:
    """A gateway started from a shell with these limits of open files."""
    shell = ("sh", "-c", f'ulimit -S -n {soft}; ulimit -H -n {hard}; exec "$@"', "sh")
    limits = {"connections": connections, "http_connections": 50}
    return process(directory, ears, wrapped_in=shell, limits=limits, delivery=PATIENT)


async def test_more_customers_fit_than_the_shell_allows_at_first(tmp_path: Path) -> None:
    async with backend() as ears, limited(tmp_path, ears, 64, 1024, SOCKETS) as it:
        for i in range(SOCKETS):
            await it.customer(f"c-{i}", ("acme", "other")[i % 2])  # each its share
        assert "limits.connections" not in it.log


async def test_connections_that_cannot_be_served_are_told_at_the_start(tmp_path: Path) -> None:
    async with backend() as ears, limited(tmp_path, ears, 64, 512, 20_000) as it:
        (line,) = [line for line in it.log.splitlines() if "limits.connections is 20000" in line]
        assert "warning" in line
        assert "512 files" in line
        assert "limits.connections to 262" in line
        await it.customer()
