"""Device tokens from registration to ring when they are encrypted at rest, and the keys for it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from base64 import b64decode
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from gateway.config.values import fresh_key
from gateway.core import STALE, STALE_EVERY
from gateway.devices import DEVICES
from gateway.protocol import Role
from gateway.server import CannotStart
from storage import sql
from storage.errors import StorageError
from storage.records import fingerprint
from storage.vault import key_name
from tests.running import PATIENCE, Call, Running, backend, change, running, settings
from tests.test_cli import ringback

pytestmark = pytest.mark.timeout(300)  # a dozen commands in turn: each is a start of Python

TOKEN = "CANARY-device-token"
KEY, NEXT = fresh_key(), fresh_key()


def name_of(key: str) -> str:
    return key_name(b64decode(key))


def file_bytes(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.glob("ringback.db*"))


async def test_a_phone_rings_though_its_token_is_nowhere_in_the_database(tmp_path: Path) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.register(token=TOKEN)
        await it.write()
        call = await it.backend.take()
        told = await it.settled(1, "pushed")
        assert call.body["deviceToken"] == TOKEN
        assert TOKEN.encode() not in file_bytes(tmp_path)
        _, devices = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        assert devices["devices"][0]["device"] == fingerprint(TOKEN)
        assert {e["device"] for e in told["events"] if "device" in e} == {fingerprint(TOKEN)}
    assert TOKEN.encode() not in file_bytes(tmp_path)


async def test_after_a_restart_a_ring_in_hand_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"storage": {"encryption_key": KEY}}
    slowly = {"retry_first": 5, "retry_max": 5}
    async with backend() as asked:
        asked.otherwise = 503
        async with running(tmp_path, asked, push=slowly, **options) as it:
            await it.register(token=TOKEN)
            await it.write()
            first = await asked.take()
        asked.otherwise = 200
        async with running(tmp_path, asked, **options) as it:
            await it.settled(1, "pushed")
        assert asked.calls[-1].raw == first.raw


async def test_registering_again_is_the_same_registration_and_anothers_takes_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        key = await it.register(token=TOKEN)
        assert await it.register(token=TOKEN) == key
        assert await it.register(token=TOKEN, installation="renamed") == key
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        assert await it.register(token=TOKEN, installation="renamed") == key
        assert await it.register("c-43", "tablet", TOKEN) != key
        await it.write()
        assert (await it.settled(1, "undeliverable"))["reason"] == "no_device"
        await it.write("c-43")
        assert (await it.backend.take()).body["deviceToken"] == TOKEN


async def test_two_tenants_may_have_the_same_token(tmp_path: Path) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.register(token=TOKEN)
        await it.register(token=TOKEN, tenant="other")
        await it.write()
        await it.settled(1, "pushed")


async def test_the_key_changes_with_a_restart_and_rings_go_on(tmp_path: Path) -> None:
    for storage in (
        {},
        {"encryption_key": KEY},
        {"encryption_key": NEXT, "previous_encryption_key": KEY},
        {"encryption_key": NEXT},
    ):
        async with running(tmp_path, storage=storage) as it:
            if not storage:
                await it.register(token=TOKEN)
            await it.write()
            assert (await it.backend.take()).body["deviceToken"] == TOKEN
        assert (TOKEN.encode() in file_bytes(tmp_path)) == (not storage)


@pytest.mark.parametrize("storage", [{}, {"encryption_key": NEXT}])
async def test_a_gateway_without_the_right_key_does_not_start_and_changes_nothing(
    tmp_path: Path, storage: dict[str, str]
) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.register(token=TOKEN)
    with pytest.raises((CannotStart, StorageError), match=name_of(KEY)):
        async with running(tmp_path, storage=storage):
            pass
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.write()
        assert (await it.backend.take()).body["deviceToken"] == TOKEN


# The command line


async def test_keys_new_prints_a_key_that_can_be_configured(tmp_path: Path) -> None:
    printed = await ringback(tmp_path, "keys", "new")
    settings(tmp_path, None, storage={"encryption_key": printed.out.strip()})
    assert printed.out != (await ringback(tmp_path, "keys", "new")).out


async def test_keys_rotate_encrypts_all_anew_and_keys_check_says_so(tmp_path: Path) -> None:
    config = str(tmp_path / "ringback.toml")
    async with running(tmp_path) as it:
        empty = await ringback(tmp_path, "keys", "check", "-c", config)
        assert (empty.code, empty.out) == (0, "no device tokens\n")
        await it.register(token=TOKEN)
    assert "no key" in (await ringback(tmp_path, "keys", "rotate", "-c", config)).refused()
    assert "not encrypted: 1" in (await ringback(tmp_path, "keys", "check", "-c", config)).out
    settings(tmp_path, None, storage={"encryption_key": KEY})
    done = await ringback(tmp_path, "keys", "rotate", "-c", config)
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        f"Every token is encrypted with the key {name_of(KEY)}: 1 were not before.\n"
    )
    assert TOKEN.encode() not in file_bytes(tmp_path)
    settings(tmp_path, None, storage={"encryption_key": NEXT, "previous_encryption_key": KEY})
    done = await ringback(tmp_path, "keys", "rotate", "-c", config)
    assert "Now remove storage.previous_encryption_key." in done.err
    settings(tmp_path, None, storage={"encryption_key": NEXT})
    checked = await ringback(tmp_path, "keys", "check", "-c", config)
    assert checked.out == f"encrypted with the key {name_of(NEXT)}: 1\n"
    settings(tmp_path, None, storage={"encryption_key": KEY})
    refused = (await ringback(tmp_path, "keys", "check", "-c", config)).refused()
    assert name_of(NEXT) in refused
    assert name_of(KEY) in refused
    assert (await ringback(tmp_path, "serve", "-c", config)).refused() == refused
    for secret in (TOKEN, KEY, NEXT):
        assert secret not in refused + done.err + checked.out


async def test_keys_rotate_tells_of_tokens_that_do_not_open(tmp_path: Path) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.register(token=TOKEN)
        await it.register("c-43", "tablet", "another")
    with closing(sqlite3.connect(tmp_path / "ringback.db")) as db:
        db.execute("UPDATE devices SET sealed = 'AAAA' || substr(sealed, 5) WHERE id = 1")
        db.commit()
    settings(tmp_path, None, storage={"encryption_key": NEXT, "previous_encryption_key": KEY})
    done = await ringback(tmp_path, "keys", "rotate", "-c", str(tmp_path / "ringback.toml"))
    assert done.code == 0
    assert "1 of them did not open: their apps have to register again." in done.err.splitlines()


async def test_keys_rotate_leaves_a_running_gateway_alone(tmp_path: Path) -> None:
    async with running(tmp_path, storage={"encryption_key": KEY}) as it:
        await it.register(token=TOKEN)
        config = str(tmp_path / "ringback.toml")
        refused = (await ringback(tmp_path, "keys", "rotate", "-c", config)).refused()
        assert "is held by another process" in refused


# Tokens that were not registered again


async def test_of_very_many_phones_the_one_told_longest_ago_goes(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for number in range(DEVICES + 1):
            await it.register(token=f"token-{number}", installation=f"phone-{number}")
        await it.register(token="token-1", installation="phone-1")  # now it is the newest
        await it.register(token="token-new", installation="phone-new")
        _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        left = {device["installation"] for device in told["devices"]}
        assert len(left) == DEVICES
        assert left.isdisjoint({"phone-0", "phone-2"})
        assert {"phone-1", "phone-new"} <= left


async def test_of_very_many_phones_one_whose_token_is_dead_goes_before_any_that_rings(
    tmp_path: Path,
) -> None:
    async def rejects(call: Call) -> web.StreamResponse:
        return web.Response(status=410 if call.body["deviceToken"] == "token-1" else 200)

    async with running(tmp_path) as it:
        it.backend.otherwise = rejects
        for number in range(2):
            await it.register(token=f"token-{number}", installation=f"phone-{number}")
        await it.write()
        await it.settled(1, "pushed")
        async with asyncio.timeout(PATIENCE):
            while True:
                changed = it.next_commit()
                _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
                if [device["state"] for device in told["devices"]] == ["live", "dead"]:
                    break
                await changed.wait()
        for number in range(2, DEVICES + 1):
            await it.register(token=f"token-{number}", installation=f"phone-{number}")
        _, told = await it.call("GET", "/v1/customers/c-42/devices", Role.SERVICE)
        left = {device["installation"] for device in told["devices"]}
        assert left == {f"phone-{number}" for number in range(DEVICES + 1)} - {"phone-1"}
        (removed,) = [e for e in (await it.outcome(1))["events"] if e["event"] == "device_removed"]
        assert removed["reason"] == "too_many"


async def test_a_device_that_was_not_registered_again_for_too_long_is_forgotten(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register(token="old-token", installation="old")
        devices = it.gateway.core.devices
        await devices.expire("other", time.time() + 60)
        await devices.expire("acme", time.time() - 60)
        await it.write()
        await it.settled(1, "pushed")
        await devices.expire("acme", time.time() + 60)
        await it.write()
        told = await it.settled(2, "undeliverable")
        assert told["reason"] == "no_device"
        removed = [e for e in (await it.outcome(1))["events"] if e["event"] == "device_removed"]
        assert [e["reason"] for e in removed] == ["stale"]
        await it.register(token="old-token", installation="old")
        await it.settled(2, "pushed")


async def test_how_many_were_forgotten_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a period that was set too short, or a clock that was wrong at the start, it had no word,
    and nobody had a phone any more."""
    monkeypatch.setattr("gateway.core.HOUSEKEEPING", 0.001)
    async with running(tmp_path) as it:
        it.pass_time(-3_600.0)
        for number in range(2):
            await it.register(f"c-{number}", f"phone-{number}", f"token-{number}")
    told: list[Any] = []
    with capture_logs() as logs:
        async with running(tmp_path, push={"token_expires_after": "30m"}) as it:
            async with asyncio.timeout(PATIENCE):
                while not told:
                    await it.call("GET", "/v1/customers/c-0/devices", Role.SERVICE)
                    told += [entry for entry in logs if entry["event"] == STALE]
    assert [(entry["tenant"], entry["customers"]) for entry in told] == [("acme", 2)]


def rounds(it: Running, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the housekeeper does from now on, in order."""
    core, done = it.gateway.core, list[str]()
    graces, expire, bury = core.hub.forget_graces, core.devices.expire, core.dead_letters.forget

    def forget_graces(now: float) -> None:
        graces(now)
        done.append("round")

    async def noted(tenant: str, before: float) -> int:
        many = await expire(tenant, before)
        done.append(f"{tenant}: {many}")
        return many

    async def buried(before: float) -> None:
        await bury(before)
        done.append("letters")

    monkeypatch.setattr(core.dead_letters, "forget", buried)
    monkeypatch.setattr(core.hub, "forget_graces", forget_graces)
    monkeypatch.setattr(core.devices, "expire", noted)
    return done


async def until(done: list[str], said: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while said not in done:
            await asyncio.sleep(0.001)


async def test_a_start_forgets_nothing_before_its_clock_can_have_been_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that was far ahead a start took everybody's phone within a second."""
    monkeypatch.setattr("gateway.core.HOUSEKEEPING", 0.001)
    async with running(tmp_path, push={"token_expires_after": "30m"}) as it:
        done = rounds(it, monkeypatch)
        await until(done, "acme: 0")
        assert done.index("letters") > STALE_EVERY / 2  # some rounds were before `rounds`
        await it.register()
        it.pass_time(3_600.0)  # by the machine's clock, which was put right, it did not
        del done[:]
        await until(done, "acme: 0")
        assert "acme: 1" not in done


async def test_while_the_push_section_is_out_no_registration_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the default of 270 days those went that a tenant had let live for years."""
    monkeypatch.setattr("gateway.core.HOUSEKEEPING", 0.001)
    monkeypatch.setattr("gateway.core.STALE_EVERY", 1)
    async with running(tmp_path, push={"token_expires_after": "3650d"}) as it:
        it.pass_time(-300 * 86_400.0)
        await it.register()
        it.pass_time(300 * 86_400.0)
        tenants = it.gateway.config.tenants
        acme = msgspec.structs.replace(tenants["acme"], push=None)
        it.gateway.take_up(change(it.gateway.config, tenants=tenants | {"acme": acme}))
        done = rounds(it, monkeypatch)
        await until(done, "acme: 0")
        assert "acme: 1" not in done


async def test_a_sign_out_is_told_of_every_message_that_might_still_have_rung(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, push={"retry_first": 60.0, "retry_max": 60.0}) as it:
        it.backend.otherwise = 503
        await it.register()
        first = await it.write()
        await it.backend.take()
        second = await it.write()
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        for seq in (first, second):
            told = await it.settled(seq, "undeliverable")
            assert told["events"][-2]["event"] == "device_removed"
            assert told["events"][-2]["reason"] == "signed_out"


async def test_stale_registrations_go_however_many_there_are_and_though_one_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "STALE", sql.STALE.replace("1000", "2"))
    key = {"encryption_key": KEY}
    async with running(tmp_path, storage=key) as it:
        for n in range(5):
            await it.register(f"c-{n}", installation=f"i-{n}", token=f"t-{n}")
    with closing(sqlite3.connect(tmp_path / "ringback.db")) as db:
        db.execute("UPDATE devices SET sealed = 'AAAA' || substr(sealed, 5) WHERE id = 1")
        db.commit()
    async with running(tmp_path, storage=key) as it:
        await it.gateway.core.devices.expire("acme", time.time() + 60)
        for n in range(5):
            path = f"/v1/customers/c-{n}/devices"
            assert (await it.call("GET", path, Role.SERVICE))[1]["devices"] == []
