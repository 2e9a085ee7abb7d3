"""One batch of changes against the state just committed, as the writer builds it in memory.

Theory of operation. Before a batch the writer loads the rows that its changes said they need.
Then each change runs in turn, synchronously, seeing what the ones before it did; what it wants is
collected here. A change that raises is undone alone (`savepoint`, `rollback`). At the end
`statements` says what to write, in a number of statements that does not grow with the batch.

The methods are the use cases: what may be done to a conversation. Outcomes and the counters of the
conservation law are kept here, so that no caller can move one without the other. When a push is due
and who is in chat is not known here; callers set those fields with `put`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from storage import outcomes, sql
from storage.campaigns import Campaign, campaign_put
from storage.errors import NotRead
from storage.outcomes import Move, Trigger
from storage.records import (
    ACKED,
    BEGINNING,
    PENDING,
    Conversation,
    Cut,
    Detail,
    Device,
    Draft,
    Key,
    Message,
    Span,
)
from storage.sql import Statement
from storage.vault import Vault

astuple, replace = msgspec.structs.astuple, msgspec.structs.replace


class Mark(msgspec.Struct, frozen=True):
    """A cut that somebody named by its seq, how much the customer had said up to there, and when
    the first counted message after it was committed."""

    cut: Cut
    said: int
    next_at: float | None


class Owner(NamedTuple):
    """Whose registration holds an installation or a token."""

    key: Key
    device: int


class Loaded(msgspec.Struct):
    """What was read for a batch, beside the conversations: answers to what the changes asked.

    `unacked` has a list, if an empty one, for every conversation of which it was read.
    """

    refs: dict[tuple[Key, str, str, str], Message] = {}
    marks: dict[tuple[Key, int], Mark] = {}
    unacked: dict[Key, list[Message]] = {}
    installations: dict[tuple[str, str], Owner | None] = {}
    tokens: dict[tuple[str, str], Owner | None] = {}
    campaigns: dict[str, Campaign] = {}


class Ids(msgspec.Struct):
    """The next id of each kind. What a batch takes of them is taken once it is committed."""

    conversation: int = 1
    device: int = 1
    event: int = 1


Savepoint = tuple[int, ...]
"""How much of everything there was."""
NOTHING: Savepoint = (0,) * 8
UNSEEN = Conversation(0, Key("", ""))
"""What is committed of one that nobody has written yet."""


class Transaction:
    """What a change may do. Valid only while the change runs."""

    def __init__(
        self,
        now: float,
        committed: dict[Key, Conversation],
        loaded: Loaded,
        ids: Ids,
        vault: Vault,
    ) -> None:
        self.now = now
        self.ids = replace(ids)
        self._first_device = ids.device
        self.callbacks: list[Callable[[], None]] = []
        self.changed: dict[Key, Conversation] = {}
        self._committed = committed
        self._vault = vault
        self._loaded = loaded
        self._messages: list[Message] = []
        self._events: list[tuple[Conversation, int, int, str, str | None]] = []
        self._moved: list[tuple[tuple[str, str], int]] = []  # a tenant's counter, by how much
        self._spans: list[tuple[int, int, Span | None]] = []
        self._puts: list[tuple[Key, Conversation | None]] = []
        self._undo: list[Callable[[], Any]] = []
        self._also: list[Statement] = []
        self._touched = False
        self.counted: Mapping[tuple[str, str], int] = {}
        """By how much each of the tenants' counters changes, as `statements` found it."""

    def close(self) -> None:
        """Let go of what refers back here: else all that a batch held waits for the collector."""
        self.callbacks.clear()
        self._puts.clear()
        self._undo.clear()

    # What is known

    def conversation(self, key: Key) -> Conversation | None:
        """The conversation as the changes before this one left it."""
        return self.changed.get(key) or self._committed.get(key)

    def sent_before(self, key: Key, role: str, author: str, ref: str) -> Message | None:
        """The message that this sender already sent here under `ref`."""
        return self._loaded.refs.get((key, role, author, ref))

    def mark(self, conversation: Conversation, seq: int) -> Mark | None:
        """The cut after message `seq`; None when there is no such message in what was committed."""
        if seq == 0:
            return Mark(BEGINNING, 0, None)
        committed = self._committed.get(conversation.key)
        if committed is not None and seq == committed.last_seq:
            return Mark(committed.last, committed.last_said, None)
        return self._loaded.marks.get((conversation.key, seq))

    def appended(self, conversation: Conversation, seq: int) -> Mark | None:
        """The same of a message that a change before this one appended."""
        for message in self._messages:
            if (message.conversation, message.seq) == (conversation.id, seq):
                return Mark(Cut(seq, message.ord), message.said, None)
        return None

    def unacked(self, conversation: Conversation) -> list[Message]:
        """Counted messages after the acked cursor, oldest first; of very many not all are read.

        Raises `NotRead`, which is the store's to answer: the change is judged again, knowing them.
        """
        c = conversation
        if c.acked_ord == c.last_ord:
            return []
        found = self._loaded.unacked.get(c.key)
        if found is None:
            raise NotRead(c.key)
        return [message for message in found if message.ord > c.acked_ord]

    def owner_of_installation(self, tenant: str, installation: str) -> Owner | None:
        return self._loaded.installations.get((tenant, installation))

    def owner_of_token(self, tenant: str, token: str) -> Owner | None:
        return self._loaded.tokens.get((tenant, self._vault.lookup(tenant, token)))

    def campaign(self, id: str) -> Campaign | None:
        """The campaign as the changes before this one left it, if it was asked for."""
        return self._loaded.campaigns.get(id)

    # What may be done

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run `callback` once the batch is on disk, in the order of the changes."""
        self.callbacks.append(callback)

    def put(self, conversation: Conversation) -> Conversation:
        """Make `conversation` the state that the following changes see."""
        key = conversation.key
        self._puts.append((key, self.changed.get(key)))
        self.changed[key] = conversation
        return conversation

    def create(self, key: Key, name: str | None) -> Conversation:
        """A conversation for a customer that nobody has seen before."""
        conversation = Conversation(self.ids.conversation, key, name, updated_at=self.now)
        self.ids.conversation += 1
        return self.put(conversation)

    def append_message(
        self, conversation: Conversation, draft: Draft, **changes: Any
    ) -> tuple[Conversation, Message]:
        """Give `draft` the next place; `changes` are further fields of the conversation.

        A counted message becomes pending and unread.
        """
        c = conversation
        counted = draft.counted
        ord = c.last_ord + counted
        said = c.last_said + (draft.role == "customer")
        message = Message(c.id, c.last_seq + 1, ord, said, self.now, *astuple(draft))
        self._messages.append(message)
        if draft.ref is not None:
            slot = (c.key, draft.role, draft.author, draft.ref)
            self._loaded.refs[slot] = message
            self._undo.append(partial(self._loaded.refs.pop, slot, None))
        if counted:
            tenant = c.key.tenant
            self._moved += ((tenant, "accepted"), 1), ((tenant, PENDING), 1)
            unacked = self._loaded.unacked.get(c.key)
            if unacked is not None:
                unacked.append(message)
                self._undo.append(unacked.pop)
            changes["newest_counted"] = message
            changes["badge_seq"] = c.badge_seq + 1
            expires_at = draft.expires_at
            if c.expires_at is None or (expires_at is not None and expires_at < c.expires_at):
                changes["expires_at"] = expires_at
        updated = replace(
            c,
            last_seq=message.seq,
            last_ord=ord,
            last_said=said,
            newest=message,
            updated_at=self.now,
            **changes,
        )
        return self.put(updated), message

    def acknowledge(
        self, conversation: Conversation, cut: Cut, **changes: Any
    ) -> tuple[Conversation, tuple[Move, ...]]:
        """The customer has everything up to `cut`: move the acked cursor there, never back.

        `changes` are further fields of the conversation, if the cursor moves.
        """
        if cut.seq <= conversation.acked_seq:
            return conversation, ()
        c = conversation
        if cut.ord == c.last_ord or all(span.hi_ord <= cut.ord for span in outcomes.pending(c)):
            changes["expires_at"] = None
            if c.hold_from is not None and outcomes.pending(c):  # else joins held another thing
                changes["hold_from"] = None
        if changes:
            conversation = replace(conversation, **changes)
        return self.transition(conversation, BEGINNING, cut, Trigger.ACK)

    def mark_read(self, conversation: Conversation, cut: Cut) -> Conversation:
        """Move the read mark to `cut` (already acknowledged), never back."""
        if cut.seq <= conversation.read_seq:
            return conversation
        changed = cut.ord != conversation.read_ord
        return self.put(
            replace(
                conversation,
                read_seq=cut.seq,
                read_ord=cut.ord,
                badge_seq=conversation.badge_seq + changed,
            )
        )

    def transition(
        self,
        conversation: Conversation,
        lo: Cut,
        hi: Cut,
        trigger: Trigger,
        reason: str | None = None,
    ) -> tuple[Conversation, tuple[Move, ...]]:
        """Apply `trigger` to the messages after `lo` up to `hi`, and count what moved (I2)."""
        change = outcomes.transition(conversation, lo, hi, trigger, reason)
        id, tenant = conversation.id, conversation.key.tenant
        for span in change.dropped:
            self._spans.append((id, span.lo_seq, None))
        for span in change.added:
            self._spans.append((id, span.lo_seq, span))
        for move in change.moves:
            origin, span = move.origin, move.span
            self._moved += ((tenant, origin), -span.count), ((tenant, span.outcome), span.count)
            if origin is PENDING and span.outcome is ACKED:
                continue  # the common case, told by the ack's own event
            self.event(
                change.conversation,
                span.lo_seq + 1,
                span.hi_seq,
                "outcome",
                Detail(outcome=span.outcome, was=origin, reason=span.reason),
            )
        return self.put(change.conversation), change.moves

    def make_pending(
        self, conversation: Conversation, messages: list[Message], trigger: Trigger
    ) -> Conversation:
        """Apply `trigger` to `messages` (rising): they are pending again, and expire in time."""
        c = conversation
        if messages and c.hold_from is not None and not outcomes.pending(c):
            c = replace(c, hold_from=None)  # what joins held before held nothing of these
        for first, last in outcomes.runs(messages):
            c, _ = self.transition(c, first.before, last.cut, trigger)
        times = (c.expires_at, *(message.expires_at for message in messages))
        soonest = min((time for time in times if time is not None), default=None)
        return c if soonest == c.expires_at else self.put(replace(c, expires_at=soonest))

    def move_token(self, conversation: Conversation, device: Device) -> Conversation:
        """Register `device` here. The caller has taken its token and installation from others.

        What it held before of either is free again, also for the changes that follow.
        """
        key = conversation.key
        before = conversation.device(device.id)
        if before is not None:
            self._disown(key.tenant, before)
        if device.sealed is None:
            sealed = self._vault.seal(key.tenant, device.id, device.token)
            if sealed.by is not None:
                device = replace(device, sealed=sealed)
        owner = Owner(key, device.id)
        self._remember(self._loaded.installations, (key.tenant, device.installation), owner)
        self._remember(self._loaded.tokens, (key.tenant, device.found_by), owner)
        return self.put(conversation.with_device(device))

    def remove_device(self, conversation: Conversation, device: Device) -> Conversation:
        """Forget a registration, its token and what it owed."""
        self._disown(conversation.tenant, device)
        return self.put(conversation.without_device(device.id))

    def new_device_id(self) -> int:
        """A registration's id: rising, never used twice, not even after a deletion."""
        id = self.ids.device
        self.ids.device += 1
        return id

    def event(
        self,
        conversation: Conversation,
        from_seq: int,
        seq: int,
        event: str,
        detail: Detail | None = None,
    ) -> None:
        """Record a fact about the messages from `from_seq` to `seq`."""
        text = None if detail is None else msgspec.json.encode(detail).decode()
        self._events.append((conversation, from_seq, seq, event, text))

    def put_campaign(self, campaign: Campaign) -> Campaign:
        """Make `campaign` the state that the following changes see."""
        known = self._loaded.campaigns
        before = known.get(campaign.id)
        self._undo.append(
            lambda: known.pop(campaign.id) if before is None else known.update({before.id: before})
        )
        known[campaign.id] = campaign
        self.also(campaign_put(campaign))
        return campaign

    def also(self, statement: Statement) -> None:
        """Write this too, after everything else: for tables that no other change judges."""
        self._also.append(statement)

    def undo(self, callback: Callable[[], Any]) -> None:
        """Run `callback` if this change turns out not to have happened, or is run again.

        For what a change does to memory.
        """
        self._undo.append(callback)

    def touch(self) -> None:
        """Write though nothing changes, to learn whether the disk confirms."""
        self._touched = True

    # For the writer

    def savepoint(self) -> Savepoint:
        return (
            len(self._puts), len(self._undo), len(self.callbacks), len(self._messages),
            len(self._events), len(self._moved), len(self._spans), len(self._also),
        )  # fmt: skip

    def rollback(self, to: Savepoint = NOTHING) -> None:
        """Undo what was done since `to`."""
        puts, undo, callbacks, messages, events, moved, spans, also = to
        for key, before in reversed(self._puts[puts:]):
            if before is None:
                self.changed.pop(key, None)
            else:
                self.changed[key] = before
        for callback in reversed(self._undo[undo:]):
            callback()
        del self._puts[puts:], self._undo[undo:], self.callbacks[callbacks:]
        del self._messages[messages:], self._events[events:], self._moved[moved:]
        del self._spans[spans:], self._also[also:]

    def counters(self) -> Mapping[tuple[str, str], int]:
        """By how much each of the tenants' counters changes."""
        delta: dict[tuple[str, str], int] = {}
        for counter, by in self._moved:
            delta[counter] = delta.get(counter, 0) + by
        return delta

    def statements(self) -> list[Statement]:
        """What to write: a few statements, parents first, deletions before insertions."""
        self.counted = self.counters()
        events = self._chain()
        statements: list[Statement] = []
        if self._touched:
            statements += [(probe, ()) for probe in sql.TOUCH]
        statements += sql.written(
            sql.CONVERSATIONS, [sql.conversation_row(c) for c in self.changed.values()]
        )
        if self._messages:
            statements += sql.written(sql.MESSAGES, [sql.message_row(m) for m in self._messages])
        if self._spans:
            statements += self._outcomes()
        statements += self._beside()
        statements += sql.written(sql.EVENTS, events)
        statements += sql.written(
            sql.COUNTERS, [(t, str(name), by) for (t, name), by in self.counted.items() if by]
        )
        return statements + self._also

    def _chain(self) -> list[tuple[Any, ...]]:
        """The events' rows, each naming the one before it; the conversations name the last."""
        rows: list[tuple[Any, ...]] = []
        last: dict[Key, int] = {}
        id = self.ids.event
        for c, from_seq, seq, event, text in self._events:
            prev = last.get(c.key, c.last_event)
            detail = sql.NULL if text is None else text
            rows.append((id, prev, c.id, from_seq, seq, self.now, event, detail))
            last[c.key] = id
            id += 1
        self.ids.event = id
        for key, id in last.items():
            found = self.conversation(key)
            if found is not None:
                self.changed[key] = replace(found, last_event=id)
        return rows

    def _outcomes(self) -> list[Statement]:
        """Of each span as the last change left it."""
        spans = {(id, lo): span for id, lo, span in self._spans}
        gone = [slot for slot, span in spans.items() if span is None]
        kept = [sql.span_row(id, span) for (id, _), span in spans.items() if span is not None]
        return sql.deletion(sql.DELETE_SPANS, gone) + sql.written(sql.SPANS, kept)

    def _beside(self) -> list[Statement]:
        """Wishes and registrations that changed: of most conversations neither did.

        Registrations whose unique token or installation changes are deleted first, too.
        """
        wishes: list[tuple[Any, ...]] = []
        gone: list[int] = []
        registered: list[tuple[Any, ...]] = []
        ringing: list[tuple[Any, ...]] = []
        for key, now in self.changed.items():
            committed = self._committed.get(key, UNSEEN)
            if now.wishes is not None and now.wishes != committed.wishes:
                wishes.append(sql.wishes_row(now.id, now.wishes))
            if now.devices is committed.devices:
                continue
            before = {d.id: d for d in committed.devices}
            for device in now.devices:
                old = before.pop(device.id, None)
                if old is device:
                    continue
                ringing.append(sql.ringing_row(device))
                if old and sql.registration(old) == sql.registration(device):
                    continue
                if old and (old.token, old.installation) != (device.token, device.installation):
                    gone.append(old.id)
                registered.append(sql.device_row(now, device))
            gone.extend(before)
        given = self.ids.device - self._first_device
        if not (wishes or gone or ringing or given):
            return []
        return [
            *sql.written(sql.ALL_WISHES, wishes),
            *sql.deletion(sql.DELETE_DEVICES, gone),
            *sql.written(sql.DEVICES, registered),
            *sql.written(sql.ALL_RINGING, ringing),
            # One that came and went within the batch leaves no row, but its id was told.
            *([(sql.KEEP_DEVICE_IDS, (self.ids.device - 1,))] if given else []),
        ]

    def _disown(self, tenant: str, device: Device) -> None:
        for slots, slot in (
            (self._loaded.installations, (tenant, device.installation)),
            (self._loaded.tokens, (tenant, device.found_by)),
        ):
            owner = slots.get(slot)
            if owner is not None and owner.device == device.id:
                self._remember(slots, slot, None)

    def _remember(
        self,
        slots: dict[tuple[str, str], Owner | None],
        slot: tuple[str, str],
        owner: Owner | None,
    ) -> None:
        before = slots.get(slot)
        self._undo.append(lambda: slots.__setitem__(slot, before))
        slots[slot] = owner
