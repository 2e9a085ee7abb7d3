"""The load's client: every frame is heard once and whole, however TCP cuts the stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.wire import Wire, framed

SHAKEN = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def served(payload: bytes, first: int = 0x81) -> bytes:
    """A server's frame: not masked."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload


def opened() -> tuple[Wire, Transport, list[bytes]]:
    wire: Any = Wire(1, "/v1/chat")
    transport, heard = Transport(), list[bytes]()
    wire.connection_made(transport)
    wire.heard = heard.append
    return wire, transport, heard


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 1_000_000])
async def test_frames_of_every_length_in_pieces(step: int) -> None:
    wire, _, heard = opened()
    payloads = [b"x" * size for size in (0, 1, 125, 126, 127, 4000, 65535, 65536, 3)]
    stream = SHAKEN + b"".join(map(served, payloads))
    for at in range(0, len(stream), step):
        wire.data_received(stream[at : at + step])
    assert heard == payloads
    assert wire.opened.done()


async def test_a_ping_is_answered() -> None:
    wire, transport, heard = opened()
    wire.data_received(SHAKEN + served(b"hi", 0x89))
    assert transport.written.endswith(framed(b"hi", 0x8A))
    assert heard == []


async def test_a_refused_handshake_is_told() -> None:
    wire, _, _ = opened()
    wire.data_received(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    with pytest.raises(ConnectionError, match="403"):
        await wire.opened


async def test_whoever_waits_is_told_of_the_end() -> None:
    wire, _, _ = opened()
    wire.data_received(SHAKEN)
    answer = asyncio.ensure_future(wire.ask(b"{}", b"welcome"))
    await asyncio.sleep(0)
    wire.connection_lost(None)
    with pytest.raises(ConnectionError):
        await answer


async def test_only_what_was_asked_for_is_the_answer() -> None:
    wire, transport, _ = opened()
    wire.data_received(SHAKEN)
    answer = wire.expect(b'"welcome"')
    wire.data_received(served(b'{"type":"presence"}') + served(b'{"type":"welcome"}'))
    assert await answer == b'{"type":"welcome"}'
    assert transport.written.startswith(b"GET /v1/chat HTTP/1.1\r\n")
