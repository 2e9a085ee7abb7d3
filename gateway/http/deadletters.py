"""The calls of /v1/dead_letters: listing, looking at one, replaying one or many."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway import decoding, protocol
from gateway.deadletters import DeadLetters
from gateway.http.api import Api
from gateway.http.calls import as_json, page_size
from gateway.protocol import ErrorCode, FrameError, ReplayDeadLetters, Role
from storage.deadletters import Cause, DeadLetter, Wanted


class DeadLetterCalls:
    """The calls; who may call is judged by `api`."""

    def __init__(self, api: Api, letters: DeadLetters) -> None:
        self._api = api
        self._letters = letters

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/dead_letters", self.page),
            web.get("/v1/dead_letters/{id}", self.one),
            web.post("/v1/dead_letters/replay", self.replay_range),
            web.post("/v1/dead_letters/{id}/replay", self.replay),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """The tenant's dead letters, newest first."""
        who = self._api.who(request, Role.SERVICE)
        limit = page_size(request)
        query = request.query
        customer = query.get("customer")
        wanted = Wanted(
            None if customer is None else decoding.check_id(customer, "customer"),
            _cause(query.get("cause")),
            *protocol.span(
                _moment(query.get("since"), "since"), _moment(query.get("until"), "until")
            ),
        )
        found = await self._letters.page(who.tenant, wanted, query.get("cursor"), limit + 1)
        told: dict[str, Any] = {"dead_letters": [_told(letter) for letter in found[:limit]]}
        if len(found) > limit:
            told["cursor"] = found[limit - 1].id
        return as_json(told)

    async def one(self, request: web.Request) -> web.Response:
        """One, and what a replay would do now."""
        who = self._api.who(request, Role.SERVICE)
        letter, replay = await self._letters.one(who.tenant, request.match_info["id"])
        return as_json(_told(letter) | {"replay": replay.value})

    async def replay(self, request: web.Request) -> web.Response:
        """Ring for it again, unless somebody would be rung twice or in vain."""
        who = self._api.who(request, Role.SERVICE)
        id = request.match_info["id"]
        result = await self._letters.replay(who.tenant, id)
        return as_json({"id": id, "replay": result.value})

    async def replay_range(self, request: web.Request) -> web.Response:
        """Replay many; with a `cursor` in the answer there are more."""
        who = self._api.who(request, Role.SERVICE)
        if request.query:  # conditions, as a listing has them there: without them it would be all
            raise FrameError(ErrorCode.BAD_FRAME, "give the range in the body, as JSON")
        body: ReplayDeadLetters = await self._api.body(request, ReplayDeadLetters)
        wanted = Wanted(
            body.customer or None,
            _cause(body.cause or None),
            *protocol.span(
                body.since.timestamp() if body.since else None,
                body.until.timestamp() if body.until else None,
            ),
        )
        ranged = await self._letters.replay_range(who.tenant, wanted, body.cursor)
        told: dict[str, Any] = {"replay": {r.value: many for r, many in ranged.results.items()}}
        if ranged.cursor is not None:
            told["cursor"] = ranged.cursor
        if ranged.left is not None:
            told["left"] = ranged.left
        return as_json(told)


def _told(letter: DeadLetter) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": letter.id,
        "customer": letter.customer,
        "from_seq": letter.lo_seq + 1,
        "seq": letter.seq,
        "kind": letter.kind,
        "device": letter.fingerprint,
        "installation": letter.installation,
        "cause": letter.cause.value,
        "attempts": letter.attempts,
        "at": protocol.timestamp(letter.at),
    }
    if letter.answer is not None:
        told["answer"] = letter.answer
    if letter.status is not None:
        told["status"] = letter.status
    if letter.replayed_at is not None:
        told["replayed_at"] = protocol.timestamp(letter.replayed_at)
    return told


def _cause(word: str | None) -> Cause | None:
    if word is None:
        return None
    if word not in list(Cause):
        raise FrameError(ErrorCode.BAD_FRAME, f"cause: give one of {', '.join(Cause)}")
    return Cause(word)


def _moment(text: str | None, name: str) -> float | None:
    try:
        return None if text is None else protocol.parse_timestamp(text)
    except ValueError:
        raise FrameError(
            ErrorCode.BAD_FRAME,
            f"{name}: give an RFC 3339 time with a zone, such as 2026-11-24T08:00:00Z",
        ) from None
