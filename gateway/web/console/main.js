/**
 * The agent console: signing in, the connection, and what each frame changes. `state.js` knows what
 * is so, `inbox.js`, `thread.js` and `panel.js` show it, `keys.js` has the shortcuts.
 */

import { Connection, ConnectionEnded, claimsOf } from "../connection.js";
import { Desktop } from "./desktop.js";
import { $, ask, tab, tell } from "./dom.js";
import { InboxView } from "./inbox.js";
import { listenForKeys } from "./keys.js";
import { Panel } from "./panel.js";
import { Acks, Inbox, Kept, MOST, RECENT, Thread, isNews, neighbour } from "./state.js";
import { ThreadView } from "./thread.js";

const TOKEN = "ringback console token";
const PAGE = 100; // conversations a page
const ACK_WITHIN = 200; // ms in which what came is acknowledged together
const UNTOLD = 10; // messages whose outcomes are asked for, and shown, at once
const TITLE = document.title;
const ENDED = {
  1000: "",
  4500: "The token was not accepted. It may have expired: sign in with a fresh one.",
  4501: "This token is not for the console: it needs one with the role agent.",
  4502: "The gateway does not understand this console; reload the page.",
  4503: "You were signed out.",
};

class Console {
  #inbox = new Inbox();
  #coming = null; // the inbox of a new connection, until it has come so far as to be shown
  #loaded = null; // a promise of that
  #came = null; // keeps the promise of the first one, which is waited for before there is a connection
  #asking = new Set(); // filters whose next page is on its way
  #acks = new Acks();
  #acking = null; // the timer
  #threads = new Map(); // customer -> Thread, the one used last at the end
  #fresh = new Set(); // customers whose thread is followed on this very socket
  #selected = null;
  #connection = null;
  #kept = null;
  #me = null; // {role, id, name?}
  #expired = false;

  constructor() {
    this.inbox = new InboxView({
      select: (customer) => this.select(customer),
      show: () => this.#showInbox(),
      more: (filter) => this.#coming || this.#page(filter, this.#inbox),
      now: () => this.#now,
    });
    this.thread = new ThreadView({
      send: (text) => this.#send(text),
      problem: (text) => this.#problem(text),
      again: (ref) => this.#again(ref, false),
      edit: (ref) => this.#again(ref, true),
      draft: (text) => this.#kept.setDraft(this.#selected, text),
      typing: (customer, on) => this.#note("typing", { on }, customer),
      past: () => this.#past(),
      why: (seq) => this.#why(seq),
      seen: () => this.#seen(),
      now: () => this.#now,
    });
    this.panel = new Panel();
    this.desktop = new Desktop((customer) => this.select(customer));
    this.#listen();
    const token = tab.getItem(TOKEN);
    if (token) this.signIn(token);
    else this.#ask("");
  }

  /** By the gateway's clock, which every time here is of; the agent's may be wrong. */
  get #now() {
    return this.#connection?.serverNow ?? Date.now();
  }

  // Signing in and out

  signIn(token) {
    const claims = claimsOf(token);
    const problem = unusable(claims);
    if (problem) return this.#ask(problem);
    tab.setItem(TOKEN, token);
    const asked = $("sign-in").contains(document.activeElement);
    $("sign-in").hidden = true;
    const owner = JSON.stringify([claims.tenant, claims.sub]);
    if (this.#kept?.owner !== owner) this.#begin(owner, claims);
    this.#expired = false;
    $("app").hidden = false;
    if (asked) this.inbox.focus();
    this.thread.focus(); // on what was being written when the last token ended
    $("who").textContent = `${claims.name ?? claims.sub} · ${claims.tenant}`;
    const chat = document.querySelector('meta[name="ringback-chat"]').content;
    this.#connection = new Connection({
      url: `${chat}/v1/agent`,
      token,
      onWelcome: () => this.#welcome(),
      onFrame: (frame, request) => this.#frame(frame, request),
      onChange: (phase, detail) => this.#changed(phase, detail),
    });
    this.#connection.start();
    for (const send of this.#kept.unsent) if (!send.failed) this.#write(send);
    return null;
  }

  signOut() {
    tab.removeItem(TOKEN);
    this.#connection?.stop();
    this.#clear();
    this.#ask("");
  }

  #ask(problem) {
    $("app").hidden = true;
    this.#showInbox();
    $("sign-in").hidden = false;
    $("sign-in-error").textContent = problem;
    $("token").setAttribute("aria-invalid", String(Boolean(problem)));
    $("token").value = "";
    $("token").focus();
    // Whatever was being asked stays on top; then there is signing in.
    document.querySelector("dialog[open]")?.addEventListener("close", () => $("token").focus(), { once: true });
  }

  /** Nothing of any customer stays in the page. What was written and not sent is in the tab. */
  #clear() {
    this.#kept = null;
    this.#inbox = new Inbox();
    this.inbox.loading = true;
    this.#loaded = new Promise((come) => (this.#came = come));
    $("search").value = "";
    $("who").textContent = "";
    this.#threads.clear();
    this.panel.close();
    this.#unselect();
  }

  /** Somebody else signs in, or the first one. */
  #begin(owner, claims) {
    this.#clear();
    this.#kept = Object.assign(new Kept(tab, owner), { owner });
    this.#me = { role: "agent", id: claims.sub, ...(claims.name && { name: claims.name }) };
    for (const { customer, ref, text, failed } of this.#kept.unsent) {
      if (failed) this.#threadOf(customer).pending.push({ ref, text, failed });
    }
  }

  // The connection

  #changed(phase, { code } = {}) {
    const away = phase !== "connected";
    document.body.classList.toggle("away", away);
    tell($("link"), away ? "Connecting… what you see may be old; what you write is kept, and sent when the gateway is back." : "");
    this.thread.away = this.panel.away = away;
    if (away) {
      this.#fresh.clear();
      this.#coming = null;
      for (const thread of this.#threads.values()) thread.typing = null;
    }
    this.#showThread();
    if (code === 4002) {
      this.#expired = true;
      this.#connection.stop();
    }
    if (phase !== "ended" || code === 1000 && !this.#expired) return;
    tab.removeItem(TOKEN);
    this.#ask(this.#expired
      ? "Your token has expired. Sign in with a fresh one; your drafts are kept."
      : ENDED[code] ?? `The gateway closed the connection (${code}).`);
  }

  #welcome() {
    this.#acks = new Acks(); // what the last socket was told may have been lost with it
    this.#loaded = this.#load();
    if (this.#selected) this.#open(this.#selected);
  }

  #frame(frame, request) {
    const thread = this.#threads.get(frame.customer);
    switch (frame.type) {
      case "inbox_update":
        this.#updated(frame.conversation);
        break;
      case "message":
        thread?.add(frame);
        if (thread && frame.from.role === "customer") thread.typing = null;
        this.#kept.settle(frame.ref);
        break;
      case "sent":
        thread?.sent(frame, request.frame.text, this.#me);
        this.#kept.settle(frame.ref);
        break;
      case "receipt":
        thread?.receipt(frame);
        break;
      case "presence":
        if (thread) Object.assign(thread.facts, { in_chat: frame.in_chat, sessions: frame.sessions });
        if (thread && !frame.in_chat) thread.typing = null;
        break;
      case "typing":
        if (thread && frame.from.role === "customer") thread.typing = frame.on ? Date.now() : null;
        break;
      default:
    }
    if (thread && frame.customer === this.#selected && frame.type !== "conversation") {
      this.#showThread();
      if (frame.type === "receipt") this.#lastPush();
    }
  }

  #put(entry) {
    this.#acks.received(entry);
    this.#acking ??= setTimeout(() => this.#acknowledge(), ACK_WITHIN);
    this.#coming?.put(entry);
    return this.#inbox.put(entry);
  }

  /** Tell that the customers' messages are here: they are shown it as delivered. */
  #acknowledge() {
    this.#acking = null;
    for (const { customer, seq } of this.#acks.take()) this.#note("ack", { seq }, customer);
  }

  #updated(entry) {
    const before = this.#put(entry);
    const thread = this.#threads.get(entry.customer);
    if (thread) {
      const { live, in_chat, unread } = entry;
      Object.assign(thread.facts, { live, in_chat, unread });
    }
    this.#showInbox();
    if (entry.customer === this.#selected) this.#showThread();
    this.#news(before, entry);
  }

  #news(before, entry) {
    const looked = entry.customer === this.#selected && document.hasFocus();
    if (isNews(before, entry) && !looked) this.desktop.tell(entry);
  }

  /** The inbox of a new connection. What it does not have by then is no longer so, and goes. */
  async #load() {
    const inbox = this.#coming = new Inbox();
    await Promise.all(["unanswered", "live", "all"].map((filter) => this.#fill(filter, inbox)));
    if (inbox !== this.#coming) return;
    this.#inbox = inbox;
    this.#coming = null;
    this.inbox.loading = false;
    this.#showInbox();
    this.#came();
  }

  /** All who wait, since pages begin with the newest; of the others as many as were shown before. */
  async #fill(filter, inbox) {
    const wanted = filter === "unanswered" ? MOST : Math.min(MOST, this.#inbox.got(filter));
    while (await this.#page(filter, inbox)) if (inbox.got(filter) >= wanted) return;
  }

  /** The next page of a filter; whether one came. */
  async #page(filter, inbox) {
    const cursor = inbox.cursor(filter);
    if (cursor === null || this.#asking.has(filter)) return false;
    this.#asking.add(filter);
    const told = await this.#request({ type: "inbox", filter, limit: PAGE, ...(cursor && { cursor }) });
    this.#asking.delete(filter);
    if (told.type !== "inbox") return false;
    const again = inbox === this.#coming && !this.inbox.loading;
    for (const entry of told.conversations) {
      const before = this.#put(entry);
      if (again) this.#news(before, entry); // from while there was no connection
    }
    inbox.turned(filter, told);
    this.#showInbox();
    return true;
  }

  /** A look-up, which ends with the socket: it is made anew on the next one. */
  async #request(frame) {
    try {
      return await this.#connection.request(frame, { quiet: true });
    } catch (error) {
      return { type: "error", message: error.message, lost: error.code === undefined };
    }
  }

  #note(type, fields, customer = this.#selected) {
    this.#connection.note({ type, customer, ...fields }, customer);
  }

  // Conversations

  async select(customer) {
    if (!customer || !this.#kept) return;
    const thread = this.#threads.get(customer) ?? new Thread(customer);
    this.#threads.delete(customer);
    this.#threads.set(customer, thread);
    this.#selected = customer;
    document.body.classList.add("chosen");
    this.#showInbox();
    this.inbox.reveal(customer);
    this.thread.begin(thread, this.#kept.draft(customer));
    this.#showThread();
    this.panel.begin(customer);
    if (!this.#fresh.has(customer)) await this.#open(customer);
    else this.#seen();
    this.#closeOld();
  }

  async #open(customer) {
    const thread = this.#threads.get(customer);
    if (!this.#connection.connected) return;
    const after = thread.loaded ? { after: thread.newest } : {};
    const told = await this.#request({ type: "open", customer, ...after });
    if (told.type === "conversation") {
      thread.open(told);
      this.#fresh.add(customer);
      this.#untold(thread);
    } else if (!told.lost) thread.problem = told.message;
    if (customer !== this.#selected) return;
    this.#showThread();
    this.#seen();
    this.#lastPush();
  }

  #closeOld() {
    for (const customer of [...this.#threads.keys()].slice(0, -RECENT)) {
      if (this.#threads.get(customer).pending.length) continue;
      this.#threads.delete(customer);
      if (this.#fresh.delete(customer)) this.#request({ type: "close", customer });
    }
  }

  #unselect() {
    this.#selected = null;
    document.body.classList.remove("chosen");
    this.thread.end();
    this.#showInbox();
  }

  async #past() {
    const customer = this.#selected;
    const thread = this.#threads.get(customer);
    const before = thread.messages[0]?.seq;
    const told = await this.#request({ type: "history", customer, before, limit: 50 });
    if (told.type === "history") {
      thread.past(told);
      this.#untold(thread, before);
    }
    if (customer === this.#selected) this.#showThread();
  }

  /** Tell that the agents have read the thread, if somebody looks at its end. */
  #seen() {
    const thread = this.#threads.get(this.#selected);
    const waiting = this.#inbox.get(this.#selected)?.waiting;
    if (!thread?.newest || !waiting || !document.hasFocus() || !this.thread.atEnd) return;
    this.#note("read", { seq: thread.newest });
    this.#acks.read(this.#selected, thread.newest);
  }

  // Sending

  #send(text) {
    const send = { ref: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
      customer: this.#selected, text: text.toWellFormed?.() ?? text };
    this.#kept.put(send);
    this.#kept.setDraft(this.#selected, "");
    this.#write(send);
    this.#showThread();
  }

  /** Why the gateway would refuse a text, as far as is known before; "" if it would not. */
  #problem(text) {
    const most = this.#connection.limits?.text_chars;
    return [...text].length > most ? `At most ${most} characters, please.` : "";
  }

  #threadOf(customer) {
    if (!this.#threads.has(customer)) this.#threads.set(customer, new Thread(customer));
    return this.#threads.get(customer);
  }

  /** Try a failed send again, or (with `edit`) take it back into the composer. */
  #again(ref, edit) {
    const send = this.#kept.unsent.find((kept) => kept.ref === ref);
    const thread = this.#threads.get(this.#selected);
    thread.pending = without(thread.pending, ref);
    if (send && !edit) {
      this.#kept.put({ ref, customer: send.customer, text: send.text });
      this.#write(send);
      this.thread.focus();
    }
    if (send && edit) {
      this.#kept.settle(ref);
      this.thread.put(send.text);
    }
    this.#showThread();
  }

  async #write({ ref, customer, text }) {
    const kept = this.#kept; // of who wrote it
    const thread = this.#threadOf(customer);
    const one = { ref, text };
    thread.pending.push(one);
    try {
      await this.#connection.request({ type: "send", customer, text }, { ref, isSend: true });
    } catch (error) {
      // The connection's end is not the message's: it is sent after the next sign-in.
      if (error instanceof ConnectionEnded) thread.pending = without(thread.pending, ref);
      else {
        one.failed = error.message.replace(/^\w+: /, ""); // its code is for programs
        kept.fail(ref, one.failed);
      }
    }
    if (customer === this.#selected) this.#showThread();
  }

  async #end() {
    const customer = this.#selected;
    if (!customer || $("end").disabled) return;
    const answer = await ask($("ending"));
    this.thread.focus();
    if (answer !== "end") return;
    const told = await this.#request({ type: "end", customer });
    if (told.type === "error" && customer === this.#selected) this.thread.problem = told.message;
  }

  // Deliveries

  async #deliveries(customer, seq) {
    const path = `/v1/customers/${encodeURIComponent(customer)}/deliveries?seq=${seq}&words=1`;
    const headers = { Authorization: `Bearer ${tab.getItem(TOKEN)}` };
    try {
      const answer = await fetch(path, { headers });
      const told = await answer.json();
      return answer.ok ? told : { problem: told.detail };
    } catch {
      return { problem: "The gateway does not answer just now." };
    }
  }

  async #why(seq) {
    const customer = this.#selected;
    const thread = this.#threads.get(customer);
    const message = thread.messages.find((one) => one.seq === seq);
    if (!message) return;
    this.panel.why(message, null);
    const told = await this.#deliveries(customer, seq);
    if (!told.problem) thread.deliveries(told);
    this.panel.why(message, told);
    if (customer === this.#selected) this.#showThread();
  }

  /** What became of the messages that came without saying so, those in sight first. */
  async #untold(thread, before) {
    const untold = thread.untold(before);
    while (untold.length) {
      const some = untold.splice(0, UNTOLD).map(({ seq }) => this.#deliveries(thread.customer, seq));
      const told = await Promise.all(some);
      if (told.some(({ problem }) => problem)) return;
      for (const one of told) thread.deliveries(one);
      if (thread.customer === this.#selected) this.#showThread();
    }
  }

  /** The last push is that of the newest message that has one. */
  async #lastPush() {
    const thread = this.#threads.get(this.#selected);
    if (!this.panel.open || !thread) return;
    const marked = thread.messages.filter((one) => thread.mark(one) !== null).slice(-5).reverse();
    for (const { seq } of marked) {
      const told = await this.#deliveries(thread.customer, seq);
      const attempt = told.events?.findLast(({ event }) => event === "attempt");
      if (!attempt) continue;
      thread.lastPush = attempt;
      break;
    }
    thread.askedForPush = true;
    if (thread.customer === this.#selected) this.#showThread();
  }

  // Showing

  #showInbox() {
    this.inbox.show(this.#inbox, this.#selected);
    const count = $("app").hidden ? "" : this.#inbox.count("unanswered"); // whoever is signed out has none
    document.title = count ? `(${count}) ${TITLE}` : TITLE;
  }

  #showThread() {
    const thread = this.#threads.get(this.#selected);
    if (!thread) return;
    thread.entry = this.#inbox.get(this.#selected) ?? thread.entry; // its name, also when no page has it
    this.thread.show(thread, thread.entry);
    this.panel.show(thread, thread.entry);
    this.#seen();
  }

  #togglePanel() {
    if (!this.#selected) return;
    this.panel.toggle();
    this.#showThread();
    this.#lastPush();
  }

  // Keys and buttons

  #listen() {
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.signIn($("token").value.trim());
    });
    $("sign-out").addEventListener("click", () => this.signOut());
    $("back").addEventListener("click", () => this.#back());
    $("end").addEventListener("click", () => this.#end());
    $("details").addEventListener("click", () => this.#togglePanel());
    $("help-button").addEventListener("click", () => $("help").showModal());
    for (const type of ["online", "offline"]) addEventListener(type, () => this.#connection?.nudge()); // is the socket dead, then?
    addEventListener("focus", () => this.#seen());
    document.addEventListener("visibilitychange", () => this.#connection?.nudge());
    const listed = () => this.inbox.listed;
    listenForKeys({
      next: () => this.select(neighbour(listed(), this.#selected, 1)),
      previous: () => this.select(neighbour(listed(), this.#selected, -1)),
      unanswered: () => this.#longestWaiting(),
      nth: (n) => this.select(listed()[n - 1]?.customer),
      search: () => this.#toSearch(),
      write: () => this.thread.focus(),
      filter: () => this.inbox.nextFilter(),
      why: () => this.#whyNewest(),
      customer: () => this.#togglePanel(),
      end: () => this.#end(),
      help: () => $("help").showModal(),
      leave: () => this.#leave(),
    });
  }

  async #longestWaiting() {
    await this.#loaded; // the longest waiting are in the last page
    const waiting = this.#inbox.list("unanswered");
    this.select(waiting.find(({ customer }) => customer !== this.#selected)?.customer);
  }

  #whyNewest() {
    const thread = this.#threads.get(this.#selected);
    const newest = thread?.messages.findLast((one) => thread.mark(one) !== null);
    if (newest) this.#why(newest.seq);
  }

  #leave() {
    if (this.panel.open) {
      this.panel.close();
      this.thread.focus();
    } else this.#toSearch();
  }

  /** A narrow page has no room for the search beside the panel, or beside the thread. */
  #toSearch() {
    const seen = () => $("search").offsetParent !== null;
    if (!seen()) this.panel.close();
    if (!seen()) this.#unselect();
    $("search").focus();
  }

  #back() {
    const customer = this.#selected;
    this.#unselect();
    this.inbox.focus(customer);
  }
}

/** Why a token cannot be one for here; null if it can. The gateway is asked all the same. */
function unusable(claims) {
  if (claims === null) return "This is no token: it has three parts with dots between them.";
  if (claims.role !== "agent") return `${ENDED[4501].slice(0, -1)}, and this one has ${claims.role}.`;
  return null;
}

function without(sends, ref) {
  return sends.filter((send) => send.ref !== ref);
}

new Console();
