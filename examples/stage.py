"""The stage of the demo: a real gateway, a real backend, a network that can fail, and a timeline.

The gateway and the customer backend run each in a process of its own; `Network` lies between the
phones and the gateway and can swallow everything, as a tunnel does. What is played here is in
`examples/demo.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import auth
from gateway.client import ClientError
from gateway.config.reading import load
from gateway.config.sections import Delivery
from gateway.protocol import Role
from storage.records import Key
from storage.store import Store, Told

TENANT: Final = "acme"
PATIENCE: Final = 10.0  # seconds after which an awaited event counts as missing
AT_MOST: Final = 2.0  # seconds from the ack timeout to the push, of a disk that stalls twice
ROOT: Final = Path(__file__).resolve().parent.parent

QUICK: Final = {
    "ack_timeout": 0.8,
    "disconnect_grace": 2.0,  # in scene 8 there must be time to kill the gateway
    "restart_window": 0.3,
    "restart_grace": 0.6,
    "max_hold": 5.0,
}
"""The delays of the story, in seconds, so that nobody has to wait long."""

EVERYDAY: Final[Mapping[str, float]] = {}
"""The defaults, for `--serve`: an ack timeout of 5 s and so on."""

FIRST_TOKEN, SECOND_TOKEN, CAROLS_TOKEN = "apns-token-1", "apns-token-2", "fcm-token-3"


class DemoFailed(Exception):
    """Something was not as the story says."""


FAILURES: Final = (DemoFailed, ClientError, TimeoutError, aiohttp.ClientError)


class Timeline:
    """Prints what happens, when it happens."""

    COLOURS: Final = {
        "agent": "cyan",
        "alice": "magenta",
        "bob": "yellow",
        "carol": "blue",
        "backend": "bright_red",
        "network": "bright_black",
        "crm": "cyan",
        "gateway": "bright_black",
    }

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):  # a terminal without UTF-8 gets question marks
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def headline(self, number: int | None, text: str) -> None:
        self._console.print()
        self._console.print(Text(text if number is None else f"{number}  {text}", "bold"))

    def line(self, who: str, what: str) -> None:
        colour = self.COLOURS.get(who, "")
        self._console.print(
            Text.assemble((f"{self.seconds:7.3f}  ", "bright_black"), (f"{who:<8}", colour), what)
        )

    def checked(self, what: str) -> None:
        self._console.print(Text.assemble(" " * 17, ("✓ ", "bold green"), (what, "green")))

    def failed(self, what: str) -> None:
        self._console.print(Text.assemble(("\n✗ ", "bold red"), (what, "bold red")))

    def table(self, table: Table) -> None:
        self._console.print(table)

    def plain(self, text: str = "") -> None:
        self._console.print(Text(text))


class Process:
    """A program of ours. Its lines are read as they come; the last ones are kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=15)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def run(
        self, *command: str, env: Mapping[str, str], heard: Callable[[str], None]
    ) -> None:
        # In a session of its own: Ctrl-C in the terminal is for the demo, which then ends us.
        self._process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process, heard))

    async def _read(
        self, process: asyncio.subprocess.Process, heard: Callable[[str], None]
    ) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            heard(text)

    async def ready(self, event: asyncio.Event) -> None:
        """Wait until `event`; raises if the program ends before, or takes too long."""
        assert self._reading is not None
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait(
            {waiting, self._reading}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        if not event.is_set():
            raise DemoFailed(f"the {self.name} did not start")

    async def ended(self) -> None:
        """Wait until the program ends by itself."""
        if self._reading is not None:
            await asyncio.shield(self._reading)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Send the signal and wait; the exit code, negative if a signal ended it."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(PATIENCE):
                code = await process.wait()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if self._reading is not None:
            await self._reading
        return code


def ringback_command() -> str:
    """The installed command, beside this Python."""
    found = shutil.which("ringback", path=Path(sys.executable).parent)
    if found is None:
        raise DemoFailed("the command ringback is not installed here; run `make demo`")
    return found


class GatewayProcess:
    """`ringback serve` on its configuration and database in `directory`."""

    def __init__(
        self,
        directory: Path,
        endpoint: str,
        secret: Secrets,
        show: Timeline,
        origins: Sequence[str] = (),
    ) -> None:
        self.config_path = directory / "ringback.toml"
        self.ports = dict(zip(("chat", "http", "admin"), free_ports(3), strict=True))
        self._origins = list(origins)
        self.process = Process("gateway")
        self._endpoint = endpoint
        self._secret = secret
        self._show = show

    def chat_url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.ports['chat']}{path}"

    def url(self, listener: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[listener]}{path}"

    async def start(self, delays: Mapping[str, float]) -> None:
        self.config_path.touch(mode=0o600)
        self.config_path.write_text(self._config(delays))
        ready = asyncio.Event()

        def heard(line: str) -> None:
            if line.startswith("Ringback is ready"):
                ready.set()

        await self.process.run(
            ringback_command(),
            "serve",
            "--config",
            str(self.config_path),
            env=_environment(),
            heard=heard,
        )
        await self.process.ready(ready)
        quiet = delays.get("restart_grace", Delivery().restart_grace)
        self._show.line("gateway", f"is ready; nobody is rung in the first {quiet:g} s")

    async def kill(self) -> None:
        await self.process.end(signal.SIGKILL)
        self._show.line("gateway", "SIGKILL")

    def _config(self, delays: Mapping[str, float]) -> str:
        lines = "".join(f"{name} = {seconds}\n" for name, seconds in delays.items())
        return f"""\
[server]
chat = "127.0.0.1:{self.ports["chat"]}"
http = "127.0.0.1:{self.ports["http"]}"
admin = "127.0.0.1:{self.ports["admin"]}"

[storage]
url = "sqlite:///ringback.db"

[delivery]
{lines}
[tenants.{TENANT}]
origins = {json.dumps(self._origins)}

[tenants.{TENANT}.auth]
algorithm = "HS256"
secret = "{self._secret.jwt}"

[tenants.{TENANT}.push]
adapter = "asapp"
endpoint = "{self._endpoint}"
auth_token = "{self._secret.auth_token}"
signing_secret = "{self._secret.signing}"
"""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What the company and its gateway share."""

    jwt: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    auth_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    signing: str = field(
        default_factory=lambda: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    )


@dataclass(frozen=True, slots=True)
class Ring:
    """One call that the backend got. `at` in epoch seconds; `device` is the token's fingerprint."""

    id: str
    at: float
    kind: str
    customer: str
    seq: int
    device: str
    text: str | None
    badge: int
    unread: int


class BackendProcess:
    """`ringback backend`, and what it says."""

    def __init__(self, secret: Secrets, http: aiohttp.ClientSession, show: Timeline) -> None:
        self.process = Process("backend")
        self._url = ""
        self.rings: list[Ring] = []
        self.rung: list[Ring] = []
        """Those that it took, in that order: what a real backend would have sent on."""
        self._asked: dict[str, Ring] = {}
        self._new: asyncio.Queue[Ring] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._secret = secret
        self._http = http
        self._show = show

    def url(self, path: str) -> str:
        return f"{self._url}{path}"

    async def start(self) -> None:
        told = {
            "BACKEND_AUTH_TOKEN": self._secret.auth_token,
            "BACKEND_SIGNING_SECRET": self._secret.signing,
        }
        await self.process.run(
            ringback_command(),
            *("backend", "--json", "--port", "0"),
            env=_environment() | told,
            heard=self._heard,
        )
        await self.process.ready(self._ready)
        self._show.line("backend", "is ready")

    async def behave(self, how: str) -> None:
        """Let it misbehave: see `ringback backend --help`."""
        async with self._http.post(self.url("/control"), data=how) as answer:
            answer.raise_for_status()

    @property
    def unseen(self) -> int:
        """How many calls the story has not looked at."""
        return self._new.qsize()

    async def next_ring(self) -> Ring:
        """The next call that the story has not looked at yet."""
        with _awaiting("a call to the backend"):
            async with asyncio.timeout(PATIENCE):
                return await self._new.get()

    def _heard(self, line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return
        if told["event"] == "ready":
            self._url = told["url"]
            self._ready.set()
        elif told["event"] == "ring":
            names = ("at", "kind", "customer", "seq", "device", "text", "badge", "unread")
            ring = Ring(id=told["ring"], **{name: told[name] for name in names})
            self.rings.append(ring)
            self._asked[ring.id] = ring
            self._new.put_nowait(ring)
            words = "silent" if ring.text is None else f"“{ring.text}”"
            phone = f"{ring.customer}'s device {ring.device}"
            self._show.line("backend", f"rings {phone}: {ring.kind}, badge {ring.badge}, {words}")
        elif told["event"] == "answered":
            if told["why"] == "rung":
                self.rung.append(self._asked[told["ring"]])
            elif told["status"] != 200:
                self._show.line("backend", f"answers {told['status']}: {told['why']}")


class Network:
    """A network between phones and the gateway, which can swallow everything without a word."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._passes = asyncio.Event()
        self._passes.set()
        self._links: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def blackhole(self) -> None:
        """From now on nothing gets through, and no connection is closed."""
        self._passes.clear()

    def heal(self) -> None:
        """New connections work; those that were swallowed are reset."""
        self._reset()
        self._passes.set()

    async def stop(self) -> None:
        self._reset()
        if self._server is not None:
            self._server.close()
            await asyncio.gather(*self._links, return_exceptions=True)

    def _reset(self) -> None:
        for task, writers in self._links.items():
            for writer in writers:
                writer.transport.abort()
            task.cancel()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = (writer,)
        try:
            await self._passes.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._links[task] = (writer, back)
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the network was reset
        finally:
            for end in self._links.pop(task):
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        await self._passes.wait()
        writer.close()


class Stage:
    """Everything that runs, set up and cleared away. Web pages of `origins` may connect."""

    def __init__(
        self,
        show: Timeline,
        delays: Mapping[str, float] = QUICK,
        origins: Sequence[str] = (),
    ) -> None:
        self.show = show
        self._delays = delays
        self._origins = origins
        self.old_token_until = 0
        self._exit = AsyncExitStack()
        self._secret = Secrets()

    async def __aenter__(self) -> Self:
        async with self._exit:
            self.directory = Path(tempfile.mkdtemp(prefix="ringback-demo-"))
            self._exit.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._http = await self._exit.enter_async_context(aiohttp.ClientSession())
            self.backend = BackendProcess(self._secret, self._http, self.show)
            self._exit.push_async_callback(self.backend.process.end)
            await self.backend.start()
            endpoint = self.backend.url("/ring")
            self.gateway = GatewayProcess(
                self.directory, endpoint, self._secret, self.show, self._origins
            )
            self._exit.push_async_callback(self.gateway.process.end)
            await self.gateway.start(self._delays)
            self.config = load(self.gateway.config_path, {})
            self.network = Network(self.gateway.ports["chat"])
            await self.network.start()
            self._exit.push_async_callback(self.network.stop)
            self._exit = self._exit.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def token(
        self, role: Role, sub: str, name: str | None = None, lasts: float = 12 * 3600.0
    ) -> str:
        """What the company's own server gives to its users: a JWT signed with its secret."""
        return auth.issue(self.config, TENANT, role, sub, name=name, ttl=lasts)

    async def call(
        self, method: str, path: str, token: str, body: object, headers: Mapping[str, str] = {}
    ) -> tuple[int, Any]:
        """A call of the HTTP API: status and JSON."""
        url = self.gateway.url("http", path)
        given = {"Authorization": f"Bearer {token}", **headers}
        async with self._http.request(method, url, json=body, headers=given) as answer:
            return answer.status, await answer.json(content_type=None)

    async def told(self, customer: str, seq: int) -> Told:
        """What is recorded of a message, read as `ringback why` reads it."""
        storage = self.config.storage
        async with Store.beside(storage.path, storage.keys) as store:
            told = await store.told(Key(TENANT, customer), seq)
        if told is None:
            raise DemoFailed(f"nothing is recorded of {customer}'s message {seq}")
        return told

    async def lately(self, customer: str, limit: int) -> list[Told]:
        """The same of the agents' messages among the newest `limit`, rising."""
        key = Key(TENANT, customer)
        storage = self.config.storage
        async with Store.beside(storage.path, storage.keys) as store:
            conversation = await store.conversation(key)
            if conversation is None:
                return []
            messages, _ = await store.history(conversation, None, limit)
            told = [await store.told(key, m.seq) for m in messages if m.role != Role.CUSTOMER]
        return [one for one in told if one is not None]

    async def counters(self) -> dict[str, int]:
        """How many messages have come to which outcome, from /metrics."""
        async with self._http.get(self.gateway.url("admin", "/metrics")) as answer:
            text = await answer.text()
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        count = {
            sample.labels["outcome"]: int(sample.value)
            for sample in samples
            if sample.name == "ringback_messages" and sample.labels["tenant"] == TENANT
        }
        return Counter(count)

    def check(self, good: bool, what: str) -> None:
        """Show what was found to be so, or raise `DemoFailed`."""
        if not good:
            raise DemoFailed(f"this is not so: {what}")
        self.show.checked(what)


@contextmanager
def _awaiting(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise DemoFailed(f"{what} did not come within {PATIENCE:g} s") from None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now.

    Below those that Linux gives to outgoing connections: nobody gets one of these by chance while
    who listens there is restarted, and a client that finds it closed never meets itself.
    """
    ports: list[int] = []
    for port in random.Random().sample(range(20_000, 32_000), 1_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise DemoFailed("there is no free port between 20000 and 32000")


def _environment() -> dict[str, str]:
    """Ours, without what would change the gateway's configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RINGBACK_")}
