"""`ringback serve`: one gateway, its signals, and the log, until it is to stop.

Apart from the other commands, which have no use for a server: to import it is most of a start.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog
import typer

from gateway import descriptors, logs
from gateway.commands.common import PLAIN, fail, load, say
from gateway.config.sections import Config, LogFormat
from gateway.config.values import ConfigError
from gateway.server import CannotStart, Gateway

_log = structlog.get_logger("gateway.commands.cli")
R = TypeVar("R")

ENDED = "ringback: ended by a fault of its own (see the log); what was confirmed is kept"
SWITCH = 0.001  # seconds until the interpreter's lock is handed over (5 ms otherwise)


def serve(config_path: Path | None) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    settings = load(config_path)
    if config_path is None:
        say(
            "No configuration was given: this is a DEVELOPMENT gateway, for this machine only."
            f"\n  tenant dev, database {settings.storage.path}"
            "\n  a customer's token:  ringback token --role customer --sub c-42"
            "\n  an agent's token:    ringback token --role agent --sub a-1"
            "\n  for production:      ringback init, then ringback serve --config ringback.toml"
        )
    try:
        with logs.set_up(settings.log) as log:
            sound = run(_serve(settings, config_path))
            if not sound:  # by the log's own way: nobody waits for who does not read it
                print(ENDED, file=log)
    except CannotStart as error:
        fail(str(error))
    if not sound:
        raise typer.Exit(1)


async def _serve(settings: Config, config_path: Path | None) -> bool:
    """Until it is to stop, or a fault of its own ends it: then False."""
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the settings may be older
    warning = descriptors.make_room(settings.limits)
    async with Gateway(settings) as gateway:
        server = settings.server
        for_people = settings.log.format is LogFormat.TEXT
        for problem in (warning, PLAIN if settings.storage.encryption_key is None else None):
            if problem is not None and for_people:
                say(f"ringback: warning: {problem}")
            elif problem is not None:
                _log.warning(problem)
        if for_people:  # machines have it from the log
            chat = server.chat._replace(port=gateway.ports["chat"])
            http = server.http._replace(port=gateway.ports["http"])
            admin = server.admin._replace(port=gateway.ports["admin"])
            say(
                f"Ringback is ready: ws://{chat}/v1/chat and /v1/agent, http://{http}/v1, "
                f"admin http://{admin}"
            )
        ended = gateway.core.store.ended
        reloading = asyncio.create_task(_reload(gateway, config_path, again))
        waiting = [asyncio.create_task(event.wait()) for event in (stop, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in (reloading, *waiting):
            task.cancel()
    return not ended.is_set()


async def _reload(gateway: Gateway, config_path: Path | None, again: asyncio.Event) -> None:
    """Read the configuration whenever `again` says so; what is wrong with it changes nothing."""
    while await again.wait():
        again.clear()
        try:
            gateway.take_up(await asyncio.to_thread(load, config_path))
        except ConfigError as error:
            _log.error("the configuration was not reloaded; the old one stays", problem=str(error))
        except Exception as error:  # a fault of ours must not cost the next reload
            _log.error("reloading failed", error=type(error).__name__, exc_info=error)


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a server: uvloop where there is one, and a garbage collector that leaves it alone.

    A gateway's objects are freed by reference counting; full collections over tens of thousands of
    sessions and cached rows only stop the loop. A commit is not to wait long for a busy loop to
    give up the interpreter's lock.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    sys.setswitchinterval(SWITCH)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
