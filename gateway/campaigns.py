"""Campaigns: one message to many customers, sent at a pace, from an exact place after any crash.

Theory of operation. A campaign's audience is written down whole before it is told of (`create`);
until then nothing is sent, and whatever breaks off is discarded. Then it is sent in chunks. One
chunk is one change of the one writer: for each recipient the same change as `POST /v1/messages`
makes (`Chat.send`), what became of them, and the cursor behind the last. All of it commits or none,
so that nobody gets two messages and nobody none, and nothing depends on how long refs are kept. The
ref, the campaign's id, only says of a message where it comes from.

    loading ──audience on disk──> running <──pause, resume──> paused
       │                           │  │ │                       │
       └──> discarded   finished <─┘  │ └──> expired <──────────┤
                                      └──cancel──> cancelled <──┘

Fairness: chunks come `later`, one at a time per tenant, behind what people in chat wait for, and
between two of them passes at least the time that one took. A tenant's campaigns stand still while
more than `BUSY` of its devices wait for a free call: an agent's message is not behind all of them;
and while most of whom they send to only come to wait for a backend that fails.
Memory: a chunk, and `AHEAD` recipients of each campaign that runs, whatever its size.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec
import orjson
import structlog

from gateway import audience, protocol
from gateway.audience import Words
from gateway.auth import Identity
from gateway.chat import Chat, Posting
from gateway.delivery import WISHES
from gateway.protocol import ErrorCode, FrameError, MessageKind, PostCampaign, Role, Unknown
from storage import campaigns
from storage.campaigns import (
    OPEN,
    Campaign,
    CampaignRows,
    CampaignState,
    Handled,
    Recipient,
)
from storage.errors import StorageError, Unavailable
from storage.records import Key
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace

CHUNK = 25  # recipients in one change at the most: the loop does nothing else meanwhile
AHEAD = 500  # recipients read at a time
BUSY = 200  # devices of a tenant that may wait for a call before its campaigns wait too
AGAIN = 0.05  # seconds until a tenant that was busy is asked again
RETRY = 1.0  # seconds until a chunk is tried again when the database could not be written
LONGEST = 3_600.0  # seconds of one sleep: until it is looked again whether it is time
CATCH_UP = 1.0  # seconds of its pace that a campaign which was kept waiting makes up for
CALM = 10.0  # seconds without anything to send, after which what waits is looked at anew
LATE = 60.0  # seconds that a beginning may have passed by: clocks differ, and a file takes its time
FORGET = 2_000  # recipients of what is discarded that go in one change

_log = structlog.get_logger("gateway.campaigns")


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


class Source(NamedTuple):
    """Where an audience comes from: batches of recipients, and what is known once they are over.

    `lines` counts the entries, doubles included; `digest` tells one audience from another.
    """

    batches: AsyncIterator[list[audience.Entry]]
    lines: Callable[[], int]
    digest: Callable[[], str]


class Waiting(NamedTuple):
    """How many of a tenant's devices wait for a free call: at backends that work, and that fail."""

    working: int = 0
    failing: int = 0


@dataclass(slots=True)
class _Run:
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
class _Lane:
    """One tenant's campaigns, and the task that sends them in turn.

    `sent` counts recipients since fewest (`failing`) devices waited at backends that fail.
    """

    runs: dict[str, _Run] = field(default_factory=dict)
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


class Campaigns:
    """The use cases, and the sending. Made, started, stopped."""

    def __init__(
        self,
        chat: Chat,
        rows: CampaignRows,
        waiting: Callable[[str], Waiting] = lambda tenant: Waiting(),
    ) -> None:
        """`waiting` tells how many devices of a tenant wait."""
        self._chat = chat
        self._store = chat.store
        self._rows = rows
        self._waiting = waiting
        self._lanes: dict[str, _Lane] = {}
        self._making: set[tuple[str, str, str]] = set()
        self._uploads: Counter[str] = Counter()  # by tenant
        self._cleaner: asyncio.Task[None] | None = None
        self._stopped = False
        self.failed: Callable[[], None] = lambda: None
        """Told of every fault of ours."""
        self.counted: Callable[[str, str, int], None] = lambda tenant, result, many: None
        """Told how many recipients were sent to, or skipped and why, for the metrics."""

    # Life

    async def start(self) -> None:
        """Go on with what runs; what was being loaded when the process ended was never told of."""
        for campaign in await self._rows.in_states(CampaignState.LOADING):
            await self._discard(campaign.id)
        for campaign in await self._rows.in_states(*OPEN):
            if campaign.tenant in self._chat.tenants:
                self._take(campaign)
        self._cleaner = asyncio.create_task(self._clean(), name="campaign-cleaner")

    async def stop(self) -> None:
        """Send nothing more. A chunk that is with the writer commits or does not."""
        self._stopped = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        tasks += [self._cleaner] if self._cleaner is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def open(self) -> list[Campaign]:
        """Every tenant's campaigns that are not over, for the metrics."""
        return [run.campaign for lane in self._lanes.values() for run in lane.runs.values()]

    # Making one

    async def create(
        self, who: Identity, body: PostCampaign, ref: str | None, said: Words, source: Source
    ) -> tuple[Campaign, bool]:
        """Write down a campaign and its audience, and begin. True if its key was used before.

        Raises `FrameError` (`bad_frame`, `conflict`, `rate_limited`, `unavailable`) or
        `Unavailable`; then nothing is left of it.
        """
        slot = (who.tenant, who.sub, ref or secrets.token_hex(8))
        if slot in self._making:
            raise FrameError(
                ErrorCode.UNAVAILABLE, "a campaign with this key is being taken; try again soon"
            )
        self._making.add(slot)
        try:
            first = await self._rows.by_ref(who.tenant, who.sub, ref) if ref else None
            if first is not None and first.state is CampaignState.LOADING:
                await self._discard(first.id)  # broke off, and could not be discarded then
            elif first is not None:
                return await self._same(first, body, source), True
            draft = self._draft(who, body, ref)
            self._uploads[who.tenant] += 1
            try:
                return await self._load(draft, source, body), False
            finally:
                self._uploads[who.tenant] -= 1
        finally:
            self._making.discard(slot)

    async def _same(self, first: Campaign, body: PostCampaign, source: Source) -> Campaign:
        async for _ in source.batches:
            pass
        if first.digest != _digest(body, source):
            raise FrameError(
                ErrorCode.CONFLICT,
                "this key was used for another campaign; use a new one for each campaign",
            )
        return first

    def _draft(self, who: Identity, body: PostCampaign, ref: str | None) -> Campaign:
        now = self._chat.clock()
        send_at = body.send_at.timestamp() if body.send_at else None
        expires_at = body.expires_at.timestamp() if body.expires_at else None
        if expires_at is not None and expires_at <= max(now, send_at or now):
            raise FrameError(
                ErrorCode.BAD_FRAME, "expires_at: must be a time to come, and after send_at"
            )
        if send_at is not None and send_at < now - LATE:
            raise FrameError(
                ErrorCode.BAD_FRAME, "send_at: has passed; leave it out to begin at once"
            )
        there = len(self._lanes.get(who.tenant, _Lane()).runs) + self._uploads[who.tenant]
        if there >= protocol.CAMPAIGNS_OPEN:
            raise FrameError(
                ErrorCode.CONFLICT,
                f"{protocol.CAMPAIGNS_OPEN} campaigns are not over yet; cancel some, or wait",
            )
        return Campaign(
            id=f"cp_{secrets.token_hex(8)}",
            tenant=who.tenant,
            author=who.sub,
            name=who.name,
            ref=ref,
            digest="",
            state=CampaignState.LOADING,
            text=body.text,
            title=body.title,
            data=None if body.data is None else orjson.dumps(body.data).decode(),
            unknown=body.unknown.value,
            rate=body.rate,
            created_at=now,
            send_at=send_at,
            expires_at=expires_at,
        )

    async def _load(self, draft: Campaign, source: Source, body: PostCampaign) -> Campaign:
        id = draft.id
        try:
            await self._store.submit(lambda tx: tx.put_campaign(draft), Needs(campaign=id))
            n = 0
            async for batch in source.batches:
                if n + len(batch) > protocol.AUDIENCE_MAX:
                    raise FrameError(
                        ErrorCode.TOO_LARGE,
                        f"recipients: at most {protocol.AUDIENCE_MAX} in one campaign",
                    )
                found = [Recipient(n + i, *entry) for i, entry in enumerate(batch, 1)]
                n += len(batch)
                adding = campaigns.recipients_add(id, found)
                await self._store.submit(lambda tx, a=adding: tx.also(a), Needs(), later=True)  # type: ignore[misc]
            total = await self._rows.count(id)
            if not total:
                raise FrameError(ErrorCode.BAD_FRAME, "recipients: there are none")
            begun = replace(
                draft,
                state=CampaignState.RUNNING,
                digest=_digest(body, source),
                total=total,
                duplicates=source.lines() - total,
            )

            def begin(tx: Transaction) -> None:
                c = tx.campaign(id)
                if c is None or c.state is not CampaignState.LOADING:
                    raise FrameError(
                        ErrorCode.UNAVAILABLE, "the audience was let go meanwhile; send it again"
                    )
                tx.put_campaign(begun)
                tx.after_commit(lambda: self._take(begun))

            await self._store.submit(begin, Needs(campaign=id))
        except BaseException:
            # Also if the caller went away. If even this cannot be written, the next start does it.
            with contextlib.suppress(StorageError):
                await asyncio.shield(self._discard(id))
            raise
        return begun

    async def _discard(self, id: str) -> None:
        def change(tx: Transaction) -> None:
            c = tx.campaign(id)
            if c is not None and c.state is CampaignState.LOADING:
                tx.put_campaign(replace(c, state=CampaignState.DISCARDED, ref=None))

        await self._store.submit(change, Needs(campaign=id))

    async def _clean(self) -> None:
        """Remove what was discarded, a little at a time."""
        while True:
            try:
                for campaign in await self._rows.in_states(CampaignState.DISCARDED):
                    while await self._rows.recipients(campaign.id, 0, 1):
                        forget = campaigns.recipients_forget(campaign.id, FORGET)
                        await self._store.submit(
                            lambda tx, f=forget: tx.also(f),  # type: ignore[misc]
                            Needs(),
                            later=True,
                        )
                    remove = campaigns.campaign_remove(campaign.id)
                    await self._store.submit(lambda tx, r=remove: tx.also(r), Needs())  # type: ignore[misc]
            except Unavailable as error:
                _log.warning("discarded campaigns have to wait", problem=str(error))
            await asyncio.sleep(60.0)

    # Steps

    async def step(self, tenant: str, id: str, step: Step) -> Campaign:
        """Pause, resume or cancel. Again is as once. Raises `FrameError`, or `Unavailable`."""

        def change(tx: Transaction) -> Campaign:
            c = tx.campaign(id)
            if c is None or c.tenant != tenant or not _told_of(c):
                raise not_found()
            to = STEPS.get((c.state, step))
            if to is None:
                raise FrameError(ErrorCode.CONFLICT, f"this campaign is {c.state.value} already")
            if to is not c.state:
                ended = None if to in OPEN else tx.now
                c = tx.put_campaign(replace(c, state=to, ended_at=ended))
            tx.after_commit(lambda: self._committed(c))
            return c

        return await self._store.submit(change, Needs(campaign=id))

    def _take(self, campaign: Campaign) -> None:
        """A campaign that is not over is on its tenant's lane from now on."""
        lane = self._lanes.setdefault(campaign.tenant, _Lane())
        said = audience.words(campaign.text, campaign.title)
        begin = max(self._chat.clock(), campaign.send_at or 0.0)
        lane.runs[campaign.id] = _Run(campaign, said, begin)
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

    async def _work(self, tenant: str, lane: _Lane) -> None:
        """Send one tenant's campaigns in turn, one chunk at a time."""
        while not self._chat.draining:
            lane.wake.clear()
            now, runs = self._chat.clock(), lane.runs.values()
            over = [r for r in runs if _is_over(r.campaign, now) and r.due_at <= now]
            run = min(over or runs, key=lambda run: run.due_at, default=None)
            early = float("inf") if run is None else run.due_at - now
            if early > CALM:
                lane.calm()
            if run is None or early == float("inf"):
                await lane.wake.wait()
                continue
            if early > 0 or (not over and lane.is_held_up(self._waiting(tenant))):
                await _either(lane.wake, min(early, LONGEST) if early > 0 else AGAIN)
                continue
            began = self._chat.clock()
            try:
                lane.sent += await self._send(run)
            except Exception as error:
                await self._rest(run, error)
            # As long again for the others: on a busy gateway a campaign is the first to slow down.
            await asyncio.sleep(min(self._chat.clock() - began, RETRY))

    async def _rest(self, run: _Run, error: Exception) -> None:
        """Try again in a while. What was not confirmed may have been written: only the disk knows
        the place."""
        if isinstance(error, Unavailable):
            _log.warning("a campaign has to wait", campaign=run.campaign.id, problem=str(error))
        else:  # its text might quote a message
            kind = type(error).__name__
            _log.error("a campaign's sending broke", campaign=run.campaign.id, error=kind)
            self.failed()
        run.next_at = self._chat.clock() + RETRY
        run.ahead.clear()
        with contextlib.suppress(Unavailable):
            found = await self._rows.one(run.campaign.tenant, run.campaign.id)
            if found is not None:
                self._committed(found)

    async def _send(self, run: _Run) -> int:
        """The next chunk; how many it has."""
        c = run.campaign
        if not run.ahead:
            run.ahead.extend(await self._rows.recipients(c.id, c.cursor, AHEAD))
        size = max(1, min(CHUNK, int(c.rate * 0.1), len(run.ahead)))
        chunk = [run.ahead.popleft() for _ in range(min(size, len(run.ahead)))]
        now = self._chat.clock()
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
            if _is_over(now, tx.now):
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
                message, _ = send(tx)
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
            self.counted(tenant, result, many)

    # Telling

    async def one(self, tenant: str, id: str) -> Campaign:
        """A tenant's campaign. Raises `FrameError` `not_found`."""
        found = await self._rows.one(tenant, id)
        if found is None or not _told_of(found):
            raise not_found()
        return found

    async def page(self, tenant: str, before: str | None, limit: int) -> list[Campaign]:
        """A tenant's campaigns, newest first. Raises `FrameError` for an unknown `before`."""
        if before is not None and await self._rows.one(tenant, before) is None:
            raise FrameError(ErrorCode.BAD_FRAME, "before: this tenant has no such campaign")
        return await self._rows.page(tenant, before, limit)

    async def devices(self, tenant: str, size: int) -> AsyncIterator[list[audience.Entry]]:
        """All customers with a live device, in batches."""
        after = 0
        while found := await self._rows.with_device(tenant, after, size):
            after = found[-1][0]
            yield [audience.Entry(customer, None) for _, customer in found]

    async def report(self, c: Campaign) -> dict[str, object]:
        """What became of everybody: each recipient is counted once, but for `read` beside it.

        Counted from the outcomes as they are now, a page at a time.
        """
        counts: Counter[str] = Counter(rung=0, in_chat=0, pending=0)
        skipped: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        read = 0
        for outcome, reason, was_read, many in await self._rows.tally(c.id, c.cursor):
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
            "state": state(c, self._chat.clock()),
            "recipients": c.total,
            **counts,
            "skipped": dict(skipped),
            "failed": dict(failed),
            "left": left,
            "read": read,
        }


class Skipped(StrEnum):
    """Why a recipient has no message. Also `cancelled` and `expired`, with the whole campaign."""

    UNKNOWN_CUSTOMER = "unknown_customer"
    REF_TAKEN = "ref_taken"


_TOLD = {"pushed": "rung", "acked": "in_chat", "pending": "pending"}


def state(c: Campaign, now: float) -> str:
    """The state that is told: one that has yet to begin is `scheduled`."""
    early = c.send_at is not None and c.send_at > now
    return "scheduled" if early and c.state is CampaignState.RUNNING else c.state.value


def not_found() -> FrameError:
    return FrameError(ErrorCode.NOT_FOUND, "this tenant has no such campaign")


def _told_of(c: Campaign) -> bool:
    return c.state not in (CampaignState.LOADING, CampaignState.DISCARDED)


def _digest(body: PostCampaign, source: Source) -> str:
    settings = msgspec.json.encode(replace(body, audience=None), order="sorted")
    return audience.digest(settings, source.digest())


def _is_over(campaign: Campaign, now: float) -> bool:
    return campaign.expires_at is not None and campaign.expires_at <= now


async def _either(wake: asyncio.Event, seconds: float) -> None:
    """Until one of the two comes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
