"""What `make` says and sets up, as somebody meets it who has only just cloned the project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.needs import needs

ROOT = Path(__file__).parent.parent
SETTING_UP = "setting up"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A virtual environment that an earlier goal set up with `python3`."""
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".ready").touch()
    return venv


def make(*words: str) -> subprocess.CompletedProcess[str]:
    needs("make")
    clean = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "PYTHON"}}
    return subprocess.run(
        ("make", "-C", ROOT, "lint", *words), env=clean, capture_output=True, text=True
    )


def python(directory: Path, broken: str) -> Path:
    """A program that does all that it is asked as Python would, except what has `broken` in it."""
    program = directory / "python3.99"
    program.write_text(f'#!/bin/sh\ncase "$*" in *{broken}*) echo "$*" >&2; exit 1;; esac\n')
    program.chmod(0o755)
    return program


def test_what_is_set_up_is_used_again(made: Path) -> None:
    assert SETTING_UP not in make("-n", f"VENV={made}").stdout


def test_a_python_that_is_chosen_is_not_passed_over_for_one_that_was_there_before(
    made: Path,
) -> None:
    assert SETTING_UP in make("-n", f"VENV={made}", "PYTHON=/opt/python3.99").stdout
    (made / ".ready--opt-python3.99").touch()
    assert SETTING_UP not in make("-n", f"VENV={made}", "PYTHON=/opt/python3.99").stdout


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("version_info", "needs Python 3.11 or newer; try: make lint PYTHON=python3.11"),
        ("ensurepip", "on Debian: apt-get install python3.99-venv"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_begun(
    tmp_path: Path, broken: str, says: str
) -> None:
    ended = make(f"VENV={tmp_path / 'venv'}", f"PYTHON={python(tmp_path, broken)}")
    assert says in ended.stdout
    assert ended.returncode == 2
    assert SETTING_UP not in ended.stdout


def test_a_directory_that_cannot_be_made_is_not_laid_to_the_python(tmp_path: Path) -> None:
    ended = make(f"VENV={tmp_path / 'venv'}", f"PYTHON={python(tmp_path, '--clear')}")
    assert ended.returncode == 2
    assert "apt-get" not in ended.stdout
