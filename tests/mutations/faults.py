"""Deliberate faults: each breaks one promise in the code, and must be caught by what is named.

`old` stands exactly once in `file`. `by` is tried in order until something fails: `SIMULATION`
(random days), or arguments for pytest.
"""

from __future__ import annotations

from typing import NamedTuple

SIMULATION = "simulation"


class Fault(NamedTuple):
    """One change to the code that nobody may make unnoticed."""

    name: str
    file: str
    old: str
    new: str
    by: tuple[str, ...] = (SIMULATION,)
    also: tuple[tuple[str, ...], ...] = ()
    """Further edits, each (old, new) or (old, new, another file), where one guard backs another."""


NOBODY_IS_MADE_TO_LOOK = (
    "                if c.push_due_at is None and not_led_to:\n",
    "                if False:\n",
    "gateway/owing.py",
)

FAULTS = (
    Fault(
        "`sent` is told before the commit (I1)",
        "storage/store.py",
        """            statements = tx.statements()
            if statements:
""",
        """            statements = tx.statements()
            for callback in tx.callbacks:
                self._tell(callback)
            tx.callbacks.clear()
            if statements:
""",
    ),
    Fault(
        "an ack in the background counts as one in chat (rule 3)",
        "gateway/marks.py",
        "        if not session.active:\n            tx.undo",
        "        if False:\n            tx.undo",
    ),
    Fault(
        "a background ack clears the due time (rule 3)",
        "gateway/marks.py",
        "            session.noted = max(session.noted, cut)\n            return c\n",
        "            session.noted = max(session.noted, cut)\n"
        "            return tx.put(replace(c, push_due_at=None))\n",
    ),
    Fault(
        "a customer's message is delivered when it was written to agents' sockets",
        "gateway/chat.py",
        "            changes = {",
        '            changes = {"agent_acked_seq": c.last_seq + 1, ',
    ),
    Fault(
        "what an agent acks late moves back how far another had acked",
        "gateway/marks.py",
        "        if seq <= c.agent_acked_seq:\n            return c\n",
        "        if seq == c.agent_acked_seq:\n            return c\n",
    ),
    Fault(
        "the last of a commit's marks is not told",
        "gateway/telling.py",
        "(now.agent_acked_said, now.agent_read_said) == (",
        "(now.agent_acked_said, now.agent_read_said) != (",
    ),
    Fault(
        "the widget shows as delivered what was only sent",
        "gateway/web/ringback-chat.js",
        'seq <= status?.agentsAckedSeq ? "delivered" : "sent"',
        '"delivered"',
        ("tests/web/test_marks.py",),
    ),
    Fault(
        "the console acknowledges each message for itself",
        "gateway/web/console/main.js",
        "    this.#acking ??= setTimeout(() => this.#acknowledge(), ACK_WITHIN);\n",
        "    this.#acknowledge();\n",
        ("tests/web/test_marks.py",),
    ),
    Fault(
        "agents' marks of one commit are told one by one",
        "gateway/telling.py",
        "        now = self._peek(c.key) or c\n",
        "        now = c\n",
        ("tests/test_marks.py",),
    ),
    Fault(
        "no new look before a retry (rule 7)",
        "gateway/delivery.py",
        "    if ring.expired:\n        return Decision(Action.CANCEL, Reason.EXPIRED)\n",
        "    return Decision(Action.RETRY, Reason.RETRY)\n",
    ),
    Fault(
        "the claim is not committed before the call (rule 7)",
        "gateway/pushing.py",
        "            return await self._store.submit(change, Needs(keys=(key,)), later=True)\n",
        """            early = __import__("asyncio").get_running_loop().create_future()
            self._store.submit(
                lambda tx: early.done() or early.set_result(change(tx)),
                Needs(keys=(key,)),
            ).add_done_callback(lambda done: done.exception())
            return await early
""",
    ),
    Fault(
        "the content under a ring's id changes at a retry (rule 7)",
        "gateway/ringing.py",
        "                ring = claimed(held)\n",
        "                ring = replace(claimed(held), unread=c.unread)\n",
    ),
    Fault(
        "a retry takes a new id (rule 7)",
        "gateway/ringing.py",
        "                ring = claimed(held)\n",
        """                ring = replace(claimed(held), id=f"r_{self._context.new_id()}")
                held = replace(held, claim=msgspec.json.encode(ring).decode())
""",
    ),
    Fault(
        "a token moves in two commits (I6)",
        "gateway/devices.py",
        "        id = await self._store.submit(change, needs)\n        return self._key",
        """        def first(tx: Transaction) -> None:
            owner = tx.owner_of_token(key.tenant, told.token)
            if owner is not None and owner.key != key:
                self._remove(tx, owner, "moved", settle=True)

        await self._store.submit(first, needs)
        id = await self._store.submit(change, needs)
        return self._key""",
    ),
    Fault(
        "a late verdict touches another registration (I6)",
        "gateway/ringing.py",
        """    if device is None or device.generation != claim.generation or device.ring is None:
        return None
    return device if claimed_id(device.ring) == claim.ring.id else None
""",
        "    return device\n",
        ("tests/test_registrations.py",),
    ),
    Fault(
        "the disconnect grace is ignored (rule 4)",
        "gateway/delivery.py",
        "    return timing.disconnect_grace\n",
        "    return 0.0\n",
    ),
    Fault(
        "the restart grace is ignored (rule 9)",
        "gateway/pushing.py",
        "            grace += self._context.timing.restart_grace\n",
        "            grace += 0.0\n",
    ),
    Fault(
        "coming into chat holds nothing (rule 5)",
        "gateway/delivery.py",
        "    return max(time, min(now + timing.ack_timeout, hold_from + timing.max_hold))\n",
        "    return time\n",
    ),
    Fault(
        "coming into chat holds for ever (rule 5)",
        "gateway/delivery.py",
        "    return max(time, min(now + timing.ack_timeout, hold_from + timing.max_hold))\n",
        "    return max(time, now + 86_400.0)\n",
    ),
    Fault(
        "an ack of a part forgets the rest (rule 3)",
        "gateway/delivery.py",
        "max(standing, patience.ends(oldest_unacked_at))\n",
        "None\n",
    ),
    Fault(
        "the ack timeout is ignored (rule 1)",
        "gateway/delivery.py",
        "    due = now + ack_timeout if in_chat else max(now, grace_until)\n",
        "    due = now if in_chat else max(now, grace_until)\n",
        also=(  # the fan-out, and the look, would wait
            ("        if later is not None:\n", "        if False:\n", "gateway/owing.py"),
            ("        if facts.too_soon:\n", "        if False:\n"),
        ),
    ),
    Fault(
        "unread is counted up instead of computed (I5)",
        "gateway/ringing.py",
        "            unread=unread,\n            badge_seq=c.badge_seq,\n",
        "            unread=(device.badge or 0) + 1,\n            badge_seq=c.badge_seq,\n",
    ),
    Fault(
        "an acceptance covers what came after the claim (rule 7)",
        "gateway/ringing.py",
        "                c = self._pushed(tx, c, ring, covered, upto)\n",
        "                c = self._pushed(tx, c, ring, covered, c.last)\n",
    ),
    Fault(
        "a message expires before its time",
        "gateway/owing.py",
        "[m for m, at in waiting if at <= tx.now]",
        "[m for m, at in waiting if at <= tx.now + 60]",
    ),
    Fault(
        "a counter forgets where a message came from (I2)",
        "storage/transaction.py",
        "((tenant, origin), -span.count)",
        "((tenant, origin), -1)",
    ),
    Fault(
        "who joins amid a commit gets its messages twice (I4)",
        "gateway/presence.py",
        "            tx.after_commit(held.forget)\n            self._enter",
        "            self._enter",
    ),
    Fault(
        "frames overtake the replay (I4)",
        "gateway/session.py",
        """        if self.held is None:
            self.write(data)
        elif not self.held.add(data):
            self.close(CloseCode.SLOW_READER)
""",
        "        self.write(data)\n",
    ),
    Fault(
        "a sign-out leaves messages pending for nobody (rule 6)",
        "gateway/devices.py",
        "            self._owing.settle_undeliverable(tx, c)\n            return True\n",
        "            return True\n",
    ),
    Fault(
        "a registration re-arms nothing",
        "gateway/devices.py",
        "_begin(tx, self._rearm(tx, c), before, device)",
        "_begin(tx, c, before, device)",
        ("tests/test_push.py", "tests/test_transitions.py"),
    ),
    Fault(
        "a new registration is rung for what was rung before it",
        "gateway/devices.py",
        "            _begin(tx, self._rearm(tx, c), before, device)\n",
        "            self._rearm(tx, c)\n",
        ("tests/test_wishes.py",),
    ),
    Fault(
        "a look does not see that the customer has read meanwhile (I3)",
        "gateway/ringing.py",
        "        behind = device.owed_ord - c.done_ord(device)\n",
        "        behind = device.owed_ord - device.covered.ord\n",
        also=(
            (
                "    behind = c.done_ord(device)\n    if newest",
                "    behind = device.covered.ord\n    if newest",
                "gateway/wanted.py",
            ),
        ),
    ),
    Fault(
        "a mute is not looked at (rule 10)",
        "gateway/delivery.py",
        "    if facts.muted:\n        return Reason.MUTED\n",
        "",
    ),
    Fault(
        "quiet hours do not hold a ring back (rule 10)",
        "gateway/delivery.py",
        "        if facts.quiet:\n            return Decision(Action.WAIT, Reason.QUIET_HOURS)\n",
        "",
    ),
    Fault(
        "a proactive message rings who opted out (rule 10)",
        "gateway/wishes.py",
        "not wishes.proactive and kind == _PROACTIVE",
        "False",
    ),
    Fault(
        "a stored token is not bound to its row",
        "storage/vault.py",
        '    return f"ringback device token\\0{tenant}\\0{row}".encode()\n',
        '    return b"ringback device token"\n',
        ("tests/storage/test_vault.py",),
    ),
    Fault(
        "what was due before a crash is not looked up again (rule 9)",
        "gateway/pushing.py",
        "                    self.alarms.set(key, grace)\n",
        "                    pass\n",
    ),
    Fault(
        "commits are not synced (synchronous=NORMAL)",
        "storage/database.py",
        '    await writer.execute_fetchall("PRAGMA synchronous = FULL")\n',
        '    await writer.execute_fetchall("PRAGMA synchronous = NORMAL")\n',
        ("tests/faults/test_power.py",),
        also=(
            (
                '    ((synchronous,),) = await writer.execute_fetchall("PRAGMA synchronous")\n',
                "    synchronous = 2\n",
            ),
        ),
    ),
    Fault(
        "what is refused was not accepted under its ref before, it is thought",
        "storage/store.py",
        "        if not refs and any(",
        "        if False and any(",
        ("tests/test_http.py",),
    ),
    Fault(
        "a ref that is taken is a fault of ours, it is thought",
        "storage/database.py",
        '"messages.ref" in str(error)',
        "False",
    ),
    Fault(
        "an event does not name the one before it",
        "storage/transaction.py",
        "            prev = last.get(c.key, c.last_event)\n",
        "            prev = last.get(c.key, 0)\n",
        ("tests/test_push.py", "tests/test_why_cli.py", "tests/test_transitions.py"),
    ),
    Fault(
        "a replay is closed for being slow",
        "gateway/wire.py",
        "        if self._live:\n",
        "        if True:\n",
        ("tests/gateway/test_wire.py",),
    ),
    Fault(
        "chat waits behind what may wait",
        "storage/store.py",
        "        queue = self._later if later else self._queue\n",
        "        queue = self._queue\n",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "what is pending again is laid to what a phone was not rung for meanwhile",
        "gateway/owing.py",
        "        if device.covered.ord >= messages[0].ord:\n",
        "        if False:\n",
        (
            "tests/simulation/test_scenarios.py::test_what_is_pending_again_is_not_laid_to_what_a_phone_was_not_rung_for_meanwhile",
        ),
    ),
    Fault(
        "a phone that dies beside one that was muted is laid to a refusal",
        "gateway/owing.py",
        "reason = max(reasons, key=UNRUNG.index, default=Reason.NO_DEVICE).value",
        "reason = Reason.REFUSED.value",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "an opt-out speaks for a chat that was refused",
        "gateway/owing.py",
        "    return max(reasons, key=UNRUNG.index).value\n",
        "    return reason.value\n",
        ("tests/test_wishes.py",),
    ),
    Fault(
        "in chat an older message's due time rings for a newer one (rule 1)",
        "gateway/delivery.py",
        "        if facts.too_soon:\n",
        "        if False:\n",
        (SIMULATION, "tests/simulation/test_scenarios.py"),
    ),
    Fault(
        "what has expired makes due what came after it (rule 3)",
        "gateway/owing.py",
        "        if later is not None:\n",
        "        if False:\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "what expired long ago is pushed by the next ring",
        "gateway/ringing.py",
        "                    if not m.has_expired(ring.claimed_at)\n",
        "",
    ),
    Fault(
        "what was pushed is recorded anew by the next phone that is rung",
        "gateway/ringing.py",
        "        if beyond:  #",
        "        if Outcome.EXPIRED in beyond:  #",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "acks of older messages lengthen the hold of the rest (rule 5)",
        "gateway/marks.py",
        "            held = max(held, oldest)  #",
        "            held = None  #",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "an upload that lacks its end is taken for a shorter one",
        "gateway/campaigns/api.py",
        "                if not data:  # or the body has ended without the part's end\n",
        "                if False:\n",
        ("tests/test_campaigns.py",),
    ),
    Fault(
        "a look takes for expired what it has not read",
        "storage/transaction.py",
        "            raise NotRead(c.key)\n",
        "            return []\n",
        ("tests/simulation/test_scenarios.py",),
        also=(NOBODY_IS_MADE_TO_LOOK,),
    ),
    Fault(
        "a ring says what was given up",
        "gateway/wanted.py",
        " or given_up or ",
        " or ",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "what is written while it waits is not among what a look reads",
        "storage/transaction.py",
        "            if unacked is not None:\n",
        "            if False:\n",
        ("tests/storage/test_store.py", "tests/storage/test_transaction.py"),
    ),
    Fault(
        "what is pending may be left without anybody who looks",
        NOBODY_IS_MADE_TO_LOOK[2],
        *NOBODY_IS_MADE_TO_LOOK[:2],
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "an endpoint is given up while its call is out",
        "gateway/owing.py",
        "            if not self._context.is_calling(device)\n",
        "",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "a replayed letter rings before it is due",
        "gateway/deadletters.py",
        ", owed_ord=owed)\n",
        ")\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "a bye swallows the answers before it",
        "gateway/sessions.py",
        "            await talk.settled()\n",
        "",
        ("tests/test_limits.py::test_what_was_sent_before_a_bye_is_answered_before_the_close",),
    ),
    Fault(
        "a tenant's flood takes the whole commit",
        "storage/store.py",
        "        alone = len(about) <= 2\n",
        "        alone = True\n",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "who comes in the middle of a flood waits for a whole commit of it",
        "storage/store.py",
        "        about = {nobody, *self._about, *self._queue.tenants, *self._later.tenants}\n",
        "        about = {nobody, *self._queue.tenants, *self._later.tenants}\n",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "a campaign's place is not what the disk says when a chunk is judged",
        "gateway/campaigns/sending.py",
        "            if now.state is not CampaignState.RUNNING:\n                return now\n",
        "",
        ("tests/test_campaigns.py::test_a_pause_stops_a_chunk_that_already_waits_for_its_commit",),
    ),
    Fault(
        "a campaign goes on at its beginning",
        "gateway/campaigns/sending.py",
        "recipients(c.tenant, c.id, c.cursor, AHEAD)",
        "recipients(c.tenant, c.id, 0, AHEAD)",
        ("tests/test_campaigns.py::test_it_goes_on_after_a_restart_and_nobody_gets_it_twice",),
    ),
    Fault(
        "a replay rings where somebody was told since",
        "gateway/deadletters.py",
        "    if Outcome.PUSHED in found:\n",
        "    if False:\n",
        (
            "tests/test_deadletters.py::test_where_another_device_rang_or_a_newer_message_did_nobody_is_rung_again",
        ),
    ),
    Fault(
        "a replay rings what may have rung before it was refused",
        "gateway/deadletters.py",
        "        return letter.seq > self.uncertain\n",
        "        return True\n",
        (
            "tests/test_deadletters.py::test_what_may_have_rung_before_it_was_refused_is_not_rung_again",
        ),
    ),
    Fault(
        "two ask for a token at the same time",
        "push/tokens.py",
        "        if fetching is None:\n            fetching = asyncio.create_task(",
        "        if True:\n            fetching = asyncio.create_task(",
        ("tests/push/test_tokens.py",),
    ),
    Fault(
        "a refused token is renewed with every call",
        "push/tokens.py",
        "            client.renewed_at = now\n",
        "",
        ("tests/push/test_tokens.py",),
    ),
    Fault(
        "a device token leads a call to another path",
        "push/adapters/template.py",
        "    if path is not None and _leads_elsewhere(path):\n",
        "    if False:\n",
        ("tests/push/test_adapters_served.py",),
    ),
    Fault(
        "a form without a number makes silent rings",
        "gateway/endpoints.py",
        "    backends = [Backend(silent=adapter_named(push.adapter, push.options).silent)]\n",
        "    backends = [Backend()]\n",
        ("tests/test_push.py",),
    ),
    Fault(
        "a reload takes up settings that need a restart",
        "gateway/config/reload.py",
        '_TAKEN = ("auth", "push")',
        '_TAKEN = ("auth", "push", "origins")',
        ("tests/gateway/config/test_reload.py",),
    ),
    Fault(
        "an address inside is called",
        "push/caller.py",
        "                return guard.socket_of(info, allowed)\n",
        "                return socket.socket(*info[:3])\n",
        ("tests/push/test_outgoing.py",),
    ),
    Fault(
        "a connection that one tenant may have is lent to another",
        "push/caller.py",
        "        if allowed not in self._sessions:\n",
        "        allowed = ()\n        if allowed not in self._sessions:\n",
        (
            "tests/push/test_outgoing.py::"
            "test_a_connection_that_one_tenant_may_have_is_not_lent_to_another",
        ),
        also=(
            (
                "                return guard.socket_of(info, allowed)\n",
                "                return guard.socket_of(info, guard.LOOPBACK)\n",
            ),
        ),
    ),
    Fault(
        "a tester's phone without a backend rings at production",
        "push/backends.py",
        "    return found\n",
        "    return found or OWN\n",
        ("tests/test_endpoints.py",),
    ),
    Fault(
        "a backend that fails is called as if nothing were",
        "push/breaker.py",
        "    if health.until is None:\n        return Permit()\n",
        "    if True:\n        return Permit()\n",
        ("tests/test_endpoints.py",),
    ),
    Fault(
        "what waited for a backend is forgotten when it works again",
        "push/lane.py",
        "        ref = _pop(self.parked or self.waiting)\n",
        "        self.parked.clear()\n        if not self.waiting:\n            return None\n"
        "        ref = _pop(self.waiting)\n",
    ),
    Fault(
        "of a burst all calls go out at once",
        "push/lane.py",
        "most = min(self.window, self.endpoint.in_flight)",
        "most = self.endpoint.in_flight",
        ("tests/push/test_lane.py",),
    ),
    Fault(
        "what an app tells anew of its phone is not written",
        "storage/transaction.py",
        "if old and sql.registration(old) == sql.registration(device):",
        "if old:",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "a change that is refused leaves what it wrote",
        "storage/store.py",
        "            tx.rollback(savepoint)\n",
        "",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "a change is judged again on top of what it did before it was refused",
        "storage/store.py",
        "        except Exception:\n            tx.rollback()\n            raise\n",
        "        except Exception:\n            raise\n",
        ("tests/storage/test_store.py",),
    ),
    Fault(
        "a frame overtakes one that takes longer",
        "gateway/wire.py",
        "        if taker is None or taker.done():\n            return\n",
        "        if taker is None or taker.done():\n"
        "            while self._take is not None and self._received:\n"
        "                self._take(self._received.popleft())\n"
        "            return\n",
        ("tests/gateway/test_wire.py",),
    ),
    Fault(
        "a session may have any number of sends unconfirmed",
        "gateway/talk.py",
        "self._wait_for_room if self._in_flight >= IN_FLIGHT else None",
        "None",
        ("tests/test_limits.py",),
    ),
    Fault(
        "within a grace an older message's due time rings for a newer one (rule 4)",
        "gateway/context.py",
        "        return Patience(self.timing.ack_timeout, until) if until > now else None\n",
        "        return None\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "quiet hours that are lifted end a hold (rule 5)",
        "gateway/owing.py",
        "        return delivery.held(tx.now, tx.now, c.hold_from, self._context.timing)\n",
        "        return tx.now\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "who logs waits for who reads it",
        "gateway/logs.py",
        "            self._lines.put(text)\n",
        "            print(text, end='', file=self._stream, flush=True)\n",
        ("tests/test_crash.py",),
    ),
    Fault(
        "a campaign goes on while all of it waits for a backend that fails",
        "gateway/campaigns/lanes.py",
        "waiting.working > BUSY or more > max(BUSY, self.sent / 2)",
        "waiting.working > BUSY",
        ("tests/test_campaigns.py",),
    ),
    Fault(
        "an opt-out settles what came after it and is not yet due",
        "gateway/wanted.py",
        "due_at, due or later.before)\n",
        "due_at, due)\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "what may have rung is settled by another phone's look",
        "gateway/ringing.py",
        "            if not any(d.covered.ord < message.ord <= d.rung_to.ord"
        " for d in c.live_devices):\n",
        "            if True:\n",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "a correction of an icon that fails is given up",
        "gateway/ringing.py",
        "                read=not silent and upto",
        "                read=upto",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "who says again to be in chat has longer to acknowledge (rule 5)",
        "gateway/presence.py",
        "            if session.state is state:\n                return\n",
        "",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "a mute settles what is to come, as much as the customer wrote",
        "gateway/ringing.py",
        "            covered=upto,\n",
        "            covered=Cut(upto.seq, upto.seq),\n",
        ("tests/test_wishes.py",),
    ),
    Fault(
        "a retry goes to another app's backend",
        "gateway/ringing.py",
        "            app=device.app,\n",
        "",
        ("tests/test_endpoints.py",),
    ),
    Fault(
        "a device that broke later than another is forgotten",
        "push/worker.py",
        "        while any(rest.until",
        "        while all(rest.until",
        ("tests/push/test_worker.py",),
    ),
    Fault(
        "an audience of devices ends with the first reading",
        "gateway/campaigns/loading.py",
        "        while found := await self._rows.with_device(tenant, after, size):\n",
        "        if found := await self._rows.with_device(tenant, after, size):\n",
        ("tests/test_campaigns.py",),
    ),
    Fault(
        "a broadcast that is over leaves less for the next",
        "gateway/news.py",
        "        self._waiting -= 1\n",
        "",
        ("tests/gateway/test_news.py",),
    ),
    Fault(
        "a number on the icon that is out of date is told on and on",
        "gateway/ringing.py",
        "current=ring.unread == c.unread",
        "current=True",
        ("tests/simulation/test_scenarios.py",),
    ),
    Fault(
        "a call that is under way when the gateway stops is cut off",
        "gateway/http/listener.py",
        "        await self._runner.cleanup()\n",
        "",
        ("tests/gateway/test_listener.py",),
    ),
    Fault(
        "a backend that goes on and on after its answer is heard for ever",
        "push/caller.py",
        "            self.transport.abort()\n",
        "",
        ("tests/push/test_caller.py",),
    ),
    Fault(
        "a slip in the name of a condition replays everything",
        "gateway/protocol.py",
        "class ReplayDeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):\n",
        "class ReplayDeadLetters(Struct, frozen=True, kw_only=True):\n",
        ("tests/test_deadletters.py::test_a_range_with_a_slip_in_it_replays_nothing",),
    ),
    Fault(
        "a range goes on behind a phone of which it has replayed a part",
        "storage/deadletters.py",
        "found = await self._beside(begun, wanted, limit, after.last)\n",
        "pass\n",
        (
            "tests/test_deadletters.py::test_what_a_device_was_refused_becomes_one_ring_in_a_range_of_several_calls_too",
        ),
    ),
    Fault(
        "a range begins anew with what was refused meanwhile",
        "storage/deadletters.py",
        "            below = await self._number(tenant, begun.id)\n",
        "",
        (
            "tests/test_deadletters.py::test_what_is_refused_again_meanwhile_is_no_part_of_the_range",
        ),
    ),
    Fault(
        "a token of the secret before is refused",
        "gateway/config/auth.py",
        "unnamed=(present, previous)",
        "unnamed=(present,)",
        ("tests/gateway/test_auth.py",),
    ),
    Fault(
        "an icon is not corrected when a backend is there again",
        "gateway/owing.py",
        "self._correct_icons(tx, c)",
        "c",
        ("tests/test_endpoints.py",),
    ),
    Fault(
        "a start with a wrong clock takes everybody's phone",
        "gateway/core.py",
        "            if number >= STALE_EVERY:",
        "            if number:",
        (
            "tests/test_tokens.py::test_a_start_forgets_nothing_before_its_clock_can_have_been_put_right",
        ),
    ),
    Fault(
        "a clock that was put right takes everybody's phone",
        "gateway/core.py",
        "min(self.clock(), self.wall())",
        "self.clock()",
        (
            "tests/test_tokens.py::test_a_start_forgets_nothing_before_its_clock_can_have_been_put_right",
        ),
    ),
    Fault(
        "a tenant takes the last connections too",
        "gateway/sessions.py",
        "            if not self._seats.take(identity.tenant):",
        "            if not self._seats.take(identity.tenant) and False:",
        ("tests/test_limits.py",),
    ),
    Fault(
        "who had a socket keeps its place",
        "gateway/sessions.py",
        "                self._seats.leave(identity.tenant)",
        "                pass",
        ("tests/test_limits.py",),
    ),
    Fault(
        "what is judged again is kept by its errors",
        "storage/store.py",
        "            if any(map(itemgetter(1), answers)):\n",
        "            doubted = [error for _, error in answers if error is not None]\n"
        "            if doubted:\n",
        ("tests/test_freed.py",),
    ),
)
