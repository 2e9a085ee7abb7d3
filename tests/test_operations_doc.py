"""docs/operations.md is held against the code where an operator looks something up."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.auth import Refusal
from gateway.protocol import CloseCode
from tests.running import running

DOC = Path("docs/operations.md").read_text()


def test_every_reason_to_turn_a_client_away_is_told() -> None:
    table = DOC.split("## Why a client is turned away\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)[1:]
    told = re.findall(r"`(\w+)`", " ".join(cells))
    at_hello = (
        CloseCode.BAD_TOKEN,
        CloseCode.WRONG_ROLE,
        CloseCode.NO_HELLO,
        CloseCode.PROTOCOL_BROKEN,
        CloseCode.TOO_MANY_CONNECTIONS,
    )
    others = {"origin", "too_many_of_tenant"}
    others |= {f"too_many_{name}_connections" for name in ("http", "admin")}
    reasons = {code.name.lower() for code in at_hello} | others
    assert sorted(told) == sorted(reasons | {f"token_{reason}" for reason in Refusal})


async def test_every_metric_is_told_and_none_that_is_not_there(tmp_path: Path) -> None:
    told = DOC.split("## Metrics\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| `(ringback_\w+)` \|", told, re.M)
    async with running(tmp_path) as it:
        _, text = await it.call("GET", "/metrics", listener="admin")
    there = set(re.findall(r"^# TYPE (ringback_\w+)", text, re.M))
    assert set(table) == {name for name in there if not name.endswith("_created")}
    alerts = re.findall(r"^  expr: .*?(ringback_\w+)", told, re.M)
    assert alerts
    assert set(alerts) <= set(table)
