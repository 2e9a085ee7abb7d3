"""The files of `gateway/web` on the HTTP listener: modules for customers' pages, and our own pages.

Decides what a browser may do with them (Content-Security-Policy and its kin), from which origins
our own pages come, and where they find the chat listener. Leaves to `gateway.sockets` and
`gateway.sessions` who may connect. The files are read once, at start, into a table: a request
chooses one of its keys, never a path.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import ETag, web

from gateway.config.sections import Server
from gateway.config.values import Address
from gateway.protocol import ErrorCode, FrameError

HERE: Final = Path(__file__).parents[1] / "web"
PAGES: Final = {"/console": "console.html", "/console/ops": "ops.html"}
CHAT: Final = "{{chat}}"  # in a page: where its WebSocket goes
_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".ts": "text/plain",
}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104
_ALWAYS: Final = {
    "Cache-Control": "no-cache",  # kept, and asked about each time
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MODULE: Final = {
    **_ALWAYS,
    "Access-Control-Allow-Origin": "*",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PAGE: Final = {
    **_ALWAYS,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where our own pages are, as browsers see it, and where the chat listener is from there."""

    server: Server
    ports: Mapping[str, int]  # of the listeners that run, by name

    @property
    def origins(self) -> frozenset[str]:
        """The origins from which our pages may connect, as agents only."""
        if self.server.public_http is not None:
            return frozenset([self.server.public_http])
        host, port = self.server.http.host, self._port("http")
        hosts = _LOOPBACK if host in (*_EVERYWHERE, *_LOOPBACK) else (host,)
        return frozenset(f"http://{Address(host, port)}".removesuffix(":80") for host in hosts)

    def chat(self, origin: str) -> str:
        """The chat listener's ws(s) origin, for a page of `origin`."""
        server = self.server
        if server.public_chat is not None:
            return server.public_chat
        if server.public_http is not None:  # a proxy that takes /v1/chat and /v1/agent to it
            return server.public_http.replace("http", "ws", 1)
        host = server.chat.host
        if host in _EVERYWHERE:
            host = urlsplit(origin).hostname or "127.0.0.1"
        return f"ws://{Address(host, self._port('chat'))}"

    def _port(self, name: str) -> int:
        address: Address = getattr(self.server, name)
        return self.ports.get(name, address.port)


class WebPages:
    """The routes of `/web/…` and of the pages."""

    def __init__(self, places: Places, directory: Path = HERE) -> None:
        self._places = places
        self._files = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.suffix in _TYPES and path.is_file()
        }

    def routes(self) -> Iterator[web.RouteDef]:
        """For the HTTP listener."""
        yield web.get("/web/{file:.+}", self.module)
        for path, name in PAGES.items():
            if name in self._files:
                yield web.get(path, self.page)
                yield web.get(f"{path}/", _without_slash)

    async def module(self, request: web.Request) -> web.StreamResponse:
        """A script, a style or a picture; any page may import it."""
        name = request.match_info["file"]
        body = self._files.get(name)
        if body is None or name.endswith(".html"):
            raise FrameError(ErrorCode.NOT_FOUND, "there is no such file")
        return _answer(request, name, body, _MODULE)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """One of our own pages, told where the chat listener is."""
        places = self._places
        origin = places.server.public_http or f"http://{request.host}"
        if origin not in places.origins:
            known = " or ".join(sorted(places.origins))
            told = (
                f"This page can be used at {known} only. To use it here, set "
                f'server.public_http to "{origin}" (or to https://… behind a proxy) '
                "in the configuration and restart.\n"
            )
            return web.Response(
                status=421,
                body=told.encode(errors="replace"),  # a Host may be no UTF-8
                content_type="text/plain",
                charset="utf-8",
                headers=_ALWAYS,
            )
        chat = places.chat(origin)
        name = PAGES[request.path]
        body = self._files[name].replace(CHAT.encode(), html.escape(chat).encode())
        return _answer(request, name, body, {**_PAGE, "Content-Security-Policy": _policy(chat)})


async def _without_slash(request: web.Request) -> web.Response:
    name = request.path.rstrip("/").rpartition("/")[2]
    return web.Response(status=308, headers={**_ALWAYS, "Location": f"../{name}"})


def _policy(chat: str) -> str:
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {chat}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _answer(
    request: web.Request, name: str, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    tag = ETag(sha256(body).hexdigest()[:32], is_weak=True)  # weak: it may be compressed
    vary = {"Vary": "Accept-Encoding"}
    asked = request.if_none_match or ()
    if any(given.value in (tag.value, "*") for given in asked):
        answer = web.Response(status=304, headers={**headers, **vary})
    else:
        answer = web.Response(
            body=body,
            content_type=_TYPES[Path(name).suffix],
            charset="utf-8",
            headers={**headers, **vary},
        )
        answer.enable_compression()
    answer.etag = tag
    return answer
