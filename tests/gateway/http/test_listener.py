"""The HTTP listener: how many may be connected to it, and who is silent for too long."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from unittest.mock import ANY

import pytest
from aiohttp import web

from gateway.config.values import Address
from gateway.http import listener
from gateway.http.listener import TURN, Listener
from gateway.protocol import Role
from tests.faults.needs import missing
from tests.line import Line, line
from tests.running import PATIENCE, PATIENT, running

STATUS = "/v1/me/status"
LOOPBACK = Address("127.0.0.1", 0)


async def test_one_connection_too_many_is_told_so_and_closed(tmp_path: Path) -> None:
    async with (
        running(tmp_path, delivery=PATIENT, limits={"http_connections": 2}) as it,
        line(it) as kept,
        line(it) as leaving,
        line(it) as many,
    ):
        status, headers, body = await many.answer()
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        assert json.loads(body)["code"] == "unavailable"
        assert await many.ended() == b""
        kept.say(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await kept.answer())[0] == 401
        metrics = (await it.call("GET", "/metrics", listener="admin"))[1]
        assert 'ringback_rejected_sockets_total{reason="too_many_http_connections"} 1.0' in metrics
        await leaving.close()
        async with asyncio.timeout(PATIENCE):
            while (await it.call("GET", STATUS, Role.CUSTOMER))[0] == 503:
                await asyncio.sleep(0.01)


async def test_one_too_many_takes_the_place_of_who_has_been_silent_for_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "SPARED", 0.0)
    async with (
        running(tmp_path, delivery=PATIENT, limits={"http_connections": 3}) as it,
        line(it) as busy,
        line(it) as kept,
        line(it) as silent,
    ):
        said = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n\r\n"
        for one in (silent, kept):
            one.say(said)
            assert (await one.answer())[0] == 401
        busy.say(
            "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
            "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert (await busy.answer())[0] == 100, "its call has begun"
        async with line(it) as more:
            assert await silent.ended() == b""
            for one in (more, kept):
                one.say(said)
                assert (await one.answer())[0] == 401
            busy.say("{}")
            assert (await busy.answer())[0] == 400


@pytest.mark.parametrize(("role", "status"), [(Role.CUSTOMER, 100), (None, 401)])
async def test_who_is_waited_for_amid_a_body_keeps_no_other_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role | None, status: int
) -> None:
    """One customer, or anybody with a call that was refused, kept all connections for as long as a
    body may take."""
    monkeypatch.setattr(listener, "SPARED", 0.0)
    async with (
        running(tmp_path, delivery=PATIENT, limits={"http_connections": 1}) as it,
        line(it) as slow,
    ):
        who = "" if role is None else f"Authorization: Bearer {it.token(role, 'c-7')}\r\n"
        slow.say(
            "PUT /v1/me/preferences HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"{who}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
        )
        while (answer := await slow.answer())[0] != status:
            assert answer[0] == 100
        async with line(it) as other:
            other.say(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await other.answer())[0] == 401
        assert await slow.ended() == b""


async def test_a_body_that_moves_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SPARED", 0.0)
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def call(request: web.Request) -> web.Response:
        size = 0
        seen.put_nowait(size)
        async for part in request.content.iter_any():
            size += len(part)
            seen.put_nowait(size)
        return web.Response(text=str(size))

    app = web.Application()
    app.router.add_post("/", call)
    it = Listener(app, 2, lambda: None)
    port = await it.start(LOOPBACK)
    lines: list[Line] = []
    try:
        for size in (3 * TURN, 10):
            lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
            lines[-1].say(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n")
            assert await seen.get() == 0, "its call has begun"
        upload, slow = lines
        upload.say("x" * 2 * TURN)
        while await seen.get() < 2 * TURN:
            pass
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        assert await slow.ended() == b""
        upload.say("x" * TURN)
        assert (await upload.answer())[2] == f"{3 * TURN}".encode()
    finally:
        for one in lines:
            await one.close()
        await it.stop()


@pytest.mark.parametrize("kept", ["full", "answered"])
async def test_who_is_not_waited_for_or_was_answered_since_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Whose call does not take more of the body for now, or has just been answered before its body
    came, does not go before one whose body is waited for, however long ago its own call began."""
    monkeypatch.setattr(listener, "SPARED", 0.0)
    begun: asyncio.Queue[web.BaseRequest] = asyncio.Queue()
    go_on = asyncio.Event()

    async def call(request: web.Request) -> web.Response:
        begun.put_nowait(request)
        if request.path != "/slow":
            await go_on.wait()
        if request.path != "/answered":
            while await request.content.readany():
                pass
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_post("/{any}", call)
    it = Listener(app, 2, lambda: None)
    port = await it.start(LOOPBACK)
    lines: list[Line] = []

    async def posting(path: str, size: int) -> tuple[Line, web.BaseRequest]:
        one = Line(*await asyncio.open_connection("127.0.0.1", port))
        lines.append(one)
        one.say(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n")
        return one, await begun.get()

    try:
        size, said = 200 * TURN, 0
        first, request = await posting(f"/{kept}", size)
        while kept == "full" and request.transport is not None and request.transport.is_reading():
            first.say("x" * 1_000)
            said += 1_000
            await asyncio.sleep(0)
        slow, _ = await posting("/slow", 10)
        if kept == "answered":
            go_on.set()
            assert (await first.answer())[2] == b"/answered"
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        assert await slow.ended() == b""
        go_on.set()
        first.say("x" * (size - said))
        if kept == "answered":
            first.say("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (await first.answer())[0] == 200
    finally:
        for one in lines:
            await one.close()
        await it.stop()


async def test_who_hangs_up_amid_a_body_that_was_refused_leaves_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT, limits={"http_connections": 2}) as it:
        for _ in range(2):
            async with line(it) as one:
                one.say("POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
                assert (await one.answer())[0] == 401
        async with asyncio.timeout(PATIENCE / 2):
            while (await it.call("GET", STATUS, Role.CUSTOMER))[0] == 503:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("said", ["", "GET /healthz HTTP/1.1\r\nX-Never: ends"])
@pytest.mark.parametrize("name", ["http", "admin"])
async def test_a_head_that_never_ends_ends_its_connection_and_no_long_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(listener, "IDLE", 0.2)
    body = json.dumps({"text": "hello", "audience": ["c-42"]})
    async with running(tmp_path, delivery=PATIENT) as it, line(it) as upload:
        upload.say(
            "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body[:10]}"
        )
        async with line(it, name) as silent:
            silent.say(said)
            assert await silent.ended() == b""
        upload.say(body[10:])
        assert (await upload.answer())[0] == 201
        assert await upload.ended() == b"", "after its answer it is silent, too"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("GET\r\n\r\n", 400, "bad_frame"),
        (f"GET {STATUS} HTTP/1.1\r\n\r\n", 400, "bad_frame"),
        (f"GET {STATUS}é HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_frame"),
        ("GET xxx HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_frame"),
        (f"FETCH {STATUS} HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_frame"),
        (f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nX: {'x' * 9_000}\r\n\r\n", 431, "too_large"),
        (f"GET /{'x' * 9_000} HTTP/1.1\r\nHost: x\r\n\r\n", 431, "too_large"),
        (f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nExpect: mercy\r\n\r\n", 417, "bad_frame"),
    ],
)
async def test_what_is_refused_before_it_is_a_call_is_a_problem_too(
    tmp_path: Path, said: str, status: int, code: str
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, line(it) as peer:
        peer.say(said)
        got, headers, body = await peer.answer()
        assert (got, headers["content-type"]) == (status, "application/problem+json")
        problem = json.loads(body)
        assert (problem["status"], problem["code"]) == (status, code)
        assert "é" not in problem["detail"]
        assert "xxx" not in problem["detail"]


@asynccontextmanager
async def serving(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[Line]:
    """A connection to a listener that answers so."""

    async def call(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_get("/", call)
    it = Listener(app, 1, lambda: None)
    peer = Line(*await asyncio.open_connection("127.0.0.1", await it.start(LOOPBACK)))
    try:
        yield peer
    finally:
        await peer.close()
        await it.stop()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("http", "GET /console HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("http", "GET /v1/me/status HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("http", "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("http", "GET\r\n\r\n"),
        ("http", "GET /console HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n"),
        ("admin", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("admin", "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("chat", "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
async def test_no_answer_tells_of_what_versions_it_is_made(
    tmp_path: Path, name: str, said: str
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, line(it, name) as one:
        one.say(said)
        _, headers, _ = await one.answer()
        assert headers.get("server", "ringback") == "ringback"


async def test_a_fault_of_an_application_is_a_problem_without_a_word_of_it() -> None:
    def broken(request: web.Request) -> web.Response:
        raise ZeroDivisionError("customer c-42")

    async with serving(broken) as peer:
        peer.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = await peer.answer()
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert json.loads(body)["detail"] == "internal fault"


async def test_who_stops_lets_a_call_end_and_closes_the_connection() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def call(request: web.Request) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.Response(body=b"done")

    app = web.Application()
    app.router.add_get("/", call)
    it = Listener(app, 1, lambda: None)
    peer = Line(*await asyncio.open_connection("127.0.0.1", await it.start(LOOPBACK)))
    peer.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await begun.wait()
    stopping = asyncio.create_task(it.stop())
    await asyncio.wait([stopping], timeout=0.05)
    assert not stopping.done()
    go_on.set()
    assert (await peer.answer())[::2] == (200, b"done")
    assert await peer.ended() == b""
    await stopping
    await peer.close()


async def test_what_is_no_http_leaves_nothing_behind() -> None:
    """Its exception held the connection and megabytes of what came, until a rare collection."""
    gc.collect()
    gc.disable()
    try:
        async with serving(lambda _: web.Response()) as peer:
            peer.say("no HTTP\r\n\r\n")
            assert (await peer.answer())[0] == 400
            assert await peer.ended() == b""
        assert not [one for one in gc.get_objects() if isinstance(one, web.RequestHandler)]
    finally:
        gc.enable()


async def test_an_answer_that_nobody_reads_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sys.platform != "linux":
        missing("a TCP that gives up who reads nothing")
    monkeypatch.setattr(listener, "UNREAD", 0.2)
    ended = asyncio.Event()

    def much(request: web.Request) -> web.Response:
        request.task.add_done_callback(lambda _: ended.set())
        return web.Response(body=bytes(32 * 2**20))

    async with serving(much) as peer:
        peer.read_nothing()
        peer.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


@asynccontextmanager
async def taking(
    take: Callable[[web.Request], Awaitable[bytes]],
) -> AsyncIterator[tuple[Line, web.RequestHandler]]:
    """A connection to a listener that answers with what is taken of each body, at both its ends."""

    async def call(request: web.Request) -> web.Response:
        return web.Response(body=await take(request))

    app = web.Application()
    app.router.add_post("/{tail:.*}", call)
    it = Listener(app, 1, lambda: None)
    peer = Line(*await asyncio.open_connection("127.0.0.1", await it.start(LOOPBACK)))
    try:
        async with asyncio.timeout(PATIENCE):
            while not (it._runner.server and it._runner.server.connections):
                await asyncio.sleep(0)
        yield peer, it._runner.server.connections[0]
    finally:
        await peer.close()
        await it.stop()


async def test_of_what_a_call_brings_in_one_piece_others_wait_for_a_part_only() -> None:
    """Eight connections of nobody in particular kept everybody else waiting for 1.6 seconds."""
    whole = asyncio.Event()

    async def take(request: web.Request) -> bytes:
        async for _ in request.content.iter_any():
            pass
        whole.set()
        return b""

    async with taking(take) as (peer, connection):
        turns = 0
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.data_received(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert connection.transport is not None
        assert not connection.transport.is_reading(), "or all that is sent would wait in memory"
        while not whole.is_set():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 600_000 / TURN
        assert (await peer.answer())[0] == 200


async def test_of_a_body_that_its_call_does_not_read_no_more_is_read_than_it_may_hold() -> None:
    begin = asyncio.Event()

    async def take(request: web.Request) -> bytes:
        await begin.wait()
        return await request.content.read()

    async with taking(take) as (peer, connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.data_received(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        for _ in range(100):
            await asyncio.sleep(0)
        assert isinstance(connection, listener._Connection)
        assert len(connection._rest) > 400_000
        begin.set()
        assert (await peer.answer())[::2] == (200, b"x" * 100_000)


async def test_a_long_head_in_one_piece_is_read_to_its_end() -> None:
    async def take(request: web.Request) -> bytes:
        return request.headers["Last"].encode()

    async with taking(take) as (peer, connection):
        lines = "".join(f"X-{i}: {'x' * 8_000}\r\n" for i in range(20))
        head = f"POST / HTTP/1.1\r\nHost: x\r\n{lines}Last: y\r\nContent-Length: 0\r\n\r\n"
        connection.data_received(head.encode())
        assert (await peer.answer())[::2] == (200, b"y")


async def test_a_head_that_goes_on_and_on_is_refused_and_costs_little(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it, line(it) as one:
        for _ in range(2):  # what an answered call had is not counted to the next
            one.say(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n")
            for number in range(20):
                one.say(f"X-{number}: {'x' * 8_000}\r\n")
            one.say("\r\n")
            assert (await one.answer())[0] == 401
        lines = "".join(f"X-{number}: {'x' * 8_000}\r\n" for number in range(25))
        one.say(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n{lines}"[: listener.HEAD + 1])
        status, _, body = await one.answer()
        assert (status, json.loads(body)["code"]) == (431, "too_large")
        assert await one.ended() == b""


async def test_a_body_in_any_pieces_is_taken_whole_at_whatever_pace() -> None:
    async def take(request: web.Request) -> bytes:
        digest = sha256()
        while part := await request.content.read(10_000):
            digest.update(part)
            await asyncio.sleep(0)
        return digest.hexdigest().encode()

    async with taking(take) as (peer, _):
        for size in (0, 1, TURN - 1, TURN, TURN + 1, 300_000, 3_000_000):
            body = Random(size).randbytes(size).decode("latin-1")
            peer.say(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{body}")
            digest = sha256(body.encode("latin-1")).hexdigest().encode()
            assert (await peer.answer())[::2] == (200, digest)


async def test_a_packed_body_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(1_000_000))

    async def take(request: web.Request) -> bytes:
        return await request.content.read()

    async with taking(take) as (peer, _):
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(packed)}\r\n"
        peer.say(head + "Content-Encoding: gzip\r\n\r\n" + packed.decode("latin-1"))
        assert (await peer.answer())[::2] == (200, packed)


async def test_calls_that_come_in_one_piece_are_answered_in_their_order() -> None:
    async def take(request: web.Request) -> bytes:
        return request.path.encode() + await request.read()

    async with taking(take) as (peer, _):
        head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n"
        peer.say("".join(f"POST /{i} {head}{i:0500}" for i in range(1_000)))
        for i in range(1_000):
            assert await peer.answer() == (200, ANY, f"/{i}{i:0500}".encode())


async def test_what_comes_while_a_piece_is_read_is_read_behind_it() -> None:
    async def take(request: web.Request) -> bytes:
        return request.path.encode() + await request.read()

    async with taking(take) as (peer, connection):
        head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n"
        whole = "".join(f"POST /{i} {head}{i:0500}" for i in range(100)).encode()
        for begin, end in ((0, 2 * TURN), (2 * TURN, 2 * TURN + 100), (2 * TURN + 100, len(whole))):
            connection.data_received(whole[begin:end])
        for i in range(100):
            assert await peer.answer() == (200, ANY, f"/{i}{i:0500}".encode())
