/**
 * A socket that comes back, and the requests on it. For customers' and agents' clients alike.
 *
 *     start ──> connecting ──hello, welcome──> connected ──end──> waiting ──┐
 *                   ^                                                       │ jitter, 1012 window
 *                   └───────────────────────────────────────────────────────┘
 *     stop, or a code after which clients stay away ──> ended ──start──> connecting
 *
 * `afterEnd`, `refreshIn` and `Outbox` decide and know no clock and no socket. `Connection` owns the
 * socket, the timers and the token. What the frames mean is left to whoever uses it. No DOM here:
 * the socket, the clock and chance are given by `environment`, and default to the platform's.
 *
 * Bounds: `UNSENT` requests wait for their answer, then `OutboxFull` but for quiet ones; `WINDOW` sends are under way;
 * of the `MARKS` newest acks and reads it is known what to say again when the server refuses one.
 */

export const SUBPROTOCOL = "ringback.v1";
export const UNSENT = 1000;
export const WINDOW = 64;
export const MARKS = 256;

const BACKOFF_FIRST = 1_000; // ms
const BACKOFF_MOST = 30_000;
const RESTART_WINDOW = 5_000; // until a welcome tells it
const CROWDED = 1_000; // after 4003, besides the backoff
export const TOKEN_WITHIN = 60_000; // the app's server may have to start first
const OPEN_WITHIN = 15_000; // the handshake and the welcome
const CLOSE_WITHIN = 1_000; // after an error
const PING_AFTER = 20_000; // of silence
const PONG_WITHIN = 10_000;
const PROBE_WITHIN = 3_000; // when the network is said to have changed
const REFRESH_BEFORE = 30_000; // of the token's end, or the last fifth of a short life
const LONGEST_TIMER = 2 ** 31 - 1;
const ANSWERS = new Set([
  "sent", "history", "device", "ok", "pong", "inbox", "conversation", "error",
]);
const PASSING = new Set(["unavailable", "rate_limited", "internal"]);
const MARKING = new Set(["ack", "read"]);
const REFUSED = new Set(["unavailable", "rate_limited"]); // what comes of a fault may come of it again

export class RingbackError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** The server refused a request for good: `code` is one of the protocol's, `message` its own. */
export class RequestFailed extends RingbackError {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** The client stays away, after the close code `code` (1000 after its own `stop`). */
export class ConnectionEnded extends RingbackError {
  constructor(code) {
    super(`the client stays away after close code ${code}`);
    this.code = code;
  }
}

/** The socket was lost before a request that is of no use on another one was answered. */
export class ConnectionLost extends RingbackError {
  constructor() {
    super("the connection was lost before the answer");
  }
}

/** `UNSENT` requests wait for their answer already. */
export class OutboxFull extends RingbackError {
  constructor() {
    super(`${UNSENT} requests are waiting already`);
  }
}

// Decisions

/** Whether a client comes back after a close code; null is none at all. */
export function mayReconnect(code) {
  return code !== 1000 && code !== 1009 && !(code >= 4500 && code <= 4999);
}

/** Full jitter, in ms: evenly between 0 and 1 s doubled for each failure, at most 30 s. */
export function backoff(failures, random) {
  return random() * Math.min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** Math.min(failures, 16));
}

/**
 * What to do when a connection ended with `code`: come back after `wait` ms (null: stay away),
 * and whether with a fresh token. `failures` is how many ended in a row without a welcome.
 * `known` says that the token had been used before: it may simply have aged meanwhile.
 */
export function afterEnd(code, { failures, restartWindow, random, known = false }) {
  if (code === 4500 && known) return { wait: backoff(failures, random), freshToken: true };
  if (!mayReconnect(code)) return { wait: null, freshToken: false };
  if (code === 1012) return { wait: random() * restartWindow, freshToken: false };
  const wait = backoff(failures, random) + (code === 4003 ? CROWDED : 0);
  return { wait, freshToken: code === 4002 };
}

/** What a JWT says of itself, unverified (the server verifies): null for any other string. */
export function claimsOf(token) {
  try {
    const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(part), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === "object" ? claims : null;
  } catch {
    return null;
  }
}

/** Ms from `serverNow` until a token is to be refreshed; null when it does not say when it ends. */
export function refreshIn(token, serverNow) {
  const end = claimsOf(token)?.exp;
  if (typeof end !== "number") return null;
  const left = end * 1000 - serverNow;
  return Math.max(0, left - Math.min(REFRESH_BEFORE, left / 5));
}

/**
 * Requests until they are answered, in the order in which they were made.
 *
 * Sends wait for the sends before them; other requests do not wait for sends. Once the server says
 * `rate_limited`, one send at a time goes out until it stops saying so.
 */
export class Outbox {
  #requests = new Map();
  #window = WINDOW;

  get size() {
    return this.#requests.size;
  }

  put(request) {
    if (this.size >= UNSENT && !request.quiet) throw new OutboxFull();
    this.#requests.set(request.ref, { due: 0, tries: 0, written: false, ...request });
  }

  get(ref) {
    return this.#requests.get(ref);
  }

  get all() {
    return [...this.#requests.values()];
  }

  /** The requests to write now, which count as written from here on. */
  take(now, holding) {
    const taken = [...this.#waiting(now, holding)].filter((request) => request.due <= now);
    for (const request of taken) request.written = true;
    return taken;
  }

  /** When the next one that waits for its time is due; null if none does. */
  nextAt(now, holding) {
    const times = [...this.#waiting(now, holding)].map((request) => request.due);
    return times.length ? Math.min(...times) : null;
  }

  /** Unwritten requests whose turn it is, but for their time: no send overtakes another. */
  *#waiting(now, holding) {
    let room = holding ? 0 : this.#window;
    for (const { isSend, written } of this.all) room -= isSend && written ? 1 : 0;
    for (const request of this.all) {
      if (request.written) continue;
      if (!request.isSend) yield request;
      else if (room-- > 0) {
        yield request;
        if (request.due > now) room = 0;
      }
    }
  }

  /** The request under `ref` is answered for good; it, if there was one. */
  settle(ref) {
    const request = this.#requests.get(ref);
    this.#requests.delete(ref);
    if (request?.isSend && request.written) this.#window = Math.min(WINDOW, this.#window + 1);
    return request;
  }

  lineUp(refs) {
    for (const ref of refs) {
      const request = this.#requests.get(ref);
      if (this.#requests.delete(ref)) this.#requests.set(ref, request);
    }
  }

  /** The server could not take it now: it is written again at `due`. */
  postpone(ref, due, code) {
    const request = this.#requests.get(ref);
    request.tries += 1;
    request.due = due;
    request.written = false;
    if (code === "rate_limited") this.#window = 1;
  }

  /** The socket is gone: what was on it is written again; the requests that end with it. */
  lost() {
    const ended = this.all.filter((request) => request.quiet);
    for (const { ref } of ended) this.#requests.delete(ref);
    for (const request of this.all) Object.assign(request, { due: 0, written: false });
    this.#window = WINDOW;
    return ended;
  }

  clear() {
    const { all } = this;
    this.#requests.clear();
    return all;
  }
}

// The platform's parts; each may be replaced

export const platform = {
  socket: (url, protocols) => new WebSocket(url, protocols),
  now: () => Date.now(), // ms
  monotonic: () => performance.now(), // ms, for durations: whoever sets the clock does not move it
  setTimer: (callback, ms) => setTimeout(callback, ms),
  clearTimer: (timer) => clearTimeout(timer),
  random: () => Math.random(),
  uuid,
};

/** A version 4 UUID, also on pages without TLS and in React Native. */
function uuid() {
  const byte = () => globalThis.crypto?.getRandomValues?.(new Uint8Array(1))[0] ?? Math.random() * 256;
  const digit = (x) => (x ^ (byte() & (15 >> (x / 4)))).toString(16);
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, digit);
}

/** Call back; what the callback throws is reported, and changes nothing else. */
export function call(callback, ...given) {
  try {
    return callback?.(...given);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}

export class Connection {
  #options;
  #env;
  #outbox = new Outbox();
  #notes = new Map();
  #marks = new Map(); // by kind, the newest last: {frame, tries}
  #marked = 0;
  #token = null; // the last one had, and whether a socket has been opened with it before
  #known = false;
  #socket = null;
  #attempt = 0; // whatever an older one still wants is passed over
  #failures = 0;
  #limits = null;
  #timers = new Map();
  #flushing = false;
  #skew = 0; // the server's clock minus ours, ms
  #lead = 0; // and minus the monotonic one, which sleep may stop
  #heard = 0;
  #holding = false;

  /** "idle", "connecting", "connected", "waiting" or "ended". */
  phase = "idle";
  /** The close code after which the client stays away, while it does. */
  endCode = null;

  /** The options are in `connection.d.ts`; `environment` replaces parts of `platform`. */
  constructor(options, environment = {}) {
    if (!/^wss?:\/\//.test(options.url)) {
      throw new TypeError(`url: ${options.url} is not the address of a WebSocket (wss://…)`);
    }
    this.#options = options;
    this.#env = { ...platform, ...environment };
  }

  get connected() {
    return this.phase === "connected";
  }

  /** The limits of the last welcome, or null. */
  get limits() {
    return this.#limits;
  }

  /** The server's clock, in ms since 1970, as well as it is known. */
  get serverNow() {
    return this.connected ? this.#env.monotonic() + this.#lead : this.#env.now() + this.#skew;
  }

  /** Connect, and come back whenever the connection ends. Does nothing while it does already. */
  start() {
    if (this.phase !== "idle" && this.phase !== "ended") return;
    this.endCode = null;
    this.#failures = 0;
    this.#token = null;
    this.#open();
  }

  /** Leave and stay away. 1000 is a clean leave, after which what nobody acked rings at once. */
  stop(code = 1000) {
    if (this.phase === "idle" || this.phase === "ended") return;
    const socket = this.#socket;
    if (this.connected) {
      this.#sayAgain();
      this.#flush();
    }
    this.#detach();
    socket?.close(code);
    this.#finish(code);
  }

  /** The network is back, or the app to the front: try at once, or see whether the socket lives. */
  nudge() {
    if (this.phase === "waiting") this.#open();
    else if (this.connected) this.#probe(PROBE_WITHIN);
  }

  /** Drop the socket and come back, as after a failure of the network. */
  drop() {
    if (this.#socket !== null) this.#giveUp();
  }

  /**
   * The answer to a request, under `options.ref` or a ref made here. It is asked again on the next
   * socket until it is answered, unless it is `quiet`: then it fails with the socket. `isSend`
   * keeps its place among the other sends.
   * @throws {RequestFailed} {ConnectionEnded} {ConnectionLost} {OutboxFull}
   */
  request(frame, { ref = this.#env.uuid(), isSend = false, quiet = false } = {}) {
    return new Promise((resolve, reject) => {
      if (this.phase === "ended") throw new ConnectionEnded(this.endCode);
      if (quiet && !this.connected) throw new ConnectionLost();
      const whole = { ...frame, ref };
      const data = JSON.stringify(whole);
      const refusal = this.#refusal(data);
      if (refusal) throw refusal;
      this.#outbox.put({ ref, frame: whole, data, isSend, quiet, resolve, reject });
      this.#wake();
    });
  }

  /** For a frame that would close the socket, and again at every attempt; else null. */
  #refusal(data) {
    const most = this.#limits?.frame_bytes;
    if (!most || byteLength(data) <= most) return null;
    return new RequestFailed("too_large", `a frame has at most ${most} bytes`);
  }

  /** Give the request under `ref` its answer, which came by another way. */
  settle(ref, answer) {
    this.#outbox.settle(ref)?.resolve(answer);
    this.#wake();
  }

  /** What waits under these refs goes out in their order. */
  lineUp(refs) {
    this.#outbox.lineUp(refs);
  }

  /** Nobody wants the answer to `ref` any more. */
  withdraw(ref) {
    this.#outbox.settle(ref)?.reject(new ConnectionLost());
  }

  /**
   * A frame without an answer; a newer one of its type (and `key`) replaces it. Lost when away. An
   * `ack` or `read` that the server could not take is said again, unless a newer one was meanwhile.
   */
  note(frame, key = "") {
    if (!this.connected) return;
    if (frame.type === "state") this.#sayAgain();
    const kind = `${frame.type} ${key}`;
    this.#notes.delete(kind);
    this.#notes.set(kind, MARKING.has(frame.type) ? this.#mark(kind, frame) : frame);
    this.#wake();
  }

  /** While true, sends wait: what was missed is still on its way. */
  set holding(value) {
    this.#holding = value;
    this.#wake();
  }

  // One connection

  async #open() {
    const attempt = ++this.#attempt;
    const current = () => attempt === this.#attempt;
    this.#clear();
    this.#after("open", TOKEN_WITHIN, () => this.#giveUp());
    this.#change("connecting");
    if (!current()) return;
    try {
      const old = this.#token === null || refreshIn(this.#token, this.serverNow) === 0;
      if (old) {
        const token = await this.#ask();
        if (!current()) return;
        this.#takeToken(token);
        if (!current()) return;
      }
      this.#after("open", OPEN_WITHIN, () => this.#giveUp());
      this.#socket = this.#env.socket(this.#options.url, [SUBPROTOCOL]);
    } catch (error) {
      if (!current()) return;
      call(this.#options.onError, error);
      if (current()) this.#lost(null);
      return;
    }
    const socket = this.#socket;
    socket.onopen = () => {
      if (!current()) return;
      const hello = { type: "hello", token: this.#token, ...call(this.#options.hello) };
      socket.send(JSON.stringify(hello));
    };
    socket.onmessage = ({ data }) => current() && this.#receive(data);
    socket.onclose = ({ code }) => current() && this.#lost(code);
    // A close follows, and says all there is to know; in some Node none does.
    socket.onerror = () => current() && this.#after("error", CLOSE_WITHIN, () => this.#lost(null));
  }

  async #ask() {
    const { token } = this.#options;
    const told = typeof token === "function" ? await token() : token;
    if (typeof told !== "string" || told === "") throw new TypeError("token: there is none");
    return told;
  }

  #takeToken(token) {
    this.#token = token;
    this.#known = false;
    call(this.#options.onToken, token);
  }

  #receive(data) {
    this.#heard = this.#env.monotonic();
    this.#cancel("pong");
    const frame = parsed(data);
    if (frame === null) return;
    if (!this.connected) {
      if (frame.type === "welcome") this.#welcomed(frame);
      return;
    }
    const answers = ANSWERS.has(frame.type);
    const request = answers ? this.#outbox.get(frame.ref) : undefined;
    if (request && frame.type === "error" && PASSING.has(frame.code)) {
      const wait = frame.retry_after * 1000 || backoff(request.tries, this.#env.random);
      this.#outbox.postpone(frame.ref, this.#env.monotonic() + wait, frame.code);
      this.#wake();
      return;
    }
    if (request) this.#outbox.settle(frame.ref);
    else if (frame.type === "error" && REFUSED.has(frame.code)) this.#repeat(frame.ref);
    call(this.#options.onFrame, frame, request);
    if (!request) return;
    if (frame.type === "error") request.reject(new RequestFailed(frame.code, frame.message));
    else request.resolve(frame);
    this.#wake();
  }

  #welcomed(frame) {
    const attempt = this.#attempt;
    this.#clear();
    this.#failures = 0;
    this.#known = true;
    this.#limits = frame.limits;
    for (const { ref, data } of this.#outbox.all) {
      const refusal = this.#refusal(data);
      if (refusal) this.#outbox.settle(ref).reject(refusal);
    }
    const told = Date.parse(frame.server_time) || this.#env.now();
    this.#skew = told - this.#env.now();
    this.#lead = told - this.#env.monotonic();
    this.phase = "connected"; // what onWelcome notes has a socket to go to
    call(this.#options.onWelcome, frame);
    if (attempt !== this.#attempt) return;
    call(this.#options.onChange, "connected", {});
    if (attempt !== this.#attempt) return;
    this.#watch();
    this.#scheduleRefresh();
    this.#wake();
  }

  #giveUp() {
    const socket = this.#socket;
    this.#lost(null);
    socket?.close(); // on a dead network its end would come much later
  }

  #lost(code) {
    if (!this.connected) this.#failures += 1;
    this.#detach();
    for (const request of this.#outbox.lost()) request.reject(new ConnectionLost());
    const step = afterEnd(code, {
      failures: this.#failures,
      restartWindow: this.#limits ? this.#limits.restart_window * 1000 : RESTART_WINDOW,
      random: this.#env.random,
      known: this.#known,
    });
    if (step.freshToken) this.#token = null;
    if (step.wait === null) this.#finish(code);
    else {
      this.#after("retry", step.wait, () => this.#open());
      this.#change("waiting", { wait: step.wait, code });
    }
  }

  #finish(code) {
    this.endCode = code;
    for (const { reject } of this.#outbox.clear()) reject(new ConnectionEnded(code));
    this.#change("ended", { code });
  }

  #detach() {
    this.#attempt += 1;
    this.#socket = null;
    this.#notes.clear();
    this.#marks.clear();
    this.#holding = false;
    this.#clear();
  }

  #change(phase, detail = {}) {
    this.phase = phase;
    call(this.#options.onChange, phase, detail);
  }

  // Writing

  #wake() {
    if (this.#flushing || !this.connected) return;
    this.#flushing = true;
    Promise.resolve().then(() => {
      this.#flushing = false;
      if (this.connected) this.#flush();
    });
  }

  #flush() {
    if (this.#socket.readyState > 1) return; // closing: its end is about to be told
    for (const note of this.#notes.values()) this.#socket.send(JSON.stringify(note));
    this.#notes.clear();
    const now = this.#env.monotonic();
    for (const { data } of this.#outbox.take(now, this.#holding)) this.#socket.send(data);
    const at = this.#outbox.nextAt(now, this.#holding);
    if (at !== null) this.#after("postponed", Math.max(0, at - now), () => this.#wake());
  }

  #mark(kind, frame) {
    const mark = { frame: { ...frame, ref: `mark-${++this.#marked}` }, tries: 0 };
    this.#marks.delete(kind);
    this.#marks.set(kind, mark);
    if (this.#marks.size > MARKS) this.#marks.delete(this.#marks.keys().next().value);
    return mark.frame;
  }

  #repeat(ref) {
    for (const [kind, mark] of this.#marks) {
      if (mark.frame.ref !== ref) continue;
      this.#after(kind, backoff(mark.tries++, this.#env.random), () => {
        if (this.#marks.get(kind) !== mark) return;
        this.#notes.set(kind, mark.frame);
        this.#wake();
      });
    }
  }

  /** What was refused is said again now: after who leaves the chat it would come too late. */
  #sayAgain() {
    for (const [kind, { frame, tries }] of this.#marks) if (tries) this.#notes.set(kind, frame);
  }

  // A socket that lives, a token that lasts

  #watch(silent = 0) {
    this.#after("silence", PING_AFTER - silent, () => {
      silent = this.#env.monotonic() - this.#heard;
      if (silent >= PING_AFTER) this.#probe(PONG_WITHIN);
      this.#watch(silent < PING_AFTER ? silent : 0);
    });
  }

  #probe(within) {
    if (this.#timers.has("pong")) return;
    this.note({ type: "ping" });
    this.#after("pong", within, () => this.drop());
  }

  #scheduleRefresh(wait = refreshIn(this.#token, this.serverNow)) {
    if (wait === null || typeof this.#options.token !== "function") return;
    if (wait > LONGEST_TIMER) this.#after("refresh", LONGEST_TIMER, () => this.#scheduleRefresh());
    else this.#after("refresh", wait, () => this.#refresh(1));
  }

  /** Ask for the next token while this one still holds; the socket stays. */
  async #refresh(tries) {
    const attempt = this.#attempt;
    let token;
    try {
      token = await this.#ask();
      if (attempt !== this.#attempt) return;
      await this.request({ type: "refresh", token }, { quiet: true });
      this.#token = token;
      const wait = refreshIn(token, this.serverNow);
      // A token that is as old as the last one would be asked for again at once.
      this.#scheduleRefresh(wait === null ? null : Math.max(wait, BACKOFF_FIRST));
    } catch (error) {
      if (attempt !== this.#attempt) return;
      if (error instanceof RequestFailed && error.code === "forbidden") {
        this.#takeToken(token); // of somebody else: nothing of theirs may go out on this socket
        if (attempt === this.#attempt) this.#giveUp();
        return;
      }
      call(this.#options.onError, error);
      if (attempt !== this.#attempt) return;
      const wait = BACKOFF_FIRST + backoff(tries, this.#env.random);
      this.#after("refresh", wait, () => this.#refresh(tries + 1));
    }
  }

  // Timers, one of each name

  #after(name, ms, callback) {
    this.#cancel(name);
    const timer = this.#env.setTimer(() => {
      this.#timers.delete(name);
      callback();
    }, ms);
    this.#timers.set(name, timer);
  }

  #cancel(name) {
    this.#env.clearTimer(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #clear() {
    for (const timer of this.#timers.values()) this.#env.clearTimer(timer);
    this.#timers.clear();
  }
}

/** A frame, or null for what is none: a client passes over what it does not know. */
function parsed(data) {
  try {
    const frame = JSON.parse(data);
    return typeof frame.type === "string" ? frame : null;
  } catch {
    return null;
  }
}

function byteLength(text) {
  let bytes = 0;
  for (const char of text) {
    const point = char.codePointAt(0);
    bytes += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  }
  return bytes;
}
