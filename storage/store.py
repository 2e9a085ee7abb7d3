"""The store: one writer queue with group commit, and reading.

Theory of operation. Every change is submitted as a function with the `Needs` that say which rows it
judges. The writer takes all that waits, reads what is not in memory (set-based), runs the functions
in order against a `Transaction`, writes everything in one transaction, and only then runs the
changes' `after_commit` callbacks and answers their futures, in the same order. What arrives while
a commit runs goes into the next. A change that raises is undone alone and answered with its error;
if the disk does not confirm, all of the batch are answered with `Unavailable` and nothing of it is
remembered: so what was not confirmed must not be there. Memory is as true as the rows, because
nobody else writes them. What another database would have to keep is in docs/design.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from operator import call, itemgetter
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from storage import outcomes, sql
from storage.database import Database
from storage.errors import NotRead, Overloaded, RefTaken, Unavailable
from storage.loading import Known
from storage.loading import Needs as Needs
from storage.records import Conversation, Event, Key, Message, Outcome, is_counted
from storage.sealing import seal_all, unlock
from storage.transaction import Ids, Loaded, Transaction
from storage.turns import Turns
from storage.vault import Keys

R = TypeVar("R")

Done = Callable[[Any, Exception | None], None]
"""Told what became of a change: what `apply` returned, or the error."""


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
    """Changes that may wait for the writer, and as many again `later`. Beyond it a tenant that has
    its share of them is told `Overloaded`."""
    BATCH = 128
    """The most changes in one commit when all that wait are one tenant's: the loop does nothing
    else while they are judged, and whoever comes meanwhile waits for two such commits."""
    LATER = 32
    """The most `later` changes in one commit while somebody in chat waits too."""
    CHATTING = 100
    """`LATER` holds for so many commits after one with a change from chat: whoever comes while a
    full `BATCH` of later changes is judged would wait for all of it."""
    SHARED = 16
    LATER_SHARED = 2
    """While several tenants are about, a commit has about so many changes of all of them together,
    and of the `later` ones at least so many (`storage.turns`): one tenant's flood does not hold the
    others up (I8)."""
    ABOUT = 1_000
    """A tenant counts as about for so many commits after its last change. Else a flood's commit
    would be a long one whenever nobody else waits as it begins, and hold up who comes next."""
    UNSETTLED = 1_000
    """Conversations that `unsettled` gives at a time."""
    TURNS = 4
    """The most turns of the loop between two commits."""
    SKIPPED = 1_000_000_000
    """By how much registrations' ids, and every `badge_seq`, go up after a backup was restored."""

    def __init__(
        self, database: Database, clock: Callable[[], float], keys: Keys | None = None
    ) -> None:
        """`keys` are for the tokens at rest (`storage.vault`)."""
        self._database = database
        self._keys = keys or Keys()
        self._clock = clock
        self._queue = Turns[_Change]()
        self._later = Turns[_Change]()
        self._idle: asyncio.Future[None] | None = None  # while the writer has nothing to do
        self._task: asyncio.Task[None] | None = None
        self._turn = 0  # commits that were tried
        self._chatting = 0  # commits, for which there is still somebody in chat
        self._about: OrderedDict[str, int] = OrderedDict()  # tenants, by when they last came
        self._known = Known(database)
        self._ids = Ids()
        self.counters: Counter[tuple[str, str]] = Counter()
        self.meta: dict[str, str] = {}
        self.changed: Callable[[Conversation], None] = lambda conversation: None
        """Told of every conversation that a commit changed, after the commit's callbacks: what they
        take in hand is in hand by then."""
        self.failed: Callable[[Exception], None] = lambda error: None
        """Told of an error that nobody else is told of: a fault of ours, or of the disk."""
        self.recovered: Callable[[], None] = lambda: None
        """Told when the disk takes a commit after it had refused the one before, or when there is
        room again after somebody in chat was refused."""
        self.ended = asyncio.Event()
        """Set when the writer ended by a fault: what comes is refused, until a new start."""
        self.commits = 0
        self.refused = 0
        """Commits that the disk refused."""
        self._failing: set[str] = set()  # "commit", "fold", "queue"

    @property
    def failing(self) -> bool:
        """Whether the disk refused the last commit."""
        return "commit" in self._failing

    # Life

    async def start(self) -> None:
        """Seal what is not sealed, read what a running store keeps in memory, start the writer.

        Raises `CannotOpen`, with nothing changed, if the keys do not fit the database.
        """
        db = self._database
        self._known.vault = await seal_all(db, self._keys)
        await db.write(
            [(sql.PUT_META, (name, secrets.token_hex(16))) for name in ("epoch", "secret")]
        )
        self.meta = dict(await db.read(sql.LOAD_META))
        ((highest,),) = await db.read(sql.MAX_CONVERSATION)
        device = sum(row[0] for row in await db.read(sql.MAX_DEVICE))
        ((event,),) = await db.read(sql.MAX_EVENT)
        self._ids = Ids(highest + 1, device + 1, event + 1)
        for tenant, name, value in await db.read(sql.LOAD_COUNTERS):
            self.counters[tenant, name] = value
        self._task = asyncio.create_task(self._run(), name="storage-writer")
        self._task.add_done_callback(self._ended)

    async def read_only(self) -> Self:
        """Instead of `start`, for who only reads. Raises `CannotOpen` if the keys do not fit."""
        self._known.vault = await unlock(self._database, self._keys)
        return self

    @classmethod
    @asynccontextmanager
    async def beside(cls, path: Path, keys: Keys) -> AsyncIterator[Self]:
        """All that is committed at one moment, beside a running gateway or none: for reading.

        Raises `CannotOpen`.
        """
        database = await Database(path).open_to_read()
        try:
            yield await cls(database, lambda: 0.0, keys).read_only()
        finally:
            await database.close()

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
            self._wake()
            await task

    # Changing

    def submit(
        self, apply: Callable[[Transaction], R], needs: Needs, *, later: bool = False
    ) -> asyncio.Future[R]:
        """Queue a change. The future gives what `apply` returned, after the commit.

        What comes `later` lets others pass, some of it in every commit: a hundred thousand pushes
        that become due at once hold up no chat. Each change is judged when its turn comes.
        It raises what `apply` raised, or `Unavailable`. Raises `Overloaded` at once at the bound.
        `apply` runs once, or again if another change of its batch was a fault or one of them lacked
        something: what it does to memory it registers with `Transaction.undo`; all else belongs in
        `after_commit`.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()

        waiting = [answer]  # not once it is told: an error's frames have the change, and so this

        def done(value: Any, error: Exception | None) -> None:
            answer = waiting.pop()
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
            if not later:  # what comes later is tried again by who gave it
                self._failing.add("queue")
            raise Overloaded(f"{self.QUEUE} changes are waiting for the disk")
        if tenant and self._about.get(tenant) != self._turn:
            self._about[tenant] = self._turn
            self._about.move_to_end(tenant)
        self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def _run(self) -> None:
        while self._task is not None or self.waiting:
            if not self.waiting:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
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
            if not waiting:  # who comes next wakes the writer, a turn later
                return
            await asyncio.sleep(0)
            if self.waiting == waiting:
                return

    def _take(self) -> list[_Change]:
        """The changes of the next commit: many of a tenant that is alone, else of each its part."""
        self._turn += 1
        while self._about and next(iter(self._about.values())) < self._turn - self.ABOUT:
            self._about.popitem(last=False)
        nobody = ""  # the gateway's own changes are no tenant's
        about = {nobody, *self._about, *self._queue.tenants, *self._later.tenants}
        alone = len(about) <= 2
        chat = self._queue.take(self.BATCH if alone else self.SHARED)
        self._chatting = self.CHATTING if chat else max(self._chatting - 1, 0)
        most = self.LATER if self._chatting else self.BATCH
        part = most if alone else max(self.LATER_SHARED, self.SHARED - len(chat))
        return chat + self._later.take(part, most)

    async def _commit_or_fail(self, batch: list[_Change]) -> None:
        try:
            await self._commit(batch)
        except Unavailable as error:
            self.refused += 1
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
        """Commit the batch as if all its refs were new and no change had to see what is not yet
        acknowledged, which is so with nearly all. Else read what was lacking, and judge again."""
        needs = [change.needs for change in batch]
        committed, loaded = await self._known.load(needs)
        refs = False
        while True:
            try:
                return await self._commit_knowing(batch, committed, loaded, refs=refs)
            except NotRead as lacking:
                await self._known.load_unacked(lacking.keys, committed, loaded)
            except RefTaken:
                if refs:
                    raise
                refs = True
                await self._known.load_refs(needs, committed, loaded)

    async def _commit_knowing(
        self,
        batch: list[_Change],
        committed: dict[Key, Conversation],
        loaded: Loaded,
        *,
        refs: bool,
    ) -> None:
        tx = Transaction(self._clock(), committed, loaded, self._ids, self._known.vault)
        answers: deque[_Answer] = deque()
        try:
            await self._write(tx, batch, answers, refs=refs)
            self._ids = tx.ids
            for slot, by in tx.counted.items():
                self.counters[slot] += by
            self._known.remember(tx.changed)
            self._tell_each(call, tx.callbacks)
            self._tell_each(self.changed, tx.changed.values())
            for change in batch:
                self._tell(change.done, *answers.popleft())
        finally:
            tx.close()
            answers.clear()  # the frames of an error in them have them

    async def _write(
        self, tx: Transaction, batch: list[_Change], answers: deque[_Answer], *, refs: bool
    ) -> None:
        """Judge the batch and put it on disk; `answers` are what each change is to be told then."""
        try:
            for change in batch:
                answers.append(self._apply(tx, change))
            if any(map(itemgetter(1), answers)):
                self._doubt(batch, answers, refs=refs)  # not here: errors have this frame
            statements = tx.statements()
            if statements:
                await self._database.write(statements)
                self.commits += 1
                if self._failing:
                    self._recover()
        except Exception:
            tx.rollback()
            raise

    def _doubt(self, batch: list[_Change], answers: deque[_Answer], *, refs: bool) -> None:
        """Raise if who was refused may not be by who knows more: `NotRead`, or `RefTaken`."""
        lacking = {key for _, error in answers if isinstance(error, NotRead) for key in error.keys}
        if lacking:
            raise NotRead(*lacking)
        if not refs and any(
            error is not None and change.needs.refs
            for change, (_, error) in zip(batch, answers, strict=True)
        ):
            raise RefTaken("what was refused may have been accepted under its ref before")

    def _recover(self) -> None:
        """The disk has taken a commit: who was refused may come again, if there is room for them,
        and not for a few of them only, each time anew."""
        over = {"commit"} if self._queue.size > self.QUEUE // 2 else {"commit", "queue"}
        if self._failing & over:
            self._failing -= over
            self._tell(self.recovered)

    def _tell(self, callback: Callable[..., None], *told: Any) -> None:
        """Call back. What is committed stays committed, whatever the callback raises."""
        try:
            callback(*told)
        except Exception as error:
            self._report(error)

    def _tell_each(self, callback: Callable[[Any], None], told: Iterable[Any]) -> None:
        """As `_tell`, once for each of what is told."""
        for one in told:
            try:
                callback(one)
            except Exception as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        """Tell of an error. If the log cannot be written, nothing is undone and nobody waits."""
        with suppress(Exception):
            self.failed(error)

    def _apply(self, tx: Transaction, change: _Change) -> _Answer:
        savepoint = tx.savepoint()
        try:
            return change.apply(tx), None
        except Exception as error:
            tx.rollback(savepoint)
            return None, error

    # Reading

    @property
    def empty(self) -> bool:
        """Whether nobody has ever been here."""
        return self._ids.conversation == 1

    @property
    def waiting(self) -> int:
        """How many changes wait for a commit."""
        return self._queue.size + self._later.size

    def peek(self, key: Key) -> Conversation | None:
        """The conversation as last committed, if it is in memory."""
        return self._known.get(key)

    async def conversation(self, key: Key) -> Conversation | None:
        """The conversation as last committed."""
        return self._known.get(key) or (await self._known.of([key])).get(key)

    async def owner_of(self, tenant: str, installation: str) -> Conversation | None:
        """The conversation of the customer for whom this installation is registered."""
        asked = sql.rows([(tenant, installation, None)])
        rows = await self._database.read(sql.LOAD_OWNERS, asked, tenant)
        for _, customer, *_ in rows:
            return await self.conversation(Key(tenant, customer))
        return None

    async def history(
        self, conversation: Conversation, before: int | None, limit: int
    ) -> tuple[list[Message], bool]:
        """The newest `limit` messages before `before` (exclusive), rising, and if older exist."""
        top = conversation.last_seq + 1 if before is None else before
        asked = (conversation.id, top, limit + 1)
        rows = await self._database.read(sql.HISTORY, asked, conversation.tenant)
        found = [Message(*row) for row in rows]
        return found[:limit][::-1], len(found) > limit

    async def after(self, conversation: Conversation, seq: int) -> list[Message]:
        """The messages after `seq`, rising: those of this state, not what came since."""
        upto = conversation.last_seq
        if upto <= seq:
            return []
        asked = (conversation.id, seq, upto, upto - seq)
        rows = await self._database.read(sql.AFTER, asked, conversation.tenant)
        return [Message(*row) for row in rows]

    async def inbox(
        self, tenant: str, which: str, before: tuple[float, int], limit: int
    ) -> list[Conversation]:
        """A tenant's conversations with messages, newest first, older than the cursor `before`."""
        asked = (tenant, *before, which, which, which, limit)
        rows = await self._database.scan(sql.INBOX, asked, tenant)
        keys = [Key(*row) for row in rows]
        found = await self._known.of(keys)
        return [found[k] for k in keys if k in found]

    async def told(self, key: Key, seq: int) -> Told | None:
        """Everything recorded of message `seq`; None if there is no such message."""
        conversation = await self.conversation(key)
        if conversation is None or seq > conversation.last_seq:  # perhaps of more than 64 bits
            return None
        asked = (conversation.id, seq)
        rows = await self._database.read(sql.ONE_MESSAGE, asked, key.tenant)
        if not rows:
            return None
        message = Message(*rows[0])
        outcome: Outcome | None = None
        reason = None
        if is_counted(message.role, message.kind):
            outcome, reason = await self._outcome(conversation, message)
        # From its own last event: those of a commit that came meanwhile are not of this state.
        events = await self._events(conversation, seq, seq)
        return Told(message, conversation, outcome, reason, events)

    async def attempts(self, key: Key, first: int, last: int) -> list[Event]:
        """Every call for the messages from `first` to `last`, in one reading of what happened."""
        c = await self.conversation(key)
        return [] if c is None else await self._events(c, first, last, "attempt")

    async def _events(
        self, c: Conversation, first: int, last: int, event: str | None = None
    ) -> list[Event]:
        chain = (c.last_event, first, last, event)
        return [Event(*row) for row in await self._database.scan(sql.EVENTS_OF, chain, c.tenant)]

    async def _outcome(self, c: Conversation, message: Message) -> tuple[Outcome, str | None]:
        """In this state: what is stored of what was acknowledged in it changes no more."""
        if message.seq <= c.acked_seq:
            asked = (c.id, message.seq, message.seq)
            for outcome, reason in await self._database.read(sql.OUTCOME_OF, asked, c.tenant):
                return Outcome(outcome), reason
            return Outcome.ACKED, None
        span = outcomes.settling(c, message)
        return (Outcome.PENDING, None) if span is None else (span.outcome, span.reason)

    async def forgettable(self, before: float) -> list[Key]:
        """Conversations with a registration that was given up before then (epoch seconds)."""
        return [Key(*row) for row in await self._database.scan(sql.FORGETTABLE, (before,))]

    async def stale(self, tenant: str, before: float) -> list[Key]:
        """Conversations with a live registration that is older (epoch seconds)."""
        return [Key(*row) for row in await self._database.scan(sql.STALE, (tenant, before), tenant)]

    async def unsettled(self, silent: Iterable[str] = ()) -> AsyncIterator[list[Key]]:
        """Conversations in which something is due, now or later: where recovery begins. Of the
        tenants in `silent` also those with a live phone that was told more than is unread now. So
        many at a time that others are served in between."""
        after, tenants = 0, *sql.rows(silent)
        while rows := await self._database.scan(sql.LOAD_DUE, (after, self.UNSETTLED, tenants)):
            after = rows[-1][0]
            yield [Key(tenant, customer) for _, tenant, customer in rows]

    async def check(self) -> None:
        """Raise `Unavailable` unless the database can be written, and grow, now.

        In the queue like every other write: the connection has one transaction at a time.
        """
        await self.submit(lambda tx: tx.touch(), Needs())
