// Random scripts: whatever comes between, a client ends with what the server has, and the other way
// round. The server here is the protocol's, of one customer; its frames come and go one by one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { RingbackClient } from "../../gateway/web/ringback-client.js";
import { Stage, Storage, jwt, welcomeFrame } from "./fakes.mjs";

const SCRIPTS = 100;
const STEPS = 60;
const RARE = ["page", "restore"]; // in every second one
const RESUME = 6; // the most that is replayed
const PAGE = 4; // messages in a page of history, whatever was asked for

/** Chance that is the same each time (mulberry32). */
function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Server {
  epoch = 1;
  messages = [];
  read = 0;
  acked = 0;
  state = null; // last told
  refusing = 0; // so many sends are refused
  said = []; // on the way to the client

  constructor(stage) {
    this.stage = stage;
  }

  get seq() {
    return this.messages.length;
  }

  get unread() {
    return this.messages.filter(({ seq, from }) => seq > this.read && from.role === "agent").length;
  }

  append(role, text, more = {}) {
    const at = new Date(this.stage.time).toISOString();
    const message = { type: "message", seq: this.seq + 1, id: `m_${this.epoch}_${this.seq + 1}`,
      from: { role, id: role }, text, kind: "chat", at, ...more };
    this.messages.push(message);
    return message;
  }

  status() {
    const { seq, read, unread } = this;
    return { type: "status", seq, read_seq: read, unread, badge_seq: 0, live: true };
  }

  /** Take a frame of the client's. */
  take({ type, ref, ...frame }) {
    if (type === "hello") {
      const { resume } = frame;
      const missing = this.seq - resume?.seq;
      const resumed = resume?.epoch === `e_${this.epoch}` && missing >= 0 && missing <= RESUME;
      const start = resume ? resumed ? resume.seq : this.seq : Math.max(this.read, this.seq - RESUME);
      const { seq, read, unread } = this;
      const limits = { ...welcomeFrame(0).limits, resume: RESUME };
      this.state = frame.state;
      this.said.push(
        welcomeFrame(this.stage.time, { epoch: `e_${this.epoch}`, seq, read_seq: read, unread, resumed, limits }),
        ...this.messages.slice(start));
    } else if (type === "state") {
      this.state = frame.state;
    } else if (type === "ack" || type === "read") {
      assert.ok(frame.seq <= this.seq, `${type} of what is not there`);
      this.acked = Math.max(this.acked, frame.seq);
      if (type === "read" && frame.seq > this.read) {
        this.read = frame.seq;
        this.said.push(this.status());
      }
    } else if (type === "send") {
      if (this.refusing > 0 || this.said.some((said) => said.type === "error")) {
        this.refusing = Math.max(0, this.refusing - 1);
        this.said.push({ type: "error", ref, code: "unavailable", message: "" });
        return;
      }
      const first = this.messages.find((message) => message.ref === ref);
      const { seq, id, at } = first ?? this.append("customer", frame.text, { ref });
      this.said.push({ type: "sent", ref, seq, id, at, ...(first && { duplicate: true }) });
    } else if (type === "history") {
      const before = frame.before ?? this.seq + 1;
      const start = Math.max(0, before - 1 - Math.min(PAGE, frame.limit));
      this.said.push({ type: "history", ref, messages: this.messages.slice(start, before - 1), more: start > 0 });
    }
  }
}

class Script {
  stage = new Stage();
  server = new Server(this.stage);
  mine = [];
  told = []; // the seqs of `message`, since all was replaced
  steps = [];
  #storage = new Storage();
  #visible = true;
  #taken = 0;
  #socket = null;

  constructor(seed) {
    this.chance = dice(seed);
    this.#begin();
  }

  /** A page is opened. */
  #begin() {
    this.it = new RingbackClient(
      { url: "wss://x/v1/chat", token: () => jwt({ tenant: "acme", sub: "c-42", exp: 4e9 }), idleAfter: 0 },
      { ...this.stage.environment, random: this.chance, storage: this.#storage, visible: () => this.#visible },
    );
    this.told = [];
    this.it.on("message", ({ seq }) => this.told.push(seq));
    this.it.on("reload", (messages) => (this.told = messages.map(({ seq }) => seq)));
    this.it.start();
  }

  /** Frames of the client's that the server has not taken. */
  get #open() {
    if (this.stage.socket !== this.#socket) {
      this.#socket = this.stage.socket;
      this.#taken = 0;
      this.server.said = [];
      this.server.refusing = 0;
      this.#socket?.opens();
    }
    const here = this.it.phase === "connecting" || this.it.connected;
    return here ? (this.#socket?.sent.slice(this.#taken) ?? []) : [];
  }

  #live(message) {
    if (this.it.connected) this.server.said.push(message);
  }

  acts = {
    take: () => {
      const [frame] = this.#open;
      if (!frame) return false;
      this.#taken += 1;
      this.server.take(frame);
      return true;
    },
    give: () => {
      const frame = this.#open && this.server.said.shift();
      if (frame?.type === "error") this.acts.refuse(); // what came right behind is not taken before it
      if (frame) this.#socket.says(frame);
      return frame !== undefined;
    },
    agent: () => this.#live(this.server.append("agent", "from an agent")),
    tab: () => this.#live(this.server.append("customer", "from another tab", { ref: `tab-${this.server.seq}` })),
    many: () => {
      for (let i = 0; i < 3 + 6 * this.chance(); i += 1) this.acts.agent();
    },
    send: () => {
      const text = `mine ${this.mine.length}`;
      const sent = { text, page: this.it, answer: null };
      this.mine.push(sent);
      this.it.send(text).then((answer) => (sent.answer = answer), () => {});
    },
    refuse: () => (this.server.refusing = this.#open.filter(({ type }) => type === "send").length),
    lose: () => this.it.connected && this.#socket.ends(1006),
    pass: () => this.stage.pass(this.chance() * 3_000),
    look: () => {
      this.#visible = !this.#visible;
      this.it.nudge();
      this.it.show();
    },
    page: async () => {
      this.it.stop();
      await this.stage.pass(1_000);
      this.#begin();
    },
    older: () => void this.it.loadOlder(2).catch(() => {}), // it goes with its socket
    restore: () => {
      const { server } = this;
      server.messages.length = Math.floor(this.chance() * (server.seq + 1));
      server.epoch += 1;
      server.read = server.acked = Math.min(server.read, server.seq);
      if (this.#socket && this.it.phase !== "waiting") this.#socket.ends(1012);
    },
  };

  async step(name) {
    this.steps.push(name);
    const done = await this.acts[name]();
    await this.stage.settle();
    return done;
  }

  async play() {
    const often = ["take", "give"];
    const names = [...Object.keys(this.acts), ...Array(6).fill(often).flat()].filter((name) => !RARE.includes(name));
    const rare = RARE.map((name) => [name, Math.floor(this.chance() * 2 * STEPS)]);
    for (let i = 0; i < STEPS; i += 1) {
      const [name] = rare.find(([, at]) => at === i) ?? [names[Math.floor(this.chance() * names.length)]];
      await this.step(name);
      const seqs = this.it.messages.map(({ seq }) => seq);
      assert.deepEqual(seqs, seqs.map((_, n) => seqs[0] + n), "messages are held with no gap");
    }
    this.#visible = true;
    this.it.show();
    for (let quiet = 0; quiet < 4; quiet += 1) {
      await this.#drain();
      await this.stage.pass(40_000);
    }
  }

  async #drain() {
    while ((await this.step("take")) || (await this.step("give")));
  }

  async check() {
    const { it, server } = this;
    assert.equal(it.connected, true);
    assert.deepEqual(it.pending, []);
    assert.deepEqual(it.messages.map(({ id }) => id), server.messages.slice(it.messages[0]?.seq - 1 || 0).map(({ id }) => id));
    assert.deepEqual([it.seq, it.seenSeq, it.unread], [server.seq, server.seq, 0]);
    assert.deepEqual([it.status.seq, it.status.readSeq], [server.seq, server.seq]);
    assert.deepEqual([server.read, server.acked, server.state], [server.seq, server.seq, "active"]);
    const mine = server.messages.filter(({ text }) => text.startsWith("mine")).map(({ text }) => text);
    const order = this.mine.map(({ text }) => text).filter((text) => mine.includes(text));
    assert.deepEqual(mine, order, "each once, in their order");
    if (server.epoch === 1) assert.equal(mine.length, this.mine.length);
    assert.ok(this.mine.every(({ answer, page }) => answer?.seq > 0 || page !== it));
    const [first] = this.told;
    assert.deepEqual(this.told, this.told.map((_, n) => first + n), "told once, in order");
    assert.equal(it.more, (it.messages[0]?.seq ?? server.seq + 1) > 1);
    while (it.more) {
      const loading = it.loadOlder();
      await this.stage.settle();
      await this.#drain();
      assert.ok((await loading) > 0);
    }
    assert.deepEqual(it.messages.map(({ id, ref, text }) => [id, ref, text]),
      server.messages.map(({ id, ref, text }) => [id, ref, text]));
  }
}

test("whatever comes between, client and server end with the same", async () => {
  for (let seed = 1; seed <= SCRIPTS; seed += 1) {
    const script = new Script(seed);
    try {
      await script.play();
      await script.check();
    } catch (error) {
      error.message = `script ${seed}, ${script.steps.slice(0, STEPS).join(" ")}: ${error.message}`;
      throw error;
    }
  }
});
