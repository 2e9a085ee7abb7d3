import assert from "node:assert/strict";
import { test } from "node:test";

import {
  conversationStatus, isDouble, isOurs, shouldOpenChat,
} from "../../gateway/web/notifications.js";

const ours = {
  aps: { alert: { title: "New Message", body: "Hello" }, badge: 3 },
  UnreadMessages: 3, isLiveChat: true, badgeSeq: 17,
  ringback: { id: "r_01", kind: "message", customer: "c-42", seq: 9 },
};

test("a notification of ours says what the conversation's status is", () => {
  assert.deepEqual(conversationStatus(ours), {
    unread: 3, live: true, badgeSeq: 17, seq: 9, customer: "c-42", kind: "message", id: "r_01",
  });
});

test("what FCM hands over as strings says the same", () => {
  const strings = {
    UnreadMessages: "3", isLiveChat: "true", badgeSeq: "17", ringback: JSON.stringify(ours.ringback),
  };
  assert.deepEqual(conversationStatus(strings), conversationStatus(ours));
});

test("what is not ours is told apart, whatever it is", () => {
  for (const other of [null, undefined, 7, "x", [], {}, { ringback: 1 }, { ringback: "{" }, { ringback: [] }]) {
    assert.equal(isOurs(other), false);
    assert.equal(conversationStatus(other), null);
    assert.equal(shouldOpenChat(other), false);
    assert.equal(isDouble(other, 9), false);
  }
});

test("what is ill-typed counts as not said", () => {
  assert.deepEqual(
    conversationStatus({ UnreadMessages: -1, badgeSeq: 1.5, ringback: { seq: "x", kind: "other" } }),
    { unread: 0, live: false, badgeSeq: null, seq: null, customer: null, kind: null, id: null },
  );
});

test("every kind of ring is known by its name, and none that is unread is none", () => {
  for (const kind of ["message", "proactive", "badge"]) {
    const status = conversationStatus({ UnreadMessages: 0, badgeSeq: "0", ringback: { kind, seq: 0 } });
    assert.deepEqual([status.kind, status.unread, status.badgeSeq, status.seq], [kind, 0, 0, 0]);
  }
  assert.equal(conversationStatus({ UnreadMessages: [7], ringback: {} }).unread, 0);
});

test("a tap opens the chat, unless it was seen there already, or is only a badge", () => {
  assert.equal(shouldOpenChat(ours), true);
  assert.equal(shouldOpenChat(ours, 8), true);
  assert.equal(shouldOpenChat(ours, 9), false);
  assert.equal(isDouble(ours, 9), true);
  assert.equal(shouldOpenChat({ ...ours, ringback: { kind: "badge", seq: 9 } }), false);
  assert.equal(shouldOpenChat({ ...ours, ringback: { kind: "proactive", seq: 1 } }), true);
  assert.equal(isDouble({ ringback: { kind: "message" } }, 9), false); // it does not say of what
});
