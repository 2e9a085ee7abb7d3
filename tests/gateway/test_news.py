"""News for inboxes: few changes are told at once, many a little later, and nobody talks behind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway import decoding, news
from gateway.auth import Identity
from gateway.hub import Hub
from gateway.news import News
from gateway.protocol import CloseCode, Role
from gateway.session import AgentSession, TokenBucket
from storage.records import Conversation, Key, Message


@dataclass(slots=True)
class Desk:
    """An agent's socket: the conversations that it was told of, each as its customer and seq."""

    told: list[tuple[str, int]] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    until: int = 10**9

    def send(self, data: bytes) -> None:
        c = orjson.loads(data)["conversation"]
        self.told.append((c["customer"], c["seq"]))
        if len(self.told) >= self.until:
            self.enough.set()

    async def stream(self, data: bytes) -> None:
        raise NotImplementedError

    async def has_read(self) -> None:
        raise NotImplementedError

    def answered(self) -> None:
        raise NotImplementedError

    def close(self, code: CloseCode) -> None:
        raise NotImplementedError

    async def has(self, many: int) -> list[tuple[str, int]]:
        """Wait until it was told so often."""
        self.until = many
        if len(self.told) < many:
            await asyncio.wait_for(self.enough.wait(), 30)
        return self.told


def desk(hub: Hub, tenant: str = "acme") -> Desk:
    it = Desk()
    who = Identity(tenant, Role.AGENT, "a-1", None, 2e9)
    bucket = TokenBucket(60, 1_000)
    session = AgentSession("s-1", who, it, bucket, 1_000, decoding.decode_agent)
    hub.arrive(session)
    hub.follow_inbox(session)
    return it


def changed(number: int, seq: int = 1, *, tenant: str = "acme", **state: Any) -> Conversation:
    return Conversation(number, Key(tenant, f"c-{number}"), last_seq=seq, **state)


def offered(number: int, seq: int = 1) -> Conversation:
    """A live conversation whose newest message is a broadcast's."""
    about: Any = {**dict.fromkeys(Message.__struct_fields__), "kind": "proactive", "at": 0.0}
    offer = Message(**about)
    return changed(number, seq, live=True, newest=offer)


def its_time_has_come(told: News, tenant: str) -> None:
    """For what waits."""
    told._tenants[tenant].timer.cancel()  # type: ignore[union-attr]
    told._tenants[tenant].at -= news.EVERY
    told._go_on(tenant)


@pytest.fixture
async def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four frames for a tenant, and then the next four a moment later: time passes where a test
    waits, and not while it tells of changes, however slow the machine. The moment is a power
    of two, so that no sum with it is rounded, whatever the clock shows."""
    monkeypatch.setattr(news, "FRAMES", 4)
    monkeypatch.setattr(news, "EVERY", 1 / 64)
    loop: Any = asyncio.get_running_loop()
    select, now = loop._selector.select, loop.time()

    def wait(timeout: float | None) -> Any:
        nonlocal now
        events = select(timeout)
        now = time.monotonic()
        return events

    monkeypatch.setattr(loop._selector, "select", wait)
    monkeypatch.setattr(loop, "time", lambda: now)


async def test_what_is_not_much_is_told_at_once_change_by_change() -> None:
    hub = Hub()
    it, another = desk(hub), desk(hub)
    told = News(hub)
    for number, seq in ((1, 1), (1, 2), (2, 1), (1, 3)):
        told.changed(changed(number, seq))
    assert it.told == another.told == [("c-1", 1), ("c-1", 2), ("c-2", 1), ("c-1", 3)]


async def test_of_a_conversation_without_a_message_nothing_is_told() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    told.changed(changed(1, 0))
    told.changed(changed(2))
    assert it.told == [("c-2", 1)]


@pytest.mark.parametrize("frames", [3, 4])
async def test_beyond_some_frames_a_change_waits_and_leaves_together_with_the_others(
    monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    monkeypatch.setattr(news, "AT_ONCE", frames)
    monkeypatch.setattr(news, "EVERY", 60)
    hub = Hub()
    it, another = desk(hub), desk(hub)
    told = News(hub)
    for number, seq in ((1, 1), (2, 1), (3, 1), (1, 2), (3, 2)):
        told.changed(changed(number, seq))
    assert it.told == another.told == [("c-1", 1), ("c-2", 1)]
    its_time_has_come(told, "acme")
    assert it.told[2:] == another.told[2:] == [("c-3", 2), ("c-1", 2)]
    told.changed(changed(4))
    assert len(it.told) == 4, "what has just left counts too"
    its_time_has_come(told, "acme")
    assert it.told[4:] == [("c-4", 1)]


@pytest.mark.usefixtures("few")
async def test_what_is_much_is_told_a_little_later_each_as_it_is_by_then() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for seq in (1, 2):
        for number in range(1, 7):
            told.changed(changed(number, seq))
    assert it.told == [(f"c-{n}", 1) for n in range(1, 5)]
    assert (await it.has(10))[4:8] == [("c-5", 2), ("c-6", 2), ("c-1", 2), ("c-2", 2)]
    assert it.told[8:] == [("c-3", 2), ("c-4", 2)]


@pytest.mark.usefixtures("few")
async def test_who_talks_does_not_wait_behind_a_broadcast() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(20):
        told.changed(changed(number))
    told.changed(changed(30, live=True))
    told.changed(changed(12, 2, live=True))
    assert (await it.has(21))[4:6] == [("c-30", 1), ("c-12", 2)]
    assert it.told[6:] == [(f"c-{n}", 1) for n in range(4, 20) if n != 12]


@pytest.mark.usefixtures("few")
async def test_who_talks_does_not_wait_behind_a_broadcast_to_conversations_that_nobody_ended() -> (
    None
):
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(20):
        told.changed(offered(number))
    told.changed(changed(30, live=True))
    told.changed(changed(12, 2, live=True))
    told.changed(offered(30, 2))
    assert (await it.has(21))[4:6] == [("c-30", 2), ("c-12", 2)]
    assert it.told[6:] == [(f"c-{n}", 1) for n in range(4, 20) if n != 12]


@pytest.mark.usefixtures("few")
async def test_a_conversation_that_has_ended_waits_with_the_others() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(6):
        told.changed(changed(number))
    told.changed(changed(9, live=True))
    told.changed(changed(9, 2))
    assert (await it.has(7))[4:] == [("c-4", 1), ("c-5", 1), ("c-9", 2)]


@pytest.mark.usefixtures("few")
async def test_with_however_many_agents_something_is_told_each_time() -> None:
    hub = Hub()
    desks = [desk(hub) for _ in range(10)]
    told = News(hub)
    for number in range(3):
        told.changed(changed(number))
    assert [it.told for it in desks] == [[("c-0", 1)]] * 10
    assert await desks[-1].has(3) == [("c-0", 1), ("c-1", 1), ("c-2", 1)]


@pytest.mark.usefixtures("few")
async def test_a_tenants_broadcast_keeps_anothers_news_from_nobody() -> None:
    hub = Hub()
    it, other = desk(hub), desk(hub, "other")
    told = News(hub)
    for number in range(20):
        told.changed(changed(number))
    told.changed(changed(1, tenant="other"))
    assert other.told == [("c-1", 1)]
    assert len(it.told) == 4


@pytest.mark.usefixtures("few")
async def test_beyond_the_bound_what_has_waited_longest_is_left_out_and_nobody_who_talks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(news, "WAITING", 3)
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(4):
        told.changed(changed(number))
    for number in range(10, 16):
        told.changed(changed(number, live=True))
        told.changed(changed(number + 10))
    names = [name for name, _ in (await it.has(13))[4:]]
    assert names == [f"c-{n}" for n in (*range(10, 16), 23, 24, 25)]


@pytest.mark.usefixtures("few")
async def test_of_those_who_talk_too_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "TALKING", 3)
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(4):
        told.changed(changed(number))
    for number in range(10, 16):
        told.changed(changed(number, live=True))
    told.changed(changed(20))
    assert [name for name, _ in (await it.has(8))[4:]] == ["c-13", "c-14", "c-15", "c-20"]


@pytest.mark.usefixtures("few")
async def test_tenants_that_broadcast_at_once_share_the_frames_and_nobody_else_waits() -> None:
    hub = Hub()
    tenants = [f"t{n}" for n in range(4)]
    desks = [desk(hub, name) for name in tenants]
    told = News(hub)
    for name in tenants:
        for number in range(9):
            told.changed(changed(number, tenant=name))
    before = [len(it.told) for it in desks]
    for name in tenants:
        its_time_has_come(told, name)
    assert [len(it.told) - many for it, many in zip(desks, before, strict=True)] == [1] * 4
    other = desk(hub, "quiet")
    told.changed(changed(1, tenant="quiet"))
    assert other.told == [("c-1", 1)]
    assert [len(await it.has(9)) for it in desks] == [9] * 4


@pytest.mark.usefixtures("few")
async def test_a_broadcast_that_is_over_leaves_all_the_frames_to_the_next() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(6):
        told.changed(changed(number))
    await it.has(6)
    told._tenants["acme"].at -= news.EVERY
    for number in range(6, 10):
        told.changed(changed(number))
    assert it.told[6:] == [(f"c-{n}", 1) for n in range(6, 10)]


@pytest.mark.usefixtures("few")
async def test_a_change_for_more_agents_than_frames_is_made_up_for() -> None:
    hub = Hub()
    desks = [desk(hub) for _ in range(10)]
    told = News(hub)
    told.changed(changed(1))
    tenant = told._tenants["acme"]
    began = tenant.at
    assert not tenant.may_tell(began + 1.25 * news.EVERY, 4)
    assert tenant.may_tell(began + 2.5 * news.EVERY, 4)
    assert desks[0].told == [("c-1", 1)]


@pytest.mark.usefixtures("few")
async def test_when_the_last_agent_has_left_nothing_waits() -> None:
    hub = Hub()
    it = desk(hub)
    told = News(hub)
    for number in range(6):
        told.changed(changed(number))
    (session,) = hub.inboxes("acme")
    hub.depart(session)
    told.changed(changed(7))
    while told._tenants:
        await asyncio.sleep(0.01)
    back = desk(hub)
    told.changed(changed(8))
    assert back.told == [("c-8", 1)]
    assert len(it.told) == 4
