"""What a tenant's push section may say, what is refused, and in which words."""

import sys
from datetime import time
from ipaddress import ip_network
from pathlib import Path

import pytest

from push.adapters import Adapter, AdapterBroken, OptionError
from push.adapters.named import ADAPTERS
from tests.gateway.configured import GOOD, WHSEC, push_of, read, refused, refused_line, with_line

PUSH = "tenants.acme.push"
BROKEN = "broke when it was given its options (ZeroDivisionError: division by zero)"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://push.acme.example/ring?app=1",
        "http://127.0.0.1:8090/ring",
        "http://127.9.9.9/ring",
        "http://localhost:8090/ring",
        "http://[::1]:8090/ring",
    ],
)
def test_an_endpoint_is_https_or_on_loopback(tmp_path: Path, endpoint: str) -> None:
    config = read(tmp_path, with_line("tenants.acme.push", f'endpoint = "{endpoint}"'))
    assert push_of(config).endpoint == endpoint


def test_an_endpoint_in_capitals_is_the_same(tmp_path: Path) -> None:
    config = read(tmp_path, with_line("tenants.acme.push", 'endpoint = "HTTPS://a.example/Ring"'))
    assert push_of(config).endpoint == "https://a.example/Ring"


def test_plain_http_to_another_machine_can_be_allowed(tmp_path: Path) -> None:
    text = with_line("tenants.acme.push", 'endpoint = "http://backend.test/ring"')
    config = read(tmp_path, text.replace("adapter =", "allow_http = true\nadapter ="))
    assert push_of(config).endpoint == "http://backend.test/ring"


def test_a_backend_inside_is_allowed_by_its_network(tmp_path: Path) -> None:
    text = with_line("tenants.acme.push", 'endpoint = "https://10.20.0.1/ring"')
    text = text.replace("adapter =", 'allow_networks = ["10.20.0.0/16", "fd12::1"]\nadapter =')
    allowed = (ip_network("10.20.0.0/16"), ip_network("fd12::1/128"))
    assert push_of(read(tmp_path, text)).allow_networks == allowed
    environ = {"RINGBACK_TENANTS__ACME__PUSH__ALLOW_NETWORKS": "10.20.0.0/16, fd12::1"}
    assert push_of(read(tmp_path, GOOD, environ)).allow_networks == allowed


def test_quiet_hours_are_by_the_clock_of_a_zone(tmp_path: Path) -> None:
    lines = 'quiet_hours = "22:00-07:00"\ntime_zone = "Europe/Vienna"'
    push = push_of(read(tmp_path, with_line("tenants.acme.push", lines)))
    assert push.quiet_hours == (time(22), time(7))
    assert push.time_zone == "Europe/Vienna"
    assert push_of(read(tmp_path)).quiet_hours is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('quiet_hours = "22-7"', "quiet_hours: is '22-7', which is no such time; expected hours"),
        ('quiet_hours = "07:00-07:00"', "which begins when it ends; expected hours such as"),
        ("quiet_hours = 22", "is not a text"),
        ('time_zone = "Vienna"', "time_zone: is 'Vienna'; expected a time zone such as"),
    ],
)
def test_hours_and_zones_that_there_are_not_are_refused(
    tmp_path: Path, line: str, problem: str
) -> None:
    assert problem in str(refused(tmp_path, with_line(PUSH, line)))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("tenants.acme.auth", "secret", "hush-but-short"),
        ("tenants.acme.push", "signing_secret", "hush-without-prefix"),
        ("tenants.acme.push", "signing_secret", "whsec_hush!"),
        ("tenants.acme.push", "signing_secret", "whsec_aHVzaA=="),
        ("tenants.acme.push", "endpoint", "https://user:hush@push.acme.example/"),
        ("tenants.acme.push", "endpoint", "ftp://push.acme.example/?key=hush"),
    ],
)
def test_an_error_never_shows_a_secret(tmp_path: Path, section: str, key: str, value: str) -> None:
    error = refused(tmp_path, with_line(section, f'{key} = "{value}"'))
    assert error.key == f"{section}.{key}"
    assert "hush" not in str(error)
    assert "aHVzaA" not in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("section", "line", "problem", "expected"),
    [
        (PUSH, 'adapter = "apns"', "is 'apns'", "one of asapp, standard, liveperson"),
        (PUSH, "options = 5", "is not a table", "a table, or"),
        (PUSH, 'options = "[1]"', "is not a table", "a table, or"),
        (PUSH, "options = '{\"a\": 1,}'", "is not JSON (line 1 column ", "a table, or"),
        (PUSH, "options = '{\"a\": NaN}'", "NaN is no JSON number", "a table, or"),
        (PUSH, 'options = \'{"a": 1, "a": 2}\'', "has 'a' twice", "a table, or"),
        (PUSH, f'options = "{"[" * 1_000_000}"', "nested too deeply", "a table, or"),
        (PUSH, f"options = {{a = {2**70}}}", "cannot be written as JSON", "a table, or"),
        (PUSH, 'endpoint = "http://a.example/"', "is plain http", "allow_http"),
        (PUSH, 'endpoint = "HTTP://a.example/"', "is plain http", "allow_http"),
        (PUSH, 'endpoint = "http://localhost.a.example/"', "is plain http", "allow_http"),
        (PUSH, 'endpoint = "http://10.0.0.1/"', "is plain http", "allow_http"),
        (PUSH, 'endpoint = "https://10.0.0.1/"', "not called (private)", "allow_networks"),
        (PUSH, 'endpoint = "https://[64:ff9b::1]/"', "not called (nat64)", "allow_networks"),
        (PUSH, 'endpoint = "https://[64:ff9b::8.8.8.8]/"', "not called (nat64)", "allow_networks"),
        (PUSH, "allow_networks = 10", "is not a list", "10.20.0.0/16"),
        (PUSH, "allow_networks = [10]", "is not a list of texts", "10.20.0.0/16"),
        (PUSH, 'allow_networks = ["10.0.0.1/8"]', "has '10.0.0.1/8'", "10.20.0.0/16"),
        (PUSH, 'allow_networks = ["acme"]', "has 'acme'", "10.20.0.0/16"),
        (PUSH, 'allow_networks = ["0.0.0.0/0"]', "which is everything", "10.20.0.0/16"),
        (PUSH, 'allow_networks = ["224.0.0.0/8"]', "where no backend is", "10.20.0.0/16"),
        (PUSH, 'allow_networks = ["169.254.169.254"]', "where no backend is", "10.20.0.0/16"),
        (PUSH, 'expires_after = "99999999d"', "more than a hundred years", "24h"),
        (PUSH, 'allow_networks = ["::/0"]', "which is everything", "10.20.0.0/16"),
        (PUSH, 'auth_token = ""', "is empty", "a secret text"),
        (PUSH, f'signing_secret = "whsec_{"QUFB" * 7}QUE="', "has 23 bytes", "24 to 64"),
        (PUSH, f'signing_secret = "whsec_{"QUFB" * 21}QUE="', "has 65 bytes", "24 to 64"),
        (PUSH, f'signing_secret = "{WHSEC[6:]}"', "does not start with whsec_", "24 to 64"),
        (PUSH, 'signing_secret = "whsec_***"', "is not base64", "24 to 64"),
        (PUSH, "retry_max = 0.5", "is 0.5", "at least retry_first (1)"),
        (PUSH, "timeout = 4", "is 4", "at least connect_timeout (5)"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key_and_what_would_be_right(
    tmp_path: Path, section: str, line: str, problem: str, expected: str
) -> None:
    refused_line(tmp_path, section, line, problem, expected)


def test_an_old_signing_secret_needs_a_present_one(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace("signing_secret", "previous_signing_secret"))
    assert error.problem == "has no present one"


def test_the_first_retry_may_be_the_longest_and_connecting_may_take_the_whole_time(
    tmp_path: Path,
) -> None:
    lines = "retry_first = 5\nretry_max = 5\nconnect_timeout = 8\ntimeout = 8"
    push = push_of(read(tmp_path, GOOD.replace("auth_token =", f"{lines}\nauth_token =")))
    assert (push.retry_first, push.retry_max) == (5.0, 5.0)
    assert (push.connect_timeout, push.timeout) == (8.0, 8.0)


def test_options_are_a_table_or_a_json_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "acme.json").write_text('{"app_id": "com.acme.app"}')
    matrix = GOOD.replace('"asapp"', '"matrix"')
    for line in ('options = {app_id = "com.acme.app"}', 'options_file = "acme.json"'):
        config = read(tmp_path, matrix.replace("auth_token =", f"{line}\nauth_token ="))
        assert push_of(config).options == '{"app_id":"com.acme.app"}'
    environ = {"RINGBACK_TENANTS__ACME__PUSH__OPTIONS": '{"app_id": "com.acme.dev"}'}
    assert push_of(read(tmp_path, matrix, environ)).options == '{"app_id":"com.acme.dev"}'


@pytest.mark.parametrize(
    ("adapter", "options", "line"),
    [
        (
            "matrix",
            "{}",
            f'{PUSH}.options.app_id: is missing; expected an app id such as "com.acme.app"',
        ),
        (
            "template",
            '{body = {badge = "{unred}"}}',
            f"{PUSH}.options.body.badge: has {{unred}}, which is no field; expected {{unread}}",
        ),
        (
            "standard",
            "{x = 1}",
            f"{PUSH}.options.x: is given, but this adapter has no options; expected no options",
        ),
        ("odd", "{x = 1}", f"{PUSH}.options: is odd; expected something else"),
        (
            "broken",
            "{}",
            f"{PUSH}.adapter: broke when it was given its options (ZeroDivisionError: division"
            " by zero); expected an adapter that can be used",
        ),
    ],
)
def test_what_is_wrong_with_an_adapter_or_its_options_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str, options: str, line: str
) -> None:
    def odd(options: object) -> Adapter:
        raise OptionError("", "is odd", "something else")

    def broken(options: object) -> Adapter:
        raise AdapterBroken("broken", BROKEN)

    monkeypatch.setitem(ADAPTERS, "odd", odd)
    monkeypatch.setitem(ADAPTERS, "broken", broken)
    text = GOOD.replace('"asapp"', f'"{adapter}"\noptions = {options}')
    assert str(refused(tmp_path, text)) == line


def test_only_asapp_needs_a_token_to_send(tmp_path: Path) -> None:
    without = GOOD.replace('auth_token = "the-auth-token"', "")
    assert refused(tmp_path, without).key == f"{PUSH}.auth_token"
    assert push_of(read(tmp_path, without.replace('"asapp"', '"standard"'))).auth_token is None


# Further backends

QA = """
[tenants.acme.push.backends.qa]
environment = "sandbox"
endpoint = "https://push-test.acme.example/ring"
auth_token = "qa-token"
"""
SECTION = "tenants.acme.push.backends"


def test_of_many_backends_none_has_its_settings_found_out_anew(tmp_path: Path) -> None:
    """Each had the annotations of its section compiled twice: 50,000 took half a minute to read."""
    compiled = 0

    def count(frame: object, event: str, told: object) -> None:
        nonlocal compiled
        compiled += event == "c_call" and told is compile

    read(tmp_path, GOOD + QA)
    more = [QA.replace("qa]", f"b{n}]") + f'app = "app-{n}"\n' for n in range(20)]
    text = GOOD + "".join(more)
    sys.setprofile(count)
    try:
        backends = push_of(read(tmp_path, text)).backends
    finally:
        sys.setprofile(None)
    assert len(backends) == len(more)
    assert compiled == 0


def test_a_further_backend_has_the_settings_of_the_push_section_and_inherits_none(
    tmp_path: Path,
) -> None:
    push = push_of(read(tmp_path, GOOD.replace('"asapp"', '"asapp"\nin_flight = 7') + QA))
    qa = push.backends["qa"]
    assert (qa.environment, qa.app) == ("sandbox", None)
    assert qa.endpoint == "https://push-test.acme.example/ring"
    assert qa.auth_token is not None
    assert qa.auth_token.reveal() == "qa-token"
    assert (push.in_flight, qa.in_flight) == (7, 32)
    assert (push.signing_secret is None, qa.signing_secret) == (False, None)


def test_a_further_backend_can_be_given_by_the_environment(tmp_path: Path) -> None:
    prefix = "RINGBACK_TENANTS__ACME__PUSH__BACKENDS__QA_EU__"
    environ = {
        f"{prefix}ENVIRONMENT": "sandbox",
        f"{prefix}APP": "shop",
        f"{prefix}ENDPOINT": "https://qa.acme.example/",
        f"{prefix}AUTH_TOKEN": "t",
        f"{prefix}CREDENTIALS__BEARER": "b",
    }
    made = push_of(read(tmp_path, GOOD, environ)).backends["qa_eu"]
    assert (made.environment, made.app) == ("sandbox", "shop")
    named = QA.replace("backends.qa]", "backends.qa-eu]")
    laid_over = push_of(read(tmp_path, GOOD + named, environ)).backends
    assert list(laid_over) == ["qa-eu"]
    assert laid_over["qa-eu"].app == "shop"


@pytest.mark.parametrize(
    ("text", "key", "problem", "expected"),
    [
        (QA.replace('environment = "sandbox"\n', ""), "qa.environment", "is missing", "as apps"),
        (QA.replace('"sandbox"', '""'), "qa.environment", "is empty", "1 to 128"),
        (QA.replace('"sandbox"', f'"{"x" * 129}"'), "qa.environment", "is too long", "1 to 128"),
        (QA.replace('"sandbox"', "7"), "qa.environment", "is not a text", "1 to 128"),
        (QA.replace('"sandbox"', '"production"'), "qa", "as endpoint", "another environment"),
        (QA + QA.replace("qa", "qa2"), "qa2", "as backends.qa", "another environment or app"),
        (QA.replace("https:", "http:"), "qa.endpoint", "is plain http", "allow_http"),
        (QA + 'title = "T"\n', "qa.title", "is not a known key", "push.title"),
        (QA + "timeout = 1\n", "qa.timeout", "is 1", "at least connect_timeout (5)"),
    ],
)
def test_what_is_wrong_with_a_further_backend_is_told_with_its_key(
    tmp_path: Path, text: str, key: str, problem: str, expected: str
) -> None:
    error = refused(tmp_path, GOOD + text)
    assert error.key == f"{SECTION}.{key}"
    assert problem in error.problem
    assert expected in error.expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (QA.replace("backends.qa", 'backends."QA 1"'), "has 'QA 1'"),
        ("backends = 7\n", "is not a section"),
    ],
)
def test_the_names_of_backends_are_sections_and_plain(
    tmp_path: Path, text: str, problem: str
) -> None:
    error = refused(tmp_path, GOOD + text)
    assert (error.key, error.problem) == (SECTION, problem)


def test_the_same_environment_may_have_a_backend_for_one_app_beside_that_for_all(
    tmp_path: Path,
) -> None:
    text = GOOD + QA + QA.replace("qa", "qa2") + 'app = "shop"\n'
    assert set(push_of(read(tmp_path, text)).backends) == {"qa", "qa2"}


@pytest.mark.parametrize("rate", ["100", "0.5", "100000"])
def test_a_rate_of_calls_can_be_set(tmp_path: Path, rate: str) -> None:
    text = GOOD.replace(f"[{PUSH}]", f"[{PUSH}]\nrate_per_second = {rate}")
    assert push_of(read(tmp_path, text)).rate_per_second == float(rate)


@pytest.mark.parametrize("rate", ["0", "-1", "100001", '"x"', "true"])
def test_an_impossible_rate_is_refused(tmp_path: Path, rate: str) -> None:
    text = GOOD.replace(f"[{PUSH}]", f"[{PUSH}]\nrate_per_second = {rate}")
    assert "a number of calls per second above 0" in str(refused(tmp_path, text, {}))
