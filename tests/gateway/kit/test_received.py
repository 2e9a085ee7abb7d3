"""What a backend can tell of a call."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.kit.received import Proof, Received, read
from push import signing
from push.adapters import adapter_named
from push.ring import Target
from storage.records import fingerprint
from tests.push.scripted import OLD_SECRET, SECRET, TOKEN, a_ring, an_endpoint

NOW = 1_000_000.0
BODY = adapter_named("asapp").request(a_ring(), Target(TOKEN, ""), an_endpoint()).body


def received(
    raw: bytes = BODY,
    *,
    signed_with: tuple[str, ...] = (SECRET,),
    at: float = NOW,
    secrets: tuple[str, ...] = (SECRET,),
    auth_token: str | None = "auth-token",
    **headers: str,
) -> Received:
    proof = signing.headers("r_01", at, raw, signed_with) | headers
    return read(proof, raw, secrets=secrets, auth_token=auth_token, now=NOW)


def test_of_a_ring_everything_that_matters_is_found() -> None:
    call = received()
    assert (call.id, call.kind, call.customer, call.seq) == ("r_01", "message", "c-42", 9)
    assert (call.badge, call.badge_seq) == (3, 17)
    assert (call.title, call.text) == ("New Message", "Hello, how can we help?")
    assert call.device == fingerprint(TOKEN)
    assert (call.signature, call.credential, call.refused) == (Proof.OK, Proof.OK, None)


@pytest.mark.parametrize(
    ("changes", "proof"),
    [
        ({"signed_with": (OLD_SECRET,)}, Proof.WRONG),
        ({"signed_with": (OLD_SECRET, SECRET)}, Proof.OK),
        ({"secrets": (OLD_SECRET, SECRET)}, Proof.OK),
        ({"signed_with": ()}, Proof.MISSING),
        ({"at": NOW - 301}, Proof.UNTIMELY),
        ({"at": NOW + 301}, Proof.UNTIMELY),
        ({"at": NOW - 299}, Proof.OK),
        ({"webhook-timestamp": "soon"}, Proof.WRONG),
        ({"webhook-timestamp": "9" * 13}, Proof.WRONG),
        ({"webhook-id": "r_02"}, Proof.WRONG),
        ({"webhook-signature": "v1,é"}, Proof.WRONG),
        ({"secrets": ()}, Proof.UNCHECKED),
    ],
)
def test_the_signature_is_judged(changes: dict[str, Any], proof: Proof) -> None:
    assert received(**changes).signature is proof


@pytest.mark.parametrize(
    ("given", "expected", "proof"),
    [
        ("auth-token", "auth-token", Proof.OK),
        ("other", "auth-token", Proof.WRONG),
        (7, "auth-token", Proof.MISSING),
        ("other", None, Proof.UNCHECKED),
    ],
)
def test_the_credential_is_judged(given: object, expected: str | None, proof: Proof) -> None:
    raw = orjson.dumps({"authToken": given})
    assert received(raw, auth_token=expected).credential is proof


@pytest.mark.parametrize(
    ("given", "auth_token", "proof"),
    [
        ({"Authorization": "Bearer b"}, None, Proof.OK),
        ({"Authorization": "Bearer c"}, None, Proof.WRONG),
        ({}, None, Proof.MISSING),
        ({"Authorization": "Bearer b"}, "auth-token", Proof.OK),
        ({"Authorization": "Bearer b"}, "other", Proof.WRONG),
    ],
)
def test_headers_that_are_wanted_are_judged_too(
    given: dict[str, str], auth_token: str | None, proof: Proof
) -> None:
    wanted = {"Authorization": "Bearer b"}
    call = read(given, BODY, secrets=(), auth_token=auth_token, now=NOW, wanted=wanted)
    assert call.credential is proof


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        ("asapp", "{}"),
        ("standard", "{}"),
        ("liveperson", '{"brand_id": "1"}'),
        ("zendesk", "{}"),
        ("matrix", '{"app_id": "a"}'),
    ],
)
def test_in_every_form_the_device_and_the_text_are_found(adapter: str, options: str) -> None:
    form = adapter_named(adapter, options)
    body = form.request(a_ring(), Target(TOKEN, ""), an_endpoint()).body
    call = received(body, auth_token=None)
    assert (call.token, call.text) == (TOKEN, "Hello, how can we help?")
    assert call.badge == (None if adapter == "zendesk" else 3)


def test_who_is_not_let_in_is_told_why() -> None:
    assert received(signed_with=()).refused == "the signature is missing"
    assert received(auth_token="other").refused == "the credential is wrong"


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"text"', b"\xff"])
def test_what_is_no_json_object_is_said_to_be_none(raw: bytes) -> None:
    call = received(raw, auth_token=None)
    assert (call.order, call.token, call.device, call.badge) == (None, None, None, None)
    assert call.masks == {}


def test_other_shapes_are_searched_for_the_same_things() -> None:
    body = {
        "live": True,
        "notification": {
            "counts": {"unread": 2},
            "devices": [{"pushkey": "k-1", "data": {"badge": True}}],
        },
    }
    call = received(orjson.dumps(body), auth_token=None)
    assert (call.token, call.badge) == ("k-1", 2)


def test_nothing_secret_is_in_a_repr_and_the_masks_hide_it() -> None:
    call = received()
    assert not any(
        secret in repr(call) for secret in (TOKEN, "auth-token", "Hello, how can we help?")
    )
    assert call.masks == {TOKEN: f"***{fingerprint(TOKEN)}", "auth-token": "***"}
