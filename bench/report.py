"""What was found: rows with minimum, median and maximum, as one table and as files."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.plot import Plot

BUSY = 0.9  # of a core: beyond it the load generator may be what is measured


@dataclass(slots=True)
class Row:
    """One thing measured, in rounds; `reference` holds the other's figure of the same rounds."""

    bar: str
    what: str
    unit: str
    values: list[float]
    reference: list[float] = field(default_factory=list)
    against: str = ""
    """What the reference is."""
    at_least: float | None = None
    at_most: float | None = None
    """The bar: for the ratio where there is a reference, else for the value."""
    of_value: bool = False
    """The bar is for the value although there is a reference."""
    load: list[float] = field(default_factory=list)
    """The share of its core that the load generator used."""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        if not self.reference:
            return []
        return [v / r for v, r in zip(self.values, self.reference, strict=True)]

    @property
    def met(self) -> bool | None:
        """Whether the median meets the bar; None if there is none."""
        judged = statistics.median(self.values if self.of_value else self.ratios or self.values)
        if self.at_least is not None:
            return judged >= self.at_least
        return judged <= self.at_most if self.at_most is not None else None

    def cells(self) -> list[str]:
        wanted = ""
        if self.at_least is not None:
            wanted = f"≥ {_number(self.at_least)}"
        elif self.at_most is not None:
            wanted = f"≤ {_number(self.at_most)}"
        if wanted:
            wanted += " ✓" if self.met else " ✗"
        load = f"{max(self.load):.0%}" if self.load else ""
        if self.load and max(self.load) > BUSY:
            load += " too busy: the figure may be the load's"
        reference = f"{spread(self.reference)} {self.against}" if self.reference else ""
        return [
            self.bar,
            self.what,
            f"{spread(self.values)} {self.unit}".strip(),
            reference,
            spread(self.ratios) if self.ratios else "",
            wanted,
            load,
            self.note,
        ]


HEADINGS = ("bar", "what", "measured", "reference", "ratio", "wanted", "load CPU", "note")


def spread(values: list[float]) -> str:
    """Minimum/median/maximum; one figure where there is only one."""
    if len(values) == 1:
        return _number(values[0])
    return "/".join(_number(v) for v in (min(values), statistics.median(values), max(values)))


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(slots=True)
class Report:
    """Rows and plots, in the order in which they were measured."""

    rows: list[Row] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What could not be measured here, and why; what disturbed."""

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def show(self, console: Console) -> None:
        table = Table(*HEADINGS, title="minimum/median/maximum of the rounds")
        for row in self.rows:
            table.add_row(*row.cells(), end_section=True)
        console.print(table, *self.remarks, sep="\n")

    def write(self, directory: Path) -> None:
        """The table as `table.md`, and every plot."""
        directory.mkdir(parents=True, exist_ok=True)
        lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        lines += ["| " + " | ".join(row.cells()) + " |" for row in self.rows]
        lines += ["", *self.remarks] if self.remarks else []
        (directory / "table.md").write_text("\n".join(lines) + "\n")
        for plot in self.plots:
            (directory / f"{plot.name}.svg").write_text(plot.svg())
