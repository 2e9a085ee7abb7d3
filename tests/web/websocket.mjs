// The WebSocket of Node 22 and newer, or, before that, of the package `ws`.
export const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
