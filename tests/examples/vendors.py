"""FCM, APNs and a browser's push service, as far as a customer backend sees of them.

Real sockets, TLS and HTTP/2 on loopback. Each keeps what it was sent and answers from a script;
with none left it accepts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import http_ece
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from examples.customer_backend import tokens

PROJECT = "acme-app"
GONE = "an-app-that-is-gone"  # to FCM
GONE_IOS = "dead" * 16


@dataclass
class Sent:
    """One notification as it arrived at the vendor; the names of headers in lower case."""

    to: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Vendor:
    """What arrived, and what is answered: (status, body, headers)."""

    url: str = ""
    sent: list[Sent] = field(default_factory=list)
    answers: deque[tuple[int, Any, dict[str, str]]] = field(default_factory=deque)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, it answers nobody."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    answered_late: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        self.answers.append((status, body, headers))


# FCM


@cache
def _service_key() -> str:
    return _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def service_account(directory: Path, token_uri: str) -> Path:
    """A service account's file, as Google gives one out."""
    path = directory / "service-account.json"
    told = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "k1",
        "private_key": _service_key(),
        "client_email": f"push@{PROJECT}.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(told))
    return path


def fcm_error(status: int, code: str, message: str = "") -> dict[str, Any]:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]
    return {"error": {"code": status, "message": message, "details": details}}


@asynccontextmanager
async def fcm() -> AsyncIterator[Vendor]:
    it, given = Vendor(), 0

    async def token(request: web.Request) -> web.Response:
        nonlocal given
        assert "assertion" in await request.post()
        given += 1
        return web.json_response({"access_token": f"access-{given}", "expires_in": 3600})

    async def send(request: web.Request) -> web.Response:
        it.reached.set()
        await it.may_answer.wait()
        body = (await request.json())["message"]
        it.sent.append(Sent(body["token"], _lower(request.headers), body))
        if it.answers:
            status, told, headers = it.answers.popleft()
            return web.json_response(told, status=status, headers=headers)
        if body["token"] == GONE:
            return web.json_response(fcm_error(404, "UNREGISTERED"), status=404)
        return web.json_response({"name": f"projects/{PROJECT}/messages/1"})

    app = web.Application()
    app.router.add_post("/token", token)
    app.router.add_post(f"/v1/projects/{PROJECT}/messages:send", send)
    async with _served(app, it):
        yield it


# A browser and its push service


@dataclass
class Browser:
    """One browser's subscription, and the keys with which it reads what it gets."""

    endpoint: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    secret: bytes = field(default_factory=lambda: os.urandom(16))

    @property
    def subscription(self) -> dict[str, Any]:
        """What a page gets from `PushManager.subscribe`."""
        raw = self.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        keys = {"p256dh": _base64url(raw), "auth": _base64url(self.secret)}
        return {"endpoint": self.endpoint, "keys": keys}

    @property
    def token(self) -> str:
        return tokens.write(platform="web", subscription=self.subscription)

    def read(self, raw: bytes) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            http_ece.decrypt(raw, private_key=self.key, auth_secret=self.secret)
        )
        return told


@asynccontextmanager
async def push_service(authority: trustme.CA) -> AsyncIterator[tuple[Vendor, Browser]]:
    it = Vendor()

    async def send(request: web.Request) -> web.Response:
        raw = await request.read()
        if it.answers:
            status, _, headers = it.answers.popleft()
            return web.Response(status=status, headers=headers)
        it.sent.append(Sent(request.path, _lower(request.headers), browser.read(raw)))
        return web.Response(status=201)

    app = web.Application()
    app.router.add_post("/push/1", send)
    async with _served(app, it, server_tls(authority)):
        browser = Browser(f"{it.url}/push/1")
        yield it, browser


# APNs


@dataclass
class _Stream:
    headers: dict[str, str]
    body: bytes = b""


class _Http2(asyncio.Protocol):
    """One connection of an app's backend to Apple."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, _Stream] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self._streams[event.stream_id] = _Stream(dict(event.headers))  # type: ignore[arg-type]
            elif isinstance(event, DataReceived):
                self._streams[event.stream_id].body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self._answer(event.stream_id, self._streams.pop(event.stream_id))
        self._flush()

    def _answer(self, id: int, stream: _Stream) -> None:
        to = stream.headers[":path"].rpartition("/")[2]
        self._vendor.sent.append(Sent(to, stream.headers, json.loads(stream.body)))
        self._vendor.reached.set()
        if not self._vendor.may_answer.is_set():
            self._late = asyncio.create_task(self._answer_later(id, stream))
            return
        status, told, _ = self._vendor.answers.popleft() if self._vendor.answers else _GOOD
        if to == GONE_IOS:
            status, told = 410, {"reason": "Unregistered", "timestamp": 1}
        headers = [(":status", str(status)), ("apns-id", stream.headers["apns-id"])]
        self._h2.send_headers(id, headers, end_stream=told is None)
        if told is not None:
            self._h2.send_data(id, json.dumps(told).encode(), end_stream=True)

    async def _answer_later(self, id: int, stream: _Stream) -> None:
        await self._vendor.may_answer.wait()
        headers = [(":status", "200"), ("apns-id", stream.headers["apns-id"])]
        self._h2.send_headers(id, headers, end_stream=True)
        self._flush()
        self._vendor.answered_late.set()

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())


_GOOD: tuple[int, Any, dict[str, str]] = (200, None, {})


def apns_key(directory: Path) -> Path:
    """A signing key as Apple gives one out."""
    path = directory / "AuthKey_K1.p8"
    path.write_text(_pem(ec.generate_private_key(ec.SECP256R1())))
    return path


@asynccontextmanager
async def apns(authority: trustme.CA) -> AsyncIterator[Vendor]:
    it = Vendor()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Http2(it), "127.0.0.1", 0, ssl=server_tls(authority)
    )
    it.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()


# What they share


def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def _served(
    app: web.Application, it: Vendor, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    scheme = "http" if tls is None else "https"
    it.url = f"{scheme}://localhost:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
