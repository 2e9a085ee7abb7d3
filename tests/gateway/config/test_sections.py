"""What the sections are, and which of their values do not go together."""

import copy
from base64 import b64decode
from pathlib import Path

import pytest

from gateway.config.auth import Algorithm, Auth
from gateway.config.push import Push
from gateway.config.sections import (
    Config,
    Delivery,
    Limits,
    Log,
    LogFormat,
    LogLevel,
    Server,
    Storage,
    Tenant,
    check_tenant_name,
)
from gateway.config.values import ConfigError, Secret
from tests.gateway.configured import (
    ENCRYPTION_KEY,
    GOOD,
    OLD_KEY,
    SECRET,
    WHSEC,
    read,
    refused,
    refused_line,
    with_line,
)


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


def test_the_origins_are_those_of_all_tenants() -> None:
    auth = Auth(algorithm=Algorithm.HS256, secret=Secret(SECRET))
    one, other = "https://app.acme.example", "https://other.example"
    tenants = {"acme": Tenant(auth=auth, origins=(one,)), "other": Tenant(auth=auth)}
    assert Config(tenants=tenants).origins == {one}
    tenants["other"] = Tenant(auth=auth, origins=(one, other))
    assert Config(tenants=tenants).origins == {one, other}


def test_any_free_port_may_be_asked_for_more_than_once(tmp_path: Path) -> None:
    environ = {f"RINGBACK_SERVER__{name}": "127.0.0.1:0" for name in ("CHAT", "HTTP", "ADMIN")}
    assert read(tmp_path, GOOD, environ).server.admin.port == 0


def test_no_secret_shows_in_a_repr_of_the_configuration(tmp_path: Path) -> None:
    shown = repr(read(tmp_path)) + str(read(tmp_path))
    for secret in (SECRET, "the-auth-token", WHSEC):
        assert secret not in shown


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


AUTH, PUSH = "tenants.acme.auth", "tenants.acme.push"


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
        (AUTH, "leeway = 31", "is 31", "a number of seconds from 0 to 30"),
        (PUSH, 'expires_after = "5s"', "is 5 seconds", "more than delivery.ack_timeout (5)"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key_and_what_would_be_right(
    tmp_path: Path, section: str, line: str, problem: str, expected: str
) -> None:
    refused_line(tmp_path, section, line, problem, expected)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("delivery", "ack_timeout"),
        ("limits", "hello_timeout"),
        ("limits", "ping_interval"),
        ("limits", "ping_timeout"),
        (PUSH, "connect_timeout"),
        (PUSH, "timeout"),
    ],
)
def test_a_time_in_which_nobody_can_answer_is_refused(
    tmp_path: Path, section: str, key: str
) -> None:
    for value in ("1e-09", "0.01"):
        expected = "a number of seconds above 0.01"
        refused_line(tmp_path, section, f"{key} = {value}", f"is {value}", expected)


def test_what_nobody_could_be_rung_for_in_time_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, with_line("delivery", "disconnect_grace = 86400"))
    assert (error.key, error.problem) == ("tenants.acme.push.expires_after", "is 86400 seconds")
    assert "more than delivery.disconnect_grace (86400)" in error.expected


def test_what_may_be_as_much_as_another_may_be_as_much(tmp_path: Path) -> None:
    config = read(tmp_path, with_line("delivery", "max_hold = 5"))
    assert config.delivery.max_hold == config.delivery.ack_timeout == 5.0
    config = read(tmp_path, with_line("limits", "outbound_bytes = 65536"))
    assert config.limits.outbound_bytes == config.limits.frame_bytes == 65536


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = read(tmp_path)
    with pytest.raises(AttributeError):
        config.delivery.ack_timeout = 1.0  # type: ignore[misc]
    assert copy.copy(config) == config


def test_a_tenant_is_called_by_what_a_token_and_a_variable_can_name() -> None:
    check_tenant_name("acme-eu.1", "--tenant")
    with pytest.raises(ConfigError) as caught:
        check_tenant_name("Acme Inc", "--tenant")
    line = "--tenant: is no tenant's name; expected 1 to 128 of a-z 0-9 . _ -"
    assert str(caught.value) == line
