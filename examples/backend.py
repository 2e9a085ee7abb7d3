"""A customer backend: the company's own server that Ringback asks to ring a phone.

It shows what docs/push-contract.md asks of one, and uses nothing of Ringback's code: check the
signature and the token, drop what was seen before, send on to APNs or FCM, answer 2xx, or say
that the device token is dead. What a real one would keep in its database is in memory here, and
instead of APNs there is the screen: a line of JSON on stdout for all that happens. (A real one
would not print message texts; device tokens are shown as fingerprints only, as Ringback does.)

    BACKEND_AUTH_TOKEN=… BACKEND_SIGNING_SECRET=whsec_… python -m examples.backend

For trying things out, `POST /control` changes how it behaves from then on:

    {"hold": true}            rings wait for their answer until {"hold": false}
    {"delay": 1.5}            every answer takes that many seconds
    {"dead": ["<token>"]}     these apps were uninstalled: their device tokens are rejected
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import time
from typing import Any

from aiohttp import web

TOLERANCE = 300  # seconds; an older request may be a recorded one, played again


class Backend:
    """One tenant's backend."""

    def __init__(self, auth_token: str, signing_secret: str) -> None:
        self._auth_token = auth_token
        self._key = base64.b64decode(signing_secret.removeprefix("whsec_"))
        # By ring id. A real backend keeps these for as long as rings live: 24 h and a little.
        self._rings: dict[str, asyncio.Task[bool]] = {}
        # The highest badgeSeq sent so far, by device and customer: phones change hands.
        self._badge_seqs: dict[tuple[str, str], int] = {}
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self._delay = 0.0
        self._dead: frozenset[str] = frozenset()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/ring", self.ring)
        app.router.add_post("/control", self.control)
        return app

    async def ring(self, request: web.Request) -> web.Response:
        """What Ringback calls: one POST for one device and ring."""
        raw = await request.read()
        id = request.headers.get("webhook-id", "")
        if not self._is_signed(request, id, raw):
            return self._answer(id, 401, "the signature is wrong")
        order = json.loads(raw)
        if not hmac.compare_digest(order["authToken"].encode(), self._auth_token.encode()):
            return self._answer(id, 401, "the auth token is wrong")

        # Rings are sent at least once. The same id again is the same ring: whoever asks twice,
        # even at the same time, gets the same answer, and the phone rings once.
        sending = self._rings.get(id)
        _say("ring", ring=id, double=sending is not None, **_shown(order))
        if sending is None:
            sending = self._rings[id] = asyncio.create_task(self._send_on(order))
        try:
            delivered = await asyncio.shield(sending)
        except OSError:  # APNs is out of reach: nothing was sent, so the retry may send
            self._rings.pop(id, None)
            return self._answer(id, 503, "try again later")

        await asyncio.sleep(self._delay)
        await self._may_answer.wait()
        if not delivered:
            return self._answer(id, 410, "the device token is dead", order["deviceToken"])
        return self._answer(id, 200, "accepted")

    def _is_signed(self, request: web.Request, id: str, raw: bytes) -> bool:
        """Check a Standard Webhooks signature: over id, timestamp and the raw body."""
        timestamp = request.headers.get("webhook-timestamp", "")
        if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE:
            return False
        mac = hmac.digest(self._key, f"{id}.{timestamp}.".encode() + raw, "sha256")
        expected = "v1," + base64.b64encode(mac).decode()
        # While a secret is being changed there is a signature for each, with spaces between.
        given = request.headers.get("webhook-signature", "").split()
        return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given)

    async def _send_on(self, order: dict[str, Any]) -> bool:
        """Hand the payload to APNs or FCM; False if they say that the app is gone."""
        token, payload = order["deviceToken"], order["payload"]
        if token in self._dead:
            return False
        aps = payload["aps"]
        # Requests can overtake each other. What is late must not put an old number on the icon.
        place = (token, order["notification"]["customer"])
        if payload["badgeSeq"] < self._badge_seqs.get(place, 0):
            if "alert" not in aps:
                _say("dropped", ring=order["notification"]["id"], why="a late badge")
                return True
            aps = {name: value for name, value in aps.items() if name != "badge"}
        else:
            self._badge_seqs[place] = payload["badgeSeq"]
        return await _apns(token, payload | {"aps": aps}, order["notification"]["expiresAt"])

    async def control(self, request: web.Request) -> web.Response:
        """For trying things out; see the module's docstring."""
        wanted = json.loads(await request.read())
        self._delay = float(wanted.get("delay", self._delay))
        self._dead = frozenset(wanted.get("dead", self._dead))
        if wanted.get("hold") is True:
            self._may_answer.clear()
        elif wanted.get("hold") is False:
            self._may_answer.set()
        return web.json_response({})

    def _answer(self, id: str, status: int, why: str, dead: str | None = None) -> web.Response:
        _say("answered", ring=id, status=status, why=why)
        return web.json_response({} if dead is None else {"rejected": [dead]}, status=status)


async def _apns(token: str, payload: dict[str, Any], expires_at: str) -> bool:
    """Where a real backend talks to APNs or FCM; False for a token that they do not know."""
    return True


def _shown(order: dict[str, Any]) -> dict[str, Any]:
    """What the owner of the phone would notice of a ring, and whose it is."""
    payload, aps = order["payload"], order["payload"]["aps"]
    return {
        "device": hashlib.sha256(order["deviceToken"].encode()).hexdigest()[:12],
        "kind": payload["ringback"]["kind"],
        "customer": payload["ringback"]["customer"],
        "seq": payload["ringback"]["seq"],
        "title": aps.get("alert", {}).get("title"),
        "text": aps.get("alert", {}).get("body"),
        "badge": aps["badge"],
        "unread": payload["UnreadMessages"],
        "live": payload["isLiveChat"],
    }


def _say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)


async def main() -> None:
    """Serve until SIGTERM or SIGINT, on `BACKEND_PORT` of loopback (else any free port)."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    backend = Backend(os.environ["BACKEND_AUTH_TOKEN"], os.environ["BACKEND_SIGNING_SECRET"])
    runner = web.AppRunner(backend.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("BACKEND_PORT", "0"))).start()
    _say("ready", port=runner.addresses[0][1])
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
