"""What operators see in numbers, in Prometheus' exposition format.

Made from returned values and from the store's counters, never inside a decision. Labels are the
tenant and words of ours; never a customer, a token or a text (I10).
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from gateway.delivery import Decision
from gateway.hub import Hub
from push.ring import Attempt, Claim, VerdictKind
from push.verdicts import Failure
from push.worker import Load
from storage.campaigns import Campaign
from storage.deadletters import Cause
from storage.records import Outcome
from storage.store import Store

_OF_ENDPOINTS: tuple[tuple[str, str, Callable[[Load], int]], ...] = (
    ("waiting", "Devices that wait for their turn at the customer backend", lambda x: x.waiting),
    ("calling", "Devices that are being looked at or called for", lambda x: x.working),
    ("down", "1 while the customer backend fails and one ring at a time tries", lambda x: x.open),
    ("suspended", "1 while it has failed for longer than suspend_after", lambda x: x.suspended),
)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class Metrics:
    """One registry for one gateway."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        loads: Callable[[], Mapping[tuple[str, str], Load]],
        campaigns: Callable[[], list[Campaign]],
    ) -> None:
        """`loads` tells how each endpoint is, by tenant and backend, and what waits for it;
        `campaigns`, every campaign that is not over.
        """
        self._store = store
        self._hub = hub
        self._loads = loads
        self._open_campaigns = campaigns
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.looks = Counter(
            "ringback_looks_total",
            "Looks of the push worker at a device, by what they decided and why",
            ("tenant", "action", "reason"),
            registry=self.registry,
        )
        self.attempts = Counter(
            "ringback_push_attempts_total",
            "Calls to customer backends, by verdict",
            ("tenant", "verdict", "reason"),
            registry=self.registry,
        )
        self.calls = Histogram(
            "ringback_push_seconds",
            "Duration of calls to customer backends",
            ("tenant",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rings = Histogram(
            "ringback_ring_seconds",
            "Time from a ring's claim to the customer backend's acceptance, retries included",
            ("tenant",),
            buckets=(*SECONDS, 60.0, 300.0, 3600.0),
            registry=self.registry,
        )
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
        self.dead_letters = Counter(
            "ringback_dead_letters_total",
            "Rings that were given up: refused, or expired while they were retried",
            ("tenant", "cause"),
            registry=self.registry,
        )
        self.faults = Counter(
            "ringback_faults_total", "Errors that are a fault of ours", registry=self.registry
        )
        self.draining = Gauge("ringback_draining", "1 while shutting down", registry=self.registry)
        # What every ring counts is found at once, not looked up anew by its labels.
        self._looks, self._attempts = cache(self.looks.labels), cache(self.attempts.labels)
        self._calls, self._rings = cache(self.calls.labels), cache(self.rings.labels)

    def collect(self) -> Iterable[Metric]:
        """What is read when asked: the conservation law (I2), sessions, the writer."""
        messages = GaugeMetricFamily(
            "ringback_messages",
            "Agent and proactive messages: accepted = acked + pushed + expired + undeliverable"
            " + pending",
            labels=("tenant", "outcome"),
        )
        for (tenant, name), value in sorted(self._store.counters.items()):
            messages.add_metric((tenant, name), value)
        yield messages
        unbalanced = GaugeMetricFamily(
            "ringback_unbalanced_messages",
            "accepted less all outcomes and pending: 0, or a fault of ours",
            labels=("tenant",),
        )
        for tenant in sorted({tenant for tenant, _ in self._store.counters}):
            unbalanced.add_metric((tenant,), self._unbalanced(tenant))
        yield unbalanced
        sessions = GaugeMetricFamily("ringback_sessions", "Open sessions", labels=("state",))
        for state, count in self._hub.counts().items():
            sessions.add_metric((state,), count)
        yield sessions
        yield from self._campaigns()
        yield from self._endpoints()
        yield GaugeMetricFamily(
            "ringback_writer_waiting", "Changes waiting for a commit", self._store.waiting
        )
        yield CounterMetricFamily(
            "ringback_writer_commits_total", "Commits since the start", self._store.commits
        )

    def _endpoints(self) -> Iterable[Metric]:
        loads = self._loads()
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
        for c in self._open_campaigns():
            there[c.tenant, c.state.value] += 1
            to_send[c.tenant] += c.left
        for slot, count in sorted(there.items()):
            campaigns.add_metric(slot, count)
        for tenant, count in sorted(to_send.items()):
            left.add_metric((tenant,), count)
        yield campaigns
        yield left

    def _unbalanced(self, tenant: str) -> int:
        counters = self._store.counters
        accounted = sum(counters[tenant, outcome.value] for outcome in Outcome)
        return counters[tenant, "accepted"] - accounted

    def decided(self, tenant: str, decision: Decision) -> None:
        self._looks(tenant, decision.action.value, decision.reason.value).inc()

    def attempted(self, claim: Claim, attempt: Attempt) -> None:
        tenant, verdict = claim.ref.tenant, attempt.verdict
        self._attempts(tenant, verdict.kind.value, verdict.reason).inc()
        self._calls(tenant).observe(attempt.ms / 1000)
        if verdict.reason == Failure.INTERNAL:
            self.faults.inc()
        if verdict.kind is VerdictKind.ACCEPTED:
            self._rings(tenant).observe(max(0.0, attempt.at - claim.ring.claimed_at))

    def buried(self, tenant: str, cause: Cause) -> None:
        self.dead_letters.labels(tenant, cause.value).inc()

    def recipients(self, tenant: str, result: str, many: int) -> None:
        self._recipients.labels(tenant, result).inc(many)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self.registry)
