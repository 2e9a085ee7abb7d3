"""The delivery rule as a truth table, and every due time, against an independent statement of it.

The rule is stated here as sentences in order of precedence (`STATED`), not as code like the tested
one: each sentence has a condition and what follows, and for every combination of facts the first
sentence whose condition holds is what must be decided.
"""

from collections.abc import Callable
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import delivery
from gateway.delivery import (
    Action,
    Decision,
    Facts,
    InHand,
    Patience,
    Reason,
    Routing,
    Timing,
)
from gateway.protocol import BACKOFF_FIRST, CloseCode, Route
from push.ring import Pause

YES_NO = (False, True)
TIMING = Timing(
    ack_timeout=5.0, disconnect_grace=1.0, restart_window=4.0, restart_grace=10.0, max_hold=30.0
)
times = st.integers(0, 4000).map(lambda quarter: quarter / 4)  # exact in binary


# Where a message goes


@pytest.mark.parametrize("otherwise", [Reason.NO_DEVICE, Reason.TOKEN_DEAD, Reason.QUARANTINED])
@pytest.mark.parametrize(
    ("in_chat", "endpoint", "devices", "route", "reason"),
    [
        (True, True, 2, Route.SOCKET, Reason.IN_CHAT),
        (True, True, 0, Route.SOCKET, Reason.IN_CHAT),
        (True, False, 2, Route.SOCKET, Reason.IN_CHAT),
        (True, False, 0, Route.SOCKET, Reason.IN_CHAT),
        (False, True, 1, Route.PUSH, Reason.NOT_IN_CHAT),
        (False, True, 2, Route.PUSH, Reason.NOT_IN_CHAT),
        (False, True, 0, Route.NONE, None),
        (False, False, 2, Route.NONE, Reason.NO_ENDPOINT),
        (False, False, 0, Route.NONE, Reason.NO_ENDPOINT),
    ],
)
def test_a_message_goes_to_the_chat_else_to_a_device_else_nowhere_with_the_reason(
    in_chat: bool,
    endpoint: bool,
    devices: int,
    route: Route,
    reason: Reason | None,
    otherwise: Reason,
) -> None:
    decided = delivery.route(
        in_chat=in_chat,
        endpoint=endpoint,
        live_devices=devices,
        otherwise=otherwise,
        unwanted=None,
    )
    assert decided == Routing(route, otherwise if reason is None else reason)


@pytest.mark.parametrize("unwanted", [Reason.MUTED, Reason.OPTED_OUT])
@pytest.mark.parametrize(
    ("in_chat", "endpoint", "devices", "route", "reason"),
    [
        (True, True, 1, Route.SOCKET, Reason.IN_CHAT),
        (False, True, 1, Route.NONE, None),
        (False, True, 0, Route.NONE, Reason.NO_DEVICE),
        (False, False, 1, Route.NONE, Reason.NO_ENDPOINT),
    ],
)
def test_what_the_customer_does_not_want_to_be_rung_for_goes_nowhere_but_to_the_chat(
    in_chat: bool,
    endpoint: bool,
    devices: int,
    route: Route,
    reason: Reason | None,
    unwanted: Reason,
) -> None:
    decided = delivery.route(
        in_chat=in_chat,
        endpoint=endpoint,
        live_devices=devices,
        otherwise=Reason.NO_DEVICE,
        unwanted=unwanted,
    )
    assert decided == Routing(route, reason or unwanted)


@pytest.mark.parametrize(
    ("patience", "due"), [(Patience(5.0), 105.0), (Patience(5.0, 103.0), 103.0)]
)
def test_a_message_is_due_after_its_ack_timeout_and_no_later_than_a_grace_ends(
    patience: Patience, due: float
) -> None:
    assert patience.ends(100.0) == due


# The look


RINGS = [
    InHand(
        silent=silent,
        acked=acked,
        read=read,
        expired=expired,
        taken=taken,
        current=current,
        unwanted=unwanted,
    )
    for silent, acked, read, expired, taken, current, unwanted in product(YES_NO, repeat=7)
]


@pytest.fixture(scope="module")
def all_facts() -> list[Facts]:
    """Half a million: made when they are asked for, and not by whoever collects the tests."""
    return [
        Facts(
            endpoint=endpoint,
            live=live,
            early=early,
            in_chat=in_chat,
            in_hand=in_hand,
            behind=behind,
            all_expired=all_expired,
            all_read=all_read,
            badge_is_high=badge_is_high,
            muted=muted,
            unwanted=unwanted,
            quiet=quiet,
            too_soon=too_soon,
        )
        for in_hand in (None, *RINGS)
        for behind in (0, 3)
        for endpoint, live, early, in_chat, all_expired, all_read, badge_is_high in product(
            YES_NO, repeat=7
        )
        for muted, unwanted, quiet, too_soon in product(YES_NO, repeat=4)
    ]


@pytest.mark.parametrize("pause", [Reason.ENDPOINT_DOWN, Reason.SUSPENDED])
def test_while_the_endpoint_is_paused_what_would_go_out_waits_and_all_else_is_as_ever(
    pause: Reason, all_facts: list[Facts]
) -> None:
    goes_out = {Action.RING, Action.BADGE, Action.RETRY}
    for facts in all_facts:
        decided = delivery.look(facts)
        expected = Decision(Action.WAIT, pause) if decided.action in goes_out else decided
        assert delivery.look(msgspec.structs.replace(facts, paused=pause)) == expected


Stated = tuple[str, Callable[[Facts, InHand], bool], Action, Reason]
NO_RING = InHand(silent=False)

STATED: list[Stated] = [
    ("a dead token is not rung", lambda f, r: not f.live, Action.SKIP, Reason.TOKEN_DEAD),
    (
        "without an endpoint nobody is rung",
        lambda f, r: not f.endpoint,
        Action.SKIP,
        Reason.NO_ENDPOINT,
    ),
    ("a hold is waited for", lambda f, r: f.early, Action.WAIT, Reason.HELD),
    (
        "what was read is not rung again",
        lambda f, r: f.in_hand is not None and r.read,
        Action.CANCEL,
        Reason.READ,
    ),
    (
        "what was acked is not rung again",
        lambda f, r: f.in_hand is not None and r.acked,
        Action.CANCEL,
        Reason.ACKED,
    ),
    (
        "a ring in hand ends at its expiry",
        lambda f, r: f.in_hand is not None and r.expired,
        Action.CANCEL,
        Reason.EXPIRED,
    ),
    (
        "a badge in hand ends where the backend has no silent rings any more",
        lambda f, r: f.in_hand is not None and r.silent and not r.taken,
        Action.CANCEL,
        Reason.NO_ENDPOINT,
    ),
    (
        "a badge in hand that tells an old number gives way",
        lambda f, r: f.in_hand is not None and r.silent and not r.current,
        Action.CANCEL,
        Reason.SUPERSEDED,
    ),
    (
        "a badge in hand is told again",
        lambda f, r: f.in_hand is not None and r.silent,
        Action.RETRY,
        Reason.RETRY,
    ),
    (
        "a ring in hand ends when the customer mutes",
        lambda f, r: f.in_hand is not None and f.muted,
        Action.CANCEL,
        Reason.MUTED,
    ),
    (
        "a ring in hand for what the customer opted out of ends",
        lambda f, r: f.in_hand is not None and r.unwanted,
        Action.CANCEL,
        Reason.OPTED_OUT,
    ),
    (
        "a ring in hand waits for the end of quiet hours",
        lambda f, r: f.in_hand is not None and f.quiet,
        Action.WAIT,
        Reason.QUIET_HOURS,
    ),
    (
        "any other ring in hand is repeated",
        lambda f, r: f.in_hand is not None,
        Action.RETRY,
        Reason.RETRY,
    ),
    (
        "in chat nothing is decided of what may still be acknowledged in time",
        lambda f, r: f.behind > 0 and not f.all_expired and f.too_soon and f.in_chat,
        Action.WAIT,
        Reason.IN_CHAT,
    ),
    (
        "nor within the grace of who has just left",
        lambda f, r: f.behind > 0 and not f.all_expired and f.too_soon,
        Action.WAIT,
        Reason.LEFT,
    ),
    (
        "who has muted is not rung",
        lambda f, r: f.behind > 0 and not f.all_expired and f.muted,
        Action.SKIP,
        Reason.MUTED,
    ),
    (
        "who has opted out is not rung for proactive messages",
        lambda f, r: f.behind > 0 and not f.all_expired and f.unwanted,
        Action.SKIP,
        Reason.OPTED_OUT,
    ),
    (
        "in quiet hours a ring waits for their end",
        lambda f, r: f.behind > 0 and not f.all_expired and f.quiet,
        Action.WAIT,
        Reason.QUIET_HOURS,
    ),
    (
        "in chat and behind: the ack timed out",
        lambda f, r: f.behind > 0 and not f.all_expired and f.in_chat,
        Action.RING,
        Reason.ACK_TIMEOUT,
    ),
    (
        "behind and not in chat: rung",
        lambda f, r: f.behind > 0 and not f.all_expired,
        Action.RING,
        Reason.NOT_IN_CHAT,
    ),
    (
        "a badge that is too high is corrected",
        lambda f, r: f.badge_is_high,
        Action.BADGE,
        Reason.READ_ELSEWHERE,
    ),
    ("only expired messages", lambda f, r: f.behind > 0, Action.SKIP, Reason.EXPIRED),
    ("all was read", lambda f, r: f.all_read, Action.SKIP, Reason.READ),
    ("all was acked", lambda f, r: True, Action.SKIP, Reason.ACKED),
]


def applies(stated: Stated, facts: Facts) -> bool:
    return stated[1](facts, facts.in_hand or NO_RING)


def test_every_combination_of_facts_is_decided_as_the_rule_says(all_facts: list[Facts]) -> None:
    wrong = []
    for facts in all_facts:
        _, _, action, reason = next(s for s in STATED if applies(s, facts))
        if delivery.look(facts) != Decision(action, reason):
            wrong.append((facts, delivery.look(facts)))
    assert wrong == []
    assert len(all_facts) == 129 * 2 * 2**11


def test_every_sentence_of_the_rule_decides_some_case(all_facts: list[Facts]) -> None:
    deciding = {next(s for s in STATED if applies(s, facts))[0] for facts in all_facts}
    assert deciding == {sentence for sentence, *_ in STATED}


def test_a_ring_in_hand_is_only_ever_repeated_or_cancelled_or_waits_for_the_morning(
    all_facts: list[Facts],
) -> None:
    with_ring = [f for f in all_facts if f.in_hand and f.live and f.endpoint and not f.early]
    assert {delivery.look(f).action for f in with_ring if not f.quiet} == {
        Action.RETRY,
        Action.CANCEL,
    }
    at_night = {delivery.look(f) for f in with_ring if f.quiet} - {
        delivery.look(f) for f in with_ring if not f.quiet
    }
    assert at_night == {Decision(Action.WAIT, Reason.QUIET_HOURS)}


def test_quiet_hours_hold_back_what_makes_a_noise_and_nothing_else(all_facts: list[Facts]) -> None:
    for facts in all_facts:
        decided = delivery.look(facts)
        if facts.quiet:
            assert decided.action is not Action.RING
            if decided.action is Action.RETRY:
                assert facts.in_hand is not None
                assert facts.in_hand.silent
        if decided.reason is Reason.QUIET_HOURS:
            assert facts.quiet


def test_nobody_is_rung_for_what_was_acked_read_or_expired(all_facts: list[Facts]) -> None:
    for facts in all_facts:
        if delivery.look(facts).action is Action.RING:
            assert facts.behind
            assert not facts.all_expired
            assert facts.in_hand is None
            assert not facts.too_soon
            assert (facts.muted, facts.unwanted, facts.quiet) == (False, False, False)
        if delivery.look(facts).action is Action.RETRY:
            ring = facts.in_hand
            assert ring is not None
            assert not ring.expired
            assert ring.silent or not (ring.acked or ring.read)


def test_facts_without_anything_owed_lead_to_nothing() -> None:
    assert delivery.look(Facts()) == Decision(Action.SKIP, Reason.ACKED)


# Due times


def test_a_message_to_somebody_in_chat_is_due_after_the_ack_timeout() -> None:
    due = delivery.due_after_commit(None, 100.0, 0.0, in_chat=True, ack_timeout=5.0)
    assert due == 105.0


def test_a_message_to_somebody_not_in_chat_is_due_at_once() -> None:
    due = delivery.due_after_commit(None, 100.0, 0.0, in_chat=False, ack_timeout=5.0)
    assert due == 100.0


def test_a_message_within_a_grace_is_due_at_its_end() -> None:
    due = delivery.due_after_commit(None, 100.0, 100.75, in_chat=False, ack_timeout=5.0)
    assert due == 100.75


def test_in_chat_a_grace_that_still_runs_does_not_matter() -> None:
    due = delivery.due_after_commit(None, 100.0, 200.0, in_chat=True, ack_timeout=5.0)
    assert due == 105.0


@given(standing=times, now=times, quiet=times, in_chat=st.booleans())
def test_a_new_message_never_pushes_back_a_due_time_that_stands(
    standing: float, now: float, quiet: float, in_chat: bool
) -> None:
    alone = delivery.due_after_commit(None, now, quiet, in_chat=in_chat, ack_timeout=5.0)
    due = delivery.due_after_commit(standing, now, quiet, in_chat=in_chat, ack_timeout=5.0)
    assert due == min(standing, alone)


def test_an_ack_of_everything_clears_the_due_time() -> None:
    assert delivery.due_after_ack(103.0, None, Patience(5.0)) is None


def test_a_partial_ack_moves_the_due_time_to_the_deadline_of_the_oldest_unacked() -> None:
    assert delivery.due_after_ack(103.0, 101.0, Patience(5.0)) == 106.0


def test_an_ack_makes_nothing_due_that_was_not() -> None:
    assert delivery.due_after_ack(None, 101.0, Patience(5.0)) is None
    assert delivery.due_after_ack(None, None, Patience(5.0)) is None


def test_a_partial_ack_does_not_end_a_hold_early() -> None:
    """A replay is acked piece by piece; what is still on its way is old, but held (rule 5)."""
    assert delivery.due_after_ack(105.0, 40.0, Patience(5.0)) == 105.0


def test_who_reads_a_part_without_being_in_chat_has_no_more_time_for_the_rest() -> None:
    assert delivery.due_after_ack(101.0, 100.0, Patience(5.0, until=101.0)) == 101.0
    assert delivery.due_after_ack(101.0, 100.0, None) == 101.0


@pytest.mark.parametrize(
    ("standing", "due"), [(None, None), (105.0, 101.0), (100.5, 100.5), (99.0, 99.0)]
)
def test_leaving_makes_what_is_due_due_after_the_grace_and_never_later(
    standing: float | None, due: float | None
) -> None:
    assert delivery.due_after_leaving(standing, 100.0, 1.0) == due


def test_joining_moves_a_due_time_to_the_ack_timeout_from_now() -> None:
    assert delivery.held(100.0, 100.0, 100.0, TIMING) == 105.0


def test_joining_moves_no_due_time_forward() -> None:
    assert delivery.held(120.0, 100.0, 100.0, TIMING) == 120.0


def test_joins_hold_no_longer_than_max_hold_since_the_first() -> None:
    assert delivery.held(100.0, 128.0, 100.0, TIMING) == 130.0
    assert delivery.held(130.0, 131.0, 100.0, TIMING) == 130.0


@given(gaps=st.lists(st.sampled_from([0.25, 1.0, 4.75]), min_size=1, max_size=200))
def test_a_phone_that_keeps_joining_is_rung_within_max_hold(gaps: list[float]) -> None:
    first = now = due = 100.0
    for gap in gaps:
        if due <= now and now > first:
            break
        due = delivery.held(due, now, first, TIMING)
        now += gap
    assert due <= first + TIMING.max_hold


@pytest.mark.parametrize(
    ("due", "expected"), [(100.0, 100.0), (104.0, 104.0), (130.0, 130.0), (9_999.0, 130.0)]
)
def test_a_due_time_that_no_rule_can_have_set_is_brought_near(due: float, expected: float) -> None:
    assert delivery.within_reason(due, 100.0, TIMING) == expected


@pytest.mark.parametrize(
    "timing",
    [
        msgspec.structs.replace(TIMING, ack_timeout=50.0, max_hold=40.0),
        msgspec.structs.replace(TIMING, disconnect_grace=50.0),
        msgspec.structs.replace(TIMING, restart_grace=50.0),
    ],
)
def test_what_a_rule_can_set_is_left_as_it_is(timing: Timing) -> None:
    assert delivery.within_reason(150.0, 100.0, timing) == 150.0


def test_a_ring_waits_no_longer_than_it_was_told_when_it_last_failed() -> None:
    assert delivery.within_reason(9_999.0, 100.0, TIMING, backoff=3_600.0) == 3_700.0
    assert delivery.within_reason(3_700.0, 100.0, TIMING, backoff=3_600.0) == 3_700.0
    assert delivery.within_reason(9_999.0, 100.0, TIMING, backoff=-7_000.0) == 130.0


GRACES: dict[int | None, float] = {
    None: 1.0,
    1000: 0.0,
    1001: 1.0,
    1005: 1.0,
    1006: 1.0,
    1009: 1.0,
    CloseCode.RESTART: TIMING.restart_window,
    CloseCode.SLOW_READER: 1.0 + BACKOFF_FIRST,
    CloseCode.TOKEN_EXPIRED: 1.0 + BACKOFF_FIRST,
    CloseCode.SERVER_FAULT: 1.0 + BACKOFF_FIRST,
    CloseCode.PROTOCOL_BROKEN: 1.0,
    CloseCode.SIGNED_OUT: 0.0,
    CloseCode.TOO_MANY_SESSIONS: 1.0,
}


@pytest.mark.parametrize(("code", "grace"), GRACES.items())
def test_the_grace_after_a_close_fits_the_return_that_the_code_asks_for(
    code: int | None, grace: float
) -> None:
    assert delivery.grace_after(code, TIMING) == grace


def test_reasons_and_actions_are_the_published_words() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)
    assert [a.value for a in Action] == ["ring", "badge", "retry", "cancel", "skip", "wait"]
    assert {Reason(pause) for pause in Pause} == delivery.PAUSES
