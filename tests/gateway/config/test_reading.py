"""Where values come from, and in which words a file is refused."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from gateway.config.reading import load
from gateway.config.values import ConfigError, Secret
from tests.gateway.configured import GOOD, SECRET, read, refused, with_line

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
RSA_PEM = RSA_KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PUSH, AUTH = "tenants.acme.push", "tenants.acme.auth"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a.db", "{}/a.db"),
        ("sqlite:///data/a.db", "{}/data/a.db"),
        ("sqlite:////var/lib/a.db", "/var/lib/a.db"),
    ],
)
def test_a_database_is_beside_the_file_or_where_it_says(
    tmp_path: Path, url: str, path: str
) -> None:
    config = read(tmp_path, with_line("storage", f'url = "{url}"'))
    assert config.storage.path == Path(path.format(tmp_path))


def test_a_database_is_found_from_another_directory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ringback.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    config = load(Path("ringback.toml"), {})
    assert config.storage.path == tmp_path / "ringback.db"


@pytest.mark.parametrize("as_file", [True, False])
def test_a_secret_can_come_from_a_file_or_a_variable(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "acme.secret").write_text(f"  {SECRET}\r\n")
    line = 'secret_file = "acme.secret"' if as_file else 'secret_env = "ACME_SECRET"'
    text = GOOD.replace(f'secret = "{SECRET}"', line)
    config = read(tmp_path, text, {"ACME_SECRET": SECRET})
    assert config.tenants["acme"].auth.secret == Secret(SECRET)


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "acme.secret").write_text(f"{SECRET}\r\n", encoding="utf-8-sig")
    config = read(tmp_path, GOOD.replace(f'secret = "{SECRET}"', 'secret_file = "acme.secret"'))
    assert config.tenants["acme"].auth.secret == Secret(SECRET)


@pytest.mark.parametrize("form", ["public_key", "public_key_file", "jwks", "jwks_file"])
def test_a_public_key_can_come_from_the_configuration_or_a_file(tmp_path: Path, form: str) -> None:
    jwks = json.dumps({"keys": [RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)]})
    content = RSA_PEM if form.startswith("public_key") else jwks
    (tmp_path / "key").write_text(content)
    value = '"key"' if form.endswith("_file") else f"'''{content}'''"
    text = f'[tenants.acme.auth]\nalgorithm = "RS256"\n{form} = {value}\n'
    auth = read(tmp_path, text).tenants["acme"].auth
    assert (auth.public_key or auth.jwks or "").strip() == content.strip()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            GOOD.replace("ack_timeout", "ack_timout"),
            "delivery.ack_timout: is not a known key; expected delivery.ack_timeout",
        ),
        (
            GOOD.replace("signing_secret", "signing_key"),
            f"{PUSH}.signing_key: is not a known key; expected {PUSH}.signing_secret",
        ),
        (
            GOOD.replace("[delivery]", "[delivry]"),
            "delivry: is not a known key; expected delivery",
        ),
        (
            "restart_grace = 5\n" + GOOD,
            "restart_grace: is not a known key; expected delivery.restart_grace",
        ),
        (
            "zzz = 5\n" + GOOD,
            "zzz: is not a known key;"
            " expected one of server, storage, delivery, limits, log, tenants",
        ),
        (
            GOOD.replace('origins = ["', 'origin_file = "x"\norigins = ["'),
            "tenants.acme.origin_file: is not a known key; expected tenants.acme.origins",
        ),
        (
            '"a\\nb" = 1\n' + GOOD,
            '"a?b": is not a known key;'
            " expected one of server, storage, delivery, limits, log, tenants",
        ),
        ("", "tenants: has no tenant; expected a section such as [tenants.acme]"),
        ("tenants = 5", "tenants: has no tenant; expected a section such as [tenants.acme]"),
        ("[tenants]", "tenants: has no tenant; expected a section such as [tenants.acme]"),
        ("server = 5\n[tenants.a]", "server: is not a section; expected [server]"),
        ("[tenants]\nacme = 5", "tenants.acme: is not a section; expected [tenants.acme]"),
        (
            "[tenants.a.auth]\nalgorithm = 'HS256'\nsecret = 'x'\n[tenants.a.push]\n"
            "endpoint = 'https://a.example/'\nbackends = 7",
            "tenants.a.push.backends: is not a section; expected [tenants.a.push.backends.qa]",
        ),
        ('storage = "x"\n[tenants.a]', "storage: is not a section; expected [storage]"),
        (
            "[tenants.acme]",
            "tenants.acme.auth: is missing; expected a section [tenants.acme.auth]",
        ),
        (
            "[tenants.acme.auth]",
            "tenants.acme.auth.algorithm: is missing;"
            ' expected "HS256", "RS256", "ES256" or "EdDSA"',
        ),
        (
            GOOD.replace('auth_token = "the-auth-token"', ""),
            f"{PUSH}.auth_token: is missing;"
            " expected a secret text, which asapp sends as authToken",
        ),
        (
            GOOD.replace("tenants.acme", 'tenants."Acme Inc"'),
            'tenants."Acme Inc": is no tenant\'s name; expected 1 to 128 of a-z 0-9 . _ -',
        ),
        (
            GOOD.replace("tenants.acme", 'tenants."a.b"').replace("24h", "x"),
            "tenants.\"a.b\".push.expires_after: is 'x';"
            ' expected a duration such as "45s", "30m", "24h" or "7d"',
        ),
        (
            GOOD.replace("signing_secret", "previous_signing_secret"),
            f"{PUSH}.previous_signing_secret: has no present one; expected signing_secret as well",
        ),
    ],
)
def test_a_wrong_shape_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    error = refused(tmp_path, text)
    assert str(error) == line


@pytest.mark.parametrize(
    ("line", "key", "problem"),
    [
        ('secret_file = "none"', f"{AUTH}.secret_file", "none: No such file or directory"),
        ('secret_file = "."', f"{AUTH}.secret_file", "Is a directory"),
        ('secret_file = "binary"', f"{AUTH}.secret_file", "binary: not a UTF-8 text"),
        ('secret_file = "empty"', f"{AUTH}.secret_file", "is empty"),
        ('secret_file = "short"', f"{AUTH}.secret_file", "is only 5 bytes long"),
        ('secret_file = ""', f"{AUTH}.secret_file", "is not a text"),
        ("secret_file = 5", f"{AUTH}.secret_file", "is not a text"),
        ('secret_env = "ACME"', f"{AUTH}.secret_env", "names ACME, which is not set"),
        ('secret_env = "SHORT"', f"{AUTH}.secret_env", "is only 5 bytes long"),
        ('secret_env = "LATIN1"', f"{AUTH}.secret_env", "is not UTF-8"),
        ('secret = "x"\nsecret_file = "y"', f"{AUTH}.secret", "is given beside secret_file"),
        ('jwks_file = "short"', f"{AUTH}.jwks_file", "does not go with HS256"),
    ],
)
def test_a_secret_that_cannot_be_had_is_refused_by_the_key_that_named_it(
    tmp_path: Path, line: str, key: str, problem: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text("short")
    text = GOOD.replace(f'secret = "{SECRET}"', line, 1)
    error = refused(tmp_path, text, {"SHORT": "short", "LATIN1": "\udcff" * 40})
    assert error.key == key
    assert problem in error.problem


@pytest.mark.parametrize(
    ("algorithm", "line", "key", "problem"),
    [
        ("RS256", 'public_key_file = "key"', f"{AUTH}.public_key_file", "no public key that"),
        ("ES256", 'public_key_file = "rsa.pem"', f"{AUTH}.public_key_file", "not a key for ES256"),
        ("RS256", 'jwks_file = "key"', f"{AUTH}.jwks_file", "is not a JWK set"),
        ("RS256", 'jwks_file = "none"', f"{AUTH}.jwks_file", "No such file"),
        ("EdDSA", "", f"{AUTH}.public_key", "is missing"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_by_the_key_that_named_it(
    tmp_path: Path, algorithm: str, line: str, key: str, problem: str
) -> None:
    (tmp_path / "key").write_text("nonsense")
    (tmp_path / "rsa.pem").write_text(RSA_PEM)
    error = refused(tmp_path, f'[{AUTH}]\nalgorithm = "{algorithm}"\n{line}\n')
    assert error.key == key
    assert problem in error.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[server", "is not TOML ("),
        (b"a = 1\na = 2", "is not TOML ("),
        (b"a = " + b"[" * 20_000, "is not TOML ("),
        (b"a = " + b"9" * 5_000, "is not TOML ("),
        (b"# \xff", "is not UTF-8"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_its_name(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.key == str(path)
    assert problem in caught.value.problem
