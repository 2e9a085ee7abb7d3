/**
 * The shortcuts. All of them with Alt, so that none is hit while writing (WCAG 2.1.4), and by the
 * place of the key, so that every layout has them. On a Mac, Alt (Option) makes characters: in a
 * text field it does, and shortcuts take Control besides.
 */

import { composes } from "../elements.js";
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
const MAC = /^(Mac|iP)/.test(navigator.platform);
const OTHERS = [
  ...(MAC ? [[["Control", "Alt"], "instead of Alt, in a text field: there, Alt makes characters"]] : []),
  [["Alt", "1…9"], "the first to ninth conversation of the list"],
  [["/"], "a canned reply, in an empty message: choose with ↑ ↓, take with Enter"],
  [["Enter"], "sends; Shift Enter is a new line"],
  [["Esc"], "closes what is open; from the message to the search"],
];

export function listenForKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || $("app").hidden) return;
    if (event.key === "Escape" && !event.defaultPrevented && !composes(event)) return actions.leave();
    if (!event.altKey || (event.ctrlKey && !MAC) || event.metaKey || writes(event)) return undefined;
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

/** Whether a key makes a character where it is pressed, or begins one: on a Mac, Alt E is “´” or “ę”. */
function writes({ key, code, ctrlKey, target }) {
  if (!MAC || ctrlKey || !target.matches("input, textarea")) return false;
  const plain = code.replace(/^(Key|Digit)/, "").toLowerCase();
  return key === "Dead" || ([...key].length === 1 && key.toLowerCase() !== plain);
}
