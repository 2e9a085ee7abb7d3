"""A gateway in a process of its own, started as operators start it, so that it can be hurt.

`process` runs `ringback serve`; `wrapped_in` puts another program in front of it (`strace …`),
`command` starts it in another way, and `environment` adds variables. What it wrote to stderr is
in `log`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.server import Gateway
from tests.canary import CANARY
from tests.running import PATIENCE, Backend, Running, settings

SERVE = (sys.executable, "-m", "gateway", "serve", "--config")
READY = re.compile(r"ready: ws://[^:]+:(\d+)/.* http://[^:]+:(\d+)/v1, admin http://[^:]+:(\d+)\n")
ROOT = Path(__file__).parent.parent.parent

ROOMY = {
    "attempts_per_minute": 10_000_000,
    "connections": 20_000,
    "sends_per_minute": 10_000_000,
    "burst": 1_000_000,
    "agent_sends_per_minute": 10_000_000,
    "agent_burst": 1_000_000,
}
"""Limits for tests that load a gateway: what is tested is not the rate limit."""


class Process(Running):
    """A gateway in another process: all that `Running` has, and ways to hurt it."""

    def __init__(self, gateway: Gateway, backend: Backend, child: asyncio.subprocess.Process):
        super().__init__(gateway, backend)
        self.child = child
        self.log = ""
        self._pipes = asyncio.create_task(self._keep_log())

    @property
    def pid(self) -> int:
        """Of the gateway itself, also behind a wrapper."""
        path = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        children = path.read_text().split()
        return int(children[0]) if children else self.child.pid

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, SIGTERM, …, to the gateway."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        await self.child.wait()

    async def stop(self) -> int:
        """SIGTERM, and wait until it has drained; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.child.wait()

    async def ready(self) -> None:
        """Wait until it listens. Raises `AssertionError` with its log if it ends instead."""
        async with asyncio.timeout(3 * PATIENCE):
            while (found := READY.search(self.log)) is None:
                assert self.child.returncode is None, self.log
                await asyncio.sleep(0.01)
        ports = dict(zip(("chat", "http", "admin"), map(int, found.groups()), strict=True))
        self.gateway.ports = ports

    async def lose_log(self) -> None:
        """Nobody reads its log any more: whatever it writes there fails."""
        transport = self.child._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        transport.close()
        await self._pipes

    def stall_log(self) -> None:
        """Nobody reads its log any more, though the pipe is there: it takes one page."""
        transport = self.child._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        transport.pause_reading()
        fcntl.fcntl(transport.get_extra_info("pipe"), fcntl.F_SETPIPE_SZ, 4096)

    def read_log(self) -> None:
        """Read on after `stall_log`."""
        self.child._transport.get_pipe_transport(2).resume_reading()  # type: ignore[attr-defined]

    async def _keep_log(self) -> None:
        assert self.child.stderr is not None
        while data := await self.child.stderr.read(65_536):
            self.log += data.decode(errors="replace")

    async def close(self) -> None:
        await super().close()
        if self.child.returncode is None:
            await self.kill()
        await self._pipes
        CANARY.search("the log of a gateway in a process of its own", self.log)


@asynccontextmanager
async def process(
    directory: Path,
    it: Backend,
    *,
    wrapped_in: Sequence[str] = (),
    command: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Process]:
    """A running gateway over `directory`'s database; `options` are those of `running.settings`."""
    gateway = Gateway(settings(directory, it.url, **options))
    child = await asyncio.create_subprocess_exec(
        *wrapped_in,
        *command,
        str(directory / "ringback.toml"),
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    async with Process(gateway, it, child) as running:
        await running.ready()
        yield running
