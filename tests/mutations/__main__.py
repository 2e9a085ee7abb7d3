"""Break the code on purpose, one fault at a time, and see that something notices.

`python -m tests.mutations` works on a copy of the tree; `--only grace` chooses by name. Exit code 1
if a fault goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.mutations.faults import FAULTS, SIMULATION, Fault

ROOT = Path(__file__).parent.parent.parent
COPIED = ("gateway", "push", "storage", "tests", "examples", "bench", "docs", "pyproject.toml")
DAYS = ("-m", "tests.simulation", "--runs", "200", "--steps", "100", "--stop", "--jobs", "1")
TESTS = ("-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider")


def copy_to(directory: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, directory / name, ignore=skip)
        else:
            shutil.copy(source, directory / name)


def notice(fault: Fault, tree: Path) -> str | None:
    """What noticed the fault, and what it said; None if nothing did."""
    sound: dict[Path, str] = {}
    for old, new, *elsewhere in ((fault.old, fault.new), *fault.also):
        path = tree / (elsewhere[0] if elsewhere else fault.file)
        before = path.read_text()
        sound.setdefault(path, before)
        assert before.count(old) == 1, f"{fault.name}: {old!r} has to stand once in {path.name}"
        path.write_text(before.replace(old, new))
    try:
        for check in fault.by:
            told = _fails(check, tree)
            if told is not None:
                return told
        return None
    finally:
        for path, text in sound.items():
            path.write_text(text)


def _fails(check: str, tree: Path) -> str | None:
    if check == SIMULATION:
        command: tuple[str, ...] = (sys.executable, *DAYS)
    else:
        if not (tree / check.partition("::")[0]).exists():
            return None
        command = (sys.executable, *TESTS, *check.split())
    done = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    said = done.stderr if check == SIMULATION else done.stdout
    found = re.search(r"^(seed .*|FAILED .*)$", said, re.MULTILINE)
    assert found, f"{check} does not even run: {done.stdout}{done.stderr}"
    return found.group(1)[:160]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose names contain this")
    options = parser.parse_args()
    table = Table("deliberate fault", "noticed by", show_lines=True)
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        copy_to(tree)
        for fault in FAULTS:
            if options.only not in fault.name:
                continue
            told = notice(fault, tree)
            missed += told is None
            print(f"{fault.name}: {told or 'NOT NOTICED'}", flush=True)
            table.add_row(fault.name, told or "[bold red]nothing")
    Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
