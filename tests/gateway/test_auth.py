"""The token matrix: every way in which a token can be wrong, each refused for its own reason."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import (
    CannotIssue,
    Identity,
    Refusal,
    TokenRejected,
    Verifier,
    bearer,
    is_clean,
    issue,
)
from gateway.config.auth import Algorithm, Auth
from gateway.config.sections import Config, Tenant
from gateway.config.values import Secret
from gateway.protocol import Role
from tests.gateway.keys import EC_KEY, ED_KEY, OTHER_RSA_KEY, RSA_KEY, jwk, jwks, pem

NOW = 1_800_000_000.0
SECRET = "correct-horse-battery-staple-0123456789"
OTHER_SECRET = "another-horse-battery-staple-0123456789"

REMOVED = object()


TENANTS = {
    "acme": Tenant(auth=Auth(algorithm=Algorithm.HS256, secret=Secret(SECRET))),
    "other": Tenant(auth=Auth(algorithm=Algorithm.HS256, secret=Secret(OTHER_SECRET))),
    "strict": Tenant(
        auth=Auth(
            algorithm=Algorithm.HS256,
            secret=Secret(SECRET),
            issuer="https://id.strict.example",
            audience="strict-chat",
            leeway=0.0,
        )
    ),
    "changing": Tenant(
        auth=Auth(
            algorithm=Algorithm.HS256,
            secret=Secret(OTHER_SECRET),
            previous_secret=Secret(SECRET),
        )
    ),
    "rs": Tenant(auth=Auth(algorithm=Algorithm.RS256, public_key=pem(RSA_KEY))),
    "es": Tenant(auth=Auth(algorithm=Algorithm.ES256, public_key=pem(EC_KEY))),
    "ed": Tenant(auth=Auth(algorithm=Algorithm.EDDSA, public_key=pem(ED_KEY))),
    "oneset": Tenant(
        auth=Auth(algorithm=Algorithm.RS256, jwks=jwks(jwk(RSA_KEY, "RS256", kid="k1")))
    ),
    "noname": Tenant(auth=Auth(algorithm=Algorithm.RS256, jwks=jwks(jwk(RSA_KEY, "RS256")))),
    "twoset": Tenant(
        auth=Auth(
            algorithm=Algorithm.RS256,
            jwks=jwks(
                jwk(RSA_KEY, "RS256", kid="k1", use="sig", alg="RS256"),
                jwk(OTHER_RSA_KEY, "RS256", kid="k2"),
                jwk(EC_KEY, "ES256", kid="for-another-algorithm"),
                jwk(OTHER_RSA_KEY, "RS256", kid="for-encryption", use="enc"),
            ),
        )
    ),
}
VERIFIER = Verifier(TENANTS)


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def claims(**changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "sub": "c-42",
        "tenant": "acme",
        "role": "customer",
        "aud": "ringback",
        "exp": NOW + 600,
    }
    return {name: value for name, value in (good | changes).items() if value is not REMOVED}


@dataclass(frozen=True)
class Row:
    """One token: what is changed from a good one, and what comes of it."""

    what: str
    refused: Refusal | None
    claim: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    header: Mapping[str, object] = field(default_factory=dict)
    key: Any = SECRET
    algorithm: str = "HS256"
    payload: bytes | None = None  # in place of the claims

    def token(self) -> str:
        header = {"alg": self.algorithm, "typ": "JWT", **self.header}
        signed = f"{segment(header)}.{segment(self.payload or claims(**self.changes))}"
        if self.algorithm == "none":
            return f"{signed}."
        if self.algorithm == "HS256":  # by hand: PyJWT would not sign with every key tried here
            digest = hmac.new(self.key.encode(), signed.encode(), hashlib.sha256).digest()
            return f"{signed}.{segment(digest)}"
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signed.encode(), self.key)
        return f"{signed}.{segment(signature)}"


def rs(tenant: str, refused: Refusal | None, what: str, **row: Any) -> Row:
    return Row(what, refused, algorithm="RS256", changes={"tenant": tenant}, **row)


STRICT = {"tenant": "strict", "aud": "strict-chat", "iss": "https://id.strict.example"}

MATRIX = [
    # the control rows: what a refused row is one change away from
    Row("a good HS256 token", None),
    rs("rs", None, "a good RS256 token", key=RSA_KEY),
    Row("a good ES256 token", None, changes={"tenant": "es"}, key=EC_KEY, algorithm="ES256"),
    Row("a good EdDSA token", None, changes={"tenant": "ed"}, key=ED_KEY, algorithm="EdDSA"),
    rs("oneset", None, "a good token by a set's only key", key=RSA_KEY, header={"kid": "k1"}),
    rs("oneset", None, "no kid, a set of one", key=RSA_KEY),
    rs("noname", None, "a kid, a set of one without", key=RSA_KEY, header={"kid": "k1"}),
    rs("twoset", None, "a set's first key by kid", key=RSA_KEY, header={"kid": "k1"}),
    rs("twoset", None, "a set's second key by kid", key=OTHER_RSA_KEY, header={"kid": "k2"}),
    Row("the secret before", None, changes={"tenant": "changing"}),
    Row("the present secret", None, changes={"tenant": "changing"}, key=OTHER_SECRET),
    Row("a kid where both have none", None, changes={"tenant": "changing"}, header={"kid": "k1"}),
    Row("a kid where the tenant's key has no name", None, header={"kid": "../../etc/passwd"}),
    Row("issuer and audience as configured", None, changes=STRICT),
    Row("one audience of several", None, changes={"aud": ["billing", "ringback"]}),
    Row("an issuer where none is configured", None, changes={"iss": "whoever"}),
    Row("a name", None, changes={"name": "Ada Lovelace"}),
    Row("a null name", None, changes={"name": None}),
    Row("an empty name", None, changes={"name": ""}),
    Row("the longest sub", None, changes={"sub": "x" * 128}),
    Row("a sub beyond ASCII", None, changes={"sub": "käufer-🙂"}),
    Row("iat and nbf now", None, changes={"iat": NOW, "nbf": NOW}),
    Row("iat and nbf ahead within the leeway", None, changes={"iat": NOW + 10, "nbf": NOW + 10}),
    Row("expired within the leeway", None, changes={"exp": NOW - 9.5}),
    # the algorithm and the key
    Row("alg none", Refusal.WRONG_ALGORITHM, algorithm="none"),
    Row("alg None in other letters", Refusal.WRONG_ALGORITHM, header={"alg": "nOnE"}),
    Row("alg missing", Refusal.WRONG_ALGORITHM, header={"alg": None}),
    Row("alg a list", Refusal.WRONG_ALGORITHM, header={"alg": ["HS256"]}),
    Row(
        "HS/RS confusion: the public key as HMAC secret",
        Refusal.WRONG_ALGORITHM,
        changes={"tenant": "rs"},
        key=pem(RSA_KEY),
    ),
    Row(
        "HS/RS confusion under the right alg",
        Refusal.BAD_SIGNATURE,
        changes={"tenant": "rs"},
        key=pem(RSA_KEY),
        header={"alg": "RS256"},
    ),
    Row("HS512 where HS256 is configured", Refusal.WRONG_ALGORITHM, header={"alg": "HS512"}),
    Row("RS256 at an HS256 tenant", Refusal.WRONG_ALGORITHM, key=RSA_KEY, algorithm="RS256"),
    rs("rs", Refusal.BAD_SIGNATURE, "another RSA key", key=OTHER_RSA_KEY),
    Row("another secret", Refusal.BAD_SIGNATURE, key="x" * 40),
    Row(
        "neither of two secrets",
        Refusal.BAD_SIGNATURE,
        changes={"tenant": "changing"},
        key="x" * 40,
    ),
    Row("an empty secret", Refusal.BAD_SIGNATURE, key=""),
    Row("another tenant's secret", Refusal.BAD_SIGNATURE, key=OTHER_SECRET),
    Row(
        "an ES256 signature of the wrong length",
        Refusal.BAD_SIGNATURE,
        changes={"tenant": "es"},
        header={"alg": "ES256"},
    ),
    Row(
        "an EdDSA signature of the wrong length",
        Refusal.BAD_SIGNATURE,
        changes={"tenant": "ed"},
        header={"alg": "EdDSA"},
    ),
    # kid
    rs("twoset", Refusal.UNKNOWN_KEY, "no kid, a set of two", key=RSA_KEY),
    rs("oneset", Refusal.UNKNOWN_KEY, "an unknown kid", key=RSA_KEY, header={"kid": "k9"}),
    rs("oneset", Refusal.UNKNOWN_KEY, "an empty kid", key=RSA_KEY, header={"kid": ""}),
    rs(
        "oneset",
        Refusal.UNKNOWN_KEY,
        "a kid that is a path",
        key=RSA_KEY,
        header={"kid": "../../../../dev/null"},
    ),
    rs(
        "oneset",
        Refusal.UNKNOWN_KEY,
        "a kid that is SQL",
        key=RSA_KEY,
        header={"kid": "k1' UNION SELECT 'x"},
    ),
    rs(
        "oneset",
        Refusal.MALFORMED,
        "a kid of another type",
        claim="kid",
        key=RSA_KEY,
        header={"kid": 1},
    ),
    rs("twoset", Refusal.BAD_SIGNATURE, "the other's kid", key=RSA_KEY, header={"kid": "k2"}),
    rs(
        "twoset",
        Refusal.UNKNOWN_KEY,
        "the kid of an encryption key",
        key=OTHER_RSA_KEY,
        header={"kid": "for-encryption"},
    ),
    # headers that ask for something
    Row("crit", Refusal.FORBIDDEN_HEADER, "crit", header={"crit": ["exp"]}),
    Row("an empty crit", Refusal.FORBIDDEN_HEADER, "crit", header={"crit": []}),
    Row("b64 false", Refusal.FORBIDDEN_HEADER, "b64", header={"b64": False}),
    Row("jku", Refusal.FORBIDDEN_HEADER, "jku", header={"jku": "https://evil.example/jwks"}),
    Row("x5u", Refusal.FORBIDDEN_HEADER, "x5u", header={"x5u": "https://evil.example/x"}),
    Row("x5c", Refusal.FORBIDDEN_HEADER, "x5c", header={"x5c": ["MIIB"]}),
    Row("jwk", Refusal.FORBIDDEN_HEADER, "jwk", header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    # claims: missing
    *(
        Row(f"{name} missing", Refusal.MISSING_CLAIM, name, changes={name: REMOVED})
        for name in ("sub", "tenant", "role", "aud", "exp")
    ),
    # claims: of the wrong type or out of range
    *(
        Row(f"{name} is {value!r}", Refusal.BAD_CLAIM, name, changes={name: value})
        for name, value in [
            ("sub", ""),
            ("sub", 42),
            ("sub", None),
            ("sub", ["c-42"]),
            ("sub", "x" * 129),
            ("sub", "c\n42"),
            ("sub", "c\x0042"),
            ("sub", "c\x7f42"),
            ("sub", "c\x8542"),
            ("tenant", ["acme"]),
            ("tenant", {}),
            ("tenant", ""),
            ("role", 1),
            ("role", ["customer"]),
            ("aud", 5),
            ("aud", None),
            ("aud", {"ringback": 1}),
            ("aud", ["ringback", 5]),
            ("name", 5),
            ("name", "x" * 129),
            ("name", "a\tb"),
            ("exp", "2030"),
            ("exp", None),
            ("exp", True),
            ("exp", [NOW + 600]),
            ("exp", -1),
            ("exp", 253_402_300_800),
            ("exp", 10**300),
            ("nbf", "now"),
            ("iat", False),
        ]
    ),
    # claims: wrong
    Row("an unknown tenant", Refusal.UNKNOWN_TENANT, changes={"tenant": "nobody"}),
    Row("another tenant's name", Refusal.BAD_SIGNATURE, changes={"tenant": "other"}),
    Row("a tenant's name in capitals", Refusal.UNKNOWN_TENANT, changes={"tenant": "ACME"}),
    Row("an unknown role", Refusal.UNKNOWN_ROLE, changes={"role": "admin"}),
    Row("a role that only frames know", Refusal.UNKNOWN_ROLE, changes={"role": "system"}),
    Row("a role in capitals", Refusal.UNKNOWN_ROLE, changes={"role": "Customer"}),
    Row("another audience", Refusal.WRONG_AUDIENCE, changes={"aud": "billing"}),
    Row("no audience of several", Refusal.WRONG_AUDIENCE, changes={"aud": ["a", "b"]}),
    Row("an empty list of audiences", Refusal.WRONG_AUDIENCE, changes={"aud": []}),
    Row("an audience that contains ours", Refusal.WRONG_AUDIENCE, changes={"aud": "ringback2"}),
    Row(
        "the default audience at a tenant with its own",
        Refusal.WRONG_AUDIENCE,
        changes={**STRICT, "aud": "ringback"},
    ),
    Row("another issuer", Refusal.WRONG_ISSUER, changes={**STRICT, "iss": "https://evil.example"}),
    Row("no issuer", Refusal.WRONG_ISSUER, changes={**STRICT, "iss": REMOVED}),
    Row("a list of issuers", Refusal.WRONG_ISSUER, changes={**STRICT, "iss": [STRICT["iss"]]}),
    Row("expired", Refusal.EXPIRED, changes={"exp": NOW - 600}),
    Row("expired by just the leeway", Refusal.EXPIRED, changes={"exp": NOW - 10}),
    Row("expired this moment, no leeway", Refusal.EXPIRED, changes={**STRICT, "exp": NOW}),
    Row("nbf ahead", Refusal.NOT_YET_VALID, "nbf", changes={"nbf": NOW + 10.5}),
    Row("iat ahead", Refusal.NOT_YET_VALID, "iat", changes={"iat": NOW + 10.5}),
    Row("iat ahead, no leeway", Refusal.NOT_YET_VALID, "iat", changes={**STRICT, "iat": NOW + 1}),
    # payloads that are not JSON objects
    Row("claims that are a list", Refusal.MALFORMED, payload=b'["acme"]'),
    Row("claims that are not JSON", Refusal.MALFORMED, payload=b"tenant=acme"),
    Row("claims that are not UTF-8", Refusal.MALFORMED, payload=b'{"tenant": "\xff"}'),
    Row("a lone surrogate", Refusal.MALFORMED, payload=b'{"tenant": "\\ud800"}'),
    Row("NaN", Refusal.MALFORMED, payload=b'{"exp": NaN}'),
    Row("Infinity", Refusal.MALFORMED, payload=b'{"exp": Infinity}'),
    Row("a number beyond every float", Refusal.MALFORMED, payload=b'{"exp": 1e999}'),
    Row("a byte order mark", Refusal.MALFORMED, payload=b"\xef\xbb\xbf{}"),
    Row("too deep", Refusal.MALFORMED, payload=b'{"a":' + b"[" * 5000),
    Row("oversized", Refusal.OVERSIZED, changes={"padding": "x" * 8192}),
]


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.what)
def test_a_token_is_accepted_or_refused_for_the_right_reason(row: Row) -> None:
    if row.refused is None:
        assert VERIFIER.verify(row.token(), NOW).sub == row.changes.get("sub", "c-42")
        return
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(row.token(), NOW)
    assert (caught.value.reason, caught.value.claim) == (row.refused, row.claim)


GOOD = Row("good", None).token()
HEAD, BODY, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "garbage",
        f"{HEAD}.{BODY}",
        f"{HEAD}.{BODY}.{SIGNATURE}.",
        f"{HEAD}.{BODY}.{BODY}.{SIGNATURE}",
        f"{HEAD}..{SIGNATURE}",
        f".{BODY}.{SIGNATURE}",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{HEAD}=.{BODY}.{SIGNATURE}",
        f"{HEAD}.{BODY}.{SIGNATURE}!",
        f"{HEAD}.{BODY}.{SIGNATURE[:-2]}é",
        f"{HEAD}.{BODY}.A",
        f"A.{BODY}.{SIGNATURE}",
        f"{segment(b'[]')}.{BODY}.{SIGNATURE}",
        f"{segment(b'nonsense')}.{BODY}.{SIGNATURE}",
        f"Bearer {GOOD}",
        "\ud800",
    ],
)
def test_a_token_of_another_shape_is_malformed(token: str) -> None:
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(token, NOW)
    assert caught.value.reason is Refusal.MALFORMED


@pytest.mark.parametrize("header", ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "])
def test_the_bearer_token_of_a_header_is_read(header: str) -> None:
    assert bearer(header) == "a.b.c"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer  ", "a.b.c", "Basic YTpi"])
def test_a_header_without_a_bearer_token_has_none(header: str) -> None:
    assert bearer(header) is None


def test_a_token_that_was_changed_after_signing_is_refused() -> None:
    forged = f"{HEAD}.{segment(claims(sub='somebody-else'))}.{SIGNATURE}"
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(forged, NOW)
    assert caught.value.reason is Refusal.BAD_SIGNATURE


def test_a_signature_that_was_cut_off_is_refused() -> None:
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(f"{HEAD}.{BODY}.", NOW)
    assert caught.value.reason is Refusal.BAD_SIGNATURE


def test_a_token_of_8_kib_is_read_and_one_character_more_is_not() -> None:
    empty = len(Row("", None, changes={"padding": ""}).token())
    sizes = {
        len(token): token
        for count in range((8192 - empty) * 3 // 4 - 4, (8192 - empty) * 3 // 4 + 8)
        for token in [Row("", None, changes={"padding": "x" * count}).token()]
    }
    assert VERIFIER.verify(sizes[8192], NOW).sub == "c-42"
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(sizes[min(size for size in sizes if size > 8192)], NOW)
    assert caught.value.reason is Refusal.OVERSIZED


@pytest.mark.parametrize("role", ["customer", "agent", "service"])
def test_an_accepted_token_tells_who_it_speaks_for_and_until_when(role: str) -> None:
    token = Row("", None, changes={"role": role, "name": "Ada", "exp": NOW + 60.5}).token()
    assert VERIFIER.verify(token, NOW) == Identity("acme", Role(role), "c-42", "Ada", NOW + 60.5)


@pytest.mark.parametrize("name", [REMOVED, None, "", " ", " \u00a0 ", "\u200b", "\u3164", "\u2800"])
def test_a_token_without_a_display_name_gives_none(name: object) -> None:
    assert VERIFIER.verify(Row("", None, changes={"name": name}).token(), NOW).name is None


def test_a_leeway_is_the_tenants_own_and_that_of_the_settings_taken_up() -> None:
    verifier = Verifier(TENANTS)
    assert (verifier.leeway("acme"), verifier.leeway("strict")) == (10.0, 0.0)
    verifier.take_up({"acme": TENANTS["strict"]})
    assert verifier.leeway("acme") == 0.0


def test_equal_ids_at_two_tenants_are_two_identities() -> None:
    other = Row("", None, changes={"tenant": "other"}, key=OTHER_SECRET).token()
    assert VERIFIER.verify(GOOD, NOW) != VERIFIER.verify(other, NOW)


def test_a_refusal_shows_nothing_of_the_token() -> None:
    token = Row("", None, changes={"sub": "very-private", "aud": "billing"}).token()
    with pytest.raises(TokenRejected) as caught:
        VERIFIER.verify(token, NOW)
    assert str(caught.value) == "wrong_audience"
    assert caught.value.__cause__ is None


def test_a_refusal_names_the_claim_at_fault() -> None:
    assert str(TokenRejected(Refusal.MISSING_CLAIM, "sub")) == "missing_claim (sub)"


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)]
)
def test_a_set_of_each_kind_of_key_verifies(algorithm: str, key: Any) -> None:
    auth = Auth(algorithm=Algorithm(algorithm), jwks=jwks(jwk(key, algorithm)))
    token = Row("", None, key=key, algorithm=algorithm).token()
    assert Verifier({"acme": Tenant(auth=auth)}).verify(token, NOW).sub == "c-42"


# --- whatever the token is, nothing but TokenRejected comes out --------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_NAMES = st.sampled_from(
    ["sub", "tenant", "role", "aud", "exp", "nbf", "iat", "iss", "name", "alg", "kid", "typ"]
)
_KEYS = {"HS256": SECRET, "ES256": EC_KEY, "EdDSA": ED_KEY}
_TENANT_OF = {"HS256": "acme", "ES256": "es", "EdDSA": "ed"}


def _verify(token: str) -> None:
    try:
        identity = VERIFIER.verify(token, NOW)
    except TokenRejected:
        return
    assert identity.tenant in TENANTS
    assert is_clean(identity.sub)
    assert identity.expires_at > NOW - 30


@given(st.text() | st.lists(st.binary(max_size=60).map(segment), max_size=5).map(".".join))
def test_arbitrary_text_is_only_ever_refused(token: str) -> None:
    with pytest.raises(TokenRejected):
        VERIFIER.verify(token, NOW)


@given(
    st.sampled_from(sorted(_KEYS)),
    st.dictionaries(_NAMES, _JSON, max_size=3),
    st.dictionaries(_NAMES, _JSON, max_size=3),
)
def test_signed_tokens_with_arbitrary_claims_and_headers_raise_nothing_else(
    algorithm: str, header: dict[str, object], changes: dict[str, object]
) -> None:
    changes = {"tenant": _TENANT_OF[algorithm], **changes}
    row = Row("", None, changes=changes, header=header, key=_KEYS[algorithm], algorithm=algorithm)
    _verify(row.token())


@given(
    st.sampled_from([row for row in MATRIX if row.refused is None]), st.integers(0), st.characters()
)
def test_a_good_token_with_one_character_changed_raises_nothing_else(
    row: Row, place: int, character: str
) -> None:
    token = row.token()
    place %= len(token)
    _verify(token[:place] + character + token[place + 1 :])


# --- issuing -----------------------------------------------------------------------------------

CONFIG = Config(tenants=TENANTS)


def test_an_issued_token_is_accepted_until_its_time_is_up() -> None:
    token = issue(CONFIG, "acme", Role("agent"), "a-1", name="Ada", ttl=60, now=NOW)
    assert VERIFIER.verify(token, NOW) == Identity("acme", Role("agent"), "a-1", "Ada", NOW + 60)
    with pytest.raises(TokenRejected):
        VERIFIER.verify(token, NOW + 70)


def test_an_issued_token_has_the_tenants_audience_and_issuer() -> None:
    token = issue(CONFIG, "strict", Role("service"), "s-1", ttl=60, now=NOW)
    assert VERIFIER.verify(token, NOW).name is None


def test_without_a_time_the_system_clock_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.time.time", lambda: NOW + 0.5)
    token = issue(CONFIG, "acme", Role("customer"), "c-42", ttl=60)
    assert VERIFIER.verify(token, NOW).expires_at == NOW + 60


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tenant": "nobody"}, "there is no tenant 'nobody'; there is: acme, other"),
        ({"tenant": "rs"}, "signs with RS256: its tokens come from its own private key"),
        ({"sub": ""}, "sub and name have 1 to 128 characters"),
        ({"name": "x" * 129}, "sub and name have 1 to 128 characters"),
        ({"sub": "\ud800"}, "sub and name have 1 to 128 characters"),
        ({"ttl": 0}, "a ttl above 0"),
        ({"ttl": float("inf")}, "a ttl above 0"),
        ({"ttl": 1e12}, "a ttl above 0 that ends before"),
    ],
)
def test_a_token_that_would_not_be_accepted_is_not_issued(
    changes: dict[str, Any], problem: str
) -> None:
    asked: dict[str, Any] = {"tenant": "acme", "role": Role("agent"), "sub": "a-1", "ttl": 60}
    with pytest.raises(CannotIssue, match=problem):
        issue(CONFIG, **(asked | changes), now=NOW)
