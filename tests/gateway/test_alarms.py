"""Alarms: everybody whose time has come is woken, and the loop has its turns in between."""

from __future__ import annotations

import asyncio

from gateway.alarms import AT_ONCE, Alarms
from storage.records import Key


async def test_all_that_are_due_are_woken_in_the_order_of_their_times_a_part_in_each_turn() -> None:
    woken: list[Key] = []
    in_a_turn: list[int] = []
    alarms = Alarms(lambda: 1_000.0, woken.append)
    keys = [Key("acme", f"c-{i}") for i in range(3 * AT_ONCE + 1)]
    for i, key in enumerate(keys):
        alarms.set(key, float(i))
    later = Key("acme", "later")
    alarms.set(later, 2_000.0)
    while len(woken) < len(keys):
        before = len(woken)
        await asyncio.sleep(0)
        in_a_turn.append(len(woken) - before)
    await asyncio.sleep(0.01)
    assert woken == keys
    assert max(in_a_turn) == AT_ONCE
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
    alarms.stop()
