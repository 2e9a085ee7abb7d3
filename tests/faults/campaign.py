"""A campaign killed again and again: every recipient gets one message and is rung once.

Everybody has a phone. The audience comes as a file with doubles in it; the first upload is cut off
by SIGKILL half-way, and comes again under the same key. Then the process is killed at random
moments while it sends and rings, and started again on its database; nobody helps it on. In the end
the backend's log is counted: one ring id for each recipient, with their own text, and a call that
repeats an id only across a kill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
import orjson
from aiohttp import web

from gateway.protocol import Role
from storage.audit import audit as recounted
from tests import recount
from tests.faults.accounts import Confirmed, Result, audit
from tests.faults.process import ROOMY, process
from tests.faults.steps import database, found_wrong, in_turn, settled
from tests.running import QUICK, Answer, Call, Running, backend

PUSH = {"retry_first": 0.02, "retry_max": 0.2, "in_flight": 64}
PATIENCE = 600.0
BOUNDARY = "the-end-of-a-part"


class Scale(NamedTuple):
    recipients: int
    kills: int
    rate: float
    seed: int = 1


async def killed(directory: Path, scale: Scale) -> Result:
    """Kill `scale.kills` times while a campaign goes to `scale.recipients`; what became of it."""
    rng = Random(scale.seed)
    deaths: list[tuple[float, float]] = []  # when it was killed, and when the next one was ready
    report: dict[str, Any] = {}
    async with backend() as ears:
        ears.otherwise = moody(rng)
        async with process(directory, ears, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
            await in_turn(partial(_register, it, i) for i in range(scale.recipients))
            await _cut_off(it, scale, directory)
        began = died = time.monotonic()
        for done in range(scale.kills + 1):
            async with process(directory, ears, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
                if done == 0:
                    await _upload(it, scale)
                else:
                    deaths.append((died, time.monotonic()))
                if done < scale.kills:
                    await _some_way_on(directory, scale, done, rng)
                    died = time.monotonic()
                    await it.kill()
                else:
                    await _over(directory)
                    report = await _report(it)
        took = time.monotonic() - began
    return _account(directory, scale, ears.calls, deaths, report, took)


async def _register(it: Running, i: int) -> None:
    await it.register(f"c-{i}", f"phone-{i}", f"token-{i}")


def moody(rng: Random) -> Answer:
    """A backend that mostly accepts; sometimes slowly, sometimes not now."""

    async def answer(call: Call) -> web.Response:
        luck = rng.random()
        if luck < 0.05:
            await asyncio.sleep(rng.random() * 0.2)
        return web.Response(status=503 if luck > 0.95 else 200)

    return answer


# The audience


def _text(i: int) -> str:
    return f"Hello name {i}, this is for you"


def _file(scale: Scale) -> Iterator[bytes]:
    """The body of the call: the campaign, then a file in which every tenth comes twice."""
    told = {"text": "Hello {name}, this is for you", "rate": scale.rate}
    for name, kind in (("campaign", "application/json"), ("recipients", "text/csv")):
        yield (
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; name={name}\r\n"
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()
        if name == "campaign":
            yield orjson.dumps(told) + b"\r\n"
    yield b"customer,name\n"
    for i in range(scale.recipients):
        yield f"c-{i},name {i}\n".encode() * (2 if i % 10 == 0 else 1)
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


async def _post(it: Running, body: Callable[[], AsyncIterator[bytes]]) -> tuple[int, Any]:
    return await it.call(
        "POST",
        "/v1/campaigns",
        Role.SERVICE,
        "crm",
        headers={
            "Idempotency-Key": "summer",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        },
        data=body(),
    )


async def _cut_off(it: Any, scale: Scale, directory: Path) -> None:
    """The process dies when half of the audience has been written."""
    half = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for n, line in enumerate(_file(scale)):
            if n == scale.recipients // 2:
                half.set()
                await asyncio.Event().wait()
            yield line

    uploading = asyncio.create_task(_post(it, body))
    await half.wait()
    if scale.recipients >= 2_000:  # fewer are not yet written at half
        await database(
            directory, "SELECT count(*) FROM campaign_recipients", lambda rows: rows[0][0] > 0
        )
    await it.kill()
    uploading.cancel()
    with suppress(asyncio.CancelledError, aiohttp.ClientError):
        await uploading


async def _upload(it: Running, scale: Scale) -> None:
    async def body() -> AsyncIterator[bytes]:
        for line in _file(scale):
            yield line

    status, told = await _post(it, body)
    assert status == 201, told
    assert (told["recipients"], told["sent"]) == (scale.recipients, 0), told


# The course


async def _some_way_on(directory: Path, scale: Scale, done: int, rng: Random) -> None:
    share = scale.recipients / (scale.kills + 1)
    wanted = share * (done + rng.uniform(0.2, 1.0))
    await database(
        directory,
        "SELECT coalesce(max(sent), 0) FROM campaigns",
        lambda rows: rows[0][0] >= wanted,
        PATIENCE,
    )
    await asyncio.sleep(rng.random() * 0.02)


async def _over(directory: Path) -> None:
    await database(
        directory,
        "SELECT count(*) FROM campaigns WHERE state NOT IN ('finished', 'discarded')",
        lambda rows: rows == [(0,)],
        PATIENCE,
    )
    await settled(directory, PATIENCE)


async def _report(it: Running) -> dict[str, Any]:
    _, told = await it.call("GET", "/v1/campaigns", Role.SERVICE)
    (campaign,) = told["campaigns"]
    _, report = await it.call("GET", f"/v1/campaigns/{campaign['id']}/report", Role.SERVICE)
    return dict(report)


# The accounts


def _account(
    directory: Path,
    scale: Scale,
    calls: list[Call],
    deaths: list[tuple[float, float]],
    report: dict[str, Any],
    took: float,
) -> Result:
    path = directory / "ringback.db"
    with recount.reading(path) as db:
        sent = [
            Confirmed(customer, seq, id, _text(int(customer.removeprefix("c-"))))
            for customer, seq, id in db.execute(
                "SELECT c.customer, m.seq, m.id FROM messages m"
                " JOIN conversations c ON c.id = m.conversation"
            )
        ]
    wrong = [f"{f.tenant}: {f.problem}" for f in recounted(path, time.time()).findings]
    if sorted(one.customer for one in sent) != sorted(f"c-{i}" for i in range(scale.recipients)):
        wrong.append(f"{len(sent)} messages for {scale.recipients} recipients")
    if (report["rung"], report["left"]) != (scale.recipients, 0):
        wrong.append(f"the report says {report}")
    wrong += _wrongly_rung(scale, calls, deaths)
    note = f"{took:.0f} s from the upload to the last ring; seed {scale.seed}"
    name = "SIGKILL amid a campaign"
    return found_wrong(audit(name, scale.kills + 1, path, sent, calls, note=note), *wrong)


def _wrongly_rung(scale: Scale, calls: list[Call], deaths: list[tuple[float, float]]) -> list[str]:
    """Recipients with another number of ring ids than one, and repeats without a kill between."""
    wrong = []
    taken: dict[str, Call] = {}
    ids: dict[str, set[str]] = {f"c-{i}": set() for i in range(scale.recipients)}
    for call in calls:
        ring = call.ring
        if not call.accepted:
            continue
        ids[ring["customer"]].add(ring["id"])
        text = call.body["payload"]["aps"]["alert"]["body"]
        if text != _text(int(ring["customer"].removeprefix("c-"))):
            wrong.append(f"{ring['customer']}: rung with another's text")
        before = taken.setdefault(ring["id"], call)
        # What a gateway had asked for when it was killed may be read a moment later.
        if before is not call and not any(
            before.at < ready and died < call.at for died, ready in deaths
        ):
            wrong.append(f"{ring['customer']}: {ring['id']} repeated with no kill between")
    wrong += [f"{who}: rung under {len(of)} ids" for who, of in ids.items() if len(of) != 1]
    return wrong


Fault = Callable[[Path], Awaitable[Result]]

LONG: Sequence[Fault] = (partial(killed, scale=Scale(recipients=20_000, kills=5, rate=2_000.0)),)
