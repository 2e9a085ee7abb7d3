"""Every verdict comes with what to do about it."""

from __future__ import annotations

import pytest

from gateway.kit.advice import what_to_do
from push.ring import VerdictKind
from push.verdicts import Answer, Failure, judge


@pytest.mark.parametrize(
    ("came", "kind", "word"),
    [
        (Answer(200), VerdictKind.ACCEPTED, "has taken it"),
        (Answer(410), VerdictKind.TOKEN_DEAD, "is dead"),
        (Answer(503), VerdictKind.RETRY, "tried again"),
        (Answer(422), VerdictKind.REFUSED, "given up"),
        (Answer(401), VerdictKind.MISCONFIGURED, "auth_token"),
        (Answer(307), VerdictKind.MISCONFIGURED, "final address"),
        (Failure.TLS, VerdictKind.MISCONFIGURED, "certificate"),
    ],
)
def test_each_kind_of_verdict_has_its_advice(
    came: Answer | Failure, kind: VerdictKind, word: str
) -> None:
    verdict = judge(came, "t", 0.0)
    assert verdict.kind is kind
    assert word in what_to_do(verdict)


def test_each_failure_has_advice_of_its_own() -> None:
    told = [what_to_do(judge(failure, "t", 0.0)) for failure in Failure]
    assert len(set(told)) == len(Failure)
