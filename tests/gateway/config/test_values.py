"""What a setting's value may be, and in which words another is refused."""

import re
from base64 import b64encode
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import trustme

from gateway.config.values import Address, Secret, fresh_key, table
from tests.gateway.configured import GOOD, push_of, read, refused, refused_line, with_line

PUSH, AUTH = "tenants.acme.push", "tenants.acme.auth"


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("0.0.0.0:1", "0.0.0.0", 1, "0.0.0.0:1"),  # noqa: S104
        ("[::1]:65535", "::1", 65535, "[::1]:65535"),
        ("localhost:0", "localhost", 0, "localhost:0"),
    ],
)
def test_an_address_is_read_and_shown(text: str, host: str, port: int, shown: str) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == shown


def test_a_table_may_be_given_as_the_text_of_a_json_object() -> None:
    assert table({"a": 1}) == {"a": 1}
    assert table('{"a": {"b": 1}}') == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (5, "is not a table"),
        ("[1]", "is not a table"),
        ('{"a" 1}', "is not JSON (line 1 column 6: Expecting ':' delimiter"),
        ('{"a": NaN}', "is not JSON (NaN is no JSON number)"),
        ('{"a": {"b": 1, "b": 2}}', "has 'b' twice in one object"),
        ("[" * 1_000_000, "is not JSON (nested too deeply)"),
    ],
)
def test_what_is_no_table_is_told_without_being_quoted(raw: object, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        table(raw)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("24h", 86400),
        ("7d", 604800),
        ("1.5h", 5400),
        ("36525d", 3_155_760_000),
    ],
)
def test_a_duration_is_read_as_seconds(tmp_path: Path, text: str, seconds: float) -> None:
    config = read(tmp_path, with_line("tenants.acme.push", f'expires_after = "{text}"'))
    assert push_of(config).expires_after == seconds


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.acme.example",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
        "capacitor://localhost",
        "https://xn--kufer-gra.example",
    ],
)
def test_an_origin_that_a_browser_sends_is_taken(tmp_path: Path, origin: str) -> None:
    config = read(tmp_path, with_line("tenants.acme", f'origins = ["{origin}"]'))
    assert config.tenants["acme"].origins == (origin,)


def test_the_origins_that_a_proxy_shows_and_a_key_of_32_bytes_are_taken(tmp_path: Path) -> None:
    server = 'public_http = "https://chat.acme.example"\npublic_chat = "wss://chat.acme.example"'
    config = read(tmp_path, with_line("server", server))
    assert config.server.public_http == "https://chat.acme.example"
    assert config.server.public_chat == "wss://chat.acme.example"
    key = b64encode(bytes(32)).decode()
    config = read(tmp_path, with_line("storage", f'encryption_key = "{key}"'))
    assert config.storage.encryption_key == Secret(key)


def test_a_fresh_key_is_taken_and_every_one_is_another(tmp_path: Path) -> None:
    key = fresh_key()
    config = read(tmp_path, with_line("storage", f'encryption_key = "{key}"'))
    assert config.storage.encryption_key == Secret(key)
    assert fresh_key() != key


def test_the_networks_of_proxies_are_taken(tmp_path: Path) -> None:
    config = read(tmp_path, with_line("server", 'trusted_proxies = ["10.20.0.0/16", "fd12::1"]'))
    assert config.server.trusted_proxies == (ip_network("10.20.0.0/16"), ip_network("fd12::1"))


def test_a_secret_shows_only_when_it_is_revealed() -> None:
    secret = Secret("hush")
    assert secret.reveal() == "hush"
    assert f"{secret} {secret!r} {[secret]}" == "Secret(***) Secret(***) [Secret(***)]"
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)


def test_equal_secrets_are_equal_and_only_to_secrets() -> None:
    assert Secret("hush") == Secret("hush")
    assert Secret("hush") != Secret("hash")
    assert Secret("hush") != "hush"
    assert len({Secret("hush"), Secret("hush"), Secret("hash")}) == 2


@pytest.mark.parametrize(
    ("section", "line", "problem", "expected"),
    [
        ("server", 'chat = "8080"', "is '8080'", '"host:port"'),
        ("server", 'chat = ":8080"', "is ':8080'", '"host:port"'),
        ("server", 'chat = "::1:8080"', "is '::1:8080'", '"host:port"'),
        ("server", 'chat = "[nonsense]:8080"', "is '[nonsense]:8080'", '"host:port"'),
        ("server", 'chat = "127..0.0.1:8080"', "is '127..0.0.1:8080'", '"host:port"'),
        ("server", 'chat = "localhost:65536"', "is 'localhost:65536'", '"host:port"'),
        ("server", "chat = 8080", "is not a text", '"host:port"'),
        ("server", 'chat = "chat..example:80"', "is 'chat..example:80'", '"host:port"'),
        ("server", 'trusted_proxies = "10.0.0.0/8"', "is not a list", "10.20.0.0/16"),
        ("server", 'trusted_proxies = ["10.0.0.1/8"]', "has '10.0.0.1/8'", "10.20.0.0/16"),
        ("server", 'trusted_proxies = ["::/0"]', "which is everything", "10.20.0.0/16"),
        ("storage", 'url = "ringback.db"', "is 'ringback.db'", '"sqlite:///file.db"'),
        ("storage", 'url = "sqlite://ringback.db"', "is 'sqlite://r", '"sqlite:///file.db"'),
        ("storage", 'url = "sqlite:///"', "is 'sqlite:///'", '"sqlite:///file.db"'),
        ("storage", 'url = "sqlite:///data/"', "is 'sqlite:///data/'", '"sqlite:///file.db"'),
        ("storage", 'url = "sqlite:///:memory:"', "is 'sqlite:///:mem", '"sqlite:///file.db"'),
        ("storage", 'url = "sqlite:///a.db?mode=ro"', "is 'sqlite:///a", '"sqlite:///file.db"'),
        ("storage", 'url = "postgresql://db/x"', "is 'postgresql", '"sqlite:///file.db"'),
        ("delivery", "ack_timeout = 0", "is 0", "a number of seconds above 0"),
        ("delivery", "ack_timeout = -1.5", "is -1.5", "a number of seconds above 0"),
        ("delivery", "ack_timeout = inf", "is inf", "a number of seconds above 0"),
        ("delivery", "ack_timeout = nan", "is nan", "a number of seconds above 0"),
        ("delivery", "ack_timeout = true", "is True", "a number of seconds above 0"),
        ("delivery", 'ack_timeout = "5s"', "is '5s'", "a number of seconds above 0"),
        ("delivery", "ack_timeout = 86401", "is 86401", "at most 86400"),
        ("tenants.acme", 'origins = "https://a.example"', "is not a list", "exact origins"),
        ("tenants.acme", "origins = [1]", "is not a list of texts", "exact origins"),
        ("tenants.acme", 'origins = ["null"]', "has 'null'", "exact origins"),
        ("tenants.acme", 'origins = ["*"]', "has '*'", "exact origins"),
        ("tenants.acme", 'origins = ["https://*.a.example"]', "has 'https://*", "exact origins"),
        ("tenants.acme", 'origins = ["https://a.example/"]', "has 'https://a", "exact origins"),
        ("tenants.acme", 'origins = ["https://a.example:443"]', "has 'https:", "exact origins"),
        ("tenants.acme", 'origins = ["http://a.example:80"]', "has 'http:", "exact origins"),
        ("tenants.acme", 'origins = ["http://a.example:99999"]', "has 'http:", "exact origins"),
        ("tenants.acme", 'origins = ["https://A.example"]', "has 'https://A", "exact origins"),
        ("tenants.acme", 'origins = ["https://u@a.example"]', "has 'https://u", "exact origins"),
        ("tenants.acme", 'origins = ["https://käufer.example"]', "has 'https", "exact origins"),
        ("tenants.acme", 'origins = ["app.acme.example"]', "has 'app", "exact origins"),
        ("server", 'public_http = "wss://a.example"', "is 'wss://a", "a web page, such as"),
        ("server", 'public_http = "https://a.example/console"', "is 'https", "a web page, such as"),
        ("server", "public_http = 5", "is not a text", "a web page, such as"),
        ("server", 'public_chat = "https://a.example"', "is 'https", "a WebSocket origin"),
        ("server", 'public_chat = "wss://a.example:443"', "is 'wss", "a WebSocket origin"),
        ("storage", 'encryption_key = "hush"', "has 3 bytes of key", "the base64 of 32"),
        ("storage", 'encryption_key = "hush!"', "is not base64", "the base64 of 32"),
        (AUTH, 'secret = ""', "is empty", "a secret text"),
        (AUTH, "secret = 5", "is not a text", "a secret text"),
        (AUTH, 'audience = ""', "is empty", "a text that is not empty"),
        (AUTH, f'audience = "{"x" * 65537}"', "is too long", "a text that is not empty"),
        (PUSH, 'endpoint = "push.acme.example"', "is not an https URL", "https://push"),
        (PUSH, 'endpoint = "https://"', "is not an https URL", "https://push"),
        (PUSH, 'endpoint = "https://a.example:0/"', "is not an https URL", "https://push"),
        (PUSH, 'endpoint = "https://a.example:port/"', "is not a URL", "https://push"),
        (PUSH, 'endpoint = "https://[::1/"', "is not a URL", "https://push"),
        (PUSH, 'endpoint = "https://a..example/"', "has a host name that", "https://push"),
        (PUSH, 'endpoint = "https://10.0.0.300/"', "has a host name that", "https://push"),
        (PUSH, f'endpoint = "https://{"a" * 64}/"', "has a host name that", "https://push"),
        (PUSH, 'endpoint = "https://u:p@a.example/"', "has a user name", "https://push"),
        (PUSH, 'endpoint = "https://a.example/#x"', "has a fragment", "https://push"),
        (PUSH, 'endpoint = "https://a.example/ä"', "has a fragment, a space", "https://push"),
        (PUSH, 'endpoint = "https://a.example/a b"', "has a fragment, a space", "https://push"),
        (PUSH, 'ca_file = "none.pem"', "none.pem: No such file", "PEM certificates"),
        (PUSH, 'ca_file = "ringback.toml"', "holds no PEM certificate", "PEM certificates"),
        (PUSH, "expires_after = 3600", "is not a text", "a duration"),
        (PUSH, 'expires_after = "1 day"', "is '1 day'", "a duration"),
        (PUSH, 'expires_after = "0h"', "is '0h'", "a duration"),
        (PUSH, 'expires_after = "-1h"', "is '-1h'", "a duration"),
        (PUSH, 'expires_after = "36526d"', "more than a hundred years", "a duration"),
        (PUSH, 'title = ""', "is empty", "a text that is not empty"),
        (PUSH, 'allow_http = "yes"', "is 'yes'", "true or false"),
        (PUSH, "in_flight = 0", "is 0", "a whole number from 1"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key_and_what_would_be_right(
    tmp_path: Path, section: str, line: str, problem: str, expected: str
) -> None:
    refused_line(tmp_path, section, line, problem, expected)


@pytest.mark.parametrize("rest", ["ringback:hush@db/x", "db/x?password=hush"])
def test_of_the_address_of_another_database_no_password_is_told(tmp_path: Path, rest: str) -> None:
    error = refused(tmp_path, with_line("storage", f'url = "postgresql://{rest}"'))
    assert error.problem == "is 'postgresql://…'"


@pytest.mark.parametrize(("title", "problem"), [("", "is empty"), ("x" * 65537, "is too long")])
def test_a_text_has_at_least_one_character_and_an_end(
    tmp_path: Path, title: str, problem: str
) -> None:
    error = refused(tmp_path, with_line("tenants.acme.auth", f'audience = "{title}"'))
    assert error.problem == problem


def test_a_list_in_a_variable_has_commas(tmp_path: Path) -> None:
    environ = {"RINGBACK_TENANTS__ACME__ORIGINS": "https://a.example, https://b.example,"}
    origins = read(tmp_path, GOOD, environ).tenants["acme"].origins
    assert origins == ("https://a.example", "https://b.example")


def test_a_variable_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD, {"RINGBACK_TENANTS__ACME__AUTH__ISSUER": "\udcff"})
    assert error.problem == "is not UTF-8"


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, with_line("delivery", "ack_timeout = nan")).problem == "is nan"


def test_a_private_authority_is_read_relative_to_the_file(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    config = read(tmp_path, with_line("tenants.acme.push", 'ca_file = "ca.pem"'))
    assert push_of(config).ca_file == tmp_path / "ca.pem"
