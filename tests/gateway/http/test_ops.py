"""Quantiles, from what a histogram counted."""

from __future__ import annotations

import math

import pytest

from gateway.http.ops import quantile

BUCKETS = [(1.0, 2.0), (2.0, 2.0), (4.0, 10.0), (math.inf, 12.0)]


@pytest.mark.parametrize(
    ("part", "expected"),
    [(1 / 12, 0.5), (2 / 12, 1.0), (6 / 12, 3.0), (10 / 12, 4.0), (11 / 12, 4.0), (1.0, 4.0)],
)
def test_a_quantile_lies_within_its_bucket_and_never_beyond_the_last_bound(
    part: float, expected: float
) -> None:
    assert quantile(BUCKETS, part) == expected


@pytest.mark.parametrize("buckets", [[], [(1.0, 0.0), (math.inf, 0.0)]])
def test_of_nothing_there_is_no_quantile(buckets: list[tuple[float, float]]) -> None:
    assert quantile(buckets, 0.5) is None
