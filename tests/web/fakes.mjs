// The edge of a client, scripted: a clock that tests turn, sockets that they speak on.

export class FakeSocket {
  sent = [];
  closedWith = undefined;
  answersPings = true;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
  }

  send(data) {
    const frame = JSON.parse(data);
    this.sent.push(frame);
    if (frame.type === "ping" && this.answersPings) this.says({ type: "pong", ref: frame.ref });
  }

  close(code = null) {
    this.closedWith = code;
  }

  opens() {
    this.onopen();
  }

  says(frame) {
    this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  ends(code) {
    this.onclose({ code });
  }

  taken(type) {
    return this.sent.filter((frame) => frame.type === type);
  }
}

export class Stage {
  static BEGIN = Date.parse("2026-11-24T09:00:00Z");
  sockets = [];
  time = Stage.BEGIN;
  clock = 0; // how far the wall clock was set, ms
  chance = 0.5;
  #timers = new Map();
  #last = 0;

  get environment() {
    return {
      socket: (url, protocols) => {
        const socket = new FakeSocket(url, protocols);
        this.sockets.push(socket);
        return socket;
      },
      now: () => this.time + this.clock,
      monotonic: () => this.time,
      setTimer: (callback, ms) => {
        if (ms >= 2 ** 31) ms = 1; // as every platform's
        this.#timers.set(++this.#last, { at: this.time + ms, callback });
        return this.#last;
      },
      clearTimer: (timer) => this.#timers.delete(timer),
      random: () => this.chance,
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Ms until the earliest timer; null without one. */
  get next() {
    const times = [...this.#timers.values()].map((timer) => timer.at - this.time);
    return times.length ? Math.min(...times) : null;
  }

  /** Let what was promised happen. */
  async settle() {
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  }

  /** Turn the clock on by `ms`, with every timer on its way. */
  async pass(ms) {
    const end = this.time + ms;
    await this.settle();
    for (;;) {
      const due = [...this.#timers].filter(([, t]) => t.at <= end).sort((a, b) => a[1].at - b[1].at);
      if (due.length === 0) break;
      const [id, timer] = due[0];
      this.#timers.delete(id);
      this.time = Math.max(this.time, timer.at);
      timer.callback();
      await this.settle();
    }
    this.time = end;
  }

  /** Open the newest socket and greet it. */
  async welcome(more = {}) {
    await this.settle();
    this.socket.opens();
    this.socket.says(welcomeFrame(this.time, more));
    await this.settle();
    return this.socket;
  }
}

export function welcomeFrame(time, more = {}) {
  return {
    type: "welcome", session: "s_1", customer: "c-42", epoch: "e_1", seq: 0, read_seq: 0,
    unread: 0, live: false, resumed: false, server_time: new Date(time).toISOString(),
    limits: {
      frame_bytes: 65536, text_chars: 8000, data_bytes: 16384, resume: 500, sends_per_minute: 100,
      burst: 20, sessions: 10, ack_timeout: 5, restart_window: 5,
    },
    ...more,
  };
}

/** A token whose signature nobody checks here. */
export function jwt(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "HS256" })}.${part(claims)}.c2ln`;
}

export function messageFrame(seq, more = {}) {
  return {
    type: "message", seq, id: `m_${seq}`, from: { role: "agent", id: "a-1", name: "Zoë" },
    text: `message ${seq}`, kind: "chat", at: "2026-11-24T09:00:00.000Z", ...more,
  };
}

/** As `localStorage`. */
export class Storage {
  #held = new Map();

  get length() {
    return this.#held.size;
  }

  key(i) {
    return [...this.#held.keys()][i] ?? null;
  }

  getItem(key) {
    return this.#held.get(key) ?? null;
  }

  setItem(key, value) {
    this.#held.set(key, String(value));
  }

  removeItem(key) {
    this.#held.delete(key);
  }
}
