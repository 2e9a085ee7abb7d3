"""A disk that is full, and one whose writes and syncs fail, under a real gateway at work.

Troubles come and go, one after another: a small file system that fills up, or system calls that
strace makes fail. While one lasts, senders must be told `unavailable` and readiness must say so;
what was confirmed is looked for in what a crash at that moment would leave. When it is over, the
same process goes on; or it is killed in the middle of the trouble and another one goes on.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults.accounts import Result, audit
from tests.faults.crowd import Crowd
from tests.faults.kill import moody
from tests.faults.process import ROOMY, Process, process
from tests.faults.served import served
from tests.running import PATIENCE, QUICK, Backend, backend

NAME = "ringback.db"
SIZE = "16m"
CHECKPOINT = 500  # pages: the WAL fits on the small disk, and faults fall into checkpoints too

Trouble = Callable[[Process], AbstractAsyncContextManager[None]]


class Scale(NamedTuple):
    """Each of the troubles comes `rounds` times; every third time the process is killed in it."""

    rounds: int
    sends: int
    customers: int
    agents: int
    seed: int = 1


def failing(*calls: str, error: str, when: str = "1+") -> Trouble:
    """These system calls of the gateway fail: all, or those that `when` (strace's) names."""
    rule = f"{','.join(calls)}:error={error}:when={when}"

    @asynccontextmanager
    async def trouble(it: Process) -> AsyncIterator[None]:
        tracer = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-p", str(it.pid), "-o", "/dev/null"),
            *("-e", f"trace={','.join(calls)}", "-e", f"inject={rule}"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert tracer.stderr is not None
        while b"attached" not in (line := await tracer.stderr.readline()):
            assert line, "strace ended at once"
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                tracer.send_signal(signal.SIGINT)
            await tracer.stderr.read()
            await tracer.wait()

    return trouble


@asynccontextmanager
async def full(it: Process) -> AsyncIterator[None]:
    """Not a byte is left on the file system of the database."""
    ballast = it.gateway.config.storage.path.with_name("ballast")
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


@asynccontextmanager
async def small_disk(place: Path, size: str = SIZE) -> AsyncIterator[Path]:
    """A file system of a few megabytes. Needs root."""
    place.mkdir()
    await _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        await _run("umount", str(place))


async def _run(*command: str) -> None:
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0, command


SYNCS = ("fsync", "fdatasync")

# These let some calls through, so that readiness tells what it happened to meet: either.
PARTLY = (
    failing(*SYNCS, error="EIO", when="2+5"),  # what folds the log back syncs twice more
    failing("pwrite64", error="EIO", when="7+31"),
)
TROUBLES = (
    *PARTLY,
    failing(*SYNCS, error="EIO"),
    failing("pwrite64", error="EIO"),
    failing("pwrite64", error="ENOSPC"),
)


async def disk_failures(directory: Path, scale: Scale) -> Result:
    """Every kind of failing system call."""
    return await troubles(directory, "failing disk", TROUBLES, directory / "crash", scale)


async def disk_full(directory: Path, scale: Scale) -> Result:
    """A file system that fills up and is emptied."""
    async with small_disk(directory / "small") as place:
        return await troubles(place, "full disk", (full,), directory / "crash", scale)


async def troubles(
    directory: Path, fault: str, kinds: Iterable[Trouble], crash: Path, scale: Scale
) -> Result:
    """One trouble after another; what became of everything."""
    rng = Random(scale.seed)
    crowd = Crowd(sys.maxsize, scale.customers, scale.agents, rng)  # no end before the troubles'
    coming = [kind for _ in range(scale.rounds) for kind in kinds]
    path = directory / NAME
    share = scale.sends / (len(coming) + 1)
    at, broken, restarts = 0, [], 0
    async with backend() as ears:
        ears.otherwise = moody(rng)
        while True:
            async with process(
                directory,
                ears,
                command=served("FULL", CHECKPOINT),
                delivery=QUICK,
                limits=ROOMY,
            ) as it:
                if at == 0:
                    await crowd.begin(it)
                crowd.work(it)
                killed = False
                while at < len(coming) and not killed:
                    at += 1
                    await crowd.confirmed(len(crowd.ledger.confirmed) + share * rng.random())
                    killed = at % 3 == 1
                    broken += await _endure(it, coming[at - 1], crowd, ears, crash, killed=killed)
                if not killed:
                    crowd.ledger.enough = scale.sends
                    await crowd.settle(it, ears)
                    break
                restarts += 1
    note = (
        f"seed {scale.seed}; {crowd.ledger.unavailable} times unavailable; "
        f"killed in the middle {restarts} times"
    )
    result = crowd.result(fault, len(coming), path, ears, note)
    result.lost.extend(broken)
    return result


async def _endure(
    it: Process, trouble: Trouble, crowd: Crowd, ears: Backend, crash: Path, *, killed: bool
) -> list[str]:
    """While it lasts: refusals. What a crash would leave has all that was confirmed."""
    before = crowd.ledger.unavailable
    async with trouble(it):
        async with asyncio.timeout(3 * PATIENCE):
            while crowd.ledger.unavailable < before + 5:
                await asyncio.sleep(0.005)
            if trouble not in PARTLY:
                await _readiness(it, 503)
        broken = await _after_a_crash(it, crowd, ears, crash)
        if killed:
            await crowd.die(it)
            return broken
    async with asyncio.timeout(3 * PATIENCE):
        await _readiness(it, 200)
    return broken


async def _readiness(it: Process, wanted: int) -> None:
    while (await it.call("GET", "/readyz", listener="admin"))[0] != wanted:
        await asyncio.sleep(0.01)


async def _after_a_crash(it: Process, crowd: Crowd, ears: Backend, place: Path) -> list[str]:
    """The files as a SIGKILL at this moment would leave them."""
    confirmed = list(crowd.ledger.confirmed.values())
    it.signal(signal.SIGSTOP)
    try:
        calls = list(ears.calls)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path = it.gateway.config.storage.path
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", place / f"{NAME}{suffix}")
    finally:
        it.signal(signal.SIGCONT)
    found = audit("", 0, place / NAME, confirmed, calls, settled=False)
    return [f"after a crash in the trouble: {one}" for one in (*found.lost, *found.unaccounted)]


Fault = Callable[[Path], Awaitable[Result]]

_LONG = Scale(rounds=6, sends=10_000, customers=60, agents=4)

LONG: Sequence[Fault] = (
    partial(disk_failures, scale=_LONG),
    partial(disk_full, scale=_LONG._replace(rounds=20)),
)
