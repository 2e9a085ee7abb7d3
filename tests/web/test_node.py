"""The JavaScript client in Node's own test runner: each file of tests as one test here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.needs import needs

HERE = Path(__file__).parent
PURE = ["connection"]


@pytest.mark.parametrize("name", PURE)
def test_the_javascript_client_decides_as_its_own_tests_say(name: str) -> None:
    needs("node")
    ran = subprocess.run(
        ["node", "--test", HERE / f"{name}.test.mjs"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
