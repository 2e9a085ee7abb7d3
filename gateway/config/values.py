"""What a setting's value may be: the parsers, and the words for them in errors.

Decides: the types that sections are made of, and what an operator reads when a value is wrong.
Leaves to others: which settings there are (`gateway.config.sections` and its parts), where values
come from, and what no single value can tell.

A parser takes the raw value and the directory that relative paths start from, and raises
ValueError with the problem. Without one, msgspec converts. A setting marked *sourced* can also
come from a file or a variable.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from cryptography.x509 import load_pem_x509_certificates
from msgspec import Meta

from push.guard import Network
from storage.vault import KEY_BYTES


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


Wrong = Callable[[str, str, str], ConfigError]
"""Makes the error about a key of a section: of its name, the problem, and what would be right."""


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
            raise ValueError(f"is {shown(text)}")
        if not (_is_ipv6(match["v6"]) if match["v6"] else is_host(match["host"])):
            raise ValueError(f"is {shown(text)}")
        return cls(match["v6"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


def is_host(text: str) -> bool:
    """Whether a name can be looked up at all: with an empty or too long label it is never asked.

    What ends in a number is an IPv4 address (URL Standard, "ends in a number"), or nothing.
    """
    try:
        text.encode("idna")
        if text.rpartition(".")[2].isdigit():
            socket.inet_aton(text)
    except (UnicodeError, OSError):
        return False
    return text != ""


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class FromEnvironment(str):
    """A value that came from `variable`: parsed leniently, blamed by that name."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def of(cls, variable: str, value: str) -> FromEnvironment:
        text = cls(value)
        text.variable = variable
        return text


# --- the parsers ------------------------------------------------------------------------------


def must_be_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("is not a text")
    if any("\ud800" <= character <= "\udfff" for character in raw):
        raise ValueError("is not UTF-8")  # from the environment: the file is checked as a whole
    return str(raw)


def table(raw: object) -> dict[str, Any]:
    """A table, or a JSON object as text. What is wrong is told by its place, not quoted."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}"
            raise ValueError(f"is not JSON ({where}: {error.msg})") from None
        except RecursionError:
            raise ValueError("is not JSON (nested too deeply)") from None
    if not isinstance(raw, dict):
        raise ValueError("is not a table")
    return raw


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, if no name comes twice in it."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"has {shown(twice)} twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> object:
    raise ValueError(f"is not JSON ({name} is no JSON number)")


def _address(raw: object, base: Path) -> Address:
    return Address.parse(must_be_text(raw))


def read_secret(raw: object, base: Path) -> Secret:
    text = must_be_text(raw)
    if not text:
        raise ValueError("is empty")
    return Secret(text)


def _encryption_key(raw: object, base: Path) -> Secret:
    secret = read_secret(raw, base)
    try:
        size = len(b64decode(secret.reveal(), validate=True))
    except ValueError:
        raise ValueError("is not base64") from None
    if size != KEY_BYTES:
        raise ValueError(f"has {size} bytes of key")
    return secret


def fresh_key() -> str:
    """A key for `storage.encryption_key`."""
    return b64encode(secrets.token_bytes(KEY_BYTES)).decode()


LONGEST: Final = 36_525 * 86_400.0  # seconds: what is added to the time has to stay one


def _duration(raw: object, base: Path) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", must_be_text(raw), re.ASCII)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"is {shown(raw)}")
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if seconds > LONGEST:
        raise ValueError(f"is {shown(raw)}, which is more than a hundred years")
    return seconds


def _sqlite_url(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    name = text.removeprefix("sqlite:///")
    if name == text or not name or name.endswith("/") or re.search(r"[?#\0]|^:memory:$", name):
        scheme, _, rest = text.partition("://")
        if rest and scheme != "sqlite":  # what another database's address may carry is not quoted
            text = f"{scheme}://…"
        raise ValueError(f"is {shown(text)}")
    return f"sqlite:///{base / name}"


def _listed(raw: object) -> list[str]:
    if isinstance(raw, FromEnvironment):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if not isinstance(raw, list) or not all(isinstance(text, str) for text in raw):
        raise ValueError("is not a list of texts")
    return raw


def _origins(raw: object, base: Path) -> tuple[str, ...]:
    origins = _listed(raw)
    for origin in origins:
        if not _is_origin(origin):
            raise ValueError(f"has {shown(origin)}")
    return tuple(origins)


def networks(raw: object, base: Path) -> tuple[Network, ...]:
    """Some of all addresses. Raises `ValueError`."""
    return tuple(_network(text) for text in _listed(raw))


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"has {shown(text)}") from None
    if network.prefixlen == 0:
        raise ValueError(f"has {shown(text)}, which is everything")
    return network


def _is_origin(text: str) -> bool:
    """Whether a browser could send exactly this as `Origin` (RFC 6454 section 6.2)."""
    match = re.fullmatch(
        r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?", text, re.ASCII
    )
    if match is None:
        return False
    default_port = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}.get(match[1])
    return match[3] is None or (match[3] != default_port and int(match[3][1:]) <= 65535)


def _public(*schemes: str) -> Callable[[object, Path], str]:
    """A parser of the origin that a browser sees, with one of `schemes`."""

    def parse(raw: object, base: Path) -> str:
        text = must_be_text(raw)
        if not _is_origin(text) or not text.startswith(tuple(f"{s}://" for s in schemes)):
            raise ValueError(f"is {shown(text)}")
        return text

    return parse


def _text(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    if not text or len(text) > 65536:
        raise ValueError("is empty" if not text else "is too long")
    return text


def _url(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    # What is wrong is not quoted: an address may carry a credential.
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("https", "http") or not url.hostname or port == 0:
        raise ValueError("is not an https URL")
    if not (is_host(url.hostname) or _is_ipv6(url.hostname)):
        raise ValueError("has a host name that cannot be one")
    if url.username is not None or url.password is not None:
        raise ValueError("has a user name or password in it")
    if url.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has a fragment, a space or a character that a URL cannot have")
    return url.scheme + text[len(url.scheme) :]  # in small letters, as it is asked for from now on


def _ca_file(raw: object, base: Path) -> Path:
    path = base / must_be_text(raw)
    try:
        load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read ({path}: {error.strerror})") from None
    except ValueError:
        raise ValueError(f"holds no PEM certificate ({path})") from None
    return path


def convert(raw: Any, kind: Any) -> Any:
    """`raw` as a value of that `kind`. Raises ValueError, for NaN too: every number has bounds."""
    lenient = isinstance(raw, FromEnvironment)
    try:
        return msgspec.convert(str(raw) if lenient else raw, kind, strict=not lenient)
    except msgspec.ValidationError:
        raise ValueError(f"is {shown(raw)}") from None


def shown(raw: object) -> str:
    """A value as errors quote it: not at length."""
    text = repr(str(raw)) if isinstance(raw, str) else repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def meta(expected: str, parse: Any = None, *, sourced: bool = False) -> Meta:
    return Meta(description=expected, extra={"parse": parse, "sourced": sourced})


def one_of(kind: type[StrEnum]) -> Meta:
    """One of a few words."""
    *others, last = (f'"{word}"' for word in kind)
    return Meta(description=f"{', '.join(others)} or {last}")


_AES_KEY = "the base64 of 32 random bytes, such as `ringback keys new` prints"
_KEY_TEXT = "key material, or its file by <name>_file"
_SECONDS = "a number of seconds above 0, at most 86400"
_WAIT = "a number of seconds above 0.01, at most 86400"

Listen = Annotated[Address, meta('"host:port", such as "127.0.0.1:8080"', _address)]
SqliteUrl = Annotated[str, meta('"sqlite:///file.db" or "sqlite:////path/file.db"', _sqlite_url)]
Seconds = Annotated[float, Meta(gt=0, le=86400, description=_SECONDS)]
# In which somebody else is to answer: less is none, and to look for it takes the loop all its time.
Wait = Annotated[float, Meta(gt=0.01, le=86400, description=_WAIT)]
HourAtMost = Annotated[
    float, Meta(gt=0, le=3600, description="a number of seconds above 0, at most 3600")
]
Leeway = Annotated[float, Meta(ge=0, le=30, description="a number of seconds from 0 to 30")]
Count = Annotated[
    int, Meta(ge=1, le=1_000_000_000, description="a whole number from 1 to 1000000000")
]
FrameBytes = Annotated[
    int, Meta(ge=1024, le=16_777_216, description="a whole number from 1024 to 16777216")
]
Origins = Annotated[
    tuple[str, ...], meta('exact origins, such as "https://app.acme.example"', _origins)
]
Networks = Annotated[tuple[Network, ...], meta('networks such as "10.20.0.0/16"', networks)]
WebOrigin = Annotated[
    str | None,
    meta('the origin of a web page, such as "https://chat.acme.example"', _public("https", "http")),
]
SocketOrigin = Annotated[
    str | None,
    meta('a WebSocket origin, such as "wss://chat.acme.example"', _public("wss", "ws")),
]
Text = Annotated[str, meta("a text that is not empty", _text)]
OptionalText = Annotated[str | None, meta("a text that is not empty", _text)]
Required = Annotated[Secret, meta("a secret text", read_secret, sourced=True)]
OptionalSecret = Annotated[Secret | None, meta("a secret text", read_secret, sourced=True)]
EncryptionKey = Annotated[Secret | None, meta(_AES_KEY, _encryption_key, sourced=True)]
KeyText = Annotated[str | None, meta(_KEY_TEXT, _text, sourced=True)]
Lifetime = Annotated[float, meta('a duration such as "45s", "30m", "24h" or "7d"', _duration)]
Url = Annotated[str, meta('an address such as "https://push.acme.example/ring"', _url)]
CaFile = Annotated[Path | None, meta("a file of PEM certificates", _ca_file)]
Flag = Annotated[bool, Meta(description="true or false")]
