/**
 * The arithmetic of the operations page: from figures asked for again and again to what is drawn.
 * No DOM, no clock, no network.
 */

export const KEPT = 150; // samples: five minutes at one every two seconds

/** What was told lately, as series: counts become rates, and a restarted gateway begins anew. */
export class Lately {
  #samples = [];

  /** @param told the answer of /v1/ops; its own `server_time` is the time */
  add(told) {
    const at = Date.parse(told.server_time) / 1000;
    const last = this.#samples.at(-1);
    if (last && (at <= last.at || calls(told) < last.calls)) this.#samples = [];
    this.#samples.push({ at, calls: calls(told), accepted: told.messages.accepted, told });
    this.#samples.splice(0, this.#samples.length - KEPT);
  }

  get newest() {
    return this.#samples.at(-1)?.told ?? null;
  }

  /** Messages a second between one sample and the next: [{at, value}]. */
  get messageRate() {
    return this.#rates("accepted");
  }

  /** Calls to backends a second. */
  get callRate() {
    return this.#rates("calls");
  }

  /** Devices that wait for a call or are being called for. */
  get backlog() {
    return this.#samples.map(({ at, told }) => ({ at, value: backlog(told) }));
  }

  get inChat() {
    return this.#samples.map(({ at, told }) => ({ at, value: told.sessions.active }));
  }

  #rates(name) {
    return this.#samples.slice(1).map((sample, i) => {
      const before = this.#samples[i];
      const value = Math.max(0, sample[name] - before[name]) / (sample.at - before.at);
      return { at: sample.at, value };
    });
  }
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

const calls = (told) => sum(told.attempts.map((one) => one.count));

/** Devices of all backends that are not idle. */
export function backlog(told) {
  return sum(told.backends.map((one) => one.waiting + one.calling));
}

/** The worst state of all backends: "suspended", "down", "up", or "none". */
export function health(told) {
  const states = new Set(told.backends.map((one) => one.state));
  return ["suspended", "down", "up"].find((state) => states.has(state)) ?? "none";
}

/** Each outcome with its share of what was accepted, from 0 to 1, in the order of a bar. */
export function shares(messages) {
  const names = ["acked", "pushed", "pending", "expired", "undeliverable"];
  const all = messages.accepted || 1;
  return names.map((name) => ({ name, count: messages[name], share: messages[name] / all }));
}

/** The next of 1, 2, 5, 10, 20, … that is not below `value`: where an axis ends. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= value);
}

/** A line for an SVG path over `width` × `height`; the newest point is at the right edge. */
export function line(series, width, height, top, seconds) {
  const end = series.at(-1)?.at;
  return series
    .filter(({ at }) => end - at <= seconds)
    .map(({ at, value }, i) => {
      const x = width * (1 - (end - at) / seconds);
      const y = height * (1 - Math.min(1, value / top));
      return `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}

/** 1234567 as "1,234,567"; a rate with one digit behind the point below 10. */
export function count(value) {
  const digits = Number.isInteger(value) || value >= 10 ? 0 : 1;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** Seconds as people say them: "18 ms", "2.4 s", "3 min"; "–" for null. */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return `${Math.round(seconds / 60)} min`;
}
