"""The calls of /v1/campaigns: taking a campaign and its audience, steps, progress, report.

An audience is a list in the JSON body, the word `devices`, or a file beside it in a
`multipart/form-data` body: first the part `campaign` (JSON), then the part `recipients`, which is
read as it comes and never held whole.

Judging an audience takes the loop from everybody. So of each tenant one piece of an audience is
judged at a time, however many it sends at once, and as long again is left to the others (I8).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

import orjson
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import decoding, protocol
from gateway.campaigns import audience
from gateway.campaigns.audience import Bad, BadRecipient, Entry, File, Format, Words
from gateway.campaigns.loading import Loading, Source
from gateway.campaigns.reports import Reports
from gateway.campaigns.sending import Campaigns, Step
from gateway.http.api import Api
from gateway.http.calls import as_json, idempotency_key, page_size
from gateway.protocol import ErrorCode, FrameError, Limits, PostCampaign, Role
from storage.campaigns import Campaign

BATCH = 500  # recipients written at a time
READ = 2_048  # bytes of a file looked at in one go: the loop does nothing else for 2 ms
STALLED = 60.0  # seconds without a byte after which an upload is given up

Chunks = Callable[[], Awaitable[bytes]]
T = TypeVar("T")


class CampaignCalls:
    """The calls; who may call is judged by `api`."""

    def __init__(
        self, api: Api, limits: Limits, loading: Loading, campaigns: Campaigns, reports: Reports
    ) -> None:
        self._api = api
        self._limits = limits
        self._loading = loading
        self._campaigns = campaigns
        self._reports = reports
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/campaigns", self.create),
            web.get("/v1/campaigns", self.page),
            web.get("/v1/campaigns/{id}", self.one),
            web.get("/v1/campaigns/{id}/report", self.report),
            web.post("/v1/campaigns/{id}/pause", self.pause),
            web.post("/v1/campaigns/{id}/resume", self.resume),
            web.post("/v1/campaigns/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Take a campaign; 201 once its whole audience is on disk. It begins at once."""
        who = self._api.who(request, Role.SERVICE)
        key = idempotency_key(request)
        taken = await self._taken(request, who.tenant)
        campaign, duplicate = await self._loading.create(
            who, taken.body, key, taken.said, taken.source
        )
        told = self._told(campaign)
        if duplicate:
            told["duplicate"] = True
        return as_json(told, 201)

    async def page(self, request: web.Request) -> web.Response:
        """The tenant's campaigns, newest first."""
        who = self._api.who(request, Role.SERVICE)
        limit = page_size(request)
        found = await self._reports.page(who.tenant, request.query.get("before"), limit + 1)
        return as_json(
            {"campaigns": [self._told(c) for c in found[:limit]], "more": len(found) > limit}
        )

    async def one(self, request: web.Request) -> web.Response:
        """A campaign and how far it is."""
        return as_json(self._told(await self._found(request)))

    async def report(self, request: web.Request) -> web.Response:
        """What became of everybody."""
        return as_json(await self._reports.report(await self._found(request)))

    async def pause(self, request: web.Request) -> web.Response:
        """Send no more until it is resumed."""
        return await self._step(request, Step.PAUSE)

    async def resume(self, request: web.Request) -> web.Response:
        """Go on at the exact place."""
        return await self._step(request, Step.RESUME)

    async def cancel(self, request: web.Request) -> web.Response:
        """Send no more, for good. What was sent stays sent."""
        return await self._step(request, Step.CANCEL)

    async def _step(self, request: web.Request, step: Step) -> web.Response:
        who = self._api.who(request, Role.SERVICE)
        id = request.match_info["id"]
        return as_json(self._told(await self._campaigns.step(who.tenant, id, step)))

    async def _found(self, request: web.Request) -> Campaign:
        who = self._api.who(request, Role.SERVICE)
        return await self._reports.one(who.tenant, request.match_info["id"])

    def _told(self, c: Campaign) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": c.id,
            "state": self._reports.state(c),
            "by": c.author,
            "text": c.text,
            "rate": c.rate,
            "unknown": c.unknown,
            "created_at": protocol.timestamp(c.created_at),
            "recipients": c.total,
            "duplicates": c.duplicates,
            "sent": c.sent,
            "skipped": c.skipped,
            "left": c.left,
        }
        if c.title is not None:
            told["title"] = c.title
        if c.data is not None:
            told["data"] = orjson.Fragment(c.data)
        for name in ("send_at", "expires_at", "ended_at"):
            if getattr(c, name) is not None:
                told[name] = protocol.timestamp(getattr(c, name))
        return told

    # Reading a campaign

    async def _taken(self, request: web.Request, tenant: str) -> _Taken:
        if request.content_type == "multipart/form-data":
            return await self._with_file(request, tenant)
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(
                text="the body must be application/json, or multipart/form-data with the parts"
                " campaign and recipients"
            )
        content = request.content
        body = self._body(await _whole(lambda: content.read(READ), protocol.AUDIENCE_BYTES))
        said = audience.words(body.text, body.title)
        if body.audience is None:
            raise FrameError(
                ErrorCode.BAD_FRAME,
                "audience: missing; must be the word devices, a list, or a file sent as the part"
                " recipients of a multipart/form-data body",
            )
        if body.audience == "devices":
            if said.fields:
                raise FrameError(
                    ErrorCode.BAD_FRAME,
                    "text, title: of an audience of devices nothing is known but {customer}; for"
                    " other fields give a list or a file",
                )
            return _Taken(body, said, self._devices(tenant))
        return _Taken(body, said, self._list(body.audience, said, tenant))

    def _body(self, raw: bytes) -> PostCampaign:
        return decoding.decode_body(raw, PostCampaign, self._limits)

    async def _with_file(self, request: web.Request, tenant: str) -> _Taken:
        try:
            parts = await request.multipart()
            first = await _in_time(parts.next())
            if not isinstance(first, BodyPartReader) or first.name != "campaign":
                raise FrameError(ErrorCode.BAD_FRAME, "the first part must be campaign, in JSON")
            raw = await _whole(lambda: first.read_chunk(READ), protocol.AUDIENCE_BYTES)
            body = self._body(raw)
            said = audience.words(body.text, body.title)
            if body.audience is not None:
                raise FrameError(ErrorCode.BAD_FRAME, "audience: give it, or a file, not both")
            part = await _in_time(parts.next())
        except _NOT_MULTIPART:
            raise FrameError(ErrorCode.BAD_FRAME, "not multipart/form-data as it says") from None
        if not isinstance(part, BodyPartReader) or part.name != "recipients":
            raise FrameError(
                ErrorCode.BAD_FRAME, "the second part must be recipients, a CSV or JSON lines file"
            )
        file = File(_format(part))
        return _Taken(body, said, self._file(file, part, parts, said, tenant))

    @asynccontextmanager
    async def _piece(self, tenant: str) -> AsyncIterator[None]:
        """A piece of an audience is judged within this."""
        async with self._turn[tenant]:
            loop = asyncio.get_running_loop()
            began = loop.time()
            yield
            await asyncio.sleep(loop.time() - began)

    def _devices(self, tenant: str) -> Source:
        lines = 0

        async def batches() -> AsyncIterator[list[Entry]]:
            nonlocal lines
            async for batch in self._loading.devices(tenant, BATCH):
                lines += len(batch)
                yield batch

        return Source(batches(), lambda: lines, lambda: "devices")

    def _list(self, told: list[Any], said: Words, tenant: str) -> Source:
        async def batches() -> AsyncIterator[list[Entry]]:
            bad = Bad()
            numbered = enumerate(told, 1)
            while part := list(islice(numbered, BATCH)):
                batch = []
                async with self._piece(tenant):
                    for number, value in part:
                        try:
                            batch.append(audience.entry(value, said, self._limits))
                        except BadRecipient as error:
                            bad.note(f"entry {number}", error.problem)
                if not bad.many:  # else nothing of it is taken, and only errors are looked for
                    yield batch
            if bad.many:
                raise bad.error()

        try:
            digest = hashlib.sha256(orjson.dumps(told)).hexdigest()
        except TypeError:
            raise FrameError(
                ErrorCode.BAD_FRAME, "audience: integers must fit in 64 bits"
            ) from None
        return Source(batches(), lambda: len(told), lambda: digest)

    def _file(
        self,
        file: File,
        part: BodyPartReader,
        parts: MultipartReader,
        said: Words,
        tenant: str,
    ) -> Source:
        hashed = hashlib.sha256()
        lines = 0

        async def batches() -> AsyncIterator[list[Entry]]:
            nonlocal lines
            bad = Bad()
            batch: list[Entry] = []
            checked = False
            async for data in _chunks(lambda: part.read_chunk(READ)):
                hashed.update(data)
                if not data:  # or the body has ended without the part's end
                    await _nothing_more(parts)
                async with self._piece(tenant):
                    for line in file.feed(data) if data else file.end():
                        if file.columns is not None and not checked:
                            audience.check_columns(file.columns, said)
                            checked = True
                        lines += 1
                        try:
                            if line.problem is not None:
                                raise BadRecipient(line.problem)
                            batch.append(audience.entry(line.value, said, self._limits))
                        except BadRecipient as error:
                            bad.note(f"line {line.number}", error.problem)
                if len(batch) >= BATCH:
                    if not bad.many:
                        yield batch
                    batch = []
            if bad.many:
                raise bad.error()
            yield batch

        return Source(batches(), lambda: lines, hashed.hexdigest)


class _Taken(NamedTuple):
    """A campaign as it came: its settings, its words, and where its audience comes from."""

    body: PostCampaign
    said: Words
    source: Source


def _format(part: BodyPartReader) -> Format:
    """By the part's content type; else by how the file is called, as `curl -F` sends it."""
    kind = part.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in audience.FORMATS:
        return audience.FORMATS[kind]
    form = audience.ENDINGS.get(PurePath(part.filename or "").suffix.lower())
    if form is not None:
        return form
    raise FrameError(
        ErrorCode.BAD_FRAME,
        "recipients: must be text/csv or application/jsonl, or be called .csv or .jsonl",
    )


# Whatever aiohttp says of a body whose parts are none.
_NOT_MULTIPART = (ValueError, AssertionError, RuntimeError, HttpProcessingError)


def _broken_off() -> FrameError:
    return FrameError(ErrorCode.BAD_FRAME, "the body breaks off before its end")


async def _in_time(coming: Awaitable[T]) -> T:
    """What comes next of a body."""
    try:
        async with asyncio.timeout(STALLED):
            return await coming
    except TimeoutError:
        raise FrameError(
            ErrorCode.BAD_FRAME, f"the body stopped coming for {STALLED:.0f} seconds"
        ) from None


async def _nothing_more(parts: MultipartReader) -> None:
    """The last part has ended: its boundary must have come, and be that of the whole."""
    try:
        more = await _in_time(parts.next())
    except _NOT_MULTIPART:
        raise _broken_off() from None
    if more is not None:
        raise FrameError(ErrorCode.BAD_FRAME, "nothing may follow the part recipients")


async def _chunks(read: Chunks) -> AsyncIterator[bytes]:
    """What comes, piece by piece, and at the end an empty one."""
    while True:
        try:
            data = await _in_time(read())
        except ValueError:
            raise _broken_off() from None
        yield data
        if not data:
            return


async def _whole(read: Chunks, most: int) -> bytes:
    found = bytearray()
    async for data in _chunks(read):
        found += data
        if len(found) > most:
            raise FrameError(
                ErrorCode.TOO_LARGE,
                f"the campaign is larger than {most} bytes; send its recipients as a file",
            )
    return bytes(found)
