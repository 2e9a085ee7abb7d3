"""`ringback push test`: one real test notification, and all that can be said of it.

Decides whom it goes to and with which numbers. It reads the database beside a running gateway and
writes nothing: no message, no outcome, no registration changes, whatever the backend answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.commands.common import plain
from gateway.config.sections import Storage
from gateway.kit import probe
from gateway.kit.advice import what_to_do
from push.caller import Caller, Exchange
from push.ring import Endpoint, Ring, RingKind, VerdictKind
from storage.records import Device
from storage.store import Store


class NoDevice(Exception):
    """There is no such registration; `str()` says so in one line."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a test ring goes to. The numbers are those that the phone shows anyway."""

    token: str
    customer: str = probe.CUSTOMER
    seq: int = 1
    unread: int = 1
    badge_seq: int = 1
    live: bool = True
    device: Device | None = None


async def recipient(storage: Storage, tenant: str, installation: str) -> Recipient:
    """Return who has this installation, from the database.

    Raises `NoDevice`, and `storage.errors.CannotOpen`.
    """
    async with Store.beside(storage.path, storage.keys) as store:
        c = await store.owner_of(tenant, installation)
    if c is None:
        raise NoDevice(f"tenant {tenant} has no installation {installation!r}")
    device = next(d for d in c.devices if d.installation == installation)
    return Recipient(device.token, c.customer, c.last_seq, c.unread, c.badge_seq, c.live, device)


def ring_for(to: Recipient, *, silent: bool, title: str, text: str) -> Ring:
    """Return the test ring: a message, or with `silent` a badge that says what the icon says."""
    device = to.device
    return probe.ring(
        kind=RingKind.BADGE if silent else RingKind.MESSAGE,
        customer=to.customer,
        seq=to.seq,
        title=None if silent else title,
        text=None if silent else text,
        unread=to.unread,
        badge_seq=to.badge_seq,
        live=to.live,
        platform=device and device.platform,
        app=device and device.app,
        environment=device and device.environment,
        locale=device and device.locale,
        installation=device and device.installation,
    )


async def ring(endpoint: Endpoint, ring: Ring, token: str) -> Exchange:
    """Send it, once."""
    async with Caller() as caller:
        return await caller.exchange(
            endpoint, probe.claim_of(ring, token, endpoint.tenant), time.time()
        )


def show(exchange: Exchange, endpoint: Endpoint, to: Recipient) -> None:
    """Print request, answer, verdict and what to do."""
    told = probe.told(exchange, endpoint, to.token)
    if to.device is not None and not to.device.live:
        print(f"note: this registration is {to.device.state}: a real ring would not be sent to it")
    came = f"came, after {exchange.ms:.0f} ms"
    for title, lines in (("sent", told["sent"]), (came, told["came"])):
        print(title)
        print("".join(f"  {plain(line)}".rstrip() + "\n" for line in lines), end="")
    verdict = exchange.verdict
    print(f"verdict: {verdict.kind} ({verdict.reason})")
    advised = what_to_do(verdict)
    print(advised if advised.endswith("?") else f"{advised}.")


def as_json(exchange: Exchange, endpoint: Endpoint, to: Recipient) -> dict[str, object]:
    """The same for machines."""
    verdict = exchange.verdict
    return {
        **probe.told(exchange, endpoint, to.token),
        "status": verdict.status,
        "todo": what_to_do(verdict),
        "accepted": verdict.kind is VerdictKind.ACCEPTED,
    }
