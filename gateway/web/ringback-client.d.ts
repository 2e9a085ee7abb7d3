import type { Connection, Frame, Limits, Phase, Platform, Token } from "./connection.js";

export * from "./connection.js";

export interface Author {
  role: "customer" | "agent" | "service";
  id: string;
  name?: string;
}

export interface Message {
  seq: number;
  id: string;
  from: Author;
  text: string;
  data?: Record<string, unknown>;
  kind: "chat" | "proactive" | "system";
  /** RFC 3339 */
  at: string;
  /** only on one's own */
  ref?: string;
}

/** One's own message that is not confirmed. */
export interface Pending {
  ref: string;
  text: string;
  data?: Record<string, unknown>;
  /** ms since 1970 */
  at: number;
  state: "waiting" | "failed";
  error?: { code: string; message: string };
}

export interface Status {
  seq: number;
  readSeq: number;
  unread: number;
  live: boolean;
  badgeSeq: number | null;
  /** agents' clients have everything up to it: one's own messages up to there are delivered */
  agentsAckedSeq: number;
  /** agents have read up to it */
  agentsReadSeq: number;
}

export interface Sent {
  ref: string;
  seq: number;
  id: string;
  at: string;
  duplicate?: boolean;
}

export interface DeviceDetails {
  platform?: string;
  app?: string;
  environment?: string;
  locale?: string;
  /** of the IANA data base: quiet hours are by its clock */
  time_zone?: string;
}

/** As `localStorage`; synchronous. */
export interface ClientStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** What a client has of where it runs, beside the platform's socket, clock and chance. */
export interface Environment extends Platform {
  /** Whether the page or app is in front; true when not given. */
  visible(): boolean;
  /** Tell of changes; returns what ends that. */
  watch(told: { visibility(): void; activity(): void; network(): void }): () => void;
  storage?: ClientStorage;
  fetch(url: string, request: any): Promise<any>;
}

export interface ClientOptions {
  /** wss://…/v1/chat */
  url: string;
  token: Token;
  /** where /v1/devices is; the WebSocket's origin unless told */
  http?: string;
  /** this install of the app; made and kept in storage unless told */
  installation?: string;
  /** whether chat is on screen now; true unless told */
  shown?: boolean;
  /** ms without activity after which nobody is there (120,000 unless told); 0 for never */
  idleAfter?: number;
}

export interface ClientEvents {
  /** a message, one's own confirmed ones too, in order of seq */
  message: Message;
  /** all that was held is replaced by these */
  reload: Message[];
  /** older messages, before those that were held */
  older: Message[];
  /** what is not confirmed changed */
  pending: Pending[];
  status: Status;
  /** who types; null for nobody any more */
  typing: Author | null;
  phase: { phase: Phase; wait?: number; code?: number | null };
  state: "active" | "background";
  /** every frame as it came */
  frame: Frame;
  /** what a token callback threw; it is asked again */
  error: unknown;
}

export class RingbackClient {
  constructor(options: ClientOptions, environment?: Partial<Environment>);
  /** What is being written, kept as theirs: set it at each key, and it is there after a reload. */
  draft: string;
  /** "idle", "connecting", "connected", "waiting" or "ended". */
  readonly phase: Phase;
  readonly connected: boolean;
  /** The close code after which the client stays away, while it does. */
  readonly endCode: number | null;
  /** The messages held, in order of seq with no gap: frames as in docs/protocol.md. */
  readonly messages: Message[];
  /** Whether older messages exist than those held. */
  readonly more: boolean;
  /** Everything up to this seq has arrived. */
  readonly seq: number;
  /** Everything up to this seq was seen: on screen with somebody there, here or on another device. */
  readonly seenSeq: number;
  /** One's own messages that are not confirmed: {ref, text, data?, at, state, error?}. */
  readonly pending: Pending[];
  /** As last told, with what was counted and read here since; null before a welcome. */
  readonly status: Status | null;
  readonly unread: number;
  /** "active" while somebody looks at chat, else "background". */
  readonly state: "active" | "background";
  readonly limits: Limits | null;
  readonly installation: string;
  readonly devices: Devices;
  /** Connect, and come back after every end until `stop`, or a code that says to stay away. */
  start(): void;
  /** Leave and stay away until `start`; sends that are not confirmed stay kept. */
  stop(): void;
  /**
   * The customer signs out: this device rings no more for them (at once, or as soon as there is a
   * network), what they had not sent is forgotten, the socket is left.
   * @returns whether the server has confirmed it already
   */
  signOut(): Promise<boolean>;
  /** Call back on each `type`; returns what ends that. */
  on<E extends keyof ClientEvents>(type: E, callback: (detail: ClientEvents[E]) => void): () => void;
  /** Chat comes on screen, or leaves it. */
  show(shown?: boolean): void;
  /** Somebody is here: a key, a touch. `environment.watch` tells it in a browser. */
  activity(): void;
  /** The network is back, or the app in front: try now. */
  nudge(): void;
  /**
   * Send a message. It is in `pending` at once; the promise ends with the server's `sent`, however
   * long that takes, or fails: then it stays in `pending` as "failed", for `retry` or `discard`.
   */
  send(text: string, data?: Record<string, unknown>): Promise<Sent>;
  /** Send a failed one again. */
  retry(ref: string): Promise<Sent>;
  /** Forget a failed one. */
  discard(ref: string): void;
  /** The customer types (call it at each key), or stops. */
  typing(on?: boolean): void;
  /** Everything that has arrived was seen. Done by itself while active. */
  markRead(): void;
  /** Load older messages before those held; how many came. */
  loadOlder(limit?: number): Promise<number>;
  /**
   * Register this installation's device token: at app start, and whenever the token changes.
   * Rejects with `Unreachable` (by its `name`) when it did not get through; it is then tried again.
   * @returns the deregistration key, which is kept in storage too; null if a sign-out or a newer
   * registration came meanwhile
   */
  registerDevice(token: string, details?: DeviceDetails): Promise<string | null>;
  /** Ring this installation no more; queued while offline. Whether the server has confirmed it. */
  deregisterDevice(): Promise<boolean>;
}

export class Devices {
  constructor(where: { http: string; token: Token }, environment?: Partial<Environment>);
  readonly installation: string;
  register(
    installation: string, token: string, details: DeviceDetails, connection?: Connection,
  ): Promise<string | null>;
  deregister(installation: string): Promise<boolean>;
  flush(connection?: Connection): void;
}

export interface NotificationStatus {
  unread: number;
  live: boolean;
  badgeSeq: number | null;
  seq: number | null;
  customer: string | null;
  kind: "message" | "proactive" | "badge" | null;
  id: string | null;
}

export function isOurs(payload: unknown): boolean;
export function conversationStatus(payload: unknown): NotificationStatus | null;
export function isDouble(payload: unknown, seenSeq: number): boolean;
export function shouldOpenChat(payload: unknown, seenSeq?: number): boolean;
