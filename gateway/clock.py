"""The two clocks: what we wait for is counted by the one, what others date is judged by the other.

`Clock` gives epoch seconds that never jump while the process runs: the wall clock is read once;
from then on the monotonic clock counts. Somebody setting the machine's time therefore makes nothing
due early or late; a restart takes the new time over.

`wall` is the machine's time as it is now. Tokens are dated by the tenant's clock, and signatures
are checked by the backend's: when the machine's clock was wrong and was put right, or the machine
slept, those who are right must not be refused until the next restart.
"""

from __future__ import annotations

import time


class Clock:
    """Call it for the present time in epoch seconds."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._offset + time.monotonic()


def wall() -> float:
    """The machine's time in epoch seconds, for what others date by clocks of their own."""
    return time.time()
