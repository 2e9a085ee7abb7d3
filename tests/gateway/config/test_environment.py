"""Which setting a variable means, and what it takes the place of."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.reading import load
from gateway.config.sections import LogFormat
from gateway.config.settings import ANY_BACKEND, SETTINGS, Setting
from gateway.config.values import Address, ConfigError, Secret
from tests.gateway.configured import GOOD, SECRET, push_of, read, refused


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
        st.sampled_from(SETTINGS).map(
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
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: ".".join(s.path))
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
