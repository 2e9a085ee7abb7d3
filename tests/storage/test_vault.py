"""Tokens at rest: what opens, what does not, and what a stored form tells."""

import hmac
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.vault import (
    Keys,
    Sealed,
    Unreadable,
    Vault,
    key_name,
    unwrapped,
    wrapped,
    wrapped_by,
)

OLD, NEW, LOOKUP = b"o" * 32, b"n" * 32, b"l" * 32
TOKEN = "the-device-token"


def vault(present: bytes = NEW, *others: bytes, lookup_key: bytes = LOOKUP) -> Vault:
    keys = {key_name(key): key for key in (present, *others)}
    return Vault(keys, key_name(present), lookup_key)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("ab"), st.integers(1, 2**62))
def test_what_was_sealed_opens_in_its_place(token: str, tenant: str, row: int) -> None:
    assert vault().open(tenant, row, vault().seal(tenant, row, token)) == token


def test_a_sealed_token_tells_nothing_and_differs_each_time() -> None:
    one, two = (vault().seal("acme", 7, TOKEN) for _ in range(2))
    assert one.text != two.text
    assert one.lookup == two.lookup
    for sealed in (one, two):
        assert TOKEN not in "".join(filter(None, sealed))
        assert TOKEN.encode() not in b64decode(sealed.text or "")


@pytest.mark.parametrize(("tenant", "row"), [("acme", 8), ("other", 7), ("acme\0", 7)])
def test_a_ciphertext_that_was_moved_to_another_place_does_not_open(tenant: str, row: int) -> None:
    with pytest.raises(Unreadable):
        vault().open(tenant, row, vault().seal("acme", 7, TOKEN))


@pytest.mark.parametrize("text", [None, "", "no base64!", b64encode(b"short").decode()])
def test_what_is_no_ciphertext_does_not_open(text: str | None) -> None:
    with pytest.raises(Unreadable):
        vault().open("acme", 7, Sealed("x", text, key_name(NEW)))


def test_a_changed_bit_does_not_open() -> None:
    sealed = vault().seal("acme", 7, TOKEN)
    raw = bytearray(b64decode(sealed.text or ""))
    for at in range(len(raw)):
        raw[at] ^= 1
        with pytest.raises(Unreadable):
            vault().open("acme", 7, sealed._replace(text=b64encode(raw).decode()))
        raw[at] ^= 1


def test_a_key_that_is_not_at_hand_opens_nothing_and_is_named() -> None:
    sealed = vault(OLD).seal("acme", 7, TOKEN)
    with pytest.raises(Unreadable, match=key_name(OLD)):
        vault(NEW).open("acme", 7, sealed)
    assert vault(NEW, OLD).open("acme", 7, sealed) == TOKEN
    with pytest.raises(Unreadable):
        vault(NEW).open("acme", 7, sealed._replace(by=key_name(NEW)))


def test_a_token_is_found_by_the_same_hash_whatever_key_seals_it() -> None:
    assert vault(OLD).lookup("acme", TOKEN) == vault(NEW).lookup("acme", TOKEN)
    assert vault().lookup("acme", TOKEN) != vault().lookup("other", TOKEN)
    assert vault().lookup("a", "b\0c") != vault().lookup("a\0b", "d")
    other = vault(lookup_key=b"x" * 32)
    assert vault().lookup("acme", TOKEN) != other.lookup("acme", TOKEN)


def test_a_token_is_found_by_the_hash_that_databases_have_of_it() -> None:
    """Another, and every app of a database that is there would be a new phone."""
    hashed = hmac.new(LOOKUP, b"acme\0the-device-token", "sha256").hexdigest()
    assert vault().lookup("acme", TOKEN) == hashed


def test_without_a_key_tokens_are_stored_and_found_as_they_are() -> None:
    plain = Vault()
    assert plain.seal("acme", 7, TOKEN) == Sealed(TOKEN, None, None)
    assert plain.lookup("acme", TOKEN) == TOKEN
    assert plain.open("acme", 7, Sealed(TOKEN)) == TOKEN
    assert vault().open("acme", 7, Sealed(TOKEN)) == TOKEN, "not sealed yet"


def test_the_lookup_key_is_kept_under_the_operators_key_and_names_it() -> None:
    text = wrapped(OLD, LOOKUP)
    assert wrapped_by(text) == key_name(OLD)
    assert unwrapped(OLD, text) == LOOKUP
    for spoilt in (text[:-4] + "AAAA", text.partition(".")[0], ""):
        with pytest.raises(Unreadable):
            unwrapped(OLD, spoilt)
    with pytest.raises(Unreadable):
        unwrapped(NEW, text)


def test_keys_are_called_by_names_that_do_not_tell_them() -> None:
    keys = Keys(NEW, OLD)
    assert keys.by_name() == {key_name(NEW): NEW, key_name(OLD): OLD}
    assert Keys().by_name() == {}
    assert repr(keys) == f"Keys({key_name(NEW)}, {key_name(OLD)})"
    assert len(key_name(NEW)) == 8
