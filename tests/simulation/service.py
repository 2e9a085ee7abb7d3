"""A tenant's service that sends campaigns: what it asked for, and what must have come of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.auth import Identity
from gateway.campaigns import audience
from gateway.campaigns.loading import Source
from gateway.campaigns.sending import Step
from gateway.core import Core
from gateway.protocol import ErrorCode, FrameError, PostCampaign, Role, Unknown
from storage.errors import Unavailable

if TYPE_CHECKING:
    from tests.simulation.world import World

AUTHOR = "crm"
BATCH = 3  # recipients written at a time, so that a death may come in between


@dataclass(frozen=True, slots=True)
class Order:
    """A campaign as it was asked for, under a key; `ids` may name a customer twice."""

    ref: str
    ids: tuple[str, ...]
    told: PostCampaign


class Service:
    """Asks again under the same key for what was not answered, as an agent's console does."""

    def __init__(self, world: World, tenant: str) -> None:
        self._world = world
        self._tenant = tenant
        self.unanswered: dict[str, Order] = {}
        self.made: dict[str, Order] = {}
        """What was answered, by the campaign's id."""

    def send(
        self,
        ids: tuple[str, ...],
        *,
        rate: float,
        skip: bool,
        begins_in: float | None,
        expires_in: float | None,
    ) -> None:
        """Begin a campaign, `begins_in` seconds from now, which expires as long after that."""
        world = self._world
        begins = None if begins_in is None else world.now + begins_in
        expires = None if expires_in is None else (begins or world.now) + expires_in
        world.sent += 1
        told = PostCampaign(
            text=f"{{marker}} TEXT-{world.sent}",
            rate=rate,
            unknown=Unknown.SKIP if skip else Unknown.CREATE,
            send_at=None if begins is None else datetime.fromtimestamp(begins, UTC),
            expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
        )
        self.unanswered[f"k-{world.sent}"] = Order(f"k-{world.sent}", ids, told)
        self.again()

    def again(self) -> None:
        """Repeat what has no answer."""
        core = self._world.core
        if core is not None:
            for order in self.unanswered.values():
                self._world.spawn(self._ask(core, order))

    async def _ask(self, core: Core, order: Order) -> None:
        world, said = self._world, audience.words(order.told.text, None)
        who = Identity(self._tenant, Role.SERVICE, AUTHOR, None, world.now + 3600.0)
        lines = [
            {"customer": id, "marker": world.person(self._tenant, id).marker} for id in order.ids
        ]

        async def batches() -> AsyncIterator[list[audience.Entry]]:
            for at in range(0, len(lines), BATCH):
                some = lines[at : at + BATCH]
                yield [audience.entry(line, said, core.context.limits) for line in some]

        source = Source(batches(), lambda: len(lines), lambda: order.ref)
        try:
            made, _ = await core.campaign_loading.create(who, order.told, order.ref, said, source)
        except Unavailable:
            return
        except FrameError as refusal:
            if refusal.code is not ErrorCode.UNAVAILABLE and self._world.process.alive:
                self.unanswered.pop(order.ref, None)  # too late for its times, or too many
            return
        if self._world.process.alive:
            self.unanswered.pop(order.ref, None)
            before = self.made.setdefault(made.id, order)
            if before is not order or [*self.made.values()].count(order) > 1:
                world.violate(f"{order.ref} was made twice")

    def step(self, step: Step, *ids: str) -> None:
        """Pause, resume or cancel."""
        core = self._world.core
        if core is not None:
            for id in ids:
                self._world.spawn(self._step(core, id, step))

    async def _step(self, core: Core, id: str, step: Step) -> None:
        with suppress(Unavailable, FrameError):  # it is over, perhaps
            await core.campaigns.step(self._tenant, id, step)

    def check(self) -> None:
        """At the end every campaign is over, and every recipient is accounted for once."""
        world = self._world
        for ref in self.unanswered:
            world.violate(f"the campaign {ref} has no answer")
        stray = world.look(
            "SELECT m.ref FROM messages m WHERE m.ref LIKE 'cp_%' AND NOT EXISTS"
            " (SELECT 1 FROM campaigns c WHERE c.id = m.ref AND c.state <> 'discarded')"
        )
        if stray:
            world.violate(f"messages of no campaign: {stray}")
        for id, order in self.made.items():
            self._account(id, order)

    def _account(self, id: str, order: Order) -> None:
        world = self._world
        ((state, sent, skipped, duplicates),) = world.look(
            "SELECT state, sent, skipped, duplicates FROM campaigns WHERE id = ?", (id,)
        )
        got = world.look(
            "SELECT c.customer FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE c.tenant = ? AND m.ref = ?",
            (self._tenant, id),
        )
        asked = set(order.ids)
        told = [customer for (customer,) in got]
        place = f"campaign {id} ({state}, {sent} sent, {skipped} skipped)"
        if len(told) != len(set(told)) or not set(told) <= asked or len(told) != sent:
            world.violate(f"{place}: {told} have a message of it")
        if state == "finished" and sent + skipped != len(asked):
            world.violate(f"{place}: not everybody of {asked} was thought of")
        if state not in ("finished", "cancelled", "expired"):
            world.violate(f"{place} is not over")
        if duplicates != len(order.ids) - len(asked):
            world.violate(f"{place}: {duplicates} came more than once")
        if skipped and order.told.unknown is Unknown.CREATE:
            world.violate(f"{place}: nobody was to be skipped")
        if world.core is not None:
            self._adds_up(world.process.loop.run_until_complete(self._report(world.core, id)))

    async def _report(self, core: Core, id: str) -> dict[str, Any]:
        return await core.campaign_reports.report(await core.campaign_reports.one(self._tenant, id))

    def _adds_up(self, report: dict[str, Any]) -> None:
        alone = sum(report[name] for name in ("rung", "in_chat", "pending", "left"))
        by_reason = sum(sum(report[name].values()) for name in ("skipped", "failed"))
        if alone + by_reason != report["recipients"] or report["left"]:
            self._world.violate(f"a report does not add up: {report}")
