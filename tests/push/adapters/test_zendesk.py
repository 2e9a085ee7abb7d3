"""Golden requests in the form of Zendesk's Support SDK webhook."""

from __future__ import annotations

import pytest

from push.adapters import OptionError, zendesk
from push.ring import Target
from tests.push.scripted import TOKEN, a_ring, an_endpoint

ADAPTER = zendesk.make({})
GOLDEN = (
    b'{"devices":[{"identifier":"the-device-token","type":"%s"}],"notification":'
    b'{"title":"New Message","body":"Hello, how can we help?","ticket_id":"c-42"}}'
)


@pytest.mark.parametrize(
    ("platform", "type"),
    [("ios", b"ios"), (None, b"ios"), ("android", b"android"), ("Android", b"android")],
)
def test_one_device_is_a_list_of_one(platform: str | None, type: bytes) -> None:
    ring = a_ring(platform=platform)
    request = ADAPTER.request(ring, Target(TOKEN, "fp-1"), an_endpoint())
    assert request.body == GOLDEN % type


def test_it_makes_no_silent_rings_for_it_has_no_number() -> None:
    assert not ADAPTER.silent


def test_it_has_no_options() -> None:
    with pytest.raises(OptionError, match="no options"):
        zendesk.make({"x": 1})
