"""The wire vocabulary: every frame, field, code and limit, in both directions, in one file.

Decides: which frames and HTTP bodies there are and what their fields may hold, how server frames
and times look, and whether a client may reconnect after a close code. Leaves to others: whether
what came is one of them (`gateway.decoding`), whether a frame is allowed now (`gateway.session`),
what it does (`gateway.chat` and its like), whether a JSON Web Token is good (`gateway.auth`), and
every socket.
`docs/protocol.md` says the same for client authors; a test holds the two together.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict, get_args

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType

SUBPROTOCOL: Final = "ringback.v1"
CUSTOMER_PATH: Final = "/v1/chat"
AGENT_PATH: Final = "/v1/agent"

HELLO_TIMEOUT: Final = 5.0  # seconds from the handshake to `hello`
PING_INTERVAL: Final = 20.0  # seconds
BAD_FRAMES_IN_A_ROW: Final = 10
OUTBOUND_BYTES: Final = 1024 * 1024  # unsent, per session; beyond it SLOW_READER
ACK_WITHIN: Final = 1.0  # seconds: how soon a client should ack
BACKOFF_FIRST: Final = 1.0  # seconds; see `docs/protocol.md`, Reconnecting
BACKOFF_MAX: Final = 30.0

REF_CHARS: Final = 64
ID_CHARS: Final = 128
TITLE_CHARS: Final = 200
CURSOR_CHARS: Final = 512
TOKEN_CHARS: Final = 4096  # of a device token; a JSON Web Token is bounded in `gateway.auth`
SEQ_MAX: Final = 2**53  # beyond it JavaScript cannot count
JSON_DEPTH: Final = 32  # the frame itself is the first level
HISTORY_DEFAULT: Final = 50
HISTORY_MAX: Final = 200
REF_KEPT_DAYS: Final = 7
RATE_DEFAULT: Final = 100.0  # recipients of a campaign per second
RATE_MAX: Final = 10_000.0
AUDIENCE_MAX: Final = 1_000_000  # recipients of a campaign
AUDIENCE_BYTES: Final = 1024 * 1024  # of a body that lists them; a file may have any size
CAMPAIGNS_OPEN: Final = 100  # campaigns of one tenant that are not over


class Limits(Struct, frozen=True):
    """The `limits` object of `welcome`: what is in force here. Times in seconds."""

    frame_bytes: int = 65_536
    text_chars: int = 8_000
    data_bytes: int = 16_384
    resume: int = 500
    sends_per_minute: int = 100
    burst: int = 20
    sessions: int = 10
    ack_timeout: float = 5.0
    restart_window: float = 5.0

    def as_field(self) -> dict[str, int | float]:
        """As the `limits` field of a `welcome` frame."""
        return msgspec.structs.asdict(self)


CUSTOMER_LIMITS: Final = Limits()
AGENT_LIMITS: Final = Limits(sends_per_minute=600, burst=100)


class Role(StrEnum):
    """Who somebody is, in tokens and in `from`."""

    CUSTOMER = "customer"
    AGENT = "agent"
    SERVICE = "service"


class MessageKind(StrEnum):
    """What a message is. `chat` makes the conversation live; `system` does not count as unread."""

    CHAT = "chat"
    PROACTIVE = "proactive"
    SYSTEM = "system"


ALLOWED_KINDS: Final[Mapping[Role, tuple[MessageKind, ...]]] = {
    Role.CUSTOMER: (MessageKind.CHAT,),
    Role.AGENT: (MessageKind.CHAT,),
    Role.SERVICE: (MessageKind.PROACTIVE, MessageKind.CHAT, MessageKind.SYSTEM),
}
"""What each role may write. The first is what it gets without saying."""


class SessionState(StrEnum):
    """`active`: the chat is on screen, so the customer is in chat."""

    ACTIVE = "active"
    BACKGROUND = "background"


class Route(StrEnum):
    """Where a message went at the moment of sending."""

    SOCKET = "socket"
    PUSH = "push"
    NONE = "none"


class ReceiptState(StrEnum):
    """What became of an agent's messages."""

    DELIVERED = "delivered"
    READ = "read"
    PUSHED = "pushed"
    EXPIRED = "expired"
    UNDELIVERABLE = "undeliverable"


class InboxFilter(StrEnum):
    """Which conversations an inbox lists."""

    LIVE = "live"
    UNANSWERED = "unanswered"
    ALL = "all"


class ErrorCode(StrEnum):
    """The `code` of an `error` frame and of an HTTP problem."""

    BAD_FRAME = "bad_frame"
    TOO_LARGE = "too_large"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


HTTP_STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.BAD_FRAME: 400,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}


class CloseCode(IntEnum):
    """Why the server closed a socket. The range tells the client what to do."""

    GOODBYE = 1000
    TOO_BIG = 1009
    SERVER_FAULT = 1011
    RESTART = 1012
    NO_HELLO = 4000
    SLOW_READER = 4001
    TOKEN_EXPIRED = 4002
    TOO_MANY_CONNECTIONS = 4003
    BAD_TOKEN = 4500
    WRONG_ROLE = 4501
    PROTOCOL_BROKEN = 4502
    SIGNED_OUT = 4503
    TOO_MANY_SESSIONS = 4504


CLOSE_REASONS: Final[Mapping[CloseCode, str]] = {
    CloseCode.GOODBYE: "goodbye",
    CloseCode.TOO_BIG: "message too big",
    CloseCode.SERVER_FAULT: "server fault",
    CloseCode.RESTART: "restart",
    CloseCode.NO_HELLO: "no hello in time",
    CloseCode.SLOW_READER: "reads too slowly; resume brings the rest",
    CloseCode.TOKEN_EXPIRED: "token expired",
    CloseCode.TOO_MANY_CONNECTIONS: "too many connections or attempts",
    CloseCode.BAD_TOKEN: "token not accepted",
    CloseCode.WRONG_ROLE: "wrong role or tenant",
    CloseCode.PROTOCOL_BROKEN: "protocol broken",
    CloseCode.SIGNED_OUT: "signed out by the tenant, or erased",
    CloseCode.TOO_MANY_SESSIONS: "too many sessions of this customer; the oldest goes",
}


def close_reason(code: CloseCode, detail: str = "") -> str:
    """The reason of a closing frame, for people: at most 123 bytes (RFC 6455, section 5.5).
    `detail` is ASCII, and is cut where it is too long."""
    reason = f"{CLOSE_REASONS[code]}: {detail}" if detail else CLOSE_REASONS[code]
    return reason if len(reason) <= 123 else f"{reason[:120]}..."


def may_reconnect(code: int | None) -> bool:
    """Whether a client may come back by itself after this close code (None: there was none)."""
    if code is None:
        return True
    return code not in (CloseCode.GOODBYE, CloseCode.TOO_BIG) and not 4500 <= code <= 4999


# Client to server. Constraints whose numbers are fixed are in the types; those of `Limits` are not.

Ref = Annotated[str, Meta(min_length=1, max_length=REF_CHARS)]
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS)]
DeviceToken = Annotated[str, Meta(min_length=1, max_length=TOKEN_CHARS)]
Seq = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
PageSize = Annotated[int, Meta(ge=1, le=HISTORY_MAX)]
Cursor = Annotated[str, Meta(min_length=1, max_length=CURSOR_CHARS)]
Title = Annotated[str, Meta(min_length=1, max_length=TITLE_CHARS)]
Moment = Annotated[datetime, Meta(tz=True)]
Text = Annotated[str, Meta(min_length=1)]
Rate = Annotated[float, Meta(ge=0.01, le=RATE_MAX)]
Data = dict[str, Any]
UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no id may hold: control characters, and halves of surrogate pairs."""


def _unsaid(self: Struct) -> str:
    """The repr of a struct that holds a token or somebody's words."""
    return f"{type(self).__name__}(...)"


class Resume(Struct, frozen=True, kw_only=True):
    """Where a client left off: everything up to `seq` of `epoch` has arrived."""

    epoch: Id
    seq: Seq


class Hello(Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """A customer's first frame. `token` is None if the handshake carried it."""

    __repr__ = _unsaid
    ref: Ref | None = None
    token: str | None = None
    state: SessionState = SessionState.ACTIVE
    installation: Id | None = None
    resume: Resume | None = None


class Send(Struct, frozen=True, kw_only=True, tag_field="type", tag="send"):
    """A customer's message. `ref` is its idempotency key."""

    __repr__ = _unsaid
    ref: Ref
    text: Text
    data: Data | None = None


class Ack(Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """Everything up to `seq` has arrived."""

    ref: Ref | None = None
    seq: Seq


class Read(Struct, frozen=True, kw_only=True, tag_field="type", tag="read"):
    """Everything up to `seq` was seen."""

    ref: Ref | None = None
    seq: Seq


class Typing(Struct, frozen=True, kw_only=True, tag_field="type", tag="typing"):
    """The customer starts or stops typing."""

    ref: Ref | None = None
    on: bool


class State(Struct, frozen=True, kw_only=True, tag_field="type", tag="state"):
    """The chat comes on screen or leaves it."""

    ref: Ref | None = None
    state: SessionState


class History(Struct, frozen=True, kw_only=True, tag_field="type", tag="history"):
    """The `limit` messages below `before` (None: the newest)."""

    ref: Ref
    before: Seq | None = None
    limit: PageSize = HISTORY_DEFAULT


class RegisterDevice(Struct, frozen=True, kw_only=True, tag_field="type", tag="register_device"):
    """This installation's device token is `token` now."""

    __repr__ = _unsaid
    ref: Ref
    installation: Id
    token: DeviceToken
    platform: Id | None = None
    app: Id | None = None
    environment: Id | None = None
    locale: Id | None = None
    time_zone: Id | None = None


class DeregisterDevice(
    Struct, frozen=True, kw_only=True, tag_field="type", tag="deregister_device"
):
    """Ring this installation no more."""

    ref: Ref
    installation: Id


class Refresh(Struct, frozen=True, kw_only=True, tag_field="type", tag="refresh"):
    """A new token before the old one expires."""

    __repr__ = _unsaid
    ref: Ref
    token: str


class Ping(Struct, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Asks for a `pong`."""

    ref: Ref | None = None


class Bye(Struct, frozen=True, kw_only=True, tag_field="type", tag="bye"):
    """A clean leave."""

    ref: Ref | None = None


class AgentHello(Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """An agent's first frame."""

    __repr__ = _unsaid
    ref: Ref | None = None
    token: str | None = None


class Inbox(Struct, frozen=True, kw_only=True, tag_field="type", tag="inbox"):
    """A page of the tenant's conversations, and updates from now on."""

    ref: Ref
    cursor: Cursor | None = None
    limit: PageSize = HISTORY_DEFAULT
    filter: InboxFilter = InboxFilter.ALL


class Open(Struct, frozen=True, kw_only=True, tag_field="type", tag="open"):
    """Follow one conversation; the messages after `after` (None: the newest)."""

    ref: Ref
    customer: Id
    after: Seq | None = None


class Close(Struct, frozen=True, kw_only=True, tag_field="type", tag="close"):
    """Follow it no more."""

    ref: Ref
    customer: Id


class AgentSend(Struct, frozen=True, kw_only=True, tag_field="type", tag="send"):
    """An agent's message to `customer`. `ref` is its idempotency key."""

    __repr__ = _unsaid
    ref: Ref
    customer: Id
    text: Text
    data: Data | None = None


class AgentAck(Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """An agent's client has everything of `customer`'s conversation up to `seq`."""

    ref: Ref | None = None
    customer: Id
    seq: Seq


class AgentRead(Struct, frozen=True, kw_only=True, tag_field="type", tag="read"):
    """Moves the agents' shared read mark. Implies `ack`."""

    ref: Ref | None = None
    customer: Id
    seq: Seq


class AgentTyping(Struct, frozen=True, kw_only=True, tag_field="type", tag="typing"):
    """The agent starts or stops typing to `customer`."""

    ref: Ref | None = None
    customer: Id
    on: bool


class AgentHistory(Struct, frozen=True, kw_only=True, tag_field="type", tag="history"):
    """As `History`, of one customer."""

    ref: Ref
    customer: Id
    before: Seq | None = None
    limit: PageSize = HISTORY_DEFAULT


class End(Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The conversation is live no more."""

    ref: Ref
    customer: Id


CustomerFrame = (
    Hello
    | Send
    | Ack
    | Read
    | Typing
    | State
    | History
    | RegisterDevice
    | DeregisterDevice
    | Refresh
    | Ping
    | Bye
)
AgentFrame = (
    AgentHello
    | Inbox
    | Open
    | Close
    | AgentSend
    | AgentAck
    | AgentRead
    | AgentTyping
    | AgentHistory
    | End
    | Refresh
    | Ping
    | Bye
)


# HTTP bodies


class PostMessage(Struct, frozen=True, kw_only=True):
    """`POST /v1/messages`. `kind` None means the first of `ALLOWED_KINDS`."""

    __repr__ = _unsaid
    customer: Id
    text: Text
    data: Data | None = None
    kind: MessageKind | None = None
    title: Title | None = None
    expires_at: Moment | None = None


class Unknown(StrEnum):
    """What a campaign does about customers whom nobody has seen yet: `create` makes them."""

    CREATE = "create"
    SKIP = "skip"


class PostCampaign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/campaigns`. `text` and `title` are templates (`gateway.campaigns.audience`).

    `audience` is the word `devices` or a list of ids and objects; without it a file comes along.
    A slip in `send_at` would ring everybody at once: what is not known is refused.
    """

    __repr__ = _unsaid
    text: Text
    audience: list[str | dict[str, Any]] | Literal["devices"] | None = None
    title: Title | None = None
    data: Data | None = None
    send_at: Moment | None = None
    expires_at: Moment | None = None
    rate: Rate = RATE_DEFAULT
    unknown: Unknown = Unknown.CREATE


class ReplayDeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/dead_letters/replay`: which, all that is given must be so; `cursor` goes on.

    A slip in the name of a condition would replay everything: what is not known is refused. So
    would one in its value: null, of a caller whose customer was not found, is not everybody.
    """

    customer: Id | UnsetType = UNSET
    cause: Literal["refused", "expired"] | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET
    cursor: Cursor | None = None


class PutDevice(Struct, frozen=True, kw_only=True):
    """`PUT /v1/devices/{installation}`."""

    __repr__ = _unsaid
    token: DeviceToken
    platform: Id | None = None
    app: Id | None = None
    environment: Id | None = None
    locale: Id | None = None
    time_zone: Id | None = None


class PutPreferences(Struct, frozen=True, kw_only=True):
    """`PUT /v1/me/preferences`. What is not said is as it is for a customer who never said it."""

    muted_until: Moment | None = None
    proactive: bool = True
    time_zone: Id | None = None
    quiet_hours: Id | None = None


# Server to client: plain dict literals, checked by mypy, encoded once.


Author = TypedDict("Author", {"role": str, "id": str, "name": NotRequired[str]})  # noqa: UP013
"""Who wrote: a `Role`, an id and perhaps a name."""

Message = TypedDict(
    "Message",
    {
        "type": Literal["message"],
        "seq": int,
        "id": str,
        "from": Author,
        "text": str,
        "data": NotRequired[object],  # a JSON object, or an orjson.Fragment of one
        "kind": str,  # a MessageKind
        "at": str,
        "ref": NotRequired[str],
    },
)


class AgentMessage(Message):
    """A message as agents and services see it."""

    customer: str


class Welcome(TypedDict):
    """The answer to a customer's `hello`."""

    type: Literal["welcome"]
    ref: NotRequired[str]
    session: str
    customer: str
    epoch: str
    seq: int
    read_seq: int
    unread: int
    live: bool
    agents_acked_seq: int
    agents_read_seq: int
    resumed: bool
    limits: Mapping[str, int | float]
    server_time: str


class AgentWelcome(TypedDict):
    """The answer to an agent's `hello`."""

    type: Literal["welcome"]
    ref: NotRequired[str]
    session: str
    agent: str
    tenant: str
    limits: Mapping[str, int | float]
    server_time: str


class Sent(TypedDict):
    """The customer's message is on disk."""

    type: Literal["sent"]
    ref: str
    seq: int
    id: str
    at: str
    duplicate: NotRequired[bool]


class AgentSent(Sent):
    """The agent's message is on disk; `route` is a `Route`."""

    customer: str
    route: str
    reason: str


TypingNotice = TypedDict("TypingNotice", {"type": Literal["typing"], "from": Author, "on": bool})


class AgentTypingNotice(TypingNotice):
    """Somebody types in `customer`'s conversation."""

    customer: str


class Status(TypedDict):
    """Where the conversation stands, after a change of `live` or of somebody's marks."""

    type: Literal["status"]
    seq: int
    read_seq: int
    unread: int
    badge_seq: int
    live: bool
    agents_acked_seq: int
    agents_read_seq: int


class HistoryPage(TypedDict):
    """Messages in rising `seq`; `more` if older ones exist."""

    type: Literal["history"]
    ref: str
    messages: Sequence[Message | orjson.Fragment]
    more: bool


class AgentHistoryPage(TypedDict):
    """As `HistoryPage`, of one customer."""

    type: Literal["history"]
    ref: str
    customer: str
    messages: Sequence[AgentMessage | orjson.Fragment]
    more: bool


class DeviceRegistered(TypedDict):
    """The registration is on disk."""

    type: Literal["device"]
    ref: str
    installation: str
    deregistration_key: str


class Ok(TypedDict):
    """Done."""

    type: Literal["ok"]
    ref: str


class Pong(TypedDict):
    """The answer to `ping`."""

    type: Literal["pong"]
    ref: NotRequired[str]


class Error(TypedDict):
    """A request was refused; `retry_after` in seconds."""

    type: Literal["error"]
    ref: NotRequired[str]
    code: ErrorCode
    message: str
    retry_after: NotRequired[float]


class ConversationEntry(TypedDict):
    """A conversation as an inbox lists it. `last` is absent while nobody has written, and
    `unanswered_since` unless the customer waits for an answer."""

    customer: str
    name: NotRequired[str]
    live: bool
    unanswered_since: NotRequired[str]
    in_chat: bool
    seq: int
    last: NotRequired[AgentMessage | orjson.Fragment]
    unread: int
    waiting: int
    updated_at: str


class InboxPage(TypedDict):
    """A page of the inbox; `cursor` if there is more."""

    type: Literal["inbox"]
    ref: str
    conversations: Sequence[ConversationEntry]
    cursor: NotRequired[str]


class InboxUpdate(TypedDict):
    """A conversation of the tenant changed."""

    type: Literal["inbox_update"]
    conversation: ConversationEntry


class ConversationOpened(TypedDict):
    """The answer to `open`. `devices` says how many."""

    type: Literal["conversation"]
    ref: str
    customer: str
    seq: int
    read_seq: int
    acked_seq: int
    unread: int
    in_chat: bool
    live: bool
    devices: int
    messages: Sequence[AgentMessage | orjson.Fragment]
    more: bool


class Presence(TypedDict):
    """A followed customer came into chat or left it."""

    type: Literal["presence"]
    customer: str
    in_chat: bool
    sessions: int


class Receipt(TypedDict):
    """What became of the agent messages from `from_seq` to `seq`."""

    type: Literal["receipt"]
    customer: str
    from_seq: int
    seq: int
    state: ReceiptState
    reason: NotRequired[str]
    at: str


ToCustomer = (
    Welcome
    | Message
    | Sent
    | TypingNotice
    | Status
    | HistoryPage
    | DeviceRegistered
    | Ok
    | Pong
    | Error
)
ToAgent = (
    AgentWelcome
    | AgentMessage
    | AgentSent
    | AgentTypingNotice
    | AgentHistoryPage
    | InboxPage
    | InboxUpdate
    | ConversationOpened
    | Presence
    | Receipt
    | Ok
    | Pong
    | Error
)
ServerFrame = ToCustomer | ToAgent

CUSTOMER_FRAMES: Final[Mapping[str, type[Struct]]] = {
    str(frame.__struct_config__.tag): frame for frame in get_args(CustomerFrame)
}
AGENT_FRAMES: Final[Mapping[str, type[Struct]]] = {
    str(frame.__struct_config__.tag): frame for frame in get_args(AgentFrame)
}
SERVER_FRAMES: Final[Mapping[Role, Mapping[str, Any]]] = {
    role: {get_args(frame.__annotations__["type"])[0]: frame for frame in get_args(frames)}
    for role, frames in ((Role.CUSTOMER, ToCustomer), (Role.AGENT, ToAgent))
}
"""What the server sends to each role: frame type to TypedDict."""


encode: Final[Callable[[ServerFrame], bytes]] = orjson.dumps
"""A frame as a text frame has it, in UTF-8. For many receivers: encode once, send many."""


# Times

LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # that RFC 3339 can write


@lru_cache(maxsize=1024)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


@lru_cache(maxsize=1024)  # a commit's messages have one time, and each is told in several frames
def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds (rounded down), from seconds since the epoch, 1970 to 9999."""
    # A time that was parsed from milliseconds stays in its own: in the year 9999 a float of epoch
    # seconds is off by up to 0.03 ms.
    whole, milli = divmod(math.floor(seconds * 1000 + 0.05), 1000)
    return f"{_second(whole)}.{milli:03d}Z"


def span(since: float | None, until: float | None) -> tuple[float | None, float | None]:
    """Between which times lies what `timestamp` tells to be from `since` to `until`, both included
    (all in seconds since the epoch): who asks by a time that was told finds what it was told of."""
    first = None if since is None else since - 0.000_05
    last = None if until is None else until + 0.000_95
    return first, last


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch from an RFC 3339 time with a zone. Raises ValueError."""
    try:
        return msgspec.convert(text, Moment).timestamp()
    except msgspec.ValidationError:
        raise ValueError("not an RFC 3339 time with a zone") from None


# What is refused


class FrameError(Exception):
    """A request that is refused: what to answer. `ref` is its own, `retry_after` in seconds."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        ref: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ref = ref
        self.retry_after = retry_after
