/** What a client has of a browser: visibility, signs of life, the network's return, storage. */

import { attempt } from "./devices.js";

const ACTIVITY = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];

export function browser() {
  let leaving = false; // the page's own end hides it too, and is no way to the background
  const visible = () => leaving || document.visibilityState === "visible";
  return {
    visible,
    watch({ visibility, activity, network }) {
      const ending = new AbortController();
      const { signal } = ending;
      document.addEventListener("visibilitychange", () => {
        if (document.visibilityState === "visible") activity();
        visibility();
      }, { signal });
      addEventListener("pagehide", () => (leaving = visible()), { signal });
      addEventListener("pageshow", () => {
        leaving = false;
        visibility();
        network();
      }, { signal });
      for (const type of ACTIVITY) {
        addEventListener(type, activity, { signal, capture: true, passive: true });
      }
      addEventListener("online", network, { signal });
      addEventListener("offline", network, { signal }); // is the socket dead, then?
      return () => ending.abort();
    },
    storage: attempt(() => localStorage), // without one nothing survives a reload
  };
}
