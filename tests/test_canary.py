"""The canary finds what it is there to find, in a run of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAKS = """
import sys
import pytest
import structlog
from gateway import auth
from gateway.protocol import ErrorCode, FrameError, Role
from gateway.config.values import Secret
from tests.running import running, settings


def test_in_a_log():
    secret = Secret("leaked-secret-4711")
    structlog.get_logger("x").info("configured", secret=secret.reveal())


def test_on_stderr(tmp_path):
    token = auth.issue(settings(tmp_path, None), "acme", Role.CUSTOMER, "c-42", ttl=60)
    print(token, file=sys.stderr)


def test_in_an_error():
    Secret("leaked-secret-4711")
    with pytest.raises(FrameError):
        raise FrameError(ErrorCode.BAD_FRAME, "token: leaked-secret-4711 is wrong")


async def test_in_the_metrics(tmp_path):
    secret = Secret("leaked-secret-4711")
    async with running(tmp_path) as it:
        it.gateway.core.metrics.rejected(secret.reveal())
        await it.call("GET", "/metrics", listener="admin")


def test_clean():
    Secret("leaked-secret-4711")
    structlog.get_logger("x").info("configured", secret="***")


def test_of_another_test():
    print("leaked-secret-4711")
"""
FOUND = {
    "test_in_a_log": "a configured secret in what was written (Captured stdout call)",
    "test_on_stderr": "a token in what was written (Captured stderr call)",
    "test_in_an_error": "a configured secret in an error",
    "test_in_the_metrics": "a configured secret in the metrics",
}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_test_that_tells_a_secret_fails_and_no_other(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    options += ["-n", workers]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-rE", tmp_path / "test_leaks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout
    assert "6 passed" in told, told + done.stderr
    assert f"{len(FOUND)} error" in told
    for test, where in FOUND.items():
        assert f"::{test}" in told.partition("short test summary")[2]
        assert f"told to who should not know (I10): {where}" in told
