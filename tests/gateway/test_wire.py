"""Raw bytes against the chat listener, on either event loop: handshakes, frames, closes, bounds."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.frames import Frame, Opcode

from gateway import sockets, wire
from gateway.config.values import Address
from gateway.protocol import CloseCode, Role
from gateway.sessions import Sessions
from gateway.sockets import Sockets
from gateway.talk import Closed, Later
from gateway.wire import Peer
from tests.running import PATIENCE, settings

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # both from RFC 6455, 1.3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr(sockets, "CLOSE_TIMEOUT", 0.2)


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = True) -> bytes:
    head = bytes([0x80 * fin | opcode])
    masked = 0x80 * mask
    if len(data) < 126:
        head += bytes([masked | len(data)])
    else:
        head += struct.pack("!BQ", masked | 127, len(data))
    key = b"\x0f\xf0\x55\xaa"
    if not mask:
        return head + data
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def closing(code: int) -> bytes:
    return frame(CLOSE, struct.pack("!H", code))


class Line:
    """A client that is nothing but a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> str:
        """The status line and the headers of the answer to a handshake."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, in whatever way."""
        told = b""
        with suppress(ConnectionError):
            while more := await self.reader.read(65_536):
                told += more
        return told

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its opcode and its data. The server's are whole and unmasked."""
        first, size = await self.reader.readexactly(2)
        assert first & 0xF0 == 0x80
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def gone(self, saying: bytes) -> None:
        """Say this again and again until the server has cut the connection off."""
        with suppress(ConnectionError):
            while True:
                await self.write(saying)
                await asyncio.sleep(0)

    async def closed(self) -> int:
        """Read up to the server's close frame; its code."""
        while True:
            opcode, data = await self.frame()
            if opcode == CLOSE:
                return int(struct.unpack("!H", data[:2])[0])


class Listening:
    """A listener whose sessions are the test itself: it gets every accepted peer."""

    console: frozenset[str] = frozenset()

    def __init__(self, directory: Path, limits: dict[str, Any]) -> None:
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.roles: list[Role] = []
        self.over: list[Peer] = []
        self.leaving = 0  # turns of the loop until its leave is written down
        self.rejected: list[str] = []
        self.sockets = Sockets(
            settings(directory, None, limits=limits),
            cast(Sessions, self),
            asyncio.get_running_loop().time,
            self.rejected.append,
        )
        self.port = 0
        self.lines: list[Line] = []

    async def serve(self, peer: Peer, role: Role) -> None:
        self.roles.append(role)
        self.peers.put_nowait(peer)
        await peer.ended()
        for _ in range(self.leaving):
            await asyncio.sleep(0)
        self.over.append(peer)

    async def dial(self) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port, limit=4096))
        self.lines.append(line)
        return line

    async def open(self) -> tuple[Line, Peer]:
        """A connection after its handshake, from both sides."""
        line = await self.dial()
        await line.write(request())
        assert (await line.head()).startswith("HTTP/1.1 101 ")
        return line, await self.peers.get()


@asynccontextmanager
async def listening(directory: Path, **limits: Any) -> AsyncIterator[Listening]:
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    loop.slow_callback_duration = PATIENCE  # a line about a slow machine is none about a peer
    it = Listening(directory, limits)
    it.port = await it.sockets.start(Address("127.0.0.1", 0))
    try:
        async with asyncio.timeout(PATIENCE):
            yield it
    finally:
        await it.sockets.stop()
        for line in it.lines:
            line.writer.transport.abort()
        await asyncio.sleep(0.01)
    assert faults == []


def request(path: str = "/v1/chat", *more: str, without: str = "-") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *more,
    ]
    kept = [line for line in lines if not line.startswith(without)]
    return "\r\n".join([*kept, "", ""]).encode()


# The handshake


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_a_frame_of_any_size_is_what_the_library_makes_of_it(size: int) -> None:
    text = b"x" * size
    assert wire.framed(text) == Frame(Opcode.TEXT, text).serialize(mask=False)


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_a_handshake_in_pieces_of_any_size_is_answered_with_no_more_than_it_needs(
    tmp_path: Path, step: int
) -> None:
    async with listening(tmp_path) as it:
        line = await it.dial()
        asked = request(
            "/v1/agent?x=y",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Sec-WebSocket-Protocol: other, ringback.v1",
            "Authorization: Bearer a.b.c",
            "Origin: https://app.acme.example",
        )
        for at in range(0, len(asked), step):
            await line.write(asked[at : at + step])
            await asyncio.sleep(0)
        status, *headers = (await line.head()).strip().split("\r\n")
        assert status == "HTTP/1.1 101 Switching Protocols"
        told = dict(header.split(": ", 1) for header in headers)
        del told["Date"]
        assert told == {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": ACCEPT,
            "Sec-WebSocket-Protocol": "ringback.v1",
        }
        peer = await it.peers.get()
        assert it.roles == [Role.AGENT]
        assert (peer.bearer, peer.origin) == ("a.b.c", "https://app.acme.example")


async def test_a_subprotocol_is_chosen_only_if_it_is_offered(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        for offer in ([], ["Sec-WebSocket-Protocol: other"]):
            line = await it.dial()
            await line.write(request("/v1/chat", *offer))
            head = await line.head()
            assert head.startswith("HTTP/1.1 101 ")
            assert "Protocol:" not in head
            peer = await it.peers.get()
            assert (peer.bearer, peer.origin) == (None, None)


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer a\r\nAuthorization: Bearer b"])
async def test_what_is_not_one_bearer_token_is_none(tmp_path: Path, header: str) -> None:
    async with listening(tmp_path) as it:
        line = await it.dial()
        await line.write(request("/v1/chat", f"Authorization: {header}"))
        assert (await it.peers.get()).bearer is None


NOT_LISTED = "Origin: https://evil.example"
LISTED = "Origin: https://app.acme.example"
REFUSED = {
    "another path": (request("/v2/chat"), 404),
    "another path, no WebSocket": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "an Origin that is not listed": (request("/v1/chat", NOT_LISTED), 403),
    "two Origins": (request("/v1/chat", LISTED, LISTED), 403),
    "no upgrade": (request(without="Upgrade"), 426),
    "no key": (request(without="Sec-WebSocket-Key"), 400),
    "an old version": (request().replace(b"Version: 13", b"Version: 8"), 400),
    "another method": (request().replace(b"GET", b"POST"), 405),
    "HTTP/1.0": (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "a subprotocol that is no token": (request("/v1/chat", "Sec-WebSocket-Protocol: ,@"), 400),
    "a long path": (request("/v1/chat?" + "x" * 9_000), 414),
    "a long header": (request("/v1/chat", "X: " + "x" * 9_000), 431),
    "many headers": (request("/v1/chat", *["X: y"] * 200), 431),
    "a body": (request("/v1/chat", "Content-Length: 5"), 400),
    "a call of the HTTP API": (
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        400,
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
    "half a handshake and an end": (b"GET /v1/chat HTTP/1.1\r\nHost", None),
    "pings before the answer": (request() + frame(PING), None),
    "a close before the answer": (request() + closing(1000), None),
    "nonsense before the answer": (request() + b"\xff\xff\xff\xff", None),
}


@pytest.mark.parametrize(("told", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_handshake_is_answered_closed_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: bytes, status: int | None
) -> None:
    async with listening(tmp_path) as it:
        line = await it.dial()
        await line.write(told)
        line.writer.write_eof()
        answer = (await line.rest()).decode()
        if status is None:
            assert answer == ""
        else:
            head, _, body = answer.partition("\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert f"Content-Length: {len(body)}" in head
            assert "Server:" not in head
            assert body.count("\n") == (1 if status != 426 else 3)
        assert it.peers.empty()
        assert it.rejected == (["origin"] if status == 403 else [])
    assert caplog.records == []


async def test_who_was_refused_and_stays_is_cut_off(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line = await it.dial()
        await line.write(request("/"))
        assert await line.rest()
        await line.gone(b"still here")


@pytest.mark.parametrize("told", [b"", request()[:-2]])
async def test_who_does_not_finish_the_handshake_in_time_is_cut_off(
    tmp_path: Path, told: bytes
) -> None:
    async with listening(tmp_path, hello_timeout=0.1) as it:
        line = await it.dial()
        await line.write(told)
        assert await line.rest() == b""


async def test_whose_handshake_goes_on_and_on_is_cut_off(tmp_path: Path) -> None:
    async with listening(tmp_path, hello_timeout=600.0) as it:
        line = await it.dial()
        told = request()[:-2] + b"".join(b"X-%d: %b\r\n" % (i, b"x" * 8_000) for i in range(9))
        await line.write(told[: wire.HEAD + 1])
        assert await line.rest() == b""
        line = await it.dial()
        await line.write(told[: wire.HEAD - 4] + b"\r\n\r\n")
        assert (await line.head()).startswith("HTTP/1.1 101 ")


async def test_data_right_behind_the_handshake_waits_for_it(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line = await it.dial()
        await line.write(request() + frame(TEXT, b"hello"))
        assert await (await it.peers.get()).recv() == "hello"
        assert (await line.head()).startswith("HTTP/1.1 101 ")


# Frames


async def test_fragments_are_put_together_with_control_frames_between(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        euro = "100 €".encode()
        told = frame(TEXT, euro[:5], fin=False) + frame(PING, b"between")
        told += frame(CONT, euro[5:6], fin=False) + frame(CONT, b"", fin=False)
        told += frame(CONT, euro[6:]) + frame(TEXT) + frame(BINARY, b"\xff", fin=False)
        told += frame(CONT, b"\xfe") + frame(BINARY, b"x") + frame(TEXT, "é".encode())
        for at in range(0, len(told), 3):
            await line.write(told[at : at + 3])
        got = [await peer.recv() for _ in range(5)]
        assert got == ["100 €", "", b"\xff\xfe", b"x", "é"]
        assert [type(each) for each in got] == [str, str, bytes, bytes, str]
        assert await line.frame() == (PONG, b"between")


async def test_what_is_sent_is_one_whole_text_frame(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        for size in (0, 125, 126, 65_535, 65_536):
            peer.send(b"x" * size)
            assert await line.frame() == (TEXT, b"x" * size)
            await peer.stream(b"y" * size)
            assert await line.frame() == (TEXT, b"y" * size)


BAD = {
    "not masked": (frame(TEXT, b"x", mask=False), 1002),
    "a reserved bit": (frame(0x40 | TEXT, b"x"), 1002),
    "a reserved opcode": (frame(3), 1002),
    "a continuation of nothing": (frame(CONT), 1002),
    "a beginning within a message": (frame(TEXT, fin=False) + frame(TEXT), 1002),
    "half a ping": (frame(PING, fin=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a close within a message": (frame(TEXT, fin=False) + closing(1000), 1002),
    "a close code that is none": (closing(999), 1002),
    "a reason that is not text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "half a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "half a character in fragments": (frame(TEXT, b"\xe2", fin=False) + frame(CONT), 1007),
    "a message that is too big": (frame(TEXT, b"x" * 1_025), 1009),
    "a binary one": (frame(BINARY, b"x" * 1_025), 1009),
    "fragments that are": (frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 425), 1009),
}


@pytest.mark.parametrize(("told", "code"), BAD.values(), ids=BAD.keys())
async def test_a_broken_frame_closes_and_what_came_before_it_is_still_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: bytes, code: int
) -> None:
    small = {"frame_bytes": 1_024, "text_chars": 100, "data_bytes": 100, "outbound_bytes": 1_024}
    async with listening(tmp_path, **small) as it:
        line, peer = await it.open()
        await line.write(frame(TEXT, b"x" * 1_024) + told + frame(TEXT, b"behind it"))
        assert await line.closed() == code
        assert await line.rest() == b""
        line.writer.close()
        await peer.ended()
        assert await peer.recv() == "x" * 1_024
        for _ in range(2):
            with pytest.raises(Closed):
                await peer.recv()
        assert peer.code == (1000 if told.endswith(closing(1000)) else 1006)
    assert caplog.records == []


# The end


@pytest.mark.parametrize(
    ("told", "code"), [(closing(1000), 1000), (closing(4321), 4321), (frame(CLOSE), 1005)]
)
async def test_the_peers_close_is_answered_with_its_own_and_its_code_is_reported(
    tmp_path: Path, told: bytes, code: int
) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        await line.write(frame(TEXT, b"last words") + told + frame(TEXT, b"too late"))
        opcode, data = await line.frame()
        assert (opcode, data) == (CLOSE, b"" if code == 1005 else struct.pack("!H", code))
        assert await line.rest() == b""
        peer.send(b"too late")
        line.writer.close()
        assert await peer.recv() == "last words"
        with pytest.raises(Closed):
            await peer.recv()
        with pytest.raises(Closed):
            await peer.stream(b"too late")
        assert peer.code == code
        peer.send(b"too late")


@pytest.mark.parametrize("end", ["reset", "eof"])
async def test_a_connection_that_breaks_off_has_code_1006(tmp_path: Path, end: str) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        await line.write(frame(TEXT, b"whole") + frame(TEXT, b"half a frame")[:-1])
        assert await peer.recv() == "whole"
        assert peer.code is None
        if end == "reset":
            line.writer.transport.abort()
        else:
            line.writer.write_eof()
            assert await line.rest() == b""
        with pytest.raises(Closed):
            await peer.recv()
        assert peer.code == 1006


async def test_who_has_broken_off_is_sent_nothing_more(tmp_path: Path) -> None:
    """Until its socket has told that it is gone: it takes no writing after its end."""
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        peer.eof_received()
        peer.send(b'"late"')
        assert await line.rest() == b""


async def test_our_close_tells_its_reason_and_its_code_stays_whatever_the_peer_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CLOSE_TIMEOUT", PATIENCE)
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        peer.close(CloseCode.TOKEN_EXPIRED)
        peer.close(CloseCode.SIGNED_OUT)
        peer.send(b"too late")
        assert await line.frame() == (CLOSE, struct.pack("!H", 4002) + b"token expired")
        await line.write(frame(TEXT, b"crossed it") + closing(1000))
        assert await line.rest() == b""
        line.writer.close()
        assert await peer.recv() == "crossed it"
        with pytest.raises(Closed):
            await peer.recv()
        assert peer.code == 4002


@pytest.mark.parametrize("reads", [True, False])
async def test_who_does_not_answer_our_close_is_cut_off(tmp_path: Path, reads: bool) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        if not reads:
            while peer._transport.get_write_buffer_size() < 100_000:
                peer.send(b"x" * 50_000)
        await peer.hang_up(CloseCode.BAD_TOKEN)
        assert peer.code == 4500
        if reads:
            assert await line.closed() == 4500
        await line.gone(frame(TEXT, b"still here"))


async def test_who_closes_and_stays_is_cut_off(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        await line.write(closing(1001))
        with pytest.raises(Closed):
            await peer.recv()
        assert peer.code == 1001


async def test_hanging_up_reads_past_what_nobody_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CLOSE_TIMEOUT", PATIENCE)
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        while peer._transport.is_reading():
            await line.write(frame(TEXT, b"x") * 10)
            await asyncio.sleep(0)
        await line.write(frame(TEXT, b"x") * 1_000 + closing(1000))
        hanging_up = asyncio.create_task(peer.hang_up(CloseCode.PROTOCOL_BROKEN))
        assert await line.closed() == 4502
        line.writer.close()
        await hanging_up


# Keepalive


async def test_who_is_hung_up_on_amid_one_piece_and_leaves_is_not_read_on(tmp_path: Path) -> None:
    """That it left came before a second reading of the same rest, which nobody had asked for."""

    async def refuse(peer: Peer) -> None:
        await peer.recv()
        await peer.hang_up(CloseCode.BAD_TOKEN)

    async with listening(tmp_path) as it:
        for _ in range(10):
            line, peer = await it.open()
            refusing = asyncio.create_task(refuse(peer))
            await asyncio.sleep(0)
            line.writer.write(frame(TEXT, b"who?") + frame(TEXT, bytes(wire.TURN)))
            line.writer.write_eof()
            await refusing
            await line.rest()


async def test_who_answers_pings_stays(tmp_path: Path) -> None:
    async with listening(tmp_path, ping_interval=0.05, ping_timeout=5.0) as it:
        line, peer = await it.open()
        seen = []
        for _ in range(5):
            opcode, data = await line.frame()
            assert opcode == PING
            seen.append((asyncio.get_running_loop().time(), data))
            await line.write(frame(PONG, data))
        assert seen[-1][0] - seen[0][0] > 0.1
        assert len({data for _, data in seen}) == 5
        assert not peer._closing


@pytest.mark.parametrize("answer", [b"", frame(PONG, b"made up"), frame(TEXT, b"x")])
async def test_who_does_not_answer_a_ping_is_closed_with_1011(
    tmp_path: Path, answer: bytes
) -> None:
    async with listening(tmp_path, ping_interval=0.05, ping_timeout=0.1) as it:
        line, peer = await it.open()
        assert (await line.frame())[0] == PING
        await line.write(answer)
        assert await line.closed() == 1011
        assert await line.rest() == b""
        await peer.ended()
        assert peer.code == 1006


async def test_who_reads_what_waits_stays_though_the_ping_is_behind_it(tmp_path: Path) -> None:
    async with listening(tmp_path, **LOOKED_AT_BY_THE_TEST) as it:
        line, peer = await it.open()
        for end, buffer in ((peer._transport, socket.SO_SNDBUF), (line.writer, socket.SO_RCVBUF)):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, 16_384)

        async def replay() -> None:
            for _ in range(40):
                await peer.stream(b"x" * 32_768)

        replaying = asyncio.create_task(replay())
        while peer._writable is None:
            await asyncio.sleep(0)
        peer.remind(asyncio.get_running_loop().time())
        for _ in range(4):
            dead_at = peer.due
            read = 0
            while read < 10:
                opcode, _ = await line.frame()
                assert opcode != CLOSE
                read += opcode == TEXT
            assert peer.due > dead_at
        await replaying
        await silent(peer)
        assert await line.closed() == 1011, "it has read everything, and answers no ping"


LOOKED_AT_BY_THE_TEST = {"ping_interval": 600.0, "ping_timeout": 60.0}


async def silent(peer: Peer) -> None:
    """Time passes, and passes again if there was something left to read."""
    while not peer._closing:
        peer.remind(peer.due)
        await asyncio.sleep(0)


@pytest.mark.parametrize("kernel", [wire.UNSENT, 2**31 - 1])
async def test_who_reads_one_long_frame_slowly_stays_though_the_ping_is_behind_it(
    tmp_path: Path, kernel: int
) -> None:
    """Wherever the rest of it waits: in the gateway, in its kernel or in the network."""
    async with listening(tmp_path, **LOOKED_AT_BY_THE_TEST) as it:
        line, peer = await it.open()
        ours = peer._transport.get_extra_info("socket")
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, kernel)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
        theirs = line.writer.get_extra_info("socket")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        peer.send(b"x" * 1_000_000)
        while peer._unflushed:
            await asyncio.sleep(0)
        peer.remind(asyncio.get_running_loop().time())
        for part in (200_000, 200_000, 200_000, 200_000, 200_010):
            await line.reader.readexactly(part)
            peer.remind(peer.due)
            assert not peer._closing
        assert await line.frame() == (PING, peer._ping)
        await silent(peer)
        assert await line.closed() == 1011, "it has read everything, and answers no ping"


async def test_an_idle_connection_has_one_task(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        before = len(asyncio.all_tasks())
        lines = [await it.open() for _ in range(5)]
        assert len(asyncio.all_tasks()) == before + len(lines)


# Bounds


async def test_frames_that_nobody_takes_hold_the_peer_back_and_none_is_lost(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        count = 3_000
        told = b"".join(frame(TEXT, b"%d" % i + b"x" * 1_000) for i in range(count))
        telling = asyncio.create_task(line.write(told))
        while not peer._held_back:
            await asyncio.sleep(0)
        held = len(peer._received)
        await asyncio.sleep(0.05)
        assert wire.RECEIVED < len(peer._received) == held < count
        for i in range(count):
            assert str(await peer.recv()).startswith(f"{i}x")
        await telling
        assert peer._transport.is_reading()


async def test_of_what_comes_in_one_piece_others_wait_for_a_part_only(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        taking = Taking(peer)
        await asyncio.sleep(0)
        turns = list[int]()
        peer.data_received(frame(TEXT, b"x" * 100) * 1_000)
        while len(taking.took) < 1_000:
            turns.append(len(taking.took))
            await asyncio.sleep(0)
        assert turns == [154, 309, 463, 618, 772, 927]  # of 106 bytes each
        peer.data_received(frame(TEXT, b"y"))
        assert taking.took[-1] == "y"
        taking.task.cancel()


async def test_what_comes_while_the_rest_is_read_is_read_behind_it(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        taking = Taking(peer)
        await asyncio.sleep(0)
        peer.data_received(frame(TEXT, b"x" * 10_000) * 3)
        peer.data_received(frame(TEXT, b"y") + closing(1000))
        await peer.ended()
        assert [str(told)[:1] for told in taking.took] == ["x", "x", "x", "y"]
        with pytest.raises(Closed):
            await taking.task


@pytest.mark.parametrize("kind", ["pings", "pongs", "fragments"])
async def test_who_floods_with_what_brings_nothing_is_cut_off(tmp_path: Path, kind: str) -> None:
    """Ten such sockets, of nobody in particular, kept everybody else waiting for 24 seconds."""
    one = {"pings": frame(PING), "pongs": frame(PONG), "fragments": frame(CONT, fin=False)}[kind]
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        peer.data_received(frame(TEXT, b"a", fin=False) + one * 200)
        assert not peer._transport.is_closing()
        peer.data_received(one * 300)
        assert peer._transport.is_closing()
        await peer.ended()
        assert peer.code == 1006


async def test_a_recv_that_was_given_up_loses_nothing(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        waiting = asyncio.create_task(peer.recv())
        await asyncio.sleep(0)
        peer.data_received(frame(TEXT, b"in the same moment"))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await peer.recv() == "in the same moment"
        await line.write(frame(TEXT, b"next"))
        assert await peer.recv() == "next"


class Taking:
    """Takes frames as a conversation does: those that begin with `long` take until `go_on`."""

    def __init__(self, peer: Peer) -> None:
        self.took: list[str | bytes] = []
        self.go_on = asyncio.Event()
        self.task = asyncio.create_task(self._converse(peer))

    async def _converse(self, peer: Peer) -> None:
        await peer.converse(self._take)

    def _take(self, raw: str | bytes) -> Later | None:
        self.took.append(raw)
        if raw == "wrong":
            raise LookupError(raw)
        return self._long if str(raw).startswith("long") else None

    async def _long(self) -> None:
        await self.go_on.wait()
        self.go_on.clear()
        self.took.append("done")

    async def until(self, frame: str) -> None:
        while frame not in self.took:
            await asyncio.sleep(0)


async def test_frames_are_taken_in_the_call_that_read_them(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        await line.write(frame(TEXT, b"early"))
        while not peer._received:
            await asyncio.sleep(0)
        taking = Taking(peer)
        await asyncio.sleep(0)
        assert taking.took == ["early"]
        peer.data_received(frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert taking.took == ["early", "one", "two"]
        line.writer.close()
        with pytest.raises(Closed):
            await taking.task


async def test_a_conversation_that_a_frame_ended_leaves_nothing_to_the_collector(
    tmp_path: Path,
) -> None:
    def take(raw: str | bytes) -> Later | None:
        raise LookupError(raw)

    async def converse(peer: Peer) -> None:
        with suppress(LookupError):
            await peer.converse(take)

    async def end(line: Line, peer: Peer) -> None:
        talk = asyncio.create_task(converse(peer))
        await asyncio.sleep(0)
        await line.write(frame(TEXT, b"bye"))
        await talk

    await freed(tmp_path, end)


async def test_behind_a_frame_that_takes_longer_the_others_wait_in_order(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        taking = Taking(peer)
        await asyncio.sleep(0)
        peer.data_received(frame(TEXT, b"one") + frame(TEXT, b"long") + frame(TEXT, b"two"))
        peer.data_received(frame(TEXT, b"long too") + frame(TEXT, b"three"))
        await asyncio.sleep(0.01)
        peer.data_received(frame(TEXT, b"four"))
        assert taking.took == ["one", "long"]
        taking.go_on.set()
        await taking.until("long too")
        assert taking.took == ["one", "long", "done", "two", "long too"]
        taking.go_on.set()
        await taking.until("four")
        assert taking.took[5:] == ["done", "three", "four"]
        peer.data_received(frame(TEXT, b"five"))
        assert taking.took[8:] == ["five"]
        taking.task.cancel()


async def test_while_one_takes_longer_the_peer_is_held_back_and_then_goes_on(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        taking = Taking(peer)
        await line.write(frame(TEXT, b"long"))
        count = 3_000
        told = b"".join(frame(TEXT, b"%d" % i + b"x" * 1_000) for i in range(count))
        telling = asyncio.create_task(line.write(told))
        while not peer._held_back:
            await asyncio.sleep(0)
        assert len(taking.took) == 1
        taking.go_on.set()
        await telling
        while len(taking.took) < count + 2:
            await asyncio.sleep(0)
        assert [str(told).partition("x")[0] for told in taking.took[2:]] == [
            str(i) for i in range(count)
        ]
        assert peer._transport.is_reading()
        taking.task.cancel()


@pytest.mark.parametrize("early", [True, False])
async def test_what_taking_a_frame_raises_ends_the_conversation(
    tmp_path: Path, early: bool
) -> None:
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        if early:
            peer.data_received(frame(TEXT, b"wrong") + frame(TEXT, b"next"))
        taking = Taking(peer)
        await asyncio.sleep(0)
        if not early:
            peer.data_received(frame(TEXT, b"wrong") + frame(TEXT, b"next"))
        with pytest.raises(LookupError):
            await taking.task
        assert taking.took == ["wrong"]
        peer.data_received(frame(TEXT, b"later"))
        assert [await peer.recv(), await peer.recv()] == ["next", "later"]


async def test_what_came_before_the_end_is_taken_after_what_takes_longer(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        taking = Taking(peer)
        await line.write(frame(TEXT, b"long") + frame(TEXT, b"last words") + closing(1000))
        line.writer.close()
        await peer.ended()
        assert taking.took == ["long"]
        taking.go_on.set()
        with pytest.raises(Closed):
            await taking.task
        assert taking.took == ["long", "done", "last words"]


async def test_who_does_not_read_is_closed_with_4001_at_the_bound(tmp_path: Path) -> None:
    async with listening(tmp_path, outbound_bytes=65_536) as it:
        _, peer = await it.open()
        while peer.code is None:
            peer.send(b"x" * 10_000)
        assert peer.code == 4001
        assert peer._transport.get_write_buffer_size() < 65_536 + wire.TOGETHER + 11_000
        await peer.ended()


async def test_pings_that_are_not_waited_for_count_towards_the_bound(tmp_path: Path) -> None:
    async with listening(tmp_path, outbound_bytes=65_536) as it:
        line, peer = await it.open()
        await line.gone(frame(PING, b"x" * 125) * 500)
        await peer.ended()
        assert peer.code == 4001


async def test_a_stream_waits_for_its_reader_and_is_held_to_no_bound(tmp_path: Path) -> None:
    async with listening(tmp_path, frame_bytes=20_000, outbound_bytes=20_000) as it:
        line, peer = await it.open()
        highest = 0

        async def streaming() -> None:
            nonlocal highest
            for _ in range(1_000):
                await peer.stream(b"x" * 20_000)
                highest = max(highest, peer._transport.get_write_buffer_size())

        replay = asyncio.create_task(streaming())
        while peer._writable is None:
            await asyncio.sleep(0)
        for _ in range(1_000):
            assert (await line.frame())[0] == TEXT
        await replay
        assert highest <= wire.HIGH_WATER
        assert peer.code is None


async def test_an_answer_waits_behind_no_more_of_a_stream_than_is_on_its_way(
    tmp_path: Path,
) -> None:
    """A client that reads slowly and asks whether the gateway lives waits for no megabytes."""
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        sent = 0

        async def streaming() -> None:
            nonlocal sent
            for _ in range(200):
                await peer.stream(b"x" * 32_768)
                sent += 1

        replay = asyncio.create_task(streaming())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        await line.write(frame(PING, b"there?"))
        read = 0
        while (told := await line.frame()) != (PONG, b"there?"):
            read += len(told[1])
        assert read < 500_000
        replay.cancel()


async def test_a_stream_that_its_reader_takes_gives_others_their_turns(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        _, peer = await it.open()
        kernel = peer._transport.get_extra_info("socket")  # takes all, as if it were read at once
        kernel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1)
        loop = asyncio.get_running_loop()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        turn()
        size, parts = wire.TOGETHER // 4, 10
        for _ in range(4 * parts):
            await peer.stream(b"x" * size)
        assert turns >= parts


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_stream_ends_with_the_connection(tmp_path: Path, end: str) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()

        async def streaming() -> None:
            while True:
                await peer.stream(b"x" * 20_000)

        replays = [asyncio.create_task(streaming()) for _ in range(2)]
        while peer._writable is None:
            await asyncio.sleep(0)
        if end == "reset":
            line.writer.transport.abort()
        else:
            peer.close(CloseCode.SIGNED_OUT)
        for replay in replays:
            with pytest.raises(Closed):
                await replay
        assert peer.code == (1006 if end == "reset" else 4503)


# The listener


async def test_a_connection_that_ended_makes_room_for_another(tmp_path: Path) -> None:
    async with listening(tmp_path, connections=1) as it:
        line, peer = await it.open()
        for _ in range(3):
            refused = await it.dial()
            await refused.write(request())
            assert (await refused.head()).startswith("HTTP/1.1 101 ")
            assert await refused.closed() == 4003
        line.writer.close()
        await peer.ended()
        await it.open()
        assert it.rejected == ["too_many_connections"] * 3


async def test_while_draining_what_is_open_stays_and_nothing_new_comes(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        late = await it.dial()
        await late.write(request()[:-2])
        while len(it.sockets._peers) < 2:
            await asyncio.sleep(0)
        it.sockets.stop_accepting()
        assert it.sockets.draining
        await late.write(b"\r\n")
        assert (await late.rest()).startswith(b"HTTP/1.1 503 ")
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError):
            await it.dial()
        await line.write(frame(TEXT, b"still here"))
        assert await peer.recv() == "still here"


async def test_a_connection_that_came_when_listening_ended_is_closed_at_once(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path, hello_timeout=600.0) as it:
        it.sockets.draining = True
        late = await it.dial()
        assert await late.rest() == b""


async def test_stopping_closes_what_is_open_and_waits_for_every_handler(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        it.leaving = 20
        line, peer = await it.open()
        deaf, other = await it.open()
        silent = await it.dial()
        await silent.write(b"GET ")
        while len(it.sockets._peers) < 3:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(it.sockets.stop())
        assert await line.closed() == 1012
        await line.write(closing(1012))
        await stopping
        assert set(it.over) == {peer, other}
        assert {peer.code, other.code} == {1012}
        assert await silent.rest() == b""
        assert await deaf.closed() == 1012


async def test_a_handler_that_ends_before_its_socket_takes_it_along(tmp_path: Path) -> None:
    async with listening(tmp_path) as it:
        line, peer = await it.open()
        (handler,) = it.sockets._handlers
        handler.cancel()
        assert await line.closed() == 1011
        line.writer.close()
        await peer.ended()


@pytest.mark.parametrize("told", [b"", closing(1000), b"no frame"])
async def test_an_ended_connection_leaves_nothing_to_the_collector(
    tmp_path: Path, told: bytes
) -> None:
    async def tell(line: Line, peer: Peer) -> None:
        await line.write(told)
        await asyncio.sleep(0.01)

    await freed(tmp_path, tell)


async def freed(directory: Path, use: Callable[[Line, Peer], Awaitable[None]]) -> None:
    """Wait until a connection that was used so is gone, without the collector."""
    async with listening(directory) as it:
        line, peer = await it.open()
        core = weakref.ref(peer._core)
        gc.disable()
        try:
            await use(line, peer)
            line.writer.transport.abort()
            await peer.ended()
            del peer
            while core() is not None:
                it.over.clear()
                await asyncio.sleep(0)
        finally:
            gc.enable()
