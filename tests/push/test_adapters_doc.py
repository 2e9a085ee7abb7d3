"""docs/adapters.md shows what the adapters do: its requests, its configuration, its own adapter."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest

from push.adapters import (
    Adapter,
    Answer,
    OptionError,
    Verdict,
    VerdictKind,
    adapter_named,
    names,
    verdict_of,
)
from push.adapters.named import ADAPTERS
from push.adapters.template import FIELDS
from push.ring import Target
from tests.push.scripted import TOKEN, a_ring, an_endpoint

DOC = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text("utf-8")
EXAMPLES: dict[str, str] = dict(re.findall(r"```json (\w[\w ]*)\n(.*?)```", DOC, re.S))
TABLES = [tomllib.loads(table) for table in re.findall(r"```toml\n(.*?)```", DOC, re.S)]
TEMPLATE: dict[str, Any] = next(
    table["tenants"]["acme"]["push"]["options"]
    for table in TABLES
    if table.get("tenants", {}).get("acme", {}).get("push", {}).get("adapter") == "template"
)
OPTIONS: dict[str, dict[str, Any]] = {
    "liveperson": {"brand_id": "90588711"},
    "matrix": {"app_id": "com.acme.app"},
    "template": TEMPLATE,
}
CHANGES: dict[str, dict[str, Any]] = {
    "standard": {
        "app": "com.acme.app",
        "environment": "sandbox",
        "locale": "de-AT",
        "installation": "i-1",
    },
    "liveperson android": {"platform": "android"},
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_request_is_exactly_what_is_published(example: str) -> None:
    name = example.split()[0]
    adapter = adapter_named(name, orjson.dumps(OPTIONS.get(name, {})).decode())
    ring = a_ring(**CHANGES.get(example, {}))
    body = adapter.request(ring, Target(TOKEN, "fp-1"), an_endpoint()).body
    assert body == orjson.dumps(orjson.loads(EXAMPLES[example]))


def test_every_adapter_has_its_page_and_its_example() -> None:
    assert {example.split()[0] for example in EXAMPLES} == set(names())
    assert re.findall(r"^## (\w+)$", DOC, re.M) == names()


def test_the_page_on_the_configuration_names_every_adapter_of_ours() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    row = re.search(r"^\| `tenants\.<tenant>\.push\.adapter`.*$", page, re.M)
    assert row is not None
    named = re.findall(r"`(\w+)`", row[0])
    assert [name for name in named if name in ADAPTERS] == list(ADAPTERS)


def test_the_fields_of_a_template_are_all_told() -> None:
    table = DOC.partition("| field | type | field | type |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) - {"standard"} == set(FIELDS)


def test_the_adapter_that_the_page_shows_works() -> None:
    source = re.search(r"```python\n(.*?)```", DOC, re.S)
    assert source is not None
    space: dict[str, Any] = {}
    exec(source[1], space)  # noqa: S102
    with pytest.raises(OptionError, match="team: is missing; expected the team's name"):
        space["make"]({})
    adapter = space["make"]({"team": "blue"})
    assert isinstance(adapter, Adapter)
    body = adapter.request(a_ring(), Target(TOKEN, "fp-1"), an_endpoint()).body
    assert body == b"blue|the-device-token|3|Hello, how can we help?"


def test_what_the_page_names_for_a_verdict_of_ones_own_keeps_the_time_that_was_asked_for() -> None:
    answer = Answer(200, {"Retry-After": "30"})
    retried = verdict_of(answer, VerdictKind.RETRY, "busy", 0.0)
    assert retried == Verdict(VerdictKind.RETRY, "busy", 200, 30.0)
    assert verdict_of(answer, VerdictKind.REFUSED, "no", 0.0).retry_after is None
