"""A socket ended: whether the client comes back, when, and with which token.

What a close code's range asks of clients is in `gateway.protocol`. To wait and to connect is left
to `gateway.clientside.link`.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

from gateway import protocol
from gateway.protocol import CloseCode
from push import retry
from push.verdicts import PASSING

CROWDED: Final = 1.0  # seconds beside the backoff, where there are too many already


class End(NamedTuple):
    """How a connection ended: a close code, or the HTTP status of a refused handshake, if any."""

    code: int | None = None
    status: int | None = None


class Step(NamedTuple):
    """What to do then. `wait` in seconds, None to stay away."""

    wait: float | None
    fresh_token: bool = False


def jitter(attempt: int, rng: Random) -> float:
    """Seconds to wait after so many attempts: uniform between 0 and 1 s doubled per attempt, at
    most 30 s."""
    return retry.delay(attempt, rng, protocol.BACKOFF_FIRST, protocol.BACKOFF_MAX)


class Backoff:
    """How long to wait after each attempt in a row that failed."""

    __slots__ = ("_attempts", "_rng")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._attempts = 0

    def reset(self) -> None:
        """A welcome came."""
        self._attempts = 0

    def after_failure(self) -> float:
        """Seconds until the next attempt."""
        self._attempts += 1
        return jitter(self._attempts, self._rng)

    def after_restart(self, window: float) -> float:
        """Seconds until the next attempt, so that all clients come back spread over `window`."""
        return self._rng.uniform(0.0, window)


def after_end(
    end: End, backoff: Backoff, restart_window: float, *, token_kept: bool = False
) -> Step:
    """What to do after `end`; counts an attempt in `backoff` if the client comes back.

    `token_kept` says that the token was not asked for just then: refused, it may simply have aged.
    """
    if end.status is not None and 400 <= end.status < 500 and end.status not in PASSING:
        return Step(None)
    if end.code == CloseCode.BAD_TOKEN and token_kept:
        return Step(backoff.after_failure(), fresh_token=True)
    if not protocol.may_reconnect(end.code):
        return Step(None)
    if end.code == CloseCode.RESTART:
        return Step(backoff.after_restart(restart_window))
    wait = backoff.after_failure()
    if end.code == CloseCode.TOO_MANY_CONNECTIONS:
        wait += CROWDED
    return Step(wait, fresh_token=end.code == CloseCode.TOKEN_EXPIRED)
