/** What a client has of a browser: visibility, signs of life, the network's return, storage. */

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
        if (visible()) activity();
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
    storage: usable(() => localStorage),
  };
}

/** Storage, unless it is switched off or full: then nothing survives a reload. */
function usable(get) {
  try {
    const storage = get();
    storage.setItem("ringback probe", "1");
    storage.removeItem("ringback probe");
    return storage;
  } catch {
    return undefined;
  }
}
