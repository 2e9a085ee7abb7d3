"""What adapters share."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta, Struct

from push.adapters.form import (
    OptionError,
    Request,
    collapse_id,
    json_request,
    known,
    no_options,
    options_as,
    priority,
    rfc3339,
)
from push.ring import RingKind
from tests.push.scripted import TOKEN, a_ring


class Options(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="a text")]
    times: Annotated[int, Meta(ge=1, description="a number from 1")] = 1


def test_a_request_is_compact_json_and_shows_no_token() -> None:
    request = json_request({"token": TOKEN, "n": 1})
    assert request == Request(
        {"Content-Type": "application/json"}, b'{"token":"the-device-token","n":1}'
    )
    assert TOKEN not in repr(Request({"x": TOKEN}, TOKEN.encode(), f"/{TOKEN}"))


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(1795510800.25) == "2026-11-24T09:00:00.250Z"


def test_what_is_not_known_is_left_out_and_what_is_false_stays() -> None:
    assert known({"a": None, "b": 0, "c": ""}) == {"b": 0, "c": ""}
    assert known({"b": 0, "c": ""}) == {"b": 0, "c": ""}


def test_only_a_badge_may_wait() -> None:
    assert [priority(a_ring(kind)) for kind in RingKind] == ["high", "high", "normal"]


def test_a_newer_message_takes_the_place_of_an_older_and_a_proactive_one_stands_alone() -> None:
    assert collapse_id(a_ring(id="r_1")) == collapse_id(a_ring(id="r_2"))
    proactive = [collapse_id(a_ring(RingKind.PROACTIVE, id=id)) for id in ("r_1", "r_2")]
    assert proactive == ["r_1", "r_2"]
    assert collapse_id(a_ring(RingKind.BADGE)) != collapse_id(a_ring())


def test_options_are_read_with_their_defaults() -> None:
    assert options_as(Options, {"name": "x"}) == Options(name="x")
    assert options_as(Options, {"name": "x", "times": 3}).times == 3


@pytest.mark.parametrize(
    ("given", "place", "line"),
    [
        ({}, "name", "name: is missing; expected a text"),
        ({"name": "x", "times": 0}, "times", "times: is 0; expected a number from 1"),
        ({"name": ["y" * 99]}, "name", f'name: is ["{"y" * 55}...; expected a text'),
        ({"nam": "x"}, "nam", "nam: is not a known option; expected one of name, times"),
    ],
)
def test_options_that_are_wrong_are_one_line(
    given: dict[str, object], place: str, line: str
) -> None:
    with pytest.raises(OptionError) as caught:
        options_as(Options, given)
    assert (caught.value.place, str(caught.value)) == (place, line)


def test_no_options_means_none() -> None:
    no_options({})
    with pytest.raises(OptionError) as caught:
        no_options({"x": 1})
    assert caught.value.place == "x"
    assert str(OptionError("", "is wrong", "right")) == "options: is wrong; expected right"
