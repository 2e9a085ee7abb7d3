"""A client's socket against a scripted server: it comes back, and what waits goes out again."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidURI

from gateway.clientside.customer import CustomerClient
from gateway.clientside.errors import ConnectionEnded, OutboxFull, RequestFailed
from gateway.clientside.told import Frame
from tests.dice import Dice
from tests.gateway.clientside.scripted import (
    Held,
    Naps,
    Scripted,
    Socket,
    customer,
    history,
    within,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


# Connecting


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
    client = CustomerClient(server.url, "t0", sleep=naps, rng=Dice())
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
    client = CustomerClient(server.url, "t0", sleep=naps, rng=Dice())
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


# Sending


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


async def test_a_note_that_is_given_up_takes_no_send_with_it(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        socket.stall(client)
        texts = [f"{number} {'x' * 60_000}" for number in range(8)]
        sending = [asyncio.create_task(client.send(text)) for text in texts]
        typing = asyncio.create_task(client.typing())
        for _ in range(10):
            await asyncio.sleep(0)
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
        socket.socket.transport.resume_reading()  # the network is back
        assert (await socket.take("typing"))["on"] is True
        for seq, text in enumerate(texts, 1):
            send = await socket.take("send")
            assert send["text"] == text
            await socket.sent(send, seq)
        assert len(await within(asyncio.gather(*sending))) == 8


@pytest.mark.parametrize(
    "error",
    [{"code": "unavailable"}, {"code": "rate_limited", "retry_after": 0.001}, {"code": "internal"}],
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


async def test_an_ack_at_which_the_server_had_a_fault_is_not_said_again(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await client.ack(1)
        first = await socket.take("ack")
        await socket.say("error", ref=first["ref"], code="internal", message="a fault")
        await client.wait_for(lambda frame: frame.get("code") == "internal")
        await client.close()
        assert await socket.rest() == []


@pytest.mark.parametrize("leave", ["background", "close"])
async def test_what_was_refused_is_said_again_before_the_chat_is_left(
    server: Scripted, leave: str
) -> None:
    async with customer(server, rng=Dice()) as (client, socket):
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


@pytest.mark.parametrize("code", ["conflict", "too_large", "bad_frame", "new_code"])
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


async def test_where_a_thousand_sends_wait_what_is_missing_is_asked_for_and_then_they_go_out(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        await socket.messages(1, 1)
        await client.wait_message(1)
        await socket.close(1012)
        sending = [asyncio.create_task(client.send("m")) for _ in range(1000)]
        again = await server.socket()
        await again.welcome(3, resumed=False)
        asked = await again.take("history")
        await again.say("history", **history(asked, 1, 3, more=False))
        await client.wait_message(3)
        assert [message.seq for message in client.messages] == [1, 2, 3]
        await again.take("ack")
        await again.take("send")
        await client.close()
        await asyncio.gather(*sending, return_exceptions=True)


# Coming back


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
    ("code", "wait"), [(1011, 1.0), (1012, 5.0), (4000, 1.0), (4001, 1.0), (4003, 2.0)]
)
async def test_other_codes_bring_the_client_back_after_the_wait_that_fits(
    server: Scripted, code: int, wait: float
) -> None:
    naps = Naps()
    async with customer(server, sleep=naps, rng=Dice()) as (_, socket):
        await socket.close(code)
        await server.socket()
        assert naps.taken == [wait]


async def test_after_a_welcome_the_waits_begin_anew(server: Scripted) -> None:
    naps = Naps()
    async with customer(server, sleep=naps, rng=Dice()) as (_, socket):
        socket.vanish()
        await (await server.socket()).close(1011)
        again = await server.socket()
        await again.welcome(resumed=True)
        again.vanish()
        await server.socket()
        assert naps.taken == [1.0, 2.0, 1.0]


async def test_a_dropped_connection_comes_back_by_itself(server: Scripted) -> None:
    async with customer(server, rng=None) as (client, socket):  # its own dice
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


# Leaving


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


async def test_a_leave_that_is_given_up_still_ends_the_client(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        leaving = asyncio.create_task(client.bye())
        await socket.take("bye")  # and does not close
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await within(socket.closed.wait())
        with pytest.raises(ConnectionEnded):
            await client.ping()


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
