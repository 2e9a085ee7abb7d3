"""The policies as a truth table: every combination of facts, under every policy."""

from __future__ import annotations

import itertools

import pytest

from gateway.delivery import Action, Decision, Reason
from gateway.policies import Facts, Policy, decide

RING, SKIP, WAIT = Action.RING, Action.SKIP, Action.WAIT
D, P, U, B = Policy.DEFAULT, Policy.PER_DEVICE, Policy.UNREAD_AFTER, Policy.BACKGROUND_ONLY


@pytest.mark.parametrize("policy", list(Policy))
def test_nobody_is_rung_without_an_endpoint_or_a_device_that_can_be(policy: Policy) -> None:
    assert decide(policy, Facts(endpoint=False)) == Decision(SKIP, Reason.NO_ENDPOINT)
    for why in (Reason.NO_DEVICE, Reason.TOKEN_DEAD, Reason.QUARANTINED):
        assert decide(policy, Facts(unringable=why)) == Decision(SKIP, why)


NAMES = ("in_chat", "acked", "acked_here", "read")


@pytest.mark.parametrize(
    ("policy", "spared"),
    [
        (D, lambda in_chat, acked, acked_here, read: acked or read),
        (P, lambda in_chat, acked, acked_here, read: acked_here),
        (U, lambda in_chat, acked, acked_here, read: read),
        (B, lambda in_chat, acked, acked_here, read: in_chat or acked or read),
    ],
)
def test_who_is_spared_in_every_combination(policy: Policy, spared: object) -> None:
    for values in itertools.product((False, True), repeat=len(NAMES)):
        facts = dict(zip(NAMES, values, strict=True))
        action = decide(policy, Facts(**facts)).action  # type: ignore[arg-type]
        assert action is (SKIP if spared(**facts) else RING), facts  # type: ignore[operator]
        expired = decide(policy, Facts(**facts, expired=True))  # type: ignore[arg-type]
        assert expired.action is SKIP, facts


@pytest.mark.parametrize(
    ("policy", "facts", "decision"),
    [
        (D, Facts(), (RING, Reason.NOT_IN_CHAT)),
        (D, Facts(in_chat=True), (RING, Reason.ACK_TIMEOUT)),
        (D, Facts(in_chat=True, acked=True), (SKIP, Reason.ACKED)),
        (D, Facts(acked=True, read=True), (SKIP, Reason.READ)),
        (D, Facts(expired=True), (SKIP, Reason.EXPIRED)),
        (D, Facts(judged=False), (WAIT, Reason.NOT_IN_CHAT)),
        (D, Facts(judged=False, in_chat=True), (WAIT, Reason.IN_CHAT)),
        (D, Facts(judged=False, acked=True), (SKIP, Reason.ACKED)),
        (P, Facts(acked=True), (RING, Reason.ACKED_ELSEWHERE)),
        (P, Facts(acked=True, acked_here=True), (SKIP, Reason.ACKED_HERE)),
        (P, Facts(in_chat=True), (RING, Reason.ACK_TIMEOUT)),
        (P, Facts(), (RING, Reason.NOT_IN_CHAT)),
        (P, Facts(acked=True, judged=False), (WAIT, Reason.NOT_IN_CHAT)),
        (U, Facts(acked=True), (RING, Reason.UNREAD)),
        (U, Facts(read=True), (SKIP, Reason.READ)),
        (U, Facts(judged=False, in_chat=True), (WAIT, Reason.IN_CHAT)),
        (B, Facts(in_chat=True), (SKIP, Reason.IN_CHAT)),
        (B, Facts(in_chat=True, judged=False), (WAIT, Reason.IN_CHAT)),
        (B, Facts(acked=True), (SKIP, Reason.ACKED)),
        (B, Facts(read=True), (SKIP, Reason.READ)),
        (B, Facts(), (RING, Reason.NOT_IN_CHAT)),
    ],
)
def test_every_decision_has_its_reason(
    policy: Policy, facts: Facts, decision: tuple[Action, Reason]
) -> None:
    assert decide(policy, facts) == Decision(*decision)
