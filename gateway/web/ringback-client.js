/**
 * The customer's client: one conversation, the sends on their way, what the phone is told.
 *
 * The socket is `connection.js`, what is held `timeline.js`. Nothing here touches the DOM:
 * visibility, activity, storage, HTTP and the socket come in `environment` (see `browser.js` for a
 * browser's), so that the same module serves pages, React Native and Node.
 *
 * In chat means: chat on screen (`show`), page visible, and somebody there (a key, a pointer, within
 * `idleAfter`). Only then is the session `active`; else it is `background`, and the phone rings.
 *
 * A send is kept in storage until it is answered, under its ref: it survives a reload, and coming
 * twice it is still one message. A deregistration is kept with its key until the server has it.
 */

import { Connection, ConnectionEnded, OutboxFull, RequestFailed, call, claimsOf, platform } from "./connection.js";
import { Devices, lasting } from "./devices.js";
import { Timeline } from "./timeline.js";

export * from "./connection.js";
export * from "./notifications.js";
export { Devices } from "./devices.js";

const IDLE_AFTER = 120_000; // ms
const ACTIVITY_EVERY = 1_000; // as exactly as anybody's going is known
const TYPING_EVERY = 3_000; // the least between two `typing` frames
const TYPING_LASTS = 6_000; // without another
const REF_LASTS = 6 * 86_400_000; // the server remembers a ref for 7 days at least
const PAGE = 50;

export class RingbackClient {
  #connection;
  #env;
  #storage;
  #timeline = new Timeline();
  #sends = new Map(); // by ref: {ref, text, data, at, order, state, error}
  #order = 0; // of sends of the same millisecond
  #listeners = new Map();
  #identity = null; // "tenant customer" of the token, whose sends these are; "" if it is opaque
  #signedOut = false;
  #customer = null;
  #state = null; // last told
  #shown;
  #active = true; // somebody was here within idleAfter
  #idleAfter;
  #idleTimer = null;
  #seenAt = 0;
  #typingTimer = null;
  #heardTimer = null;
  #typedAt = -Infinity;
  #read = 0;
  #pageRef = null;
  #older = null;
  #installation;
  #stopWatching = null;

  status = null;
  /** Registrations; works with no socket open. */
  devices;

  /** `ringback-client.d.ts` says what may be given, and what each call does. */
  constructor(options, environment = {}) {
    this.#env = { ...platform, ...environment };
    this.#storage = lasting(environment.storage);
    this.#shown = options.shown ?? true;
    this.#idleAfter = options.idleAfter ?? IDLE_AFTER;
    const token = options.token;
    this.#connection = new Connection(
      {
        url: options.url,
        token,
        onToken: (token) => this.#identify(token),
        hello: () => this.#hello(),
        onWelcome: (frame) => this.#welcomed(frame),
        onFrame: (frame, request) => this.#received(frame, request),
        onChange: (phase, detail) => this.#changed(phase, detail),
        onError: (error) => this.#emit("error", error),
      },
      this.#env,
    );
    const http = options.http ?? options.url.replace(/^ws/, "http").replace(/\/v1\/chat.*$/, "");
    this.devices = new Devices({ http, token, storage: this.#storage }, this.#env);
    this.#installation = options.installation ?? this.devices.installation;
  }

  get phase() {
    return this.#connection.phase;
  }

  get connected() {
    return this.#connection.connected;
  }

  get endCode() {
    return this.#connection.endCode;
  }

  get messages() {
    return this.#timeline.messages;
  }

  get more() {
    return this.#timeline.more;
  }

  get seq() {
    return this.#timeline.held;
  }

  get seenSeq() {
    return this.#read;
  }

  get pending() {
    return [...this.#sends.values()];
  }

  get unread() {
    return this.status?.unread ?? 0;
  }

  get state() {
    const visible = call(this.#env.visible) ?? true;
    return this.#shown && this.#active && visible ? "active" : "background";
  }

  get limits() {
    return this.#connection.limits;
  }

  get installation() {
    return this.#installation;
  }

  get draft() {
    return (this.#identity && readJson(this.#storage, this.#key("draft"))) || "";
  }

  set draft(text) {
    if (this.#identity) this.#storage.setItem(this.#key("draft"), JSON.stringify(text));
  }

  start() {
    if (this.#signedOut) this.#forgetAll(); // written by nobody
    this.#signedOut = false;
    this.#stopWatching ??= call(this.#env.watch, {
      visibility: () => this.#attend(),
      activity: () => this.activity(),
      network: () => this.nudge(),
    }) ?? (() => {});
    this.activity();
    this.devices.flush();
    this.#connection.start();
    for (const send of this.#sends.values()) if (send.error?.code === "ended") this.#put(send);
  }

  stop() {
    this.#stopWatching?.();
    this.#stopWatching = null;
    for (const timer of [this.#idleTimer, this.#typingTimer]) this.#env.clearTimer(timer);
    this.#idleTimer = null;
    this.#connection.stop();
  }

  async signOut() {
    this.stop();
    this.#forgetAll();
    // The second time it is not known whose they are.
    if (!this.#signedOut) for (const key of this.#kept) this.#storage.removeItem(key);
    this.#reset(null);
    this.#signedOut = true;
    return this.devices.deregister(this.#installation);
  }

  on(type, callback) {
    const all = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, all.add(callback));
    return () => all.delete(callback);
  }

  // What a customer does

  show(shown = true) {
    this.#shown = shown;
    if (shown) this.activity();
    this.#attend();
  }

  activity() {
    const now = this.#env.monotonic();
    if (this.#active && this.#idleTimer !== null && now - this.#seenAt < ACTIVITY_EVERY) return;
    this.#seenAt = now;
    this.#env.clearTimer(this.#idleTimer);
    if (this.#idleAfter > 0) {
      this.#idleTimer = this.#env.setTimer(() => {
        this.#active = false;
        this.#attend();
      }, this.#idleAfter);
    }
    if (!this.#active) {
      this.#active = true;
      this.#attend();
    }
  }

  nudge() {
    this.#connection.nudge();
    this.devices.flush();
  }

  send(text, data) {
    const most = this.limits?.text_chars;
    if (typeof text !== "string" || text === "") throw new TypeError("text: give some");
    if (most && [...text].length > most) {
      throw new RequestFailed("too_large", `text: at most ${most} characters`);
    }
    const ref = this.#env.uuid();
    const at = this.#env.now();
    const send = { ref, text: text.toWellFormed?.() ?? text, at, order: this.#order++ };
    if (data !== undefined) send.data = data;
    JSON.stringify(data); // throws now, and not later
    this.typing(false);
    this.activity();
    this.#sends.set(ref, send);
    return this.#put(send);
  }

  retry(ref) {
    const send = this.#sends.get(ref);
    if (send?.state !== "failed") throw new TypeError("ref: no failed message has it");
    const stale = send.error.code === "conflict" || this.#env.now() - send.at > REF_LASTS;
    if (stale) this.#forget(ref);
    const again = stale ? { ...send, ref: this.#env.uuid(), at: this.#env.now() } : send;
    delete again.error; // so that `start` leaves it to us
    this.#sends.set(again.ref, again);
    if (!this.#signedOut) this.start(); // else it fails again: it is nobody's
    const sent = this.#put(again);
    this.#connection.lineUp(this.#sends.keys());
    return sent;
  }

  discard(ref) {
    if (this.#sends.get(ref)?.state === "failed") this.#forget(ref);
    this.#emit("pending", this.pending);
  }

  typing(on = true) {
    const now = this.#env.monotonic();
    this.#env.clearTimer(this.#typingTimer);
    if (on) this.#typingTimer = this.#env.setTimer(() => this.typing(false), TYPING_LASTS);
    if (on ? now - this.#typedAt < TYPING_EVERY : this.#typedAt === -Infinity) return;
    this.#typedAt = on ? now : -Infinity;
    this.#connection.note({ type: "typing", on });
  }

  markRead() {
    const { held } = this.#timeline;
    if (held <= this.#read) return;
    this.#read = held;
    this.#connection.note({ type: "read", seq: held });
    if (this.status) this.status = { ...this.status, unread: 0, readSeq: held };
    this.#emit("status", this.status);
  }

  loadOlder(limit = PAGE) {
    if (!this.more) return Promise.resolve(0);
    this.#older ??= this.#loadOlder(limit).finally(() => (this.#older = null));
    return this.#older;
  }

  async #loadOlder(limit) {
    const { epoch, first } = this.#timeline;
    const frame = { type: "history", limit, before: first };
    const page = await this.#connection.request(frame, { quiet: true });
    if (epoch !== this.#timeline.epoch || first !== this.#timeline.first) return 0; // reloaded
    const count = this.#timeline.older(page);
    if (count) this.#emit("older", this.messages.slice(0, count));
    return count;
  }

  registerDevice(token, details = {}) {
    return this.devices.register(this.#installation, token, details, this.#connection);
  }

  deregisterDevice() {
    return this.devices.deregister(this.#installation);
  }

  // What the connection asks and tells

  /** Whose token it is: what they write is kept as theirs from here on. */
  #identify(token) {
    const claims = claimsOf(token);
    const identity = claims ? `${claims.tenant} ${claims.sub}` : "";
    if (identity !== this.#identity) this.#reset(identity);
  }

  #hello() {
    this.#state = this.state;
    const hello = { state: this.#state, installation: this.#installation };
    const { epoch, held } = this.#timeline;
    return epoch === null ? hello : { ...hello, resume: { epoch, seq: held } };
  }

  /** Another customer: nothing of the last one is shown to or sent for this one. */
  #reset(identity) {
    const first = this.#identity === null;
    this.#identity = identity;
    if (!first) {
      for (const ref of this.#sends.keys()) this.#connection.withdraw(ref);
      this.#sends.clear();
    }
    this.#timeline = new Timeline();
    this.status = null;
    this.#read = 0;
    if (identity !== null) this.#restore();
    if (!first) this.#emit("reload", []);
  }

  #welcomed(welcome) {
    if (welcome.epoch !== this.#timeline.epoch) {
      this.#read = 0;
      this.status = null;
    }
    this.#customer = welcome.customer;
    if (this.#read > welcome.read_seq) this.#connection.note({ type: "read", seq: this.#read });
    this.#stand(welcome, this.status?.badgeSeq ?? null);
    if (this.#timeline.welcome(welcome)) this.#askForPage();
    this.#connection.holding = !this.#timeline.caughtUp;
    this.#attend();
    this.devices.flush(this.#connection);
    this.#emit("status", this.status);
  }

  #changed(phase, detail) {
    if (phase !== "connected") this.#typed(null);
    if (phase === "ended") for (const send of this.#sends.values()) this.#end(send, detail.code);
    this.#emit("phase", { phase, ...detail });
    this.#emit("pending", this.pending);
  }

  #received(frame, request) {
    const timeline = this.#timeline;
    if (frame.type === "message") this.#arrived(frame, false);
    else if (frame.type === "sent" && request?.isSend) this.#arrived(this.#own(frame, request), true);
    else if (frame.type === "status") this.#told(frame);
    else if (frame.type === "typing") this.#typed(frame.on ? frame.from : null);
    else if (request && frame.ref === this.#pageRef) this.#paged(frame);
    this.#connection.holding = !this.#timeline.caughtUp;
    if (timeline === this.#timeline) this.#emit("frame", frame);
  }

  #typed(from) {
    this.#env.clearTimer(this.#heardTimer);
    if (from) this.#heardTimer = this.#env.setTimer(() => this.#typed(null), TYPING_LASTS);
    this.#emit("typing", from);
  }

  #told(frame) {
    this.#stand(frame, frame.badge_seq);
    this.#emit("status", this.status);
  }

  /** As told, but for what was read here: ours is on its way. */
  #stand(told, badgeSeq) {
    const { unread } = this.status ?? {};
    this.status = statusOf(told, badgeSeq);
    if (told.read_seq < this.#read) Object.assign(this.status, { seq: this.seq, readSeq: this.#read, unread });
    this.#read = this.status.readSeq;
  }

  #own(sent, { frame }) {
    const { ref, seq, at } = sent;
    const from = { role: "customer", id: this.#customer };
    const message = { type: "message", seq, id: sent.id, from };
    return { ...message, text: frame.text, data: frame.data, kind: "chat", at, ref };
  }

  #arrived(message, own) {
    const taken = this.#timeline.take(message);
    if (message.ref) this.#confirm(message);
    if (taken === "gap") this.#askForPage();
    if (taken === "new") this.#tell([message], { ack: !own });
  }

  /** A send is on the server's disk: by its answer, or by coming back from another session. */
  #confirm(message) {
    if (this.#sends.has(message.ref)) {
      this.#forget(message.ref);
      this.#emit("pending", this.pending);
    }
    const { seq, id, at, ref } = message;
    this.#connection.settle(ref, { type: "sent", ref, seq, id, at, duplicate: true });
  }

  #askForPage(before) {
    const frame = { type: "history", limit: PAGE };
    if (before !== undefined) frame.before = before;
    this.#pageRef = this.#env.uuid();
    this.#connection.request(frame, { ref: this.#pageRef, quiet: true }).catch(() => {});
  }

  #paged(frame) {
    if (frame.type !== "history") {
      this.#connection.drop(); // the next welcome begins anew
      return;
    }
    for (const message of frame.messages) if (message.ref) this.#confirm(message);
    const step = this.#timeline.page(frame);
    if (step.before !== undefined) {
      this.#askForPage(step.before);
      return;
    }
    if (step.connected) this.#tell(step.fresh, { ack: true });
    else {
      this.#acknowledge();
      this.#emit("reload", this.messages);
    }
  }

  #tell(fresh, { ack }) {
    if (!fresh.length) return;
    if (ack) this.#acknowledge();
    const { unread, readSeq, ...rest } = this.status;
    const counted = fresh.filter((m) => counts(m) && m.seq > Math.max(readSeq, rest.seq)).length;
    const seq = Math.max(rest.seq, this.seq);
    this.status = { ...rest, seq, readSeq, unread: unread + counted };
    const timeline = this.#timeline;
    for (const message of fresh) {
      if (timeline !== this.#timeline) return; // signed out meanwhile
      if (message.from.role !== "customer") this.#typed(null);
      this.#emit("message", message);
    }
    if (this.state === "active") this.markRead();
    else this.#emit("status", this.status);
  }

  #acknowledge() {
    this.#connection.note({ type: "ack", seq: this.#timeline.held });
    if (this.state === "active") this.markRead();
  }

  // Who looks

  #attend() {
    const { state } = this;
    const changed = state !== this.#state && this.connected;
    if (changed) {
      this.#state = state;
      this.#connection.note({ type: "state", state });
    }
    if (state === "active") this.markRead(); // away too: the next welcome tells it
    if (changed) this.#emit("state", state);
  }

  // Sends, kept

  #put(send) {
    send.state = "waiting";
    delete send.error;
    this.#keep(send);
    const frame = { type: "send", text: send.text };
    if (send.data !== undefined) frame.data = send.data;
    const answer = this.#connection.request(frame, { ref: send.ref, isSend: true });
    const settled = answer.catch((error) => {
      if (error instanceof RequestFailed) {
        failed(send, error.code, error);
        this.#keep(send);
      } else if (error instanceof OutboxFull) failed(send, "full", error);
      this.#emit("pending", this.pending);
      throw error;
    });
    settled.catch(() => {}); // who does not wait sees it in `pending`
    this.#emit("pending", this.pending);
    if (this.phase === "ended") this.#end(send, this.endCode);
    return settled;
  }

  /** At once, so that a `start` that follows at once finds it, in its order. */
  #end(send, code) {
    if (send.state === "waiting") failed(send, "ended", new ConnectionEnded(code));
  }

  #key(ref = "") {
    const whose = this.#identity === null ? "" : encodeURIComponent(this.#identity) + " ";
    return `ringback send ${whose}${ref}`;
  }

  /** Of this customer; of anybody, until it is known who. */
  get #kept() {
    return this.#storage.keys().filter((key) => key.startsWith(this.#key()));
  }

  #keep(send) {
    if (!this.#identity) return; // not known yet whose it is
    this.#storage.setItem(this.#key(send.ref), JSON.stringify(send));
  }

  #forget(ref) {
    this.#sends.delete(ref);
    if (this.#identity) this.#storage.removeItem(this.#key(ref));
  }

  #forgetAll() {
    for (const ref of this.#sends.keys()) {
      this.#forget(ref);
      this.#connection.withdraw(ref);
    }
    this.#emit("pending", this.pending);
  }

  /** What an earlier page could not send goes out before what was written here. */
  #restore() {
    const written = [...this.#sends.values()];
    const sends = this.#kept.map((key) => readJson(this.#storage, key)).filter((send) => send?.ref);
    for (const send of sends.sort((a, b) => a.at - b.at || a.order - b.order)) {
      this.#sends.set(send.ref, send);
      if (this.#env.now() - send.at > REF_LASTS) {
        failed(send, "stale", { message: "too old" });
      }
      if (send.state !== "failed") this.#put(send);
    }
    for (const send of written) {
      this.#keep(send);
      this.#sends.delete(send.ref);
      this.#sends.set(send.ref, send);
    }
    this.#connection.lineUp(this.#sends.keys());
  }

  #emit(type, detail) {
    for (const callback of this.#listeners.get(type) ?? []) call(callback, detail);
  }
}

function failed(send, code, { message }) {
  Object.assign(send, { state: "failed", error: { code, message } });
}

function counts({ kind, from }) {
  return kind !== "system" && from.role !== "customer";
}

function readJson(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}

/** What `welcome` and `status` tell alike; an older gateway tells nothing of the agents' marks. */
function statusOf(told, badgeSeq) {
  return {
    seq: told.seq, readSeq: told.read_seq, unread: told.unread, live: told.live, badgeSeq,
    agentsAckedSeq: told.agents_acked_seq ?? 0, agentsReadSeq: told.agents_read_seq ?? 0,
  };
}
