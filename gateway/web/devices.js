/**
 * The phone's registration: which device token rings for whom, and that it stops at sign-out.
 *
 * A deregistration is written down with its key before it is tried, and tried until the server has
 * it: the key works late, offline-queued, and after the customer's token has ended. Registering the
 * same installation again takes it back. No DOM: `environment` gives storage and fetch.
 */

import { RequestFailed, RingbackError, TOKEN_WITHIN, backoff, platform } from "./connection.js";

const INSTALLATION = "ringback installation";
const KEY = "ringback key ";
const QUEUED = "ringback deregister ";
const WITHIN = 10_000; // ms for one call

/** The call did not get through; it may be tried again. */
export class Unreachable extends RingbackError {}

export class Devices {
  #http;
  #token;
  #env;
  #storage;
  #turn = Promise.resolve();
  #wanted = null; // a registration that is not confirmed
  #tries = 0;
  #timer = null;

  constructor({ http, token, storage }, environment = {}) {
    this.#http = http;
    this.#token = token;
    this.#env = { ...platform, fetch: (...given) => fetch(...given), ...environment };
    this.#storage = storage ?? lasting(environment.storage);
  }

  /** This install of the app, by an id that is made once and kept. */
  get installation() {
    let id = this.#storage.getItem(INSTALLATION);
    if (!id) this.#storage.setItem(INSTALLATION, (id = this.#env.uuid()));
    return id;
  }

  /**
   * Register over the open `connection`, else over HTTP; the deregistration key. Throws
   * `Unreachable` when it did not get through; it is then tried again by itself until it does.
   */
  register(installation, token, details, connection) {
    this.#storage.removeItem(QUEUED + installation);
    const wanted = (this.#wanted = { installation, token, details });
    return this.#inTurn(() => this.#register(wanted, connection));
  }

  async #register(wanted, connection) {
    if (wanted !== this.#wanted) return null; // done, signed out, or newer, meanwhile
    const { installation, token, details } = wanted;
    // The key may get lost on its way here; that there was something to end must not.
    if (this.#storage.getItem(KEY + installation) === null) {
      this.#storage.setItem(KEY + installation, "");
    }
    try {
      const answer =
        (await this.#over(connection, { type: "register_device", installation, token, ...details })) ??
        (await this.#call("PUT", installation, { body: { token, ...details } }));
      this.#storage.setItem(KEY + installation, answer.deregistration_key);
      if (this.#wanted === wanted) this.#wanted = null;
      this.#tries = 0;
      return answer.deregistration_key;
    } catch (error) {
      if (!(error instanceof RequestFailed)) this.#again();
      throw error;
    }
  }

  async #over(connection, frame) {
    try {
      return await connection?.request(frame, { quiet: true });
    } catch (error) {
      if (error instanceof RequestFailed) throw error;
      return undefined; // no socket, or it was lost: HTTP, then
    }
  }

  /** Ring this installation no more: now, or as soon as it can be told. Whether it has been. */
  deregister(installation) {
    this.#wanted = null;
    this.#queue(installation);
    return this.#inTurn(() => {
      this.#queue(installation); // a registration was on its way
      return this.#deregister(installation);
    });
  }

  #queue(installation) {
    const key = this.#storage.getItem(KEY + installation);
    if (key !== null) this.#storage.setItem(QUEUED + installation, key);
  }

  /** Try what did not get through. */
  flush(connection) {
    const wanted = this.#wanted;
    if (wanted) this.#inTurn(() => this.#register(wanted, connection)).catch(() => {});
    for (const key of this.#storage.keys().filter((name) => name.startsWith(QUEUED))) {
      this.#inTurn(() => this.#deregister(key.slice(QUEUED.length))).catch(() => {});
    }
  }

  /** With the key, or, if it never reached us, with the customer's token. */
  async #deregister(installation) {
    const key = this.#storage.getItem(QUEUED + installation);
    if (key === null) return true; // never registered, registered again, or told by another tab
    try {
      await this.#call("DELETE", installation, { key });
    } catch (error) {
      // 403: no such key was given out, so there is nothing that could ring. Without a key it is a
      // token that was not taken, and says nothing; nor does any other answer, of a proxy say.
      if (key === "" || error.status !== 403) {
        this.#again();
        return false;
      }
    }
    this.#tries = 0;
    this.#storage.removeItem(QUEUED + installation);
    this.#storage.removeItem(KEY + installation);
    return true;
  }

  #again() {
    this.#env.clearTimer(this.#timer);
    this.#tries += 1;
    const wait = 1_000 + backoff(this.#tries, this.#env.random);
    this.#timer = this.#env.setTimer(() => this.flush(), wait);
  }

  /** One at a time: a registration must not be overtaken by what was to end the one before. */
  #inTurn(work) {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** A token; who asks for one that never comes must not keep the others from their turn. */
  async #bearer() {
    if (typeof this.#token !== "function") return this.#token;
    const told = this.#token(); // may throw: before there is anything to end
    let timer;
    const late = new Promise((_, reject) => {
      timer = this.#env.setTimer(() => reject(new Unreachable("no token came in time")), TOKEN_WITHIN);
    });
    return Promise.race([told, late]).finally(() => this.#env.clearTimer(timer));
  }

  async #call(method, installation, { body, key }) {
    const headers = {};
    if (key) headers["Ringback-Deregistration-Key"] = key;
    else headers.Authorization = `Bearer ${await this.#bearer()}`;
    if (body) headers["Content-Type"] = "application/json";
    const controller = new AbortController();
    const timer = this.#env.setTimer(() => controller.abort(), WITHIN);
    let answer, told;
    try {
      answer = await this.#env.fetch(`${this.#http}/v1/devices/${encodeURIComponent(installation)}`, {
        method, headers, body: JSON.stringify(body), signal: controller.signal,
        keepalive: true, credentials: "omit", referrerPolicy: "no-referrer",
      });
      told = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
    } catch {
      throw new Unreachable("the gateway cannot be reached");
    } finally {
      this.#env.clearTimer(timer);
    }
    if (answer.status >= 500 || [408, 425, 429].includes(answer.status)) {
      throw new Unreachable(`the gateway answered with HTTP status ${answer.status}`);
    }
    if (answer.ok && (told.deregistration_key || !body)) return told;
    if (answer.ok) throw new Unreachable("something else than the gateway answered");
    const { status } = answer;
    const failed = new RequestFailed(told.code ?? `http_${status}`, told.detail ?? "");
    throw Object.assign(failed, { status });
  }
}

/** `storage`, and memory for what it does not take: it may be full, broken, or not there. */
export function lasting(storage) {
  const held = new Map();
  return {
    keys: () => [...held.keys(), ...namesIn(storage).filter((key) => !held.has(key))],
    getItem: (key) => held.get(key) ?? attempt(() => storage.getItem(key)) ?? null,
    setItem(key, value) {
      held.set(key, value);
      attempt(() => (storage.setItem(key, value), held.delete(key)));
    },
    removeItem(key) {
      held.delete(key);
      attempt(() => storage.removeItem(key));
    },
  };
}

function namesIn(storage) {
  return attempt(() => Array.from({ length: storage.length }, (_, i) => storage.key(i))) ?? [];
}

/** What comes of it, or undefined: a browser may forbid even to ask for a storage. */
export function attempt(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}
