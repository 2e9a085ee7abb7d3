"""Where the faults of the network are played: one gateway process, its backend, agents and apps.

What is common to them: making customers, waiting until nothing is pending or owed any more, and
telling how long after a socket's death the phone was rung.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.protocol import Role
from tests import recount
from tests.faults.accounts import Confirmed
from tests.faults.lines import LOOPBACK, App, Desk, many_sockets
from tests.faults.process import ROOMY, Process, process
from tests.running import PATIENCE, Backend, Call, backend

AGENTS = 4
SETTLING = 120.0  # seconds in which everything must have come to its end
TIMING = {
    "ack_timeout": 1.5,
    "disconnect_grace": 0.15,
    "restart_window": 0.1,
    "restart_grace": 0.2,
    "max_hold": 6.0,
}
_UNSETTLED = """
    SELECT (SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'pending')
        + (SELECT count(*) FROM conversations WHERE push_due_at IS NOT NULL)
        + (SELECT count(*) FROM ringing WHERE wake_at IS NOT NULL)
"""


class Stage:
    """A running gateway over `directory`, with agents that are signed in."""

    def __init__(self, directory: Path, gateway: Process, ears: Backend) -> None:
        self.path = directory / "ringback.db"
        self.gateway = gateway
        self.ears = ears
        self.desks: list[Desk] = []
        self.apps: list[App] = []

    @property
    def port(self) -> int:
        return self.gateway.gateway.ports["chat"]

    @property
    def confirmed(self) -> list[Confirmed]:
        return [send for desk in self.desks for send in desk.confirmed]

    @property
    def wrong(self) -> list[str]:
        """What clients saw and should not have seen."""
        return [line for app in self.apps for line in app.wrong]

    def desk(self, i: int) -> Desk:
        return self.desks[i % len(self.desks)]

    async def open_desks(self, port: int | None = None, host: str = LOOPBACK) -> None:
        for i in range(AGENTS):
            desk = Desk(self.gateway.token(Role.AGENT, f"a-{i}", ttl=3600))
            await desk.come(port or self.port, host)
            self.desks.append(desk)

    def app(self, sub: str, *, acks: bool = True) -> App:
        """A customer who is nowhere yet."""
        app = App(sub, self.gateway.token(Role.CUSTOMER, sub, ttl=3600), acks=acks)
        self.apps.append(app)
        return app

    async def in_chat(
        self, names: Sequence[str], port: int | None = None, *, acks: bool = True
    ) -> list[App]:
        """Customers with a phone, each in chat by the gateway's view, through `port`."""
        apps = [self.app(name, acks=acks) for name in names]
        for group in batches(apps, 50):
            await asyncio.gather(*(app.come(port or self.port) for app in group))
            await asyncio.gather(*(app.register() for app in group))
        return apps

    async def settled(self) -> None:
        """Wait until nothing is pending, due or owed."""
        async with asyncio.timeout(SETTLING):
            while self._unsettled():
                await asyncio.sleep(0.05)

    async def recorded(self, event: str, names: Iterable[str]) -> dict[str, int]:
        """Wait until an event is recorded for all of `names`, if it ever is; then as `facts`."""
        wanted = set(names)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not wanted <= set(self.facts(event)):
                    await asyncio.sleep(0.05)
        return self.facts(event)

    def _unsettled(self) -> int:
        with recount.reading(self.path) as db:
            count: int = db.execute(_UNSETTLED).fetchone()[0]
            return count

    def calls(self) -> dict[str, list[Call]]:
        """What was rung with a sound, by customer."""
        found: dict[str, list[Call]] = {}
        for call in self.ears.calls:
            if call.ring["kind"] != "badge":
                found.setdefault(call.ring["customer"], []).append(call)
        return found

    def facts(self, event: str) -> dict[str, int]:
        """How far an event is recorded for each customer."""
        with recount.reading(self.path) as db:
            rows = db.execute(
                "SELECT c.customer, max(e.seq) FROM events e"
                " JOIN conversations c ON c.id = e.conversation WHERE e.event = ?"
                " GROUP BY c.id",
                (event,),
            )
            return dict(rows.fetchall())

    def reasons(self) -> dict[str, str]:
        """Why the push for each customer became due, the last time that it did."""
        with recount.reading(self.path) as db:
            rows = db.execute(
                "SELECT c.customer, json_extract(e.detail, '$.reason') FROM events e"
                " JOIN conversations c ON c.id = e.conversation WHERE e.event = 'due'"
                " ORDER BY e.id"
            )
            return dict(rows.fetchall())

    def outcomes(self) -> dict[tuple[str, int], str]:
        """Each counted message's outcome, recounted."""
        return {(m.customer, m.seq): m.outcome for m in recount.check(self.path)}

    def incomplete(self, apps: Sequence[App]) -> list[str]:
        """Whose app has not exactly what was confirmed for it."""
        texts: dict[str, dict[int, str]] = {}
        for send in self.confirmed:
            texts.setdefault(send.customer, {})[send.seq] = send.text
        return [
            f"{app.sub}: has {len(app.texts)} messages of {len(texts.get(app.sub, {}))}"
            for app in apps
            if app.texts != texts.get(app.sub, {})
        ]

    def close(self) -> None:
        for line in (*(d.line for d in self.desks), *(a.line for a in self.apps)):
            line.dead = True
            line.transport.abort()


@asynccontextmanager
async def stage(
    directory: Path,
    *,
    delivery: Mapping[str, float] = TIMING,
    limits: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    host: str = LOOPBACK,
) -> AsyncIterator[Stage]:
    """A stage over a fresh database in `directory`."""
    many_sockets()
    chosen: dict[str, Any] = {**ROOMY, **(limits or {})}
    async with (
        backend() as ears,
        process(
            directory,
            ears,
            delivery=dict(delivery),
            limits=chosen,
            environment=environment,
        ) as gateway,
    ):
        it = Stage(directory, gateway, ears)
        await it.open_desks(host=host)
        try:
            yield it
        finally:
            it.close()


def batches(things: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`things` in groups of `size`."""
    return [things[i : i + size] for i in range(0, len(things), size)]


def spread(seconds: Sequence[float]) -> str:
    """A distribution in milliseconds: how many, median, p99, max."""
    if not seconds:
        return "none"
    ms = sorted(s * 1000 for s in seconds)
    return (
        f"median {ms[len(ms) // 2]:.1f}, p99 {ms[len(ms) * 99 // 100]:.1f}, "
        f"max {ms[-1]:.1f} ms of {len(ms):,}"
    )
