/**
 * The operations page: asks for a tenant's figures and shows them. What is made of them is in
 * `ops-figures.js`. All text is set as text, never as markup.
 */

import { attempt, lasting } from "./devices.js";
import { Lately, backlog, ceiling, count, duration, health, line, shares } from "./ops-figures.js";

const EVERY = 2_000; // ms between two questions
const WITHIN = 8_000; // ms for an answer
const SHORTEST = 60; // seconds of a chart
const LONGEST = 300;
const WIDTH = 320;
const HEIGHT = 72;
const KEPT_AS = "ringback-ops-token";
const SVG = "http://www.w3.org/2000/svg";

const HEALTH = { up: "Up", down: "Failing", suspended: "Suspended", none: "–" };
const MEANING = {
  acked: "acknowledged in chat",
  pushed: "pushed",
  pending: "pending",
  expired: "expired",
  undeliverable: "undeliverable",
};

const at = (id) => document.getElementById(id);

const kept = lasting(attempt(() => sessionStorage));
let lately = new Lately();
let token = kept.getItem(KEPT_AS);
let asking = 0; // what an older session still hears is passed over
let heard = 0;

// Asking

async function ask() {
  const answer = await fetch("/v1/ops", {
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
    signal: AbortSignal.timeout(WITHIN),
  });
  if (answer.ok) return answer.json();
  throw Object.assign(new Error(`HTTP ${answer.status}`), { status: answer.status });
}

async function follow(session) {
  while (session === asking) {
    try {
      const told = await ask();
      if (session !== asking) return;
      heard = Date.now();
      lately.add(told);
      show(told);
      state("");
    } catch (error) {
      if (session !== asking) return;
      if (error.status === 401 || error.status === 403) return signOut(refused(error));
      state(heard ? `Not reached since ${new Date(heard).toLocaleTimeString()}` : "Not reached");
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

function refused(error) {
  if (error.status === 403) return "This token is not for operators: its role must be service.";
  return "The token was not accepted: it may have expired.";
}

function state(problem) {
  const words = problem || "Live";
  if (at("state").textContent !== words) at("state").textContent = words; // it is read out
  at("state").classList.toggle("stale", problem !== "");
}

// Signing in and out

function signIn(given) {
  token = given;
  kept.setItem(KEPT_AS, token);
  lately = new Lately();
  heard = 0;
  asking += 1;
  at("problem").textContent = "";
  at("sign-in").hidden = true;
  at("leave").hidden = false;
  void follow(asking);
}

function signOut(problem) {
  asking += 1;
  token = null;
  kept.removeItem(KEPT_AS);
  at("figures").hidden = at("leave").hidden = at("who").hidden = true;
  at("sign-in").hidden = false;
  at("state").textContent = "";
  at("problem").textContent = problem;
  at("token").value = "";
  at("token").focus();
}

// Showing

function show(told) {
  at("figures").hidden = at("who").hidden = false;
  at("who").textContent = told.tenant;
  at("notice").hidden = !told.draining;
  at("notice").textContent = told.draining ? "The gateway is shutting down: nothing new is rung." : "";

  const { active, background, agent } = told.sessions;
  at("active").textContent = count(active);
  at("sessions").textContent = `${count(background)} in background, ${count(agent)} ${agent === 1 ? "agent" : "agents"}`;
  at("backlog").textContent = count(backlog(told));
  at("calling").textContent = `${count(told.backends.reduce((n, one) => n + one.calling, 0))} being called for`;
  at("ring").textContent = duration(told.ring_seconds.p50);
  at("rings").textContent = told.ring_seconds.count
    ? `median; p95 ${duration(told.ring_seconds.p95)}, of ${count(told.ring_seconds.count)}` : "nothing rang yet";
  const worst = health(told);
  at("health").textContent = HEALTH[worst];
  at("health").className = `value ${worst}`;
  at("call").textContent = told.call_seconds.count
    ? `answers in ${duration(told.call_seconds.p50)}, p95 ${duration(told.call_seconds.p95)}` : "not called yet";

  chart("messages-chart", lately.messageRate, "messages a second");
  chart("calls-chart", lately.callRate, "calls a second");
  chart("backlog-chart", lately.backlog, "devices");
  chart("chat-chart", lately.inChat, "customers");
  outcomes(told.messages);

  rows("backends", told.backends, "No backend is configured.", (one) => [
    one.name || "default",
    pill(one.state),
    one.waiting,
    one.calling,
  ]);
  rows("attempts", told.attempts, "Nothing was called yet.", (one) => [
    words(one.verdict),
    words(one.reason),
    one.count,
  ]);
  rows("dead-letters", told.dead_letters, "No ring was given up.", (one) => [words(one.cause), one.count]);
  rows("looks", told.looks, "No device was looked at yet.", (one) => [
    words(one.action),
    words(one.reason),
    one.count,
  ]);
}

function chart(id, series, unit) {
  const svg = at(id);
  const { at: now = 0, value = 0 } = series.at(-1) ?? {};
  const top = ceiling(Math.max(...series.map((one) => one.value), 0));
  const seconds = Math.min(LONGEST, Math.max(SHORTEST, now - (series[0]?.at ?? now)));
  const path = line(series, WIDTH, HEIGHT, top, seconds);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", `${count(value)} ${unit} now, at most ${count(top)} on this axis`);
  const start = /^M([\d.-]+)/.exec(path)?.[1];
  svg.replaceChildren(
    draw("line", { x1: 0, x2: WIDTH, y1: 0, y2: 0 }),
    draw("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    ...(path ? [draw("path", { d: `${path}V${HEIGHT}H${start}Z`, class: "area" }), draw("path", { d: path })] : []),
  );
  const figure = svg.parentElement;
  figure.querySelector("b").textContent = count(value);
  figure.querySelector("span").textContent = `${Math.ceil(seconds / 60)} min ago`;
  figure.dataset.top = count(top);
}

function outcomes(messages) {
  const parts = shares(messages);
  at("accepted").textContent = count(messages.accepted);
  let x = 0;
  at("outcomes").replaceChildren(
    ...parts.map(({ name, share }) => {
      const part = draw("rect", { x, y: 0, width: share * 1000, height: 16, class: name });
      x += share * 1000;
      return part;
    }),
  );
  const told = parts.map(({ name, count: many }) => `${count(many)} ${MEANING[name]}`);
  at("outcomes").setAttribute("aria-label", told.join(", "));
  at("legend").replaceChildren(
    ...parts.map(({ name, count: many }) => {
      const entry = document.createElement("li");
      const key = draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
      key.append(draw("rect", { width: 12, height: 12, rx: 3, class: name }));
      const figure = document.createElement("b");
      figure.textContent = count(many);
      entry.append(key, MEANING[name], figure);
      return entry;
    }),
  );
}

function rows(id, list, none, cells) {
  const empty = [[none]];
  const shown = list.length ? list.map(cells) : empty;
  at(id).replaceChildren(
    ...shown.map((row) => {
      const line = document.createElement("tr");
      for (const value of row) {
        const cell = document.createElement("td");
        if (typeof value === "number") cell.className = "n";
        if (shown === empty) Object.assign(cell, { className: "none", colSpan: 4 });
        cell.append(typeof value === "number" ? count(value) : value);
        line.append(cell);
      }
      return line;
    }),
  );
}

function words(reason) {
  return reason.replaceAll("_", " ").replace(/^http\b/, "HTTP");
}

function pill(name) {
  const node = document.createElement("span");
  node.className = `pill ${name}`;
  node.textContent = HEALTH[name];
  return node;
}

function draw(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(at("token").value.trim());
});
at("leave").addEventListener("click", () => signOut(""));
if (token) signIn(token);
else signOut("");
