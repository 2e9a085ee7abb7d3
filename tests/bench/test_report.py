"""The table says what was found, and whether it is enough; the pictures are pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.plot import NINES, Plot, percentiles
from bench.report import Report, Row


def test_the_median_of_the_ratios_is_judged() -> None:
    row = Row("1", "x", "/s", [1.0, 6.0, 5.0], [10.0, 10.0, 10.0], "echoes/s", at_least=0.5)
    assert row.ratios == [0.1, 0.6, 0.5]
    assert row.met is True
    measured, reference, ratio, wanted = row.cells()[2:6]
    assert (measured, reference) == ("1.00/5.00/6.00 /s", "10.0/10.0/10.0 echoes/s")
    assert (ratio, wanted) == ("0.10/0.50/0.60", "≥ 0.50 ✓")


def test_a_value_is_judged_where_there_is_no_reference_or_it_is_asked_for() -> None:
    assert Row("2", "x", "ms", [20.0], at_most=15).met is False
    assert Row("2", "x", "ms", [20.0], [1.0], at_most=25, of_value=True).met is True
    assert Row("2", "x", "ms", [20.0], [1.0], at_most=15).met is False
    assert Row("2", "x", "ms", [20.0]).met is None


def test_a_load_that_may_be_what_is_measured_says_so() -> None:
    assert "too busy" in Row("1", "x", "/s", [1.0], load=[0.5, 0.95]).cells()[6]
    assert Row("1", "x", "/s", [1.0], load=[0.5, 0.6]).cells()[6] == "60%"


def test_files(tmp_path: Path) -> None:
    report = Report([Row("1", "x", "/s", [1.0])])
    delays = [float(i) for i in range(1, 2000)]
    for name, log in (("log", True), ("linear", False)):
        series = {"a <b>": percentiles(delays)}
        report.plots.append(Plot(name, "title", "x", "ms", series, NINES, log=log))
    report.remark("twice")
    report.remark("twice")
    report.write(tmp_path)
    assert (tmp_path / "table.md").read_text().count("twice") == 1
    for name in ("log", "linear"):
        root = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())  # noqa: S314  (ours)
        assert root.tag.endswith("svg")
