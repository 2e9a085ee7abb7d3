"""Who is this? From a JSON Web Token to an `Identity`, or to a reason for refusing.

Decides: whether a token is accepted, for which tenant, role and person, and until when. Leaves to
others: which keys a tenant has (`gateway.config.auth`); what that person may do (the callers
compare `Identity.role` and `Identity.tenant`); which header or frame has it; what the refused
client is told (always the same close code: a `TokenRejected.reason` is for our own metrics and
logs, never for the wire).

How a token is judged, in this order; the first failure is the reason:

1. size and shape: three base64url segments, header and claims are JSON objects;
2. the header asks for nothing: `crit`, `b64` and every header that carries or points to a key
   (`jku`, `jwk`, `x5u`, `x5c`) is refused;
3. the tenant, from the claim that is not verified yet. From here on only that tenant's own
   algorithm and keys count. The header's `alg` must *equal* the tenant's, it never chooses; its
   `kid` is a key of a dict of the tenant's own keys, nothing else;
4. the signature (RFC 7515), by PyJWT's algorithms;
5. the claims (RFC 7519), against the `now` that the caller gives: no clock is read here.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import jwt
import msgspec

from gateway.config.auth import Algorithm, KeySet, read_keys
from gateway.config.sections import Config, Tenant
from gateway.protocol import ID_CHARS, LATEST, UNFIT, Role
from push.content import is_blank

MAX_TOKEN_CHARS: Final = 8 * 1024
_LATEST: Final = int(LATEST.timestamp())


class Refusal(StrEnum):
    """Why a token was refused. For metrics and logs; the client is not told."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    FORBIDDEN_HEADER = "forbidden_header"
    UNKNOWN_TENANT = "unknown_tenant"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    MISSING_CLAIM = "missing_claim"
    BAD_CLAIM = "bad_claim"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    UNKNOWN_ROLE = "unknown_role"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"


class AuthError(Exception):
    """Base of this module's own errors."""


class TokenRejected(AuthError):
    """A token is not accepted. Never holds any part of it.

    `claim` is the name of the offending claim or header, one of ours, where there is one.
    """

    def __init__(self, reason: Refusal, claim: str | None = None) -> None:
        super().__init__(reason.value if claim is None else f"{reason.value} ({claim})")
        self.reason = reason
        self.claim = claim


class CannotIssue(AuthError):
    """A token was asked for that this server cannot, or must not, sign."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for. `expires_at` is the token's `exp`, in epoch seconds."""

    tenant: str
    role: Role
    sub: str
    name: str | None
    expires_at: float


# --- verifying --------------------------------------------------------------------------------

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_FORBIDDEN_HEADERS: Final = ("crit", "b64", "jku", "jwk", "x5u", "x5c")
_Claims = Mapping[str, object]


class _Parsed(NamedTuple):
    header: _Claims
    claims: _Claims
    signed: bytes
    signature: bytes


class Verifier:
    """Judges tokens for the given tenants. Keys are parsed once, here; raises `KeyRejected`."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self.take_up(tenants)

    def take_up(self, tenants: Mapping[str, Tenant]) -> None:
        """Judge by these keys from now on; raises `KeyRejected`, and then nothing has changed.

        Sessions that are open stay so until their tokens end.
        """
        self._tenants = {
            name: (tenant.auth, read_keys(tenant.auth)) for name, tenant in tenants.items()
        }

    def leeway(self, tenant: str) -> float:
        """For how many seconds after its end a token of this tenant is accepted."""
        return self._tenants[tenant][0].leeway

    def verify(self, token: str, now: float) -> Identity:
        """The identity that `token` proves at `now` (epoch seconds).

        Raises `TokenRejected`, and nothing else, whatever the token is.
        """
        parsed = _parse(token)
        tenant = _text(parsed.claims, "tenant")
        if tenant not in self._tenants:
            raise TokenRejected(Refusal.UNKNOWN_TENANT)
        auth, keys = self._tenants[tenant]
        _check_signature(parsed, keys)
        expires_at = _check_times(parsed.claims, now, auth.leeway)
        _check_audience(parsed.claims, auth.audience)
        _check_issuer(parsed.claims, auth.issuer)
        return Identity(
            tenant=tenant,
            role=_role(parsed.claims),
            sub=_text(parsed.claims, "sub"),
            name=_name(parsed.claims),
            expires_at=expires_at,
        )


def bearer(authorization: str) -> str | None:
    """The token in an `Authorization` header (RFC 6750, section 2.1); None if there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _parse(token: str) -> _Parsed:
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected(Refusal.OVERSIZED)
    if _COMPACT.fullmatch(token) is None:
        raise TokenRejected(Refusal.MALFORMED)
    signed, _, signature = token.rpartition(".")
    header, _, claims = signed.partition(".")
    parsed = _Parsed(_object(header), _object(claims), signed.encode(), _base64url(signature))
    for name in _FORBIDDEN_HEADERS:
        if name in parsed.header:
            raise TokenRejected(Refusal.FORBIDDEN_HEADER, name)
    return parsed


def _base64url(segment: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise TokenRejected(Refusal.MALFORMED) from None


def _object(segment: str) -> _Claims:
    try:
        return msgspec.json.decode(_base64url(segment), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise TokenRejected(Refusal.MALFORMED) from None


def _check_signature(parsed: _Parsed, keys: KeySet) -> None:
    if parsed.header.get("alg") != keys.algorithm.value:
        raise TokenRejected(Refusal.WRONG_ALGORITHM)
    kid = parsed.header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise TokenRejected(Refusal.MALFORMED, "kid")
    found = keys.find(kid)
    if not found:
        raise TokenRejected(Refusal.UNKNOWN_KEY)
    if not any(keys.verify(key, parsed.signed, parsed.signature) for key in found):
        raise TokenRejected(Refusal.BAD_SIGNATURE)


def _check_times(claims: _Claims, now: float, leeway: float) -> float:
    """`exp`, when the token is valid at `now`, give or take the leeway."""
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenRejected(Refusal.MISSING_CLAIM, "exp")
    if now >= expires_at + leeway:
        raise TokenRejected(Refusal.EXPIRED)
    for name in ("nbf", "iat"):
        since = _time(claims, name)
        if since is not None and now < since - leeway:
            raise TokenRejected(Refusal.NOT_YET_VALID, name)
    return expires_at


def _time(claims: _Claims, name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    # bool is an int to Python, not to JSON
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRejected(Refusal.BAD_CLAIM, name)
    if not 0 <= value <= _LATEST or not math.isfinite(value):
        raise TokenRejected(Refusal.BAD_CLAIM, name)
    return float(value)


def _check_audience(claims: _Claims, audience: str) -> None:
    if "aud" not in claims:
        raise TokenRejected(Refusal.MISSING_CLAIM, "aud")
    given = claims["aud"]
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(entry, str) for entry in given):
        raise TokenRejected(Refusal.BAD_CLAIM, "aud")
    if audience not in given:
        raise TokenRejected(Refusal.WRONG_AUDIENCE)


def _check_issuer(claims: _Claims, issuer: str | None) -> None:
    if issuer is not None and claims.get("iss") != issuer:
        raise TokenRejected(Refusal.WRONG_ISSUER)


def _role(claims: _Claims) -> Role:
    role = _text(claims, "role")
    if role not in list(Role):
        raise TokenRejected(Refusal.UNKNOWN_ROLE)
    return Role(role)


def _name(claims: _Claims) -> str | None:
    """A display name in which nothing would be seen, or that is null, is none."""
    if claims.get("name") in (None, ""):
        return None
    name = _text(claims, "name")
    return None if is_blank(name) else name


def _text(claims: _Claims, name: str) -> str:
    if name not in claims:
        raise TokenRejected(Refusal.MISSING_CLAIM, name)
    value = claims[name]
    if not isinstance(value, str) or not is_clean(value):
        raise TokenRejected(Refusal.BAD_CLAIM, name)
    return value


def is_clean(text: str) -> bool:
    """1 to 128 characters, no control character, nothing that UTF-8 cannot carry."""
    return 0 < len(text) <= ID_CHARS and UNFIT.search(text) is None


# --- issuing ----------------------------------------------------------------------------------


def issue(
    config: Config,
    tenant: str,
    role: Role,
    sub: str,
    *,
    name: str | None = None,
    ttl: float,
    now: float | None = None,
) -> str:
    """A token that `Verifier` accepts for `ttl` seconds, for trying things out and for tests.

    Only for HS256 tenants: with the other algorithms the private key is the tenant's alone.
    `now` (epoch seconds) is the system clock's unless given. Raises `CannotIssue`.
    """
    section = config.tenants.get(tenant)
    if section is None:
        raise CannotIssue(f"there is no tenant {tenant!r}; there is: {', '.join(config.tenants)}")
    if section.auth.algorithm is not Algorithm.HS256:
        raise CannotIssue(
            f"tenant {tenant!r} signs with {section.auth.algorithm}: its tokens come from its own"
            " private key, which this server does not have"
        )
    if not is_clean(sub) or not (name is None or is_clean(name)):
        raise CannotIssue("sub and name have 1 to 128 characters and no control characters")
    issued_at = int(time.time() if now is None else now)
    if role not in list(Role) or not 0 < ttl <= _LATEST - issued_at:
        raise CannotIssue(
            "a token has a role of customer, agent or service, and a ttl above 0 that ends before"
            " the year 10000"
        )
    claims: dict[str, object] = {
        "sub": sub,
        "tenant": tenant,
        "role": role.value,
        "aud": section.auth.audience,
        "iat": issued_at,
        "exp": issued_at + math.ceil(ttl),
    }
    if name is not None:
        claims["name"] = name
    if section.auth.issuer is not None:
        claims["iss"] = section.auth.issuer
    return jwt.encode(claims, read_keys(section.auth).unnamed[0], algorithm=Algorithm.HS256.value)
