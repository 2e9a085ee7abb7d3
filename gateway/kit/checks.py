"""How each thing that docs/push-contract.md asks of a backend is seen from outside.

Each check is a function from a `Bench` to a `Finding`. Which there are, and what the contract says
to each, is in `gateway.kit.conformance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson
from msgspec.structs import replace as replace_fields

from gateway.kit.advice import what_to_do
from gateway.kit.bench import Bench, Finding, Result, brief, rang
from push import signing
from push.caller import Exchange, Signed
from push.ring import RingKind, VerdictKind
from push.verdicts import Answer

SLOW: Final = 5_000.0  # ms; from here on an answer is in danger of the timeout
PAUSE: Final = 0.3  # seconds in the middle of a body
HOUR: Final = 3600.0
LARGE: Final = "Ringback can be long. " * 364  # far more than is sent: it is cut to fit
UNICODE: Final = "Grüße, 你好, שלום, مرحبا, 👩‍👩‍👧‍👦, e\u0301, \u2028, \"'\\/<&> \t\n\x01 🏳️‍🌈"
NOTHING_RINGS: Final = "the made-up token is dead, so nothing rings: give a real one with --token"
OBSERVE: Final = (
    "not to be seen from outside: let the answer carry `ringback-rang`, or look at the phone"
)


# --- rings that must be taken -------------------------------------------------------------------


async def taken(bench: Bench, title: str, text: str = "A test.", **changes: Any) -> Finding:
    return _must_take(bench, await bench.call(bench.a_ring(title, text, **changes)))


def _must_take(bench: Bench, *calls: Exchange) -> Finding:
    for call in calls:
        if not bench.taken(call):
            return Finding(Result.FAIL, f"{brief(call)}; {what_to_do(call.verdict)}", calls)
    if _only_dead(calls):
        said = f"{brief(calls[0])}, as the made-up token deserves (--token rings for real)"
        return Finding(Result.PASS, said, calls)
    return Finding(Result.PASS, brief(calls[-1]), calls)


def _only_dead(calls: tuple[Exchange, ...]) -> bool:
    return all(call.verdict.kind is VerdictKind.TOKEN_DEAD for call in calls)


async def message(bench: Bench) -> Finding:
    finding = await taken(bench, "message")
    answered = any(call.verdict.status is not None for call in finding.calls)
    if finding.result is Result.FAIL and bench.token is None and answered:
        said = f"{finding.said}. The device token was made up: give a real one with --token"
        return replace(finding, said=said)
    return finding


async def no_text(bench: Bench) -> Finding:
    ring = replace_fields(bench.a_ring("no text"), title=None, text=None)
    return _must_take(bench, await bench.call(ring))


async def badge(bench: Bench) -> Finding:
    if not bench.silent:
        return _NO_BADGES
    return await taken(bench, "badge", kind=RingKind.BADGE, unread=0)


_NO_BADGES: Final = Finding(Result.UNKNOWN, "this form of the request has no silent rings")


async def slow(bench: Bench) -> Finding:
    """The body comes in two parts with a pause, as over a phone's network or a busy proxy."""
    call = await bench.call(bench.a_ring("slow"), alter=slowly)
    return _must_take(bench, call)


def slowly(signed: Signed) -> Signed:
    """The same request, with a pause; its length is told beforehand as ever."""
    length = {"Content-Length": str(len(signed.body))}
    return replace_fields(signed, headers={**signed.headers, **length}, pause=PAUSE)


async def unknown_fields(bench: Bench) -> Finding:
    """More fields, properly signed: new ones may come any day."""
    if not bench.has_fields:
        return Finding(Result.UNKNOWN, "this form of the request is no JSON object")
    ring = bench.a_ring("unknown fields")

    def more(signed: Signed) -> Signed:
        body = orjson.loads(signed.body)
        raw = orjson.dumps(body | {"aFieldOfTomorrow": {"nested": [1, None]}})
        now = float(signed.headers["webhook-timestamp"])
        proof = signing.headers(ring.id, now, raw, bench.endpoint.signing_secrets)
        return replace_fields(signed, headers={**signed.headers, **proof}, body=raw)

    return _must_take(bench, await bench.call(ring, alter=more))


async def rotation(bench: Bench) -> Finding:
    if not bench.signs:
        return _UNSIGNED
    current = bench.endpoint.signing_secrets
    orders = ((signing.new_secret(), *current), (*current, signing.new_secret()))
    calls = [
        await bench.call(bench.a_ring("rotation"), signing_secrets=secrets) for secrets in orders
    ]
    return _must_take(bench, *calls)


# --- callers that must not be let in ------------------------------------------------------------

_UNSIGNED: Final = Finding(Result.UNKNOWN, "no signing secret was given, so nothing was signed")


async def forged(
    bench: Bench, alter: Callable[[Signed], Signed] = lambda signed: signed, **how: Any
) -> Finding:
    """A request that the signature does not vouch for."""
    if not bench.signs:
        return _UNSIGNED
    return _must_refuse(await bench.call(bench.a_ring("forged"), alter=alter, **how))


def _must_refuse(
    call: Exchange, danger: str = "anybody on the network could have sent it"
) -> Finding:
    status = call.verdict.status
    if status in (401, 403) and call.verdict.kind is VerdictKind.MISCONFIGURED:
        return Finding(Result.PASS, f"{status}: refused", (call,))
    if call.verdict.kind in (VerdictKind.ACCEPTED, VerdictKind.TOKEN_DEAD):
        said = f"{brief(call)}; it was acted upon, and {danger}"
        return Finding(Result.FAIL, said, (call,))
    said = (
        f"{brief(call)}; refused, but 401 is the answer that tells the operators of Ringback, and "
        "keeps rings alive while a secret is being changed"
    )
    return Finding(Result.WARN, said, (call,))


def unsigned(signed: Signed) -> Signed:
    kept = {k: v for k, v in signed.headers.items() if k != "webhook-signature"}
    return replace_fields(signed, headers=kept)


def other_body(signed: Signed) -> Signed:
    """One more space: the same JSON, other bytes."""
    return replace_fields(signed, body=signed.body + b" ")


def other_id(signed: Signed) -> Signed:
    return replace_fields(signed, headers={**signed.headers, "webhook-id": "r_test_another"})


async def credentials(bench: Bench) -> Finding:
    """Without what says that it is us: another authToken, and none of the headers."""
    calls = []
    if bench.endpoint.auth_token:
        call = await bench.call(bench.a_ring("forged"), auth_token=_NOT_OURS)
        if call.sent is not None and _NOT_OURS.encode() in call.sent.body:
            calls.append(call)
    bare = replace(bench.endpoint.credentials, headers=(), bearer=None, basic=None, oauth=None)
    if bare != bench.endpoint.credentials:
        calls.append(await bench.call(bench.a_ring("forged"), credentials=bare))
    if not calls:
        return Finding(Result.UNKNOWN, "the requests carry no auth token and no credentials")
    findings = [
        _must_refuse(call, "whoever does not know them could have sent it") for call in calls
    ]
    return max(findings, key=lambda finding: _SEVERITY.index(finding.result))


_NOT_OURS: Final = "not-the-auth-token"
_SEVERITY: Final = (Result.PASS, Result.WARN, Result.FAIL)


# --- the same ring twice ------------------------------------------------------------------------


async def double(bench: Bench) -> Finding:
    ring = bench.a_ring("double", "This must be seen once.")
    calls = (await bench.call(ring), await bench.call(ring))
    finding = _must_take(bench, *calls)
    if finding.result is not Result.PASS:
        second = "the second time " if bench.taken(calls[0]) else ""
        return replace(finding, said=f"{second}{finding.said}")
    return _once(calls)


async def double_at_once(bench: Bench) -> Finding:
    ring = bench.a_ring("double at once", "This must be seen once.")
    calls = tuple(await asyncio.gather(bench.call(ring), bench.call(ring)))
    later = [call for call in calls if call.verdict.kind is not VerdictKind.RETRY]
    finding = _must_take(bench, *(later or calls))
    return _once(calls) if finding.result is Result.PASS else replace(finding, calls=calls)


def _once(calls: tuple[Exchange, ...]) -> Finding:
    told = [count for call in calls if (count := rang(call)) is not None]
    if not told:
        return _unseen(calls, "it rang once")
    if max(told) != 1:
        times = "never" if max(told) == 0 else f"{max(told)} times"
        return Finding(Result.FAIL, f"taken both times, and it rang {times}", calls)
    return Finding(Result.PASS, "taken both times, and it rang once", calls)


# --- numbers that come late ---------------------------------------------------------------------


async def late_badge(bench: Bench) -> Finding:
    if not bench.silent:
        return _NO_BADGES
    if not bench.dates_badges:
        return Finding(Result.UNKNOWN, "this form of the request does not say how old a number is")
    rings = (
        bench.a_ring("badge", kind=RingKind.BADGE, badge_seq=20, unread=0),
        bench.a_ring("badge", kind=RingKind.BADGE, badge_seq=10, unread=5),
    )
    calls = tuple([await bench.call(ring) for ring in rings])
    finding = _must_take(bench, *calls)
    if finding.result is not Result.PASS:
        return finding
    match rang(calls[1]):
        case None:
            return _unseen(calls, "the late one was dropped")
        case 0:
            return Finding(Result.PASS, "the late badge was taken and dropped", calls)
    return Finding(Result.FAIL, "the late badge was sent on: the icon now lies", calls)


async def late_message(bench: Bench) -> Finding:
    rings = [bench.a_ring("late message", badge_seq=seq) for seq in (20, 15)]
    calls = tuple([await bench.call(ring) for ring in rings])
    finding = _must_take(bench, *calls)
    if finding.result is not Result.PASS:
        return finding
    match rang(calls[1]):
        case None:
            return _unseen(calls, "the late one rang")
        case 0:
            said = "a late message was dropped; only its number is late"
            return Finding(Result.FAIL, said, calls)
    return Finding(Result.PASS, "taken, and it rang", calls)


def _unseen(calls: tuple[Exchange, ...], what: str) -> Finding:
    """What a backend does behind its answer, and does not say."""
    why = NOTHING_RINGS if _only_dead(calls) else f"taken; whether {what} is {OBSERVE}"
    return Finding(Result.UNKNOWN, why, calls)


# --- what the answers say -----------------------------------------------------------------------


async def dead_token(bench: Bench) -> Finding:
    """A dead token is said to be dead, so that it is not called for ever."""
    call = await bench.call(bench.a_ring("dead token"), token=bench.dead_token or bench.bogus)
    match call.verdict.kind:
        case VerdictKind.TOKEN_DEAD:
            return Finding(Result.PASS, brief(call), (call,))
        case VerdictKind.ACCEPTED if bench.dead_token is None:
            said = (
                f"{brief(call)}, for a made-up token (a backend that queues learns later); give "
                "--dead-token, one of an app that was uninstalled"
            )
            return Finding(Result.UNKNOWN, said, (call,))
        case VerdictKind.ACCEPTED:
            said = f"{brief(call)}, for a dead token: it will be called for ever"
            return Finding(Result.FAIL, said, (call,))
    said = f"{brief(call)}; say 410, or any status with the body " + '{"rejected": [token]}'
    return Finding(Result.FAIL, said, (call,))


async def answers(bench: Bench) -> Finding:
    """Of all the answers so far: whole, small, quick."""
    slowest = max(bench.calls, key=_took)
    for call in bench.calls:
        if isinstance(call.came, Answer) and call.came.body is None:
            said = f"{brief(call)}, but its body did not arrive whole, in time and within 64 KiB"
            return Finding(Result.WARN, said, (call,))
    longest = max((len(body) for call in bench.calls if (body := _body(call))), default=0)
    ms = _took(slowest)
    said = f"{len(bench.calls)} answers, the slowest {ms:.0f} ms, the longest {longest} B"
    if ms > SLOW:
        return Finding(Result.WARN, f"{said}: answer when it is queued", (slowest,))
    return Finding(Result.PASS, said)


def _took(call: Exchange) -> float:
    """Milliseconds, without our own pause."""
    return call.ms - (call.sent.pause * 1000 if call.sent else 0.0)


def _body(call: Exchange) -> bytes | None:
    return call.came.body if isinstance(call.came, Answer) else None


async def keep_alive(bench: Bench) -> Finding:
    for call in bench.calls:
        if isinstance(call.came, Answer) and _closes(call.came):
            said = "the answers close the connection: each ring pays for a new TLS handshake"
            return Finding(Result.WARN, said, (call,))
    return Finding(Result.PASS, "connections stay open for the next ring")


def _closes(answer: Answer) -> bool:
    headers = {name.lower(): value.lower() for name, value in answer.headers.items()}
    return "close" in headers.get("connection", "")
