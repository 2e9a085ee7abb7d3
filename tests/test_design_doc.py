"""What docs/design.md publishes of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from storage.outcomes import TRANSITIONS

DESIGN = Path(__file__).parent.parent / "docs" / "design.md"


def test_the_published_transition_table_is_the_one_in_force() -> None:
    text = DESIGN.read_text().partition("### The transition table")[2].partition("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", text, re.MULTILINE)
    assert rows == [(a.value, trigger.value, b.value) for (a, trigger), b in TRANSITIONS.items()]
