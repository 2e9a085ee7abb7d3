"""What to do about a verdict, in words for whoever runs the tenant or writes its backend. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from push.ring import Verdict, VerdictKind
from push.verdicts import Failure, advice

_OF_KIND: Final[Mapping[VerdictKind, str]] = {
    VerdictKind.ACCEPTED: "the backend has taken it. If the phone stays silent, look at what the "
    "backend did with it, and at APNs, FCM or the browser",
    VerdictKind.TOKEN_DEAD: "the backend says that this device token is dead. For a real ring the "
    "registration would be disabled until the app registers again",
    VerdictKind.RETRY: "the backend could not take it now. A real ring would be tried again",
    VerdictKind.REFUSED: "the backend refuses this request. A real ring would be given up: mend "
    "what it does not like about the request, or let it answer 5xx if the fault is its own",
}
_OF_FAILURE: Final[Mapping[str, str]] = {
    Failure.CONNECT: "nothing answers at the endpoint's address and port: is the backend running, "
    "and does a firewall let this machine through?",
    Failure.CONNECT_TIMEOUT: "the connection was not made in time: is there a firewall between?",
    Failure.DNS: "the endpoint's host name does not resolve from this machine",
    Failure.RESET: "the backend, or a proxy before it, cut the connection without an answer",
    Failure.TIMEOUT: "the backend took the request and did not answer in time: answer when you "
    "have queued it, not when the phone has rung",
    Failure.BAD_HTTP: "what came back is not HTTP: is it the right port?",
    Failure.UNWRITABLE: "this ring cannot be written in the tenant's form of the request: a badge "
    "for an adapter that has none, or a template that lacks what it needs",
    Failure.MOVED: "nothing was called: the registration was another when the request was to leave",
    Failure.INTERNAL: "this is a fault of ringback, or of an adapter of your own: the line in "
    "the log above says where it broke",
}


def what_to_do(verdict: Verdict) -> str:
    """Return one sentence, without a full stop."""
    if verdict.kind is VerdictKind.MISCONFIGURED:
        return advice(verdict.reason)
    return _OF_FAILURE.get(verdict.reason) or _OF_KIND[verdict.kind]
