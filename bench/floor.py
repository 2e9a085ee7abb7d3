"""The floor: the same frames, and as much of the promise as one asks for, as lean as can be.

What the path costs in Python with this database and this library of WebSockets, and what each part
of the promise adds to it at the least. Frames go through the sans-I/O core of websockets, all of
one turn of the loop in one write; a writer commits, with synchronous=FULL, whatever came during the
commit before; then everybody is told. Nothing here can be refused, undone or tried by itself, no
session can resume, nobody is rung, and there is one tenant and one thing that an agent can do.

The parts, each on top of those before it:

- `rows`: a message is one row in a table that only grows, an ack is noted on its conversation's row
- `history`: messages are indexed by conversation and place, so that a page of history is one range
- `refs`: a sender's `ref` is kept in a unique index, so that a send that comes twice is one message
- `outcomes`: what `ringback why` tells and the conservation law counts: an id, the times, the route
  and its reason with the message; when a push is due and when the message expires on the
  conversation's row, and in a heap; an event for every ack; the counters
- `checked`: frames are decoded and held to their limits as the gateway does it, sends count against
  a rate, and the answers have all their fields

It speaks as much of the protocol as the load needs.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import json
import logging
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

import orjson
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from gateway import decoding, protocol
from gateway.session import TokenBucket
from gateway.wire import framed


class Part(IntEnum):
    """How much of the promise is kept: this part, and those before it."""

    ROWS = 0
    HISTORY = 1
    REFS = 2
    OUTCOMES = 3
    CHECKED = 4


ACK_TIMEOUT, EXPIRES_AFTER = 5.0, 86_400.0  # seconds
PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY, last INTEGER, acked INTEGER, due_at REAL, expires_at REAL, event INTEGER
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, prev INTEGER, conversation INTEGER, from_seq INTEGER, seq INTEGER,
    at REAL, event TEXT, detail TEXT
);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
INSERT INTO counters VALUES ('accepted', 0), ('acked', 0), ('pending', 0);
"""
ONLY_GROWS = """
CREATE TABLE messages (conversation INTEGER, seq INTEGER, author TEXT, ref TEXT, text TEXT,
    id TEXT, at REAL, expires_at REAL, route TEXT, reason TEXT, sessions TEXT, due_at REAL);
"""
BY_CONVERSATION = ONLY_GROWS.replace(
    "due_at REAL)", "due_at REAL, PRIMARY KEY (conversation, seq))"
)
INDEX = "CREATE UNIQUE INDEX messages_ref ON messages (conversation, author, ref)"
APPEND = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
MOVE = """
UPDATE conversations SET last = ?, acked = ?, due_at = ?, expires_at = ?, event = ? WHERE id = ?
"""
EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
COUNT = "UPDATE counters SET value = value + ? WHERE name = ?"

_quiet = logging.getLogger("bench.floor")
_quiet.setLevel(logging.CRITICAL)


class Conversation:
    """A customer, the agents that have opened it, and how far it is."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.last = self.acked = self.event = 0
        self.due_at: float | None = None
        self.expires_at: float | None = None
        self.customer: Peer | None = None
        self.agents: list[Peer] = []


class Peer(asyncio.Protocol):
    """A connection: frames in, frames out, all of a turn of the loop in one write."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._core = ServerProtocol(max_size=65_536, logger=_quiet)
        self._transport: asyncio.Transport
        self._bucket = TokenBucket(1e9, 1e6)
        self.decode: Callable[[Any], Any] | None = None
        self.sub = ""
        self.session = ""
        self.conversation: Conversation | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        core = self._core
        core.receive_data(data)
        for event in core.events_received():
            if isinstance(event, Request):
                core.send_response(core.accept(event))
                self._transport.write(b"".join(core.data_to_send()))
            elif isinstance(event, Frame):
                self._heard(str(event.data, "utf-8"))

    def _heard(self, text: str) -> None:
        if self.decode is None:
            frame = orjson.loads(text)
            kind = frame["type"]
            if kind == "ack":
                self._floor.acked(self, frame["seq"])
            elif kind == "send":
                self._floor.said(self, frame["customer"], frame["ref"], frame["text"])
            elif kind == "open":
                self._floor.open(self, frame["ref"], frame["customer"])
            else:
                self._floor.hello(self, frame["token"])
            return
        match self.decode(text):
            case protocol.Ack(seq=seq):
                self._floor.acked(self, seq)
            case protocol.AgentSend() as send:
                if self._bucket.take(time.time()) is None:
                    self._floor.said(self, send.customer, send.ref, send.text)
            case protocol.Open() as opens:
                self._floor.open(self, opens.ref, opens.customer)

    def send(self, frame: Any) -> None:
        self._floor.flush_soon(self)
        self._core.writes.append(framed(orjson.dumps(frame)))

    def flush(self) -> None:
        frames = self._core.data_to_send()
        if frames and not self._transport.is_closing():
            self._transport.write(b"".join(frames))


class Floor:
    """Everybody's conversations, and the writer."""

    def __init__(self, path: Path, part: Part) -> None:
        self._part = part
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        messages = BY_CONVERSATION if part >= Part.HISTORY else ONLY_GROWS
        self._database.executescript(PRAGMAS + messages + (INDEX if part >= Part.REFS else ""))
        self._conversations: dict[str, Conversation] = {}
        self._unflushed: set[Peer] = set()
        self._sends: list[tuple[Peer, Conversation, str, str]] = []
        self._acks: list[tuple[Peer, Conversation, int]] = []
        self._writing = False
        self._due: list[tuple[float, int]] = []
        self._events = 0
        self._ids: list[str] = []

    # What is heard

    def hello(self, peer: Peer, token: str) -> None:
        claims = orjson.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        peer.sub = claims["sub"]
        peer.session = f"s_{secrets.token_hex(6)}"
        if claims["role"] == "customer":
            peer.conversation = Conversation(len(self._conversations) + 1)
            peer.conversation.customer = peer
            self._conversations[peer.sub] = peer.conversation
            row = (peer.conversation.id,)
            self._database.execute("INSERT INTO conversations VALUES (?, 0, 0, null, null, 0)", row)
        if self._part >= Part.CHECKED:
            limits = protocol.Limits()
            decode = decoding.decode_customer if peer.conversation else decoding.decode_agent
            peer.decode = lambda text: decode(text, limits)
        peer.send({"type": "welcome"})

    def open(self, peer: Peer, ref: str, customer: str) -> None:
        self._conversations[customer].agents.append(peer)
        peer.send({"type": "conversation", "ref": ref, "acked_seq": 0})

    def said(self, peer: Peer, customer: str, ref: str, text: str) -> None:
        self._sends.append((peer, self._conversations[customer], ref, text))
        self._write_soon()

    def acked(self, peer: Peer, seq: int) -> None:
        assert peer.conversation is not None
        self._acks.append((peer, peer.conversation, seq))
        self._write_soon()

    # What is written and told

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().create_task(self._write())

    def flush_soon(self, peer: Peer) -> None:
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.add(peer)

    def _flush(self) -> None:
        peers, self._unflushed = self._unflushed, set()
        for peer in peers:
            peer.flush()

    async def _write(self) -> None:
        while self._sends or self._acks:
            sends, self._sends = self._sends, []
            acks, self._acks = self._acks, []
            touched: dict[int, Conversation] = {}
            messages = [self._message(*send, touched) for send in sends]
            receipts = [r for ack in acks if (r := self._receipt(*ack, touched)) is not None]
            moved = [
                (c.last, c.acked, c.due_at, c.expires_at, c.event, c.id) for c in touched.values()
            ]
            events = [row for _, _, _, row in receipts if row is not None]
            await asyncio.to_thread(self._commit, messages, moved, events, len(receipts))
            for (peer, c, _, _), row in zip(sends, messages, strict=True):
                self._tell_message(peer, c, row)
            for c, lo, hi, event in receipts:
                self._tell_receipt(c, lo, hi, event)
        self._writing = False

    def _message(
        self, peer: Peer, c: Conversation, ref: str, text: str, touched: dict[int, Conversation]
    ) -> tuple[Any, ...]:
        c.last += 1
        touched[c.id] = c
        if self._part < Part.OUTCOMES:
            return (c.id, c.last, peer.sub, ref, text, None, None, None, None, None, None, None)
        now = time.time()
        expires_at = now + EXPIRES_AFTER
        if c.expires_at is None:
            c.expires_at = expires_at
        if c.due_at is None:
            c.due_at = now + ACK_TIMEOUT
            heapq.heappush(self._due, (c.due_at, c.id))
        assert c.customer is not None
        sessions, route = f"{c.customer.session}:active", ("socket", "in_chat")
        return (
            c.id, c.last, peer.sub, ref, text, self._id(), now, expires_at, *route, sessions,
            c.due_at,
        )  # fmt: skip

    def _id(self) -> str:
        if not self._ids:
            pool = secrets.token_hex(8 * 256)
            self._ids = [f"m_{pool[at : at + 16]}" for at in range(0, len(pool), 16)]
        return self._ids.pop()

    def _receipt(
        self, peer: Peer, c: Conversation, seq: int, touched: dict[int, Conversation]
    ) -> tuple[Conversation, int, int, tuple[Any, ...] | None] | None:
        """What an ack changes, and its event's row."""
        if not c.acked < seq <= c.last:
            return None
        before, c.acked = c.acked, seq
        touched[c.id] = c
        if self._part < Part.OUTCOMES:
            return c, before + 1, seq, None
        if seq == c.last:
            c.due_at = c.expires_at = None
        self._events += 1
        prev, c.event = c.event, self._events
        detail = orjson.dumps({"session": peer.session}).decode()
        return c, before + 1, seq, (
            self._events, prev, c.id, before + 1, seq, time.time(), "acked", detail
        )  # fmt: skip

    def _commit(self, messages: list[Any], moved: list[Any], events: list[Any], acked: int) -> None:
        db = self._database
        db.execute("BEGIN")
        db.executemany(APPEND, messages)
        db.executemany(MOVE, moved)
        if self._part >= Part.OUTCOMES:
            db.executemany(EVENT, events)
            pending = len(messages) - acked
            counts = (("accepted", len(messages)), ("acked", acked), ("pending", pending))
            db.executemany(COUNT, [(count, name) for name, count in counts])
        db.execute("COMMIT")

    def _tell_message(self, peer: Peer, c: Conversation, row: tuple[Any, ...]) -> None:
        _, seq, author, ref, text, id, at, _, route, reason, _, _ = row
        customer = c.customer
        assert customer is not None
        sent: Any = {"type": "sent", "ref": ref, "customer": customer.sub, "seq": seq}
        who = {"role": "agent", "id": author}
        message: Any = {"type": "message", "seq": seq, "from": who, "text": text}
        if self._part >= Part.CHECKED:
            told = protocol.timestamp(at)
            sent |= {"id": id, "at": told, "route": route, "reason": reason}
            message |= {"id": id, "at": told, "kind": "chat"}
        peer.send(sent)
        customer.send(message)

    def _tell_receipt(
        self, c: Conversation, lo: int, hi: int, event: tuple[Any, ...] | None
    ) -> None:
        assert c.customer is not None
        receipt: Any = {
            "type": "receipt",
            "customer": c.customer.sub,
            "from_seq": lo,
            "seq": hi,
            "state": "delivered",
        }
        if self._part >= Part.CHECKED and event is not None:
            receipt["at"] = protocol.timestamp(event[5])
        for agent in c.agents:
            agent.send(receipt)


async def main() -> None:
    floor = Floor(Path(sys.argv[1]), Part[sys.argv[2]])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(floor), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"chat": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Event().wait()
