"""The HTTP call: one claim goes out, one verdict comes back, whatever the network does.

Decides the limits of a call (connect and total time, 64 KiB of answer, no redirect, no cookie, no
proxy, no decompression), and when a call is worth a second one with a new OAuth2 token. Leaves the
request and its meaning to the adapter, which failure a broken call was to `push.failures`, the
number of calls at a time to `push.worker`, and which addresses may be connected to to `push.guard`.
Every failure becomes a verdict; only cancellation comes out.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from yarl import URL

from push import content, credentials, guard, signing, verdicts
from push.adapters import Adapter, Request, adapter_named
from push.credentials import OAuth
from push.failures import failure_of, forget_frames, where
from push.names import Names
from push.oauth import NoToken, Token, read_token, token_request
from push.ring import Claim, Endpoint, Moved, Ring, Verdict
from push.tls import Contexts
from push.tokens import Tokens
from push.verdicts import Answer, Failure, advice, is_unauthorised

ANSWER_BYTES: Final = 64 * 1024
HEARD_BYTES: Final = 2 * ANSWER_BYTES  # of an answer with all that is around its body
TOKEN_TIMEOUT: Final = 10.0  # seconds for a token, of those that a call may take
TOKEN_CONNECT_TIMEOUT: Final = 5.0

_log = structlog.get_logger("push.caller")

# What a broken call to a token endpoint means for the ring; any other may pass.
_AT_TOKENS: Final = {
    Failure.TLS: Failure.TOKEN_TLS,
    Failure.CA_FILE: Failure.TOKEN_TLS,
    Failure.URL: Failure.TOKEN_REFUSED,
    Failure.INTERNAL: Failure.INTERNAL,
}

T = TypeVar("T")
Judge = Callable[[Answer | Failure, str, float], Verdict]


class _UnderWay(msgspec.Struct):
    """What is known of one call where aiohttp connects for it.

    `stands`: whether it may still be made; `refused`: the addresses that were refused to it, of
    which aiohttp merges the errors.
    """

    stands: Callable[[], bool]
    refused: list[guard.AddressRefused] = []


_under_way: ContextVar[_UnderWay] = ContextVar("under_way")


class Signed(msgspec.Struct, frozen=True):
    """A request ready to leave. Never shown: it holds the token and the signature.

    `pause` (seconds, in the middle of the body) is for those who test backends.
    """

    url: str | URL
    headers: Mapping[str, str]
    body: bytes
    pause: float = 0.0

    def __repr__(self) -> str:
        """Leave everything out."""
        return "Signed()"


class Exchange(msgspec.Struct, frozen=True):
    """One call as it went; `sent` is None when no request could be made. `ms` is its duration."""

    sent: Signed | None
    came: Answer | Failure
    verdict: Verdict
    ms: float


def _as_it_is(signed: Signed) -> Signed:
    return signed


class _Answering(ResponseHandler):
    """Hears no more of one answer than is read of it, and its head and frames.

    A backend may say interim answers (RFC 9110, section 15.2) and empty lines as fast as it can,
    and all that has come is read in one turn of the loop: the gateway stood still for the timeout.
    """

    heard = 0
    """Bytes since the connection was given to the call under way."""

    def data_received(self, data: bytes) -> None:
        if self.heard <= HEARD_BYTES:
            self.heard += len(data)
            super().data_received(data)
        elif self.transport is not None:
            self.set_exception(HttpProcessingError(message="no end of what is no answer"))
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Gives a connection only to a call that may still be made: its request leaves at once, and
    what it waited for (a token, a name, the connection) is behind it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        answering: Callable[..., ResponseHandler] = _Answering
        self._factory = partial(answering, loop=asyncio.get_running_loop())

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        assert isinstance(connection.protocol, _Answering)  # noqa: S101  (for mypy: as made above)
        connection.protocol.heard = 0
        if not _under_way.get().stands():
            connection.release()
            raise Moved
        return connection


class Caller:
    """Calls customer backends over kept-alive connections.

    Make it inside a running loop and `close` it (or use `async with`) after the worker drained.
    There is one pool of connections for each set of allowed networks: a connection into a network
    that one tenant may reach is never taken for another's call. The pools have no limit: a limit
    shared by all tenants would let one slow backend hold up the others. What bounds them is each
    tenant's `in_flight`. `resolver` is `push.names` unless given.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or Names()
        self._sessions: dict[frozenset[guard.Network], aiohttp.ClientSession] = {}
        self._closed = False
        self._contexts = Contexts()
        self._tokens = Tokens(self._token)
        self._told: set[tuple[str, str, guard.Refusal]] = set()

    async def __aenter__(self) -> Self:
        """Return itself; the connections are made by the calls."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, as `close` does."""
        await self.close()

    async def close(self) -> None:
        """Close every connection. Calls still under way end as retry."""
        self._closed = True
        await self._tokens.close()
        for session in self._sessions.values():
            await session.close()

    def _session(self, allowed: frozenset[guard.Network]) -> aiohttp.ClientSession:
        """Return the session whose connections reach the public internet and `allowed`."""
        if self._closed:
            raise RuntimeError("the caller is closed")
        if allowed not in self._sessions:
            self._sessions[allowed] = self._reaching(allowed)
        return self._sessions[allowed]

    def _reaching(self, allowed: frozenset[guard.Network]) -> aiohttp.ClientSession:
        def socket_of(info: guard.AddrInfo) -> socket.socket:
            try:
                return guard.socket_of(info, allowed)
            except guard.AddressRefused as error:
                _under_way.get().refused.append(error)
                raise

        return aiohttp.ClientSession(
            connector=_Connector(limit=0, resolver=self._resolver, socket_factory=socket_of),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": "ringback", "Accept-Encoding": "identity"},
        )

    def read_files_anew(self) -> None:
        """Take up certificates that were changed on disk, with the next call."""
        self._contexts.forget()
        self._told.clear()

    async def call(self, endpoint: Endpoint, claim: Claim, now: float) -> tuple[Verdict, float]:
        """POST `claim` to `endpoint` and return the verdict and the milliseconds it took.

        `now` (epoch s) dates the signature. Raises nothing but `CancelledError`.
        """
        exchange = await self.exchange(endpoint, claim, now)
        return exchange.verdict, exchange.ms

    async def exchange(
        self,
        endpoint: Endpoint,
        claim: Claim,
        now: float,
        alter: Callable[[Signed], Signed] = _as_it_is,
    ) -> Exchange:
        """Do as `call` does, and return what was sent and what came, for those who test backends.

        `alter` may spoil the request after it was signed, to see whether the backend notices.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + endpoint.timeout
        judge: Judge = verdicts.judge  # reads the failure of a call that has no adapter
        sent: Signed | None = None
        came: Answer | Failure
        under_way = _UnderWay(claim.stands)
        _under_way.set(under_way)

        def post(token: str | None) -> Awaitable[Answer]:
            """With the present OAuth2 token, or with none."""
            nonlocal sent
            sent = alter(_signed(request, endpoint, claim.ring.id, now, token))
            return self._post(
                sent, endpoint.allow_networks, tls, endpoint.connect_timeout, deadline
            )

        def verdict_on(outcome: Answer | Failure) -> Verdict:
            return _judged(judge, outcome, endpoint, claim, now)

        try:
            adapter = adapter_named(endpoint.adapter, endpoint.options)
            judge = adapter.verdict
            request = _written(adapter, endpoint, claim)
            tls = self._contexts.of(endpoint.ca_file, endpoint.credentials.certificate)
            oauth = endpoint.credentials.oauth
            calling = self._authorised(oauth, post, verdict_on, deadline) if oauth else post(None)
            came = await calling
        except Exception as error:  # a bug may cost this attempt, never the device
            came = self._failure(error, endpoint, claim, under_way.refused)
            if came is Failure.MOVED:
                judge = verdicts.judge  # nothing was called: there is nothing that an adapter knows
            forget_frames(error)
        return Exchange(sent, came, verdict_on(came), (loop.time() - began) * 1000.0)

    def _failure(
        self,
        error: Exception,
        endpoint: Endpoint,
        claim: Claim,
        refused: list[guard.AddressRefused],
    ) -> Failure:
        """Which failure the call was that ended so; what its word does not say goes to the log."""
        failure = failure_of(error)
        if failure is Failure.CONNECT and refused:
            self._tell(endpoint, refused)
            return Failure.ADDRESS
        if failure is Failure.INTERNAL:
            broke = "push call broke; this is a fault of ringback or of the adapter"
            _tell_broken(broke, error, endpoint, claim)
        return failure

    def _tell(self, endpoint: Endpoint, refused: list[guard.AddressRefused]) -> None:
        """Say which address it was, which no verdict tells: once per backend and kind of it."""
        for error in refused:
            news = (endpoint.tenant, endpoint.backend.name, error.why)
            if news not in self._told:
                self._told.add(news)
                _log.error(
                    "the push endpoint has an address that may not be called",
                    address=error.address,
                    why=error.why.value,
                    advice=advice(Failure.ADDRESS),
                    **endpoint.named,
                )

    async def _authorised(
        self,
        oauth: OAuth,
        post: Callable[[str | None], Awaitable[Answer]],
        verdict_on: Callable[[Answer], Verdict],
        deadline: float,
    ) -> Answer:
        """Call with an OAuth2 token, and once more if a new one might change the answer."""
        token = await _token_by(deadline, self._tokens.token(oauth))
        answer = await post(token)
        if not is_unauthorised(verdict_on(answer)):
            return answer
        another = await _token_by(deadline, self._tokens.renewed(oauth, token))
        return answer if another is None else await post(another)

    async def _post(
        self,
        signed: Signed,
        allowed: frozenset[guard.Network],
        tls: ssl.SSLContext | bool,
        connect: float,
        deadline: float,
    ) -> Answer:
        """Return the answer, without its body when that did not arrive whole and in time."""
        response: aiohttp.ClientResponse | None = None
        body: bytes | None = None
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session(allowed).post(
                    signed.url,
                    data=_slowly(signed) if signed.pause else signed.body,
                    headers=signed.headers,
                    allow_redirects=False,
                    ssl=tls,
                    timeout=_limits(connect),
                )
                body = await _bounded(response.content)
        except Exception as error:
            if response is None:  # else the status has arrived, and stands whatever came after
                raise
            forget_frames(error)
        finally:
            if response is not None and not response.closed:  # its body was not read out
                response.close()
        return Answer(response.status, response.headers, body)

    async def _token(self, oauth: OAuth) -> Token:
        """Ask a token endpoint, for `Tokens`. Raises `NoToken`."""
        under_way = _UnderWay(lambda: True)  # the token is for others, too
        _under_way.set(under_way)  # this task's own
        deadline = asyncio.get_running_loop().time() + TOKEN_TIMEOUT
        headers, body = token_request(oauth)
        try:
            answer = await self._post(
                Signed(oauth.token_url, headers, body),
                oauth.allow_networks,
                self._contexts.of(oauth.ca_file, None),
                TOKEN_CONNECT_TIMEOUT,
                deadline,
            )
        except Exception as error:
            failure = failure_of(error)
            forget_frames(error)
            if failure is Failure.CONNECT and under_way.refused:
                first = under_way.refused[0]
                raise NoToken(Failure.ADDRESS, f"{first.address} {first.why}") from None
            raise NoToken(_AT_TOKENS.get(failure, Failure.TOKEN_UNAVAILABLE), failure) from None
        return read_token(answer)


async def _token_by(deadline: float, asked: Awaitable[T]) -> T:
    """What is asked for; a call that ends before has no token, and did not reach the backend."""
    try:
        async with asyncio.timeout_at(deadline):
            return await asked
    except TimeoutError:
        raise NoToken(Failure.TOKEN_UNAVAILABLE, Failure.TIMEOUT) from None


@lru_cache(maxsize=64)  # they never change, and every call needs them
def _limits(connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect)


def _judged(
    judge: Judge, outcome: Answer | Failure, endpoint: Endpoint, claim: Claim, now: float
) -> Verdict:
    """Read the answer as the adapter does; as everybody does, when the adapter breaks at it, or
    says what is no verdict.

    The backend has answered: to call again because somebody's code broke might ring twice.
    """
    if judge is verdicts.judge:
        return verdicts.judge(outcome, claim.target.token, now)
    try:
        return verdicts.checked(judge(outcome, claim.target.token, now))
    except Exception as error:
        _tell_broken("the push adapter broke at an answer", error, endpoint, claim)
        return verdicts.judge(outcome, claim.target.token, now)


def _tell_broken(what: str, error: Exception, endpoint: Endpoint, claim: Claim) -> None:
    """Not the error's text: it might quote a message."""
    _log.error(
        what,
        adapter=endpoint.adapter,
        ring=claim.ring.id,
        error=type(error).__name__,
        where=where(error),
        **endpoint.named,
    )


def _written(adapter: Adapter, endpoint: Endpoint, claim: Claim) -> Request:
    request = adapter.request(claim.ring, claim.target, endpoint)
    if not content.is_long(request):
        return request

    def measure(ring: Ring) -> Request:
        target = msgspec.structs.replace(claim.target, token=content.BESIDE)
        auth_token = endpoint.auth_token and content.BESIDE
        try:
            return adapter.request(ring, target, replace(endpoint, auth_token=auth_token))
        except Exception:  # an adapter may read tokens: then all of the request counts
            return adapter.request(ring, claim.target, endpoint)

    return content.fitted(
        lambda ring: adapter.request(ring, claim.target, endpoint), measure, claim.ring
    )


def _signed(
    request: Request, endpoint: Endpoint, ring: str, now: float, token: str | None
) -> Signed:
    headers = credentials.added(request.headers, endpoint.credentials, token)
    headers |= signing.headers(ring, now, request.body, endpoint.signing_secrets)
    url = endpoint.url if request.path is None else _at(endpoint.url, request.path)
    return Signed(url, headers, request.body)


def _at(endpoint: str, path: str) -> URL:
    """Return the place of an adapter's own path, percent-encoded already, at the endpoint."""
    if not path.startswith("/"):  # it would be read as more of the host's name
        raise ValueError("an adapter's path does not begin with /")
    scheme, host, *_ = urlsplit(endpoint)
    return URL(f"{scheme}://{host}{path}", encoded=True)


async def _slowly(signed: Signed) -> AsyncIterator[bytes]:
    half = len(signed.body) // 2
    yield signed.body[:half]
    await asyncio.sleep(signed.pause)
    yield signed.body[half:]


async def _bounded(content: aiohttp.StreamReader) -> bytes | None:
    """Return the whole body, or None when it is longer than an answer may be."""
    body = bytearray()
    while not content.at_eof():
        body += await content.read(ANSWER_BYTES + 1 - len(body))
        if len(body) > ANSWER_BYTES:
            return None
    return bytes(body)
