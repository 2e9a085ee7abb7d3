"""The running gateway: the core with its listeners, started in order and stopped in order.

Stopping (rule 9): readiness fails and nothing new is accepted or rung; sessions are closed with
1012, spread over a few seconds so that they do not come back all at once; calls that are out may
end; what is queued is committed. Whatever is cut off stands in the rows and goes on after the next
start.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from random import Random
from typing import Self

import structlog
from aiohttp import web

from gateway.campaigns.api import CampaignCalls
from gateway.clock import Clock, wall
from gateway.config.reload import Reload, plan
from gateway.config.sections import Config
from gateway.config.values import Address
from gateway.core import Core
from gateway.http.admin import admin
from gateway.http.api import Api
from gateway.http.deadletters import DeadLetterCalls
from gateway.http.listener import Listener
from gateway.http.ops import OpsCalls
from gateway.http.webpages import Places, WebPages
from gateway.protocol import CloseCode
from gateway.sockets import Sockets
from push.caller import Caller
from storage.database import Database

WATCHERS = 50  # connections to the admin listener
SPREAD = 3.0  # seconds over which a stopping gateway closes its sessions, at the most
_log = structlog.get_logger("gateway.server")


class CannotStart(Exception):
    """The gateway cannot start. `problem` is one clear line for the operator."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class Gateway:
    """One gateway. `async with Gateway(config) as gateway:` runs it until the block ends."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.core = Core(
            config,
            Database(config.storage.path),
            Clock(),
            Random(),  # noqa: S311  (jitter, not a secret)
            wall,
        )
        self.sockets = Sockets(
            config, self.core.sessions, self.core.clock, self.core.metrics.rejected
        )
        self.ports: dict[str, int] = {}
        self._caller: Caller | None = None
        self._listeners: dict[str, Listener] = {}

    async def start(self) -> None:
        """Open and listen. Raises `CannotOpen` or `CannotStart` with one line for the operator."""
        for name in ("chat", "http", "admin"):
            _try(name, getattr(self.config.server, name))
        try:
            self._caller = Caller()
            waiting = await self.core.start(self._caller)
            await self._listen()
        except BaseException:
            await self._close()
            raise
        _log.info("ready", **self.ports, waiting=waiting)

    def take_up(self, given: Config) -> Reload:
        """Go on with what of `given` can be changed while running, and return what that was.

        Certificates are read from their files anew, whatever else changed.
        """
        told = plan(self.config, given)
        self.core.take_up(told.config)
        self.config = told.config
        if self._caller is not None:
            self._caller.read_files_anew()
        _log.info("configuration reloaded", changed=list(told.changed), kept=list(told.kept))
        if told.kept:
            _log.warning("these settings need a restart; the old ones stay", keys=list(told.kept))
        return told

    async def stop(self) -> None:
        """Drain and close. Nothing is lost, whenever this is cut short."""
        _log.info("stopping", sessions=sum(1 for _ in self.core.hub.everyone()))
        self.core.drain()
        self.sockets.stop_accepting()
        await self._close_sessions()
        await self._close()
        _log.info("stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _listen(self) -> None:
        server, core = self.config.server, self.core
        api = Api(
            core.verifier,
            core.context,
            core.chat,
            core.devices,
            core.preferences,
            core.inbox,
            core.rates,
            core.wall,
            self.config.origins,
            core.metrics.refused,
            core.metrics.faults.inc,
        )
        places = Places(server, self.ports)
        others = (
            CampaignCalls(
                api,
                core.context.limits,
                core.campaign_loading,
                core.campaigns,
                core.campaign_reports,
            ),
            DeadLetterCalls(api, core.dead_letters),
            OpsCalls(api, core.context, core.metrics, core.loads_of),
            WebPages(places),
        )
        application = api.application(*(calls.routes() for calls in others))
        connections = self.config.limits.http_connections
        self.ports["http"] = await self._listener("http", application, server.http, connections)
        core.sessions.console = places.origins
        try:
            self.ports["chat"] = await self.sockets.start(server.chat)
        except OSError as error:
            raise _occupied("chat", server.chat, error) from error
        # The last: who asks it whether we are ready finds the others listening.
        watched = admin(core.context, core.metrics)
        self.ports["admin"] = await self._listener("admin", watched, server.admin, WATCHERS)

    async def _listener(
        self, name: str, app: web.Application, address: Address, connections: int
    ) -> int:
        rejected = partial(self.core.metrics.rejected, f"too_many_{name}_connections")
        listener = Listener(app, connections, rejected)
        self._listeners[name] = listener
        try:
            return await listener.start(address)
        except OSError as error:
            raise _occupied(name, address, error) from error

    async def _close_sessions(self) -> None:
        everyone = list(self.core.hub.everyone())
        spread = min(SPREAD, self.config.delivery.restart_window / 2)
        pause = spread / max(1, len(everyone))
        for session in everyone:
            session.close(CloseCode.RESTART)
            await asyncio.sleep(pause)

    async def _close(self) -> None:
        await self.sockets.stop()
        watched = self._listeners.pop("admin", None)
        for listener in self._listeners.values():
            await listener.stop()
        await self.core.stop()
        if watched is not None:  # the last: who asks it sees that calls which are out still end
            await watched.stop()
        if self._caller is not None:
            await self._caller.close()


def _try(name: str, address: Address) -> None:
    """Refuse an address that cannot be had while nothing has been written yet."""
    try:
        for family, kind, number, _, where in socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
    except OSError as error:
        raise _occupied(name, address, error) from error


def _occupied(name: str, address: Address, error: OSError) -> CannotStart:
    held = error.errno == errno.EADDRINUSE
    mend = "stop what holds it or choose another address" if held else "choose one of this machine"
    problem = error.strerror or error
    return CannotStart(f"server.{name}: cannot listen on {address}: {problem}: {mend}")
