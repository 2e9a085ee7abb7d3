"""Bringing a database under a key: from plain to sealed, from one key to the next, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import sealing
from storage.database import Database
from storage.errors import CannotOpen, Unavailable
from storage.records import Device, Key
from storage.sealing import Progress, seal_all, sealed_by
from storage.store import Needs, Store
from storage.transaction import Transaction
from storage.vault import Keys, key_name
from tests.storage.stored import Clock, outside, rows

OLD, NEW = b"o" * 32, b"n" * 32
MANY = 25


@pytest.fixture(autouse=True)
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "ROWS", 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ringback.db"


def token(n: int) -> str:
    return f"CANARY-device-token-{n}"


async def register(store: Store, n: int, customer: str | None = None) -> None:
    key = Key("acme", customer or f"c-{n}")

    def change(tx: Transaction) -> None:
        c = tx.conversation(key) or tx.create(key, None)
        device = Device(tx.new_device_id(), f"phone-{n}", token(n), 1, tx.now)
        tx.move_token(c, device)

    await store.submit(change, Needs(keys=(key,), device=("acme", f"phone-{n}", token(n))))


async def fill(path: Path, keys: Keys | None) -> None:
    async with Database(path) as database:
        store = Store(database, Clock(), keys)
        await store.start()
        for n in range(MANY):
            await register(store, n)
        await store.stop()


async def read_tokens(path: Path, keys: Keys | None) -> list[str]:
    """Every customer's token, as a gateway that starts with these keys knows it."""
    async with Database(path) as database:
        store = Store(database, Clock(), keys)
        await store.start()
        found = [await store.conversation(Key("acme", f"c-{n}")) for n in range(MANY)]
        await store.stop()
    return [device.token for c in found if c is not None for device in c.devices]


def used(path: Path) -> dict[str | None, int]:
    return dict(rows(path, "SELECT sealed_by, count(*) FROM devices GROUP BY sealed_by"))


def bytes_of(path: Path) -> bytes:
    files = [path, path.with_name(path.name + "-wal")]
    return b"".join(file.read_bytes() for file in files if file.exists())


ALL = [token(n) for n in range(MANY)]


async def test_with_a_key_no_token_is_in_the_file_and_each_is_known(path: Path) -> None:
    await fill(path, Keys(NEW))
    assert b"CANARY" not in bytes_of(path)
    assert used(path) == {key_name(NEW): MANY}
    assert await read_tokens(path, Keys(NEW)) == ALL


async def test_a_plain_database_is_sealed_at_the_first_start_with_a_key(path: Path) -> None:
    await fill(path, None)
    assert b"CANARY" in bytes_of(path)
    assert await read_tokens(path, Keys(NEW)) == ALL
    assert used(path) == {key_name(NEW): MANY}
    assert b"CANARY" not in bytes_of(path)


async def test_once_all_are_sealed_none_is_in_the_log_either_though_it_is_still_open(
    path: Path,
) -> None:
    """Until then it has pages of which only a part was sealed."""
    await fill(path, None)
    async with Database(path) as database:
        await seal_all(database, Keys(NEW))
        assert b"CANARY" not in bytes_of(path)


async def test_a_token_is_found_whoever_registers_it_and_belongs_to_one(path: Path) -> None:
    await fill(path, Keys(NEW))
    async with Database(path) as database:
        store = Store(database, Clock(), Keys(NEW))
        await store.start()
        key = Key("acme", "thief")
        found = await store.submit(
            lambda tx: (tx.owner_of_token("acme", token(3)), tx.owner_of_token("acme", "none")),
            Needs(keys=(key,), device=("acme", "another", token(3))),
        )
        await store.stop()
    owner, nobody = found
    assert owner is not None
    assert owner.key == Key("acme", "c-3")
    assert nobody is None


async def test_the_key_can_change_and_the_old_one_is_needed_no_more(path: Path) -> None:
    await fill(path, Keys(OLD))
    assert await read_tokens(path, Keys(NEW, OLD)) == ALL
    assert used(path) == {key_name(NEW): MANY}
    assert await read_tokens(path, Keys(NEW)) == ALL


@pytest.mark.parametrize("commits", [1, 2, 3])
@pytest.mark.parametrize("before", [None, Keys(OLD)])
async def test_sealing_that_is_cut_short_goes_on_where_it_stands(
    path: Path, commits: int, before: Keys | None
) -> None:
    await fill(path, before)
    seen: list[Progress] = []

    def told(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == commits:
            raise KeyboardInterrupt

    keys = Keys(NEW, OLD if before else None)
    async with Database(path) as database:
        with pytest.raises(KeyboardInterrupt):
            await seal_all(database, keys, told)
    assert used(path)[key_name(NEW)] == min(MANY, 10 * commits)
    if commits < 3:
        other = key_name(OLD) if before else None
        assert used(path)[other] == MANY - 10 * commits
    if before:
        with pytest.raises(CannotOpen, match=key_name(OLD)):
            await read_tokens(path, Keys(NEW))
    assert await read_tokens(path, keys) == ALL
    assert await read_tokens(path, Keys(NEW)) == ALL


async def test_each_commit_tells_how_many_were_sealed_and_how_many_did_not_open(path: Path) -> None:
    await fill(path, Keys(OLD))
    with outside(path) as db:
        db.execute("UPDATE devices SET sealed = 'damaged' WHERE id IN (3, 14)")
    seen: list[Progress] = []
    async with Database(path) as database:
        await seal_all(database, Keys(NEW, OLD), seen.append)
        assert await sealed_by(database) == [(key_name(NEW), MANY)]
    assert seen == [Progress(10, 1), Progress(20, 2), Progress(MANY, 2)]


async def test_a_disk_that_fails_amid_sealing_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path, Keys(OLD))
    write, count = Database.write, 0

    async def failing(self: Database, statements: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise Unavailable("the disk is full")
        await write(self, statements)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", failing)
        with pytest.raises(Unavailable):
            await read_tokens(path, Keys(NEW, OLD))
    assert await read_tokens(path, Keys(NEW, OLD)) == ALL


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (None, f"encrypted with the key {key_name(OLD)}: give it as storage.encryption_key"),
        (Keys(NEW), f"the key {key_name(OLD)}, and storage.encryption_key is {key_name(NEW)}"),
        (Keys(NEW), "give the other as storage.previous_encryption_key"),
    ],
)
async def test_a_missing_or_wrong_key_is_one_clear_line_and_changes_nothing(
    path: Path, keys: Keys | None, words: str
) -> None:
    await fill(path, Keys(OLD))
    before = rows(path, "SELECT * FROM devices"), rows(path, "SELECT * FROM meta")
    with pytest.raises(CannotOpen) as caught:
        await read_tokens(path, keys)
    assert words in caught.value.problem
    assert "\n" not in caught.value.problem
    assert (rows(path, "SELECT * FROM devices"), rows(path, "SELECT * FROM meta")) == before
    assert await read_tokens(path, Keys(OLD)) == ALL


async def test_a_database_without_a_token_wants_its_key_all_the_same(path: Path) -> None:
    async with Database(path) as database:
        await seal_all(database, Keys(OLD))
        with pytest.raises(CannotOpen):
            await seal_all(database, Keys(NEW))


async def test_a_lookup_key_that_is_damaged_is_one_clear_line(path: Path) -> None:
    await fill(path, Keys(OLD))
    with outside(path) as db:
        db.execute("UPDATE meta SET value = substr(value, 1, 30) WHERE name = 'lookup_key'")
    with pytest.raises(CannotOpen, match=r"the lookup key in .* is damaged: restore a backup"):
        await read_tokens(path, Keys(OLD))


async def test_a_lookup_key_that_is_gone_is_one_clear_line(path: Path) -> None:
    """With a new one a token that is told by another customer would belong to both (I6)."""
    await fill(path, Keys(OLD))
    with outside(path) as db:
        db.execute("DELETE FROM meta WHERE name = 'lookup_key'")
    for keys in (Keys(OLD), Keys(NEW, OLD)):
        with pytest.raises(CannotOpen, match=r"the lookup key in .* is gone: restore a backup"):
            await read_tokens(path, keys)
    with outside(path) as db:
        assert db.execute("SELECT 1 FROM meta WHERE name = 'lookup_key'").fetchall() == []


async def test_a_ciphertext_that_was_moved_rings_nobody_and_registering_mends_it(
    path: Path,
) -> None:
    await fill(path, Keys(OLD))
    with outside(path) as db:
        db.execute("UPDATE devices SET sealed = (SELECT sealed FROM devices WHERE id = 1)")
    async with Database(path) as database:
        store = Store(database, Clock(), Keys(NEW, OLD))
        await store.start()
        c = await store.conversation(Key("acme", "c-5"))
        assert c is not None
        assert c.live_devices == ()
        assert [d.token for d in c.devices] == [""]
        first = await store.conversation(Key("acme", "c-0"))
        assert first is not None
        assert [d.token for d in first.live_devices] == [token(0)]
        await store.stop()
    assert used(path) == {key_name(NEW): MANY}, "it does not ask for the old key for ever"


async def test_when_the_key_is_lost_the_tokens_are_and_nothing_else(path: Path) -> None:
    await fill(path, Keys(OLD))
    with outside(path) as db:  # as docs/operations.md says
        db.execute("DELETE FROM devices")
        db.execute("DELETE FROM meta WHERE name = 'lookup_key'")
    assert await read_tokens(path, Keys(NEW)) == []
    async with Database(path) as database:
        store = Store(database, Clock(), Keys(NEW))
        await store.start()
        await register(store, 3)
        c = await store.conversation(Key("acme", "c-3"))
        await store.stop()
    assert c is not None
    assert [d.token for d in c.devices] == [token(3)]


async def test_who_only_reads_needs_the_key_too(path: Path) -> None:
    await fill(path, Keys(OLD))
    database = await Database(path).open_to_read()
    try:
        store = await Store(database, Clock(), Keys(OLD)).read_only()
        c = await store.conversation(Key("acme", "c-1"))
        assert c is not None
        assert c.devices[0].token == token(1)
        with pytest.raises(CannotOpen):
            await Store(database, Clock()).read_only()
    finally:
        await database.close()


async def test_rewriting_the_file_keeps_all_and_leaves_nothing_of_before(path: Path) -> None:
    await fill(path, None)
    async with Database(path) as database:
        await seal_all(database, Keys(NEW))
        await database.rewrite()
    assert b"CANARY" not in bytes_of(path)
    assert await read_tokens(path, Keys(NEW)) == ALL
