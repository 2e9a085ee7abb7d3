"""What docs/design.md publishes of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.chat import Chat
from storage.database import Database
from storage.outcomes import TRANSITIONS
from storage.transaction import Transaction

ROOT = Path(__file__).parent.parent
DESIGN = ROOT / "docs" / "design.md"


def test_the_published_transition_table_is_the_one_in_force() -> None:
    text = DESIGN.read_text().partition("### The transition table")[2].partition("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", text, re.MULTILINE)
    assert rows == [(a.value, trigger.value, b.value) for (a, trigger), b in TRANSITIONS.items()]


def test_the_methods_that_it_names_are_there() -> None:
    text = DESIGN.read_text()
    (sending,) = re.findall(r"─> Chat\.(\w+) ─+> storage", text)
    assert hasattr(Chat, sending)
    (cases,) = re.findall(r"^- `storage`: methods named after use cases \((.*?), …\)", text, re.M)
    for name in re.findall(r"`(\w+)`", cases):
        assert hasattr(Transaction, name), name


def another_database() -> str:
    return DESIGN.read_text().partition("### Another database")[2].partition("### ")[0]


def test_what_another_database_owes_is_all_that_is_asked_of_this_one() -> None:
    table = re.findall(r"^\| (`.+`) \|", another_database(), re.MULTILINE)
    told = [name for cell in table for name in re.findall(r"`(\w+)`", cell)]
    asked = {name for name, value in vars(Database).items() if callable(value) and name[0] != "_"}
    assert sorted(told) == sorted(asked)


def test_who_opens_a_database_by_its_path_is_told() -> None:
    told = another_database().partition("a path is what ")[2].partition(" open")[0]
    opening = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gateway").rglob("*.py")
        if re.search(r"\b(Database|Store\.beside)\(", path.read_text())
    }
    assert set(re.findall(r"`([\w/.]+)`", told)) == opening
