"""The store: one writer queue with group commit, and reading. The seam behind which SQLite stands.

Theory of operation. Every change is submitted as a function with the `Needs` that say which rows it
judges. The writer takes all that waits, reads what is not in memory (set-based), runs the functions
in order against a `Transaction`, writes everything in one transaction, and only then runs the
changes' `after_commit` callbacks and answers their futures, in the same order. What arrives while
a commit runs goes into the next. A change that raises is undone alone and answered with its error;
if the disk does not confirm, all of the batch are answered with `Unavailable` and nothing of it is
remembered. Another store (PostgreSQL) needs this class's public methods and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Self, TypeVar

import msgspec

from storage import campaigns, outcomes, sql
from storage.database import Database
from storage.errors import Overloaded, RefTaken, Unavailable
from storage.records import Conversation, Cut, Event, Key, Message, Outcome, is_counted
from storage.sealing import seal_all, unlock
from storage.transaction import Loaded, Mark, Owner, Transaction
from storage.turns import Turns
from storage.vault import Keys, Vault

R = TypeVar("R")

Done = Callable[[Any, Exception | None], None]
"""Told what became of a change: what `apply` returned, or the error."""


class Needs(msgspec.Struct, frozen=True):
    """What a change judges beside its conversation. All are read in one go for a whole batch."""

    keys: tuple[Key, ...] = ()
    refs: tuple[tuple[Key, str, str, str], ...] = ()  # read only when one of the batch is taken
    mark: tuple[Key, int] | None = None
    unacked: Key | None = None
    device: tuple[str, str, str | None] | None = None  # tenant, installation, token
    campaign: str | None = None

    @property
    def tenant(self) -> str:
        """Whose change this is; none's if it is the gateway's own."""
        if self.keys:
            return self.keys[0].tenant
        return self.device[0] if self.device is not None else ""


class _Change(msgspec.Struct, frozen=True):
    needs: Needs
    apply: Callable[[Transaction], Any]
    done: Done


_Answer = tuple[Any, Exception | None]


class Told(msgspec.Struct, frozen=True):
    """All that is recorded of one message: for `ringback why` and the deliveries call."""

    message: Message
    conversation: Conversation
    outcome: Outcome | None
    reason: str | None
    events: list[Event]


class Store:
    """Use cases over one `Database`. Only one writer task exists, whatever calls `submit`."""

    QUEUE = 20_000
    """Changes that may wait, and as many that may wait as `later`; beyond it `Overloaded`, for a
    tenant that has its share of them."""
    BATCH = 128
    """Changes in one commit at the most, where all that wait are one tenant's: the loop does
    nothing else while they are judged, and who comes meanwhile waits for two such commits."""
    LATER = 32
    """Of what nobody in chat waits for, so many beside changes of those who do."""
    SHARED = 16
    LATER_SHARED = 2
    """In one commit, where several tenants are about, so many changes of all of them together, and
    of what may wait so many beside them (`storage.turns`): so that one tenant's flood does not hold
    the others up (I8)."""
    ABOUT = 1_000
    """A tenant is about for so many commits after its last change: one who comes while a flood's
    commit runs must not have found that long because nobody else waited when it began."""
    TURNS = 4
    """Of the loop, at the most, between two commits."""
    CACHE = 50_000
    """Conversations kept in memory. The least recently used go; they are read again when needed."""
    SKIPPED = 1_000_000_000
    """Ids of registrations, and changes of unread, left out after a backup was restored."""
    UNACKED = 1_000
    """Messages that one change looks at for expiry, and as many for re-arming."""

    def __init__(
        self, database: Database, clock: Callable[[], float], keys: Keys | None = None
    ) -> None:
        """`keys` are for the tokens at rest (`storage.vault`)."""
        self._database = database
        self._keys = keys or Keys()
        self._vault = Vault()
        self._clock = clock
        self._queue = Turns[_Change]()
        self._later = Turns[_Change]()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = 0  # commits that were tried
        self._about: OrderedDict[str, int] = OrderedDict()  # tenants, by when they last came
        self._cache: OrderedDict[Key, Conversation] = OrderedDict()
        self._next_conversation = 1
        self._next_device = 1
        self._next_event = 1
        self.counters: Counter[tuple[str, str]] = Counter()
        self.meta: dict[str, str] = {}
        self.changed: Callable[[Conversation], None] = lambda conversation: None
        """Told of every conversation that a commit changed, before the commit's callbacks."""
        self.failed: Callable[[Exception], None] = lambda error: None
        """Told of an error that nobody else is told of: a fault of ours, or of the disk."""
        self.ended = asyncio.Event()
        """Set when the writer ended by a fault: what comes is refused, until a new start."""
        self.commits = 0
        self._failing: set[str] = set()  # "commit", "fold"

    # Life

    async def start(self) -> None:
        """Seal what is not sealed, read what a running store keeps in memory, start the writer.

        Raises `CannotOpen`, with nothing changed, if the keys do not fit the database.
        """
        db = self._database
        self._vault = await seal_all(db, self._keys)
        await db.write(
            [(sql.PUT_META, (name, secrets.token_hex(16))) for name in ("epoch", "secret")]
        )
        self.meta = dict(await db.read(sql.LOAD_META))
        ((highest,),) = await db.read(sql.MAX_CONVERSATION)
        self._next_conversation = highest + 1
        self._next_device = 1 + sum(row[0] for row in await db.read(sql.MAX_DEVICE))
        ((event,),) = await db.read(sql.MAX_EVENT)
        self._next_event = event + 1
        for tenant, name, value in await db.read(sql.LOAD_COUNTERS):
            self.counters[tenant, name] = value
        self._task = asyncio.create_task(self._run(), name="storage-writer")
        self._task.add_done_callback(self._ended)

    async def read_only(self) -> Self:
        """Instead of `start`, for who only reads. Raises `CannotOpen` if the keys do not fit."""
        self._vault = await unlock(self._database, self._keys)
        return self

    async def renew_epoch(self) -> None:
        """Make what clients remember void: what was restored may lack what they have seen.

        Registrations of after the backup were given ids that it does not know: none is given again,
        or a deregistration key of one of them would remove another's. Backends and apps keep the
        highest `badge_seq` that they were told; what they are told from now on is higher.
        """
        epoch = secrets.token_hex(16)
        skip = (self.SKIPPED,)
        await self._database.write(
            [(sql.RENEW_EPOCH, (epoch,)), (sql.SKIP_DEVICE_IDS, skip), (sql.SKIP_BADGES, skip)]
        )

    async def stop(self) -> None:
        """Commit what waits, then end the writer. Later changes are answered `Unavailable`."""
        task, self._task = self._task, None
        if task is not None:
            self._wake.set()
            await task

    # Changing

    def submit(
        self, apply: Callable[[Transaction], R], needs: Needs, *, later: bool = False
    ) -> asyncio.Future[R]:
        """Queue a change. The future gives what `apply` returned, after the commit.

        What comes `later` lets others pass, some of it in every commit: a hundred thousand pushes
        that become due at once hold up no chat. Each change is judged when its turn comes.
        It raises what `apply` raised, or `Unavailable`. Raises `Overloaded` at once at the bound.
        `apply` runs once, or again if another change of its batch was a fault: what it does to
        memory it registers with `Transaction.undo`; all else belongs in `after_commit`.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()

        def done(value: Any, error: Exception | None) -> None:
            if answer.done():  # cancelled: nobody waits any more
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        self.enqueue(apply, needs, done, later=later)
        return answer

    def enqueue(
        self,
        apply: Callable[[Transaction], Any],
        needs: Needs,
        done: Done,
        *,
        later: bool = False,
    ) -> None:
        """`submit` for who needs no future: `done` is called right after the commit's callbacks."""
        if self._task is None:
            raise Unavailable("the store is closed")
        queue = self._later if later else self._queue
        tenant = needs.tenant
        if not queue.put(tenant, _Change(needs, apply, done), self.QUEUE):
            raise Overloaded(f"{self.QUEUE} changes are waiting for the disk")
        if tenant:
            self._about[tenant] = self._turn
            self._about.move_to_end(tenant)
        self._wake.set()

    async def _run(self) -> None:
        while self._task is not None or self.waiting:
            if not self.waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._commit_or_fail(self._take())
            await self._fold_back()
            await self._gather()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """By a fault of ours, if at all before `stop`: then nobody waits for it any more."""
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, Exception):
            return
        self._task = None
        while self.waiting:
            for change in self._take():
                self._tell(change.done, None, Unavailable("the writer has ended"))
        self._report(error)
        self.ended.set()

    async def _fold_back(self) -> None:
        """What goes wrong is tried again after the next commit."""
        try:
            await self._database.fold_back_if_long()
            self._failing.discard("fold")
        except Exception as error:
            self._complain("fold", error)

    def _complain(self, what: str, error: Exception) -> None:
        """Of the first in a row: a full disk fails at every commit."""
        if what not in self._failing:
            self._failing.add(what)
            self._report(error)

    async def _gather(self) -> None:
        """Let the loop turn while each turn brings more: what was told leaves before the next is
        judged, and what comes goes into the same commit, which costs as much for one as for five.
        """
        for _ in range(self.TURNS):
            waiting = self.waiting
            await asyncio.sleep(0)
            if self.waiting == waiting:
                return

    def _take(self) -> list[_Change]:
        """What the next commit does: of a tenant that is alone much, else of each its part."""
        self._turn += 1
        while self._about and next(iter(self._about.values())) < self._turn - self.ABOUT:
            self._about.popitem(last=False)
        about = self._about.keys() | self._queue.tenants | self._later.tenants
        if len(about - {""}) <= 1:
            chat = self._queue.take(self.BATCH)
            return chat + self._later.take(self.LATER if chat else self.BATCH)
        chat = self._queue.take(self.SHARED)
        return chat + self._later.take(max(self.LATER_SHARED, self.SHARED - len(chat)))

    async def _commit_or_fail(self, batch: list[_Change]) -> None:
        try:
            await self._commit(batch)
            self._failing.discard("commit")
        except Unavailable as error:
            self._complain("commit", error)
            for change in batch:
                self._tell(change.done, None, error)
        except Exception as error:
            # A fault of ours. Whose change it is shows when each has a transaction of its own.
            if len(batch) > 1:
                for change in batch:
                    await self._commit_or_fail([change])
            else:
                self._report(error)
                self._tell(batch[0].done, None, error)

    async def _commit(self, batch: list[_Change]) -> None:
        """Commit the batch as if all its refs were new, as nearly all are; if one is not, again."""
        try:
            await self._commit_knowing(batch, refs=False)
        except RefTaken:
            await self._commit_knowing(batch, refs=True)

    async def _commit_knowing(self, batch: list[_Change], *, refs: bool) -> None:
        committed, loaded = await self._load([change.needs for change in batch], refs=refs)
        tx = Transaction(
            self._clock(),
            committed,
            loaded,
            self._next_conversation,
            self._next_device,
            self._next_event,
            self._vault,
        )
        try:
            answers = await self._write(tx, batch, refs=refs)
            self._next_conversation = tx.next_conversation
            self._next_device = tx.next_device
            self._next_event = tx.next_event
            for slot, by in tx.counted.items():
                self.counters[slot] += by
            for key, conversation in tx.changed.items():
                self._remember(key, conversation)
                self._tell(self.changed, conversation)
            for callback in tx.callbacks:
                self._tell(callback)
            for change, (value, refusal) in zip(batch, answers, strict=True):
                self._tell(change.done, value, refusal)
        finally:
            tx.close()

    async def _write(self, tx: Transaction, batch: list[_Change], *, refs: bool) -> list[_Answer]:
        """Judge the batch and put it on disk; what each change is to be told then."""
        start = tx.savepoint()
        try:
            answers = [self._apply(tx, change) for change in batch]
            if not refs and any(
                error is not None and change.needs.refs
                for change, (_, error) in zip(batch, answers, strict=True)
            ):
                raise RefTaken("what was refused may have been accepted under its ref before")
            statements = tx.statements()
            if statements:
                await self._database.write(statements)
                self.commits += 1
        except Unavailable:
            raise
        except Exception:
            tx.rollback(start)
            raise
        return answers

    def _tell(self, callback: Callable[..., None], *told: Any) -> None:
        """What is committed stays so, whatever those say who are told of it."""
        try:
            callback(*told)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        """Nor is anything undone, or anybody left waiting, by a log that cannot be written."""
        with suppress(Exception):
            self.failed(error)

    def _apply(self, tx: Transaction, change: _Change) -> _Answer:
        savepoint = tx.savepoint()
        try:
            return change.apply(tx), None
        except Exception as error:
            tx.rollback(savepoint)
            return None, error

    # Reading for the writer

    async def _load(
        self, needs: list[Needs], *, refs: bool
    ) -> tuple[dict[Key, Conversation], Loaded]:
        loaded = Loaded()
        keys = {key for need in needs for key in need.keys}
        devices = {need.device for need in needs if need.device is not None}
        if devices:
            keys.update(await self._load_owners(devices, loaded))
        committed = await self._load_conversations(keys)
        if refs:
            asked = [ref for need in needs for ref in need.refs]
            await self._load_refs(asked, committed, loaded)
        marks = {need.mark for need in needs if need.mark is not None}
        places = self._known_marks(marks, committed, loaded)
        if places:
            await self._load_marks(places, loaded)
        loaded.asked = {need.unacked for need in needs if need.unacked is not None}
        if loaded.asked:
            await self._load_unacked(committed, loaded)
        wanted = {need.campaign for need in needs if need.campaign is not None}
        if wanted:
            await self._load_campaigns(wanted, loaded)
        return committed, loaded

    async def _load_campaigns(self, asked: set[str], loaded: Loaded) -> None:
        for row in await self._database.read_for_write(campaigns.LOAD, sql.rows(asked)):
            campaign = campaigns.to_campaign(row)
            loaded.campaigns[campaign.id] = campaign

    async def _load_unacked(self, committed: dict[Key, Conversation], loaded: Loaded) -> None:
        found = [committed[key] for key in loaded.asked if key in committed]
        behind = {c.id: c for c in found if c.acked_ord < c.last_ord}
        if not behind:
            return
        wanted = [window for c in behind.values() for window in self._windows(c)]
        for row in await self._database.read_for_write(sql.LOAD_UNACKED, sql.rows(wanted)):
            m = sql.to_message(row)
            loaded.unacked.setdefault(behind[m.conversation].key, []).append(m)

    def _windows(self, c: Conversation) -> Iterator[tuple[int, int, int, int, int]]:
        """Which unacked messages are read: after which seq and ord, and up to which ord and seq.

        The bounds of seq follow from those of ord, which no index has: seq - ord never falls.

        All, or of very many the newest, which have not expired, the oldest that are pending, which
        expire next, and what each device is to be rung for next. What lies between has its outcome,
        or its turn when those have theirs.
        """
        newest = max(c.acked_ord, c.last_ord - self.UNACKED)
        if newest > c.acked_ord:
            oldest = [span.lo for span in outcomes.pending(c)[:1]]
            begins = sorted({*oldest, *(d.covered for d in c.live_devices if d.covered > c.acked)})
            read = c.acked_ord
            for seq, ord in begins:
                after = max(ord, read)
                upto = min(after + self.UNACKED, newest)
                if upto > after:
                    yield c.id, seq + after - ord, after, upto, upto + c.last_seq - c.last_ord
                    read = upto
        first = c.acked_seq + newest - c.acked_ord
        yield c.id, first, newest, c.last_ord, c.last_seq

    async def _load_owners(
        self, devices: set[tuple[str, str, str | None]], loaded: Loaded
    ) -> list[Key]:
        found = []
        asked = [
            (tenant, installation, token and self._vault.lookup(tenant, token))
            for tenant, installation, token in devices
        ]
        for row in await self._database.read_for_write(sql.LOAD_OWNERS, sql.rows(asked)):
            tenant, customer, id, installation, found_by = row
            owner = Owner(Key(tenant, customer), id)
            loaded.installations[tenant, installation] = owner
            loaded.tokens[tenant, found_by] = owner
            found.append(owner.key)
        return found

    async def _load_conversations(self, keys: Iterable[Key]) -> dict[Key, Conversation]:
        committed: dict[Key, Conversation] = {}
        missing: list[Key] = []
        for key in keys:
            conversation = self._cache.get(key)
            if conversation is None:
                missing.append(key)
            else:
                self._cache.move_to_end(key)
                committed[key] = conversation
        if missing:
            for conversation in await self._fetch(missing, self._database.read_for_write):
                key = conversation.key
                committed[key] = conversation
                self._remember(key, conversation)
        return committed

    async def _fetch(self, keys: list[Key], read: Callable[..., Any]) -> list[Conversation]:
        rows = await read(sql.LOAD_BY_KEY, sql.rows(keys))
        if not rows:
            return []
        at = {name: i for i, name in enumerate(sql.CONVERSATION)}
        ids = [row[0] for row in rows]
        devices: dict[int, list[Any]] = {id: [] for id in ids}
        tenants = {row[0]: row[at["tenant"]] for row in rows}
        for id, *device in await read(sql.LOAD_DEVICES, sql.rows(ids)):
            devices[id].append(sql.to_device(device, tenants[id], self._vault))
        spans: dict[int, list[Any]] = {id: [] for id in ids}
        acked = [(row[0], row[at["acked_ord"]]) for row in rows]
        for id, *span in await read(sql.LOAD_SPANS, sql.rows(acked)):
            spans[id].append(sql.to_span(span))
        wanted = {(row[0], seq) for row in rows for seq in (row[at["last_seq"]], row[-1]) if seq}
        messages = {
            (row[0], row[1]): sql.to_message(row)
            for row in await read(sql.LOAD_MESSAGES, sql.rows(wanted))
        }
        return [
            sql.to_conversation(
                row,
                tuple(spans[row[0]]),
                tuple(devices[row[0]]),
                messages.get((row[0], row[at["last_seq"]])),
                messages.get((row[0], row[-1])),
            )
            for row in rows
        ]

    async def _load_refs(
        self,
        refs: list[tuple[Key, str, str, str]],
        committed: dict[Key, Conversation],
        loaded: Loaded,
    ) -> None:
        names = {committed[ref[0]].id: ref[0] for ref in refs if ref[0] in committed}
        if not names:
            return
        wanted = [(committed[k].id, role, who, ref) for k, role, who, ref in refs if k in committed]
        for row in await self._database.read_for_write(sql.LOAD_REFS, sql.rows(wanted)):
            m = sql.to_message(row)
            loaded.refs[names[m.conversation], m.role, m.author, m.ref or ""] = m

    def _known_marks(
        self, marks: set[tuple[Key, int]], committed: dict[Key, Conversation], loaded: Loaded
    ) -> dict[tuple[int, int], Key]:
        """Note what the conversations themselves tell; where the others are to be read."""
        places: dict[tuple[int, int], Key] = {}
        for key, seq in marks:
            conversation = committed.get(key)
            if conversation is None or seq < 0 or seq > conversation.last_seq:
                continue
            if seq == conversation.last_seq:
                mark = Mark(conversation.last, conversation.last_said, None)
                loaded.marks[key, seq] = mark
            elif seq == 0:
                loaded.marks[key, seq] = Mark(Cut(0, 0), 0, None)
            else:
                places[conversation.id, seq] = key
        return places

    async def _load_marks(self, places: dict[tuple[int, int], Key], loaded: Loaded) -> None:
        read = self._database.read_for_write
        for id, seq, ord, said, next_at in await read(sql.LOAD_MARKS, sql.rows(places)):
            loaded.marks[places[id, seq], seq] = Mark(Cut(seq, ord), said, next_at)

    def _remember(self, key: Key, conversation: Conversation) -> None:
        self._cache[key] = conversation
        self._cache.move_to_end(key)
        if len(self._cache) > self.CACHE:
            self._cache.popitem(last=False)

    # Reading

    @property
    def empty(self) -> bool:
        """Whether nobody has ever been here."""
        return self._next_conversation == 1

    @property
    def waiting(self) -> int:
        """How many changes wait for a commit."""
        return len(self._queue) + len(self._later)

    def peek(self, key: Key) -> Conversation | None:
        """The conversation as last committed, if it is in memory."""
        return self._cache.get(key)

    async def conversation(self, key: Key) -> Conversation | None:
        """The conversation as last committed."""
        found = self._cache.get(key)
        if found is not None:
            return found
        fetched = await self._fetch([key], self._database.read)
        # Meanwhile the writer may have read or changed it: what it remembers is newer.
        return self._cache.get(key) or (fetched[0] if fetched else None)

    async def owner_of(self, tenant: str, installation: str) -> Conversation | None:
        """The conversation of the customer for whom this installation is registered."""
        rows = await self._database.read(sql.LOAD_OWNERS, sql.rows([(tenant, installation, None)]))
        for _, customer, *_ in rows:
            return await self.conversation(Key(tenant, customer))
        return None

    async def history(
        self, conversation: Conversation, before: int | None, limit: int
    ) -> tuple[list[Message], bool]:
        """The newest `limit` messages before `before` (exclusive), rising, and if older exist."""
        top = conversation.last_seq + 1 if before is None else before
        rows = await self._database.read(sql.HISTORY, (conversation.id, top, limit + 1))
        found = [sql.to_message(row) for row in rows]
        return found[:limit][::-1], len(found) > limit

    async def after(self, conversation: Conversation, seq: int, upto: int) -> list[Message]:
        """The messages after `seq` up to and including `upto`, rising."""
        if upto <= seq:
            return []
        rows = await self._database.read(sql.AFTER, (conversation.id, seq, upto, upto - seq))
        return [sql.to_message(row) for row in rows]

    async def inbox(
        self, tenant: str, which: str, before: tuple[float, int], limit: int
    ) -> list[Conversation]:
        """A tenant's conversations with messages, newest first, older than the cursor `before`."""
        rows = await self._database.read(sql.INBOX, (tenant, *before, which, which, which, limit))
        keys = [Key(*row) for row in rows]
        found = {k: c for k in keys if (c := self._cache.get(k)) is not None}
        missing = [k for k in keys if k not in found]
        if missing:
            fetched = await self._fetch(missing, self._database.read)
            found.update({c.key: self._cache.get(c.key) or c for c in fetched})
        return [found[k] for k in keys if k in found]

    async def told(self, key: Key, seq: int) -> Told | None:
        """Everything recorded of message `seq`; None if there is no such message."""
        conversation = await self.conversation(key)
        if conversation is None:
            return None
        rows = await self._database.read(sql.ONE_MESSAGE, (conversation.id, seq))
        if not rows:
            return None
        message = sql.to_message(rows[0])
        outcome: Outcome | None = None
        reason = None
        if is_counted(message.role, message.kind):
            outcome, reason = await self._outcome(conversation, seq)
        # From its own last event: those of a commit that came meanwhile are not of this state.
        events = await self._database.read(sql.EVENTS_OF, (conversation.last_event, seq, seq))
        return Told(message, conversation, outcome, reason, [sql.to_event(row) for row in events])

    async def _outcome(self, c: Conversation, seq: int) -> tuple[Outcome, str | None]:
        """In this state: what is stored of what was acknowledged in it changes no more."""
        if seq <= c.acked_seq:
            for outcome, reason in await self._database.read(sql.OUTCOME_OF, (c.id, seq, seq)):
                return Outcome(outcome), reason
            return Outcome.ACKED, None
        for span in c.settled:
            if span.lo_seq < seq <= span.hi_seq:
                return span.outcome, span.reason
        return Outcome.PENDING, None

    async def forgettable(self, before: float) -> list[Key]:
        """Conversations with a registration that was given up before then (epoch seconds)."""
        return [Key(*row) for row in await self._database.read(sql.FORGETTABLE, (before,))]

    async def stale(self, tenant: str, before: float) -> list[Key]:
        """Conversations with a live registration that is older (epoch seconds)."""
        return [Key(*row) for row in await self._database.read(sql.STALE, (tenant, before))]

    async def unsettled(self) -> list[Key]:
        """Conversations in which something is due, now or later: where recovery begins."""
        return [Key(*row) for row in await self._database.read(sql.LOAD_DUE)]

    async def check(self) -> None:
        """Raise `Unavailable` unless the database can be written, and grow, now.

        In the queue like every other write: the connection has one transaction at a time.
        """
        await self.submit(lambda tx: tx.touch(), Needs())
