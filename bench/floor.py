"""The floor: the same frames and one durable row for each message, and nothing of the promise.

What the full path costs in Python before anything is decided. Frames go through the sans-I/O core
of websockets, all of one turn of the loop in one write; a writer commits, with synchronous=FULL,
whatever came during the commit before: a message is one row in a table that only grows, an ack is
noted on the conversation's row. Then everybody is told. There is no token that is checked, no rate
limit, no `ref` that may come twice, no outcome, no event, no due time, no unread count, no history
that could be read, no session that could resume.

It speaks as much of the protocol as the load needs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sqlite3
import sys
from pathlib import Path
from typing import Any, cast

import orjson
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
CREATE TABLE conversations (id INTEGER PRIMARY KEY, last INTEGER, acked INTEGER);
CREATE TABLE messages (conversation INTEGER, seq INTEGER, author TEXT, ref TEXT, text TEXT);
"""
APPEND = "INSERT INTO messages VALUES (?, ?, ?, ?, ?)"
MOVE = "UPDATE conversations SET last = ?, acked = ? WHERE id = ?"

_quiet = logging.getLogger("bench.floor")
_quiet.setLevel(logging.CRITICAL)


class Conversation:
    """A customer, the agents that have opened it, and how far it is."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.last = self.acked = 0
        self.customer: Peer | None = None
        self.agents: list[Peer] = []


class Peer(asyncio.Protocol):
    """A connection: frames in, frames out, all of a turn of the loop in one write."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._core = ServerProtocol(max_size=65_536, logger=_quiet)
        self._transport: asyncio.Transport
        self.sub = ""
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
                self._floor.heard(self, orjson.loads(event.data))

    def send(self, frame: Any) -> None:
        self._floor.flush_soon(self)
        self._core.send_text(orjson.dumps(frame))

    def flush(self) -> None:
        frames = self._core.data_to_send()
        if frames and not self._transport.is_closing():
            self._transport.write(b"".join(frames))


class Floor:
    """Everybody's conversations, and the writer."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(SCHEMA)
        self._conversations: dict[str, Conversation] = {}
        self._unflushed: set[Peer] = set()
        self._sends: list[tuple[Peer, Conversation, Any]] = []
        self._acks: list[tuple[Conversation, int]] = []
        self._writing = False

    def heard(self, peer: Peer, frame: Any) -> None:
        kind = frame["type"]
        if kind == "ack":
            assert peer.conversation is not None
            self._acks.append((peer.conversation, frame["seq"]))
        elif kind == "send":
            self._sends.append((peer, self._conversations[frame["customer"]], frame))
        elif kind == "open":
            conversation = self._conversations[frame["customer"]]
            conversation.agents.append(peer)
            peer.send({"type": "conversation", "ref": frame["ref"], "acked_seq": 0})
        else:
            self._hello(peer, frame["token"])
        if (self._sends or self._acks) and not self._writing:
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

    def _hello(self, peer: Peer, token: str) -> None:
        claims = orjson.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        peer.sub = claims["sub"]
        if claims["role"] == "customer":
            peer.conversation = Conversation(len(self._conversations) + 1)
            peer.conversation.customer = peer
            self._conversations[peer.sub] = peer.conversation
            row = (peer.conversation.id,)
            self._database.execute("INSERT INTO conversations VALUES (?, 0, 0)", row)
        peer.send({"type": "welcome"})

    async def _write(self) -> None:
        while self._sends or self._acks:
            sends, self._sends = self._sends, []
            acks, self._acks = self._acks, []
            rows, touched = [], {}
            for peer, c, frame in sends:
                c.last += 1
                touched[c.id] = c
                rows.append((c.id, c.last, peer.sub, frame["ref"], frame["text"]))
            before = [c.acked for c, _ in acks]
            for c, seq in acks:
                c.acked = max(c.acked, seq)
                touched[c.id] = c
            moved = [(c.last, c.acked, c.id) for c in touched.values()]
            await asyncio.to_thread(self._commit, rows, moved)
            for (peer, c, frame), (_, seq, author, ref, text) in zip(sends, rows, strict=True):
                told = {"type": "sent", "ref": ref, "customer": frame["customer"], "seq": seq}
                peer.send(told)
                who = {"role": "agent", "id": author}
                assert c.customer is not None
                c.customer.send({"type": "message", "seq": seq, "from": who, "text": text})
            for (c, seq), was in zip(acks, before, strict=True):
                assert c.customer is not None
                receipt = {
                    "type": "receipt",
                    "customer": c.customer.sub,
                    "from_seq": was + 1,
                    "seq": seq,
                    "state": "delivered",
                }
                for agent in c.agents:
                    agent.send(receipt)
        self._writing = False

    def _commit(self, rows: list[Any], moved: list[Any]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(APPEND, rows)
        self._database.executemany(MOVE, moved)
        self._database.execute("COMMIT")


async def main() -> None:
    floor = Floor(Path(sys.argv[1]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(floor), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"chat": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Event().wait()
