"""Every script of a few steps: what it leads to, and that it is the same by the reference."""

from __future__ import annotations

import pytest

from tests.simulation import reference
from tests.simulation.short import SCOPES, Scope, every

FEW = Scope("come", "chat brief ack second timeout", 2)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_script_of_two_steps_comes_to_what_the_reference_says(scope: str) -> None:
    for found in every(SCOPES[scope], 2):
        assert not found.differs, "\n\n".join(found.differs)


def test_what_leads_where_another_led_is_not_played_on() -> None:
    twice = Scope("come chat", "ack", 1)
    assert [(found.scripts, found.new) for found in every(twice, 3)] == [(1, 1), (1, 0), (0, 0)]


def test_what_differs_is_told_and_not_played_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "ACK_TIMEOUT", 6.0)
    one, two = every(FEW, 2)
    assert [len(one.differs), one.new] == [1, 2]
    assert "chat" in one.differs[0]
    assert "undeliverable no_device" in one.differs[0]
    assert two.scripts < 14
