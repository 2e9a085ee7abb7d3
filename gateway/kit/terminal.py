"""`ringback backend` in a terminal: it listens, and does as it is typed.

Leaves what is answered to `gateway.kit.backend`, what is shown of a call to `gateway.kit.screen`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from gateway.commands.common import fail, say
from gateway.config.values import Address
from gateway.kit import screen
from gateway.kit.backend import FakeBackend
from gateway.kit.behaviours import HELP, UnknownBehaviour


async def serve(it: FakeBackend, host: str, port: int, *, as_json: bool) -> None:
    """Serve until SIGTERM, SIGINT or "quit"."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        it.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        problem = f"cannot listen on {host}:{port}: {error.strerror}"
        fail(f"{problem}: choose another with --host or --port")
    url = f"http://{Address(host, runner.addresses[0][1])}"
    if as_json:
        screen.ready(url)
    else:
        _introduce(it, url)

    def typed(line: str) -> None:
        _typed(it, line, stop)

    # Started with "&", it may not read from the terminal: that is an error then, not a halt.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    listener = threading.Thread(target=_listen, args=(loop, typed), daemon=True)
    listener.start()
    await stop.wait()
    await runner.cleanup()


def _introduce(it: FakeBackend, url: str) -> None:
    checks = [
        "the signature" if it.secrets else "no signature (no signing secret was given)",
        "the credential" if it.auth_token or it.headers else "no credential",
    ]
    say(
        f"A customer backend is ready: {url}/ring, and it checks {' and '.join(checks)}."
        f"\nIt does: {it.behaviour}. Type another behaviour, help or quit;"
        f' or: curl -d "slow 3" {url}/control'
    )


def _typed(it: FakeBackend, line: str, stop: asyncio.Event) -> None:
    match line.strip():
        case "":
            return
        case "quit" | "q":
            stop.set()
        case "help" | "?":
            say(HELP)
        case wanted:
            try:
                now = it.behave(wanted)
                dead = "That token is dead from now on. " if now != it.behaviour else ""
                say(f"{dead}It does: {it.behaviour}")
            except UnknownBehaviour as error:
                say(str(error))


def _listen(loop: asyncio.AbstractEventLoop, typed: Callable[[str], None]) -> None:
    """Hand over each line that is typed. Ends with the input; the backend goes on without."""
    with suppress(OSError, RuntimeError):  # no terminal to read from; the loop is closed
        for line in sys.stdin or ():
            loop.call_soon_threadsafe(typed, line)
