"""iOS, by APNs over HTTP/2 with a signing key (.p8), by `aioapns`.

https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from dataclasses import dataclass
from pathlib import Path

from aioapns import APNs, NotificationRequest, PushType
from aioapns.common import NotificationResult
from aioapns.connection import APNsTLSClientProtocol
from aioapns.exceptions import ConnectionClosed, MaxAttemptsExceeded

from examples.customer_backend.sending import Fate, Notification, Outcome
from examples.customer_backend.tokens import Ios

PATIENCE = 10.0  # seconds; Ringback hangs up after 15 s
_UNREACHED = (OSError, ConnectionClosed, MaxAttemptsExceeded)
_DEAD = frozenset({"Unregistered", "ExpiredToken", "BadDeviceToken"})


@dataclass(frozen=True, slots=True)
class Key:
    """What Apple's developer site gives; `topic` is the app's bundle id."""

    path: Path
    id: str
    team: str
    topic: str


class Apns:
    """Sends to one app, in production and in the sandbox.

    `server` is a fake one's host and port in a test, and `tls` whom to trust there.
    """

    def __init__(
        self,
        key: Key,
        *,
        server: tuple[str, int] | None = None,
        tls: ssl.SSLContext | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._key = key
        self._server = server
        self._tls = tls
        self._clients = {sandbox: self._client(sandbox) for sandbox in (False, True)}

    def _client(self, sandbox: bool) -> APNs:
        client = APNs(
            key=self._key.path.read_text(),
            key_id=self._key.id,
            team_id=self._key.team,
            topic=self._key.topic,
            use_sandbox=sandbox,
            ssl_context=self._tls,
            max_connection_attempts=1,  # Ringback asks again; we need not
            err_func=_no_log,
        )
        if self._server is not None:
            host, port = self._server
            names = {"APNS_SERVER": host, "APNS_PORT": port}
            client.pool.protocol_class = type("Fake", (APNsTLSClientProtocol,), names)
        return client

    def close(self) -> None:
        for client in self._clients.values():
            client.pool.close()

    async def send(self, address: Ios, notification: Notification) -> Outcome:
        # Apple shows a second one of the same collapse id in the place of the first.
        request = NotificationRequest(
            device_token=address.token,
            message=notification.payload,
            notification_id=str(uuid.uuid5(uuid.NAMESPACE_OID, notification.id)),
            time_to_live=notification.seconds_left,
            priority=5 if notification.silent else 10,
            push_type=PushType.BACKGROUND if notification.silent else PushType.ALERT,
            collapse_key=None if notification.silent else notification.id[:64],
        )
        # aioapns waits for ever, and its connection breaks when a request is cancelled that Apple
        # answers later: so we leave, and it goes on.
        sending = asyncio.create_task(self._clients[address.sandbox].send_notification(request))
        await asyncio.wait({sending}, timeout=self._patience)
        if not sending.done():
            sending.add_done_callback(_look_away)
            return Outcome(Fate.LATER, "APNs: no answer")
        try:
            return outcome(sending.result())
        except _UNREACHED as error:
            return Outcome(Fate.LATER, f"APNs: {type(error).__name__}")


def outcome(result: NotificationResult) -> Outcome:
    """What Apple's answer means."""
    why = f"APNs: {result.status} {result.description or ''}"
    if result.is_successful:
        return Outcome(Fate.SENT, why)
    if result.status == "410" or result.description in _DEAD:
        return Outcome(Fate.DEAD, why)
    if result.description in ("PayloadTooLarge", "PayloadEmpty"):
        return Outcome(Fate.REFUSED, why)
    # An expired key or a wrong topic is a setting of ours: no token is to blame for it.
    return Outcome(Fate.LATER, why)


def _look_away(sending: asyncio.Task[NotificationResult]) -> None:
    """Nobody waits for this any more; what came of it is asked for, or asyncio would complain."""
    if not sending.cancelled():
        sending.exception()


async def _no_log(request: NotificationRequest, result: NotificationResult) -> None:
    """The outcome is logged by who sends."""
