"""Taking a campaign: it and its whole audience are on disk before it is told of.

Decides: what is refused, what a repeated key means, and that nothing is left of what breaks off.
Leaves to others: reading an audience as it was sent (`gateway.campaigns.api` and `.audience`), and
sending to it (`gateway.campaigns.sending`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple

import msgspec
import orjson
import structlog

from gateway import protocol
from gateway.auth import Identity
from gateway.campaigns import audience
from gateway.campaigns.audience import Words
from gateway.campaigns.sending import Campaigns
from gateway.context import Context
from gateway.protocol import ErrorCode, FrameError, PostCampaign
from storage import campaigns
from storage.campaigns import Campaign, CampaignRows, CampaignState, Recipient
from storage.errors import StorageError
from storage.store import Needs
from storage.transaction import Transaction

replace = msgspec.structs.replace

LATE = 60.0  # seconds that a beginning may have passed by: clocks differ, and a file takes its time
FORGET = 2_000  # recipients of what is discarded that go in one change

_log = structlog.get_logger("gateway.campaigns.loading")


class Source(NamedTuple):
    """Where an audience comes from: batches of recipients, and what is known once they are over.

    `lines` counts the entries, doubles included; `digest` tells one audience from another.
    """

    batches: AsyncIterator[list[audience.Entry]]
    lines: Callable[[], int]
    digest: Callable[[], str]


class Loading:
    """Takes campaigns, and removes what was not taken whole. Made, started, stopped."""

    def __init__(self, context: Context, rows: CampaignRows, running: Campaigns) -> None:
        """What is taken joins those that are `running`."""
        self._context = context
        self._store = context.store
        self._rows = rows
        self._running = running
        self._making: set[tuple[str, str, str]] = set()
        self._uploads: Counter[str] = Counter()  # by tenant
        self._cleaner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """What was being loaded when the process ended was never told of: discard it."""
        for campaign in await self._rows.in_states(CampaignState.LOADING):
            await self._discard(campaign)
        self._cleaner = asyncio.create_task(self._clean(), name="campaign-cleaner")

    async def stop(self) -> None:
        """Remove nothing more."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            await asyncio.gather(self._cleaner, return_exceptions=True)

    async def create(
        self, who: Identity, body: PostCampaign, ref: str | None, said: Words, source: Source
    ) -> tuple[Campaign, bool]:
        """Write down a campaign and its audience, and begin. True if its key was used before.

        Raises `FrameError` (`bad_frame`, `conflict`, `too_large`, `unavailable`) or
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
                await self._discard(first)  # broke off, and could not be discarded then
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
        now = self._context.clock()
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
        there = self._running.many(who.tenant) + self._uploads[who.tenant]
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
        id, whose = draft.id, Needs(whose=draft.tenant)
        judging = Needs(campaign=id, whose=draft.tenant)
        try:
            await self._store.submit(lambda tx: tx.put_campaign(draft), judging)
            n = 0
            async for batch in source.batches:
                if n + len(batch) > protocol.AUDIENCE_MAX:
                    raise FrameError(
                        ErrorCode.TOO_LARGE,
                        f"recipients: at most {protocol.AUDIENCE_MAX} in one campaign",
                    )
                found = [Recipient(n + i, *entry) for i, entry in enumerate(batch, 1)]
                n += len(batch)
                adding = partial(Transaction.also, statement=campaigns.recipients_add(id, found))
                await self._store.submit(adding, whose, later=True)
            total = await self._rows.count(draft.tenant, id)
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
                tx.after_commit(lambda: self._running.take(begun))

            await self._store.submit(begin, judging)
        except BaseException:
            # Also if the caller went away. If even this cannot be written, the next start does it.
            with contextlib.suppress(StorageError):
                await asyncio.shield(self._discard(draft))
            raise
        return begun

    async def _discard(self, campaign: Campaign) -> None:
        def change(tx: Transaction) -> None:
            c = tx.campaign(campaign.id)
            if c is not None and c.state is CampaignState.LOADING:
                tx.put_campaign(replace(c, state=CampaignState.DISCARDED, ref=None))

        needs = Needs(campaign=campaign.id, whose=campaign.tenant)
        await self._store.submit(change, needs)

    async def _clean(self) -> None:
        """Remove what was discarded, a little at a time."""
        while True:
            try:
                for campaign in await self._rows.in_states(CampaignState.DISCARDED):
                    whose = Needs(whose=campaign.tenant)
                    while await self._rows.recipients(campaign.tenant, campaign.id, 0, 1):
                        some = campaigns.recipients_forget(campaign.id, FORGET)
                        forget = partial(Transaction.also, statement=some)
                        await self._store.submit(forget, whose, later=True)
                    row = campaigns.campaign_remove(campaign.id)
                    await self._store.submit(partial(Transaction.also, statement=row), whose)
            except StorageError as error:
                _log.warning("discarded campaigns have to wait", problem=str(error))
            await asyncio.sleep(60.0)

    async def devices(self, tenant: str, size: int) -> AsyncIterator[list[audience.Entry]]:
        """All customers with a live device, in batches."""
        after = ""  # no id is empty
        while found := await self._rows.with_device(tenant, after, size):
            after = found[-1]
            yield [audience.Entry(customer, None) for customer in found]


def _digest(body: PostCampaign, source: Source) -> str:
    settings = msgspec.json.encode(replace(body, audience=None), order="sorted")
    return audience.digest(settings, source.digest())
