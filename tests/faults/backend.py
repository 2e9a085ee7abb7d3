"""Everything that a customer backend can do wrong, to a real gateway process.

Each fault hurts the calls of many devices at once, lets everything settle, and accounts for every
message. What the backend does to whom is chosen by the device token, so that one run shows many
kinds of misbehaviour side by side; kinds that happen before a request can be read have a tenant
and a port of their own.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import trustme

from gateway.protocol import Role
from tests import recount
from tests.faults import hostile as bad
from tests.faults.accounts import Confirmed, Result, audit
from tests.faults.hostile import Behaviour, Exchange, Hostile, hostile, status
from tests.faults.process import ROOMY, process
from tests.running import PATIENCE, QUICK, Call, Running

R = TypeVar("R")

PUSH = {
    "timeout": 1.5,
    "connect_timeout": 1.0,
    "retry_first": 0.02,
    "retry_max": 0.1,
    "in_flight": 64,
}
SENDERS = 32  # requests of ours at a time


async def say(
    it: Running, customer: str, text: str, tenant: str = "acme", **more: Any
) -> Confirmed:
    """A message by the tenant's service, as it was confirmed."""
    told = {"customer": customer, "text": text, **more}
    code, answer = await it.call(
        "POST", "/v1/messages", Role.SERVICE, "crm", tenant=tenant, json=told
    )
    assert code == 201, answer
    return Confirmed(customer, answer["seq"], answer["id"], text, tenant)


async def chatter(it: Running, customer: str, messages: int) -> list[Confirmed]:
    """Many messages of an agent, as they were confirmed."""
    agent = await it.agent()

    async def write() -> None:
        for i in range(messages):
            await agent.send("send", ref=f"r{i}", customer=customer, text=f"text r{i}")

    writing = asyncio.create_task(write())
    confirmed: list[Confirmed] = []
    while len(confirmed) < messages:
        frame = await agent.next()
        if frame["type"] == "sent":
            text = f"text {frame['ref']}"
            confirmed.append(Confirmed(customer, frame["seq"], frame["id"], text))
    await writing
    return confirmed


async def in_turn(calls: Iterable[Callable[[], Awaitable[R]]]) -> list[R]:
    """Make many calls, a few at a time."""
    slots = asyncio.Semaphore(SENDERS)

    async def one(call: Callable[[], Awaitable[R]]) -> R:
        async with slots:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls))


async def rung(
    it: Running, customers: Iterable[tuple[str, str, str]], text: str = "hello"
) -> list[Confirmed]:
    """Register a phone for each (tenant, customer, device token), and write to them."""

    async def one(tenant: str, customer: str, token: str) -> Confirmed:
        await it.register(customer, f"phone-{customer}", token, tenant)
        return await say(it, customer, text, tenant)

    return await in_turn(partial(one, *who) for who in customers)


async def settled(directory: Path, patience: float = 6 * PATIENCE) -> None:
    """Wait until nothing is pending and no device owes anything: look into the database."""
    await database(
        directory,
        "SELECT (SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'pending')"
        " + (SELECT count(*) FROM devices WHERE wake_at IS NOT NULL)",
        lambda rows: rows == [(0,)],
        patience,
    )


async def database(
    directory: Path,
    query: str,
    enough: Callable[[list[Any]], bool],
    patience: float = 6 * PATIENCE,
) -> list[Any]:
    """Wait until the rows of `query` are enough, whatever process writes them; the rows."""
    async with asyncio.timeout(patience):
        while True:
            with recount.reading(directory / "ringback.db") as db:
                rows = db.execute(query).fetchall()
            if enough(rows):
                return rows
            await asyncio.sleep(0.02)


ATTEMPTS = (
    "SELECT c.tenant, c.customer, e.detail FROM events e"
    " JOIN conversations c ON c.id = e.conversation WHERE e.event = 'attempt' ORDER BY e.id"
)


def attempts(rows: list[Any]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Per tenant and customer, the verdicts of their attempts in order, each with its reason."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for tenant, customer, detail in rows:
        told = json.loads(detail)
        found.setdefault((tenant, customer), []).append((told["verdict"], told["reason"]))
    return found


def found_wrong(result: Result, *wrong: str) -> Result:
    """The result, with what else was found wrong."""
    return replace(result, unaccounted=[*result.unaccounted, *wrong])


# Answers of every kind


class Kind(NamedTuple):
    """A misbehaviour, the verdict that it deserves, and what becomes of the message."""

    behaviour: Behaviour
    verdict: str
    reason: str
    outcome: str = "pushed"


KINDS = {
    "hang": Kind(bad.hang, "retry", "timeout"),
    "hang_in_the_head": Kind(bad.hang_in_the_head, "retry", "timeout"),
    "dribble": Kind(bad.dribble, "retry", "timeout"),
    "late_yes": Kind(bad.late_yes, "retry", "timeout"),
    "close": Kind(bad.close, "retry", "reset"),
    "reset": Kind(bad.reset, "retry", "reset"),
    "reset_in_the_head": Kind(bad.reset_in_the_head, "retry", "reset"),
    "no_http": Kind(bad.no_http, "retry", "bad_http"),
    "overload": Kind(status(503), "retry", "http_503"),
    "no_json": Kind(bad.no_json, "accepted", "http_200"),
    "hang_in_the_body": Kind(bad.hang_in_the_body, "accepted", "http_200"),
    "dribble_the_body": Kind(bad.dribble_the_body, "accepted", "http_200"),
    "reset_in_the_body": Kind(bad.reset_in_the_body, "accepted", "http_200"),
    "flood": Kind(bad.flood, "accepted", "http_200"),
    "redirect": Kind(status(307, "Location: /elsewhere"), "misconfigured", "redirect"),
    "lost": Kind(status(404), "misconfigured", "http_404"),
    "forbidden": Kind(status(403), "misconfigured", "http_403"),
    "refused": Kind(status(422), "refused", "http_422", "undeliverable"),
    "gone": Kind(status(410), "token_dead", "http_410", "undeliverable"),
    "rejected": Kind(bad.reject, "token_dead", "rejected", "undeliverable"),
}
TWICE = 2  # how often a device is treated badly before the backend is well again


async def answers(directory: Path, each: int) -> Result:
    """Every kind of answer at once, to `each` devices; after two of them the backend is well."""
    seen: Counter[str] = Counter()

    def misbehave(call: Call) -> Behaviour | None:
        token = call.body["deviceToken"]
        seen[token] += 1
        return KINDS[token.partition("-")[0]].behaviour if seen[token] <= TWICE else None

    names = [f"{kind}-{i}" for i in range(each) for kind in KINDS]
    async with hostile() as backend:
        backend.misbehave = misbehave
        push = PUSH | {"in_flight": 512}
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=push) as it:
            sends = await rung(it, [("acme", name, name) for name in names])
            await settled(directory)
            rows = await database(directory, ATTEMPTS, bool)
            await it.stop()
    calls = backend.log.calls
    result = audit(
        "answers of every kind", sum(backend.done.values()), directory / "ringback.db", sends, calls
    )
    outcomes = {m.customer: m.outcome for m in recount.check(directory / "ringback.db")}
    return found_wrong(result, *_unlike(attempts(rows), outcomes), *_swallowed(calls))


def _unlike(
    judged: dict[tuple[str, str], list[tuple[str, str]]], outcomes: dict[str, str]
) -> list[str]:
    """Customers whose verdicts or outcome are not what the kind of their backend deserves."""
    wrong = []
    for customer, outcome in outcomes.items():
        kind = KINDS[customer.partition("-")[0]]
        expected = [(kind.verdict, kind.reason)]
        if kind.verdict in ("retry", "misconfigured"):
            expected = [*expected * TWICE, ("accepted", "http_200")]
        got = judged["acme", customer]
        if (got, outcome) != (expected, kind.outcome):
            wrong.append(f"{customer}: {got} and {outcome}, not {expected} and {kind.outcome}")
    return wrong


def _swallowed(calls: list[Call]) -> list[str]:
    return [
        f"{call.ring['customer']}: an answer of 100 MB was read"
        for call in calls
        if "X-Swallowed" in call.headers
    ]


# Backends that cannot even be reached


UNREACHABLE = {
    "down": {("retry", "connect")},
    "closing": {("retry", "reset")},
    "resetting": {("retry", "reset"), ("retry", "connect")},  # it may come while we connect
    "full": {("retry", "connect_timeout")},
    "stranger": {("misconfigured", "tls")},
    "plain": {("misconfigured", "tls")},
}
"""Tenants, and the verdicts that their backends deserve."""
TLS = ("stranger", "plain")


async def unreachable(directory: Path, each: int) -> Result:
    """Six tenants whose backends cannot be reached in six ways; then all are mended."""
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    backends = {name: Hostile() for name in UNREACHABLE}
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        for name, backend in backends.items():
            await _spoil(name, backend, theirs, stack)
            scheme = "https" if name in TLS else "http"
            prefix = f"RINGBACK_TENANTS__{name.upper()}__PUSH__"
            environment |= {
                f"{prefix}ENDPOINT": f"{scheme}://127.0.0.1:{backend.log.port}/ring/{name}",
                f"{prefix}CA_FILE": str(directory / "ca.pem"),
            }
        async with process(
            directory,
            backends["down"].log,
            environment=environment,
            delivery=QUICK,
            limits=ROOMY,
            push=PUSH,
            tenants=tuple(UNREACHABLE),
        ) as it:
            who = [(name, f"c-{i}", f"t-{i}") for name in UNREACHABLE for i in range(each)]
            sends = await rung(it, who)
            rows = await database(directory, ATTEMPTS, partial(_each_tried_twice, len(who)))
            stack.close()
            for name, backend in backends.items():
                await backend.stop()
                backend.before = None
                await backend.listen(_tls(ours) if name in TLS else None)
            await settled(directory)
            await it.stop()
        for backend in backends.values():
            await backend.stop()
    calls = [call for backend in backends.values() for call in backend.log.calls]
    result = audit("backends out of reach", len(rows), directory / "ringback.db", sends, calls)
    wrong = [
        f"{tenant}/{customer}: {got}"
        for (tenant, customer), got in attempts(rows).items()
        if not set(got) <= UNREACHABLE[tenant] | {("accepted", "http_200")}
    ]
    return found_wrong(result, *wrong)


def _each_tried_twice(customers: int, rows: list[Any]) -> bool:
    judged = attempts(rows)
    return len(judged) == customers and all(len(got) >= TWICE for got in judged.values())


async def _spoil(name: str, backend: Hostile, theirs: trustme.CA, stack: ExitStack) -> None:
    """Make a backend unreachable in its way. `stack` undoes what holds its port."""
    await backend.listen(_tls(theirs) if name == "stranger" else None)
    before = {"closing": bad.close, "resetting": bad.reset, "plain": bad.plain_http}
    backend.before = before.get(name)
    if name in ("down", "full"):
        await backend.stop()
    if name == "full":  # a listening socket that nobody accepts from, and its queue is full
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deaf.bind(("127.0.0.1", backend.log.port))
        deaf.listen(0)
        for _ in range(4):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(deaf.getsockname())


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# A long outage


async def outage(directory: Path, messages: int) -> Result:
    """500, 429 and 503, with `Retry-After` in both forms, while `messages` come for one device."""
    over = False

    async def busy_until(x: Exchange) -> None:
        await x.answer(429, f"Retry-After: {formatdate(time.time() + 2, usegmt=True)}")

    kinds = {
        "seconds": status(503, "Retry-After: 1"),
        "date": busy_until,
        "none": status(500),
    }
    plan = ["none", "none", "seconds", "none", "date"]
    done: Counter[str] = Counter()

    def misbehave(call: Call) -> Behaviour | None:
        if over:
            return None
        kind = plan[sum(done.values())] if sum(done.values()) < len(plan) else "none"
        done[kind] += 1
        return kinds[kind]

    async with hostile() as backend:
        backend.misbehave = misbehave
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
            sends = await rung(it, [("acme", "c-42", "t-42")])
            await backend.log.take()
            sends += await chatter(it, "c-42", messages - 1)
            await backend.until(lambda: sum(done.values()) > len(plan) + 3)
            over = True
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit("a long outage", sum(done.values()), directory / "ringback.db", sends, calls)
    rings = {call.ring["id"] for call in calls}
    wrong = [f"{len(rings)} rings, not 2"] if len(rings) != 2 else []
    return found_wrong(result, *wrong, *_too_soon(directory))


def _too_soon(directory: Path) -> list[str]:
    """Looks that came before the time that `Retry-After` had asked for, by the record."""
    with recount.reading(directory / "ringback.db") as db:
        rows = db.execute(
            "SELECT at, event, detail FROM events WHERE event IN ('attempt', 'look') ORDER BY id"
        ).fetchall()
    waits = [(row, later) for row, later in pairwise(rows) if row[1] == "attempt"]
    asked = [(row[0], later[0]) for row, later in waits if json.loads(row[2])["status"] == 429]
    asked += [(row[0], later[0]) for row, later in waits if json.loads(row[2])["status"] == 503]
    if len(asked) != 2:
        return [f"{len(asked)} answers with Retry-After, not 2"]
    # Both asked for a second and more; what the commit of the verdict took is not waited again.
    return [f"a retry {b - a:.3f} s after Retry-After: 1" for a, b in asked if b - a < 0.5]


# Accepted, and then the process dies


async def swallowed_answers(directory: Path, kills: int, each: int) -> Result:
    """The backend accepts `each` rings, and the gateway is killed before it can know."""
    sends: list[Confirmed] = []
    opened = asyncio.Event()

    async def accept_when_told(x: Exchange) -> None:
        await opened.wait()
        await x.answer(200)

    async with hostile() as backend:
        for kill in range(kills):
            backend.misbehave = lambda call: accept_when_told
            opened.clear()
            async with process(
                directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH | {"timeout": 60.0}
            ) as it:
                who = [("acme", f"c-{kill}-{i}", f"t-{kill}-{i}") for i in range(each)]
                sends += await rung(it, who)
                await backend.until(lambda: backend.open == each)
                it.signal(signal.SIGSTOP)
                opened.set()
                await backend.until(lambda: backend.open == 0)  # each has written its 200
                await it.kill()
            backend.misbehave = lambda call: None
            async with process(
                directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH
            ) as it:
                await settled(directory)
                await it.stop()
    result = audit(
        "accepted, then killed", kills, directory / "ringback.db", sends, backend.log.calls
    )
    if result.repeated != kills * each:  # each was accepted under its id, and then once more
        return found_wrong(result, f"{result.repeated} repeated, not {kills * each}")
    return result


# A wave of rejections


BELIEVED = 20  # dead tokens within a minute that are taken for dead


async def rejections(directory: Path, customers: int) -> Result:
    """Every token is dead, says the backend; then every app registers again."""
    names = [f"c-{i}" for i in range(customers)]
    async with hostile() as backend:
        backend.misbehave = lambda call: bad.reject if len(backend.log.calls) % 2 else status(410)
        async with process(directory, backend.log, delivery=QUICK, limits=ROOMY, push=PUSH) as it:
            sends = await rung(it, [("acme", name, f"t-{name}") for name in names])
            await settled(directory)
            reasons = dict(
                await database(
                    directory, "SELECT reason, count(*) FROM outcomes GROUP BY reason", bool
                )
            )
            rejected = len(backend.log.calls)
            backend.misbehave = lambda call: None
            await in_turn(
                partial(it.register, name, f"phone-{name}", f"t-{name}") for name in names
            )
            await database(
                directory,
                "SELECT value FROM counters WHERE name = 'pushed'",
                lambda rows: rows == [(customers,)],
            )
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit("a wave of rejections", rejected, directory / "ringback.db", sends, calls)
    expected = {"token_dead": BELIEVED, "quarantined": customers - BELIEVED}
    wrong = [] if reasons == expected else [f"{reasons}, not {expected}"]
    if rejected != customers:
        wrong.append(f"{rejected} calls to {customers} dead tokens")
    return found_wrong(result, *wrong)


# A neighbour whose backend hangs


async def neighbours(directory: Path, rings: int) -> Result:
    """All calls to one tenant's backend hang, and more wait; another tenant's rings all arrive."""
    slots = 4
    async with hostile() as backend:
        hanging = True
        backend.misbehave = lambda call: (
            bad.hang if hanging and call.headers["X-Tenant"] == "other" else None
        )
        environment = {
            "RINGBACK_TENANTS__OTHER__PUSH__ENDPOINT": f"{backend.log.url}/other",
            "RINGBACK_TENANTS__OTHER__PUSH__IN_FLIGHT": str(slots),
        }
        async with process(
            directory,
            backend.log,
            environment=environment,
            delivery=QUICK,
            limits=ROOMY,
            push=PUSH | {"timeout": 60.0},
        ) as it:
            stuck = await rung(it, [("other", f"o-{i}", f"t-{i}") for i in range(5 * slots)])
            await backend.until(lambda: backend.open == slots)
            sends = await rung(it, [("acme", f"c-{i}", f"t-{i}") for i in range(rings)])
            await database(
                directory,
                "SELECT value FROM counters WHERE name = 'pushed' AND tenant = 'acme'",
                lambda rows: rows == [(rings,)],
            )
            still, hanging = backend.open, False
            await backend.stop()  # resets the calls that hang
            await backend.listen()
            await settled(directory)
            await it.stop()
    calls = backend.log.calls
    result = audit(
        "a neighbour's backend hangs", still, directory / "ringback.db", sends + stuck, calls
    )
    return result if still == slots else found_wrong(result, f"{still} calls hung, not {slots}")


LONG: tuple[Callable[[Path], Awaitable[Result]], ...] = (
    partial(answers, each=100),
    partial(unreachable, each=100),
    partial(outage, messages=10_000),
    partial(swallowed_answers, kills=20, each=32),
    partial(rejections, customers=2_000),
    partial(neighbours, rings=2_000),
)
