"""`ringback why` and the deliveries call against a real gateway: the story of a message, whole."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.policies import Policy
from gateway.protocol import Role, timestamp
from storage.errors import Unavailable
from tests.running import PATIENT, Call, Running, Wire, running
from tests.test_cli import RINGBACK, environ_of, ringback
from tests.test_deadletters_cli import shown_on

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python

WHY = ("why", "--config", "ringback.toml", "--tenant", "acme", "c-42")
PHONES = ("phone-1", "phone-2")


async def phones(it: Running) -> None:
    for phone in PHONES:
        await it.register(installation=phone, token=f"token-{phone}")


async def told(it: Running, seq: int, **query: Any) -> dict[str, Any]:
    words = "".join(f"&{name}={value}" for name, value in query.items())
    status, answer = await it.call(
        "GET", f"/v1/customers/c-42/deliveries?seq={seq}{words}", Role.SERVICE
    )
    assert status == 200, answer
    return dict(answer)


async def dry(it: Running, seq: int, policy: str, **query: Any) -> dict[str, tuple[str, str]]:
    """What a policy would have decided, by installation."""
    devices = (await told(it, seq, policy=policy, **query))["policy"]["devices"]
    return {entry["installation"]: (entry["action"], entry["reason"]) for entry in devices}


def events(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [entry for entry in answer["events"] if entry["event"] == name]


async def recorded(it: Running, seq: int, name: str, times: int = 1) -> dict[str, Any]:
    while True:
        changed = it.next_commit()
        answer = await told(it, seq)
        if len(events(answer, name)) >= times:
            return answer
        await changed.wait()


async def after(it: Running, wire: Wire, seq: int) -> dict[str, Any]:
    """What is recorded once all that was sent on the wire is committed, in the writer's order."""
    await wire.quiet()
    await it.write(kind="system")
    return await told(it, seq)


# The command


async def test_a_story_of_more_than_a_day_tells_each_day(tmp_path: Path) -> None:
    """What had waited for a day read as if it had expired within a second."""
    async with running(tmp_path) as it:
        await it.register()
        it.backend.otherwise = 503
        await it.write()
        first = await recorded(it, 1, "attempt")
        pending = (await ringback(tmp_path, *WHY, "1")).out
        it.pass_time(86_400)
        last = await it.settled(1, "expired")
        out = (await ringback(tmp_path, *WHY, "1")).out.splitlines()
    begun, ended = (answer["events"][i]["at"] for answer, i in ((first, 0), (last, -1)))
    assert f"It expires at {ended[:10]} " in pending
    (heading,) = (line for line in out if " event " in line)
    assert heading.startswith(f"{begun[:10]} UTC ")
    assert sum(ended[:10] in line for line in out[out.index(heading) :]) == 1


async def test_another_phone_that_is_rung_later_changes_nothing_of_why_it_was_pushed(
    tmp_path: Path,
) -> None:
    slow = asyncio.Event()

    async def by_phone(call: Call) -> web.StreamResponse:
        if call.body["deviceToken"] == "token-2":
            await slow.wait()
        return web.Response()

    async with running(tmp_path) as it:
        it.backend.otherwise = by_phone
        await it.register(installation="phone-1", token="token-1")
        await it.register(installation="phone-2", token="token-2")
        await it.write()
        await it.settled(1, "pushed")
        await it.write()
        first = await it.settled(2, "pushed")
        await it.customer(installation="phone-2")
        slow.set()
        later = await recorded(it, 2, "claimed", 2)
        out = (await ringback(tmp_path, *WHY, "2")).out
    assert events(later, "look")[-1]["reason"] == "ack_timeout"
    assert (later["reason"], later["since"]) == (first["reason"], first["since"])
    assert "message 2 of c-42: pushed (not_in_chat)" in out


async def test_why_tells_a_push_in_sentences(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="phone-1")
        await it.customer(installation="phone-1")
        await it.customer(state="background")
        it.backend.answers.append(503)
        await it.write()
        await it.settled(1, "pushed")
        out = (await ringback(tmp_path, *WHY, "1")).out
        as_json = await ringback(tmp_path, *WHY, "1", "--json")
        answer = await told(it, 1)
    for sentence in (
        "message 1 of c-42: pushed (ack_timeout)",
        "The customer backend accepted a ring that covers it: the chat is open, but nothing was",
        "Not acknowledged; 1 ring sent for it.",
        "it goes to the open sockets: the customer has the chat open; a push is due at ",
        " (phone-1), which has the chat on screen",
        ", which is in the background",
        "a push is wanted: the chat is open, but nothing was acknowledged in time",
        "(phone-1) is rung: the chat is open, but nothing was acknowledged in time",
        "did not succeed, to be tried again (HTTP 503, ",
        "(phone-1) is rung again, with the same content: the last attempt did not succeed",
        "accepted by the customer backend (HTTP 200, ",
        "pushed, was pending",
    ):
        assert sentence in out, out
    assert json.loads(as_json.out) == answer


async def test_why_tells_a_push_that_was_not_made_as_a_decision(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="phone-1")
        it.backend.answers.append(web.Response(status=503, headers={"Retry-After": "600"}))
        await it.write()
        pending = await recorded(it, 1, "attempt")
        (waits,) = pending["waiting"]
        assert (waits["for"], waits["installation"], waits["attempt"]) == ("retry", "phone-1", 1)
        customer = await it.customer()
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        it.pass_time(600.0)
        await recorded(it, 1, "look", 3)
        out = (await ringback(tmp_path, *WHY, "1")).out
        assert len(it.backend.calls) == 1
    assert "(phone-1) is not rung again, the ring is cancelled: already acknowledged" in out
    assert "(phone-1) is not rung: already acknowledged" in out
    assert "Acknowledged by session s_" in out


async def test_why_of_a_message_in_chat_and_of_the_customers_own(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        await customer.ask("send", "sent", text="hello")
        await it.write()
        pending = await told(it, 2)
        (waits,) = pending["waiting"]
        assert (waits["for"], waits["until"]) == ("due", pending["events"][0]["due"])
        await customer.send("ack", seq=2)
        await it.settled(2, "acked")
        own = (await ringback(tmp_path, *WHY, "1")).out
        acked = (await ringback(tmp_path, *WHY, "2", "--policy", "background_only")).out
    assert "message 1 of c-42: no outcome" in own
    assert "only agent and proactive messages have one" in own
    assert "The customer received it in chat (since " in acked
    assert "no ring sent for it." in acked
    assert "Policy background_only: no device is known, so it would ring nobody." in acked


@pytest.mark.parametrize("seq", ["0", "2", str(2**64)])
async def test_a_message_that_is_not_there_has_nothing_to_tell(tmp_path: Path, seq: str) -> None:
    async with running(tmp_path) as it:
        await it.write()
        line = (await ringback(tmp_path, *WHY, seq)).refused()
    assert line == f"ringback: tenant acme has no message {seq} of customer c-42"


async def test_a_customer_whose_id_cannot_be_is_one_line(tmp_path: Path) -> None:
    async with running(tmp_path):
        line = (await ringback(tmp_path, *WHY[:-1], "\udce9", "1")).refused()
    assert line == "ringback: CUSTOMER: must be UTF-8"


async def test_an_id_that_the_terminal_has_no_characters_for_is_shown_all_the_same(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.write("\u65e5\u672c")
        told = await ringback(
            tmp_path, *WHY[:-1], "\u65e5\u672c", "1", PYTHONIOENCODING="latin-1", PYTHONUTF8="1"
        )
    assert told.code == 0, told
    assert told.out.startswith("message 1 of \\u65e5\\u672c: undeliverable (no_device)\n")


async def test_ids_of_a_story_are_told_whole_in_the_narrowest_terminal(tmp_path: Path) -> None:
    installation = "phone-" + "x" * 100
    async with running(tmp_path) as it:
        await it.register(installation=installation)
        await it.write()
        await it.settled(1, "pushed")
        terminal, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            *(RINGBACK, *WHY, "1"),
            cwd=tmp_path,
            env=environ_of({"COLUMNS": "40"}),
            stdout=theirs,
        )
        os.close(theirs)
        shown, code = await asyncio.gather(shown_on(terminal), process.wait())
    ring = it.backend.calls[0].headers["webhook-id"]
    assert code == 0
    whole = "".join(shown.split())
    assert f"({installation})" in whole
    assert f"ring{ring}to" in whole


async def test_an_unknown_policy_names_the_known_ones(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write()
        line = (await ringback(tmp_path, *WHY, "1", "--policy", "always")).refused()
        path = "/v1/customers/c-42/deliveries?seq=1&policy=always"
        status, problem = await it.call("GET", path, Role.SERVICE)
    assert status == 400
    for said in (line, problem["detail"]):
        assert all(policy in said for policy in Policy), said


@pytest.mark.parametrize("after", ["-1", "inf", "nan"])
async def test_seconds_that_are_none_are_refused(tmp_path: Path, after: str) -> None:
    """No JSON has them, and nothing is decided by them."""
    async with running(tmp_path) as it:
        await it.write()
        policy = ("--policy", "unread_after", "--after", after, "--json")
        told = await ringback(tmp_path, *WHY, "1", *policy)
    assert (told.code, told.out) == (2, "")
    assert "--after" in told.err


@pytest.mark.parametrize("policy", [(), ("--policy", "default")])
async def test_seconds_without_a_policy_that_has_them_are_not_ignored(
    tmp_path: Path, policy: tuple[str, ...]
) -> None:
    async with running(tmp_path):
        line = (await ringback(tmp_path, *WHY, "1", *policy, "--after", "60")).refused()
    assert line == "ringback: --after: is for --policy unread_after only"


# What is recorded


async def test_a_due_time_that_moves_says_why(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        await it.write()
        await it.write()
        await customer.send("ack", seq=1)
        await recorded(it, 2, "due_moved")
        await it.customer(state="background")
        await customer.send("bye")
        await customer.closed()
        answer = await it.settled(2, "pushed")
    assert [entry["reason"] for entry in events(answer, "due_moved")] == ["acked", "left"]


async def test_a_session_that_acknowledges_after_another_is_a_fact(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        one = await it.customer(installation="phone-1")
        two = await it.customer(installation="phone-2")
        await it.write()
        await one.send("ack", seq=1)
        await recorded(it, 1, "acked")
        for again in (two, two, one):
            await again.send("ack", seq=1)
        await one.quiet()
        answer = await after(it, two, 1)
    assert [e["installation"] for e in events(answer, "acked")] == ["phone-1"]
    assert [e["installation"] for e in events(answer, "acked_too")] == ["phone-2"]


async def test_who_acknowledges_less_than_before_has_not_lost_what_it_had(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        one, two = [await it.customer(installation=phone) for phone in PHONES]
        for seq in (1, 2):
            assert await it.write() == seq
        await one.send("ack", seq=2)
        await recorded(it, 2, "acked")
        for again in (2, 1, 2):
            await two.send("ack", seq=again)
        answer = await after(it, two, 2)
    assert [e["installation"] for e in events(answer, "acked_too")] == [PHONES[1]]


async def reads(one: Wire, two: Wire) -> None:
    await one.send("read", seq=1)
    await two.take("status")
    await two.send("read", seq=1)


async def turns_active(one: Wire, two: Wire) -> None:
    await two.send("state", state="background")
    await two.send("ack", seq=1)
    await two.ask("ping", "pong")
    await one.send("read", seq=1)
    await two.take("status")
    await two.send("state", state="active")


async def acknowledges_and_turns_active(one: Wire, two: Wire) -> None:
    await two.send("state", state="background")
    await one.send("read", seq=1)
    await two.take("status")
    await two.send("ack", seq=1)
    await two.send("state", state="active")


@pytest.mark.parametrize("how", [reads, turns_active, acknowledges_and_turns_active])
async def test_whatever_counts_as_its_ack_after_another_s_is_a_fact(
    tmp_path: Path, how: Callable[[Wire, Wire], Awaitable[None]]
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await phones(it)
        one, two = [await it.customer(installation=phone) for phone in PHONES]
        await it.write()
        await how(one, two)
        answer = await after(it, two, 1)
        assert await dry(it, 1, "per_device") == dict.fromkeys(PHONES, ("skip", "acked_here"))
    assert [e["installation"] for e in events(answer, "acked_too")] == ["phone-2"]


@pytest.mark.parametrize("full", [False, True])
async def test_who_has_to_reload_and_acknowledges_after_another_is_a_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Also one whose coming a full disk refused."""

    async def refuses(statements: object) -> None:
        raise Unavailable("disk full")

    async with running(tmp_path, delivery=PATIENT) as it:
        await phones(it)
        one = await it.customer(installation=PHONES[0])
        await it.write()
        await one.send("ack", seq=1)
        await one.ask("ping", "pong")
        await it.write(text="what is held when somebody comes")
        with monkeypatch.context() as disk:
            if full:
                disk.setattr(it.gateway.core.database, "write", refuses)
            two = await it.customer(installation=PHONES[1], resume={"epoch": "another", "seq": 0})
        assert two.welcome["resumed"] is False
        await two.send("ack", seq=1)
        answer = await after(it, two, 1)
        assert await dry(it, 1, "per_device") == dict.fromkeys(PHONES, ("skip", "acked_here"))
    assert [e["installation"] for e in events(answer, "acked_too")] == ["phone-2"]


async def test_after_a_restart_the_grace_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        await it.customer()
        await it.write()
    slow = PATIENT | {"restart_grace": 600.0}
    async with running(tmp_path, delivery=slow) as it:
        (waits,) = (await told(it, 1))["waiting"]
        assert waits == {
            "for": "due",
            "until": timestamp(it.gateway.core.context.restart_grace_until),
        }


# Dry policies

Rang = dict[int, set[str]]


async def acknowledged(it: Running) -> Rang:
    customer = await it.customer(installation="phone-1")
    await it.write()
    await customer.take("message")
    await customer.send("ack", seq=1)
    await it.settled(1, "acked")
    return {1: set()}


async def away(it: Running) -> Rang:
    await it.write()
    await it.settled(1, "pushed")
    await it.settled(await it.write(), "pushed")
    while len({call.body["deviceToken"] for call in it.backend.calls}) < 2:
        await it.backend.take()
    return {1: {*PHONES}, 2: {*PHONES}}


async def in_chat_but_mute(it: Running) -> Rang:
    customer = await it.customer(installation="phone-1")
    await it.write()
    await it.write()
    await customer.send("ack", seq=1)
    await recorded(it, 2, "outcome")
    while len(it.backend.calls) < 2:
        await it.backend.take()
    await recorded(it, 2, "attempt", 2)
    return {1: set(), 2: {*PHONES}}


async def one_token_is_dead(it: Running) -> Rang:
    await it.call("DELETE", "/v1/devices/phone-2", Role.CUSTOMER, "c-42")
    it.backend.answers.append(410)
    await it.settled(await it.write(), "undeliverable")
    await it.register(installation="phone-2", token="token-phone-2")
    await it.settled(1, "pushed")
    await it.settled(await it.write(), "pushed")
    return {1: {"phone-1", "phone-2"}, 2: {"phone-2"}}


async def acknowledged_before_the_retry(it: Running) -> Rang:
    it.backend.answers += [503] * 8
    await it.write()
    await recorded(it, 1, "attempt", 2)
    customer = await it.customer(installation="phone-1")
    await customer.send("ack", seq=1)
    await it.settled(1, "acked")
    while {c.body["deviceToken"] for c in it.backend.calls} != {f"token-{p}" for p in PHONES}:
        await it.backend.take()
    return {1: {*PHONES}}


async def a_phone_that_comes_later(it: Running) -> Rang:
    await it.call("DELETE", "/v1/devices/phone-2", Role.CUSTOMER, "c-42")
    await it.settled(await it.write(), "pushed")
    await it.register(installation="phone-2", token="token-phone-2")
    return {1: {"phone-1"}}


async def nobody_to_ring(it: Running) -> Rang:
    await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
    await it.settled(await it.write(), "undeliverable")
    return {1: set()}


SCENARIOS = (
    acknowledged,
    away,
    in_chat_but_mute,
    one_token_is_dead,
    acknowledged_before_the_retry,
    a_phone_that_comes_later,
    nobody_to_ring,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_default_policy_tried_dry_agrees_with_what_happened(
    tmp_path: Path, scenario: Callable[[Running], Awaitable[Rang]]
) -> None:
    async with running(tmp_path) as it:
        await phones(it)
        rang = await scenario(it)
        called = {call.body["deviceToken"].removeprefix("token-") for call in it.backend.calls}
        assert called == set().union(*rang.values()), "the scenario is not what it says"
        for seq, expected in rang.items():
            decided = await dry(it, seq, "default")
            assert {p for p, (action, _) in decided.items() if action == "ring"} == expected
            assert all(action != "wait" for action, _ in decided.values())


async def test_per_device_spares_only_the_phone_that_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await phones(it)
        one = await it.customer(installation="phone-1")
        two = await it.customer(installation="phone-2")
        both = await it.write()
        await one.send("ack", seq=both)
        await recorded(it, both, "acked")
        await two.send("ack", seq=both)
        await after(it, two, both)
        only_one = await it.write()
        await one.send("ack", seq=only_one)
        await it.settled(only_one, "acked")
        while (await dry(it, only_one, "per_device"))["phone-2"][0] == "wait":
            await it.write(kind="system")  # until the due time has passed
        assert await dry(it, both, "per_device") == dict.fromkeys(PHONES, ("skip", "acked_here"))
        assert await dry(it, only_one, "per_device") == {
            "phone-1": ("skip", "acked_here"),
            "phone-2": ("ring", "acked_elsewhere"),
        }
        assert await dry(it, only_one, "default") == dict.fromkeys(PHONES, ("skip", "acked"))


async def test_unread_after_asks_for_reading_not_for_receiving(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await phones(it)
        customer = await it.customer(installation="phone-1")
        await it.write()
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        assert await dry(it, 1, "unread_after", after=0) == dict.fromkeys(
            PHONES, ("ring", "unread")
        )
        assert await dry(it, 1, "unread_after") == dict.fromkeys(PHONES, ("wait", "in_chat"))
        await customer.send("read", seq=1)
        await customer.take("status")
        assert await dry(it, 1, "unread_after") == dict.fromkeys(PHONES, ("skip", "read"))
        shown = (
            await ringback(tmp_path, *WHY, "1", "--policy", "unread_after", "--after", "0")
        ).out
    assert "Policy unread_after (0 s) would ring device " in shown
    assert "(phone-2): not read in time." in shown


async def test_background_only_never_rings_while_the_chat_is_open(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await phones(it)
        customer = await it.customer(installation="phone-1")
        await it.write()
        await it.settled(1, "pushed")
        await customer.send("bye")
        await customer.closed()
        await it.settled(await it.write(), "pushed")
        while len({(c.body["deviceToken"], c.ring["seq"]) for c in it.backend.calls}) < 4:
            await it.backend.take()
        assert await dry(it, 1, "background_only") == dict.fromkeys(PHONES, ("skip", "in_chat"))
        assert await dry(it, 1, "default") == dict.fromkeys(PHONES, ("ring", "ack_timeout"))
        assert await dry(it, 2, "background_only") == dict.fromkeys(PHONES, ("ring", "not_in_chat"))
