"""A running gateway's HTTP API, as commands call it: with a service token.

The address and the token come from options or the environment; without a token, one is made with
the configuration's secret, as `ringback token` does. What goes wrong is one clear line.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import msgspec
import orjson
import typer

from gateway import auth
from gateway.commands.common import fail, load, run_async, tenant_of
from gateway.protocol import Role

if TYPE_CHECKING:
    import aiohttp  # for most commands nobody is called, and to import it takes long

R = TypeVar("R")

AUTHOR = "ringback-cli"
TTL = 3_600.0  # seconds for which a token of ours is good; each call has a new one

Url = Annotated[
    str | None,
    typer.Option(envvar="RINGBACK_URL", help="Of the HTTP API; else the configuration says it."),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="RINGBACK_TOKEN",
        help="A service token, better in the environment; else one is made (HS256 only).",
    ),
]


class Failed(Exception):
    """A call without a good answer. `passing` if the same one may have it in a while."""

    passing = True


class Refused(Failed):
    """The gateway said no. `detail` is its reason, one line."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.passing = status in (502, 503, 504)  # of a proxy too, while the gateway starts


class Unreachable(Failed):
    """There was no answer."""


def run(call: Coroutine[Any, Any, R]) -> R:
    """Run, and say in one line what the gateway refused or that it does not answer."""
    try:
        return run_async(call)
    except Failed as error:
        fail(str(error))


class Access(NamedTuple):
    """Where the API is, and a token for each call."""

    url: str
    token: Callable[[], str]
    made_by: str = "the one in --token or RINGBACK_TOKEN"


def access(
    config_path: Path | None, tenant: str | None, url: str | None, token: str | None
) -> Access:
    """From what was given. Fails with one line."""
    token = token.strip() if token is not None else None  # a file's text ends with a line
    if token is not None and not token.isprintable():
        fail("--token: this is no token: it has characters that none has")
    if url is not None and token is not None:
        return Access(_base(url), lambda: token)
    settings = load(config_path)
    at = settings.server.http
    if url is None and not at.port:
        fail("--url: the configuration has port 0; say where the HTTP API is, http://HOST:PORT")
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    here = _base(url or f"http://{at._replace(host=everywhere.get(at.host, at.host))}")
    if token is not None:
        return Access(here, lambda: token)
    chosen = tenant_of(settings, tenant)

    def made() -> str:
        return auth.issue(settings, chosen, Role.SERVICE, AUTHOR, ttl=TTL)

    try:
        made()
    except auth.CannotIssue as error:
        fail(f"{error}: give one of a service in RINGBACK_TOKEN")
    whose = f"the tenant {chosen} of {config_path}"
    if config_path is None:
        whose = "the development tenant: give --config, or a token in RINGBACK_TOKEN"
    return Access(here, made, f"made for {whose}")


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        fail("--url: give http://HOST:PORT or https://HOST")
    return url.rstrip("/")


class Service:
    """Calls as a service. `async with Service(access) as service:`."""

    def __init__(self, to: Access) -> None:
        self._to = to
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=120.0)
        self._http = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def call(self, method: str, path: str, like: type[R], **options: Any) -> R:
        """The JSON of a good answer, which is `like` what the caller reads of it.

        Raises `Refused` or `Unreachable`.
        """
        import aiohttp

        assert self._http is not None  # noqa: S101  (for mypy: within `async with`)
        headers = {"Authorization": f"Bearer {self._to.token()}", **options.pop("headers", {})}
        url = self._to.url + path
        try:
            async with self._http.request(method, url, headers=headers, **options) as answer:
                raw, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
            raise Unreachable(
                f"no answer from {self._to.url} ({type(error).__name__}): is the gateway running,"
                " and is this its HTTP API?"
            ) from None
        told = _json(raw)
        if status >= 400 or not _is(told, like):
            detail = told.get("detail") if isinstance(told, dict) and status >= 400 else None
            if status == 401 and detail:
                detail = f"{detail}; it was {self._to.made_by}"
            strange = (
                f"{self._to.url} answered HTTP {status}, not as the HTTP API does: is this its"
                " address, and is the gateway running behind it?"
            )
            raise Refused(status, str(detail or strange))
        answered: R = told
        return answered


async def ask(to: Access, method: str, path: str, like: type[R]) -> R:
    """One call by itself: as `Service.call`."""
    async with Service(to) as service:
        return await service.call(method, path, like)


def in_path(id: str) -> str:
    """An id as part of a path, of whatever bytes it was given."""
    return quote(id, safe="", errors="surrogateescape")


def _is(told: object, like: type[Any]) -> bool:
    try:
        msgspec.convert(told, like)
    except msgspec.ValidationError:
        return False
    return True


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
