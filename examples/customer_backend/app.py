"""The request that Ringback makes, and the answer to it, as docs/push-contract.md asks for it."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from examples.customer_backend import tokens
from examples.customer_backend.memory import Memory
from examples.customer_backend.sending import Fate, Notification, Outcome, Sender

PAGE = Path(__file__).parent / "page"
_log = logging.getLogger("customer_backend")


class CustomerBackend:
    """One company's backend. `senders` are by the kind of token, such as `tokens.Ios`."""

    def __init__(
        self,
        auth_token: str,
        signing_secrets: Sequence[str],
        memory: Memory,
        senders: Mapping[type, Sender],
        vapid_key: str | None = None,
    ) -> None:
        self._auth_token = auth_token.encode()
        self._webhooks = [Webhook(secret) for secret in signing_secrets]  # two while it is changed
        self._memory = memory
        self._senders = senders
        self._vapid_key = vapid_key
        self._sending: dict[str, asyncio.Task[Outcome]] = {}

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/ring", self.ring)
        app.router.add_get("/vapid-key", self.vapid_key)
        app.router.add_get("/", self.page)
        app.router.add_get("/worker.js", self.page)
        return app

    async def ring(self, request: web.Request) -> web.Response:
        """What Ringback calls: one POST for one device and ring."""
        order = self._from_ringback(request.headers, await request.read())
        if order is None:
            return web.Response(status=401)
        id = request.headers["webhook-id"]
        if self._memory.done(id) is None:
            outcome = await self._once(id, order)
            if outcome.fate is Fate.LATER:
                headers = {}
                if outcome.retry_after is not None:
                    headers["Retry-After"] = str(outcome.retry_after)
                return web.Response(status=503, headers=headers)
            if outcome.fate is Fate.REFUSED:
                return web.Response(status=422)
        rang, dead = self._memory.done(id) or (0, False)
        if dead:
            return web.json_response({"rejected": [order["deviceToken"]]}, status=410)
        return web.Response(headers={"ringback-rang": str(rang)})

    def _from_ringback(self, headers: Mapping[str, str], raw: bytes) -> dict[str, Any] | None:
        """The order, if it is really Ringback's: signed over the raw body, and not a recording."""
        for webhook in self._webhooks:
            try:
                webhook.verify(raw, dict(headers))
            except WebhookVerificationError:
                continue
            order: dict[str, Any] = json.loads(raw)
            same = hmac.compare_digest(order["authToken"].encode(), self._auth_token)
            return order if same else None
        return None

    async def _once(self, id: str, order: dict[str, Any]) -> Outcome:
        """Send it, unless that is under way: who asks twice at a time waits for the same sending.

        It goes on when the caller hangs up, and its end is noted before anybody is told. If this
        process dies in between, the ring comes again and is sent again, under the same id: APNs,
        FCM and browsers then show it in the place of the first.
        """
        sending = self._sending.get(id)
        if sending is None:
            sending = asyncio.create_task(self._send_on(id, order))
            self._sending[id] = sending
            sending.add_done_callback(lambda _: self._sending.pop(id))
        return await asyncio.shield(sending)

    async def _send_on(self, id: str, order: dict[str, Any]) -> Outcome:
        notification = Notification.of(order)
        outcome = await self._send(order["deviceToken"], order, notification)
        _log.info("ring %s: %s %s", id, outcome.fate.name.lower(), outcome.why)
        if outcome.fate in (Fate.SENT, Fate.DEAD):
            self._memory.finish(
                id, rang=int(outcome is not _DROPPED), dead=outcome.fate is Fate.DEAD
            )
        return outcome

    async def _send(self, token: str, order: dict[str, Any], notification: Notification) -> Outcome:
        try:
            address = tokens.read(token)
        except tokens.NotOurs:
            return Outcome(Fate.DEAD, "no token of ours")
        if not notification.seconds_left:
            return _DROPPED
        payload = notification.payload
        if self._memory.is_late(token, order["notification"]["customer"], payload["badgeSeq"]):
            # Requests overtake each other. What is late must not put an old number on the icon.
            if notification.silent:
                return _DROPPED
            aps = {name: value for name, value in payload["aps"].items() if name != "badge"}
            notification = Notification(
                notification.id, payload | {"aps": aps}, notification.expires_at
            )
        sender = self._senders.get(type(address))
        if sender is None:  # our own setting is missing: the token is not to blame
            return Outcome(Fate.LATER, f"{type(address).__name__} is not set up")
        return await sender.send(address, notification)

    async def page(self, request: web.Request) -> web.FileResponse:
        """A customer's app, as small as can be."""
        return web.FileResponse(PAGE / (request.path.strip("/") or "index.html"))

    async def vapid_key(self, request: web.Request) -> web.Response:
        """What the page needs to subscribe."""
        if self._vapid_key is None:
            return web.Response(status=404)
        return web.Response(text=self._vapid_key)


_DROPPED = Outcome(Fate.SENT, "dropped: late or expired")
