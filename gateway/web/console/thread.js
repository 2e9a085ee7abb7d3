/** One conversation: its messages with their marks, its past on scrolling up, and the composer. */

import { composes, linked, Newest } from "../elements.js";
import { $, ask, avatar, browser, day, h, place, tell, time } from "./dom.js";
import { REPLIES, filled, fittingReplies, readReplies } from "./state.js";

const LINES = "ringback console replies";
const TYPING_AGAIN = 4_000; // ms between two notes that somebody types
const TYPING_ENDS = 6_000; // without another note
const SIGNS = {
  sent: "✓", delivered: "✓✓", read: "✓✓", pushed: "↗", expired: "⌛", undeliverable: "!",
};

export class ThreadView {
  #actions;
  #thread = null;
  #name = "";
  #rows = new Map(); // seq or ref -> [signature, element]
  #typedAt = 0;
  #typingTimer = null;
  #asking = false;
  #choice = 0;
  #refused = false; // the replies that fit the draft were closed: it is meant as it stands
  #newest = new Newest($("scroll"));
  away = false; // the connection is: who is in chat is not known
  #told = null; // {newest, answer, mark, failed}: what a screen reader knows of the thread, once it is here

  constructor(actions) {
    this.#actions = actions;
    const draft = $("draft");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    draft.addEventListener("input", () => this.#typed());
    draft.addEventListener("keydown", (event) => this.#key(event));
    $("scroll").addEventListener("scroll", () => this.#scrolled());
  }

  get atEnd() {
    return this.#newest.inSight;
  }

  set problem(text) {
    tell($("composer-error"), text);
  }

  focus() {
    if (!$("conversation").hidden) $("draft").focus();
  }

  /** Put a text into the composer, before what is there. */
  put(text) {
    const draft = [text, $("draft").value].filter(Boolean).join("\n");
    this.#set(draft);
    this.#actions.draft(draft);
    this.focus();
  }

  /** Show another thread from here on. */
  begin(thread, draft) {
    this.#notTyping();
    this.#thread = thread;
    this.#rows.clear();
    this.#told = null;
    $("messages").replaceChildren();
    tell($("said"), "");
    $("nothing").hidden = true;
    $("conversation").hidden = false;
    this.#set(draft);
    this.focus();
    this.#stick = true;
  }

  end() {
    this.#notTyping();
    this.#thread = null;
    this.#rows.clear();
    for (const id of ["messages", "name", "said"]) $(id).replaceChildren();
    $("draft").value = "";
    $("nothing").hidden = false;
    $("conversation").hidden = true;
  }

  #stick = true;

  show(thread, entry) {
    if (!thread || thread !== this.#thread) return;
    this.#name = entry?.name ?? "";
    $("name").textContent = entry?.name || thread.customer;
    const { in_chat, live } = { ...entry, ...thread.facts };
    const presence = this.away ? "In chat? Not known just now" : in_chat ? "In chat now" : "Not in chat";
    $("presence").replaceChildren(
      h("i", { className: in_chat ? "dot on" : "dot", "aria-hidden": "true" }),
      `${presence} · ${live ? "live" : "ended"}`);
    $("end").disabled = !live;
    const stick = this.#stick || this.atEnd;
    if (stick) this.#place(thread);
    else this.#newest.still(() => this.#place(thread));
    tell($("past"), thread.problem ?? (!thread.loaded ? "Loading…" : thread.more
      ? "Scroll up for more" : thread.messages.length ? "The conversation begins here" : "Nothing has been said yet"));
    if (stick) this.#newest.show();
    this.#stick = !thread.loaded;
    this.#older();
    const typing = thread.typing && Date.now() - thread.typing < TYPING_ENDS;
    tell($("typing"), typing ? `${entry?.name || "The customer"} is writing…` : "");
    if (typing) setTimeout(() => this.show(thread, entry), TYPING_ENDS);
    if (thread.loaded) this.#tell(thread);
  }

  /** A screen reader is told what is new, once: who wrote what, what was not sent, how far the newest answer came. */
  #tell(thread) {
    const before = this.#told;
    const { newest, messages } = thread;
    const answer = messages.findLast((message) => thread.mark(message));
    const mark = answer && said(thread.mark(answer));
    const failed = thread.pending.filter((send) => send.failed);
    this.#told = { newest, answer, mark, failed };
    if (before === null) return;
    const written = messages.filter(({ seq, ref }) => seq > before.newest && !this.#rows.has(ref)); // what was sent here is known
    const news = [
      ...written.map((message) => `${this.#author(message)}: ${message.text}`),
      ...failed.filter((send) => !before.failed.includes(send)).map(notSent),
      ...(answer === before.answer && mark === before.mark ? [] : [mark]),
    ];
    if (news.length) $("said").textContent = news.join("\n");
  }

  // Messages

  *#messages(thread) {
    let before = null;
    let heading = null;
    const now = new Date(this.#actions.now());
    for (const message of thread.messages) {
      const today = day(message.at, now);
      if (heading !== today) {
        yield this.#row(`day ${today}`, "", () => h("li", { className: "day" }, h("span", {}, today)));
        heading = today;
      }
      const mark = thread.mark(message);
      const follows = before?.from.id === message.from.id && before.from.role === message.from.role
        && Date.parse(message.at) - Date.parse(before.at) < 120_000;
      yield this.#row(message.seq, JSON.stringify([mark, follows]), () => this.#message(message, mark, follows));
      before = message;
    }
  }

  #message(message, mark, follows) {
    const { from, text, at, kind, seq } = message;
    const ours = from.role !== "customer";
    const author = this.#author(message);
    return h("li", { className: `message ${ours ? "ours" : "theirs"} ${kind}${follows ? " follows" : ""}`, "data-seq": seq },
      ours ? null : avatar(author, false),
      h("div", { className: "bubble" },
        h("p", { className: follows ? "author hidden" : "author", dir: "auto" }, kind === "chat" ? author : `${author} · ${kind}`),
        h("p", { className: "text", dir: "auto" }, ...linked(text))),
      h("p", { className: "meta" },
        h("time", { dateTime: at }, time(at)),
        mark === null ? null : this.#mark(seq, mark)));
  }

  #author({ from }) {
    return from.name ?? (from.role === "customer" && this.#name ? this.#name : from.id);
  }

  #mark(seq, mark) {
    const { state } = mark;
    const button = h("button", { type: "button", className: `mark ${state}`, title: "Why?", "aria-label": `${said(mark)}: why?` },
      h("span", { "aria-hidden": "true" }, `${SIGNS[state]} ${said(mark)}`));
    button.addEventListener("click", () => this.#actions.why(seq));
    return button;
  }

  #pending(send) {
    const { ref, text, failed } = send;
    return this.#row(ref, failed ?? "", () => {
      const buttons = failed ? [this.#button("Try again", () => this.#actions.again(ref)),
        this.#button("Edit", () => this.#actions.edit(ref))] : [];
      return h("li", { className: "message ours pending" },
        h("div", { className: "bubble" }, h("p", { className: "text", dir: "auto" }, ...linked(text))),
        h("p", { className: failed ? "meta error" : "meta" }, failed ? `${notSent(send)} ` : "Waiting to be sent…", ...buttons));
    });
  }

  #button(text, act) {
    const button = h("button", { type: "button", className: "mark undeliverable" }, text);
    button.addEventListener("click", act);
    return button;
  }

  #row(key, signature, make) {
    const [before, made] = this.#rows.get(key) ?? [];
    if (before === signature) return made;
    const row = made ? changed(made, make()) : make();
    this.#rows.set(key, [signature, row]);
    return row;
  }

  #place(thread) {
    const rows = [...this.#messages(thread), ...thread.pending.map((send) => this.#pending(send))];
    place($("messages"), rows);
  }

  #scrolled() {
    this.#actions.seen();
    if (this.#newest.scrolled()) this.#older();
  }

  /** Where the beginning of what is here is in sight, what came before; a tall page has room for more. */
  async #older() {
    const thread = this.#thread;
    if ($("scroll").scrollTop > 120 || this.#asking || !thread?.more) return;
    const first = thread.messages[0]?.seq;
    this.#asking = true;
    await this.#actions.past();
    this.#asking = false;
    if (this.#thread !== thread || thread.messages[0]?.seq !== first) this.#older();
  }

  // Writing

  #typed() {
    const text = $("draft").value;
    this.problem = this.#actions.problem(text.trim());
    this.#fit();
    this.#actions.draft(text);
    this.#choice = 0;
    this.#refused = false;
    this.#showReplies();
    clearTimeout(this.#typingTimer);
    if (!text.trim() || this.#choosing) return this.#notTyping();
    this.#typingTimer = setTimeout(() => this.#notTyping(), TYPING_AGAIN);
    if (Date.now() - this.#typedAt < TYPING_AGAIN / 2) return undefined;
    this.#typedAt = Date.now();
    return this.#actions.typing(this.#thread.customer, true);
  }

  #notTyping() {
    clearTimeout(this.#typingTimer);
    if (this.#typedAt) this.#actions.typing(this.#thread.customer, false);
    this.#typedAt = 0;
  }

  #key(event) {
    if (composes(event)) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (this.#choosing && step && !event.altKey) {
      event.preventDefault();
      const options = $("replies").children.length;
      this.#choice = (this.#choice + step + options) % options;
      this.#showReplies();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "Tab" && this.#choosing && !event.shiftKey) {
      event.preventDefault();
      this.#take(this.#choice);
    } else if (event.key === "Escape" && this.#choosing) {
      event.preventDefault();
      this.#refused = true;
      this.#showReplies();
    }
  }

  #submit() {
    if (this.#choosing) return this.#take(this.#choice);
    const text = $("draft").value.trim();
    if (!text || !this.#thread) return undefined;
    this.#notTyping();
    this.#set("");
    this.#stick = true;
    return this.#actions.send(text);
  }

  #set(text) {
    $("draft").value = text;
    this.problem = this.#actions.problem(text.trim());
    this.#choice = 0;
    this.#refused = false;
    this.#fit();
    this.#showReplies();
  }

  #fit() {
    const draft = $("draft");
    draft.style.height = "auto";
    draft.style.height = `${Math.min(draft.scrollHeight + 2, 200)}px`;
  }

  // Canned replies

  #fitting() {
    return fittingReplies(readReplies(browser.getItem(LINES) ?? REPLIES), $("draft").value);
  }

  get #choosing() {
    return !$("replies").hidden;
  }

  /** Whoever writes `/` is offered all replies, and then those that fit; what none fits is a message. */
  #showReplies() {
    const draft = $("draft");
    const found = this.#refused ? [] : this.#fitting();
    const calls = found.length > 0 || (draft.value === "/" && !this.#refused);
    const options = found.map(({ key, text }) => [h("b", {}, `/${key}`), " ", text]);
    if (calls) options.push(["Edit the replies…"]);
    const list = $("replies");
    list.hidden = !calls;
    list.replaceChildren(...options.map((parts, i) => {
      const option = h("li", { id: `reply-${i}`, role: "option", "aria-selected": String(i === this.#choice) }, parts);
      option.addEventListener("click", () => this.#take(i));
      return option;
    }));
    list.children[this.#choice]?.scrollIntoView({ block: "nearest" });
    if (calls) draft.setAttribute("aria-activedescendant", `reply-${this.#choice}`);
    else draft.removeAttribute("aria-activedescendant");
  }

  async #take(i) {
    const reply = this.#fitting()[i];
    if (reply) {
      this.#set(filled(reply, this.#name));
      this.#actions.draft($("draft").value);
      return this.focus();
    }
    this.#set("");
    this.#actions.draft("");
    $("lines").value = browser.getItem(LINES) ?? REPLIES;
    if ((await ask($("editing"))) === "save") browser.setItem(LINES, $("lines").value);
    return this.focus();
  }
}

/** A row as `into` has it; only the parts that differ are touched, and what is selected or has the focus stays so. */
function changed(row, into) {
  const focused = row.contains(document.activeElement);
  const parts = [...into.children];
  row.className = into.className;
  [...row.children].forEach((part, i) => part.isEqualNode(parts[i]) || part.replaceWith(parts[i]));
  if (focused && !row.contains(document.activeElement)) row.querySelector("button")?.focus();
  return row;
}

function said({ label, detail }) {
  return detail ? `${label}, ${detail}` : label;
}

function notSent({ failed }) {
  return `Not sent: ${failed}`;
}
