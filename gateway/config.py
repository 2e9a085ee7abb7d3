"""The configuration: every key, its type, its default, and what makes it impossible.

Decides: whether what the operator wrote can be run at all. Whatever comes out of `load` is
complete and consistent, with every secret and key file read; the rest of the program never asks
again. Leaves to others: opening sockets and the database, and turning these sections into what
the protocol, the push worker and the verifier want. What a value may be is in `gateway.values`; a
tenant's push section, the longest, is in `gateway.pushconfig`.

Sources, the later one wins: the defaults here, the TOML file, the environment. A variable is
`RINGBACK_` and the key's path in capitals, with two underscores between levels:
`RINGBACK_SERVER__CHAT`, `RINGBACK_TENANTS__ACME__PUSH__ENDPOINT`. A setting marked *sourced*
(secrets and key material) can also be given as `<name>_file` (a file holding it) or `<name>_env`
(the name of a variable holding it). Relative paths are relative to the file's directory.

Everything wrong is a `ConfigError`: one line with the key, what is wrong and what would be right,
never with the value of a secret.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import os
import re
import secrets
import tempfile
import tomllib
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from gateway.auth import Algorithm, KeyRejected, read_keys
from gateway.protocol import (
    AGENT_LIMITS,
    CUSTOMER_LIMITS,
    HELLO_TIMEOUT,
    OUTBOUND_BYTES,
    PING_INTERVAL,
)
from gateway.pushconfig import Push as Push
from gateway.pushconfig import PushBackend, check_push
from gateway.values import Address as Address
from gateway.values import ConfigError as ConfigError
from gateway.values import (
    Count,
    EncryptionKey,
    FrameBytes,
    FromEnvironment,
    KeyText,
    Leeway,
    Listen,
    Networks,
    OptionalSecret,
    OptionalText,
    Origins,
    Seconds,
    SocketOrigin,
    SqliteUrl,
    Text,
    WebOrigin,
    Wrong,
    convert,
)
from gateway.values import Secret as Secret
from storage.vault import KEY_BYTES, Keys

PREFIX: Final = "RINGBACK_"
ANY_TENANT: Final = "<tenant>"  # stands for a tenant's name in the path of a `Setting`
ANY_BACKEND: Final = "<backend>"  # the same for a backend of its push section
DEVELOPMENT_TENANT: Final = "dev"
DEVELOPMENT_SECRET: Final = "ringback-dev.secret"  # noqa: S105 - a file's name
DEVELOPMENT_KEY: Final = "ringback-dev.key"
DEVELOPMENT_ENDPOINT: Final = "http://127.0.0.1:8090/ring"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Policy(StrEnum):
    """Which of a customer's messages ring. The default: none while they are in chat."""

    DEFAULT = "default"


Format = Annotated[LogFormat, Meta(description='"text" or "json"')]
Level = Annotated[LogLevel, Meta(description='"debug", "info", "warning" or "error"')]
Policies = Annotated[Policy, Meta(description='"default"')]
Algorithms = Annotated[Algorithm, Meta(description='"HS256", "RS256", "ES256" or "EdDSA"')]


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
    """Where the data is. `load` makes the URL absolute."""

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

    ack_timeout: Seconds = CUSTOMER_LIMITS.ack_timeout
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
    attempts_per_minute: Count = 600  # new connections per client address
    hello_timeout: Seconds = HELLO_TIMEOUT
    ping_interval: Seconds = PING_INTERVAL
    ping_timeout: Seconds = 20.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How and how much is logged."""

    format: Format = LogFormat.TEXT
    level: Level = LogLevel.INFO


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tenant's tokens are checked. HS256 takes `secret`; the others one of the keys."""

    algorithm: Algorithms
    secret: OptionalSecret = None
    public_key: KeyText = None  # PEM
    jwks: KeyText = None  # RFC 7517, JSON
    audience: Text = "ringback"
    issuer: OptionalText = None  # checked if given
    leeway: Leeway = 10.0  # seconds of clock difference forgiven


class Tenant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One company. Without `push` nothing rings: messages become undeliverable, `no_endpoint`."""

    auth: Auth
    origins: Origins = ()  # none: browsers are refused, apps are not
    policy: Policies = Policy.DEFAULT
    push: Push | None = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    server: Server = Server()
    storage: Storage = Storage()
    delivery: Delivery = Delivery()
    limits: Limits = Limits()
    log: Log = Log()
    tenants: dict[str, Tenant]


# --- the settings as a list --------------------------------------------------------------------


class Setting(NamedTuple):
    """One key, such as `("tenants", ANY_TENANT, "auth", "secret")`."""

    path: tuple[str, ...]
    field: FieldInfo
    names: tuple[str, ...]  # the last part of the path, in every way in which it may be written


def settings(kind: type[Struct] = Config, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every key that there is, in the order of the sections above."""
    for info in fields(kind):
        section = _section(info)
        if info.name == "tenants":
            yield from settings(Tenant, (*path, "tenants", ANY_TENANT))
        elif info.name == "backends":
            yield from settings(PushBackend, (*path, "backends", ANY_BACKEND))
        elif section is not None:
            yield from settings(section, (*path, info.name))
        else:
            yield Setting((*path, info.name), info, _names(info))


def _section(info: FieldInfo) -> type[Struct] | None:
    """The section that a field opens, or None for a value."""
    for kind in (info.type, *get_args(info.type)):
        if isinstance(kind, type) and issubclass(kind, Struct):
            return kind
    return None


def _names(info: FieldInfo) -> tuple[str, ...]:
    is_sourced = info.name != "tenants" and _section(info) is None and _extra(info).get("sourced")
    return (info.name, f"{info.name}_file", f"{info.name}_env") if is_sourced else (info.name,)


def _extra(info: FieldInfo) -> dict[str, Any]:
    return _annotation(info).extra or {}


def _annotation(info: FieldInfo) -> Meta:
    meta: Meta = get_args(info.type)[1]
    return meta


_SETTINGS: Final = tuple(settings())


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(part if re.fullmatch(r"[\w<>-]+", part) else f'"{part}"' for part in path)


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(re.sub(r"[.-]", "_", part).upper() for part in path)


# --- the environment, laid over the file -------------------------------------------------------


_Table = dict[str, Any]


def _overlay(tables: _Table, environ: Mapping[str, str]) -> None:
    """Put the `RINGBACK_…__…` variables into `tables`, which is changed.

    Names with no double underscore are not ours: orchestrators make `RINGBACK_PORT` and the like
    for a service of that name. One that is a setting but for an underscore is a slip, though.
    """
    slips = {_variable(s.path).replace("__", "_"): _variable(s.path) for s in _SETTINGS}
    for variable, value in sorted(environ.items()):
        if variable in slips:
            raise ConfigError(variable, "has one underscore too few", slips[variable])
        if not variable.startswith(PREFIX) or "__" not in variable:
            continue
        path, forms = _key_of(variable, tables)
        _place(tables, path, forms, FromEnvironment.of(variable, value))


def _key_of(variable: str, tables: _Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The path that a variable names, and the forms that its last part may take."""
    rest = variable.removeprefix(PREFIX).upper()
    path = tuple(rest.lower().split("__"))
    if path[0] == "tenants":
        tenants = _tables_in(tables, "tenants")
        tenant = _name_of(variable, rest.split("__")[1], tenants)
        path = ("tenants", tenant, *path[2:])
        if path[2:4] == ("push", "backends") and len(path) > 4:
            backends = _tables_in(tenants, tenant, "push", "backends")
            path = (*path[:4], _name_of(variable, rest.split("__")[4], backends), *path[5:])
    named = dict(zip((ANY_TENANT, ANY_BACKEND), (*path[1:2], *path[4:5]), strict=False))
    known = {
        (*(named.get(part, part) for part in s.path[:-1]), form): s.names
        for s in _SETTINGS
        for form in s.names
        if (s.path[0] == "tenants") == (path[0] == "tenants")
    }
    if path not in known:
        names = [_variable(one) for one in known]
        close = difflib.get_close_matches(variable, names, n=1, cutoff=0)
        raise ConfigError(variable, "names no setting", close[0])
    return path, known[path]


def _tables_in(tables: _Table, *path: str) -> _Table:
    """What the file has below `path`; nothing if there is no table."""
    for part in path:
        inner = tables.get(part)
        tables = inner if isinstance(inner, dict) else {}
    return tables


def _name_of(variable: str, given: str, names: _Table) -> str:
    """The name in the file that is meant, with `.` or `-` where `given` has `_`; or a new one."""
    meant = [name for name in names if _variable((name,)) == PREFIX + given]
    if len(meant) > 1:
        raise ConfigError(variable, f"could mean {' or '.join(meant)}", "the key in the file")
    return meant[0] if meant else given.lower()


def _place(
    tables: _Table, path: tuple[str, ...], forms: tuple[str, ...], value: FromEnvironment
) -> None:
    """Put one value where it belongs, in place of whichever form of it the file has."""
    for part in path[:-1]:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # no table where one should be: reading reports it
        tables = inner
    for form in forms:
        if not isinstance(tables.get(form), FromEnvironment):
            tables.pop(form, None)
    tables[path[-1]] = value


# --- reading -----------------------------------------------------------------------------------

_S = TypeVar("_S", bound=Struct)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns tables into sections. `given` notes the name under which a sourced key came."""

    base: Path
    environ: Mapping[str, str]
    given: dict[str, str] = field(default_factory=dict)

    def section(self, kind: type[_S], table: object, path: tuple[str, ...]) -> _S:
        if not isinstance(table, dict):
            raise ConfigError(_dotted(path), "is not a section", f"[{_dotted(path)}]")
        self._refuse_unknown(kind, table, path)
        values: dict[str, Any] = {}
        for info in fields(kind):
            here = (*path, info.name)
            inner = _section(info)
            if info.name == "tenants":
                values["tenants"] = self._tenants(table.get("tenants"))
            elif info.name == "backends":
                values["backends"] = self._backends(table.get("backends", {}), here)
            elif inner is None:
                values[info.name] = self._value(info, table, here)
            elif info.name in table:
                values[info.name] = self.section(inner, table[info.name], here)
            elif info.default is NODEFAULT:
                raise ConfigError(_dotted(here), "is missing", f"a section [{_dotted(here)}]")
            else:
                values[info.name] = info.default
        return kind(**values)

    def _tenants(self, table: object) -> dict[str, Tenant]:
        if not isinstance(table, dict) or not table:
            raise ConfigError("tenants", "has no tenant", "a section such as [tenants.acme]")
        for name in table:
            check_tenant_name(name, _dotted(("tenants", name)))
        return {
            name: self.section(Tenant, inner, ("tenants", name)) for name, inner in table.items()
        }

    def _backends(self, table: object, path: tuple[str, ...]) -> dict[str, PushBackend]:
        if not isinstance(table, dict):
            raise ConfigError(_dotted(path), "is not a section", f"[{_dotted((*path, 'qa'))}]")
        return {
            name: self.section(PushBackend, inner, (*path, name)) for name, inner in table.items()
        }

    def _refuse_unknown(self, kind: type[Struct], table: _Table, path: tuple[str, ...]) -> None:
        known = [name for info in fields(kind) for name in _names(info)]
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                moved = [_dotted(s.path) for s in _SETTINGS if s.path[-1] == name]
                here = [_dotted((*path, one)) for one in close or known]
                expected = here[0] if close else next(iter(moved), "one of " + ", ".join(here))
                raise ConfigError(_dotted((*path, name)), "is not a known key", expected)

    def _value(self, info: FieldInfo, table: _Table, path: tuple[str, ...]) -> Any:
        expected = _annotation(info).description or ""
        key, raw = self._raw(info, table, path)
        if raw is None:
            if info.default is NODEFAULT:
                raise ConfigError(key, "is missing", expected)
            return info.default
        parse = _extra(info).get("parse")
        try:
            return convert(raw, info.type) if parse is None else parse(raw, self.base)
        except ValueError as error:
            raise ConfigError(key, str(error), expected) from None

    def _raw(self, info: FieldInfo, table: _Table, path: tuple[str, ...]) -> tuple[str, Any]:
        """Under which key the value was given, and the value; None if it was not."""
        names = _names(info)
        found = [name for name in names if name in table]
        if not found:
            return _dotted(path), None
        name = found[0]
        raw = table[name]
        from_environment = isinstance(raw, FromEnvironment)
        key = raw.variable if from_environment else _dotted((*path[:-1], name))
        if len(found) > 1:
            raise ConfigError(key, f"is given beside {found[1]}", "only one of the two")
        self.given[_dotted(path)] = key
        if name == names[0]:
            return key, raw
        if not isinstance(raw, str) or not raw:
            raise ConfigError(key, "is not a text", "a file's or a variable's name")
        return key, self._from_file(key, raw) if name == names[1] else self._from_variable(key, raw)

    def _from_file(self, key: str, name: str) -> str:
        path = self.base / name
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            problem = f"cannot be read ({path}: {error.strerror})"
        except ValueError:
            problem = f"cannot be read ({path}: not a UTF-8 text)"
        raise ConfigError(key, problem, "a file that this user can read")

    def _from_variable(self, key: str, name: str) -> str:
        if name not in self.environ:
            raise ConfigError(key, f"names {name}, which is not set", "a variable that is set")
        return self.environ[name]


# --- what no single value can tell -------------------------------------------------------------


def _check(config: Config, given: Mapping[str, str]) -> None:
    _check_server(config.server)
    _check_storage(config.storage, _blame(("storage",), given))
    _check_delivery(config.delivery)
    _check_limits(config.limits)
    for name, tenant in config.tenants.items():
        path = ("tenants", name)
        _check_auth(tenant.auth, (*path, "auth"), given)
        if tenant.push is not None:
            check_push(tenant.push, _blame((*path, "push"), given))


def _blame(path: tuple[str, ...], given: Mapping[str, str]) -> Wrong:
    """Errors about the section at `path`, by the name under which each key was given."""

    def wrong(name: str, problem: str, expected: str) -> ConfigError:
        key = _dotted((*path, *name.split(".")))
        return ConfigError(given.get(key, key), problem, expected)

    return wrong


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


def _check_auth(auth: Auth, path: tuple[str, ...], given: Mapping[str, str]) -> None:
    try:
        read_keys(auth)
    except KeyRejected as error:
        key = _dotted((*path, error.setting))
        raise ConfigError(given.get(key, key), error.problem, error.expected) from None


# --- the ways in -------------------------------------------------------------------------------


def check_tenant_name(name: str, key: str) -> None:
    """Raise `ConfigError`, about `key`, unless a tenant may be called so."""
    if re.fullmatch(r"[a-z0-9._-]{1,128}", name, re.ASCII) is None:
        raise ConfigError(key, "is no tenant's name", "1 to 128 of a-z 0-9 . _ -")


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a TOML file, or of the environment alone; raises `ConfigError`."""
    tables = {} if path is None else _read_toml(path)
    _overlay(tables, environ)
    return _finish(_Reader(Path.cwd() if path is None else path.absolute().parent, environ), tables)


_SECRET_FORMS: Final = {"secret", "secret_file", "secret_env"}


def development(environ: Mapping[str, str]) -> Config:
    """What `ringback serve` runs with no configuration: one tenant, on loopback.

    The environment still overrides. The tenant's secret is made once and kept, for its owner
    only, beside the database, so that tokens outlive a restart. Raises `ConfigError`.
    """
    auth: _Table = {"algorithm": Algorithm.HS256.value}
    tenant = {
        "origins": ["http://127.0.0.1:8090", "http://localhost:8090"],
        "auth": auth,
        "push": {"endpoint": DEVELOPMENT_ENDPOINT, "auth_token": "dev"},
    }
    tables: _Table = {
        "storage": {"url": "sqlite:///ringback-dev.db"},
        "tenants": {DEVELOPMENT_TENANT: tenant},
    }
    _overlay(tables, environ)
    reader = _Reader(Path.cwd(), environ)
    beside = reader.section(Storage, tables["storage"], ("storage",)).path.with_name
    if auth["algorithm"] == Algorithm.HS256 and not auth.keys() & _SECRET_FORMS:
        auth["secret_file"] = str(_kept(beside(DEVELOPMENT_SECRET), secrets.token_urlsafe(48)))
    if not any(name.startswith("encryption_key") for name in tables["storage"]):
        tables["storage"]["encryption_key_file"] = str(_kept(beside(DEVELOPMENT_KEY), fresh_key()))
    return _finish(reader, tables)


def _finish(reader: _Reader, tables: _Table) -> Config:
    storage = tables.setdefault("storage", {})
    if isinstance(storage, dict):
        storage.setdefault("url", Storage().url)  # given, so that it is made absolute
    config = reader.section(Config, tables, ())
    _check(config, reader.given)
    return config


def _read_toml(path: Path) -> _Table:
    expected = "a TOML file, such as `ringback init` writes"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", expected) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is not UTF-8", expected) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML ({error})", expected) from None


def fresh_key() -> str:
    """A key for `storage.encryption_key`."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _kept(path: Path, secret: str) -> Path:
    """Make the file, with this in it, unless it is there.

    Whole or not at all, also when two processes start.
    """
    try:
        if not path.exists():
            descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(secret + "\n")
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                Path(draft).unlink()
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigError(str(path), problem, "a directory that this user can write") from None
    return path
