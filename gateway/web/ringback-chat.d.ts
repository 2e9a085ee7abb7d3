import type { RingbackClient, Token } from "./ringback-client.js";

/** The `<ringback-chat>` element; attributes and style properties are in docs/web.md. */
export class RingbackChat extends HTMLElement {
  readonly client: RingbackClient | null;
  readonly unread: number;
  token: Token | null;
  open: boolean;
  labels: Record<string, unknown>;
  signOut(): Promise<boolean>;
}

declare global {
  interface HTMLElementTagNameMap {
    "ringback-chat": RingbackChat;
  }
  interface HTMLElementEventMap {
    "ringback-open": CustomEvent;
    "ringback-close": CustomEvent;
    "ringback-unread": CustomEvent<{ unread: number }>;
  }
}
