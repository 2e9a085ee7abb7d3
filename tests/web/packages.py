"""The npm packages that the tests of gateway/web need, as package-lock.json fixes them."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from tests.faults.needs import missing, needs

HERE = Path(__file__).parent


def packages() -> Path:
    """Where they are, installed when they are not; skips or fails without npm or a registry."""
    needs("node", "npm")
    installed = HERE / "node_modules"
    stamp, lock = installed / ".package-lock.json", HERE / "package-lock.json"
    with lock.open() as wanted:
        fcntl.flock(wanted, fcntl.LOCK_EX)  # tests that run beside this one need them too
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            ran = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=HERE,
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode != 0:
                missing(f"npm packages ({ran.stderr.strip().splitlines()[-1:]})")
    return installed
