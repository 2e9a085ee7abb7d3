"""What the three ways to a phone have in common: what is sent, and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

LONGEST = 28 * 86_400
"""Seconds for which FCM keeps a notification; it refuses one that asks for more."""


class Fate(Enum):
    """What became of a notification."""

    SENT = auto()
    DEAD = auto()  # the app is gone, its token means nothing any more
    LATER = auto()  # nothing was sent; it may work at another time
    REFUSED = auto()  # and never will be taken as it is


@dataclass(frozen=True, slots=True)
class Outcome:
    """`why` is for the log; `retry_after` (seconds) goes with `LATER`."""

    fate: Fate
    why: str = ""
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """What is to reach the app. `payload` is for APNs as it stands."""

    id: str
    payload: dict[str, Any]
    expires_at: float  # epoch seconds

    @classmethod
    def of(cls, order: dict[str, Any]) -> Notification:
        told = order["notification"]
        expires_at = datetime.fromisoformat(told["expiresAt"]).timestamp()
        return cls(told["id"], order["payload"], expires_at)

    @property
    def silent(self) -> bool:
        return bool(self.payload["ringback"]["kind"] == "badge")

    @property
    def alert(self) -> dict[str, str]:
        alert: dict[str, str] = self.payload["aps"].get("alert", {})
        return alert

    @property
    def seconds_left(self) -> int:
        return min(max(0, int(self.expires_at - time.time())), LONGEST)


class Sender(Protocol):
    """One way to a phone."""

    async def send(self, address: Any, notification: Notification) -> Outcome:
        """Send it to one of this company's tokens. Raises nothing."""
        ...
