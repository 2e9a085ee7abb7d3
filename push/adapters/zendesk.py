"""The form of Zendesk's Support SDK webhook, for a backend that was written for it.

Zendesk names all devices of a user in one call. We claim, ring and settle each device by itself
(one ring in hand per device, each with its own id and verdict), so `devices` has one entry. The
form has no number for the icon, so there is no silent ring either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from push.adapters.form import Adapter, Request, json_request, known, no_options
from push.ring import Endpoint, Ring, Target


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter; it has no options."""
    no_options(options)
    return Adapter(_request, silent=False)


def _request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
    kind = "android" if (ring.platform or "").lower() == "android" else "ios"
    words = {"title": ring.title, "body": ring.text, "ticket_id": ring.customer}
    return json_request(
        {
            "devices": [{"identifier": target.token, "type": kind}],
            "notification": known(words),
        }
    )
