"""Power loss, after every prefix of what a gateway wrote: the unsynced may be gone or half there.

A real gateway runs under load, is killed, started again and stopped, all recorded by strace
(`tests.faults.recording`). Then a model of a disk (`tests.faults.volatile`) replays the recording.
Each cut is written out as real files, recounted, and opened by the real storage. What a sender was
told before the cut must be there, and so must the claim of every ring that had left.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosedError

from gateway.protocol import CloseCode, Role
from storage.database import Database
from storage.errors import StorageError
from storage.schema import MIGRATIONS
from storage.store import Store
from tests import recount
from tests.faults.accounts import Result
from tests.faults.process import ROOMY, Process, process
from tests.faults.recording import Event, Rang, Sent, Synced, read, wrapper
from tests.faults.served import served
from tests.faults.volatile import Disk
from tests.running import PATIENCE, Wire, backend

DELIVERY = {
    "ack_timeout": 0.1,
    "disconnect_grace": 0.05,
    "restart_window": 0.05,
    "restart_grace": 0.1,
    "max_hold": 1.0,
}
CHECKPOINT = 40  # pages: the WAL is checkpointed and begun anew every few commits
NAME = "ringback.db"


class Scale(NamedTuple):
    """`cuts` at random places, or None for every place; each is tried `tries` times."""

    sends: int
    cuts: int | None
    tries: int = 1
    seed: int = 1
    level: str = "FULL"
    failing: int = 0
    """Every connection's sync of this number fails: the writer gives the connection up then,
    unless it was folding the log back: that is tried again."""


# The recording


@dataclass(slots=True)
class Recording:
    """What a gateway did, and the text that each ref was sent with."""

    events: list[Event]
    texts: dict[str, str]
    told: dict[str, str]
    """By ref, the id that the sender's socket really received."""


async def record(
    directory: Path, sends: int, level: str = "FULL", inject: Sequence[str] = ()
) -> Recording:
    """Run a gateway under load, kill it half way, start it again, and stop it."""
    recording = Recording([], {}, {})
    async with backend() as ears:
        for run in range(2):
            trace = directory / f"trace-{run}"
            async with process(
                directory,
                ears,
                wrapped_in=wrapper(trace, *inject),
                command=served(level, CHECKPOINT),
                delivery=DELIVERY,
                limits=ROOMY,
            ) as it:
                await _load(it, sends // 2, recording)
                if run == 0:
                    await _kill_in_the_middle(it, recording.texts)
                else:
                    await it.stop()
            recording.events += read(trace, directory / NAME)
    return recording


async def _load(it: Process, sends: int, recording: Recording) -> None:
    """Customers of several kinds; an agent who sends a few at a time, and some more."""
    texts, told = recording.texts, recording.told
    agent = await it.agent()
    reading = []
    for i in range(6):
        name = f"c-{i}"
        if i < 4:
            device = {"token": f"token-{i}", "platform": "ios"}
            await _ask(it, "PUT", f"/v1/devices/phone-{i}", Role.CUSTOMER, name, json=device)
        if i in (2, 3, 4):
            customer = await _come(it, name)
            if i != 3:
                reading.append(asyncio.create_task(_acknowledge(customer)))
        elif i == 5:
            hello = {"customer": name, "text": f"hello {len(texts)}"}
            key = {"Idempotency-Key": hello["text"]}
            await _ask(it, "POST", "/v1/messages", Role.SERVICE, "crm", json=hello, headers=key)
    refs = [ref for ref in texts if ref not in told]
    fresh = [f"r{i}" for i in range(len(texts), len(texts) + sends)]
    texts.update((ref, f"text of {ref}") for ref in fresh)
    refs += fresh
    width = 1
    while refs:
        now, refs = refs[:width], refs[width:]
        told.update(await confirmed(agent, {ref: texts[ref] for ref in now}))
        width = width % 7 + 1
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def _ask(it: Process, *what: Any, **options: Any) -> None:
    """Again, until the disk has confirmed it."""
    while True:
        status, told = await it.call(*what, **options)
        if status in (200, 201):
            return
        assert status == 503, told


async def _come(it: Process, name: str) -> Wire:
    """Again, if the disk did not confirm who is new."""
    while True:
        try:
            return await it.customer(name)
        except ConnectionClosedError as error:
            if error.rcvd is None or error.rcvd.code != CloseCode.SERVER_FAULT:
                raise


async def confirmed(agent: Wire, texts: dict[str, str]) -> dict[str, str]:
    """Send at once, each again until it is confirmed; the ids by ref."""
    ids: dict[str, str] = {}
    for ref, text in texts.items():
        await _send(agent, ref, text)
    while len(ids) < len(texts):
        frame = await agent.next()
        if frame["type"] == "sent":
            ids[frame["ref"]] = frame["id"]
        elif frame["type"] == "error":
            assert frame["code"] == "unavailable", frame
            await _send(agent, frame["ref"], texts[frame["ref"]])
    return ids


async def _send(agent: Wire, ref: str, text: str) -> None:
    await agent.send("send", ref=ref, customer=f"c-{int(ref[1:]) % 6}", text=text)


async def _acknowledge(customer: Wire) -> None:
    while True:
        message = await customer.take("message")
        await customer.send("ack", seq=message["seq"])


async def _kill_in_the_middle(it: Process, texts: dict[str, str]) -> None:
    """Send more, and kill while their commits are on the way."""
    agent = await it.agent()
    for i in range(len(texts), len(texts) + 30):
        texts[f"r{i}"] = f"text of r{i}"
        await _send(agent, f"r{i}", texts[f"r{i}"])
    await agent.next()  # a `sent`; or, where just their sync fails, that none is confirmed
    await it.kill()


# The verdict


async def power_loss(directory: Path, scale: Scale) -> Result:
    """Record, cut, look."""
    async with asyncio.timeout(None if scale.cuts is None else 6 * PATIENCE):
        recording = await record(directory, scale.sends, scale.level, failing(scale.failing))
        cuts = choose(recording, scale)
        return await replay(recording, directory / "cut", scale, cuts)


AMID = 14 + len(MIGRATIONS)
"""The sync that is to fail: each migration of a new file has one, and the customers' joins."""


def failing(number: int, *more: str) -> tuple[str, ...]:
    """Options for strace: this sync of each thread fails, and whatever `more` says."""
    if not number:
        return ()
    inject = ":".join(("inject=fdatasync,fsync", "error=EIO", *more, f"when={number}"))
    return ("-e", inject)


def choose(recording: Recording, scale: Scale) -> Collection[int]:
    """After how many events the power fails."""
    everywhere = range(1, len(recording.events) + 1)
    if scale.cuts is None:
        return everywhere
    return set(Random(scale.seed).sample(everywhere, min(scale.cuts, len(everywhere))))


async def replay(recording: Recording, place: Path, scale: Scale, cuts: Collection[int]) -> Result:
    """The prefixes of these lengths, as they may be found after a power cut, and judged."""
    rng = Random(scale.seed)
    events = recording.events
    disk, told, rang = Disk(), dict[str, Sent](), set[str]()
    result = Result("power loss", 0, 0)
    for at, event in enumerate(events, 1):
        match event:
            case Sent():
                told[event.ref] = event
            case Rang():
                rang.add(event.id)
            case _:
                disk.apply(event)
        if at not in cuts:
            continue
        for _ in range(scale.tries):
            path = _write_out(place, disk.cut(rng))
            where = f"seed {scale.seed}, event {at} of {len(events)}"
            lost, broken = await _judge(path, told.values(), rang, recording.texts)
            result.lost.extend(f"{where}: {one}" for one in lost)
            result.unaccounted.extend(f"{where}: {one}" for one in broken)
    failed = sum(isinstance(event, Synced) and event.failed for event in events)
    return Result(
        f"power loss, {failed} failed syncs" if scale.failing else f"power loss, {scale.level}",
        len(cuts) * scale.tries,
        len(told),
        result.lost,
        [],
        result.unaccounted,
        note=f"{len(events)} events, seed {scale.seed}",
    )


def _write_out(place: Path, files: dict[str, bytes]) -> Path:
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place / NAME


async def _judge(
    path: Path, told: Iterable[Sent], rang: set[str], texts: dict[str, str]
) -> tuple[list[str], list[str]]:
    """What is lost, and what is broken: as plain SQLite sees it, and as the gateway opens it."""
    lost: list[str] = []
    try:
        if path.exists() and _made(path):
            recount.check(path)
            lost = _missing(path, told, rang, texts)
        else:
            lost = [f"{send.ref}: no database" for send in told]
        return lost, await _opens(path)
    except (AssertionError, sqlite3.DatabaseError, StorageError) as error:
        return lost, [f"{type(error).__name__}: {error}"]


def _made(path: Path) -> bool:
    if path.with_name(f"{path.name}-journal").exists():  # before WAL: only a writer recovers it
        with closing(sqlite3.connect(path)) as db:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    with recount.reading(path) as db:
        return bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchall())


def _missing(path: Path, told: Iterable[Sent], rang: set[str], texts: dict[str, str]) -> list[str]:
    with recount.reading(path) as db:
        rows = {ref: found for ref, *found in db.execute("SELECT ref, seq, id, text FROM messages")}
        claimed = {claim.ring for claim in recount.claims(db)}
    lost = [
        f"{send.ref} was sent as {send.id}, found {rows.get(send.ref)}"
        for send in told
        if rows.get(send.ref) != [send.seq, send.id, texts[send.ref]]
    ]
    return lost + [f"the claim of {ring}, which had left" for ring in rang - claimed]


async def _opens(path: Path) -> list[str]:
    """The gateway's own opening: it must work, count the same, and leave a whole file."""
    async with Database(path) as database:
        store = Store(database, lambda: 0.0)
        await store.start()
        counted = {slot: value for slot, value in store.counters.items() if value}
        await store.stop()
    told = recount.check(path)
    accepted = sum(value for (_, name), value in counted.items() if name == "accepted")
    return [] if accepted == len(told) else [f"{accepted} accepted, but {len(told)} are there"]


Fault = Callable[[Path], Awaitable[Result]]

LONG: Sequence[Fault] = (
    partial(power_loss, scale=Scale(sends=400, cuts=None, tries=3)),
    partial(power_loss, scale=Scale(sends=200, cuts=None, tries=2, failing=AMID)),
)
