import type { Environment } from "./ringback-client.js";

/** What a client has of a browser, for the second argument of `RingbackClient`. */
export function browser(): Pick<Environment, "visible" | "watch" | "storage">;
