/** DOM nodes from data: text only ever becomes text. */

import { attempt } from "./devices.js";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  chat: "M4 5.5A2.5 2.5 0 0 1 6.5 3h11A2.5 2.5 0 0 1 20 5.5v8a2.5 2.5 0 0 1-2.5 2.5H11l-4.4 4.2c-.6.6-1.6.2-1.6-.7V16a2.5 2.5 0 0 1-1-2z",
  send: "M3.4 20.4 21 12 3.4 3.6 3 10l12 2-12 2z",
  close: "m6.4 5 5.6 5.6L17.6 5 19 6.4 13.4 12l5.6 5.6-1.4 1.4-5.6-5.6L6.4 19 5 17.6l5.6-5.6L5 6.4z",
  check: "m9.5 16.6-4.1-4.1L4 13.9l5.5 5.5L20.3 8.6l-1.4-1.4z",
  checks: "m6 16.6-4.1-4.1L.5 13.9 6 19.4 16.8 8.6l-1.4-1.4zm5.4-.6.6.6 9.4-9.4 1.4 1.4L12 19.4l-2-2z",
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
