/**
 * <ringback-chat>: chat on any page, in the two lines of docs/web.md.
 *
 * What to say and when is decided in `ringback-client.js`; this shows it. Text from anybody becomes
 * text nodes only, never markup, and no style or script is inline: a strict Content-Security-Policy
 * and Trusted Types hold.
 */

import { browser } from "./browser.js";
import { composes, element, icon, linked, NEAR, Newest } from "./elements.js";
import { RequestFailed, RingbackClient } from "./ringback-client.js";
import { sheet } from "./style.js";

const GROUP = 5 * 60_000; // ms within which messages of one author stand together
const SMALL = matchMedia("(max-width: 480px), (max-height: 480px)"); // the panel covers the page
const FIRST = 30; // messages to show at once, if there are so many

const LABELS = {
  title: "Chat with us",
  greeting: "Hello! Write to us here, and we will answer as soon as we can.",
  open: "Open chat",
  unread: (n) => (n === 1 ? "1 unread message" : `${n} unread messages`),
  close: "Close chat",
  messages: "Messages",
  message: "Message",
  placeholder: "Write a message…",
  send: "Send",
  you: "You",
  agent: "Agent",
  sending: "Sending…",
  waiting: "Waiting for a connection",
  sent: "Sent",
  delivered: "Delivered",
  read: "Read",
  failed: "Not sent",
  retry: "Try again",
  discard: "Delete",
  typing: (name) => `${name} is typing…`,
  newest: "New messages",
  today: "Today",
  yesterday: "Yesterday",
  live: "Your conversation is open",
  idle: "Write to us at any time",
  offline: "No connection. Your messages go out as soon as there is one.",
  connecting: "Connecting…",
  ended: { 4503: "You were signed out.", 4504: "Chat is open in too many places." },
  over: "Chat is not available. Please sign in again.",
  tooLong: (most) => `At most ${most} characters, please.`,
};

export class RingbackChat extends HTMLElement {
  static observedAttributes = ["url", "token-url", "http", "idle-after", "heading", "open", "inline"];

  #token = null;
  #labels = LABELS;
  #client = null;
  #offs = [];
  #parts;
  #rows = new Map(); // by key: what is on screen
  #typist = null;
  #unsent = new Set(); // refs that were on their way
  #told = null; // the unread that the page was told of
  #byUser = false;
  #shown = false; // the panel is
  #loading = false;
  #newest = null; // of the thread

  /** The RingbackClient behind it, once there is an address and a token. */
  get client() {
    return this.#client;
  }

  /** What is asked for a token; without it `token-url` is fetched. */
  get token() {
    return this.#token;
  }

  set token(value) {
    this.#token = value;
    this.#restart();
  }

  /** Words to say instead of the English ones. */
  set labels(value) {
    this.#labels = { ...LABELS, ...value };
    if (this.#parts) this.#build();
  }

  get labels() {
    return this.#labels;
  }

  get open() {
    return this.hasAttribute("open") || this.hasAttribute("inline");
  }

  set open(value) {
    this.toggleAttribute("open", Boolean(value));
  }

  get unread() {
    return this.#client?.unread ?? 0;
  }

  connectedCallback() {
    if (!this.shadowRoot) {
      this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
      this.#build();
    }
    for (const name of ["token", "labels", "open"]) this.#adopt(name);
    this.#restart();
  }

  disconnectedCallback() {
    this.#leave();
  }

  attributeChangedCallback(name, was, is) {
    if (!this.#parts || was === is) return;
    if (name === "open" || name === "inline") this.#opened();
    else if (name === "heading") this.#build();
    else this.#restart();
  }

  /** A step of the user's own: only that moves the focus, and not what the page does. */
  #toggle(open) {
    this.#byUser = true;
    this.open = open;
    this.#byUser = false;
  }

  /** The customer signs out: nothing of theirs stays, and this device rings no more for them. */
  async signOut() {
    const told = this.#client?.signOut();
    if (this.#parts) {
      const { said, problem } = this.#parts;
      said.textContent = problem.textContent = "";
      this.#write("");
    }
    this.open = false;
    return (await told) ?? true;
  }

  /** What a page set before this module had come is no accessor's yet. */
  #adopt(name) {
    if (!Object.hasOwn(this, name)) return;
    const value = this[name];
    delete this[name];
    this[name] = value;
  }

  // The client

  #leave() {
    for (const off of this.#offs.splice(0)) off();
    this.#client?.stop();
    this.#client = null;
    if (!this.#parts) return;
    this.#typing(null);
    this.#phase({ phase: "idle" }); // nothing of it stays on the page
  }

  #restart() {
    this.#leave();
    const url = this.getAttribute("url");
    const tokenUrl = this.getAttribute("token-url");
    if (!this.isConnected || !url || !(this.#token || tokenUrl)) return;
    const idle = Number(this.getAttribute("idle-after") ?? NaN);
    const client = new RingbackClient(
      {
        url,
        http: this.getAttribute("http") ?? undefined,
        token: this.#token ?? (() => fetchToken(tokenUrl)),
        shown: this.open,
        idleAfter: Number.isNaN(idle) ? undefined : idle * 1000,
      },
      browser(),
    );
    this.#client = client;
    const on = (type, callback) => this.#offs.push(client.on(type, callback));
    on("message", (message) => this.#announce(message));
    on("pending", (sends) => this.#pending(sends));
    on("reload", () => this.#render({ down: true }));
    on("older", () => this.#render());
    on("status", () => this.#render());
    on("typing", (from) => this.#typing(from));
    on("phase", (told) => this.#phase(told));
    on("frame", () => this.#fill());
    this.#render();
    client.start();
  }

  // What is on screen

  #build() {
    const say = this.#labels;
    const title = this.getAttribute("heading") ?? say.title;
    const launcher = element("button", { part: "launcher", class: "launcher", type: "button" }, [
      icon("chat"), element("span", { class: "badge", hidden: "" }),
    ]);
    const notice = element("div", { class: "notice", role: "status" });
    const list = element("ul", { class: "list" });
    const greeting = element("p", { class: "greeting" }, [icon("chat"), say.greeting]);
    const typing = element("p", { class: "typing", "aria-hidden": "true" });
    const thread = element(
      "div", { class: "thread", tabindex: "0", role: "region", "aria-label": say.messages },
      [greeting, list, typing],
    );
    const down = element("button", { class: "down", type: "button", hidden: "" }, [say.newest]);
    const text = element("textarea", {
      rows: "1", dir: "auto", "aria-label": say.message, placeholder: say.placeholder,
      enterkeyhint: "send", "aria-describedby": "problem",
    });
    const problem = element("p", { class: "problem", id: "problem", role: "alert" });
    const send = element("button", { class: "send", type: "submit", "aria-label": say.send }, [icon("send")]);
    const form = element("form", {}, [text, send]);
    const said = element("div", { class: "unseen said", role: "status" });
    const live = element("p", { class: "live" });
    const close = element("button", { class: "close", type: "button", "aria-label": say.close }, [icon("close")]);
    const head = element("div", { class: "head" }, [
      element("div", {}, [element("h2", { id: "title" }, [title]), live]), close,
    ]);
    const panel = element(
      "dialog",
      { part: "panel", class: "panel", id: "panel", "aria-labelledby": "title" },
      [head, notice, element("div", { class: "middle" }, [thread, down]), problem, form],
    );
    launcher.setAttribute("aria-controls", "panel");
    launcher.addEventListener("click", () => this.#toggle(!this.open));
    close.addEventListener("click", () => this.#toggle(false));
    down.addEventListener("click", () => {
      this.#toNewest();
      text.focus();
    });
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !composes(event)) this.#toggle(false);
    });
    panel.addEventListener("close", () => panel.open || this.#toggle(false));
    new ResizeObserver(() => requestAnimationFrame(() => this.#opened())).observe(panel);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || composes(event)) return;
      event.preventDefault();
      this.#send();
    });
    text.addEventListener("input", () => {
      this.#grow();
      problem.textContent = "";
      if (!this.#client) return;
      this.#client.draft = text.value;
      if (text.value) this.#client.typing();
    });
    thread.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#newest?.stop();
    this.#newest = new Newest(thread);
    const was = this.#parts;
    const focused = was && Object.keys(was).find((name) => was[name] === this.shadowRoot.activeElement);
    text.value = was?.text.value ?? "";
    this.#parts = { launcher, panel, thread, list, greeting, typing, down, text, problem, notice, said, live };
    this.#rows.clear();
    this.shadowRoot.replaceChildren(panel, launcher);
    panel.open = this.#shown;
    this.#parts[focused]?.focus();
    this.#opened();
    this.#render({ down: true });
    this.#phase({ phase: this.#client?.phase ?? "idle", code: this.#client?.endCode });
  }

  #opened() {
    const { panel, launcher, text, said } = this.#parts;
    const { activeElement } = this.shadowRoot;
    const inside = panel.contains(activeElement);
    const changed = this.#shown !== this.open;
    if (!this.open) panel.close();
    this.#shown = panel.open = this.open;
    const modal = SMALL.matches && !this.hasAttribute("inline") && panel.getClientRects().length > 0;
    if (panel.matches(":modal") !== modal) {
      panel.close();
      if (modal) panel.showModal();
      else panel.open = this.open;
      if (inside) activeElement.focus();
    }
    this.#grow();
    const heard = modal ? panel : this.shadowRoot;
    if (said.parentNode !== heard) heard.append(said);
    launcher.setAttribute("aria-expanded", String(this.open));
    this.#status();
    if (!changed) return;
    this.#client?.show(this.open);
    if (this.open) {
      this.#toNewest();
      this.#fill();
      if (this.#byUser) text.focus();
    } else if (this.#byUser || inside) launcher.focus();
    this.dispatchEvent(new CustomEvent(this.open ? "ringback-open" : "ringback-close", { bubbles: true, composed: true }));
  }

  #status() {
    const { launcher, live } = this.#parts;
    const badge = launcher.querySelector(".badge");
    const { unread } = this;
    const say = this.#labels;
    badge.hidden = unread === 0 || this.open;
    badge.textContent = unread > 99 ? "99+" : String(unread);
    const action = this.open ? say.close : say.open;
    launcher.setAttribute("aria-label", unread && !this.open ? `${action}, ${say.unread(unread)}` : action);
    live.textContent = this.#client?.status?.live ? say.live : say.idle;
    if (unread !== this.#told) {
      this.#told = unread;
      const detail = { unread };
      this.dispatchEvent(new CustomEvent("ringback-unread", { detail, bubbles: true, composed: true }));
    }
  }

  #phase({ phase, code }) {
    const { notice, text } = this.#parts;
    const say = this.#labels;
    if (!text.value && this.#client?.draft) this.#write(this.#client.draft);
    const again = () => {
      const button = element("button", { type: "button" }, [say.retry]);
      button.addEventListener("click", () => {
        this.#client?.start();
        this.#parts.text.focus();
      });
      return button;
    };
    const shown = notice.childNodes.length > 0;
    if (phase === "waiting") notice.replaceChildren(say.offline);
    else if (phase === "connecting" && shown) notice.replaceChildren(say.connecting);
    else if (phase === "ended" && code !== 1000) {
      notice.replaceChildren(element("span", {}, [say.ended[code] ?? say.over]), again());
    } else if (phase !== "connecting") notice.replaceChildren();
    this.#render();
    this.#fill();
  }

  #typing(from) {
    const { typing, said } = this.#parts;
    const down = this.#newest.inSight;
    const label = from && this.#labels.typing(from.name ?? this.#labels.agent);
    if (from && !this.#typist && this.open) said.textContent = label;
    this.#typist = from;
    typing.replaceChildren(...(from ? [element("span", { class: "dots" }, [element("i"), element("i"), element("i")]), label] : []));
    if (down) this.#toNewest();
  }

  #announce(message) {
    const own = message.from.role === "customer";
    const down = own || this.#newest.inSight;
    this.#render({ down });
    if (own) return;
    const name = message.kind === "system" ? "" : `${message.from.name ?? this.#labels.agent}: `;
    this.#parts.said.textContent = `${name}${message.text}`;
    this.#parts.down.hidden = down || !this.open;
  }

  #pending(sends) {
    const failed = sends.findLast(({ ref, state }) => state === "failed" && this.#unsent.has(ref));
    if (failed) this.#parts.said.textContent = `${this.#labels.failed}: ${failed.text}`;
    this.#unsent = new Set(sends.filter(({ state }) => state === "waiting").map(({ ref }) => ref));
    this.#render();
  }

  // The thread

  #toNewest() {
    this.#newest.show();
    this.#parts.down.hidden = true;
  }

  #scrolled() {
    if (!this.#newest.scrolled()) return;
    if (this.#newest.inSight) this.#parts.down.hidden = true;
    if (this.#parts.thread.scrollTop < NEAR) this.#older();
  }

  /** A thread that was never read backwards begins with what fits on the screen. */
  #fill() {
    const client = this.#client;
    const { scrollHeight, clientHeight } = this.#parts.thread;
    const room = client?.messages.length < FIRST || scrollHeight <= clientHeight;
    if (this.open && client?.connected && room) this.#older();
  }

  async #older() {
    const client = this.#client;
    if (this.#loading || !client?.connected || !client.more) return;
    this.#loading = true;
    // None came if the connection was lost; they are asked for again with the next scroll or welcome.
    const came = await client.loadOlder().catch(() => 0);
    this.#loading = false;
    if (came) this.#fill();
  }

  /** Bring the list in line with what the client holds; nodes that stay are not touched. */
  #render({ down = this.#newest?.inSight } = {}) {
    if (!this.#parts) return;
    if (down) {
      this.#place();
      this.#toNewest();
    } else this.#newest.still(() => this.#place());
    this.#status();
  }

  #place() {
    const { list, greeting } = this.#parts;
    const rows = this.#client ? rowsOf(this.#client) : [];
    greeting.hidden = rows.length > 0;
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, { node }] of this.#rows) {
      if (keys.has(key)) continue;
      node.remove();
      this.#rows.delete(key);
    }
    let place = list.firstChild;
    for (const row of rows) {
      const was = this.#rows.get(row.key)?.node;
      const node = this.#rowNode(row);
      if (was && was === place) place = node;
      if (node === place) place = place.nextSibling;
      else list.insertBefore(node, place);
    }
  }

  #rowNode(row) {
    const known = this.#rows.get(row.key);
    if (known?.look === row.look) return known.node;
    const node = row.day === undefined ? this.#messageNode(row) : this.#dayNode(row);
    known?.node.replaceWith(node);
    this.#rows.set(row.key, { node, look: row.look });
    return node;
  }

  #dayNode({ day }) {
    const now = new Date();
    const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
    const same = (a, b) => a.toDateString() === b.toDateString();
    const text = same(day, now) ? this.#labels.today : same(day, yesterday) ? this.#labels.yesterday
      : this.#format(day, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
    return element("li", { class: "day" }, [element("span", {}, [text])]);
  }

  #messageNode({ message, at, own, system, first, last, state, mark }) {
    const say = this.#labels;
    const name = own ? say.you : message.from.name ?? say.agent;
    const children = [];
    if (!system) {
      const seen = first && !own ? "author" : "unseen";
      children.push(element("span", { class: seen, dir: "auto" }, [name]));
    }
    children.push(element("p", { class: "text", dir: "auto" }, linked(message.text)));
    if (last && !system) {
      const time = element("time", { datetime: at.toISOString() }, [
        this.#format(at, { hour: "numeric", minute: "2-digit" }),
      ]);
      children.push(element("span", { class: "about" }, [time, ...this.#mark(message, state, mark)]));
    }
    const kind = system ? "system" : own ? "own" : "other";
    const classes = [kind, first && "first", last && "last", state ?? mark].filter(Boolean).join(" ");
    return element("li", { class: classes }, children);
  }

  #mark(message, state, mark) {
    const say = this.#labels;
    if (mark) {
      return [element("span", { class: "mark" }, [say[mark]]), icon(mark === "sent" ? "check" : "checks")];
    }
    if (!state) return [];
    if (state === "waiting") {
      return [element("span", { class: "mark" }, [this.#client.connected ? say.sending : say.waiting])];
    }
    const retry = element("button", { type: "button" }, [say.retry]);
    const discard = element("button", { type: "button" }, [say.discard]);
    retry.addEventListener("click", () => {
      this.#client.retry(message.ref);
      this.#parts.text.focus();
    });
    discard.addEventListener("click", () => {
      this.#client.discard(message.ref);
      this.#parts.text.focus();
    });
    return [element("span", { class: "mark" }, [say.failed]), retry, discard];
  }

  #format(date, options) {
    const language = this.closest("[lang]")?.lang || undefined;
    try {
      return new Intl.DateTimeFormat(language, options).format(date);
    } catch {
      return new Intl.DateTimeFormat(undefined, options).format(date); // no language of this world
    }
  }

  #write(value) {
    this.#parts.text.value = value;
    this.#grow();
  }

  #grow() {
    const { text } = this.#parts;
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight, 140)}px`;
  }

  #send() {
    const { text, problem } = this.#parts;
    const value = text.value.trim();
    if (!value) return;
    if (!this.#client) {
      problem.textContent = this.#labels.over;
      return;
    }
    try {
      this.#client.send(value);
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      problem.textContent = this.#labels.tooLong(this.#client.limits.text_chars);
      return;
    }
    problem.textContent = "";
    this.#client.draft = "";
    this.#write("");
    this.#toNewest();
  }
}

/** What the thread shows, in order: days, messages, what is not confirmed. */
function rowsOf({ messages, pending, connected, status }) {
  const entries = [
    ...messages.map((message) => ({ message, key: `m${message.seq}`, at: new Date(message.at) })),
    ...pending.map((message) => ({
      message, key: `p${message.ref}`, at: new Date(message.at), state: message.state, own: true,
    })),
  ];
  const rows = [];
  const today = new Date().toDateString(); // which is yesterday tomorrow
  let previous = null;
  for (const entry of entries) {
    const { message, at } = entry;
    entry.system = message.kind === "system";
    entry.own ??= message.from.role === "customer";
    entry.author = entry.system ? "system" : entry.own ? "own" : `other ${message.from.id}`;
    const day = at.toDateString();
    if (previous?.at.toDateString() !== day) rows.push({ key: `d${day}`, look: today, day: at });
    entry.first = !follows(previous, entry);
    if (previous) previous.last = entry.first || Boolean(previous.state) || Boolean(entry.state);
    entry.last = true;
    rows.push(entry);
    previous = entry;
  }
  for (const row of rows) {
    const { first, last, state } = row;
    if (row.own && last && !state) row.mark = markOf(row.message.seq, status);
    row.look ??= `${first} ${last} ${state} ${state === "waiting" && connected} ${row.mark}`;
  }
  return rows;
}

/** How far the customer's own message came, as agents' clients said. */
function markOf(seq, status) {
  return seq <= status?.agentsReadSeq ? "read" : seq <= status?.agentsAckedSeq ? "delivered" : "sent";
}

function follows(previous, { author, at }) {
  return previous?.author === author && at - previous.at < GROUP
    && at.toDateString() === previous.at.toDateString();
}

/** The token that the page's own server makes: JSON with `token`, or the bare JWT. */
async function fetchToken(url) {
  const answer = await fetch(url, { credentials: "same-origin", cache: "no-store" });
  if (!answer.ok) throw new Error(`token-url: HTTP status ${answer.status}`);
  const text = (await answer.text()).trim();
  return text.startsWith("{") ? JSON.parse(text).token : text;
}

if (!customElements.get("ringback-chat")) customElements.define("ringback-chat", RingbackChat);
