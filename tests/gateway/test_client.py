"""The Python client against a scripted server: what its user sees when the network is unkind."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI
from websockets.http11 import Request, Response

from gateway.client import (
    AgentClient,
    ConnectionEnded,
    CustomerClient,
    Message,
    NotUnderstood,
    OutboxFull,
    RequestFailed,
)
from gateway.protocol import Limits, Role, Route
from tests.running import PATIENT, Running, running

PATIENCE = 10.0  # seconds after which a test gives up; never a measure of anything
AT = "2026-01-01T00:00:00.000Z"
Frame = dict[str, Any]


class Socket:
    """One connection, as the scripted server sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.hello: Frame = {}
        self.closed = asyncio.Event()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()

    async def read(self) -> None:
        try:
            async for raw in self.socket:
                self._frames.put_nowait(json.loads(raw))
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()

    async def take(self, type: str) -> Frame:
        """The next frame, which has to be of this type."""
        async with asyncio.timeout(PATIENCE):
            frame = await self._frames.get()
        assert frame["type"] == type, frame
        return frame

    async def rest(self) -> list[Frame]:
        """What came before the client closed."""
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()
        return [self._frames.get_nowait() for _ in range(self._frames.qsize())]

    async def say(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def welcome(self, seq: int = 0, **fields: Any) -> None:
        told = {
            "session": "s_1",
            "customer": "c-42",
            "epoch": "e1",
            "seq": seq,
            "read_seq": 0,
            "unread": 0,
            "live": False,
            "resumed": False,
            "limits": Limits().as_field(),
            "server_time": AT,
        }
        await self.say("welcome", **told | fields)

    async def agent_welcome(self) -> None:
        await self.say(
            "welcome",
            session="s_1",
            agent="a-1",
            tenant="acme",
            limits=Limits().as_field(),
            server_time=AT,
        )

    async def messages(self, first: int, last: int, **fields: Any) -> None:
        for seq in range(first, last + 1):
            await self.socket.send(json.dumps(message(seq, **fields)))

    async def sent(self, send: Frame, seq: int, **fields: Any) -> None:
        await self.say("sent", ref=send["ref"], seq=seq, id=f"m_{seq}", at=AT, **fields)

    async def close(self, code: int) -> None:
        await self.socket.close(code)

    def vanish(self) -> None:
        self.socket.transport.abort()


def message(seq: int, **fields: Any) -> Frame:
    told = {
        "type": "message",
        "seq": seq,
        "id": f"m_{seq}",
        "from": {"role": "agent", "id": "a-1"},
        "text": f"text {seq}",
        "kind": "chat",
        "at": AT,
    }
    return told | fields


def history(request: Frame, first: int, last: int, *, more: bool) -> Frame:
    messages = [message(seq) for seq in range(first, last + 1)]
    return {"ref": request["ref"], "messages": messages, "more": more}


class Scripted:
    """A server that does nothing by itself: the test takes its sockets and answers."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.status: int | None = None  # refuse handshakes with it
        self.refused: asyncio.Queue[None] = asyncio.Queue()
        self._sockets: asyncio.Queue[Socket] = asyncio.Queue()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}/v1/chat"

    async def serve(self, connection: ServerConnection) -> None:
        socket = Socket(connection)
        try:
            socket.hello = json.loads(await connection.recv())
        except ConnectionClosed:
            return
        self._sockets.put_nowait(socket)
        await socket.read()

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.status is None:
            return None
        self.refused.put_nowait(None)
        return connection.respond(self.status, "no\n")

    async def socket(self) -> Socket:
        """The next connection that has said hello."""
        async with asyncio.timeout(PATIENCE):
            return await self._sockets.get()

    @property
    def untaken(self) -> int:
        return self._sockets.qsize()


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    async with serve(
        scripted.serve, "127.0.0.1", 0, process_request=scripted.admit, compression=None
    ) as scripted.server:
        yield scripted


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """Every test ends with no task left and no complaint of the loop."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    gc.collect()
    assert complaints == []


class Naps:
    """Remembers how long the client wanted to wait, and does not wait."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


class Held:
    """A wait that lasts until the test ends it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def __call__(self, _: float) -> None:
        self.begun.set()
        await self.over.wait()


class Longest(Random):
    """Jitter without chance: always the longest."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Shortest(Random):
    """Jitter without chance: none."""

    def uniform(self, a: float, b: float) -> float:
        return a


@asynccontextmanager
async def customer(
    server: Scripted, seq: int = 0, welcome: Frame | None = None, **options: Any
) -> AsyncIterator[tuple[CustomerClient, Socket]]:
    """A started client and its first socket."""
    options.setdefault("sleep", Naps())
    options.setdefault("rng", Shortest())
    client = CustomerClient(server.url, options.pop("token", "t0"), **options)
    starting = asyncio.create_task(client.start())
    try:
        socket = await server.socket()
        await socket.welcome(seq, **welcome or {})
        await starting
        yield client, socket
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.close()


@asynccontextmanager
async def agent(server: Scripted, **options: Any) -> AsyncIterator[tuple[AgentClient, Socket]]:
    client = AgentClient(server.url, "t0", sleep=Naps(), rng=Shortest(), **options)
    starting = asyncio.create_task(client.start())
    try:
        socket = await server.socket()
        await socket.agent_welcome()
        await starting
        yield client, socket
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.close()


def is_welcome(frame: Frame) -> bool:
    return bool(frame["type"] == "welcome")


def seqs(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages]


async def within(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable


# Connecting


async def test_the_first_hello_tells_token_state_and_installation_and_no_resume(
    server: Scripted,
) -> None:
    async with customer(server, state="background", installation="phone") as (client, socket):
        assert socket.hello == {
            "type": "hello",
            "token": "t0",
            "state": "background",
            "installation": "phone",
        }
        assert client.connected
        assert client.welcome is not None
        assert client.welcome.customer == "c-42"
        assert client.status is not None
        assert client.status.badge_seq is None


async def test_a_token_may_come_from_a_plain_function(server: Scripted) -> None:
    async with customer(server, token=lambda: "from a function") as (_, socket):
        assert socket.hello["token"] == "from a function"


async def test_leaving_the_context_closes_cleanly(server: Scripted) -> None:
    async def play() -> Socket:
        socket = await server.socket()
        await socket.welcome()
        return socket

    playing = asyncio.create_task(play())
    async with CustomerClient(server.url, "t0"):
        socket = await playing
    await within(socket.closed.wait())
    assert socket.socket.close_code == 1000


async def test_a_url_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidURI):
        CustomerClient("http://127.0.0.1/v1/chat", "t0")


async def test_a_request_before_start_is_a_mistake_of_the_program() -> None:
    with pytest.raises(RuntimeError):
        await CustomerClient("ws://127.0.0.1:1/", "t0").send("hello")


async def test_an_unreachable_server_is_tried_again_with_growing_waits(server: Scripted) -> None:
    server.status = 503
    naps = Naps()
    client = CustomerClient(server.url, "t0", sleep=naps, rng=Longest())
    starting = asyncio.create_task(client.start())
    for _ in range(4):
        await within(server.refused.get())
    server.status = None
    socket = await server.socket()
    await socket.welcome()
    await within(starting)
    assert naps.taken[:4] == [1.0, 2.0, 4.0, 8.0]
    await client.close()


async def test_a_refused_handshake_that_will_not_pass_ends_the_client(server: Scripted) -> None:
    server.status = 404
    with pytest.raises(ConnectionEnded) as ended:
        await within(CustomerClient(server.url, "t0").start())
    assert ended.value.status == 404


async def test_a_start_that_is_cancelled_leaves_nothing_running(server: Scripted) -> None:
    client = CustomerClient(server.url, "t0")
    starting = asyncio.create_task(client.start())
    socket = await server.socket()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await within(socket.closed.wait())
    with pytest.raises(ConnectionEnded):
        await client.ping()


async def test_a_welcome_that_is_not_understood_is_another_failed_attempt(
    server: Scripted,
) -> None:
    naps = Naps()
    client = CustomerClient(server.url, "t0", sleep=naps, rng=Longest())
    starting = asyncio.create_task(client.start())
    await (await server.socket()).say("welcome", seq="many")
    await (await server.socket()).welcome()
    await within(starting)
    assert naps.taken == [1.0]
    await client.close()


async def test_a_close_before_the_first_attempt_ends_the_start(server: Scripted) -> None:
    client = CustomerClient(server.url, "t0")
    starting = asyncio.create_task(client.start())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ConnectionEnded):
        await within(starting)
    assert server.untaken == 0


# Receiving


async def test_messages_arrive_in_order_and_each_once(server: Scripted) -> None:
    heard: list[Message] = []
    async with customer(server, 2, on_message=heard.append) as (client, socket):
        await socket.messages(1, 3)
        await socket.messages(2, 4)
        assert (await client.wait_message(4)).text == "text 4"
        assert seqs(client.messages) == seqs(heard) == [1, 2, 3, 4]
        assert client.seq == 4


async def test_every_message_is_acked_by_itself(server: Scripted) -> None:
    async with customer(server) as (_, socket):
        await socket.messages(1, 1)
        assert (await socket.take("ack"))["seq"] == 1
        await socket.messages(2, 2)
        assert (await socket.take("ack"))["seq"] == 2


async def test_a_burst_costs_one_ack(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        burst = [json.dumps(message(seq)).encode() for seq in range(1, 51)]
        for frame in burst:  # one write to the socket for all of them
            socket.socket.protocol.send_text(frame)
        socket.socket.transport.write(b"".join(socket.socket.protocol.data_to_send()))
        assert (await socket.take("ack"))["seq"] == 50
        assert len(client.messages) == 50


async def test_without_auto_ack_only_the_program_acks(server: Scripted) -> None:
    async with customer(server, auto_ack=False) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        await client.ack(2)
        assert (await socket.take("ack"))["seq"] == 2
        socket.vanish()
        again = await server.socket()
        assert again.hello["resume"] == {"epoch": "e1", "seq": 2}


async def test_without_auto_ack_a_resume_acks_nothing_that_the_program_did_not(
    server: Scripted,
) -> None:
    async with customer(server, 9, {"read_seq": 7}, auto_ack=False) as (client, socket):
        await socket.messages(8, 9)
        await client.wait_message(9)
        socket.vanish()
        assert (await server.socket()).hello["resume"] == {"epoch": "e1", "seq": 7}


async def test_status_tells_what_the_server_last_told(server: Scripted) -> None:
    told = {"unread": 3, "live": True, "agents_acked_seq": 2, "agents_read_seq": 1}
    async with customer(server, 3, told) as (client, socket):
        assert client.status is not None
        assert (client.status.unread, client.status.live) == (3, True)
        assert (client.status.agents_acked_seq, client.status.agents_read_seq) == (2, 1)
        await socket.say("status", seq=3, read_seq=2, unread=1, badge_seq=17, live=False)
        await client.wait_for(lambda frame: frame["type"] == "status")
        status = client.status
        assert (status.unread, status.read_seq, status.badge_seq) == (1, 2, 17)


async def test_what_a_client_does_not_understand_is_passed_over(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await socket.socket.send("not json")
        await socket.socket.send("[1]")
        await socket.say("a frame of the future", seq=1)
        await socket.say("status", seq="x")
        await socket.messages(1, 1, unknown="field")
        assert (await client.wait_message(1)).seq == 1


async def test_a_callback_that_raises_is_reported_and_stops_nothing(server: Scripted) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))

    def broken(_: Message) -> None:
        raise LookupError("broken")

    async with customer(server, on_message=broken) as (client, socket):
        await socket.messages(1, 2)
        await client.wait_message(2)
        assert [type(report["exception"]) for report in reports] == [LookupError, LookupError]


async def test_waiting_for_a_message_that_does_not_come_times_out(server: Scripted) -> None:
    async with customer(server) as (client, _):
        with pytest.raises(TimeoutError):
            await client.wait_message(1, timeout=0)


async def test_a_predicate_that_raises_is_its_callers_to_see(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        waiting = asyncio.create_task(client.wait_message(lambda message: 1 / 0))
        await asyncio.sleep(0)
        await socket.messages(1, 2)
        with pytest.raises(ZeroDivisionError):
            await within(waiting)
        assert (await client.wait_message(2)).seq == 2


# Sending


async def test_a_send_returns_what_the_server_confirmed_and_counts_as_its_seq(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello", {"order": 7}))
        send = await socket.take("send")
        assert (send["text"], send["data"]) == ("hello", {"order": 7})
        await socket.sent(send, 1)
        sent = await within(sending)
        assert (sent.seq, sent.id, sent.ref, sent.duplicate) == (1, "m_1", send["ref"], False)
        await socket.messages(2, 2)
        await client.wait_message(2)
        assert seqs(client.messages) == [1, 2]
        assert client.messages[0].text == "hello"
        assert client.messages[0].author.id == "c-42"


async def test_ones_own_messages_are_not_acked(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        await socket.sent(await socket.take("send"), 1)
        await within(sending)
        await client.close()
        assert await socket.rest() == []


async def test_a_send_without_an_answer_goes_out_again_under_the_same_ref(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        first = await socket.take("send")
        socket.vanish()
        again = await server.socket()
        await again.welcome(resumed=True)
        second = await again.take("send")
        assert second == first
        await again.sent(second, 1, duplicate=True)
        assert (await within(sending)).duplicate


async def test_a_send_that_had_been_committed_is_found_in_the_replay_and_not_repeated(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        send = await socket.take("send")
        socket.vanish()
        again = await server.socket()
        await again.welcome(1, resumed=True)
        await again.messages(1, 1, ref=send["ref"])
        sent = await within(sending)
        assert (sent.seq, sent.ref, sent.duplicate) == (1, send["ref"], True)
        assert seqs(client.messages) == [1]
        await client.close()
        assert [frame["type"] for frame in await again.rest()] == ["ack"]


async def test_sends_made_while_away_go_out_in_their_order_on_return(server: Scripted) -> None:
    away = Held()
    async with customer(server, sleep=away) as (client, socket):
        socket.vanish()
        await within(away.begun.wait())
        sending = [asyncio.create_task(client.send(f"m{i}")) for i in range(5)]
        await asyncio.sleep(0)
        away.over.set()
        again = await server.socket()
        await again.welcome(resumed=True)
        sends = [await again.take("send") for _ in range(5)]
        assert [send["text"] for send in sends] == [f"m{i}" for i in range(5)]
        for seq, send in enumerate(sends, 1):
            await again.sent(send, seq)
        assert [sent.seq for sent in await within(asyncio.gather(*sending))] == [1, 2, 3, 4, 5]


async def test_a_send_given_up_while_away_never_goes_out(server: Scripted) -> None:
    away = Held()
    async with customer(server, sleep=away) as (client, socket):
        socket.vanish()
        await within(away.begun.wait())
        sending = [asyncio.create_task(client.send(f"m{i}")) for i in range(2)]
        await asyncio.sleep(0)
        sending[0].cancel()
        away.over.set()
        again = await server.socket()
        await again.welcome(resumed=True)
        send = await again.take("send")
        assert send["text"] == "m1"
        await again.sent(send, 1)
        assert (await within(sending[1])).seq == 1


@pytest.mark.parametrize(
    "error", [{"code": "unavailable"}, {"code": "rate_limited", "retry_after": 0.001}]
)
async def test_a_send_that_may_pass_later_is_tried_again_under_the_same_ref(
    server: Scripted, error: Frame
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        first = await socket.take("send")
        await socket.say("error", ref=first["ref"], message="later", **error)
        second = await socket.take("send")
        assert second == first
        await socket.sent(second, 1)
        assert (await within(sending)).seq == 1


async def test_an_ack_that_may_pass_later_is_said_again_unless_a_newer_one_was(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        await client.ack(1)
        first = await socket.take("ack")
        await socket.say("error", ref=first["ref"], code="unavailable", message="later")
        assert await socket.take("ack") == first
        await client.ack(2)
        second = await socket.take("ack")
        assert second["seq"] == 2
        for ref, code in ((first["ref"], "unavailable"), (second["ref"], "bad_frame")):
            await socket.say("error", ref=ref, code=code, message="no more")
        await client.wait_for(lambda frame: frame.get("code") == "bad_frame")
        await client.close()
        assert await socket.rest() == []


@pytest.mark.parametrize("leave", ["background", "close"])
async def test_what_was_refused_is_said_again_before_the_chat_is_left(
    server: Scripted, leave: str
) -> None:
    async with customer(server, rng=Longest()) as (client, socket):
        await client.ack(1)
        first = await socket.take("ack")
        for _ in range(8):  # so that it would not come again by itself
            client._link._marks.refused(first["ref"])
        await socket.say("error", ref=first["ref"], code="unavailable", message="later")
        await client.wait_for(lambda frame: frame["type"] == "error")
        if leave == "close":
            await client.close()
            assert await socket.rest() == [first]
            return
        leaving = asyncio.create_task(client.set_state("background"))
        assert await socket.take("ack") == first
        assert (await socket.take("state"))["state"] == "background"
        leaving.cancel()


@pytest.mark.parametrize("code", ["conflict", "too_large", "bad_frame", "internal", "new_code"])
async def test_a_send_that_is_refused_raises_with_the_servers_code(
    server: Scripted, code: str
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        send = await socket.take("send")
        await socket.say("error", ref=send["ref"], code=code, message="why")
        with pytest.raises(RequestFailed) as failed:
            await within(sending)
        assert (failed.value.code, failed.value.message) == (code, "why")


async def test_a_frame_that_would_close_the_socket_is_refused_before_it_leaves(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        with pytest.raises(RequestFailed) as failed:
            await client.send("x" * 70_000)
        assert failed.value.code == "too_large"
        await client.close()
        assert await socket.rest() == []


async def test_the_thousand_and_first_waiting_send_is_refused(server: Scripted) -> None:
    async with customer(server) as (client, _):
        sending = [asyncio.create_task(client.send("m")) for _ in range(1000)]
        await asyncio.sleep(0)
        with pytest.raises(OutboxFull):
            await client.send("one too many")
        await client.close()
        ends = await asyncio.gather(*sending, return_exceptions=True)
        assert {type(end) for end in ends} == {ConnectionEnded}


async def test_an_answer_that_is_not_as_the_protocol_says_raises(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        asking = asyncio.create_task(client.history())
        request = await socket.take("history")
        await socket.say("history", ref=request["ref"], messages="none")
        with pytest.raises(NotUnderstood):
            await within(asking)


async def test_a_send_whose_caller_gave_up_still_counts_as_its_seq(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        send = await socket.take("send")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await socket.sent(send, 1)
        await socket.messages(2, 2)
        await client.wait_message(2)
        assert seqs(client.messages) == [1, 2]


# Coming back


async def test_after_a_lost_socket_the_client_resumes_where_it_was(server: Scripted) -> None:
    heard: list[Message] = []
    async with customer(server, on_message=heard.append) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        socket.vanish()
        again = await server.socket()
        assert again.hello["resume"] == {"epoch": "e1", "seq": 3}
        await again.welcome(5, resumed=True)
        await again.messages(4, 5)
        await client.wait_message(5)
        assert seqs(heard) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("code", [1000, 1009, 4500, 4501, 4502, 4503, 4504])
async def test_codes_that_say_so_end_the_client_and_every_waiting_call(
    server: Scripted, code: int
) -> None:
    async with customer(server) as (client, socket):
        waiting = [
            asyncio.create_task(call)
            for call in (
                client.send("hello"),
                client.wait_message(1),
                client.wait_for(lambda frame: frame["type"] == "typing"),
            )
        ]
        await socket.take("send")
        await socket.close(code)
        ends = await within(asyncio.gather(*waiting, return_exceptions=True))
        assert [getattr(end, "code", end) for end in ends] == [code] * 3
        with pytest.raises(ConnectionEnded):
            await client.ping()
        with pytest.raises(ConnectionEnded):
            await client.wait_message(1)
        assert not client.connected
        assert server.untaken == 0


@pytest.mark.parametrize(
    ("code", "wait"), [(1011, 1.0), (1012, 5.0), (4000, 1.0), (4001, 1.0), (4003, 1.0)]
)
async def test_other_codes_bring_the_client_back_after_the_wait_that_fits(
    server: Scripted, code: int, wait: float
) -> None:
    naps = Naps()
    async with customer(server, sleep=naps, rng=Longest()) as (_, socket):
        await socket.close(code)
        await server.socket()
        assert naps.taken == [wait]


async def test_after_a_welcome_the_waits_begin_anew(server: Scripted) -> None:
    naps = Naps()
    async with customer(server, sleep=naps, rng=Longest()) as (_, socket):
        socket.vanish()
        await (await server.socket()).close(1011)
        again = await server.socket()
        await again.welcome(resumed=True)
        again.vanish()
        await server.socket()
        assert naps.taken == [1.0, 2.0, 1.0]


async def test_an_expired_token_is_asked_for_again_and_a_good_one_is_not(
    server: Scripted,
) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return f"t{asked}"

    async with customer(server, token=token) as (_, socket):
        assert socket.hello["token"] == "t1"
        socket.vanish()
        again = await server.socket()
        assert again.hello["token"] == "t1"
        await again.welcome(resumed=True)
        await again.close(4002)
        assert (await server.socket()).hello["token"] == "t2"


async def test_a_token_that_cannot_be_had_is_another_failed_attempt(server: Scripted) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
    tries = 0

    async def token() -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("the token service is down")
        return "t1"

    async with customer(server, token=token) as (_, socket):
        assert socket.hello["token"] == "t1"
    assert [type(report["exception"]) for report in reports] == [OSError]


async def test_a_refreshed_token_is_the_one_to_come_back_with(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        refreshing = asyncio.create_task(client.refresh("t1"))
        request = await socket.take("refresh")
        assert request["token"] == "t1"
        await socket.say("ok", ref=request["ref"])
        await within(refreshing)
        socket.vanish()
        assert (await server.socket()).hello["token"] == "t1"


async def test_another_epoch_makes_the_client_reload_and_say_so(server: Scripted) -> None:
    reloads: list[list[int]] = []
    heard: list[Message] = []
    async with customer(
        server, on_message=heard.append, on_reload=lambda messages: reloads.append(seqs(messages))
    ) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        await socket.take("ack")
        socket.vanish()
        again = await server.socket()
        await again.welcome(2, epoch="e2")
        request = await again.take("history")
        await again.messages(3, 3)  # live, while the reload is on its way
        await again.say("history", **history(request, 1, 2, more=False))
        assert (await again.take("ack"))["seq"] == 3
        assert reloads == [[1, 2, 3]]
        assert seqs(client.messages) == [1, 2, 3]
        assert seqs(heard) == [1, 2, 3]
        again.vanish()
        assert (await server.socket()).hello["resume"] == {"epoch": "e2", "seq": 3}


async def test_a_reload_that_was_cut_off_claims_nothing_that_did_not_arrive(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        socket.vanish()
        again = await server.socket()
        await again.welcome(900)
        await again.take("history")
        again.vanish()
        third = await server.socket()
        assert third.hello["resume"] == {"epoch": "e1", "seq": 3}


async def test_a_gap_is_filled_from_history_and_told_message_by_message(
    server: Scripted,
) -> None:
    heard: list[Message] = []
    reloads: list[object] = []
    async with customer(server, on_message=heard.append, on_reload=reloads.append) as (_, socket):
        await socket.messages(1, 1)
        await socket.take("ack")
        await socket.messages(4, 4)
        request = await socket.take("history")
        await socket.say("history", **history(request, 1, 4, more=False))
        assert (await socket.take("ack"))["seq"] == 4
        assert seqs(heard) == [1, 2, 3, 4]
        assert reloads == []


async def test_a_reload_that_the_server_refuses_begins_anew_on_another_socket(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        await socket.messages(2, 2)
        request = await socket.take("history")
        await socket.say("error", ref=request["ref"], code="internal", message="fault")
        again = await server.socket()
        await again.welcome(2, resumed=True)
        await again.messages(1, 2)
        await client.wait_message(2)
        assert seqs(client.messages) == [1, 2]


async def test_sends_wait_until_a_long_reload_is_complete(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        socket.vanish()
        again = await server.socket()
        await again.welcome(600)
        sending = asyncio.create_task(client.send("hello"))
        first = await again.take("history")
        assert "before" not in first
        await again.say("history", **history(first, 551, 600, more=True))
        before = 551
        while before > 101:
            request = await again.take("history")
            assert request["before"] == before
            await again.say("history", **history(request, before - 50, before - 1, more=True))
            before -= 50
        assert (await again.take("ack"))["seq"] == 600
        await again.sent(await again.take("send"), 601)
        await within(sending)
        assert len(client.messages) == 501


# What a customer does


async def test_reading_without_a_number_reads_all_that_has_arrived(server: Scripted) -> None:
    async with customer(server, auto_ack=False) as (client, socket):
        await client.read()  # nothing yet: nothing is said
        await socket.messages(1, 2)
        await client.wait_message(2)
        await client.read()
        assert (await socket.take("read"))["seq"] == 2


async def test_a_read_that_was_lost_with_its_socket_is_told_on_return(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await socket.messages(1, 2)
        await socket.take("ack")
        await client.read(2)
        socket.vanish()
        again = await server.socket()
        await again.welcome(2, read_seq=0, resumed=True)
        assert (await again.take("read"))["seq"] == 2
        again.vanish()
        third = await server.socket()
        mark = client.frames_seen
        await third.welcome(2, read_seq=2, resumed=True)
        await client.wait_for(is_welcome, since=mark)
        await client.close()
        assert await third.rest() == []


async def test_going_to_the_background_returns_once_the_server_has_taken_it(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        leaving = asyncio.create_task(client.set_state("background"))
        assert (await socket.take("state"))["state"] == "background"
        ping = await socket.take("ping")
        assert not leaving.done()
        await socket.say("pong", ref=ping["ref"])
        await within(leaving)
        socket.vanish()
        assert (await server.socket()).hello["state"] == "background"


async def test_a_state_set_while_away_is_in_the_next_hello(server: Scripted) -> None:
    away = Held()
    async with customer(server, sleep=away) as (client, socket):
        socket.vanish()
        await within(away.begun.wait())
        await client.set_state("background")
        away.over.set()
        assert (await server.socket()).hello["state"] == "background"


async def test_devices_are_registered_and_deregistered_over_the_socket(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        registering = asyncio.create_task(
            client.register_device(
                "phone", "device-token", platform="ios", locale="en", time_zone="UTC"
            )
        )
        request = await socket.take("register_device")
        assert request == {
            "type": "register_device",
            "ref": request["ref"],
            "installation": "phone",
            "token": "device-token",
            "platform": "ios",
            "locale": "en",
            "time_zone": "UTC",
        }
        await socket.say(
            "device", ref=request["ref"], installation="phone", deregistration_key="dk_1"
        )
        assert await within(registering) == "dk_1"
        leaving = asyncio.create_task(client.deregister_device("phone"))
        request = await socket.take("deregister_device")
        await socket.say("ok", ref=request["ref"])
        await within(leaving)


async def test_history_is_a_page_and_does_not_change_what_is_held(server: Scripted) -> None:
    async with customer(server, 9, {"read_seq": 9}) as (client, socket):
        asking = asyncio.create_task(client.history(before=9, limit=3))
        request = await socket.take("history")
        assert (request["before"], request["limit"]) == (9, 3)
        await socket.say("history", **history(request, 6, 8, more=True))
        page = await within(asking)
        assert (seqs(page.messages), page.more) == ([6, 7, 8], True)
        assert client.messages == []


async def test_typing_is_told_while_there_is_a_socket(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await client.typing()
        assert (await socket.take("typing"))["on"] is True
        await client.close()
        await client.typing(False)  # nobody to tell


async def test_bye_is_said_after_what_was_unwritten_and_the_server_closes(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):

        async def answer() -> None:
            send = await socket.take("send")
            await socket.take("bye")
            await socket.sent(send, 1)
            await socket.close(1000)

        answering = asyncio.create_task(answer())
        sending = asyncio.create_task(client.send("one more thing"))
        await asyncio.sleep(0)  # it is in the outbox now, and not yet written
        await within(client.bye())
        await answering
        assert (await sending).seq == 1
        with pytest.raises(ConnectionEnded) as ended:
            await client.ping()
        assert ended.value.code == 1000


async def test_a_close_tells_its_code_to_the_server(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await client.close(1001)
        await within(socket.closed.wait())
        assert socket.socket.close_code == 1001
        await client.close()  # again: nothing


async def test_an_abort_drops_the_connection_without_a_close_and_stays_away(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        await socket.take("send")
        await client.abort()
        await within(socket.closed.wait())
        assert socket.socket.close_code == 1006
        with pytest.raises(ConnectionEnded) as ended:
            await within(sending)
        assert ended.value.code is None


async def test_a_dropped_connection_comes_back_by_itself(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        client.drop()
        await within(socket.closed.wait())
        assert socket.socket.close_code == 1006
        again = await server.socket()
        assert again.hello["resume"] == {"epoch": "e1", "seq": 0}


async def test_a_client_that_ended_can_start_again_and_resumes(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await socket.messages(1, 2)
        await client.wait_message(2)
        await client.abort()
        starting = asyncio.create_task(client.start())
        again = await server.socket()
        assert again.hello["resume"] == {"epoch": "e1", "seq": 2}
        await again.welcome(3, resumed=True)
        await within(starting)
        waiting = asyncio.create_task(client.wait_message(3))
        await again.messages(3, 3)
        await within(waiting)


async def test_a_close_while_waiting_to_come_back_ends_the_wait(server: Scripted) -> None:
    away = Held()
    async with customer(server, sleep=away) as (client, socket):
        socket.vanish()
        await within(away.begun.wait())
        sending = asyncio.create_task(client.send("hello"))
        await asyncio.sleep(0)
        await within(client.close())
        with pytest.raises(ConnectionEnded):
            await within(sending)


# Agents


OPENED = {
    "customer": "c-42",
    "read_seq": 0,
    "acked_seq": 0,
    "unread": 0,
    "in_chat": True,
    "live": True,
    "devices": 1,
    "more": False,
}


async def opened(client: AgentClient, socket: Socket, seq: int) -> None:
    """Let the client open c-42, whose newest message is `seq`."""
    opening = asyncio.create_task(client.open("c-42"))
    request = await socket.take("open")
    messages = [message(n, customer="c-42") for n in range(1, seq + 1)]
    await socket.say("conversation", ref=request["ref"], seq=seq, messages=messages, **OPENED)
    conversation = await within(opening)
    assert seqs(conversation.messages) == list(range(1, seq + 1))


async def test_an_agents_send_tells_where_the_message_went(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        sending = asyncio.create_task(client.send("c-42", "hello", {"x": 1}))
        send = await socket.take("send")
        assert (send["customer"], send["text"], send["data"]) == ("c-42", "hello", {"x": 1})
        await socket.sent(send, 1, customer="c-42", route="none", reason="no_device")
        sent = await within(sending)
        assert (sent.route, sent.reason, sent.seq) == (Route.NONE, "no_device", 1)


async def test_an_agents_send_without_an_answer_goes_out_again(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        sending = asyncio.create_task(client.send("c-42", "hello"))
        first = await socket.take("send")
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        assert await again.take("send") == first
        await again.sent(first, 1, customer="c-42", route="push", reason="not_in_chat")
        assert (await within(sending)).route is Route.PUSH


async def test_the_inbox_is_asked_for_again_after_a_reconnect(server: Scripted) -> None:
    entry = {
        "customer": "c-42",
        "live": True,
        "unanswered_since": "2026-11-24T08:59:58.120Z",
        "in_chat": False,
        "seq": 1,
        "last": message(1, customer="c-42"),
        "unread": 1,
        "waiting": 0,
        "updated_at": AT,
    }
    async with agent(server) as (client, socket):
        asking = asyncio.create_task(client.inbox(filter="live", cursor="abc", limit=5))
        request = await socket.take("inbox")
        assert (request["filter"], request["cursor"], request["limit"]) == ("live", "abc", 5)
        await socket.say("inbox", ref=request["ref"], conversations=[entry], cursor="def")
        page = await within(asking)
        assert page.cursor == "def"
        assert page.conversations[0].last is not None
        assert page.conversations[0].last.customer == "c-42"
        assert page.conversations[0].unanswered_since == "2026-11-24T08:59:58.120Z"
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("inbox")
        assert request["filter"] == "live"
        assert "cursor" not in request


async def test_open_conversations_are_opened_again_where_they_were(server: Scripted) -> None:
    heard: list[int] = []

    def listen(frame: Frame) -> None:
        if frame["type"] == "message":
            heard.append(frame["seq"])

    async with agent(server, on_frame=listen) as (client, socket):
        await opened(client, socket, 2)
        await socket.messages(3, 4, customer="c-42")
        await client.wait_for(lambda frame: frame.get("seq") == 4)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("open")
        assert (request["customer"], request["after"]) == ("c-42", 4)
        missed = [message(n, customer="c-42") for n in (5, 6)]
        await again.say("conversation", ref=request["ref"], seq=6, messages=missed, **OPENED)
        await again.messages(7, 7, customer="c-42")
        await client.wait_for(lambda frame: frame.get("seq") == 7)
        assert heard == [3, 4, 5, 6, 7]


async def test_an_agents_own_send_counts_as_its_seq_and_a_gap_is_filled(
    server: Scripted,
) -> None:
    heard: list[int] = []

    def listen(frame: Frame) -> None:
        if frame["type"] == "message":
            heard.append(frame["seq"])

    async with agent(server, on_frame=listen) as (client, socket):
        await opened(client, socket, 0)
        sending = asyncio.create_task(client.send("c-42", "hello"))
        send = await socket.take("send")
        await socket.sent(send, 1, customer="c-42", route="socket", reason="in_chat")
        await within(sending)
        await socket.messages(2, 2, customer="c-42")
        await socket.messages(2, 2, customer="c-42")
        await socket.messages(4, 5, customer="c-42")
        request = await socket.take("open")
        assert request["after"] == 2
        missed = [message(n, customer="c-42") for n in (3, 4, 5)]
        await socket.say("conversation", ref=request["ref"], seq=5, messages=missed, **OPENED)
        await client.wait_for(lambda frame: frame.get("seq") == 5 and "text" in frame)
        assert heard == [2, 3, 4, 5]


async def test_a_closed_conversation_is_not_opened_again(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await opened(client, socket, 1)
        closing = asyncio.create_task(client.close_conversation("c-42"))
        request = await socket.take("close")
        await socket.say("ok", ref=request["ref"])
        await within(closing)
        socket.vanish()
        again = await server.socket()
        mark = client.frames_seen
        await again.agent_welcome()
        await client.wait_for(is_welcome, since=mark)
        await client.close()
        assert await again.rest() == []


async def test_a_conversation_that_is_gone_is_not_asked_for_for_ever(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await opened(client, socket, 1)
        socket.vanish()
        again = await server.socket()
        await again.agent_welcome()
        request = await again.take("open")
        await again.say("error", ref=request["ref"], code="not_found", message="erased")
        await client.wait_for(lambda frame: frame["type"] == "error")
        again.vanish()
        third = await server.socket()
        mark = client.frames_seen
        await third.agent_welcome()
        await client.wait_for(is_welcome, since=mark)
        await client.close()
        assert await third.rest() == []


async def test_receipts_and_presence_can_be_waited_for_also_if_they_came_first(
    server: Scripted,
) -> None:
    async with agent(server) as (client, socket):
        await socket.say("presence", customer="c-42", in_chat=False, sessions=0)
        await client.wait_for(lambda frame: frame["type"] == "presence")
        mark = client.frames_seen
        again = await client.wait_for(lambda frame: frame["type"] == "presence")
        assert again["in_chat"] is False
        with pytest.raises(TimeoutError):
            await client.wait_for(lambda frame: frame["type"] == "presence", 0, since=mark)


async def test_agents_ack_read_type_page_and_end(server: Scripted) -> None:
    async with agent(server) as (client, socket):
        await client.ack("c-42", 4)
        ack = await socket.take("ack")
        assert (ack["customer"], ack["seq"]) == ("c-42", 4)
        await client.read("c-42", 3)
        read = await socket.take("read")
        assert (read["customer"], read["seq"]) == ("c-42", 3)
        await client.typing("c-42", False)
        assert await socket.take("typing") == {"type": "typing", "customer": "c-42", "on": False}
        asking = asyncio.create_task(client.history("c-42", before=9, limit=2))
        request = await socket.take("history")
        assert (request["customer"], request["before"], request["limit"]) == ("c-42", 9, 2)
        await socket.say("history", **history(request, 7, 8, more=True), customer="c-42")
        assert seqs((await within(asking)).messages) == [7, 8]
        for call, type in (
            (lambda: client.end("c-42"), "end"),
            (lambda: client.refresh("t1"), "refresh"),
        ):
            await _answered(call, socket, type)


async def _answered(call: Callable[[], Any], socket: Socket, type: str) -> None:
    calling = asyncio.ensure_future(call())
    request = await socket.take(type)
    await socket.say("ok", ref=request["ref"])
    await within(calling)


# Against the real gateway


def a_customer(it: Running, **options: Any) -> CustomerClient:
    token = it.token(Role.CUSTOMER, "c-42")
    return CustomerClient(it.chat_url("/v1/chat"), token, rng=Shortest(), **options)


def an_agent(it: Running, **options: Any) -> AgentClient:
    token = it.token(Role.AGENT, "a-1")
    return AgentClient(it.chat_url("/v1/agent"), token, rng=Shortest(), **options)


async def test_customer_and_agent_hold_a_conversation(tmp_path: Path) -> None:
    async with (
        running(tmp_path, delivery=PATIENT) as it,
        a_customer(it) as app,
        an_agent(it) as desk,
    ):
        assert (await desk.open("c-42")).in_chat
        sent = await desk.send("c-42", "how can I help?", {"x": 1})
        assert (sent.route, sent.reason) == (Route.SOCKET, "in_chat")
        got = await app.wait_message(sent.seq)
        assert (got.text, got.data) == ("how can I help?", {"x": 1})
        await desk.wait_for(lambda f: f["type"] == "receipt" and f["state"] == "delivered")
        await app.read()
        await desk.wait_for(lambda f: f["type"] == "receipt" and f["state"] == "read")
        answer = await app.send("where is my order?")
        assert (await desk.wait_for(lambda f: f["type"] == "message"))["seq"] == answer.seq
        await desk.ack("c-42", answer.seq)
        await app.wait_for(lambda f: f["type"] == "status" and f["agents_acked_seq"] == answer.seq)
        assert app.status is not None
        assert (app.status.agents_acked_seq, app.status.agents_read_seq) == (answer.seq, 0)
        await desk.read("c-42", answer.seq)
        await app.wait_for(lambda f: f["type"] == "status" and f["agents_read_seq"] == answer.seq)
        assert app.status.agents_read_seq == answer.seq
        await app.typing()
        await desk.wait_for(lambda f: f["type"] == "typing" and f["on"])
        page = await desk.inbox()
        assert page.conversations[0].last is not None
        assert page.conversations[0].last.text == "where is my order?"
        await desk.end("c-42")
        await app.wait_for(lambda f: f["type"] == "status" and not f["live"])
        assert app.status is not None
        assert (app.status.unread, app.status.live) == (0, False)
        assert seqs((await app.history()).messages) == seqs(app.messages) == [1, 2]
        assert seqs((await desk.history("c-42")).messages) == [1, 2]
        await desk.close_conversation("c-42")
        await desk.ping()
        await app.bye()


async def test_devices_and_tokens_over_the_real_socket(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, a_customer(it) as app:
        key = await app.register_device("phone", "device-token", platform="ios")
        assert key == await app.register_device("phone", "another-token")
        await app.deregister_device("phone")
        await app.refresh(it.token(Role.CUSTOMER, "c-42"))
        with pytest.raises(RequestFailed) as failed:
            await app.refresh(it.token(Role.CUSTOMER, "c-43"))
        assert failed.value.code == "forbidden"


async def test_dropped_connections_lose_and_repeat_nothing(tmp_path: Path) -> None:
    heard: list[Message] = []
    limits = {"burst": 100}
    async with (
        running(tmp_path, delivery=PATIENT, limits=limits) as it,
        a_customer(it, on_message=heard.append) as app,
        an_agent(it) as desk,
    ):
        await desk.open("c-42")
        for i in range(30):
            sending = asyncio.gather(desk.send("c-42", f"a{i}"), app.send(f"c{i}"))
            if i % 3 == 0:
                app.drop()
            if i % 4 == 0:
                desk.drop()
            await within(sending)
        await app.wait_message(60)
        assert seqs(heard) == seqs(app.messages) == list(range(1, 61))
        texts = sorted(message.text for message in heard)
        assert texts == sorted(f"{who}{i}" for who in "ac" for i in range(30))


async def test_more_sends_than_the_rate_allows_all_arrive_in_the_end(tmp_path: Path) -> None:
    limits = {"sends_per_minute": 6000, "burst": 5}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it, a_customer(it) as app:
        sent = await within(asyncio.gather(*(app.send(f"m{i}") for i in range(60))))
        assert sorted(s.seq for s in sent) == list(range(1, 61))
        assert seqs(app.messages) == list(range(1, 61))


async def test_a_client_signed_out_elsewhere_stays_away(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, a_customer(it) as app:
        waiting = asyncio.create_task(app.wait_message(1))
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        with pytest.raises(ConnectionEnded) as ended:
            await within(waiting)
        assert ended.value.code == 4503


async def test_too_much_missed_is_reloaded_from_the_real_history(tmp_path: Path) -> None:
    reloads: list[list[int]] = []
    limits = {"resume": 60}
    async with running(tmp_path, delivery=PATIENT, limits=limits) as it:
        app = a_customer(it, on_reload=lambda messages: reloads.append(seqs(messages)))
        await app.start()
        await app.abort()
        for _ in range(130):
            await it.write()
        async with app:
            await app.wait_message(130)
            assert reloads == [list(range(31, 131))]
            assert seqs(app.messages) == list(range(31, 131))
