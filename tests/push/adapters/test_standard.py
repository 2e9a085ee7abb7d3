"""Golden requests of our own form."""

from __future__ import annotations

from typing import Any

import pytest

from push.adapters import OptionError, standard
from push.ring import RingKind, Target
from tests.push.scripted import TOKEN, a_ring, an_endpoint

TARGET = Target(TOKEN, "fp-1")
ADAPTER = standard.make({})
DEVICE: dict[str, Any] = {
    "app": "com.acme.app",
    "environment": "sandbox",
    "locale": "de-AT",
    "installation": "i-1",
}

MESSAGE = (
    b'{"id":"r_01","kind":"message","tenant":"acme","customer":"c-42","seq":9,'
    b'"title":"New Message","text":"Hello, how can we help?","unread":3,"badge_seq":17,'
    b'"live":true,"priority":"high","collapse_id":"ringback-message",'
    b'"expires_at":"2026-11-24T09:00:00.000Z","device":{"token":"the-device-token",'
    b'"platform":"ios","app":"com.acme.app","environment":"sandbox","locale":"de-AT",'
    b'"installation":"i-1"}}'
)
PROACTIVE = (
    b'{"id":"r_02","kind":"proactive","tenant":"acme","customer":"c-42","seq":10,'
    b'"title":"Your order","text":"It ships today.","unread":1,"badge_seq":18,'
    b'"live":false,"priority":"high","collapse_id":"r_02",'
    b'"expires_at":"2026-11-24T09:00:00.000Z","device":{"token":"the-device-token",'
    b'"platform":"ios"}}'
)
BADGE = (
    b'{"id":"r_03","kind":"badge","tenant":"acme","customer":"c-42","seq":10,'
    b'"unread":0,"badge_seq":19,"live":true,"priority":"normal",'
    b'"collapse_id":"ringback-badge","expires_at":"2026-11-24T09:00:00.000Z",'
    b'"device":{"token":"the-device-token"}}'
)
ORDER: dict[str, Any] = {
    "id": "r_02",
    "seq": 10,
    "title": "Your order",
    "text": "It ships today.",
    "unread": 1,
    "badge_seq": 18,
    "live": False,
}


def test_a_message_is_exactly_its_published_body() -> None:
    assert ADAPTER.request(a_ring(**DEVICE), TARGET, an_endpoint()).body == MESSAGE


def test_a_proactive_message_does_not_take_the_place_of_another() -> None:
    ring = a_ring(RingKind.PROACTIVE, **ORDER)
    assert ADAPTER.request(ring, TARGET, an_endpoint()).body == PROACTIVE


def test_a_badge_has_no_words_and_makes_no_noise() -> None:
    ring = a_ring(
        RingKind.BADGE, id="r_03", seq=10, badge_seq=19, title="x", text="y", platform=None
    )
    assert ADAPTER.request(ring, TARGET, an_endpoint()).body == BADGE


def test_it_has_no_options() -> None:
    with pytest.raises(OptionError, match="no options"):
        standard.make({"x": 1})
