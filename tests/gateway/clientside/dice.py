"""Chance that is none, to see what a client draws."""

from __future__ import annotations

from random import Random


class Dice(Random):
    """Draws the largest number each time, and remembers between what it was to draw."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return b


class Shortest(Random):
    """Jitter without chance: none."""

    def uniform(self, a: float, b: float) -> float:
        return a
