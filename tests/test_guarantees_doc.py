"""docs/guarantees.md promises nothing that no test proves."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"


def sentences() -> list[str]:
    """All that is promised or denied, below the introduction."""
    promises = GUARANTEES.read_text().partition("\n## ")[2]
    return [line for line in promises.splitlines() if line.startswith("- ")]


def test_every_test_that_is_named_exists() -> None:
    code = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", GUARANTEES.read_text()))
    assert len(named) > 30
    assert named - set(re.findall(r"def (test_\w+)\(", code)) == set()


def test_every_sentence_names_what_proves_it() -> None:
    told = sentences()
    unproved = [line for line in told if not re.search(r"(`test_\w+`|random days)$", line)]
    assert len(told) > 30
    assert unproved == []
