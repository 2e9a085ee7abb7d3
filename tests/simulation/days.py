"""Random days: what customers, agents, backends, disk and power do, one step after another.

Each step draws from a generator of its own, made of the run's seed and the step's number: so a run
can be replayed with steps left out, and a failure shrinks to the few steps that it needs.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random

import msgspec
import structlog

from gateway.campaigns.sending import Step
from gateway.config.push import Calls, PushBackend
from gateway.config.sections import Config
from gateway.protocol import MessageKind
from gateway.wishes import QuietHours
from storage.records import Wishes
from tests.running import settings
from tests.simulation.disk import Health
from tests.simulation.ears import Mood
from tests.simulation.peers import ABNORMAL, Customer, Visit
from tests.simulation.world import Violation, World

replace = msgspec.structs.replace

CUSTOMERS = (("acme", "anna"), ("acme", "ben"), ("other", "anna"))
RECIPIENTS = ("anna", "ben", "carl", "dora")  # of whom two never come
PHONES = ("phone-1", "phone-2")
ENVIRONMENTS = (None, None, None, None, None, "sandbox")
PAUSES = (0.0, 0.0, 0.001, 0.01, 0.05, 0.3, 0.9, 1.1, 2.0, 4.9, 5.1, 12.0, 31.0, 120.0)
RARE = (900.0, 4000.0)
SPELLS = (60.0, 300.0)
EXPIRIES = (0.03, 0.3, 1.0, 1.03, 5.0, 5.02, 5.04, 30.0)  # where things become due, and just after
MEMORY = Path("/dev/shm")  # noqa: S108  a file that need not survive this machine's power
TOLD = 40  # lines of the last steps that a failure prints


@cache
def configuration(breaker_after: int = 2) -> Config:
    """Two tenants, and the default delays of the delivery rule. The breaker opens and closes all
    day long."""
    with tempfile.TemporaryDirectory() as name:
        return settings(
            Path(name),
            "http://127.0.0.1:9/ring",
            delivery={"max_hold": 30.0},
            limits={"sessions": 4, "sends_per_minute": 1_000_000},
            push={
                "retry_first": 1.0,
                "retry_max": 60.0,
                "expires_after": "1h",
                "breaker_after": breaker_after,
            },
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What a run went through, for the table and for telling whether it was worth it."""

    seed: str
    steps: int
    sends: int
    deaths: int
    rings: int
    repeated: int
    replayed: int
    trace: str
    """A digest of what was committed and when: equal for equal runs."""
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)


class Day:
    """One run: a world and what happens in it."""

    def __init__(self, seed: str, directory: Path) -> None:
        self.world = World(seed, directory, configuration())
        self.seed = seed
        self.told: list[str] = []
        self._tokens = 0

    def live(self, steps: Iterable[int]) -> Report:
        """Go through the steps, then let everything end well. Raises `Violation`."""
        world, count = self.world, 0
        world.start()
        for number in steps:
            self.step(number)
            count += 1
        self.end()
        heard = Counter(h.ring for h in world.ears.log if h.took)
        return Report(
            self.seed,
            count,
            len(world.confirmed),
            world.deaths,
            len(heard),
            sum(heard.values()) - len(heard),
            world.replayed,
            world.trace(),
            world.model.moves,
        )

    def step(self, number: int) -> None:
        """One thing happens, and some time passes."""
        rng = Random(f"{self.seed}:{number}")
        names, weights = zip(*STEPS.items(), strict=True)
        (name,) = rng.choices(names, weights)
        who = rng.choice(CUSTOMERS)
        rare = rng.random() < 0.01
        pause = rng.choice(RARE if rare else PAUSES)
        if self.world.disk.health is not Health.GOOD:
            pause = min(pause, 5.0)  # everything that is due is tried again each second
        self.told.append(f"{number}: {name} {'/'.join(who)}, then {pause} s")
        self.do(name, who, pause, rng)

    def do(self, name: str, who: tuple[str, str], pause: float, rng: Random) -> None:
        """The step called `name` happens to `who`, and `pause` virtual seconds pass."""
        world = self.world
        if world.core is None:
            world.run(rng.choice((0.0, 0.5, 3.0, 20.0)))
            if rng.random() < 0.5:  # a gateway that cannot start has the disk looked after
                world.disk_turns(Health.GOOD)
            world.start()
        getattr(self, name)(rng, world.person(*who))
        world.run(pause)
        if world.core is not None:
            world.model.untold()
            if not world.fresh:
                world.model.overdue()
            world.verify()

    def end(self) -> None:
        """All is well again and everybody leaves: nothing may stay pending."""
        world = self.world
        world.disk_turns(Health.GOOD)
        world.ears.mood, world.ears.moody = Mood.ACCEPTS, 0.0
        world.process.dies_at = None
        if world.core is None:
            world.start()
        for tenant in world.agents:
            world.agent(tenant).again()
        world.run(10.0)
        for tenant in world.agents:
            push = configuration().tenants[tenant].push
            world.configure(tenant, push, 0.0)
            world.services[tenant].again()
            world.services[tenant].step(Step.RESUME, *world.services[tenant].made)
        world.run(10.0)
        for customer in world.customers.values():
            for visit in list(customer.visits):
                visit.line.end(ABNORMAL)
        for _ in range(60):
            world.run(300.0)
            if not any(o == "pending" for o in world.model.outcomes.values()):
                break
        world.finish()

    # Steps

    def connect(self, rng: Random, customer: Customer) -> None:
        ttl = 86_400.0 if rng.random() < 0.9 else rng.uniform(5.0, 60.0)
        self.world.visit(
            customer,
            active=rng.random() < 0.75,
            acks=rng.random() < 0.6,
            resume=rng.random() < 0.8,
            ttl=ttl,
        )

    def leave(self, rng: Random, customer: Customer) -> None:
        visit = _one(rng, customer)
        if visit is None:
            return
        how = rng.choice(("reset", "reset", "close", "away", "bye", "silent", "silent"))
        if how == "bye":
            visit.bye(self.world.now)
        elif how == "silent":
            self.world.fall_silent(visit, rng.uniform(20.0, 40.0))
        else:
            code = {"reset": ABNORMAL, "close": 1000, "away": 1001}[how]
            visit.line.end(code, lost=rng.random() < 0.5)

    def turn(self, rng: Random, customer: Customer) -> None:
        visit = _one(rng, customer)
        if visit is not None and visit.expect is not None:
            visit.turn(not visit.active, self.world.now)

    def ack(self, rng: Random, customer: Customer) -> None:
        visit = _one(rng, customer)
        if visit is not None and visit.seen:
            visit.ack(rng.choice((visit.seen, visit.seen, rng.randint(1, visit.seen))))

    def read(self, rng: Random, customer: Customer) -> None:
        visit = _one(rng, customer)
        if visit is not None and visit.seen:
            visit.read(rng.choice((visit.seen, rng.randint(1, visit.seen))))

    def say(self, rng: Random, customer: Customer) -> None:
        visit = _one(rng, customer)
        if visit is not None and visit.expect is not None:
            text = self.world.text(customer)
            visit.line.say("send", ref=f"c-{self.world.sent}", text=text)

    def send(self, rng: Random, customer: Customer) -> None:
        agent = self.world.agent(customer.tenant)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            text = self.world.text(customer)
            agent.send(f"a-{self.world.sent}", customer.id, text)

    def vanish(self, rng: Random, customer: Customer) -> None:
        """The race that all of this is about: a message, and the socket dies with it."""
        agent = self.world.agent(customer.tenant)
        text = self.world.text(customer)
        agent.send(f"a-{self.world.sent}", customer.id, text)
        self.world.run(rng.choice((0.0, 0.001, 0.01, 0.05)))
        while (visit := _one(rng, customer)) is not None and rng.random() < 0.9:
            visit.line.end(rng.choice((ABNORMAL, ABNORMAL, 1000, 1001)), lost=rng.random() < 0.5)

    def write(self, rng: Random, customer: Customer) -> None:
        kind = rng.choice((MessageKind.PROACTIVE, MessageKind.CHAT, MessageKind.SYSTEM))
        expires = rng.choice((*EXPIRIES, rng.uniform(2.0, 90.0))) if rng.random() < 0.4 else None
        self.world.write(customer, kind, expires)

    def open(self, rng: Random, customer: Customer) -> None:
        agent = self.world.agent(customer.tenant)
        if agent.line is not None:
            agent.line.say("open", ref=f"o-{rng.random()}", customer=customer.id)

    def agent_tells(self, rng: Random, customer: Customer) -> None:
        """That an agent's client has messages, or somebody read them: the newest, or older ones."""
        agent = self.world.agents[customer.tenant]
        newest = agent.known.get(customer.id)
        if newest:
            seq = rng.choice((newest, newest, rng.randint(1, newest)))
            agent.tell(rng.choice(("ack", "ack", "read")), customer, seq)

    def agent_goes(self, rng: Random, customer: Customer) -> None:
        line = self.world.agents[customer.tenant].line
        if line is not None:
            line.end(ABNORMAL, lost=True)

    def finish(self, rng: Random, customer: Customer) -> None:
        agent = self.world.agents[customer.tenant]
        if agent.line is not None:
            agent.line.say("end", ref=f"e-{rng.random()}", customer=customer.id)

    def register(self, rng: Random, customer: Customer) -> None:
        if rng.random() < 0.5:
            self._tokens += 1
        token = f"TOKEN-{rng.randint(max(0, self._tokens - 2), self._tokens)}"
        self.world.register(customer, rng.choice(PHONES), token, rng.choice(ENVIRONMENTS))

    def deregister(self, rng: Random, customer: Customer) -> None:
        world = self.world
        if rng.random() < 0.5 or not world.keys:
            world.deregister(customer, rng.choice(PHONES))
        else:
            world.deregister_late(*rng.choice(world.keys))

    def wish(self, rng: Random, customer: Customer) -> None:
        """A mute of minutes, an opt-out, quiet hours of minutes, or nothing any more."""
        quiet_until = 0.0
        now, wish = self.world.now, rng.choice(("mute", "opt_out", "quiet", "none", "none"))
        if wish == "mute":
            wishes = Wishes(muted_until=now + rng.choice((5.0, 60.0, 600.0)))
        elif wish == "quiet":
            quiet_until = now + rng.choice(SPELLS)
            begin, end = _hours(now - 60.0, quiet_until)
            wishes = Wishes(quiet_hours=f"{begin:%H:%M}-{end:%H:%M}")
        else:
            wishes = Wishes(proactive=wish != "opt_out")
        self.world.wish(customer, wishes, quiet_until)

    def reload(self, rng: Random, customer: Customer) -> None:
        """SIGHUP, or a restart, with other settings of the tenant's push section, or none."""
        world, tenant = self.world, customer.tenant
        push = configuration().tenants[tenant].push
        assert push is not None
        own = {name: getattr(push, name) for name in Calls.__struct_fields__}
        if rng.random() < 0.5:
            push = replace(push, backends={"sand": PushBackend(**own, environment="sandbox")})
        if rng.random() < 0.3:
            push = replace(push, in_flight=1, rate_per_second=rng.choice((None, 2.0)))
        if rng.random() < 0.3:
            push = replace(push, expires_after=rng.choice((20.0, 120.0)))
        quiet_until = 0.0
        if rng.random() < 0.3:
            quiet_until = world.now + rng.choice(SPELLS)
            push = replace(push, quiet_hours=_hours(world.now - 60.0, quiet_until))
        world.configure(tenant, None if rng.random() < 0.12 else push, quiet_until)

    def campaign(self, rng: Random, customer: Customer) -> None:
        """A service begins one: some are named twice, some nobody has seen."""
        self.world.services[customer.tenant].send(
            tuple(rng.choice(RECIPIENTS) for _ in range(rng.randint(1, 12))),
            rate=rng.choice((0.2, 0.5, 2.0, 10.0, 1000.0)),
            skip=rng.random() < 0.5,
            begins_in=rng.choice((0.0, 3.0, 40.0)) if rng.random() < 0.4 else None,
            expires_in=rng.choice((*EXPIRIES, 60.0)) if rng.random() < 0.3 else None,
        )

    def campaign_step(self, rng: Random, customer: Customer) -> None:
        service = self.world.services[customer.tenant]
        service.again()
        if service.made:
            step = rng.choice((Step.PAUSE, Step.PAUSE, Step.RESUME, Step.RESUME, Step.CANCEL))
            service.step(step, [*service.made][-rng.randint(1, min(3, len(service.made)))])

    def sign_out(self, rng: Random, customer: Customer) -> None:
        self.world.sign_out(customer)

    def replay(self, rng: Random, customer: Customer) -> None:
        self.world.replay(customer.tenant)

    def backends(self, rng: Random, customer: Customer) -> None:
        ears = self.world.ears
        ears.mood = rng.choice([Mood.ACCEPTS] * 6 + list(Mood))
        ears.moody = rng.choice((0.0, 0.0, 0.3))

    def disk(self, rng: Random, customer: Customer) -> None:
        health = rng.choice((Health.GOOD, Health.GOOD, Health.FULL, Health.FAILING))
        self.world.disk_turns(health)

    def die(self, rng: Random, customer: Customer) -> None:
        self.world.die_soon(rng.choice((1, 5, 30, 100)) * rng.randint(1, 10))

    def shut_down(self, rng: Random, customer: Customer) -> None:
        if self.world.disk.health is Health.GOOD:
            self.world.shut_down()


STEPS = {
    "connect": 10,
    "leave": 9,
    "turn": 5,
    "ack": 6,
    "read": 4,
    "say": 3,
    "send": 14,
    "vanish": 5,
    "write": 8,
    "open": 2,
    "agent_tells": 6,
    "agent_goes": 1,
    "finish": 1,
    "register": 10,
    "deregister": 2,
    "sign_out": 0.5,
    "wish": 4,
    "reload": 2,
    "campaign": 3,
    "campaign_step": 4,
    "replay": 2,
    "backends": 6,
    "disk": 2,
    "die": 3,
    "shut_down": 1,
}


def _hours(begin: float, end: float) -> QuietHours:
    """Quiet hours of whole minutes."""
    return QuietHours(*(datetime.fromtimestamp(t - t % 60, UTC).time() for t in (begin, end)))


def _one(rng: Random, customer: Customer) -> Visit | None:
    here = [v for v in customer.visits if not v.line.over and not v.line.silent]
    return rng.choice(here) if here else None


def run(seed: str, steps: Iterable[int]) -> Report:
    """Live one day. Raises `Violation` with the seed and the last steps."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        day = Day(seed, Path(name))
        try:
            return day.live(steps)
        except Violation as broken:
            last = "\n  ".join(day.told[-TOLD:])
            raise Violation(f"seed {seed}: {broken}\n  {last}") from None
        finally:
            day.world.close()
            structlog.reset_defaults()


def shrink(seed: str, steps: int, why: str) -> list[int]:
    """The few steps that are needed for a violation of the same kind (delta debugging)."""
    kept = list(range(steps))
    size = len(kept) // 2
    while size:
        for start in range(len(kept) - size, -1, -size):
            without = kept[:start] + kept[start + size :]
            try:
                run(seed, without)
            except Violation as broken:
                if why in str(broken):
                    kept = without
        size //= 2
    return kept
