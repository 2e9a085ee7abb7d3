"""Golden requests in the form of the Matrix push gateway API."""

from __future__ import annotations

import pytest

from push.adapters import Answer, OptionError, matrix
from push.ring import RingKind, Target, VerdictKind
from tests.push.scripted import TOKEN, a_ring, an_endpoint

TARGET = Target(TOKEN, "fp-1")
ADAPTER = matrix.make({"app_id": "com.acme.app"})

MESSAGE = (
    b'{"notification":{"id":"r_01","event_id":"$r_01","room_id":"!c-42:acme",'
    b'"type":"m.room.message","sender":"@agent:acme","sender_display_name":"New Message",'
    b'"content":{"msgtype":"m.text","body":"Hello, how can we help?"},"prio":"high",'
    b'"counts":{"unread":3},"devices":[{"app_id":"com.acme.app",'
    b'"pushkey":"the-device-token","tweaks":{"sound":"default"}}]}}'
)
COUNT_ONLY = (
    b'{"notification":{"prio":"low","counts":{"unread":0},"devices":'
    b'[{"app_id":"com.acme.app.dev","pushkey":"the-device-token"}]}}'
)


def test_a_message_is_an_event_of_the_customer_s_room() -> None:
    assert ADAPTER.request(a_ring(), TARGET, an_endpoint()).body == MESSAGE


def test_a_badge_is_a_count_without_an_event_and_the_device_s_own_app_counts() -> None:
    ring = a_ring(RingKind.BADGE, app="com.acme.app.dev")
    assert ADAPTER.request(ring, TARGET, an_endpoint()).body == COUNT_ONLY


def test_a_message_without_title_and_text_is_still_an_event() -> None:
    body = ADAPTER.request(a_ring(title=None, text=None), TARGET, an_endpoint()).body
    assert b'"sender":"@agent:acme","content":{"msgtype":"m.text","body":""}' in body


def test_rejected_with_200_is_a_dead_token_and_an_empty_list_is_accepted() -> None:
    dead = Answer(200, {}, b'{"rejected": ["the-device-token"]}')
    assert ADAPTER.verdict(dead, TOKEN, 0.0).kind is VerdictKind.TOKEN_DEAD
    taken = Answer(200, {}, b'{"rejected": []}')
    assert ADAPTER.verdict(taken, TOKEN, 0.0).kind is VerdictKind.ACCEPTED


def test_the_app_id_is_needed() -> None:
    with pytest.raises(OptionError, match=r'app_id: is missing; expected an app id such as "com'):
        matrix.make({})
