import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Acks, Inbox, Kept, REPLIES, Thread, ago, filled, fittingReplies, isNews, neighbour, ordered,
  readReplies,
} from "../../gateway/web/console/state.js";

const at = (minute) => `2026-11-24T09:${String(minute).padStart(2, "0")}:00.000Z`;

function entry(customer, { live = true, by = "customer", minute = 0, seq = 1, ...more } = {}) {
  const last = { seq, from: { role: by, id: "x" }, text: `words of ${customer}` };
  const since = live && by === "customer" ? at(minute) : undefined;
  return { customer, live, unanswered_since: since, seq, last, waiting: 0, updated_at: at(minute), ...more };
}

const names = (entries) => entries.map(({ customer }) => customer).join(" ");

// The inbox

test("who has waited longest is first, then what is live, then the rest, each newest first", () => {
  const entries = [
    entry("ended", { live: false, minute: 9 }), entry("late", { minute: 5 }),
    entry("answered", { by: "agent", minute: 8 }), entry("early", { minute: 1 }),
    entry("answered-before", { by: "agent", minute: 2 }), entry("ended-before", { live: false, minute: 1 }),
  ];
  assert.equal(names(ordered(entries)), "early late answered answered-before ended ended-before");
});

test("who has waited longest stays first, whatever is said meanwhile", () => {
  const entries = [entry("late", { minute: 5 }), entry("early", { minute: 9, unanswered_since: at(1) })];
  assert.equal(names(ordered(entries)), "early late");
});

test("who waits for an answer is as the gateway says, whoever spoke last", () => {
  const inbox = new Inbox();
  inbox.put(entry("told", { by: "service", unanswered_since: at(9), minute: 9 }));
  inbox.put(entry("ended", { unanswered_since: undefined }));
  assert.equal(names(inbox.list("unanswered")), "told");
  assert.equal(names(inbox.list("live")), "told ended");
});

test("an inbox shows and counts what its filter wants, found by name, id or last words", () => {
  const inbox = new Inbox();
  for (const one of [entry("c-1", { name: "Mira" }), entry("c-2", { by: "agent" }),
    entry("c-3", { live: false })]) inbox.put(one);
  assert.equal(names(inbox.list("unanswered")), "c-1");
  assert.equal(names(inbox.list("live")), "c-1 c-2");
  assert.equal(inbox.count("all"), "3");
  assert.equal(names(inbox.list("all", " MIRA ")), "c-1");
  assert.equal(names(inbox.list("all", "words of c-3")), "c-3");
  assert.equal(names(inbox.list("all", "nobody")), "");
});

test("of two that are alike in time the order is always the same, whichever came first", () => {
  for (const alike of [{}, { by: "agent" }, { live: false }]) {
    const entries = ["b", "a", "c"].map((name) => entry(name, alike));
    assert.equal(names(ordered(entries)), "a b c");
    assert.equal(names(ordered(entries.reverse())), "a b c");
  }
});

test("who has no name and said nothing is found by the id alone", () => {
  const inbox = new Inbox();
  const quiet = entry("c-1", { last: undefined });
  inbox.put(quiet);
  assert.equal(names(inbox.list("all", "c-1")), "c-1");
  assert.equal(names(inbox.list("all", "undefined")), "");
  assert.equal(inbox.get("c-1"), quiet);
});

test("an inbox knows where the pages of a filter go on, and that it does not know all", () => {
  const inbox = new Inbox();
  assert.deepEqual([inbox.cursor("live"), inbox.more("live"), inbox.count("live")], [undefined, false, ""]);
  const page = (more) => {
    for (const one of more.conversations) inbox.put(one);
    inbox.turned("live", more);
  };
  page({ conversations: [entry("c-1"), entry("c-2")], cursor: "further" });
  assert.deepEqual([inbox.cursor("live"), inbox.got("live"), inbox.count("live")], ["further", 2, "2+"]);
  assert.deepEqual([inbox.more("all"), inbox.count("all")], [false, "2"]);
  page({ conversations: [entry("c-2"), entry("c-3")] });
  assert.deepEqual([inbox.cursor("live"), inbox.got("live"), inbox.count("live")], [null, 4, "3"]);
});

test("a later entry of a conversation takes the place of the one before", () => {
  const inbox = new Inbox();
  inbox.put(entry("c-1"));
  const before = inbox.put(entry("c-1", { by: "agent", seq: 2 }));
  assert.equal(before.seq, 1);
  assert.equal(names(inbox.list("unanswered")), "");
});

test("only what a customer newly wrote is news", () => {
  assert.ok(isNews(undefined, entry("c")));
  assert.ok(isNews(entry("c"), entry("c", { seq: 2 })));
  assert.ok(!isNews(entry("c"), entry("c")));
  assert.ok(!isNews(entry("c"), entry("c", { seq: 2, by: "agent" })));
  assert.ok(!isNews(undefined, entry("c", { by: "agent", unanswered_since: at(0) })), "an agent wrote, and leaves them waiting");
  assert.ok(!isNews(undefined, entry("c", { last: undefined })));
  assert.ok(!isNews(undefined, entry("c", { live: false })), "somebody else ended or read an old one");
});

test("going on goes round, and begins at the first", () => {
  const entries = [entry("a"), entry("b"), entry("c")];
  assert.equal(neighbour(entries, "c", 1), "a");
  assert.equal(neighbour(entries, "a", -1), "c");
  assert.equal(neighbour(entries, "elsewhere", 1), "a");
  assert.equal(neighbour([], "a", 1), null);
});

// What is acknowledged

test("of many messages that came together one is acknowledged for each customer, once", () => {
  const acks = new Acks();
  for (const seq of [1, 2, 3]) acks.received(entry("c-1", { seq, waiting: seq }));
  acks.received(entry("c-2", { seq: 7, waiting: 1 }));
  assert.deepEqual(acks.take(), [{ customer: "c-1", seq: 3 }, { customer: "c-2", seq: 7 }]);
  acks.received(entry("c-1", { seq: 3, waiting: 3 }));
  assert.deepEqual(acks.take(), []);
  acks.received(entry("c-1", { seq: 4, waiting: 4 }));
  assert.deepEqual(acks.take(), [{ customer: "c-1", seq: 4 }]);
});

test("what agents have read needs no ack", () => {
  const acks = new Acks();
  acks.received(entry("c-1", { seq: 1, waiting: 0 }));
  acks.received(entry("c-2", { seq: 2, waiting: 1 }));
  acks.read("c-2", 2);
  acks.received(entry("c-3", { seq: 2, waiting: 1 }));
  acks.read("c-3", 1);
  assert.deepEqual(acks.take(), [{ customer: "c-3", seq: 2 }]);
  acks.received(entry("c-2", { seq: 2, waiting: 1 }));
  acks.read("c-4", 5);
  acks.received(entry("c-4", { seq: 5, waiting: 1 }));
  assert.deepEqual(acks.take(), []);
});

// Threads

const said = (seq, role = "agent", more = {}) =>
  ({ seq, from: { role, id: role }, text: `${seq}`, kind: "chat", at: at(seq), ...more });

function opened(messages, more = {}) {
  const thread = new Thread("c-42");
  thread.open({ messages, more: false, seq: messages.at(-1)?.seq ?? 0, read_seq: 0, acked_seq: 0,
    unread: 0, in_chat: true, live: true, devices: 1, ...more });
  return thread;
}

const seqs = (thread) => thread.messages.map(({ seq }) => seq).join(" ");

test("messages stand in the order of seq, each once", () => {
  const thread = opened([said(3), said(4)], { more: true });
  assert.equal(thread.add(said(5)), true);
  assert.equal(thread.add(said(5)), false);
  thread.past({ messages: [said(1), said(2), said(3)], more: false });
  assert.equal(seqs(thread), "1 2 3 4 5");
  assert.equal(thread.more, false);
});

test("opened again, a thread goes on where it was, or begins anew when something is missing", () => {
  const thread = opened([said(1), said(2)]);
  const frame = { more: true, read_seq: 0, acked_seq: 0 };
  thread.open({ ...frame, messages: [] });
  assert.equal(seqs(thread), "1 2");
  thread.open({ ...frame, messages: [said(3)] });
  assert.equal(seqs(thread), "1 2 3");
  assert.equal(thread.more, false);
  thread.open({ ...frame, messages: [said(60), said(61)] });
  assert.equal(seqs(thread), "60 61");
  assert.equal(thread.more, true);
});

test("a thread that could not be opened can be later, and then there is no problem", () => {
  const thread = new Thread("c-42");
  thread.problem = "this tenant has no such customer";
  thread.open({ messages: [said(1)], more: false, read_seq: 0, acked_seq: 0 });
  assert.deepEqual([thread.problem, seqs(thread)], [null, "1"]);
});

test("an answered send is a message, whether by its answer or by a replay", () => {
  const thread = opened([]);
  thread.pending.push({ ref: "r1", text: "one" }, { ref: "r2", text: "two" });
  thread.sent({ ref: "r1", seq: 1, id: "m1", at: at(1), route: "socket", reason: "in_chat" }, "one",
    { role: "agent", id: "a" });
  assert.deepEqual([seqs(thread), thread.pending.length], ["1", 1]);
  thread.add(said(2, "agent", { ref: "r2" }));
  assert.deepEqual([seqs(thread), thread.pending.length], ["1 2", 0]);
});

test("opened again, a thread has the facts of now, and how many sessions there are is not known", () => {
  const thread = opened([said(1)]);
  assert.equal(thread.customer, "c-42");
  assert.deepEqual(thread.facts, { seq: 1, unread: 0, in_chat: true, live: true, devices: 1 });
  Object.assign(thread.facts, { in_chat: true, sessions: 2 }); // by `presence`
  thread.open({ messages: [], more: false, seq: 2, read_seq: 0, acked_seq: 0, unread: 1, in_chat: false, live: false, devices: 0 });
  assert.deepEqual(thread.facts, { seq: 2, unread: 1, in_chat: false, live: false, devices: 0 });
});

test("a send that was taken stands as it was written", () => {
  const thread = new Thread("c-42");
  assert.deepEqual([thread.newest, thread.loaded, thread.more], [0, false, false]);
  const from = { role: "agent", id: "a" };
  thread.sent({ ref: "r", seq: 1, id: "m", at: at(1), route: "none", reason: "no_device" }, "x", from);
  assert.deepEqual(thread.messages, [{ ref: "r", seq: 1, id: "m", at: at(1), from, text: "x", kind: "chat" }]);
  assert.deepEqual(thread.mark(thread.messages[0]), { state: "sent", label: "Sent", detail: "no way to the customer" });
});

test("opened again where one message is missing in between, a thread begins anew", () => {
  const thread = opened([said(1)]);
  thread.open({ messages: [said(3)], more: true, read_seq: 0, acked_seq: 0 });
  assert.equal(seqs(thread), "3");
});

test("whose message comes without a ref leaves what waits", () => {
  const thread = opened([]);
  thread.pending.push({ ref: "r", text: "x" });
  thread.add(said(1));
  assert.deepEqual(thread.pending.map(({ ref }) => ref), ["r"]);
});

test("a thread that was never loaded takes the first page whole, though something of it is there", () => {
  const thread = new Thread("c-42");
  thread.add(said(5));
  thread.open({ messages: [said(4), said(5)], more: true, read_seq: 0, acked_seq: 0 });
  assert.deepEqual([seqs(thread), thread.more, thread.loaded], ["4 5", true, true]);
});

test("a mark never says less than it did, and of what says as much the later", () => {
  const order = [["sent"], ["expired", "undeliverable", "pushed"], ["delivered"], ["read"]];
  const marked = (...states) => {
    const thread = opened([said(1)]);
    for (const state of states) {
      if (state === "sent") thread.deliveries({ seq: 1, outcome: "pending", events: [{}] }); // that was on its way
      else thread.receipt({ from_seq: 1, seq: 1, state });
    }
    return thread.mark(thread.messages[0]).state;
  };
  for (const [rank, states] of order.entries()) {
    for (const state of states) {
      for (const less of order.slice(0, rank).flat()) {
        assert.deepEqual([marked(less, state), marked(state, less)], [state, state]);
      }
      for (const alike of states) assert.equal(marked(alike, state), state);
    }
  }
});

test("who has one message has all before it, and who has read one has read those", () => {
  const thread = opened([said(1), said(2), said(3), said(4)], { acked_seq: 2, read_seq: 1 });
  const states = () => thread.messages.map((one) => thread.mark(one).state).join(" ");
  assert.equal(states(), "read delivered sent sent");
  thread.receipt({ from_seq: 3, seq: 3, state: "delivered" });
  thread.receipt({ from_seq: 2, seq: 2, state: "read" });
  assert.equal(states(), "read read delivered sent");
  thread.receipt({ from_seq: 2, seq: 2, state: "expired" }); // of that one, and not of those before
  thread.receipt({ from_seq: 1, seq: 1, state: "delivered" }); // late
  thread.receipt({ from_seq: 1, seq: 1, state: "read" });
  thread.open({ messages: [], more: false, acked_seq: 0, read_seq: 0 });
  thread.add(said(0));
  assert.equal(states(), "read read read delivered sent");
  thread.receipt({ from_seq: 4, seq: 9, state: "pushed", reason: "not_in_chat" });
  assert.equal(states(), "read read read delivered pushed");
});

test("a detail is of the mark that is shown, and of no other", () => {
  const marks = (route, ...receipts) => {
    const thread = opened([]);
    thread.sent({ seq: 1, route, reason: "why_so" }, "x", { role: "agent", id: "a" });
    for (const [state, reason] of receipts) thread.receipt({ from_seq: 1, seq: 1, state, reason });
    const { state, detail } = thread.mark(thread.messages[0]);
    return `${state}: ${detail}`;
  };
  assert.equal(marks("socket"), "sent: in chat");
  assert.equal(marks("by_carrier_pigeon"), "sent: by carrier pigeon");
  assert.equal(marks("push", ["undeliverable", "token_dead"]), "undeliverable: token dead");
  assert.equal(marks("push", ["undeliverable"]), "undeliverable: ");
  assert.equal(marks("push", ["expired", "too_late"]), "expired: ");
  assert.equal(marks("push", ["undeliverable", "no_device"], ["delivered"]), "delivered: ");
  assert.equal(marks("push", ["undeliverable", "no_device"], ["read"]), "read: ");
});

test("what the deliveries call says is what is shown, and nothing where it says nothing", () => {
  const shown = {
    pending: "sent: in chat", acked: "delivered: ", pushed: "pushed: ", expired: "expired: ",
    undeliverable: "undeliverable: no device",
  };
  for (const [outcome, mark] of Object.entries(shown)) {
    const thread = opened([said(1)]);
    thread.deliveries({ seq: 1, events: [{ event: "committed" }] });
    assert.equal(thread.mark(thread.messages[0]).state, "sent");
    thread.deliveries({ seq: 1, outcome, reason: "no_device", events: [{ event: "committed", route: "socket" }] });
    thread.deliveries({ seq: 1, outcome, reason: "no_device", events: [{ event: "committed" }] });
    const { state, detail } = thread.mark(thread.messages[0]);
    assert.equal(`${state}: ${detail}`, mark);
    assert.equal(thread.untold().length, ["sent", "expired", "undeliverable"].includes(state) ? 1 : 0);
  }
});

test("a mark says the most that is known, however the receipts come", () => {
  const thread = opened([said(1), said(2, "customer"), said(3)]);
  const mark = (seq) => thread.mark(thread.messages.find((one) => one.seq === seq));
  assert.equal(mark(1).label, "Sent");
  assert.equal(mark(2), null);
  thread.receipt({ from_seq: 1, seq: 3, state: "pushed" });
  assert.deepEqual([mark(1).label, mark(3).label], ["Pushed", "Pushed"]);
  thread.receipt({ from_seq: 1, seq: 1, state: "read" });
  thread.receipt({ from_seq: 1, seq: 3, state: "delivered" });
  assert.deepEqual([mark(1).label, mark(3).label], ["Read", "Delivered"]);
});

test("a mark says the route, and why a message was not delivered", () => {
  const thread = opened([]);
  thread.sent({ ref: "r", seq: 1, id: "m", at: at(1), route: "push", reason: "not_in_chat" }, "x",
    { role: "agent", id: "a" });
  assert.equal(thread.mark(thread.messages[0]).detail, "to push");
  thread.receipt({ from_seq: 1, seq: 1, state: "undeliverable", reason: "token_dead" });
  assert.deepEqual(thread.mark(thread.messages[0]),
    { state: "undeliverable", label: "Not delivered", detail: "token dead" });
});

test("what was opened late is asked for, and marked as the answer says", () => {
  const thread = opened([said(1), said(2), said(3), said(4, "customer"), said(5)], { acked_seq: 1, read_seq: 0 });
  assert.deepEqual(thread.untold().map(({ seq }) => seq), [5, 3, 2]);
  assert.deepEqual(thread.untold(5).map(({ seq }) => seq), [3, 2]);
  thread.deliveries({ seq: 5, outcome: "expired", events: [{ event: "committed", route: "none" }] });
  assert.equal(thread.mark(thread.messages.at(-1)).label, "Expired");
  assert.deepEqual(thread.untold().map(({ seq }) => seq), [5, 3, 2]); // one that has expired may still be pushed
  assert.equal(thread.mark(thread.messages[0]).label, "Delivered");
});

test("a message of our own is asked for again when its receipt may have been missed", () => {
  const thread = opened([]);
  thread.sent({ ref: "r", seq: 1, id: "m", at: at(1), route: "push", reason: "not_in_chat" }, "x",
    { role: "agent", id: "a" });
  assert.deepEqual(thread.untold().map(({ seq }) => seq), [1]);
  thread.deliveries({ seq: 1, outcome: "pushed", events: [{ event: "committed", route: "push" }] });
  assert.deepEqual(thread.untold(), []);
});

test("system messages have no mark, proactive ones of a service have", () => {
  const thread = opened([said(1, "service", { kind: "proactive" }), said(2, "agent", { kind: "system" })]);
  assert.equal(thread.mark(thread.messages[0]).label, "Sent");
  assert.equal(thread.mark(thread.messages[1]), null);
});

// What must not be lost

class FakeStorage {
  kept = new Map();
  getItem(key) { return this.kept.get(key) ?? null; }
  setItem(key, text) { this.kept.set(key, text); }
  removeItem(key) { this.kept.delete(key); }
}

test("drafts and unsent messages are there after a reload, and only for who wrote them", () => {
  const storage = new FakeStorage();
  const kept = new Kept(storage, "ada");
  kept.setDraft("c-1", "half a sen");
  kept.put({ ref: "r1", customer: "c-1", text: "one" });
  kept.put({ ref: "r2", customer: "c-2", text: "two" });
  kept.put({ ref: "r1", customer: "c-1", text: "one" });
  const later = new Kept(storage, "ada");
  assert.equal(later.draft("c-1"), "half a sen");
  assert.deepEqual(later.unsent.map(({ ref }) => ref), ["r2", "r1"]);
  assert.equal(new Kept(storage, "bob").draft("c-1"), "");
  assert.deepEqual(new Kept(storage, "bob").unsent, []);
});

test("what was refused is kept as refused, in its place, until it is put again", () => {
  const kept = new Kept(new FakeStorage(), "ada");
  const [one, two] = ["r1", "r2"].map((ref) => ({ ref, customer: "c-1", text: ref }));
  kept.put(one);
  kept.put(two);
  kept.fail("r1", "too long");
  assert.deepEqual(kept.unsent, [{ ...one, failed: "too long" }, two]);
  kept.put(one);
  assert.deepEqual(kept.unsent, [two, one]);
});

test("what is kept and is no list is nothing", () => {
  const storage = new FakeStorage();
  storage.setItem("ringback ada unsent", '{"ref": "r"}');
  assert.deepEqual(new Kept(storage, "ada").unsent, []);
});

test("what was sent or emptied leaves nothing behind", () => {
  const storage = new FakeStorage();
  const kept = new Kept(storage, "ada");
  kept.setDraft("c-1", "x");
  kept.setDraft("c-1", "");
  kept.put({ ref: "r", customer: "c-1", text: "x" });
  kept.settle("r");
  assert.equal(storage.kept.size, 0);
  storage.setItem("ringback ada unsent", "{broken");
  assert.deepEqual(new Kept(storage, "ada").unsent, []);
});

test("a storage that is full loses nothing before a reload", () => {
  const storage = new FakeStorage();
  const kept = new Kept(storage, "ada");
  kept.setDraft("c-1", "half");
  storage.setItem = () => { throw new Error("full"); };
  kept.setDraft("c-1", "half a sen");
  kept.put({ ref: "r1", customer: "c-1", text: "one" });
  kept.put({ ref: "r2", customer: "c-1", text: "two" });
  kept.settle("r1");
  assert.equal(kept.draft("c-1"), "half a sen");
  assert.deepEqual(kept.unsent.map(({ ref }) => ref), ["r2"]);
  assert.equal(new Kept(storage, "ada").draft("c-1"), "half");
});

// Canned replies

test("replies are lines with a key; one without goes on with the text before", () => {
  assert.deepEqual(readReplies("a: one\ntwo\n\nb:  three\nc:\n"), [
    { key: "a", text: "one\ntwo" }, { key: "b", text: "three" },
  ]);
  assert.deepEqual(readReplies("a: one\nb: two\nthree").map(({ text }) => text), ["one", "two\nthree"]);
  assert.equal(readReplies("no key\n").length, 0);
  assert.equal(readReplies(REPLIES).length, 4);
});

test("a draft that begins with a slash calls for replies, any other does not", () => {
  const replies = readReplies("hello: x\nhelp: y\nbye: z");
  assert.deepEqual(fittingReplies(replies, "/HE").map(({ key }) => key), ["hello", "help"]);
  assert.equal(fittingReplies(replies, "/").length, 3);
  for (const draft of ["", "hello", "/he llo", "see /he", "/nothing"]) {
    assert.equal(fittingReplies(replies, draft).length, 0, draft);
  }
});

test("a reply names the customer, or leaves the name out", () => {
  const reply = { text: "Hello {name}, {name}!" };
  assert.equal(filled(reply, "$& Mira"), "Hello $& Mira, $& Mira!");
  assert.equal(filled(reply, ""), "Hello,!");
});

test("how long ago something was is said shortly", () => {
  const now = Date.parse(at(0));
  const said = (minutes) => ago(new Date(now - minutes * 60_000).toISOString(), now);
  assert.deepEqual([-1, 0, 1, 4, 59, 60, 1439, 1440, 2879, 14_399].map(said),
    ["now", "now", "1 min", "4 min", "59 min", "1 h", "23 h", "1 d", "1 d", "9 d"]);
});
