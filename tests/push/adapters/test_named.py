"""How an adapter is found by its name, ours or an installed one, and what goes wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from push.adapters import AdapterBroken, OptionError, UnknownAdapterError, adapter_named, names
from push.ring import PushError, Target
from tests.push.scripted import TOKEN, a_ring, an_endpoint

MODULE = """
from push.adapters import Adapter, OptionError, Request

def make(options):
    if "greeting" not in options:
        raise OptionError("greeting", "is missing", "a word")
    greeting = options["greeting"].encode()
    return Adapter(lambda ring, target, endpoint: Request({"X": "y"}, greeting))

def breaks(options):
    return 1 / 0

def gives_nothing(options):
    return None
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the path, where distributions can be installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "greeting_adapters.py").write_text(MODULE)
    (tmp_path / "says_goodbye.py").write_text("raise SystemExit(3)")
    monkeypatch.delitem(sys.modules, "greeting_adapters", raising=False)
    adapter_named.cache_clear()
    return tmp_path


def install(site: Path, distribution: str, **points: str) -> None:
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[ringback.adapters]\n{lines}")


def test_ours_are_found_by_name() -> None:
    assert names() == ["asapp", "standard", "liveperson", "zendesk", "matrix", "template"]
    body = adapter_named("asapp").request(a_ring(), Target(TOKEN, "fp"), an_endpoint()).body
    assert body.startswith(b'{"authToken":"auth-token"')


def test_options_reach_the_adapter_and_what_is_wrong_with_them_comes_back() -> None:
    options = '{"app_id": "com.acme.app"}'
    assert adapter_named("matrix", options) is adapter_named("matrix", options)
    with pytest.raises(OptionError, match="app_id: is missing"):
        adapter_named("matrix")


def test_an_unknown_name_is_told_the_choice(site: Path) -> None:
    install(site, "greeting", hello="greeting_adapters:make")
    with pytest.raises(PushError, match=r"'matrxi'; there are: asapp, .*template, hello") as caught:
        adapter_named("matrxi")
    assert isinstance(caught.value, UnknownAdapterError)
    assert caught.value.name == "matrxi"


def test_an_installed_adapter_is_used_by_its_name(site: Path) -> None:
    install(site, "greeting", hello="greeting_adapters:make")
    adapter = adapter_named("hello", '{"greeting": "hi"}')
    assert adapter.request(a_ring(), Target(TOKEN, "fp"), an_endpoint()).body == b"hi"
    with pytest.raises(OptionError, match="greeting: is missing; expected a word"):
        adapter_named("hello")


def test_an_installed_adapter_does_not_take_the_place_of_ours(site: Path) -> None:
    install(site, "greeting", asapp="greeting_adapters:gives_nothing")
    assert adapter_named("asapp").silent
    assert names().count("asapp") == 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no_such_module:make", "cannot be loaded from no_such_module:make (ModuleNotFoundError"),
        ("says_goodbye:make", "cannot be loaded from says_goodbye:make (SystemExit: 3)"),
        ("greeting_adapters:nothing", "cannot be loaded from greeting_adapters:nothing (Attribute"),
        ("greeting_adapters:breaks", "broke when it was given its options (ZeroDivisionError"),
        ("greeting_adapters:gives_nothing", "is no function from options to an Adapter (greeting"),
    ],
)
def test_an_installed_adapter_that_cannot_be_used_says_why(
    site: Path, value: str, problem: str
) -> None:
    install(site, "greeting", hello=value)
    with pytest.raises(AdapterBroken, match="the push adapter 'hello'") as caught:
        adapter_named("hello")
    assert caught.value.name == "hello"
    assert caught.value.problem.startswith(problem)


def test_of_two_distributions_with_one_name_neither_is_used(site: Path) -> None:
    install(site, "greeting", hello="greeting_adapters:make")
    install(site, "welcome", hello="greeting_adapters:breaks")
    with pytest.raises(AdapterBroken, match="is installed twice") as caught:
        adapter_named("hello")
    assert "greeting_adapters:breaks and greeting_adapters:make" in caught.value.problem
