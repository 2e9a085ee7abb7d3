"""docs/security.md says of nobody that they are kept out where no test shows it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
SECURITY = TESTS.parent / "docs" / "security.md"


def sentences() -> list[str]:
    """What is claimed: all but what is left to others."""
    claimed = SECURITY.read_text().partition("\n## What is left to you")[0]
    return [line for line in claimed.splitlines() if line.startswith("- ")]


def test_every_test_that_is_named_exists() -> None:
    code = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", SECURITY.read_text()))
    missing = [name for name in sorted(named) if not re.search(rf"\bdef {name}\b", code)]
    assert len(named) > 40
    assert missing == []


def test_every_claim_names_what_shows_it() -> None:
    told = sentences()
    unshown = [line for line in told if not re.search(r"`test_\w+`$", line)]
    assert len(told) > 20
    assert unshown == []
