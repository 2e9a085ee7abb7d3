"""Android, by FCM's HTTP v1 API. https://firebase.google.com/docs/cloud-messaging/send/v1-api

The access token comes from a service account by `google-auth`; the call itself is one POST.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2.service_account import Credentials

from examples.customer_backend.sending import Fate, Notification, Outcome
from examples.customer_backend.tokens import Android

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Fcm:
    """Sends to the project of one service account. `url` is FCM's, or a fake one's in a test."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        service_account: Path,
        url: str = "https://fcm.googleapis.com",
    ) -> None:
        self._http = http
        read: Callable[..., Credentials] = Credentials.from_service_account_file
        self._credentials = read(service_account, scopes=[SCOPE])
        self._url = f"{url}/v1/projects/{self._credentials.project_id}/messages:send"
        self._renewing = asyncio.Lock()

    async def send(self, address: Android, notification: Notification) -> Outcome:
        try:
            status, headers, told = await self._post(message(address, notification))
            if status == 401:  # revoked early: once with a fresh one
                self._credentials.token = None
                status, headers, told = await self._post(message(address, notification))
        except (OSError, aiohttp.ClientError, TimeoutError, GoogleAuthError) as error:
            return Outcome(Fate.LATER, f"FCM: {type(error).__name__}")
        return outcome(status, headers.get("Retry-After"), told)

    async def _post(self, body: dict[str, Any]) -> tuple[int, Any, Any]:
        bearer = {"Authorization": f"Bearer {await self._access_token()}"}
        async with self._http.post(
            self._url, json=body, headers=bearer, timeout=TIMEOUT, allow_redirects=False
        ) as answer:
            try:
                return answer.status, answer.headers, await answer.json(content_type=None)
            except ValueError:
                return answer.status, answer.headers, None

    async def _access_token(self) -> str:
        """A token that is good for a while yet. google-auth asks for one with `requests`."""
        async with self._renewing:
            if not self._credentials.valid:
                await asyncio.to_thread(self._credentials.refresh, Request())
            return str(self._credentials.token)


def message(address: Android, notification: Notification) -> dict[str, Any]:
    """Our notification as FCM wants it. The values of `data` are texts."""
    payload = notification.payload
    data = {
        "ringback": json.dumps(payload["ringback"]),
        "UnreadMessages": str(payload["UnreadMessages"]),
        "isLiveChat": json.dumps(payload["isLiveChat"]),
        "badgeSeq": str(payload["badgeSeq"]),
    }
    android: dict[str, Any] = {"ttl": f"{notification.seconds_left}s"}
    shown: dict[str, Any] = {}
    if notification.silent:
        android["priority"] = "NORMAL"
    else:
        shown = {"notification": dict(notification.alert)}
        # The same tag again takes the place of the first: a double that we cannot know of.
        same = {"tag": notification.id, "sound": "default"}
        android |= {"priority": "HIGH", "notification": same}
        if "badge" in payload["aps"]:
            android["notification"]["notification_count"] = payload["aps"]["badge"]
    return {"message": {"token": address.token, "data": data, "android": android, **shown}}


def outcome(status: int, retry_after: str | None, told: Any) -> Outcome:
    """What FCM's answer means. https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode"""
    code = _error_code(told)
    why = f"FCM: {status} {code}"
    if status == 200:
        return Outcome(Fate.SENT, why)
    if code == "UNREGISTERED" or (code == "INVALID_ARGUMENT" and _is_about_the_token(told)):
        return Outcome(Fate.DEAD, why)
    if status in (400, 413):
        return Outcome(Fate.REFUSED, why)
    # 401, 403 and 404 of another kind are a wrong setting of ours: no token is to blame for it.
    wait = int(retry_after) if retry_after and retry_after.isdecimal() else None
    return Outcome(Fate.LATER, why, wait)


def _error(told: Any) -> dict[str, Any]:
    error = told.get("error") if isinstance(told, dict) else None
    return error if isinstance(error, dict) else {}


def _error_code(told: Any) -> str:
    error = _error(told)
    codes = [each["errorCode"] for each in error.get("details", []) if "errorCode" in each]
    return str(codes[0] if codes else error.get("status", ""))


def _is_about_the_token(told: Any) -> bool:
    return "registration token" in str(_error(told).get("message", ""))
