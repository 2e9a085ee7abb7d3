"""Campaigns from end to end: a real gateway, file and backend, and what a service is told."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.auth import Identity
from gateway.campaigns import api, audience, loading, sending
from gateway.campaigns.lanes import BUSY, Lane, Run, Waiting
from gateway.campaigns.loading import Source
from gateway.protocol import ErrorCode, FrameError, PostCampaign, Role, timestamp
from gateway.server import Gateway
from storage.audit import audit
from storage.campaigns import (
    _WITH_DEVICE,
    Campaign,
    CampaignRows,
    CampaignState,
    Recipient,
    recipients_add,
)
from storage.errors import Unavailable
from storage.store import Needs
from tests import recount
from tests.line import line
from tests.running import PATIENCE, PATIENT, QUICK, Backend, Running, running, settings

FAST = {"rate": 10_000}
SLOW = {"rate": 0.01}


async def post(it: Running, tenant: str = "acme", key: str | None = None, **told: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await it.call(
        "POST",
        "/v1/campaigns",
        Role.SERVICE,
        "crm",
        tenant=tenant,
        headers=headers,
        json={"text": "hello", **FAST, **told},
    )


async def begin(it: Running, **told: Any) -> str:
    status, answer = await post(it, **told)
    assert status == 201, answer
    id: str = answer["id"]
    return id


async def upload(
    it: Running, file: str, kind: str = "text/csv", key: str | None = None, **told: Any
) -> tuple[int, Any]:
    form = aiohttp.FormData()
    settings = orjson.dumps({"text": "hello", **FAST, **told}).decode()
    form.add_field("campaign", settings, content_type="application/json")
    form.add_field("recipients", file, content_type=kind, filename="recipients")
    headers = {} if key is None else {"Idempotency-Key": key}
    return await it.call("POST", "/v1/campaigns", Role.SERVICE, "crm", data=form, headers=headers)


async def ask(
    it: Running, id: str, what: str = "", method: str = "GET", tenant: str = "acme"
) -> tuple[int, Any]:
    path = f"/v1/campaigns/{id}{what}"
    return await it.call(method, path, Role.SERVICE, "crm", tenant=tenant)


async def until(
    it: Running, id: str, enough: Callable[[Any], bool], what: str = ""
) -> dict[str, Any]:
    async with asyncio.timeout(3 * PATIENCE):  # one of a thousand waits for the others, too
        while True:
            _, told = await ask(it, id, what)
            if enough(told):
                return dict(told)
            await asyncio.sleep(0.01)


async def until_in_states(it: Running, *states: CampaignState, some: bool = True) -> None:
    """Until there are `some` campaigns in these states, or none any more."""
    rows = CampaignRows(it.gateway.core.database)
    async with asyncio.timeout(PATIENCE):
        while bool(await rows.in_states(*states)) is not some:
            await asyncio.sleep(0.01)


async def over(it: Running, id: str) -> dict[str, Any]:
    return await until(it, id, lambda told: told["state"] == "finished")


async def test_everybody_of_a_list_gets_their_own_words_and_is_rung_once(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        people = {"c-1": "Ann", "c-2": "Ben", "c-3": "Cleo"}
        for customer in people:
            await it.register(customer, customer, f"token of {customer}")
        listed = [{"customer": customer, "name": name} for customer, name in people.items()]
        id = await begin(it, text="Dear {name}", title="For {name}", audience=[*listed, listed[0]])
        told = await over(it, id)
        assert (told["recipients"], told["duplicates"]) == (3, 1)
        assert (told["sent"], told["skipped"], told["left"]) == (3, 0, 0)
        rung = {}
        for _ in people:
            call = await it.backend.take()
            rung[call.ring["customer"]] = call.body["payload"]["aps"]["alert"]
            assert call.ring["kind"] == "proactive"
        assert rung == {
            who: {"title": f"For {name}", "body": f"Dear {name}"} for who, name in people.items()
        }
        report = await until(it, id, lambda r: r["rung"] == 3, "/report")
        assert it.backend.untaken == 0
        assert report == {
            "id": id, "state": "finished", "recipients": 3, "rung": 3, "in_chat": 0, "pending": 0,
            "skipped": {}, "failed": {}, "left": 0, "read": 0,
        }  # fmt: skip


async def test_a_file_of_csv_is_an_audience(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        file = 'customer,name\r\nc-1,"Ann, really"\r\nc-2,Ben\r\nc-1,Ann\r\n'
        status, told = await upload(it, file, text="Hi {name}")
        assert status == 201, told
        assert (told["recipients"], told["duplicates"]) == (2, 1)
        await over(it, told["id"])
        _, page = await it.call("GET", "/v1/customers/c-1/messages", Role.SERVICE)
        assert [m["text"] for m in page["messages"]] == ["Hi Ann, really"]


async def test_a_file_of_json_lines_is_an_audience(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        status, told = await upload(it, '"c-1"\n{"customer": "c-2"}\n', "application/x-ndjson")
        assert (status, told["recipients"]) == (201, 2)
        assert (await over(it, told["id"]))["sent"] == 2


@pytest.mark.parametrize("batch", [1, 500])
async def test_all_with_a_live_device_are_an_audience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("gateway.campaigns.api.BATCH", batch)
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register("c-1", "one", "t-1")
        await it.register("c-1", "two", "t-2")
        await it.register("c-2", "three", "t-3")
        await it.register("elsewhere", "four", "t-4", tenant="other")
        await it.write("nobody")
        told = await over(it, await begin(it, audience="devices"))
        assert (told["recipients"], told["duplicates"]) == (2, 0)


async def test_a_page_of_all_with_a_device_sorts_and_reads_no_other_page(tmp_path: Path) -> None:
    """With 100,000 customers each page took 0.12 s; nor are another tenant's devices read."""
    async with running(tmp_path) as it:
        asked = "EXPLAIN QUERY PLAN " + _WITH_DEVICE
        plan = [row[3] for row in await it.gateway.core.database.scan(asked, ("acme", "", 500))]
        assert "(tenant=? AND customer>?)" in plan[0], plan
        assert not any("TEMP B-TREE" in step for step in plan), plan


async def test_an_audience_of_devices_may_be_longer_than_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BATCH", 2)
    async with running(tmp_path, delivery=PATIENT) as it:
        for number in range(5):
            await it.register(f"c-{number}", f"phone-{number}", f"t-{number}")
        told = await over(it, await begin(it, audience="devices"))
        assert (told["recipients"], told["sent"]) == (5, 5)


async def test_in_chat_it_is_a_message_and_no_ring_and_reading_is_reported(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=QUICK) as it:
        await it.register("c-1", "phone", "t-1")
        customer = await it.customer("c-1")
        id = await begin(it, audience=["c-1", "c-2"])
        message = await customer.take("message", text="hello")
        assert message["kind"] == "proactive"
        await customer.send("read", seq=message["seq"])
        report = await until(it, id, lambda r: r["read"] and r["failed"], "/report")
        assert (report["in_chat"], report["read"], report["rung"]) == (1, 1, 0)
        assert report["failed"] == {"no_device": 1}
        assert it.backend.calls == []


async def test_customers_whom_nobody_has_seen_are_made_or_skipped_as_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write("known")
        await over(it, await begin(it, audience=["made"]))
        status, _ = await it.call("GET", "/v1/customers/made/status", Role.SERVICE)
        assert status == 200
        id = await begin(it, audience=["known", "unknown"], unknown="skip")
        told = await over(it, id)
        assert (told["sent"], told["skipped"], told["left"]) == (1, 1, 0)
        _, report = await ask(it, id, "/report")
        assert report["skipped"] == {"unknown_customer": 1}
        status, _ = await it.call("GET", "/v1/customers/unknown/status", Role.SERVICE)
        assert status == 404


async def test_who_does_not_want_to_be_rung_is_skipped_and_nothing_failed(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for customer in ("c-1", "c-2"):
            await it.register(customer, customer, f"t-{customer}")
        path = "/v1/customers/c-2/preferences"
        await it.call("PUT", path, Role.SERVICE, json={"proactive": False})
        id = await begin(it, audience="devices")
        report = await until(it, id, lambda r: r["rung"] and r["skipped"], "/report")
        assert (report["rung"], report["skipped"], report["failed"]) == (1, {"opted_out": 1}, {})


async def test_a_tenant_without_a_backend_may_write_to_many_too(tmp_path: Path) -> None:
    gateway = Gateway(settings(tmp_path, None))
    async with Running(gateway, Backend()) as it, gateway:
        id = await begin(it, audience=["c-1"])
        await over(it, id)
        report = await until(it, id, lambda r: r["failed"], "/report")
        assert report["failed"] == {"no_endpoint": 1}


# Steps


async def test_a_campaign_is_paused_goes_on_at_its_place_and_is_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        id = await begin(it, audience=[f"c-{i}" for i in range(3)], **SLOW)
        await until(it, id, lambda told: told["sent"] == 1)
        for _ in range(2):  # again is as once
            status, told = await ask(it, id, "/pause", "POST")
            assert (status, told["state"], told["sent"]) == (200, "paused", 1)
            assert "ended_at" not in told
        for _ in range(2):
            status, told = await ask(it, id, "/resume", "POST")
            assert (status, told["state"], told["sent"]) == (200, "running", 1)
        ended = set()
        for _ in range(2):
            status, told = await ask(it, id, "/cancel", "POST")
            assert (status, told["state"], told["left"]) == (200, "cancelled", 2)
            ended.add(told["ended_at"])
            it.pass_time(1.0)
        assert len(ended) == 1
        status, told = await ask(it, id, "/resume", "POST")
        assert (status, told["code"]) == (409, "conflict")
        assert "cancelled already" in told["detail"]
        _, report = await ask(it, id, "/report")
        assert (report["skipped"], report["left"]) == ({"cancelled": 2}, 0)


async def test_every_field_that_is_told_of_a_campaign_is_on_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = page.partition("### Campaigns")[2].partition("\n### ")[0]
    async with running(tmp_path) as it:
        begins, ends = (timestamp(time.time() + wait) for wait in (60.0, 120.0))
        about = {"title": "Sale", "data": {"sale": 7}, "send_at": begins, "expires_at": ends}
        id = await begin(it, audience=["c-1"], **about)
        status, told = await ask(it, id, "/cancel", "POST")
        assert (status, told["state"]) == (200, "cancelled")
        assert {*about, "ended_at"} <= set(told)
        for name in told:
            assert f"`{name}`" in section or f'"{name}":' in section, name


async def test_a_pause_stops_a_chunk_that_already_waits_for_its_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        them = it.gateway.core.campaigns
        people = [f"c-{i}" for i in range(sending.CHUNK + 3)]
        id = await begin(it, audience=people, send_at=timestamp(time.time() + 60.0))
        run = them._lanes["acme"].runs[id]
        run.ahead.extend(await them._rows.recipients("acme", id, 0, len(people)))
        chunk = asyncio.create_task(them._send(run))
        await asyncio.sleep(0)  # the chunk is in the writer's queue now
        paused = await them.step("acme", id, sending.Step.PAUSE)
        await chunk
        assert (paused.sent, (await ask(it, id))[1]["sent"]) == (0, 0)
        run.next_at = 0.0
        await ask(it, id, "/resume", "POST")
        assert (await over(it, id))["sent"] == len(people)


async def test_after_a_long_wait_it_makes_up_for_no_more_than_a_moment_of_its_pace(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        them = it.gateway.core.campaigns
        id = await begin(it, audience=["c-1"], send_at=timestamp(time.time() + 60.0), rate=10)
        run = them._lanes["acme"].runs[id]
        run.next_at = before = time.time() - 3_600.0
        await them._send(run)
        assert run.next_at > before + 3_600.0 - sending.CATCH_UP


async def test_it_goes_on_after_a_restart_and_nobody_gets_it_twice(tmp_path: Path) -> None:
    people = [f"c-{i}" for i in range(40)]
    async with running(tmp_path) as it:
        id = await begin(it, audience=people, rate=20)
        await until(it, id, lambda told: told["sent"] >= 3)
        paused = await begin(it, audience=people, **SLOW)
        await ask(it, paused, "/pause", "POST")
    async with running(tmp_path) as it:
        await over(it, id)
        assert (await ask(it, paused))[1]["state"] == "paused"
    found = [(m.customer, m.seq) for m in recount.check(tmp_path / "ringback.db")]
    first = {customer for customer, seq in found if seq == 1}
    assert first == set(people)
    assert audit(tmp_path / "ringback.db", time.time()).findings == []


async def test_it_does_not_go_on_before_the_grace_after_a_start_is_over(tmp_path: Path) -> None:
    people = [f"c-{i}" for i in range(10)]
    delivery = QUICK | {"restart_grace": 1.0}
    async with running(tmp_path, delivery=delivery) as it:
        id = await begin(it, audience=people, rate=5)
        await until(it, id, lambda told: told["sent"] >= 1)
    async with running(tmp_path, delivery=delivery) as it:
        await over(it, id)
        grace = it.gateway.core.context.restart_grace_until
        times = []
        for customer in people:
            path = f"/v1/customers/{customer}/messages"
            _, page = await it.call("GET", path, Role.SERVICE)
            times += [message["at"] for message in page["messages"]]
    assert len(times) == len(people)
    assert not [at for at in times if timestamp(grace - 1.0) <= at < timestamp(grace)]


async def test_a_tenant_s_campaign_stands_still_while_the_tenant_is_not_configured(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        id = await begin(it, audience=["c-1", "c-2"], **SLOW)
        await until(it, id, lambda told: told["sent"] == 1)
    async with running(tmp_path, tenants=("other",)) as it:
        assert it.gateway.core.campaigns.open() == []
    async with running(tmp_path) as it:
        assert [campaign.id for campaign in it.gateway.core.campaigns.open()] == [id]


async def test_nothing_is_sent_before_its_time(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        later = timestamp(time.time() + 60.0)
        id = await begin(it, audience=["c-1"], send_at=later)
        _, told = await ask(it, id)
        assert (told["state"], told["sent"]) == ("scheduled", 0)
        it.pass_time(60.0)
        await over(it, id)
        _, page = await it.call("GET", "/v1/customers/c-1/messages", Role.SERVICE)
        assert page["messages"][0]["at"] >= later


async def test_what_is_not_sent_when_it_expires_is_skipped(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        ends = timestamp(time.time() + 60.0)
        id = await begin(it, audience=["c-1", "c-2"], expires_at=ends, **SLOW)
        await until(it, id, lambda told: told["sent"] == 1)
        it.pass_time(100.0)
        told = await until(it, id, lambda told: told["state"] == "expired")
        assert (told["sent"], told["left"]) == (1, 1)
        assert told["ended_at"] >= ends
        _, report = await ask(it, id, "/report")
        assert report["skipped"] == {"expired": 1}


async def test_a_refused_disk_delays_a_campaign_and_no_recipient_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "RETRY", 0.01)
    async with running(tmp_path) as it:
        store = it.gateway.core.store
        real = store._database.write
        failures = iter([True, False, True, True])

        async def write(statements: Any) -> None:
            if any("campaign_recipients" in sql for sql, _ in statements) and next(failures, False):
                raise Unavailable("the disk is full")
            await real(statements)

        id = await begin(it, audience=[f"c-{i}" for i in range(120)])
        monkeypatch.setattr(store._database, "write", write)
        assert (await over(it, id))["sent"] == 120
        assert next(failures, None) is None
    found = [(m.customer, m.seq) for m in recount.check(tmp_path / "ringback.db")]
    assert sorted(found) == sorted((f"c-{i}", 1) for i in range(120))


# Keys


async def test_the_same_key_is_the_same_campaign_and_another_is_a_conflict(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        file = "customer\nc-1\nc-2\n"
        _, first = await upload(it, file, key="summer")
        status, again = await upload(it, file, key="summer")
        assert (status, again["id"], again["duplicate"]) == (201, first["id"], True)
        for other in ({"file": "customer\nc-1\n"}, {"file": file, "text": "bye"}):
            status, told = await upload(it, key="summer", **other)
            assert (status, told["code"]) == (409, "conflict")
        _, page = await it.call("GET", "/v1/campaigns", Role.SERVICE)
        assert [c["id"] for c in page["campaigns"]] == [first["id"]]


async def test_a_campaign_that_was_refused_leaves_its_key_free(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        status, told = await upload(it, "customer\nc-1\n\x01\n", key="summer")
        assert status == 400, told
        status, _ = await upload(it, "customer\nc-1\n", key="summer")
        assert status == 201


async def broken_off(it: Running, ref: str, *people: str) -> None:
    """Leave on disk what is there of a campaign when the process ends amid its audience."""
    half = Campaign(
        id="cp_half",
        tenant="acme",
        author="crm",
        name=None,
        ref=ref,
        digest="",
        state=CampaignState.LOADING,
        text="hello",
        title=None,
        data=None,
        unknown="create",
        rate=1.0,
        created_at=time.time(),
        send_at=None,
        expires_at=None,
    )
    recipients = [Recipient(n, customer, None) for n, customer in enumerate(people, 1)]
    store, needs = it.gateway.core.store, Needs(campaign=half.id, whose="acme")
    await store.submit(lambda tx: tx.put_campaign(half), needs)
    await store.submit(lambda tx: tx.also(recipients_add(half.id, recipients)), needs)


async def test_of_an_audience_that_broke_off_with_the_process_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FORGET", 2)
    async with running(tmp_path) as it:
        whole = await begin(it, audience=["c-1", "c-2"])
        await over(it, whole)
        await broken_off(it, "summer", *(f"c-{i}" for i in range(5)))
    async with running(tmp_path) as it:
        half = (CampaignState.LOADING, CampaignState.DISCARDED)
        await until_in_states(it, *half, some=False)
        assert (await ask(it, "cp_half"))[0] == 404
        assert (await ask(it, whole, "/report"))[1]["recipients"] == 2
        assert (await upload(it, "customer\nc-1\n", key="summer"))[0] == 201
    with closing(sqlite3.connect(tmp_path / "ringback.db")) as db:
        (left,) = db.execute("SELECT count(*) FROM campaign_recipients").fetchone()
    assert left == 3


async def test_a_key_is_free_of_an_audience_that_broke_off_and_could_not_be_let_go(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        await broken_off(it, "summer", "c-1", "c-2")
        for what, method in (("", "GET"), ("/report", "GET"), ("/cancel", "POST")):
            for id in ("cp_half", "cp_of_nobody"):
                assert (await ask(it, id, what, method))[0] == 404
        status, told = await upload(it, "customer\nc-3\n", key="summer")
        assert (status, told["recipients"], "duplicate" in told) == (201, 1, False)
        await over(it, told["id"])
        assert (await it.call("GET", "/v1/customers/c-1/status", Role.SERVICE))[0] == 404


async def test_a_message_that_used_the_campaigns_id_as_its_key_is_not_overwritten(
    tmp_path: Path,
) -> None:
    """A service may do this by mistake; then that recipient is skipped and the others are not."""
    async with running(tmp_path) as it:
        id = await begin(it, audience=["c-1", "c-2"], send_at=timestamp(time.time() + 60.0))
        await it.call(
            "POST",
            "/v1/messages",
            Role.SERVICE,
            "crm",
            headers={"Idempotency-Key": id},
            json={"customer": "c-1", "text": "something else"},
        )
        it.pass_time(60.0)
        told = await over(it, id)
        assert (told["sent"], told["skipped"]) == (1, 1)
        _, report = await ask(it, id, "/report")
        assert report["skipped"] == {"ref_taken": 1}
        now = it.gateway.core.clock()
    assert audit(tmp_path / "ringback.db", now).findings == []


# Refusals


@pytest.mark.parametrize(
    ("told", "detail"),
    [
        ({}, "audience: missing"),
        ({"audience": []}, "recipients: there are none"),
        ({"audience": "devices", "text": "Hi {name}"}, "nothing is known but {customer}"),
        ({"audience": ["c-1"], "text": "Hi {name"}, "text: at character 4"),
        ({"audience": ["c-1"], "text": "Hi {name}"}, "entry 1: name: missing"),
        ({"audience": ["c-1", "", "c-2"]}, "recipients: entry 2: customer: must be"),
        ({"audience": [{"customer": "c-1", "n": 2**64}]}, "audience: integers must fit in 64 bits"),
        ({"audience": ["c-1"], "sendAt": "2090-01-01T00:00:00Z"}, "an unknown field; the known"),
        ({"audience": ["c-1"], "rate": 0}, "rate: must be a number from 0.01 to 10000"),
        ({"audience": ["c-1"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at: must be"),
        (
            {
                "audience": ["c-1"],
                "send_at": "2090-01-02T00:00:00Z",
                "expires_at": "2090-01-01T00:00:00Z",
            },
            "expires_at: must be a time to come, and after send_at",
        ),
    ],
)
async def test_a_bad_campaign_is_refused_and_nothing_is_left_of_it(
    tmp_path: Path, told: dict[str, Any], detail: str
) -> None:
    async with running(tmp_path) as it:
        status, answer = await post(it, **told)
        assert status == 400, answer
        assert detail in answer["detail"]
        _, page = await it.call("GET", "/v1/campaigns", Role.SERVICE)
        assert page == {"campaigns": [], "more": False}


async def test_bad_lines_of_a_file_are_named_and_nothing_was_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        rows = [f"c-{i},Ann" for i in range(2_000)]
        rows[998] = ",Ann"
        rows[1_500] = "c-9"
        status, told = await upload(it, "\n".join(["customer,name", *rows]), text="Hi {name}")
        assert status == 400
        assert "line 1000: customer: must be" in told["detail"]
        assert "line 1502: 1 cells" in told["detail"]
        status, _ = await it.call("GET", "/v1/customers/c-1/status", Role.SERVICE)
        assert status == 404


async def posted(it: Running, body: bytes, kind: str) -> tuple[int, Any]:
    """The answer to a campaign that came as this body of this content type."""
    headers = {"Content-Type": kind}
    return await it.call(
        "POST", "/v1/campaigns", Role.SERVICE, data=io.BytesIO(body), headers=headers
    )


WHOLE = (
    b'--b\r\nContent-Disposition: form-data; name="campaign"\r\n\r\n{"text": "Hello"}\r\n'
    b'--b\r\nContent-Disposition: form-data; name="recipients"; filename="r.csv"\r\n\r\n'
    b"customer\nc-4"
)


@pytest.mark.parametrize(
    ("rest", "detail"),
    [
        (b"", "breaks off"),
        (b"\r\n", "breaks off"),
        (b"\r\n--b", "nothing may follow"),
        (b"\r\n--b\r\n\r\nmore\r\n--b--\r\n", "nothing may follow"),
        (b"2\r\n--b--\r\n", None),
    ],
)
async def test_an_upload_without_its_end_is_not_taken_for_a_shorter_one(
    tmp_path: Path, rest: bytes, detail: str | None
) -> None:
    """The file went on: c-4 is somebody else than c-42."""
    async with running(tmp_path) as it:
        status, told = await posted(it, WHOLE + rest, "multipart/form-data; boundary=b")
        assert status == (201 if detail is None else 400), told
        assert detail is None or detail in told["detail"]
        status, _ = await it.call("GET", "/v1/customers/c-4/status", Role.SERVICE)
        assert status == 404


async def test_an_upload_that_stops_coming_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "STALLED", 0.2)
    async with running(tmp_path) as it, line(it) as peer:
        peer.say(
            "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {len(WHOLE) + 100}\r\n\r\n{WHOLE.decode()}"
        )
        status, _, told = await peer.answer()
        assert (status, b"stopped coming" in told) == (400, True), told


async def test_a_key_is_refused_while_a_campaign_is_being_taken_under_it(tmp_path: Path) -> None:
    begun = WHOLE.decode() + "".join(f"\nc-{i}" for i in range(2_000))  # more than is read ahead
    end = "\r\n--b--\r\n"
    async with running(tmp_path) as it, line(it) as peer:
        peer.say(
            "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nIdempotency-Key: summer\r\n"
            f"Authorization: Bearer {it.token(Role.SERVICE, 'crm')}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {len(begun + end)}\r\n\r\n{begun}"
        )
        await until_in_states(it, CampaignState.LOADING)
        status, told = await post(it, key="summer", audience=["c-1"])
        assert (status, told["code"]) == (503, "unavailable")
        assert "try again soon" in told["detail"]
        peer.say(end)
        assert (await peer.answer())[0] == 201
        _, page = await it.call("GET", "/v1/campaigns", Role.SERVICE)
        assert len(page["campaigns"]) == 1


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        (b"x", "multipart/form-data; boundary=b", "not multipart/form-data"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", "the first part must be campaign"),
        (b"x", "multipart/form-data", "not multipart/form-data"),
        (
            b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            "not multipart/form-data",
        ),
        (
            WHOLE.replace(b'"recipients"', b'"audience"') + b"\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            "the second part must be recipients",
        ),
        (
            WHOLE.replace(b"r.csv", b"r.txt") + b"\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            "must be text/csv or application/jsonl, or be called .csv or .jsonl",
        ),
        (
            WHOLE.replace(b"{", b'{"audience": "devices", ') + b"\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            "audience: give it, or a file, not both",
        ),
        (b"hello", "text/csv", "the body must be application/json, or multipart/form-data"),
        (b"{", "application/json", "not JSON"),
        (b'{"text": "' + b"x" * 1_100_000, "application/json", "larger than 1048576 bytes"),
    ],
)
async def test_a_body_that_is_none_is_refused(
    tmp_path: Path, body: bytes, kind: str, detail: str
) -> None:
    async with running(tmp_path) as it:
        status, told = await posted(it, body, kind)
        assert status in (400, 413, 415), told
        assert detail in told["detail"]


async def test_an_audience_has_a_bound_and_beyond_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol.AUDIENCE_MAX", 2)
    async with running(tmp_path) as it:
        status, told = await post(it, key="k-1", audience=["c-1", "c-2", "c-3"])
        assert (status, told["code"]) == (413, "too_large")
        status, told = await post(it, key="k-1", audience=["c-1", "c-2"])
        assert (status, told.get("duplicate")) == (201, None)
        await over(it, told["id"])
        assert (await it.call("GET", "/v1/customers/c-3/status", Role.SERVICE))[0] == 404


async def test_a_tenant_has_a_bounded_number_of_campaigns_that_are_not_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol.CAMPAIGNS_OPEN", 2)
    async with running(tmp_path) as it:
        first = await begin(it, audience=["c-1", "c-2"], **SLOW)
        await begin(it, audience=["c-1", "c-2"], **SLOW)
        assert [task.get_name() for task in asyncio.all_tasks()].count("campaigns") == 1  # in turn
        status, told = await post(it, audience=["c-1"])
        assert (status, told["code"]) == (409, "conflict")
        await ask(it, first, "/cancel", "POST")
        await begin(it, audience=["c-1"])


async def test_campaigns_that_are_being_uploaded_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol.CAMPAIGNS_OPEN", 3)
    async with running(tmp_path) as it:
        made = await asyncio.gather(
            *(post(it, audience=["c-1", "c-2"], rate=0.01) for _ in range(9))
        )
        assert Counter(status for status, _ in made) == {201: 3, 409: 6}


async def test_another_tenant_sees_nothing_of_a_campaign(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        id = await begin(it, audience=["c-1", "c-2"], **SLOW)
        for what, method in (("", "GET"), ("/report", "GET"), ("/cancel", "POST")):
            status, told = await ask(it, id, what, method, tenant="other")
            assert (status, told["code"]) == (404, "not_found")
        _, page = await it.call("GET", "/v1/campaigns", Role.SERVICE, tenant="other")
        assert page["campaigns"] == []
        assert (await ask(it, id))[1]["state"] == "running"


async def test_campaigns_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        ids = [await begin(it, audience=["c-1"]) for _ in range(3)]
        _, page = await it.call("GET", "/v1/campaigns?limit=2", Role.SERVICE)
        assert ([c["id"] for c in page["campaigns"]], page["more"]) == ([ids[2], ids[1]], True)
        _, page = await it.call("GET", f"/v1/campaigns?limit=2&before={ids[1]}", Role.SERVICE)
        assert ([c["id"] for c in page["campaigns"]], page["more"]) == ([ids[0]], False)
        _, page = await it.call("GET", "/v1/campaigns?limit=3", Role.SERVICE)
        assert ([c["id"] for c in page["campaigns"]], page["more"]) == (ids[::-1], False)
        assert not {"title", "data", "send_at", "expires_at"} & set(page["campaigns"][0])
        status, told = await it.call("GET", "/v1/campaigns?before=cp_none", Role.SERVICE)
        assert (status, "before" in told["detail"]) == (400, True)


async def test_progress_is_a_metric(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await over(it, await begin(it, audience=["c-1", "c-2"]))
        id = await begin(it, audience=["c-1", "c-2", "c-3"], **SLOW)
        await until(it, id, lambda told: told["sent"] == 1)
        for line in (
            'ringback_campaign_recipients_total{result="sent",tenant="acme"} 3.0',
            'ringback_campaigns{state="running",tenant="acme"} 1.0',
            'ringback_campaign_left{tenant="acme"} 2.0',
        ):
            async with asyncio.timeout(PATIENCE):  # what is committed is told a moment before
                while line not in (await it.call("GET", "/metrics", listener="admin"))[1]:
                    await asyncio.sleep(0.01)


async def test_a_campaign_waits_while_many_devices_of_its_tenant_wait_for_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an agent's message is not behind all of it; other tenants' campaigns go on."""
    async with running(tmp_path) as it:
        waiting = {"acme": Waiting(BUSY + 1), "other": Waiting()}
        monkeypatch.setattr(it.gateway.core.campaigns, "_waiting", waiting.__getitem__)
        held = await begin(it, audience=["c-1"])
        status, other = await post(it, tenant="other", audience=["c-1"])
        assert status == 201
        async with asyncio.timeout(PATIENCE):
            while (await ask(it, other["id"], tenant="other"))[1]["state"] != "finished":
                await asyncio.sleep(0)
        assert (await ask(it, held))[1]["sent"] == 0
        waiting["acme"] = Waiting()
        await over(it, held)


async def test_a_campaign_that_waits_for_free_calls_ends_at_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        busy = Waiting(BUSY + 1)
        monkeypatch.setattr(it.gateway.core.campaigns, "_waiting", lambda _: busy)
        id = await begin(it, audience=["c-1"], expires_at=timestamp(time.time() + 60.0))
        it.pass_time(60.0)
        told = await until(it, id, lambda told: told["state"] == "expired")
        assert (told["sent"], told["left"]) == (0, 1)


@pytest.mark.parametrize(
    ("failing", "sent"),
    [
        ({}, 1_000),
        ({"before": 5_000}, 1_000),  # a test backend that has been dead for long
        ({"of": 4}, 1_000),  # or one for every fourth recipient's phone
        ({"of": 1}, 225),  # all of them
        ({"before": 5_000, "of": 1}, 225),
    ],
)
async def test_a_campaign_stands_still_while_most_of_it_waits_for_a_backend_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: dict[str, int], sent: int
) -> None:
    """Whatever other backend of the tenant there is, idle or not."""
    async with running(tmp_path) as it:
        them = it.gateway.core.campaigns
        rung = 0

        def waiting(tenant: str) -> Waiting:
            more = rung // failing["of"] if "of" in failing else 0
            return Waiting(0, failing.get("before", 0) + more)

        def count(tenant: str, result: str, many: int) -> None:
            nonlocal rung
            rung += many

        monkeypatch.setattr(them, "_waiting", waiting)
        monkeypatch.setattr(them, "_counted", count)
        id = await begin(it, audience=[f"c-{i}" for i in range(1_000)])
        await until(it, id, lambda told: told["sent"] >= sent)
        await asyncio.sleep(5 * sending.AGAIN)
        assert (await ask(it, id))[1]["sent"] == sent
        monkeypatch.setattr(them, "_waiting", lambda _: Waiting())  # it works again
        assert (await over(it, id))["sent"] == 1_000


def test_what_waited_before_a_campaign_began_does_not_hold_it_up() -> None:
    lane = Lane()
    assert not lane.is_held_up(Waiting(0, 0))
    lane.calm()  # it was over; meanwhile a backend began to fail, for those who chat
    assert not lane.is_held_up(Waiting(0, 300))
    assert lane.is_held_up(Waiting(0, 300 + BUSY + 1))


def test_a_campaign_whose_end_could_not_be_written_is_not_tried_on_and_on() -> None:
    about: Any = dict.fromkeys(Campaign.__struct_fields__)
    paused = Campaign(**{**about, "state": CampaignState.PAUSED, "expires_at": 100.0})
    run = Run(paused, audience.words("hello", None), next_at=0.0)
    assert run.due_at == 100.0
    run.next_at = 105.0  # the disk refused it
    assert run.due_at == 105.0


def test_what_was_sent_while_no_more_came_to_wait_does_not_make_up_for_those_who_do() -> None:
    lane = Lane()
    assert not lane.is_held_up(Waiting(BUSY, 100))
    lane.sent += 1_000
    assert not lane.is_held_up(Waiting(BUSY, 100))
    assert lane.is_held_up(Waiting(0, 100 + BUSY + 1))
    lane.sent += 1_000
    assert not lane.is_held_up(Waiting(0, 600))
    assert lane.is_held_up(Waiting(0, 601))


async def test_a_beginning_that_has_passed_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        for late, status in ((30.0, 201), (3_600.0, 400)):
            send_at = timestamp(time.time() - late)
            assert (await post(it, audience=["c-1"], send_at=send_at))[0] == status


async def test_a_campaign_that_is_paused_ends_at_its_time(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        begins, ends = (timestamp(time.time() + wait) for wait in (60.0, 120.0))
        id = await begin(it, audience=["c-1"], send_at=begins, expires_at=ends)
        assert (await ask(it, id, "/pause", "POST"))[0] == 200
        it.pass_time(120.0)
        told = await until(it, id, lambda told: told["state"] == "expired")
        assert (told["sent"], told["left"]) == (0, 1)


async def test_doubles_across_batches_of_a_large_file_are_one_message(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        rows = [f"c-{i % 900}" for i in range(1_800)]
        _, told = await upload(it, "\n".join(["customer", *rows]))
        assert (told["recipients"], told["duplicates"]) == (900, 900)
        assert (await over(it, told["id"]))["sent"] == 900
    assert {m.seq for m in recount.check(tmp_path / "ringback.db")} == {1}


async def test_an_audience_that_was_let_go_while_it_came_begins_nothing(tmp_path: Path) -> None:
    """As a start does with what it finds half loaded; found by day 70004867."""
    async with running(tmp_path) as it:
        core = it.gateway.core
        said = audience.words("hello", None)

        async def batches() -> AsyncIterator[list[audience.Entry]]:
            yield [audience.entry({"customer": "c-1"}, said, core.context.limits)]
            (loading,) = await core.campaign_loading._rows.in_states(CampaignState.LOADING)
            await core.campaign_loading._discard(loading)

        who = Identity("acme", Role.SERVICE, "crm", None, time.time() + 3600.0)
        source = Source(batches(), lambda: 1, lambda: "digest")
        with pytest.raises(FrameError, match="send it again") as refused:
            await core.campaign_loading.create(who, PostCampaign(text="hello"), "k-1", said, source)
        assert refused.value.code is ErrorCode.UNAVAILABLE
        assert core.campaigns.open() == []
        assert (await upload(it, "customer\nc-1\n", key="k-1"))[0] == 201


async def test_of_the_audiences_that_a_tenant_sends_at_once_one_piece_is_judged_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's turn: however many they are, others have the next."""
    turn, judged, over = 0, list[int](), asyncio.Event()
    feed = audience.File.feed

    async def count() -> None:
        nonlocal turn
        while not over.is_set():
            turn += 1
            await asyncio.sleep(0)

    def note(self: audience.File, data: bytes) -> list[audience.Line]:
        judged.append(turn)
        return feed(self, data)

    monkeypatch.setattr(audience.File, "feed", note)
    lines = "\n".join(["customer,note", *(f"c-{i},{'x' * 1_000}" for i in range(100))])
    async with running(tmp_path) as it:
        counting = asyncio.create_task(count())
        answers = await asyncio.gather(*(upload(it, lines) for _ in range(4)))
        over.set()
        await counting
    assert [status for status, _ in answers] == [201] * 4
    assert len(judged) > 4 * 40, "of 100 KB each, a little at a time"
    assert len(judged) == len(set(judged))


async def test_taking_and_ending_a_campaign_are_its_tenants_own_turns_of_the_writer(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        store = it.gateway.core.store
        enqueue, whose = store.enqueue, list[str]()

        def note(apply: Any, needs: Needs, *given: Any, **more: Any) -> None:
            whose.append(needs.tenant)
            enqueue(apply, needs, *given, **more)

        store.enqueue = note  # type: ignore[method-assign]
        later = timestamp(time.time() + 60.0)
        assert (await upload(it, "customer\nc-1\nc-2\n", send_at=later))[0] == 201
        assert (await upload(it, 'customer\n"\n', send_at=later))[0] == 400
        id = await begin(it, audience=["c-1"], send_at=later)
        assert (await ask(it, id, "/cancel", "POST"))[0] == 200
        assert len(whose) > 7
        assert set(whose) == {"acme"}
