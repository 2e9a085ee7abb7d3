"""Golden requests in the form of LivePerson's push proxy, and its one answer of its own."""

from __future__ import annotations

from typing import Any

import pytest

from push.adapters import Answer, Failure, OptionError, liveperson
from push.ring import RingKind, Target, VerdictKind
from tests.push.scripted import TOKEN, a_ring, an_endpoint

TARGET = Target(TOKEN, "fp-1")
ADAPTER = liveperson.make({"brand_id": "90588711", "originator_id": "90588711.233306"})

SHARED = (
    b'"backendService":"ams","conversationId":"c-42","dialogId":"c-42",'
    b'"originatorId":"90588711.233306","brandId":"90588711",'
)
IOS = (
    b'{"aps":{"alert":"Hello, how can we help?","sound":"default"},"push-service":1,'
    b'"device-token":"the-device-token",' + SHARED + b'"badge":3,"sequence":9,'
    b'"notificationType":"apn"}'
)
ANDROID = (
    b'{"data":{"message":"Hello, how can we help?","payload":{' + SHARED + b'"badge":3,'
    b'"sequence":9}},"push-service":2,"device-token":"the-device-token",'
    b'"notificationType":"fcm"}'
)
IOS_BADGE = (
    b'{"aps":{"content-available":1},"push-service":1,"device-token":"the-device-token",'
    + SHARED
    + b'"badge":0,"sequence":9,"notificationType":"apn"}'
)
HUAWEI_BADGE = (
    b'{"data":{"payload":{' + SHARED + b'"badge":0,"sequence":9}},"push-service":3,'
    b'"device-token":"the-device-token","notificationType":"huawei"}'
)


@pytest.mark.parametrize(
    ("kind", "platform", "golden"),
    [
        (RingKind.MESSAGE, "ios", IOS),
        (RingKind.PROACTIVE, "iOS", IOS),
        (RingKind.MESSAGE, None, IOS),
        (RingKind.MESSAGE, "Android", ANDROID),
        (RingKind.BADGE, "ios", IOS_BADGE),
        (RingKind.BADGE, "huawei", HUAWEI_BADGE),
    ],
)
def test_each_push_service_has_its_own_shape(
    kind: RingKind, platform: str | None, golden: bytes
) -> None:
    ring = a_ring(kind, platform=platform)
    assert ADAPTER.request(ring, TARGET, an_endpoint()).body == golden


@pytest.mark.parametrize(
    ("platform", "begins"),
    [("ios", b'{"aps":{"sound":"default"},'), ("android", b'{"data":{"message":"","payload":')],
)
def test_a_message_of_which_nothing_is_told_rings_all_the_same(
    platform: str, begins: bytes
) -> None:
    ring = a_ring(title=None, text=None, platform=platform)
    assert ADAPTER.request(ring, TARGET, an_endpoint()).body.startswith(begins)


def test_the_brand_stands_for_an_originator_that_is_not_given() -> None:
    adapter = liveperson.make({"brand_id": "90588711"})
    body = adapter.request(a_ring(), TARGET, an_endpoint()).body
    assert b'"originatorId":"90588711","brandId":"90588711"' in body


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, VerdictKind.ACCEPTED),
        (403, VerdictKind.TOKEN_DEAD),
        (410, VerdictKind.TOKEN_DEAD),
        (500, VerdictKind.RETRY),
        (503, VerdictKind.RETRY),
        (400, VerdictKind.REFUSED),
        (401, VerdictKind.MISCONFIGURED),
        (404, VerdictKind.MISCONFIGURED),
    ],
)
def test_403_is_about_the_device_and_everything_else_means_what_it_always_does(
    status: int, kind: VerdictKind
) -> None:
    assert ADAPTER.verdict(Answer(status), TOKEN, 0.0).kind is kind


def test_no_answer_is_tried_again() -> None:
    assert ADAPTER.verdict(Failure.TIMEOUT, TOKEN, 0.0).kind is VerdictKind.RETRY


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "brand_id: is missing; expected a text that is not empty"),
        ({"brand_id": 5}, "brand_id: is 5; expected a text that is not empty"),
        (
            {"brand": "5"},
            "brand: is not a known option;"
            " expected one of brand_id, originator_id, backend_service",
        ),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as caught:
        liveperson.make(options)
    assert str(caught.value) == line
