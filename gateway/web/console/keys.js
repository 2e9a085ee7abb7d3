/**
 * The shortcuts. All of them with Alt, so that none is hit while writing (WCAG 2.1.4), and by the
 * place of the key, so that a layout in which Alt makes letters has them as well.
 */

import { $, h } from "./dom.js";

const KEYS = [
  ["ArrowDown", "↓", "next", "the next conversation"],
  ["ArrowUp", "↑", "previous", "the one before"],
  ["KeyU", "U", "unanswered", "the one that has waited longest"],
  ["KeyF", "F", "filter", "the next filter: unanswered, live, all"],
  ["KeyS", "S", "search", "search the inbox"],
  ["KeyC", "C", "write", "back to the message"],
  ["KeyW", "W", "why", "why: what became of your last message"],
  ["KeyI", "I", "customer", "the customer’s devices and last push"],
  ["KeyE", "E", "end", "end the conversation"],
  ["KeyH", "H", "help", "this list"],
];
const OTHERS = [
  [["Alt", "1…9"], "the first to ninth conversation of the list"],
  [["/"], "a canned reply, in an empty message: choose with ↑ ↓, take with Enter"],
  [["Enter"], "sends; Shift Enter is a new line"],
  [["Esc"], "closes what is open; from the message to the search"],
];

export function listenForKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || $("app").hidden) return;
    if (event.key === "Escape" && !event.defaultPrevented) return actions.leave();
    if (!event.altKey || event.ctrlKey || event.metaKey) return undefined;
    const digit = /^Digit([1-9])$/.exec(event.code);
    const [, , action] = KEYS.find(([code]) => code === event.code) ?? [];
    if (!digit && !action) return undefined;
    event.preventDefault();
    return digit ? actions.nth(Number(digit[1])) : actions[action]();
  });
  const rows = [...KEYS.map(([, key, , text]) => [["Alt", key], text]), ...OTHERS];
  $("keys").replaceChildren(...rows.map(([keys, text]) => h("div", {},
    h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, text))));
}
