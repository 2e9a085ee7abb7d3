"""Golden requests of the default adapter: a customer backend depends on every byte."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import orjson
import pytest

from push.adapters import OptionError, asapp
from push.ring import Ring, RingKind, Target, VerdictKind
from push.verdicts import Answer
from tests.push.scripted import TOKEN, a_ring, an_endpoint

TARGET = Target(TOKEN, "fp-1")
ADAPTER = asapp.make({})

MESSAGE = (
    '{"authToken":"auth-token","deviceToken":"the-device-token","payload":{"aps":{"alert":'
    '{"title":"New Message","body":"Hello, how can we help?"},"badge":3,"sound":"default"},'
    '"UnreadMessages":3,"isLiveChat":true,"badgeSeq":17,"ringback":{"id":"r_01",'
    '"kind":"message","customer":"c-42","seq":9}},"notification":{"id":"r_01",'
    '"kind":"message","customer":"c-42","seq":9,"platform":"ios",'
    '"expiresAt":"2026-11-24T09:00:00.000Z"}}'
)
PROACTIVE = (
    '{"authToken":"auth-token","deviceToken":"the-device-token","payload":{"aps":{"alert":'
    '{"title":"Your order","body":"It ships today."},"badge":1,"sound":"default"},'
    '"UnreadMessages":1,"isLiveChat":false,"badgeSeq":18,"ringback":{"id":"r_02",'
    '"kind":"proactive","customer":"c-42","seq":10}},"notification":{"id":"r_02",'
    '"kind":"proactive","customer":"c-42","seq":10,"platform":"ios",'
    '"expiresAt":"2026-11-24T09:00:00.000Z"}}'
)
BADGE = (
    '{"authToken":"auth-token","deviceToken":"the-device-token","payload":{"aps":{"badge":0,'
    '"content-available":1},"UnreadMessages":0,"isLiveChat":true,"badgeSeq":19,'
    '"ringback":{"id":"r_03","kind":"badge","customer":"c-42","seq":10}},'
    '"notification":{"id":"r_03","kind":"badge","customer":"c-42","seq":10,'
    '"platform":"ios","expiresAt":"2026-11-24T09:00:00.000Z"}}'
)


def body_of(ring: Ring, target: Target = TARGET) -> bytes:
    return ADAPTER.request(ring, target, an_endpoint()).body


@pytest.mark.parametrize(
    ("ring", "golden"),
    [
        (a_ring(), MESSAGE),
        (
            a_ring(
                RingKind.PROACTIVE,
                id="r_02",
                seq=10,
                title="Your order",
                text="It ships today.",
                unread=1,
                badge_seq=18,
                live=False,
            ),
            PROACTIVE,
        ),
        (a_ring(RingKind.BADGE, id="r_03", seq=10, badge_seq=19), BADGE),
    ],
    ids=["message", "proactive", "badge"],
)
def test_each_kind_of_ring_makes_exactly_its_published_body(ring: Ring, golden: str) -> None:
    assert body_of(ring).decode() == golden


def test_the_published_contract_shows_exactly_these_bodies() -> None:
    contract = Path(__file__).parents[3] / "docs" / "push-contract.md"
    examples = re.findall(r"```json\n(.*?)```", contract.read_text("utf-8"), re.DOTALL)
    assert [orjson.dumps(orjson.loads(e)).decode() for e in examples] == [
        MESSAGE,
        PROACTIVE,
        BADGE,
    ]


def test_the_body_is_announced_as_json() -> None:
    assert ADAPTER.request(a_ring(), TARGET, an_endpoint()).headers == {
        "Content-Type": "application/json"
    }


def test_a_ring_that_was_stored_in_between_makes_the_same_bytes() -> None:
    ring = a_ring(expires_at=1795510800.1239, text="grüße ☃ \u2028")
    stored = msgspec.json.decode(msgspec.json.encode(ring), type=Ring)
    assert body_of(stored) == body_of(ring)


def test_text_arrives_as_it_was_written() -> None:
    text = 'quote " backslash \\ newline \n snowman ☃ flag 🇪🇺 separator \u2028'
    assert orjson.loads(body_of(a_ring(text=text)))["payload"]["aps"]["alert"]["body"] == text


def test_an_alert_says_only_what_is_known() -> None:
    untitled = orjson.loads(body_of(a_ring(title=None)))
    assert untitled["payload"]["aps"]["alert"] == {"body": "Hello, how can we help?"}
    mute = orjson.loads(body_of(a_ring(title=None, text=None)))
    assert mute["payload"]["aps"] == {"badge": 3, "sound": "default"}


def test_a_badge_ring_makes_no_noise_even_if_it_carried_a_text() -> None:
    ring = a_ring(RingKind.BADGE, title="x", text="y", unread=2)
    assert orjson.loads(body_of(ring))["payload"]["aps"] == {"badge": 2, "content-available": 1}


def test_an_unknown_platform_is_left_out() -> None:
    body = orjson.loads(body_of(a_ring(platform=None)))
    assert "platform" not in body["notification"]


def test_a_token_is_passed_on_untouched() -> None:
    token = 'eyJ0.e30=/+"\\'
    assert orjson.loads(body_of(a_ring(), Target(token, "fp-1")))["deviceToken"] == token


def test_expiry_has_milliseconds_and_is_in_utc() -> None:
    body = orjson.loads(body_of(a_ring(expires_at=1795510800.25)))
    assert body["notification"]["expiresAt"] == "2026-11-24T09:00:00.250Z"


def test_a_request_shows_no_token() -> None:
    assert TOKEN not in repr(ADAPTER.request(a_ring(), TARGET, an_endpoint()))


def test_the_adapter_reads_the_answer_too() -> None:
    answer = Answer(200, {}, b'{"rejected":["the-device-token"]}')
    assert ADAPTER.verdict(answer, TOKEN, 0.0).kind is VerdictKind.TOKEN_DEAD


def test_it_has_no_options() -> None:
    with pytest.raises(OptionError, match="brand_id: is given, but this adapter has no options"):
        asapp.make({"brand_id": "1"})
