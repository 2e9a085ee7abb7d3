"""Whether an endpoint may be called now: a circuit breaker, as a pure state machine.

Theory of operation. A backend that is down fails every call, each after its whole timeout; without
a breaker every device of the tenant would try it, and try again. So an endpoint has one of these
states, `Health` being all that is remembered::

            failures of several devices in a row              a call succeeds
    CLOSED ──────────────────────────────────> OPEN <─────────────────────────┐
      ^  calls go out                           │  rings wait, nothing is called │
      │                                         │ `until` has passed: PROBE      │
      │            it succeeds                  v                    it fails    │
      └──────────────────────────────────── PROBING ──────────────────────────┘
                                            one call is out    (open again, for twice as long)

When an endpoint has not succeeded once for `suspend_after`, it is *suspended*: open as before,
with probes further apart, and somebody has to be told. One success at any time closes it.

What fails for one device only is no outage: a ring that the backend cannot digest is paced by its
own back-off, and does not stop the others. Success is any answer of a backend that does its work,
a dead token and a refusal included.

Decides: may a call go out, and what its result changes. Leaves to `push.worker` the calls, and
telling operators. Times in epoch seconds; no clock is known here. After a restart it is closed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from push.ring import RETRIED, Endpoint, Pause, Verdict
from push.verdicts import Failure

PROBE_MOST: Final = 60.0  # seconds between probes: a backend that is back is soon found out
SUSPENDED_PROBE: Final = 600.0  # the same for a suspended endpoint
_DOUBLINGS: Final = 32


class Permit(msgspec.Struct, frozen=True):
    """Whether a call may go out now: with a `pause`, which says why, none, and `until` till when
    (None while a probe is out); with `probe` one, to try.
    """

    pause: Pause | None = None
    until: float | None = None
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What is remembered of one endpoint. The default is a closed breaker."""

    failures: int = 0  # in a row
    device: Hashable = None  # whose the last of them was
    several: bool = False  # not all of them were that one's
    failing_since: float | None = None
    until: float | None = None  # open: no call before then
    opened: int = 0  # how often in a row it was opened, each probe that failed included
    probing: bool = False
    suspended: bool = False

    @property
    def open(self) -> bool:
        """Calls do not go out as they come."""
        return self.until is not None


WELL: Final = Health()


def ask(health: Health, now: float) -> Permit:
    """May a call go out now? If it is a probe, the caller sets `probing` by `probe`."""
    if health.until is None:
        return Permit()
    pause = Pause.SUSPENDED if health.suspended else Pause.ENDPOINT_DOWN
    if health.probing:
        return Permit(pause)
    if now < health.until:
        return Permit(pause, health.until)
    return Permit(probe=True)


def probe(health: Health) -> Health:
    """One call is tried."""
    return replace(health, probing=True)


def unused(health: Health) -> Health:
    """The probe came to nothing without a call: another may be made."""
    return replace(health, probing=False)


def after(
    health: Health,
    verdict: Verdict,
    device: Hashable,
    now: float,
    endpoint: Endpoint,
    *,
    probed: bool = False,
) -> Health:
    """What is known after a call to `device` came to `verdict`; `probed` if it was the probe."""
    if verdict.kind not in RETRIED:
        return WELL
    if verdict.reason == Failure.MOVED:  # nothing was called
        return health
    wait = verdict.retry_after or 0.0
    if health.until is not None and not probed:  # begun before it opened: news of no weight
        return replace(health, until=max(health.until, now + wait))
    since = now if health.failing_since is None else health.failing_since
    failing = replace(
        health,
        failures=health.failures + 1,
        device=device,
        several=health.several or (health.failures > 0 and device != health.device),
        failing_since=since,
    )
    suspended = now - since >= endpoint.suspend_after
    if failing.failures < endpoint.breaker_after or not (failing.several or suspended):
        return failing
    pause = SUSPENDED_PROBE if suspended else _pause(health.opened, endpoint)
    return replace(
        failing,
        until=now + max(wait, pause),
        opened=health.opened + 1,
        probing=False,
        suspended=suspended,
    )


def _pause(opened: int, endpoint: Endpoint) -> float:
    """Seconds until the next probe: as retries are paced, without jitter, but never very long."""
    most = min(endpoint.retry_max, PROBE_MOST)
    return min(most, endpoint.retry_first * 2.0 ** min(opened, _DOUBLINGS))
