"""This company's device tokens: base64url of a small JSON, made by its own apps.

    {"platform": "android", "token": "<FCM registration token>"}
    {"platform": "ios", "token": "<APNs device token>", "sandbox": true}
    {"platform": "web", "subscription": <what PushManager.subscribe() gave>}

Ringback stores them and hands them back, and never looks inside. Anybody who can sign in can
register one, so what is in it is not to be trusted.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any


class NotOurs(Exception):
    """No token that an app of ours made; it will never work."""


@dataclass(frozen=True, slots=True)
class Android:
    token: str


@dataclass(frozen=True, slots=True)
class Ios:
    token: str
    sandbox: bool


@dataclass(frozen=True, slots=True)
class Web:
    endpoint: str
    p256dh: str
    auth: str


Address = Android | Ios | Web


def read(token: str) -> Address:
    """What is in a token. Raises `NotOurs`."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        told = json.loads(raw)
        match told:
            case {"platform": "android", "token": str(fcm)} if re.fullmatch(r"[\w:-]+", fcm):
                return Android(fcm)
            case {"platform": "ios", "token": str(apns)} if re.fullmatch("[0-9a-fA-F]+", apns):
                return Ios(apns, told.get("sandbox") is True)
            case {
                "platform": "web",
                "subscription": {
                    "endpoint": str(endpoint),
                    "keys": {"p256dh": str(p256dh), "auth": str(auth)},
                },
            }:
                return Web(endpoint, p256dh, auth)
    except (ValueError, RecursionError):
        pass
    raise NotOurs


def write(**parts: Any) -> str:
    """A token, as an app would make it."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")
