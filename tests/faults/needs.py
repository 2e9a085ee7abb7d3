"""What a test needs beyond Python: a test without it is skipped, or fails where all must run."""

from __future__ import annotations

import os
import shutil

import pytest

ALL = "RINGBACK_ALL_FAULTS"


def needs(*programs: str, root: bool = False) -> None:
    """Skip the running test with one reason when something is missing; fail if `ALL` is 1."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if root and os.geteuid() != 0:
        lacking.append("root")
    if lacking:
        missing(", ".join(lacking))


def missing(what: str) -> None:
    """Skip the running test for want of `what`, or fail if `ALL` is 1."""
    reason = f"this test needs {what}"
    if os.environ.get(ALL) == "1":
        pytest.fail(f"{reason}, and {ALL}=1 says that every test has to run")
    pytest.skip(reason)
