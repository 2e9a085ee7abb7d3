"""The HTTP API: what services, agents and apps may ask without a socket.

Decides who may call what, and which problem an error is. The use cases are the same as the
sockets'. A call is answered after the commit or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any
from urllib.parse import unquote

import structlog
from aiohttp import web

from gateway import decoding, frames, protocol, sentences, why
from gateway.auth import Identity, TokenRejected, Verifier, bearer
from gateway.chat import Chat, Posting
from gateway.context import Context, no_such_customer
from gateway.devices import TOLD, Devices, Registration
from gateway.dryrun import dry_run
from gateway.http.calls import as_json, idempotency_key, integer, page_size, problem
from gateway.inbox import Inbox
from gateway.policies import AFTER_MOST, Policy
from gateway.preferences import Preferences, as_told, wishes_of
from gateway.protocol import ErrorCode, FrameError, Role
from gateway.session import Rates
from push.failures import forget_frames
from storage.errors import Unavailable
from storage.records import Conversation, Device, Key, Wishes, fingerprint

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# In a path: any id, also one with braces, which aiohttp's own pattern leaves out.
CUSTOMER, INSTALLATION = "{customer:[^/]+}", "{installation:[^/]+}"
BODY_WITHIN = 30.0  # seconds that a call's body may take
_log = structlog.get_logger("gateway.http.api")


class Api:
    """The calls of /v1."""

    def __init__(
        self,
        verifier: Verifier,
        context: Context,
        chat: Chat,
        devices: Devices,
        preferences: Preferences,
        inbox: Inbox,
        rates: Rates,
        wall: Callable[[], float],
        origins: frozenset[str],
        refused: Callable[[str], None],
        failed: Callable[[], None],
    ) -> None:
        """`refused` is told why a token was not accepted, `failed` of every fault of ours."""
        self._verifier = verifier
        self._context = context
        self._chat = chat
        self._devices = devices
        self._preferences = preferences
        self._inbox = inbox
        self._rates = rates
        self._wall = wall
        self._origins = origins
        self._refused = refused
        self._failed = failed

    def application(self, *others: Iterable[web.RouteDef]) -> web.Application:
        """The aiohttp application for the HTTP listener; `others` are the routes of other files."""
        app = web.Application(
            middlewares=[self._cross_origin, self._problems],
            client_max_size=self._context.limits.frame_bytes,
        )
        app.add_routes(
            [
                web.post("/v1/messages", self.post_message),
                web.get(f"/v1/customers/{CUSTOMER}/messages", self.messages),
                web.get(f"/v1/customers/{CUSTOMER}/status", self.status),
                web.get(f"/v1/customers/{CUSTOMER}/devices", self.list_devices),
                web.get(f"/v1/customers/{CUSTOMER}/deliveries", self.deliveries),
                web.post(f"/v1/customers/{CUSTOMER}/sign_out", self.sign_out),
                web.get(f"/v1/customers/{CUSTOMER}/preferences", self.preferences),
                web.put(f"/v1/customers/{CUSTOMER}/preferences", self.put_preferences),
                web.get("/v1/me/status", self.my_status),
                web.get("/v1/me/preferences", self.my_preferences),
                web.put("/v1/me/preferences", self.put_my_preferences),
                web.put(f"/v1/devices/{INSTALLATION}", self.put_device),
                web.delete(f"/v1/devices/{INSTALLATION}", self.delete_device),
                *chain.from_iterable(others),
            ]
        )
        return app

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error as application/problem+json, none as a traceback."""
        try:
            if request.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FrameError(
                    ErrorCode.BAD_FRAME, "Content-Encoding: send the body as it is, not compressed"
                )
            return await handler(request)
        except Exception as error:
            try:
                return self._told(request, error)
            finally:
                forget_frames(error)  # aiohttp keeps some beside the call: so long as its body too

    def _told(self, request: web.Request, error: Exception) -> web.Response:
        """What the caller is told of `error`. Raises it, if that is the answer."""
        match error:
            case FrameError():
                return problem(error)
            case Unavailable():
                return problem(
                    FrameError(ErrorCode.UNAVAILABLE, "not confirmed; try again with the same key")
                )
            case web.RequestPayloadError():
                return problem(
                    FrameError(ErrorCode.BAD_FRAME, "the body cannot be read as it was sent")
                )
            case web.HTTPRequestEntityTooLarge():
                most = self._context.limits.frame_bytes
                return problem(
                    FrameError(ErrorCode.TOO_LARGE, f"the body is larger than {most} bytes")
                )
            case web.HTTPUnsupportedMediaType():
                return problem(FrameError(ErrorCode.BAD_FRAME, error.text or ""), 415)
            case web.HTTPNotFound():
                told = "there is no such call"
                if request.path in (protocol.CUSTOMER_PATH, protocol.AGENT_PATH):
                    told = "WebSockets connect to another port, that of server.chat"
                return problem(FrameError(ErrorCode.NOT_FOUND, told))
            case web.HTTPMethodNotAllowed():
                allowed = ", ".join(sorted(error.allowed_methods))
                return problem(
                    FrameError(ErrorCode.BAD_FRAME, f"use {allowed}"), 405, Allow=allowed
                )
            case web.HTTPException():
                raise error
            case ConnectionResetError():  # the caller has hung up: nobody hears this
                return problem(FrameError(ErrorCode.BAD_FRAME, "the body broke off"))
        self._failed()
        _log.error(
            "a call failed",
            path=request.rel_url.raw_path,
            error=type(error).__name__,
            exc_info=error,
        )
        return problem(FrameError(ErrorCode.INTERNAL, "internal fault"))

    @web.middleware
    async def _cross_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let web apps of the tenants' own origins call (CORS, in the WHATWG Fetch standard)."""
        origin = request.headers.get("Origin")
        if origin not in self._origins:
            return await handler(request)
        asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        answer = web.Response(status=204) if asked else await handler(request)
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers.add("Vary", "Origin")
        if asked:
            answer.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
            answer.headers["Access-Control-Allow-Headers"] = (
                "Authorization, Content-Type, Idempotency-Key, Ringback-Deregistration-Key"
            )
            answer.headers["Access-Control-Max-Age"] = "600"
        return answer

    # Messages

    async def post_message(self, request: web.Request) -> web.Response:
        """Send as an agent or a service; 201 after the commit."""
        who = self.who(request, Role.SERVICE, Role.AGENT)
        body = await self.body(request, protocol.PostMessage)
        allowed = protocol.ALLOWED_KINDS[who.role]
        kind = body.kind or allowed[0]
        if kind not in allowed:
            may = " or ".join(allowed)
            raise FrameError(ErrorCode.FORBIDDEN, f"kind: the role {who.role} may only send {may}")
        if who.role is Role.AGENT:
            self._rates.bucket(who).spend(self._context.clock(), "messages")
        posting = Posting(
            key=Key(who.tenant, body.customer),
            role=who.role,
            author=who.sub,
            name=who.name,
            text=body.text,
            data=body.data,
            ref=idempotency_key(request),
            kind=kind,
            title=body.title,
            expires_at=body.expires_at.timestamp() if body.expires_at else None,
        )
        posted = await self._chat.post(posting, create=who.role is Role.SERVICE)
        message = posted.message
        answer: dict[str, Any] = {
            "seq": message.seq,
            "id": message.id,
            "route": message.route or "none",
            "reason": message.reason or message.kind,
        }
        if posted.duplicate:
            answer["duplicate"] = True
        return as_json(answer, 201)

    async def messages(self, request: web.Request) -> web.Response:
        """A page of history."""
        who = self.who(request, Role.SERVICE, Role.AGENT)
        before = integer(request, "before", 0, protocol.SEQ_MAX)
        limit = page_size(request)
        _, messages, more = await self._inbox.past(_key(request, who), before, limit)
        return as_json({"messages": [frames.message(m) for m in messages], "more": more})

    async def deliveries(self, request: web.Request) -> web.Response:
        """What became of one message, and why."""
        who = self.who(request, Role.SERVICE, Role.AGENT)
        seq = integer(request, "seq", 1, protocol.SEQ_MAX)
        if seq is None:
            raise FrameError(ErrorCode.BAD_FRAME, "seq: missing; say which message, as ?seq=9")
        told = await self._context.store.told(_key(request, who), seq)
        if told is None:
            raise FrameError(ErrorCode.NOT_FOUND, "this customer has no such message")
        now = self._context.clock()
        answer = why.deliveries(told, now, self._context.restart_grace_until)
        policy, after = _policy(request)
        if policy is not None:
            backends = self._context.rules(who.tenant).backends
            answer["policy"] = dry_run(told, policy, now=now, backends=backends, after=after)
        if integer(request, "words", 0, 1):
            answer = sentences.in_words(answer)
        return as_json(answer)

    # Status

    async def status(self, request: web.Request) -> web.Response:
        """A customer's status, for agents and services."""
        who = self.who(request, Role.SERVICE, Role.AGENT)
        return as_json(self._status(await self._context.existing(_key(request, who))))

    async def my_status(self, request: web.Request) -> web.Response:
        """The customer's own status; zeros for one whom nobody has written to yet."""
        who = self.who(request, Role.CUSTOMER)
        c = await self._context.store.conversation(Key(who.tenant, who.sub))
        return as_json(self._status(c or Conversation(0, Key(who.tenant, who.sub))))

    def _status(self, c: Conversation) -> dict[str, Any]:
        return {**frames.facts(c), "in_chat": self._context.hub.is_in_chat(c.key)}

    # Devices

    async def put_device(self, request: web.Request) -> web.Response:
        """Register at app start and whenever the token changes."""
        who = self.who(request, Role.CUSTOMER)
        installation = _id(request, "installation")
        body = await self.body(request, protocol.PutDevice)
        key = await self._devices.register(
            Key(who.tenant, who.sub), who.name, Registration.of(body, installation)
        )
        return as_json({"installation": installation, "deregistration_key": key})

    async def delete_device(self, request: web.Request) -> web.Response:
        """Deregister with the customer's token, or with nothing but the deregistration key."""
        installation = _id(request, "installation")
        given = request.headers.get("Ringback-Deregistration-Key")
        if given is not None:
            if not await self._devices.deregister_by_key(installation, given):
                raise FrameError(ErrorCode.FORBIDDEN, "this deregistration key was not given out")
        else:
            who = self.who(request, Role.CUSTOMER)
            await self._devices.deregister(Key(who.tenant, who.sub), installation)
        return web.Response(status=204)

    async def list_devices(self, request: web.Request) -> web.Response:
        """A customer's registrations; tokens only as fingerprints."""
        who = self.who(request, Role.SERVICE)
        c = await self._context.existing(_key(request, who))
        return as_json({"devices": [_device(device) for device in c.devices]})

    async def sign_out(self, request: web.Request) -> web.Response:
        """Close a customer's sessions and forget all their devices."""
        who = self.who(request, Role.SERVICE)
        if not await self._devices.sign_out(_key(request, who)):
            raise no_such_customer()
        return web.Response(status=204)

    # Preferences

    async def preferences(self, request: web.Request) -> web.Response:
        """What a customer wishes of rings."""
        who = self.who(request, Role.SERVICE)
        wishes = await self._preferences.get(_key(request, who))
        if wishes is None:
            raise no_such_customer()
        return as_json(as_told(wishes))

    async def my_preferences(self, request: web.Request) -> web.Response:
        """What the customer who asks wishes of rings."""
        who = self.who(request, Role.CUSTOMER)
        wishes = await self._preferences.get(Key(who.tenant, who.sub))
        return as_json(as_told(wishes or Wishes()))

    async def put_preferences(self, request: web.Request) -> web.Response:
        """Set what a customer wishes, on their behalf. Makes the customer if new."""
        who = self.who(request, Role.SERVICE)
        return await self._put_preferences(request, _key(request, who), None)

    async def put_my_preferences(self, request: web.Request) -> web.Response:
        """Set what the customer who asks wishes."""
        who = self.who(request, Role.CUSTOMER)
        return await self._put_preferences(request, Key(who.tenant, who.sub), who.name)

    async def _put_preferences(
        self, request: web.Request, key: Key, name: str | None
    ) -> web.Response:
        wishes = wishes_of(await self.body(request, protocol.PutPreferences))
        await self._preferences.put(key, name, wishes)
        return as_json(as_told(wishes))

    # Requests

    def who(self, request: web.Request, *roles: Role) -> Identity:
        """Who calls, by their token. Raises `FrameError` unless they have one of `roles`."""
        token = bearer(request.headers.get("Authorization", ""))
        if token is None:
            raise FrameError(ErrorCode.UNAUTHORIZED, "give a token: Authorization: Bearer …")
        try:
            who = self._verifier.verify(token, self._wall())
        except TokenRejected as rejected:
            self._refused(f"token_{rejected.reason.value}")
            raise FrameError(ErrorCode.UNAUTHORIZED, "the token was not accepted") from None
        if who.role not in roles:
            allowed = " or ".join(role.value for role in roles)
            raise FrameError(ErrorCode.FORBIDDEN, f"this call is for the role {allowed}")
        return who

    async def body(self, request: web.Request, kind: type[Any]) -> Any:
        """The JSON body of a call. Raises `FrameError`, or the HTTP error for another type."""
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(
                text="the body must be JSON: Content-Type: application/json"
            )
        try:
            async with asyncio.timeout(BODY_WITHIN):
                raw = await request.read()
        except TimeoutError:
            raise FrameError(
                ErrorCode.BAD_FRAME, f"the body did not come within {BODY_WITHIN:.0f} seconds"
            ) from None
        return decoding.decode_body(raw, kind, self._context.limits)


def _key(request: web.Request, who: Identity) -> Key:
    return Key(who.tenant, _id(request, "customer"))


def _id(request: web.Request, name: str) -> str:
    """An id in the path. Raises `FrameError`."""
    try:
        unquote(request.rel_url.raw_path, errors="strict")
    except UnicodeDecodeError:  # it would pass for another id: as it is written
        raise FrameError(
            ErrorCode.BAD_FRAME, f"{name}: not UTF-8; percent-encode it in UTF-8"
        ) from None
    return decoding.check_id(request.match_info[name], name)


def _policy(request: web.Request) -> tuple[Policy | None, int | None]:
    """The policy to try dry, and the seconds of `unread_after`, if they are said."""
    name = request.query.get("policy")
    if name is not None and name not in list(Policy):
        known = ", ".join(Policy)
        raise FrameError(ErrorCode.BAD_FRAME, f"policy: there is no such one; give one of {known}")
    after = integer(request, "after", 0, AFTER_MOST)
    return Policy(name) if name else None, after


def _device(device: Device) -> dict[str, Any]:
    told: dict[str, Any] = {
        "installation": device.installation,
        "device": fingerprint(device.token),
        "state": device.state.value,
        "registered_at": protocol.timestamp(device.registered_at),
    }
    for name in TOLD:
        if getattr(device, name) is not None:
            told[name] = getattr(device, name)
    if device.answered is not None:
        last = device.answered
        told["last_push"] = {"verdict": last.verdict, "at": protocol.timestamp(last.at)}
    return told
