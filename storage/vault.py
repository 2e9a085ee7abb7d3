"""The vault: device tokens at rest, encrypted so that a copy of the database gives none away.

Decides: the form in which a token is stored, and by what it is found. Leaves to others: which rows
are still to be sealed (`storage.sealing`), and where the operator's keys come from.

A token is sealed with AES-256-GCM under the operator's key, a random nonce with each, and the
tenant and the row as associated data: a ciphertext that was moved to another row does not open. It
is looked up by an HMAC-SHA-256 under a key of its own, which is kept in the database, wrapped with
the operator's key. So the operator's key can change without a hash changing. Each sealed text names
the key that it needs. Without any key tokens are stored, and looked up, as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE: Final = 12
_WRAP: Final = b"ringback lookup key"


class Unreadable(Exception):
    """A sealed text does not open: it was damaged or moved, or its key is not at hand."""


class Keys(NamedTuple):
    """The operator's keys: the present one, and the one before while its tokens are still about."""

    present: bytes | None = None
    previous: bytes | None = None

    def by_name(self) -> dict[str, bytes]:
        return {key_name(key): key for key in self if key is not None}

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.by_name())})"


class Sealed(NamedTuple):
    """A token as it is stored: by what it is found, its ciphertext, and the key that opens it."""

    lookup: str
    text: str | None = None
    by: str | None = None


def key_name(key: bytes) -> str:
    """What a key is called where it is not used: 8 hex digits that do not tell it."""
    return hashlib.sha256(b"ringback key name" + key).hexdigest()[:8]


class Vault:
    """Seals and opens. Without `present` everything is as it is."""

    __slots__ = ("_ciphers", "_lookup_key", "present")

    def __init__(
        self,
        keys: Mapping[str, bytes] | None = None,
        present: str | None = None,
        lookup_key: bytes = b"",
    ) -> None:
        """`present` names the key to seal with; all of `keys` open."""
        self._ciphers = {name: AESGCM(key) for name, key in (keys or {}).items()}
        self._lookup_key = lookup_key
        self.present = present

    def lookup(self, tenant: str, token: str) -> str:
        """By what a tenant's token is found."""
        if self.present is None:
            return token
        told = f"{tenant}\0{token}".encode()
        return hmac.digest(self._lookup_key, told, hashlib.sha256).hex()

    def seal(self, tenant: str, row: int, token: str) -> Sealed:
        """The token of this row as it is to be stored."""
        if self.present is None:
            return Sealed(token)
        text = _encrypt(self._ciphers[self.present], token.encode(), _place(tenant, row))
        return Sealed(self.lookup(tenant, token), text, self.present)

    def open(self, tenant: str, row: int, sealed: Sealed) -> str:
        """The token of this row. Raises `Unreadable`."""
        if sealed.by is None:
            return sealed.lookup
        cipher = self._ciphers.get(sealed.by)
        if cipher is None:
            raise Unreadable(f"the key {sealed.by} is not at hand")
        return _decrypt(cipher, sealed.text or "", _place(tenant, row)).decode()


def wrapped(key: bytes, lookup_key: bytes) -> str:
    """`lookup_key` as the database keeps it: the name of `key`, and what `key` opens."""
    return f"{key_name(key)}.{_encrypt(AESGCM(key), lookup_key, _WRAP)}"


def wrapped_by(text: str) -> str:
    """The name of the key that opens a wrapped one."""
    return text.partition(".")[0]


def unwrapped(key: bytes, text: str) -> bytes:
    """The lookup key. Raises `Unreadable`."""
    return _decrypt(AESGCM(key), text.partition(".")[2], _WRAP)


def _place(tenant: str, row: int) -> bytes:
    return f"ringback device token\0{tenant}\0{row}".encode()


def _encrypt(cipher: AESGCM, plain: bytes, about: bytes) -> str:
    nonce = secrets.token_bytes(_NONCE)
    return b64encode(nonce + cipher.encrypt(nonce, plain, about)).decode()


def _decrypt(cipher: AESGCM, text: str, about: bytes) -> bytes:
    try:
        sealed = b64decode(text, validate=True)
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about)
    except (ValueError, InvalidTag):
        raise Unreadable("it was damaged, moved, or sealed with another key") from None
