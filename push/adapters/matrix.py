"""The Matrix push gateway API, so that Sygnal, or any other such gateway, can be the backend.

https://spec.matrix.org/latest/push-gateway-api/. The endpoint ends in /_matrix/push/v1/notify.
The ring is the event and the customer is the room. A ring that only corrects the number is a
count-only notification, which carries no event. The answer names dead tokens in `rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from push.adapters.form import Adapter, Request, Words, json_request, known, options_as
from push.ring import BADGE, Endpoint, Ring, Target

AppId = Annotated[
    str, Meta(min_length=1, max_length=64, description='an app id such as "com.acme.app"')
]


class Options(Struct, frozen=True, kw_only=True):
    """`app_id` is what the gateway knows an app by, for devices that name no `app`."""

    app_id: AppId
    sender: Words = "agent"


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter of one app. Raises `OptionError`."""
    ours = options_as(Options, options)

    def request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
        return json_request({"notification": _notification(ours, ring, target, endpoint)})

    return Adapter(request)


def _notification(ours: Options, ring: Ring, target: Target, endpoint: Endpoint) -> dict[str, Any]:
    silent = ring.kind is BADGE
    device: dict[str, Any] = {"app_id": ring.app or ours.app_id, "pushkey": target.token}
    if not silent:
        device["tweaks"] = {"sound": "default"}
    rest = {
        "prio": "low" if silent else "high",
        "counts": {"unread": ring.unread},
        "devices": [device],
    }
    if silent:
        return rest
    event = {
        "id": ring.id,
        "event_id": f"${ring.id}",
        "room_id": f"!{ring.customer}:{endpoint.tenant}",
        "type": "m.room.message",
        "sender": f"@{ours.sender}:{endpoint.tenant}",
        "sender_display_name": ring.title,
        "content": {"msgtype": "m.text", "body": ring.text or ""},
    }
    return {**known(event), **rest}
