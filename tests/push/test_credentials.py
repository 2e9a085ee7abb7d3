"""What a request's credentials look like."""

from __future__ import annotations

import base64

import pytest

from push.credentials import (
    NONE,
    ClientCertificate,
    Credentials,
    OAuth,
    added,
    basic,
    is_ours,
)

JSON = {"Content-Type": "application/json"}
OAUTH = OAuth(token_url="https://login.acme.example/token", client_id="ringback", client_secret="s")


def test_without_credentials_a_request_stays_what_it_is() -> None:
    assert added(JSON, NONE) == JSON


@pytest.mark.parametrize("credentials", [NONE, Credentials(bearer="t0ken")])
def test_an_adapter_s_own_headers_are_not_written_into(credentials: Credentials) -> None:
    """It may say the same ones of every call, and one tenant's signature is put to what leaves."""
    headers = dict(JSON)
    added(headers, credentials)["webhook-signature"] = "v1,acme"
    assert headers == JSON


def test_a_bearer_token_is_an_authorization() -> None:
    assert added(JSON, Credentials(bearer="t0ken")) == JSON | {"Authorization": "Bearer t0ken"}


def test_a_user_and_a_password_are_basic_in_utf_8() -> None:
    headers = added(JSON, Credentials(basic=("ringback", "pä:ss")))
    kind, encoded = headers["Authorization"].split()
    assert (kind, base64.b64decode(encoded).decode()) == ("Basic", "ringback:pä:ss")
    assert headers["Authorization"] == basic("ringback", "pä:ss")


def test_the_present_oauth2_token_is_a_bearer_token() -> None:
    assert added({}, Credentials(oauth=OAUTH), "now") == {"Authorization": "Bearer now"}


def test_static_headers_combine_with_an_authorization_and_stand_in_place_of_the_adapter_s() -> None:
    both = Credentials(headers=(("X-Key", "k"), ("x-kind", "ours")), bearer="t")
    assert added({"X-Kind": "theirs", "X-Other": "o"}, both) == {
        "X-Other": "o",
        "X-Key": "k",
        "x-kind": "ours",
        "Authorization": "Bearer t",
    }


def test_no_secret_shows() -> None:
    everything = Credentials(
        headers=(("X-Key", "hush"),),
        bearer="hush",
        basic=("u", "hush"),
        oauth=OAuth(token_url="https://hush/", client_id="c", client_secret="hush"),
        certificate=ClientCertificate(certificate="c.pem", key_password="hush"),
    )
    assert "hush" not in repr(everything)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "WEBHOOK-ID"])
def test_what_the_gateway_sets_is_nobody_elses_header(name: str) -> None:
    assert is_ours(name)


def test_other_headers_are_free() -> None:
    assert not any(map(is_ours, ("Authorization", "X-Api-Key", "Content-Type", "X-Webhook-Id")))
