"""Who is this? From a JSON Web Token to an `Identity`, or to a reason for refusing.

Decides: whether a token is accepted, for which tenant, role and person, and until when; and
whether a tenant's key material can be used at all. Leaves to others: what that person may do
(the callers compare `Identity.role` and `Identity.tenant`), which header or frame has it, and what
the refused client is told (always the same close code: a `TokenRejected.reason` is for our own
metrics and logs, never for the wire).

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
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms

from gateway.protocol import ID_CHARS, LATEST, UNFIT, Role
from push.content import is_blank

if TYPE_CHECKING:
    from gateway.config.sections import Auth, Config, Tenant
    from gateway.config.values import Secret

MAX_TOKEN_CHARS: Final = 8 * 1024
MIN_SECRET_BYTES: Final = 32  # RFC 7518 section 3.2
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
_LATEST: Final = int(LATEST.timestamp())


class Algorithm(StrEnum):
    """How a tenant's tokens are signed. One per tenant."""

    HS256 = "HS256"
    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"  # Ed25519 only


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
    """Base of what this module raises."""


class TokenRejected(AuthError):
    """A token is not accepted. Never holds any part of it.

    `claim` is the name of the offending claim or header, one of ours, where there is one.
    """

    def __init__(self, reason: Refusal, claim: str | None = None) -> None:
        super().__init__(reason.value if claim is None else f"{reason.value} ({claim})")
        self.reason = reason
        self.claim = claim


class KeyRejected(AuthError):
    """A tenant's key material cannot be used. `setting` is the name of the `Auth` field."""

    def __init__(self, setting: str, problem: str, expected: str) -> None:
        super().__init__(f"{setting}: {problem}; expected {expected}")
        self.setting = setting
        self.problem = problem
        self.expected = expected


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


@dataclass(frozen=True, slots=True)
class KeySet:
    """A tenant's keys, parsed. `unnamed` answer for tokens that name no key, the present first."""

    algorithm: Algorithm
    unnamed: tuple[Any, ...] = field(repr=False)
    by_kid: Mapping[str, Any] | None = field(repr=False)  # None: no key has a name, `kid` is moot

    def find(self, kid: str | None) -> tuple[Any, ...]:
        """The keys to verify with: one of them has to have signed."""
        if kid is None or self.by_kid is None:
            return self.unnamed
        return (self.by_kid[kid],) if kid in self.by_kid else ()


# --- key material -----------------------------------------------------------------------------

_ALGORITHMS: Final = get_default_algorithms()
_PEM_EXPECTED: Final = {
    Algorithm.RS256: f"a PEM RSA public key of at least {MIN_RSA_BITS} bits",
    Algorithm.ES256: "a PEM P-256 public key",
    Algorithm.EDDSA: "a PEM Ed25519 public key",
}
_JWK_SHAPE: Final = {
    Algorithm.RS256: {"kty": "RSA"},
    Algorithm.ES256: {"kty": "EC", "crv": "P-256"},
    Algorithm.EDDSA: {"kty": "OKP", "crv": "Ed25519"},
}


def read_keys(auth: Auth) -> KeySet:
    """Parse the keys of one tenant's `auth` section; raises `KeyRejected`."""
    if auth.algorithm is Algorithm.HS256:
        return _read_secret(auth)
    for setting, given in (("secret", auth.secret), ("previous_secret", auth.previous_secret)):
        if given is not None:
            expected = "public_key or jwks_file"
            raise KeyRejected(setting, f"does not go with {auth.algorithm}", expected)
    if auth.public_key is not None and auth.jwks is not None:
        raise KeyRejected("jwks", "is given beside public_key", "one of the two")
    if auth.public_key is not None:
        return _read_pem(auth.algorithm, auth.public_key)
    if auth.jwks is not None:
        return _read_jwks(auth.algorithm, auth.jwks)
    raise KeyRejected("public_key", "is missing", _PEM_EXPECTED[auth.algorithm] + ", or jwks_file")


def _read_secret(auth: Auth) -> KeySet:
    for setting, given in (("public_key", auth.public_key), ("jwks", auth.jwks)):
        if given is not None:
            raise KeyRejected(setting, "does not go with HS256", "secret")
    present = _hs256_key("secret", auth.secret)
    if auth.previous_secret is None:
        return KeySet(Algorithm.HS256, unnamed=(present,), by_kid=None)
    previous = _hs256_key("previous_secret", auth.previous_secret)
    if previous == present:
        raise KeyRejected("previous_secret", "is the present one", "the one before it, or none")
    return KeySet(Algorithm.HS256, unnamed=(present, previous), by_kid=None)


def _hs256_key(setting: str, secret: Secret | None) -> bytes:
    expected = f"at least {MIN_SECRET_BYTES} random bytes, such as `ringback init` writes"
    if secret is None:
        raise KeyRejected(setting, "is missing", expected)
    raw = secret.reveal().encode()
    if len(raw) < MIN_SECRET_BYTES:
        raise KeyRejected(setting, f"is only {len(raw)} bytes long", expected)
    try:
        key: bytes = _ALGORITHMS[Algorithm.HS256].prepare_key(raw)
    except jwt.InvalidKeyError:
        # Whoever knows the public key could sign: the HS/RS confusion, by configuration.
        raise KeyRejected(setting, "is a public key or certificate", expected) from None
    return key


def _read_pem(algorithm: Algorithm, pem: str) -> KeySet:
    expected = _PEM_EXPECTED[algorithm]
    if "PRIVATE KEY" in pem:
        raise KeyRejected("public_key", "is a private key", expected)
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRejected("public_key", "is no public key that can be read", expected) from None
    if not _fits(algorithm, key):
        raise KeyRejected("public_key", f"is not a key for {algorithm}", expected)
    return KeySet(algorithm, unnamed=(key,), by_kid=None)


def _fits(algorithm: Algorithm, key: object) -> bool:
    match algorithm:
        case Algorithm.RS256:
            return isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS
        case Algorithm.ES256:
            return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
        case _:
            return isinstance(key, Ed25519PublicKey)


def _read_jwks(algorithm: Algorithm, text: str) -> KeySet:
    """Keys of other kinds or for other uses are passed over: a set may serve several purposes."""
    expected = f'a JWK set ({{"keys": [...]}}) with a public {algorithm} key'
    try:
        items = msgspec.json.decode(text, type=_JwkSet).keys
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise KeyRejected("jwks", "is not a JWK set", expected) from None
    named: dict[str, Any] = {}
    usable = [item for item in items if _is_for(algorithm, item)]
    for item in usable:
        key, kid = _read_jwk(algorithm, item, expected), item.get("kid")
        if len(usable) > 1 and not isinstance(kid, str):
            raise KeyRejected("jwks", "has several keys, and one without a kid", expected)
        if isinstance(kid, str):
            if kid in named:
                raise KeyRejected("jwks", "has two keys with the same kid", expected)
            named[kid] = key
    if not usable:
        raise KeyRejected("jwks", f"has no key for {algorithm}", expected)
    return KeySet(algorithm, unnamed=(key,) if len(usable) == 1 else (), by_kid=named)


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _is_for(algorithm: Algorithm, item: Mapping[str, object]) -> bool:
    return (
        all(item.get(name) == value for name, value in _JWK_SHAPE[algorithm].items())
        and item.get("use", "sig") == "sig"
        and item.get("alg", algorithm) == algorithm
    )


def _read_jwk(algorithm: Algorithm, item: dict[str, Any], expected: str) -> Any:
    if "d" in item:
        raise KeyRejected("jwks", "contains a private key", expected)
    try:
        key = jwt.PyJWK(item, algorithm=algorithm.value).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise KeyRejected("jwks", "has a key that cannot be read", expected) from None
    if not _fits(algorithm, key):
        raise KeyRejected("jwks", f"has a key that is too weak for {algorithm}", expected)
    return key


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
    verify = _ALGORITHMS[keys.algorithm].verify
    if not any(verify(parsed.signed, key, parsed.signature) for key in found):
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
