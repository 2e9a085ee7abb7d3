"""How long to wait before the next attempt, and when dead tokens are too many to believe.

Decides the delay of a retry, the pace of calls, and whether a tenant's rejections are a wave.
Leaves to the worker what to retry, to the book when a ring expires and what quarantine does to a
registration. Pure: time and randomness come in as arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Final

_MAX_DOUBLINGS: Final = 64  # far past any `most`; keeps 2 ** n from growing into a huge integer

PACE_AHEAD: Final = 0.02  # seconds
WAVE_SECONDS: Final = 60
WAVE_MORE_THAN: Final = 20


def delay(
    attempt: int, rng: Random, first: float, most: float, retry_after: float | None = None
) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1) has failed.

    Full jitter: uniform between 0 and `first` doubled per attempt, at most `most`. A
    `retry_after` is a floor to which the jitter is added, so that devices that were all told the
    same time do not come back in the same instant.
    """
    ceiling = min(most, first * 2 ** min(attempt - 1, _MAX_DOUBLINGS))
    return (retry_after or 0.0) + rng.uniform(0.0, ceiling)


@dataclass(slots=True)
class Pace:
    """At most so many calls a second, evenly: each has its moment, and comes then or later."""

    _next: float = 0.0

    def take(self, now: float, rate: float | None) -> float:
        """Take the next moment and return 0; or return the seconds until there is one.

        A few moments may be taken ahead (`PACE_AHEAD`): timers are not that exact.
        """
        if rate is None:
            return 0.0
        due = max(self._next, now)
        if due - now > PACE_AHEAD:
            return due - now
        self._next = due + 1.0 / rate
        return 0.0

    def give_back(self, rate: float | None) -> None:
        """The moment taken last was not used."""
        if rate is not None:
            self._next -= 1.0 / rate


@dataclass(slots=True)
class _Second:
    """The answers that came within one whole second."""

    at: int
    answers: int = 0
    dead: int = 0


@dataclass(slots=True)
class RejectionWave:
    """One tenant's answers of the last minute, to tell a few dead tokens from a wrong setting.

    A backend that was pointed at the wrong app rejects every token it is given. Memory is one
    bucket per second, 60 at most, whatever the traffic; a clock that steps back counts into the
    newest bucket.
    """

    _seconds: deque[_Second] = field(default_factory=deque)

    def record(self, now: float, dead: bool) -> None:
        """Count one answer at `now` (epoch s)."""
        second = int(now)
        if not self._seconds or self._seconds[-1].at < second:
            self._forget(now)
            self._seconds.append(_Second(second))
        newest = self._seconds[-1]
        newest.answers += 1
        newest.dead += dead

    def is_wave(self, now: float) -> bool:
        """Tell whether more than 20, and more than half, of the last minute's answers are dead."""
        self._forget(now)
        answers = sum(second.answers for second in self._seconds)
        dead = sum(second.dead for second in self._seconds)
        return dead > WAVE_MORE_THAN and 2 * dead > answers

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0].at <= int(now) - WAVE_SECONDS:
            self._seconds.popleft()
