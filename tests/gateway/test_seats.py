"""Whose the open sockets are: the last ones are for tenants that have less than their share."""

from __future__ import annotations

from gateway.seats import Seats


def taken(seats: Seats, tenant: str, wanted: int) -> int:
    """How many of so many sessions get a seat."""
    return sum(seats.take(tenant) for _ in range(wanted))


def test_while_most_are_free_a_tenant_takes_as_many_as_it_likes() -> None:
    assert taken(Seats(100, 4), "acme", 90) == 90


def test_the_last_ones_are_for_those_who_have_less_than_their_share() -> None:
    seats = Seats(100, 4)
    assert taken(seats, "acme", 1_000) == 90
    assert taken(seats, "other", 4) == 4
    assert not seats.take("acme")


def test_who_has_its_share_takes_no_more_of_the_last_ones() -> None:
    seats = Seats(200, 20)
    assert taken(seats, "acme", 180) == 180
    assert taken(seats, "other", 1_000) == 10
    assert taken(seats, "third", 1_000) == 10


def test_who_is_alone_has_all_of_them() -> None:
    assert taken(Seats(100, 1), "acme", 100) == 100


def test_a_seat_that_was_given_back_is_free() -> None:
    seats = Seats(100, 2)
    assert taken(seats, "acme", 1_000) == 90
    seats.leave("acme")
    assert taken(seats, "acme", 1_000) == 1
    assert taken(seats, "other", 1) == 1
    for _ in range(2):
        seats.leave("acme")
    assert taken(seats, "acme", 1_000) == 1


def test_of_very_few_none_is_kept_and_of_very_many_tenants_each_gets_one() -> None:
    assert taken(Seats(2, 2), "acme", 2) == 2
    many = Seats(10, 1_000)
    assert taken(many, "acme", 100) == 9
    assert taken(many, "other", 100) == 1
