"""What is written past the gateway for measuring is what a gateway would have left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.bulk import Group, write
from tests import recount


def test_it_is_consistent(tmp_path: Path) -> None:
    write(
        tmp_path,
        Group("c-", 5, 7, unread=3),
        Group("p-", 4, 2, pending=True),
        Group("z-", 2, 0, tenant="other"),
        Group("q-", 3, 1, pending=True, tenant="other"),
    )
    told = recount.check(tmp_path / "bench.db")
    assert Counter((m.tenant, m.outcome) for m in told) == {
        ("acme", "acked"): 35,
        ("acme", "pending"): 8,
        ("other", "pending"): 3,
    }
    assert {m.customer for m in told if m.tenant == "other"} == {"q-00000", "q-00001", "q-00002"}
