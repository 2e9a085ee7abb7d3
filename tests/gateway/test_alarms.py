"""Alarms: everybody whose time has come is woken, a part at a time, no tenant behind another."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from gateway.alarms import ALL_AT_ONCE, AT_ONCE, FEW, Alarms
from storage.records import Key


async def turn() -> None:
    """One turn of the loop, with the timers that are due in it."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_all_that_are_due_are_woken_in_order_as_others_have_been_judged() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    keys = [Key("acme", f"c-{i}") for i in range(3 * AT_ONCE + 1)]
    for i, key in enumerate(keys):
        alarms.set(key, float(i))
    alarms.set(Key("acme", "later"), 2_000.0)
    for judged in range(len(keys)):
        await turn()
        assert len(woken) == min(judged + AT_ONCE, len(keys))
        alarms.judged(woken[judged])
    await asyncio.sleep(0.01)
    assert woken == keys
    alarms.stop()


async def test_a_tenant_does_not_wait_for_the_many_of_another() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    for i in range(2 * AT_ONCE):
        alarms.set(Key("many", f"c-{i}"), 1.0)
    await turn()
    alarms.set(Key("other", "c"), 2.0)
    await turn()
    assert woken[AT_ONCE:] == [Key("other", "c")]
    alarms.stop()


async def test_of_very_many_tenants_no_more_are_woken_than_the_writer_has_room_for() -> None:
    """A thousand with a backlog each filled its queue: no look and no verdict found room."""
    woken: list[Key] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    tenants = 2 * ALL_AT_ONCE
    keys = [Key(f"t-{i}", f"c-{n}") for n in range(3) for i in range(tenants)]
    for key in keys:
        alarms.set(key, 1.0)
    most = 0
    for judged in range(len(keys)):
        await turn()
        most = max(most, len(woken) - judged)
        if judged == 0:
            assert {key.tenant for key in woken} == {f"t-{i}" for i in range(tenants)}
        alarms.judged(woken[judged])
    assert most < 2 * tenants
    assert sorted(woken) == sorted(keys)
    alarms.stop()


async def test_tenants_that_have_backlogs_come_to_have_equal_parts() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    tenants = 4 * ALL_AT_ONCE // AT_ONCE
    for i in range(tenants):
        for n in range(10 * AT_ONCE):
            alarms.set(Key(f"t-{i}", f"c-{n}"), 1.0)
    for judged in range(4 * ALL_AT_ONCE):
        await turn()
        alarms.judged(woken[judged])
    waiting = Counter(key.tenant for key in woken[4 * ALL_AT_ONCE :])
    assert len(waiting) == tenants
    assert max(waiting.values()) <= ALL_AT_ONCE // tenants
    alarms.stop()


async def test_as_many_tenants_as_there_is_room_for_have_their_whole_parts() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    tenants = [f"t-{i}" for i in range(ALL_AT_ONCE // AT_ONCE)]
    for tenant in tenants:
        for n in range(2 * AT_ONCE):
            alarms.set(Key(tenant, f"c-{n}"), 1.0)
    await turn()
    assert Counter(key.tenant for key in woken) == dict.fromkeys(tenants, AT_ONCE)
    alarms.stop()


async def test_an_alarm_looks_at_no_other_tenant() -> None:
    """With a thousand of them each message cost more for its alarm than for all else."""
    now = [0.0]
    woken: list[Key] = []
    alarms = Alarms(lambda: now[0], woken.append)
    for i in range(1_000):
        alarms.set(Key(f"t-{i}", "c"), 86_400.0)
    await turn()
    calls = 0

    def count(frame: object, event: str, told: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        alarms.set(Key("t-7", "c"), 0.0)
        await turn()
        alarms.judged(woken[0])
    finally:
        sys.setprofile(None)
    assert woken == [Key("t-7", "c")]
    assert calls < 1_000
    alarms.stop()


async def test_who_is_woken_and_set_again_is_woken_again() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 0.0, woken.append)
    key = Key("acme", "c-1")
    for _ in range(2):
        alarms.set(key, 0.0)
        alarms.set(key, 0.0)
        while not woken:
            await asyncio.sleep(0)
        assert woken == [key]
        woken.clear()
        alarms.judged(key)
    alarms.stop()


async def test_what_was_set_earlier_leaves_nothing_behind() -> None:
    """Each message's expiry is a day away, and its push is due now."""
    now = [0.0]
    woken: list[Key] = []
    alarms = Alarms(lambda: now[0], woken.append)
    keys = [Key("acme", f"c-{i}") for i in range(10)]
    for times in range(100):
        now[0] += 1.0
        for key in keys:
            alarms.set(key, 86_400.0 + times)
            alarms.set(key, now[0])
        await turn()
        while woken:
            alarms.judged(woken.pop())
        for key in keys:
            alarms.set(key, 86_400.0 + times)
    assert len(alarms._tenants["acme"].heap) <= FEW + 2 * len(keys)
    now[0] = 90_000.0
    alarms.set(Key("acme", "c-1"), 1.0)
    await turn()
    assert sorted(woken) == keys
    alarms.stop()


async def test_once_stopped_nobody_is_woken() -> None:
    woken: list[Key] = []
    alarms = Alarms(lambda: 0.0, woken.append)
    alarms.set(Key("acme", "c-1"), 0.0)
    await turn()
    alarms.set(Key("acme", "c-2"), 0.0)
    alarms.stop()
    alarms.set(Key("acme", "c-3"), 0.0)
    alarms.judged(Key("acme", "c-1"))
    await asyncio.sleep(0.01)
    assert woken == [Key("acme", "c-1")]
