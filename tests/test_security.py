"""Who may come in, what a tenant can reach, and what never leaves: over real sockets and HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sqlite3
import sys
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, redirect_stderr
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import structlog
from aiohttp import web
from aiohttp.multipart import parse_content_disposition
from websockets.exceptions import InvalidStatus

from gateway import logs
from gateway.config.sections import Log, LogFormat
from gateway.protocol import CloseCode, Role
from storage.records import Key
from storage.store import Needs
from tests.running import PATIENCE, PATIENT, SECRET, Running, running

replace = msgspec.structs.replace

# Origins


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.acme.example",
        "https://app.acme.example:8443",
        "https://app.acme.example.evil.example",
        "https://APP.acme.example",
        "https://acme.example",
        "null",
        "",
    ],
)
async def test_a_foreign_origin_is_refused_with_403(tmp_path: Path, origin: str) -> None:
    async with running(tmp_path) as it:
        with pytest.raises(InvalidStatus) as refused:
            await it.raw("/v1/chat", additional_headers={"Origin": origin})
        assert refused.value.response.status_code == 403


async def test_the_tenants_own_origin_is_let_in_and_apps_need_none(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert (await it.customer()).welcome["customer"] == "c-42"
        for path, role in (("/v1/chat", Role.CUSTOMER), ("/v1/agent", Role.AGENT)):
            wire = await it.raw(path, origin="https://app.acme.example")
            await wire.send("hello", token=it.token(role, "x"))
            await wire.take("welcome")


async def test_the_origin_of_another_tenant_closes_with_4501(tmp_path: Path) -> None:
    origins = {"acme": ["https://app.acme.example"], "other": ["https://app.other.example"]}
    async with running(tmp_path, origins=origins) as it:
        for tenant, origin, welcome in (
            ("acme", "https://app.acme.example", True),
            ("other", "https://app.acme.example", False),
            ("acme", "https://app.other.example", False),
        ):
            wire = await it.raw("/v1/chat", origin=origin)
            await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42", tenant))
            if welcome:
                await wire.take("welcome")
            else:
                assert await wire.closed() == 4501


# Tokens


def _token(key: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims: dict[str, Any] = {
        "sub": "c-42",
        "tenant": "acme",
        "role": "customer",
        "aud": "ringback",
        "exp": time.time() + 86_400,  # some are made long before they are shown
    }
    headers = changes.pop("headers", None)
    claims |= changes
    told = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(told, key, algorithm=algorithm, headers=headers)


BAD_TOKENS = {
    "none at all": None,
    "not a token": "let me in",
    "no signature": _token("", "none"),
    "another key": _token("x" * 48),
    "another algorithm": _token("x" * 64, "HS512"),
    "another tenant's name": _token(tenant="nobody"),
    "another audience": _token(aud="elsewhere"),
    "no expiry": _token(exp=None),
    "expired": _token(exp=time.time() - 3600),
    "not yet": _token(nbf=time.time() + 3600),
    "an unknown role": _token(role="admin"),
    "no sub": _token(sub=None),
    "an empty sub": _token(sub=""),
    "a key of its own": _token(headers={"jku": "https://evil.example/jwks"}),
    "an unknown crit": _token(headers={"crit": ["x"], "x": 1}),
    "oversized": _token(name="n" * 9_000),
}


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/agent"])
async def test_a_token_that_is_not_good_closes_with_4500_and_nothing_else(
    tmp_path: Path, path: str
) -> None:
    async with running(tmp_path) as it:
        for name, token in BAD_TOKENS.items():
            wire = await it.raw(path)
            fields = {} if token is None else {"token": token}
            await wire.send("hello", **fields)
            assert await wire.closed() == 4500, name
            assert wire.socket.close_reason == "token not accepted", "the reason is for us alone"
            assert wire._skipped == [], name


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/v1/chat", Role.AGENT),
        ("/v1/chat", Role.SERVICE),
        ("/v1/agent", Role.CUSTOMER),
        ("/v1/agent", Role.SERVICE),
    ],
)
async def test_a_good_token_for_another_role_closes_with_4501(
    tmp_path: Path, path: str, role: Role
) -> None:
    async with running(tmp_path) as it:
        wire = await it.raw(path)
        await wire.send("hello", token=it.token(role, "x"))
        assert await wire.closed() == 4501


async def test_the_token_may_come_in_the_handshakes_header_but_never_in_the_url(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        token = it.token(Role.CUSTOMER, "c-42")
        wire = await it.raw("/v1/chat", additional_headers={"Authorization": f"Bearer {token}"})
        await wire.send("hello")
        assert (await wire.take("welcome"))["customer"] == "c-42"
        for name in ("token", "access_token", "authorization"):
            wire = await it.raw(f"/v1/chat?{name}={token}")
            await wire.send("hello")
            assert await wire.closed() == 4500
            status, _ = await it.call("GET", f"/v1/me/status?{name}={token}")
            assert status == 401


async def test_at_its_expiry_a_token_closes_with_4002(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        now = time.time()  # and so it stays: however slow the machine, no token ends before hello
        monkeypatch.setattr(it.gateway.core.sessions, "_wall", lambda: now)
        customer = await it.raw("/v1/chat")
        await customer.send("hello", token=_token(exp=now + 0.5))
        agent = await it.raw("/v1/agent")
        await agent.send("hello", token=_token(exp=now + 0.5, role="agent", sub="a-1"))
        assert await customer.closed() == 4002
        assert await agent.closed() == 4002
        refreshed = await it.customer("c-1")
        (session,) = it.gateway.core.hub.sessions(Key("acme", "c-1"))
        end = session.expiry
        assert isinstance(end, asyncio.TimerHandle)
        assert not end.cancelled()
        await refreshed.ask("refresh", "ok", token=it.token(Role.CUSTOMER, "c-1"))
        if not end.cancelled():
            end._run()  # the end of the first token comes
        assert (await refreshed.ask("send", "sent", text="still here"))["seq"] == 1


async def test_a_token_that_the_leeway_lets_in_has_the_rest_of_it(tmp_path: Path) -> None:
    """By default 10 s: a clock that is 7 s ahead makes of a new token one that has ended."""
    async with running(tmp_path, delivery=PATIENT) as it:
        wire = await it.raw("/v1/chat")
        await wire.send("hello", token=_token(exp=time.time() - 7.0))
        await wire.take("welcome")
        assert (await wire.ask("send", "sent", text="said in time"))["seq"] == 1
        assert await wire.closed() == 4002


async def test_a_leeway_that_was_reloaded_is_that_of_sessions_too(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        config = it.gateway.config
        acme = config.tenants["acme"]
        wide = replace(acme, auth=replace(acme.auth, leeway=30.0))
        it.gateway.take_up(replace(config, tenants={**config.tenants, "acme": wide}))
        wire = await it.raw("/v1/chat")
        await wire.send("hello", token=_token(exp=time.time() - 15.0))
        await wire.take("welcome")
        assert (await wire.ask("send", "sent", text="said in time"))["seq"] == 1


async def test_refresh_takes_only_a_good_token_of_the_same_person(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        wires = [await it.customer(), await it.agent("c-42")]
        for wire, role in zip(wires, (Role.CUSTOMER, Role.AGENT), strict=True):
            other_role = Role.AGENT if role is Role.CUSTOMER else Role.CUSTOMER
            for token, code in (
                (it.token(role, "c-1"), "forbidden"),
                (it.token(role, "c-42", "other"), "forbidden"),
                (it.token(other_role, "c-42"), "forbidden"),
                (_token("x" * 48, role=role.value), "unauthorized"),
                (_token(exp=time.time() - 3600, role=role.value), "unauthorized"),
                ("", "unauthorized"),
            ):
                assert (await wire.ask("refresh", "error", token=token))["code"] == code
            await wire.ask("refresh", "ok", token=it.token(role, "c-42"))
            await wire.ask("ping", "pong")


# Requests that can be read in two ways

AMBIGUOUS = {
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "two lengths in one": b"Content-Length: 4, 4\r\n",
    "a length with a sign": b"Content-Length: +4\r\n",
    "a length of another base": b"Content-Length: 0x4\r\n",
    "a space before the colon": b"Content-Length : 4\r\n",
    "another coding": b"Transfer-Encoding: xchunked\r\n",
    "chunks that are not the last": b"Transfer-Encoding: chunked, identity\r\n",
    "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
    "a folded line": b"Transfer-Encoding:\r\n chunked\r\n",
    "a line that LF ends": b"X: y\nTransfer-Encoding: chunked\r\n",
    "a line that CR ends": b"X: y\rTransfer-Encoding: chunked\r\n",
    "two hosts": b"Host: y\r\n",
}


@pytest.mark.parametrize("lines", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_a_call_that_a_proxy_may_read_otherwise_is_refused_with_all_behind_it(
    tmp_path: Path, lines: bytes
) -> None:
    """RFC 9112, section 11.2: what one takes for a body is another's next request."""
    async with running(tmp_path) as it:
        smuggled = b"0\r\n\r\nGET /v1/me/status HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"
        answer = await _whole_answer(it, "http", head + smuggled)
        assert answer.count(b"HTTP/1.") == 1
        assert answer.split()[1] == b"400"
        answer = await _whole_answer(it, "chat", head + smuggled)
        assert answer.count(b"HTTP/1.") <= 1, "some it hangs up on without a word"
        assert b"HTTP/1.1 101" not in answer


async def _whole_answer(it: Running, listener: str, request: bytes) -> bytes:
    """All that comes until the gateway has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.ports[listener])
    writer.write(request)
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return answer


# Two tenants with equal ids


async def test_nothing_of_one_tenant_is_there_for_the_other_over_http(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        await it.write(text="acme's")
        await it.settled(1, "pushed")
        before = await _seen(it)
        foreign = "/v1/customers/c-42"
        for path in ("messages", "status", "devices", "deliveries?seq=1"):
            status, told = await it.call("GET", f"{foreign}/{path}", Role.SERVICE, tenant="other")
            assert (status, told["code"]) == (404, "not_found"), path
        status, _ = await it.call("POST", f"{foreign}/sign_out", Role.SERVICE, tenant="other")
        assert status == 404
        body = {"customer": "c-42", "text": "from abroad"}
        status, _ = await it.call(
            "POST", "/v1/messages", Role.AGENT, "a-1", tenant="other", json=body
        )
        assert status == 404
        _, mine = await it.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42", tenant="other")
        assert (mine["seq"], mine["unread"]) == (0, 0)
        gone = await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-42", tenant="other")
        assert gone[0] == 204
        assert await _seen(it) == before


async def test_nothing_of_one_tenant_is_there_for_the_other_on_sockets(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        customer = await it.customer()
        await customer.ask("send", "sent", ref="r1", text="acme's")
        epoch = customer.welcome["epoch"]
        own = await it.agent(open="c-42")
        foreign = await it.agent(tenant="other")
        before = await _seen(it)
        for type, more in (
            ("open", {}),
            ("history", {}),
            ("end", {}),
            ("send", {"text": "from abroad"}),
            ("ack", {"seq": 1}),
            ("read", {"seq": 1}),
        ):
            error = await foreign.ask(type, "error", customer="c-42", **more)
            assert error["code"] == "not_found", type
        await foreign.send("typing", customer="c-42", on=True)
        await foreign.ask("close", "ok", customer="c-42")
        assert (await foreign.ask("inbox", "inbox"))["conversations"] == []
        namesake = await it.customer(tenant="other", resume={"epoch": epoch, "seq": 1})
        assert (namesake.welcome["seq"], namesake.welcome["resumed"]) == (0, False)
        assert (await namesake.ask("history", "history"))["messages"] == []
        await namesake.ask("deregister_device", "ok", installation="phone")
        sent = await namesake.ask("send", "sent", ref="r1", text="other's")
        assert (sent["seq"], "duplicate" in sent) == (1, False)
        await namesake.send("typing", on=True)
        await namesake.send("read", seq=1)
        await namesake.ask("ping", "pong")
        assert [f["type"] for f in await customer.quiet()] == ["status"]
        assert await own.quiet() == []
        assert await _seen(it) == before
        assert (await foreign.take("inbox_update"))["conversation"]["customer"] == "c-42"


async def test_equal_devices_of_two_tenants_are_two_devices(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        acme = await it.register()
        other = await it.register(tenant="other")
        assert acme != other
        assert await _delete_by_key(it, "phone", other) == 204
        assert len(await _devices(it)) == 1
        assert len(await _devices(it, tenant="other")) == 0
        swapped = other.replace("other.", "acme.", 1)
        assert await _delete_by_key(it, "phone", swapped) == 403
        assert len(await _devices(it)) == 1
        assert await _delete_by_key(it, "phone", acme) == 204
        assert await _devices(it) == []


async def test_signing_out_closes_and_removes_only_ones_own(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        for tenant in ("acme", "other"):
            await it.register(tenant=tenant)
        phone, web = await it.customer(), await it.customer(state="background")
        namesake, neighbour = await it.customer(tenant="other"), await it.customer("c-1")
        status, _ = await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        assert status == 204
        assert [await phone.closed(), await web.closed()] == [4503, 4503]
        await namesake.ask("ping", "pong")
        await neighbour.ask("ping", "pong")
        assert await _devices(it) == []
        assert len(await _devices(it, tenant="other")) == 1
        status, told = await it.call(
            "POST", "/v1/messages", Role.SERVICE, json={"customer": "c-42", "text": "bye"}
        )
        assert (told["route"], told["reason"]) == ("none", "no_device")


@pytest.mark.parametrize("code", [4002, 4503])
async def test_what_is_on_its_way_when_the_right_to_it_ends_is_not_taken(
    tmp_path: Path, code: int
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        wire = await it.raw("/v1/chat")
        await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
        await wire.take("welcome")
        wire.socket.transport.pause_reading()  # it has yet to hear of its end
        (session,) = it.gateway.core.hub.sessions(Key("acme", "c-42"))
        if code == 4503:
            await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        else:
            session.close(CloseCode.TOKEN_EXPIRED)
        async with asyncio.timeout(PATIENCE):
            while not session.closed:
                await asyncio.sleep(0.01)
        await wire.send("register_device", ref="r1", installation="phone", token="late")
        await wire.send("send", ref="r2", text="late")
        wire.socket.transport.resume_reading()
        assert await wire.closed() == code
        await it.write("c-1")  # whatever was taken before is committed with it
        assert await _devices(it) == []
        _, told = await it.call("GET", "/v1/customers/c-42/messages", Role.SERVICE)
        assert told["messages"] == []


@pytest.mark.parametrize("together", [False, True])
async def test_a_registration_behind_a_sign_out_that_is_not_yet_committed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """In a commit of its own, or in the same."""
    writing, go_on = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register(token="early")
        customer = await it.customer()
        store, database = it.gateway.core.store, it.gateway.core.database
        real = database.write

        async def slowly(statements: Any) -> None:
            writing.set()
            await go_on.wait()
            await real(statements)

        async def queued(number: int) -> None:
            async with asyncio.timeout(PATIENCE):
                while store.waiting < number:
                    await asyncio.sleep(0.001)

        monkeypatch.setattr(database, "write", slowly)
        before = asyncio.create_task(it.write("c-1")) if together else None
        if before is not None:
            await writing.wait()
        ending = asyncio.create_task(it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE))
        await (queued(1) if together else writing.wait())
        await customer.send("register_device", ref="r1", installation="phone", token="late")
        await queued(2 if together else 1)
        go_on.set()
        assert (await ending)[0] == 204
        assert await customer.closed() == 4503
        if before is not None:
            await before
        await it.write("c-1")  # whatever was taken before is committed with it
        assert await _devices(it) == []


async def test_who_comes_right_behind_a_sign_out_is_not_signed_out_with_it(tmp_path: Path) -> None:
    """Whether both are in one commit is chance, and after 4503 a client stays away."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register(token="early")
        before, after = await it.customer(), await it.raw("/v1/chat")
        with closing(sqlite3.connect(tmp_path / "ringback.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the writer waits with its commit; the rest piles up
            it.gateway.core.store.submit(lambda tx: tx.touch(), Needs())
            await _queued(it, 0)
            ending = asyncio.create_task(
                it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
            )
            await _queued(it, 1)
            await after.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
            await _queued(it, 2)
            db.execute("ROLLBACK")
        assert (await ending)[0] == 204
        assert await before.closed() == 4503
        await after.take("welcome")
        await after.ask("register_device", "device", installation="phone", token="new")
        assert len(await _devices(it)) == 1


async def _queued(it: Running, changes: int) -> None:
    """Until the writer is at work and so many changes wait for it."""
    async with asyncio.timeout(PATIENCE):
        while it.gateway.core.store.waiting != changes:
            await asyncio.sleep(0)


async def _seen(it: Running) -> list[Any]:
    """All that the tenant acme can see of its customer c-42."""
    paths = ("messages", "status", "devices", "deliveries?seq=1")
    return [await it.call("GET", f"/v1/customers/c-42/{path}", Role.SERVICE) for path in paths]


async def _devices(it: Running, sub: str = "c-42", tenant: str = "acme") -> list[Any]:
    status, told = await it.call("GET", f"/v1/customers/{sub}/devices", Role.SERVICE, tenant=tenant)
    assert status == 200
    listed: list[Any] = told["devices"]
    return listed


async def _delete_by_key(it: Running, installation: str, key: str) -> int:
    headers = {"Ringback-Deregistration-Key": key}
    return (await it.call("DELETE", f"/v1/devices/{installation}", headers=headers))[0]


async def test_what_a_customer_says_is_their_own_whoever_they_name(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write("c-1", "for c-1 alone")
        mallory = await it.customer("c-42")
        forged = {"customer": "c-1", "from": {"role": "agent", "id": "a-1"}, "kind": "proactive"}
        await mallory.ask("send", "sent", text="it is me", seq=99, **forged)
        assert (await mallory.ask("history", "history", customer="c-1"))["messages"] != []
        for type in ("open", "inbox", "end", "close"):
            assert (await mallory.ask(type, "error", customer="c-1"))["code"] == "bad_frame"
        (said,), (untouched,) = await _messages(it, "c-42"), await _messages(it, "c-1")
        assert (said["text"], said["kind"], said["seq"]) == ("it is me", "chat", 1)
        assert said["from"] == {"role": "customer", "id": "c-42"}
        assert untouched["text"] == "for c-1 alone"


async def _messages(it: Running, customer: str) -> list[Any]:
    _, told = await it.call("GET", f"/v1/customers/{customer}/messages", Role.SERVICE)
    messages: list[Any] = told["messages"]
    return messages


async def test_a_sign_out_ends_no_token(tmp_path: Path) -> None:
    """Nothing does but its own end: docs/security.md says what to do."""
    async with running(tmp_path, delivery=PATIENT) as it:
        token = it.token(Role.CUSTOMER, "c-42")
        phone = await it.customer(token=token)
        await it.call("POST", "/v1/customers/c-42/sign_out", Role.SERVICE)
        assert await phone.closed() == 4503
        assert (await it.customer(token=token)).welcome["customer"] == "c-42"


# Registrations move


async def test_a_deregistration_key_stays_until_the_owner_changes(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        first = await it.register(token="t1")
        assert await it.register(token="t1") == first
        assert await it.register(token="t2") == first
        customer = await it.customer()
        told = await customer.ask("register_device", "device", installation="phone", token="t3")
        assert told["deregistration_key"] == first
        second = await it.register("c-1", token="t3")
        assert second != first
        assert await _delete_by_key(it, "phone", first) == 204
        assert len(await _devices(it, "c-1")) == 1, "an earlier owner's key changes nothing"
        for _ in range(2):
            assert await _delete_by_key(it, "phone", second) == 204
            assert await _devices(it, "c-1") == []
        assert await it.register(token="t3") not in (first, second)


async def test_a_token_under_another_installation_of_its_customer_brings_its_key(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        of_the_tablet = await it.register(installation="tablet", token="t1")
        key = await it.register(installation="phone", token="t2")
        assert await it.register(installation="tablet", token="t2") == key != of_the_tablet
        assert await _delete_by_key(it, "tablet", of_the_tablet) == 204
        assert [d["installation"] for d in await _devices(it)] == ["tablet"]
        assert await _delete_by_key(it, "tablet", key) == 204
        assert await _devices(it) == []


async def test_a_key_that_was_never_given_out_is_403(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        key = await it.register()
        tenant, id, mac = key.split(".")
        for forged in (
            "",
            "x",
            "..",
            f"{tenant}.{int(id) + 1}.{mac}",
            f"{tenant}.{id}.{mac[:-1]}{'A' if mac[-1] != 'A' else 'B'}",
            f"{tenant}.{id}.",
            f"{tenant}.{'9' * 30}.{mac}",
            f"{tenant}.-1.{mac}",
            f"{tenant}.{id}.é",
            f"é.{id}.{mac}",
        ):
            assert await _delete_by_key(it, "phone", forged) == 403, forged
        assert await _delete_by_key(it, "tablet", key) == 204
        assert len(await _devices(it)) == 1


async def test_a_key_that_is_not_even_text_is_403(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        key = b"acme\xff.1.AAAAAAAAAAAAAAAAAAAAAAAA"
        request = b"DELETE /v1/devices/phone HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        status = await _raw_status(it, request + b"Ringback-Deregistration-Key: " + key)
        assert status == 403


async def _raw_status(it: Running, head: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.ports["http"])
    writer.write(head + b"\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def test_an_installation_moves_with_whoever_signs_in_on_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register("c-1", "phone", "t1")
        await it.register("c-2", "phone", "t1")
        assert await _devices(it, "c-1") == []
        assert [d["installation"] for d in await _devices(it, "c-2")] == ["phone"]
        await it.write("c-1", "private")
        told = await it.settled(1, "undeliverable", "c-1")
        assert told["reason"] == "no_device"
        await it.write("c-2", "yours")
        call = await it.backend.take()
        assert call.ring["customer"] == "c-2"
        await it.settled(1, "pushed", "c-2")
        assert len(it.backend.calls) == 1


async def test_a_device_token_moves_between_installations(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        first = await it.register("c-42", "phone", "t1")
        second = await it.register("c-42", "reinstalled", "t1")
        assert first == second  # the same phone: the key stays until the owner changes
        assert [d["installation"] for d in await _devices(it)] == ["reinstalled"]
        assert await _delete_by_key(it, "phone", first) == 204
        assert len(await _devices(it)) == 1
        await it.write()
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 1


async def test_a_changed_token_is_the_only_one_rung(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.register(token="old")
        await it.register(token="new")
        await it.write()
        assert (await it.backend.take()).body["deviceToken"] == "new"
        await it.settled(1, "pushed")
        assert len(it.backend.calls) == 1


async def test_only_the_owner_deregisters_with_a_token(tmp_path: Path) -> None:
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.register()
        gone = await it.call("DELETE", "/v1/devices/phone", Role.CUSTOMER, "c-1")
        assert gone[0] == 204
        stranger = await it.customer("c-1")
        await stranger.ask("deregister_device", "ok", installation="phone")
        assert len(await _devices(it)) == 1


# What never leaves

CANARIES = {
    "text": "canary-text-4711",
    "data": "canary-data-4711",
    "title": "canary-title-4711",
    "device token": "canary-device-4711",
    "backend token": "backend-auth-token",
    "secret": SECRET,
}


async def test_no_token_secret_or_text_is_in_logs_metrics_or_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # of libraries, `gateway.logs` lets nothing below through
    answers: list[str] = []
    with structlog.testing.capture_logs() as structured:
        async with running(tmp_path) as it:
            tokens = [it.token(role, "c-42") for role in Role]
            it.backend.answers = [500, 404, 410]
            await it.register(token=CANARIES["device token"])
            customer = await it.customer()
            agent = await it.agent(open="c-42")
            said = {"text": CANARIES["text"], "data": {"x": CANARIES["data"]}}
            await agent.ask("send", "sent", ref="r1", customer="c-42", **said)
            await customer.ask("send", "sent", **said)
            await it.write(text=CANARIES["text"], title=CANARIES["title"])
            await it.settled(1, "undeliverable")
            for fields in (
                {"ref": "r1", "customer": "c-42", "text": CANARIES["text"] + "!"},
                {"ref": "r2", "customer": "nobody", "text": CANARIES["text"]},
                {"ref": "r3", "customer": "c-42", "text": CANARIES["text"] * 1_000},
                {"ref": "r4", "customer": "c-42", "text": CANARIES["text"] + "\x00"},
                {"ref": "r5", "customer": "c-42", "text": [CANARIES["text"]]},
            ):
                refused = await agent.ask("send", "error", **fields)
                answers.append(json.dumps(refused))
            await customer.send(CANARIES["text"], ref=[CANARIES["text"]])
            answers.append(json.dumps(await customer.take("error")))
            bad = {"installation": "x", "token": CANARIES["device token"] * 400}
            answers.append(json.dumps(await customer.ask("register_device", "error", **bad)))
            bad_jwt = tokens[0] + "x"
            answers.append(json.dumps(await customer.ask("refresh", "error", token=bad_jwt)))
            _, told = await it.call("GET", "/v1/me/status", headers=_bearer(bad_jwt))
            answers.append(json.dumps(told))
            for body in (CANARIES["text"], {"customer": "c-42", "text": [CANARIES["text"]]}):
                _, told = await it.call("POST", "/v1/messages", Role.SERVICE, json=body)
                answers.append(json.dumps(told))
            answers.append(json.dumps(await it.outcome(1)))
            answers.append((await it.call("GET", "/metrics", listener="admin"))[1])
    assert len(structured) >= 3
    shown = capsys.readouterr()
    # asyncio's debug mode, on in tests alone, tells of slow callbacks with their arguments.
    libraries = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    everything = [*answers, repr(structured), *libraries, shown.out, shown.err]
    for place in everything:
        for name, canary in CANARIES.items():
            assert canary not in place, (name, place[:300])
        for token in tokens:
            assert token not in place
            assert token.rpartition(".")[2] not in place


CREDENTIALS = {
    "static header": "canary-header-4711",
    "client secret": "canary-client-4711",
    "access token": "canary-access-4711",
    "device token": "canary-device-4711",
}


class Company:
    """A backend with a path for each device, and a token endpoint; both echo secrets."""

    def __init__(self) -> None:
        self.port = 0
        self.shown: list[tuple[str, str | None, str | None]] = []
        self.answers = [401, 500, 404, 200]
        self.refusals = 1

    async def give(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.json_response({"error": CREDENTIALS["client secret"]}, status=401)
        return web.json_response({"access_token": CREDENTIALS["access token"]})

    async def ring(self, request: web.Request) -> web.Response:
        headers = request.headers
        self.shown.append((request.path, headers.get("Authorization"), headers.get("X-Api-Key")))
        status = self.answers.pop(0) if self.answers else 200
        return web.Response(status=status, text=str(self.shown[-1]))


@asynccontextmanager
async def _company() -> AsyncIterator[Company]:
    it = Company()
    app = web.Application()
    app.router.add_post("/token", it.give)
    app.router.add_post("/devices/{token}", it.ring)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.port = runner.addresses[0][1]
    try:
        yield it
    finally:
        await runner.cleanup()


async def test_no_credential_of_a_call_is_in_logs_metrics_or_what_is_told_of_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with _company() as company:
        push = {
            "endpoint": f"http://127.0.0.1:{company.port}",
            "adapter": "template",
            "options": {"path": "/devices/{token}", "body": {"n": "{unread}"}},
            "credentials": {
                "headers": {"X-Api-Key": CREDENTIALS["static header"]},
                "oauth": {
                    "token_url": f"http://127.0.0.1:{company.port}/token",
                    "client_id": "ringback",
                    "client_secret": CREDENTIALS["client secret"],
                },
            },
        }
        with structlog.testing.capture_logs() as structured:
            async with running(tmp_path, push=push) as it:
                await it.register(token=CREDENTIALS["device token"])
                seq = await it.write()
                told = await it.settled(seq, "pushed")
                metrics = (await it.call("GET", "/metrics", listener="admin"))[1]
                secrets = repr(it.gateway.config) + repr(it.gateway.core.__dict__)
    shown = (
        f"/devices/{CREDENTIALS['device token']}",
        f"Bearer {CREDENTIALS['access token']}",
        CREDENTIALS["static header"],
    )
    # 401, the same again with a renewed token: 500; then 404, then 200
    assert company.shown == [shown] * 4
    reasons = [event["reason"] for event in told["events"] if event["event"] == "attempt"]
    assert reasons == ["token_refused", "http_500", "http_404", "http_200"]
    assert any("no OAuth2 token" in line["event"] for line in structured)
    printed = capsys.readouterr()
    libraries = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    told_of = [json.dumps(told), metrics, secrets, repr(structured), printed.out, printed.err]
    for place in (*told_of, *libraries):
        for name, canary in CREDENTIALS.items():
            assert canary not in place, (name, place[:300])


async def test_no_browser_keeps_what_the_api_answers(tmp_path: Path) -> None:
    """A desk's browser would have it on its disk, long after the agent has signed out."""
    async with running(tmp_path, delivery=PATIENT) as it:
        await it.write(text="private")
        service = _bearer(it.token(Role.SERVICE, "x"))
        for path, headers, status in (
            ("/v1/customers/c-42/messages", service, 200),
            ("/v1/customers/c-42/deliveries?seq=1", service, 200),
            ("/v1/customers/nobody/messages", service, 404),
            ("/v1/me/status", {}, 401),
        ):
            async with it.http.get(it.url(path), headers=headers) as answer:
                assert answer.status == status
                assert answer.headers["Cache-Control"] == "no-store", path
                assert answer.headers["X-Content-Type-Options"] == "nosniff", path


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("format", list(LogFormat))
def test_a_logged_fault_shows_where_it_was_but_no_values(format: LogFormat) -> None:
    before = logging.root.handlers[:], logging.root.level
    with redirect_stderr(io.StringIO()) as stderr:
        with logs.set_up(Log(format=format)):  # at its end all is written
            try:
                _break(CANARIES["text"])
            except ZeroDivisionError as error:
                structlog.get_logger("x").error("broken", exc_info=error)
                logging.getLogger("y").error("broken", exc_info=error)
        structlog.reset_defaults()
        logging.root.handlers[:], logging.root.level = before
    assert stderr.getvalue().count("_break") >= 2
    assert CANARIES["text"] not in stderr.getvalue()


def test_a_warning_of_a_library_is_a_line_of_the_log_like_any_other() -> None:
    before = logging.root.handlers[:], logging.root.level
    with redirect_stderr(io.StringIO()) as stderr, warnings.catch_warnings():
        warnings.simplefilter("always")
        with logs.set_up(Log(format=LogFormat.JSON)):
            warnings.warn("a peer's header is none", RuntimeWarning, stacklevel=1)
        logging.root.handlers[:], logging.root.level = before
        structlog.reset_defaults()
    (line,) = stderr.getvalue().splitlines()
    assert "a peer's header is none" in json.loads(line)["event"]


@pytest.mark.parametrize(
    "header", ['form-data; name=="{}"', "{} form-data", "x; name*=utf-8''%C0{}"]
)
def test_a_library_that_warns_of_what_a_caller_sent_puts_none_of_it_into_the_log(
    header: str,
) -> None:
    """The name of an uploaded file, say; and each other name would be another line."""
    before = logging.root.handlers[:], logging.root.level
    with redirect_stderr(io.StringIO()) as stderr, warnings.catch_warnings():
        warnings.simplefilter("always")
        with logs.set_up(Log()):
            parse_content_disposition(header.format(CANARIES["text"]))
        logging.root.handlers[:], logging.root.level = before
        structlog.reset_defaults()
    assert stderr.getvalue() == ""


def test_what_is_logged_after_the_end_of_the_log_is_lost_and_breaks_nothing() -> None:
    before = logging.root.handlers[:], logging.root.level
    with redirect_stderr(io.StringIO()) as stderr:
        with logs.set_up(Log()):
            structlog.get_logger("x").error("in time")
        structlog.get_logger("x").error("too late")
        logging.getLogger("y").error("too late")
        structlog.reset_defaults()
        logging.root.handlers[:], logging.root.level = before
    assert "in time" in stderr.getvalue()
    assert "too late" not in stderr.getvalue()


@pytest.mark.parametrize("format", list(LogFormat))
def test_without_a_stderr_nothing_is_logged_and_nothing_breaks(
    format: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logging.root.handlers[:], logging.root.level
    monkeypatch.setattr(sys, "stderr", None)
    with logs.set_up(Log(format=format)):
        structlog.get_logger("x").error("broken")
        logging.getLogger("y").error("broken")
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = before


def _break(text: str) -> float:
    return len(text) / 0


# What is installed

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-serve.lock"])
def test_every_package_is_of_one_version_and_one_of_its_hashes(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(packages) > 30
    for package in packages:
        assert re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", package), package


def test_every_npm_package_of_the_tests_has_its_hash() -> None:
    lock = json.loads((ROOT / "tests" / "web" / "package-lock.json").read_text())
    packages = {path: told for path, told in lock["packages"].items() if path}
    assert packages
    assert [path for path, told in packages.items() if "integrity" not in told] == []


# At rest


async def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.write()
        for name in ("ringback.db", "ringback.db-wal", "ringback.db-shm"):
            assert (tmp_path / name).stat().st_mode & 0o077 == 0, name
