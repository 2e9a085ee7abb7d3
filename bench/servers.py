"""What is measured, each in a process of its own on the server's core.

The gateway runs as `ringback serve` runs it, with its rate limits lifted and a database on disk;
the bare echo is the reference that it is held to.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config.reading import load
from gateway.config.sections import Config, Log, LogLevel

SERVER_CPU, LOAD_CPU = 0, 1
NOWHERE = "http://127.0.0.1:9/ring"
SIGNING = "whsec_" + "YmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggISE="
STARTS_WITHIN = 120.0  # seconds
GRACE = 0.2  # seconds: disconnect_grace
FILES = 42_000  # files that one process may open: two sockets for each of 20,000 conversations

CONFIG = """
[server]
chat = "127.0.0.1:0"
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[storage]
url = "sqlite:///bench.db"
[delivery]
ack_timeout = {ack_timeout}
max_hold = 60
disconnect_grace = {grace}
restart_window = 0.1
restart_grace = {restart_grace}
[limits]
sends_per_minute = 1000000
burst = 100000
agent_sends_per_minute = 100000000
agent_burst = 1000000
connections = 50000
attempts_per_minute = 10000000
ping_interval = 3600
"""

TENANT = """
[tenants.{name}.auth]
algorithm = "HS256"
secret = "{secret}"
[tenants.{name}.push]
endpoint = "{endpoint}"
auth_token = "bench"
signing_secret = "{signing}"
in_flight = 256
"""


@dataclass(slots=True)
class Process:
    """A server under measurement."""

    popen: subprocess.Popen[str]
    ports: dict[str, int]
    config: Config | None = None
    ready_after: float = 0.0
    """Seconds from the start of the process until it listened."""

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu(self) -> float:
        """CPU seconds used so far, by all threads, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def blocked(self) -> float:
        """Seconds for which the loop was blocked at the longest since the last call.

        The first call starts the watch and says 0. Only for `gateway`.
        """
        self.popen.send_signal(signal.SIGUSR1)
        return float(_line(self.popen))

    def counter(self, name: str, tenant: str = "acme") -> int:
        """How many of a tenant's messages are `acked`, `pushed`, …, by the database."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            found = db.execute(
                "SELECT value FROM counters WHERE tenant = ? AND name = ?", (tenant, name)
            ).fetchone()
        return int(found[0]) if found is not None else 0

    @property
    def database(self) -> Path:
        assert self.config is not None
        return self.config.storage.path


class Watch:
    """How long the loop was blocked: the largest gap of a heartbeat, beyond its period."""

    PERIOD = 0.005

    def __init__(self) -> None:
        self._worst = 0.0
        self._task: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Print the longest gap since the last call, and begin anew."""
        if self._task is None:
            self._task = asyncio.create_task(self._beat())
        print(self._worst, flush=True)
        self._worst = 0.0

    async def _beat(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(self.PERIOD)
            self._worst = max(self._worst, time.perf_counter() - before - self.PERIOD)


async def echo() -> None:
    """The reference: websockets and uvloop, one frame in, the same frame out."""
    from websockets.asyncio.server import ServerConnection, serve

    async def handle(socket: ServerConnection) -> None:
        async for frame in socket:
            await socket.send(frame)

    async with serve(
        handle, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=4096
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"chat": port}), flush=True)
        await asyncio.Event().wait()


@contextmanager
def bare_echo(under: Sequence[str] = ()) -> Iterator[Process]:
    """The reference in its own process."""
    code = "import uvloop; from bench.servers import echo; uvloop.run(echo())"
    with python(code, under=under) as process:
        yield process


@contextmanager
def gateway(
    directory: Path | None = None,
    *,
    endpoint: str = NOWHERE,
    neighbour: str = NOWHERE,
    ack_timeout: float = 30.0,
    restart_grace: float = 0.2,
    graceful: bool = False,
    under: Sequence[str] = (),
) -> Iterator[Process]:
    """A gateway over the database in `directory`, or over a new one that is thrown away.

    `endpoint` is the backend of tenant `acme`, `neighbour` that of tenant `other`. It is killed in
    the end, unless it is to end gracefully. `under` is the command that runs its interpreter.
    """
    with scratch() if directory is None else _given(directory) as where:
        path = where / "ringback.toml"
        path.write_text(
            CONFIG.format(ack_timeout=ack_timeout, grace=GRACE, restart_grace=restart_grace)
            + _tenants(acme=endpoint, other=neighbour)
        )
        code = "from bench.servers import serve; serve()"
        with python(code, str(path), under=under) as process:
            process.config = load(path, {})
            yield process
            if not graceful:
                process.popen.kill()


def _tenants(**endpoints: str) -> str:
    return "".join(
        TENANT.format(name=name, secret=name[0] * 40, endpoint=url, signing=SIGNING)
        for name, url in endpoints.items()
    )


@contextmanager
def floor(part: str, under: Sequence[str] = ()) -> Iterator[Process]:
    """The floor (`bench.floor`) in its own process, over a database that is thrown away."""
    with scratch() as where:
        path = where / "tokens.toml"
        path.write_text(_tenants(acme=NOWHERE))
        code = "import uvloop; from bench.floor import main; uvloop.run(main())"
        with python(code, str(where / "floor.db"), part, under=under) as process:
            process.config = load(path, {})
            yield process


def serve() -> None:
    """Run the gateway as `ringback serve` does, and print its ports."""
    from gateway import descriptors, logs
    from gateway.commands import serving
    from gateway.server import Gateway

    async def run() -> None:
        settings = load(Path(sys.argv[1]), {})
        logs.set_up(Log(level=LogLevel.ERROR))
        descriptors.make_room(settings.limits)
        stop, loop, watch = asyncio.Event(), asyncio.get_running_loop(), Watch()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, watch.tell)
        async with Gateway(settings) as it:
            print(json.dumps(it.ports), flush=True)
            await stop.wait()

    serving.run(run())


@contextmanager
def python(
    code: str, *arguments: str, interpreter: str = sys.executable, under: Sequence[str] = ()
) -> Iterator[Process]:
    """A process that runs `code` and prints its ports, as JSON in one line, once it listens."""
    began = time.perf_counter()
    with running([*under, interpreter, "-c", code, *arguments]) as popen:
        ports = ports_of(popen)
        yield Process(popen, ports, ready_after=time.perf_counter() - began)


def ports_of(popen: subprocess.Popen[str]) -> dict[str, int]:
    """What a server prints, as JSON in one line, once it listens."""
    ports: dict[str, int] = json.loads(_line(popen))
    return ports


@contextmanager
def running(
    command: list[str], environment: dict[str, str] | None = None, *, quiet: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process, with all of its threads, on the server's core; ended with the block."""
    with _on(SERVER_CPU):
        popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            cwd=Path.cwd(),
            env=environment,
        )
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


@contextmanager
def _on(cpu: int) -> Iterator[None]:
    """This thread on that core, where there is one; a process that it starts stays there."""
    try:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
    except (OSError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    if select.select([popen.stdout], [], [], STARTS_WITHIN)[0]:
        line = popen.stdout.readline()
        if line:
            return line
    raise RuntimeError("the server under measurement did not answer, or has ended")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for databases; `BENCH_DIR` says on which disk."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        yield Path(name)


@contextmanager
def _given(directory: Path) -> Iterator[Path]:
    yield directory


class Others:
    """What programs that are no part of the measurement used of the machine, since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = self._all() - sum(os.times()[:4])

    def share(self) -> float:
        """As a part of all cores, from 0 to 1."""
        used = self._all() - sum(os.times()[:4]) - self._busy
        return max(0.0, used) / (time.monotonic() - self._began) / (os.cpu_count() or 1)

    @staticmethod
    def _all() -> float:
        """CPU seconds that were not idle, and those that the host gave to other machines."""
        user, nice, system, _, _, irq, softirq, steal = (
            int(field) for field in Path("/proc/stat").read_text().split()[1:9]
        )
        ticks = user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")


def prepare_load() -> int:
    """Put this process on the load's core; how many files it, and its children, may open."""
    with suppress(OSError, AttributeError):
        os.sched_setaffinity(0, {LOAD_CPU})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (FILES, hard):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
