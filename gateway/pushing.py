"""From a due time to a ring: who is looked at when, and the push worker's way to the writer.

Theory of operation. `gateway.alarms` keeps, per conversation, the earliest time at which something
in its row becomes due; when it comes, one change (`_tick`) judges the row again, and hands devices
whose time has come to the push worker. The worker asks back through `Book`, its `RingBook`: `look`
judges the facts and commits the claim, `settle` commits the verdict. What is judged and written is
in `gateway.owing` and `gateway.ringing`. The rows are the truth: after a crash `recover` sets the
alarms from them, and a ring that was in hand is called again under its id.

What a device owes is in its row: `owes` (a look is wanted), `ring` (claimed, not settled),
`wake_at` (when), `owed_ord` (up to which counted message a fan-out said so). Why it waits until
then (a backoff, a hold, quiet hours) is kept only of quiet hours (`Device.waits_for_morning`),
which may be others meanwhile. A device in the worker's hands is not woken again; while its call is
out, joins and leaves do not move its time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection

from gateway.alarms import Alarms
from gateway.context import Context
from gateway.owing import Owing
from gateway.ringing import Ringing
from push.ring import Attempt, BookUnavailable, Claim, DeviceRef, Pause
from storage.errors import Unavailable
from storage.records import Conversation, Device, Key
from storage.store import Needs, Store
from storage.transaction import Transaction

RETRY_TICK = 1.0  # seconds until a tick is tried again when the database could not be written


class Book:
    """When devices are looked at, and the push worker's `RingBook`."""

    def __init__(
        self,
        context: Context,
        owing: Owing,
        ringing: Ringing,
        wake: Callable[[DeviceRef, str], None],
    ) -> None:
        self._context = context
        self._owing = owing
        self._ringing = ringing
        self._store: Store = context.store
        self._clock = context.clock
        self._wake = wake
        self._busy: dict[int, str] = {}
        """The devices, by id, that are in the worker's hands, and for which backend."""
        self._anew: set[Key] = set()
        """To be judged though nothing in their rows is due: after a start, and by new rules."""
        self._calling = context.calling
        self.alarms = Alarms(context.clock, self._tick)
        self._store.changed = self.watch

    def watch(self, c: Conversation) -> None:
        """Set the alarm for the earliest time in the conversation's row."""
        self._expect(c.key, self._next(c))

    def _expect(self, key: Key, when: float) -> None:
        """What is of a tenant that is out of the configuration stays as it is until it is back."""
        if when != math.inf and key.tenant in self._context.tenants:
            self.alarms.set(key, when)

    def _next(self, c: Conversation) -> float:
        """The earliest time in the conversation's row, of what is not in the worker's hands."""
        when = math.inf
        if c.push_due_at is not None:
            when = c.push_due_at
        if c.expires_at is not None and c.expires_at < when:
            when = c.expires_at
        for device in c.devices:
            if device.wake_at is None or device.wake_at >= when:
                continue
            if not self._is_busy(c.key, device):
                when = device.wake_at
        return when

    def _is_busy(self, key: Key, device: Device) -> bool:
        """The worker has it, for the backend that it has now: registering may have changed it."""
        handed = self._busy.get(device.id)
        if handed is None or device.id in self._calling:
            return handed is not None
        backend = self._owing.backend(key.tenant, device)
        return backend is None or backend.name == handed

    async def recover(self) -> int:
        """Set the alarms from what was committed, all of it after the restart grace (rule 9)."""
        grace = self._clock()
        if not self._store.empty:  # nobody can be on the way back to a new gateway
            grace += self._context.timing.restart_grace
        self._context.restart_grace_until = self.alarms.floor = grace
        waiting = 0
        async for keys in self._store.unsettled(self._silent(self._context.tenants)):
            for key in keys:
                if key.tenant in self._context.tenants:
                    waiting += 1
                    self._anew.add(key)
                    self.alarms.set(key, grace)
        return waiting

    async def judge_anew(self, tenants: Collection[str]) -> None:
        """Look at all that waits of these tenants: their rules are others now."""
        async for keys in self._store.unsettled(self._silent(tenants)):
            for key in keys:
                if key.tenant in tenants:
                    self._anew.add(key)
                    self.alarms.set(key, self._clock())

    def _silent(self, tenants: Collection[str]) -> list[str]:
        """Those of them with a backend that corrects the number on an icon."""
        rules = self._context.rules
        return [name for name in tenants if any(b.silent for b in rules(name).backends)]

    def drain(self) -> None:
        """Start no more rings."""
        self._context.draining = True
        self.alarms.stop()

    def _tick(self, key: Key) -> None:
        """Judge the row, unless it says by now that nothing is due: it was acknowledged, or is in
        the worker's hands. What a change that waits for the writer makes due sets its own alarm.
        """
        known = None if key in self._anew else self._store.peek(key)
        if known is not None and (when := self._next(known)) > self._clock():
            self._expect(key, when)
            # Not at once: of a hundred thousand, so many in a turn of the loop as may be judged.
            asyncio.get_running_loop().call_soon(self.alarms.judged, key)
            return

        def change(tx: Transaction) -> None:
            found = tx.conversation(key)
            if found is None or self._context.draining:
                return
            c = self._owing.come_due(tx, found)
            ready = {
                device.id: backend.name
                for device in c.devices
                if device.wake_at is not None and device.wake_at <= tx.now
                if not self._is_busy(key, device)
                if (backend := self._owing.backend(key.tenant, device)) is not None
            }
            tx.after_commit(lambda: self._hand_over(key, ready))
            if c is found:  # else the commit tells of it
                tx.after_commit(lambda: self.watch(c))

        def done(value: None, error: Exception | None) -> None:
            if error is not None:
                self._anew.add(key)
                self.alarms.set(key, self._clock() + RETRY_TICK)
            self.alarms.judged(key)

        try:
            self._store.enqueue(change, Needs(keys=(key,)), done, later=True)
            self._anew.discard(key)  # not when it is done: rules may be newer by then
        except Unavailable:
            # There is no room: it keeps its place, or all that are due would be refused one by one.
            asyncio.get_running_loop().call_later(RETRY_TICK, self._again, key)

    def _again(self, key: Key) -> None:
        if not self._context.draining:
            self._tick(key)

    def _hand_over(self, key: Key, ready: dict[int, str]) -> None:
        for id, backend in ready.items():
            if self._busy.get(id) != backend:  # else another tick of this commit handed it over
                self._busy[id] = backend
                self._wake(DeviceRef(*key, id), backend)

    # What the worker asks

    async def look(self, ref: DeviceRef, pause: Pause | None = None) -> Claim | Pause | None:
        """`RingBook.look`: judge one device now, and commit the claim or the reason for none."""
        key = Key(ref.tenant, ref.customer)

        def change(tx: Transaction) -> Claim | Pause | None:
            c = tx.conversation(key)
            device = c.device(ref.device) if c is not None else None
            found: Claim | Pause | None = None
            if (
                c is not None
                and device is not None
                and device.wake_at is not None
                and not self._context.draining
            ):
                found = self._ringing.judge(tx, c, device, ref, pause)
            if isinstance(found, Claim):
                tx.after_commit(lambda: self._calling.add(ref.device))
            elif found is None:
                tx.after_commit(lambda: self._let_go(ref))
            return found

        try:
            return await self._store.submit(change, Needs(keys=(key,)), later=True)
        except Unavailable as error:
            raise BookUnavailable(str(error)) from error

    def _let_go(self, ref: DeviceRef) -> None:
        """The commit tells of its row after this: a look and a verdict are events of it."""
        self._busy.pop(ref.device, None)
        self._calling.discard(ref.device)

    async def settle(self, claim: Claim, attempt: Attempt) -> None:
        """`RingBook.settle`: commit what came of a call, unless the registration is another."""
        ref = claim.ref
        key = Key(ref.tenant, ref.customer)

        def change(tx: Transaction) -> None:
            c = tx.conversation(key)
            if c is not None:
                self._ringing.settle(tx, c, claim, attempt)
            tx.after_commit(lambda: self._let_go(ref))

        try:
            await self._store.submit(change, Needs(keys=(key,)), later=True)
        except Unavailable as error:
            raise BookUnavailable(str(error)) from error
