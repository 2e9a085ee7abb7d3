"""What customers wish: not to be rung at night, for a while, or with proactive messages.

Decides when quiet hours end, and which wish stands in the way of a ring. Leaves to others: keeping
the wishes (`storage`), and what the delivery rule makes of them (`gateway.delivery`).

Quiet hours are hours of the wall clock where the customer is. The zone is the one in the customer's
preferences, else the one that the app told of this device, else the tenant's; one that this
machine's zone data does not know is passed over.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from gateway.protocol import MessageKind
from storage.records import Wishes

NO_QUIET_HOURS: Final = "off"
"""In a customer's preferences: none, though the tenant has some."""
_PROACTIVE: Final = MessageKind.PROACTIVE
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class QuietHours(NamedTuple):
    """From `start` until before `end`, every day; over midnight if `end` is the earlier."""

    start: time
    end: time


class TenantHours(NamedTuple):
    """The quiet hours of customers who said nothing, and the time zone of those without one."""

    quiet_hours: QuietHours | None = None
    time_zone: str = "UTC"


def quiet_hours(text: str) -> QuietHours:
    """From `22:00-07:00`; raises `ValueError` with what is wrong."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError("is no such time")
    hour, minute, to_hour, to_minute = map(int, match.groups())
    hours = QuietHours(time(hour, minute), time(to_hour, to_minute))
    if hours.start == hours.end:
        raise ValueError("begins when it ends")
    return hours


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The time zone of that name in the IANA data base, if there is one."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None


def quiet_hours_end(
    now: float, wishes: Wishes | None, device_zone: str | None, tenant: TenantHours
) -> float | None:
    """When the quiet hours that `now` lies in end, in epoch seconds; None outside of them."""
    hours = tenant.quiet_hours
    if wishes is not None and wishes.quiet_hours is not None:
        if wishes.quiet_hours == NO_QUIET_HOURS:
            return None
        hours = quiet_hours(wishes.quiet_hours)
    if hours is None:
        return None
    asked = (wishes.time_zone if wishes is not None else None, device_zone, tenant.time_zone)
    known = (found for name in asked if name is not None and (found := zone(name)) is not None)
    return _end(now, hours, next(known, ZoneInfo("UTC")))


def _end(now: float, hours: QuietHours, where: ZoneInfo) -> float | None:
    here = datetime.fromtimestamp(now, where)
    at = here.time()
    if hours.start < hours.end:
        is_quiet, tomorrow = hours.start <= at < hours.end, False
    else:
        is_quiet, tomorrow = at >= hours.start or at < hours.end, at >= hours.start
    if not is_quiet:
        return None
    day = here.date() + timedelta(days=tomorrow)
    end = datetime.combine(day, hours.end, where)
    if end.timestamp() <= now:  # the clock is set back, and passes the end a second time
        end = end.replace(fold=1)
    if datetime.fromtimestamp(end.timestamp(), where).time() != hours.end:
        return _skipped(end)
    return end.timestamp()


def _skipped(time: datetime) -> float:
    """When the clock is set forward past `time`, which it never shows: then it is over, too."""
    before, after = sorted(time.replace(fold=fold).timestamp() for fold in (0, 1))
    offset = datetime.fromtimestamp(before, time.tzinfo).utcoffset()
    while after - before > 1.0:
        between = (before + after) // 2
        if datetime.fromtimestamp(between, time.tzinfo).utcoffset() == offset:
            before = between
        else:
            after = between
    return after


def is_muted(wishes: Wishes | None, now: float) -> bool:
    """Whether the customer wants no ring at all now."""
    return wishes is not None and wishes.muted_until is not None and wishes.muted_until > now


def is_unwanted(wishes: Wishes | None, kind: str) -> bool:
    """Whether the customer wants no ring for messages of this kind, at whatever time."""
    return wishes is not None and not wishes.proactive and kind == _PROACTIVE
