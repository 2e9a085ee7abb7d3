"""The floor of a push: what it costs at the least, part by part of what is promised of it.

As many customers as one asks for are behind by one message each, all at once. For each its device
is claimed, its backend called, and what came of it written: durable commits, of whatever came
during the commit before. Written as lean as can be: nothing here can be refused, undone or tried by
itself, nobody has a second device or a wish, no call is tried again, no endpoint is paused, nothing
is read from the database.

The parts, each on top of those before it:

- `calls`: a claim and a verdict on the device's row, and between them the POST of aiohttp's client,
  with a body and headers that are the same for all
- `requests`: the request in the agreed form, signed, within its time limits, to an address that may
  be called, and a verdict on the answer: the gateway's own `push.caller`
- `outcomes`: what `ringback why` tells and the conservation law counts: the fan-out with a commit
  of its own, a push's events, its outcome, times on the conversation's row, the counters
"""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
import orjson
from aiohttp import ClientSession, TCPConnector

from bench.servers import SIGNING
from push.caller import Caller
from push.guard import meant_by
from push.ring import Claim, DeviceRef, Endpoint, Ring, RingKind, Target, VerdictKind


class Part(IntEnum):
    """How much of the promise is kept: this part, and those before it."""

    CALLS = 0
    REQUESTS = 1
    OUTCOMES = 2


SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY, customer TEXT, due_at REAL, expires_at REAL, event INTEGER
);
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, installation TEXT UNIQUE, token TEXT UNIQUE, covered INTEGER,
    badge INTEGER, owes INTEGER, wake_at REAL, ring TEXT, attempt INTEGER, verdict TEXT,
    verdict_at REAL
);
CREATE INDEX devices_wake ON devices (wake_at) WHERE wake_at IS NOT NULL;
CREATE TABLE outcomes (
    conversation INTEGER, lo INTEGER, hi INTEGER, outcome TEXT, PRIMARY KEY (conversation, lo)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, prev INTEGER, conversation INTEGER, from_seq INTEGER, seq INTEGER,
    at REAL, event TEXT, detail TEXT
);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
INSERT INTO counters VALUES ('pushed', 0), ('pending', 0);
"""
EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
FAN_OUT = "UPDATE devices SET owes = 1, wake_at = ? WHERE id = ?"
CLAIM = "UPDATE devices SET owes = 0, wake_at = ?, ring = ?, attempt = 1, badge = ? WHERE id = ?"
VERDICT = """
UPDATE devices SET ring = NULL, wake_at = NULL, attempt = 0, covered = ?, verdict = ?,
    verdict_at = ? WHERE id = ?
"""
MOVE = "UPDATE conversations SET due_at = ?, expires_at = ?, event = ? WHERE id = ?"
OUTCOME = "INSERT INTO outcomes VALUES (?, 0, 1, 'pushed')"
COUNT = "UPDATE counters SET value = value + ? WHERE name = ?"
IN_FLIGHT = 256
TEXT = "x" * 100

Step = tuple[str, tuple[Any, ...]]
"""One statement and its row."""


class Floor:
    """The writer, and the devices that wait for a call."""

    def __init__(
        self, path: Path, part: Part, url: str, headers: dict[str, str], body: bytes
    ) -> None:
        self._part = part
        self._url, self._headers, self._body = url, headers, body
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(SCHEMA)
        self._waiting: list[tuple[list[Step], asyncio.Future[None]]] = []
        self._writing = False
        self._events = 0
        self._last: dict[int, int] = {}
        self._pushed = 0
        self._endpoint = Endpoint(
            tenant="acme",
            url=url,
            auth_token="bench",
            signing_secrets=(SIGNING,),
            allow_networks=meant_by(url),
        )

    def prepare(self, customers: int) -> None:
        """Everybody is behind by one message."""
        db, expires = self._database, time.time() + 3600.0
        ids = range(1, customers + 1)
        rows = [(id, f"p-{id}", time.time(), expires, 0) for id in ids]
        devices = [(id, f"i-{id}", f"t-{id}", 0, 0, 0, None, None, 0, None, None) for id in ids]
        db.execute("BEGIN")
        db.executemany("INSERT INTO conversations VALUES (?, ?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", devices)
        db.execute("COMMIT")
        self._owed = iter([(id, f"p-{id}", f"t-{id}") for id in ids])

    async def drain(self, session: ClientSession, caller: Caller) -> None:
        """Ring for everybody, so many at a time."""

        async def bare(claim: Claim) -> VerdictKind:
            async with session.post(self._url, data=self._body, headers=self._headers) as answer:
                await answer.read()
                return VerdictKind.ACCEPTED if answer.status == 200 else VerdictKind.REFUSED

        async def own(claim: Claim) -> VerdictKind:
            verdict, _ = await caller.call(self._endpoint, claim, time.time())
            return verdict.kind

        call = own if self._part >= Part.REQUESTS else bare
        await asyncio.gather(*(self._work(call) for _ in range(IN_FLIGHT)))

    async def _work(self, call: Callable[[Claim], Any]) -> None:
        outcomes = self._part >= Part.OUTCOMES
        for id, customer, token in self._owed:
            now = time.time()
            if outcomes:
                due = self._event(id, now, "due", {"reason": "not_in_chat"})
                moved = (MOVE, (None, now + 3600.0, self._events, id))
                await self._write([due, moved, (FAN_OUT, (now, id))])
            claim = self._claim(id, customer, token, now)
            ring = msgspec.json.encode(claim.ring).decode()
            steps: list[Step] = [(CLAIM, (now, ring, 1, id))]
            if outcomes:
                about = {"device": claim.target.fingerprint}
                ringing = {"action": "ring", "reason": "not_in_chat", **about}
                claimed = {"ring": claim.ring.id, "kind": "message", "unread": 1, **about}
                steps += [
                    self._event(id, now, "look", ringing),
                    self._event(id, now, "claimed", claimed),
                    (MOVE, (None, now + 3600.0, self._events, id)),
                ]
            await self._write(steps)
            verdict = await call(claim)
            now = time.time()
            steps = [(VERDICT, (1, verdict.value, now, id))]
            if outcomes:
                told = {"ring": claim.ring.id, "verdict": verdict, "status": 200, **about}
                steps += [
                    self._event(id, now, "attempt", told),
                    self._event(id, now, "outcome", {"outcome": "pushed", "was": "pending"}),
                    (OUTCOME, (id,)),
                    (MOVE, (None, None, self._events, id)),
                ]
                self._pushed += 1
            await self._write(steps)

    def _claim(self, id: int, customer: str, token: str, now: float) -> Claim:
        ring = Ring(
            id=f"r_{id:016x}",
            kind=RingKind.MESSAGE,
            customer=customer,
            seq=1,
            title=None,
            text=TEXT,
            unread=1,
            badge_seq=1,
            live=True,
            expires_at=now + 3600.0,
            claimed_at=now,
        )
        ref = DeviceRef("acme", customer, id)
        return Claim(ref, 1, ring, Target(token, f"{id:012x}"), attempt=1)

    def _event(self, id: int, now: float, event: str, detail: dict[str, Any]) -> Step:
        self._events += 1
        prev, self._last[id] = self._last.get(id, 0), self._events
        row = (self._events, prev, id, 1, 1, now, event, orjson.dumps(detail).decode())
        return EVENT, row

    # The writer

    def _write(self, steps: list[Step]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._waiting.append((steps, written))
        if not self._writing:
            self._writing = True
            self._task = loop.create_task(self._run())
        return written

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            rows: dict[str, list[tuple[Any, ...]]] = {}
            for steps, _ in batch:
                for statement, row in steps:
                    rows.setdefault(statement, []).append(row)
            pushed, self._pushed = self._pushed, 0
            await asyncio.to_thread(self._commit, rows, pushed)
            for _, written in batch:
                written.set_result(None)
        self._writing = False

    def _commit(self, rows: dict[str, list[tuple[Any, ...]]], pushed: int) -> None:
        db = self._database
        db.execute("BEGIN")
        for statement, given in rows.items():
            db.executemany(statement, given)
        if pushed:
            db.executemany(COUNT, [(pushed, "pushed"), (-pushed, "pending")])
        db.execute("COMMIT")


async def main() -> None:
    path, part, url, customers, headers, body = sys.argv[1:]
    floor = Floor(Path(path), Part[part], url, json.loads(headers), body.encode())
    floor.prepare(int(customers))
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)  # as the gateway has it
    print("{}", flush=True)
    async with ClientSession(connector=TCPConnector(limit=0)) as session, Caller() as caller:
        await floor.drain(session, caller)
    await asyncio.Event().wait()
