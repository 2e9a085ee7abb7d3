"""The model: what must be true after every commit, recounted by brute force and held to evidence.

The rows are recounted by `tests.recount`; an outcome must have its evidence outside of the process
(a customer that acknowledged, a backend that accepted, a clock that passed); a claim must have been
due, not too early, and tell the right number; and a request that leaves must be one that was
committed. Violations are reported, not raised: a process must not catch them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections import Counter
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.wishes import QuietHours
from push.breaker import PROBE_MOST
from push.ring import Verdict, VerdictKind
from storage.records import Wishes
from storage.schema import MIGRATIONS
from tests import recount
from tests.simulation.ears import Heard
from tests.simulation.peers import Wished

if TYPE_CHECKING:
    from tests.simulation.world import World

LAWFUL = {
    ("", "pending"),
    ("pending", "acked"),
    ("pending", "pushed"),
    ("pending", "expired"),
    ("pending", "undeliverable"),
    ("expired", "acked"),
    ("expired", "pushed"),
    ("undeliverable", "acked"),
    ("undeliverable", "pending"),
}
"""The published transition table, written down a second time."""

LACKING = ("no_device", "token_dead", "quarantined")
ON_ITS_WAY = 8  # commits that may come between the one of a look and its request
SETTLE = 2.0  # seconds after which what a peer said has surely been committed


def _closure(steps: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Where several lawful steps within one commit may lead."""
    reach = set(steps)
    while more := {(a, d) for a, b in reach for c, d in steps if b == c} - reach:
        reach |= more
    return reach


REACHABLE = _closure(LAWFUL)


class Ring(NamedTuple):
    """A committed claim, in the order of events."""

    conversation: int
    kind: str
    lo: int
    hi: int
    at_commit: int
    at: float


class Row(NamedTuple):
    """A registration as last committed."""

    conversation: int
    token: str
    ring: str | None
    attempt: int
    state: str


class Model:
    """What is known of the world. One for all lives of the process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commits = 0
        self.outcomes: dict[tuple[int, int], str] = {}
        self.moves: Counter[tuple[str, str]] = Counter()
        self.rings: dict[str, Ring] = {}
        self.bodies: dict[str, bytes] = {}
        self.accepted: dict[tuple[str, str], list[str]] = {}
        self.said_dead: set[tuple[str, str]] = set()
        self.said_refused: set[tuple[str, str]] = set()
        self.dead: set[tuple[str, str]] = set()
        """Tokens (by tenant) that a backend called dead."""
        self.far: dict[tuple[int, int], Heard] = {}
        self.rows: dict[int, Row] = {}
        self.dropped: dict[str, int] = {}
        """The commit with which a ring was in hand no more."""
        self.removable: set[tuple[str, str]] = set()
        """Tokens (by tenant) that somebody asked to remove or replace, now or earlier."""
        self.failed: dict[str, float] = {}
        """When a backend last failed, by tenant: others wait for it too (`push.breaker`)."""
        self.called: dict[tuple[str, str], float] = {}
        """When the last call for one of a customer's devices ended."""
        self._event = 0
        self._acked: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        self._marked: dict[int, float] = {}
        """When the agents' marks last moved."""

    @property
    def empty(self) -> bool:
        """Whether nobody has ever been here."""
        return not self._names

    # After every commit

    def committed(self, db: sqlite3.Connection, touched: list[int]) -> None:
        """Look at what one commit changed."""
        self.commits += 1
        if db.execute("PRAGMA user_version").fetchone() != (len(MIGRATIONS),):
            return  # the tables are still being made
        try:
            for id in dict.fromkeys(touched):
                self._conversation(db, id)
            self._tokens(db)
            self._events(db)
            if self.commits % 16 == 0:
                self.everything(db)
        except AssertionError as broken:
            self.world.violate(str(broken))

    def everything(self, db: sqlite3.Connection) -> list[recount.Told]:
        """Recount the whole database, counters included (I2)."""
        told = []
        for (id,) in db.execute("SELECT id FROM conversations").fetchall():
            told += recount.conversation(db, id)
        recount.counters(db, told)
        recount.check_devices(db)
        return told

    def _conversation(self, db: sqlite3.Connection, id: int) -> None:
        if id not in self._names:
            ((tenant, customer),) = db.execute(
                "SELECT tenant, customer FROM conversations WHERE id = ?", (id,)
            )
            self._names[id] = (tenant, customer)
        self._agents(db, id)
        for message in recount.conversation(db, id):
            before = self.outcomes.get((id, message.seq), "")
            if before == message.outcome:
                continue
            self.outcomes[id, message.seq] = message.outcome
            self.moves[before, message.outcome] += 1
            place = f"{message.customer} {message.seq}: {before or 'new'} -> {message.outcome}"
            assert (before, message.outcome) in REACHABLE, f"{place} is no lawful transition"
            self._evidence(db, id, message, place)

    def _agents(self, db: sqlite3.Connection, id: int) -> None:
        """The agents' marks are what agents said, and never go back."""
        ((acked, read),) = db.execute(
            "SELECT agent_acked_seq, agent_read_seq FROM conversations WHERE id = ?", (id,)
        )
        before = self._marks.get(id, (0, 0))
        if (acked, read) == before:
            return
        self._marks[id] = (acked, read)
        self._marked[id] = self.world.now
        name = self._names[id]
        place = f"{name[1]}: the agents' marks {before} -> {(acked, read)}"
        assert min(acked - before[0], read - before[1]) >= 0, f"{place} went back"
        assert self.world.customers[name].agents.said(acked, read), f"{place}, but none said so"

    def untold(self) -> None:
        """Who is connected has been told how far the agents are with what the customer wrote."""
        world = self.world
        for id, marks in self._marks.items():
            if world.now - self._marked[id] <= SETTLE:
                continue
            here = [
                visit
                for visit in world.customers[self._names[id]].visits
                if visit.expect is not None and not (visit.line.over or visit.line.silent)
            ]
            wrote = [
                seq
                for (seq,) in world.look(
                    "SELECT seq FROM messages WHERE conversation = ? AND role = 'customer'", (id,)
                )
            ]
            for visit in here:
                if any(
                    told < seq <= mark
                    for told, mark in zip(visit.marks, marks, strict=True)
                    for seq in wrote
                ):
                    world.violate(f"{self._names[id][1]}: was told {visit.marks}, it is {marks}")

    def _evidence(self, db: sqlite3.Connection, id: int, message: recount.Told, place: str) -> None:
        name = (message.tenant, message.customer)
        match message.outcome:
            case "acked":
                said = self.world.customers[name].evidence
                assert message.seq <= said, f"{place}, but the customer acknowledged only {said}"
            case "pushed":
                rings = [self.rings[ring] for ring in self.accepted.get(name, ())]
                ((until,),) = db.execute(
                    "SELECT expires_at FROM messages WHERE conversation = ? AND seq = ?",
                    (id, message.seq),
                )
                covers = any(
                    r.lo < message.seq <= r.hi and r.at < (until or math.inf)
                    for r in rings
                    if r.conversation == id
                )
                assert covers, f"{place}, but no backend accepted a ring that covers it"
            case "expired":
                ((at,),) = db.execute(
                    "SELECT expires_at FROM messages WHERE conversation = ? AND seq = ?",
                    (id, message.seq),
                )
                assert at <= self.world.now + 0.001, f"{place}, {at - self.world.now} s too early"
            case "undeliverable":
                self._undeliverable(db, id, name, message, place)
            case _:
                pass

    def _undeliverable(
        self,
        db: sqlite3.Connection,
        id: int,
        name: tuple[str, str],
        message: recount.Told,
        place: str,
    ) -> None:
        ((reason,),) = db.execute(
            "SELECT reason FROM outcomes WHERE conversation = ? AND lo_seq < ? AND hi_seq >= ?",
            (id, message.seq, message.seq),
        )
        phones = db.execute(
            "SELECT environment, covered_seq FROM devices JOIN ringing ON device = id"
            " WHERE conversation = ? AND state = 'live'",
            (id,),
        ).fetchall()
        lately = self.world.lately(name[0])
        rung = [covered for e, covered in phones if all(one.rings(e) for one in lately)]
        asked = self.world.wishes.get(name, Wished()).ever
        if reason == "muted":
            assert any(w.muted_until for w in asked), f"{place} (muted), but nobody muted"
        elif reason == "opted_out":
            assert not all(w.proactive for w in asked), f"{place}, but nobody opted out"
            kind = db.execute(
                "SELECT kind FROM messages WHERE conversation = ? AND seq = ?", (id, message.seq)
            ).fetchone()
            assert kind == ("proactive",), f"{place} (opted_out), but it is not proactive"
        elif reason in LACKING:
            since = reason == "no_device" and all(covered >= message.seq for covered in rung)
            assert not phones or since, f"{place} ({reason}), but there is a live device"
        elif reason == "no_endpoint":
            assert not rung, f"{place}, but there is one"
        else:
            assert reason == "refused", f"{place} for no known reason: {reason}"
            assert name in self.said_refused, f"{place} (refused), but no backend refused"
        if reason == "token_dead":
            assert name in self.said_dead, f"{place} (token_dead), but no backend said so"

    def _tokens(self, db: sqlite3.Connection) -> None:
        """Registrations move in one commit (I6); what is in hand belongs to who holds the token."""
        rows: dict[int, Row] = {}
        held: set[tuple[str, str]] = set()
        for id, tenant, conversation, token, ring, attempt, state in db.execute(
            "SELECT id, tenant, conversation, token, ring, attempt, state FROM devices"
            " JOIN ringing ON device = id"
        ):
            held.add((tenant, token))
            rows[id] = Row(conversation, token, ring, attempt, state)
            assert state == "live" or (tenant, token) in self.dead, "a token died of another's (I6)"
        for id, old in self.rows.items():
            in_hand = rows[id].ring if id in rows else None
            if old.ring is not None and old.ring != in_hand:
                self.dropped[json.loads(old.ring)["id"]] = self.commits
            slot = (self._names[old.conversation][0], old.token)
            gone = id not in rows or rows[id].token != old.token
            if gone and slot not in held:
                assert slot in self.removable, "a token was lost on its way to another owner (I6)"
        self.rows = rows

    # Events, in the order in which they were decided

    def _events(self, db: sqlite3.Connection) -> None:
        for id, conversation, event, from_seq, seq, at, detail in db.execute(
            "SELECT id, conversation, event, from_seq, seq, at, detail FROM events"
            " WHERE id > ? ORDER BY id",
            (self._event,),
        ).fetchall():
            self._event = id
            if event in ("acked", "read"):
                marks = self._acked if event == "acked" else self._read
                marks[conversation] = max(marks.get(conversation, 0), seq)
                if event == "read":
                    self._acked[conversation] = max(self._acked.get(conversation, 0), seq)
            elif event == "claimed":
                self._claimed(db, conversation, (from_seq, seq), at, json.loads(detail))
            elif event == "look":
                self._looked(db, conversation, at, json.loads(detail))

    def _claimed(
        self,
        db: sqlite3.Connection,
        conversation: int,
        places: tuple[int, int],
        at: float,
        about: dict[str, Any],
    ) -> None:
        tenant, name = self._names[conversation]
        ring, kind = about["ring"], about["kind"]
        found = db.execute(
            "SELECT covered_seq, ring_seq, ring FROM devices JOIN ringing ON device = id"
            " WHERE conversation = ?"
            " AND json_extract(ring, '$.id') = ?",
            (conversation, ring),
        ).fetchone()
        if found is None:  # replaced within the same commit; its call is on the way
            self.rings[ring] = Ring(conversation, kind, places[0] - 1, places[1], self.commits, at)
            return
        lo, hi, content = found
        unread = json.loads(content)["unread"]
        self.rings[ring] = Ring(conversation, kind, lo, hi, self.commits, at)
        counted = self._counted(db, conversation)
        read = self._read.get(conversation, 0)
        exact = sum(s > read for s in counted if s <= places[1])
        upper = sum(s > read for s in counted)
        assert exact <= unread <= upper, (
            f"{name}: the claim {ring} says {unread} unread, there are {exact} (I5)"
        )
        if kind == "badge":
            return
        self._wished((tenant, name), ring, kind, at)
        acked = self._acked.get(conversation, 0)
        fresh = [s for s in counted if lo < s <= hi and s > acked]
        assert fresh, f"{name}: {ring} covers only what was acked before (I3)"
        gone = db.execute(
            "SELECT seq FROM messages WHERE conversation = ? AND expires_at <= ?",
            (conversation, at),
        )
        over = {seq for (seq,) in gone}
        fresh = [s for s in fresh if s not in over]
        assert fresh, f"{name}: {ring} covers only what was acked or expired before (rule 7)"
        self._in_time(db, conversation, (tenant, name), fresh, at)

    def _looked(
        self, db: sqlite3.Connection, conversation: int, at: float, about: dict[str, Any]
    ) -> None:
        """A retry is a new look (rule 7): what was acknowledged or expired is not called again."""
        if about["action"] != "retry":
            return
        for row in self.rows.values():
            if row.conversation != conversation or row.ring is None:
                continue
            if hashlib.sha256(row.token.encode()).hexdigest()[:12] != about["device"]:
                continue
            told = json.loads(row.ring)
            ring = self.rings.get(told["id"])
            name = self._names[conversation][1]
            if told["kind"] != "badge":
                self._wished(self._names[conversation], told["id"], None, at)
            assert told["expires_at"] > at, f"{name}: {told['id']} is repeated though expired"
            if ring is None or ring.kind == "badge":
                continue
            acked = self._acked.get(conversation, 0)
            wanted = [s for s in self._counted(db, conversation) if ring.lo < s <= ring.hi]
            assert any(s > acked for s in wanted), (
                f"{name}: {told['id']} is repeated though all of it was acked (I3)"
            )
            ((oldest,),) = db.execute(
                "SELECT min(at) FROM messages WHERE conversation = ? AND seq > ?"
                " AND role <> 'customer' AND kind <> 'system'",
                (conversation, acked),
            )
            self._hold(self._names[conversation], at, oldest)

    def _wished(self, name: tuple[str, str], ring: str, kind: str | None, at: float) -> None:
        """Nobody is rung against a wish that is known to stand (rule 10). `kind` of a new ring."""
        asked = self.world.wishes.get(name, Wished())
        wishes = asked.certain if asked.ever else Wishes()
        if wishes is None:
            return
        place = f"{name[1]}: {ring} rings"
        assert wishes.muted_until is None or wishes.muted_until <= at, f"{place} who has muted"
        assert wishes.proactive or kind != "proactive", f"{place} who opted out"
        hours = self._quiet_hours(name[0], wishes)
        if hours is not None:
            now = datetime.fromtimestamp(at, UTC).time()
            quiet = not (hours.end <= now < hours.start)
            if hours.start < hours.end:
                quiet = hours.start <= now < hours.end
            assert not quiet, f"{place} in quiet hours ({hours}) at {now}"

    def _quiet_hours(self, tenant: str, wishes: Wishes) -> QuietHours | None:
        """The customer's own, or else the tenant's; None also if they have just been changed."""
        if wishes.quiet_hours is not None:
            return QuietHours(*map(time.fromisoformat, wishes.quiet_hours.split("-")))
        push, *others = [one.push for one in self.world.lately(tenant)]
        return None if push is None or others else push.quiet_hours

    @staticmethod
    def _counted(db: sqlite3.Connection, conversation: int) -> list[int]:
        return [
            s
            for (s,) in db.execute(
                "SELECT seq FROM messages WHERE conversation = ? AND role <> 'customer'"
                " AND kind <> 'system' ORDER BY seq",
                (conversation,),
            )
        ]

    def _in_time(
        self,
        db: sqlite3.Connection,
        conversation: int,
        name: tuple[str, str],
        fresh: list[int],
        now: float,
    ) -> None:
        """Rules 1, 4, 5 and 9: nobody is rung before the time has come. `now`: when decided."""
        world, timing = self.world, self.world.timing
        customer = world.customers[name]
        ((oldest,),) = db.execute(
            "SELECT min(at) FROM messages WHERE conversation = ? AND seq >= ?",
            (conversation, fresh[0]),
        )
        ((unacked,),) = db.execute(
            "SELECT min(m.at) FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE c.id = ? AND m.seq > c.acked_seq AND m.role <> 'customer'"
            " AND m.kind <> 'system'",
            (conversation,),
        )
        assert world.fresh or now >= world.started + timing.restart_grace - 0.001, (
            f"{name[1]}: rung within the grace of a restart (rule 9)"
        )
        here = [v for v in customer.visits if v.in_chat and v.began > world.trouble]
        sure = [v for v in here if now - v.began > SETTLE]
        if sure:
            # A registration makes what is pending due after the ack timeout, and that due time
            # stands for what comes later too.
            asked, confirmed = world.rearmed.get(name, (0.0, 0.0))
            since = asked if asked <= oldest <= confirmed + timing.ack_timeout else oldest
            assert now >= since + timing.ack_timeout - 0.001, (
                f"{name[1]}: in chat and rung {now - oldest:.3f} s after the message (rule 1)"
            )
            self._hold(name, now, unacked or oldest)
        elif not here and max(world.started, world.trouble) < customer.left_at <= now:
            due = min(oldest + timing.ack_timeout, customer.left_at + customer.grace)
            assert now >= due - 0.001, (
                f"{name[1]}: rung {now - customer.left_at:.3f} s after leaving (rule 4)"
            )

    def _hold(self, name: tuple[str, str], now: float, unacked: float) -> None:
        """Nobody is rung, or rung again, while the replay is on its way (rule 5)."""
        timing = self.world.timing
        visits = self.world.customers[name].visits
        here = [v for v in visits if v.in_chat and v.began > self.world.trouble]
        joined = max((v.began for v in here if now - v.began > SETTLE), default=None)
        if joined is not None:
            held = min(joined + timing.ack_timeout, unacked + timing.max_hold)
            assert now >= held - 0.001, (
                f"{name[1]}: rung {now - joined:.3f} s after coming into chat (rule 5)"
            )

    # What reaches a backend

    def arriving(self, heard: Heard) -> None:
        """A request is about to leave: it must stand in what was committed (rule 7)."""
        world, who = self.world, heard.customer
        ring = self.rings.get(heard.ring)
        if ring is None:
            world.violate(f"{who}: {heard.ring} was called before its claim was committed")
            return
        if self.bodies.setdefault(heard.ring, heard.body) != heard.body:
            world.violate(f"{who}: the content under {heard.ring} changed")
        if world.ears.out.get(heard.device):
            world.violate(f"{who}: two calls at once for one device (I7)")
        row = self.rows.get(heard.device)
        if row is not None and row.ring and json.loads(row.ring)["id"] == heard.ring:
            if row.attempt != heard.attempt:
                world.violate(f"{who}: attempt {heard.attempt} of {heard.ring} was not committed")
        elif self._long_gone(heard.ring):
            world.violate(f"{who}: {heard.ring} was called though it is in hand no more (I6)")
        if ring.kind != "badge":
            self._again(heard)
        if heard.took:
            self.accepted.setdefault((heard.tenant, who), []).append(heard.ring)

    def _again(self, heard: Heard) -> None:
        """What a device was rung for is not rung again under another id.

        Two exceptions: a ring that expired before its answer came was cancelled; older messages
        that it covered and that have not expired are rung anew. So is what was rung at a backend
        that was taken away before the answer came, and is back.
        """
        slot = (heard.device, heard.generation)
        before = self.far.get(slot)
        if before is not None and heard.seq <= before.seq and heard.ring != before.ring:
            since = self.world.now - heard.at + before.at
            lacked = any(
                one.since > since and not one.rings("sandbox")
                for one in self.world.settings[heard.tenant]
            )
            if before.expires_at > self.world.now and not lacked:
                self.world.violate(f"{heard.customer}: {heard.seq} rung again as {heard.ring}")
        elif heard.took:
            self.far[slot] = heard

    def _long_gone(self, ring: str) -> bool:
        """Whether a ring left hand so long ago that its call cannot have been on its way."""
        gone = self.dropped.get(ring, self.rings[ring].at_commit)
        return self.commits - gone > ON_ITS_WAY

    def answered(self, heard: Heard, verdict: Verdict) -> None:
        """The process has learned of an answer."""
        name = (heard.tenant, heard.customer)
        self.called[name] = self.world.now
        if verdict.kind in (VerdictKind.RETRY, VerdictKind.MISCONFIGURED):
            self.failed[heard.tenant] = self.world.now
        if verdict.kind is VerdictKind.TOKEN_DEAD:
            self.said_dead.add(name)
            self.dead.add((heard.tenant, heard.token))
            self.removable.add((heard.tenant, heard.token))
        elif verdict.kind is VerdictKind.REFUSED:
            self.said_refused.add(name)

    # Nothing is forgotten

    def overdue(self) -> None:
        """A pending message has a reason to wait, and the reason ends (rules 1, 5, 6)."""
        world, timing = self.world, self.world.timing
        longest = timing.max_hold + timing.ack_timeout + timing.restart_grace + 10.0
        since = max(world.started, world.trouble)
        for (id, seq), outcome in self.outcomes.items():
            if outcome != "pending":
                continue
            ((at,),) = world.look(
                "SELECT at FROM messages WHERE conversation = ? AND seq = ?", (id, seq)
            )
            called = self.called.get(self._names[id], 0.0)
            busy = any(world.ears.out.get(d) for d, r in self.rows.items() if r.conversation == id)
            failed = self.failed.get(self._names[id][0], 0.0)
            patience = longest + (world.longest_retry if called else 0.0)
            patience += PROBE_MOST if failed else 0.0
            _, rearmed = world.rearmed.get(self._names[id], (0.0, 0.0))
            quiet = world.wishes.get(self._names[id], Wished()).quiet_until
            told = world.settings[self._names[id][0]]
            quiet = max(quiet, *(s.quiet_until for s in told))
            waited = world.now - max(at, since, rearmed, called, failed, quiet, told[-1].since)
            if waited > patience and not busy:
                world.violate(f"{self._names[id][1]} {seq}: forgotten for {waited:.0f} s")
