"""docs/web.md is held against the code: what is public is told, and what is told exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config.development import development
from gateway.protocol import RegisterDevice

DOC = Path("docs/web.md").read_text()
README = Path("README.md").read_text().split("### A web page: the JavaScript client")[1]
README = README.split("\nAgents have a console")[0]
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


def untold(names: set[str], doc: str) -> set[str]:
    return {name for name in names if not re.search(rf"`[^`\n]*\b{re.escape(name)}\b[^`\n]*`", doc)}


@pytest.mark.parametrize("doc", [DOC, README], ids=["docs/web.md", "README.md"])
def test_every_call_option_state_and_event_of_the_client_is_told(doc: str) -> None:
    names = members("RingbackClient") | members("ClientOptions") | members("ClientEvents")
    assert len(names) > 30
    assert untold(names - {"constructor", "devices"}, doc) == set()


def test_every_detail_of_a_device_is_told_and_of_the_protocol() -> None:
    details = members("DeviceDetails")
    assert untold(details, DOC) == set()
    assert details == set(RegisterDevice.__struct_fields__) - {"ref", "installation", "token"}


def test_the_page_to_try_is_one_that_the_development_gateway_lets_connect(tmp_path: Path) -> None:
    it = development({"RINGBACK_STORAGE__URL": f"sqlite:///{tmp_path / 'dev.db'}"})
    [origin] = re.findall(r"^Open (\S+),", DOC, re.M)
    assert origin in it.tenants["dev"].origins
    assert f'url="ws://{it.server.chat}/v1/chat" http="http://{it.server.http}"' in DOC


@pytest.mark.parametrize("doc", [DOC, README], ids=["docs/web.md", "README.md"])
def test_every_attribute_and_event_of_the_element_is_told(doc: str) -> None:
    observed = re.search(r"observedAttributes = \[(.*?)\]", WIDGET, re.S)
    assert observed is not None
    attributes = set(re.findall(r'"([\w-]+)"', observed[1]))
    events = set(re.findall(r'"(ringback-(?:open|close|unread))"', WIDGET))
    assert attributes
    assert len(events) == 3
    assert untold(attributes | events, doc) == set()


def test_every_style_property_is_told_and_exists() -> None:
    used = set(re.findall(r"var\(--ringback-([\w-]+)", STYLE))
    told = set(re.findall(r"--ringback-([\w-]+)", DOC)) | set(re.findall(r"`-(\w+)`", DOC))
    assert used == told


def test_the_calls_that_are_told_exist() -> None:
    told = set(re.findall(r"^\| `(\w+)\(", DOC.split("## The client alone")[1], re.M))
    assert told
    assert told <= members("RingbackClient")
