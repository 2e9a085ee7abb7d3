"""How many instructions a message and a push cost, and where: the same on a busy machine.

    python -m bench.instructions                     # both, a minute
    python -m bench.instructions --references        # and what they are held to: echo, POST, floors
    python -m bench.instructions --pushes 0          # messages only
    python -m bench.instructions --functions 40      # and which functions of C they are in

CPU time differs by a third from hour to hour, this by a few in a hundred; so it tells two
versions apart where a difference is small. And it shows what profilers of Python do not: what the
interpreter, SQLite and the libraries in C do for a line. Instructions are no time: what waits for
memory, and all that the kernel does, is not in it.

What is measured runs under callgrind (Debian: `apt-get install valgrind`), fifty times slower.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import bulk, chat, floor, push, pushfloor, servers
from bench.chat import Chat, Echo
from bench.peers import Missing
from bench.push import Backend
from bench.servers import Process
from bench.size import Size

WARM = 600  # messages, or pushes, before counting begins
PATIENCE = 600.0  # seconds
GRACE = 20.0  # seconds from the start until pushes come due: by then everything is being counted
SPENT = re.compile(r"\s*([\d,]+) \(.*?\)\s+(\S+)(?:\s+\[(\S+)\])?$")  # by callgrind_annotate
PATH = re.compile(r"\S*/(?=[^/]+/[^/]+:)")  # of a source file, but for its last directory


class Spent(NamedTuple):
    """Instructions for all of what was `counted`, by library and by function."""

    counted: int
    libraries: Counter[str]
    functions: Counter[str]

    def beyond(self, fewer: Spent) -> Spent:
        """What more was spent than for fewer of them."""
        for mine, others in ((self.libraries, fewer.libraries), (self.functions, fewer.functions)):
            mine.subtract(others)
        return Spent(self.counted - fewer.counted, self.libraries, self.functions)


class Callgrind:
    """Counts what one process does between two calls."""

    def __init__(self, directory: Path) -> None:
        self._out = directory / "callgrind.out"
        self.under = (
            *("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"),
            *(f"--callgrind-out-file={self._out}", f"--log-file={directory / 'log'}"),
        )

    async def begin(self, process: Process) -> None:
        await self._control(process, "--instr=on")
        await self._control(process, "--zero")

    async def end(self, process: Process, counted: int) -> Spent:
        await self._control(process, "--dump")
        told = await _run("callgrind_annotate", "--threshold=100", f"{self._out}.1")
        libraries, functions = Counter[str](), Counter[str]()
        for line in told.splitlines():
            found = SPENT.match(line)
            if found is not None:
                spent = int(found[1].replace(",", ""))
                libraries[Path(found[3] or "(inlined)").name] += spent
                functions[PATH.sub("", found[2])] += spent
        return Spent(counted, libraries, functions)

    async def _control(self, process: Process, what: str) -> None:
        await _run("callgrind_control", what, str(process.pid))


async def _run(*command: str) -> str:
    """What it prints. Raises `Missing` where it cannot be run, `CalledProcessError` if it fails."""
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed (Debian: apt-get install valgrind)")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    told, _ = await process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return told.decode(errors="replace")


async def messages(callgrind: Callgrind, conversations: int, many: int) -> Spent:
    """One message in flight for each conversation."""
    with servers.gateway(under=callgrind.under) as process:
        return await _spoken(callgrind, process, conversations, many)


async def message_floor(callgrind: Callgrind, conversations: int, many: int) -> Spent:
    """The same through the floor (`bench.floor`), with all of its parts."""
    with servers.floor(floor.Part.CHECKED.name, callgrind.under) as process:
        return await _spoken(callgrind, process, conversations, many)


async def echoes(callgrind: Callgrind, connections: int, many: int) -> Spent:
    """Frames through the bare echo, one in flight on each connection."""
    with servers.bare_echo(callgrind.under) as process:
        load = await Echo.open(process, connections)
        spent = await _carried(callgrind, load, connections, many)
        load.close()
        return spent


async def _spoken(callgrind: Callgrind, process: Process, conversations: int, many: int) -> Spent:
    load = await Chat.open(process, chat.names(conversations), Size().agents)
    spent = await _carried(callgrind, load, conversations, many)
    load.close()
    return spent


async def _carried(callgrind: Callgrind, load: chat.Load, in_flight: int, many: int) -> Spent:
    chat.fill(load, in_flight)
    await _reached(lambda: load.done, WARM)
    await callgrind.begin(load.process)
    before = load.done
    await _reached(lambda: load.done, before + many)
    spent = await callgrind.end(load.process, load.done - before)
    load.again = None
    await chat.settle(load)
    return spent


async def pushes(callgrind: Callgrind, it: Backend, many: int) -> Spent:
    """From being due to the verdict: of so many more than those that open the connections.

    Not of a part of a run: of those who are due at once many are fanned out before one is rung.
    """
    fewer = await _due_at_once(callgrind, it, WARM)
    return (await _due_at_once(callgrind, it, WARM + many)).beyond(fewer)


async def _due_at_once(callgrind: Callgrind, it: Backend, many: int) -> Spent:
    before = it.calls
    with servers.scratch() as directory:
        bulk.write(directory, bulk.Group("p-", many, 1, pending=True))
        with servers.gateway(
            directory, endpoint=it.url, restart_grace=GRACE, under=callgrind.under
        ) as process:
            await callgrind.begin(process)
            if it.calls > before:
                raise RuntimeError(f"the first were rung before the counting began: {GRACE} s")
            await it.reached(before + many)
            await push.settled(process, many)
            return await callgrind.end(process, many)


async def push_floor(callgrind: Callgrind, it: Backend, many: int) -> Spent:
    """The same through the floor (`bench.pushfloor`), with all of its parts."""
    part, due = pushfloor.Part.OUTCOMES, many + 2 * WARM
    with push.floor(it, part, it.request, due, callgrind.under) as process:
        return await _called(callgrind, it, process, many)


async def posts(callgrind: Callgrind, it: Backend, many: int) -> Spent:
    """The same requests by the bare client."""
    with push.bare(it, it.request, callgrind.under) as process:
        return await _called(callgrind, it, process, many)


async def _called(callgrind: Callgrind, it: Backend, process: Process, many: int) -> Spent:
    await it.reached(it.calls + WARM)
    await callgrind.begin(process)
    before = it.calls
    await it.reached(before + many)
    return await callgrind.end(process, it.calls - before)


async def _reached(done: Callable[[], int], many: int) -> None:
    until = chat.clock() + PATIENCE
    while done() < many:
        if chat.clock() > until:
            raise RuntimeError(f"{done():,} of {many:,} messages came back")
        await asyncio.sleep(0.02)


def report(what: str, spent: Spent, functions: int) -> str:
    """The table for one of the two."""

    def told(of: Counter[str], most: int) -> list[str]:
        return [f"  {many / spent.counted:>9,.0f}  {name}" for name, many in of.most_common(most)]

    each = spent.libraries.total() / spent.counted
    lines = [f"{what}: {each:,.0f} instructions each ({spent.counted:,})"]
    lines += told(spent.libraries, 8)
    if functions:
        lines += ["  of which, each function by itself:", *told(spent.functions, functions)]
    return "\n".join(lines)


async def count(options: argparse.Namespace) -> None:
    async def told(what: str, count: Callable[[Callgrind], Awaitable[Spent]]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            spent = await count(Callgrind(Path(directory)))
        print(report(what, spent, options.functions), flush=True)

    if options.messages:
        size = options.conversations, options.messages
        await told("a message", lambda it: messages(it, *size))
        if options.references:
            await told("a message, the floor", lambda it: message_floor(it, *size))
            await told("an echo", lambda it: echoes(it, *size))
    if options.pushes:
        async with push.backend() as backend:
            await told("a push", lambda it: pushes(it, backend, options.pushes))
            if options.references:
                await told("a push, the floor", lambda it: push_floor(it, backend, options.pushes))
                await told("a bare POST", lambda it: posts(it, backend, options.pushes))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=int, default=2500)
    parser.add_argument("--pushes", type=int, default=2500)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--references", action="store_true", help="and what they are held to")
    parser.add_argument("--functions", type=int, default=0, help="how many to name")
    options = parser.parse_args()
    servers.prepare_load()
    try:
        uvloop.run(count(options))
    except (Missing, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
