"""Outcomes: what may become of a counted message, and the arithmetic of the ranges that record it.

Theory of operation. An outcome is a function of the conversation's row, so that a message can have
neither two nor none: the span of `settled` that covers it says it; else a place at or before the
`acked` cursor means acked; else it is pending. The common case, a message acknowledged in chat,
therefore writes nothing but the cursor. `transition` is the only way to change an outcome, and
`TRANSITIONS` is the only place that says which changes there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import groupby

import msgspec

from storage.records import PENDING, Conversation, Cut, Message, Outcome, Span


class Trigger(StrEnum):
    """What can change an outcome."""

    ACK = "ack"
    ACCEPTANCE = "acceptance"
    EXPIRY = "expiry"
    NO_DEVICE_LEFT = "no_device_left"
    REGISTRATION = "registration"
    REPLAY = "replay"


_ACK = Trigger.ACK

TRANSITIONS: dict[tuple[Outcome, Trigger], Outcome] = {
    (Outcome.PENDING, Trigger.ACK): Outcome.ACKED,
    (Outcome.PENDING, Trigger.ACCEPTANCE): Outcome.PUSHED,
    (Outcome.PENDING, Trigger.EXPIRY): Outcome.EXPIRED,
    (Outcome.PENDING, Trigger.NO_DEVICE_LEFT): Outcome.UNDELIVERABLE,
    (Outcome.EXPIRED, Trigger.ACK): Outcome.ACKED,
    (Outcome.EXPIRED, Trigger.ACCEPTANCE): Outcome.PUSHED,
    (Outcome.UNDELIVERABLE, Trigger.ACK): Outcome.ACKED,
    (Outcome.UNDELIVERABLE, Trigger.REGISTRATION): Outcome.PENDING,
    (Outcome.UNDELIVERABLE, Trigger.REPLAY): Outcome.PENDING,
}
"""Every change of outcome that there is. What is not listed stays as it is."""


class Move(msgspec.Struct, frozen=True):
    """`span` of messages (with its new outcome) came from `origin`."""

    origin: Outcome
    span: Span


class Change(msgspec.Struct, frozen=True):
    """The conversation afterwards, what moved, and what that means for the stored spans."""

    conversation: Conversation
    moves: tuple[Move, ...]
    dropped: tuple[Span, ...]
    added: tuple[Span, ...]


def segments(conversation: Conversation) -> list[Span]:
    """Everything after the acked cursor, in order, as spans of one outcome each."""
    c = conversation
    settled = [_span(max(s.lo, c.acked), s.hi, s.outcome, s.reason) for s in c.settled]
    return sorted([*pending(c), *settled], key=lambda span: span.lo_ord)


def settling(conversation: Conversation, message: Message) -> Span | None:
    """What became of a counted message after the acked cursor; None: it is pending."""
    for span in conversation.settled:
        if span.lo_ord < message.ord <= span.hi_ord:
            return span
    return None


def outcome(conversation: Conversation, message: Message) -> Outcome:
    """The outcome of a counted message after the acked cursor."""
    span = settling(conversation, message)
    return PENDING if span is None else span.outcome


def pending(conversation: Conversation) -> list[Span]:
    """The spans that have no outcome yet: what lies between those that have one."""
    c = conversation
    found: list[Span] = []
    seq, ord = c.acked_seq, c.acked_ord
    for span in c.settled:
        if span.lo_ord > ord:
            found.append(Span(seq, ord, span.lo_seq, span.lo_ord, PENDING))
        seq, ord = span.hi_seq, span.hi_ord
    if c.last_ord > ord:
        found.append(Span(seq, ord, c.last_seq, c.last_ord, PENDING))
    return found


def runs(messages: list[Message]) -> Iterator[tuple[Message, Message]]:
    """The first and the last of each row of them without a gap: what happens to a thousand at once
    is one thing, and not a thousand."""
    for _, run in groupby(enumerate(messages), lambda placed: placed[1].ord - placed[0]):
        row = [message for _, message in run]
        yield row[0], row[-1]


def transition(
    conversation: Conversation, lo: Cut, hi: Cut, trigger: Trigger, reason: str | None = None
) -> Change:
    """Apply `trigger` to the counted messages after `lo` up to and including `hi`.

    An ack is a cursor: it always starts at the acked cut, and moves it to `hi`.
    """
    if not conversation.settled:
        return _of_pending(conversation, lo, hi, trigger, reason)
    lo = max(lo, conversation.acked)
    before = segments(conversation)
    after: list[Span] = []
    moves: list[Move] = []
    for part in [piece for span in before for piece in _split(span, lo, hi)]:
        to = None
        if lo.seq <= part.lo_seq and part.hi_seq <= hi.seq:
            to = TRANSITIONS.get((part.outcome, trigger))
        if to is None:
            after.append(part)
        else:
            moved = _span(part.lo, part.hi, to, None if to is Outcome.ACKED else reason)
            moves.append(Move(part.outcome, moved))
            after.append(moved)
    acked = hi if trigger is _ACK and hi > conversation.acked else conversation.acked
    kept = _merge([s for s in after if s.outcome not in (PENDING, Outcome.ACKED)])
    kept = [_whole(span, conversation) for span in kept]
    stored = {s for s in kept if s.hi_ord <= acked.ord}
    result = msgspec.structs.replace(
        conversation,
        acked_seq=acked.seq,
        acked_ord=acked.ord,
        settled=tuple(s for s in kept if s not in stored),
    )
    old = set(conversation.settled)
    new = set(kept)
    return Change(
        result,
        tuple(moves),
        tuple(s for s in conversation.settled if s not in new),
        tuple(s for s in kept if s not in old),
    )


def _of_pending(c: Conversation, lo: Cut, hi: Cut, trigger: Trigger, reason: str | None) -> Change:
    """The common case: all that is open is pending, and a span of it moves."""
    acks = trigger is _ACK
    from_seq, from_ord = (c.acked_seq, c.acked_ord) if acks or lo.seq < c.acked_seq else lo
    upto_seq, upto_ord = hi if acks or hi.seq < c.last_seq else (c.last_seq, c.last_ord)
    to = TRANSITIONS.get((PENDING, trigger))
    moves: tuple[Move, ...] = ()
    added: tuple[Span, ...] = ()
    if to is not None and upto_ord > from_ord:
        span = Span(from_seq, from_ord, upto_seq, upto_ord, to, None if acks else reason)
        moves = (Move(PENDING, span),)
        if not acks:
            added = (span,)
            c = msgspec.structs.replace(c, settled=added)
    if acks and upto_seq > c.acked_seq:
        c = msgspec.structs.replace(c, acked_seq=upto_seq, acked_ord=upto_ord)
    return Change(c, moves, (), added)


def _span(lo: Cut, hi: Cut, outcome: Outcome, reason: str | None) -> Span:
    return Span(lo.seq, lo.ord, hi.seq, hi.ord, outcome, reason)


def _split(span: Span, *cuts: Cut) -> list[Span]:
    pieces = [span]
    for cut in cuts:
        last = pieces[-1]
        if last.lo_seq < cut.seq < last.hi_seq:
            pieces[-1:] = [
                _span(last.lo, cut, last.outcome, last.reason),
                _span(cut, last.hi, last.outcome, last.reason),
            ]
    return [piece for piece in pieces if piece.count]


def _merge(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.hi_ord == span.lo_ord
            and (last.outcome, last.reason) == (span.outcome, span.reason)
        ):
            merged[-1] = _span(last.lo, span.hi, span.outcome, span.reason)
        else:
            merged.append(span)
    return merged


def _whole(span: Span, conversation: Conversation) -> Span:
    """The first stored span may begin before the acked cursor; give it back its beginning."""
    for stored in conversation.settled[:1]:
        if (
            stored.lo_ord <= conversation.acked_ord == span.lo_ord
            and stored.outcome is span.outcome
            and stored.reason == span.reason
        ):
            return _span(stored.lo, span.hi, span.outcome, span.reason)
    return span
