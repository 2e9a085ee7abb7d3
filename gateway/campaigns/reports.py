"""What is told of campaigns: which there are, their state, and what became of everybody.

Decides: of which campaigns anything is told, and as what each recipient counts. Leaves to others:
making and sending them (`gateway.campaigns.loading` and `.sending`), and the form of an answer
(`gateway.campaigns.api`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway.delivery import WISHES
from gateway.protocol import ErrorCode, FrameError
from storage.campaigns import Campaign, CampaignRows, CampaignState


class Reports:
    """A tenant's campaigns, to be told of."""

    def __init__(self, rows: CampaignRows, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._clock = clock

    async def one(self, tenant: str, id: str) -> Campaign:
        """A tenant's campaign. Raises `FrameError` `not_found`."""
        found = await self._rows.one(tenant, id)
        if found is None or not told_of(found):
            raise not_found()
        return found

    async def page(self, tenant: str, before: str | None, limit: int) -> list[Campaign]:
        """A tenant's campaigns, newest first. Raises `FrameError` for an unknown `before`."""
        if before is not None and await self._rows.one(tenant, before) is None:
            raise FrameError(ErrorCode.BAD_FRAME, "before: this tenant has no such campaign")
        return await self._rows.page(tenant, before, limit)

    def state(self, c: Campaign) -> str:
        """The state that is told: one that has yet to begin is `scheduled`."""
        early = c.send_at is not None and c.send_at > self._clock()
        return "scheduled" if early and c.state is CampaignState.RUNNING else c.state.value

    async def report(self, c: Campaign) -> dict[str, object]:
        """What became of everybody: each recipient is counted once, but for `read` beside it.

        Counted from the outcomes as they are now, a page at a time.
        """
        counts: Counter[str] = Counter(rung=0, in_chat=0, pending=0)
        skipped: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        read = 0
        for outcome, reason, was_read, many in await self._rows.tally(c.tenant, c.id, c.cursor):
            read += many if was_read else 0
            if outcome is None:
                skipped[reason or "unknown"] += many
            elif outcome in _TOLD:
                counts[_TOLD[outcome]] += many
            elif reason in WISHES:
                skipped[reason] += many
            else:
                failed[reason or outcome] += many
        left = c.total - sum((*counts.values(), *skipped.values(), *failed.values()))
        if left and c.state in (CampaignState.CANCELLED, CampaignState.EXPIRED):
            skipped[c.state.value], left = left, 0
        return {
            "id": c.id,
            "state": self.state(c),
            "recipients": c.total,
            **counts,
            "skipped": dict(skipped),
            "failed": dict(failed),
            "left": left,
            "read": read,
        }


_TOLD = {"pushed": "rung", "acked": "in_chat", "pending": "pending"}


def not_found() -> FrameError:
    """What is said of a campaign that is not told of."""
    return FrameError(ErrorCode.NOT_FOUND, "this tenant has no such campaign")


def told_of(c: Campaign) -> bool:
    """Whether there is such a campaign for anybody else: its whole audience is on disk."""
    return c.state not in (CampaignState.LOADING, CampaignState.DISCARDED)
