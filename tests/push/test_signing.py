"""Standard Webhooks signatures, checked by the published verifier."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from push.signing import SigningSecretError, decode_secret, headers, new_secret
from tests.push.scripted import OLD_SECRET, SECRET

BODY = '{"deviceToken":"t","text":"grüße ☃"}'.encode()


def signed(*secrets: str, now: float | None = None) -> dict[str, str]:
    return headers("r_01", time.time() if now is None else now, BODY, secrets)


def test_the_published_verifier_accepts_a_signed_ring() -> None:
    assert Webhook(SECRET).verify(BODY, signed(SECRET)) == {"deviceToken": "t", "text": "grüße ☃"}


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_during_a_rotation_the_holder_of_either_secret_can_verify(secret: str) -> None:
    Webhook(secret).verify(BODY, signed(SECRET, OLD_SECRET))


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", signed(SECRET))


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp"])
def test_a_changed_id_or_timestamp_is_refused(header: str) -> None:
    proof = signed(SECRET)
    proof[header] = f"{int(proof[header]) + 1}" if "stamp" in header else "r_02"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, proof)


def test_a_signature_under_another_secret_is_refused() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_SECRET).verify(BODY, signed(SECRET))


def test_a_replay_after_ten_minutes_is_refused() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, signed(SECRET, now=time.time() - 600))


def test_the_headers_are_exactly_those_of_the_standard() -> None:
    # The value was made with openssl, from the same id, time, body and secret.
    assert headers("r_01", 1795507200.9, b"{}", (SECRET,)) == {
        "webhook-id": "r_01",
        "webhook-timestamp": "1795507200",
        "webhook-signature": "v1,Q3tPl5kp6jMnIS4ZcseNnIkkX5RneOh1xfnWNbO4IoQ=",
    }


def test_without_a_secret_the_id_and_time_are_still_sent_but_no_signature() -> None:
    assert headers("r_01", 1.0, BODY, ()) == {"webhook-id": "r_01", "webhook-timestamp": "1"}


def test_a_secret_without_prefix_or_padding_is_the_same_secret() -> None:
    key = bytes(range(25))
    encoded = base64.b64encode(key).decode()
    assert decode_secret("whsec_" + encoded) == key
    assert decode_secret(encoded.rstrip("=")) == key


def test_a_new_secret_is_one_that_nobody_has_had() -> None:
    assert len(decode_secret(new_secret())) == 32
    assert new_secret() != new_secret()
    assert new_secret().startswith("whsec_")


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("whsec_", "holds 0"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "holds 23"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "holds 65"),
        ("whsec_not base64!", "base64"),
        ("hush-hush-ünicode", "base64"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(secret: str, problem: str) -> None:
    with pytest.raises(SigningSecretError, match=problem) as caught:
        decode_secret(secret)
    assert secret.removeprefix("whsec_") not in str(caught.value) or secret == "whsec_"
    assert problem in caught.value.problem
