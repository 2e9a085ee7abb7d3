"""Acks and reads, which are not answered: of each conversation the newest is said again if refused.

Decides what a refusal was about, whether it still stands, and when to say it again. To write it is
left to `gateway.clientside.link`.

Bound (I9): of the `MARKS` newest it is known what to say again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from gateway.clientside.comeback import Backoff

MARKS: Final = 256  # acks and reads that may have been refused


@dataclass(slots=True, eq=False)
class Mark:
    """An ack or a read as it was written; `kind` is its type and whose conversation.

    `backoff` is None as long as it was not refused.
    """

    kind: str
    ref: str
    data: bytes
    backoff: Backoff | None = None


class Marks:
    """The newest ack and read of each conversation, as long as the socket lasts."""

    TYPES: Final = frozenset({"ack", "read"})

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._by_kind: dict[str, Mark] = {}
        self._count = 0

    def put(self, kind: str, frame: Mapping[str, Any]) -> bytes:
        """What to write for this ack or read: one that takes the place of those of its kind."""
        self._count += 1
        ref = f"mark-{self._count}"
        data = orjson.dumps({**frame, "ref": ref})
        self._by_kind.pop(kind, None)
        self._by_kind[kind] = Mark(kind, ref, data)
        if len(self._by_kind) > MARKS:
            del self._by_kind[next(iter(self._by_kind))]
        return data

    def refused(self, ref: object) -> tuple[Mark, float] | None:
        """The server could not take what had this ref: what to say again after so many seconds."""
        for mark in self._by_kind.values():
            if mark.ref == ref:
                mark.backoff = mark.backoff or Backoff(self._rng)
                return mark, mark.backoff.after_failure()
        return None

    def standing(self) -> list[Mark]:
        """What was refused and not replaced: to be said before who says it leaves the chat."""
        return [mark for mark in self._by_kind.values() if mark.backoff is not None]

    def stands(self, mark: Mark) -> bool:
        """Whether nothing newer was said."""
        return self._by_kind.get(mark.kind) is mark

    def clear(self) -> None:
        """The socket is gone: a customer's next hello says how far they have everything."""
        self._by_kind.clear()
