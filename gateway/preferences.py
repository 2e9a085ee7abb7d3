"""Preferences: what a customer wishes of rings, set by the customer or by the tenant's service.

Decides whether a wish can be kept. What follows from it is decided where a device is looked at
(`gateway.delivery`): a change touches no message by itself. Who waits for the end of quiet hours is
looked at anew, because they may be others now.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import protocol
from gateway.context import Context
from gateway.owing import Owing
from gateway.protocol import ErrorCode, FrameError
from gateway.wishes import NO_QUIET_HOURS, quiet_hours, zone
from storage.records import Key, Wishes
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace


class Preferences:
    """The use cases of wishes."""

    def __init__(self, context: Context, owing: Owing) -> None:
        self._owing = owing
        self._store = context.store

    async def get(self, key: Key) -> Wishes | None:
        """What the customer wishes; None if nobody has seen them before."""
        c = await self._store.conversation(key)
        return None if c is None else c.wishes or Wishes()

    async def put(self, key: Key, name: str | None, wishes: Wishes) -> None:
        """Set all wishes at once. Makes the customer if new."""

        def change(tx: Transaction) -> None:
            c = tx.conversation(key) or tx.create(key, name)
            self._owing.reconsider(tx, replace(c, wishes=wishes))

        await self._store.submit(change, Needs(keys=(key,)))


def wishes_of(told: protocol.PutPreferences) -> Wishes:
    """What was told, if it can be kept. Raises `FrameError`."""
    if told.time_zone is not None and zone(told.time_zone) is None:
        raise FrameError(
            ErrorCode.BAD_FRAME, "time_zone: is not known; give one such as Europe/Vienna"
        )
    if told.quiet_hours not in (None, NO_QUIET_HOURS):
        try:
            quiet_hours(told.quiet_hours)
        except ValueError as error:
            raise FrameError(
                ErrorCode.BAD_FRAME, f"quiet_hours: {error}; give hours such as 22:00-07:00, or off"
            ) from None
    return Wishes(
        muted_until=told.muted_until.timestamp() if told.muted_until else None,
        proactive=told.proactive,
        time_zone=told.time_zone,
        quiet_hours=told.quiet_hours,
    )


def as_told(wishes: Wishes) -> dict[str, Any]:
    """The answer to who asks: {`proactive`, `muted_until?`, `time_zone?`, `quiet_hours?`}."""
    told: dict[str, Any] = {"proactive": wishes.proactive}
    if wishes.muted_until is not None:
        told["muted_until"] = protocol.timestamp(wishes.muted_until)
    for name in ("time_zone", "quiet_hours"):
        if getattr(wishes, name) is not None:
            told[name] = getattr(wishes, name)
    return told
