"""The schema, as migrations that commit together with the record of having been made.

`PRAGMA user_version` is the number of migrations made; `application_id` says that a file is ours.
What a commit costs is the pages that it touches, and every tree by conversation is one page more
for each message (`docs/performance.md`). So `messages` lie in the order of their commits, and only
what finds them, an index of places and one of refs, is by conversation. `events` have no index at
all: each names the one before it of its conversation (`prev`), and the conversation names the last
(`last_event`).
"""

from __future__ import annotations

APPLICATION_ID = 0x52494E47  # "RING"

COUNTED = "role <> 'customer' AND kind <> 'system'"
"""SQL for a counted message (see `storage.records`)."""

_FIRST = (
    """
    CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        customer TEXT NOT NULL,
        name TEXT,
        live INTEGER NOT NULL,
        unanswered INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        last_ord INTEGER NOT NULL,
        last_said INTEGER NOT NULL,
        acked_seq INTEGER NOT NULL,
        acked_ord INTEGER NOT NULL,
        read_seq INTEGER NOT NULL,
        read_ord INTEGER NOT NULL,
        agent_read_seq INTEGER NOT NULL,
        agent_read_said INTEGER NOT NULL,
        badge_seq INTEGER NOT NULL,
        newest_counted_seq INTEGER NOT NULL,
        push_due_at REAL,
        hold_from REAL,
        expires_at REAL,
        updated_at REAL NOT NULL,
        UNIQUE (tenant, customer),
        CHECK (read_seq <= acked_seq AND acked_seq <= last_seq),
        CHECK (read_ord <= acked_ord AND acked_ord <= last_ord AND last_ord <= last_seq)
    )
    """,
    """
    CREATE TABLE messages (
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        seq INTEGER NOT NULL,
        ord INTEGER NOT NULL,
        said INTEGER NOT NULL,
        id TEXT NOT NULL,
        role TEXT NOT NULL,
        author TEXT NOT NULL,
        name TEXT,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        data TEXT,
        title TEXT,
        at REAL NOT NULL,
        expires_at REAL,
        ref TEXT,
        route TEXT,
        reason TEXT,
        sessions TEXT,
        due_at REAL,
        PRIMARY KEY (conversation, seq)
    ) WITHOUT ROWID
    """,
    """
    CREATE UNIQUE INDEX messages_ref ON messages (conversation, role, author, ref)
    WHERE ref IS NOT NULL
    """,
    """
    CREATE TABLE outcomes (
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        lo_seq INTEGER NOT NULL,
        lo_ord INTEGER NOT NULL,
        hi_seq INTEGER NOT NULL,
        hi_ord INTEGER NOT NULL,
        outcome TEXT NOT NULL CHECK (outcome IN ('pushed', 'expired', 'undeliverable')),
        reason TEXT,
        PRIMARY KEY (conversation, lo_seq),
        CHECK (lo_seq < hi_seq AND lo_ord < hi_ord)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        installation TEXT NOT NULL,
        token TEXT NOT NULL,
        generation INTEGER NOT NULL,
        registered_at REAL NOT NULL,
        platform TEXT,
        app TEXT,
        environment TEXT,
        locale TEXT,
        state TEXT NOT NULL,
        state_at REAL,
        covered_seq INTEGER NOT NULL,
        covered_ord INTEGER NOT NULL,
        badge INTEGER,
        owes INTEGER NOT NULL,
        owed_ord INTEGER NOT NULL,
        wake_at REAL,
        ring TEXT,
        ring_seq INTEGER NOT NULL,
        ring_ord INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        verdict TEXT,
        verdict_at REAL,
        UNIQUE (tenant, installation),
        UNIQUE (tenant, token),
        CHECK ((owes = 0 AND ring IS NULL) OR wake_at IS NOT NULL)
    )
    """,
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('devices', 0)",
    "CREATE INDEX devices_conversation ON devices (conversation)",
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL,
        from_seq INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at REAL NOT NULL,
        event TEXT NOT NULL,
        detail TEXT
    )
    """,
    "CREATE INDEX events_message ON events (conversation, seq)",
    """
    CREATE TABLE counters (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (tenant, name)
    ) WITHOUT ROWID
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_CHAINED_EVENTS = (
    "ALTER TABLE conversations ADD COLUMN last_event INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE events ADD COLUMN prev INTEGER NOT NULL DEFAULT 0",
    """
    UPDATE events SET prev = before.prev FROM (
        SELECT id, lag(id, 1, 0) OVER (PARTITION BY conversation ORDER BY id) AS prev FROM events
    ) AS before WHERE before.id = events.id
    """,
    """
    UPDATE conversations SET last_event = last.id FROM (
        SELECT conversation, max(id) AS id FROM events GROUP BY conversation
    ) AS last WHERE last.conversation = conversations.id
    """,
    "DROP INDEX events_message",
)

_CAMPAIGNS = (
    """
    CREATE TABLE campaigns (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        author TEXT NOT NULL,
        name TEXT,
        ref TEXT,
        digest TEXT NOT NULL,
        state TEXT NOT NULL,
        text TEXT NOT NULL,
        title TEXT,
        data TEXT,
        unknown TEXT NOT NULL,
        rate REAL NOT NULL,
        created_at REAL NOT NULL,
        send_at REAL,
        expires_at REAL,
        ended_at REAL,
        duplicates INTEGER NOT NULL,
        total INTEGER NOT NULL,
        cursor INTEGER NOT NULL,
        sent INTEGER NOT NULL,
        skipped INTEGER NOT NULL,
        CHECK (sent + skipped <= total)
    )
    """,
    "CREATE INDEX campaigns_tenant ON campaigns (tenant)",
    "CREATE UNIQUE INDEX campaigns_ref ON campaigns (tenant, author, ref) WHERE ref IS NOT NULL",
    """
    CREATE TABLE campaign_recipients (
        campaign INTEGER NOT NULL REFERENCES campaigns (number),
        n INTEGER NOT NULL,
        customer TEXT NOT NULL,
        fields TEXT,
        conversation INTEGER,
        seq INTEGER,
        skipped TEXT,
        PRIMARY KEY (campaign, n),
        CHECK ((conversation IS NULL) = (seq IS NULL)),
        CHECK (seq IS NULL OR skipped IS NULL)
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX campaign_recipients_once ON campaign_recipients (campaign, customer)",
)

_WISHES = (
    """
    CREATE TABLE wishes (
        conversation INTEGER PRIMARY KEY REFERENCES conversations (id),
        muted_until REAL,
        proactive INTEGER NOT NULL,
        time_zone TEXT,
        quiet_hours TEXT
    )
    """,
    "ALTER TABLE devices ADD COLUMN time_zone TEXT",
)

_SEALED_TOKENS = (
    "ALTER TABLE devices ADD COLUMN sealed TEXT",
    "ALTER TABLE devices ADD COLUMN sealed_by TEXT",
)
"""`token` is what a registration is found by: the token, or once it is sealed its keyed hash."""

_DEAD_LETTERS = (
    """
    CREATE TABLE dead_letters (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        customer TEXT NOT NULL,
        device INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        installation TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        kind TEXT NOT NULL,
        lo_seq INTEGER NOT NULL,
        lo_ord INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        ord INTEGER NOT NULL,
        cause TEXT NOT NULL CHECK (cause IN ('refused', 'expired')),
        answer TEXT,
        status INTEGER,
        attempts INTEGER NOT NULL,
        at REAL NOT NULL,
        replayed_at REAL,
        CHECK (lo_seq < seq AND lo_ord < ord)
    )
    """,
    "CREATE INDEX dead_letters_tenant ON dead_letters (tenant, number)",
    "CREATE INDEX dead_letters_device ON dead_letters (device, seq)",
    "CREATE INDEX dead_letters_at ON dead_letters (at)",
)

_AGENTS_ACKED = (
    """
    ALTER TABLE conversations ADD COLUMN agent_acked_seq INTEGER
    CHECK (agent_acked_seq BETWEEN agent_read_seq AND last_seq)
    """,
    "ALTER TABLE conversations ADD COLUMN agent_acked_said INTEGER NOT NULL DEFAULT 0",
    "UPDATE conversations SET agent_acked_seq = agent_read_seq, agent_acked_said = agent_read_said",
)
"""What agents have read they have received. Until that is written the column is null: a check is
judged of every row that is there as soon as it is added."""

_UNRUNG = ("ALTER TABLE devices ADD COLUMN unrung TEXT",)

_MESSAGES_IN_ORDER = (
    """
    CREATE TABLE messages_in_order (
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        seq INTEGER NOT NULL,
        ord INTEGER NOT NULL,
        said INTEGER NOT NULL,
        at REAL NOT NULL,
        id TEXT NOT NULL,
        role TEXT NOT NULL,
        author TEXT NOT NULL,
        name TEXT,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        data TEXT,
        title TEXT,
        expires_at REAL,
        ref TEXT,
        route TEXT,
        reason TEXT,
        sessions TEXT,
        due_at REAL,
        PRIMARY KEY (conversation, seq)
    )
    """,
    """
    INSERT INTO messages_in_order SELECT conversation, seq, ord, said, at, id, role, author, name,
        kind, text, data, title, expires_at, ref, route, reason, sessions, due_at FROM messages
    """,
    "DROP TABLE messages",
    "ALTER TABLE messages_in_order RENAME TO messages",
    """
    CREATE UNIQUE INDEX messages_ref ON messages (conversation, role, author, ref)
    WHERE ref IS NOT NULL
    """,
)
"""They were clustered by conversation: of rows as long as a message's few fit on a page of such a
tree, inner pages too, and every few messages a page in its midst had to be split."""

_UNANSWERED_SINCE = (
    "ALTER TABLE conversations ADD COLUMN unanswered_since REAL",
    "UPDATE conversations SET unanswered_since = updated_at WHERE unanswered",
    "ALTER TABLE conversations DROP COLUMN unanswered",
)

_QUIET_END = ("ALTER TABLE devices ADD COLUMN quiet_end REAL",)
"""Of who waits already it is not known: they wait until then as they did."""

_RINGING = (
    "ALTER TABLE devices RENAME TO devices_before",
    """
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        installation TEXT NOT NULL,
        token TEXT NOT NULL,
        generation INTEGER NOT NULL,
        registered_at REAL NOT NULL,
        platform TEXT,
        app TEXT,
        environment TEXT,
        locale TEXT,
        time_zone TEXT,
        state TEXT NOT NULL,
        state_at REAL,
        sealed TEXT,
        sealed_by TEXT,
        UNIQUE (tenant, installation),
        UNIQUE (tenant, token)
    )
    """,
    """
    CREATE TABLE ringing (
        device INTEGER PRIMARY KEY REFERENCES devices (id),
        covered_seq INTEGER NOT NULL,
        covered_ord INTEGER NOT NULL,
        badge INTEGER,
        owes INTEGER NOT NULL,
        owed_ord INTEGER NOT NULL,
        wake_at REAL,
        quiet_end REAL,
        ring TEXT,
        ring_seq INTEGER NOT NULL,
        ring_ord INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        verdict TEXT,
        verdict_at REAL,
        unrung TEXT,
        CHECK ((owes = 0 AND ring IS NULL) OR wake_at IS NOT NULL)
    )
    """,
    """
    INSERT INTO devices SELECT id, tenant, conversation, installation, token, generation,
        registered_at, platform, app, environment, locale, time_zone, state, state_at, sealed,
        sealed_by FROM devices_before
    """,
    """
    INSERT INTO ringing SELECT id, covered_seq, covered_ord, badge, owes, owed_ord, wake_at,
        quiet_end, ring, ring_seq, ring_ord, attempt, verdict, verdict_at, unrung
    FROM devices_before
    """,
    "DELETE FROM sqlite_sequence WHERE name = 'devices'",
    "UPDATE sqlite_sequence SET name = 'devices' WHERE name = 'devices_before'",
    "DROP TABLE devices_before",
    "CREATE INDEX devices_conversation ON devices (conversation)",
    """
    CREATE TRIGGER devices_deleted AFTER DELETE ON devices
    BEGIN DELETE FROM ringing WHERE device = OLD.id; END
    """,
)
"""A registration seldom changes; how far its device has been rung, three times with each push."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    _FIRST,
    _CHAINED_EVENTS,
    _CAMPAIGNS,
    _WISHES,
    _SEALED_TOKENS,
    _DEAD_LETTERS,
    _AGENTS_ACKED,
    _UNRUNG,
    _MESSAGES_IN_ORDER,
    _UNANSWERED_SINCE,
    _QUIET_END,
    _RINGING,
)
"""Each entry is one migration, made in one transaction with the step of `user_version`."""
