"""A customer's client against a scripted server: what an app sees when the network is unkind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.clientside.errors import NotUnderstood
from gateway.clientside.told import Message
from tests.gateway.clientside.scripted import (
    Held,
    Scripted,
    Socket,
    customer,
    history,
    is_welcome,
    message,
    seqs,
    within,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


# Beginning


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
        await client.ack(1)  # late: what is acknowledged stays so
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
        for epoch, badge_seq in (("e1", 17), ("e2", None)):
            socket.vanish()
            socket, mark = await server.socket(), client.frames_seen
            await socket.welcome(3, epoch=epoch, read_seq=2, resumed=True)
            await client.wait_for(is_welcome, since=mark)
            assert (client.status.read_seq, client.status.badge_seq) == (2, badge_seq)


async def test_what_a_client_does_not_understand_is_passed_over(server: Scripted) -> None:
    async with customer(server) as (client, socket):
        await socket.socket.send("not json")
        await socket.socket.send("[1]")
        await socket.say("a frame of the future", seq=1)
        await socket.say("status", seq="x")
        await socket.messages(1, 1, unknown="field")
        assert (await client.wait_message(1)).seq == 1


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


@asynccontextmanager
async def without_an_answer(server: Scripted) -> AsyncIterator[tuple[Socket, str]]:
    """A send whose socket is lost before the answer: the next socket, and the ref. There it has to
    be found, and is not repeated."""
    async with customer(server) as (client, socket):
        sending = asyncio.create_task(client.send("hello"))
        ref = (await socket.take("send"))["ref"]
        socket.vanish()
        again = await server.socket()
        yield again, ref
        sent = await within(sending)
        assert (sent.seq, sent.ref, sent.duplicate) == (1, ref, True)
        assert seqs(client.messages) == [1]
        await client.close()
        assert [frame["type"] for frame in await again.rest()] == ["ack"]


async def test_a_send_that_had_been_committed_is_found_in_the_replay_and_not_repeated(
    server: Scripted,
) -> None:
    async with without_an_answer(server) as (again, ref):
        await again.welcome(1, resumed=True)
        await again.messages(1, 1, ref=ref)


async def test_a_send_that_had_been_committed_is_found_in_a_reload_and_not_repeated(
    server: Scripted,
) -> None:
    async with without_an_answer(server) as (again, ref):
        await again.welcome(1)
        request = await again.take("history")
        found = message(1, ref=ref)
        await again.say("history", ref=request["ref"], messages=[found], more=False)


async def test_an_answer_to_a_send_that_is_not_known_leaves_a_gap_that_is_filled(
    server: Scripted,
) -> None:
    async with customer(server) as (client, socket):
        await socket.sent({"ref": "of nobody"}, 1)
        await socket.messages(2, 2)
        request = await socket.take("history")
        await socket.say("history", **history(request, 1, 2, more=False))
        await client.wait_message(2)
        assert seqs(client.messages) == [1, 2]


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
        await socket.say("error", ref=request["ref"], code="forbidden", message="no")
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


# What else a customer does


async def test_reading_up_to_a_number_reads_and_acks_no_more(server: Scripted) -> None:
    async with customer(server, auto_ack=False) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        await client.read(2)
        assert (await socket.take("read"))["seq"] == 2
        socket.vanish()
        assert (await server.socket()).hello["resume"] == {"epoch": "e1", "seq": 2}


async def test_what_was_read_before_another_epoch_is_not_said_in_it(server: Scripted) -> None:
    async with customer(server, auto_ack=False) as (client, socket):
        await socket.messages(1, 3)
        await client.wait_message(3)
        await client.read(3)
        socket.vanish()
        again = await server.socket()
        await again.welcome(2, epoch="e2")
        request, mark = await again.take("history"), client.frames_seen
        await again.say("history", **history(request, 1, 2, more=False))
        await client.wait_for(lambda frame: frame["type"] == "history", since=mark)
        again.vanish()
        third, mark = await server.socket(), client.frames_seen
        assert third.hello["resume"] == {"epoch": "e2", "seq": 0}
        await third.welcome(2, epoch="e2", resumed=True)
        await client.wait_for(is_welcome, since=mark)
        await client.close()
        assert await third.rest() == []


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
