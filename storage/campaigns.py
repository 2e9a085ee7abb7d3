"""Campaigns: one message to many customers, as rows. Their records and their SQL.

A campaign's recipients are numbered in the order in which they were given. `cursor` is the last
number that was handled, and moves in the transaction that writes the messages: what a crash leaves
is always an exact place. `total` counts recipients, of whom `sent` have a message and `skipped`
have a reason why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from storage import sql
from storage.sql import Statement

if TYPE_CHECKING:
    from storage.database import Database


class CampaignState(StrEnum):
    """Where a campaign is. `loading` until its whole audience is on disk; then it is told of."""

    LOADING = "loading"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DISCARDED = "discarded"


OPEN = (CampaignState.RUNNING, CampaignState.PAUSED)
"""The states in which there is something left to do."""


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. Times in epoch seconds; `data` is JSON text; `rate` in recipients per second.

    `text` and `title` are templates. `unknown` says what becomes of customers nobody has seen.
    """

    id: str
    tenant: str
    author: str
    name: str | None
    ref: str | None
    digest: str
    state: CampaignState
    text: str
    title: str | None
    data: str | None
    unknown: str
    rate: float
    created_at: float
    send_at: float | None
    expires_at: float | None
    ended_at: float | None = None
    duplicates: int = 0
    total: int = 0
    cursor: int = 0
    sent: int = 0
    skipped: int = 0

    @property
    def left(self) -> int:
        """Recipients who were neither sent to nor skipped."""
        return self.total - self.sent - self.skipped

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def __repr__(self) -> str:
        return f"Campaign(id={self.id!r}, state={self.state.value!r}, left={self.left})"


class Recipient(NamedTuple):
    """One of the audience. `fields` is a JSON object of what its template needs."""

    n: int
    customer: str
    fields: str | None


class Handled(NamedTuple):
    """What became of recipient `n`: the message that they got, or why they got none."""

    n: int
    conversation: int | None
    seq: int | None
    skipped: str | None


class Tally(NamedTuple):
    """How many recipients stand so. `outcome` is None for those without a message."""

    outcome: str | None
    reason: str | None
    read: bool
    many: int


COLUMNS = tuple(Campaign.__struct_fields__)
_NAMES = ", ".join(COLUMNS)
_NUMBER = "(SELECT number FROM campaigns WHERE id = ?)"

# Writing

_PUT = (
    f"INSERT INTO campaigns ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")
)
_ADD = f"""
    INSERT OR IGNORE INTO campaign_recipients (campaign, n, customer, fields)
    SELECT {_NUMBER}, json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]'),
        json_extract(j.value, '$[2]')
    FROM json_each(?) j
"""  # noqa: S608
_HANDLE = """
    UPDATE campaign_recipients SET conversation = done.conversation, seq = done.seq,
        skipped = done.skipped
    FROM (
        SELECT json_extract(j.value, '$[0]') AS n, json_extract(j.value, '$[1]') AS conversation,
            json_extract(j.value, '$[2]') AS seq, json_extract(j.value, '$[3]') AS skipped
        FROM json_each(?1) j
    ) AS done
    WHERE campaign_recipients.campaign = (SELECT number FROM campaigns WHERE id = ?2)
        AND campaign_recipients.n IN (SELECT json_extract(value, '$[0]') FROM json_each(?1))
        AND campaign_recipients.n = done.n
"""  # the second condition says the first twice, for the planner: else it walks the whole campaign
_FORGET = f"""
    DELETE FROM campaign_recipients WHERE campaign = {_NUMBER} AND n IN (
        SELECT n FROM campaign_recipients WHERE campaign = {_NUMBER} ORDER BY n LIMIT ?)
"""  # noqa: S608
_REMOVE = "DELETE FROM campaigns WHERE id = ?"


def campaign_put(campaign: Campaign) -> Statement:
    """Writes the campaign's row, new or not."""
    return _PUT, msgspec.structs.astuple(campaign)


def recipients_add(id: str, recipients: Iterable[Recipient]) -> Statement:
    """Adds to the audience. Who is in it already keeps the first place: one message each."""
    return _ADD, (id, *sql.rows(recipients))


def recipients_handled(id: str, handled: Iterable[Handled]) -> Statement:
    """Records what became of recipients."""
    return _HANDLE, (*sql.rows(handled), id)


def recipients_forget(id: str, most: int) -> Statement:
    """Removes up to `most` recipients of a campaign that is discarded."""
    return _FORGET, (id, id, most)


def campaign_remove(id: str) -> Statement:
    """Removes a campaign that has no recipients any more."""
    return _REMOVE, (id,)


# Reading

LOAD = f"SELECT {_NAMES} FROM campaigns WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
_IN_STATES = f"""
    SELECT {_NAMES} FROM campaigns
    WHERE state IN (SELECT value FROM json_each(?)) ORDER BY number
"""  # noqa: S608
_BY_REF = f"SELECT {_NAMES} FROM campaigns WHERE tenant = ? AND author = ? AND ref = ?"  # noqa: S608
_LIST = f"""
    SELECT {_NAMES} FROM campaigns WHERE tenant = ? AND state NOT IN ('loading', 'discarded')
        AND number < coalesce((SELECT number FROM campaigns WHERE id = ? AND tenant = ?), ?)
    ORDER BY number DESC LIMIT ?
"""  # noqa: S608
_NEXT = f"""
    SELECT n, customer, fields FROM campaign_recipients
    WHERE campaign = {_NUMBER} AND n > ? ORDER BY n LIMIT ?
"""  # noqa: S608
_COUNT = f"SELECT count(*) FROM campaign_recipients WHERE campaign = {_NUMBER}"  # noqa: S608
_WITH_DEVICE = """
    SELECT c.customer FROM conversations c WHERE c.tenant = ?1 AND c.customer > ?2
        AND EXISTS (SELECT 1 FROM devices d WHERE d.conversation = c.id AND d.state = 'live')
    ORDER BY c.customer LIMIT ?3
"""
"""In the order of the tenant's index: a page ends there, and reads neither another page nor what
is another tenant's."""
_TALLY = f"""
    WITH page AS (
        SELECT * FROM campaign_recipients WHERE campaign = {_NUMBER} AND n > ? AND n <= ?
        ORDER BY n LIMIT ?
    )
    SELECT outcome, reason, read, count(*), max(n) FROM (
        SELECT r.n, r.seq <= c.read_seq AS read,
            CASE WHEN r.seq IS NULL THEN NULL WHEN o.outcome IS NOT NULL THEN o.outcome
                WHEN r.seq <= c.acked_seq THEN 'acked' ELSE 'pending' END AS outcome,
            coalesce(r.skipped, o.reason) AS reason
        FROM page r LEFT JOIN conversations c ON c.id = r.conversation
        LEFT JOIN outcomes o ON o.conversation = r.conversation
            AND o.lo_seq < r.seq AND o.hi_seq >= r.seq
    ) GROUP BY outcome, reason, read
"""  # noqa: S608
_TALLIED = 5_000  # recipients in one query: others look on the same connection


def to_campaign(row: Sequence[Any]) -> Campaign:
    values = dict(zip(COLUMNS, row, strict=True))
    values["state"] = CampaignState(values["state"])
    return Campaign(**values)


class CampaignRows:
    """What is asked of campaigns, from what is committed. Changing goes through the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, tenant: str, id: str) -> Campaign | None:
        """A tenant's campaign; None also if it is another tenant's."""
        rows = await self._database.read(LOAD, sql.rows([id]), tenant)
        found = [to_campaign(row) for row in rows]
        return next((campaign for campaign in found if campaign.tenant == tenant), None)

    async def by_ref(self, tenant: str, author: str, ref: str) -> Campaign | None:
        """The campaign that this service made under this key."""
        rows = await self._database.read(_BY_REF, (tenant, author, ref), tenant)
        return to_campaign(rows[0]) if rows else None

    async def in_states(self, *states: CampaignState) -> list[Campaign]:
        """Every tenant's campaigns in one of these states, oldest first."""
        rows = await self._database.read(_IN_STATES, sql.rows(states))
        return [to_campaign(row) for row in rows]

    async def page(self, tenant: str, before: str | None, limit: int) -> list[Campaign]:
        """A tenant's campaigns, newest first, older than the one named `before`."""
        rows = await self._database.read(_LIST, (tenant, before, tenant, 2**62, limit), tenant)
        return [to_campaign(row) for row in rows]

    async def recipients(self, tenant: str, id: str, after: int, limit: int) -> list[Recipient]:
        """The next of the audience, after number `after`."""
        rows = await self._database.read(_NEXT, (id, after, limit), tenant)
        return [Recipient(*row) for row in rows]

    async def count(self, tenant: str, id: str) -> int:
        """How many recipients there are."""
        ((count,),) = await self._database.scan(_COUNT, (id,), tenant)
        return int(count)

    async def with_device(self, tenant: str, after: str, limit: int) -> list[str]:
        """Customers with a live device, in the order of their ids, after `after`."""
        rows = await self._database.scan(_WITH_DEVICE, (tenant, after, limit), tenant)
        return [customer for (customer,) in rows]

    async def tally(self, tenant: str, id: str, upto: int) -> list[Tally]:
        """How the recipients up to number `upto` stand now, a page at a time."""
        found: list[Tally] = []
        after = 0
        while after < upto:
            rows = await self._database.scan(_TALLY, (id, after, upto, _TALLIED), tenant)
            if not rows:
                break
            found += [Tally(o, reason, bool(read), many) for o, reason, read, many, _ in rows]
            after = max(row[-1] for row in rows)
        return found


# The recount

_PROBLEMS = (
    (
        "its recipients are {}, counted {}",
        """
        SELECT c.tenant, c.id, c.total, count(r.n) FROM campaigns c
        LEFT JOIN campaign_recipients r ON r.campaign = c.number
        WHERE c.state NOT IN ('loading', 'discarded') GROUP BY c.number HAVING c.total <> count(r.n)
        """,
    ),
    (
        "says that {} were sent, counted {}",
        """
        SELECT c.tenant, c.id, c.sent, count(r.seq) FROM campaigns c
        LEFT JOIN campaign_recipients r ON r.campaign = c.number
        GROUP BY c.number HAVING c.sent <> count(r.seq)
        """,
    ),
    (
        "says that {} were skipped, counted {}",
        """
        SELECT c.tenant, c.id, c.skipped, count(r.skipped) FROM campaigns c
        LEFT JOIN campaign_recipients r ON r.campaign = c.number
        GROUP BY c.number HAVING c.skipped <> count(r.skipped)
        """,
    ),
    (
        "recipient {} is beyond its cursor {} and was handled, or the other way round",
        """
        SELECT c.tenant, c.id, r.n, c.cursor FROM campaigns c
        JOIN campaign_recipients r ON r.campaign = c.number
        WHERE (r.n <= c.cursor) <> (r.seq IS NOT NULL OR r.skipped IS NOT NULL)
        """,
    ),
    (
        "recipient {} has no message {} that is of this campaign and theirs",
        """
        SELECT c.tenant, c.id, r.n, r.seq FROM campaigns c
        JOIN campaign_recipients r ON r.campaign = c.number AND r.seq IS NOT NULL
        LEFT JOIN conversations v ON v.id = r.conversation
            AND v.tenant = c.tenant AND v.customer = r.customer
        LEFT JOIN messages m ON m.conversation = v.id AND m.seq = r.seq AND m.ref = c.id
        WHERE m.seq IS NULL
        """,
    ),
    (
        "has {} messages, and recorded {}: somebody got one that is not accounted for",
        """
        SELECT c.tenant, c.id, count(m.ref), c.sent FROM campaigns c
        JOIN campaign_recipients r ON r.campaign = c.number
        LEFT JOIN conversations v ON v.tenant = c.tenant AND v.customer = r.customer
        LEFT JOIN messages m ON m.conversation = v.id AND m.role = 'service'
            AND m.author = c.author AND m.ref = c.id
            AND r.skipped IS NULL  -- else the service used the campaign's id as a key itself
        GROUP BY c.number HAVING count(m.ref) <> c.sent
        """,
    ),
)


def problems(
    execute: Callable[[str], Iterable[Sequence[Any]]],
) -> Iterator[tuple[str, str]]:
    """What breaks a law in the rows of campaigns: whose it is, and what is broken."""
    for problem, query in _PROBLEMS:
        for tenant, id, *values in execute(query):
            yield tenant, f"campaign {id}: {problem.format(*values)}"
