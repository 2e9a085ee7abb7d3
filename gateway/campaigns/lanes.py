"""When a campaign goes on: a tenant's campaigns are one lane, and send in turn.

Decides: when there is something to do for each, and whether its tenant's have to wait. They stand
still while more than `BUSY` of its devices wait for a free call, so that an agent's message is not
behind all of them; and while most of those they send to only wait for a backend that fails. Leaves
to others: the sending, and with it the pace (`gateway.campaigns.sending`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.campaigns.audience import Words
from storage.campaigns import Campaign, CampaignState, Recipient

BUSY = 200  # devices of a tenant that may wait for a call before its campaigns wait too


class Waiting(NamedTuple):
    """How many of a tenant's devices wait for a free call: at backends that work, and that fail."""

    working: int = 0
    failing: int = 0


@dataclass(slots=True)
class Run:
    """A campaign that is not over, as last committed, and when its next chunk is due."""

    campaign: Campaign
    words: Words
    next_at: float
    ahead: deque[Recipient] = field(default_factory=deque)

    @property
    def due_at(self) -> float:
        """When there is something to do: of one that is paused, to let it expire."""
        if self.campaign.state is CampaignState.RUNNING:
            return self.next_at
        expires_at = self.campaign.expires_at
        return float("inf") if expires_at is None else max(self.next_at, expires_at)


@dataclass(slots=True)
class Lane:
    """One tenant's campaigns, and the task that sends them in turn.

    `sent` counts recipients since fewest (`failing`) devices waited at backends that fail.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    failing: float = float("inf")
    sent: int = 0

    def calm(self) -> None:
        """Nothing is being sent: who waits now has nothing to do with what is sent next."""
        self.failing, self.sent = float("inf"), 0

    def is_held_up(self, waiting: Waiting) -> bool:
        """Whether there are enough of its devices that wait."""
        if waiting.failing <= self.failing:
            self.failing, self.sent = waiting.failing, 0
        more = waiting.failing - self.failing
        return waiting.working > BUSY or more > max(BUSY, self.sent / 2)
