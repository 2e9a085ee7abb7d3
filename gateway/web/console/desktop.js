/** Notifications of the desktop, for who asked for them, about what nobody looks at. */

import { attempt } from "../devices.js";
import { $, browser } from "./dom.js";

const WANTED = "ringback console notifications";

export class Desktop {
  #select;

  constructor(select) {
    this.#select = select;
    $("bell").hidden = !able();
    $("bell").addEventListener("click", () => this.#toggle());
    this.#show();
  }

  get #on() {
    return globalThis.Notification?.permission === "granted" && browser.getItem(WANTED) === "yes";
  }

  tell(entry) {
    if (!this.#on) return;
    const name = entry.name || entry.customer;
    // One for each customer: a newer one takes its place.
    const told = attempt(() => new Notification(name, {
      body: [...entry.last.text].slice(0, 140).join(""), tag: entry.customer, icon: "/web/console/icon.svg",
    }));
    told?.addEventListener("click", () => {
      window.focus();
      told.close();
      this.#select(entry.customer);
    });
  }

  async #toggle() {
    if (this.#on) browser.removeItem(WANTED);
    else if ((await Notification.requestPermission()) === "granted") browser.setItem(WANTED, "yes");
    this.#show();
  }

  #show() {
    const refused = globalThis.Notification?.permission === "denied";
    $("bell").setAttribute("aria-pressed", String(this.#on));
    $("bell").title = refused ? "The browser’s settings forbid notifications of this page" : "";
  }
}

/** Whether the browser shows a page's own notifications: Chromium on a phone throws, and asks for a service worker. */
function able() {
  const shown = globalThis.Notification?.permission === "granted"; // then, trying would show one
  return shown || Boolean(attempt(() => new Notification("")));
}
