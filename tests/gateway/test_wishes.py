"""When quiet hours end, in whatever zone and on whatever day, and which wishes stand in the way."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wishes import (
    QuietHours,
    TenantHours,
    is_muted,
    is_unwanted,
    quiet_hours,
    quiet_hours_end,
    zone,
)
from storage.records import Wishes

NIGHT = QuietHours(time(22), time(7))
VIENNA = "Europe/Vienna"


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def end(now: str, hours: QuietHours = NIGHT, where: str = VIENNA) -> str | None:
    until = quiet_hours_end(at(now), None, None, TenantHours(hours, where))
    return None if until is None else datetime.fromtimestamp(until, UTC).isoformat()


# Hours


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("22:00-07:00", NIGHT),
        ("00:00-23:59", QuietHours(time(0), time(23, 59))),
        ("12:30-13:15", QuietHours(time(12, 30), time(13, 15))),
    ],
)
def test_hours_are_written_as_from_and_until(text: str, hours: QuietHours) -> None:
    assert quiet_hours(text) == hours


@pytest.mark.parametrize(
    "text", ["", "22-7", "22:00", "24:00-07:00", "22:60-07:00", "7:00-8:00", "22:00–07:00", "off"]
)
def test_what_is_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no such time"):
        quiet_hours(text)


def test_hours_that_last_no_time_are_refused() -> None:
    with pytest.raises(ValueError, match="begins when it ends"):
        quiet_hours("07:00-07:00")


@pytest.mark.parametrize(
    "name", ["", "Vienna", "Europe", "../../etc/passwd", "/etc/localtime", "Europe/Vïenna", "a\0b"]
)
def test_what_is_no_zone_is_none(name: str) -> None:
    assert zone(name) is None


def test_a_zone_is_known_by_its_name() -> None:
    assert zone(VIENNA) == ZoneInfo(VIENNA)


# The end of quiet hours


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-24T20:59:59+00:00", None),  # 21:59:59 in Vienna
        ("2026-11-24T21:00:00+00:00", "2026-11-25T06:00:00+00:00"),
        ("2026-11-25T05:59:59+00:00", "2026-11-25T06:00:00+00:00"),
        ("2026-11-25T06:00:00+00:00", None),
    ],
)
def test_a_night_ends_in_the_morning_of_the_zone(now: str, until: str | None) -> None:
    assert end(now) == until


def test_hours_within_a_day_end_the_same_day() -> None:
    noon = QuietHours(time(12), time(14))
    assert end("2026-11-25T11:30:00+00:00", noon) == "2026-11-25T13:00:00+00:00"
    assert end("2026-11-25T10:59:00+00:00", noon) is None
    assert end("2026-11-25T13:00:00+00:00", noon) is None


def test_the_night_of_a_change_of_clocks_is_an_hour_shorter_or_longer() -> None:
    assert end("2026-03-28T21:00:00+00:00") == "2026-03-29T05:00:00+00:00"
    assert end("2026-10-24T20:00:00+00:00") == "2026-10-25T06:00:00+00:00"


def test_an_end_that_the_clock_passes_twice_or_never_is_an_end_all_the_same() -> None:
    early = QuietHours(time(22), time(2, 30))
    assert end("2026-10-25T00:29:00+00:00", early) == "2026-10-25T00:30:00+00:00"
    assert end("2026-10-25T01:15:00+00:00", early) == "2026-10-25T01:30:00+00:00"
    assert end("2026-03-29T00:59:00+00:00", early) == "2026-03-29T01:00:00+00:00"


times = st.times(max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
zones = st.sampled_from(
    [VIENNA, "UTC", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"]
)


@given(
    now=st.integers(1_767_225_600, 1_798_761_600),  # 2026
    hours=st.builds(QuietHours, times, times).filter(lambda h: h.start != h.end),
    where=zones,
)
def test_it_is_quiet_until_the_end_and_not_after_it(
    now: int, hours: QuietHours, where: str
) -> None:
    tenant = TenantHours(hours, where)
    until = quiet_hours_end(now, None, None, tenant)
    here = datetime.fromtimestamp(now, ZoneInfo(where)).time()
    inside = (
        hours.start <= here < hours.end
        if hours.start < hours.end
        else here >= hours.start or here < hours.end
    )
    assert (until is not None) == inside
    if until is not None:
        assert now < until <= now + timedelta(hours=26).total_seconds()
        assert until % 60 == 0
        assert quiet_hours_end(until, None, None, tenant) is None


# Whose hours, and where


def test_without_quiet_hours_it_is_never_quiet() -> None:
    assert quiet_hours_end(at("2026-11-25T02:00:00+00:00"), None, None, TenantHours()) is None


def test_what_the_customer_says_stands_before_what_the_tenant_says() -> None:
    now, tenant = at("2026-11-25T02:00:00+00:00"), TenantHours(NIGHT, VIENNA)
    assert quiet_hours_end(now, Wishes(quiet_hours="off"), None, tenant) is None
    assert quiet_hours_end(now, Wishes(quiet_hours="12:00-13:00"), None, tenant) is None
    assert (
        quiet_hours_end(now, Wishes(quiet_hours="02:00-03:30"), None, TenantHours()) == now + 5400
    )
    assert quiet_hours_end(now, Wishes(), None, tenant) is not None


def test_the_zone_is_the_customers_then_the_devices_then_the_tenants() -> None:
    now, tenant = at("2026-11-25T12:00:00+00:00"), TenantHours(NIGHT, VIENNA)
    tokyo, auckland = Wishes(time_zone="Asia/Tokyo"), "Pacific/Auckland"
    assert quiet_hours_end(now, tokyo, None, tenant) is None  # 21:00
    assert quiet_hours_end(now, tokyo, auckland, tenant) is None
    assert quiet_hours_end(now, None, auckland, tenant) is not None  # 01:00
    assert quiet_hours_end(now, None, None, tenant) is None  # 13:00


def test_a_zone_that_is_not_known_here_is_passed_over() -> None:
    now = at("2026-11-25T23:00:00+00:00")
    assert (
        quiet_hours_end(now, Wishes(time_zone="Mars/Base"), "Moon/Base", TenantHours(NIGHT))
        is not None
    )
    assert quiet_hours_end(now, None, None, TenantHours(NIGHT, "Mars/Base")) is not None, (
        "UTC at last"
    )


# Wishes


def test_a_mute_lasts_until_its_time() -> None:
    assert is_muted(Wishes(muted_until=100.0), 99.0)
    assert not is_muted(Wishes(muted_until=100.0), 100.0)
    assert not is_muted(Wishes(), 99.0)
    assert not is_muted(None, 99.0)


def test_who_opted_out_wants_no_ring_for_proactive_messages_alone() -> None:
    out = Wishes(proactive=False)
    assert is_unwanted(out, "proactive")
    assert not is_unwanted(out, "chat")
    assert not is_unwanted(Wishes(), "proactive")
    assert not is_unwanted(None, "proactive")
