/** DOM nodes from data: text only ever becomes text. */

import { attempt } from "./devices.js";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  chat: "M5 4h14v11h-7l-5 5v-5H5z",
  send: "m5 5 15 7-15 7 2-7z",
  close: "m6 6 12 12M6 18 18 6",
  check: "m5 13 5 5L20 8 10 18z",
  checks: "m1 13 5 5L15 8 6 18zM12 17l1 1L22 8 13 18z",
};

export function element(name, attributes = {}, children = []) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Whether a key belongs to a word that is being composed. Safari says so of its last by the code alone. */
export const composes = ({ isComposing, keyCode }) => isComposing || keyCode === 229;

export const NEAR = 80; // px from an end that count as being there

/**
 * Keeps a box of rows at its newest, which is its end, when its size changes: until somebody scrolls
 * away. Then what is in sight stays where it is, whatever comes above or below it.
 */
export class Newest {
  #box;
  #kept = true;
  #resizes;
  #size = "";

  constructor(box) {
    this.#box = box;
    this.#resizes = new ResizeObserver(() => {
      this.#size = this.#measured;
      if (this.#kept) this.show();
    });
    this.#resizes.observe(box);
  }

  get inSight() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  show() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#kept = true;
  }

  /** Change the rows, of which those that stay and are in sight stay in their place. */
  still(change) {
    const { top } = this.#box.getBoundingClientRect();
    const messages = [...this.#box.querySelectorAll("li:not(.day)")]; // a day's name goes up to its first one
    const rows = messages.map((row) => [row, row.getBoundingClientRect()]);
    const seen = rows.filter(([, { bottom }]) => bottom > top);
    change();
    const [row, was] = seen.find(([{ isConnected }]) => isConnected) ?? [];
    if (row) this.#box.scrollTop += row.getBoundingClientRect().bottom - was.bottom;
  }

  /** The box has scrolled; whether somebody did it: a new size scrolls by itself. */
  scrolled() {
    if (this.#size !== this.#measured) return false;
    this.#kept = this.inSight;
    return true;
  }

  stop() {
    this.#resizes.disconnect();
  }

  get #measured() {
    return `${this.#box.clientWidth} ${this.#box.clientHeight}`;
  }
}

const ENDINGS = [...".,;:!?'’*"];

/** Text with its http(s) addresses as links; nothing else in it means anything. */
export function linked(text) {
  const nodes = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(/\bhttps?:\/\/[^\s<>"“”]+/gi)) {
    const address = trimmed(found);
    if (!attempt(() => new URL(address))) continue;
    nodes.push(text.slice(end, index));
    const attributes = { href: address, target: "_blank", rel: "noopener noreferrer nofollow" };
    nodes.push(element("a", attributes, [address]));
    end = index + address.length;
  }
  return [...nodes, text.slice(end)];
}

/** Without what ends the sentence around it; a closing bracket stays if the address opened it. */
function trimmed(address) {
  let unopened = address.split(")").length - address.split("(").length;
  let end = address.length;
  while (ENDINGS.includes(address[end - 1]) || (address[end - 1] === ")" && unopened-- > 0)) end -= 1;
  return address.slice(0, end);
}
