"""What operators see in numbers, in Prometheus' exposition format.

Made from returned values and from the store's counters, never inside a decision. Labels are the
tenant and words of ours; never a customer, a token or a text (I10).

With a thousand tenants there are tens of thousands of figures, and writing them down takes longer
than anybody may be kept waiting: so what is (`Metrics.now`) is taken at once, and its text can be
made in another thread; and one tenant's figures are found without a look at the others'.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

from gateway.delivery import Decision
from gateway.hub import Hub
from push.ring import ACCEPTED, Attempt, Claim
from push.verdicts import Failure
from push.worker import Load
from storage.campaigns import Campaign
from storage.deadletters import Cause
from storage.records import DeviceState, Outcome
from storage.store import Store

_OF_ENDPOINTS: tuple[tuple[str, str, Callable[[Load], int]], ...] = (
    ("waiting", "Devices that wait for their turn at the customer backend", lambda x: x.waiting),
    ("calling", "Devices that are being looked at or called for", lambda x: x.working),
    ("down", "1 while the customer backend fails and one ring at a time tries", lambda x: x.open),
    ("suspended", "1 while it has failed for longer than suspend_after", lambda x: x.suspended),
)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class Seconds:
    """Durations, counted as Prometheus' histograms are."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.sum = 0.0
        self._bounds = bounds
        self._each = [0] * (len(bounds) + 1)

    def observe(self, seconds: float) -> None:
        self._each[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[float, int]]:
        """Upper bounds, rising, with how many were at or below each; the last is infinite."""
        return list(zip((*self._bounds, math.inf), accumulate(self._each), strict=True))


ByTenant = defaultdict[str, Tally[tuple[str, ...]]]
"""Numbers that only rise, by tenant and further labels."""


class _Now(NamedTuple):
    """What is read when asked, as it was then: the conservation law (I2), sessions, the writer."""

    counters: Tally[tuple[str, str]]
    sessions: Mapping[str, int]
    campaigns: list[Campaign]
    loads: Callable[[], Mapping[tuple[str, str], Load]]
    waiting: int
    commits: int
    refused: int
    failing: bool

    def collect(self) -> Iterable[Metric]:
        messages = GaugeMetricFamily(
            "ringback_messages",
            "Agent and proactive messages: accepted = acked + pushed + expired + undeliverable"
            " + pending",
            labels=("tenant", "outcome"),
        )
        tenants = sorted({tenant for tenant, _ in self.counters})
        for tenant in tenants:
            for name in ("accepted", *Outcome):
                messages.add_metric((tenant, name), self.counters[tenant, name])
        yield messages
        unbalanced = GaugeMetricFamily(
            "ringback_unbalanced_messages",
            "accepted less all outcomes and pending: 0, or a fault of ours",
            labels=("tenant",),
        )
        for tenant in tenants:
            unbalanced.add_metric((tenant,), self._unbalanced(tenant))
        yield unbalanced
        sessions = GaugeMetricFamily("ringback_sessions", "Open sessions", labels=("state",))
        for state, count in self.sessions.items():
            sessions.add_metric((state,), count)
        yield sessions
        yield from self._campaigns()
        yield from self._endpoints()
        yield GaugeMetricFamily(
            "ringback_writer_waiting", "Changes waiting for a commit", self.waiting
        )
        yield CounterMetricFamily(
            "ringback_writer_commits_total", "Commits since the start", self.commits
        )
        yield CounterMetricFamily(
            "ringback_writer_refused_total", "Commits that the disk refused", self.refused
        )
        yield GaugeMetricFamily(
            "ringback_writer_failing", "1 while the disk refuses what is written", self.failing
        )

    def _endpoints(self) -> Iterable[Metric]:
        loads = self.loads()
        for name, meaning, value in _OF_ENDPOINTS:
            metric = GaugeMetricFamily(
                f"ringback_push_{name}", meaning, labels=("tenant", "backend")
            )
            for key, load in loads.items():
                metric.add_metric(key, value(load))
            yield metric

    def _campaigns(self) -> Iterable[Metric]:
        campaigns = GaugeMetricFamily(
            "ringback_campaigns", "Campaigns that are not over", labels=("tenant", "state")
        )
        left = GaugeMetricFamily(
            "ringback_campaign_left", "Recipients still to be sent to", labels=("tenant",)
        )
        there: Tally[tuple[str, str]] = Tally()
        to_send: Tally[str] = Tally()
        for c in self.campaigns:
            there[c.tenant, c.state.value] += 1
            to_send[c.tenant] += c.left
        for slot, count in sorted(there.items()):
            campaigns.add_metric(slot, count)
        for tenant, count in sorted(to_send.items()):
            left.add_metric((tenant,), count)
        yield campaigns
        yield left

    def _unbalanced(self, tenant: str) -> int:
        accounted = sum(self.counters[tenant, outcome.value] for outcome in Outcome)
        return self.counters[tenant, "accepted"] - accounted


class Metrics:
    """One registry for one gateway."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        loads: Callable[[], Mapping[tuple[str, str], Load]],
        campaigns: Callable[[], list[Campaign]],
        tenants: Iterable[str],
    ) -> None:
        """`loads` tells how each endpoint is, by tenant and backend, and what waits for it,
        from any thread; `campaigns`, every campaign that is not over; `tenants` are those served.
        """
        self._store = store
        self._hub = hub
        self._loads = loads
        self._open_campaigns = campaigns
        self.registry = CollectorRegistry()
        self.looks = ByTenant(Tally)
        self.attempts = ByTenant(Tally)
        self.dead_letters = ByTenant(Tally)
        self._rejected_tokens = ByTenant(Tally)
        self.calls = defaultdict[str, Seconds](partial(Seconds, SECONDS))
        self.rings = defaultdict[str, Seconds](partial(Seconds, (*SECONDS, 60.0, 300.0, 3600.0)))
        self._rejected = Counter(
            "ringback_rejected_sockets_total",
            "Sockets turned away, by reason",
            ("reason",),
            registry=self.registry,
        )
        self._refused = Counter(
            "ringback_refused_calls_total",
            "Calls of the HTTP API whose token was not accepted, by reason",
            ("reason",),
            registry=self.registry,
        )
        self._recipients = Counter(
            "ringback_campaign_recipients_total",
            "Recipients of campaigns, by what became of them: sent, or why skipped",
            ("tenant", "result"),
            registry=self.registry,
        )
        for tenant in tenants:  # begins at 0: in what was not there Prometheus sees no rise
            for cause in Cause:
                self.dead_letters[tenant][cause.value,] = 0
            for state in (DeviceState.DEAD, DeviceState.QUARANTINED):
                self._rejected_tokens[tenant][state.value,] = 0
        self.faults = Counter(
            "ringback_faults_total", "Errors that are a fault of ours", registry=self.registry
        )
        self.draining = Gauge("ringback_draining", "1 while shutting down", registry=self.registry)
        ProcessCollector(registry=self.registry)  # open files among others; only on Linux

    def decided(self, tenant: str, decision: Decision) -> None:
        self.looks[tenant][decision.action, decision.reason] += 1

    def attempted(self, claim: Claim, attempt: Attempt) -> None:
        tenant, verdict = claim.ref.tenant, attempt.verdict
        self.attempts[tenant][verdict.kind, verdict.reason] += 1
        self.calls[tenant].observe(attempt.ms / 1000)
        if verdict.kind is ACCEPTED:
            self.rings[tenant].observe(max(0.0, attempt.at - claim.ring.claimed_at))
        elif verdict.reason == Failure.INTERNAL:
            self.faults.inc()

    def buried(self, tenant: str, cause: Cause) -> None:
        self.dead_letters[tenant][cause.value,] += 1

    def rejected_token(self, tenant: str, state: DeviceState) -> None:
        self._rejected_tokens[tenant][state.value,] += 1

    def recipients(self, tenant: str, result: str, many: int) -> None:
        self._recipients.labels(tenant, result).inc(many)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def now(self) -> Callable[[], bytes]:
        """Everything as it is now; its text format is made by whoever calls what is returned, in
        any thread."""
        now = _Now(
            Tally(self._store.counters),
            self._hub.counts(),
            self._open_campaigns(),
            self._loads,
            self._store.waiting,
            self._store.commits,
            self._store.refused,
            self._store.failing,
        )
        return lambda: generate_latest(now) + generate_latest(self) + generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """What was counted of each tenant, from any thread."""
        yield _risen(
            "ringback_looks_total",
            "Looks of the push worker at a device, by what they decided and why",
            ("action", "reason"),
            self.looks,
        )
        yield _risen(
            "ringback_push_attempts_total",
            "Calls to customer backends, by verdict",
            ("verdict", "reason"),
            self.attempts,
        )
        yield _taken("ringback_push_seconds", "Duration of calls to customer backends", self.calls)
        yield _taken(
            "ringback_ring_seconds",
            "Time from a ring's claim to the customer backend's acceptance, retries included",
            self.rings,
        )
        yield _risen(
            "ringback_dead_letters_total",
            "Rings that were given up: refused, or expired while they were retried",
            ("cause",),
            self.dead_letters,
        )
        yield _risen(
            "ringback_rejected_registrations_total",
            "Registrations whose token the customer backend called dead: given up as dead, or"
            " quarantined in a wave",
            ("state",),
            self._rejected_tokens,
        )


def _risen(name: str, meaning: str, labels: tuple[str, ...], of: ByTenant) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=("tenant", *labels))
    for tenant, mine in list(of.items()):  # meanwhile others may be added
        for found, many in list(mine.items()):
            family.add_metric((tenant, *found), many)
    return family


def _taken(name: str, meaning: str, of: Mapping[str, Seconds]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=("tenant",))
    for tenant, mine in list(of.items()):
        told = [("+Inf" if math.isinf(high) else str(high), many) for high, many in mine.buckets()]
        family.add_metric((tenant,), told, mine.sum)
    return family
