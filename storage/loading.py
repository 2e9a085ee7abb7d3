"""What is known of the committed state: conversations used lately, and what a batch asks beside.

Decides what is kept in memory and what is read, with how many statements. Every reading is
set-based: a batch is a few statements, whatever its size. Leaves to `storage.store` whose change it
is for, and when; to `storage.sql` the statements.

Bounds (I9): `CACHE` conversations in memory, and `UNACKED` messages of one that has more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import msgspec

from storage import campaigns, outcomes, sql
from storage.database import Database
from storage.records import Conversation, Cut, Key, Message
from storage.transaction import Loaded, Mark, Owner
from storage.vault import Vault


class Needs(msgspec.Struct, frozen=True):
    """What a change judges beside its conversation. All are read in one go for a whole batch."""

    keys: tuple[Key, ...] = ()
    refs: tuple[tuple[Key, str, str, str], ...] = ()  # read only when one of the batch is taken
    mark: int | None = None  # a seq of the conversation in `keys`
    device: tuple[str, str, str | None] | None = None  # tenant, installation, token
    campaign: str | None = None
    whose: str = ""  # a tenant, where nothing else says it

    @property
    def tenant(self) -> str:
        """Whose change this is; none's if it is the gateway's own."""
        if self.keys:
            return self.keys[0].tenant
        return self.device[0] if self.device is not None else self.whose


class Known:
    """The committed state, as far as it is in memory, and a way to the rest.

    `vault` opens the tokens of the registrations that are read.
    """

    CACHE = 50_000
    """Conversations kept in memory. The least recently used go; they are read again when needed."""
    UNACKED = 1_000
    """Unacknowledged messages that are read of one conversation, at each place that matters."""

    def __init__(self, database: Database) -> None:
        self.vault = Vault()
        self._database = database
        self._cache: OrderedDict[Key, Conversation] = OrderedDict()

    def get(self, key: Key) -> Conversation | None:
        """The conversation as last committed, if it is in memory."""
        return self._cache.get(key)

    def remember(self, conversations: dict[Key, Conversation]) -> None:
        """This is what is committed of these now. What `load` gave counts as used already."""
        self._cache.update(conversations)
        while len(self._cache) > self.CACHE:
            self._cache.popitem(last=False)

    async def of(self, keys: list[Key]) -> dict[Key, Conversation]:
        """Those of these conversations, all of one tenant, that exist: for readers beside the
        writer."""
        found = {key: c for key in keys if (c := self._cache.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            reading = partial(self._database.read, tenant=missing[0].tenant)
            read = {c.key: c for c in await self._fetch(missing, reading)}
            # Meanwhile the writer may have read or changed any: what it remembers is newer.
            now = {key: self._cache.get(key) or read.get(key) for key in keys}
            found |= {key: c for key, c in now.items() if c is not None}
        return found

    async def _fetch(self, keys: list[Key], read: Callable[..., Any]) -> list[Conversation]:
        """From the file, by one of the database's two ways of reading."""
        rows = await read(sql.LOAD_BY_KEY, sql.by_tenant(keys))
        if not rows:
            return []
        at = {name: i for i, name in enumerate(sql.CONVERSATION)}
        ids = [row[0] for row in rows]
        devices: dict[int, list[Any]] = {id: [] for id in ids}
        tenants = {row[0]: row[at["tenant"]] for row in rows}
        registered = await read(sql.LOAD_DEVICES, sql.rows(ids))
        registered.sort(key=itemgetter(1))  # by id: SQLite would copy each row for that
        for id, *device in registered:
            devices[id].append(sql.to_device(device, tenants[id], self.vault))
        spans: dict[int, list[Any]] = {id: [] for id in ids}
        acked = {row[0]: row[at["acked_ord"]] for row in rows}
        for id, *span in await read(sql.LOAD_SPANS, sql.by_conversation(acked)):
            spans[id].append(sql.to_span(span))
        last = at["last_seq"]
        newest = {row[0]: row[last] for row in rows}
        counted = {row[0]: row[-1] for row in rows if row[-1] != row[last]}
        messages = {
            (row[0], row[1]): Message(*row)
            for row in await read(sql.LOAD_MESSAGES, sql.by_conversation(newest, counted))
        }
        return [
            sql.to_conversation(
                row,
                tuple(spans[row[0]]),
                tuple(devices[row[0]]),
                messages.get((row[0], row[last])),
                messages.get((row[0], row[-1])),
            )
            for row in rows
        ]

    # For the writer

    async def load(self, needs: list[Needs]) -> tuple[dict[Key, Conversation], Loaded]:
        """What a batch of changes judges, but for `load_refs` and `load_unacked`: few need that."""
        loaded = Loaded()
        keys: set[Key] = set()
        devices: set[tuple[str, str, str | None]] = set()
        wanted: set[str] = set()
        for need in needs:
            keys.update(need.keys)
            if need.device is not None:
                devices.add(need.device)
            if need.campaign is not None:
                wanted.add(need.campaign)
        if devices:
            keys.update(await self._load_owners(devices, loaded))
        committed = await self._load_conversations(keys)
        places: dict[tuple[int, int], Key] = {}
        for need in needs:
            if need.mark is not None:
                c = committed.get(need.keys[0])
                if c is not None and 0 < need.mark < c.last_seq:  # else it tells the place itself
                    places[c.id, need.mark] = c.key
        if places:
            await self._load_marks(places, loaded)
        if wanted:
            await self._load_campaigns(wanted, loaded)
        return committed, loaded

    async def _load_campaigns(self, asked: set[str], loaded: Loaded) -> None:
        for row in await self._database.read_for_write(campaigns.LOAD, sql.rows(asked)):
            campaign = campaigns.to_campaign(row)
            loaded.campaigns[campaign.id] = campaign

    async def load_unacked(
        self, keys: Iterable[Key], committed: dict[Key, Conversation], loaded: Loaded
    ) -> None:
        """The unacknowledged messages of these conversations, or of very many some (`_windows`)."""
        loaded.unacked.update({key: [] for key in keys})
        found = {c.id: c for key in keys if (c := committed.get(key)) is not None}
        wanted = [window for c in found.values() for window in self._windows(c)]
        for row in await self._database.read_for_write(sql.LOAD_UNACKED, sql.rows(wanted)):
            m = Message(*row)
            loaded.unacked[found[m.conversation].key].append(m)

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
            (tenant, installation, token and self.vault.lookup(tenant, token))
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
            read = await self._fetch(missing, self._database.read_for_write)
            found = {conversation.key: conversation for conversation in read}
            committed |= found
            self.remember(found)
        return committed

    async def load_refs(
        self, needs: list[Needs], committed: dict[Key, Conversation], loaded: Loaded
    ) -> None:
        """The messages that came under the batch's refs before."""
        refs = [ref for need in needs for ref in need.refs]
        names = {committed[ref[0]].id: ref[0] for ref in refs if ref[0] in committed}
        if not names:
            return
        wanted = [(committed[k].id, role, who, ref) for k, role, who, ref in refs if k in committed]
        for row in await self._database.read_for_write(sql.LOAD_REFS, sql.rows(wanted)):
            m = Message(*row)
            loaded.refs[names[m.conversation], m.role, m.author, m.ref or ""] = m

    async def _load_marks(self, places: dict[tuple[int, int], Key], loaded: Loaded) -> None:
        read = self._database.read_for_write
        for id, seq, ord, said, next_at in await read(sql.LOAD_MARKS, sql.rows(places)):
            loaded.marks[places[id, seq], seq] = Mark(Cut(seq, ord), said, next_at)
