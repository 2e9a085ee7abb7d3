"""The one clock: epoch seconds that never jump while the process runs.

The wall clock is read once; from then on the monotonic clock counts. Somebody setting the machine's
time therefore makes nothing due early or late; a restart takes the new time over.
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
