"""The core: the parts that decide, put together. Everything of a gateway but its listeners.

Starting: the database, then what was left over (`Book.recover`), then the push worker. Stopping is
in two steps, because listeners end in between: `drain` (nothing new is rung), then `stop` (calls
that are out may end, what is queued is committed). Whatever is cut off stands in the rows.

What touches the world comes in from outside: the database, the clock, the randomness of retries,
and the calls to customer backends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

import msgspec
import structlog

from gateway import protocol
from gateway.auth import Verifier
from gateway.campaigns.lanes import Waiting
from gateway.campaigns.loading import Loading
from gateway.campaigns.reports import Reports
from gateway.campaigns.sending import Campaigns
from gateway.chat import Chat
from gateway.config.content import content_of
from gateway.config.push import Push
from gateway.config.sections import Config
from gateway.context import Context, TenantRules
from gateway.deadletters import KEEP as KEEP_DEAD_LETTERS
from gateway.deadletters import DeadLetters
from gateway.delivery import Timing
from gateway.devices import Devices
from gateway.endpoints import backends_of, endpoints_of
from gateway.hub import Hub
from gateway.inbox import Inbox
from gateway.marks import Marks
from gateway.metrics import Metrics
from gateway.owing import Owing
from gateway.preferences import Preferences
from gateway.presence import Presence
from gateway.protocol import Role
from gateway.pushing import RETRY_TICK, Book
from gateway.ringing import Ringing
from gateway.session import Rates
from gateway.sessions import Sessions
from gateway.wishes import TenantHours
from push.ring import DeviceRef, Endpoint
from push.worker import BackendCalls, Load, PushWorker
from storage.campaigns import CampaignRows
from storage.database import Database
from storage.deadletters import DeadLetterRows
from storage.errors import StorageError, Unavailable
from storage.records import Outcome
from storage.store import Store

HOUSEKEEPING = 60.0  # seconds between two rounds
STALE_EVERY = 60  # rounds between two looks for tokens not registered again, and before the first
KEEP_DEAD = 7 * 86_400.0  # seconds for which a dead registration is kept, so that it can be undone
CLOCK_SET = 30.0  # seconds by which the machine's clock may be moved: the most that tokens forgive
PUT_BACK = (
    "the database is a backup that was put back: if anything was committed after it was made,"
    " clients may believe what is no more; stop, run ringback renew-epoch, start"
)
ABSENT = (
    "messages of tenants that are not in the configuration are pending: they neither ring nor"
    " expire until it has these tenants again"
)
STALE = "device tokens that no app has renewed for token_expires_after are removed"

_log = structlog.get_logger("gateway.core")


def _tell_of_migration(before: int, after: int) -> None:
    _log.info(
        "the database is brought up to date; where there are many messages that takes minutes",
        schema=before,
        to=after,
    )


class Core:
    """One gateway's decisions. Made, started, drained, stopped."""

    def __init__(
        self,
        config: Config,
        database: Database,
        clock: Callable[[], float],
        rng: Random,
        wall: Callable[[], float] | None = None,
    ) -> None:
        """`wall` is the time for what others date by their own clocks; `clock` unless given."""
        self.database = database
        self.clock = clock
        self.wall = wall or clock
        self.store = Store(database, clock, config.storage.keys)
        self.hub = Hub()
        self.metrics = Metrics(
            self.store, self.hub, self.loads, lambda: self.campaigns.open(), config.tenants
        )
        self.verifier = Verifier(config.tenants)
        self.context = context = Context(
            self.store,
            self.hub,
            Timing(**{name: getattr(config.delivery, name) for name in Timing.__struct_fields__}),
            wire_limits(config),
            _rules(config),
            clock,
            config.limits.outbound_bytes // 2,
        )
        self.chat = Chat(context)
        self.marks = Marks(context)
        self.presence = Presence(context, self.marks)
        owing = Owing(context, self.metrics.decided)
        ringing = Ringing(context, owing, self.metrics.buried, self.metrics.rejected_token)
        self.book = Book(context, owing, ringing, self._wake)
        self.devices = Devices(context, owing)
        self.dead_letters = DeadLetters(context, DeadLetterRows(database))
        campaign_rows = CampaignRows(database)
        self.campaigns = Campaigns(
            context,
            self.chat,
            campaign_rows,
            self._waiting,
            self.metrics.recipients,
            self.metrics.faults.inc,
        )
        self.campaign_loading = Loading(context, campaign_rows, self.campaigns)
        self.campaign_reports = Reports(campaign_rows, clock)
        self.preferences = Preferences(context, owing)
        self.inbox = Inbox(context, agent_limits(config).as_field())
        limits = config.limits
        self.rates = Rates(
            {
                Role.CUSTOMER: (limits.sends_per_minute, limits.burst),
                Role.AGENT: (limits.agent_sends_per_minute, limits.agent_burst),
            }
        )
        self.sessions = Sessions(
            config,
            self.verifier,
            context,
            self.presence,
            self.marks,
            self.chat,
            self.devices,
            self.inbox,
            self.rates,
            self.wall,
            self.metrics.rejected,
            self.metrics.faults.inc,
        )
        self.store.failed = self._failed
        self.store.recovered = self.presence.catch_up
        self._sections = _sections(config, {})
        self._longest = self._timeout  # of all settings since the start: calls end by their own
        self._worker = PushWorker(
            self.book,
            self._endpoints,
            clock,
            rng,
            self.metrics.attempted,
            wall=self.wall,
            on_fault=self.metrics.faults.inc,
        )
        self._housekeeper: asyncio.Task[None] | None = None
        self._judging: set[asyncio.Task[None]] = set()

    async def start(self, calls: BackendCalls) -> int:
        """Open the database and go on where it stands; how many conversations wait for something.

        Raises `CannotOpen`. After an error of any kind call `stop`.
        """
        self.database.migrating = _tell_of_migration
        await self.database.open()
        if self.database.put_back:
            _log.warning(PUT_BACK)
        await self.store.start()
        pending = {tenant for tenant, name in +self.store.counters if name == Outcome.PENDING}
        if absent := sorted(pending - self.context.tenants.keys()):
            _log.warning(ABSENT, tenants=absent)
        waiting = await self.book.recover()
        self._worker.start(calls)
        await self.campaign_loading.start()
        await self.campaigns.start()
        self._housekeeper = asyncio.create_task(self._keep_house(), name="housekeeper")
        return waiting

    def take_up(self, config: Config) -> None:
        """Go on with the push sections and the keys of `config` (`gateway.config.reload`).

        A ring that waits goes out by the new settings, as it would after a restart.
        """
        self.verifier.take_up(config.tenants)
        before = self.context.tenants
        self.context.tenants = _rules(config)
        self._sections = _sections(config, self._sections)
        self._longest = max(self._longest, self._timeout)
        self._worker.take_up(self._endpoints)
        others = {name for name, now in self.context.tenants.items() if now != before.get(name)}
        task = asyncio.create_task(self._judge_anew(others), name="judge-anew")
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _judge_anew(self, tenants: set[str]) -> None:
        """Until it could be read who waits: nothing else looks at them for the new rules."""
        for tries in itertools.count():
            try:
                await self.book.judge_anew(tenants)
                break
            except Unavailable as error:
                if not tries:
                    _log.warning("what waits is not judged anew yet", problem=str(error))
            except Exception as error:
                self._failed(error)
                break
            await asyncio.sleep(RETRY_TICK)

    @property
    def _endpoints(self) -> list[Endpoint]:
        return [endpoint for section in self._sections.values() for endpoint in section.endpoints]

    @property
    def _timeout(self) -> float:
        """The longest that a call by the present settings may take."""
        return max((endpoint.timeout for endpoint in self._endpoints), default=0.0)

    def drain(self) -> None:
        """Start no more rings (rule 9)."""
        self.book.drain()
        self.metrics.draining.set(1)

    async def stop(self) -> None:
        """End what runs and close the database. Nothing is lost, whenever this is cut short."""
        for task in self._judging:
            task.cancel()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        await self.campaigns.stop()
        await self.campaign_loading.stop()
        await self._worker.drain(self._longest + 1.0)
        await self.store.stop()
        await self.database.close()

    async def _keep_house(self) -> None:
        was_set = False
        for number in itertools.count(1):
            was_set = self._tell_of_clock(was_set)
            self.hub.forget_graces(self.clock())
            if number >= STALE_EVERY:  # by then a clock that was wrong at the start was put right
                await self._forget(stale=number % STALE_EVERY == 0)
            await asyncio.sleep(HOUSEKEEPING)

    async def _forget(self, *, stale: bool) -> None:
        """Remove what is too old, by the gateway's clock and by the machine's."""
        now = min(self.clock(), self.wall())
        try:
            await self.devices.forget(now - KEEP_DEAD)
            await self.dead_letters.forget(now - KEEP_DEAD_LETTERS)
            if stale:
                for name, rules in self.context.tenants.items():
                    before = now - rules.token_expires_after
                    if many := await self.devices.expire(name, before):
                        _log.info(STALE, tenant=name, customers=many)
        except StorageError as error:
            _log.warning("housekeeping has to wait", problem=str(error))
        except Exception as error:
            self._failed(error)

    def _tell_of_clock(self, told: bool) -> bool:
        """Whether the machine's clock was set since the start; one warning, unless it was told."""
        moved = self.wall() - self.clock()
        if abs(moved) < CLOCK_SET:
            return False
        if not told:
            _log.warning(
                "the machine's clock was set: the times of messages, expiry and quiet hours go by"
                " the old one until a restart",
                seconds=round(moved),
            )
        return True

    def _wake(self, ref: DeviceRef, backend: str) -> None:
        self._worker.wake(ref, backend)

    def loads(self) -> Mapping[tuple[str, str], Load]:
        """How each endpoint is, by tenant and backend, and what waits for it. From any thread."""
        return self._worker.loads()

    def loads_of(self, tenant: str) -> Mapping[str, Load]:
        """The same of one tenant, by backend."""
        return self._worker.loads_of(tenant)

    def _waiting(self, tenant: str) -> Waiting:
        """How many of a tenant's devices wait, by whether their backend works."""
        loads = self.loads_of(tenant).values()
        failing = sum(load.waiting for load in loads if load.open)
        return Waiting(sum(load.waiting for load in loads) - failing, failing)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Unavailable):
            _log.warning("the disk fails: tried again with whatever comes", problem=str(error))
            return
        self.metrics.faults.inc()
        _log.error("a change failed", error=type(error).__name__, exc_info=error)


def wire_limits(config: Config) -> protocol.Limits:
    """The `limits` that customers are told."""
    ours, delivery = config.limits, config.delivery
    return protocol.Limits(
        frame_bytes=ours.frame_bytes,
        text_chars=ours.text_chars,
        data_bytes=ours.data_bytes,
        resume=ours.resume,
        sends_per_minute=ours.sends_per_minute,
        burst=ours.burst,
        sessions=ours.sessions,
        ack_timeout=delivery.ack_timeout,
        restart_window=delivery.restart_window,
    )


def agent_limits(config: Config) -> protocol.Limits:
    """The `limits` that agents are told."""
    ours = config.limits
    return msgspec.structs.replace(
        wire_limits(config), sends_per_minute=ours.agent_sends_per_minute, burst=ours.agent_burst
    )


def _rules(config: Config) -> dict[str, TenantRules]:
    return {name: _rules_of(tenant.push) for name, tenant in config.tenants.items()}


def _rules_of(push: Push | None) -> TenantRules:
    if push is None:
        return TenantRules()
    return TenantRules(
        backends=backends_of(push),
        expires_after=push.expires_after,
        content=content_of(push.content, push.title),
        hours=TenantHours(push.quiet_hours, push.time_zone),
        token_expires_after=push.token_expires_after,
    )


class _Section(NamedTuple):
    """A tenant's push section, and the endpoints made of it."""

    push: Push
    endpoints: tuple[Endpoint, ...]


def _sections(config: Config, before: Mapping[str, _Section]) -> dict[str, _Section]:
    """Each tenant's: as `before` where its push section is the same, because nothing else is done
    meanwhile, and there may be very many tenants."""
    sections: dict[str, _Section] = {}
    for name, tenant in config.tenants.items():
        if tenant.push is not None:
            known = before.get(name)
            if known is None or known.push != tenant.push:
                known = _Section(tenant.push, endpoints_of(name, tenant.push))
            sections[name] = known
    return sections
