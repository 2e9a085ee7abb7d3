"""Others that relay messages, for the same load: Socket.IO of Python and of Node, and ejabberd.

Nothing is acknowledged or receipted, and but for ejabberd's archive nothing is written to disk. A
message is there when the receiver has it, and then the sender sends the next. One to one: every
receiver has a sender of its own. Socket.IO comes into an environment of its own, made on demand, so
that it is no dependency of anything. ejabberd, where it is installed, runs with one scheduler and
the modules that its package turns on for people who chat, without TLS and limits, and lets anybody
log in; once without an archive, once with `mod_mam` in a PostgreSQL that is made for it, on the
same core.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from bench import servers, wire
from bench.chat import SIZE, Relay, Sender, each
from bench.servers import Process
from bench.wire import framed

VENVS = Path(__file__).parent / ".venvs"
ERLANG_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")


class Missing(Exception):
    """It cannot be had here; why."""


# --- Socket.IO ---------------------------------------------------------------------------------

SOCKETIO = """
import asyncio, json, socketio, uvloop
from aiohttp import web

async def main():
    server = socketio.AsyncServer(async_mode="aiohttp", ping_interval=3600, ping_timeout=3600)

    @server.event
    async def join(sid, name):
        await server.enter_room(sid, name)

    @server.event
    async def send(sid, data):
        await server.emit("message", data, to=data["to"])

    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(json.dumps({"chat": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


@contextmanager
def socketio_server() -> Iterator[Process]:
    python = environment("python-socketio", "python-socketio>=5.13", "aiohttp", "uvloop")
    with servers.python(SOCKETIO, interpreter=str(python)) as process:
        yield process


NODE_SOCKETIO = """
const http = require("http").createServer();
const { Server } = require("socket.io");
const io = new Server(http, { pingInterval: 3600000, pingTimeout: 3600000 });
io.on("connection", (socket) => {
  socket.on("join", (name, done) => { socket.join(name); done(); });
  socket.on("send", (data) => { io.to(data.to).emit("message", data); });
});
http.listen(0, "127.0.0.1", 4096, () => console.log(JSON.stringify({ chat: http.address().port })));
"""


@contextmanager
def node_socketio_server() -> Iterator[Process]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("Node is not installed (Debian: apt-get install nodejs npm)")
    place = VENVS / "socket.io"
    _install(place, [npm, "install", "--silent", "--prefix", str(place), "socket.io@4"])
    known = os.environ | {"NODE_PATH": str(place / "node_modules")}
    with servers.running([node, "-e", NODE_SOCKETIO], known) as popen:
        yield Process(popen, servers.ports_of(popen))


def environment(name: str, *packages: str) -> Path:
    """The interpreter of a throw-away virtual environment with these packages in it.

    Raises `Missing`.
    """
    place = VENVS / name
    python = place / "bin" / "python"
    _install(
        place,
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", *packages],
    )
    return python


def _install(place: Path, *commands: list[str]) -> None:
    """Run the commands that fill `place`, unless they have been run. Raises `Missing`."""
    if not (place / "ready").exists():
        try:
            place.mkdir(parents=True, exist_ok=True)
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, timeout=180)
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"{place.name} could not be installed ({error})") from None
        (place / "ready").touch()


async def socketio_load(process: Process, conversations: int) -> Relay:
    relay = Relay(process)

    async def connected() -> wire.Wire:
        socket = await wire.connect(process.ports["chat"], "/socket.io/?EIO=4&transport=websocket")
        await socket.ask(b"40", b"40{")
        return socket

    async def pair(lane: int) -> Sender:
        name, on_the_way = f"c-{lane}", deque[float]()
        receiver, sender = await connected(), await connected()
        await receiver.ask(f'421["join","{name}"]'.encode(), b"431")
        receiver.heard = partial(_socketio_heard, relay, lane, on_the_way)
        head = f'42["send",{{"to":"{name}","text":"'.encode()
        frame = framed(head + b"x" * (SIZE - len(head) - 3) + b'"}]')
        return sender.transport.write, frame, on_the_way

    return relay.between(await each(pair, range(conversations)))


def _socketio_heard(relay: Relay, lane: int, on_the_way: deque[float], frame: bytes) -> None:
    if frame.startswith(b"42"):
        relay.came(lane, on_the_way)


# --- ejabberd ----------------------------------------------------------------------------------

EJABBERD = """
hosts: [localhost]
loglevel: error
auth_method: anonymous
anonymous_protocol: login_anon
disable_sasl_mechanisms: [digest-md5, SCRAM-SHA-1, X-OAUTH2]
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    access: all
    shaper: none
    backlog: 4096
modules:
  mod_adhoc: {{}}
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_last: {{}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_pubsub: {{}}
  mod_push: {{}}
  mod_push_keepalive: {{}}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
  mod_vcard: {{}}
  mod_version: {{}}
"""
ARCHIVE = """
  mod_mam:
    default: always
    db_type: sql
sql_type: pgsql
sql_server: "127.0.0.1"
sql_port: {port}
sql_database: postgres
sql_username: {user}
"""
ARCHIVE_SCHEMA = Path("/usr/share/ejabberd/sql/pg.sql")
POSTGRES_USER = "bench"
STREAM = (
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
    b" to='localhost' version='1.0'>"
)
BIND = (
    b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
    b"<resource>r</resource></bind></iq>"
)


@contextmanager
def ejabberd_server(archive: str = "") -> Iterator[Process]:
    """`archive` is what its configuration has in addition."""
    erl = shutil.which("erl")
    if erl is None or shutil.which("ejabberdctl", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        raise Missing("ejabberd is not installed (Debian: apt-get install ejabberd)")
    with servers.scratch() as directory:
        port = _free_port()
        (directory / "ejabberd.yml").write_text(EJABBERD.format(port=port) + archive)
        command = [
            erl, "-noinput", "+S", "1:1", "+P", "250000", "-mnesia", "dir",
            f'"{directory / "mnesia"}"', "-s", "ejabberd",
        ]  # fmt: skip
        environment = {
            "ERL_LIBS": str(ERLANG_LIBRARIES),
            "EJABBERD_CONFIG_PATH": str(directory / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(directory / "ejabberd.log"),
            "ERL_CRASH_DUMP": str(directory / "crash.dump"),
            "ERL_MAX_PORTS": "32000",
            "HOME": str(directory),
        }
        with servers.running(command, os.environ | environment, quiet=True) as popen:
            _wait_for(port)
            try:
                yield Process(popen, {"chat": port})
            finally:
                popen.kill()  # its end in good order takes longer than what is measured


@contextmanager
def archiving_server() -> Iterator[Process]:
    """ejabberd with every message in a PostgreSQL of its own, on the same core."""
    if not ARCHIVE_SCHEMA.exists() or not list(Path("/usr/lib/erlang/lib").glob("p1_pgsql-*")):
        raise Missing("ejabberd's archive needs Debian's packages postgresql and erlang-p1-pgsql")
    with _postgres() as (port, psql):
        psql(ARCHIVE_SCHEMA.read_text())
        with ejabberd_server(ARCHIVE.format(port=port, user=POSTGRES_USER)) as process:
            yield process


@contextmanager
def _postgres() -> Iterator[tuple[int, Callable[[str], None]]]:
    """A new cluster with the settings that PostgreSQL has by itself; its port, and a way in."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise Missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # It refuses to run as root; then it runs as the user whom its package made.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with servers.scratch() as directory:
        directory.chmod(0o777)
        data, port = directory / "data", _free_port()
        make = [str(found[-1] / "initdb"), "-D", str(data), "-U", POSTGRES_USER, "-A", "trust"]
        subprocess.run([*as_user, *make], check=True, stdout=subprocess.DEVNULL)
        serve: list[str] = [*as_user, str(found[-1] / "postgres"), "-D", str(data)]
        serve += ["-p", str(port), "-k", str(directory), "-h", "127.0.0.1"]
        with servers.running(serve, quiet=True):
            _wait_for(port)
            address = f"host=127.0.0.1 port={port} user={POSTGRES_USER} dbname=postgres"

            def psql(script: str) -> None:
                command = [str(found[-1] / "psql"), "-q", "-v", "ON_ERROR_STOP=1", address]
                subprocess.run(command, input=script.encode(), check=True)

            yield port, psql


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + servers.STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise Missing("ejabberd did not start") from None
            time.sleep(0.1)
        else:
            return


class _Xmpp(asyncio.Protocol):
    """An XMPP stream as text: waits for a marker, then counts messages."""

    def __init__(self) -> None:
        self.heard: Callable[[], None] | None = None
        self.transport: asyncio.Transport
        self._seen = b""
        self._marker = b""
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self.heard is not None:
            for _ in range(self._seen.count(b"</message>")):
                self.heard()
            self._seen = self._seen[-10:] if not self._seen.endswith(b">") else b""
        elif self._answer is not None and self._marker in self._seen:
            self._seen = b""
            self._answer.set_result(None)
            self._answer = None

    async def ask(self, said: bytes, marker: bytes) -> None:
        self._marker = marker
        answer = self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(said)
        await answer


async def ejabberd_load(process: Process, conversations: int) -> Relay:
    relay = Relay(process)

    async def connected(user: str) -> _Xmpp:
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(_Xmpp, "127.0.0.1", process.ports["chat"])
        await stream.ask(STREAM, b"</stream:features>")
        secret = b64encode(b"\0" + user.encode() + b"\0x").decode()
        await stream.ask(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
            f" mechanism='PLAIN'>{secret}</auth>".encode(),
            b"<success",
        )
        await stream.ask(STREAM, b"</stream:features>")
        await stream.ask(BIND, b"</iq>")
        await stream.ask(b"<presence/>", b"<presence")
        return stream

    async def pair(lane: int) -> Sender:
        name, on_the_way = f"c-{lane}", deque[float]()
        receiver, sender = await connected(name), await connected(f"a-{lane}")
        receiver.heard = partial(relay.came, lane, on_the_way)
        head = f"<message to='{name}@localhost/r' type='chat'><body>".encode()
        tail = b"</body></message>"
        frame = head + b"x" * (SIZE - len(head) - len(tail)) + tail
        return sender.transport.write, frame, on_the_way

    return relay.between(await each(pair, range(conversations)))


# --- all ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """How it is started and loaded; `at_least` is how many times its rate ours has to be."""

    name: str
    serve: Callable[[], AbstractContextManager[Process]]
    load: Callable[[Process, int], Awaitable[Relay]]
    at_least: float | None = None


PEERS = {
    "socketio": Peer("python-socketio relay", socketio_server, socketio_load),
    "node": Peer("Node socket.io relay", node_socketio_server, socketio_load),
    "ejabberd": Peer("ejabberd, no archive", ejabberd_server, ejabberd_load, at_least=2),
    "archive": Peer("ejabberd, archive", archiving_server, ejabberd_load, at_least=10),
}
