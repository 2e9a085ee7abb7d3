"""What a test needs beyond Python: a test without it is skipped, or fails where all must run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

ALL = "RINGBACK_ALL_FAULTS"
TRIAL = ("unshare", "--mount", "--net", "mount", "-t", "tmpfs", "tmpfs", "/mnt")


def needs(*programs: str, root: bool = False) -> None:
    """Skip the running test with one reason when something is missing; fail if `ALL` is 1.

    What only `root` may is tried, in namespaces that end with it: root in a container may not.
    """
    if root:
        programs = (*programs, "unshare", "mount")
    lacking = [name for name in programs if shutil.which(name) is None]
    if root and not lacking and subprocess.run(TRIAL, capture_output=True).returncode:
        lacking.append("root, and permission to mount and to make networks")
    if lacking:
        missing(", ".join(lacking))


def missing(what: str) -> None:
    """Skip the running test for want of `what`, or fail if `ALL` is 1."""
    reason = f"this test needs {what}"
    if os.environ.get(ALL) == "1":
        pytest.fail(f"{reason}, and {ALL}=1 says that every test has to run")
    pytest.skip(reason)
