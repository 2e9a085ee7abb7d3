"""Which requests go out, and when, until they are answered."""

from __future__ import annotations

import orjson
import pytest

from gateway.clientside.errors import OutboxFull
from gateway.clientside.outbox import WINDOW, Outbox, Request
from tests.dice import Dice


def request(ref: str, *, is_send: bool = True, quiet: bool = False) -> Request:
    frame = {"type": "send", "ref": ref}
    return Request(ref, frame, orjson.dumps(frame), is_send, quiet)


def outbox(*refs: str, bound: int = 1000) -> Outbox:
    box = Outbox(Dice(), bound)
    for ref in refs:
        box.put(request(ref))
    return box


def refs(requests: list[Request]) -> list[str]:
    return [request.ref for request in requests]


def test_requests_are_written_once_in_their_order() -> None:
    box = outbox("a", "b", "c")
    assert refs(box.take(0.0, sends=True)) == ["a", "b", "c"]
    assert box.take(0.0, sends=True) == []


def test_a_lost_socket_makes_unanswered_requests_go_out_again_in_order() -> None:
    box = outbox("a", "b", "c")
    box.take(0.0, sends=True)
    box.settle("b")
    box.lost()
    assert refs(box.take(0.0, sends=True)) == ["a", "c"]


def test_sends_can_be_held_back_while_other_requests_go() -> None:
    box = outbox("send")
    box.put(request("history", is_send=False))
    assert refs(box.take(0.0, sends=False)) == ["history"]
    assert refs(box.take(0.0, sends=True)) == ["send"]


def test_at_the_bound_a_request_is_refused_and_the_others_stay() -> None:
    box = outbox("a", "b", bound=2)
    with pytest.raises(OutboxFull) as refused:
        box.put(request("c"))
    assert refused.value.bound == 2
    assert len(box) == 2
    box.settle("a")
    box.put(request("c"))


def test_what_the_client_itself_asks_has_room_beyond_the_bound() -> None:
    box = outbox("a", bound=1)
    box.put(request("page", is_send=False, quiet=True))
    assert refs(box.take(0.0, sends=False)) == ["page"]


def test_a_send_that_was_refused_for_now_waits_as_long_as_it_was_told_before_the_next() -> None:
    box = outbox("a", "b")
    box.take(0.0, sends=True)
    box.put(request("c"))
    box.postpone("a", 10.0, "rate_limited", 0.6)
    assert box.next_at(sends=True) is None  # b is under way, and one at a time goes out now
    box.settle("b")
    assert box.next_at(sends=True) == 10.6
    assert box.next_at(sends=False) is None
    assert box.take(10.5, sends=True) == []
    assert refs(box.take(10.6, sends=True)) == ["a", "c"]


def test_after_a_rate_limit_sends_go_out_a_few_at_a_time() -> None:
    box = outbox(*"abcdef")
    assert len(box.take(0.0, sends=True)) == 6
    for ref in "abcdef":
        box.postpone(ref, 0.0, "rate_limited", 1.0)
    assert refs(box.take(1.0, sends=True)) == ["a"]
    box.settle("a")
    assert refs(box.take(1.0, sends=True)) == ["b", "c"]


def test_a_request_that_was_not_confirmed_is_tried_again_with_growing_jitter() -> None:
    box = outbox()
    box.put(request("r", is_send=False))
    for tries in range(3):
        box.take(100.0 * tries, sends=True)
        box.postpone("r", 100.0 * tries, "unavailable", None)
        assert box.next_at(sends=False) == 100.0 * tries + 2**tries
        assert box.take(100.0 * tries, sends=True) == []


def test_no_more_sends_than_the_window_are_under_way() -> None:
    box = outbox(*map(str, range(WINDOW + 5)))
    assert len(box.take(0.0, sends=True)) == WINDOW
    assert box.take(0.0, sends=True) == []
    box.settle("0")
    assert refs(box.take(0.0, sends=True)) == [str(WINDOW)]


def test_an_answered_request_is_not_written_again() -> None:
    box = outbox()
    box.put(request("history", is_send=False))
    box.take(0.0, sends=True)
    assert box.settle("history") is not None
    box.lost()
    assert box.take(0.0, sends=True) == []


def test_a_request_that_nobody_waits_for_is_forgotten_unless_the_server_may_know_it() -> None:
    box = outbox("written")
    box.take(0.0, sends=True)
    box.put(request("unwritten"))
    box.withdraw("written")
    box.withdraw("unwritten")
    box.withdraw("unknown")
    box.lost()
    assert refs(box.take(0.0, sends=True)) == ["written"]


def test_the_clients_own_requests_end_with_their_socket() -> None:
    box = outbox("send")
    box.put(request("reload", is_send=False, quiet=True))
    box.take(0.0, sends=True)
    box.lost()
    assert refs(box.take(0.0, sends=True)) == ["send"]


def test_an_answer_to_nothing_settles_nothing() -> None:
    box = outbox("a")
    assert box.settle("b") is None
    assert box.settle(None) is None
    assert box.get(7) is None
    assert len(box) == 1


def test_requests_that_waited_go_out_in_the_order_in_which_they_were_made() -> None:
    box = outbox(*map(str, range(20)))
    box.take(0.0, sends=True)
    for name in (7, 3, 15):
        box.postpone(str(name), 0.0, "unavailable", 0.0)
    assert refs(box.take(0.0, sends=True)) == ["3", "7", "15"]


def test_a_cleared_outbox_is_empty() -> None:
    box = outbox("a", "b")
    box.clear()
    assert len(box) == 0
    assert box.take(0.0, sends=True) == []
