"""Bad input over real sockets: each has its clear answer, changes nothing, hurts nobody else."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace

from gateway.protocol import Role
from tests.running import PATIENCE, PATIENT, Backend, Running, Wire, running


def _nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


BAD_FRAMES: list[tuple[str, str | bytes, bool]] = [
    ("not JSON", "hello?", False),
    ("nothing", "", False),
    ("half of a frame", '{"type": "ping"', False),
    ("NaN", '{"type": "ack", "seq": NaN}', False),
    ("a list", "[1, 2]", False),
    ("a string", '"ping"', False),
    ("null", "null", False),
    ("binary", b'{"type": "ping"}', False),
    ("brackets without end", "[" * 20_000, False),
    ("too deep", json.dumps({"type": "send", "ref": "b", "text": "x", "data": _nested(40)}), True),
    ("too deep elsewhere", json.dumps({"type": "ping", "ref": "b", "x": _nested(40)}), True),
    ("no type", '{"ref": "b"}', True),
    ("a type that is no text", '{"type": 7, "ref": "b"}', True),
    ("an unknown type", '{"type": "shout", "ref": "b"}', True),
    ("an agent's frame", '{"type": "open", "ref": "b", "customer": "c-42"}', True),
    ("hello twice", '{"type": "hello", "ref": "b"}', True),
    ("no text", '{"type": "send", "ref": "b"}', True),
    ("no ref", '{"type": "send", "text": "x"}', False),
    ("an empty ref", '{"type": "send", "ref": "", "text": "x"}', False),
    ("a number for a text", '{"type": "send", "ref": "b", "text": 5}', True),
    ("a list for data", '{"type": "send", "ref": "b", "text": "x", "data": []}', True),
    ("an empty text", '{"type": "send", "ref": "b", "text": ""}', True),
    ("a lone surrogate", '{"type": "send", "ref": "b", "text": "\\ud800"}', True),
    ("a pair the wrong way", '{"type": "send", "ref": "b", "text": "\\udc00\\ud800"}', True),
    ("a surrogate in data", '{"type":"send","ref":"b","text":"x","data":{"a":"\\udfff"}}', True),
    ("NUL in the text", '{"type": "send", "ref": "b", "text": "a\\u0000b"}', True),
    ("NUL in data", '{"type":"send","ref":"b","text":"x","data":{"a":["\\u0000"]}}', True),
    ("a huge number", '{"type":"send","ref":"b","text":"x","data":{"a":1%s}}' % ("0" * 400), True),
    ("a seq that is a text", '{"type": "ack", "ref": "b", "seq": "1"}', True),
    ("a seq below nothing", '{"type": "ack", "ref": "b", "seq": -1}', True),
    ("a seq with a fraction", '{"type": "read", "ref": "b", "seq": 0.5}', True),
    ("an ack beyond the newest", '{"type": "ack", "ref": "b", "seq": 2}', True),
    ("a read beyond the newest", '{"type": "read", "ref": "b", "seq": 9007199254740992}', True),
    ("a seq that no one can count", '{"type": "ack", "ref": "b", "seq": 1e30}', True),
    ("an unknown state", '{"type": "state", "ref": "b", "state": "asleep"}', True),
    ("a page of none", '{"type": "history", "ref": "b", "limit": 0}', True),
    ("a page of 201", '{"type": "history", "ref": "b", "limit": 201}', True),
    ("an empty device token", _device := '{"type":"register_device","ref":"b","installation":"i",'
     '"token":""}', True),
    ("a device token with a bell", _device.replace('""', '"a\\u0007b"'), True),
    ("a device token with NUL", _device.replace('""', '"a\\u0000"'), True),
    ("an empty installation", _device.replace('"i"', '""').replace(':""}', ':"t"}'), True),
]  # fmt: skip


async def test_every_bad_frame_is_answered_and_the_socket_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        agent = await it.agent(open="c-42")
        await agent.ask("send", "sent", customer="c-42", text="the only one")
        await customer.take("message", seq=1)
        await customer.quiet()
        for name, raw, has_ref in BAD_FRAMES:
            await customer.socket.send(raw)
            error = await customer.next()
            assert (error["type"], error.get("code")) == ("error", "bad_frame"), (name, error)
            assert error.get("ref") == ("b" if has_ref else None), (name, error)
            assert await customer.quiet() == [], name
        page = await customer.ask("history", "history")
        assert [m["text"] for m in page["messages"]] == ["the only one"]
        told = await it.outcome(1)
        assert told["outcome"] == "pending"
        _, listed = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert listed == {"devices": []}


@pytest.mark.parametrize(
    ("field", "frame"),
    [
        ("text", {"type": "send", "text": "x" * 8_001}),
        ("text", {"type": "send", "text": "\N{GRINNING FACE}" * 8_001}),
        ("data", {"type": "send", "text": "x", "data": {"a": "x" * 16_400}}),
        ("token", {"type": "register_device", "installation": "i", "token": "t" * 4_097}),
        ("installation", {"type": "register_device", "installation": "i" * 129, "token": "t"}),
    ],
)
async def test_a_field_over_its_limit_is_too_large(
    tmp_path: Path, field: str, frame: dict[str, Any]
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        await customer.socket.send(json.dumps(frame | {"ref": "b"}, ensure_ascii=False))
        error = await customer.take("error")
        assert (error["code"], error["ref"]) == ("too_large", "b")
        assert error["message"].startswith(field)
        assert (await customer.ask("history", "history"))["messages"] == []


async def test_what_is_exactly_at_its_limit_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        faces = "\N{GRINNING FACE}" * 8_000
        frame = {"type": "send", "ref": "r", "text": faces}
        await customer.socket.send(json.dumps(frame, ensure_ascii=False))
        assert (await customer.take("sent", ref="r"))["seq"] == 1
        page = await customer.ask("history", "history")
        assert page["messages"][0]["text"] == faces
        for token in ("t" * 4_096, "\N{GRINNING FACE}"):
            told = await customer.ask(
                "register_device", "device", installation="i" * 128, token=token
            )
            assert told["installation"] == "i" * 128


async def test_a_frame_over_the_limit_closes_with_1009_and_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        other, customer = await it.customer("c-1"), await it.customer()
        await customer.send("send", ref="b", text="x" * 70_000)
        assert await customer.closed() == 1009
        assert (await other.ask("send", "sent", text="still here"))["seq"] == 1


async def test_text_that_is_not_utf_8_closes_that_socket_alone(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        other, customer = await it.customer("c-1"), await it.customer()
        await customer.socket.send(b'{"type": "send", "ref": "b", "text": "\xff"}', text=True)
        assert await customer.closed() == 1007
        assert (await other.ask("send", "sent", text="still here"))["seq"] == 1


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/agent"])
@pytest.mark.parametrize(
    "first", ["hello", b'{"type": "hello"}', '{"type": "ping"}', '{"type": "hello", "token": 5}']
)
async def test_any_first_frame_but_a_good_hello_closes_with_4502(
    tmp_path: Path, path: str, first: str | bytes
) -> None:
    async with running(tmp_path) as it:
        wire = await it.raw(path)
        await wire.socket.send(first)
        assert await wire.closed() == 4502


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ('{"type": "hello", "state": "front"}', "state: must be one of active, background"),
        ('{"type": "ping"}', "the first frame must be hello"),
        ("hello", "not JSON; send one JSON object"),
    ],
)
async def test_a_refused_first_frame_is_told_what_is_wrong_with_it(
    tmp_path: Path, first: str, told: str
) -> None:
    async with running(tmp_path) as it:
        wire = await it.raw("/v1/chat")
        await wire.socket.send(first)
        assert await wire.closed() == 4502
        assert wire.socket.close_reason == f"protocol broken: {told}"


async def test_no_hello_in_time_closes_with_4000(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        sessions = it.gateway.core.sessions  # of theirs alone: the handshake has its usual time
        sessions._limits = replace(sessions._limits, hello_timeout=0.05)
        wire = await it.raw("/v1/chat")
        assert await wire.closed() == 4000
        agent = await it.raw("/v1/agent")
        assert await agent.closed() == 4000


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.AGENT])
async def test_ten_bad_frames_in_a_row_close_with_4502(tmp_path: Path, role: Role) -> None:
    async with running(tmp_path) as it:
        wire = await (it.customer() if role is Role.CUSTOMER else it.agent())
        for _ in range(9):
            await wire.send("shout")
        assert len(await wire.quiet()) == 9, "a good frame starts the count anew"
        for _ in range(10):
            await wire.send("shout")
        assert await wire.closed() == 4502
        assert len([f for f in wire._skipped if f["type"] == "error"]) == 9
        assert wire.socket.close_reason is not None
        assert wire.socket.close_reason.startswith("protocol broken: type: must be one of hello,")


async def test_an_agents_bad_frames_are_answered_and_the_socket_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.customer()
        agent = await it.agent(open="c-42")
        bad: list[dict[str, Any]] = [
            {"type": "send", "customer": "c-42", "text": ""},
            {"type": "send", "text": "x"},
            {"type": "send", "customer": "", "text": "x"},
            {"type": "read", "customer": "c-42", "seq": 1},
            {"type": "inbox", "filter": "mine"},
            {"type": "inbox", "cursor": "no cursor of ours"},
            {"type": "inbox", "cursor": "bmFuIDE="},
            {"type": "inbox", "cursor": "MS4wIDk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="},
            {"type": "inbox", "cursor": "\N{SNOWMAN}"},
            {"type": "ack", "seq": 1},
            {"type": "ack", "customer": "c-42", "seq": 1},
            {"type": "state", "state": "active"},
            {"type": "hello"},
        ]
        for frame in bad:
            await agent.send(**frame, ref="b")
            error = await agent.next()
            told = (error["type"], error.get("code"), error.get("ref"))
            assert told == ("error", "bad_frame", "b"), (frame, error)
            assert await agent.quiet() == [], frame


@pytest.mark.parametrize("frame", ["open", "history", "end", "send", "ack", "read"])
async def test_a_customer_nobody_has_seen_is_not_found(tmp_path: Path, frame: str) -> None:
    async with running(tmp_path) as it:
        agent = await it.agent()
        fields: dict[str, dict[str, Any]] = {"send": {"text": "anyone?"}}
        fields |= {"ack": {"seq": 1}, "read": {"seq": 1}}
        error = await agent.ask(frame, "error", customer="nobody", **fields.get(frame, {}))
        assert error["code"] == "not_found"
        status, _ = await it.call("GET", "/v1/customers/nobody/status", Role.SERVICE)
        assert status == 404, "asking must not make them known"


# The same ref again


async def test_the_same_ref_gives_the_first_answer_again(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        first = await customer.ask("send", "sent", ref="r1", text="once", data={"n": 1})
        assert "duplicate" not in first
        again = await customer.ask("send", "sent", ref="r1", text="once", data={"n": 1})
        assert again == first | {"duplicate": True}
        customer.vanish()
        back = await it.customer()
        assert (await back.take("message"))["ref"] == "r1"
        again = await back.ask("send", "sent", ref="r1", text="once", data={"n": 1})
        assert again == first | {"duplicate": True}
        page = await back.ask("history", "history")
        assert [m["seq"] for m in page["messages"]] == [1]


@pytest.mark.parametrize("other", [{"text": "twice"}, {"text": "once", "data": {"n": 2}}])
async def test_the_same_ref_with_other_content_is_a_conflict(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        await customer.ask("send", "sent", ref="r1", text="once")
        error = await customer.ask("send", "error", ref="r1", **other)
        assert error["code"] == "conflict"
        agent = await it.agent(open="c-42")
        sent = await agent.ask("send", "sent", ref="r1", customer="c-42", text="another sender")
        assert (sent["seq"], "duplicate" in sent) == (2, False)
        error = await agent.ask("send", "error", ref="r1", customer="c-42", text="changed")
        assert error["code"] == "conflict"


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": True, "b": [2]}),
        ({"a": 0}, {"a": 0}, {"a": False}),
        ([0.0, 1], [0.0, 1], [0.0, 1.0]),
    ],
)
async def test_data_is_the_same_whatever_the_order_of_its_keys_and_nothing_else_is(
    tmp_path: Path, one: Any, same: Any, other: Any
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        customer = await it.customer()
        told = {"ref": "r1", "text": "once"}
        await customer.ask("send", "sent", **told, data={"it": one})
        again = await customer.ask("send", "sent", **told, data={"it": same})
        assert again["duplicate"]
        for data in ({"data": {"it": other}}, {}):
            error = await customer.ask("send", "error", **told, **data)
            assert error["code"] == "conflict"


async def test_the_same_ref_from_two_sockets_at_once_is_one_message(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        wires = [await it.customer(), await it.customer()]
        answers = await asyncio.gather(
            *(wire.ask("send", "sent", ref="r1", text="once") for wire in wires)
        )
        assert sorted("duplicate" in answer for answer in answers) == [False, True]
        assert answers[0]["id"] == answers[1]["id"]
        agents = [await it.agent(open="c-42"), await it.agent(open="c-42")]
        answers = await asyncio.gather(
            *(a.ask("send", "sent", ref="r1", customer="c-42", text="one") for a in agents)
        )
        assert sorted("duplicate" in answer for answer in answers) == [False, True]
        page = await wires[0].ask("history", "history")
        assert [m["text"] for m in page["messages"]] == ["once", "one"]


# HTTP

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"text=hi", JSON, 400, "bad_frame"),
        (b"", JSON, 400, "bad_frame"),
        (b"[]", JSON, 400, "bad_frame"),
        (b'{"customer": "c-42"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": ""}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "\\ud800"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "\xff"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "a\\u0000"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "x", "kind": "shout"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "x", "expires_at": "soon"}', JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "x", "data": ' + b"[" * 40 + b"]" * 40 + b"}", JSON, 400,
         "bad_frame"),
        (b"[" * 20_000, JSON, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "x"}', {"Content-Type": "text/plain"}, 415, "bad_frame"),
        (b'{"customer": "c-42", "text": "x"}', {}, 415, "bad_frame"),
        (b'{"customer": "c-42", "text": "' + b"x" * 8_001 + b'"}', JSON, 413, "too_large"),
        (b'{"customer": "c-42", "text": "' + b"x" * 70_000 + b'"}', JSON, 413, "too_large"),
        (b"\x1f\x8bno gzip", JSON | {"Content-Encoding": "gzip"}, 400, "bad_frame"),
        (b'{"customer": "c-42", "text": "x"}', JSON | {"Idempotency-Key": "k" * 65}, 413,
         "too_large"),
        (b'{"customer": "c-42", "text": "x"}', JSON | {"Idempotency-Key": ""}, 400, "bad_frame"),
    ],
)  # fmt: skip
async def test_a_bad_body_is_answered_with_a_problem_and_posts_nothing(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async with running(tmp_path) as it:
        bearer = {"Authorization": f"Bearer {it.token(Role.SERVICE, 'crm')}"}
        async with it.http.post(
            it.url("/v1/messages"),
            data=body,
            headers=bearer | headers,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            assert answer.status == status
            assert answer.content_type == "application/problem+json"
            problem = json.loads(await answer.text())
        assert (problem["status"], problem["code"]) == (status, code)
        assert problem["detail"]
        known, _ = await it.call("GET", "/v1/customers/c-42/status", Role.SERVICE)
        assert known == 404


@pytest.mark.parametrize("size", [1, 20_000_000])
async def test_a_compressed_body_is_refused_unopened(tmp_path: Path, size: int) -> None:
    async with running(tmp_path) as it:
        headers = JSON | {"Content-Encoding": "gzip"}
        headers["Authorization"] = f"Bearer {it.token(Role.SERVICE, 'crm')}"
        body = gzip.compress(b'{"customer": "c-42", "text": "' + b"x" * size + b'"}')
        async with it.http.post(it.url("/v1/messages"), data=body, headers=headers) as answer:
            told = json.loads(await answer.text())
        assert (answer.status, told["code"]) == (400, "bad_frame")
        assert told["detail"] == "Content-Encoding: send the body as it is, not compressed"


@pytest.mark.parametrize("token", ["", "t" * 4_097, "a\x07b", "a\x00", 5, None])
async def test_a_bad_device_token_is_not_registered_over_http(tmp_path: Path, token: Any) -> None:
    async with running(tmp_path) as it:
        status, problem = await it.call(
            "PUT", "/v1/devices/phone", Role.CUSTOMER, "c-42", json={"token": token}
        )
        assert status == (413 if token == "t" * 4_097 else 400)
        assert "token" in problem["detail"]
        known, _ = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert known == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/customers/a%00b/status",
        f"/v1/customers/{'c' * 129}/status",
        "/v1/customers/c-42/messages?limit=0",
        "/v1/customers/c-42/messages?limit=201",
        "/v1/customers/c-42/messages?before=x",
        "/v1/customers/c-42/messages?before=-1",
        "/v1/customers/c-42/deliveries",
        "/v1/customers/c-42/deliveries?seq=0",
        "/v1/customers/c-42/deliveries?seq=%D9%A1",
        "/v1/customers/c-42/deliveries?seq=99999999999999999999",
    ],
)
async def test_a_bad_path_or_query_is_answered_with_a_problem(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as it:
        await it.write()
        status, problem = await it.call("GET", path, Role.SERVICE)
        assert status in (400, 413), problem
        assert problem["code"] in ("bad_frame", "too_large")


# Backends that misbehave


@asynccontextmanager
async def _speaking(
    speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Backend]:
    """A backend that does with each connection what `speak` says, until the test ends."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await speak(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield Backend(port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _attempt(it: Running, seq: int) -> tuple[dict[str, Any], str]:
    """The first recorded attempt to ring for a message, and the message's outcome then."""
    async with asyncio.timeout(PATIENCE):
        while True:
            changed = it.next_commit()
            told = await it.outcome(seq)
            for event in told["events"]:
                if event["event"] == "attempt":
                    return event, told["outcome"]
            await changed.wait()


async def _goes_on(it: Running, customer: Wire) -> None:
    """The socket and the loop are alive: a send is answered, and the gateway is ready."""
    await customer.ask("send", "sent", text="are you there?")
    assert (await it.call("GET", "/readyz", listener="admin"))[0] == 200


async def _rung(it: Running) -> Wire:
    """A customer in the background with one message that wants to ring."""
    await it.register()
    customer = await it.customer(state="background")
    assert await it.write() == 1
    return customer


async def test_200_with_garbage_counts_as_accepted(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        garbage = web.Response(body=b"\x00\xff{{{", content_type="application/json")
        it.backend.answers = [garbage]
        customer = await _rung(it)
        await it.settled(1, "pushed")
        attempt, _ = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["status"]) == ("accepted", 200)
        await _goes_on(it, customer)


async def test_an_endless_body_is_cut_off_and_its_status_stands(tmp_path: Path) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    async with _speaking(endless) as backend, running(tmp_path, backend) as it:
        customer = await _rung(it)
        await it.settled(1, "pushed")
        attempt, _ = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["status"]) == ("accepted", 200)
        await _goes_on(it, customer)


async def test_an_answer_that_is_not_http_is_tried_again(tmp_path: Path) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ready\r\n\r\n")
        await writer.drain()

    async with _speaking(nonsense) as backend, running(tmp_path, backend) as it:
        customer = await _rung(it)
        attempt, outcome = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["reason"]) == ("retry", "bad_http")
        assert outcome == "pending"
        await _goes_on(it, customer)


async def test_a_redirect_is_not_followed_and_the_message_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        elsewhere = {"Location": it.backend.url}
        it.backend.answers = [web.Response(status=307, headers=elsewhere)]
        customer = await _rung(it)
        attempt, _ = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["reason"]) == ("misconfigured", "redirect")
        assert (attempt["status"], attempt["attempt"]) == (307, 1)
        await it.settled(1, "pushed")
        ids = [call.headers["webhook-id"] for call in it.backend.calls]
        assert len(ids) == 2, "the second call is our own retry, not the redirect's"
        assert ids[0] == ids[1]
        await _goes_on(it, customer)


async def test_a_wrong_certificate_gets_no_request_and_the_message_waits(tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    trusted = tmp_path / "another-authority.pem"
    trustme.CA().cert_pem.write_to_path(trusted)
    async with _speaking(tell, tls) as backend:
        push = {"endpoint": f"https://127.0.0.1:{backend.port}/ring", "ca_file": str(trusted)}
        async with running(tmp_path, backend, push=push) as it:
            customer = await _rung(it)
            attempt, outcome = await _attempt(it, 1)
            assert (attempt["verdict"], attempt["reason"]) == ("misconfigured", "tls")
            assert outcome == "pending"
            assert not seen.is_set()
            await _goes_on(it, customer)


async def test_no_answer_at_all_times_out_and_the_message_waits(tmp_path: Path) -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    push = {"timeout": 0.2, "connect_timeout": 0.2}
    async with _speaking(silence) as backend, running(tmp_path, backend, push=push) as it:
        customer = await _rung(it)
        await _goes_on(it, customer)
        attempt, outcome = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["reason"]) == ("retry", "timeout")
        assert outcome == "pending"


async def test_a_backend_that_is_not_there_leaves_the_message_waiting(tmp_path: Path) -> None:
    async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    async with _speaking(never) as backend:
        pass
    async with running(tmp_path, backend) as it:
        customer = await _rung(it)
        attempt, outcome = await _attempt(it, 1)
        assert (attempt["verdict"], attempt["reason"]) == ("retry", "connect")
        assert outcome == "pending"
        await _goes_on(it, customer)
