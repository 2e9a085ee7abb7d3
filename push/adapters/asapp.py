"""The default form, from ASAPP's push endpoint: docs/push-contract.md describes it.

Its `payload` is what reaches the app: an APNs payload with our own keys beside `aps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from push.adapters.form import Adapter, Request, json_request, known, no_options, rfc3339
from push.ring import BADGE, Endpoint, Ring, Target


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter; it has no options."""
    no_options(options)
    return Adapter(_request)


def _request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
    identity = {
        "id": ring.id,
        "kind": str(ring.kind),
        "customer": ring.customer,
        "seq": ring.seq,
    }
    return json_request(
        {
            "authToken": endpoint.auth_token,
            "deviceToken": target.token,
            "payload": {
                "aps": _aps(ring),
                "UnreadMessages": ring.unread,
                "isLiveChat": ring.live,
                "badgeSeq": ring.badge_seq,
                "ringback": identity,
            },
            "notification": {
                **identity,
                **known({"platform": ring.platform}),
                "expiresAt": rfc3339(ring.expires_at),
            },
        }
    )


def _aps(ring: Ring) -> dict[str, Any]:
    if ring.kind is BADGE:
        return {"badge": ring.unread, "content-available": 1}
    alert = known({"title": ring.title, "body": ring.text})
    shown = {"badge": ring.unread, "sound": "default"}
    return {"alert": alert, **shown} if alert else shown
