"""The vocabulary of misbehaviour."""

from __future__ import annotations

import pytest

from gateway.kit.behaviours import HELP, Behaviour, UnknownBehaviour, Way, parse


@pytest.mark.parametrize(
    ("line", "behaviour"),
    [
        ("ok", Behaviour()),
        ("503", Behaviour(Way.STATUS, 503)),
        ("429 30", Behaviour(Way.STATUS, 429, 30.0)),
        ("503 x2", Behaviour(Way.STATUS, 503, calls=2)),
        ("slow 0.5", Behaviour(Way.SLOW, seconds=0.5)),
        ("  hang ", Behaviour(Way.HANG)),
        ("drop", Behaviour(Way.DROP)),
        ("bad-json x1", Behaviour(Way.BAD_JSON, calls=1)),
        ("reject", Behaviour(Way.REJECT)),
        ("redirect", Behaviour(Way.REDIRECT)),
        ("dead a-token", Behaviour(Way.DEAD, token="a-token")),
    ],
)
def test_a_line_says_what_to_do(line: str, behaviour: Behaviour) -> None:
    assert parse(line) == behaviour


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "''"),
        ("maybe", "'maybe'"),
        ("600", "'600'"),
        ("429 1 2", "'429'"),
        ("slow", "'slow'"),
        ("slow down", "'down'"),
        ("429 soon", "'soon'"),
        ("hang x0", "'hang'"),
        ("٥٠٣", "'٥٠٣'"),
    ],
)
def test_a_line_that_means_nothing_is_answered_with_what_would(line: str, named: str) -> None:
    with pytest.raises(UnknownBehaviour) as raised:
        parse(line)
    problem, _, rest = str(raised.value).partition("; ")
    assert named in problem
    assert HELP in rest


@pytest.mark.parametrize("line", ["ok", "503", "429 30", "slow 0.5", "hang x3", "bad-json"])
def test_a_behaviour_is_shown_as_it_was_written(line: str) -> None:
    assert str(parse(line)) == line


def test_a_dead_token_is_never_shown() -> None:
    assert str(parse("dead a-token")) == repr(parse("dead a-token")) == "dead …"


def test_every_way_is_explained() -> None:
    assert all(way in HELP for way in Way if way is not Way.STATUS)
