"""The store on a real file: one writer, group commit, and what is left after every kind of end."""

import asyncio
import gc
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from storage.database import Database, Rows
from storage.errors import Overloaded, Unavailable
from storage.outcomes import Trigger
from storage.records import (
    Answered,
    Conversation,
    Cut,
    Device,
    DeviceState,
    Key,
    Message,
    Outcome,
    RingInHand,
    Wishes,
)
from storage.sql import FORGETTABLE, LOAD_UNACKED
from storage.store import Needs, Store
from storage.transaction import Owner, Transaction
from tests.storage.stored import KEY, Clock, Post, draft, known, opened, outside, post, rows

OTHER = Key("acme", "c-2")
SEQS = "SELECT seq FROM messages WHERE conversation = ? ORDER BY seq"
replace = msgspec.structs.replace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ringback.db"


class Refused(Exception):
    """What a change of these tests raises."""


def refusing(tx: Transaction) -> None:
    """A change that fails after having done something."""
    c, _ = tx.append_message(known(tx, KEY), draft("never", ref="never"))
    tx.put(replace(c, live=True))
    tx.after_commit(lambda: pytest.fail("told of what was undone"))
    raise Refused


def nothing(tx: Transaction) -> None:
    """A change that changes nothing."""


class Watched(Database):
    """A database that notes its statements, and waits before one if asked to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes: list[list[str]] = []
        self.reads_to_write: list[str] = []
        self.pause_at: str | None = None
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()

    async def write(self, statements: Any) -> None:
        self.writes.append([sql for sql, _ in statements])
        await super().write(statements)

    async def read_for_write(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        self.reads_to_write.append(sql)
        return await super().read_for_write(sql, parameters)

    async def read(self, sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Rows:
        return await self._pausing(sql, await super().read(sql, parameters, tenant))

    async def scan(self, sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Rows:
        return await self._pausing(sql, await super().scan(sql, parameters, tenant))

    async def _pausing(self, sql: str, found: Rows) -> Rows:
        if self.pause_at is not None and self.pause_at in sql:
            self.pause_at = None
            self.paused.set()
            await self.go_on.wait()
        return found


# The log


class Folding(Watched):
    """A database whose log takes its time to be folded back."""

    folding = False

    async def fold_back_if_long(self) -> None:
        self.folding = True
        await self.go_on.wait()
        self.folding = False


async def test_who_is_committed_is_told_before_the_log_is_folded_back(path: Path) -> None:
    async with Folding(path) as db:
        store = Store(db, Clock())
        await store.start()
        first = await post(store, draft("one"))
        assert first.seq == 1
        second = post(store, draft("two"))
        writes = len(db.writes)
        for _ in range(20):
            await asyncio.sleep(0)
        assert db.folding
        assert len(db.writes) == writes, "the next waits for it"
        db.go_on.set()
        assert (await second).seq == 2
        await store.stop()


class Broken(Watched):
    """A database that cannot do what is done between two commits."""

    error: Exception | None = None

    async def fold_back_if_long(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), Unavailable("disk I/O error")])
async def test_a_log_that_cannot_be_folded_back_stops_nothing_and_is_told_of_once(
    path: Path, error: Exception
) -> None:
    async with Broken(path) as db:
        store = Store(db, Clock())
        told: list[Exception] = []
        store.failed = told.append
        await store.start()
        for row in (1, 2):
            db.error = error
            for number in range(3):
                assert (await post(store, draft(f"{row} {number}"))).text == f"{row} {number}"
            db.error = None
            await post(store, draft("it works again"))
            assert told == [error] * row
        await store.stop()


async def test_of_commits_that_fail_the_first_in_a_row_is_told_of(path: Path) -> None:
    async with opened(path) as (store, db):
        told: list[Exception] = []
        store.failed = told.append
        for row in (1, 2):
            await db.read_for_write("PRAGMA query_only = 1")
            for _ in range(3):
                with pytest.raises(Unavailable, match="readonly"):
                    await post(store, draft("not kept"))
            await db.read_for_write("PRAGMA query_only = 0")
            await post(store, draft("kept"))
            assert len(told) == row
        assert all(isinstance(error, Unavailable) for error in told)


class Ending(Store):
    """A store with a fault in its writer, after the first commit."""

    async def _gather(self) -> None:
        raise RuntimeError("a fault of ours")


async def test_a_writer_that_ends_by_a_fault_leaves_nobody_waiting(path: Path) -> None:
    async with Watched(path) as db:
        store = Ending(db, Clock())
        faults: list[Exception] = []
        store.failed = faults.append
        await store.start()
        assert (await post(store, draft("committed"))).seq == 1
        with pytest.raises(Unavailable, match="has ended"):
            await post(store, draft("waits"))
        assert store.ended.is_set()
        with pytest.raises(Unavailable, match="closed"):
            await post(store, draft("comes later"))
        assert [str(fault) for fault in faults] == ["a fault of ours"]
        await store.stop()


async def test_a_fault_that_cannot_be_logged_either_changes_nothing_of_what_is_committed(
    path: Path,
) -> None:
    def cannot_be_logged(error: Exception) -> None:
        raise OSError("no space left on device")

    def breaks() -> None:
        raise RuntimeError("a fault of ours")

    def says(text: str) -> Callable[[Transaction], Message]:
        def change(tx: Transaction) -> Message:
            tx.after_commit(breaks)
            c = tx.conversation(KEY) or tx.create(KEY, None)
            return tx.append_message(c, draft(text))[1]

        return change

    async with opened(path) as (store, _):
        store.failed = cannot_be_logged
        said = [store.submit(says(text), Needs(keys=(KEY,))) for text in ("one", "two")]
        assert [m.seq for m in await asyncio.gather(*said)] == [1, 2]
        assert rows(path, "SELECT seq, text FROM messages") == [(1, "one"), (2, "two")]
        assert (await post(store, draft("three"))).seq == 3


# Places


async def test_places_are_gapless_under_many_concurrent_submits(path: Path) -> None:
    async with opened(path) as (store, _):
        keys = [Key("acme", f"c-{n % 4}") for n in range(200)]
        sent = await asyncio.gather(*(post(store, draft(str(n)), k) for n, k in enumerate(keys)))
        for key in set(keys):
            places = [m.seq for m, k in zip(sent, keys, strict=True) if k == key]
            assert places == list(range(1, 51)), "in the order of submission"
            c = await store.conversation(key)
            assert c is not None
            assert rows(path, SEQS, c.id) == [(n,) for n in range(1, 51)]
        assert store.commits < 20, "what waits shares a commit"


async def test_places_go_on_where_they_were_after_reopening(path: Path) -> None:
    async with opened(path) as (store, _):
        await post(store, draft("one"))
    async with opened(path) as (store, _):
        assert (await post(store, draft("two"))).seq == 2
        assert (await post(store, draft("one"), OTHER)).conversation == 2


# The same ref again


async def test_a_ref_gives_the_first_message_within_a_batch(path: Path) -> None:
    async with opened(path) as (store, _):
        one, two = await asyncio.gather(
            post(store, draft("one", ref="r")), post(store, draft("two", ref="r"))
        )
        assert one == two
        assert store.commits == 1
        assert rows(path, "SELECT text FROM messages") == [("one",)]


async def test_a_ref_gives_the_first_message_across_batches_and_after_reopening(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        first = await post(store, draft("one", ref="r"))
        assert await post(store, draft("two", ref="r")) == first
    async with opened(path) as (store, _):
        assert await post(store, draft("three", ref="r")) == first
        assert (await post(store, draft("four", ref="r", author="a-2"))).seq == 2
        assert (await post(store, draft("five", ref="r"), OTHER)).seq == 1


async def test_a_ref_of_a_change_that_failed_is_free(path: Path) -> None:
    async with opened(path) as (store, _):
        needs = Needs(keys=(KEY,), refs=((KEY, "agent", "a-1", "never"),))
        with pytest.raises(Refused):
            await store.submit(refusing, needs)
        assert (await post(store, draft("now", ref="never"))).text == "now"


# Failing alone, failing together


async def test_what_changes_did_to_memory_beside_one_that_is_refused_is_done_once(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        memory: list[int] = []

        def remember(tx: Transaction, what: int) -> None:
            memory.append(what)
            tx.undo(memory.pop)

        def refuse(tx: Transaction) -> None:
            remember(tx, 2)
            raise Refused

        told = [
            store.submit(partial(remember, what=1), Needs(keys=(KEY,))),
            store.submit(refuse, Needs(keys=(KEY,), refs=((KEY, "agent", "a-1", "again"),))),
            store.submit(partial(remember, what=3), Needs(keys=(KEY,))),
        ]
        answers = await asyncio.gather(*told, return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), Refused, type(None)]
        assert memory == [1, 3]


async def test_a_change_that_raises_is_undone_alone(path: Path) -> None:
    async with opened(path) as (store, _):
        one, refused, two = await asyncio.gather(
            post(store, draft("one")),
            store.submit(refusing, Needs(keys=(KEY,))),
            post(store, draft("two")),
            return_exceptions=True,
        )
        assert store.commits == 1
        assert isinstance(refused, Refused)
        assert isinstance(one, Message)
        assert isinstance(two, Message)
        assert (one.seq, two.seq) == (1, 2)
        assert rows(path, "SELECT seq, text FROM messages") == [(1, "one"), (2, "two")]
        c = await store.conversation(KEY)
        assert c is not None
        assert (c.live, c.last_seq) == (False, 2)
        assert store.counters["acme", "accepted"] == 2


async def test_a_change_that_the_schema_refuses_harms_no_other_of_its_batch(path: Path) -> None:
    """The code errs: it registers a token that somebody else holds without taking it away."""

    def registering(key: Key, installation: str) -> Callable[[Transaction], None]:
        def change(tx: Transaction) -> None:
            id = tx.new_device_id()
            tx.move_token(known(tx, key), Device(id, installation, "same token", 1, 1.0))

        return change

    async with opened(path) as (store, _):
        faults: list[Exception] = []
        store.failed = faults.append
        await store.submit(registering(KEY, "i-1"), Needs(keys=(KEY,)))
        first, wrong, last = await asyncio.gather(
            post(store, draft("one")),
            store.submit(registering(OTHER, "i-2"), Needs(keys=(OTHER,))),
            post(store, draft("two")),
            return_exceptions=True,
        )
        assert isinstance(wrong, Exception)
        assert faults == [wrong]
        assert "same token" not in str(wrong)
        assert [m.seq for m in (first, last) if isinstance(m, Message)] == [1, 2]
        assert rows(path, "SELECT installation FROM devices") == [("i-1",)]
        assert rows(path, "SELECT seq FROM messages") == [(1,), (2,)]
        c = await store.conversation(OTHER)
        assert c is None or c.devices == ()


async def test_a_full_disk_answers_unavailable_to_all_and_changes_nothing(path: Path) -> None:
    async with opened(path) as (store, database):
        await post(store, draft("one"))
        before, counted = await store.conversation(KEY), Counter(store.counters)
        ((pages,),) = await database.read_for_write("PRAGMA page_count")
        await database.read_for_write(f"PRAGMA max_page_count = {pages}")
        told: list[str] = []

        def telling(tx: Transaction) -> None:
            tx.append_message(known(tx, KEY), draft("x" * 100_000))
            tx.after_commit(lambda: told.append("never"))

        answers = await asyncio.gather(
            post(store, draft("two", ref="r")),
            store.submit(telling, Needs(keys=(KEY,))),
            post(store, draft("x" * 100_000), OTHER),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        assert told == []
        assert await store.conversation(KEY) == before
        assert await store.conversation(OTHER) is None
        assert store.counters == counted
        assert rows(path, "SELECT text FROM messages") == [("one",)]
        await database.read_for_write("PRAGMA max_page_count = 1000000")
        await store.check()
        assert (await post(store, draft("two", ref="r"))).seq == 2
        assert (await post(store, draft("x" * 100_000), OTHER)).seq == 1


async def test_the_check_fails_while_nothing_can_be_written(path: Path) -> None:
    async with opened(path) as (store, database):
        await store.check()
        await database.read_for_write("PRAGMA query_only = 1")
        with pytest.raises(Unavailable):
            await store.check()
        await database.read_for_write("PRAGMA query_only = 0")
        await store.check()


# Telling


async def test_callbacks_run_in_the_order_of_the_changes_and_only_after_the_commit(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        await store.submit(lambda tx: known(tx, KEY), Needs(keys=(KEY,)))
        told: list[tuple[int, int]] = []

        def change(number: int) -> Callable[[Transaction], None]:
            def apply(tx: Transaction) -> None:
                tx.append_message(known(tx, KEY), draft(str(number)))
                for _ in range(2):
                    tx.after_commit(lambda: told.append((number, on_disk())))
                assert told == []

            return apply

        def on_disk() -> int:
            found: int = rows(path, "SELECT count(*) FROM messages")[0][0]
            return found

        answers = [store.submit(change(n), Needs(keys=(KEY,))) for n in range(5)]
        answers[0].add_done_callback(lambda _: told.append((-1, 0)))
        await asyncio.gather(*answers)
        assert told == [*((n, 5) for n in range(5) for _ in range(2)), (-1, 0)]


async def test_whoever_is_told_and_fails_harms_nobody(path: Path) -> None:
    async with opened(path) as (store, _):
        faults: list[Exception] = []
        told: list[str] = []
        store.failed = faults.append

        def change(tx: Transaction) -> str:
            tx.append_message(known(tx, KEY), draft("one"))
            tx.after_commit(failing)
            tx.after_commit(lambda: told.append("second"))
            return "answer"

        def failing() -> None:
            raise Refused

        def failing_too(conversation: Conversation) -> None:
            raise Refused

        store.changed = failing_too
        assert await store.submit(change, Needs(keys=(KEY,))) == "answer"
        assert told == ["second"]
        assert [type(fault) for fault in faults] == [Refused, Refused]
        assert rows(path, "SELECT seq FROM messages") == [(1,)], "applied once"


async def test_every_changed_conversation_is_told_after_the_callbacks(path: Path) -> None:
    async with opened(path) as (store, _):
        told: list[Any] = []
        store.changed = lambda c: told.append((c.customer, c.last_seq))

        def change(tx: Transaction) -> None:
            tx.append_message(known(tx, KEY), draft("one"))
            tx.after_commit(lambda: told.append("callback"))

        await asyncio.gather(
            store.submit(change, Needs(keys=(KEY,))), post(store, draft("two"), OTHER)
        )
        assert told == ["callback", ("c-1", 1), ("c-2", 1)]


async def test_an_answer_that_nobody_waits_for_any_more_holds_nobody_up_and_is_no_fault(
    path: Path,
) -> None:
    faults: list[Exception] = []
    async with opened(path) as (store, _):
        store.failed = faults.append
        first = store.submit(Post(draft("one")), Needs(keys=(KEY,)))
        second = store.submit(Post(draft("two")), Needs(keys=(KEY,)))
        first.cancel()
        assert (await second).seq == 2
        assert rows(path, "SELECT text FROM messages") == [("one",), ("two",)]
    assert faults == []


async def test_a_change_that_writes_nothing_is_answered_without_a_commit(path: Path) -> None:
    async with opened(path) as (store, _):
        assert await store.submit(lambda tx: tx.conversation(KEY), Needs(keys=(KEY,))) is None
        assert store.commits == 0


async def test_what_housekeeping_looks_for_is_looked_for_among_the_devices(path: Path) -> None:
    """It is, every minute: of a million conversations each was looked at, most have no device."""
    async with opened(path):
        plan = [row[3] for row in rows(path, f"EXPLAIN QUERY PLAN {FORGETTABLE}", 0.0)]
        assert plan[:2] == ["SCAN d", "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)"]


# Bounds and ends


async def test_at_the_bound_of_the_queue_a_change_is_refused_and_none_is_lost(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store.QUEUE = 3
        waiting = [store.submit(Post(draft(str(n))), Needs(keys=(KEY,))) for n in range(3)]
        assert store.waiting == 3
        with pytest.raises(Overloaded, match="3 changes"):
            store.submit(nothing, Needs(keys=(KEY,)))
        assert [m.seq for m in await asyncio.gather(*waiting)] == [1, 2, 3]
        await store.submit(nothing, Needs(keys=(KEY,)))


async def test_when_half_of_the_queue_is_free_again_who_was_refused_may_come_once(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store.QUEUE, store.BATCH = 4, 1
        told: list[int] = []
        store.recovered = lambda: told.append(store.waiting)
        waiting = [store.submit(Post(draft(str(n))), Needs(keys=(KEY,))) for n in range(4)]
        for _ in range(2):
            with pytest.raises(Overloaded):
                store.submit(nothing, Needs(keys=(KEY,)))
        await asyncio.gather(*waiting)
        assert told == [2]


async def test_a_queue_that_one_tenant_filled_still_takes_changes_of_another(path: Path) -> None:
    async with opened(path) as (store, _):
        store.QUEUE = 3
        waiting = [store.submit(Post(draft(str(n))), Needs(keys=(KEY,))) for n in range(3)]
        other = Key("other", KEY.customer)
        assert (await store.submit(Post(draft("four"), other), Needs(keys=(other,)))).seq == 1
        await asyncio.gather(*waiting)


async def test_a_flood_of_one_tenant_holds_another_up_by_no_more_than_its_share(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store.BATCH, store.SHARED = 10, 4
        flood = [store.submit(Post(draft(str(n))), Needs(keys=(KEY,))) for n in range(30)]
        other = Key("other", KEY.customer)
        await store.submit(Post(draft("theirs"), other), Needs(keys=(other,)))
        assert sum(one.done() for one in flood) <= store.SHARED / 2
        assert [m.seq for m in await asyncio.gather(*flood)] == list(range(1, 31))


async def test_who_comes_in_the_middle_of_a_flood_waits_for_no_commit_of_its_alone(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store.BATCH, store.SHARED, store.ABOUT = 10, 2, 3
        other = Key("other", KEY.customer)
        commits: list[int] = []
        await store.submit(Post(draft("theirs"), other), Needs(keys=(other,)))
        for n in range(30):
            store.enqueue(Post(draft(str(n))), Needs(keys=(KEY,)), note_commit(store, commits))
        await store.stop()
        sizes = [commits.count(number) for number in sorted(set(commits))]
        assert sizes == [2, 2, 10, 10, 6]  # about for three commits, its own too


async def test_what_comes_with_every_turn_of_the_loop_puts_off_no_commit(path: Path) -> None:
    async with opened(path) as (store, _):
        store.QUEUE = 1_000_000  # a disk that stands still does so for very many turns
        while store.commits < 3:
            store.enqueue(lambda tx: tx.touch(), Needs(), lambda value, error: None)
            await asyncio.sleep(0)


async def test_who_comes_on_and_on_keeps_nobody_else_about(path: Path) -> None:
    async with opened(path) as (store, _):
        store.ABOUT = 3
        other = Key("other", KEY.customer)
        for key in (KEY, other, *[KEY] * 6):
            await store.submit(Post(draft("hello"), key), Needs(keys=(key,)))
        assert list(store._about) == ["acme"]


def note_commit(store: Store, commits: list[int]) -> Callable[[Any, Exception | None], None]:
    return lambda value, error: commits.append(store.commits)


async def test_a_commit_takes_no_more_than_its_share_of_a_long_queue(path: Path) -> None:
    async with opened(path) as (store, _):
        store.BATCH = 10
        sent = await asyncio.gather(*(post(store, draft(str(n))) for n in range(25)))
        assert [m.seq for m in sent] == list(range(1, 26))
        assert store.commits == 3


async def test_stopping_commits_what_waits_and_refuses_what_comes_later(path: Path) -> None:
    async with opened(path) as (store, _):
        waiting = store.submit(Post(draft("one")), Needs(keys=(KEY,)))
        await store.stop()
        assert waiting.done()
        assert rows(path, "SELECT text FROM messages") == [("one",)]
        with pytest.raises(Unavailable, match="closed"):
            store.submit(nothing, Needs())
        await store.stop()


async def test_the_cache_is_bounded_and_forgets_nothing_that_matters(path: Path) -> None:
    async with opened(path) as (store, _):
        store._known.CACHE = 2
        keys = [Key("acme", f"c-{n}") for n in range(5)]
        for _ in range(2):
            for key in keys:
                await post(store, draft("hello"), key)
        assert [key for key in keys if store.peek(key) is not None] == keys[-2:]
        for key in keys:
            c = await store.conversation(key)
            assert c is not None
            assert (c.last_seq, c.unread) == (2, 2)


async def test_the_cache_is_bounded_by_whoever_comes_together(path: Path) -> None:
    async with opened(path) as (store, _):
        store._known.CACHE = 2
        keys = [Key("acme", f"c-{n}") for n in range(5)]
        for _ in range(2):
            await asyncio.gather(*(post(store, draft("hello"), key) for key in keys))
            assert sum(store.peek(key) is not None for key in keys) == 2


@pytest.mark.parametrize("changes", [True, False])
async def test_who_came_last_stays_in_the_cache(path: Path, *, changes: bool) -> None:
    """Whether anything was changed of it or it was only judged."""
    keys = [Key("acme", f"c-{n}") for n in range(4)]
    async with opened(path) as (store, _):
        store._known.CACHE = 3
        for key in keys[:3]:
            await post(store, draft("hello"), key)
        if changes:
            await post(store, draft("again"), keys[0])
        else:
            await store.submit(nothing, Needs(keys=(keys[0],)))
        await post(store, draft("hello"), keys[3])
        assert [store.peek(key) is not None for key in keys] == [True, False, True, True]


@pytest.mark.parametrize(("how_many", "statements"), [(1, 8), (512, 8), (500, 14)])
async def test_the_number_of_statements_does_not_grow_with_the_batch(
    path: Path, how_many: int, statements: int
) -> None:
    """Rows of a number that is no power of two are written by two statements for each table."""
    keys = [Key("acme", f"c-{n}") for n in range(how_many)]
    async with Watched(path) as database:
        store = Store(database, Clock())
        await store.start()
        for text in ("one", "two"):
            await asyncio.gather(*(post(store, draft(text, ref=text), key) for key in keys))
        await store.stop()
    async with Watched(path) as database:
        store = Store(database, Clock())
        store.BATCH = how_many
        await store.start()
        database.writes.clear()

        def change(key: Key) -> Callable[[Transaction], None]:
            def apply(tx: Transaction) -> None:
                c = tx.conversation(key)
                assert c is not None
                mark = tx.mark(c, 1)
                assert mark is not None
                assert len(tx.unacked(c)) == 2
                c, _ = tx.append_message(c, draft("three", ref="b"))
                c, _ = tx.transition(c, mark.cut, c.last, Trigger.ACCEPTANCE)
                c, _ = tx.acknowledge(c, mark.cut)
                id = tx.new_device_id()
                tx.move_token(c, Device(id, f"i-{id}", f"t-{id}", 1, 1.0))

            return apply

        await asyncio.gather(
            *(
                store.submit(
                    change(key),
                    Needs(
                        keys=(key,),
                        refs=((key, "agent", "a-1", "b"),),
                        mark=1,
                        device=("acme", f"i-of-{key.customer}", "t"),
                    ),
                )
                for key in keys
            )
        )
        assert store.commits == 1
        assert [len(written) for written in database.writes] == [statements]
        assert len(database.reads_to_write) == 7  # a ref is looked up only if one is taken
        await store.stop()


# Marks and what is unacked


async def test_a_mark_gives_ranks_and_when_the_next_counted_message_came(path: Path) -> None:
    clock = Clock(100.0)
    async with opened(path, clock) as (store, _):
        for role in ("agent", "customer", "customer", "agent", "agent"):
            await post(store, draft("x", role=role))
            clock.now += 1

        async def mark(seq: int) -> Any:
            def change(tx: Transaction) -> Any:
                c = tx.conversation(KEY)
                assert c is not None
                found = tx.mark(c, seq)
                return None if found is None else (*found.cut, found.said, found.next_at)

            return await store.submit(change, Needs(keys=(KEY,), mark=seq))

        assert [await mark(seq) for seq in (0, 1, 2, 3, 4, 5, 6, -1)] == [
            (0, 0, 0, None),
            (1, 1, 0, 103.0),
            (2, 1, 1, 103.0),
            (3, 1, 2, 103.0),
            (4, 2, 2, 104.0),
            (5, 3, 2, None),
            None,
            None,
        ]


async def test_a_change_sees_the_oldest_pending_and_the_newest_of_very_many_unacked_messages(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store._known.UNACKED = 2
        for key in (KEY, OTHER):
            for role in ("agent", "customer", *["agent"] * 6):
                await post(store, draft("x", role=role), key)

        def change(tx: Transaction) -> None:
            c, _ = tx.acknowledge(known(tx, KEY), Cut(1, 1))
            tx.transition(c, Cut(1, 1), Cut(4, 3), Trigger.ACCEPTANCE)

        def unacked(key: Key) -> asyncio.Future[list[int]]:
            def change(tx: Transaction) -> list[int]:
                return [m.seq for m in tx.unacked(known(tx, key))]

            return store.submit(change, Needs(keys=(key,)))

        assert await unacked(KEY) == [1, 3, 7, 8]
        await store.submit(change, Needs(keys=(KEY,)))
        assert await unacked(KEY) == [5, 6, 7, 8]
        assert await unacked(OTHER) == [1, 3, 7, 8]


async def test_of_very_many_unacked_messages_each_is_seen_once_near_as_the_places_of_phones_are(
    path: Path,
) -> None:
    def registers(tx: Transaction) -> None:
        c = known(tx, KEY)
        for upto in (1, 2):
            phone = Device(upto, f"i-{upto}", f"t-{upto}", 1, 1.0, covered=Cut(upto, upto))
            c = tx.move_token(c, phone)

    async with opened(path) as (store, _):
        store._known.UNACKED = 2
        for _ in range(9):
            await post(store, draft("x"))
        await store.submit(registers, Needs(keys=(KEY,)))
        seen = await store.submit(
            lambda tx: [m.seq for m in tx.unacked(known(tx, KEY))], Needs(keys=(KEY,))
        )
        assert seen == [1, 2, 3, 4, 5, 6, 8, 9]


async def test_a_change_reads_no_more_of_the_unacked_messages_however_many_there_are(
    path: Path,
) -> None:
    class Asked(Watched):
        unacked: Any = None

        async def read_for_write(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
            if sql == LOAD_UNACKED:
                self.unacked = parameters
            return await super().read_for_write(sql, parameters)

    async def steps(db: Asked, store: Store) -> int:
        """Of SQLite's machine, for what a change asks to see."""
        await store.submit(lambda tx: tx.unacked(known(tx, KEY)), Needs(keys=(KEY,)))
        taken = 0

        def step() -> int:
            nonlocal taken
            taken += 1
            return 0

        with outside(path) as connection:
            connection.set_progress_handler(step, 1)
            assert len(connection.execute(LOAD_UNACKED, db.unacked).fetchall()) == 20
        return taken

    async with Asked(path) as db:
        store = Store(db, Clock())
        store._known.UNACKED = 10
        await store.start()
        await asyncio.gather(*(post(store, draft("x")) for _ in range(30)))
        few = await steps(db, store)
        await asyncio.gather(*(post(store, draft("x")) for _ in range(570)))
        assert await steps(db, store) < 1.5 * few
        await store.stop()


async def test_what_a_change_asks_for_is_read_and_its_batch_is_judged_once_more(
    path: Path,
) -> None:
    """A message under a ref that was used before is in the batch as well."""
    memory: list[str] = []

    def asking(key: Key) -> Callable[[Transaction], list[int]]:
        def change(tx: Transaction) -> list[int]:
            memory.append(key.customer)
            tx.undo(memory.pop)
            tx.after_commit(lambda: memory.append("told"))
            return [m.seq for m in tx.unacked(known(tx, key))]

        return change

    async with Watched(path) as database:
        store = Store(database, Clock())
        await store.start()
        for key in (KEY, OTHER):
            await post(store, draft("before", ref="again"), key)
        database.reads_to_write.clear()
        commits = store.commits
        answers = await asyncio.gather(
            post(store, draft("in the batch")),
            store.submit(asking(KEY), Needs(keys=(KEY,))),
            post(store, draft("not a second time", ref="again"), OTHER),
            store.submit(asking(OTHER), Needs(keys=(OTHER,))),
            post(store, draft("after them"), OTHER),
        )
        assert answers[1] == [1, 2]
        assert answers[3] == [1]
        assert memory == ["c-1", "c-2", "told", "told"]
        assert store.commits == commits + 1
        assert database.reads_to_write.count(LOAD_UNACKED) == 1
        assert rows(path, "SELECT text FROM messages ORDER BY rowid") == [
            ("before",),
            ("before",),
            ("in the batch",),
            ("after them",),
        ]
        await store.stop()


async def test_what_a_new_customer_has_not_acknowledged_is_what_their_batch_wrote(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        _, seen = await asyncio.gather(
            post(store, draft("first")),
            store.submit(
                lambda tx: [m.text for m in tx.unacked(known(tx, KEY))], Needs(keys=(KEY,))
            ),
        )
        assert seen == ["first"]


async def test_what_expires_behind_very_many_that_nobody_acknowledged_is_reached(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store._known.UNACKED = 2
        for _ in range(9):
            await post(store, draft("x"))

        def expiring(tx: Transaction) -> list[int]:
            c = known(tx, KEY)
            seen = [m for m in tx.unacked(c) if m.seq <= 7]
            for message in seen:
                before = Cut(message.seq - 1, message.ord - 1)
                c, _ = tx.transition(c, before, message.cut, Trigger.EXPIRY, "expired")
            return [m.seq for m in seen]

        found = []
        while seen := await store.submit(expiring, Needs(keys=(KEY,))):
            found += [seq for seq in seen if seq not in found]
            if len(found) == 7:
                break
        assert found == [1, 2, 3, 4, 5, 6, 7]


# Devices


def register(store: Store, key: Key, installation: str, token: str) -> asyncio.Future[int]:
    def change(tx: Transaction) -> int:
        for owner in (
            tx.owner_of_installation(key.tenant, installation),
            tx.owner_of_token(key.tenant, token),
        ):
            if owner is not None:
                remove(tx, owner)
        id = tx.new_device_id()
        tx.move_token(known(tx, key), Device(id, installation, token, 1, 1.0))
        return id

    return store.submit(change, Needs(keys=(key,), device=(key.tenant, installation, token)))


def remove(tx: Transaction, owner: Owner) -> None:
    c = tx.conversation(owner.key)
    device = c.device(owner.device) if c is not None else None
    if c is not None and device is not None:
        tx.remove_device(c, device)


def deregister(store: Store, tenant: str, installation: str) -> asyncio.Future[None]:
    def change(tx: Transaction) -> None:
        owner = tx.owner_of_installation(tenant, installation)
        if owner is not None:
            remove(tx, owner)

    return store.submit(change, Needs(device=(tenant, installation, None)))


async def test_a_conversation_is_read_as_it_was_written_with_its_registrations_and_wishes(
    path: Path,
) -> None:
    begins = Device(1, "i-1", "t-1", 1, 1.0)
    phone = Device(
        1, "i-2", "t-2", 3, 2.0, platform="ios", app="shop", environment="sandbox", locale="de",
        time_zone="Europe/Berlin", state=DeviceState.QUARANTINED, state_at=3.0, covered=Cut(1, 1),
        badge=4, owes=True, owed_ord=2, wake_at=5.0, quiet_end=15.0,
        ring=RingInHand("{}", Cut(3, 2), 6), answered=Answered("retry", 7.0), unrung="muted",
    )  # fmt: skip
    wishes = Wishes(muted_until=8.0, proactive=False, time_zone="UTC", quiet_hours="22:00-07:00")

    def writes(tx: Transaction) -> None:
        c, _ = tx.acknowledge(known(tx, KEY), Cut(1, 1))
        c = tx.mark_read(c, Cut(1, 1))
        c, _ = tx.transition(c, Cut(1, 1), Cut(3, 2), Trigger.NO_DEVICE_LEFT, "muted")
        times = {"push_due_at": 9.0, "hold_from": 10.0, "expires_at": 11.0, "updated_at": 12.0}
        marks = {"agent_acked_seq": 3, "agent_acked_said": 1} | {"unanswered_since": 13.0}
        marks |= {"agent_read_seq": 2, "agent_read_said": 1}
        c = replace(c, name="Ada", live=True, badge_seq=14, wishes=wishes, **times, **marks)
        tx.move_token(c, phone)

    async with opened(path) as (store, _):
        for role in ("agent", "customer", "agent", "agent"):
            await post(store, draft(role=role))
        needs = Needs(keys=(KEY,))
        await store.submit(lambda tx: tx.move_token(known(tx, KEY), begins), needs)
        await store.submit(writes, needs)
        before = await store.conversation(KEY)
    async with opened(path) as (store, _):
        assert await store.conversation(KEY) == before
    assert before is not None
    assert before.devices == (phone,)
    plain = Device(0, "", "", 0, 0.0)
    told = {
        name for name in Device.__struct_fields__ if getattr(phone, name) != getattr(plain, name)
    }
    assert told == set(Device.__struct_fields__) - {"sealed"}


@pytest.mark.parametrize(
    "change",
    [
        {"installation": "i-2"}, {"token": "t-2"}, {"generation": 2}, {"registered_at": 2.0},
        {"platform": "ios"}, {"app": "shop"}, {"environment": "sandbox"}, {"locale": "de"},
        {"time_zone": "UTC"}, {"state": DeviceState.DEAD}, {"state_at": 3.0},
        {"covered": Cut(1, 1)}, {"badge": 4}, {"owes": True, "wake_at": 5.0}, {"owed_ord": 1},
        {"wake_at": 5.0}, {"quiet_end": 6.0}, {"answered": Answered("retry", 7.0)},
        {"ring": RingInHand("{}", Cut(1, 1), 1), "wake_at": 5.0}, {"unrung": "muted"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
async def test_whatever_changes_of_a_device_by_itself_is_written(
    path: Path, change: dict[str, Any]
) -> None:
    """It lies in two tables, and only that of the two is written of which something changed."""
    phone = Device(1, "i-1", "t-1", 1, 1.0)
    needs = Needs(keys=(KEY,))
    async with opened(path) as (store, _):
        await post(store, draft())
        await store.submit(lambda tx: tx.move_token(known(tx, KEY), phone), needs)
    async with opened(path) as (store, _):
        changed = replace(phone, **change)
        await store.submit(lambda tx: tx.put(known(tx, KEY).with_device(changed)), needs)
    async with opened(path) as (store, _):
        c = await store.conversation(KEY)
        assert c is not None
        assert c.devices == (changed,)


async def test_device_ids_are_never_given_again_not_even_after_reopening(path: Path) -> None:
    async with opened(path) as (store, _):
        assert await register(store, KEY, "i-1", "t-1") == 1
        assert await register(store, KEY, "i-2", "t-2") == 2
        await deregister(store, "acme", "i-2")
        assert rows(path, "SELECT id FROM devices") == [(1,)]
    async with opened(path) as (store, _):
        assert await register(store, KEY, "i-2", "t-2") == 3


async def test_the_id_of_a_device_that_came_and_went_in_one_batch_is_not_given_again(
    path: Path,
) -> None:
    """Its deregistration key was given out: it must never fit another registration."""
    async with opened(path) as (store, _):
        id, _ = await asyncio.gather(
            register(store, KEY, "i-1", "t-1"), deregister(store, "acme", "i-1")
        )
        assert rows(path, "SELECT id FROM devices") == []
    async with opened(path) as (store, _):
        assert await register(store, OTHER, "i-1", "t-1") > id


@pytest.mark.parametrize("reopen", [False, True])
async def test_a_token_that_moves_leaves_its_former_owner(path: Path, reopen: bool) -> None:
    async with opened(path) as (store, _):
        await register(store, KEY, "i-1", "t-1")
        if not reopen:
            await register(store, OTHER, "i-2", "t-1")
    async with opened(path) as (store, _):
        await register(store, OTHER, "i-2", "t-1")
        mine, theirs = await store.conversation(KEY), await store.conversation(OTHER)
        assert mine is not None
        assert theirs is not None
        assert mine.devices == ()
        assert [d.token for d in theirs.devices] == ["t-1"]
        assert rows(path, "SELECT installation, token FROM devices") == [("i-2", "t-1")]


async def test_two_phones_can_exchange_their_tokens_in_one_batch(path: Path) -> None:
    async with opened(path) as (store, _):
        await register(store, KEY, "i-1", "t-1")
        await register(store, KEY, "i-2", "t-2")
        await asyncio.gather(register(store, KEY, "i-1", "t-2"), register(store, KEY, "i-2", "t-1"))
        assert rows(path, "SELECT installation, token FROM devices ORDER BY 1") == [
            ("i-1", "t-2"),
            ("i-2", "t-1"),
        ]


async def test_equal_tokens_of_two_tenants_are_two_registrations(path: Path) -> None:
    async with opened(path) as (store, _):
        await register(store, KEY, "i-1", "t-1")
        await register(store, Key("other", "c-1"), "i-1", "t-1")
        await deregister(store, "other", "i-1")
        assert rows(path, "SELECT tenant FROM devices") == [("acme",)]


# Reading


async def test_history_pages_backwards_and_says_if_there_is_more(path: Path) -> None:
    async with opened(path) as (store, _):
        for n in range(1, 8):
            await post(store, draft(str(n)))
        c = await store.conversation(KEY)
        assert c is not None

        async def page(before: int | None, limit: int) -> tuple[list[int], bool]:
            found, more = await store.history(c, before, limit)
            return [m.seq for m in found], more

        assert await page(None, 3) == ([5, 6, 7], True)
        assert await page(5, 3) == ([2, 3, 4], True)
        assert await page(2, 3) == ([1], False)
        assert await page(4, 3) == ([1, 2, 3], False)
        assert await page(1, 3) == ([], False)
        before = replace(c, last_seq=5)  # what came since is not of that state
        assert [m.seq for m in await store.after(before, 2)] == [3, 4, 5]
        assert await store.after(before, 5) == []
        assert await store.after(before, 6) == []


async def test_an_inbox_lists_a_tenants_conversations_newest_first_by_page(path: Path) -> None:
    clock = Clock(100.0)
    async with opened(path, clock) as (store, _):
        for n in (1, 2, 3):
            await post(store, draft("hello"), Key("acme", f"c-{n}"))
            clock.now += 1
        await post(store, draft("hello"), Key("other", "c-9"))
        await store.submit(lambda tx: known(tx, Key("acme", "c-8")), Needs())
        await post(store, draft("again"), Key("acme", "c-1"))

        def marking(tx: Transaction) -> None:
            tx.put(replace(known(tx, Key("acme", "c-2")), live=True))
            tx.put(replace(known(tx, Key("acme", "c-3")), unanswered_since=9.0))

        await store.submit(marking, Needs(keys=(Key("acme", "c-2"), Key("acme", "c-3"))))
    async with opened(path, clock) as (store, _):
        top = (1e12, 0)

        async def page(which: str, before: tuple[float, int], limit: int) -> list[str]:
            return [c.customer for c in await store.inbox("acme", which, before, limit)]

        assert await page("all", top, 10) == ["c-1", "c-3", "c-2"]
        assert await page("live", top, 10) == ["c-2"]
        assert await page("unanswered", top, 10) == ["c-3"]
        first = (await store.inbox("acme", "all", top, 1))[0]
        assert await page("all", (first.updated_at, first.id), 10) == ["c-3", "c-2"]


@pytest.mark.parametrize("table", ["FROM json_each(?) j\n    CROSS JOIN devices"])
@pytest.mark.parametrize("how", ["conversation", "inbox"])
async def test_what_is_read_beside_a_commit_is_not_torn_or_stale(
    path: Path, how: str, table: str
) -> None:
    async with opened(path) as (store, _):
        await post(store, draft("one"))
    async with Watched(path) as database:
        store = Store(database, Clock())
        await store.start()
        database.pause_at = table
        ways: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "conversation": lambda: store.conversation(KEY),
            "inbox": lambda: store.inbox("acme", "all", (1e12, 0), 5),
        }
        reading = asyncio.create_task(ways[how]())
        await database.paused.wait()
        await post(store, draft("two"))
        database.go_on.set()
        found = await reading
        c = found if how == "conversation" else found[0]
        assert c == store.peek(KEY)
        assert c.last_seq == 2
        await store.stop()


async def test_an_inbox_has_what_changed_while_another_of_it_was_read(path: Path) -> None:
    async with opened(path) as (store, _):
        await post(store, draft("one"))
        await post(store, draft("one"), OTHER)
    async with Watched(path) as database:
        store = Store(database, Clock())
        await store.start()
        assert await store.submit(lambda tx: known(tx, KEY), Needs(keys=(KEY,)))
        assert store.peek(OTHER) is None, "which has to be read"
        database.pause_at = "CROSS JOIN devices"
        reading = asyncio.create_task(store.inbox("acme", "all", (1e12, 0), 5))
        await database.paused.wait()
        await post(store, draft("two"))
        database.go_on.set()
        assert {c.key: c.last_seq for c in await reading} == {KEY: 2, OTHER: 1}
        await store.stop()


async def test_unknown_conversations_and_messages_are_none(path: Path) -> None:
    async with opened(path) as (store, _):
        assert await store.conversation(KEY) is None
        assert await store.told(KEY, 1) is None
        await post(store, draft("one"))
        for seq in (2, 2**64):
            assert await store.told(KEY, seq) is None


async def test_what_is_told_of_a_message_is_its_outcome_and_its_events_alone(path: Path) -> None:
    async with opened(path) as (store, _):
        for role in ("agent", "customer", "agent", "agent", "agent"):
            await post(store, draft("x", role=role))

        def change(tx: Transaction) -> None:
            c = known(tx, KEY)
            c, _ = tx.transition(c, Cut(0, 0), Cut(1, 1), Trigger.ACCEPTANCE)
            c, _ = tx.acknowledge(c, Cut(3, 2))
            c, _ = tx.transition(c, Cut(3, 2), Cut(4, 3), Trigger.NO_DEVICE_LEFT, "no_device")
            tx.event(c, 3, 4, "due")

        await store.submit(change, Needs(keys=(KEY,)))
        told = [await store.told(KEY, seq) for seq in range(1, 6)]
        assert [(t.outcome, t.reason) for t in told if t is not None] == [
            (Outcome.PUSHED, None),
            (None, None),
            (Outcome.ACKED, None),
            (Outcome.UNDELIVERABLE, "no_device"),
            (Outcome.PENDING, None),
        ]
        assert [[e.event for e in t.events] for t in told if t is not None] == [
            ["outcome"],
            [],
            ["due"],
            ["outcome", "due"],
            [],
        ]


async def test_what_happened_to_a_message_is_found_over_all_commits_and_whoever_came_between(
    path: Path,
) -> None:
    """Also where a change of the same commit was undone, and after the conversation was read
    anew."""

    def happens(key: Key, event: str) -> Callable[[Transaction], None]:
        def change(tx: Transaction) -> None:
            c = known(tx, key)
            tx.event(tx.put(replace(c, name=event)), 1, 1, event)
            if event == "never":
                raise ValueError(event)

        return change

    async def together(store: Store, *told: tuple[Key, str]) -> None:
        changes = [store.submit(happens(*one), Needs(keys=(one[0],))) for one in told]
        await asyncio.gather(*changes, return_exceptions=True)

    async def found(store: Store) -> list[list[str]]:
        told = [await store.told(key, 1) for key in (KEY, OTHER)]
        return [[event.event for event in one.events] for one in told if one is not None]

    async with opened(path) as (store, _):
        for key in (KEY, OTHER):
            await post(store, draft("x"), key)
        await together(store, (KEY, "a"), (OTHER, "b"), (KEY, "c"))
        await together(store, (OTHER, "never"), (OTHER, "d"), (KEY, "never"), (KEY, "e"))
        assert await found(store) == [["a", "c", "e"], ["b", "d"]]
    async with opened(path) as (store, _):
        await together(store, (OTHER, "f"))
        await together(store, (KEY, "g"), (OTHER, "h"))
        assert await found(store) == [["a", "c", "e", "g"], ["b", "d", "f", "h"]]


async def test_recovery_begins_with_whatever_is_due_now_or_later(path: Path) -> None:
    async with opened(path) as (store, _):
        keys = [Key("acme", f"c-{n}") for n in range(4)]
        for key in keys:
            await post(store, draft("x"), key)
        id = await register(store, keys[2], "i-1", "t-1")

        def change(tx: Transaction) -> None:
            tx.put(replace(known(tx, keys[0]), push_due_at=5.0))
            tx.put(replace(known(tx, keys[1]), expires_at=5.0))
            c = known(tx, keys[2])
            device = c.device(id)
            assert device is not None
            tx.put(c.with_device(replace(device, owes=True, wake_at=5.0)))

        await store.submit(change, Needs(keys=tuple(keys)))
        for at_a_time in (1, 2, 3, 4):
            store.UNSETTLED = at_a_time
            pages = [page async for page in store.unsettled()]
            assert max(map(len, pages)) <= at_a_time
            assert [key for page in pages for key in page] == keys[:3]


async def test_icons_that_show_too_much_are_found_where_they_can_be_corrected(path: Path) -> None:
    async with opened(path) as (store, _):
        keys = [Key(tenant, f"c-{n}") for n in range(3) for tenant in ("acme", "other")]
        for key in keys:
            await post(store, draft("x"), key)
            id = await register(store, key, f"i-{key.customer}", f"t-{key.customer}")
            badge = {"c-0": 1, "c-1": 2, "c-2": 2}[key.customer]
            state = DeviceState.DEAD if key.customer == "c-2" else DeviceState.LIVE

            def change(
                tx: Transaction, key: Key = key, id: int = id, badge: int = badge,
                state: DeviceState = state,
            ) -> None:  # fmt: skip
                c = known(tx, key)
                device = c.device(id)
                assert device is not None
                told = replace(device, badge=badge, state=state, wake_at=None)
                tx.put(replace(c.with_device(told), push_due_at=None, expires_at=None))

            await store.submit(change, Needs(keys=(key,)))
        for silent, found in (((), []), (("acme",), [Key("acme", "c-1")])):
            assert [key async for page in store.unsettled(silent) for key in page] == found


async def test_a_renewed_epoch_is_there_after_reopening_and_the_secret_stays(path: Path) -> None:
    async with opened(path) as (store, _):
        first = dict(store.meta)
        await store.renew_epoch()
    async with opened(path) as (store, _):
        assert store.meta["epoch"] != first["epoch"]
        assert store.meta["secret"] == first["secret"]


@pytest.mark.parametrize("before", [0, 3])
async def test_after_a_backup_was_restored_no_registration_of_since_has_its_id_given_again(
    path: Path, tmp_path: Path, before: int
) -> None:
    async with opened(path) as (store, _):
        for n in range(before):
            await register(store, KEY, f"i-{n}", f"t-{n}")
    shutil.copy(path, tmp_path / "backup.db")
    async with opened(path) as (store, _):
        lost = [await register(store, KEY, f"i-{n}", f"t-{n}") for n in range(5, 9)]
    restored = Database(tmp_path / "backup.db")
    async with restored:
        await Store(restored, Clock()).renew_epoch()
    async with opened(restored.path) as (store, _):
        again = [await register(store, KEY, f"i-{n}", f"t-{n}") for n in range(5, 9)]
    assert min(again) > max(lost)


async def test_after_a_backup_was_restored_no_badge_is_older_than_one_that_was_told(
    path: Path, tmp_path: Path
) -> None:
    async with opened(path) as (store, _):
        await post(store, draft("one"))
    shutil.copy(path, tmp_path / "backup.db")
    async with opened(path) as (store, _):
        await post(store, draft("two"))
        told = await store.conversation(KEY)
    restored = Database(tmp_path / "backup.db")
    async with restored:
        await Store(restored, Clock()).renew_epoch()
    async with opened(restored.path) as (store, _):
        now = await store.conversation(KEY)
    assert told is not None
    assert now is not None
    assert (told.badge_seq, now.last_seq) == (2, 1)
    assert now.badge_seq > told.badge_seq


async def test_a_registration_given_up_long_ago_can_be_found(path: Path) -> None:
    async with opened(path) as (store, _):
        states = [DeviceState.LIVE, DeviceState.DEAD, DeviceState.QUARANTINED, DeviceState.DEAD]
        keys = [Key("acme", f"c-{n}") for n in range(4)]
        for n, (key, state) in enumerate(zip(keys, states, strict=True)):
            id = await register(store, key, f"i-{n}", f"t-{n}")

            def change(tx: Transaction, key: Key = key, id: int = id, to: Any = state) -> None:
                c = known(tx, key)
                device = c.device(id)
                assert device is not None
                at = 200.0 if key == keys[3] else 100.0
                tx.put(c.with_device(replace(device, state=to, state_at=at)))

            await store.submit(change, Needs(keys=(key,)))
        assert sorted(await store.forgettable(150.0)) == keys[1:3]


async def test_the_epoch_and_the_secret_are_made_once_and_stay(path: Path, tmp_path: Path) -> None:
    async with opened(path) as (store, _):
        first = dict(store.meta)
    async with opened(path) as (store, _):
        assert store.meta == first
    async with opened(tmp_path / "another.db") as (store, _):
        assert store.meta.keys() == first.keys() == {"epoch", "secret"}
        assert set(store.meta.values()).isdisjoint(first.values())


# The conservation law and unread, after everything


def happen(random: Random, key: Key) -> Callable[[Transaction], None]:
    """Something that may happen to a conversation; sometimes it fails at the end."""
    what = random.choice(["post", "post", "post", "ack", "read", "expire", "push", "lose", "gain"])
    role, kind = random.choice(
        [("agent", "chat"), ("customer", "chat"), ("service", "proactive"), ("service", "system")]
    )
    one, other, fails = random.random(), random.random(), random.random() < 0.1
    trigger = {
        "expire": Trigger.EXPIRY,
        "push": Trigger.ACCEPTANCE,
        "lose": Trigger.NO_DEVICE_LEFT,
        "gain": Trigger.REGISTRATION,
    }.get(what)

    def change(tx: Transaction) -> None:
        c = known(tx, key)
        cuts = [Cut(0, 0), *sorted({c.acked, c.last, Cut(c.read_seq, c.read_ord), *cuts_of(c)})]
        lo, hi = sorted((cuts[int(one * len(cuts))], cuts[int(other * len(cuts))]))
        if what == "post":
            tx.append_message(c, draft(what, role=role, kind=kind))
        elif what in ("ack", "read"):
            c, _ = tx.acknowledge(c, hi)
            if what == "read":
                tx.mark_read(c, hi)
        else:
            assert trigger is not None
            tx.transition(c, lo, hi, trigger, None if what == "gain" else what)
        if fails:
            raise Refused

    return change


def cuts_of(c: Conversation) -> list[Cut]:
    """Places that are known from the conversation's newest messages and spans."""
    spans = [cut for span in c.settled for cut in (span.lo, span.hi)]
    return spans + [m.cut for m in (c.newest, c.newest_counted) if m is not None]


def recount(path: Path) -> tuple[dict[Key, int], dict[tuple[str, str], int]]:
    """Unread and outcomes, message by message, from the tables alone."""
    unread: Counter[Key] = Counter()
    counters: Counter[tuple[str, str]] = Counter()
    spans = rows(path, "SELECT conversation, lo_seq, hi_seq, outcome FROM outcomes")
    for tenant, customer, id, seq, acked, read in rows(
        path,
        """SELECT c.tenant, c.customer, c.id, m.seq, c.acked_seq, c.read_seq
        FROM messages m JOIN conversations c ON c.id = m.conversation
        WHERE m.role <> 'customer' AND m.kind <> 'system'""",
    ):
        unread[Key(tenant, customer)] += seq > read
        counters[tenant, "accepted"] += 1
        told = [outcome for c, lo, hi, outcome in spans if c == id and lo < seq <= hi]
        assert len(told) <= 1, "never two outcomes"
        counters[tenant, told[0] if told else "acked" if seq <= acked else "pending"] += 1
    return +unread, {name: value for name, value in counters.items() if value}


@pytest.mark.parametrize("seed", range(4))
async def test_unread_and_counters_equal_a_recount_after_anything_also_when_reopened(
    path: Path, seed: int
) -> None:
    random = Random(seed)
    keys = [Key(tenant, f"c-{n}") for tenant in ("acme", "other") for n in range(3)]
    seen: set[str] = set()
    for _ in range(3):
        async with opened(path) as (store, _):
            store._known.CACHE = 3
            for _ in range(15):
                batch = [random.choice(keys) for _ in range(random.randint(1, 12))]
                answers = await asyncio.gather(
                    *(store.submit(happen(random, k), Needs(keys=(k,))) for k in batch),
                    return_exceptions=True,
                )
                assert {type(answer) for answer in answers} <= {type(None), Refused}
                unread, counters = recount(path)
                seen |= {name for _, name in counters}
                assert {n: v for n, v in store.counters.items() if v} == counters
                for tenant in ("acme", "other"):
                    kept = sum(counters.get((tenant, outcome.value), 0) for outcome in Outcome)
                    assert counters.get((tenant, "accepted"), 0) == kept
            before = {key: await store.conversation(key) for key in keys}
            assert {k: c.unread for k, c in before.items() if c and c.unread} == unread
        async with opened(path) as (store, _):
            assert {key: await store.conversation(key) for key in keys} == before
            assert {n: v for n, v in store.counters.items() if v} == counters
    assert seen == {"accepted", *Outcome}


async def test_what_a_batch_held_is_freed_with_it_and_waits_for_no_collector(path: Path) -> None:
    async with opened(path) as (store, _):
        gc.collect()
        gc.disable()
        before = transactions()
        try:
            for i in range(3):
                await post(store, draft(f"m{i}"))
            with pytest.raises(Refused):
                await store.submit(refusing, Needs(keys=(KEY,)))
            await store.submit(nothing, Needs())  # the writer itself holds the newest until then
            left = transactions() - before
        finally:
            gc.enable()
    assert left <= 1


def transactions() -> int:
    """How many there are, in whatever else this process has run too."""
    return sum(isinstance(thing, Transaction) for thing in gc.get_objects())


# What may wait


async def test_what_may_wait_holds_up_nobody_and_is_never_forgotten(path: Path) -> None:
    async with Database(path) as database:
        store = Store(database, Clock())
        await store.start()
        done: list[str] = []

        def note(name: str) -> Callable[[Any, Exception | None], None]:
            return lambda value, error: done.append(name)

        for _ in range(6 * store.BATCH):
            store.enqueue(lambda tx: tx.touch(), Needs(), note("later"), later=True)
        for _ in range(3):
            await store.submit(lambda tx: tx.touch(), Needs())
            done.append("chat")
        await store.stop()
        chat = [i for i, name in enumerate(done) if name == "chat"]
        waits = [after - before - 1 for before, after in zip([-1, *chat], chat, strict=False)]
        # Of the commit that runs, which began when nobody waited in chat, and of its own.
        assert max(waits) <= store.BATCH + store.LATER
        assert len(done) == 6 * store.BATCH + 3


async def test_between_those_who_chat_a_commit_does_no_more_of_what_may_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "CHATTING", 3)
    judged = list[Transaction]()
    async with Database(path) as database:
        store = Store(database, Clock())
        await store.start()
        for _ in range(3 * store.LATER + store.BATCH):
            store.enqueue(judged.append, Needs(), lambda value, error: None, later=True)
        await store.submit(judged.append, Needs())
        await store.stop()
    sizes = [len(list(batch)) for _, batch in groupby(judged)]
    assert sizes == [1 + store.LATER, store.LATER, store.LATER, store.BATCH]


async def test_where_nobody_chats_a_commit_does_a_full_batch_of_what_may_wait(path: Path) -> None:
    async with opened(path) as (store, _):
        store.BATCH, store.LATER = 10, 2
        commits: list[int] = []
        for n in range(30):
            told = note_commit(store, commits)
            store.enqueue(Post(draft(str(n))), Needs(keys=(KEY,)), told, later=True)
        await store.stop()
        assert [commits.count(number) for number in sorted(set(commits))] == [10, 10, 10]


async def test_what_the_gateway_itself_asks_makes_no_tenant_of_it(path: Path) -> None:
    async with opened(path) as (store, _):
        store.BATCH, store.SHARED = 10, 2
        commits: list[int] = []
        checking = asyncio.ensure_future(store.check())
        await asyncio.sleep(0)
        for n in range(20):
            store.enqueue(Post(draft(str(n))), Needs(keys=(KEY,)), note_commit(store, commits))
        await store.stop()
        await checking
        assert [commits.count(number) for number in sorted(set(commits))] == [5, 10, 5]


async def test_in_one_commit_who_chats_comes_before_what_may_wait(path: Path) -> None:
    async with opened(path) as (store, _):
        done: list[str] = []
        for name in ("later", "chat"):
            told = partial(lambda name, value, error: done.append(name), name)
            store.enqueue(lambda tx: tx.touch(), Needs(keys=(KEY,)), told, later=name == "later")
        telling = lambda tx: tx.after_commit(lambda: done.append("told"))  # noqa: E731
        store.enqueue(telling, Needs(keys=(KEY,)), lambda value, error: done.append("answered"))
        await store.stop()
        assert (done, store.commits) == (["told", "chat", "answered", "later"], 1)


async def test_what_one_tenant_may_wait_for_has_a_small_part_beside_another_who_chats(
    path: Path,
) -> None:
    async with opened(path) as (store, _):
        store.SHARED, store.LATER_SHARED = 4, 2
        other = Key("other", KEY.customer)
        chat: list[int] = []
        later: list[int] = []
        for n in range(12):
            store.enqueue(Post(draft(str(n))), Needs(keys=(KEY,)), note_commit(store, chat))
            told = note_commit(store, later)
            store.enqueue(Post(draft(str(n)), other), Needs(keys=(other,)), told, later=True)
        await store.stop()
        assert [chat.count(number) for number in sorted(set(chat))] == [4, 4, 4]
        assert [later.count(number) for number in sorted(set(later))] == [2, 2, 2, 4, 2]


async def test_what_very_many_tenants_may_wait_for_is_no_more_beside_who_chats(path: Path) -> None:
    async with opened(path) as (store, _):
        store.LATER, store.SHARED, store.BATCH = 6, 4, 20
        chat: list[int] = []
        later: list[int] = []
        store.enqueue(Post(draft("hello")), Needs(keys=(KEY,)), note_commit(store, chat))
        for n in range(20):
            other = Key(f"other-{n}", KEY.customer)
            told = note_commit(store, later)
            store.enqueue(Post(draft(str(n)), other), Needs(keys=(other,)), told, later=True)
        await store.stop()
        assert max(later.count(number) for number in later) <= store.LATER
        assert len(later) == 20


async def test_a_backlog_of_what_may_wait_refuses_no_chat(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "QUEUE", 3)
    async with Database(path) as database:
        store = Store(database, Clock())
        await store.start()
        late = [store.submit(lambda tx: None, Needs(), later=True) for _ in range(3)]
        with pytest.raises(Overloaded):
            store.submit(lambda tx: None, Needs(), later=True)
        await store.submit(lambda tx: None, Needs())
        await asyncio.gather(*late)
        await store.stop()


async def test_who_fails_at_being_told_neither_undoes_nor_repeats_a_commit(path: Path) -> None:
    async with Database(path) as database:
        store = Store(database, Clock())
        await store.start()
        faults: list[Exception] = []
        store.failed = faults.append

        def broken(value: Any, error: Exception | None) -> None:
            raise RuntimeError("could not be told")

        def change(tx: Transaction) -> None:
            tx.append_message(tx.conversation(KEY) or tx.create(KEY, None), draft("once"))

        store.enqueue(change, Needs(keys=(KEY,)), broken)
        await store.submit(lambda tx: None, Needs())
        await store.stop()
        c = store.peek(KEY)
        assert c is not None
        assert (c.last_seq, store.commits) == (1, 1)
        assert [str(fault) for fault in faults] == ["could not be told"]


async def test_what_is_told_of_a_message_is_of_one_moment(path: Path) -> None:
    """Its events are those of the state that is told, though a commit comes while they are read."""

    class Meanwhile(Database):
        during: Callable[[], asyncio.Future[None]] | None = None

        async def read(self, sql: str, parameters: tuple[Any, ...] = (), tenant: str = "") -> Any:
            during, self.during = self.during, None
            if during is not None:
                await during()
            return await super().read(sql, parameters, tenant)

    async with Meanwhile(path) as database:
        store = Store(database, Clock())
        await store.start()
        await post(store, draft("one"))

        def acked(tx: Transaction) -> None:
            c = tx.conversation(KEY)
            assert c is not None
            c, _ = tx.acknowledge(c, c.last)
            tx.event(c, 1, 1, "acked")

        database.during = lambda: store.submit(acked, Needs(keys=(KEY,)))
        before = await store.told(KEY, 1)
        after = await store.told(KEY, 1)
        await store.stop()
    assert before is not None
    assert after is not None
    assert (before.conversation.acked_seq, before.outcome, before.events) == (0, "pending", [])
    assert (after.conversation.acked_seq, after.outcome) == (1, "acked")
    assert [event.event for event in after.events] == ["acked"]
