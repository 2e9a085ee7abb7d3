"""gateway.metrics: what is counted there is written as `prometheus_client`'s own would write it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric

from gateway.metrics import SECONDS, Seconds, _taken

OBSERVED = (0.0, 0.004, 0.005, 0.0051, 0.1, 0.3, 15.0, 15.1, 4_000.0)


def test_durations_are_told_as_a_histogram_of_the_library() -> None:
    registry = CollectorRegistry()
    theirs = Histogram("taken", "How long", ("tenant",), buckets=SECONDS, registry=registry)
    ours = Seconds(SECONDS)
    for seconds in OBSERVED:
        theirs.labels("acme").observe(seconds)
        ours.observe(seconds)

    class Asked:
        def collect(self) -> Iterable[Metric]:
            return [_taken("taken", "How long", {"acme": ours})]

    expected = generate_latest(registry).decode()
    told = generate_latest(Asked()).decode()
    assert told.splitlines() == [it for it in expected.splitlines() if "_created" not in it]


def test_the_last_bucket_has_all_of_them() -> None:
    ours = Seconds((1.0,))
    assert ours.buckets() == [(1.0, 0), (math.inf, 0)]
    ours.observe(1.0)
    ours.observe(1.5)
    assert ours.buckets() == [(1.0, 1), (math.inf, 2)]
