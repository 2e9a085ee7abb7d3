"""The lock for serving: what a server installs is what was tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _locked(name: str) -> dict[str, str]:
    """Each package with its version, marker and hashes, as the lock has them."""
    text = re.sub(r"(?m)^ *#.*\n", "", (ROOT / name).read_text())
    entries = re.findall(r"^([\w.-]+)(==.*(?:\n    .*)*)", text, re.M)
    return {package: re.sub(r"\s+", " ", rest) for package, rest in entries}


def test_what_serves_is_locked_as_what_is_tested() -> None:
    everything, serving = _locked("requirements.lock"), _locked("requirements-serve.lock")
    assert serving.items() <= everything.items()
    assert "pytest" in everything.keys() - serving.keys()


def test_all_that_serving_needs_is_locked_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in needed}
    assert names <= _locked("requirements-serve.lock").keys()
