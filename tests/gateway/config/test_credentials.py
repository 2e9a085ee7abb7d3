"""What a tenant's credentials may be, how they combine, and in which words others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.endpoints import endpoint_of
from push.backends import OWN
from push.credentials import ClientCertificate, Credentials, OAuth
from push.guard import LOOPBACK
from tests.gateway.configured import GOOD, push_of, read, refused

SECTION = "tenants.acme.push.credentials"
OAUTH = """
[tenants.acme.push.credentials.oauth]
token_url = "https://login.acme.example/token"
client_id = "ringback"
client_secret = "hush-hush"
"""


def with_credentials(*lines: str) -> str:
    return GOOD + f"[{SECTION}]\n" + "\n".join(lines) + "\n"


def credentials(directory: Path, text: str, environ: dict[str, str] | None = None) -> Credentials:
    return endpoint_of("acme", push_of(read(directory, text, environ)), OWN).credentials


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """A directory with a certificate, its key, its key under a password, and another's key."""
    authority = trustme.CA()
    ours, other = (authority.issue_cert("ringback.acme.example") for _ in range(2))
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    key = load_pem_private_key(ours.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"hush-hush")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    return tmp_path


def test_without_the_section_there_are_none(tmp_path: Path) -> None:
    assert credentials(tmp_path, GOOD) == Credentials()


def test_headers_and_bearer_are_read_and_show_in_no_repr(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush-hush\n")
    text = with_credentials('headers = {X-Api-Key = "hush hush"}', 'bearer_file = "token"')
    assert credentials(tmp_path, text) == Credentials(
        headers=(("X-Api-Key", "hush hush"),), bearer="hush-hush"
    )
    assert "hush" not in repr(push_of(read(tmp_path, text)))


def test_headers_can_be_a_json_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "headers.json").write_text('{"X-Api-Key": "k"}')
    wanted = Credentials(headers=(("X-Api-Key", "k"),))
    assert credentials(tmp_path, with_credentials('headers_file = "headers.json"')) == wanted
    environ = {"RINGBACK_TENANTS__ACME__PUSH__CREDENTIALS__HEADERS": '{"X-Api-Key": "k"}'}
    assert credentials(tmp_path, GOOD, environ) == wanted


def test_basic_is_a_user_and_a_password(tmp_path: Path) -> None:
    text = with_credentials('basic_user = "ringback"', 'basic_password_env = "PASSWORD"')
    found = credentials(tmp_path, text, {"PASSWORD": "hush:hush"})
    assert found == Credentials(basic=("ringback", "hush:hush"))


def test_an_oauth2_client_is_read(tmp_path: Path) -> None:
    assert credentials(tmp_path, GOOD + OAUTH).oauth == OAuth(
        token_url="https://login.acme.example/token",
        client_id="ringback",
        client_secret="hush-hush",
    )
    assert "hush" not in repr(push_of(read(tmp_path, GOOD + OAUTH)))


def test_a_token_endpoint_may_be_on_loopback_or_inside(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    text = OAUTH.replace("https://login.acme.example", "http://127.0.0.1:8090")
    text += 'ca_file = "ca.pem"\nscope = "push"\naudience = "acme"\nin_body = true\n'
    oauth = credentials(tmp_path, GOOD + text).oauth
    assert oauth is not None
    assert oauth.allow_networks == LOOPBACK
    assert (oauth.scope, oauth.audience, oauth.in_body) == ("push", "acme", True)
    assert oauth.ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("lines", "certificate"),
    [
        (['client_certificate = "both.pem"'], ("both.pem", None, "")),
        (
            ['client_certificate = "client.pem"', 'client_key = "client.key"'],
            ("client.pem", "client.key", ""),
        ),
        (
            [
                'client_certificate = "client.pem"',
                'client_key = "locked.key"',
                'client_key_password = "hush-hush"',
            ],
            ("client.pem", "locked.key", "hush-hush"),
        ),
    ],
)
def test_a_client_certificate_has_its_key_there_or_beside_it(
    pems: Path, lines: list[str], certificate: tuple[str, str | None, str]
) -> None:
    name, key, password = certificate
    assert credentials(pems, with_credentials(*lines)).certificate == ClientCertificate(
        certificate=str(pems / name), key=str(pems / key) if key else None, key_password=password
    )


@pytest.mark.parametrize(
    ("lines", "key", "problem", "expected"),
    [
        (["headers = 5"], "headers", "is not a table", "a table such as"),
        (["headers = '{'"], "headers", "is not JSON", "a table such as"),
        (['headers = {"a b" = "c"}'], "headers", "has a name that no header can", "a table"),
        ([f"headers = '{'[' * 100_000}'"], "headers", "is not JSON", "a table such as"),
        (['headers = {Host = "c"}'], "headers", "has Host, which is set by", "a table"),
        (
            ['headers = {CONTENT-type = "c"}'],
            "headers",
            "has CONTENT-type, which is set",
            "a table",
        ),
        (['headers = {Webhook-Id = "c"}'], "headers", "has Webhook-Id, which is set by", "a table"),
        (["headers = {X = 5}"], "headers", "has X with a value that is no", "a table"),
        (['headers = {X = "hüsh"}'], "headers", "has X with a value that is no", "a table"),
        (['headers = {X = "a\\nb"}'], "headers", "has X with a value that is no", "a table"),
        (['headers = \'{"X": "a", "X": "b"}\''], "headers", "has 'X' twice", "a table"),
        (['headers = {X-A = "a", x-a = "b"}'], "headers", "has x-a twice", "a table such as"),
        (['bearer = "hush hush"'], "bearer", "has a space or is not ASCII", "a token of"),
        (['basic_user = "u"'], "basic_password", "is missing", "together"),
        (['basic_password = "hush"'], "basic_user", "is missing", "together"),
        (['basic_user = "a:b"', 'basic_password = "p"'], "basic_user", "has a colon", "without"),
        (
            ['bearer = "t"', 'basic_user = "u"', 'basic_password = "p"'],
            "basic_user",
            "makes Authorization, as bearer does",
            "only one of the two",
        ),
        (
            ['headers = {authorization = "x"}', 'bearer_env = "TOKEN"'],
            "bearer_env",
            "makes Authorization, as headers does",
            "only one of the two",
        ),
        (
            ['bearer = "t"', *OAUTH.strip().splitlines()],
            "oauth",
            "makes Authorization, as bearer does",
            "only one of the two",
        ),
        *(
            (
                OAUTH.replace("https://login", f"{plain}://login").strip().splitlines(),
                "oauth.token_url",
                "is plain http to another machine",
                "https (or allow_http = true)",
            )
            for plain in ("http", "HTTP")
        ),
        (OAUTH.strip().splitlines()[:-1], "oauth.client_secret", "is missing", "a secret text"),
        (['client_key = "client.key"'], "client_key", "has no certificate", "as well"),
        (['client_key_password = "x"'], "client_key_password", "has no certificate", "as well"),
        (['client_certificate = "no.pem"'], "client_certificate", "No such file", "a PEM file"),
        (
            ['client_certificate = "client.pem"'],
            "client_certificate",
            "cannot be used (",
            "with its key there or in client_key",
        ),
        (
            ['client_certificate = "client.pem"', 'client_key = "other.key"'],
            "client_certificate",
            "cannot be used (KEY_VALUES_MISMATCH)",
            "with its key there or in client_key",
        ),
        (
            ['client_certificate = "client.pem"', 'client_key = "locked.key"'],
            "client_certificate",
            "cannot be used (",
            "with its key there or in client_key",
        ),
        (
            ['client_certificate = "ringback.toml"'],
            "client_certificate",
            "cannot be used (no PEM, or not its key)",
            "with its key there or in client_key",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_no_secret_is_shown(
    pems: Path, lines: list[str], key: str, problem: str, expected: str
) -> None:
    error = refused(pems, with_credentials(*lines), {"TOKEN": "t"})
    assert error.key == f"{SECTION}.{key}"
    assert problem in error.problem
    assert expected in error.expected
    assert "hush" not in str(error)
    assert "hüsh" not in str(error)


def test_a_client_certificate_needs_tls(pems: Path) -> None:
    text = with_credentials('client_certificate = "both.pem"')
    plain = text.replace("https://push.acme.example", "http://127.0.0.1:8090")
    assert refused(pems, plain).problem == "is of no use over plain http"


def test_plain_http_to_a_token_endpoint_can_be_allowed_for_tests(tmp_path: Path) -> None:
    text = GOOD + OAUTH.replace("https://login", "http://login")
    allowed: Any = credentials(tmp_path, text.replace("adapter =", "allow_http = true\nadapter ="))
    assert allowed.oauth.token_url.startswith("http:")
