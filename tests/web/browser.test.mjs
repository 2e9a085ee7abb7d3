import assert from "node:assert/strict";
import { test } from "node:test";

import { browser } from "../../gateway/web/browser.js";

/** A page, as far as it tells of itself, and what comes of it. */
function page() {
  const window = new EventTarget();
  const told = [];
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const it = browser();
  const tell = (what) => () => told.push(what);
  const end = it.watch({ visibility: tell("visibility"), activity: tell("activity"), network: tell("network") });
  return {
    it, end,
    comes: (type) => {
      window.dispatchEvent(new Event(type));
      return told.splice(0);
    },
    turns: (state) => {
      document.visibilityState = state;
      document.dispatchEvent(new Event("visibilitychange"));
      return told.splice(0);
    },
  };
}

test("a page is visible while it is shown, and whoever comes back to it is there", () => {
  const { it, turns } = page();
  assert.equal(it.visible(), true);
  assert.deepEqual(turns("hidden"), ["visibility"]);
  assert.equal(it.visible(), false);
  assert.deepEqual(turns("visible"), ["activity", "visibility"]);
  assert.equal(it.visible(), true);
});

test("a page that is left from sight does not turn hidden by that, and is as it is when it is back", () => {
  const { it, comes, turns } = page();
  assert.deepEqual(comes("pagehide"), []);
  turns("hidden");
  assert.equal(it.visible(), true);
  assert.deepEqual(comes("pageshow"), ["visibility", "network"]);
  assert.equal(it.visible(), false);
  comes("pagehide"); // left while it was hidden
  assert.equal(it.visible(), false);
});

test("a pointer, a key, a wheel and a touch are signs of life", () => {
  const { comes } = page();
  for (const type of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
    assert.deepEqual(comes(type), ["activity"], type);
  }
});

test("a network that comes or goes is told", () => {
  const { comes } = page();
  for (const type of ["online", "offline"]) assert.deepEqual(comes(type), ["network"], type);
});

test("nothing is told any more once nobody watches", () => {
  const { comes, end, turns } = page();
  end();
  for (const type of ["pagehide", "pageshow", "keydown", "online", "offline"]) assert.deepEqual(comes(type), []);
  assert.deepEqual(turns("hidden"), []);
});

test("a storage that is forbidden is none", () => {
  const had = Object.getOwnPropertyDescriptor(globalThis, "localStorage");
  try {
    Object.defineProperty(globalThis, "localStorage", { configurable: true, get: () => { throw new Error("no"); } });
    assert.equal(browser().storage, undefined);
    Object.defineProperty(globalThis, "localStorage", { configurable: true, value: "kept" });
    assert.equal(browser().storage, "kept");
  } finally {
    if (had) Object.defineProperty(globalThis, "localStorage", had);
    else delete globalThis.localStorage;
  }
});
