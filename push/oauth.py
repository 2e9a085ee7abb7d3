"""OAuth2 client credentials: the request for a token, and what the answer to it means.

Decides what is sent to a token endpoint, which answers are a token, for how long it is good, and
whether a failure may pass. Leaves the call to `push.caller`, keeping tokens to `push.tokens`. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from push.credentials import OAuth, basic
from push.ring import PushError
from push.verdicts import PASSING, Answer, Failure

LEEWAY: Final = 30.0  # seconds before its end at which a token is not used any more
DEFAULT_SECONDS: Final = 300.0  # of a token whose answer does not tell (RFC 6749: it may not)
LONGEST: Final = 86_400.0
_CODES: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)


class NoToken(PushError):
    """No token was to be had. `failure` is what that means for the ring; `code` is for the log:
    the error code of RFC 6749 if the endpoint gave one, else the status or what broke.
    """

    def __init__(self, failure: Failure, code: str) -> None:
        super().__init__(f"{failure.value} ({code})")
        self.failure = failure
        self.code = code


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and for how many seconds after it came it may be used. Never shown."""

    text: str = field(repr=False)
    seconds: float


def token_request(oauth: OAuth) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the request for a token (RFC 6749, sections 4.4.2 and 2.3.1)."""
    form = {"grant_type": "client_credentials"}
    if oauth.scope is not None:
        form["scope"] = oauth.scope
    if oauth.audience is not None:
        form["audience"] = oauth.audience
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if oauth.in_body:
        form |= {"client_id": oauth.client_id, "client_secret": oauth.client_secret}
    else:
        user, password = quote_plus(oauth.client_id), quote_plus(oauth.client_secret)
        headers["Authorization"] = basic(user, password)
    return headers, urlencode(form).encode()


def read_token(answer: Answer) -> Token:
    """Return the token of an answer. Raises `NoToken`."""
    if not 200 <= answer.status <= 299:
        raise _refused(answer)
    if answer.body is None:
        raise NoToken(Failure.TOKEN_UNAVAILABLE, "the answer was cut off, or too long")
    told = _object(answer.body)
    text, kind = told.get("access_token"), told.get("token_type", "Bearer")
    if not isinstance(text, str) or not text or not all("!" <= c <= "~" for c in text):
        raise NoToken(Failure.TOKEN_UNREADABLE, "no access_token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NoToken(Failure.TOKEN_UNREADABLE, "token_type is not Bearer")
    return Token(text, _seconds(told.get("expires_in")))


def _seconds(expires_in: Any) -> float:
    """Return how long a token is used: up to a little before its end, at least half of its time."""
    if isinstance(expires_in, str) and re.fullmatch("[0-9]{1,18}", expires_in):
        expires_in = int(expires_in)  # seen of some servers
    whole = DEFAULT_SECONDS
    if isinstance(expires_in, int | float) and not isinstance(expires_in, bool):
        whole = min(max(float(expires_in), 0.0), LONGEST)
    return max(whole - LEEWAY, whole / 2)


def _refused(answer: Answer) -> NoToken:
    code = _object(answer.body).get("error")
    told = code if isinstance(code, str) and code in _CODES else f"http_{answer.status}"
    if answer.status >= 500 or answer.status in PASSING:
        return NoToken(Failure.TOKEN_UNAVAILABLE, told)
    return NoToken(Failure.TOKEN_REFUSED, told)


def _object(body: bytes | None) -> dict[str, Any]:
    try:
        told = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
