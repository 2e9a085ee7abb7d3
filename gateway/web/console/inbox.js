/** The list of conversations: filters, search, and a row for each. */

import { $, avatar, h, time } from "./dom.js";
import { ago } from "./state.js";

const EMPTY = {
  unanswered: ["All answered", "Customers who wait for an answer appear here by themselves."],
  live: ["All quiet", "Conversations appear here as soon as somebody writes."],
  all: ["No conversations yet", "The first customer who writes appears here by themselves."],
};

export class InboxView {
  listed = [];
  loading = true;
  #filter = "live";
  #actions;
  #rows = new Map(); // customer -> [signature, element]

  constructor(actions) {
    this.#actions = actions;
    for (const button of this.#buttons()) {
      button.addEventListener("click", () => this.#choose(button.dataset.filter));
    }
    $("search").addEventListener("input", () => actions.show());
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.listed.length) actions.select(this.listed[0].customer);
    });
    $("list").addEventListener("scroll", ({ target }) => {
      const left = target.scrollHeight - target.scrollTop - target.clientHeight;
      if (left < 200) actions.more(this.#filter);
    });
    setInterval(() => actions.show(), 30_000); // how long ago is another time now
  }

  nextFilter() {
    const names = this.#buttons().map((button) => button.dataset.filter);
    this.#choose(names[(names.indexOf(this.#filter) + 1) % names.length]);
  }

  show(inbox, selected, hasMore) {
    const words = $("search").value;
    this.listed = inbox.list(this.#filter, words);
    for (const button of this.#buttons()) {
      const { filter } = button.dataset;
      button.setAttribute("aria-pressed", String(filter === this.#filter));
      const count = button.querySelector("b");
      if (count) count.textContent = inbox.count(filter) || "";
    }
    const focused = document.activeElement?.closest?.("[data-customer]")?.dataset.customer;
    const rows = this.listed.map((entry) => this.#row(entry, entry.customer === selected));
    if (rows.some((row, i) => $("list").children[i] !== row) || $("list").children.length !== rows.length) {
      $("list").replaceChildren(...rows);
      if (focused) this.#rows.get(focused)?.[1].querySelector("button").focus();
    }
    this.#say(words, hasMore(this.#filter));
  }

  #say(words, more) {
    const state = $("list-state");
    state.hidden = this.listed.length > 0 && !more;
    if (this.loading && !this.listed.length) {
      state.replaceChildren(...Array.from({ length: 5 }, () => h("i", { className: "bone" })),
        h("span", { className: "hidden" }, "Loading the inbox"));
    } else if (this.listed.length) state.textContent = more ? "Scroll for more" : "";
    else if (words) state.replaceChildren(h("h2", {}, "Nothing found"), h("p", {}, "No name, id or last words fit."));
    else {
      const [title, text] = EMPTY[this.#filter];
      state.replaceChildren(h("h2", {}, title), h("p", {}, text));
    }
  }

  #row(entry, selected) {
    const now = Date.now();
    const signature = JSON.stringify([entry, selected, ago(entry.updated_at, now)]);
    const [before, made] = this.#rows.get(entry.customer) ?? [];
    if (before === signature) return made;
    const name = entry.name || entry.customer;
    const { last, live, unanswered, in_chat, waiting } = entry;
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
  }

  #buttons() {
    return [...document.querySelectorAll("[data-filter]")];
  }
}

function said(last) {
  return last.from.role === "customer" ? "" : last.from.role === "agent" ? "↩ " : "⚙ ";
}
