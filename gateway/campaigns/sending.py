"""Campaigns: one message to many customers, sent at a pace, from an exact place after any crash.

Decides: which steps an operator may take, what is sent, and how fast. Leaves to others: writing a
campaign and its audience down (`gateway.campaigns.loading`), when each goes on
(`gateway.campaigns.lanes`), and what is told of it (`gateway.campaigns.reports`).

Theory of operation. A campaign's audience is written down whole before it is told of; until then
nothing is sent, and whatever breaks off is discarded. Then it is sent in chunks. One chunk is one
change of the one writer: for each recipient the same change as `POST /v1/messages` makes
(`Chat.send`), what became of them, and the cursor behind the last. All of it commits or none, so
that nobody gets two messages and nobody none, and nothing depends on how long refs are kept. The
ref, the campaign's id, only says of a message where it comes from.

    loading ──audience on disk──> running <──pause, resume──> paused
       │                           │  │ │                       │
       └──> discarded   finished <─┘  │ └──> expired <──────────┤
                                      └──cancel──> cancelled <──┘

Fairness: chunks come `later`, one at a time per tenant, behind what people in chat wait for, and
between two of them passes at least the time that one took.
Memory: a chunk, and `AHEAD` recipients of each campaign that runs, whatever its size.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

import msgspec
import orjson
import structlog

from gateway.campaigns import audience
from gateway.campaigns.audience import Words
from gateway.campaigns.lanes import Lane, Run, Waiting
from gateway.campaigns.reports import not_found, told_of
from gateway.chat import Chat, Posting
from gateway.context import Context
from gateway.protocol import ErrorCode, FrameError, MessageKind, Role, Unknown
from storage import campaigns
from storage.campaigns import (
    OPEN,
    Campaign,
    CampaignRows,
    CampaignState,
    Handled,
    Recipient,
)
from storage.errors import Unavailable
from storage.records import Key
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace

CHUNK = 25  # recipients in one change at the most: the loop does nothing else meanwhile
AHEAD = 500  # recipients read at a time
AGAIN = 0.05  # seconds until a tenant that was busy is asked again
RETRY = 1.0  # seconds until a chunk is tried again when the database could not be written
LONGEST = 3_600.0  # seconds of one sleep: until it is looked again whether it is time
CATCH_UP = 1.0  # seconds of its pace that a campaign which was kept waiting makes up for
CALM = 10.0  # seconds without anything to send, after which what waits is looked at anew

_log = structlog.get_logger("gateway.campaigns.sending")


class Step(StrEnum):
    """What an operator may do to a campaign."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


STEPS: dict[tuple[CampaignState, Step], CampaignState] = {
    (CampaignState.RUNNING, Step.PAUSE): CampaignState.PAUSED,
    (CampaignState.PAUSED, Step.PAUSE): CampaignState.PAUSED,
    (CampaignState.PAUSED, Step.RESUME): CampaignState.RUNNING,
    (CampaignState.RUNNING, Step.RESUME): CampaignState.RUNNING,
    (CampaignState.RUNNING, Step.CANCEL): CampaignState.CANCELLED,
    (CampaignState.PAUSED, Step.CANCEL): CampaignState.CANCELLED,
    (CampaignState.CANCELLED, Step.CANCEL): CampaignState.CANCELLED,
}
"""Every step that there is; any other is a conflict."""


class Campaigns:
    """Those that are not over: their steps, and the sending. Made, started, stopped."""

    def __init__(
        self,
        context: Context,
        chat: Chat,
        rows: CampaignRows,
        waiting: Callable[[str], Waiting],
        counted: Callable[[str, str, int], None],
        failed: Callable[[], None],
    ) -> None:
        """`waiting` tells how many devices of a tenant wait. `counted` is told how many of a
        tenant's recipients were sent to, or skipped and why; `failed` of every fault of ours.
        """
        self._context = context
        self._chat = chat
        self._store = context.store
        self._rows = rows
        self._waiting = waiting
        self._lanes: dict[str, Lane] = {}
        self._counted = counted
        self._failed = failed
        self._stopped = False

    # Life

    async def start(self) -> None:
        """Go on with what runs."""
        for campaign in await self._rows.in_states(*OPEN):
            if campaign.tenant in self._context.tenants:
                self.take(campaign)

    async def stop(self) -> None:
        """Send nothing more. A chunk that is with the writer commits or does not."""
        self._stopped = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def open(self) -> list[Campaign]:
        """Every tenant's campaigns that are not over, for the metrics."""
        return [run.campaign for lane in self._lanes.values() for run in lane.runs.values()]

    def many(self, tenant: str) -> int:
        """How many of a tenant's campaigns are not over."""
        lane = self._lanes.get(tenant)
        return 0 if lane is None else len(lane.runs)

    # Steps

    async def step(self, tenant: str, id: str, step: Step) -> Campaign:
        """Pause, resume or cancel. Again is as once. Raises `FrameError`, or `Unavailable`."""

        def change(tx: Transaction) -> Campaign:
            c = tx.campaign(id)
            if c is None or c.tenant != tenant or not told_of(c):
                raise not_found()
            to = STEPS.get((c.state, step))
            if to is None:
                raise FrameError(ErrorCode.CONFLICT, f"this campaign is {c.state.value} already")
            if to is not c.state:
                ended = None if to in OPEN else tx.now
                c = tx.put_campaign(replace(c, state=to, ended_at=ended))
            tx.after_commit(lambda: self._committed(c))
            return c

        return await self._store.submit(change, Needs(campaign=id, whose=tenant))

    def take(self, campaign: Campaign) -> None:
        """A campaign that is not over is on its tenant's lane from now on."""
        lane = self._lanes.setdefault(campaign.tenant, Lane())
        said = audience.words(campaign.text, campaign.title)
        # In the grace after a start nothing rings: what was sent then would be due all at once.
        begin = max(
            self._context.clock(), self._context.restart_grace_until, campaign.send_at or 0.0
        )
        lane.runs[campaign.id] = Run(campaign, said, begin)
        lane.wake.set()
        if lane.task is None and not self._stopped:
            work = self._work(campaign.tenant, lane)
            lane.task = asyncio.create_task(work, name="campaigns")

    def _committed(self, campaign: Campaign) -> None:
        lane = self._lanes.get(campaign.tenant)
        run = lane.runs.get(campaign.id) if lane is not None else None
        if lane is None or run is None:
            return
        run.campaign = campaign
        if campaign.state not in OPEN:
            del lane.runs[campaign.id]
        lane.wake.set()

    # Sending

    async def _work(self, tenant: str, lane: Lane) -> None:
        """Send one tenant's campaigns in turn, one chunk at a time."""
        while not self._context.draining:
            lane.wake.clear()
            now, runs = self._context.clock(), lane.runs.values()
            expired = [r for r in runs if r.campaign.has_expired(now) and r.due_at <= now]
            run = min(expired or runs, key=lambda run: run.due_at, default=None)
            early = float("inf") if run is None else run.due_at - now
            if early > CALM:
                lane.calm()
            if run is None or early == float("inf"):
                await lane.wake.wait()
                continue
            if early > 0 or (not expired and lane.is_held_up(self._waiting(tenant))):
                await _either(lane.wake, min(early, LONGEST) if early > 0 else AGAIN)
                continue
            began = self._context.clock()
            try:
                lane.sent += await self._send(run)
            except Exception as error:
                await self._rest(run, error)
            # As long again for the others: on a busy gateway a campaign is the first to slow down.
            await asyncio.sleep(min(self._context.clock() - began, RETRY))

    async def _rest(self, run: Run, error: Exception) -> None:
        """Try again in a while. What was not confirmed may have been written: only the disk knows
        the place."""
        if isinstance(error, Unavailable):
            _log.warning("a campaign has to wait", campaign=run.campaign.id, problem=str(error))
        else:  # its text might quote a message
            kind = type(error).__name__
            _log.error("a campaign's sending broke", campaign=run.campaign.id, error=kind)
            self._failed()
        run.next_at = self._context.clock() + RETRY
        run.ahead.clear()
        with contextlib.suppress(Unavailable):
            found = await self._rows.one(run.campaign.tenant, run.campaign.id)
            if found is not None:
                self._committed(found)

    async def _send(self, run: Run) -> int:
        """The next chunk; how many it has."""
        c = run.campaign
        if not run.ahead:
            run.ahead.extend(await self._rows.recipients(c.tenant, c.id, c.cursor, AHEAD))
        size = min(max(1, int(c.rate * 0.1)), CHUNK, len(run.ahead))
        chunk = [run.ahead.popleft() for _ in range(size)]
        now = self._context.clock()
        run.next_at = max(run.next_at, now - CATCH_UP) + len(chunk) / c.rate
        parts = [self._part(c, run.words, recipient) for recipient in chunk]
        needs = Needs(
            keys=tuple(needs.keys[0] for _, needs in parts),
            refs=tuple(ref for _, needs in parts for ref in needs.refs),
            campaign=c.id,
        )

        def change(tx: Transaction) -> Campaign | None:
            now = tx.campaign(c.id)
            if now is None or now.state not in OPEN or now.cursor != c.cursor:
                return now
            if now.has_expired(tx.now):
                ended = replace(now, state=CampaignState.EXPIRED, ended_at=tx.now)
                return tx.put_campaign(ended)
            if now.state is not CampaignState.RUNNING:
                return now
            return self._handle(tx, now, [part(tx) for part, _ in parts])

        after = await self._store.submit(change, needs, later=True)
        if after is None:
            raise Unavailable("the campaign is not there")
        if after.cursor != (chunk[-1].n if chunk else c.cursor):
            run.ahead.clear()  # it was paused meanwhile, say: what was taken is not sent
        self._committed(after)
        return len(chunk)

    def _part(
        self, c: Campaign, said: Words, recipient: Recipient
    ) -> tuple[Callable[[Transaction], Handled], Needs]:
        """One recipient's share of a chunk."""
        text, title = said.to(recipient.customer, recipient.fields)
        posting = Posting(
            key=Key(c.tenant, recipient.customer),
            role=Role.SERVICE,
            author=c.author,
            name=c.name,
            text=text,
            data=None if c.data is None else orjson.loads(c.data),
            ref=c.id,
            kind=MessageKind.PROACTIVE,
            title=title,
            expires_at=c.expires_at,
        )
        send, needs = self._chat.send(posting, None, create=c.unknown == Unknown.CREATE)

        def part(tx: Transaction) -> Handled:
            before = tx.savepoint()
            try:
                message = send(tx).message
            except FrameError as refusal:
                tx.rollback(before)
                unknown = refusal.code is ErrorCode.NOT_FOUND
                reason = Skipped.UNKNOWN_CUSTOMER if unknown else Skipped.REF_TAKEN
                return Handled(recipient.n, None, None, reason.value)
            return Handled(recipient.n, message.conversation, message.seq, None)

        return part, needs

    def _handle(self, tx: Transaction, c: Campaign, handled: list[Handled]) -> Campaign:
        skipped = sum(1 for one in handled if one.skipped is not None)
        c = replace(
            c,
            cursor=handled[-1].n if handled else c.cursor,
            sent=c.sent + len(handled) - skipped,
            skipped=c.skipped + skipped,
        )
        if not c.left or not handled:
            c = replace(c, state=CampaignState.FINISHED, ended_at=tx.now)
        if handled:
            tx.also(campaigns.recipients_handled(c.id, handled))
        tx.after_commit(lambda: self._count(c.tenant, handled))
        return tx.put_campaign(c)

    def _count(self, tenant: str, handled: list[Handled]) -> None:
        for result, many in Counter(one.skipped or "sent" for one in handled).items():
            self._counted(tenant, result, many)


class Skipped(StrEnum):
    """Why a recipient has no message. Also `cancelled` and `expired`, with the whole campaign."""

    UNKNOWN_CUSTOMER = "unknown_customer"
    REF_TAKEN = "ref_taken"


async def _either(wake: asyncio.Event, seconds: float) -> None:
    """Until one of the two comes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
