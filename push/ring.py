"""What a ring is, and the seam through which the push worker learns of rings.

Decides the shapes that `push` and its caller share, and nothing else. Leaves to the caller (who
implements `RingBook`): which device owes a ring, the facts behind it, the commit of the claim,
the outcome of the messages. Leaves to `push.worker`: when to look, to call and to settle.

One ring's life, seen from here::

                   wake(ref)
                      |
                      v            nothing to ring now: the book noted why, and wakes us later
                  look(ref) ------------------------------------------> None
                      | Claim, committed: device, coverage and content are fixed
                      v
              call to the backend  <--- the process dies: same id, same bytes after the restart
                      | Attempt
                      v
           settle(claim, attempt) ---> retry, misconfigured: waits for `retry_at`, then look again
                      |
                      v
        accepted, token_dead, refused: the ring is over

Errors of this package (no leaf carries a token, a secret or a message text)::

    PushError
    ├── BookUnavailable       the book cannot write now; nothing was changed, ask again
    ├── Moved                 the registration is another: nothing is called
    ├── SigningSecretError    (push.signing)  a secret that is no Standard Webhooks secret
    ├── UnknownAdapterError   (push.adapters) a tenant names an adapter that does not exist
    ├── AdapterBroken         (push.adapters) an installed adapter cannot be used
    ├── OptionError           (push.adapters) a tenant's options are not what its adapter wants
    ├── Unwritable            (push.adapters) a ring that cannot be written in the tenant's form
    ├── NoToken               (push.oauth)    no OAuth2 token is to be had
    └── TlsFilesError         (push.tls)      a tenant's certificate files cannot be used
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from push.backends import OWN, Backend
from push.credentials import NONE, Credentials
from push.guard import Network


class PushError(Exception):
    """Base of every error that this package raises."""


class BookUnavailable(PushError):
    """The book cannot write now (disk full, locked, closing). Nothing was changed.

    `reason` is for logs, in one line.
    """

    def __init__(self, reason: str = "unavailable") -> None:
        super().__init__(reason)
        self.reason = reason


class Moved(PushError):
    """The registration that a claim was made for is another by now: its request does not leave."""


class RingKind(StrEnum):
    """Why the device is rung; `badge` is silent and only corrects the number on the icon."""

    MESSAGE = "message"
    PROACTIVE = "proactive"
    BADGE = "badge"


MESSAGE, PROACTIVE, BADGE = RingKind
"""By themselves: as `RingKind.BADGE` each costs a thousand instructions (Python 3.11)."""


class VerdictKind(StrEnum):
    """What the customer backend's answer means for one ring (docs/push-contract.md)."""

    ACCEPTED = "accepted"
    TOKEN_DEAD = "token_dead"  # noqa: S105  (a verdict's name)
    RETRY = "retry"
    REFUSED = "refused"
    MISCONFIGURED = "misconfigured"


ACCEPTED: Final = VerdictKind.ACCEPTED
TOKEN_DEAD: Final = VerdictKind.TOKEN_DEAD
RETRIED: Final = frozenset({VerdictKind.RETRY, VerdictKind.MISCONFIGURED})
"""After these the ring is still wanted: the endpoint failed, and is called again."""
MENDED: Final = frozenset({VerdictKind.REFUSED, VerdictKind.MISCONFIGURED})
"""These somebody has to mend."""


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """One notification to one device, fixed at the claim; nothing under this `id` changes later.

    Survives `msgspec.json` in both directions unchanged, so that a retry after a restart sends
    the same bytes. `title` and `text` are those of the newest covered message (None for `badge`),
    `seq` is that message's place (for `badge`: the newest of all),
    `since` the first that was neither acknowledged nor rung for by then (0: not kept), `unread` was
    exact at the claim, times are epoch seconds. `platform` to `installation` are what the app had
    told of its installation by then: registering anew concerns the next ring.
    """

    id: str
    kind: RingKind
    customer: str
    seq: int
    title: str | None
    text: str | None
    unread: int
    badge_seq: int
    live: bool
    expires_at: float
    platform: str | None = None
    app: str | None = None
    environment: str | None = None
    locale: str | None = None
    installation: str | None = None
    claimed_at: float = 0.0
    since: int = 0

    def __repr__(self) -> str:
        """Leave the message text out: a repr ends up in logs and in asyncio's debug output."""
        return f"Ring(id={self.id!r}, kind={self.kind.value!r}, seq={self.seq})"


class Target(msgspec.Struct, frozen=True):
    """Where a ring goes: the token of its registration's generation, opaque and never shown."""

    token: str
    fingerprint: str

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"Target(fingerprint={self.fingerprint!r})"


class DeviceRef(msgspec.Struct, frozen=True, cache_hash=True):
    """Names one device row. What is woken, worked on and kept apart is a `DeviceRef`."""

    tenant: str
    customer: str
    device: int


def _stands() -> bool:
    return True


class Claim(msgspec.Struct, frozen=True):
    """A committed permission to make one call: number `attempt` (from 1) for this ring.

    `generation` is the device registration's; a verdict for another generation touches nothing.
    `backend` names the endpoint: that of the environment and app which the ring was claimed with.
    `stands` tells whether the registration is still that one. It is asked when a request is about
    to leave: a call waits for tokens, names and connections before, and phones change hands.
    """

    ref: DeviceRef
    generation: int
    ring: Ring
    target: Target
    attempt: int
    backend: str = ""
    stands: Callable[[], bool] = _stands


class Verdict(msgspec.Struct, frozen=True):
    """What one answer, or the lack of one, means.

    `reason` is a short stable word ("http_200", "timeout", "connect", "tls", "redirect", …);
    `status` the HTTP status if one arrived; `retry_after` the backend's wish in seconds, capped.
    """

    kind: VerdictKind
    reason: str
    status: int | None = None
    retry_after: float | None = None


class Attempt(msgspec.Struct, frozen=True):
    """One finished call. `ms` is its duration, `at` its end (epoch s).

    `retry_at` (epoch s) is set for what is `RETRIED`, else None; it may lie beyond the ring's
    expiry, which the book judges. `quarantine` is only ever true for `token_dead`: the tenant's
    backend is rejecting tokens in a wave, so the registration is kept aside, not disabled.
    """

    verdict: Verdict
    ms: float
    at: float
    retry_at: float | None = None
    quarantine: bool = False


class Pause(StrEnum):
    """Why an endpoint is not called at present (`push.breaker`)."""

    ENDPOINT_DOWN = "endpoint_down"
    SUSPENDED = "suspended"


class RingBook(Protocol):
    """Where rings are claimed and settled; the gateway implements it over its one writer."""

    async def look(self, ref: DeviceRef, pause: Pause | None = None) -> Claim | Pause | None:
        """Judge the facts against the state just committed, and commit the claim.

        Returns the claim (a new ring's first, or the next attempt of the ring in hand), or None
        when there is nothing to ring now: then the book has recorded why and, if a later time is
        known, calls `PushWorker.wake` then. With a `pause` nothing is claimed: what would be rung
        is recorded as waiting for that reason, `pause` is returned, and the device stays in the
        worker's hands. Raises `BookUnavailable`.
        """
        ...

    async def settle(self, claim: Claim, attempt: Attempt) -> None:
        """Commit what came of `claim`.

        Idempotent per (ring id, attempt number): it is repeated until it returns. With
        `attempt.retry_at` the book wakes the device at that time; without, as soon as the
        device owes something further. Raises `BookUnavailable`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How one of a tenant's endpoints is called. Times in seconds; `signing_secrets` newest first.

    `adapter` is one of `push.adapters.names()`, `options` its JSON object as text. `ca_file` adds
    nothing to the system's authorities: it replaces them for this tenant. `allow_networks` may be
    called although they are no part of the public internet (`push.guard`).
    """

    tenant: str
    url: str = field(repr=False)  # may carry a credential in its userinfo or query
    adapter: str = "asapp"
    options: str = field(default="{}", repr=False)
    auth_token: str = field(default="", repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    credentials: Credentials = NONE
    ca_file: str | None = None
    allow_networks: frozenset[Network] = frozenset()
    backend: Backend = OWN
    connect_timeout: float = 5.0
    timeout: float = 15.0
    in_flight: int = 32
    retry_first: float = 1.0
    retry_max: float = 300.0
    rate_per_second: float | None = None
    breaker_after: int = 10
    suspend_after: float = 86_400.0

    @property
    def named(self) -> dict[str, str]:
        """How logs name it: by the tenant, and by the backend if it is not the tenant's own."""
        told = {"tenant": self.tenant}
        return told | {"backend": self.backend.name} if self.backend.name else told
