"""The auth section of a tenant: how its tokens are signed, and the keys that tell.

Decides: whether a tenant's key material can be used at all. Leaves to others: reading the section
(`gateway.config.reading`), and judging tokens by these keys (`gateway.auth`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms
from msgspec import Struct

from gateway.config.values import (
    KeyText,
    Leeway,
    OptionalSecret,
    OptionalText,
    Secret,
    Text,
    Wrong,
    one_of,
)

MIN_SECRET_BYTES: Final = 32  # RFC 7518 section 3.2
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3


class Algorithm(StrEnum):
    """How a tenant's tokens are signed. One per tenant."""

    HS256 = "HS256"
    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"  # Ed25519 only


Algorithms = Annotated[Algorithm, one_of(Algorithm)]


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tenant's tokens are checked. HS256 takes `secret`; the others one of the keys."""

    algorithm: Algorithms
    secret: OptionalSecret = None
    previous_secret: OptionalSecret = None  # good as well, while the tenant's server changes over
    public_key: KeyText = None  # PEM
    jwks: KeyText = None  # RFC 7517, JSON
    audience: Text = "ringback"
    issuer: OptionalText = None  # checked if given
    leeway: Leeway = 10.0  # seconds of clock difference forgiven


class KeyRejected(Exception):
    """A tenant's key material cannot be used. `setting` is the name of the `Auth` field."""

    def __init__(self, setting: str, problem: str, expected: str) -> None:
        super().__init__(f"{setting}: {problem}; expected {expected}")
        self.setting = setting
        self.problem = problem
        self.expected = expected


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

    def verify(self, key: Any, signed: bytes, signature: bytes) -> bool:
        """Whether it was this key that signed (RFC 7515)."""
        return _ALGORITHMS[self.algorithm].verify(signed, key, signature)


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
    return KeySet(algorithm, unnamed=(key,) if len(usable) == 1 else (), by_kid=named or None)


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


def check_auth(auth: Auth, wrong: Wrong) -> None:
    """Raise what `wrong` makes of it unless the keys can be used."""
    try:
        read_keys(auth)
    except KeyRejected as error:
        raise wrong(error.setting, error.problem, error.expected) from None
