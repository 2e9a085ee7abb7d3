"""Registrations: which installation holds which device token, and whose it is (I6).

A device token belongs to one customer and an installation holds at most one. Registering either for
somebody else takes it away in the same transaction, settles what was owed on it there, and begins a
new registration with a new id: late verdicts and old deregistration keys name another one. A
customer's own token under another installation is the same phone: its registration, with the ring
in hand, goes along.

A deregistration key is `tenant.id.mac`: the registration's id under an HMAC with the database's own
secret. It needs no storage, stays the same until the owner changes (then the id does), and a key
that was never given out is told apart from one whose time has passed.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

import msgspec

from gateway import protocol
from gateway.context import Context
from gateway.delivery import Reason
from gateway.owing import Owing, pending_again
from gateway.protocol import CloseCode, ErrorCode, FrameError, Role
from gateway.session import CustomerSession, Rates
from storage import outcomes
from storage.outcomes import Trigger
from storage.records import Conversation, Detail, Device, Key
from storage.store import Needs
from storage.transaction import Owner, Transaction

replace = msgspec.structs.replace

LACKED_A_DEVICE = {
    reason.value
    for reason in (Reason.NO_DEVICE, Reason.NO_ENDPOINT, Reason.TOKEN_DEAD, Reason.QUARANTINED)
}
"""Reasons of undeliverable that a registration mends."""


class Registration(msgspec.Struct, frozen=True):
    """What an app tells of its installation. `token` is opaque."""

    installation: str
    token: str
    platform: str | None = None
    app: str | None = None
    environment: str | None = None
    locale: str | None = None
    time_zone: str | None = None

    @classmethod
    def of(cls, told: protocol.RegisterDevice | protocol.PutDevice, installation: str) -> Self:
        return cls(installation, told.token, **{name: getattr(told, name) for name in TOLD})

    def __repr__(self) -> str:
        return f"Registration(installation={self.installation!r})"


TOLD = Registration.__struct_fields__[2:]
"""What an app may tell of its installation beside its token."""


PER_MINUTE = 60.0
AT_ONCE = 120.0
"""Registrations of one customer. Each records what it takes away for every message that may be rung
for, so they may not come as fast as the disk takes them (I9)."""
DEVICES = 20
"""Registrations of one customer: a ring goes to each, and a fan-out judges all at once (I9)."""


class Devices:
    """The use cases of registrations."""

    def __init__(self, context: Context, owing: Owing) -> None:
        self._context = context
        self._owing = owing
        self._store = context.store
        self._rates = Rates({Role.CUSTOMER: (PER_MINUTE, AT_ONCE)})

    async def register(
        self,
        key: Key,
        name: str | None,
        told: Registration,
        session: CustomerSession | None = None,
    ) -> str:
        """Register and return the deregistration key. Makes the customer if new.

        Undeliverable messages that lacked a device are pending again, due after `ack_timeout`.
        Raises `FrameError` `rate_limited`, and `unauthorized` if `session`, which asks, was signed
        out before its turn.
        """
        bucket = self._rates.of(key.tenant, Role.CUSTOMER, key.customer)
        bucket.spend(self._context.clock(), "registrations")

        def change(tx: Transaction) -> int:
            if session is not None and session.revoked:
                raise FrameError(ErrorCode.UNAUTHORIZED, "this session was signed out")
            c = before = tx.conversation(key) or tx.create(key, name)
            owners = (
                tx.owner_of_token(key.tenant, told.token),
                tx.owner_of_installation(key.tenant, told.installation),
            )
            # The token comes first: it is the phone, whatever the app now calls its installation.
            mine = next((o for o in owners if o is not None and o.key == key), None)
            for owner in owners:
                if owner is not None and owner != mine:
                    self._remove(tx, owner, "moved", settle=owner.key != key)
            c = tx.conversation(key) or c
            device = self._device(tx, c, mine, told)
            c = self._make_room(tx, tx.move_token(c, device), device)
            c = self._owing.reconsider(tx, c)
            c = self._owing.settle_undeliverable(tx, c)
            _begin(tx, self._rearm(tx, c), before, device)
            return device.id

        needs = Needs(keys=(key,), device=(key.tenant, told.installation, told.token))
        id = await self._store.submit(change, needs)
        return self._key(key.tenant, id)

    def _make_room(self, tx: Transaction, c: Conversation, device: Device) -> Conversation:
        """Of more than `DEVICES` those go that are dead, then those told longest ago."""
        others = sorted(
            (d for d in c.devices if d.id != device.id), key=lambda d: (d.live, d.registered_at)
        )
        for other in others[: max(0, len(c.devices) - DEVICES)]:
            self._remove(tx, Owner(c.key, other.id), "too_many")
        return tx.conversation(c.key) or c

    def _device(
        self, tx: Transaction, c: Conversation, mine: Owner | None, told: Registration
    ) -> Device:
        old = c.device(mine.device) if mine is not None else None
        about: Any = {name: getattr(told, name) for name in ("installation", *TOLD)}
        about["registered_at"] = tx.now
        if old is not None and old.live and old.token == told.token:
            return replace(old, **about)
        if old is None:
            return Device(
                id=tx.new_device_id(),
                token=told.token,
                generation=1,
                **about,
            )
        # Another token, or one that was given up: what was claimed for the old one is over.
        owes = old.owes or old.ring is not None
        outdated = (old.badge or 0) > c.unread  # it was read while this phone could not be told
        return Device(
            id=old.id,
            token=told.token,
            generation=old.generation + 1,
            covered=old.covered,
            unrung=old.unrung,
            badge=old.badge,
            owes=owes or outdated,
            owed_ord=max(old.owed_ord, old.rung_to.ord) if owes else old.covered.ord,
            wake_at=tx.now + self._context.timing.ack_timeout if owes or outdated else None,
            **about,
        )

    def _rearm(self, tx: Transaction, c: Conversation) -> Conversation:
        """Messages that lacked a device, and have not expired, are pending again."""
        # What every phone has been rung for since stays so: the backend of one may have been new.
        rung = [d for d in c.live_devices if self._owing.backend(c.tenant, d) is not None]
        covered = min((device.covered.ord for device in rung), default=0)
        lacked = any(span.reason in LACKED_A_DEVICE for span in c.settled)
        again = [
            message
            for message in (tx.unacked(c) if lacked else ())
            if message.ord > covered and not message.has_expired(tx.now)
            if (span := outcomes.settling(c, message)) and span.reason in LACKED_A_DEVICE
        ]
        c = pending_again(tx, c, again, Trigger.REGISTRATION)
        if c.push_due_at is None and outcomes.pending(c):
            c = tx.put(replace(c, push_due_at=tx.now + self._context.timing.ack_timeout))
        return c

    async def deregister(self, key: Key, installation: str) -> None:
        """Remove the customer's own registration of this installation, if there is one."""
        await self._deregister(key.tenant, installation, lambda owner: owner.key == key)

    async def deregister_by_key(self, installation: str, given: str) -> bool:
        """Remove the registration that `given` was made for, if it still is this installation's.

        False if the key was never given out.
        """
        named = self._read_key(given)
        if named is None:
            return False
        tenant, id = named
        await self._deregister(tenant, installation, lambda owner: owner.device == id)
        return True

    async def _deregister(
        self, tenant: str, installation: str, meant: Callable[[Owner], bool]
    ) -> None:
        def change(tx: Transaction) -> None:
            owner = tx.owner_of_installation(tenant, installation)
            if owner is not None and meant(owner):
                self._remove(tx, owner, "deregistered")

        await self._store.submit(change, Needs(device=(tenant, installation, None)))

    def _remove(self, tx: Transaction, owner: Owner, why: str, *, settle: bool = True) -> None:
        """The registration ends. Without `settle` what was owed on it is left as it is: its
        customer's own next one comes in the same change, and until then one phone is missing."""
        c = tx.conversation(owner.key)
        device = c.device(owner.device) if c is not None else None
        if c is not None and device is not None:
            c = _gone(tx, c, device, why)
            if settle:
                self._owing.settle_undeliverable(tx, c)

    async def forget(self, before: float) -> None:
        """Forget registrations whose token died before then (epoch seconds)."""

        def change(key: Key, tx: Transaction) -> None:
            c = tx.conversation(key)
            for device in c.devices if c is not None else ():
                if c is not None and not device.live and (device.state_at or 0.0) < before:
                    c = tx.remove_device(c, device)

        await self._for_each(lambda: self._store.forgettable(before), change)

    async def expire(self, tenant: str, before: float) -> int:
        """Remove registrations that no app has renewed since then (epoch seconds); return of how
        many customers."""

        def change(key: Key, tx: Transaction) -> None:
            c = tx.conversation(key)
            for device in c.devices if c is not None else ():
                # One whose token does not open is live in its row, and dead here.
                if (device.live or not device.token) and device.registered_at < before:
                    self._remove(tx, Owner(key, device.id), "stale")

        return await self._for_each(lambda: self._store.stale(tenant, before), change)

    async def _for_each(
        self,
        some: Callable[[], Awaitable[list[Key]]],
        change: Callable[[Key, Transaction], None],
    ) -> int:
        """Change whom `some` finds, until it finds nobody new; return how many they were."""
        done = set[Key]()
        while keys := [key for key in await some() if key not in done]:
            for key in keys:
                needs = Needs(keys=(key,))
                await self._store.submit(partial(change, key), needs, later=True)
            done.update(keys)
        return len(done)

    async def sign_out(self, key: Key) -> bool:
        """Close the customer's sessions and remove all devices; False if there is no such one."""

        def change(tx: Transaction) -> bool:
            c = tx.conversation(key)
            if c is None:
                return False
            for session in self._context.hub.sessions(key):  # what they ask for comes after this
                tx.undo(session.pardon)
                session.revoked = True
                tx.after_commit(partial(session.close, CloseCode.SIGNED_OUT))
            for device in c.devices:
                c = _gone(tx, c, device, "signed_out")
            self._owing.settle_undeliverable(tx, c)
            return True

        return await self._store.submit(change, Needs(keys=(key,)))

    # Keys

    def _key(self, tenant: str, id: int) -> str:
        return f"{tenant}.{id}.{self._mac(tenant, id)}"

    def _read_key(self, given: str) -> tuple[str, int] | None:
        """The tenant and the id that a key names; None if it was never given out."""
        named, _, mac = given.rpartition(".")
        tenant, _, id = named.rpartition(".")
        if not given.isascii() or not id.isdecimal() or len(id) > 18:
            return None
        if not hmac.compare_digest(mac, self._mac(tenant, int(id))):
            return None
        return tenant, int(id)

    def _mac(self, tenant: str, id: int) -> str:
        secret = bytes.fromhex(self._store.meta["secret"])
        digest = hmac.digest(secret, f"deregister:{tenant}:{id}".encode(), hashlib.sha256)
        return urlsafe_b64encode(digest[:18]).decode()


def _begin(tx: Transaction, c: Conversation, before: Conversation, device: Device) -> None:
    """A registration that is new, or was dead (`before`), begins behind what has its outcome by
    now, and is not rung for that. What was already asked of it, it still owes."""
    old = before.device(device.id)
    renewed = old is not None and old.generation == device.generation
    if renewed or device.owed_ord > device.covered.ord:
        return
    waiting = outcomes.pending(c)
    upto = waiting[0].lo if waiting else c.last
    begun = c.device(device.id)
    if begun is not None and begun.covered < upto:
        tx.put(c.with_device(replace(begun, covered=upto, owed_ord=upto.ord)))


def _gone(tx: Transaction, c: Conversation, device: Device, why: str) -> Conversation:
    """Without this registration: recorded for each message that it might still be rung for."""
    c = tx.remove_device(c, device)
    if c.last_seq:
        first = min(c.left_from(device), c.last_seq)
        tx.event(c, first, c.last_seq, "device_removed", Detail(reason=why))
    return c
