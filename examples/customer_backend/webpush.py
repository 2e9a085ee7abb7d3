"""Browsers, by Web Push (RFC 8030, 8291, 8292) with a VAPID key, by `pywebpush`.

It needs no account with anybody: the key is made at the first start. A subscription comes from a
customer's browser and names the server to call, so only the known push services are called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02
from py_vapid.utils import b64urlencode
from pywebpush import WebPushException, webpush_async

from examples.customer_backend.sending import Fate, Notification, Outcome
from examples.customer_backend.tokens import Web

SERVICES = (
    "fcm.googleapis.com",
    "updates.push.services.mozilla.com",
    "web.push.apple.com",
    "notify.windows.com",
)
PATIENCE = 10.0  # seconds


class WebPush:
    """Sends to browsers. `services` are the hosts that may be called, with those below them."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        key: Path,
        subject: str,
        services: Sequence[str] = SERVICES,
    ) -> None:
        self._http = http
        self._vapid = _kept(key)
        self._subject = subject
        self._services = services

    @property
    def public_key(self) -> str:
        """What browsers subscribe with."""
        raw = self._vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return str(b64urlencode(raw))

    async def send(self, address: Web, notification: Notification) -> Outcome:
        if not self._may_call(address.endpoint):
            return Outcome(Fate.DEAD, "Web Push: no push service that we know")
        if notification.silent:  # a browser shows something for every push
            return Outcome(Fate.SENT, "Web Push: silent, not for browsers")
        keys = {"p256dh": address.p256dh, "auth": address.auth}
        # While it waits for the browser, a second one of the same topic replaces the first.
        topic = hashlib.sha256(notification.id.encode()).hexdigest()[:32]
        try:
            answer = await webpush_async(
                {"endpoint": address.endpoint, "keys": keys},
                data=json.dumps(notification.payload, ensure_ascii=False),
                vapid_private_key=self._vapid,
                vapid_claims={"sub": self._subject},
                ttl=notification.seconds_left,
                headers={"Urgency": "high", "Topic": topic},
                aiohttp_session=self._http,
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
            )
        except WebPushException as error:
            if error.response is None:  # keys that are none
                return Outcome(Fate.DEAD, "Web Push: no keys")
            return outcome(error.response.status, error.response.headers.get("Retry-After"))
        except ValueError:
            return Outcome(Fate.DEAD, "Web Push: no keys")
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            return Outcome(Fate.LATER, f"Web Push: {type(error).__name__}")
        return outcome(answer.status, None)

    def _may_call(self, endpoint: str) -> bool:
        try:
            url = urlsplit(endpoint)
        except ValueError:
            return False
        host = url.hostname or ""
        known = any(host == name or host.endswith(f".{name}") for name in self._services)
        return known and url.scheme == "https"


def outcome(status: int, retry_after: str | None) -> Outcome:
    """What a push service's answer means."""
    why = f"Web Push: {status}"
    if status in (200, 201, 202):
        return Outcome(Fate.SENT, why)
    if status in (404, 410):
        return Outcome(Fate.DEAD, why)
    if status in (400, 413):
        return Outcome(Fate.REFUSED, why)
    wait = int(retry_after) if retry_after and retry_after.isdecimal() else None
    return Outcome(Fate.LATER, why, wait)


def _kept(path: Path) -> Vapid02:
    """The VAPID key at `path`, made there at the first start, for its owner only."""
    if path.exists():
        return Vapid02.from_pem(path.read_bytes())
    vapid = Vapid02()
    vapid.generate_keys()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(vapid.private_pem())
    return vapid
