/** Alice's phone: her chat on screen, her home screen, or her lock screen, where pushes appear. */

import "/web/ringback-chat.js";

const DEVICE_TOKEN = "alices-device-token";
const NOTES = 4; // at most, on a screen
const AGAIN = 1_000; // ms
const at = (id) => document.getElementById(id);

export class Phone {
  #chat;
  #came = null; // how many of the backend's rings have reached the phone
  #notes = []; // the newest first

  constructor(places) {
    const attributes = {
      url: `${places.phone}/v1/chat`, http: places.http, "token-url": "/token?role=customer",
      inline: "", heading: "Acme", "idle-after": "0",
    };
    this.#chat = document.createElement("ringback-chat");
    for (const [name, value] of Object.entries(attributes)) this.#chat.setAttribute(name, value);
    at("chat-screen").append(this.#chat);
    this.#chat.addEventListener("ringback-unread", ({ detail }) => {
      if (this.#looking) this.#setBadge(detail.unread);
    });
    this.#register();
    for (const name of ["background", "locked"]) at(name).addEventListener("change", () => this.#look());
    at("app").addEventListener("click", () => this.#open());
    at("unlock").addEventListener("click", () => this.#open());
    setInterval(() => this.#time(), 1_000);
    this.#time();
    this.#look();
  }

  /** What has become so: the rings that the backend passed on, and whether they can arrive. */
  take({ airplane, rings, ringsBefore }) {
    at("signal").textContent = airplane ? "✈ no network" : "5G";
    const all = ringsBefore + rings.length;
    this.#came ??= all; // the page was opened, and so was the app: those are of before
    if (airplane) return;
    const fresh = rings.slice(Math.max(0, this.#came - ringsBefore));
    this.#came = all;
    for (const ring of fresh) this.#ring(ring);
  }

  get #looking() {
    return !at("background").checked && !at("locked").checked;
  }

  #ring({ text, badge }) {
    this.#setBadge(badge);
    if (badge === 0) this.#notes = [];
    if (text !== null && !this.#looking) {
      this.#notes = [this.#note({ text, badge }), ...this.#notes].slice(0, NOTES);
      at("rang").textContent = `The phone rings: ${text}. ${badge} unread.`;
    }
    this.#show();
  }

  #setBadge(value) {
    at("badge").textContent = String(value);
    at("badge").hidden = value === 0;
    at("app").setAttribute("aria-label", value ? `Open Acme, ${value} unread` : "Open Acme");
  }

  #open() {
    at("background").checked = at("locked").checked = false;
    this.#look();
    this.#chat.shadowRoot.querySelector("textarea").focus(); // what was pressed is gone
  }

  /** As the app is told by its system: shown, hidden, or suspended, which ends its connection. */
  #look() {
    const locked = at("locked").checked;
    const { client } = this.#chat;
    client?.show(this.#looking);
    if (locked) client?.stop();
    else client?.start();
    if (this.#looking) this.#notes = [];
    at("chat-screen").hidden = !this.#looking;
    at("lock-screen").hidden = !locked;
    at("home-screen").hidden = locked || this.#looking;
    this.#show();
  }

  /** The notes that stay are not touched: one may have the focus. */
  #show() {
    for (const note of document.querySelectorAll(".note")) if (!this.#notes.includes(note)) note.remove();
    const list = document.querySelector(".screen:not([hidden]) > .notes");
    this.#notes.forEach((note, i) => {
      if (list && list.children[i] !== note) list.insertBefore(note, list.children[i] ?? null);
    });
  }

  #note({ text, badge }) {
    const note = document.createElement("button");
    note.type = "button";
    note.className = "note";
    const head = document.createElement("b");
    const count = document.createElement("i");
    count.textContent = String(badge);
    count.setAttribute("aria-label", `${badge} unread`);
    count.setAttribute("role", "img");
    head.append("Acme · New Message", count);
    const body = document.createElement("span");
    body.textContent = text;
    body.dir = "auto";
    note.append(head, body);
    note.addEventListener("click", () => this.#open());
    return note;
  }

  /** What an app does at its start: tell its device token, until the gateway has it. */
  async #register() {
    const details = { platform: "ios", app: "com.acme.app" };
    try {
      await this.#chat.client.registerDevice(DEVICE_TOKEN, details);
      document.body.dataset.registered = "";
    } catch {
      setTimeout(() => this.#register(), AGAIN); // it is away
    }
  }

  #time() {
    const now = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    at("clock").textContent = at("lock-clock").textContent = now;
  }
}
