"""What a session does with what comes in, what goes out, and where its bounds are."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import decoding, protocol
from gateway.auth import Identity
from gateway.context import Context, TenantRules
from gateway.delivery import Timing
from gateway.hub import Hub
from gateway.marks import Marks
from gateway.presence import Presence
from gateway.protocol import CloseCode, ErrorCode, FrameError, Role, SessionState
from gateway.session import AgentSession, CustomerSession, Hangup, Held, Rates, TokenBucket
from storage.database import Database, Rows
from storage.records import Key
from storage.sql import LOAD_MARKS
from storage.store import Store
from tests.storage.stored import KEY, Clock, draft, post

BOUND = 20
OTHER = Key("acme", "c-2")

GOOD = '{"type": "ping"}'
BAD = '{"type": "ping", "ref": 7}'
SEND = '{"type": "send", "ref": "r-1", "text": "hello"}'
AGENT_SEND = '{"type": "send", "ref": "r-1", "customer": "c-1", "text": "hello"}'
TOO_LARGE = orjson.dumps({"type": "send", "ref": "r-1", "text": "x" * 8_001}).decode()


@dataclass(slots=True)
class Wire:
    """Where a session's frames go in these tests, in order, closes included."""

    out: list[bytes | CloseCode] = field(default_factory=list)
    answers: int = 0

    def send(self, data: bytes) -> None:
        self.out.append(data)

    async def stream(self, data: bytes) -> None:
        self.out.append(data)

    async def has_read(self) -> None:
        raise NotImplementedError

    def answered(self) -> None:
        self.answers += 1

    def close(self, code: CloseCode) -> None:
        self.out.append(code)


def customer(bucket: TokenBucket | None = None, **fields: Any) -> tuple[CustomerSession, Wire]:
    wire = Wire()
    who = Identity("acme", Role.CUSTOMER, "c-1", "Ann", 2e9)
    bucket = bucket or TokenBucket(60, 1_000)
    session = CustomerSession("s-1", who, wire, bucket, BOUND, decoding.decode_customer, **fields)
    return session, wire


def agent(bucket: TokenBucket | None = None) -> tuple[AgentSession, Wire]:
    wire = Wire()
    who = Identity("acme", Role.AGENT, "a-1", None, 2e9)
    bucket = bucket or TokenBucket(60, 1_000)
    return AgentSession("s-2", who, wire, bucket, BOUND, decoding.decode_agent), wire


def held() -> Held:
    """The holding place as `gateway.presence` makes it."""
    return Held(BOUND)


def refused(
    session: CustomerSession | AgentSession, raw: str | bytes, now: float = 0
) -> FrameError:
    with pytest.raises(FrameError) as caught:
        session.receive(raw, now)
    return caught.value


# The rate limit


def test_a_burst_passes_at_once_and_one_more_does_not() -> None:
    bucket = TokenBucket(per_minute=60, burst=3)
    assert [bucket.take(100.0) for _ in range(3)] == [None] * 3
    assert bucket.take(100.0) == 1.0


def test_the_told_wait_is_exactly_long_enough() -> None:
    bucket = TokenBucket(per_minute=30, burst=1)
    bucket.take(0.0)
    assert bucket.take(0.5) == 1.5
    assert bucket.take(1.75) == 0.25
    assert bucket.take(2.0) is None


def test_a_long_pause_saves_up_no_more_than_the_burst() -> None:
    bucket = TokenBucket(per_minute=60, burst=2)
    bucket.take(0.0)
    assert [bucket.take(3_600.0) for _ in range(3)] == [None, None, 1.0]


def test_what_is_given_is_beyond_the_burst_and_is_kept_up_to_as_much_again() -> None:
    bucket = TokenBucket(per_minute=60, burst=2)
    bucket.give()
    assert bucket.take(0.0) is None
    for _ in range(3):
        bucket.give()
    assert [bucket.take(3_600.0) for _ in range(5)] == [None, None, None, None, 1.0]


def test_what_is_taken_beforehand_is_waited_for_each_time() -> None:
    bucket = TokenBucket(per_minute=60, burst=2)
    assert [bucket.owe(0.0) for _ in range(3)] == [None, None, 1.0]
    assert [bucket.owe(at) for at in (1.0, 2.0, 2.0)] == [1.0, 1.0, 2.0]
    assert bucket.owe(5.0) is None


def test_a_clock_that_steps_back_neither_gives_nor_takes() -> None:
    bucket = TokenBucket(per_minute=60, burst=1)
    bucket.take(100.0)
    assert bucket.take(50.0) == 1.0
    assert bucket.take(51.0) is None


@given(
    per_minute=st.integers(1, 600),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 3), max_size=200),
)
def test_no_more_pass_than_the_burst_and_the_rate_allow(
    per_minute: int, burst: int, gaps: list[float]
) -> None:
    bucket = TokenBucket(per_minute, burst)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) is None
    assert passed <= burst + now * per_minute / 60 + 1e-6


@pytest.mark.parametrize(("make", "raw"), [(customer, SEND), (agent, AGENT_SEND)])
def test_sending_too_fast_is_answered_with_the_ref_and_when_to_try_again(
    make: Callable[[TokenBucket], tuple[CustomerSession | AgentSession, Wire]], raw: str
) -> None:
    session, _ = make(TokenBucket(per_minute=30, burst=1))
    assert session.receive(raw, 0.0).ref == "r-1"
    error = refused(session, raw, 1.0)
    assert (error.code, error.ref, error.retry_after) == (ErrorCode.RATE_LIMITED, "r-1", 1.0)
    assert "30 a minute" in error.message
    assert session.receive(raw, 2.0).text == "hello"


def test_only_sends_count_against_the_rate() -> None:
    session, _ = customer(TokenBucket(per_minute=60, burst=1))
    for _ in range(50):
        session.receive(GOOD, 0.0)
        session.receive('{"type": "ack", "seq": 1}', 0.0)
    session.receive(SEND, 0.0)
    assert refused(session, SEND).code is ErrorCode.RATE_LIMITED


def test_being_too_fast_is_not_a_bad_frame() -> None:
    session, _ = customer(TokenBucket(per_minute=60, burst=1))
    session.receive(SEND, 0.0)
    for _ in range(30):
        assert refused(session, SEND).code is ErrorCode.RATE_LIMITED


# Bad frames


@pytest.mark.parametrize(
    "raw", ["", "nonsense", "[]", '"text"', '{"type": "no_such"}', "{}", BAD, b"\x00binary"]
)
def test_a_bad_frame_is_answered_and_nothing_else_happens(raw: str | bytes) -> None:
    session, wire = customer()
    assert refused(session, raw).code is ErrorCode.BAD_FRAME
    assert not session.closed
    assert wire.out == []


def test_the_tenth_bad_frame_in_a_row_ends_the_session_with_4502() -> None:
    session, _ = customer()
    for _ in range(9):
        assert refused(session, BAD).code is ErrorCode.BAD_FRAME
    with pytest.raises(Hangup) as caught:
        session.receive(BAD, 0.0)
    assert caught.value.code == 4502


def test_a_good_frame_begins_the_count_of_bad_ones_anew() -> None:
    session, _ = customer()
    for _ in range(5):
        for _ in range(9):
            refused(session, BAD)
        session.receive(GOOD, 0.0)
    for _ in range(9):
        assert refused(session, BAD).code is ErrorCode.BAD_FRAME
    with pytest.raises(Hangup):
        session.receive(BAD, 0.0)


def test_oversized_fields_are_refused_without_ending_the_session() -> None:
    session, _ = customer()
    for _ in range(30):
        assert refused(session, TOO_LARGE).code is ErrorCode.TOO_LARGE
    assert session.receive(GOOD, 0.0) == protocol.Ping()


# What goes out


@pytest.mark.parametrize("kind", ["customer", "agent"])
def test_a_frame_is_sent_as_json(kind: str) -> None:
    session, wire = customer() if kind == "customer" else agent()
    session.send({"type": "pong", "ref": "é"})
    assert wire.out == ['{"type":"pong","ref":"é"}'.encode()]


def test_an_answer_goes_out_behind_a_replay_too() -> None:
    session, wire = customer(held=held())
    session.send({"type": "pong"})
    session.write(b"1")
    session.release()
    assert wire.out == [b"1", b'{"type":"pong"}']


def test_what_arrives_during_a_replay_goes_out_behind_it_in_order() -> None:
    session, wire = customer(held=held())
    session.deliver(b"3")
    session.write(b"1")
    session.deliver(b"4")
    session.write(b"2")
    session.release()
    session.deliver(b"5")
    assert wire.out == [b"1", b"2", b"3", b"4", b"5"]


def test_what_came_before_the_replay_is_read_is_in_it_and_frees_its_place() -> None:
    session, wire = customer()
    session.held = held()
    session.deliver(b"0" * BOUND)
    session.held.forget()
    session.deliver(b"1" * BOUND)
    session.release()
    assert wire.out == [b"1" * BOUND]


def test_who_says_that_it_has_more_than_it_said_before_has_answered() -> None:
    session, wire = customer()
    told = []
    for seq in (3, 3, 2, 4):
        session.says_it_has(seq)
        told.append(wire.answers)
    assert told == [1, 1, 1, 2]


def test_releasing_without_a_replay_sends_nothing() -> None:
    session, wire = customer()
    session.release()
    assert wire.out == []


def test_what_fits_the_bound_is_held_and_what_passes_it_closes_with_4001() -> None:
    session, wire = customer(held=held())
    session.deliver(b"x" * (BOUND - 1))
    session.deliver(b"y")
    assert wire.out == []
    session.deliver(b"z")
    assert wire.out == [4001]
    session.release()
    assert wire.out == [4001], "what was not sent is replayed to the next session"


def test_a_closed_session_sends_nothing_and_is_closed_once() -> None:
    session, wire = customer()
    session.close(CloseCode.RESTART)
    session.close(CloseCode.GOODBYE)
    session.write(b"late")
    session.send({"type": "pong"})
    session.deliver(b"later")
    assert wire.out == [CloseCode.RESTART]
    assert session.closed


@pytest.mark.parametrize("code", CloseCode)
def test_a_session_is_revoked_by_a_sign_out_and_by_the_end_of_its_token(code: CloseCode) -> None:
    session, _ = customer()
    session.close(CloseCode.SLOW_READER)
    assert not session.revoked
    session.close(code)
    assert session.revoked is (code in (4002, 4503))


# Whose session it is


def test_a_session_ends_with_its_newest_token_and_with_none_that_was_replaced() -> None:
    @dataclass(slots=True)
    class Timer:
        cancelled: bool = False

        def cancel(self) -> None:
            self.cancelled = True

    session, _ = customer()
    first, second = Timer(), Timer()
    session.expire_with(first)
    session.expire_with(second)
    assert (first.cancelled, second.cancelled) == (True, False)
    session.expire_with(None)
    assert second.cancelled
    session.expire_with(None)


def test_a_customers_session_names_its_conversation() -> None:
    session, _ = customer()
    assert (session.key, session.tenant) == (KEY, "acme")


def test_an_agents_session_names_conversations_of_its_own_tenant() -> None:
    session, _ = agent()
    assert session.key("c-1") == KEY


def test_a_session_is_labelled_with_its_state_and_installation() -> None:
    assert customer()[0].label == "s-1:active"
    session, _ = customer(state=SessionState.BACKGROUND, installation="my phone: 1")
    assert session.label == "s-1:background:my%20phone%3A%201"


def test_a_session_is_active_until_it_says_otherwise() -> None:
    session, _ = customer()
    assert session.active
    session.state = SessionState.BACKGROUND
    assert not session.active


def test_two_sessions_of_one_customer_are_not_the_same() -> None:
    one, two = customer()[0], customer()[0]
    assert len({one, two}) == 2


async def test_an_ack_of_the_background_counts_though_the_turn_to_active_overtakes_it(
    tmp_path: Path,
) -> None:
    """Both frames arrive at once: the second is judged while the first is being committed."""
    reading = asyncio.Event()

    class Noticed(Database):
        async def read_for_write(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
            if sql == LOAD_MARKS:
                reading.set()
            return await super().read_for_write(sql, parameters)

    clock = Clock()
    async with Noticed(tmp_path / "ringback.db") as database:
        store = Store(database, clock)
        await store.start()
        timing = Timing(
            ack_timeout=5.0,
            disconnect_grace=1.0,
            restart_window=5.0,
            restart_grace=10.0,
            max_hold=30.0,
        )
        rules, limits = {"acme": TenantRules()}, protocol.CUSTOMER_LIMITS
        context = Context(store, Hub(), timing, limits, rules, clock, 512 * 1024)
        await asyncio.gather(post(store, draft("one")), post(store, draft("two")))
        session, _ = customer(state=SessionState.BACKGROUND)
        marks = Marks(context)
        context.hub.join(session)
        ack = store.submit(*marks.ack(session, 1))
        await reading.wait()
        Presence(context, marks).set_state(session, SessionState.ACTIVE)
        await ack
        await store.stop()
        c = store.peek(KEY)
        assert c is not None
        assert (session.active, c.acked_seq, c.read_seq) == (True, 1, 0)


# An agent's conversations


def test_an_opened_conversation_holds_its_own_frames_and_no_others() -> None:
    session, wire = agent()
    session.opened[KEY] = held()
    session.deliver(KEY, b"held")
    session.deliver(OTHER, b"other")
    session.write(b"opening")
    session.release(KEY)
    session.deliver(KEY, b"live")
    assert wire.out == [b"other", b"opening", b"held", b"live"]


def test_releasing_keeps_the_conversation_open() -> None:
    session, wire = agent()
    session.opened[KEY] = held()
    session.release(KEY)
    session.release(KEY)
    session.release(OTHER)
    assert session.opened == {KEY: None}
    assert wire.out == []


def test_an_opening_that_takes_too_much_closes_with_4001() -> None:
    session, wire = agent()
    session.opened[KEY] = held()
    session.deliver(KEY, b"x" * BOUND)
    assert wire.out == []
    session.deliver(KEY, b"y")
    session.release(KEY)
    assert wire.out == [4001]


async def test_a_closed_session_streams_nothing() -> None:
    session, wire = customer()
    await session.stream({"type": "pong"})
    session.close(CloseCode.RESTART)
    await session.stream({"type": "pong"})
    assert wire.out == [b'{"type":"pong"}', CloseCode.RESTART]


@pytest.mark.parametrize("code", [CloseCode.TOKEN_EXPIRED, None])
def test_who_is_not_signed_out_after_all_has_its_right_unless_that_ended_otherwise(
    code: CloseCode | None,
) -> None:
    session, _ = customer()
    session.revoked = True
    if code is not None:
        session.close(code)
    session.pardon()
    assert session.revoked is (code is not None)


def test_a_sender_has_one_bucket_over_all_sessions_and_the_longest_unseen_is_forgotten() -> None:
    rates = Rates({Role.CUSTOMER: (60, 1)})
    ann = Identity("acme", Role.CUSTOMER, "ann", None, 2e9)
    assert rates.bucket(ann).take(0.0) is None
    assert rates.bucket(ann).take(0.0) == 1.0
    for i in range(Rates.BOUND):
        rates.bucket(Identity("acme", Role.CUSTOMER, f"c-{i}", None, 2e9))
    assert rates.bucket(ann).take(0.0) is None


@pytest.mark.parametrize(
    ("sends", "frames"), [((100, 20), (6_000, 2_000)), ((900, 300), (9_000, 3_000))]
)
def test_a_session_has_frames_for_ten_times_its_sends(
    sends: tuple[float, float], frames: tuple[float, float]
) -> None:
    who = Identity("acme", Role.AGENT, "a-1", None, 2e9)
    out: Any = None
    session = AgentSession("s-1", who, out, TokenBucket(*sends), 1_000, decoding.decode_agent)
    assert (session.frame_bucket.per_minute, session.frame_bucket.burst) == frames
