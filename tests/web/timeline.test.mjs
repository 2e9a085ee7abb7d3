import assert from "node:assert/strict";
import { test } from "node:test";

import { KEPT, Timeline } from "../../gateway/web/timeline.js";
import { messageFrame, welcomeFrame } from "./fakes.mjs";

const seqs = (timeline) => timeline.messages.map((message) => message.seq);
const pageOf = (from, to, more) => ({
  messages: Array.from({ length: to - from + 1 }, (_, i) => messageFrame(from + i)), more,
});

test("a first session holds what comes after the read mark", () => {
  const timeline = new Timeline();
  assert.equal(timeline.welcome(welcomeFrame(0, { seq: 3, read_seq: 2 })), false);
  assert.equal(timeline.caughtUp, false);
  assert.equal(timeline.take(messageFrame(3)), "new");
  assert.equal(timeline.take(messageFrame(3)), "known");
  assert.equal(timeline.caughtUp, true);
  assert.equal(timeline.more, true);
});

test("a reload goes back to what was held, page by page", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0));
  timeline.take(messageFrame(1));
  assert.equal(timeline.welcome(welcomeFrame(0, { seq: 5 })), true);
  assert.deepEqual(timeline.page(pageOf(4, 5, true)), { before: 4 });
  assert.equal(timeline.take(messageFrame(6)), "later");
  const { connected, fresh } = timeline.page(pageOf(2, 3, true));
  assert.equal(connected, true);
  assert.deepEqual(fresh.map((message) => message.seq), [2, 3, 4, 5, 6]);
  assert.deepEqual(seqs(timeline), [1, 2, 3, 4, 5, 6]);
});

test("a reload ends where it joins what was held, and not one message before", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0));
  timeline.take(messageFrame(1));
  timeline.welcome(welcomeFrame(0, { seq: 5 }));
  assert.deepEqual(timeline.page(pageOf(3, 5, true)), { before: 3 });
  assert.equal(timeline.page(pageOf(2, 2, true)).connected, true);
});

test("what is on its way is waited for: until it is there, and anew with each session", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0));
  assert.equal(timeline.take(messageFrame(2)), "gap");
  assert.equal(timeline.caughtUp, false);
  assert.equal(timeline.welcome(welcomeFrame(0, { seq: 2, resumed: true })), false);
  assert.equal(timeline.caughtUp, false);
  for (const seq of [1, 2]) assert.equal(timeline.take(messageFrame(seq)), "new");
  assert.equal(timeline.caughtUp, true);
});

test("a conversation that a restored backup has nothing of is empty, and of another epoch", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0));
  timeline.take(messageFrame(1));
  assert.equal(timeline.welcome(welcomeFrame(0, { epoch: "e_2" })), true);
  assert.deepEqual(timeline.page({ messages: [], more: false }), { connected: false, fresh: [] });
  assert.deepEqual([timeline.epoch, timeline.held, seqs(timeline), timeline.more], ["e_2", 0, [], false]);
  assert.equal(timeline.caughtUp, true);
  assert.equal(timeline.take(messageFrame(1)), "new");
});

test("before a welcome tells how much may be resumed, it is what the protocol says", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0, { seq: 600, limits: undefined }));
  assert.deepEqual([timeline.held, timeline.more, timeline.caughtUp], [100, true, false]);
});

test("more than may be resumed is not loaded: what was held is replaced", () => {
  const timeline = new Timeline();
  const limits = { ...welcomeFrame(0).limits, resume: 2 };
  timeline.welcome(welcomeFrame(0));
  timeline.take(messageFrame(1));
  timeline.welcome(welcomeFrame(0, { seq: 9, limits }));
  assert.equal(timeline.page(pageOf(8, 9, true)).connected, false);
  assert.deepEqual(seqs(timeline), [8, 9]);
  assert.equal(timeline.more, true);
});

test("an older page that does not join is left out", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0, { seq: 9, read_seq: 9 }));
  assert.equal(timeline.older(pageOf(6, 7, true)), 0);
  assert.equal(timeline.older(pageOf(8, 9, true)), 2);
  assert.equal(timeline.older(pageOf(1, 7, false)), 7);
  assert.equal(timeline.more, false);
  assert.equal(timeline.first, 1);
});

test("so many messages are held, and the oldest go", () => {
  const timeline = new Timeline();
  timeline.welcome(welcomeFrame(0));
  for (let seq = 1; seq <= KEPT + 1; seq += 1) timeline.take(messageFrame(seq));
  assert.deepEqual([KEPT, timeline.messages.length], [10_000, 9_000]);
  assert.equal(timeline.messages.at(-1).seq, KEPT + 1);
  assert.equal(timeline.more, true);
});

test("a page that nobody waits for changes nothing", () => {
  const timeline = new Timeline();
  assert.deepEqual(timeline.page(pageOf(1, 2, false)), { connected: true, fresh: [] });
  assert.deepEqual(seqs(timeline), []);
});
