"""docs/web.md is held against the code: what is public is told, and what is told exists."""

from __future__ import annotations

import re
from pathlib import Path

DOC = Path("docs/web.md").read_text()
CLIENT = Path("gateway/web/ringback-client.d.ts").read_text()
WIDGET = Path("gateway/web/ringback-chat.js").read_text()
STYLE = Path("gateway/web/style.js").read_text()


def interface(name: str) -> str:
    """The body of an interface or class in the client's types."""
    found = re.search(rf"export (?:interface|class) {name}\b[^{{]*{{(.*?)^}}", CLIENT, re.M | re.S)
    assert found is not None
    return found[1]


def members(name: str) -> set[str]:
    return set(re.findall(r"^  (?:readonly )?(\w+)[(?:<]", interface(name), re.M))


def untold(names: set[str]) -> set[str]:
    return {name for name in names if not re.search(rf"`[^`\n]*\b{re.escape(name)}\b[^`\n]*`", DOC)}


def test_every_call_option_state_and_event_of_the_client_is_told() -> None:
    names = members("RingbackClient") | members("ClientOptions") | members("ClientEvents")
    assert len(names) > 30
    assert untold(names - {"constructor", "devices"}) == set()


def test_every_attribute_and_event_of_the_element_is_told() -> None:
    observed = re.search(r"observedAttributes = \[(.*?)\]", WIDGET, re.S)
    assert observed is not None
    attributes = set(re.findall(r'"([\w-]+)"', observed[1]))
    events = set(re.findall(r'"(ringback-(?:open|close|unread))"', WIDGET))
    assert attributes
    assert len(events) == 3
    assert untold(attributes | events) == set()


def test_every_style_property_is_told_and_exists() -> None:
    used = set(re.findall(r"var\(--ringback-([\w-]+)", STYLE))
    told = set(re.findall(r"--ringback-([\w-]+)", DOC)) | set(re.findall(r"`-(\w+)`", DOC))
    assert used == told


def test_the_calls_that_are_told_exist() -> None:
    told = set(re.findall(r"^\| `(\w+)\(", DOC.split("## The client alone")[1], re.M))
    assert told
    assert told <= members("RingbackClient")
