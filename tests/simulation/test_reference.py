"""The real core does what the delivery rule says, as its reference spells it out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.simulation import reference
from tests.simulation.scripts import CHAT, PHONE, TABLET, Step, compare, play, shortest

SCRIPTS = 600
BATCH = 50


@pytest.mark.parametrize("first", range(0, SCRIPTS, BATCH))
def test_random_scripts_come_to_what_the_reference_says(first: int) -> None:
    for seed in range(first, first + BATCH):
        told = compare(seed)
        assert not told, told


def test_the_reference_takes_nothing_from_what_it_judges() -> None:
    assert reference.__file__ is not None
    tree = ast.parse(Path(reference.__file__).read_text())
    taken = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    taken |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert taken == {"__future__", "collections.abc", "dataclasses", "functools", "math"}


def says(kind: str, pause: float, expires_in: float | None = None) -> Step:
    return Step("write", ("anna", kind, expires_in), pause)


FLAP = Step("flap", ("anna", "v"), 4.0)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            [
                PHONE,
                CHAT,
                Step("wish", ("anna", "opted_out"), 0.5),
                says("chat", 4.0),
                says("proactive", 1.05),
                Step("read", ("anna", "v", 1), 0.05),
                says("chat", 0.0),
            ],
            id="what nobody is rung for may be acknowledged in time, though an icon is looked at",
        ),
        pytest.param(
            [
                CHAT,
                says("chat", 0.3),
                says("chat", 3.0, 0.7),
                Step("ack", ("anna", "v", 1), 0.1),
                says("chat", 0.0),
            ],
            id="what has expired makes nothing due after an ack",
        ),
        pytest.param(
            [CHAT, says("chat", 1.0, 2.0), says("chat", 0.0)],
            id="what has expired makes nothing due at its due time",
        ),
        pytest.param(
            [
                CHAT,
                says("chat", 0.3),
                says("chat", 3.0, 0.7),
                says("chat", 0.5),
                Step("ack", ("anna", "v", 2), 0.0),
            ],
            id="what has expired makes nothing due, whatever was acknowledged before it",
        ),
        pytest.param(
            [
                PHONE,
                says("chat", 0.5),
                says("chat", 0.5),
                CHAT,
                Step("mood", ("hangs",), 0.1),
                Step("read", ("anna", "v", 0), 0.1),
                *[FLAP] * 12,
            ],
            id="joins hold the retries of a badge no longer than those of a message",
        ),
        pytest.param(
            [
                PHONE,
                says("chat", 0.5),
                says("system", 0.5),
                CHAT,
                Step("mood", ("busy",), 0.1),
                Step("read", ("anna", "v", 1), 0.1),
                *[FLAP] * 4,
                Step("ack", ("anna", "v", 0), 0.1),
                *[FLAP] * 4,
            ],
            id="an ack of nothing that joins hold does not lengthen their hold",
        ),
        pytest.param(
            [
                PHONE,
                says("chat", 0.5),
                says("chat", 0.5),
                CHAT,
                says("chat", 3.0),
                *[FLAP] * 4,
                Step("read", ("anna", "v", 1), 0.1),
                *[FLAP] * 8,
            ],
            id="a badge meanwhile does not lengthen the hold of a message",
        ),
        pytest.param(
            [
                PHONE,
                Step("mood", ("refuses",), 0.1),
                says("chat", 0.1),
                TABLET,
                Step("register", ("anna", "p1", "T3"), 0.0),
            ],
            id="what was refused for a phone is refused for its new token, and tried at the other",
        ),
        pytest.param(
            [
                PHONE,
                TABLET,
                says("chat", 0.1),
                Step("register", ("anna", "p1", "T3"), 1.3),
                Step("register", ("anna", "p1", "T1"), 0.0),
            ],
            id="what a phone owes it owes under each new token, though another phone has rung",
        ),
        pytest.param(
            [
                PHONE,
                CHAT,
                Step("wish", ("anna", "opted_out"), 0.1),
                says("chat", 0.1),
                says("proactive", 0.0),
            ],
            id="what is not wanted has its outcome when the ring is over that went out before it",
        ),
        pytest.param(
            [
                PHONE,
                CHAT,
                Step("mood", ("fails",), 0.1),
                says("proactive", 3.0),
                says("proactive", 2.5),
                Step("wish", ("anna", "opted_out"), 0.0),
            ],
            id="what a ring took along is settled with it when it is not wanted any more",
        ),
        pytest.param(
            [
                PHONE,
                CHAT,
                Step("mood", ("fails",), 0.1),
                says("chat", 5.1),
                *[FLAP] * 3,
                Step("mood", ("slow",), 4.0),
                says("chat", 0.2),
                *[FLAP] * 4,
            ],
            id="what joins had held of a message that was pushed is not taken from the next",
        ),
    ],
)
def test_this_comes_to_what_the_reference_says(script: list[Step]) -> None:
    told = play(script)
    assert not told, told


def test_what_differs_is_told_with_the_shortest_script_and_from_which_line_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference, "ACK_TIMEOUT", 6.0)
    write = Step("write", ("anna", "chat", None), 1.0)
    script = shortest([CHAT, Step("mood", ("slow",), 0.5), TABLET, write, Step("kill", (), 1.0)])
    assert script == [CHAT, write]
    assert [" ".join(line.split()) for line in play(script).splitlines()] == [
        "1.0000 come anna v True None",
        "1.7000 write anna chat None",
        "by the rule by the gateway",
        "1.7000 anna 1: pending 1.7000 anna 1: pending",
        "> 7.7000 anna 1: undeliverable no_device > 6.7000 anna 1: undeliverable no_device",
    ]
