"""A flame graph of the gateway under full load: where its time goes, as a picture.

    python -m bench.flame                              # 1,000 conversations, to bench/results/
    python -m bench.flame --conversations 100 --to flame.svg

py-spy samples whoever holds the interpreter's lock, while the load of the throughput measurement
runs: what SQLite does without the lock is not in the picture. It comes into an environment of its
own, made on demand. It has to be allowed to look at another process: as root, or where
`kernel.yama.ptrace_scope` is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
from pathlib import Path

import uvloop

from bench import chat, servers
from bench.chat import Chat
from bench.peers import Missing, environment
from bench.size import Size

SECONDS, RATE = 5, 400  # of sampling, and samples a second


async def draw(conversations: int, to: Path) -> None:
    """Raises `Missing` where py-spy cannot be had, `CalledProcessError` where it may not look."""
    spy = environment("py-spy", "py-spy").with_name("py-spy")
    size = Size()
    with servers.gateway() as process:
        load = await Chat.open(process, chat.names(conversations), size.agents)
        record = [str(spy), "record", "--pid", str(process.pid), "--gil", "--rate", str(RATE)]
        record += ["--duration", str(SECONDS), "--output", str(to)]

        async def sample() -> None:
            done = await asyncio.create_subprocess_exec(*record, stdout=subprocess.DEVNULL)
            if await done.wait():
                raise subprocess.CalledProcessError(done.returncode or 1, record)

        chat.fill(load, conversations)
        await asyncio.sleep(size.warm)
        await sample()
        load.again = None
        await chat.settle(load)
        load.close()
    title = f"The gateway under full load, {conversations:,} conversations"
    to.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", to.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results" / "flame.svg")
    options = parser.parse_args()
    servers.prepare_load()
    options.to.parent.mkdir(parents=True, exist_ok=True)
    try:
        uvloop.run(draw(options.conversations, options.to))
    except (Missing, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"written to {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
