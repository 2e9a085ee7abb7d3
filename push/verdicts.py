"""What a customer backend's answer means for one ring.

Decides the verdict from the answer alone. Leaves to `push.caller` how the answer was got, to
`push.retry` when to try again, to the book what a verdict does to device and messages. Pure.

Once a status line has arrived the status decides: a body that is garbage, cut off, longer than
64 KiB or still unfinished when the total time is up (`body` is None then) cannot undo a 2xx. The
backend did accept; calling again would risk a double on the phone. A whole body can say one
thing, and that beats every status: `{"rejected": [token]}`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
import orjson

from push.ring import ACCEPTED, RETRIED, Verdict, VerdictKind

RETRY_AFTER_MOST: Final = 3600.0
PASSING: Final = frozenset({408, 425, 429})  # the HTTP 4xx that pass by themselves
_MISCONFIGURED_STATUSES: Final = frozenset({401, 403, 404})
REJECTED: Final = "rejected"  # the reason of a verdict, if the body lists the token
REDIRECT: Final = "redirect"  # the same, if the status is one


class Failure(StrEnum):
    """Why there is no status at all."""

    TIMEOUT = "timeout"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT = "connect"
    DNS = "dns"
    RESET = "reset"
    BAD_HTTP = "bad_http"
    INTERNAL = "internal"
    MOVED = "moved"  # nothing was called: the registration is another by now
    TLS = "tls"
    CA_FILE = "ca_file"
    URL = "url"
    ADDRESS = "forbidden_address"
    ADAPTER = "adapter"
    UNWRITABLE = "unwritable"
    CLIENT_CERTIFICATE = "client_certificate"
    TOKEN_UNAVAILABLE = "token_unavailable"  # noqa: S105  (failures' names, as the next ones)
    TOKEN_REFUSED = "token_refused"  # noqa: S105
    TOKEN_UNREADABLE = "token_unreadable"  # noqa: S105
    TOKEN_TLS = "token_tls"  # noqa: S105
    SIGNING_SECRET = "signing_secret"  # noqa: S105  (a failure's name)


NOT_SENT: Final = frozenset(
    {
        Failure.CONNECT_TIMEOUT,
        Failure.CONNECT,
        Failure.DNS,
        Failure.MOVED,
        Failure.CA_FILE,
        Failure.URL,
        Failure.ADDRESS,
        Failure.ADAPTER,
        Failure.UNWRITABLE,
        Failure.TOKEN_UNAVAILABLE,
        Failure.TOKEN_REFUSED,
        Failure.TOKEN_UNREADABLE,
        Failure.TOKEN_TLS,
        Failure.SIGNING_SECRET,
    }
)
"""After these no request had left that was not answered: nobody can have been rung by it. TLS may
fail after it has, by an alert (RFC 8446, 6.2)."""


class Answer(msgspec.Struct, frozen=True):
    """What came back over HTTP. `body` is None unless it arrived whole and within 64 KiB."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes | None = None

    def __repr__(self) -> str:
        """Leave out what the backend said."""
        return f"Answer(status={self.status})"


def judge(outcome: Answer | Failure, token: str, now: float) -> Verdict:
    """Return the verdict on `outcome` for the device `token`; `now` (epoch s) dates Retry-After."""
    if not isinstance(outcome, Answer):
        return Verdict(_by_failure(outcome), outcome.value)
    status = outcome.status
    if lists_token(outcome.body, token):
        return Verdict(VerdictKind.TOKEN_DEAD, REJECTED, status)
    reason = REDIRECT if 300 <= status <= 399 else f"http_{status}"
    return verdict_of(outcome, _by_status(status), reason, now)


def verdict_of(answer: Answer, kind: VerdictKind, reason: str, now: float) -> Verdict:
    """Return `kind` as the verdict on an answer, with its Retry-After where that counts."""
    wait = retry_after(answer.headers, now) if kind in RETRIED else None
    return Verdict(kind, reason, answer.status, wait)


def checked(told: Any) -> Verdict:
    """Return what somebody's adapter made of an answer as a verdict that can be acted upon.

    Raises `AttributeError` or `msgspec.ValidationError` if it is none.
    """
    fields = {name: getattr(told, name) for name in Verdict.__struct_fields__}
    verdict = msgspec.convert(fields, Verdict)
    if verdict.retry_after is None:
        return verdict
    wait = min(max(0.0, verdict.retry_after), RETRY_AFTER_MOST)
    return msgspec.structs.replace(verdict, retry_after=wait)


def _by_failure(failure: Failure) -> VerdictKind:
    if failure is Failure.UNWRITABLE:  # it will not be another time either
        return VerdictKind.REFUSED
    return VerdictKind.MISCONFIGURED if failure in _ADVICE else VerdictKind.RETRY


def _by_status(status: int) -> VerdictKind:
    if 200 <= status <= 299:
        return ACCEPTED
    if status == 410:
        return VerdictKind.TOKEN_DEAD
    if 300 <= status <= 399 or status in _MISCONFIGURED_STATUSES:
        return VerdictKind.MISCONFIGURED
    if 400 <= status <= 499 and status not in PASSING:
        return VerdictKind.REFUSED
    return VerdictKind.RETRY  # 408, 425, 429, 5xx, and numbers that are no HTTP status at all


def is_unauthorised(verdict: Verdict) -> bool:
    """Tell whether the backend refused our credentials, so that others are worth one try."""
    return verdict.kind is VerdictKind.MISCONFIGURED and verdict.status in (401, 403)


def lists_token(body: bytes | None, token: str) -> bool:
    """Tell whether `body` is JSON whose `rejected` list names this token."""
    if not body:
        return False
    try:
        parsed: Any = orjson.loads(body.removeprefix(BOM_UTF8))  # RFC 8259, section 8.1
    except orjson.JSONDecodeError:
        return False
    rejected = parsed.get("rejected") if isinstance(parsed, dict) else None
    return isinstance(rejected, list) and token in rejected


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return `Retry-After` in seconds, 0 to one hour; None without one or for garbage.

    Both forms of RFC 9110 section 10.2.3: delta seconds, and an HTTP date.
    """
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), RETRY_AFTER_MOST)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:  # "-0000": a UTC time from an unknown zone (RFC 5322 section 3.3)
        date = date.replace(tzinfo=UTC)
    return min(max(date.timestamp() - now, 0.0), RETRY_AFTER_MOST)


# Of which failures an operator has to do something, and what: these do not pass by themselves.
_ADVICE: Final[Mapping[str, str]] = {
    REDIRECT: "set the tenant's push endpoint to the final address; redirects are not followed",
    "http_401": "the backend does not accept our credentials: check the tenant's push auth_token,"
    " signing_secret and credentials",
    "http_403": "the backend forbids our credentials: check the tenant's push auth_token,"
    " signing_secret and credentials",
    "http_404": "check the path of the tenant's push endpoint",
    Failure.TLS: "the backend's certificate is not trusted; renew it, or set the tenant's ca_file",
    Failure.CA_FILE: "the tenant's ca_file cannot be read as PEM certificates",
    Failure.URL: "the tenant's push endpoint is no usable http or https address",
    Failure.ADDRESS: "the endpoint's name leads inside our network: check it with whoever runs its"
    " DNS; if the backend is meant to be there, name its network in the tenant's allow_networks",
    Failure.ADAPTER: "the tenant's push adapter or its options cannot be used; see check-config",
    Failure.CLIENT_CERTIFICATE: "the tenant's client certificate or its key cannot be used, or the"
    " backend wants one and has not got it, or does not take it",
    Failure.TOKEN_REFUSED: "the token endpoint does not accept the tenant's OAuth2 client: check"
    " token_url, client_id, client_secret and scope",
    Failure.TOKEN_UNREADABLE: "what the token endpoint answers is no OAuth2 token; check token_url",
    Failure.TOKEN_TLS: "the token endpoint's certificate is not trusted; set the client's ca_file",
    Failure.SIGNING_SECRET: "the tenant's signing secret is not whsec_ followed by base64",
}


def advice(reason: str) -> str:
    """Return what an operator should do about a `misconfigured` verdict with this reason."""
    return _ADVICE.get(reason, "check the tenant's push settings")
