"""Chance that is none: jitter as short or as long as it may be."""

from __future__ import annotations

from random import Random


class Lowest(Random):
    """Draws the lower end each time."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Highest(Random):
    """Draws the upper end each time."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Dice(Highest):
    """Remembers too between what it was to draw."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return super().uniform(a, b)
