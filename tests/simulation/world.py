"""The world: one gateway's core, its lives and deaths, its customers, agents and backends.

Everything that decides is the real thing (`gateway.core` and all below it, SQLite included); what
is simulated is what lies outside: time, disk faults, sockets, backends, people. `tests.simulation.
days` says what happens; the model says what must be true.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import structlog

from gateway import auth
from gateway.chat import Posting
from gateway.config.push import Push
from gateway.config.sections import Config, Storage
from gateway.core import Core
from gateway.deadletters import Replay
from gateway.devices import Registration
from gateway.protocol import CloseCode, FrameError, MessageKind, Role
from storage.database import Database
from storage.deadletters import Wanted
from storage.errors import StorageError, Unavailable
from storage.records import Key, Wishes
from tests.simulation.disk import Disk, Health
from tests.simulation.ears import Ears
from tests.simulation.model import SETTLE, Model
from tests.simulation.peers import ABNORMAL, Agent, Customer, Frame, Line, Visit, Wished
from tests.simulation.service import Service
from tests.simulation.virtual import Process

EPOCH = 1_795_510_800.0
SECRET_WORDS = ("TEXT-", "TOKEN-")
OUTBOUND = 3_000  # bytes that a silent line swallows before it counts as a slow reader
SLOWER = (CloseCode.SLOW_READER, CloseCode.TOKEN_EXPIRED, CloseCode.SERVER_FAULT)


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Settings:
    """A push section, since when it is in force (epoch s), and until when its hours are quiet."""

    since: float
    push: Push | None
    quiet_until: float = 0.0

    def rings(self, environment: str | None) -> bool:
        """Whether a phone of that environment has a backend."""
        if self.push is None:
            return False
        return environment is None or "sand" in self.push.backends


class World:
    """Made once for a run. `violations` says what went wrong so far."""

    def __init__(
        self, seed: str, directory: Path, config: Config, chance: Callable[[str], Random] = Random
    ) -> None:
        self.config = msgspec.structs.replace(
            config, storage=Storage(url=f"sqlite:///{directory / 'ringback.db'}")
        )
        self.timing = config.delivery
        push = next(t.push for t in config.tenants.values() if t.push is not None)
        self.longest_retry = push.retry_max + push.timeout + 20.0
        self.seed = seed
        self.chance = chance
        self.path = directory / "ringback.db"
        self.violations: list[str] = []
        self.started = self._trouble = 0.0
        self.fresh = True
        self.rearmed: dict[tuple[str, str], tuple[float, float]] = {}
        """When a registration or a replay was last asked for and confirmed: judged somewhere in
        between."""
        self.settings = {t: [Settings(0.0, told.push)] for t, told in config.tenants.items()}
        """Every tenant's push sections, in the order in which they came into force."""
        self.wishes: dict[tuple[str, str], Wished] = {}
        self.model = Model(self)
        self.disk = Disk(chance(f"{seed}:disk"), self.model.committed)
        self.ears = Ears(chance(f"{seed}:ears"), self.model.arriving, self.model.answered)
        self.customers: dict[tuple[str, str], Customer] = {}
        self.agents = {t: Agent(t, self.violate, self._sent_to(t)) for t in config.tenants}
        self.services = {t: Service(self, t) for t in config.tenants}
        self.confirmed: dict[tuple[str, str, int], str] = {}
        self.keys: list[tuple[str, str]] = []
        """Deregistration keys that were given out, with their installations."""
        self.sent = 0
        self.deaths = 0
        self.replayed = 0
        self.process = Process(0.0, self.violate)
        self.core: Core | None = None
        self._lives = 0
        self._tokens: dict[tuple[str, str], set[tuple[str, str]]] = {}
        """Every token that was ever told, by installation and by customer."""
        self._eyes: sqlite3.Connection | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def now(self) -> float:
        """Epoch seconds."""
        return EPOCH + self.process.loop.time()

    def violate(self, what: str) -> None:
        """Note a violation, and stop: what comes after it says little."""
        self.violations.append(what)
        if self.process.loop.is_running():
            self.process.loop.stop()

    def person(self, tenant: str, id: str) -> Customer:
        """The customer of that name."""
        found = self.customers.get((tenant, id))
        if found is None:

            def recount(frame: Frame) -> None:
                self._recount(tenant, id, frame)

            found = Customer(tenant, id, self.violate, recount, self._sent_to(tenant, id))
            self.customers[tenant, id] = found
        return found

    # Lives

    def start(self) -> None:
        """Begin a life of the process on what the last one committed."""
        self._lives += 1
        last = self.process.loop
        last.close()
        self.process = Process(last.time(), self.violate)
        structlog.configure(
            processors=[lambda logger, name, event: self._log(name, event)],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=False,
        )
        clock = self.process.loop.time
        process = self.process
        core = self.core = Core(
            self.config,
            Database(self.path, self.disk.connect(process)),
            lambda: EPOCH + clock(),
            self.chance(f"{self.seed}:core:{self._lives}"),
        )
        self.started = self.now
        self.fresh = self.model.empty
        self.spawn(self._start(core, process))
        self.run(1.0)

    async def _start(self, core: Core, process: Process) -> None:
        try:
            await core.start(self.ears.calls(process))
        except StorageError:  # the operator is told, and the process ends
            process.alive = False
            process.loop.stop()

    def _log(self, level: str, event: Any) -> Any:
        told = repr(event)
        if level in ("error", "critical") and "misconfigured" not in event.get("event", ""):
            self.violate(f"logged: {told}")
        if any(word in told for word in SECRET_WORDS):
            self.violate(f"a secret word in a log: {event.get('event')} (I10)")
        raise structlog.DropEvent

    def run(self, seconds: float) -> None:
        """Let time pass. Raises `Violation` if something was wrong meanwhile."""
        if self.core is None:
            self.process.loop.skip(seconds)
            return
        self.process.run(seconds)
        if not self.process.alive:
            self._gone()
        self.verify()

    def verify(self) -> None:
        """Raise `Violation` if something was noted."""
        if self.violations:
            raise Violation("; ".join(self.violations[:3]))

    def die_soon(self, edges: int) -> None:
        """SIGKILL, after so many further effects of the process on the world."""
        self.process.dies_at = self.process.edges + edges

    def _gone(self) -> None:
        self.deaths += 1
        self._end_lines(ABNORMAL)
        self.process.bury()
        self.disk.cut()
        assert self.core is not None
        database, self.core = self.core.database, None
        asyncio.run(database.close())
        self._tasks.clear()

    def shut_down(self) -> None:
        """SIGTERM: drain as `gateway.server` does, and end."""
        core = self.core
        assert core is not None

        async def stop() -> None:
            core.drain()
            for session in list(core.hub.everyone()):
                session.close(CloseCode.RESTART)
                await asyncio.sleep(0.001)
            await core.stop()

        task = self.spawn(stop())
        self.run(60.0)
        if self.core is not None:
            if not task.done():
                self.violate("a shutdown hangs")
            self.process.alive = False
            self._gone()
            self.deaths -= 1
        self.verify()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something of the outside world on the loop of this life."""
        task = self.process.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self.process.alive and not task.cancelled() and task.exception() is not None:
            self.violate(f"raised: {task.exception()!r}")

    # Customers' lines

    def visit(
        self, customer: Customer, *, active: bool, acks: bool, resume: bool, ttl: float
    ) -> Visit | None:
        """A customer's app connects and says hello."""
        core = self.core
        if core is None:
            return None
        resuming = customer.seen if resume and customer.epoch is not None else None
        line = Line(
            self.process,
            lambda frame: visit.hear(frame),
            lambda code: self._left(visit, code),
            OUTBOUND,
        )
        visit = Visit(customer, line, active, acks, resuming, self.now)
        customer.visits.append(visit)
        token = auth.issue(
            self.config, customer.tenant, Role.CUSTOMER, customer.id, ttl=ttl, now=self.now
        )
        told = None if resuming is None else {"epoch": customer.epoch, "seq": resuming}
        state = "active" if active else "background"
        line.say("hello", token=token, state=state, resume=told)
        if resuming is not None:
            if active:
                customer.evidence = max(customer.evidence, resuming)
            visit.noted = resuming
        self.spawn(core.sessions.serve(line, Role.CUSTOMER))
        return visit

    def _left(self, visit: Visit, code: int | None) -> None:
        customer = visit.customer
        if visit in customer.visits:
            customer.visits.remove(visit)
        if visit.active:
            customer.left(self.now, self._grace(code), welcomed=visit.expect is not None)

    def _grace(self, code: int | None) -> float:
        if code == CloseCode.RESTART:
            return self.timing.restart_window
        if code in (CloseCode.GOODBYE, CloseCode.SIGNED_OUT):
            return 0.0
        return self.timing.disconnect_grace + (1.0 if code in SLOWER else 0.0)

    def fall_silent(self, visit: Visit, after: float) -> None:
        """The phone is in a tunnel; the server's keepalive finds out `after` seconds."""
        visit.line.silent = True
        self.process.loop.call_later(after, visit.line.end, ABNORMAL)

    def _end_lines(self, code: int) -> None:
        for customer in self.customers.values():
            for visit in list(customer.visits):
                visit.line.end(code, lost=True)
        for agent in self.agents.values():
            if agent.line is not None:
                agent.line.end(code, lost=True)
            agent.line = None

    # Agents, services, devices

    def agent(self, tenant: str) -> Agent:
        """The tenant's agent, connected if there is a gateway; repeats what was not answered."""
        agent, core = self.agents[tenant], self.core
        if core is not None and (agent.line is None or agent.line.over):
            agent.line = Line(self.process, agent.hear, lambda code: None, OUTBOUND)
            token = auth.issue(self.config, tenant, Role.AGENT, "a-1", ttl=86_400.0, now=self.now)
            agent.line.say("hello", token=token)
            self.spawn(core.sessions.serve(agent.line, Role.AGENT))
            agent.again()
        return agent

    def text(self, customer: Customer) -> str:
        self.sent += 1
        return f"{customer.marker} TEXT-{self.sent}"

    def write(self, customer: Customer, kind: MessageKind, expires_in: float | None) -> None:
        """A service writes over HTTP, and is answered after the commit."""
        core, text = self.core, self.text(customer)
        if core is None:
            return
        posting = Posting(
            key=Key(customer.tenant, customer.id),
            role=Role.SERVICE,
            author="crm",
            text=text,
            ref=f"s-{self.sent}",
            kind=kind,
            expires_at=None if expires_in is None else self.now + expires_in,
        )

        async def post() -> None:
            try:
                posted = await core.chat.post(posting, create=True)
            except (Unavailable, FrameError):
                return
            if self.process.alive:
                self._confirm(customer.tenant, customer.id, posted.message.seq, posted.message.id)

        self.spawn(post())

    def register(
        self, customer: Customer, installation: str, token: str, environment: str | None = None
    ) -> None:
        """An app registers its token at start or when it changed."""
        core, tenant = self.core, customer.tenant
        if core is None:
            return
        platform = self.disk.rng.choice(("ios", "android"))
        told = Registration(installation, token, platform=platform, environment=environment)
        name = (tenant, customer.id)
        self._may_go((tenant, installation))
        for slot in (name, (tenant, installation)):
            self._tokens.setdefault(slot, set()).add((tenant, token))

        async def register() -> None:
            try:
                key = await core.devices.register(Key(*name), None, told)
            except Unavailable:
                return
            self.rearmed[name] = (asked, self.now)
            if self.process.alive:
                self.keys.append((installation, key))

        asked = self.now
        self.rearmed[name] = (asked, asked)
        self.spawn(register())

    def configure(self, tenant: str, push: Push | None, quiet_until: float) -> None:
        """Another push section, or none: by SIGHUP, or with the next start."""
        core = self.core

        async def take_up() -> None:
            tenants = self.config.tenants
            changed = msgspec.structs.replace(tenants[tenant], push=push)
            self.config = msgspec.structs.replace(self.config, tenants={**tenants, tenant: changed})
            self.settings[tenant].append(Settings(self.now, push, quiet_until))
            if core is not None:
                core.take_up(self.config)

        if core is None:
            asyncio.run(take_up())
        else:
            self.spawn(take_up())

    def wish(self, customer: Customer, wishes: Wishes, quiet_until: float) -> None:
        """A service sets what the customer wishes of rings."""
        core, name = self.core, (customer.tenant, customer.id)
        if core is None:
            return
        asked = self.wishes.setdefault(name, Wished())
        asked.ever.append(wishes)
        asked.certain = None
        asked.quiet_until = max(asked.quiet_until, quiet_until)

        async def put() -> None:
            with suppress(Unavailable):
                await core.preferences.put(Key(*name), None, wishes)
                if self.process.alive and asked.ever[-1] is wishes:
                    asked.certain = wishes

        self.spawn(put())

    def lately(self, tenant: str) -> list[Settings]:
        """The settings by which something may have been judged that is committed now."""
        told = self.settings[tenant]
        ends = [*(one.since for one in told[1:]), math.inf]
        return [one for one, end in zip(told, ends, strict=True) if end > self.now - SETTLE]

    def _may_go(self, *slots: tuple[str, str]) -> None:
        """Somebody asked for the tokens of these installations or customers to be removed."""
        for slot in slots:
            self.model.removable |= self._tokens.get(slot, set())

    def deregister(self, customer: Customer, installation: str) -> None:
        """An app signs out with its customer's token."""
        if self.core is not None:
            self._may_go((customer.tenant, installation))
            key = Key(customer.tenant, customer.id)
            self.spawn(self._quietly(self.core.devices.deregister(key, installation)))

    def deregister_late(self, installation: str, key: str) -> None:
        """A queued sign-out arrives, perhaps long after the phone has another owner."""
        if self.core is not None:
            self._may_go((key.partition(".")[0], installation))
            self.spawn(self._quietly(self.core.devices.deregister_by_key(installation, key)))

    def sign_out(self, customer: Customer) -> None:
        """The tenant signs a customer out everywhere."""
        if self.core is not None:
            name = (customer.tenant, customer.id)
            self._may_go(name)
            self.spawn(self._quietly(self.core.devices.sign_out(Key(*name))))

    def replay(self, tenant: str) -> None:
        """An operator has the tenant's dead letters rung for again."""
        core = self.core
        if core is None:
            return

        async def replay() -> None:
            ranged = await core.dead_letters.replay_range(tenant, Wanted(), None)
            self.replayed += ranged.results[Replay.REPLAYED]
            for name in names:
                self.rearmed[name] = (asked, self.now)

        asked = self.now
        names = [name for name in self.customers if name[0] == tenant]
        for name in names:
            self.rearmed[name] = (asked, asked)
        self.spawn(self._quietly(replay()))

    async def _quietly(self, doing: Coroutine[Any, Any, Any]) -> None:
        with suppress(Unavailable):
            await doing

    # Truth

    def _sent_to(self, tenant: str, customer: str | None = None) -> Any:
        def sent(frame: Frame) -> None:
            self._confirm(tenant, customer or frame["customer"], frame["seq"], frame["id"])

        return sent

    def _confirm(self, tenant: str, customer: str, seq: int, id: str) -> None:
        """Somebody was told `sent`: it must be on disk by now, and for ever (I1)."""
        known = self.confirmed.setdefault((tenant, customer, seq), id)
        if known != id or self._stored(tenant, customer, seq) != id:
            self.violate(f"{customer} {seq}: told as sent, and not on disk (I1)")

    def _stored(self, tenant: str, customer: str, seq: int) -> str | None:
        row = self.look(
            "SELECT m.id FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE c.tenant = ? AND c.customer = ? AND m.seq = ?",
            (tenant, customer, seq),
        )
        return row[0][0] if row else None

    def _recount(self, tenant: str, customer: str, frame: Frame) -> None:
        """What a frame says is unread is what there is to read (I5)."""
        ((unread,),) = self.look(
            "SELECT count(*) FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE c.tenant = ? AND c.customer = ? AND m.seq > ? AND m.seq <= ?"
            " AND m.role <> 'customer' AND m.kind <> 'system'",
            (tenant, customer, frame["read_seq"], frame["seq"]),
        )
        if unread != frame["unread"]:
            self.violate(
                f"{customer}: {frame['type']} says {frame['unread']} unread, it is {unread} (I5)"
            )

    def look(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """What is committed, as somebody else sees it."""
        if self._eyes is None:
            self._eyes = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        return self._eyes.execute(sql, parameters).fetchall()

    def finish(self) -> None:
        """At the end of a run: every message has its outcome, and nobody owes anything."""
        for service in self.services.values():
            service.check()
        for (id, seq), outcome in self.model.outcomes.items():
            if outcome == "pending":
                self.violate(f"conversation {id}, message {seq} is pending for ever")
        for tenant, customer, seq in self.confirmed:
            if self._stored(tenant, customer, seq) is None:
                self.violate(f"{customer} {seq}: was told as sent, and is gone (I1)")
        for agent in self.agents.values():
            if agent.unanswered:
                self.violate(f"an agent's sends have no answer: {len(agent.unanswered)}")
        if self.core is not None:
            counters = {k: v for k, v in self.core.store.counters.items() if v}
            told = self.look("SELECT tenant, name, value FROM counters WHERE value <> 0")
            if counters != {(tenant, name): value for tenant, name, value in told}:
                self.violate("the live counters are not those on disk (I2)")
            if any(word in self.core.metrics.now()().decode() for word in SECRET_WORDS):
                self.violate("a secret word in the metrics (I10)")
        if self._eyes is not None:
            try:
                self.model.everything(self._eyes)
            except AssertionError as broken:
                self.violate(str(broken))
        self.verify()

    def trace(self) -> str:
        """A digest of everything that was committed, without the ids that are random anyway."""
        rows = self.look("SELECT conversation, seq, text, at, due_at FROM messages")
        rows += self.look("SELECT conversation, from_seq, seq, at, event FROM events ORDER BY id")
        rows += self.look("SELECT * FROM outcomes")
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    @property
    def trouble(self) -> float:
        """When the disk was last bad: what was due until then may come late."""
        return self._trouble if self.disk.health is Health.GOOD else self.now

    def disk_turns(self, health: Health) -> None:
        """From now on the disk is so."""
        self._trouble = self.trouble
        self.disk.health = health

    def close(self) -> None:
        """End the run."""
        if self.core is not None:
            self.process.alive = False
            self._gone()
        self.process.loop.close()
        if self._eyes is not None:
            self._eyes.close()
