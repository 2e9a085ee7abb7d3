"""The ring's shapes: they survive storage and show no secret."""

from __future__ import annotations

import msgspec
import orjson
import pytest

from push.backends import Backend
from push.ring import (
    BookUnavailable,
    DeviceRef,
    PushError,
    Ring,
    RingKind,
    Verdict,
    VerdictKind,
)
from tests.push.scripted import SECRET, TOKEN, a_claim, a_ring, an_endpoint


@pytest.mark.parametrize("kind", list(RingKind))
def test_a_stored_ring_comes_back_equal(kind: RingKind) -> None:
    ring = a_ring(kind, expires_at=1795510800.123456, text='naïve "☃" \x00', title=None)
    assert msgspec.json.decode(msgspec.json.encode(ring), type=Ring) == ring


def test_a_ring_stored_through_orjson_comes_back_equal() -> None:
    ring = a_ring()
    stored = orjson.dumps(msgspec.to_builtins(ring))
    assert msgspec.convert(orjson.loads(stored), Ring) == ring


def test_a_ring_of_an_unknown_kind_is_not_read_back() -> None:
    stored = msgspec.json.encode(a_ring()).replace(b'"message"', b'"shout"')
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(stored, type=Ring)


def test_a_claim_shows_neither_token_nor_message_text() -> None:
    claim = a_claim(ring=a_ring(title="Hush-title", text="Hush-text"))
    assert TOKEN not in repr(claim)
    assert "Hush" not in repr(claim)
    assert "r_01" in repr(claim)
    assert "fp-1" in repr(claim)


def test_a_claim_stands_unless_its_maker_says_otherwise() -> None:
    assert a_claim().stands()


def test_an_endpoint_shows_no_secret_and_no_address_that_may_hold_one() -> None:
    endpoint = an_endpoint(url="https://u:hush@x.example/?key=hush", signing_secrets=(SECRET,))
    assert "hush" not in repr(endpoint)
    assert SECRET not in repr(endpoint)
    assert "auth-token" not in repr(endpoint)
    assert "acme" in repr(endpoint)


def test_a_log_names_an_endpoint_by_its_tenant_and_a_further_one_by_its_backend() -> None:
    assert an_endpoint().named == {"tenant": "acme"}
    assert an_endpoint(backend=Backend("qa", "sandbox")).named == {
        "tenant": "acme",
        "backend": "qa",
    }


def test_two_refs_to_one_device_are_one() -> None:
    assert {DeviceRef("acme", "c-42", 1), DeviceRef("acme", "c-42", 1)} == {
        DeviceRef("acme", "c-42", 1)
    }


def test_a_verdict_cannot_be_changed_afterwards() -> None:
    verdict = Verdict(VerdictKind.ACCEPTED, "http_200", 200)
    with pytest.raises(AttributeError):
        verdict.reason = "other"  # type: ignore[misc]


def test_an_unavailable_book_says_why_and_is_caught_with_the_package_s_errors() -> None:
    with pytest.raises(PushError, match="disk_full") as caught:
        raise BookUnavailable("disk_full")
    assert isinstance(caught.value, BookUnavailable)
    assert caught.value.reason == "disk_full"
