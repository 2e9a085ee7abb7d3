"""The form of LivePerson's push proxy, for a backend that was written for it.

Its three push services have three shapes, chosen by the device's platform. What we do not have is
said by options (the brand) or stands for it: the customer is the conversation and its dialog.
Answers differ in one thing: 403 says that this device cannot be rung, not that we may not call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from push import verdicts
from push.adapters.form import Adapter, Request, Words, json_request, known, options_as
from push.ring import BADGE, Endpoint, Ring, Target, Verdict, VerdictKind
from push.verdicts import Answer, Failure

_SERVICES: Final = {"ios": (1, "apn"), "android": (2, "fcm"), "huawei": (3, "huawei")}


class Options(Struct, frozen=True, kw_only=True):
    """`brand_id` is the account's number; `originator_id` is the brand's unless given."""

    brand_id: Words
    originator_id: Words = ""
    backend_service: Words = "ams"


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter of one brand. Raises `OptionError`."""
    ours = options_as(Options, options)

    def request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
        return json_request(_body(ours, ring, target))

    return Adapter(request, _verdict)


def _body(ours: Options, ring: Ring, target: Target) -> dict[str, Any]:
    service, name = _SERVICES.get((ring.platform or "").lower(), _SERVICES["ios"])
    text = None if ring.kind is BADGE else ring.text or ""
    shared = {
        "backendService": ours.backend_service,
        "conversationId": ring.customer,
        "dialogId": ring.customer,
        "originatorId": ours.originator_id or ours.brand_id,
        "brandId": ours.brand_id,
        "badge": ring.unread,
        "sequence": ring.seq,
    }
    device = {"push-service": service, "device-token": target.token}
    if name == "apn":
        alert = {"alert": text} if text else {}
        aps = {"content-available": 1} if text is None else {**alert, "sound": "default"}
        return {"aps": aps, **device, **shared, "notificationType": name}
    data = {**known({"message": text}), "payload": shared}
    return {"data": data, **device, "notificationType": name}


def _verdict(outcome: Answer | Failure, token: str, now: float) -> Verdict:
    verdict = verdicts.judge(outcome, token, now)
    if verdict.status == 403 and verdict.kind is VerdictKind.MISCONFIGURED:
        return Verdict(VerdictKind.TOKEN_DEAD, verdict.reason, verdict.status)
    return verdict
