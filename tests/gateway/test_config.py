"""What can be configured, what is refused, and in which words."""

import base64
import copy
import json
import os
import re
import stat
from base64 import b64decode
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from gateway import contentconfig, pushconfig, pushcredentials, values
from gateway.auth import Algorithm
from gateway.config import (
    ANY_BACKEND,
    Address,
    Auth,
    Config,
    ConfigError,
    Delivery,
    Limits,
    Log,
    LogFormat,
    LogLevel,
    Push,
    Secret,
    Server,
    Setting,
    Storage,
    Tenant,
    development,
    load,
    settings,
)
from tests.gateway.configured import (
    GOOD,
    SECRET,
    WHSEC,
    push_of,
    read,
    refused,
    refused_line,
    with_line,
)

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
RSA_PEM = RSA_KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

# --- what is read ------------------------------------------------------------------------------


def test_a_complete_configuration_is_read(tmp_path: Path) -> None:
    assert read(tmp_path) == Config(
        server=Server(),
        storage=Storage(url=f"sqlite:///{tmp_path}/ringback.db"),
        delivery=Delivery(),
        limits=Limits(),
        log=Log(format=LogFormat.TEXT, level=LogLevel.INFO),
        tenants={
            "acme": Tenant(
                origins=("https://app.acme.example",),
                auth=Auth(algorithm=Algorithm.HS256, secret=Secret(SECRET)),
                push=Push(
                    adapter="asapp",
                    endpoint="https://push.acme.example/ring",
                    auth_token=Secret("the-auth-token"),
                    signing_secret=Secret(WHSEC),
                    expires_after=86400.0,
                ),
            )
        },
    )


def test_a_tenant_alone_is_enough_and_need_not_have_a_backend(tmp_path: Path) -> None:
    text = f'[tenants.acme.auth]\nalgorithm = "HS256"\nsecret = "{SECRET}"\n'
    config = read(tmp_path, text)
    assert config.tenants["acme"].push is None
    assert config.tenants["acme"].origins == ()
    assert config.storage.path == tmp_path / "ringback.db"


def test_any_free_port_may_be_asked_for_more_than_once(tmp_path: Path) -> None:
    environ = {f"RINGBACK_SERVER__{name}": "127.0.0.1:0" for name in ("CHAT", "HTTP", "ADMIN")}
    assert read(tmp_path, GOOD, environ).server.admin.port == 0


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


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_file", [True, False])
def test_a_secret_can_come_from_a_file_or_a_variable(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "acme.secret").write_text(f"  {SECRET}\r\n")
    line = 'secret_file = "acme.secret"' if as_file else 'secret_env = "ACME_SECRET"'
    text = GOOD.replace(f'secret = "{SECRET}"', line)
    config = read(tmp_path, text, {"ACME_SECRET": SECRET})
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


def test_no_secret_shows_in_a_repr_of_the_configuration(tmp_path: Path) -> None:
    shown = repr(read(tmp_path)) + str(read(tmp_path))
    for secret in (SECRET, "the-auth-token", WHSEC):
        assert secret not in shown


ENCRYPTION_KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_KEY = base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()


def test_the_keys_of_device_tokens_are_read_and_show_nowhere(tmp_path: Path) -> None:
    lines = f'encryption_key = "{ENCRYPTION_KEY}"\nprevious_encryption_key = "{OLD_KEY}"'
    config = read(tmp_path, with_line("storage", lines))
    keys = config.storage.keys
    assert (keys.present, keys.previous) == (b64decode(ENCRYPTION_KEY), b64decode(OLD_KEY))
    for shown in (repr(config), repr(keys), str(keys)):
        assert ENCRYPTION_KEY not in shown
        assert "0123456789abcdef" not in shown
    assert read(tmp_path).storage.keys == (None, None)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('encryption_key = "hush"', "storage.encryption_key: has 3 bytes of key; expected the"),
        ('encryption_key = "hush!"', "storage.encryption_key: is not base64; expected the base64"),
        ("encryption_key = 1", "storage.encryption_key: is not a text"),
        (
            f'previous_encryption_key = "{OLD_KEY}"',
            "storage.previous_encryption_key: has no present one; expected encryption_key as well",
        ),
        (
            f'encryption_key = "{OLD_KEY}"\nprevious_encryption_key = "{OLD_KEY}"',
            "storage.previous_encryption_key: is the present one; expected the one before it",
        ),
    ],
)
def test_a_key_of_device_tokens_that_cannot_be_used_is_refused(
    tmp_path: Path, lines: str, problem: str
) -> None:
    told = str(refused(tmp_path, with_line("storage", lines)))
    assert problem in told
    assert "hush" not in told


# --- what is refused ---------------------------------------------------------------------------

PUSH, AUTH = "tenants.acme.push", "tenants.acme.auth"


@pytest.mark.parametrize(
    ("section", "line", "problem", "expected"),
    [
        ("server", 'http = "127.0.0.1:8080"', "as server.chat", "a port of its own"),
        ("delivery", "restart_grace = 5", "is 5", "more than delivery.restart_window (5)"),
        ("delivery", "max_hold = 4.5", "is 4.5", "at least delivery.ack_timeout (5)"),
        ("limits", "frame_bytes = 1023", "is 1023", "from 1024"),
        ("limits", "sessions = 0", "is 0", "a whole number from 1"),
        ("limits", "sessions = 1.5", "is 1.5", "a whole number from 1"),
        ("limits", f"sessions = [{'1,' * 99}]", "is [1, 1", "a whole number from 1"),
        ("limits", "text_chars = 65536", "is 65536", "less than limits.frame_bytes (65536)"),
        ("limits", "data_bytes = 65536", "is 65536", "less than limits.frame_bytes (65536)"),
        ("limits", "outbound_bytes = 65535", "is 65535", "at least limits.frame_bytes (65536)"),
        ("log", 'format = "xml"', "is 'xml'", '"text" or "json"'),
        ("log", 'level = "loud"', "is 'loud'", '"debug", "info"'),
        ("tenants.acme", 'policy = "always"', "is 'always'", '"default"'),
        (AUTH, 'algorithm = "none"', "is 'none'", '"HS256"'),
        (AUTH, 'algorithm = "HS512"', "is 'HS512'", '"HS256"'),
        (AUTH, 'secret = "31-bytes-are-one-less-than-32.."', "is only 31 bytes", "at least 32"),
        (AUTH, f"public_key = '''{RSA_PEM}'''", "does not go with HS256", "secret"),
        (AUTH, "leeway = 31", "is 31", "a number of seconds from 0 to 30"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key_and_what_would_be_right(
    tmp_path: Path, section: str, line: str, problem: str, expected: str
) -> None:
    refused_line(tmp_path, section, line, problem, expected)


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


# --- the environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "where", "read_as"),
    [
        ("SERVER__CHAT", "[::1]:0", "server.chat", Address("::1", 0)),
        (
            "SERVER__PUBLIC_HTTP",
            "https://a.example",
            "server.public_http",
            "https://a.example",
        ),
        ("SERVER__PUBLIC_CHAT", "wss://a.example", "server.public_chat", "wss://a.example"),
        ("DELIVERY__ACK_TIMEOUT", "2.5", "delivery.ack_timeout", 2.5),
        ("DELIVERY__ACK_TIMEOUT", "2", "delivery.ack_timeout", 2.0),
        ("LIMITS__SESSIONS", "3", "limits.sessions", 3),
        ("LOG__FORMAT", "json", "log.format", LogFormat.JSON),
        ("STORAGE__URL", "sqlite:////x/y.db", "storage.url", "sqlite:////x/y.db"),
        ("TENANTS__ACME__PUSH__ALLOW_HTTP", "true", "push.allow_http", True),
        ("TENANTS__ACME__PUSH__EXPIRES_AFTER", "7d", "push.expires_after", 604800.0),
        ("TENANTS__ACME__PUSH__AUTH_TOKEN", "new", "push.auth_token", Secret("new")),
        ("TENANTS__ACME__AUTH__ISSUER", "me", "auth.issuer", "me"),
        (
            "TENANTS__ACME__ORIGINS",
            "https://a.example, https://b.example,",
            "origins",
            ("https://a.example", "https://b.example"),
        ),
    ],
)
def test_the_environment_overrides_the_file(
    tmp_path: Path, variable: str, value: str, where: str, read_as: object
) -> None:
    config = read(tmp_path, GOOD, {f"RINGBACK_{variable}": value})
    found: Any = config.tenants["acme"] if variable.startswith("TENANTS") else config
    for part in where.split("."):
        found = getattr(found, part)
    assert found == read_as


def test_the_environment_alone_is_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_text(SECRET)
    environ = {
        "RINGBACK_TENANTS__ACME__AUTH__ALGORITHM": "HS256",
        "RINGBACK_TENANTS__ACME__AUTH__SECRET_FILE": "s",
    }
    config = load(None, environ)
    assert config.tenants["acme"].auth.secret == Secret(SECRET)
    assert config.storage.path == tmp_path / "ringback.db"


@pytest.mark.parametrize("form", ["secret", "secret_file", "secret_env"])
def test_a_secret_of_the_environment_replaces_every_form_in_the_file(
    tmp_path: Path, form: str
) -> None:
    text = GOOD.replace(f'secret = "{SECRET}"', f'{form} = "nothing-of-that-name"')
    variable = "RINGBACK_TENANTS__ACME__AUTH__SECRET"
    assert read(tmp_path, text, {variable: SECRET}).tenants["acme"].auth.secret == Secret(SECRET)


def test_two_forms_of_a_secret_in_the_environment_are_refused(tmp_path: Path) -> None:
    variable = "RINGBACK_TENANTS__ACME__AUTH__SECRET"
    error = refused(tmp_path, GOOD, {variable: SECRET, f"{variable}_FILE": "x"})
    assert str(error) == f"{variable}: is given beside secret_file; expected only one of the two"


def test_a_tenant_with_a_dash_or_a_dot_is_reached_with_underscores(tmp_path: Path) -> None:
    text = GOOD.replace("tenants.acme", 'tenants."acme-eu.1"')
    config = read(tmp_path, text, {"RINGBACK_TENANTS__ACME_EU_1__PUSH__TITLE": "Hallo"})
    assert list(config.tenants) == ["acme-eu.1"]
    assert push_of(config, "acme-eu.1").title == "Hallo"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SERVER__CHATT", "x", "names no setting; expected RINGBACK_SERVER__CHAT"),
        ("SERVER_CHAT", "x", "has one underscore too few; expected RINGBACK_SERVER__CHAT"),
        ("SERVER__CHAT_FILE", "x", "names no setting; expected RINGBACK_SERVER__CHAT"),
        (
            "TENANTS__ACME__PUSH__ENDPONT",
            "x",
            "names no setting; expected RINGBACK_TENANTS__ACME__PUSH__ENDPOINT",
        ),
        (
            "TENANTS__ACME__ORIGIN",
            "x",
            "names no setting; expected RINGBACK_TENANTS__ACME__ORIGINS",
        ),
        ("LIMITS__SESSIONS", "x", "is 'x'; expected a whole number from 1 to 1000000000"),
        ("TENANTS__ACME__AUTH__SECRET", "short", "is only 5 bytes long; expected at least 32"),
        ("TENANTS__ACME__AUTH__ISSUER", "\udcff", "is not UTF-8; expected a text"),
    ],
)
def test_a_variable_that_is_wrong_is_refused_by_its_name(
    tmp_path: Path, variable: str, value: str, line: str
) -> None:
    error = refused(tmp_path, GOOD, {f"RINGBACK_{variable}": value})
    assert str(error).startswith(f"RINGBACK_{variable}: {line}")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "RINGBACK_PORT": "tcp://10.0.0.1:80",
        "RINGBACK_SERVICE_HOST": "10.0.0.1",
        "MY__VARIABLE": "x",
    }
    assert read(tmp_path, GOOD, environ) == read(tmp_path)


def test_a_variable_that_could_mean_two_tenants_is_refused(tmp_path: Path) -> None:
    text = "".join(
        f'[tenants."{name}".auth]\nalgorithm = "HS256"\nsecret = "{SECRET}"\n'
        for name in ("a-b", "a.b")
    )
    error = refused(tmp_path, text, {"RINGBACK_TENANTS__A_B__POLICY": "default"})
    assert error.problem == "could mean a-b or a.b"


@pytest.mark.parametrize("text", ["tenants = 5", "[tenants]\nacme = 5"])
def test_a_variable_beneath_what_is_no_section_does_not_hide_the_fault(
    tmp_path: Path, text: str
) -> None:
    error = refused(tmp_path, text, {"RINGBACK_TENANTS__ACME__POLICY": "default"})
    assert error.key in ("tenants", "tenants.acme")


@given(
    st.dictionaries(
        st.sampled_from(list(settings())).map(
            lambda s: "RINGBACK_" + "__".join(s.path).upper().replace("<TENANT>", "ACME")
        )
        | st.text(max_size=20).map(lambda rest: "RINGBACK_" + rest),
        st.text(max_size=20),
        max_size=3,
    )
)
def test_whatever_the_environment_holds_the_answer_is_a_configuration_or_one_line(
    environ: dict[str, str],
) -> None:
    base = {
        "RINGBACK_TENANTS__ACME__AUTH__ALGORITHM": "HS256",
        "RINGBACK_TENANTS__ACME__AUTH__SECRET": SECRET,
    }
    try:
        line = repr(load(None, base | environ))
    except ConfigError as error:
        line = str(error)
    assert line.isprintable()


@pytest.mark.parametrize("value", ["0.5", "100", "-1", "x", "[]", "true", "12h", "22:00-07:00"])
@pytest.mark.parametrize("setting", list(settings()), ids=lambda s: ".".join(s.path))
def test_whatever_a_setting_is_set_to_the_answer_is_a_configuration_or_one_line(
    tmp_path: Path, setting: Setting, value: str
) -> None:
    names = {"<TENANT>": "ACME", ANY_BACKEND.upper(): "SAND"}
    path = [names.get(part.upper(), part.upper()) for part in setting.path]
    try:
        line = repr(read(tmp_path, GOOD, {"RINGBACK_" + "__".join(path): value}))
    except ConfigError as error:
        line = str(error)
    assert line.isprintable()


@pytest.mark.parametrize("rate", ["100", "0.5", "100000"])
def test_a_rate_of_calls_can_be_set(tmp_path: Path, rate: str) -> None:
    text = GOOD.replace(f"[{PUSH}]", f"[{PUSH}]\nrate_per_second = {rate}")
    assert push_of(read(tmp_path, text)).rate_per_second == float(rate)


@pytest.mark.parametrize("rate", ["0", "-1", "100001", '"x"', "true"])
def test_an_impossible_rate_is_refused(tmp_path: Path, rate: str) -> None:
    text = GOOD.replace(f"[{PUSH}]", f"[{PUSH}]\nrate_per_second = {rate}")
    assert "a number of calls per second above 0" in str(refused(tmp_path, text, {}))


# --- without a configuration -------------------------------------------------------------------


def test_without_a_configuration_a_development_tenant_runs_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = development({})
    assert list(config.tenants) == ["dev"]
    assert push_of(config, "dev").endpoint == "http://127.0.0.1:8090/ring"
    assert {getattr(config.server, name).host for name in ("chat", "http", "admin")} == {
        "127.0.0.1"
    }
    assert config.storage.path == tmp_path / "ringback-dev.db"


KEPT = ["ringback-dev.key", "ringback-dev.secret"]


def test_the_development_secrets_are_kept_for_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = development({})
    assert development({}) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in KEPT} == {0o600}
    assert first.storage.keys.present is not None
    (tmp_path / "ringback-dev.secret").unlink()
    assert development({}).tenants["dev"].auth.secret != first.tenants["dev"].auth.secret


def test_of_two_that_make_the_development_secret_at_once_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    link = os.link

    def another_was_faster(source: str, target: Path) -> None:
        target.write_text("the-first-one's-secret-that-was-already-there\n")
        link(source, target)

    monkeypatch.setattr("gateway.config.os.link", another_was_faster)
    kept = Secret("the-first-one's-secret-that-was-already-there")
    environ = {"RINGBACK_STORAGE__ENCRYPTION_KEY": ENCRYPTION_KEY}
    assert development(environ).tenants["dev"].auth.secret == kept
    assert [path.name for path in tmp_path.iterdir()] == ["ringback-dev.secret"]


def test_the_environment_overrides_the_development_configuration_too(tmp_path: Path) -> None:
    environ = {
        "RINGBACK_STORAGE__URL": f"sqlite:///{tmp_path}/x.db",
        "RINGBACK_SERVER__CHAT": "127.0.0.1:0",
        "RINGBACK_STORAGE__ENCRYPTION_KEY": ENCRYPTION_KEY,
        "RINGBACK_TENANTS__DEV__AUTH__SECRET": SECRET,
    }
    config = development(environ)
    assert config.server.chat.port == 0
    assert config.tenants["dev"].auth.secret == Secret(SECRET)
    assert list(tmp_path.iterdir()) == []


def test_a_development_secret_that_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    environ = {"RINGBACK_STORAGE__URL": f"sqlite:///{tmp_path}/none/x.db"}
    with pytest.raises(ConfigError) as caught:
        development(environ)
    assert caught.value.key == f"{tmp_path}/none/ringback-dev.secret"
    assert caught.value.problem == "cannot be written (No such file or directory)"


# --- the documentation -------------------------------------------------------------------------

DOC = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROWS = {
    key: (kind, default, meaning, variable)
    for key, kind, default, meaning, variable in re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `(RINGBACK_[^`]+)` \|$", DOC, re.M
    )
}
KINDS = {
    values.Listen: "address",
    values.SqliteUrl: "URL",
    values.Url: "URL",
    values.Seconds: "seconds",
    values.HourAtMost: "seconds",
    values.Leeway: "seconds",
    values.Lifetime: "duration",
    values.Count: "number",
    values.FrameBytes: "number",
    values.Origins: "list of texts",
    values.CaFile: "path",
    pushcredentials.PemFile: "path",
    pushcredentials.Headers: "table of secrets",
    values.Networks: "list of networks",
    pushconfig.Inside: "list of networks",
    pushconfig.Rate: "number",
    pushconfig.Options: "table",
    values.Flag: "true or false",
    values.KeyText: "key text",
    values.EncryptionKey: "secret",
    values.Required: "secret",
    values.OptionalSecret: "secret",
    pushconfig.Quiet: "hours",
    contentconfig.ByLanguage: "texts by language",
    pushconfig.SigningSecret: "secret",
}


DOCUMENTED = [
    setting
    for setting in settings()
    if ANY_BACKEND not in setting.path or setting.path[-1] in ("environment", "app")
]
"""The other keys of a further backend are those of the tenant's own."""


def shown_default(setting: Setting) -> str:
    default = setting.field.default
    if default is msgspec.NODEFAULT:
        return "required"
    if default is None:
        return "none"
    if setting.field.type == values.Lifetime:
        return f'`"{default / 3600:g}h"`'
    if setting.field.type in (values.Networks, values.Origins, pushconfig.Inside):
        return f"`{json.dumps([str(one) for one in default])}`"
    if isinstance(default, bool | int | float):
        return f"`{json.dumps(default)}`"
    return f'`"{default}"`'


def test_the_documentation_has_every_key_and_no_other() -> None:
    documented = re.findall(r"^\| `([^`]+)` \|.*\| `RINGBACK_[^`]+` \|$", DOC, re.M)
    assert sorted(documented) == sorted(".".join(setting.path) for setting in DOCUMENTED)


def test_a_further_backend_takes_what_the_documentation_says_it_takes() -> None:
    below = {
        of: {s.path[s.path.index(of) + 1] for s in settings() if of in s.path[:-1]}
        for of in ("push", ANY_BACKEND)
    }
    said = re.search(r"every key of the push section but (.*?), which are", DOC, re.S)
    assert said is not None
    assert below["push"] - below[ANY_BACKEND] == set(re.findall(r"`(\w+)`", said[1]))
    assert below[ANY_BACKEND] - below["push"] == {"environment", "app"}


@pytest.mark.parametrize("setting", DOCUMENTED, ids=lambda s: ".".join(s.path))
def test_the_documentation_tells_the_type_default_and_variable_of(setting: Setting) -> None:
    kind, default, meaning, variable = ROWS[".".join(setting.path)]
    assert kind == KINDS.get(setting.field.type, "text")
    assert default == shown_default(setting)
    assert meaning.strip()
    assert variable == "RINGBACK_" + "__".join(setting.path).upper()
    words = get_args(setting.field.type)[1].description
    assert words, "an error could not say what would be right"


def test_the_documentations_example_and_error_are_real(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOC, re.S)
    shown = re.search(r"```\n(delivery\..*?)\n```", DOC)
    assert example is not None
    assert shown is not None
    (tmp_path / "acme.secret").write_text(SECRET)
    (tmp_path / "acme-signing.secret").write_text(WHSEC)
    environ = {"ACME_AUTH_TOKEN": "t"}
    assert push_of(read(tmp_path, example[1], environ)).signing_secret == Secret(WHSEC)
    misspelt = "[delivery]\nack_timout = 1\n" + example[1]
    assert str(refused(tmp_path, misspelt, environ)) == shown[1]


def test_the_documented_kinds_of_override_work(tmp_path: Path) -> None:
    text = GOOD + f'[tenants.acme-eu.auth]\nalgorithm = "HS256"\nsecret = "{SECRET}"\n'
    shown = re.findall(r"^\| `(RINGBACK_\w+)=([^`]+)` \|", DOC, re.M)
    environ = {name: value.replace("…", "x.example/") for name, value in shown}
    assert len(environ) == 4
    config = read(tmp_path, text, environ)
    assert config.tenants["acme-eu"].origins == ("https://a.example", "https://b.example")
    assert config.delivery.ack_timeout == 2.5


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = read(tmp_path)
    with pytest.raises(AttributeError):
        config.delivery.ack_timeout = 1.0  # type: ignore[misc]
    assert copy.copy(config) == config
