// Against a running gateway, which the caller started: RINGBACK_TEST tells where and with which tokens.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection, RingbackClient } from "../../gateway/web/ringback-client.js";
import { Storage } from "./fakes.mjs";
import { WebSocket as Plain } from "./websocket.mjs";

const { chat, agent, http, tokens, agentToken } = JSON.parse(process.env.RINGBACK_TEST);
const socket = (url, protocols) => new Plain(url, protocols);

function customer(name, options = {}, storage = new Storage()) {
  const sockets = [];
  const it = new RingbackClient(
    { url: chat, http, token: async () => tokens[name], ...options },
    { socket: (...given) => (sockets.push(socket(...given)), sockets.at(-1)), storage },
  );
  return { it, sockets };
}

function desk() {
  const frames = [];
  const waiting = [];
  const look = () => {
    for (const wait of [...waiting]) {
      const frame = frames.find(wait.fits);
      if (frame) {
        waiting.splice(waiting.indexOf(wait), 1);
        wait.resolve(frame);
      }
    }
  };
  const it = new Connection(
    { url: agent, token: agentToken, onFrame: (frame) => (frames.push(frame), look()) }, { socket },
  );
  it.start();
  return {
    it,
    heard: (fits) => new Promise((resolve) => (waiting.push({ fits, resolve }), look())),
  };
}

const once = (it, type, fits = () => true) => new Promise((resolve) => {
  const off = it.on(type, (detail) => fits(detail) && (off(), resolve(detail)));
});

const phase = (it, wanted) =>
  it.phase === wanted ? Promise.resolve() : once(it, "phase", (told) => told.phase === wanted);

test("messages go both ways, acknowledged and read; typing is relayed", async () => {
  const { it } = customer("both");
  const agents = desk();
  it.start();
  await it.send("Where is my order?");
  await agents.it.request({ type: "open", customer: "both" });
  it.typing();
  await agents.heard((frame) => frame.type === "typing" && frame.on);
  const arrived = once(it, "message", (message) => message.from.role === "agent");
  const typing = once(it, "typing", (from) => from !== null);
  agents.it.note({ type: "typing", customer: "both", on: true });
  await typing;
  const sent = await agents.it.request(
    { type: "send", customer: "both", text: "On its way." }, { isSend: true },
  );
  assert.equal(sent.route, "socket");
  assert.equal((await arrived).text, "On its way.");
  await agents.heard((frame) => frame.type === "receipt" && frame.state === "delivered");
  await agents.heard((frame) => frame.type === "receipt" && frame.state === "read");
  it.stop();
  agents.it.stop();
});

test("a client whose socket breaks comes back, resumes, and has every message once", async () => {
  const { it, sockets } = customer("broken");
  const agents = desk();
  const seen = [];
  it.on("message", (message) => seen.push(message.text));
  it.start();
  await it.send("one");
  sockets.at(-1).close();
  const two = it.send("two"); // while away, or on a socket that is going
  await agents.it.request({ type: "send", customer: "broken", text: "three" }, { isSend: true });
  await two;
  await (seen.includes("three") || once(it, "message", (message) => message.text === "three"));
  assert.deepEqual([...seen].sort(), ["one", "three", "two"]);
  assert.deepEqual(it.messages.map((message) => message.seq), [1, 2, 3]);
  it.stop();
  agents.it.stop();
});

test("in the background a message is received and the phone rings; in front it is read", async () => {
  const { it } = customer("behind", { shown: false });
  const agents = desk();
  it.start();
  await phase(it, "connected");
  await it.registerDevice("behind-token", { platform: "ios" });
  const arrived = once(it, "message");
  const sent = await agents.it.request(
    { type: "send", customer: "behind", text: "Are you there?" }, { isSend: true },
  );
  assert.equal(sent.route, "push");
  await arrived;
  assert.equal(it.unread, 1);
  await agents.it.request({ type: "open", customer: "behind" });
  it.show();
  await agents.heard((frame) => frame.type === "receipt" && frame.state === "read");
  it.stop();
  agents.it.stop();
});

test("history is loaded backwards to the beginning", async () => {
  const { it } = customer("past");
  it.start();
  for (let i = 1; i <= 12; i += 1) await it.send(`line ${i}`);
  it.stop();
  const { it: again } = customer("past");
  again.start();
  await phase(again, "connected");
  while (again.more) await again.loadOlder(5);
  assert.deepEqual(again.messages.map((message) => message.seq), Array.from({ length: 12 }, (_, i) => i + 1));
  again.stop();
});

test("a device is registered over HTTP with no socket, and deregistered by its key alone", async () => {
  const { it } = customer("device");
  assert.match(await it.registerDevice("device-token-2"), /^acme\./);
  assert.equal(await it.signOut(), true);
});

test("a token that is not accepted ends the client, and what it had to send is kept", async () => {
  const { it } = customer("bad", { token: async () => "not.a.token" });
  const sending = it.send("hello");
  it.start();
  await assert.rejects(sending, { name: "ConnectionEnded" });
  assert.equal(it.endCode, 4500);
  assert.equal(it.pending[0].state, "failed");
  it.stop();
});
