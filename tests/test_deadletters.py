"""Dead letters from end to end: what is written down, what a replay rings, and what it does not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gateway.protocol import Role, parse_timestamp, timestamp
from storage.audit import audit
from storage.deadletters import DeadLetter, DeadLetterRows
from storage.sql import EVENTS_OF, Statement
from tests.running import PATIENCE, PATIENT, QUICK, Gate, Running, change, running
from tests.test_wishes import FOREVER, NOW_QUIET, attempted, hours, looked, wish


async def letters(it: Running, query: str = "", tenant: str = "acme") -> list[dict[str, Any]]:
    status, told = await it.call(
        "GET", f"/v1/dead_letters{query}", Role.SERVICE, "crm", tenant=tenant
    )
    assert status == 200, told
    return list(told["dead_letters"])


async def replay(it: Running, id: str) -> str:
    status, told = await it.call("POST", f"/v1/dead_letters/{id}/replay", Role.SERVICE, "crm")
    assert (status, told["id"]) == (200, id), told
    return str(told["replay"])


async def refused(it: Running, customer: str = "c-42", **more: Any) -> str:
    """A message whose ring the backend refuses; the dead letter's id."""
    it.backend.answers.append(422)
    seq = await it.write(customer, **more)
    await it.settled(seq, "undeliverable", customer)
    (letter, *_) = await letters(it, f"?customer={customer}")
    assert letter["seq"] == seq
    return str(letter["id"])


async def test_a_refused_ring_is_a_dead_letter_under_its_own_id(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        (call,) = it.backend.calls
        assert id == call.ring["id"]
        (letter,) = await letters(it)
        assert letter == {
            "id": id, "customer": "c-42", "from_seq": 1, "seq": 1, "kind": "proactive",
            "device": letter["device"], "installation": "phone", "cause": "refused",
            "answer": "http_422", "status": 422, "attempts": 1, "at": letter["at"],
        }  # fmt: skip
        assert "device-token" not in str(letter)
        _, told = await it.call("GET", f"/v1/dead_letters/{id}", Role.SERVICE)
        assert told == letter | {"replay": "replayed"}
        _, text = await it.call("GET", "/metrics", listener="admin")
        assert 'ringback_dead_letters_total{cause="refused",tenant="acme"} 1.0' in text


async def test_the_range_of_a_dead_letter_may_end_with_what_counts_for_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.write()
        await it.settled(1, "undeliverable")
        await it.write(kind="system")
        it.backend.answers.append(422)
        await it.register()
        call = await it.backend.take()
        await it.settled(1, "undeliverable")
        (letter,) = await letters(it)
        assert (letter["from_seq"], letter["seq"], call.ring["seq"]) == (1, 2, 1)
        assert (await it.outcome(2))["outcome"] is None
        assert await replay(it, letter["id"]) == "replayed"
        await it.settled(1, "pushed")


async def test_a_replay_rings_once_under_a_new_id_and_the_message_is_pushed(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it, text="your parcel")
        assert await replay(it, id) == "replayed"
        told = await it.settled(1, "pushed")
        assert "replayed" in [event["event"] for event in told["events"]]
        first, second = it.backend.calls
        assert first.ring["id"] != second.ring["id"]
        assert second.body["payload"]["aps"]["alert"]["body"] == "your parcel"
        assert second.badge == 1
        assert await replay(it, id) == "already"
        (letter,) = await letters(it)
        assert "replayed_at" in letter
        assert len(it.backend.calls) == 2
    assert audit(tmp_path / "ringback.db", time.time()).findings == []


async def test_a_ring_that_expires_while_it_is_retried_is_a_dead_letter_and_not_rung_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        it.backend.otherwise = 503
        await it.write(expires_at=timestamp(time.time() + 60.0))
        await it.backend.take()
        it.pass_time(60.0)
        await it.settled(1, "expired")
        async with asyncio.timeout(PATIENCE):
            while not (found := await letters(it)):
                await asyncio.sleep(0.01)
        (letter,) = found
        assert (letter["cause"], letter["answer"]) == ("expired", "retry")
        assert letter["attempts"] >= 1
        it.backend.otherwise = 200
        before = len(it.backend.calls)
        assert await replay(it, letter["id"]) == "expired"
        assert (await it.outcome(1))["outcome"] == "expired"
        assert len(it.backend.calls) == before


async def test_what_has_expired_since_it_was_refused_is_not_rung_again(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it, expires_at=timestamp(time.time() + 60.0))
        it.pass_time(60.0)
        assert await replay(it, id) == "expired"
        assert len(it.backend.calls) == 1


async def test_what_a_replay_made_pending_again_expires_at_its_time(tmp_path: Path) -> None:
    """Though its phone waits for the end of quiet hours, and nobody looks at it before."""
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it, expires_at=timestamp(time.time() + 1_800.0))
        await wish(it, time_zone="UTC", quiet_hours=hours(*NOW_QUIET))
        await it.write(expires_at=timestamp(time.time() + 60.0))
        it.pass_time(60.0)
        await it.settled(2, "expired")  # and nothing is left that expires
        assert await replay(it, id) == "replayed"
        await looked(it, 1, "wait", "quiet_hours")
        it.pass_time(1_800.0)
        await it.settled(1, "expired")
        assert len(it.backend.calls) == 1


async def test_refused_again_it_is_a_dead_letter_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        it.backend.answers.append(422)
        assert await replay(it, id) == "replayed"
        async with asyncio.timeout(PATIENCE):
            while len(found := await letters(it)) < 2:
                await asyncio.sleep(0.01)
        assert await replay(it, found[0]["id"]) == "replayed"
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 3


async def test_a_letter_that_is_found_before_its_commit_has_returned_is_no_less_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        write, returned = it.gateway.core.database.write, asyncio.Event()

        async def slowly(statements: Sequence[Statement]) -> None:
            await write(statements)
            if any("INTO dead_letters" in sql for sql, _ in statements):
                await returned.wait()

        monkeypatch.setattr(it.gateway.core.database, "write", slowly)
        it.backend.answers.append(422)
        await it.write()
        async with asyncio.timeout(PATIENCE):
            while not (found := await letters(it)):
                await asyncio.sleep(0.01)
        replaying = asyncio.create_task(replay(it, found[0]["id"]))
        for _ in range(10):
            await letters(it)  # in turn with what the replay reads
        returned.set()
        assert await replaying == "replayed"


async def test_who_has_acknowledged_or_read_it_is_not_rung_again(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        customer = await it.customer()
        await customer.take("message", seq=1)
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        assert await replay(it, id) == "acked"
        await customer.send("read", seq=1)
        await customer.take("status", read_seq=1)
        assert await replay(it, id) == "read"
        assert [call.ring["kind"] for call in it.backend.calls if call.badge] == ["proactive"]


async def test_who_acknowledges_after_the_replay_and_before_the_ring_is_not_rung(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=QUICK | {"ack_timeout": 5.0, "max_hold": 9.0}) as it:
        await it.register()
        id = await refused(it)
        customer = await it.customer()
        await customer.take("message", seq=1)
        assert await replay(it, id) == "replayed"
        assert (await it.outcome(1))["outcome"] == "pending"
        await customer.send("ack", seq=1)
        await it.settled(1, "acked")
        assert len(it.backend.calls) == 1


async def test_where_another_device_rang_or_a_newer_message_did_nobody_is_rung_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.register("c-42", "tablet", "another-token")
        it.backend.answers += [422, 200]
        await it.write()
        await it.settled(1, "pushed")
        (letter,) = await letters(it)
        assert await replay(it, letter["id"]) == "pushed"
        await it.register("c-7", "c-7", "t-7")
        id = await refused(it, "c-7")
        assert await it.write("c-7") == 2
        await it.settled(2, "pushed", "c-7")
        calls = len(it.backend.calls)
        assert await replay(it, id) == "pushed"
        assert (await it.outcome(1, "c-7"))["outcome"] == "undeliverable"
        assert len(it.backend.calls) == calls


async def test_what_a_device_was_refused_in_turn_becomes_one_ring(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        for _ in range(3):
            await refused(it)
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json={})
        assert told["replay"]["replayed"] >= 1
        assert sum(told["replay"].values()) == 3
        for seq in (1, 2, 3):
            await it.settled(seq, "pushed")
        ring = it.backend.calls[-1]
        assert (ring.ring["seq"], ring.badge) == (3, 3)
        assert len(it.backend.calls) == 4


async def test_what_was_refused_in_turn_and_then_as_one_ring_is_replayed_as_that(
    tmp_path: Path,
) -> None:
    """The second letter has never been replayed itself, and is for half of the third."""
    async with running(tmp_path) as it:
        await it.register()
        await refused(it)
        await refused(it)
        it.backend.answers.append(422)
        await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json={})
        while len(await letters(it)) < 3:
            await asyncio.sleep(0.01)
        await it.settled(1, "undeliverable")
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json={})
        assert told["replay"]["replayed"] == 1
        await it.settled(2, "pushed")
        assert (await it.outcome(1))["outcome"] == "pushed"
        assert len(it.backend.calls) == 4


@pytest.mark.parametrize("many", [3, 12])
async def test_a_phone_that_refused_much_costs_each_replay_no_more_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """All that ever happened was read for each pair of its letters: for 200 that took minutes."""
    async with running(tmp_path) as it:
        await it.register()
        for _ in range(many):
            await refused(it)
        database = it.gateway.core.database
        scan, chains = database.scan, list[Any]()

        async def noted(sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Any:
            chains.append(sql)
            return await scan(sql, parameters, tenant)

        monkeypatch.setattr(database, "scan", noted)
        it.backend.otherwise = 422
        oldest = (await letters(it))[-1]["id"]
        chains.clear()
        _, told = await it.call("GET", f"/v1/dead_letters/{oldest}", Role.SERVICE)
        assert told["replay"] == "replayed"
        assert chains.count(EVENTS_OF) == 1
        chains.clear()
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json={})
        assert sum(told["replay"].values()) == many
        assert chains.count(EVENTS_OF) <= told["replay"]["replayed"]


async def test_a_phone_whose_calls_are_uncertain_costs_a_range_one_reading_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that ever happened was read for each of its letters: for 3,000 that took minutes, and
    whoever had asked heard nothing meanwhile."""
    async with running(tmp_path) as it:
        await it.register()
        for _ in range(5):
            await refused(it)
        it.backend.answers.append(Lost())
        await refused(it)
        scan, chains = it.gateway.core.database.scan, list[Any]()

        async def noted(sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Any:
            chains.append(sql)
            return await scan(sql, parameters, tenant)

        monkeypatch.setattr(it.gateway.core.database, "scan", noted)
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json={})
        assert told == {"replay": {"uncertain": 6}}
        assert chains.count(EVENTS_OF) == 1


async def test_what_was_pushed_before_a_letter_keeps_it_from_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await it.settled(await it.write(), "pushed")
        assert await replay(it, await refused(it)) == "replayed"
        await it.settled(2, "pushed")


async def test_what_was_pushed_before_a_phone_registered_keeps_its_letter_from_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await it.register(installation="old", token="old-token")
        await it.settled(await it.write(), "pushed")
        await it.call("DELETE", "/v1/devices/old", Role.CUSTOMER, "c-42")
        await it.register()
        id = await refused(it)
        (letter,) = await letters(it)
        assert (letter["from_seq"], letter["seq"]) == (2, 2)
        assert await replay(it, id) == "replayed"
        await it.settled(2, "pushed")


async def test_an_older_letter_takes_along_what_was_refused_after_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        first = await refused(it)
        second = await refused(it)
        assert await replay(it, first) == "replayed"
        await it.settled(2, "pushed")
        assert (await it.outcome(1))["outcome"] == "pushed"
        assert await replay(it, second) == "pushed"
        assert len(it.backend.calls) == 3


async def test_what_a_replay_makes_pending_again_is_one_thing_that_happened(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        oldest, *_ = [await refused(it) for _ in range(3)]
        assert await replay(it, oldest) == "replayed"
        await it.settled(3, "pushed")
        happened = "SELECT from_seq, seq FROM events WHERE detail LIKE ?"
        database = it.gateway.core.database
        assert await database.read(happened, ('%"outcome":"pending"%',), "acme") == [(1, 3)]


async def test_a_later_letter_leaves_alone_what_was_refused_before_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await refused(it)
        later = await refused(it)
        assert await replay(it, later) == "replayed"
        told = await it.settled(2, "pushed")
        assert "replayed" in [event["event"] for event in told["events"]]
        told = await it.outcome(1)
        assert (told["outcome"], told["reason"]) == ("undeliverable", "refused")
        assert "replayed" not in [event["event"] for event in told["events"]]


async def test_what_expired_amid_a_letter_does_not_keep_the_rest_from_its_replay(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        await it.write()
        await it.write(expires_at=timestamp(time.time() + 60.0))
        await it.write()
        gate = Gate(422)
        it.backend.answers.append(gate)
        await customer.send("bye")
        assert (await it.backend.take()).badge == 3
        it.pass_time(60.0)
        await it.settled(2, "expired")
        gate.open.set()
        await it.settled(3, "undeliverable")
        (letter,) = await letters(it)
        assert await replay(it, letter["id"]) == "replayed"
        for seq, outcome in ((1, "pushed"), (2, "expired"), (3, "pushed")):
            await it.settled(seq, outcome)


async def test_a_registration_that_is_gone_or_another_is_not_rung(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        await it.register(token="a-new-token")
        assert await replay(it, id) == "device_gone"
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        assert await replay(it, id) == "device_gone"


async def test_what_no_backend_rings_is_left_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        before = it.gateway.config
        acme = msgspec.structs.replace(before.tenants["acme"], push=None)
        it.gateway.take_up(change(before, tenants={**before.tenants, "acme": acme}))
        assert await replay(it, id) == "no_endpoint"
        it.gateway.take_up(before)
        assert await replay(it, id) == "replayed"
        await it.settled(1, "pushed")


async def test_a_ring_on_its_way_to_the_device_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, push={"retry_first": 600.0, "retry_max": 600.0}) as it:
        it.retry_late()
        await it.register()
        id = await refused(it)
        it.backend.answers.append(503)
        await it.write()
        await it.backend.take()
        await it.backend.take()
        assert await replay(it, id) == "pending"


class Lost(web.Response):
    """A call that the backend took, and whose answer was lost."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        assert request.transport is not None
        request.transport.abort()
        return await super().prepare(request)


async def test_what_may_have_rung_before_it_was_refused_is_not_rung_again(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        first = await refused(it)
        it.backend.answers.append(Lost())
        second = await refused(it)
        assert await replay(it, second) == "uncertain"
        assert await replay(it, first) == "uncertain"  # it would take the second along
        _, told = await it.call("GET", f"/v1/dead_letters/{second}", Role.SERVICE)
        assert (told["attempts"], told["replay"]) == (2, "uncertain")
        assert len(it.backend.calls) == 3


async def test_what_was_refused_after_nothing_could_be_sent_is_certain(tmp_path: Path) -> None:
    """A backend that was away, and refuses what comes when it is back."""
    async with running(tmp_path) as it:
        await it.register()
        before = it.gateway.config
        push = before.tenants["acme"].push
        assert push is not None
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        away = msgspec.structs.replace(push, endpoint=f"http://127.0.0.1:{port}/ring")
        acme = msgspec.structs.replace(before.tenants["acme"], push=away)
        it.gateway.take_up(change(before, tenants={**before.tenants, "acme": acme}))
        await it.write()
        await attempted(it, 1, 1)
        it.backend.answers.append(422)
        it.gateway.take_up(before)
        told = await it.settled(1, "undeliverable")
        assert "connect" in [event.get("reason") for event in told["events"]]
        (letter,) = await letters(it)
        assert letter["attempts"] > 1
        assert await replay(it, letter["id"]) == "replayed"
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 2


async def given_up(it: Running, many: int) -> str:
    """Wait until there are so many dead letters; the newest one's id."""
    async with asyncio.timeout(PATIENCE):
        while len(found := await letters(it)) < many:
            await asyncio.sleep(0.01)
    return str(found[0]["id"])


async def test_what_may_have_rung_as_a_part_of_another_ring_is_not_rung_again(
    tmp_path: Path,
) -> None:
    """The second was replayed with the first, and has never been replayed itself."""
    async with running(tmp_path) as it:
        await it.register()
        first, second = [await refused(it) for _ in range(2)]
        it.backend.answers += [Lost(), 422]
        assert await replay(it, first) == "replayed"
        both = await given_up(it, 3)
        assert await replay(it, both) == "uncertain"
        assert await replay(it, second) == "uncertain"
        assert len(it.backend.calls) == 4


@pytest.mark.parametrize("answered", [True, False])
async def test_what_somebody_else_replays_meanwhile_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """Two operators replay one dead letter at the same time, and the backend refuses again."""
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        store, looked_up, go_on = it.gateway.core.store, asyncio.Event(), asyncio.Event()
        attempts = store.attempts

        async def slowly(*asked: Any) -> Any:
            found = await attempts(*asked)
            looked_up.set()
            await go_on.wait()
            return found

        with monkeypatch.context() as slow:
            slow.setattr(store, "attempts", slowly)
            other = asyncio.create_task(replay(it, id))
            await asyncio.wait_for(looked_up.wait(), PATIENCE)
        it.backend.answers += [422] if answered else [Lost(), 422]
        assert await replay(it, id) == "replayed"
        await given_up(it, 2)
        go_on.set()
        assert await other == "already"
        assert len(it.backend.calls) == (2 if answered else 3)


async def test_a_letter_that_somebody_else_replayed_since_it_was_read_is_not_replayed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's replay was refused again before this one's turn came."""
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        read, go_on = asyncio.Event(), asyncio.Event()
        one = DeadLetterRows.one

        async def slowly(rows: DeadLetterRows, tenant: str, id: str) -> DeadLetter | None:
            found = await one(rows, tenant, id)
            read.set()
            await go_on.wait()
            return found

        with monkeypatch.context() as slow:
            slow.setattr(DeadLetterRows, "one", slowly)
            other = asyncio.create_task(replay(it, id))
            await asyncio.wait_for(read.wait(), PATIENCE)
        it.backend.answers.append(422)
        assert await replay(it, id) == "replayed"
        await given_up(it, 2)
        go_on.set()
        assert await other == "already"
        assert len(it.backend.calls) == 2


async def test_what_the_customer_did_not_want_since_is_not_rung_by_a_replay(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        wishes = "/v1/customers/c-42/preferences"
        await it.call("PUT", wishes, Role.SERVICE, json={"muted_until": "9999-12-31T23:59:59Z"})
        seq = await it.write(text="while muted")
        told = await it.settled(seq, "undeliverable")
        assert told["reason"] == "muted"
        await it.call("PUT", wishes, Role.SERVICE, json={})
        assert await replay(it, id) == "unwanted"
        assert len(it.backend.calls) == 1


@pytest.mark.parametrize("wishes", [{"muted_until": FOREVER}, {"proactive": False}])
async def test_who_does_not_want_to_be_rung_now_can_be_when_that_is_over(
    tmp_path: Path, wishes: dict[str, Any]
) -> None:
    """Rung in vain, the message would have been settled as muted, and the letter be spent."""
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        await wish(it, **wishes)
        assert await replay(it, id) == "unwanted"
        await wish(it)
        assert await replay(it, id) == "replayed"
        await it.settled(1, "pushed")


async def test_of_a_letter_for_several_what_is_wanted_is_replayed(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        for kind in ("chat", "proactive"):
            await it.write(kind=kind)
        it.backend.answers.append(422)
        await customer.send("bye")
        await it.settled(2, "undeliverable")
        (letter,) = await letters(it)
        await wish(it, proactive=False)
        assert await replay(it, letter["id"]) == "replayed"
        await it.settled(1, "pushed")
        assert (await it.outcome(2))["reason"] == "opted_out"


@pytest.mark.parametrize("reason", ["acked", "read", "muted"])
async def test_a_ring_that_is_cancelled_leaves_no_dead_letter(tmp_path: Path, reason: str) -> None:
    async with running(tmp_path) as it:
        it.backend.otherwise = 503
        await it.register()
        seq = await it.write()
        await it.backend.take()
        if reason == "muted":
            muted = {"muted_until": timestamp(time.time() + 60.0)}
            await it.call("PUT", "/v1/customers/c-42/preferences", Role.SERVICE, json=muted)
        else:
            customer = await it.customer()
            await customer.send({"acked": "ack", "read": "read"}[reason], seq=seq)
        async with asyncio.timeout(PATIENCE):
            while True:
                changed = it.next_commit()
                events = (await it.outcome(seq))["events"]
                looks = [(e["action"], e["reason"]) for e in events if e["event"] == "look"]
                if ("cancel", reason) in looks:
                    break
                await changed.wait()
        assert await letters(it) == []


async def test_a_silent_ring_leaves_no_dead_letter(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register()
        await it.write()
        await it.settled(1, "pushed")
        it.backend.otherwise = 422
        customer = await it.customer()
        await customer.take("message", seq=1)
        await customer.send("read", seq=1)
        await it.backend.take()
        assert (await it.backend.take()).ring["kind"] == "badge"
        it.backend.otherwise = 200
        await it.register("c-7", "c-7", "t-7")
        await it.write("c-7")
        await it.settled(1, "pushed", "c-7")
        assert await letters(it) == []


async def test_a_replay_survives_a_crash_and_rings_once(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        id = await refused(it)
        await it.customer()  # in chat, so that the ring waits
        assert await replay(it, id) == "replayed"
        assert len(it.backend.calls) == 1
    async with running(tmp_path) as it:
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 1


@pytest.mark.parametrize("stretch", [1, 2, 2_000])
async def test_they_are_chosen_by_customer_cause_and_time_and_listed_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr("storage.deadletters.STRETCH", stretch)
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2", "c-3"):
            await it.register(customer, customer, f"t-{customer}")
            await refused(it, customer)
        everything = await letters(it)
        assert [letter["customer"] for letter in everything] == ["c-3", "c-2", "c-1"]
        middle = everything[1]["at"]
        for query, found in (
            ("?customer=c-2", ["c-2"]),
            ("?cause=refused", ["c-3", "c-2", "c-1"]),
            ("?cause=expired", []),
            (f"?since={middle}", ["c-3", "c-2"]),
            ("?until=2020-01-01T00:00:00Z", []),
            ("?limit=1", ["c-3"]),
            (f"?cursor={everything[0]['id']}", ["c-2", "c-1"]),
        ):
            assert [letter["customer"] for letter in await letters(it, query)] == found, query
        _, page = await it.call("GET", "/v1/dead_letters?limit=2", Role.SERVICE)
        assert page["cursor"] == everything[1]["id"]
        unknown = {"cursor": "zz"}
        for status, told in (
            await it.call("GET", "/v1/dead_letters?cursor=zz", Role.SERVICE),
            await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json=unknown),
        ):
            assert (status, "cursor" in told["detail"]) == (400, True)
        for span in ({"until": "2020-01-01T00:00:00Z"}, {"since": "2100-01-01T00:00:00Z"}):
            _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json=span)
            assert told == {"replay": {}}
        only = {"customer": "c-2", "cause": "refused", "since": "2020-01-01T00:00:00Z"}
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json=only)
        assert told == {"replay": {"replayed": 1}}
        await it.settled(1, "pushed", "c-2")
        assert (await it.outcome(1, "c-1"))["outcome"] == "undeliverable"


async def test_a_range_larger_than_one_call_goes_on_at_its_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", 2)
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2", "c-3"):
            await it.register(customer, customer, f"t-{customer}")
            await refused(it, customer)
        path = "/v1/dead_letters/replay"
        _, told = await it.call("POST", path, Role.SERVICE, json={"cause": "refused"})
        assert (told["replay"], told["left"]) == ({"replayed": 2}, 1)
        _, told = await it.call("POST", path, Role.SERVICE, json={"cursor": told["cursor"]})
        assert told == {"replay": {"replayed": 1}}


async def test_what_a_device_was_refused_becomes_one_ring_in_a_range_of_several_calls_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Call after call from the newest on, each phone rang for its last message, and those before it
    stayed undeliverable for good."""
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", 2)
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2", "c-3"):
            await it.register(customer, customer, f"t-{customer}")
        for _ in range(3):
            for customer in ("c-1", "c-2", "c-3"):
                await refused(it, customer)
        calls, body, counted = 0, dict[str, str](), Counter[str]()
        while True:
            path = "/v1/dead_letters/replay"
            _, told = await it.call("POST", path, Role.SERVICE, json=body)
            assert sum(told["replay"].values()) <= 2
            counted.update(told["replay"])
            calls += 1
            if "cursor" not in told:
                break
            body = {"cursor": told["cursor"]}
        for customer in ("c-1", "c-2", "c-3"):
            for seq in (1, 2, 3):
                await it.settled(seq, "pushed", customer)
        assert calls == 5
        assert (counted["replayed"], counted.total()) == (3, 9)
        assert len(it.backend.calls) == 9 + 3


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_what_is_refused_again_meanwhile_is_no_part_of_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Else the calls after it would begin anew, and never come to an end while all is refused."""
    monkeypatch.setattr("gateway.deadletters.AT_ONCE", at_once)
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2", "c-3"):
            await it.register(customer, customer, f"t-{customer}")
            for _ in range(2):
                await refused(it, customer)
        it.backend.otherwise = 422
        body, counted = dict[str, str](), Counter[str]()
        for _ in range(-(-6 // at_once)):
            path = "/v1/dead_letters/replay"
            _, told = await it.call("POST", path, Role.SERVICE, json=body)
            counted.update(told["replay"])
            await given_up(it, 6 + counted["replayed"])
            body = {"cursor": told.get("cursor", "")}
        assert "cursor" not in told
        assert counted.total() == 6
        assert len(it.backend.calls) == 6 + counted["replayed"]


@pytest.mark.parametrize("begun", [True, False])
async def test_a_range_goes_on_amid_a_phone_and_where_there_are_no_more_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """Its cursor may be of a letter that is not in the range."""
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2"):
            await it.register(customer, customer, f"t-{customer}")
        first = await refused(it, "c-1")
        for _ in range(3):
            await refused(it, "c-2")
        cursor = first if begun else (await letters(it))[0]["id"]
        monkeypatch.setattr("gateway.deadletters.AT_ONCE", 1)
        wanted = {"customer": "c-1" if begun else "c-2", "cursor": cursor}
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json=wanted)
        assert told == {"replay": {}}
        wanted["customer"] = "c-1"
        _, told = await it.call("POST", "/v1/dead_letters/replay", Role.SERVICE, json=wanted)
        assert told == {"replay": {} if begun else {"replayed": 1}}


async def test_others_look_between_the_stretches_of_a_long_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection looks for all tenants, and a search may look at every letter of one."""
    monkeypatch.setattr("storage.deadletters.STRETCH", 1)
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2", "c-3"):
            await it.register(customer, customer, f"t-{customer}")
            await refused(it, customer)
        stranger = await it.agent(tenant="other")
        database = it.gateway.core.database
        scan, order = database.scan, list[str]()

        async def note(sql: str, parameters: Any = (), tenant: str = "") -> Any:
            order.append("letters" if "dead_letters" in sql else "other")
            return await scan(sql, parameters, tenant)

        monkeypatch.setattr(database, "scan", note)
        found, _ = await asyncio.gather(
            letters(it, "?customer=c-1"), stranger.ask("inbox", "inbox")
        )
        assert [letter["customer"] for letter in found] == ["c-1"]
        assert order[-1] == "letters"
        assert "other" in order


async def test_what_was_forgotten_between_two_pages_does_not_begin_them_anew(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2"):
            await it.register(customer, customer, f"t-{customer}")
            await refused(it, customer)
        older = (await letters(it))[1]
        await it.gateway.core.dead_letters.forget(parse_timestamp(older["at"]) + 0.001)
        assert [letter["customer"] for letter in await letters(it)] == ["c-2"]
        assert await letters(it, f"?cursor={older['id']}") == []
        path = "/v1/dead_letters/replay"
        _, told = await it.call("POST", path, Role.SERVICE, json={"cursor": older["id"]})
        assert told == {"replay": {}}


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("?customer=", "customer: must be a string of 1 to 128 characters"),
        ("?cause=boredom", "cause: give one of refused, expired"),
        ("?since=noon", "since: give an RFC 3339 time"),
        ("?since=2026-11-24T09:00:00+01:00", "zone, such as 2026-11-24T08:00:00Z"),
        ("?limit=0", "limit: give a number"),
    ],
)
async def test_a_question_that_is_none_is_refused(tmp_path: Path, query: str, detail: str) -> None:
    async with running(tmp_path) as it:
        status, told = await it.call("GET", f"/v1/dead_letters{query}", Role.SERVICE)
        assert status == 400
        assert detail in told["detail"]


@pytest.mark.parametrize(
    ("query", "body", "detail"),
    [
        ("", {"custmer": "c-7"}, "an unknown field; the known ones are customer, cause, since"),
        ("", {"customer": None}, "customer: must be a string of 1 to 128 characters"),
        ("?customer=c-7", {}, "give the range in the body, as JSON"),
    ],
)
async def test_a_range_with_a_slip_in_it_replays_nothing(
    tmp_path: Path, query: str, body: dict[str, Any], detail: str
) -> None:
    """It was taken for a range without that condition: all that there is."""
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        path = f"/v1/dead_letters/replay{query}"
        status, told = await it.call("POST", path, Role.SERVICE, json=body)
        assert (status, told["code"]) == (400, "bad_frame")
        assert detail in told["detail"]
        assert await replay(it, id) == "replayed"


async def test_another_tenant_sees_and_replays_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        id = await refused(it)
        assert await letters(it, tenant="other") == []
        for method, path in (("GET", f"/{id}"), ("POST", f"/{id}/replay")):
            status, told = await it.call(
                method, f"/v1/dead_letters{path}", Role.SERVICE, tenant="other"
            )
            assert (status, told["code"]) == (404, "not_found")
        _, told = await it.call(
            "POST", "/v1/dead_letters/replay", Role.SERVICE, tenant="other", json={}
        )
        assert told == {"replay": {}}
        assert (await it.outcome(1))["outcome"] == "undeliverable"


async def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register()
        await refused(it)
        them = it.gateway.core.dead_letters
        await them.forget(time.time() - 60.0)
        assert len(await letters(it)) == 1
        await them.forget(time.time() + 60.0)
        assert await letters(it) == []
