/** Beside the thread: the customer, or why a message went the way it went. */

import { $, avatar, day, exact, h, time } from "./dom.js";
import { words } from "./state.js";

export class Panel {
  away = false; // the connection is: who is in chat is not known
  #customer = null;
  #why = null; // {message, told}; null shows the customer

  constructor() {
    $("panel-close").addEventListener("click", () => this.close());
  }

  get open() {
    return !$("panel").hidden;
  }

  /** Another customer was chosen. */
  begin(customer) {
    if (customer !== this.#customer) this.#why = null;
    this.#customer = customer;
  }

  toggle() {
    if (this.open && this.#why === null) return this.close();
    this.#why = null;
    return this.#reveal();
  }

  close() {
    const inside = $("panel").contains(document.activeElement);
    this.#why = null;
    document.body.classList.remove("paneled");
    if (inside) $("details").focus();
    $("panel-body").replaceChildren();
    $("panel").hidden = true;
    $("details").setAttribute("aria-expanded", "false");
  }

  /** Show what became of a message; `told` is null while it is asked for. */
  why(message, told) {
    if (told !== null && this.#why?.message.id !== message.id) return; // something else is looked at
    this.#why = { message, told };
    if (told === null) this.#reveal();
    this.#showWhy();
    if (told !== null) $("panel-body").focus();
  }

  show(thread, entry) {
    if (!this.open || this.#why !== null || !thread) return;
    const { facts } = thread;
    const name = entry?.name || thread.customer;
    const push = thread.lastPush;
    $("panel-title").textContent = "Customer";
    $("panel-body").replaceChildren(
      h("div", { className: "person" }, avatar(name, facts.in_chat), h("p", { className: "big", dir: "auto" }, name),
        h("p", { className: "muted id" }, thread.customer)),
      list([
        ["Chat", this.away ? "not known just now" : facts.in_chat ? "on screen now" : "not on screen"],
        ...(this.away || facts.sessions === undefined ? [] : [["Sessions", facts.sessions]]),
        ["Devices", facts.devices === 0 ? "none: cannot be rung" : facts.devices ?? "–"],
        ["Unread", facts.unread ?? "–"],
        ["Conversation", facts.live ? "live" : "ended"],
        ["Messages", facts.seq === undefined ? "–" : Math.max(facts.seq, thread.newest)],
        ["Last push", push ? `${words(push.verdict)}, ${day(push.at)} ${time(push.at)}` : thread.askedForPush ? "none lately" : "…"],
      ]),
      h("p", { className: "muted" }, "The mark below each message says what became of it; choose it to see why."));
  }

  #reveal() {
    $("panel").hidden = false;
    document.body.classList.add("paneled");
    $("details").setAttribute("aria-expanded", "true");
    if (getComputedStyle($("details")).visibility === "hidden") $("panel-body").focus(); // all else is covered
  }

  #showWhy() {
    const { message, told } = this.#why;
    $("panel-title").textContent = "Why";
    const quote = h("blockquote", { dir: "auto" }, message.text);
    if (told === null) {
      $("panel-body").replaceChildren(quote, h("p", { className: "muted", role: "status" }, "Looking it up…"));
    } else if (told.problem) {
      $("panel-body").replaceChildren(quote, h("p", { className: "error", role: "alert" }, told.problem));
    } else {
      $("panel-body").replaceChildren(quote,
        ...told.summary.map((line) => h("p", { className: "summary" }, unbroken(line))),
        h("h3", {}, "What happened, in UTC"),
        h("ol", { className: "timeline" }, told.events.map((event, i) => h("li", { className: [event.event, event.verdict ?? event.outcome].join(" ") },
          h("p", {}, h("b", {}, words(event.event)), " ", h("time", { dateTime: event.at }, exact(event.at, told.events[i - 1]?.at))),
          h("p", {}, event.words)))));
    }
  }
}

/** With dates that no line breaks in two. */
function unbroken(text) {
  return text.replace(/(\d{4})-(\d\d)-(\d\d)T([\d:]{8})[\d.]*Z/g, "$1\u2011$2\u2011$3 $4 UTC");
}

function list(facts) {
  return h("dl", {}, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}
