"""What a notification that reached the phone means to the app.

Decides whether it is ours, what it says, and whether it should open the chat. How it came, and what
the app then does, is left to the app; no client and no connection is needed. What ASAPP's SDKs
call these functions is in their docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from push.ring import RingKind


class NotificationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a notification of ours says; None for what it does not say."""

    unread: int
    live: bool
    badge_seq: int | None = None
    seq: int | None = None
    customer: str | None = None
    kind: RingKind | None = None
    id: str | None = None


def is_ours(payload: object) -> bool:
    """Whether a notification came from Ringback (`canHandleNotification`)."""
    return isinstance(payload, Mapping) and isinstance(payload.get("ringback"), Mapping)


def conversation_status(payload: object) -> NotificationStatus | None:
    """What a notification says (`getConversationStatusFromNotification`); None if not ours.

    `payload` is what reached the phone, from anybody: what is missing or ill-typed counts as not
    said, and as 0 unread and not live.
    """
    if not isinstance(payload, Mapping) or not is_ours(payload):
        return None
    ring = payload["ringback"]
    kind = ring.get("kind")
    return NotificationStatus(
        unread=_count(payload.get("UnreadMessages")) or 0,
        live=payload.get("isLiveChat") is True,
        badge_seq=_count(payload.get("badgeSeq")),
        seq=_count(ring.get("seq")),
        customer=_text(ring.get("customer")),
        kind=RingKind(kind) if kind in list(RingKind) else None,
        id=_text(ring.get("id")),
    )


def is_double(payload: object, seen_seq: int) -> bool:
    """Whether a notification tells only of messages up to `seen_seq`, seen in chat already."""
    status = conversation_status(payload)
    if status is None or status.kind not in (RingKind.MESSAGE, RingKind.PROACTIVE):
        return False
    return status.seq is not None and status.seq <= seen_seq


def should_open_chat(payload: object, seen_seq: int = 0) -> bool:
    """Whether a notification that was tapped should open the chat (`shouldOpenChat`)."""
    status = conversation_status(payload)
    if status is None or status.kind not in (RingKind.MESSAGE, RingKind.PROACTIVE):
        return False
    return not is_double(payload, seen_seq)


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
