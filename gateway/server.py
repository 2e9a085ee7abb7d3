"""The running gateway: puts the parts together, starts them in order, and stops them in order.

Starting: the database, what was left over (`Book.recover`), the listeners. Stopping (rule 9):
readiness fails and nothing new is accepted or rung; sessions are closed with 1012, spread over a
few seconds so that they do not come back all at once; calls that are out may end; what is queued is
committed. Whatever is cut off stands in the rows and goes on after the next start.
"""

from __future__ import annotations

import asyncio
import socket
from random import Random
from typing import Self

import structlog
from aiohttp import web

from gateway import protocol
from gateway.api import Api, admin
from gateway.auth import Verifier
from gateway.chat import Chat, TenantRules
from gateway.clock import Clock
from gateway.config import Address, Config, Push
from gateway.delivery import Timing
from gateway.devices import Devices
from gateway.hub import Hub
from gateway.inbox import Inbox
from gateway.metrics import Metrics
from gateway.protocol import CloseCode, Role
from gateway.pushing import Book
from gateway.session import Rates
from gateway.sockets import Sockets
from push.caller import Caller
from push.ring import DeviceRef, Endpoint
from push.worker import PushWorker
from storage.database import Database
from storage.errors import StorageError
from storage.store import Store

HOUSEKEEPING = 60.0  # seconds between two rounds
KEEP_DEAD = 7 * 86_400.0  # seconds for which a dead registration is kept, so that it can be undone
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
        self.clock = Clock()
        self.database = Database(config.storage.path)
        self.store = Store(self.database, self.clock)
        self.hub = Hub()
        self.metrics = Metrics(self.store, self.hub)
        self.verifier = Verifier(config.tenants)
        self.chat = Chat(
            self.store,
            self.hub,
            Timing(**{name: getattr(config.delivery, name) for name in Timing.__struct_fields__}),
            wire_limits(config),
            {name: _rules(tenant.push) for name, tenant in config.tenants.items()},
            self.clock,
            config.limits.outbound_bytes // 2,
        )
        self.book = Book(self.chat, self._wake)
        self.devices = Devices(self.chat, self.book)
        self.inbox = Inbox(self.chat, agent_limits(config), self.clock)
        limits = config.limits
        self.rates = Rates(
            {
                Role.CUSTOMER: (limits.sends_per_minute, limits.burst),
                Role.AGENT: (limits.agent_sends_per_minute, limits.agent_burst),
            }
        )
        self.sockets = Sockets(
            config, self.verifier, self.chat, self.devices, self.inbox, self.rates, self.clock
        )
        self.book.decided = self.metrics.decided
        self.sockets.rejected = self.metrics.rejected
        self.store.failed = self._failed
        self.ports: dict[str, int] = {}
        self._worker: PushWorker | None = None
        self._caller: Caller | None = None
        self._runners: list[web.AppRunner] = []
        self._housekeeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open and listen. Raises `CannotOpen` or `CannotStart` with one line for the operator."""
        for name in ("chat", "http", "admin"):
            _try(name, getattr(self.config.server, name))
        await self.database.open()
        try:
            await self.store.start()
            self._caller = Caller()
            self._worker = PushWorker(
                self.book,
                self._endpoints(),
                self._caller,
                self.clock,
                Random(),  # noqa: S311  (jitter, not a secret)
                self.metrics.attempted,
            )
            waiting = await self.book.recover()
            self._worker.start()
            await self._listen()
            self._housekeeper = asyncio.create_task(self._keep_house(), name="housekeeper")
        except BaseException:
            await self._close()
            raise
        _log.info("ready", **self.ports, waiting=waiting)

    async def stop(self) -> None:
        """Drain and close. Nothing is lost, whenever this is cut short."""
        _log.info("stopping", sessions=sum(1 for _ in self.hub.everyone()))
        self.book.drain()
        self.metrics.draining.set(1)
        self.sockets.stop_accepting()
        await self._close_sessions()
        await self.sockets.stop()
        await self._close()
        _log.info("stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _listen(self) -> None:
        server = self.config.server
        api = Api(
            self.verifier,
            self.chat,
            self.devices,
            self.inbox,
            self.rates,
            frozenset(o for tenant in self.config.tenants.values() for o in tenant.origins),
        )
        self.ports["admin"] = await self._site(
            "admin", admin(self.chat, self.metrics), server.admin
        )
        self.ports["http"] = await self._site("http", api.application(), server.http)
        try:
            self.ports["chat"] = await self.sockets.start(server.chat)
        except OSError as error:
            raise _occupied("chat", server.chat, error) from error

    async def _site(self, name: str, app: web.Application, address: Address) -> int:
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5.0)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, address.host, address.port).start()
        except OSError as error:
            raise _occupied(name, address, error) from error
        return int(runner.addresses[0][1])

    async def _close_sessions(self) -> None:
        everyone = list(self.hub.everyone())
        spread = min(SPREAD, self.config.delivery.restart_window / 2)
        pause = spread / max(1, len(everyone))
        for session in everyone:
            session.close(CloseCode.RESTART)
            await asyncio.sleep(pause)

    async def _close(self) -> None:
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        for runner in self._runners:
            await runner.cleanup()
        if self._worker is not None:
            longest = max((e.timeout for e in self._endpoints().values()), default=0.0)
            await self._worker.drain(longest + 1.0)
        if self._caller is not None:
            await self._caller.close()
        await self.store.stop()
        await self.database.close()

    async def _keep_house(self) -> None:
        while True:
            self.hub.forget_graces(self.clock())
            try:
                await self.devices.forget(self.clock() - KEEP_DEAD)
            except StorageError as error:
                _log.warning("housekeeping has to wait", problem=str(error))
            await asyncio.sleep(HOUSEKEEPING)

    def _endpoints(self) -> dict[str, Endpoint]:
        return {
            name: _endpoint(name, tenant.push)
            for name, tenant in self.config.tenants.items()
            if tenant.push is not None
        }

    def _wake(self, ref: DeviceRef) -> None:
        if self._worker is not None:
            self._worker.wake(ref)

    def _failed(self, error: Exception) -> None:
        self.metrics.faults.inc()
        _log.error("a change failed", error=type(error).__name__, exc_info=error)


def wire_limits(config: Config) -> protocol.Limits:
    """The `limits` that customers are told."""
    ours, delivery = config.limits, config.delivery
    return protocol.Limits(
        frame_bytes=ours.frame_bytes,
        text_chars=ours.text_chars,
        data_bytes=ours.data_bytes,
        resume=ours.resume,
        sends_per_minute=ours.sends_per_minute,
        burst=ours.burst,
        sessions=ours.sessions,
        ack_timeout=delivery.ack_timeout,
        restart_window=delivery.restart_window,
    )


def agent_limits(config: Config) -> dict[str, object]:
    """The `limits` that agents are told."""
    ours = config.limits
    return {
        **wire_limits(config).as_field(),
        "sends_per_minute": ours.agent_sends_per_minute,
        "burst": ours.agent_burst,
    }


def _rules(push: Push | None) -> TenantRules:
    if push is None:
        return TenantRules()
    return TenantRules(endpoint=True, expires_after=push.expires_after, title=push.title)


def _endpoint(tenant: str, push: Push) -> Endpoint:
    secrets = (push.signing_secret, push.previous_signing_secret)
    return Endpoint(
        tenant=tenant,
        url=push.endpoint,
        adapter=push.adapter.value,
        auth_token=push.auth_token.reveal(),
        signing_secrets=tuple(secret.reveal() for secret in secrets if secret is not None),
        ca_file=str(push.ca_file) if push.ca_file else None,
        connect_timeout=push.connect_timeout,
        timeout=push.timeout,
        in_flight=push.in_flight,
        retry_first=push.retry_first,
        retry_max=push.retry_max,
    )


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
    return CannotStart(
        f"server.{name}: cannot listen on {address}: {error.strerror or error}: "
        "stop what holds it or choose another address"
    )
