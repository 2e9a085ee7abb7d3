/** The list of conversations: filters, search, and a row for each. */

import { composes } from "../elements.js";
import { $, avatar, h, place, time } from "./dom.js";
import { MOST, ago } from "./state.js";

const EMPTY = {
  unanswered: ["All answered", "Customers who wait for an answer appear here by themselves."],
  live: ["All quiet", "Conversations appear here as soon as somebody writes."],
  all: ["No conversations yet", "The first customer who writes appears here by themselves."],
};
const LOADING = "Loading the inbox";
const PARTLY = `Only the newest ${MOST.toLocaleString()} conversations were searched.`;

export class InboxView {
  listed = [];
  loading = true;
  #filter = "live";
  #said = ""; // below the list
  #pressed = false; // a pointer is down on a row: the list stands still, else there would be no click
  #actions;
  #rows = new Map(); // customer -> [signature, element]

  constructor(actions) {
    this.#actions = actions;
    for (const button of this.#buttons()) {
      button.addEventListener("click", () => this.#choose(button.dataset.filter));
    }
    $("search").addEventListener("input", () => actions.show());
    $("search").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || composes(event) || !this.listed.length) return;
      event.preventDefault(); // else it is written where the focus goes
      actions.select(this.listed[0].customer);
    });
    $("list").addEventListener("scroll", ({ target }) => {
      const left = target.scrollHeight - target.scrollTop - target.clientHeight;
      if (left < 200) actions.more(this.#filter);
    });
    $("list").addEventListener("pointerdown", ({ button, target }) => {
      this.#pressed = button === 0 && target.closest("[data-customer]") !== null;
    });
    for (const type of ["pointerup", "pointercancel", "contextmenu", "blur"]) {
      addEventListener(type, () => this.#pressed && setTimeout(() => this.#release())); // after the click
    }
    setInterval(() => actions.show(), 30_000); // how long ago is another time now
  }

  nextFilter() {
    const names = this.#buttons().map((button) => button.dataset.filter);
    this.#choose(names[(names.indexOf(this.#filter) + 1) % names.length]);
  }

  /** The focus to a conversation's row or, if it is not listed, to the filter. */
  focus(customer) {
    const row = this.#listed(customer) ?? $("app").querySelector("[data-filter][aria-pressed=true]");
    row.focus();
  }

  /** Scroll to a conversation, as far as needed: to its row, as what is in one out of sight is not laid out. */
  reveal(customer) {
    this.#rows.get(customer)?.[1].scrollIntoView({ block: "nearest" });
  }

  #listed(customer) {
    const row = this.#rows.get(customer)?.[1];
    return row?.isConnected ? row.querySelector("button") : undefined;
  }

  #release() {
    this.#pressed = false;
    this.#actions.show();
  }

  show(inbox, selected) {
    if (this.#pressed) return;
    const words = $("search").value.trim();
    this.listed = inbox.list(this.#filter, words);
    for (const button of this.#buttons()) {
      const { filter } = button.dataset;
      button.setAttribute("aria-pressed", String(filter === this.#filter));
      const count = button.querySelector("b");
      if (count) count.textContent = inbox.count(filter);
    }
    const focused = document.activeElement?.closest?.("[data-customer]");
    const at = focused && [...$("list").children].indexOf(focused.parentElement);
    const rows = this.listed.map((entry) => this.#row(entry, entry.customer === selected));
    place($("list"), rows);
    if (focused && document.activeElement !== focused) {
      // Whoever was at a row that left is at the one that took its place.
      const next = this.listed[Math.min(at, rows.length - 1)]?.customer;
      this.focus(this.#listed(focused.dataset.customer) ? focused.dataset.customer : next);
    }
    const more = inbox.more(this.#filter);
    const onward = more && (this.#short || words !== "" && inbox.got(this.#filter) < MOST);
    this.#say(words, more, onward);
    if (onward) this.#actions.more(this.#filter);
  }

  /** Whether the list is seen and has room for more: then it cannot be scrolled to ask for more. */
  get #short() {
    const list = $("list");
    return list.offsetParent !== null && list.scrollHeight <= list.clientHeight;
  }

  #say(words, more, onward) {
    const [title, text] = this.#state(words, more, onward);
    const state = $("list-state");
    state.hidden = !title;
    if (this.#said === `${title} ${text}`) return; // a screen reader would read it again
    this.#said = `${title} ${text}`;
    if (title === LOADING) {
      state.replaceChildren(...Array.from({ length: 5 }, () => h("i", { className: "bone" })),
        h("span", { className: "hidden" }, title));
    } else state.replaceChildren(text ? h("h2", {}, title) : title, text ? h("p", {}, text) : "");
  }

  /** [title, text] below the list, or in its place. */
  #state(words, more, onward) {
    const some = this.listed.length > 0;
    if (words && onward) return ["Searching…"];
    if (some) return [!more ? "" : words ? PARTLY : "Scroll for more"];
    if (this.loading || onward) return [LOADING];
    if (words) return ["Nothing found", more ? PARTLY : "No name, id or last words fit."];
    return EMPTY[this.#filter];
  }

  #row(entry, selected) {
    const now = this.#actions.now();
    const signature = JSON.stringify([entry, selected, ago(entry.updated_at, now)]);
    const [before, made] = this.#rows.get(entry.customer) ?? [];
    if (before === signature) return made;
    const name = entry.name || entry.customer;
    const { last, live, unanswered_since: unanswered, in_chat, waiting } = entry;
    const state = [in_chat ? "in chat" : "away", unanswered ? "unanswered" : live ? "live" : "ended"];
    const button = h("button", {
      type: "button", className: `row${unanswered ? " unanswered" : ""}`,
      "aria-current": selected ? "true" : null, "data-customer": entry.customer,
    },
    avatar(name, in_chat),
    h("span", { className: "name", dir: "auto" }, name),
    h("time", { dateTime: entry.updated_at, title: time(entry.updated_at) }, ago(entry.updated_at, now)),
    h("span", { className: "last", dir: "auto" }, last ? `${said(last)}${last.text}` : "Nothing said yet"),
    waiting ? h("span", { className: "badge" }, waiting > 99 ? "99+" : String(waiting),
      h("span", { className: "hidden" }, " new")) : null,
    !waiting && unanswered ? h("span", { className: "tag" }, "waits") : null,
    h("span", { className: "hidden" }, state.join(", ")));
    button.addEventListener("click", () => this.#actions.select(entry.customer));
    const row = h("li", {}, button);
    this.#rows.set(entry.customer, [signature, row]);
    return row;
  }

  #choose(filter) {
    this.#filter = filter;
    this.#actions.show();
    $("list").scrollTop = 0;
  }

  #buttons() {
    return [...document.querySelectorAll("[data-filter]")];
  }
}

function said(last) {
  return last.from.role === "customer" ? "" : last.from.role === "agent" ? "↩ " : "⚙ ";
}
