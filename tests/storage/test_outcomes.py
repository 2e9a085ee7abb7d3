"""Outcomes: the table of transitions, and the ranges against one record per message.

The model keeps what the ranges replace: a dict with an outcome for every counted message, changed
one message at a time. Whatever happens, both must tell the same of every message, now (from memory)
and later (from the spans that would be on disk).
"""

from dataclasses import dataclass, field
from itertools import combinations, pairwise, product
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from storage import outcomes
from storage.outcomes import TRANSITIONS, Change, Trigger
from storage.records import Conversation, Cut, Key, Message, Outcome, Span

PENDING, ACKED, PUSHED, EXPIRED, UNDELIVERABLE = Outcome
STAYS = None

# The table as it is published, stated once more, with what stays as it is.
PUBLISHED: dict[Outcome, dict[Trigger, Outcome | None]] = {
    PENDING: {
        Trigger.ACK: ACKED,
        Trigger.ACCEPTANCE: PUSHED,
        Trigger.EXPIRY: EXPIRED,
        Trigger.NO_DEVICE_LEFT: UNDELIVERABLE,
        Trigger.REGISTRATION: STAYS,
        Trigger.REPLAY: STAYS,
    },
    ACKED: dict.fromkeys(Trigger, STAYS),
    PUSHED: dict.fromkeys(Trigger, STAYS),
    EXPIRED: {
        Trigger.ACK: ACKED,
        Trigger.ACCEPTANCE: PUSHED,
        Trigger.EXPIRY: STAYS,
        Trigger.NO_DEVICE_LEFT: STAYS,
        Trigger.REGISTRATION: STAYS,
        Trigger.REPLAY: STAYS,
    },
    UNDELIVERABLE: {
        Trigger.ACK: ACKED,
        Trigger.ACCEPTANCE: STAYS,
        Trigger.EXPIRY: STAYS,
        Trigger.NO_DEVICE_LEFT: STAYS,
        Trigger.REGISTRATION: PENDING,
        Trigger.REPLAY: PENDING,
    },
}
REACHED_BY = {
    PUSHED: Trigger.ACCEPTANCE,
    EXPIRED: Trigger.EXPIRY,
    UNDELIVERABLE: Trigger.NO_DEVICE_LEFT,
    ACKED: Trigger.ACK,
}


def message(cut: Cut) -> Message:
    rest: dict[str, Any] = dict.fromkeys(Message.__struct_fields__)
    return Message(**rest | {"seq": cut.seq, "ord": cut.ord})


@dataclass(slots=True)
class Kept:
    """A conversation with what would be on disk, beside the model."""

    conversation: Conversation = field(default_factory=lambda: Conversation(1, Key("t", "c")))
    disk: dict[int, Span] = field(default_factory=dict)
    counters: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    cuts: list[Cut] = field(default_factory=lambda: [Cut(0, 0)])
    model: dict[int, tuple[Outcome, str | None]] = field(default_factory=dict)  # by seq

    def append(self, *, counted: bool) -> None:
        c = self.conversation
        seq, ord = c.last_seq + 1, c.last_ord + counted
        self.conversation = msgspec.structs.replace(c, last_seq=seq, last_ord=ord)
        self.cuts.append(Cut(seq, ord))
        if counted:
            self.model[seq] = (PENDING, None)
            self.counters[PENDING] += 1

    def happen(self, trigger: Trigger, lo: int, hi: int, reason: str | None) -> Change:
        """Apply `trigger` to messages `lo` + 1 to `hi`, to the ranges and to the model."""
        c = self.conversation
        if trigger is Trigger.ACK:
            lo = c.acked_seq
        change = outcomes.transition(c, self.cuts[lo], self.cuts[hi], trigger, reason)
        moved: dict[int, Outcome] = {}
        for seq, (outcome, _) in self.model.items():
            to = PUBLISHED[outcome][trigger]
            if lo < seq <= hi and to is not None:
                self.model[seq] = (to, None if to is ACKED else reason)
                moved[seq] = outcome
        self.conversation = change.conversation
        for span in change.dropped:
            del self.disk[span.lo_seq]
        for span in change.added:
            assert span.lo_seq not in self.disk
            self.disk[span.lo_seq] = span
        for move in change.moves:
            self.counters[move.origin] -= move.span.count
            self.counters[move.span.outcome] += move.span.count
        told = {
            seq: move.origin
            for move in change.moves
            for seq in self.model
            if move.span.lo_seq < seq <= move.span.hi_seq
        }
        assert told == moved
        return change

    def outcome_of(self, seq: int) -> tuple[Outcome, str | None]:
        """What is told of a message later: its span on disk, else the cursor."""
        spans = [s for s in self.disk.values() if s.lo_seq < seq <= s.hi_seq]
        assert len(spans) <= 1
        if spans:
            return spans[0].outcome, spans[0].reason
        return (ACKED if seq <= self.conversation.acked_seq else PENDING), None

    def check(self) -> None:
        c = self.conversation
        assert {seq: self.outcome_of(seq) for seq in self.model} == self.model
        assert self.counters == {o: [x for x, _ in self.model.values()].count(o) for o in Outcome}
        assert sum(self.counters.values()) == c.last_ord, "nothing gets lost (I2)"
        self.check_spans(sorted(self.disk.values(), key=lambda s: s.lo_seq))
        in_memory = [s for s in self.disk.values() if s.hi_ord > c.acked_ord]
        assert sorted(in_memory, key=lambda s: s.lo_seq) == list(c.settled)
        self.check_segments()

    def check_spans(self, spans: list[Span]) -> None:
        for span in spans:
            assert span.count > 0
            assert span.outcome in (PUSHED, EXPIRED, UNDELIVERABLE)
            assert self.cuts[span.lo_seq] == span.lo
            assert self.cuts[span.hi_seq] == span.hi
        for one, next in pairwise(spans):
            assert one.hi_seq <= next.lo_seq
            assert one.hi_ord <= next.lo_ord

    def check_segments(self) -> None:
        c = self.conversation
        found = outcomes.segments(c)
        covered = [
            (seq, (s.outcome, s.reason))
            for s in found
            for seq in self.model
            if s.lo_seq < seq <= s.hi_seq
        ]
        assert covered == [(seq, o) for seq, o in self.model.items() if seq > c.acked_seq]
        assert outcomes.pending(c) == [s for s in found if s.outcome is PENDING]
        for seq, (outcome, reason) in self.model.items():
            if seq > c.acked_seq:
                one = message(self.cuts[seq])
                span = outcomes.settling(c, one)
                assert outcomes.outcome(c, one) is outcome
                assert (span and span.reason) == reason
        for span in found:
            in_it = [seq for seq in self.model if span.lo_seq < seq <= span.hi_seq]
            assert span.count == len(in_it)


def with_one(outcome: Outcome) -> Kept:
    """One message with `outcome`, in the midst of others."""
    kept = Kept()
    for counted in (True, False, True, False, True):
        kept.append(counted=counted)
    if outcome is ACKED:
        kept.happen(Trigger.ACK, 0, 3, None)
    elif outcome is not PENDING:
        kept.happen(REACHED_BY[outcome], 1, 3, "first")
    return kept


@pytest.mark.parametrize(("outcome", "trigger"), [*product(Outcome, Trigger)])
def test_every_outcome_meets_every_trigger_as_published(outcome: Outcome, trigger: Trigger) -> None:
    kept = with_one(outcome)
    assert kept.outcome_of(3)[0] is outcome
    change = kept.happen(trigger, 2, 4, "second")
    to = PUBLISHED[outcome][trigger]
    moves = [move for move in change.moves if move.span.lo_seq < 3 <= move.span.hi_seq]
    if to is None:
        assert moves == []
        assert kept.outcome_of(3)[0] is outcome
    else:
        assert [(move.origin, move.span.outcome) for move in moves] == [(outcome, to)]
        assert kept.outcome_of(3) == (to, None if to in (ACKED, PENDING) else "second")
    assert kept.outcome_of(5) == (PENDING, None)


TO_PENDING = (Trigger.REGISTRATION, Trigger.REPLAY)


def test_the_table_holds_the_published_changes_and_no_other() -> None:
    stated = {
        (outcome, trigger): to
        for outcome, row in PUBLISHED.items()
        for trigger, to in row.items()
        if to is not None
    }
    assert stated == TRANSITIONS
    assert all(set(row) == set(Trigger) for row in PUBLISHED.values())


reasons = st.sampled_from([None, "no_device", "refused"])
places = st.floats(0, 1)
appends = st.tuples(st.just("append"), st.lists(st.booleans(), min_size=1, max_size=4))
happenings = st.tuples(st.sampled_from(Trigger), places, places, reasons)


@given(steps=st.lists(st.one_of(appends, happenings, happenings), max_size=40))
@settings(max_examples=400, deadline=None)
def test_ranges_tell_of_every_message_what_one_record_each_would(steps: list[Any]) -> None:
    kept = Kept()
    for step in steps:
        if step[0] == "append":
            for counted in step[1]:
                kept.append(counted=counted)
        else:
            trigger, one, other, reason = step
            last = kept.conversation.last_seq
            lo, hi = sorted((round(one * last), round(other * last)))
            kept.happen(trigger, lo, hi, None if trigger in TO_PENDING else reason)
        kept.check()
    event(f"spans on disk: {min(len(kept.disk), 5)}")


HAPPENINGS = [
    (trigger, lo, hi)
    for trigger in Trigger
    for lo, hi in combinations(range(4), 2)
    if trigger is not Trigger.ACK or lo == 0
]


@pytest.mark.parametrize("counted", [(True, False, True), (False, True, True), (True, True, False)])
def test_any_three_things_that_happen_to_three_messages_lose_none(
    counted: tuple[bool, ...],
) -> None:
    for happenings in product(HAPPENINGS, repeat=3):
        kept = Kept()
        for each in counted:
            kept.append(counted=each)
        for trigger, lo, hi in happenings:
            kept.happen(trigger, lo, hi, None)
        assert {seq: kept.outcome_of(seq) for seq in kept.model} == kept.model, happenings


def test_a_cursor_between_two_messages_of_a_span_takes_none_out_of_it() -> None:
    """The customer's own message in the midst of what was pushed is acked alone."""
    kept = Kept()
    for counted in (True, False, True):
        kept.append(counted=counted)
    kept.happen(Trigger.ACCEPTANCE, 0, 3, None)
    for seq in (1, 2, 3):
        kept.happen(Trigger.ACK, 0, seq, None)
        kept.check()
    assert [kept.outcome_of(seq)[0] for seq in (1, 3)] == [PUSHED, PUSHED]


@given(hi=st.integers(0, 6), again=st.integers(0, 6))
def test_an_ack_moves_the_cursor_to_its_place_and_never_back(hi: int, again: int) -> None:
    kept = Kept()
    for counted in (True, False, True, True, False, True):
        kept.append(counted=counted)
    kept.happen(Trigger.ACK, 0, hi, None)
    kept.happen(Trigger.ACK, 0, again, None)
    assert kept.conversation.acked == kept.cuts[max(hi, again)]
    kept.check()


def test_an_ack_in_chat_writes_no_span() -> None:
    kept = with_one(PENDING)
    change = kept.happen(Trigger.ACK, 0, 5, None)
    assert (change.added, change.dropped) == ((), ())
    assert [move.span.count for move in change.moves] == [3]


def test_neighbours_with_the_same_outcome_and_reason_become_one_span() -> None:
    kept = with_one(PENDING)
    kept.happen(Trigger.ACCEPTANCE, 0, 1, None)
    kept.happen(Trigger.ACCEPTANCE, 3, 5, None)
    kept.happen(Trigger.ACCEPTANCE, 1, 3, None)
    assert len(kept.disk) == 1
    kept.check()


def test_neighbours_with_different_reasons_stay_apart() -> None:
    kept = with_one(PENDING)
    kept.happen(Trigger.NO_DEVICE_LEFT, 0, 1, "no_device")
    kept.happen(Trigger.NO_DEVICE_LEFT, 1, 5, "refused")
    assert [kept.outcome_of(seq)[1] for seq in (1, 3, 5)] == ["no_device", "refused", "refused"]


def test_a_pushed_span_survives_an_ack_of_its_first_half_and_grows_behind_it() -> None:
    kept = with_one(PENDING)
    kept.happen(Trigger.ACCEPTANCE, 0, 3, None)
    kept.happen(Trigger.ACK, 0, 1, None)
    kept.happen(Trigger.ACCEPTANCE, 3, 5, None)
    assert [kept.outcome_of(seq)[0] for seq in (1, 3, 5)] == [PUSHED] * 3
    kept.check()


def test_without_anything_unacked_nothing_is_pending() -> None:
    assert outcomes.pending(Conversation(1, Key("t", "c"))) == []
    assert outcomes.segments(Conversation(1, Key("t", "c"))) == []


def test_what_lies_between_two_spans_and_does_not_count_is_not_pending() -> None:
    """Nor what comes after the last of them: nobody would ever give it an outcome."""
    kept = Kept()
    for counted in (True, False, True, False):
        kept.append(counted=counted)
    kept.happen(Trigger.NO_DEVICE_LEFT, 0, 1, "no_device")
    assert outcomes.pending(kept.conversation) == [Span(1, 1, 4, 2, PENDING)]
    kept.happen(Trigger.ACCEPTANCE, 2, 3, None)
    assert [(span.lo, span.hi) for span in kept.conversation.settled] == [
        (Cut(0, 0), Cut(1, 1)),
        (Cut(2, 1), Cut(3, 2)),
    ]
    assert outcomes.pending(kept.conversation) == []
    assert [span.outcome for span in outcomes.segments(kept.conversation)] == [
        UNDELIVERABLE,
        PUSHED,
    ]


def test_messages_without_a_gap_between_them_are_one_run() -> None:
    """Whatever lies between their places that does not count."""
    given = [message(Cut(seq, ord)) for seq, ord in ((2, 1), (5, 2), (6, 4), (9, 6), (10, 7))]
    told = [(first.ord, last.ord) for first, last in outcomes.runs(given)]
    assert told == [(1, 2), (4, 4), (6, 7)]
    assert list(outcomes.runs([])) == []
