"""Our own form: everything that is known of a ring, under the names of the protocol.

For a backend that is written anew. `device` says where to; the rest is the notification itself,
and how APNs and FCM should treat it (priority, collapse id, expiry).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from push.adapters.form import (
    Adapter,
    Request,
    collapse_id,
    json_request,
    known,
    no_options,
    priority,
    rfc3339,
)
from push.ring import BADGE, Endpoint, Ring, Target


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter; it has no options."""
    no_options(options)
    return Adapter(_request)


def _request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
    silent = ring.kind is BADGE
    words = {} if silent else known({"title": ring.title, "text": ring.text})
    where = {
        "token": target.token,
        "platform": ring.platform,
        "app": ring.app,
        "environment": ring.environment,
        "locale": ring.locale,
        "installation": ring.installation,
    }
    return json_request(
        {
            "id": ring.id,
            "kind": str(ring.kind),
            "tenant": endpoint.tenant,
            "customer": ring.customer,
            "seq": ring.seq,
            **words,
            "unread": ring.unread,
            "badge_seq": ring.badge_seq,
            "live": ring.live,
            "priority": priority(ring),
            "collapse_id": collapse_id(ring),
            "expires_at": rfc3339(ring.expires_at),
            "device": known(where),
        }
    )
