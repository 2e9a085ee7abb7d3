"""The configuration: every key, its type, its default, and what makes it impossible.

Decides: whether what the operator wrote can be run at all. Leaves to others: what a value may be
(`gateway.config.values`); a tenant's auth section and its push section, the longest
(`gateway.config.auth`, `gateway.config.push`); how a key is written (`gateway.config.settings`) and
read (`gateway.config.reading`); opening sockets and the database, and turning these sections into
what the protocol, the push worker and the verifier want.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.config.auth import Auth, check_auth
from gateway.config.push import Push, check_push
from gateway.config.values import (
    Address,
    ConfigError,
    Count,
    EncryptionKey,
    FrameBytes,
    Listen,
    Networks,
    Origins,
    Seconds,
    SocketOrigin,
    SqliteUrl,
    Wait,
    WebOrigin,
    Wrong,
    one_of,
)
from gateway.protocol import (
    AGENT_LIMITS,
    CUSTOMER_LIMITS,
    HELLO_TIMEOUT,
    OUTBOUND_BYTES,
    PING_INTERVAL,
)
from storage.vault import Keys


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Format = Annotated[LogFormat, one_of(LogFormat)]
Level = Annotated[LogLevel, one_of(LogLevel)]
Policies = Annotated[Literal["default"], Meta(description='"default"')]


# --- the sections ------------------------------------------------------------------------------


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens: WebSockets, the HTTP API, and health and metrics."""

    chat: Listen = Address("127.0.0.1", 8080)
    http: Listen = Address("127.0.0.1", 8081)
    admin: Listen = Address("127.0.0.1", 8082)
    public_http: WebOrigin = None  # as browsers see `http`; the console's origin
    public_chat: SocketOrigin = None  # as browsers see `chat`
    trusted_proxies: Networks = (ip_network("127.0.0.0/8"), ip_network("::1"))


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the data is. Reading makes the URL absolute."""

    url: SqliteUrl = "sqlite:///ringback.db"
    encryption_key: EncryptionKey = None  # of device tokens; without it they are stored as they are
    previous_encryption_key: EncryptionKey = None  # opens what is not yet under the present one

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def keys(self) -> Keys:
        """For the tokens at rest."""
        given = (self.encryption_key, self.previous_encryption_key)
        return Keys(*(None if key is None else b64decode(key.reveal()) for key in given))


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The delivery rule's times, in seconds."""

    ack_timeout: Wait = CUSTOMER_LIMITS.ack_timeout
    disconnect_grace: Seconds = 1.0
    restart_grace: Seconds = 10.0  # longer than restart_window
    restart_window: Seconds = CUSTOMER_LIMITS.restart_window
    max_hold: Seconds = 30.0  # at least ack_timeout


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client, and all of them, may take. Rates are per minute, with a burst."""

    frame_bytes: FrameBytes = CUSTOMER_LIMITS.frame_bytes
    text_chars: Count = CUSTOMER_LIMITS.text_chars  # Unicode code points
    data_bytes: Count = CUSTOMER_LIMITS.data_bytes
    resume: Count = CUSTOMER_LIMITS.resume  # messages replayed at most
    sends_per_minute: Count = CUSTOMER_LIMITS.sends_per_minute
    burst: Count = CUSTOMER_LIMITS.burst
    agent_sends_per_minute: Count = AGENT_LIMITS.sends_per_minute
    agent_burst: Count = AGENT_LIMITS.burst
    sessions: Count = CUSTOMER_LIMITS.sessions  # per customer
    outbound_bytes: Count = OUTBOUND_BYTES  # waiting to be written, per session
    connections: Count = 20_000  # sockets in all
    http_connections: Count = 1_000  # to the HTTP listener
    attempts_per_minute: Count = 600  # new connections per client address
    hello_timeout: Wait = HELLO_TIMEOUT
    ping_interval: Wait = PING_INTERVAL
    ping_timeout: Wait = 20.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How and how much is logged."""

    format: Format = LogFormat.TEXT
    level: Level = LogLevel.INFO


class Tenant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One company. Without `push` nothing rings: messages become undeliverable, `no_endpoint`."""

    auth: Auth
    origins: Origins = ()  # none: browsers are refused, apps are not
    policy: Policies = "default"  # the only one of `gateway.policies` that rings
    push: Push | None = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    server: Server = Server()
    storage: Storage = Storage()
    delivery: Delivery = Delivery()
    limits: Limits = Limits()
    log: Log = Log()
    tenants: dict[str, Tenant]

    @property
    def origins(self) -> frozenset[str]:
        """The web pages that may connect, whosever they are."""
        return frozenset(origin for tenant in self.tenants.values() for origin in tenant.origins)


# --- what no single value can tell -------------------------------------------------------------


Blame = Callable[[tuple[str, ...]], Wrong]
"""Makes the errors about the section at a path."""


def check(config: Config, blame: Blame) -> None:
    """Raise `ConfigError` unless what was read goes together."""
    _check_server(config.server)
    _check_storage(config.storage, blame(("storage",)))
    _check_delivery(config.delivery)
    _check_limits(config.limits)
    for name, tenant in config.tenants.items():
        path = ("tenants", name)
        check_auth(tenant.auth, blame((*path, "auth")))
        if tenant.push is not None:
            check_push(tenant.push, blame((*path, "push")))
            _check_expiry(tenant.push, config.delivery, blame((*path, "push")))


def _check_server(server: Server) -> None:
    taken: dict[Address, str] = {}
    for key, address in (
        ("server.chat", server.chat),
        ("server.http", server.http),
        ("server.admin", server.admin),
    ):
        if address in taken:
            raise ConfigError(key, f"is {address}, as {taken[address]}", "a port of its own")
        if address.port != 0:
            taken[address] = key


def _check_storage(storage: Storage, wrong: Wrong) -> None:
    present, previous = storage.encryption_key, storage.previous_encryption_key
    if previous is not None and present is None:
        raise wrong("previous_encryption_key", "has no present one", "encryption_key as well")
    if previous is not None and previous == present:
        raise wrong("previous_encryption_key", "is the present one", "the one before it, or none")


def _check_delivery(delivery: Delivery) -> None:
    if delivery.restart_grace <= delivery.restart_window:
        raise ConfigError(
            "delivery.restart_grace",
            f"is {delivery.restart_grace:g}",
            f"more than delivery.restart_window ({delivery.restart_window:g}),"
            " or a restart rings every phone",
        )
    if delivery.max_hold < delivery.ack_timeout:
        raise ConfigError(
            "delivery.max_hold",
            f"is {delivery.max_hold:g}",
            f"at least delivery.ack_timeout ({delivery.ack_timeout:g})",
        )


def _check_limits(limits: Limits) -> None:
    for key, size in (("text_chars", limits.text_chars), ("data_bytes", limits.data_bytes)):
        if size >= limits.frame_bytes:
            expected = f"less than limits.frame_bytes ({limits.frame_bytes})"
            raise ConfigError(f"limits.{key}", f"is {size}", expected)
    if limits.outbound_bytes < limits.frame_bytes:
        expected = f"at least limits.frame_bytes ({limits.frame_bytes})"
        raise ConfigError("limits.outbound_bytes", f"is {limits.outbound_bytes}", expected)


def _check_expiry(push: Push, delivery: Delivery, wrong: Wrong) -> None:
    """What has expired by the time when it is due rings nowhere."""
    for key in ("ack_timeout", "disconnect_grace"):
        if push.expires_after <= getattr(delivery, key):
            problem = f"is {push.expires_after:g} seconds"
            expected = f"more than delivery.{key} ({getattr(delivery, key):g})"
            raise wrong("expires_after", problem, f"{expected}, or nothing rings after it")


def check_tenant_name(name: str, key: str) -> None:
    """Raise `ConfigError`, about `key`, unless a tenant may be called so."""
    if re.fullmatch(r"[a-z0-9._-]{1,128}", name, re.ASCII) is None:
        raise ConfigError(key, "is no tenant's name", "1 to 128 of a-z 0-9 . _ -")
