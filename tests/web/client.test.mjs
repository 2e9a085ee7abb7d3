import assert from "node:assert/strict";
import { test } from "node:test";

import { Devices, RingbackClient, isDouble } from "../../gateway/web/ringback-client.js";
import { Stage, Storage, jwt, messageFrame, welcomeFrame } from "./fakes.mjs";

const URL = "wss://chat.example/v1/chat";

class World extends Stage {
  storage = new Storage();
  customer = "c-42";
  calls = [];
  answers = [];
  visible = true;

  client(options = {}, environment = {}) {
    const seen = { messages: [], states: [], reloads: 0 };
    const it = new RingbackClient(
      {
        url: URL,
        token: async () => jwt({ tenant: "acme", sub: this.customer, exp: 4e9 }),
        installation: "web-1",
        ...options,
      },
      {
        ...this.environment,
        storage: this.storage,
        visible: () => this.visible,
        watch: (told) => (this.told = told, () => (this.unwatched = true)),
        fetch: async (url, request) => {
          this.calls.push({ url, ...request });
          const answer = this.answers.shift() ?? 204;
          if (answer === "lost") throw new TypeError("network");
          return typeof answer === "number"
            ? { ok: answer < 300, status: answer, json: async () => ({}) }
            : { ok: true, status: 200, json: async () => answer };
        },
        ...environment,
      },
    );
    it.on("message", (message) => seen.messages.push(message.seq));
    it.on("state", (state) => seen.states.push(state));
    it.on("reload", () => (seen.reloads += 1));
    return Object.assign(seen, { it });
  }

  async started(options, welcome) {
    const seen = this.client(options);
    seen.it.start();
    await this.welcome(welcome);
    return seen;
  }

  async says(...frames) {
    for (const frame of frames) this.socket.says(frame);
    await this.settle();
  }

  async again(welcome) {
    this.socket.ends(1006);
    await this.pass(this.next);
    await this.welcome({ resumed: true, ...welcome });
  }
}

const last = (socket, type) => socket.taken(type).at(-1);

test("messages are acknowledged at once, and read while somebody looks", async () => {
  const world = new World();
  const { it, messages } = await world.started();
  await world.says(messageFrame(1), messageFrame(2));
  assert.deepEqual(messages, [1, 2]);
  assert.equal(last(world.socket, "ack").seq, 2);
  assert.equal(last(world.socket, "read").seq, 2);
  assert.equal(it.unread, 0);
});

test("how far the agents are is told as the server last told it, and survives what is counted here", async () => {
  const world = new World();
  const { it } = await world.started({}, { agents_acked_seq: 2, agents_read_seq: 1 });
  assert.deepEqual([it.status.agentsAckedSeq, it.status.agentsReadSeq], [2, 1]);
  const told = { type: "status", seq: 3, read_seq: 0, unread: 0, badge_seq: 1, live: true };
  await world.says({ ...told, agents_acked_seq: 3, agents_read_seq: 2 });
  await world.says(messageFrame(1));
  assert.deepEqual([it.status.agentsAckedSeq, it.status.agentsReadSeq], [3, 2]);
  await world.says(told); // by an older gateway
  assert.deepEqual([it.status.agentsAckedSeq, it.status.agentsReadSeq], [0, 0]);
});

test("a conversation that was ended while nobody was here is not live for what is replayed of it", async () => {
  const world = new World();
  const { it, messages } = await world.started({}, { seq: 1, unread: 1, live: false });
  await world.says(messageFrame(1)); // the agent's last word, before the end
  assert.deepEqual(messages, [1]);
  assert.equal(it.status.live, false);
  const told = { type: "status", seq: 2, read_seq: 1, unread: 1, badge_seq: 3, live: true };
  await world.says(messageFrame(2), told);
  assert.equal(it.status.live, true);
});

test("a hidden page is background: acknowledged, not read, counted as unread", async () => {
  const world = new World();
  const { it } = await world.started();
  world.visible = false;
  world.told.visibility();
  await world.says(messageFrame(1), messageFrame(2, { kind: "system" }));
  assert.equal(last(world.socket, "state").state, "background");
  assert.equal(last(world.socket, "ack").seq, 2);
  assert.equal(world.socket.taken("read").length, 0);
  assert.equal(it.unread, 1);
  world.visible = true;
  world.told.visibility();
  await world.settle();
  assert.equal(last(world.socket, "state").state, "active");
  assert.equal(last(world.socket, "read").seq, 2);
});

test("seen is what was on screen, and not what has arrived", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false }, { seq: 1, read_seq: 1 });
  const ring = (seq, kind = "message") => ({ ringback: { kind, seq } });
  await world.says(messageFrame(2));
  assert.deepEqual([it.seq, it.seenSeq], [2, 1]);
  assert.equal(isDouble(ring(2), it.seenSeq), false);
  it.show();
  assert.equal(it.seenSeq, 2);
  assert.equal(isDouble(ring(2), it.seenSeq), true);
  it.show(false);
  await world.says({ type: "status", seq: 3, read_seq: 3, unread: 0, badge_seq: 1, live: true });
  assert.equal(it.seenSeq, 3); // on another device
});

test("what comes on screen with no network is seen, and told with the next welcome", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false });
  await world.says(messageFrame(1));
  world.socket.ends(1006);
  it.show();
  assert.equal(it.seenSeq, 1);
  it.show(false);
  await world.pass(world.next);
  await world.welcome({ resumed: true, seq: 1 });
  assert.equal(last(world.socket, "read").seq, 1);
});

test("what was read with no network is not unread again when there is one, and what was missed is", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false });
  await world.says(messageFrame(1));
  world.socket.ends(1006);
  it.show();
  it.show(false);
  const counts = [];
  it.on("status", ({ unread, readSeq }) => counts.push([unread, readSeq]));
  await world.pass(world.next);
  await world.welcome({ resumed: true, seq: 2, unread: 2 });
  await world.says(messageFrame(2));
  await world.says({ type: "status", seq: 2, read_seq: 1, unread: 1, badge_seq: 3, live: true });
  assert.deepEqual(counts, [[0, 1], [1, 1], [1, 1]]);
});

test("an open page that nobody touches turns background, and active with the first touch", async () => {
  const world = new World();
  const { states } = await world.started({ idleAfter: 60_000 });
  await world.pass(30_000);
  world.told.activity();
  await world.pass(59_000);
  assert.deepEqual(states, []);
  await world.pass(1_000);
  assert.deepEqual(states, ["background"]);
  world.told.activity();
  assert.deepEqual(states, ["background", "active"]);
});

test("a clock that is set back makes nobody absent who is there, and leaves typing told", async () => {
  const world = new World();
  const { it, states } = await world.started({ idleAfter: 60_000 });
  it.typing();
  world.clock = -3_600_000;
  for (let second = 0; second < 90; second += 1) {
    await world.pass(1_000);
    it.activity();
    it.typing();
  }
  assert.deepEqual(states, []);
  assert.ok(world.socket.taken("typing").length > 20);
});

test("a chat that is not on screen says hello as background", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false });
  assert.equal(world.socket.sent[0].state, "background");
  assert.deepEqual(world.socket.sent[0].installation, "web-1");
  it.show();
  await world.settle();
  assert.equal(last(world.socket, "state").state, "active");
});

test("who is in the background and comes back says so, and has not read what came meanwhile", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false });
  await world.says(messageFrame(1));
  await world.again({ seq: 1, unread: 1 });
  const { token, ...hello } = world.socket.sent[0];
  assert.deepEqual(hello, { type: "hello", state: "background", installation: "web-1", resume: { epoch: "e_1", seq: 1 } });
  assert.match(token, /^ey/);
  assert.deepEqual([it.unread, world.socket.taken("read")], [1, []]);
});

test("who leaves or comes between the hello and the welcome is told of after it", async () => {
  const world = new World();
  const { it } = world.client();
  it.start();
  await world.settle();
  world.socket.opens();
  world.visible = false;
  world.told.visibility();
  await world.says(welcomeFrame(world.time));
  assert.deepEqual([world.socket.sent[0].state, last(world.socket, "state").state], ["active", "background"]);
});

test("what another tab wrote is not unread, nor is what a system says", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false });
  const from = { role: "customer", id: "c-42" };
  await world.says(messageFrame(1, { from, ref: "of another tab" }), messageFrame(2, { kind: "system" }), messageFrame(3));
  assert.equal(it.unread, 1);
});

test("what a gap brought is acknowledged, whoever looks", async () => {
  const world = new World();
  await world.started({ shown: false });
  await world.says(messageFrame(2));
  const { ref } = last(world.socket, "history");
  await world.says({ type: "history", ref, more: false, messages: [messageFrame(1), messageFrame(2)] });
  assert.deepEqual(world.socket.taken("ack").map(({ seq }) => seq), [2]);
});

test("a client comes back with its epoch and what it holds, and tells what was read", async () => {
  const world = new World();
  const { messages } = await world.started();
  await world.says(messageFrame(1));
  await world.again({ seq: 2 });
  assert.deepEqual(world.socket.sent[0].resume, { epoch: "e_1", seq: 1 });
  assert.equal(world.socket.taken("read")[0].seq, 1);
  await world.says(messageFrame(2));
  assert.deepEqual(messages, [1, 2]);
});

test("what cannot be resumed is reloaded from history, without a gap or a double", async () => {
  const world = new World();
  const { it, messages, reloads } = await world.started();
  await world.says(messageFrame(1));
  await world.again({ resumed: false, seq: 3 });
  const page = last(world.socket, "history");
  await world.says(messageFrame(4)); // live, amid the reload
  await world.says({
    type: "history", ref: page.ref, more: false, messages: [1, 2, 3].map((seq) => messageFrame(seq)),
  });
  assert.deepEqual(messages, [1, 2, 3, 4]);
  assert.equal(reloads, 0);
  assert.deepEqual(it.messages.map((message) => message.seq), [1, 2, 3, 4]);
});

test("after a restored backup all that was held is replaced", async () => {
  const world = new World();
  const seen = await world.started();
  await world.says(messageFrame(1), messageFrame(2));
  await world.again({ resumed: false, epoch: "e_2", seq: 1 });
  assert.deepEqual([world.socket.taken("read"), seen.it.seenSeq], [[], 0]); // 2 is not there any more
  const page = last(world.socket, "history");
  await world.says({ type: "history", ref: page.ref, more: false, messages: [messageFrame(1)] });
  assert.equal(seen.reloads, 1);
  assert.equal(last(world.socket, "read").seq, 1);
  assert.deepEqual(seen.it.messages.map((message) => message.seq), [1]);
});

test("a gap is asked for", async () => {
  const world = new World();
  const { messages } = await world.started();
  await world.says(messageFrame(1), messageFrame(3));
  const page = last(world.socket, "history");
  assert.match(page.ref, /^[0-9a-f-]{36}$/);
  await world.says({
    type: "history", ref: page.ref, more: false, messages: [messageFrame(1), messageFrame(2)],
  });
  assert.deepEqual(messages, [1, 2, 3]);
});

test("older messages come page by page, before those held", async () => {
  const world = new World();
  const { it } = await world.started({}, { seq: 3, read_seq: 3 });
  const loading = it.loadOlder(2);
  await world.settle();
  const page = last(world.socket, "history");
  assert.equal(page.before, 4);
  const messages = [messageFrame(2), messageFrame(3)];
  await world.says({ type: "history", ref: page.ref, more: true, messages });
  assert.equal(await loading, 2);
  assert.deepEqual(it.messages.map((message) => message.seq), [2, 3]);
  assert.equal(it.more, true);
});

test("a send made while away goes out once there is a connection, and counts as its seq", async () => {
  const world = new World();
  const { it, messages } = world.client();
  it.start();
  const sending = it.send("hello");
  assert.equal(it.pending[0].state, "waiting");
  await world.welcome();
  const { ref } = last(world.socket, "send");
  await world.says({ type: "sent", ref, seq: 1, id: "m_1", at: "2026-11-24T09:00:00.000Z" });
  assert.equal((await sending).seq, 1);
  assert.deepEqual(it.pending, []);
  assert.deepEqual(messages, [1]);
  assert.equal(it.messages[0].from.id, "c-42");
});

test("a send survives a reload of the page, under the same ref, and only for its customer", async () => {
  const world = new World();
  const first = await world.started();
  first.it.send("kept");
  await world.settle();
  const { ref } = last(world.socket, "send");
  world.customer = "c-43";
  const other = await world.started();
  assert.deepEqual(other.it.pending, []);
  world.customer = "c-42";
  const second = await world.started();
  assert.equal(last(world.socket, "send").ref, ref);
  await world.says(messageFrame(1, { from: { role: "customer", id: "c-42" }, ref }));
  assert.deepEqual(second.it.pending, []);
  const third = await world.started();
  assert.deepEqual(third.it.pending, []);
});

test("sends of one millisecond keep their order over a reload, whatever that of the storage is", async () => {
  const world = new World();
  const texts = ["c", "a", "d", "b", "e"];
  const first = await world.started();
  for (const text of texts) first.it.send(text);
  const key = world.storage.key.bind(world.storage);
  world.storage.key = (i) => key(world.storage.length - 1 - i);
  await world.started();
  assert.deepEqual(world.socket.taken("send").map(({ text }) => text), texts);
});

test("another customer's token shows and sends nothing of the last one", async () => {
  const world = new World();
  const { it } = await world.started();
  await world.says(messageFrame(1));
  it.send("private").catch(() => {});
  world.customer = "c-43";
  world.socket.ends(4002);
  await world.pass(world.next);
  await world.welcome();
  assert.equal(world.socket.sent[0].resume, undefined);
  assert.deepEqual(world.socket.taken("send"), []);
  assert.deepEqual([it.messages, it.pending, it.seenSeq], [[], [], 0]);
});

test("a token that turns out to be another customer's moves to a connection of its own", async () => {
  const world = new World();
  const token = async () => jwt({ tenant: "acme", sub: world.customer, exp: world.time / 1000 + 100 });
  const { it } = await world.started({ token });
  await world.says(messageFrame(1));
  world.customer = "c-43";
  await world.pass(80_000);
  const first = world.socket;
  const { ref } = last(first, "refresh");
  await world.says({ type: "error", ref, code: "forbidden", message: "" });
  assert.notEqual(first.closedWith, undefined);
  assert.deepEqual(it.messages, []);
  it.send("from the next customer").catch(() => {});
  await world.pass(world.next);
  await world.welcome();
  assert.notEqual(world.socket, first);
  assert.equal(last(world.socket, "send").text, "from the next customer");
  assert.deepEqual(first.taken("send"), []);
});

test("a refused send is shown as failed, and goes out again when asked to", async () => {
  const world = new World();
  const { it } = await world.started();
  const sending = it.send("hm");
  await world.settle();
  const { ref } = last(world.socket, "send");
  await world.says({ type: "error", ref, code: "conflict", message: "another content" });
  await assert.rejects(sending, (error) => error.code === "conflict");
  assert.equal(it.pending[0].state, "failed");
  it.retry(ref);
  await world.settle();
  assert.notEqual(last(world.socket, "send").ref, ref);
  assert.equal(it.pending.length, 1);
});

test("what could not be sent when the server said to stay away goes out after a new start", async () => {
  const world = new World();
  const { it } = await world.started();
  it.send("later").catch(() => {});
  world.socket.ends(4503);
  await world.settle();
  assert.equal(it.pending[0].error.code, "ended");
  it.start();
  await world.welcome({ resumed: true });
  assert.equal(last(world.socket, "send").text, "later");
});

test("who tries the first of several again after an end has them sent in their order", async () => {
  const world = new World();
  const { it } = await world.started();
  const texts = ["one", "two", "three"];
  world.socket.ends(4504);
  for (const text of texts) it.send(text).catch(() => {});
  const again = it.retry(it.pending[0].ref);
  assert.deepEqual(it.pending.map(({ text }) => text), texts);
  await world.welcome({ resumed: true });
  const sends = world.socket.taken("send");
  assert.deepEqual(sends.map(({ text }) => text), texts);
  await world.says({ type: "sent", ref: sends[0].ref, seq: 1, id: "m_1", at: "2026-11-24T09:00:00.000Z" });
  assert.equal((await again).seq, 1);
});

test("what waits goes out in its order after a stop and a start in one turn", async () => {
  const world = new World();
  const { it } = await world.started();
  world.socket.ends(1006);
  it.send("one").catch(() => {});
  it.stop();
  it.send("two").catch(() => {});
  it.start();
  it.send("three").catch(() => {});
  await world.welcome({ resumed: true });
  assert.deepEqual(world.socket.taken("send").map(({ text }) => text), ["one", "two", "three"]);
  assert.deepEqual(it.pending.map(({ state }) => state), ["waiting", "waiting", "waiting"]);
});

test("what was sent is shown as it was written, by whom and when it was taken", async () => {
  const world = new World();
  const { it } = await world.started();
  const written = it.send("hello \ud800", { order: 7 }); // half a character, as a cut emoji leaves
  assert.deepEqual(it.pending.map(({ at, state }) => [at, state]), [[world.time, "waiting"]]);
  await world.settle();
  const { ref, ...frame } = last(world.socket, "send");
  assert.deepEqual(frame, { type: "send", text: "hello \ufffd", data: { order: 7 } });
  await world.says({ type: "sent", ref, seq: 1, id: "m_1", at: "2026-11-24T09:00:00.000Z" });
  await written;
  assert.deepEqual(it.messages, [{
    type: "message", seq: 1, id: "m_1", from: { role: "customer", id: "c-42" }, text: "hello \ufffd",
    data: { order: 7 }, kind: "chat", at: "2026-11-24T09:00:00.000Z", ref,
  }]);
  assert.equal(it.unread, 0);
  assert.deepEqual(world.socket.taken("ack"), []); // its `sent` says that it is known
});

test("a send whose answer was lost is answered by the message that comes back", async () => {
  const world = new World();
  const { it } = await world.started();
  const sending = it.send("hello");
  await world.settle();
  const { ref } = last(world.socket, "send");
  const pending = [];
  it.on("pending", (sends) => pending.push(sends.length));
  await world.again({ seq: 1 });
  const at = "2026-11-24T09:00:00.000Z";
  await world.says(messageFrame(1, { from: { role: "customer", id: "c-42" }, ref, at }));
  assert.deepEqual(await sending, { type: "sent", ref, seq: 1, id: "m_1", at, duplicate: true });
  assert.equal(pending.at(-1), 0);
  await world.says({ type: "sent", ref, seq: 1, id: "m_1", at, duplicate: true });
  await world.again({ seq: 1 });
  assert.deepEqual([world.socket.taken("send"), it.messages.length], [[], 1]);
});

test("what cannot be a message is refused at once, and what is as long as may be goes out", async () => {
  const world = new World();
  const { it } = await world.started({}, { limits: { text_chars: 3 } });
  for (const text of ["", undefined, 7]) assert.throws(() => it.send(text), TypeError);
  assert.throws(() => it.send("four"), { name: "RequestFailed", code: "too_large" });
  assert.deepEqual(it.pending, []);
  it.send("😀😀😀");
  await world.settle();
  assert.equal(world.socket.taken("send").length, 1);
});

test("only a failed message is tried again, or deleted", async () => {
  const world = new World();
  const { it } = await world.started();
  it.send("hello");
  const [{ ref }] = it.pending;
  for (const none of [ref, "nobody's"]) assert.throws(() => it.retry(none), { message: "ref: no failed message has it" });
  const told = [];
  it.on("pending", (sends) => told.push(sends.length));
  it.discard(ref);
  it.discard("nobody's");
  await world.settle();
  await world.says({ type: "error", ref, code: "forbidden", message: "no" });
  assert.deepEqual(it.pending.map(({ state, error }) => [state, error]), [["failed", { code: "forbidden", message: "forbidden: no" }]]);
  it.start(); // what was refused stays so, until somebody says
  world.socket.ends(4503);
  it.start();
  await world.welcome({ resumed: true });
  const { it: page } = await world.started();
  assert.deepEqual([it, page].map(({ pending: [{ error }] }) => error.code), ["forbidden", "forbidden"]);
  assert.deepEqual(world.sockets.map((socket) => socket.taken("send").length), [1, 0, 0]);
  page.stop();
  world.sockets.pop();
  it.retry(ref);
  assert.equal(it.pending[0].error, undefined);
  await world.settle();
  assert.deepEqual(world.socket.taken("send").map((frame) => frame.ref), [ref]);
  await world.says({ type: "error", ref, code: "forbidden", message: "no" });
  it.discard(ref);
  assert.equal(told.at(-1), 0);
  const next = await world.started();
  assert.deepEqual(next.it.pending, []);
});

test("a message so old that its ref may be forgotten waits for the customer, and goes out under another", async () => {
  const world = new World();
  const first = await world.started();
  world.socket.ends(1006);
  first.it.send("of last week").catch(() => {});
  const [{ ref }] = first.it.pending;
  first.it.stop();
  await world.pass(6 * 86_400_000 + 1);
  const { it } = await world.started();
  assert.deepEqual(world.socket.taken("send"), []);
  assert.deepEqual(it.pending.map(({ state, error }) => [state, error.code]), [["failed", "stale"]]);
  it.retry(ref);
  await world.settle();
  const again = last(world.socket, "send");
  assert.notEqual(again.ref, ref);
  assert.deepEqual(it.pending.map(({ text, at }) => [text, at]), [["of last week", world.time]]);
  assert.equal(world.storage.length, 1);
});

test("a message of less than six days goes out under its ref, whatever else the storage has", async () => {
  const world = new World();
  world.storage.setItem("ringback send acme%20c-42 broken", "{");
  const first = await world.started();
  world.socket.ends(1006);
  first.it.send("of this week").catch(() => {});
  const [{ ref }] = first.it.pending;
  first.it.stop();
  await world.pass(6 * 86_400_000);
  const { it } = await world.started();
  assert.deepEqual(world.socket.taken("send").map((frame) => frame.ref), [ref]);
  assert.equal(it.pending.length, 1);
});

test("what several pages kept goes out in the order in which it was written", async () => {
  const world = new World();
  for (const texts of [["one", "two"], ["three"]]) {
    const page = world.client();
    for (const text of texts) page.it.send(text).catch(() => {}); // before it is known whose it is
    page.it.start();
    await world.settle();
    page.it.stop();
    await world.pass(1_000);
  }
  await world.started();
  assert.deepEqual(world.socket.taken("send").map(({ text }) => text), ["one", "two", "three"]);
});

test("what becomes of a message is told as it becomes", async () => {
  const world = new World();
  const { it } = await world.started();
  const told = [];
  it.on("pending", (sends) => told.push(sends.map(({ state }) => state).join(" ")));
  it.send("one");
  assert.deepEqual(told, ["waiting"]);
  await world.settle();
  await world.says({ type: "error", ref: last(world.socket, "send").ref, code: "forbidden", message: "no" });
  assert.equal(told.at(-1), "failed");
  it.send("two").catch(() => {});
  assert.equal(told.at(-1), "failed waiting");
  world.socket.ends(4504);
  assert.equal(told.at(-1), "failed failed");
  await it.signOut();
  assert.equal(told.at(-1), "");
});

test("the next customer after a sign-out keeps what they write, however often it is started", async () => {
  const world = new World();
  const { it } = await world.started();
  await it.signOut();
  world.customer = "c-43";
  it.start();
  await world.welcome();
  it.send("of the next");
  it.start();
  assert.deepEqual(it.pending.map(({ text }) => text), ["of the next"]);
});

test("a draft is kept for its customer, over a reload, and until they sign out", async () => {
  const world = new World();
  const { it } = world.client();
  it.draft = "of nobody known";
  assert.equal(it.draft, "");
  it.start();
  await world.welcome();
  it.draft = "half a";
  world.customer = "c-43";
  assert.equal((await world.started()).it.draft, "");
  world.customer = "c-42";
  const again = await world.started();
  assert.equal(again.it.draft, "half a");
  assert.deepEqual(again.it.pending, []);
  await again.it.signOut();
  assert.equal((await world.started()).it.draft, "");
  assert.deepEqual(world.storage.length, 0);
});

test("nothing is kept of who has an opaque token", async () => {
  const world = new World();
  const { it } = await world.started({ token: "opaque" });
  it.draft = "half a";
  it.send("hello");
  assert.deepEqual([it.draft, world.storage.length], ["", 0]);
});

test("what a token callback throws is told, and the phases as they come", async () => {
  const world = new World();
  const answers = [Promise.reject(new Error("no network")), "t"];
  const { it } = world.client({ token: () => answers.shift() });
  const told = [];
  for (const type of ["error", "phase"]) it.on(type, (detail) => told.push([type, detail.message ?? detail]));
  const off = it.on("phase", () => told.push("twice"));
  off();
  it.start();
  await world.settle();
  await world.pass(world.next);
  await world.welcome();
  world.socket.ends(4503);
  assert.deepEqual(told, [
    ["phase", { phase: "connecting" }], ["error", "no network"], ["phase", { phase: "waiting", wait: 1000, code: null }],
    ["phase", { phase: "connecting" }], ["phase", { phase: "connected" }], ["phase", { phase: "ended", code: 4503 }],
  ]);
  assert.deepEqual([it.endCode, it.limits.burst], [4503, 20]);
});

test("whoever stops is not watched any more, and watched again after a start", async () => {
  const world = new World();
  const { it, states } = await world.started();
  it.typing();
  await world.says({ type: "typing", from: { role: "agent", id: "a" }, on: true });
  it.stop();
  assert.deepEqual([world.unwatched, world.next], [true, null]);
  const { told } = world;
  it.start();
  assert.notEqual(world.told, told);
  await world.welcome({ resumed: true });
  const watched = world.told;
  it.start(); // of one that goes on nothing is begun
  assert.equal(world.told, watched);
  await world.pass(120_000);
  assert.deepEqual(states, ["background"]);
});

test("a chat that is brought on screen has somebody before it", async () => {
  const world = new World();
  const { it } = await world.started({ idleAfter: 60_000 });
  await world.pass(60_000);
  it.show(false);
  assert.equal(it.state, "background");
  it.show();
  assert.equal(it.state, "active");
  await world.pass(60_000);
  it.send("hello"); // as whoever writes
  assert.equal(it.state, "active");
  const always = world.client({ idleAfter: 0 });
  always.it.start();
  await world.pass(3_600_000);
  assert.equal(always.it.state, "active");
});

test("who does not watch is taken to be there, for two minutes from the start", async () => {
  const world = new World();
  const { it } = world.client({}, { visible: undefined, watch: undefined });
  it.start();
  await world.welcome();
  await world.pass(119_000);
  assert.equal(it.state, "active");
  await world.pass(1_000);
  assert.equal(it.state, "background");
});

test("a page that tells of a new network tries at once", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }, "lost"];
  const { it } = await world.started();
  world.socket.ends(1006);
  await it.registerDevice("t");
  await it.deregisterDevice();
  world.told.network();
  await world.settle();
  assert.deepEqual([it.phase, world.calls.length], ["connecting", 3]);
});

test("typing that ends without a word is told to have ended, and typing that goes on is told again", async () => {
  const world = new World();
  const { it } = await world.started();
  const typed = () => world.socket.taken("typing").map(({ on }) => on);
  it.typing(false);
  await world.pass(0);
  assert.deepEqual(typed(), []);
  it.typing();
  await world.pass(2_999);
  it.typing();
  await world.pass(1);
  it.typing();
  await world.pass(5_999);
  assert.deepEqual(typed(), [true, true]);
  await world.pass(1);
  assert.deepEqual(typed(), [true, true, false]);
  it.typing();
  await world.pass(60_000);
  assert.deepEqual(typed(), [true, true, false, true, false]);
});

test("who typed does no more once their message is there, or nothing is known of them", async () => {
  const world = new World();
  const { it } = await world.started();
  const typing = [];
  it.on("typing", (from) => typing.push(from?.id ?? null));
  const told = { type: "typing", from: { role: "agent", id: "a" } };
  await world.says({ ...told, on: true }, messageFrame(1, { from: { role: "customer", id: "c-42" } }));
  assert.deepEqual(typing, ["a"]); // of another tab
  await world.says(messageFrame(2));
  assert.deepEqual(typing, ["a", null]);
  await world.says({ ...told, on: true }, { ...told, on: false });
  assert.deepEqual(typing.slice(2), ["a", null]);
  await world.says({ ...told, on: true });
  world.socket.ends(1006);
  assert.deepEqual(typing.slice(4), ["a", null]);
  await world.pass(world.next);
  await world.welcome({ resumed: true, seq: 2 });
  typing.length = 0;
  for (let again = 0; again < 2; again += 1) {
    await world.says({ ...told, on: true });
    await world.pass(4_000);
  }
  assert.deepEqual(typing, ["a", "a"]);
  await world.pass(2_000);
  assert.deepEqual(typing, ["a", "a", null]);
});

test("the number of the badge is kept while it is of the same conversation", async () => {
  const world = new World();
  const { it } = await world.started();
  assert.equal(it.status.badgeSeq, null);
  await world.says({ type: "status", seq: 0, read_seq: 0, unread: 0, badge_seq: 7, live: false });
  assert.equal(it.status.badgeSeq, 7);
  await world.again();
  assert.equal(it.status.badgeSeq, 7);
  await world.again({ resumed: false, epoch: "e_2" });
  assert.equal(it.status.badgeSeq, null);
});

test("of older messages one page at a time is asked for, and what no longer fits is left out", async () => {
  const world = new World();
  const { it } = await world.started({}, { seq: 3, read_seq: 3 });
  const older = [];
  it.on("older", (messages) => older.push(messages.map(({ seq }) => seq)));
  assert.equal(it.loadOlder(2), it.loadOlder(2));
  await world.settle();
  const [{ ref, limit }] = world.socket.taken("history");
  assert.equal(limit, 2);
  const page = { type: "history", more: true, messages: [messageFrame(2), messageFrame(3)] };
  await world.says({ ref, ...page });
  const late = it.loadOlder();
  await world.settle();
  const asked = last(world.socket, "history");
  assert.deepEqual([asked.before, asked.limit], [2, 50]);
  await world.says(messageFrame(5)); // a gap: all is loaded anew, and does not follow
  const anew = last(world.socket, "history");
  await world.says({ type: "history", ref: anew.ref, more: true, messages: [messageFrame(5)] });
  await world.says({ ...page, ref: last(world.socket, "history").ref, messages: [] });
  await world.says({ type: "history", ref: asked.ref, more: false, messages: [messageFrame(1)] });
  assert.equal(await late, 0);
  assert.deepEqual(older, [[2, 3]]);
  const rest = it.loadOlder();
  world.socket.ends(1006);
  await assert.rejects(rest, { name: "ConnectionLost" });
  await assert.rejects(it.loadOlder(), { name: "ConnectionLost" });
});

test("a page with nothing in it is the beginning, and is not told", async () => {
  const world = new World();
  const { it } = await world.started({}, { seq: 1, read_seq: 1 });
  it.on("older", () => assert.fail("there is nothing older"));
  const loading = it.loadOlder();
  await world.settle();
  await world.says({ type: "history", ref: last(world.socket, "history").ref, more: false, messages: [] });
  assert.deepEqual([await loading, it.more], [0, false]);
});

test("a beginning that is there has nothing before it to ask for", async () => {
  const world = new World();
  const { it } = await world.started();
  assert.equal(await it.loadOlder(), 0);
  assert.deepEqual(world.socket.taken("history"), []);
});

test("history that cannot be had is asked for on another socket", async () => {
  const world = new World();
  const { it } = await world.started();
  await world.says(messageFrame(2)); // a gap
  const { ref } = last(world.socket, "history");
  await world.says({ type: "error", ref, code: "not_found", message: "" });
  assert.equal(it.phase, "waiting");
  await world.pass(world.next);
  await world.welcome({ seq: 2, resumed: true });
  await world.says(messageFrame(1), messageFrame(2));
  assert.equal(it.seq, 2);
});

test("whoever is signed out, or another, is shown nothing of before", async () => {
  const world = new World();
  const { it } = await world.started({ shown: false }, { seq: 1, unread: 1 });
  await world.says(messageFrame(1));
  const seen = [];
  it.show();
  assert.equal(it.seenSeq, 1);
  it.on("reload", (messages) => seen.push(messages.length));
  await it.signOut();
  assert.deepEqual([it.status, it.unread, it.seenSeq, it.seq, seen], [null, 0, 0, 0, [0]]);
  it.markRead();
  assert.equal(it.status, null);
});

test("typing is told at most every three seconds, and ends with the send", async () => {
  const world = new World();
  const { it } = await world.started();
  for (let i = 0; i < 5; i += 1) it.typing();
  await world.settle();
  assert.deepEqual(world.socket.taken("typing").map((frame) => frame.on), [true]);
  it.send("done");
  await world.settle();
  assert.deepEqual(world.socket.taken("typing").map((frame) => frame.on), [true, false]);
});

test("an agent's typing is forgotten when no more of it comes", async () => {
  const world = new World();
  const { it } = await world.started();
  const typing = [];
  it.on("typing", (from) => typing.push(from?.name ?? null));
  await world.says({ type: "typing", from: { role: "agent", id: "a", name: "Zoë" }, on: true });
  await world.pass(6_000);
  assert.deepEqual(typing, ["Zoë", null]);
});

test("a device is registered over the socket, and deregistered by its key without a token", async () => {
  const world = new World();
  const { it } = await world.started();
  const registering = it.registerDevice("device-token", { platform: "ios" });
  await world.settle();
  const frame = last(world.socket, "register_device");
  assert.equal(frame.installation, "web-1");
  await world.says({ type: "device", ref: frame.ref, deregistration_key: "acme.7.k" });
  assert.equal(await registering, "acme.7.k");
  assert.equal(await it.deregisterDevice(), true);
  const [call] = world.calls;
  assert.equal(call.url, "https://chat.example/v1/devices/web-1");
  assert.equal(call.headers["Ringback-Deregistration-Key"], "acme.7.k");
  assert.equal(call.headers.Authorization, undefined);
});

test("what is told of a device goes with it, over the socket and over HTTP", async () => {
  const details = { platform: "ios", app: "shop", environment: "sandbox", locale: "de", time_zone: "Europe/Berlin" };
  const world = new World();
  const { it } = await world.started();
  it.registerDevice("t", details).catch(() => {});
  await world.settle();
  const { ref, ...frame } = last(world.socket, "register_device");
  assert.deepEqual(frame, { type: "register_device", installation: "web-1", token: "t", ...details });
  world.answers = [{ deregistration_key: "k" }];
  world.socket.ends(1006); // amid it: then over HTTP
  await world.settle();
  const [call] = world.calls;
  assert.deepEqual(JSON.parse(call.body), { token: "t", ...details });
  assert.equal(call.headers["Content-Type"], "application/json");
  assert.match(call.headers.Authorization, /^Bearer ey/);
  assert.deepEqual([call.credentials, call.referrerPolicy, call.keepalive], ["omit", "no-referrer", true]);
  await it.signOut();
  assert.equal(world.calls[1].body, undefined);
  assert.equal(world.calls[1].headers["Content-Type"], undefined);
});

test("a registration that the server refuses over the socket is not made over HTTP, too", async () => {
  const world = new World();
  const { it } = await world.started();
  const registering = it.registerDevice("t");
  await world.settle();
  const { ref } = last(world.socket, "register_device");
  await world.says({ type: "error", ref, code: "bad_frame", message: "no" });
  await assert.rejects(registering, { code: "bad_frame" });
  assert.deepEqual(world.calls, []);
});

test("why a registration was refused is told as the gateway says it, or by its status", async () => {
  const world = new World();
  const refused = { code: "too_large", detail: "token: at most 4096" };
  const fetch = async () => ({ ok: false, status: 413, json: async () => refused });
  await assert.rejects(world.client({}, { fetch }).it.registerDevice("t"),
    { name: "RequestFailed", code: "too_large", message: "too_large: token: at most 4096" });
  world.answers = [404];
  await assert.rejects(world.client().it.registerDevice("t"), { code: "http_404", message: "http_404: " });
});

test("an answer that says to come later is no refusal", async () => {
  for (const status of [408, 425, 429, 500]) {
    const world = new World();
    world.answers = [status, { deregistration_key: "k" }];
    const { it } = world.client();
    await assert.rejects(it.registerDevice("t"), { name: "Unreachable" });
    await world.pass(60_000);
    assert.equal(world.calls.length, 2, `${status}`);
  }
});

test("devices are registered where the page says that HTTP is", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }];
  await world.client({ http: "https://api.example/chat" }).it.registerDevice("t");
  assert.equal(world.calls[0].url, "https://api.example/chat/v1/devices/web-1");
});

test("what does not get through is tried less and less often, and at once in a good while again", async () => {
  const world = new World();
  const { it } = world.client({ token: () => "t" });
  const waits = [];
  for (let again = 0; again < 2; again += 1) {
    world.answers = ["lost", "lost", "lost", "lost", { deregistration_key: "k" }];
    await assert.rejects(it.registerDevice("t"));
    while (world.answers.length) {
      waits.push(world.next);
      await world.pass(world.next);
    }
    assert.equal(world.next, null);
  }
  assert.deepEqual(waits, [2_000, 3_000, 5_000, 9_000, 2_000, 3_000, 5_000, 9_000]);
  for (let again = 0; again < 2; again += 1) {
    world.answers = [{ deregistration_key: "k" }, "lost", 204];
    await it.registerDevice("t");
    await it.deregisterDevice();
    assert.equal(world.next, 2_000);
    await world.pass(2_000);
    assert.equal(world.next, null);
  }
  assert.deepEqual(new Set(world.calls.map(({ headers }) => headers.Authorization)), new Set(["Bearer t", undefined]));
});

test("a token of the device that came while another was on its way is registered after it", async () => {
  const world = new World();
  const { it } = world.client({ token: "of the customer" });
  world.answers = [{ deregistration_key: "k" }, "lost", "lost", { deregistration_key: "k" }];
  const first = it.registerDevice("old");
  await Promise.resolve();
  const second = it.registerDevice("new");
  assert.equal(await first, "k");
  await assert.rejects(second);
  await assert.rejects(it.registerDevice("newest"));
  await world.pass(600_000);
  assert.deepEqual(world.calls.map(({ body }) => JSON.parse(body).token), ["old", "new", "newest", "newest"]);
});

test("a device that was never registered, or is deregistered already, is not asked about", async () => {
  const world = new World();
  const { it } = world.client();
  for (const some of [it, world.client({}, { storage: undefined }).it]) {
    assert.equal(await some.deregisterDevice(), true);
  }
  world.answers = [{ deregistration_key: "k" }];
  await it.registerDevice("t");
  assert.deepEqual([await it.deregisterDevice(), await it.deregisterDevice()], [true, true]);
  assert.deepEqual(world.calls.map(({ method }) => method), ["PUT", "DELETE"]);
});

test("a sign-out without a key that is answered with 403 is not over: that is of the token", async () => {
  const world = new World();
  world.answers = ["lost", 403, 204];
  const { it } = world.client();
  await assert.rejects(it.registerDevice("t"));
  assert.equal(await it.signOut(), false);
  await world.pass(60_000);
  assert.deepEqual(world.calls.map(({ method }) => method), ["PUT", "DELETE", "DELETE"]);
});

test("a sign-out is written down before a call that hangs is over", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }];
  const { it } = world.client({}, { fetch: () => new Promise(() => {}) });
  await world.client().it.registerDevice("t");
  it.registerDevice("newer").catch(() => {});
  await world.settle();
  it.signOut();
  await world.settle();
  world.calls = [];
  world.client().it.start(); // the page was closed, and is open again
  await world.settle();
  assert.equal(world.calls[0].headers["Ringback-Deregistration-Key"], "k");
});

test("the key that a registration brought after all is the one to sign out with", async () => {
  const world = new World();
  let answer;
  const { it } = world.client({}, {
    fetch: (url, request) => {
      world.calls.push(request);
      return new Promise((resolve) => (answer = (told) => resolve({ ok: true, status: 200, json: async () => told })));
    },
  });
  it.registerDevice("t");
  await world.settle();
  it.signOut();
  answer({ deregistration_key: "k" });
  await world.settle();
  assert.equal(world.calls[1].headers["Ringback-Deregistration-Key"], "k");
});

test("an installation without a storage is the same as long as the page is there", async () => {
  const world = new World();
  const { it } = world.client({ installation: undefined }, { storage: undefined });
  assert.match(it.installation, /^[0-9a-f-]{36}$/);
  assert.equal(it.devices.installation, it.installation);
});

test("signed out without a network, the device is deregistered when there is one, even after a restart", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "acme.7.k" }, "lost"];
  const { it } = world.client();
  await it.registerDevice("device-token");
  it.start();
  await world.welcome();
  assert.equal(await it.signOut(), false);
  assert.equal(world.socket.closedWith, 1000);
  world.calls = [];
  world.client().it.start();
  await world.settle();
  assert.equal(world.calls[0].headers["Ringback-Deregistration-Key"], "acme.7.k");
  world.calls = [];
  world.client().it.start();
  await world.settle();
  assert.deepEqual(world.calls, []);
});

test("only a 2xx or a 403 says that a deregistration is over", async () => {
  for (const status of [400, 401, 404, 405, 503]) {
    const world = new World();
    world.answers = [{ deregistration_key: "k" }, status, 403];
    const { it } = world.client();
    await it.registerDevice("t");
    assert.equal(await it.signOut(), false, `${status}`);
    await world.pass(600_000);
    assert.equal(world.calls.length, 3, `${status}`);
  }
});

test("whoever registers again takes a queued deregistration back", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }, "lost", { deregistration_key: "k" }];
  const { it } = world.client();
  await it.registerDevice("t");
  assert.equal(await it.deregisterDevice(), false);
  await it.registerDevice("t");
  world.calls = [];
  await world.pass(60_000);
  assert.deepEqual(world.calls, []);
});

test("of two registrations at once the newer is made, and has the key", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }];
  const { it } = world.client();
  const both = [it.registerDevice("old"), it.registerDevice("new")];
  assert.deepEqual(await Promise.all(both), [null, "k"]);
  assert.deepEqual(world.calls.map(({ body }) => JSON.parse(body).token), ["new"]);
});

test("a registration that did not get through is made with the next welcome", async () => {
  const world = new World();
  world.answers = ["lost", "lost"];
  const { it } = world.client();
  await assert.rejects(it.registerDevice("t"), { name: "Unreachable" });
  it.start();
  await world.welcome();
  assert.equal(last(world.socket, "register_device").token, "t");
});

test("a registration that did not get through is tried again by itself, one that is refused is not", async () => {
  const world = new World();
  world.answers = ["lost", 503, { deregistration_key: "k" }];
  const { it } = world.client();
  await assert.rejects(it.registerDevice("t"), { name: "Unreachable" });
  await world.pass(600_000);
  assert.deepEqual(world.calls.map(({ method }) => method), ["PUT", "PUT", "PUT"]);
  world.answers = [400];
  await assert.rejects(it.registerDevice("t"), { name: "RequestFailed" });
  await world.pass(600_000);
  assert.equal(world.calls.length, 4);
});

test("a token that never comes does not keep a device from being signed out", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "k" }];
  await world.client().it.registerDevice("t");
  const { it } = world.client({ token: () => new Promise(() => {}) });
  it.registerDevice("t").catch(() => {});
  await world.settle();
  let told;
  it.signOut().then((value) => (told = value));
  await world.pass(60_000);
  assert.equal(told, true);
  assert.equal(world.calls.at(-1).method, "DELETE");
});

test("a token callback that throws at once leaves nothing behind that fails later", async () => {
  const world = new World();
  const token = () => {
    throw new Error("nobody is signed in");
  };
  const { it } = world.client({ token });
  await assert.rejects(it.registerDevice("t"), { message: "nobody is signed in" });
  await world.pass(600_000); // where nobody catches it, Node ends
  assert.equal(it.phase, "idle");
});

test("an answer without a key, or without an end, is no registration", async () => {
  const world = new World();
  const { it } = world.client({}, {
    fetch: async (url, { signal }) => ({
      ok: true, status: 200,
      json: () => new Promise((_, reject) => signal?.addEventListener("abort", reject)),
    }),
  });
  let told;
  it.registerDevice("t").catch((error) => (told = error.name));
  await world.pass(10_000);
  assert.equal(told, "Unreachable");
  world.answers = [{ page: "of a captive portal" }];
  await assert.rejects(world.client().it.registerDevice("t"), { name: "Unreachable" });
});

test("signing out amid a registration still ends it", async () => {
  const world = new World();
  const { it } = await world.started();
  it.registerDevice("t").catch(() => {});
  await world.settle();
  world.answers = ["lost", 204];
  assert.equal(await it.signOut(), true);
  assert.deepEqual(world.calls.map((call) => call.method), ["PUT", "DELETE"]);
});

test("what is written before the gateway was ever reached survives a reload, and is shown after it", async () => {
  const world = new World();
  const first = world.client();
  first.it.start();
  await world.settle();
  first.it.send("please do not lose me");
  const second = world.client();
  second.it.start();
  await world.settle();
  assert.deepEqual(second.it.pending.map((send) => send.text), ["please do not lose me"]);
  await world.welcome();
  assert.equal(last(world.socket, "send").text, "please do not lose me");
});

test("what is written before it is known whose it is goes out after what an earlier page kept", async () => {
  const world = new World();
  const earlier = await world.started();
  world.socket.ends(1006); // the network is gone
  earlier.it.send("one");
  earlier.it.send("two");
  await world.pass(10);
  const { it } = world.client();
  it.send("three");
  it.send("four");
  it.start();
  await world.welcome();
  const texts = ["one", "two", "three", "four"];
  assert.deepEqual(world.socket.taken("send").map(({ text }) => text), texts);
  assert.deepEqual(it.pending.map(({ text }) => text), texts);
});

test("what is typed after a sign-out is nobody's", async () => {
  const world = new World();
  const { it } = await world.started();
  await it.signOut();
  it.send("typed after the sign-out").catch(() => {});
  world.customer = "c-43";
  it.start();
  await world.welcome();
  assert.deepEqual(world.socket.taken("send"), []);
  assert.deepEqual(it.pending, []);
});

test("what was written before the first start is forgotten by a sign-out", async () => {
  const world = new World();
  const { it } = world.client();
  it.send("private").catch(() => {});
  await it.signOut();
  assert.deepEqual(it.pending, []);
  world.customer = "c-43";
  it.start();
  await world.welcome();
  assert.deepEqual(world.socket.taken("send"), []);
});

test("a sign-out before it is known who is here forgets what earlier pages kept", async () => {
  const world = new World();
  const earlier = await world.started();
  world.socket.ends(1006); // the network is gone
  earlier.it.send("private").catch(() => {});
  await world.settle();
  const { it } = world.client({ token: () => new Promise(() => {}) });
  it.start();
  await it.signOut();
  await world.started();
  assert.deepEqual(world.socket.taken("send"), []);
});

test("a sign-out forgets what another tab of the same customer kept, and nothing of another's", async () => {
  const world = new World();
  const { it } = await world.started();
  for (const customer of ["c-42", "c-43"]) {
    world.customer = customer;
    const tab = await world.started();
    world.socket.ends(1006);
    tab.it.send(`of ${customer}`).catch(() => {});
    await world.settle();
  }
  await it.signOut();
  assert.deepEqual(it.pending, []);
  for (const [customer, texts] of [["c-42", []], ["c-43", ["of c-43"]]]) {
    world.customer = customer;
    await world.started();
    assert.deepEqual(world.socket.taken("send").map(({ text }) => text), texts);
  }
});

test("whoever is signed out twice loses nothing of another customer's", async () => {
  const world = new World();
  world.customer = "c-43";
  const other = await world.started();
  world.socket.ends(1006);
  other.it.send("of c-43").catch(() => {});
  other.it.draft = "half a";
  world.customer = "c-42";
  const { it } = await world.started();
  await it.signOut();
  await it.signOut();
  world.customer = "c-43";
  const later = await world.started();
  assert.deepEqual([later.it.pending.map(({ text }) => text), later.it.draft], [["of c-43"], "half a"]);
});

test("signed out while several messages are handed over, nothing more of them is told", async () => {
  const world = new World();
  const { it, messages } = await world.started();
  const frames = [];
  it.on("frame", ({ type }) => frames.push(type));
  it.on("message", ({ seq }) => seq === 2 && it.signOut());
  await world.says(messageFrame(3)); // a gap
  const { ref } = last(world.socket, "history");
  await world.says({ type: "history", ref, more: false, messages: [1, 2, 3].map((seq) => messageFrame(seq)) });
  assert.deepEqual(messages, [1, 2]);
  assert.deepEqual(frames, ["message"]); // that of the gap
  assert.deepEqual(it.messages, []);
});

test("signed out, a retry fails again and neither swallows the message nor signs anybody in", async () => {
  const world = new World();
  const { it } = await world.started();
  await it.signOut();
  const send = it.send("to nobody");
  await assert.rejects(send, { name: "ConnectionEnded" });
  await assert.rejects(it.retry(it.pending[0].ref), { name: "ConnectionEnded" });
  assert.deepEqual(it.pending.map(({ text, state }) => [text, state]), [["to nobody", "failed"]]);
  assert.equal(it.phase, "ended");
});

test("a send for which there is no room is failed, and can be discarded", async () => {
  const world = new World();
  const { it } = world.client();
  for (let number = 0; number < 1_000; number += 1) it.send(`${number}`).catch(() => {});
  const refused = it.send("one too many");
  await assert.rejects(refused);
  const { ref, state, error } = it.pending.at(-1);
  assert.deepEqual([state, error.code], ["failed", "full"]);
  it.discard(ref);
  assert.equal(it.pending.length, 1_000);
});

test("where a thousand sends wait, what was missed is loaded all the same, and then they go out", async () => {
  const world = new World();
  const { it } = await world.started();
  world.socket.ends(1006);
  for (let number = 0; number < 1_000; number += 1) it.send(`${number}`).catch(() => {});
  await world.pass(world.next);
  await world.welcome({ resumed: false, seq: 1 });
  const { ref } = last(world.socket, "history");
  assert.deepEqual(world.socket.taken("send"), []);
  await world.says({ type: "history", ref, more: false, messages: [messageFrame(1)] });
  assert.equal(world.socket.taken("send").length, 64);
});

test("what turns out to be larger than the server takes is failed, also after a reload", async () => {
  const world = new World();
  const first = world.client();
  first.it.start();
  first.it.send("x".repeat(8_000), { more: "x".repeat(65_536) }).catch(() => {});
  await world.welcome();
  const second = await world.started();
  for (const { it } of [first, second]) {
    assert.deepEqual(it.pending.map(({ state, error }) => [state, error.code]), [["failed", "too_large"]]);
  }
  assert.equal(world.sockets.flatMap((socket) => socket.taken("send")).length, 0);
});

test("data that is no JSON is refused at once, and leaves nothing", async () => {
  const world = new World();
  const { it } = world.client();
  assert.throws(() => it.send("big", { n: 1n }), TypeError);
  assert.deepEqual(it.pending, []);
});

test("a sign-out that could not be asked for is not confirmed, and asked for again", async () => {
  const world = new World();
  let signedIn = true;
  const token = async () => {
    if (!signedIn) throw new Error("nobody is signed in");
    return jwt({ tenant: "acme", sub: "c-42", exp: 4e9 });
  };
  world.answers = ["lost"]; // the server has it, its key is lost
  const { it } = world.client({ token });
  await assert.rejects(it.registerDevice("t"));
  signedIn = false;
  assert.equal(await it.signOut(), false);
  signedIn = true;
  world.calls = [];
  await world.pass(60_000);
  assert.equal(world.calls[0].method, "DELETE");
});

test("a sign-out with a full storage is asked for all the same", async () => {
  const world = new World();
  world.answers = [{ deregistration_key: "acme.7.k" }];
  const { it } = world.client();
  await it.registerDevice("t");
  const kept = world.storage.setItem;
  world.storage.setItem = () => {
    throw new DOMException("full", "QuotaExceededError");
  };
  assert.equal(await it.signOut(), true);
  world.storage.setItem = kept;
  assert.equal(world.calls.at(-1).headers["Ringback-Deregistration-Key"], "acme.7.k");
});

test("with a storage that is full or broken a device is registered and signed out all the same", async () => {
  const refuse = () => {
    throw new DOMException("no", "QuotaExceededError");
  };
  const broken = { key: refuse, getItem: refuse, setItem: refuse, removeItem: refuse };
  Object.defineProperty(broken, "length", { get: refuse });
  for (const storage of [Object.assign(new Storage(), { setItem: refuse }), broken]) {
    const world = new World();
    world.storage = storage;
    world.answers = [{ deregistration_key: "k" }, "lost"];
    const { it } = world.client({ installation: undefined });
    assert.equal(await it.registerDevice("t"), "k");
    assert.equal(await it.signOut(), false);
    await world.pass(60_000);
    it.start();
    it.send("hello");
    await world.welcome();
    assert.equal(last(world.socket, "send").text, "hello");
    const [put, ...deletes] = world.calls;
    assert.equal(put.url, `https://chat.example/v1/devices/${it.installation}`);
    assert.deepEqual(deletes.map((call) => call.headers["Ringback-Deregistration-Key"]), ["k", "k"]);
  }
});

test("devices are registered and signed out with no client, too", async () => {
  const storage = new Storage();
  const answers = [{ ok: true, status: 200, json: async () => ({ deregistration_key: "k" }) }, { ok: true, status: 204 }];
  const environment = { storage, fetch: async () => answers.shift() };
  const there = { http: "https://chat.example", token: "t" };
  const devices = new Devices(there, environment);
  assert.equal(await devices.register(devices.installation, "token", {}), "k");
  const later = new Devices(there, environment);
  assert.equal(later.installation, devices.installation);
  assert.equal(await later.deregister(later.installation), true);
  assert.deepEqual(answers, []);
});

test("what was read here stays read, whatever is told before the server has heard of it", async () => {
  const world = new World();
  const { it } = await world.started();
  const counts = [];
  it.on("status", ({ unread, readSeq }) => counts.push([unread, readSeq]));
  await world.says(messageFrame(1));
  const told = { type: "status", seq: 1, live: true, badge_seq: 1, agents_acked_seq: 1 };
  await world.says({ ...told, read_seq: 0, unread: 1 });
  assert.equal(it.status.agentsAckedSeq, 1);
  await world.says({ ...told, read_seq: 1, unread: 0, badge_seq: 2 });
  assert.deepEqual(counts, [[0, 1], [0, 1], [0, 1]]);
  await world.says({ ...told, seq: 2, read_seq: 1, unread: 1, badge_seq: 3 });
  assert.deepEqual([it.unread, it.seenSeq], [1, 1]);
});

test("a connection that fails without a close is given up soon", async () => {
  const world = new World();
  const { it } = world.client();
  it.start();
  await world.settle();
  world.socket.onerror();
  await world.pass(1_000);
  assert.equal(it.phase, "waiting");
});
