"""What a client holds of a conversation: its messages, in order of seq with no gap (I4).

Decides what becomes of a message that arrives, and what is missing. A welcome says whether the rest
is on its way (`resumed`) or must be loaded with `history`; a gap must be loaded too:

    (new) ──welcome──> following <──────────────┐
                        │   gap, or not resumed │ enough pages
                        └────> reloading ───────┘

To ask for the pages, and to tell the program, is left to `gateway.clientside.customer`.

Bound (I9): `KEPT` messages are held; the oldest go first and come again with `history`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from gateway.clientside.told import Message, Page, Welcome
from gateway.protocol import Limits

KEPT: Final = 10_000  # messages held


class Taken(Enum):
    """What became of a message that arrived."""

    NEW = auto()  # the next one: held now
    KNOWN = auto()  # held already
    GAP = auto()  # some before it are missing: a reload has begun, ask for history
    LATER = auto()  # a reload is running; it will be held at its end


class Reloaded(NamedTuple):
    """A reload ended. `new` are the messages that were not held before, in order.

    `connected` if they follow what was held without a gap; else all of it was replaced.
    """

    connected: bool
    new: list[Message]


class Timeline:
    """The messages of one conversation that this client holds, in order of seq with no gap."""

    def __init__(self, kept: int = KEPT) -> None:
        self.messages: list[Message] = []
        self.epoch: str | None = None
        self.held = 0
        """Everything up to this seq has arrived, or was read before this client came."""
        self._kept = kept
        self._newest = 0  # at the welcome
        self._most = Limits().resume
        self._next_epoch: str | None = None
        self._pages: dict[int, Message] | None = None  # while reloading
        self._floor = 0  # reload down to here

    @property
    def reloading(self) -> bool:
        return self._pages is not None

    @property
    def caught_up(self) -> bool:
        """Whether what was missed while away has arrived."""
        return self._pages is None and self.held >= self._newest

    def welcome(self, welcome: Welcome) -> bool:
        """A session began; True when what was missed must be loaded with `history`."""
        self._newest = welcome.seq
        self._most = welcome.limits.resume
        self._next_epoch = welcome.epoch
        self._pages = None
        if welcome.resumed:
            return False
        if self.epoch is None:
            self.epoch = welcome.epoch
            self.held = max(welcome.read_seq, welcome.seq - self._most)
            return False
        self._reload(self.held if welcome.epoch == self.epoch else welcome.read_seq)
        return True

    def take(self, message: Message) -> Taken:
        """A message arrived, or a send of this client got its seq."""
        if self._pages is not None:
            self._pages[message.seq] = message
            return Taken.LATER
        if message.seq <= self.held:
            return Taken.KNOWN
        if message.seq > self.held + 1:
            self._reload(self.held, message)
            return Taken.GAP
        self._hold([message])
        return Taken.NEW

    def page(self, page: Page) -> int | Reloaded:
        """A page of history came: the seq before which to ask for the next one, or the end."""
        if self._pages is None:
            return Reloaded(True, [])
        self._pages |= {message.seq: message for message in page.messages}
        lowest = page.messages[0].seq if page.messages else 0
        if page.more and lowest > self._floor + 1 and len(self._pages) < self._most:
            return lowest
        return self._finish(self._pages)

    def _reload(self, floor: int, *arrived: Message) -> None:
        self._pages = {message.seq: message for message in arrived}
        self._floor = floor

    def _finish(self, pages: Mapping[int, Message]) -> Reloaded:
        newest = max(pages, default=self._newest)
        first = newest + 1
        while first - 1 in pages:
            first -= 1
        same = self._next_epoch == self.epoch
        connected = same and first <= self.held + 1
        known = self.held if connected else 0
        new = [pages[seq] for seq in range(max(first, known + 1), newest + 1)]
        self._pages = None
        self.epoch = self._next_epoch
        if not connected:
            self.messages.clear()
        self.held = max(newest, known)
        self._newest = min(self._newest, self.held)
        self._hold(new)
        return Reloaded(connected, new)

    def _hold(self, messages: Sequence[Message]) -> None:
        if messages:
            self.messages.extend(messages)
            self.held = messages[-1].seq
        if len(self.messages) > self._kept:
            del self.messages[: len(self.messages) - self._kept * 9 // 10]
