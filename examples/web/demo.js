/**
 * The demo's page. What is so comes from the demo's server as one state, whenever it changes; the
 * phone's chat is <ringback-chat>, Ann's desk is the connection of the JavaScript client. Text from
 * anybody is only ever set as text.
 */

import { desk } from "./desk.js";
import { Phone } from "./phone.js";

const at = (id) => document.getElementById(id);
const GONE = "The demo’s server does not answer: is it still running?";
const SERVERS = ["airplane", "killed", "broken"]; // switches that the server turns
let turns = 0; // how many it had turned when it last answered: a state of before may still come

for (const name of SERVERS) {
  at(name).addEventListener("change", async ({ target }) => {
    target.disabled = true;
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ name, on: target.checked });
    const answer = await fetch("/switch", { method: "POST", headers, body }).catch(() => null);
    at("trouble").textContent = answer?.ok ? "" : await reason(answer);
    if (answer?.ok) turns = Math.max(turns, (await answer.json()).turns);
    else target.checked = !target.checked;
    target.disabled = false;
    if (document.activeElement === document.body) target.focus(); // unless somebody went elsewhere meanwhile
  });
}

async function reason(answer) {
  return answer ? await answer.text() : GONE;
}

const places = await (await fetch("/places")).json();
const phone = new Phone(places);

let lost = false;
const events = new EventSource("/events");
events.onmessage = ({ data }) => {
  const state = JSON.parse(data);
  for (const name of SERVERS) {
    if (!at(name).disabled && state.turns >= turns) at(name).checked = state[name];
  }
  phone.take(state);
  decisions(state.messages);
  if (lost) at("trouble").textContent = "";
  lost = false;
};
events.onerror = () => {
  lost = true;
  turns = 0;
  at("trouble").textContent = GONE;
};

desk(places, at);

// Decisions

const shown = new Map(); // by seq: the card, and what it was made of

function decisions(messages) {
  at("none").hidden = messages.length > 0;
  for (const message of messages) {
    const look = JSON.stringify(message);
    const known = shown.get(message.seq);
    if (known?.look === look) continue;
    const card = cardOf(message);
    if (known) known.card.replaceWith(card);
    else at("decisions").prepend(card);
    shown.set(message.seq, { card, look });
  }
}

function cardOf({ seq, text, outcome, summary, events }) {
  const head = node("header", {}, [
    node("span", { class: `chip ${outcome}` }, [outcome]),
    node("h3", { dir: "auto" }, [`${seq}  “${text}”`]),
  ]);
  const rows = events.map(({ at: when, event, what }) =>
    node("tr", {}, [node("td", {}, [when]), node("td", {}, [event.replaceAll("_", " ")]), node("td", {}, [what])]),
  );
  const table = node("table", { "aria-label": `Message ${seq}, step by step` }, [node("tbody", {}, rows)]);
  return node("article", {}, [head, node("p", {}, [summary]), table]);
}

function node(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
