"""The configuration: every key, its type, its default, and what makes it impossible.

Decides: whether what the operator wrote can be run at all. Whatever comes out of `load` is
complete and consistent, with every secret and key file read; the rest of the program never asks
again. Leaves to others: opening sockets and the database, and turning these sections into what
the protocol, the push worker and the verifier want.

Sources, the later one wins: the defaults here, the TOML file, the environment. A variable is
`RINGBACK_` and the key's path in capitals, with two underscores between levels:
`RINGBACK_SERVER__CHAT`, `RINGBACK_TENANTS__ACME__PUSH__ENDPOINT`. A setting marked *sourced*
(secrets and key material) can also be given as `<name>_file` (a file holding it) or `<name>_env`
(the name of a variable holding it). Relative paths are relative to the file's directory.

Everything wrong is a `ConfigError`: one line with the key, what is wrong and what would be right,
never with the value of a secret.
"""

from __future__ import annotations

import contextlib
import difflib
import hmac
import ipaddress
import math
import os
import re
import secrets
import tempfile
import tomllib
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from cryptography.x509 import load_pem_x509_certificates
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from gateway.auth import Algorithm, KeyRejected, read_keys

PREFIX: Final = "RINGBACK_"
ANY_TENANT: Final = "<tenant>"  # stands for a tenant's name in the path of a `Setting`
DEVELOPMENT_TENANT: Final = "dev"
DEVELOPMENT_SECRET: Final = "ringback-dev.secret"  # noqa: S105 - a file's name
DEVELOPMENT_ENDPOINT: Final = "http://127.0.0.1:8090/ring"


class ConfigError(Exception):
    """The configuration cannot be used. `str()` is one line and holds no secret.

    `key` is the dotted key, the environment variable or the file that is at fault.
    """

    def __init__(self, key: str, problem: str, expected: str) -> None:
        line = f"{key}: {problem}; expected {expected}"
        super().__init__("".join(c if c.isprintable() else "?" for c in line))
        self.key = key
        self.problem = problem
        self.expected = expected


class Secret:
    """A text that shows in no repr, log or error. `reveal()` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `host:port`, with an IPv6 address in brackets; raises `ValueError`."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f"is {_shown(text)}")
        if match["v6"] is not None and not _is_ipv6(match["v6"]):
            raise ValueError(f"is {_shown(text)}")
        return cls(match["v6"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


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


class AdapterName(StrEnum):
    """The agreed request of a customer backend."""

    ASAPP = "asapp"


# --- what a value may be: the parser, and the words for it in errors ---------------------------
# A parser takes the raw value and the directory that relative paths start from, and raises
# ValueError with the problem. Without one, msgspec converts.


def _must_be_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("is not a text")
    if any("\ud800" <= character <= "\udfff" for character in raw):
        raise ValueError("is not UTF-8")  # from the environment: the file is checked as a whole
    return str(raw)


def _address(raw: object, base: Path) -> Address:
    return Address.parse(_must_be_text(raw))


def _secret(raw: object, base: Path) -> Secret:
    text = _must_be_text(raw)
    if not text:
        raise ValueError("is empty")
    return Secret(text)


def _signing_secret(raw: object, base: Path) -> Secret:
    secret = _secret(raw, base)
    prefix, encoded = secret.reveal()[:6], secret.reveal()[6:]
    if prefix != "whsec_":
        raise ValueError("does not start with whsec_")
    try:
        size = len(b64decode(encoded, validate=True))
    except ValueError:
        raise ValueError("is not base64 after whsec_") from None
    if not 24 <= size <= 64:
        raise ValueError(f"has {size} bytes of key")
    return secret


def _duration(raw: object, base: Path) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", _must_be_text(raw), re.ASCII)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"is {_shown(raw)}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _sqlite_url(raw: object, base: Path) -> str:
    text = _must_be_text(raw)
    name = text.removeprefix("sqlite:///")
    if name == text or not name or name.endswith("/") or re.search(r"[?#\0]|^:memory:$", name):
        raise ValueError(f"is {_shown(text)}")
    return f"sqlite:///{base / name}"


def _origins(raw: object, base: Path) -> tuple[str, ...]:
    if isinstance(raw, _FromEnvironment):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if not isinstance(raw, list) or not all(isinstance(origin, str) for origin in raw):
        raise ValueError("is not a list of texts")
    for origin in raw:
        if not _is_origin(origin):
            raise ValueError(f"has {_shown(origin)}")
    return tuple(raw)


def _is_origin(text: str) -> bool:
    """Whether a browser could send exactly this as `Origin` (RFC 6454 section 6.2)."""
    match = re.fullmatch(
        r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?", text, re.ASCII
    )
    if match is None:
        return False
    default_port = {"http": ":80", "https": ":443"}.get(match[1])
    return match[3] is None or (match[3] != default_port and int(match[3][1:]) <= 65535)


def _endpoint(raw: object, base: Path) -> str:
    text = _must_be_text(raw)
    # What is wrong is not quoted: an address may carry a credential.
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("https", "http") or not url.hostname or port == 0:
        raise ValueError("is not an https URL")
    if url.username is not None or url.password is not None:
        raise ValueError("has a user name or password in it")
    if url.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has a fragment, a space or a character that a URL cannot have")
    return text


def _ca_file(raw: object, base: Path) -> Path:
    path = base / _must_be_text(raw)
    try:
        load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read ({path}: {error.strerror})") from None
    except ValueError:
        raise ValueError(f"holds no PEM certificate ({path})") from None
    return path


def _text(raw: object, base: Path) -> str:
    text = _must_be_text(raw)
    if not text or len(text) > 65536:
        raise ValueError("is empty" if not text else "is too long")
    return text


def _meta(expected: str, parse: Any = None, *, sourced: bool = False) -> Meta:
    return Meta(description=expected, extra={"parse": parse, "sourced": sourced})


_WHSEC = '"whsec_" and the base64 of 24 to 64 random bytes'
_KEY_TEXT = "key material, or its file by <name>_file"
_SECONDS = "a number of seconds above 0, at most 86400"

Listen = Annotated[Address, _meta('"host:port", such as "127.0.0.1:8080"', _address)]
SqliteUrl = Annotated[str, _meta('"sqlite:///file.db" or "sqlite:////path/file.db"', _sqlite_url)]
Seconds = Annotated[float, Meta(gt=0, le=86400, description=_SECONDS)]
Leeway = Annotated[float, Meta(ge=0, le=30, description="a number of seconds from 0 to 30")]
Count = Annotated[
    int, Meta(ge=1, le=1_000_000_000, description="a whole number from 1 to 1000000000")
]
FrameBytes = Annotated[
    int, Meta(ge=1024, le=16_777_216, description="a whole number from 1024 to 16777216")
]
Origins = Annotated[
    tuple[str, ...], _meta('exact origins, such as "https://app.acme.example"', _origins)
]
Text = Annotated[str, _meta("a text that is not empty", _text)]
OptionalText = Annotated[str | None, _meta("a text that is not empty", _text)]
Required = Annotated[Secret, _meta("a secret text", _secret, sourced=True)]
OptionalSecret = Annotated[Secret | None, _meta("a secret text", _secret, sourced=True)]
SigningSecret = Annotated[Secret | None, _meta(_WHSEC, _signing_secret, sourced=True)]
KeyText = Annotated[str | None, _meta(_KEY_TEXT, _text, sourced=True)]
Endpoint = Annotated[str, _meta('an address such as "https://push.acme.example/ring"', _endpoint)]
Lifetime = Annotated[float, _meta('a duration such as "45s", "30m", "24h" or "7d"', _duration)]
CaFile = Annotated[Path | None, _meta("a file of PEM certificates", _ca_file)]
Flag = Annotated[bool, Meta(description="true or false")]
Format = Annotated[LogFormat, Meta(description='"text" or "json"')]
Level = Annotated[LogLevel, Meta(description='"debug", "info", "warning" or "error"')]
Policies = Annotated[Policy, Meta(description='"default"')]
Adapters = Annotated[AdapterName, Meta(description='"asapp"')]
Algorithms = Annotated[Algorithm, Meta(description='"HS256", "RS256", "ES256" or "EdDSA"')]


# --- the sections ------------------------------------------------------------------------------


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens: WebSockets, the HTTP API, and health and metrics."""

    chat: Listen = Address("127.0.0.1", 8080)
    http: Listen = Address("127.0.0.1", 8081)
    admin: Listen = Address("127.0.0.1", 8082)


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the data is. `load` makes the URL absolute."""

    url: SqliteUrl = "sqlite:///ringback.db"

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The delivery rule's times, in seconds."""

    ack_timeout: Seconds = 5.0
    disconnect_grace: Seconds = 1.0
    restart_grace: Seconds = 10.0  # longer than restart_window
    restart_window: Seconds = 5.0
    max_hold: Seconds = 30.0  # at least ack_timeout


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client, and all of them, may take. Rates are per minute, with a burst."""

    frame_bytes: FrameBytes = 65_536
    text_chars: Count = 8_000  # Unicode code points
    data_bytes: Count = 16_384
    resume: Count = 500  # messages replayed at most
    sends_per_minute: Count = 100
    burst: Count = 20
    agent_sends_per_minute: Count = 600
    agent_burst: Count = 100
    sessions: Count = 10  # per customer
    outbound_bytes: Count = 1_048_576  # waiting to be written, per session
    connections: Count = 20_000  # sockets in all
    attempts_per_minute: Count = 600  # new connections per client address
    hello_timeout: Seconds = 5.0
    ping_interval: Seconds = 20.0
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


class Push(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant's customer backend, and how it is called. Times in seconds."""

    endpoint: Endpoint
    auth_token: Required
    adapter: Adapters = AdapterName.ASAPP
    signing_secret: SigningSecret = None  # requests are signed if given
    previous_signing_secret: SigningSecret = None  # signs too, while the backend changes over
    expires_after: Lifetime = 86_400.0  # a duration in the file, seconds here
    title: Text = "New Message"
    allow_http: Flag = False  # plain http to other than loopback, for tests
    ca_file: CaFile = None  # a private authority's certificates
    connect_timeout: Seconds = 5.0
    timeout: Seconds = 15.0
    in_flight: Count = 32
    retry_first: Seconds = 1.0
    retry_max: Seconds = 300.0


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


class _FromEnvironment(str):
    """A value that came from `variable`: parsed leniently, blamed by that name."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def of(cls, variable: str, value: str) -> _FromEnvironment:
        text = cls(value)
        text.variable = variable
        return text


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
        _place(tables, path, forms, _FromEnvironment.of(variable, value))


def _key_of(variable: str, tables: _Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The path that a variable names, and the forms that its last part may take."""
    rest = variable.removeprefix(PREFIX).upper()
    path = tuple(rest.lower().split("__"))
    if path[0] == "tenants":
        path = ("tenants", _tenant_of(variable, rest.split("__")[1], tables), *path[2:])
    known = {
        (*(path[1] if part == ANY_TENANT else part for part in s.path[:-1]), form): s.names
        for s in _SETTINGS
        for form in s.names
        if (s.path[0] == "tenants") == (path[0] == "tenants")
    }
    if path not in known:
        names = [_variable(one) for one in known]
        close = difflib.get_close_matches(variable, names, n=1, cutoff=0)
        raise ConfigError(variable, "names no setting", close[0])
    return path, known[path]


def _tenant_of(variable: str, given: str, tables: _Table) -> str:
    """The tenant of the file that is meant, with `.` or `-` where `given` has `_`; or a new one."""
    tenants = tables.get("tenants")
    names = tenants if isinstance(tenants, dict) else {}
    meant = [name for name in names if _variable((name,)) == PREFIX + given]
    if len(meant) > 1:
        raise ConfigError(variable, f"could mean {' or '.join(meant)}", "the key in the file")
    return meant[0] if meant else given.lower()


def _place(
    tables: _Table, path: tuple[str, ...], forms: tuple[str, ...], value: _FromEnvironment
) -> None:
    """Put one value where it belongs, in place of whichever form of it the file has."""
    for part in path[:-1]:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # no table where one should be: reading reports it
        tables = inner
    for form in forms:
        if not isinstance(tables.get(form), _FromEnvironment):
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
            if re.fullmatch(r"[a-z0-9._-]{1,128}", name, re.ASCII) is None:
                key = _dotted(("tenants", name))
                raise ConfigError(key, "is no tenant's name", "1 to 128 of a-z 0-9 . _ -")
        return {
            name: self.section(Tenant, inner, ("tenants", name)) for name, inner in table.items()
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
            return _convert(raw, info.type) if parse is None else parse(raw, self.base)
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
        from_environment = isinstance(raw, _FromEnvironment)
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


def _convert(raw: Any, kind: Any) -> Any:
    lenient = isinstance(raw, _FromEnvironment)
    try:
        value = msgspec.convert(str(raw) if lenient else raw, kind, strict=not lenient)
    except msgspec.ValidationError:
        value = math.nan
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {_shown(raw)}")
    return value


def _shown(raw: object) -> str:
    text = repr(str(raw)) if isinstance(raw, str) else repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."


# --- what no single value can tell -------------------------------------------------------------


def _check(config: Config, given: Mapping[str, str]) -> None:
    _check_server(config.server)
    _check_delivery(config.delivery)
    _check_limits(config.limits)
    for name, tenant in config.tenants.items():
        path = ("tenants", name)
        _check_auth(tenant.auth, (*path, "auth"), given)
        if tenant.push is not None:
            _check_push(tenant.push, (*path, "push"), given)


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


def _check_push(push: Push, path: tuple[str, ...], given: Mapping[str, str]) -> None:
    def wrong(name: str, problem: str, expected: str) -> ConfigError:
        key = _dotted((*path, name))
        return ConfigError(given.get(key, key), problem, expected)

    if push.endpoint.startswith("http:") and not (push.allow_http or _is_loopback(push.endpoint)):
        raise wrong("endpoint", "is plain http to another machine", "https (or allow_http = true)")
    if push.previous_signing_secret is not None and push.signing_secret is None:
        raise wrong("previous_signing_secret", "has no present one", "signing_secret as well")
    if push.retry_max < push.retry_first:
        raise wrong("retry_max", f"is {push.retry_max:g}", f"at least {push.retry_first:g}")
    if push.timeout < push.connect_timeout:
        raise wrong("timeout", f"is {push.timeout:g}", f"at least {push.connect_timeout:g}")


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the ways in -------------------------------------------------------------------------------


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
    if auth["algorithm"] == Algorithm.HS256 and not auth.keys() & _SECRET_FORMS:
        storage = reader.section(Storage, tables["storage"], ("storage",))
        auth["secret_file"] = str(_kept_secret(storage.path.with_name(DEVELOPMENT_SECRET)))
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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", expected) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is not UTF-8", expected) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML ({error})", expected) from None


def _kept_secret(path: Path) -> Path:
    """Make the file unless it is there. Whole or not at all, also when two processes start."""
    try:
        if not path.exists():
            descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_urlsafe(48) + "\n")
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                Path(draft).unlink()
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigError(str(path), problem, "a directory that this user can write") from None
    return path
