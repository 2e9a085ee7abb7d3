"""The deliberate faults still fit the code that they break, and what they make of it is code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations.faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_replaces_stands_once(fault: Fault) -> None:
    for old, new, *elsewhere in ((fault.old, fault.new), *fault.also):
        path = ROOT / (elsewhere[0] if elsewhere else fault.file)
        text = path.read_text()
        assert text.count(old) == 1, (path.name, old)
        if path.suffix == ".py":
            compile(text.replace(old, new), path, "exec")
