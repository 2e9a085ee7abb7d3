"""docs/operations.md is held against the code where an operator looks something up."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.auth import Refusal
from gateway.protocol import CloseCode

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
    listeners = {f"too_many_{name}_connections" for name in ("http", "admin")}
    reasons = {"origin"} | {code.name.lower() for code in at_hello} | listeners
    assert sorted(told) == sorted(reasons | {f"token_{reason}" for reason in Refusal})
