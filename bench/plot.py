"""Lines in a picture, as SVG: enough for a report, and nothing to install."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 760, 420, 70, 46, 56, 36
COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#a16207", "#be185d")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plot:
    """`series` are points by name; `ticks` are the places on the x axis and what they are called.

    The y axis starts at 0, or is logarithmic.
    """

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[Point]]
    ticks: dict[float, str]
    log: bool = False

    def svg(self) -> str:
        heights = [y for points in self.series.values() for _, y in points if y > 0 or not self.log]
        marks = _decades(min(heights), max(heights)) if self.log else _steps(max(heights))
        low, high = self._height(marks[0]), self._height(marks[-1])
        left, right = min(self.ticks), max(self.ticks)

        def place(x: float, y: float) -> str:
            across = (x - left) / (right - left or 1) * (WIDTH - LEFT - RIGHT)
            up = (self._height(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
            return f"{LEFT + across:.1f},{HEIGHT - BOTTOM - up:.1f}"

        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            _text(WIDTH / 2, 18, self.title, "middle", 15),
            _text(WIDTH / 2, HEIGHT - 8, self.x, "middle"),
            _text(8, TOP - 10, self.y, "start"),
        ]
        for mark in marks:
            begin, end = place(left, mark), place(right, mark)
            out.append(f'<polyline points="{begin} {end}" stroke="#ddd"/>')
            out.append(_text(LEFT - 8, float(begin.split(",")[1]) + 4, f"{mark:g}", "end"))
        for x, called in self.ticks.items():
            across = float(place(x, marks[0]).split(",")[0])
            out.append(_text(across, HEIGHT - BOTTOM + 18, called, "middle"))
        for i, (name, points) in enumerate(self.series.items()):
            colour = COLOURS[i % len(COLOURS)]
            line = " ".join(place(x, y) for x, y in points if y > 0 or not self.log)
            out.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            for point in line.split():
                cx, cy = point.split(",")
                out.append(f'<circle cx="{cx}" cy="{cy}" r="2.5" fill="{colour}"/>')
            down = HEIGHT - BOTTOM - 12 - 16 * (len(self.series) - 1 - i)
            out.append(_text(WIDTH - RIGHT - 8, down, f"— {name}", "end", colour=colour))
        return "\n".join([*out, "</svg>", ""])

    def _height(self, y: float) -> float:
        return math.log10(y) if self.log else y


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _decades(low: float, high: float) -> list[float]:
    first = math.floor(math.log10(low))
    last = max(first + 1, math.ceil(math.log10(high)))
    return [10.0**power for power in range(first, last + 1)]


def _steps(high: float) -> list[float]:
    rough = high / 5 or 1
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    return [step * i for i in range(math.ceil(high / step) + 1)]


def percentiles(rising: list[float]) -> list[Point]:
    """A line through the percentiles of values, for an axis on which each nine is one step."""
    parts = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999]
    return [
        (-math.log10(1 - part), rising[int(len(rising) * part)])
        for part in parts
        if len(rising) * (1 - part) >= 1
    ]


NINES = {0.0: "0", 0.301: "50 %", 1.0: "90 %", 2.0: "99 %", 3.0: "99.9 %", 4.0: "99.99 %"}
