/**
 * What the console knows, without a page: the order of the inbox, threads and the marks of their
 * messages, and what an agent wrote that must not be lost. Knows no DOM, socket or clock.
 */

export const RECENT = 8; // threads that stay open, so that going back to one is instant
export const MOST = 2_000; // conversations of a filter that are asked for unless somebody scrolls on

// The inbox

/** Unanswered ones first, the longest waiting on top; then the live ones; then all, newest first. */
export function ordered(entries) {
  const rank = (entry) => (entry.unanswered_since ? 0 : entry.live ? 1 : 2);
  return [...entries].sort((a, b) => {
    const [of_a, of_b] = [rank(a), rank(b)];
    if (of_a !== of_b) return of_a - of_b;
    const order = of_a === 0 ? compare(a.unanswered_since, b.unanswered_since) : compare(b.updated_at, a.updated_at);
    return order || compare(a.customer, b.customer);
  });
}

const FILTERS = {
  unanswered: (entry) => entry.unanswered_since !== undefined,
  live: (entry) => entry.live,
  all: () => true,
};

export class Inbox {
  #entries = new Map();
  #pages = new Map(); // filter -> {cursor, got}: how far it has come

  /** A page of a filter has been put: it goes on at `cursor`, or that was the last one. */
  turned(filter, { conversations, cursor = null }) {
    this.#pages.set(filter, { cursor, got: this.got(filter) + conversations.length });
  }

  /** Where the next page of a filter begins: undefined at the first one, null after the last. */
  cursor(filter) {
    return this.#pages.get(filter)?.cursor;
  }

  /** Whether the gateway is known to have more than came. */
  more(filter) {
    return Boolean(this.cursor(filter));
  }

  /** How many conversations of a filter came in its pages. */
  got(filter) {
    return this.#pages.get(filter)?.got ?? 0;
  }

  /** Take an entry as the server told it. Frames come in order: the last one is right. */
  put(entry) {
    const before = this.#entries.get(entry.customer);
    this.#entries.set(entry.customer, entry);
    return before;
  }

  get(customer) {
    return this.#entries.get(customer);
  }

  /** What a filter shows of those whose name, id or last words have `words` in them. */
  list(filter, words = "") {
    const wanted = words.trim().toLowerCase();
    const found = [...this.#entries.values()].filter(FILTERS[filter]).filter((entry) => {
      const text = `${entry.name ?? ""} ${entry.customer} ${entry.last?.text ?? ""}`;
      return text.toLowerCase().includes(wanted);
    });
    return ordered(found);
  }

  /** How many a filter has, as far as that is known: "", "12" or "12+". */
  count(filter) {
    const known = [...this.#entries.values()].filter(FILTERS[filter]).length;
    return this.more(filter) ? `${known}+` : `${known || ""}`;
  }
}

/** Which messages of customers came here and are yet to be acknowledged: for each only the newest. */
export class Acks {
  #told = new Map(); // customer -> seq
  #due = new Map();

  /** Take an entry. One whose messages agents have all read has none to acknowledge. */
  received({ customer, seq, waiting }) {
    if (waiting && this.#raise(customer, seq)) this.#due.set(customer, seq);
  }

  /** A read that is told says that it was received, too. */
  read(customer, seq) {
    this.#raise(customer, seq);
    if (this.#due.get(customer) <= seq) this.#due.delete(customer);
  }

  /** [{customer, seq}] to acknowledge now. */
  take() {
    const due = [...this.#due].map(([customer, seq]) => ({ customer, seq }));
    this.#due.clear();
    return due;
  }

  #raise(customer, seq) {
    if (seq <= (this.#told.get(customer) ?? 0)) return false;
    this.#told.set(customer, seq);
    return true;
  }
}

/** The neighbour of `customer` in a list, `step` further; the first one if it is not in there. */
export function neighbour(entries, customer, step) {
  if (entries.length === 0) return null;
  const at = entries.findIndex((entry) => entry.customer === customer);
  if (at === -1) return entries[0].customer;
  return entries[(at + step + entries.length) % entries.length].customer;
}

/** Whether a change of an entry is news for an agent: the customer wrote, and waits. */
export function isNews(before, entry) {
  return entry.unanswered_since && entry.last?.from.role === "customer" && entry.last.seq > (before?.seq ?? 0);
}

// Threads

const OPEN = new Set(["sent", "expired", "undeliverable"]); // it may still be delivered, or pushed
const LABELS = {
  sent: "Sent", pushed: "Pushed", delivered: "Delivered", read: "Read", expired: "Expired",
  undeliverable: "Not delivered",
};
const ROUTES = { socket: "in chat", push: "to push", none: "no way to the customer" };

/** Whether a message has an outcome: those of agents and services do. */
export function hasOutcome(message) {
  return message.from.role !== "customer" && message.kind !== "system";
}

export class Thread {
  messages = []; // rising seq
  pending = []; // sends without an answer: {ref, text, failed?}
  more = false; // there are older ones
  loaded = false;
  problem = null; // why it could not be opened
  facts = {}; // the latest of `conversation`, and `presence` since
  typing = null;
  entry = undefined; // the latest of the inbox
  #acked = 0;
  #read = 0;
  #told = new Map(); // seq -> {state, reason?, route?}

  constructor(customer) {
    this.customer = customer;
  }

  get newest() {
    return this.messages.at(-1)?.seq ?? 0;
  }

  /** Take the answer to `open`. What came before is kept if nothing is missing in between. */
  open(frame) {
    const first = frame.messages[0]?.seq;
    if (!this.loaded || (first !== undefined && first > this.newest + 1)) {
      this.messages = [];
      this.more = frame.more;
    }
    this.loaded = true;
    this.problem = null;
    for (const message of frame.messages) this.add(message);
    const { seq, unread, in_chat, live, devices, acked_seq, read_seq } = frame;
    this.facts = { seq, unread, in_chat, live, devices }; // sessions: `presence` tells
    this.#acked = Math.max(this.#acked, acked_seq);
    this.#read = Math.max(this.#read, read_seq);
  }

  /** Take a message; false if it was there already. */
  add(message) {
    this.pending = this.pending.filter(({ ref }) => ref !== message.ref);
    let at = this.messages.length;
    while (at > 0 && this.messages[at - 1].seq > message.seq) at -= 1;
    if (this.messages[at - 1]?.seq === message.seq) return false;
    this.messages.splice(at, 0, message);
    return true;
  }

  /** Take the answer to a send of our own. `from` is who we are. */
  sent(frame, text, from) {
    this.#tell(frame.seq, { state: "sent", route: frame.route, reason: frame.reason });
    const { ref, seq, id, at } = frame;
    return this.add({ ref, seq, id, at, from, text, kind: "chat" });
  }

  /** Take a page of the past. */
  past(frame) {
    for (const message of frame.messages) this.add(message);
    this.more = frame.more;
  }

  receipt({ from_seq, seq, state, reason }) {
    if (state === "delivered") this.#acked = Math.max(this.#acked, seq);
    else if (state === "read") this.#read = Math.max(this.#read, seq);
    else for (const one of this.messages) if (one.seq >= from_seq && one.seq <= seq) this.#tell(one.seq, { state, reason });
  }

  /** Take the answer of the deliveries call. */
  deliveries(answer) {
    const { route } = answer.events[0];
    const { outcome, reason } = answer;
    if (outcome === "acked") this.#acked = Math.max(this.#acked, answer.seq);
    else if (outcome) this.#tell(answer.seq, { state: outcome === "pending" ? "sent" : outcome, reason, route });
  }

  /** A message's mark: {state, label, detail}; null for one that has no outcome. */
  mark(message) {
    if (!hasOutcome(message)) return null;
    const { seq } = message;
    const { state: told = "sent", reason, route } = this.#told.get(seq) ?? {};
    const state = seq <= this.#read ? "read" : seq <= this.#acked ? "delivered" : told;
    let detail = "";
    if (state === "undeliverable" && reason) detail = words(reason);
    if (state === "sent" && route) detail = ROUTES[route] ?? words(route);
    return { state, label: LABELS[state], detail };
  }

  /** The messages before `before` whose outcome may have come while nobody here was told, the newest first. */
  untold(before = Infinity) {
    return this.messages.filter((message) => message.seq < before && OPEN.has(this.mark(message)?.state)).reverse();
  }

  /** The later one is right, but that it was sent says nothing new. */
  #tell(seq, { state, reason, route }) {
    const before = this.#told.get(seq);
    const known = before && state === "sent" ? before : { state, reason };
    this.#told.set(seq, { ...known, route: route ?? before?.route });
  }
}

/** A reason of the protocol, as words. */
export function words(reason) {
  return reason.replaceAll("_", " ");
}

// What an agent wrote

/**
 * Drafts and sends without an answer, kept in a `Storage` so that a reload loses neither. `owner`
 * says whose they are: nobody who signs in after somebody else sees the other's.
 */
export class Kept {
  #storage;
  #prefix;
  #written = new Map(); // of what this page wrote, as the storage may be full: then only a reload loses it

  constructor(storage, owner) {
    this.#storage = storage;
    this.#prefix = `ringback ${owner} `;
  }

  draft(customer) {
    return this.#read(`draft ${customer}`);
  }

  setDraft(customer, text) {
    this.#write(`draft ${customer}`, text);
  }

  /** [{ref, customer, text, failed?}], in the order in which they were written. */
  get unsent() {
    try {
      const kept = JSON.parse(this.#read("unsent"));
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  /** Keep a send before it goes out; under its ref it can be repeated without being doubled. */
  put(send) {
    this.#writeUnsent([...this.unsent.filter(({ ref }) => ref !== send.ref), send]);
  }

  /** The server refused it: it is kept, and goes out again only when somebody says so. */
  fail(ref, failed) {
    this.#writeUnsent(this.unsent.map((send) => (send.ref === ref ? { ...send, failed } : send)));
  }

  settle(ref) {
    this.#writeUnsent(this.unsent.filter((send) => send.ref !== ref));
  }

  #writeUnsent(unsent) {
    this.#write("unsent", unsent.length ? JSON.stringify(unsent) : "");
  }

  #read(name) {
    return this.#written.get(name) ?? this.#storage.getItem(this.#prefix + name) ?? "";
  }

  #write(name, text) {
    this.#written.set(name, text);
    try {
      if (text) this.#storage.setItem(this.#prefix + name, text);
      else this.#storage.removeItem(this.#prefix + name);
    } catch {
      // What it has is older, and better than nothing: a send is repeated under its ref, a draft is a part.
    }
  }
}

// Canned replies

export const REPLIES = [
  "hello: Hello {name}, thanks for writing. How can I help?",
  "moment: One moment, please, I am looking into it.",
  "more: Could you tell me a little more about it?",
  "bye: Glad that I could help. Have a nice day!",
].join("\n");

/** From lines `key: text` to [{key, text}]; a line without a key continues the text before it. */
export function readReplies(lines) {
  const replies = [];
  for (const line of lines.split("\n")) {
    const match = /^(\w{1,20}):\s*(.*)$/.exec(line);
    if (match) replies.push({ key: match[1], text: match[2] });
    else if (replies.length && line.trim()) replies.at(-1).text += `\n${line}`;
  }
  return replies.filter(({ text }) => text.trim());
}

/** What fits the draft `/he`; nothing for a draft that is no call for a reply. */
export function fittingReplies(replies, draft) {
  const match = /^\/(\w*)$/.exec(draft);
  if (!match) return [];
  return replies.filter(({ key }) => key.toLowerCase().startsWith(match[1].toLowerCase()));
}

export function filled(reply, name) {
  return reply.text.replace(/ ?\{name\}/g, (found) => (name ? found.replace("{name}", () => name) : ""));
}

// Times

/** How long ago, shortly: "now", "4 min", "3 h", "2 d". */
export function ago(at, now) {
  const minutes = Math.max(0, Math.floor((now - Date.parse(at)) / 60_000));
  if (minutes < 1) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h`;
  return `${Math.floor(minutes / (24 * 60))} d`;
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
