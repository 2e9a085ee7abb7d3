"""Keys that can be used, and every way in which they cannot."""

from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.config.auth import Algorithm, Auth, KeyRejected, read_keys
from gateway.config.values import Secret
from tests.gateway.configured import SECRET, refused_line
from tests.gateway.keys import EC_KEY, ED_KEY, OTHER_RSA_KEY, RSA_KEY, jwk, jwks, pem

_WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
_P384 = ec.generate_private_key(ec.SECP384R1())
_PRIVATE = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
_PRIVATE_JWK = jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY, as_dict=True)
HS, RS, ES, ED = Algorithm.HS256, Algorithm.RS256, Algorithm.ES256, Algorithm.EDDSA
NAMED = jwk(RSA_KEY, "RS256", kid="k")


def hs(secret: str, previous: str) -> Auth:
    return Auth(algorithm=HS, secret=Secret(secret), previous_secret=Secret(previous))


@pytest.mark.parametrize(
    ("auth", "setting", "problem"),
    [
        (Auth(algorithm=HS), "secret", "is missing"),
        (Auth(algorithm=HS, secret=Secret("x" * 31)), "secret", "is only 31 bytes long"),
        (Auth(algorithm=HS, secret=Secret(pem(RSA_KEY))), "secret", "is a public key"),
        (Auth(algorithm=HS, previous_secret=Secret(SECRET)), "secret", "is missing"),
        (hs(SECRET, "x" * 31), "previous_secret", "is only 31 bytes long"),
        (hs(SECRET, pem(RSA_KEY)), "previous_secret", "is a public key"),
        (hs(SECRET, SECRET), "previous_secret", "is the present one"),
        (Auth(algorithm=RS, previous_secret=Secret(SECRET)), "previous_secret", "does not go"),
        (Auth(algorithm=HS, secret=Secret(SECRET), public_key="x"), "public_key", "does not go"),
        (Auth(algorithm=HS, secret=Secret(SECRET), jwks="{}"), "jwks", "does not go"),
        (Auth(algorithm=RS), "public_key", "is missing"),
        (Auth(algorithm=RS, secret=Secret(SECRET)), "secret", "does not go with RS256"),
        (Auth(algorithm=RS, public_key=pem(RSA_KEY), jwks="{}"), "jwks", "beside public_key"),
        (Auth(algorithm=RS, public_key=_PRIVATE), "public_key", "is a private key"),
        (Auth(algorithm=RS, public_key="nonsense"), "public_key", "no public key"),
        (Auth(algorithm=RS, public_key=pem(EC_KEY)), "public_key", "is not a key for RS256"),
        (Auth(algorithm=RS, public_key=pem(_WEAK_RSA)), "public_key", "is not a key for RS256"),
        (Auth(algorithm=ES, public_key=pem(RSA_KEY)), "public_key", "is not a key for ES256"),
        (Auth(algorithm=ES, public_key=pem(_P384)), "public_key", "is not a key for ES256"),
        (Auth(algorithm=ED, public_key=pem(EC_KEY)), "public_key", "is not a key for EdDSA"),
        (Auth(algorithm=RS, jwks="nonsense"), "jwks", "is not a JWK set"),
        (Auth(algorithm=RS, jwks='{"keys": {}}'), "jwks", "is not a JWK set"),
        (Auth(algorithm=RS, jwks='{"keys": ' + "[" * 9000), "jwks", "is not a JWK set"),
        (Auth(algorithm=RS, jwks=jwks()), "jwks", "has no key for RS256"),
        (Auth(algorithm=RS, jwks=jwks(jwk(EC_KEY, "ES256"))), "jwks", "has no key for RS256"),
        (Auth(algorithm=RS, jwks=jwks({"kty": "oct", "k": "AAAA"})), "jwks", "has no key for"),
        (Auth(algorithm=RS, jwks=jwks(NAMED | {"alg": "RS512"})), "jwks", "has no key for RS256"),
        (Auth(algorithm=RS, jwks=jwks(NAMED, NAMED)), "jwks", "two keys with the same kid"),
        (Auth(algorithm=RS, jwks=jwks(NAMED, jwk(RSA_KEY, "RS256"))), "jwks", "without a kid"),
        (Auth(algorithm=RS, jwks=jwks({"kty": "RSA", "n": 5})), "jwks", "cannot be read"),
        (Auth(algorithm=RS, jwks=jwks({"kty": "RSA"})), "jwks", "cannot be read"),
        (Auth(algorithm=RS, jwks=jwks(_PRIVATE_JWK)), "jwks", "contains a private key"),
        (Auth(algorithm=RS, jwks=jwks(jwk(_WEAK_RSA, "RS256"))), "jwks", "too weak"),
    ],
)
def test_unusable_keys_are_refused_at_start(auth: Auth, setting: str, problem: str) -> None:
    with pytest.raises(KeyRejected, match=problem) as caught:
        read_keys(auth)
    assert caught.value.setting == setting
    assert caught.value.expected


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)]
)
def test_a_key_verifies_what_it_signed_and_nothing_else(algorithm: str, key: Any) -> None:
    signature = jwt.get_algorithm_by_name(algorithm).sign(b"a text", key)
    for auth in (
        Auth(algorithm=Algorithm(algorithm), public_key=pem(key)),
        Auth(algorithm=Algorithm(algorithm), jwks=jwks(jwk(key, algorithm))),
    ):
        keys = read_keys(auth)
        (found,) = keys.find(None)
        assert keys.verify(found, b"a text", signature)
        assert not keys.verify(found, b"another", signature)


def test_a_secret_and_the_one_before_it_answer_whatever_key_is_named() -> None:
    keys = read_keys(hs(SECRET, SECRET[::-1]))
    assert keys.find(None) == keys.find("k1") == (SECRET.encode(), SECRET[::-1].encode())


def test_of_a_set_the_named_key_answers_and_without_a_name_the_only_one() -> None:
    one = read_keys(Auth(algorithm=RS, jwks=jwks(NAMED, jwk(EC_KEY, "ES256"))))
    assert len(one.find("k")) == 1
    assert one.find("k") == one.find(None)
    assert one.find("another") == ()
    two = read_keys(Auth(algorithm=RS, jwks=jwks(NAMED, jwk(OTHER_RSA_KEY, "RS256", kid="o"))))
    assert two.find(None) == ()
    assert two.find("k") == one.find("k") != two.find("o")


def test_where_a_sets_only_key_has_no_name_it_answers_whatever_key_is_named() -> None:
    keys = read_keys(Auth(algorithm=RS, jwks=jwks(jwk(RSA_KEY, "RS256"))))
    assert len(keys.find(None)) == 1
    assert keys.find("k1") == keys.find(None)


@pytest.mark.parametrize(
    ("line", "problem", "expected"),
    [
        ('secret = "31-bytes-are-one-less-than-32.."', "is only 31 bytes", "at least 32"),
        ('public_key = "a key"', "does not go with HS256", "secret"),
    ],
)
def test_the_line_with_the_key_is_named(
    tmp_path: Path, line: str, problem: str, expected: str
) -> None:
    refused_line(tmp_path, "tenants.acme.auth", line, problem, expected)


def test_parsed_keys_do_not_show() -> None:
    for auth in (Auth(algorithm=HS, secret=Secret(SECRET)), hs(SECRET, SECRET[::-1])):
        assert SECRET not in repr(read_keys(auth))
