/** Making elements. Texts of others only ever become text nodes here. */

import { attempt, lasting } from "../devices.js";

/** What this tab, and this browser, keep: in memory alone where that is switched off or full. */
export const tab = lasting(attempt(() => sessionStorage));
export const browser = lasting(attempt(() => localStorage));

export const $ = (id) => document.getElementById(id);

/** An element with properties, `class`, `data-…` and `aria-…` attributes, and children. */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/**
 * Put rows in order, and touch those that stay where they are as little as can be: a screen reader
 * reads what is new, and of many rows only those are laid out again.
 */
export function place(list, rows) {
  const wanted = new Set(rows);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  let next = list.firstElementChild;
  for (const row of rows) {
    if (next && row === next.nextElementSibling) { // its place is further down
      next.remove();
      next = row;
    }
    if (row === next) next = next.nextElementSibling;
    else list.insertBefore(row, next);
  }
}

/** A dialog's answer, "" when it was left. Whoever asks says where the focus goes afterwards. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      document.activeElement?.blur(); // Chromium gives the focus back, but leaves the caret behind
      resolve(dialog.returnValue);
    }, { once: true });
  });
}

/** To a live region; a screen reader reads what is written again, also if it is the same. */
export function tell(region, text) {
  if (region.textContent !== text) region.textContent = text;
}

export function initials(name) {
  const parts = name.trim().split(/[\s._-]+/).filter(Boolean);
  return [...(parts[0] ?? "?")][0].toUpperCase() + ([...(parts[1] ?? "")][0] ?? "").toUpperCase();
}

export function avatar(name, inChat) {
  const hue = [...name].reduce((sum, char) => sum + char.codePointAt(0), 0) % 6;
  return h("span", { className: `avatar hue${hue}`, "aria-hidden": "true" }, initials(name),
    inChat ? h("i", { className: "dot" }) : null);
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

export const time = (at) => TIME.format(new Date(at));

/** As the sentences of the timeline say times: UTC, to the millisecond, with the date if it is another than `beside`'s. */
export const exact = (at, beside = "") => (at.slice(0, 10) === beside.slice(0, 10) ? "" : `${at.slice(0, 10)} `) + at.slice(11, 23);

export function day(at, now = new Date()) {
  const days = Math.round((midnight(now) - midnight(new Date(at))) / 86_400_000);
  return days === 0 ? "Today" : days === 1 ? "Yesterday" : DAY.format(new Date(at));
}

function midnight(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}
