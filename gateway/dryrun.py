"""A dry run: what a policy would have decided about one message, for each device, from the records.

Gathers the facts that `gateway.policies` judges. The moment of judging is the recorded one wherever
there is one: the look that rang the device or let it be, else the fan-out, else the due time that
was set at the commit; only `unread_after` has a moment of its own. What counts as known then is
told by the order in which it was committed, not by clocks, which may jump.

What is not recorded is not guessed: a customer who left the chat after the moment of judging, or
an app that never told its installation, cannot be considered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gateway.delivery import WISHES, Action, Reason
from gateway.policies import UNREAD_AFTER, Facts, Policy, decide
from gateway.protocol import Route
from gateway.why import own_events
from push.backends import Backend, choose
from storage.records import Device, DeviceState, Outcome, fingerprint
from storage.store import Told

_GIVEN_UP = {DeviceState.DEAD: Reason.TOKEN_DEAD, DeviceState.QUARANTINED: Reason.QUARANTINED}
_LET_BE = {*_GIVEN_UP.values(), *WISHES}
"""Reasons for which a device is not rung under any policy."""


class _Fact(NamedTuple):
    """An event with its place in the order of commits."""

    place: int
    at: float
    event: str
    detail: dict[str, Any]


class _Target(NamedTuple):
    """A device that a policy might ring: registered now, or looked at then."""

    installation: str | None
    fingerprint: str
    device: Device | None
    looks: list[_Fact]

    @property
    def judging(self) -> _Fact | None:
        """The look that rang it for the message, else the last one that let it be."""
        rung = [look for look in self.looks if look.detail["action"] == Action.RING]
        let_be = [look for look in self.looks if look.detail["action"] == Action.SKIP]
        return rung[0] if rung else let_be[-1] if let_be else None


def dry_run(
    told: Told,
    policy: Policy,
    *,
    now: float,
    backends: tuple[Backend, ...],
    after: float | None = None,
) -> dict[str, Any]:
    """What `policy` would have decided: {`name`, `after?`, `devices`: [{`device`, …}]}.

    `now` in epoch seconds; `backends` are the tenant's; `after` is for `unread_after`. No device,
    no entry: then there is nobody to ring under any policy.
    """
    after = UNREAD_AFTER if after is None else float(after)
    answer: dict[str, Any] = {"name": policy.value}
    if policy is Policy.UNREAD_AFTER:
        answer["after"] = after
    history = [_Fact(n, e.at, e.event, e.details) for n, e in enumerate(own_events(told))]
    answer["devices"] = [
        _entry(told, history, target, policy, now, backends, after)
        for target in (_targets(told, history) if told.outcome is not None else ())
    ]
    return answer


def _targets(told: Told, history: list[_Fact]) -> Iterator[_Target]:
    """The devices registered now, then those that were looked at and are gone."""
    looks: dict[str, list[_Fact]] = {}
    for fact in history:
        if fact.event == "look":
            looks.setdefault(_name(fact), []).append(fact)
    for device in told.conversation.devices:
        token = fingerprint(device.token)
        mine = sorted(looks.pop(device.installation, []) + looks.pop(token, []))
        yield _Target(device.installation, token, device, mine)
    for gone in looks.values():
        detail = gone[-1].detail
        yield _Target(detail.get("installation"), detail["device"], None, gone)


def _name(look: _Fact) -> str:
    """Whose look it was; those recorded by early versions name only the token's fingerprint."""
    return str(look.detail.get("installation", look.detail["device"]))


def _entry(
    told: Told,
    history: list[_Fact],
    target: _Target,
    policy: Policy,
    now: float,
    backends: tuple[Backend, ...],
    after: float,
) -> dict[str, Any]:
    if not _has_endpoint(told, target, backends):
        facts = Facts(endpoint=False)
    elif policy is Policy.UNREAD_AFTER:
        facts = _later(told, history, target, told.message.at + after, now)
    else:
        facts = _facts(told, history, target, now)
    decision = decide(policy, facts)
    entry: dict[str, Any] = {"device": target.fingerprint}
    if target.installation is not None:
        entry["installation"] = target.installation
    return entry | {"action": decision.action.value, "reason": decision.reason.value}


def _has_endpoint(told: Told, target: _Target, backends: tuple[Backend, ...]) -> bool:
    """As it was when the device was looked at; what is configured since changes nothing of that."""
    judging, device = target.judging, target.device
    if judging is not None and judging.detail["action"] == Action.RING:
        return True
    recorded = told.reason if judging is None else judging.detail["reason"]
    if recorded == Reason.NO_ENDPOINT or not backends:
        return False
    return device is None or choose(backends, device.environment, device.app) is not None


def _facts(told: Told, history: list[_Fact], target: _Target, now: float) -> Facts:
    """What was known when the delivery rule judged this device."""
    message, look = told.message, target.judging
    fanned = next((fact for fact in reversed(history) if fact.event == "due"), None)
    acked = next((fact for fact in history if fact.event == "acked"), None)
    due = message.due_at or message.at
    if look is not None:
        known = [fact for fact in history if fact.place < look.place]
        at, judged = look.at, True
    elif _owes(told, target) or told.outcome is Outcome.PENDING:
        known, at, judged = history, now, False
    else:
        last = max((fact.place for fact in (fanned, acked) if fact is not None), default=-1)
        known = [fact for fact in history if fact.place <= last or fact.at <= due]
        at = fanned.at if fanned is not None else due
        judged = fanned is not None or now >= due
    expired = message.has_expired(at)
    if look is None and judged:
        expired = expired or told.outcome is Outcome.EXPIRED
    return Facts(
        unringable=_unringable(target, fanned, at),
        judged=judged,
        in_chat=_in_chat(told, look, fanned),
        acked=any(fact.event == "acked" for fact in known),
        acked_here=_acked_here(known, target),
        read=any(fact.event == "read" for fact in known),
        expired=expired,
    )


def _later(told: Told, history: list[_Fact], target: _Target, at: float, now: float) -> Facts:
    """What was known at a moment of the policy's own."""
    fanned = next((fact for fact in history if fact.event == "due" and fact.at <= at), None)
    return Facts(
        unringable=_unringable(target, fanned, at),
        judged=now >= at,
        in_chat=told.message.route == Route.SOCKET,
        read=any(fact.event == "read" and fact.at <= at for fact in history),
        expired=told.message.has_expired(at),
    )


def _owes(told: Told, target: _Target) -> bool:
    """A look at the device for this message is still to come."""
    device = target.device
    return device is not None and device.owes and device.owed_ord >= told.message.ord > 0


def _acked_here(known: list[_Fact], target: _Target) -> bool:
    return target.installation is not None and any(
        fact.event in ("acked", "acked_too", "read")
        and fact.detail.get("installation") == target.installation
        for fact in known
    )


def _in_chat(told: Told, look: _Fact | None, fanned: _Fact | None) -> bool:
    if look is not None and look.detail["action"] == Action.RING:
        return bool(look.detail["reason"] == Reason.ACK_TIMEOUT)
    if fanned is not None:
        return bool(fanned.detail.get("reason") == Reason.ACK_TIMEOUT)
    return told.message.route == Route.SOCKET


def _unringable(target: _Target, fanned: _Fact | None, at: float) -> Reason | None:
    """Why the device could not be rung at that moment, as far as that is recorded."""
    if any(look.detail["action"] == Action.RING for look in target.looks):
        return None
    if target.judging is not None:
        given_up = target.judging.detail["reason"]
        return Reason(given_up) if given_up in _LET_BE else None
    device = target.device
    if device is None:
        return Reason.NO_DEVICE
    if not device.live and (device.state_at or 0.0) <= at:
        return _GIVEN_UP[device.state]
    # Whoever was registered at a fan-out was looked at, or acknowledged before the look.
    return Reason.NO_DEVICE if fanned is not None and device.registered_at > fanned.at else None
