"""Standard Webhooks v1: the headers that let a customer backend trust a ring.

Decides what is signed and how (https://www.standardwebhooks.com). Leaves to the caller which
secrets are in force and what the time is. Pure: no clock, no socket.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from push.ring import PushError

SECRET_PREFIX = "whsec_"  # noqa: S105  (the published prefix, not a secret)
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


class SigningSecretError(PushError):
    """A secret that is no Standard Webhooks secret. `problem` says why, never what it was."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"signing secret: {problem}")
        self.problem = problem


def new_secret() -> str:
    """Return a secret that nobody knows."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


@lru_cache(maxsize=256)  # every ring asks
def decode_secret(secret: str) -> bytes:
    """Return the key of a secret written `whsec_` + base64 (padding may be missing).

    Raises `SigningSecretError`. The commands that take a secret call this too; the configuration is
    stricter, so that what it takes any library can read.
    """
    encoded = secret.removeprefix(SECRET_PREFIX)
    padded = encoded + "=" * (-len(encoded) % 4)
    try:
        key = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        raise SigningSecretError("must be whsec_ followed by base64") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SigningSecretError(
            f"must hold {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, holds {len(key)}"
        )
    return key


def headers(ring_id: str, now: float, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return `webhook-id`, `webhook-timestamp` and, if there are secrets, `webhook-signature`.

    `now` is the time of this attempt (epoch s): receivers refuse old timestamps, so a retry is
    signed anew while id and body stay. One signature per secret, in the order given, so that a
    backend may hold either during a rotation. Raises `SigningSecretError`.
    """
    timestamp = str(int(now))
    signed = {"webhook-id": ring_id, "webhook-timestamp": timestamp}
    if secrets:
        content = f"{ring_id}.{timestamp}.".encode() + body
        signed["webhook-signature"] = " ".join([_signature(secret, content) for secret in secrets])
    return signed


def _signature(secret: str, content: bytes) -> str:
    mac = _keyed(secret).copy()
    mac.update(content)
    return "v1," + base64.b64encode(mac.finalize()).decode("ascii")


@lru_cache(maxsize=256)  # what the key alone decides is half of a signature
def _keyed(secret: str) -> HMAC:
    return HMAC(decode_secret(secret), SHA256())
