"""What a client holds of a conversation, whatever is lost on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.clientside.timeline import Reloaded, Taken, Timeline
from gateway.clientside.told import Author, Message, Page, Welcome
from gateway.protocol import Limits, MessageKind, Role


def message(seq: int) -> Message:
    return Message(
        seq=seq,
        id=f"m_{seq}",
        author=Author(Role.AGENT, "a-1"),
        text="hello",
        kind=MessageKind.CHAT,
        at="2026-01-01T00:00:00.000Z",
    )


def welcome(
    seq: int = 0, *, read_seq: int = 0, epoch: str = "e1", resumed: bool = False, most: int = 500
) -> Welcome:
    return Welcome(
        session="s",
        customer="c-42",
        epoch=epoch,
        seq=seq,
        read_seq=read_seq,
        unread=0,
        live=True,
        resumed=resumed,
        limits=Limits(resume=most),
        server_time="2026-01-01T00:00:00.000Z",
    )


def page(first: int, last: int, *, more: bool) -> Page:
    return Page(messages=[message(seq) for seq in range(first, last + 1)], more=more)


def following(upto: int) -> Timeline:
    """A timeline that holds 1 to `upto`."""
    timeline = Timeline()
    timeline.welcome(welcome(upto))
    for seq in range(1, upto + 1):
        assert timeline.take(message(seq)) is Taken.NEW
    return timeline


def held(timeline: Timeline) -> list[int]:
    return [message.seq for message in timeline.messages]


def test_the_first_session_expects_what_comes_after_the_read_mark() -> None:
    timeline = Timeline()
    assert timeline.welcome(welcome(9, read_seq=7)) is False
    before = timeline.caught_up
    assert [timeline.take(message(seq)) for seq in (8, 9, 9, 7)] == [
        Taken.NEW,
        Taken.NEW,
        Taken.KNOWN,
        Taken.KNOWN,
    ]
    assert (before, timeline.caught_up) == (False, True)
    assert held(timeline) == [8, 9]


def test_the_first_session_of_a_long_conversation_expects_only_its_newest_part() -> None:
    timeline = Timeline()
    timeline.welcome(welcome(900, most=500))
    assert timeline.take(message(401)) is Taken.NEW


def test_a_resumed_session_goes_on_where_the_last_one_ended() -> None:
    timeline = following(3)
    assert timeline.welcome(welcome(5, resumed=True)) is False
    before = timeline.caught_up
    assert timeline.take(message(4)) is Taken.NEW
    assert timeline.take(message(5)) is Taken.NEW
    assert (before, timeline.caught_up) == (False, True)


def test_a_gap_is_filled_from_history_and_nothing_held_is_lost() -> None:
    timeline = following(3)
    assert timeline.take(message(8)) is Taken.GAP
    assert timeline.reloading
    assert timeline.take(message(9)) is Taken.LATER
    assert timeline.page(page(6, 9, more=True)) == 6
    step = timeline.page(page(3, 5, more=True))
    assert isinstance(step, Reloaded)
    assert step.connected
    assert [message.seq for message in step.new] == [4, 5, 6, 7, 8, 9]
    assert held(timeline) == list(range(1, 10))
    assert timeline.held == 9
    assert not timeline.reloading


def test_another_epoch_replaces_all_that_was_held() -> None:
    timeline = following(5)
    assert timeline.welcome(welcome(2, epoch="e2")) is True
    assert (timeline.epoch, timeline.held) == ("e1", 5)  # until the reload is complete
    step = timeline.page(page(1, 2, more=False))
    assert isinstance(step, Reloaded)
    assert not step.connected
    assert held(timeline) == [1, 2]
    assert (timeline.epoch, timeline.held) == ("e2", 2)


def test_another_epoch_without_messages_leaves_none() -> None:
    timeline = following(5)
    timeline.welcome(welcome(0, epoch="e2"))
    assert timeline.page(page(1, 0, more=False)) == Reloaded(False, [])
    assert held(timeline) == []
    assert (timeline.held, timeline.caught_up) == (0, True)


def test_when_too_many_are_missing_the_newest_replace_what_was_held() -> None:
    timeline = following(2)
    assert timeline.welcome(welcome(300, most=100)) is True
    assert timeline.page(page(251, 300, more=True)) == 251
    step = timeline.page(page(201, 250, more=True))
    assert isinstance(step, Reloaded)
    assert not step.connected
    assert held(timeline) == list(range(201, 301))


def test_a_hole_that_history_does_not_fill_leaves_only_what_is_behind_it() -> None:
    timeline = following(2)
    timeline.take(message(9))
    step = timeline.page(page(4, 6, more=False))
    assert isinstance(step, Reloaded)
    assert not step.connected
    assert held(timeline) == [9]


def test_a_page_that_nobody_asked_for_changes_nothing() -> None:
    timeline = following(2)
    assert timeline.page(page(1, 9, more=False)) == Reloaded(True, [])
    assert held(timeline) == [1, 2]


def test_a_new_welcome_ends_a_reload_that_was_cut_off() -> None:
    timeline = following(3)
    timeline.take(message(9))
    assert timeline.welcome(welcome(9, resumed=True)) is False
    assert not timeline.reloading
    assert timeline.take(message(4)) is Taken.NEW


def test_the_oldest_messages_are_let_go_at_the_bound() -> None:
    timeline = Timeline(kept=10)
    timeline.welcome(welcome(0))
    for seq in range(1, 12):
        timeline.take(message(seq))
    assert held(timeline) == list(range(3, 12))
    assert timeline.held == 11


@given(
    st.integers(0, 30),
    st.integers(1, 30),
    st.sets(st.integers(1, 70)),
    st.integers(1, 20),
)
def test_whatever_is_lost_on_the_way_what_is_held_has_no_gap(
    before: int, came: int, lost: set[int], size: int
) -> None:
    timeline = following(before)
    for seq in range(before + 1, before + came + 1):
        if seq not in lost and timeline.take(message(seq)) is Taken.GAP:
            step: int | Reloaded = seq + 1
            while isinstance(step, int):  # a server that answers as the protocol says
                first = max(1, step - size)
                step = timeline.page(page(first, step - 1, more=first > 1))
        assert held(timeline) == list(range(1, timeline.held + 1))
    arrived = {seq for seq in range(before + 1, before + came + 1) if seq not in lost}
    assert timeline.held == max(arrived, default=before)
