"""What is measured, in processes of their own: a gateway, and the bare echo it is held to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import config

SERVER_CPU, LOAD_CPU = 0, 1

CONFIG = """
[server]
chat = "127.0.0.1:0"
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[storage]
url = "sqlite:///bench.db"
[delivery]
ack_timeout = {ack_timeout}
disconnect_grace = 0.2
restart_window = 0.1
restart_grace = 0.2
[limits]
sends_per_minute = 1000000
burst = 100000
agent_sends_per_minute = 10000000
agent_burst = 1000000
connections = 50000
attempts_per_minute = 10000000
ping_interval = 3600
[tenants.acme.auth]
algorithm = "HS256"
secret = "{secret}"
[tenants.acme.push]
endpoint = "{endpoint}"
auth_token = "bench"
in_flight = 256
"""


@dataclass(slots=True)
class Process:
    """A server under measurement."""

    popen: subprocess.Popen[str]
    ports: dict[str, int]
    config: config.Config | None = None

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu(self) -> float:
        """CPU seconds used so far (user and system)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


async def echo() -> None:
    """The reference: websockets and uvloop, one frame in, the same frame out."""
    from websockets.asyncio.server import ServerConnection, serve

    async def handle(socket: ServerConnection) -> None:
        async for frame in socket:
            await socket.send(frame)

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"chat": port}), flush=True)
        await asyncio.Event().wait()


@contextmanager
def bare_echo() -> Iterator[Process]:
    """The reference in its own process, on the server's core."""
    code = "import uvloop; from bench.servers import echo; uvloop.run(echo())"
    with _process([sys.executable, "-c", code], Path.cwd()) as popen:
        assert popen.stdout is not None
        yield Process(popen, json.loads(popen.stdout.readline()))


@contextmanager
def gateway(
    endpoint: str = "http://127.0.0.1:9/ring", ack_timeout: float = 30.0
) -> Iterator[Process]:
    """A gateway in its own process, on the server's core, with a database of its own on disk."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        directory = Path(name)
        path = directory / "ringback.toml"
        secret = "b" * 40
        path.write_text(CONFIG.format(secret=secret, endpoint=endpoint, ack_timeout=ack_timeout))
        command = [sys.executable, "-c", "from bench.servers import serve; serve()", str(path)]
        with _process(command, Path.cwd()) as popen:
            assert popen.stdout is not None
            ports: dict[str, Any] = json.loads(popen.stdout.readline())
            yield Process(popen, ports, config.load(path, {}))


def serve() -> None:
    """Run the gateway as `ringback serve` does, and print its ports."""
    import signal

    from gateway import cli, logs
    from gateway.server import Gateway

    async def run() -> None:
        settings = config.load(Path(sys.argv[1]), {})
        logs.set_up(config.Log(level=config.LogLevel.WARNING))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with Gateway(settings) as it:
            print(json.dumps(it.ports), flush=True)
            await stop.wait()

    cli.run(run())


@contextmanager
def _process(command: list[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=directory)
    with suppress(OSError, AttributeError):
        os.sched_setaffinity(popen.pid, {SERVER_CPU})
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.wait(10)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


def pin_load() -> None:
    """Put the load generator on the other core, where there is one."""
    with suppress(OSError, AttributeError):
        os.sched_setaffinity(0, {LOAD_CPU})


def settle_down(process: Process) -> None:
    """Wait until the process has stopped using the CPU."""
    before = process.cpu()
    while True:
        time.sleep(0.2)
        now = process.cpu()
        if now - before < 0.02:
            return
        before = now
