"""After a fault: what became of every message, from the database and the backend's log.

A fault test notes what senders were told (`Confirmed`), hurts the gateway, lets everything settle,
and then calls `audit`. Nothing of the project's own code decides here: `tests.recount` reads the
rows, and the backend's log says what was rung.

Each fault is a coroutine `(directory, scale) -> Result`; the tests run it at a small scale and
assert `Result.clean`, `make soak` runs it at a large one and prints the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests import recount
from tests.running import Call


class Confirmed(NamedTuple):
    """A send whose sender was told `sent` (or 201): it must never be lost again."""

    customer: str
    seq: int
    id: str
    text: str
    tenant: str = "acme"


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table. Everything after `sends` is a list of what went wrong, one line each.

    `repeated` counts calls that repeat a ring under the same id with the same body after the
    backend had accepted it: what a crash between its answer and our commit cannot avoid.
    """

    fault: str
    injected: int
    sends: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unaccounted: list[str] = field(default_factory=list)
    repeated: int = 0
    note: str = ""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unaccounted)


def audit(
    fault: str,
    injected: int,
    path: Path,
    confirmed: Iterable[Confirmed],
    calls: Iterable[Call],
    *,
    settled: bool = True,
    note: str = "",
) -> Result:
    """Account for every message. `settled`: nothing may be pending any more."""
    sends = list(confirmed)
    log = list(calls)
    lost: list[str] = []
    unaccounted: list[str] = []
    try:
        told = recount.check(path)
    except AssertionError as broken:
        return Result(fault, injected, len(sends), [], [], [str(broken)], note=note)
    rows = {(m.tenant, m.customer, m.seq): m for m in told}
    with recount.reading(path) as db:
        everything = {
            (tenant, customer, seq): (id, text)
            for tenant, customer, seq, id, text in db.execute(
                "SELECT c.tenant, c.customer, m.seq, m.id, m.text FROM messages m"
                " JOIN conversations c ON c.id = m.conversation"
            )
        }
        claims = recount.claims(db)
    for send in sends:
        found = everything.get((send.tenant, send.customer, send.seq))
        if found != (send.id, send.text):
            lost.append(f"{send.customer} {send.seq}: sent as {send.id}, found {found}")
    rung = _rung(log)
    for key, message in rows.items():
        place = f"{message.customer} {message.seq}"
        if settled and message.outcome == "pending":
            unaccounted.append(f"{place}: still pending")
        if message.outcome == "pushed" and rung.get(key[:2], 0) < message.seq:
            unaccounted.append(f"{place}: pushed, but the backend accepted no ring that covers it")
    unaccounted += [
        f"{claim.customer} {claim.seq}: rung, though acked before the claim"
        for claim in claims
        if claim.kind != "badge" and claim.seq <= claim.acked_before
    ]
    doubled, repeated = _doubled(log)
    return Result(
        fault, injected, len(sends), lost, doubled, unaccounted, repeated=repeated, note=note
    )


def _tenant(call: Call) -> str:
    """Tests ring one backend; with more tenants than one, the path names the tenant."""
    return call.headers.get("X-Tenant", "acme")


def _rung(log: list[Call]) -> dict[tuple[str, str], int]:
    """How far the backend accepted rings for each customer."""
    far: dict[tuple[str, str], int] = {}
    for call in log:
        if call.ring["kind"] != "badge" and call.accepted:
            key = (_tenant(call), call.ring["customer"])
            far[key] = max(far.get(key, 0), call.ring["seq"])
    return far


def _doubled(log: list[Call]) -> tuple[list[str], int]:
    """Rings of different ids to one device that cover the same message; and repeats under one id.

    Per device, each accepted ring's newest message lies beyond those of the rings before it. A
    ring repeated under its id must have the same body.
    """
    doubled: list[str] = []
    repeated = 0
    bodies: dict[str, bytes] = {}
    accepted: set[str] = set()
    far: dict[tuple[str, str, str], int] = {}
    for call in log:
        ring, id = call.ring, call.ring["id"]
        if bodies.setdefault(id, call.raw) != call.raw:
            doubled.append(f"{ring['customer']} {ring['seq']}: another body under the id {id}")
        if not call.accepted:
            continue
        if id in accepted:
            repeated += 1
            continue
        accepted.add(id)
        if ring["kind"] == "badge":
            continue
        device = (_tenant(call), ring["customer"], call.body["deviceToken"])
        if ring["seq"] <= far.get(device, 0):
            doubled.append(f"{ring['customer']} {ring['seq']}: rung twice, the second as {id}")
        far[device] = max(far.get(device, 0), ring["seq"])
    return doubled, repeated
