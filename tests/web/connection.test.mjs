import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Connection, ConnectionEnded, ConnectionLost, MARKS, Outbox, OutboxFull, RequestFailed, UNSENT,
  WINDOW,
  afterEnd, backoff, claimsOf, mayReconnect, platform, refreshIn,
} from "../../gateway/web/connection.js";
import { Stage, jwt } from "./fakes.mjs";

const URL = "wss://chat.example/v1/chat";

function connection(stage, options = {}) {
  const seen = { phases: [], frames: [], errors: [], tokens: 0 };
  const it = new Connection(
    {
      url: URL,
      token: async () => `token-${++seen.tokens}`,
      hello: () => ({ state: "active" }),
      onFrame: (frame) => seen.frames.push(frame),
      onChange: (phase) => seen.phases.push(phase),
      onError: (error) => seen.errors.push(error),
      ...options,
    },
    stage.environment,
  );
  return Object.assign(seen, { it });
}

async function connected(stage, options) {
  const seen = connection(stage, options);
  seen.it.start();
  await stage.welcome();
  return seen;
}

const chance = { failures: 0, restartWindow: 5000, random: () => 0.5 };

// Decisions

test("the range of a close code says whether a client comes back", () => {
  for (const code of [1000, 1009, 4500, 4503, 4504, 4999]) assert.equal(mayReconnect(code), false);
  for (const code of [1001, 1005, 1006, 1011, 1012, 4000, 4001, 4499, 5000, null]) {
    assert.equal(mayReconnect(code), true, `${code}`);
  }
});

test("the backoff is evenly spread below one second doubled for each failure, at most thirty", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 99].map((n) => backoff(n, () => 1)),
    [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  assert.equal(backoff(3, () => 0), 0);
});

test("a restart spreads clients over its window, a crowd waits a second more", () => {
  assert.deepEqual(afterEnd(1012, { ...chance, failures: 9 }), { wait: 2500, freshToken: false });
  assert.deepEqual(afterEnd(4003, chance), { wait: 1500, freshToken: false });
  assert.deepEqual(afterEnd(4002, chance), { wait: 500, freshToken: true });
  assert.deepEqual(afterEnd(1006, { ...chance, failures: 2 }), { wait: 2000, freshToken: false });
  assert.deepEqual(afterEnd(4503, chance), { wait: null, freshToken: false });
});

test("a refused token that had been good is replaced once; one that was fresh is not", () => {
  assert.deepEqual(afterEnd(4500, { ...chance, known: true }), { wait: 500, freshToken: true });
  assert.deepEqual(afterEnd(4500, chance), { wait: null, freshToken: false });
});

test("a token is refreshed before its end, whatever alphabet its claims are in", () => {
  const token = jwt({ sub: "Zoë ÿ>?", exp: 2000 });
  assert.equal(claimsOf(token).sub, "Zoë ÿ>?");
  assert.equal(refreshIn(token, 1_000_000), 970_000);
  assert.equal(refreshIn(token, 1_990_000), 8_000);
  assert.equal(refreshIn(token, 2_000_000), 0);
  for (const opaque of ["opaque", "a.b.c", "a.bnVsbA.c", jwt({ exp: "soon" }), jwt({})]) {
    assert.equal(refreshIn(opaque, 0), null);
  }
});

// Requests until they are answered

const put = (outbox, ref, more = {}) => outbox.put({ ref, isSend: true, ...more });
const refs = (requests) => requests.map((request) => request.ref);

test("no send overtakes another; other requests do not wait for sends", () => {
  const outbox = new Outbox();
  put(outbox, "a");
  put(outbox, "b");
  put(outbox, "h", { isSend: false });
  assert.deepEqual(refs(outbox.take(0, true)), ["h"]);
  assert.deepEqual(refs(outbox.take(0, false)), ["a", "b"]);
  outbox.postpone("a", 100, "unavailable");
  put(outbox, "c");
  assert.deepEqual(refs(outbox.take(50, false)), []);
  assert.equal(outbox.nextAt(50, false), 100);
  assert.deepEqual(refs(outbox.take(100, false)), ["a", "c"]);
  assert.equal(outbox.nextAt(100, false), null);
});

test("after rate_limited one send at a time is under way, until answers come again", () => {
  const outbox = new Outbox();
  for (const ref of "abcd") put(outbox, ref);
  outbox.take(0, false);
  for (const ref of "abcd") outbox.postpone(ref, 10, "rate_limited");
  assert.deepEqual(refs(outbox.take(10, false)), ["a"]);
  outbox.settle("a");
  assert.deepEqual(refs(outbox.take(10, false)), ["b", "c"]);
});

test("at most so many sends are under way, and so many requests wait", () => {
  const outbox = new Outbox();
  for (let i = 0; i < UNSENT; i += 1) put(outbox, `${i}`);
  assert.equal(outbox.take(0, false).length, WINDOW);
  assert.throws(() => put(outbox, "more"), OutboxFull);
});

test("what is under way takes its room until it is answered, and other requests take none", () => {
  const outbox = new Outbox();
  for (let i = 0; i < WINDOW; i += 1) put(outbox, `h${i}`, { isSend: false });
  outbox.take(0, false);
  for (let i = 0; i < WINDOW + 2; i += 1) put(outbox, `${i}`);
  assert.equal(outbox.take(0, false).length, WINDOW);
  assert.deepEqual(refs(outbox.take(0, false)), []);
  assert.equal(outbox.nextAt(0, false), null);
  outbox.settle("0");
  assert.deepEqual(refs(outbox.take(0, false)), [`${WINDOW}`]);
});

test("one send at a time stays so while none is answered, and until the socket is lost", () => {
  const outbox = new Outbox();
  for (const ref of "abcd") put(outbox, ref);
  outbox.take(0, false);
  for (const ref of "abcd") outbox.postpone(ref, 10, "rate_limited");
  outbox.settle("d"); // withdrawn
  outbox.settle("nobody's");
  assert.deepEqual(refs(outbox.take(10, false)), ["a"]);
  assert.deepEqual(refs(outbox.take(10, false)), []);
  outbox.lost();
  assert.deepEqual(refs(outbox.take(0, false)), ["a", "b", "c"]);
});

test("of those that wait for their time the first is told", () => {
  const outbox = new Outbox();
  for (const [ref, due] of [["h", 300], ["i", 100], ["j", 200]]) {
    put(outbox, ref, { isSend: false });
    outbox.postpone(ref, due, "unavailable");
  }
  assert.equal(outbox.nextAt(0, false), 100);
});

test("where a thousand sends wait, what the client itself has to ask is asked", () => {
  const outbox = new Outbox();
  for (let i = 0; i < UNSENT; i += 1) put(outbox, `${i}`);
  put(outbox, "page", { isSend: false, quiet: true });
  assert.deepEqual(refs(outbox.take(0, true)), ["page"]);
});

test("a lost socket makes all requests unwritten again, but for those that end with it", () => {
  const outbox = new Outbox();
  put(outbox, "a");
  put(outbox, "q", { isSend: false, quiet: true });
  outbox.take(0, false);
  assert.deepEqual(refs(outbox.lost()), ["q"]);
  assert.deepEqual(refs(outbox.take(0, false)), ["a"]);
  assert.deepEqual(refs(outbox.clear()), ["a"]);
  assert.equal(outbox.size, 0);
});

// The connection

test("the hello carries the token, never the address", async () => {
  const stage = new Stage();
  const { it, phases } = await connected(stage);
  assert.equal(stage.socket.url, URL);
  assert.deepEqual(stage.socket.protocols, ["ringback.v1"]);
  assert.deepEqual(stage.socket.sent, [{ type: "hello", token: "token-1", state: "active" }]);
  assert.deepEqual(phases, ["connecting", "connected"]);
  it.stop();
  assert.equal(stage.socket.closedWith, 1000);
});

test("an address that is no WebSocket's is refused with what would be right", () => {
  assert.throws(() => new Connection({ url: "https://x" }), /wss:\/\//);
});

test("each failed attempt doubles the range of the wait; a welcome begins anew", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  stage.socket.ends(1006);
  const waits = [];
  for (let i = 0; i < 4; i += 1) {
    waits.push(stage.next);
    await stage.pass(stage.next);
    stage.socket.ends(1006);
  }
  assert.deepEqual(waits, [500, 1000, 2000, 4000]);
  await stage.pass(stage.next);
  await stage.welcome();
  stage.socket.ends(1006);
  assert.equal(stage.next, 500);
  it.stop();
  assert.equal(stage.next, null);
});

test("a restart whose next attempt fails goes on with backoff", async () => {
  const stage = new Stage();
  await connected(stage);
  stage.socket.ends(1012);
  assert.equal(stage.next, 2500);
  await stage.pass(stage.next);
  stage.socket.ends(1006);
  assert.equal(stage.next, 1000);
});

test("a token is kept for the next connection, and asked for again when it has expired", async () => {
  const stage = new Stage();
  const seen = await connected(stage);
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.equal(stage.socket.sent[0].token, "token-1");
  stage.socket.ends(4002);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.equal(stage.socket.sent[0].token, "token-2");
  assert.equal(seen.tokens, 2);
});

test("a device that slept past its token's end asks for another before it connects", async () => {
  const stage = new Stage();
  const ends = () => jwt({ exp: stage.time / 1000 + 600 });
  let asked = 0;
  await connected(stage, { token: async () => (asked += 1, ends()) });
  stage.socket.ends(1006);
  stage.time += 3_600_000;
  await stage.pass(0);
  assert.equal(asked, 2);
});

test("a known token that is refused is replaced; a fresh one that is refused ends it", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  stage.socket.ends(4500);
  await stage.pass(stage.next);
  stage.socket.opens();
  assert.equal(stage.socket.sent[0].token, "token-2");
  stage.socket.ends(4500);
  assert.equal(it.phase, "ended");
  assert.equal(it.endCode, 4500);
});

test("a token that cannot be had is told, and asked for again", async () => {
  const stage = new Stage();
  const answers = [Promise.reject(new Error("no network")), Promise.resolve(""), "token-3"];
  const seen = connection(stage, { token: () => answers.shift() });
  seen.it.start();
  await stage.settle();
  await stage.pass(stage.next);
  assert.equal(stage.sockets.length, 0);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(seen.errors.map((e) => e.message), ["no network", "token: there is none"]);
});

test("a token callback or a server that never answers does not hang the client", async () => {
  const stage = new Stage();
  const answers = [new Promise(() => {}), "token"];
  const { it } = connection(stage, { token: () => answers.shift() });
  it.start();
  await stage.pass(60_000);
  assert.equal(it.phase, "waiting");
  await stage.pass(stage.next);
  stage.socket.opens();
  await stage.pass(15_000);
  assert.equal(it.phase, "waiting");
  assert.notEqual(stage.socket.closedWith, undefined);
});

test("a token that takes its time leaves the handshake the time that it has", async () => {
  const stage = new Stage();
  const seen = connection(stage, {
    token: () => new Promise((resolve) => stage.environment.setTimer(() => resolve("token"), 40_000)),
  });
  seen.it.start();
  await stage.pass(40_000);
  await stage.pass(10_000);
  await stage.welcome();
  assert.equal(seen.it.phase, "connected");
});

test("the token is refreshed on the open socket before it ends, by the server's clock", async () => {
  const stage = new Stage();
  const skew = 3_600_000; // our clock is an hour behind
  let life = 600;
  const seen = connection(stage, {
    token: async () => jwt({ n: ++seen.tokens, exp: (stage.time + skew) / 1000 + life }),
  });
  seen.it.start();
  await stage.settle();
  const server_time = new Date(stage.time + skew).toISOString();
  await stage.welcome({ server_time });
  await stage.pass(569_000);
  assert.deepEqual(stage.socket.taken("refresh"), []);
  await stage.pass(1_000);
  const [refresh] = stage.socket.taken("refresh");
  assert.equal(claimsOf(refresh.token).n, 2);
  stage.socket.says({ type: "ok", ref: refresh.ref });
  life = 60;
  await stage.pass(570_000);
  assert.equal(stage.socket.taken("refresh").length, 2);
  assert.equal(stage.sockets.length, 1);
});

test("a clock that is set while connected neither delays the token's renewal nor repeats it", async () => {
  for (const clock of [3_600_000, -3_600_000]) {
    const stage = new Stage();
    await connected(stage, { token: async () => jwt({ exp: stage.time / 1000 + 600 }) });
    stage.clock = clock;
    for (const renewed of [1, 2]) {
      await stage.pass(570_000);
      const refreshes = stage.socket.taken("refresh");
      assert.equal(refreshes.length, renewed);
      stage.socket.says({ type: "ok", ref: refreshes.at(-1).ref });
      await stage.settle();
    }
  }
});

test("a refresh that fails is tried again while the old token holds", async () => {
  const stage = new Stage();
  let fails = false;
  const seen = await connected(stage, {
    token: async () => {
      if (fails) throw new Error("token endpoint down");
      return jwt({ exp: stage.time / 1000 + 100 });
    },
  });
  fails = true;
  await stage.pass(80_000);
  assert.equal(seen.errors.length, 1);
  fails = false;
  await stage.pass(5_000);
  assert.equal(stage.socket.taken("refresh").length, 1);
  assert.equal(seen.it.connected, true);
});

test("a token that lasts for months is renewed at its end, and not at once", async () => {
  const stage = new Stage();
  const days = 86_400_000;
  const seen = connection(stage, {
    token: async () => (seen.tokens += 1, jwt({ exp: stage.time / 1000 + 60 * 86_400 })),
  });
  seen.it.start();
  await stage.welcome();
  for (let day = 0; day < 59; day += 1) {
    stage.time += days - 1; // asleep, so that nothing is asked of the socket
    await stage.pass(1);
  }
  assert.deepEqual([seen.tokens, stage.socket.taken("refresh").length, stage.next > 1_000], [1, 0, true]);
  await stage.pass(days);
  assert.equal(stage.socket.taken("refresh").length, 1);
});

test("a token that is no function, or does not say when it ends, is not renewed", async () => {
  const ending = jwt({ exp: Stage.BEGIN / 1000 + 100 });
  for (const token of [ending, "opaque", () => "opaque"]) {
    const stage = new Stage();
    await connected(stage, { token });
    await stage.pass(100_000);
    assert.deepEqual(stage.socket.taken("refresh"), []);
    assert.equal(stage.socket.sent[0].token, typeof token === "string" ? token : "opaque");
  }
});

test("a renewal that cannot be had is asked for less and less often, whatever the callback throws", async () => {
  const stage = new Stage();
  const asked = [];
  const seen = await connected(stage, {
    token: () => {
      asked.push(stage.time);
      if (asked.length > 1) throw Object.assign(new Error("no"), { code: "forbidden" });
      return jwt({ exp: stage.time / 1000 + 1_000 });
    },
  });
  await stage.pass(985_000);
  const waits = asked.slice(2).map((time, i) => time - asked[i + 1]);
  assert.deepEqual(waits.slice(0, 3), [2_000, 3_000, 5_000]);
  assert.equal(seen.it.phase, "connected");
});

test("a renewal whose token comes when the socket is another is not made", async () => {
  const stage = new Stage();
  let late;
  await connected(stage, {
    token: () => (late === undefined ? (late = null, jwt({ exp: stage.time / 1000 + 100 })) : new Promise((resolve) => (late = resolve))),
  });
  await stage.pass(80_000);
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  late(jwt({ exp: stage.time / 1000 + 100 }));
  await stage.settle();
  assert.deepEqual(stage.socket.taken("refresh"), []);
});

test("a token that was renewed is renewed again at its own end, and not at all if it has none", async () => {
  const stage = new Stage();
  const lives = [100, 1_000, null];
  await connected(stage, {
    token: () => {
      const life = lives.shift();
      return life === null ? "opaque" : jwt({ exp: stage.time / 1000 + life });
    },
  });
  const renewed = async (ms) => {
    await stage.pass(ms);
    const refreshes = stage.socket.taken("refresh");
    if (refreshes.length) stage.socket.says({ type: "ok", ref: refreshes.at(-1).ref });
    await stage.settle();
    return refreshes.length;
  };
  assert.deepEqual([await renewed(80_000), await renewed(969_000), await renewed(1_000), await renewed(3_600_000)], [1, 1, 2, 2]);
});

test("a renewed token is that of the next connection, one that was not taken is asked for again", async () => {
  const stage = new Stage();
  let asked = 0;
  const seen = await connected(stage, {
    token: async () => jwt({ n: ++asked, exp: stage.time / 1000 + 100 }),
  });
  await stage.pass(80_000);
  const [first] = stage.socket.taken("refresh");
  stage.socket.says({ type: "error", ref: first.ref, code: "unauthorized", message: "" });
  await stage.pass(2_000);
  assert.deepEqual(seen.errors.map(({ code }) => code), ["unauthorized"]);
  const [, second] = stage.socket.taken("refresh");
  stage.socket.says({ type: "ok", ref: second.ref });
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(stage.socket.sent.map(({ type, token }) => [type, claimsOf(token).n]), [["hello", 3]]);
});

test("a renewal that was lost with its socket is not made on the next, whose hello has a token", async () => {
  const stage = new Stage();
  const seen = await connected(stage, {
    token: async () => jwt({ exp: stage.time / 1000 + 100 }),
  });
  await stage.pass(80_000);
  assert.equal(stage.socket.taken("refresh").length, 1);
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual([stage.socket.taken("refresh"), seen.errors], [[], []]);
});

test("whoever starts again after an end does so with a fresh token, and no more failures", async () => {
  const stage = new Stage();
  const seen = await connected(stage);
  for (const code of [1006, 1006, 4503]) {
    stage.socket.ends(code);
    await stage.pass(stage.next ?? 0);
  }
  assert.deepEqual([seen.it.phase, seen.it.endCode], ["ended", 4503]);
  seen.it.stop(); // changes nothing of it
  assert.deepEqual([seen.it.endCode, seen.phases.at(-1)], [4503, "ended"]);
  assert.equal(seen.phases.filter((phase) => phase === "ended").length, 1);
  seen.it.start();
  assert.equal(seen.it.endCode, null);
  await stage.settle();
  stage.socket.ends(1006);
  assert.equal(stage.next, 1000);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.equal(stage.socket.sent[0].token, "token-2");
});

test("what comes of an end is told: its code, and how long until the next attempt", async () => {
  const stage = new Stage();
  const told = [];
  await connected(stage, { onChange: (phase, detail) => told.push([phase, detail]) });
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  stage.socket.ends(4504);
  assert.deepEqual(told, [
    ["connecting", {}], ["connected", {}], ["waiting", { wait: 500, code: 1006 }],
    ["connecting", {}], ["ended", { code: 4504 }],
  ]);
});

test("the window of a restart is the one that the last welcome told, or five seconds", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.start();
  await stage.settle();
  stage.socket.ends(1012);
  assert.equal(stage.next, 2_500);
  await stage.pass(stage.next);
  await stage.welcome({ limits: { restart_window: 9 } });
  assert.deepEqual(it.limits, { restart_window: 9 });
  stage.socket.ends(1012);
  assert.equal(stage.next, 4_500);
});

test("the server's clock is known, also while away", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  assert.equal(it.serverNow, stage.time);
  it.start();
  await stage.settle();
  await stage.welcome({ server_time: new Date(stage.time + 60_000).toISOString() });
  assert.equal(it.serverNow, stage.time + 60_000);
  stage.clock = 5_000;
  assert.equal(it.serverNow, stage.time + 60_000);
  stage.socket.ends(1006);
  assert.equal(it.serverNow, stage.time + 65_000);
});

test("a network that is told to change all the time does not keep a dead socket", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  stage.socket.answersPings = false;
  for (let second = 0; second < 3; second += 1) {
    it.nudge();
    await stage.pass(1_000);
  }
  assert.deepEqual([it.phase, stage.socket.taken("ping").length], ["waiting", 1]);
});

test("a silent socket is asked for a sign of life, and left when none comes", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const first = stage.socket;
  await stage.pass(20_000);
  assert.equal(first.taken("ping").length, 1);
  first.answersPings = false;
  await stage.pass(20_000);
  assert.equal(first.taken("ping").length, 2);
  assert.equal(it.phase, "connected");
  await stage.pass(10_000);
  assert.equal(it.phase, "waiting");
  assert.notEqual(first.closedWith, undefined);
  first.says({ type: "pong" }); // too late: nobody listens to that socket any more
  first.ends(1006);
  assert.equal(it.phase, "waiting");
});

test("a socket that dies right after it was heard is left as soon as any other", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  await stage.pass(1_000);
  stage.socket.says({ type: "typing", on: true, from: {} });
  stage.socket.answersPings = false;
  await stage.pass(29_000);
  assert.equal(it.phase, "connected");
  await stage.pass(1_000);
  assert.equal(it.phase, "waiting");
});

test("a clock that is set back delays neither a repeated send nor the look at a silent socket", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.request({ type: "send", text: "hi" }, { isSend: true, ref: "r-1" });
  await stage.settle();
  stage.socket.says({ type: "error", ref: "r-1", code: "rate_limited", retry_after: 2 });
  stage.clock = -3_600_000;
  await stage.pass(2_000);
  assert.equal(stage.socket.taken("send").length, 2);
  stage.socket.answersPings = false;
  await stage.pass(50_000);
  assert.equal(it.connected, false);
});

test("a nudge tries at once while waiting, and tests a socket that seems alive", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.nudge();
  await stage.pass(3_000);
  assert.equal(it.phase, "connected");
  stage.socket.answersPings = false;
  it.nudge();
  await stage.pass(3_000);
  assert.equal(it.phase, "waiting");
  it.nudge();
  await stage.welcome();
  assert.equal(it.phase, "connected");
});

test("an answer reaches its request; a refusal becomes an error with its code", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const good = it.request({ type: "history", limit: 1 }, { ref: "h-1" });
  const bad = it.request({ type: "open", customer: "x" }, { ref: "o-1" });
  await stage.settle();
  stage.socket.says({ type: "error", ref: "o-1", code: "not_found", message: "no such customer" });
  stage.socket.says({ type: "message", ref: "h-1" }); // a message's ref answers nothing here
  stage.socket.says({ type: "history", ref: "h-1", messages: [], more: false });
  assert.deepEqual((await good).messages, []);
  await assert.rejects(bad, (error) => error instanceof RequestFailed && error.code === "not_found");
});

test("a request survives the connection under the same ref; a quiet one ends with it", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const sent = it.request({ type: "send", text: "hi" }, { isSend: true, ref: "r-1" });
  stage.socket.answersPings = false;
  const quiet = it.request({ type: "ping" }, { quiet: true });
  await stage.settle();
  stage.socket.ends(1006);
  await assert.rejects(quiet, ConnectionLost);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(stage.socket.taken("send"), [{ type: "send", text: "hi", ref: "r-1" }]);
  stage.socket.says({ type: "sent", ref: "r-1", seq: 1 });
  assert.equal((await sent).seq, 1);
});

test("what the server cannot take now is sent again when it says, under the same ref", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const sent = it.request({ type: "send", text: "hi" }, { isSend: true, ref: "r-1" });
  await stage.settle();
  stage.socket.says({ type: "error", ref: "r-1", code: "rate_limited", retry_after: 2 });
  await stage.pass(1_999);
  assert.equal(stage.socket.taken("send").length, 1);
  await stage.pass(1);
  assert.equal(stage.socket.taken("send").length, 2);
  stage.socket.says({ type: "error", ref: "r-1", code: "unavailable" });
  await stage.pass(1_000);
  assert.equal(stage.socket.taken("send").length, 3);
  stage.socket.says({ type: "sent", ref: "r-1", seq: 1 });
  assert.equal((await sent).seq, 1);
});

test("whoever stays away tells all who wait, and those who come after", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const waiting = it.request({ type: "send", text: "hi" }, { isSend: true });
  stage.socket.ends(4503);
  await assert.rejects(waiting, (error) => error instanceof ConnectionEnded && error.code === 4503);
  await assert.rejects(it.request({ type: "ping" }), ConnectionEnded);
  it.start();
  await stage.welcome();
  assert.equal(it.connected, true);
});

test("a frame that would close the socket is refused before it is sent", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const large = it.request({ type: "send", text: "€".repeat(30_000) }, { isSend: true });
  await assert.rejects(large, (error) => error.code === "too_large");
  assert.deepEqual(stage.socket.taken("send"), []);
});

test("a frame from before the limits were known is refused once they are", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.start();
  const large = it.request({ type: "send", text: "x".repeat(65_536) }, { isSend: true });
  it.request({ type: "send", text: "hi" }, { isSend: true });
  const refused = [];
  large.catch((error) => refused.push(error.code));
  await stage.welcome();
  assert.deepEqual(refused, ["too_large"]);
  assert.deepEqual(stage.socket.taken("send").map((frame) => frame.text), ["hi"]);
});

test("a frame is measured as the server measures it, in bytes of UTF-8", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  const frame = { type: "send", text: "a\x7f\x80é\u07ff\u0800€\uffff😀\u{10ffff}" };
  const frame_bytes = Buffer.byteLength(JSON.stringify({ ...frame, ref: "r" }));
  it.start();
  await stage.welcome({ limits: { frame_bytes } });
  it.request(frame, { ref: "r" });
  await assert.rejects(it.request(frame, { ref: "rr" }), { code: "too_large" });
  await stage.settle();
  assert.equal(stage.socket.taken("send").length, 1);
});

test("every kind of answer reaches its request", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  for (const type of ["sent", "history", "device", "ok", "pong", "inbox", "conversation"]) {
    const asked = it.request({ type: "any" }, { ref: type });
    await stage.settle();
    stage.socket.says({ type, ref: type });
    assert.equal((await asked).type, type);
  }
  await stage.settle();
  assert.equal(stage.socket.taken("any").length, 7);
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(stage.socket.taken("any"), []);
});

test("more than may be under way goes out as the answers come", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  for (let i = 0; i < WINDOW + 2; i += 1) it.request({ type: "send" }, { isSend: true, ref: `${i}` });
  await stage.settle();
  const sent = () => stage.socket.taken("send").length;
  assert.equal(sent(), WINDOW);
  stage.socket.says({ type: "sent", ref: "0" });
  await stage.settle();
  assert.equal(sent(), WINDOW + 1);
  it.settle("1", {});
  await stage.settle();
  assert.equal(sent(), WINDOW + 2);
});

test("what the server cannot take again and again is sent less and less often", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.request({ type: "send" }, { isSend: true, ref: "r" });
  await stage.settle();
  const waits = [];
  for (const code of ["unavailable", "internal", "unavailable"]) {
    stage.socket.says({ type: "error", ref: "r", code });
    await stage.settle();
    waits.push(stage.next);
    await stage.pass(stage.next);
  }
  assert.deepEqual(waits, [500, 1_000, 2_000]);
  assert.equal(stage.socket.taken("send").length, 4);
});

test("who has not begun, or waits, has no socket to stop or drop", async () => {
  const stage = new Stage();
  const { it, phases } = connection(stage);
  it.stop();
  it.drop();
  assert.deepEqual([phases, it.phase, stage.next], [[], "idle", null]);
  it.start();
  await stage.welcome();
  stage.socket.ends(1006);
  it.drop();
  assert.deepEqual([phases, stage.next], [["connecting", "connected", "waiting"], 500]);
});

test("a network that comes back amid an attempt neither ends it nor begins another", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  stage.socket.ends(1006);
  it.nudge();
  await stage.settle();
  it.nudge();
  await stage.pass(5_000);
  assert.deepEqual([it.phase, stage.sockets.length], ["connecting", 2]);
});

test("a token that comes after who asked for it has left is nobody's", async () => {
  const stage = new Stage();
  const asked = [];
  const tokens = [];
  const seen = connection(stage, {
    token: () => new Promise((resolve, reject) => asked.push({ resolve, reject })),
    onToken: (token) => tokens.push(token),
  });
  for (let i = 0; i < 3; i += 1) {
    seen.it.start();
    await stage.settle();
    if (i < 2) seen.it.stop();
  }
  asked[2].resolve("third");
  asked[0].resolve("first");
  asked[1].reject(new Error("late"));
  await stage.welcome();
  assert.deepEqual([tokens, seen.errors, seen.it.phase], [["third"], [], "connected"]);
  assert.deepEqual(stage.sockets.map(({ sent }) => sent[0].token), ["third"]);
});

test("whoever is told a token and stops is left alone", async () => {
  const stage = new Stage();
  const { it } = connection(stage, { onToken: () => it.stop() });
  it.start();
  await stage.settle();
  assert.deepEqual([it.phase, stage.sockets.length], ["ended", 0]);
});

test("what is no token is told, and asked for again", async () => {
  for (const none of [undefined, null, "", { token: "t" }]) {
    const stage = new Stage();
    const seen = connection(stage, { token: () => none });
    seen.it.start();
    await stage.settle();
    assert.deepEqual(seen.errors.map(({ message }) => message), ["token: there is none"]);
    assert.equal(seen.it.phase, "waiting");
  }
});

test("nothing but a welcome opens a connection", async () => {
  const stage = new Stage();
  const { it, frames } = connection(stage);
  it.start();
  await stage.settle();
  stage.socket.opens();
  stage.socket.says({ type: "error", code: "internal", message: "" });
  assert.deepEqual([it.phase, frames], ["connecting", []]);
  stage.socket.says({ type: "welcome" }); // and it needs nothing
  assert.deepEqual([it.phase, it.serverNow], ["connected", stage.time]);
});

test("what was noted on a socket that was lost is not said on the next", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.note({ type: "state", state: "background" });
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(stage.socket.taken("state"), []);
});

test("what was acknowledged is not said again when somebody leaves", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.note({ type: "ack", seq: 1 });
  await stage.settle();
  it.note({ type: "state", state: "background" });
  await stage.settle();
  assert.equal(stage.socket.taken("ack").length, 1);
});

test("a look at a socket that was lost meanwhile does not keep the next one from being looked at", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  stage.socket.answersPings = false;
  it.nudge();
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  stage.socket.answersPings = false;
  await stage.pass(30_000);
  assert.equal(it.phase, "waiting");
});

test("an answer that came by another way is the answer, and the request is not made again", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const sent = it.request({ type: "send", text: "hi" }, { isSend: true, ref: "r-1" });
  await stage.settle();
  it.settle("r-1", { seq: 7 });
  it.settle("nobody's", {});
  assert.deepEqual(await sent, { seq: 7 });
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.deepEqual(stage.socket.taken("send"), []);
});

test("sends wait while what was missed is on its way, other requests do not", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.holding = true;
  it.request({ type: "send", text: "hi" }, { isSend: true });
  it.request({ type: "history" });
  await stage.settle();
  assert.deepEqual(stage.socket.sent.slice(1).map(({ type }) => type), ["history"]);
  it.holding = false;
  await stage.settle();
  assert.equal(stage.socket.taken("send").length, 1);
});

test("what held the sends of one connection does not hold those of the next", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.holding = true;
  it.request({ type: "send", text: "hi" }, { isSend: true });
  stage.socket.ends(1006);
  await stage.pass(stage.next);
  await stage.welcome();
  assert.equal(stage.socket.taken("send").length, 1);
});

test("what is of use on this socket alone is refused at once where there is none", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.start();
  await assert.rejects(it.request({ type: "history" }, { quiet: true }), ConnectionLost);
  await stage.welcome();
  assert.deepEqual(stage.socket.taken("history"), []);
});

test("on a socket that is closing nothing is written", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  for (const [readyState, text, texts] of [[1, "a", ["a"]], [2, "b", ["a"]]]) {
    stage.socket.readyState = readyState;
    it.request({ type: "send", text }, { isSend: true });
    await stage.settle();
    assert.deepEqual(stage.socket.taken("send").map((frame) => frame.text), texts);
  }
});

test("what a socket says that was left changes nothing on the next one", async () => {
  const stage = new Stage();
  const { it, frames } = await connected(stage);
  const left = stage.socket;
  it.drop();
  await stage.pass(stage.next);
  await stage.welcome();
  left.says({ type: "message", seq: 1 });
  left.ends(4503);
  left.onerror();
  await stage.pass(2_000);
  assert.deepEqual([it.phase, frames, stage.sockets.length], ["connected", [], 2]);
});

test("of several notes of one kind in a turn the newest is sent, and none while away", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.note({ type: "ack", seq: 1 });
  it.start();
  await stage.welcome();
  it.note({ type: "ack", seq: 2 });
  it.note({ type: "ack", seq: 3 });
  it.note({ type: "read", customer: "a", seq: 3 }, "a");
  it.note({ type: "read", customer: "b", seq: 4 }, "b");
  await stage.settle();
  assert.deepEqual(stage.socket.sent.slice(1).map((f) => f.seq), [3, 3, 4]);
});

test("an ack that the disk refused is said again, unless a newer one was", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const refuse = (ref, code = "unavailable") => stage.socket.says({ type: "error", code, ref });
  it.note({ type: "ack", seq: 1 });
  it.note({ type: "read", customer: "a", seq: 1 }, "a");
  await stage.settle();
  const [ack, read] = stage.socket.sent.slice(1);
  assert.notEqual(ack.ref, read.ref);
  refuse(ack.ref);
  refuse(read.ref, "bad_frame");
  await stage.pass(1000);
  assert.deepEqual(stage.socket.taken("ack"), [ack, ack]);
  assert.equal(stage.socket.taken("read").length, 1);
  refuse(ack.ref);
  await stage.pass(1000);
  refuse(ack.ref);
  it.note({ type: "ack", seq: 2 });
  await stage.pass(60_000);
  assert.deepEqual(stage.socket.taken("ack").map((frame) => frame.seq), [1, 1, 1, 2]);
});

test("what was refused is said again before the chat is left", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  const refused = async (seq) => {
    it.note({ type: "ack", seq });
    await stage.settle();
    const ack = stage.socket.taken("ack").at(-1);
    stage.socket.says({ type: "error", code: "unavailable", ref: ack.ref });
    return ack;
  };
  const first = await refused(1);
  it.note({ type: "state", state: "background" });
  await stage.settle();
  const state = { type: "state", state: "background" };
  assert.deepEqual(stage.socket.sent.slice(1), [first, first, state]);
  const second = await refused(2);
  const { socket } = stage;
  it.stop();
  assert.deepEqual(socket.sent.slice(4), [second, second]);
  assert.equal(socket.closedWith, 1000);
});

test("what was refused before the socket was lost is left to the resume", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.note({ type: "ack", seq: 1 });
  await stage.settle();
  const lost = stage.socket;
  lost.says({ type: "error", code: "unavailable", ref: lost.taken("ack")[0].ref });
  lost.ends(1006);
  await stage.pass(2000);
  await stage.welcome();
  await stage.pass(60_000);
  it.note({ type: "state", state: "background" });
  await stage.settle();
  assert.notEqual(stage.socket, lost);
  assert.equal(stage.socket.taken("state").length, 1);
  assert.deepEqual(stage.socket.taken("ack"), []);
});

test("a read that came too fast is said again, too", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  it.note({ type: "read", seq: 1 });
  await stage.settle();
  const [read] = stage.socket.taken("read");
  stage.socket.says({ type: "error", code: "rate_limited", ref: read.ref });
  await stage.pass(1_000);
  assert.deepEqual(stage.socket.taken("read"), [read, read]);
});

test("of very many acks the newest are known when one is refused", async () => {
  const stage = new Stage();
  const { it } = await connected(stage);
  for (let i = 0; i <= MARKS; i += 1) it.note({ type: "ack", customer: `c-${i}`, seq: 1 }, `c-${i}`);
  await stage.settle();
  const sent = stage.socket.taken("ack");
  for (const at of [0, 1]) stage.socket.says({ type: "error", code: "unavailable", ref: sent[at].ref });
  await stage.pass(1000);
  assert.deepEqual(stage.socket.taken("ack").slice(sent.length), [sent[1]]);
});

test("what is no frame is passed over", async () => {
  const stage = new Stage();
  const { it, frames } = await connected(stage);
  for (const data of ["", "null", "[]", "{}", '{"type": 1}', '"x"']) stage.socket.says(data);
  assert.equal(it.connected, true);
  assert.deepEqual(frames, []);
});

test("a stop while the token is being had opens no socket", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.start();
  it.stop();
  await stage.settle();
  assert.equal(stage.sockets.length, 0);
  assert.equal(it.phase, "ended");
});

test("whoever stops while being told of something is left alone", async () => {
  const phases = [];
  const cases = {
    welcome: (it) => ({ onWelcome: () => it().stop(), onChange: (phase) => phases.push(phase) }),
    connected: (it) => ({ onChange: (phase) => phase === "connected" && it().stop() }),
    "no token": (it) => ({ token: () => Promise.reject(new Error("401")), onError: () => it().stop() }),
  };
  for (const [name, options] of Object.entries(cases)) {
    const stage = new Stage();
    const { it } = connection(stage, options(() => it));
    it.start();
    await stage.settle();
    if (name !== "no token") await stage.welcome();
    else assert.equal(stage.sockets.length, 0, name);
    assert.equal(it.phase, "ended", name);
    assert.equal(stage.next, null, name);
  }
  assert.deepEqual(phases, ["connecting", "ended"]);
});

test("whoever stops when told of the next attempt is left alone", async () => {
  const stage = new Stage();
  const phases = [];
  const { it } = connection(stage, {
    onChange: (phase) => phases.push(phase) === 4 && it.stop(),
  });
  it.start();
  await stage.welcome();
  stage.socket.ends(1006);
  await stage.pass(1_000);
  assert.deepEqual(phases, ["connecting", "connected", "waiting", "connecting", "ended"]);
  assert.equal(stage.sockets.length, 1);
});

test("a socket that opens after a stop is told nothing", async () => {
  const stage = new Stage();
  const { it } = connection(stage);
  it.start();
  await stage.settle();
  it.stop();
  stage.socket.opens();
  assert.deepEqual(stage.socket.sent, []);
});

test("who stops for a refresh that fails is not asked for another token", async () => {
  const stage = new Stage();
  let asked = 0;
  const token = () => {
    if (asked++) throw new Error("signed out");
    return jwt({ exp: stage.time / 1000 + 100 });
  };
  const { it } = await connected(stage, { token, onError: () => it.stop() });
  await stage.pass(3_600_000);
  assert.equal(asked, 2);
});

test("what a callback throws is reported, and keeps nothing from going on", async () => {
  const reported = [];
  const { error } = console;
  console.error = (told) => reported.push(["console", told.message]);
  try {
    for (const way of ["console", "page"]) {
      const stage = new Stage();
      const { it } = await connected(stage, { onFrame: () => { throw new Error("of the app"); } });
      stage.socket.says({ type: "message", seq: 1 });
      assert.equal(it.connected, true);
      if (way === "console") globalThis.reportError = (told) => reported.push(["page", told.message]);
    }
  } finally {
    console.error = error;
    delete globalThis.reportError;
  }
  assert.deepEqual(reported, [["console", "of the app"], ["page", "of the app"]]);
});

test("without an environment the platform's socket, clocks and chance are used", async () => {
  const made = [];
  const had = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
  globalThis.WebSocket = class {
    constructor(...given) {
      made.push(given);
    }

    close() {}
  };
  try {
    const it = new Connection({ url: URL, token: "t" });
    it.start();
    await new Promise((resolve) => platform.setTimer(resolve, 1));
    it.stop();
  } finally {
    if (had) Object.defineProperty(globalThis, "WebSocket", had);
    else delete globalThis.WebSocket;
  }
  assert.deepEqual(made, [[URL, ["ringback.v1"]]]);
  assert.ok(Math.abs(platform.now() - Date.now()) < 10_000);
  assert.ok(platform.monotonic() <= performance.now());
  assert.notEqual(platform.random(), platform.random());
  platform.clearTimer(platform.setTimer(() => assert.fail("it was cleared"), 1));
  await new Promise((resolve) => platform.setTimer(resolve, 20));
});

test("a ref is a version 4 UUID, also without crypto.randomUUID", () => {
  const form = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  assert.match(platform.uuid(), form);
  const kept = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  try {
    assert.match(platform.uuid(), form);
    assert.notEqual(platform.uuid(), platform.uuid());
  } finally {
    Object.defineProperty(globalThis, "crypto", kept);
  }
});
