"""Whose change comes next: each tenant in its turn, none beyond its share."""

from __future__ import annotations

from collections import Counter

from storage.turns import FULL, LEAST, MOST, Turns

PLENTY = 1000


def filled(**waiting: int) -> Turns[str]:
    turns = Turns[str]()
    for tenant, many in waiting.items():
        for n in range(many):
            assert turns.put(tenant, f"{tenant}{n}", PLENTY)
    return turns


def test_nothing_is_taken_where_nothing_waits() -> None:
    assert filled().take(10) == []


def test_a_tenant_is_served_in_the_order_of_arrival() -> None:
    turns = filled(a=5)
    assert turns.take(3) == ["a0", "a1", "a2"]
    assert turns.take(3) == ["a3", "a4"]
    assert turns.size == 0


def test_a_flood_gets_no_more_than_an_equal_part() -> None:
    turns = filled(flood=9, b=1, c=3)
    assert turns.take(6) == ["flood0", "flood1", "b0", "c0", "c1"]
    assert turns.tenants == {"flood", "c"}
    assert turns.take(6) == ["flood2", "flood3", "flood4", "c2"]
    assert turns.tenants == {"flood"}
    assert turns.size == 4


def test_who_asks_for_least_gets_all_of_it_and_the_others_as_much() -> None:
    turns = filled(flood=50, busy=20, third=30)
    taken = turns.take(6)
    assert Counter(item.rstrip("0123456789") for item in taken) == dict.fromkeys(
        ("flood", "busy", "third"), 20
    )


def test_what_the_least_asked_makes_of_a_commit_has_a_bound() -> None:
    assert len(filled(a=MOST + 5, b=MOST + 9).take(4)) == 2 * MOST


def test_of_however_many_tenants_each_gets_something() -> None:
    many = {f"t{n}": 3 + n for n in range(10)}
    many["t0"] = 1
    assert len(filled(**many).take(4)) == 1 + 9 * LEAST


def test_a_commit_of_very_many_tenants_has_a_bound_and_the_others_come_first_in_the_next() -> None:
    """Of a thousand with a backlog 20,000 changes were judged at once, and nobody was served."""
    names = [f"t{n}" for n in range(1000)]
    turns = Turns[str]()
    for name in names * MOST:
        turns.put(name, name, MOST * len(names))
    served = Counter[str]()
    for _ in range(-(-len(names) * LEAST // FULL)):
        taken = turns.take(16)
        assert len(taken) <= FULL
        served.update(taken)
    assert min(served.values()) == LEAST
    assert len(served) == len(names)


def test_the_parts_of_a_few_tenants_fill_no_more_than_a_commit() -> None:
    assert len(filled(**{f"t{n}": MOST for n in range(10)}).take(4)) == 10 * (FULL // 10)


def test_a_tenant_that_fills_the_queue_is_refused() -> None:
    turns = Turns[int]()
    assert [turns.put("flood", n, 4) for n in range(6)] == [True] * 4 + [False] * 2
    assert turns.size == 4


def test_a_full_queue_takes_the_share_of_a_tenant_that_did_not_fill_it() -> None:
    turns = Turns[int]()
    for n in range(4):
        turns.put("flood", n, 4)
    assert [turns.put("quiet", n, 4) for n in range(3)] == [True, True, False]
    assert not turns.put("flood", 4, 4)
