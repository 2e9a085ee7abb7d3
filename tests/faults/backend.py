"""Answers of every kind from a customer backend, and backends that cannot be reached.

What the backend does to whom is chosen by the device token, so that one run shows many kinds of
misbehaviour side by side; kinds that happen before a request can be read have a tenant and a port
of their own.
"""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from tests import recount
from tests.faults import hostile as bad
from tests.faults.accounts import Result, audit
from tests.faults.hostile import Behaviour, Hostile, hostile, status
from tests.faults.process import ROOMY, process
from tests.faults.steps import (
    ATTEMPTS,
    PUSH,
    attempts,
    database,
    found_wrong,
    rung,
    settled,
)
from tests.running import QUICK, Call

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
BUFFERS = 20  # MB that the system may hold of an answer that nobody reads
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
        f"{call.ring['customer']}: {call.headers['X-Flooded']} MB of an answer were read"
        for call in calls
        if int(call.headers.get("X-Flooded", 0)) > BUFFERS
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


LONG: tuple[Callable[[Path], Awaitable[Result]], ...] = (
    partial(answers, each=100),
    partial(unreachable, each=100),
)
