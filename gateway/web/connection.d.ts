/** A frame of the protocol, as docs/protocol.md describes it. */
export interface Frame {
  type: string;
  ref?: string;
  [field: string]: any;
}

export interface Limits {
  frame_bytes: number;
  text_chars: number;
  data_bytes: number;
  resume: number;
  sends_per_minute: number;
  burst: number;
  sessions: number;
  /** seconds */
  ack_timeout: number;
  /** seconds */
  restart_window: number;
}

/** A JWT, or what is asked for one, and again when it has expired. */
export type Token = string | (() => string | Promise<string>);

export type Phase = "idle" | "connecting" | "connected" | "waiting" | "ended";

/** What of `WebSocket` is used. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number): void;
}

/** What a connection has of the platform. Times in ms; `random` in [0, 1). */
export interface Platform {
  socket(url: string, protocols: string[]): Socket;
  now(): number;
  monotonic(): number;
  setTimer(callback: () => void, ms: number): any;
  clearTimer(timer: any): void;
  random(): number;
  uuid(): string;
}

export interface ConnectionOptions {
  /** the WebSocket's address */
  url: string;
  token: Token;
  /** gets each token before the connection that is made with it */
  onToken?(token: string): void;
  /** makes the rest of the hello */
  hello?(): Record<string, unknown>;
  /** gets the welcome frame, before anything else of its session */
  onWelcome?(frame: Frame): void;
  /** gets each later frame, and the request that it answers, if any */
  onFrame?(frame: Frame, request?: { ref: string; frame: Frame; isSend: boolean }): void;
  /** is told of each change of `phase` */
  onChange?(phase: Phase, detail: { wait?: number; code?: number | null }): void;
  /** gets what a token callback threw */
  onError?(error: unknown): void;
}

export interface RequestOptions {
  ref?: string;
  isSend?: boolean;
  quiet?: boolean;
}

export class Connection {
  constructor(options: ConnectionOptions, environment?: Partial<Platform>);
  readonly phase: Phase;
  readonly endCode: number | null;
  readonly connected: boolean;
  readonly limits: Limits | null;
  readonly serverNow: number;
  set holding(value: boolean);
  start(): void;
  stop(code?: number): void;
  nudge(): void;
  drop(): void;
  request(frame: Frame, options?: RequestOptions): Promise<Frame>;
  settle(ref: string, answer: Frame): void;
  lineUp(refs: Iterable<string>): void;
  withdraw(ref: string): void;
  note(frame: Frame, key?: string): void;
}

export class RingbackError extends Error {}
export class RequestFailed extends RingbackError {
  readonly code: string;
}
export class ConnectionEnded extends RingbackError {
  readonly code: number | null;
}
export class ConnectionLost extends RingbackError {}
export class OutboxFull extends RingbackError {}

export const SUBPROTOCOL: string;
export const platform: Platform;
