"""A test that lacks a program says so in one line, and fails where every test has to run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.needs import ALL, needs


def test_what_is_missing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALL, raising=False)
    needs("sh")
    with pytest.raises(pytest.skip.Exception, match=r"^this test needs no-browser$"):
        needs("sh", "no-browser")


def test_what_root_may_not_do_in_a_container_is_tried_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ALL, raising=False)
    monkeypatch.setattr("tests.faults.needs.TRIAL", ("false",))
    with pytest.raises(pytest.skip.Exception, match=r"and to make networks$"):
        needs("sh", root=True)


def test_it_fails_where_every_test_has_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALL, "1")
    with pytest.raises(pytest.fail.Exception, match="this test needs no-browser"):
        needs("no-browser")


def test_what_has_to_pass_before_anything_lands_runs_every_test() -> None:
    steps = Path(".ci/run").read_text()
    assert f"export {ALL}=1" in steps.split("make test")[0]


def test_nothing_else_skips() -> None:
    skipping = re.compile(r"pytest\.skip\(|mark\.skip|importorskip|unittest\.skip|SkipTest")
    allowed = {Path("tests/faults/needs.py"), Path("tests/faults/test_needs.py")}
    found = {path for path in Path("tests").rglob("*.py") if skipping.search(path.read_text())}
    assert found == allowed
