"""What the gateway serves to browsers, and from where its own pages may connect."""

from __future__ import annotations

import asyncio
import re
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from hatchling.builders.wheel import WheelBuilder
from websockets.exceptions import InvalidStatus

from gateway.config.sections import Server
from gateway.config.values import Address
from gateway.http.webpages import HERE, Places, WebPages
from gateway.protocol import Role
from tests.line import line
from tests.running import Running, running

ROOT = Path(__file__).parent.parent.parent
PORTS = {"chat": 8080, "http": 8081}


async def test_a_module_is_served_for_any_page_to_import(tmp_path: Path) -> None:
    async with running(tmp_path) as it, it.http.get(it.url("/web/connection.js")) as answer:
        assert (answer.status, answer.content_type) == (200, "text/javascript")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Encoding"] in ("gzip", "deflate")
        assert await answer.read() == (HERE / "connection.js").read_bytes()


async def test_what_a_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        async with it.http.get(it.url("/web/connection.js")) as first:
            tag = first.headers["ETag"]
        for known, status in ((tag, 304), (f'"other", {tag}', 304), ("*", 304), ('"other"', 200)):
            headers = {"If-None-Match": known}
            async with it.http.get(it.url("/web/connection.js"), headers=headers) as again:
                assert (again.status, again.headers["ETag"]) == (status, tag), known
                assert again.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_cache_is_told_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        headers = {"Origin": "https://app.acme.example", "Accept-Encoding": "gzip"}
        url = it.url("/web/ringback-client.js")
        async with it.http.get(url, headers=headers) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert sorted(answer.headers.getall("Vary")) == ["Accept-Encoding", "Origin"]


@pytest.mark.parametrize(
    "path",
    [
        "/web/../webpages.py",
        "/web/%2e%2e/webpages.py",
        "/web/..%2fwebpages.py",
        "/web//etc/passwd",
        "/web/%2fetc/passwd",
        "/web/connection.js%00",
        "/web/connection.js/",
        "/web/console.html",
        "/web/nothing.js",
        "/web/",
    ],
)
async def test_nothing_but_the_files_of_the_table_is_served(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as it:
        status, _ = await _raw(it, path)
        assert status == 404


@pytest.mark.parametrize("page", ["/console", "/console/ops"])
async def test_a_page_names_all_that_a_browser_asks_for_and_all_of_it_is_there(
    tmp_path: Path, page: str
) -> None:
    async with running(tmp_path) as it:
        async with it.http.get(it.url(page)) as answer:
            html = await answer.text()
        assert '<link rel="icon" href="/web/' in html  # else each visit asks for /favicon.ico
        for path in re.findall(r'(?:href|src)="(/web/[^"]*)"', html):
            async with it.http.get(it.url(path)) as answer:
                assert answer.status == 200, path


@pytest.mark.parametrize("page", ["/console", "/console/ops"])
async def test_a_page_is_found_with_a_slash_behind_its_name(tmp_path: Path, page: str) -> None:
    async with running(tmp_path) as it, it.http.get(it.url(f"{page}/")) as answer:
        assert (answer.status, answer.url.path) == (200, page)


async def _raw(it: Running, path: str) -> tuple[int, bytes]:
    """A request whose path nobody tidies up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.ports["http"])
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    told = await reader.read()
    writer.close()
    return int(told.split()[1]), told


# Where pages are, and where the chat is from there


def test_without_a_public_address_pages_are_at_the_listeners_own() -> None:
    loopback = {"http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081"}
    for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::"):  # noqa: S104
        server = Server(http=Address(host, 0))
        assert Places(server, PORTS).origins == loopback, host
    server = Server(http=Address("192.0.2.7", 80), chat=Address("192.0.2.7", 0))
    places = Places(server, {"chat": 8080, "http": 80})
    assert places.origins == {"http://192.0.2.7"}
    for page in ("http://192.0.2.7", "http://192.0.2.8"):
        assert places.chat(page) == "ws://192.0.2.7:8080"


def test_a_chat_listener_on_every_address_is_where_the_page_is() -> None:
    server = Server(chat=Address("0.0.0.0", 0))  # noqa: S104
    assert Places(server, PORTS).chat("http://localhost:8081") == "ws://localhost:8080"
    assert Places(server, PORTS).chat("http://[::1]:8081") == "ws://[::1]:8080"


def test_behind_a_proxy_the_chat_is_on_the_same_origin_unless_told_otherwise() -> None:
    server = Server(public_http="https://chat.acme.example")
    places = Places(server, PORTS)
    assert places.origins == {"https://chat.acme.example"}
    assert places.chat("https://chat.acme.example") == "wss://chat.acme.example"
    server = msgspec.structs.replace(server, public_chat="wss://ws.acme.example:8443")
    assert Places(server, PORTS).chat("https://chat.acme.example") == "wss://ws.acme.example:8443"


# Pages


@pytest_asyncio.fixture(loop_scope="session")
async def pages(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a listener with a page of its own."""
    (tmp_path / "console.html").write_text('<meta name="ringback-chat" content="{{chat}}">')
    app = web.Application()
    server = Server(http=Address("127.0.0.1", 0), chat=Address("127.0.0.1", 8080))
    ports: dict[str, int] = {}
    app.add_routes(WebPages(Places(server, ports), tmp_path).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ports["http"] = runner.addresses[0][1]
    yield f"http://127.0.0.1:{ports['http']}"
    await runner.cleanup()


async def test_a_page_is_told_where_the_chat_is_and_may_connect_there_only(pages: str) -> None:
    async with ClientSession() as http, http.get(f"{pages}/console") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert 'content="ws://127.0.0.1:8080"' in await answer.text()
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert policy[:5] == [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self' ws://127.0.0.1:8080",
        ]
        assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} < set(policy)
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_a_page_at_an_address_that_could_not_connect_says_which_setting_is_missing(
    pages: str,
) -> None:
    headers = {"Host": "chat.acme.example"}
    async with ClientSession() as http, http.get(f"{pages}/console", headers=headers) as answer:
        assert answer.status == 421
        assert 'set server.public_http to "http://chat.acme.example"' in await answer.text()


async def test_a_page_behind_a_proxy_is_that_of_its_public_address_whatever_host_the_proxy_asks(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, server={"public_http": "https://chat.acme.example"}) as it:
        for headers in ({}, {"Host": "10.0.0.1"}):
            async with it.http.get(it.url("/console"), headers=headers) as answer:
                assert answer.status == 200
                assert 'content="wss://chat.acme.example"' in await answer.text()


async def test_a_host_that_is_not_utf8_is_told_the_same_and_is_no_fault(tmp_path: Path) -> None:
    async with running(tmp_path) as it, line(it) as peer:
        peer.say("GET /console HTTP/1.1\r\nHost: é.example\r\n\r\n")
        status, _, told = await peer.answer()
        assert status == 421
        assert 'set server.public_http to "http://?.example"' in told.decode()


# Who may connect from them


async def test_agents_of_any_tenant_may_connect_from_the_console_and_nobody_else(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        console = f"http://localhost:{it.gateway.ports['http']}"
        for tenant in ("acme", "other"):
            wire = await it.raw("/v1/agent", origin=console)
            await wire.send("hello", token=it.token(Role.AGENT, "a-1", tenant))
            await wire.take("welcome", tenant=tenant)
        wire = await it.raw("/v1/agent", origin=console)
        await wire.send("hello", token=it.token(Role.CUSTOMER, "c-42"))
        assert await wire.closed() == 4501
        with pytest.raises(InvalidStatus) as refused:
            await it.raw("/v1/chat", origin=console)
        assert refused.value.response.status_code == 403


async def test_a_page_of_another_port_or_name_is_not_the_console(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        port = it.gateway.ports["http"]
        for origin in (f"http://rebound.example:{port}", "http://localhost:1", "http://localhost"):
            with pytest.raises(InvalidStatus) as refused:
                await it.raw("/v1/agent", origin=origin)
            assert refused.value.response.status_code == 403, origin


# What is installed


def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {p.relative_to(ROOT).as_posix() for p in HERE.rglob("*") if p.is_file()}
    assert here
    assert here <= packed
