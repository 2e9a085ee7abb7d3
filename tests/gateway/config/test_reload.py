"""What a running gateway takes up of a changed configuration, and what it says needs a restart."""

from __future__ import annotations

from pathlib import Path

from gateway.config.reload import plan
from tests.gateway.configured import GOOD, SECRET, push_of, read

OTHER = f"""
[tenants.other.auth]
algorithm = "HS256"
secret = "{SECRET}"
"""


def test_the_same_configuration_changes_nothing(tmp_path: Path) -> None:
    running = read(tmp_path)
    assert plan(running, read(tmp_path)) == (running, (), ())


def test_the_push_section_and_the_keys_of_a_tenant_are_taken_up(tmp_path: Path) -> None:
    running = read(tmp_path, GOOD + OTHER)
    text = (GOOD + OTHER).replace("the-auth-token", "another").replace('"24h"', '"1h"')
    given = read(tmp_path, text.replace(SECRET, SECRET[::-1], 1))
    told = plan(running, given)
    assert (told.changed, told.kept) == (("acme",), ())
    assert told.config == given
    assert push_of(told.config).expires_after == 3600.0


def test_a_push_section_can_come_and_go(tmp_path: Path) -> None:
    without = read(tmp_path, GOOD.partition("[tenants.acme.push]")[0])
    running = read(tmp_path)
    assert plan(without, running).config == running
    assert plan(running, without).config == without


def test_everything_else_stays_and_is_named(tmp_path: Path) -> None:
    running = read(tmp_path)
    text = (
        GOOD.replace(":8080", ":9090")
        .replace("ack_timeout = 5.0", "ack_timeout = 6.0")
        .replace("app.acme", "web.acme")
        .replace("the-auth-token", "another")
    )
    told = plan(running, read(tmp_path, text))
    assert told.kept == ("server.chat", "delivery.ack_timeout", "tenants.acme.origins")
    assert told.changed == ("acme",)
    assert (told.config.server, told.config.delivery) == (running.server, running.delivery)
    assert told.config.tenants["acme"].origins == ("https://app.acme.example",)
    assert plan(told.config, read(tmp_path, text)).changed == ()


def test_a_tenant_more_or_less_needs_a_restart(tmp_path: Path) -> None:
    one, two = read(tmp_path), read(tmp_path, GOOD + OTHER)
    assert plan(one, two) == (one, (), ("tenants.other",))
    assert plan(two, one) == (two, (), ("tenants.other",))


def test_who_stays_goes_on_with_what_is_new_of_them_though_another_is_gone(tmp_path: Path) -> None:
    running = read(tmp_path, GOOD + OTHER)
    (acme, other) = running.tenants
    gone = read(tmp_path, GOOD[: GOOD.index("[tenants.acme")] + OTHER.replace(SECRET, SECRET[::-1]))
    told = plan(running, gone)
    assert (told.changed, told.kept) == ((other,), ("tenants.acme",))
    assert told.config.tenants[acme] == running.tenants[acme]
    assert told.config.tenants[other] == gone.tenants[other]
