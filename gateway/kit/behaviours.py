"""How `ringback backend` may misbehave: one small vocabulary for flag, keyboard and control URL.

Decides what a line means. Leaves to `gateway.kit.backend` what is then done. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HELP: Final = """\
ok             accept what is right: 200                slow 3     answer after 3 seconds
503            answer with this status                  hang       no answer, until another line
429 30         the same, with Retry-After: 30           drop       cut the connection
reject         200, but the token is dead               bad-json   200 with a body that is no JSON
dead TOKEN     from now on this token is dead           redirect   307 to elsewhere
… x2           only for the next 2 calls: 503 x2        help, quit"""


class Way(StrEnum):
    """What is done to a call."""

    OK = "ok"
    STATUS = "status"
    SLOW = "slow"
    HANG = "hang"
    DROP = "drop"
    BAD_JSON = "bad-json"
    REJECT = "reject"
    DEAD = "dead"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way, for so many calls (None: until further notice).

    `seconds` is the wait of `slow` and the Retry-After of a status. `token` is never shown.
    """

    way: Way = Way.OK
    status: int = 200
    seconds: float | None = None
    token: str | None = None
    calls: int | None = None

    def __str__(self) -> str:
        """As it would be written, without the token."""
        words = [str(self.status) if self.way is Way.STATUS else self.way.value]
        if self.seconds is not None:
            words.append(f"{self.seconds:g}")
        if self.token is not None:
            words.append("…")
        if self.calls is not None:
            words.append(f"x{self.calls}")
        return " ".join(words)

    __repr__ = __str__


class UnknownBehaviour(Exception):
    """A line that means nothing; `str()` says what would."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; there are:\n{HELP}")


def parse(line: str) -> Behaviour:
    """Return what `line` asks for. Raises `UnknownBehaviour`."""
    words = line.split()
    calls = None
    if len(words) > 1 and (match := re.fullmatch(r"x([1-9]\d{0,5})", words[-1], re.ASCII)):
        calls = int(match[1])
        words.pop()
    match words:
        case ["slow", seconds]:
            return Behaviour(Way.SLOW, seconds=_seconds(seconds), calls=calls)
        case ["dead", token]:
            return Behaviour(Way.DEAD, token=token)
        case [("ok" | "hang" | "drop" | "bad-json" | "reject" | "redirect") as way]:
            return Behaviour(Way(way), calls=calls)
        case [status, *wait] if len(wait) <= 1 and re.fullmatch(r"[2-5]\d\d", status, re.ASCII):
            after = _seconds(wait[0]) if wait else None
            return Behaviour(Way.STATUS, int(status), after, calls=calls)
    first = words[0][:20] if words else ""
    raise UnknownBehaviour(f"{first!r} is no behaviour")


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text, re.ASCII):
        raise UnknownBehaviour(f"{text[:20]!r} is no number of seconds")
    return float(text)
