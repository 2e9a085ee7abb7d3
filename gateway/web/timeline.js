/**
 * The messages of one conversation that a client holds, in order of seq with no gap. Pure.
 *
 *     (new) ──welcome──> following <──────────────┐
 *                           │   gap, or not resumed │ enough pages
 *                           └────> reloading ───────┘
 *
 * A welcome says whether what was missed is on its way (`resumed`) or must be loaded with
 * `history`; a gap must be loaded too. Bound: `KEPT` messages, the oldest go first.
 */

export const KEPT = 10_000;
const RESUME = 500; // until a welcome tells `limits.resume`

export class Timeline {
  messages = [];
  epoch = null;
  /** Everything up to this seq has arrived, or was read before this client came. */
  held = 0;
  /** Whether there are older messages than those held, as far as is known. */
  more = true;
  #newest = 0; // at the welcome
  #most = RESUME;
  #nextEpoch = null;
  #pages = null; // while reloading
  #floor = 0; // reload down to here

  /** Whether what was missed while away has arrived. */
  get caughtUp() {
    return this.#pages === null && this.held >= this.#newest;
  }

  /** The seq before which the next older message is. */
  get first() {
    return this.messages[0]?.seq ?? this.held + 1;
  }

  /** A session began; true when what was missed must be loaded with `history`. */
  welcome({ epoch, seq, read_seq: read, resumed, limits }) {
    this.#newest = seq;
    this.#most = limits?.resume ?? RESUME;
    this.#nextEpoch = epoch;
    this.#pages = null;
    if (resumed) return false;
    if (this.epoch === null) {
      this.epoch = epoch;
      this.held = Math.max(read, seq - this.#most);
      this.more = this.held > 0;
      return false;
    }
    if (epoch !== this.epoch) this.held = read; // its seq were of other messages
    this.#reload(this.held);
    return true;
  }

  /** A message arrived, or a send got its seq: "new", "known", "gap" (ask for history), "later". */
  take(message) {
    if (this.#pages !== null) {
      this.#pages.set(message.seq, message);
      return "later";
    }
    if (message.seq <= this.held) return "known";
    if (message.seq > this.held + 1) {
      this.#reload(this.held, message);
      return "gap";
    }
    this.#hold([message]);
    return "new";
  }

  /**
   * A page of history came while reloading: {before} to ask for the next one, or, at the end,
   * {connected, fresh}: the messages that were not held, and whether they follow what was.
   */
  page({ messages, more }) {
    if (this.#pages === null) return { connected: true, fresh: [] };
    for (const message of messages) this.#pages.set(message.seq, message);
    const lowest = messages[0]?.seq ?? 0;
    const enough = lowest <= this.#floor + 1 || this.#pages.size >= this.#most;
    return more && !enough ? { before: lowest } : this.#finish();
  }

  /** A page of older messages came, asked for with `before: first`: how many were added. */
  older({ messages, more }) {
    let first = this.first;
    const fitting = [];
    for (const message of [...messages].reverse()) {
      if (message.seq === first - 1) {
        fitting.unshift(message);
        first -= 1;
      }
    }
    this.messages.unshift(...fitting);
    this.more = more;
    return fitting.length;
  }

  #reload(floor, ...arrived) {
    this.#pages = new Map(arrived.map((message) => [message.seq, message]));
    this.#floor = floor;
  }

  #finish() {
    const pages = this.#pages;
    const newest = pages.size ? Math.max(...pages.keys()) : this.#newest;
    let first = newest + 1;
    while (pages.has(first - 1)) first -= 1;
    const connected = this.#nextEpoch === this.epoch && first <= this.held + 1;
    const known = connected ? this.held : 0;
    const fresh = [];
    for (let seq = Math.max(first, known + 1); seq <= newest; seq += 1) fresh.push(pages.get(seq));
    this.#pages = null;
    this.epoch = this.#nextEpoch;
    if (!connected) {
      this.messages.length = 0;
      this.more = first > 1;
    }
    this.held = Math.max(newest, known);
    this.#newest = Math.min(this.#newest, this.held);
    this.#hold(fresh);
    return { connected, fresh };
  }

  #hold(messages) {
    if (messages.length) {
      this.messages.push(...messages);
      this.held = messages.at(-1).seq;
    }
    if (this.messages.length > KEPT) {
      this.messages.splice(0, this.messages.length - KEPT * 0.9);
      this.more = true;
    }
  }
}
