/** Ann's desk: one conversation, what she writes, where it went and what became of it. */

import { Connection, RequestFailed } from "/web/connection.js";
import { Kept } from "/web/console/state.js";
import { Newest } from "/web/elements.js";

const CUSTOMER = "alice";
const CANNED = ["Hello Alice, how can I help?", "Your parcel left Hamburg today.", "Shall I send you the tracking link?"];
const AGAIN = 500; // ms
const TYPING_FOR = 4_000; // ms without a further sign
const SAID = {
  socket: "on the socket, not acknowledged yet",
  push: "to push",
  none: "nowhere to go",
  delivered: "received in chat",
  read: "read",
  pushed: "the phone rang",
  expired: "expired",
  undeliverable: "undeliverable",
  waiting: "waiting for the gateway",
  failed: "not sent",
};
const RANK = ["waiting", "failed", "none", "socket", "push", "undeliverable", "expired", "pushed", "delivered", "read"];

export function desk(places, at) {
  const messages = new Map(); // by seq
  const pending = new Map(); // by ref
  const kept = new Kept(sessionStorage, "ann"); // what has no answer is still there after a reload
  const newest = new Newest(at("thread"));
  let opened = false;
  let typist = null;

  const connection = new Connection({
    url: `${places.desk}/v1/agent`,
    token: async () => (await (await fetch("/token?role=agent")).json()).token,
    onWelcome: () => {
      opened = false;
      ask({ type: "inbox" }).catch(() => {});
      open();
    },
    onFrame: heard,
    onChange: (phase) => {
      if (phase === "waiting") presence(false, "The gateway is away; Ann’s desk waits for it.");
    },
  });

  const ask = (frame) => connection.request(frame, { quiet: true });

  async function open() {
    try {
      const told = await ask({ type: "open", customer: CUSTOMER });
      opened = true;
      for (const message of told.messages) keep(message);
      connection.note({ type: "read", customer: CUSTOMER, seq: told.seq });
      for (const message of messages.values()) {
        if (message.seq <= told.read_seq) mark(message, "read");
        else if (message.seq <= told.acked_seq) mark(message, "delivered");
      }
      presence(told.in_chat);
      render();
    } catch {
      // She has not connected yet, and until she writes no inbox_update says so; or the socket was lost.
      if (!connection.connected) return;
      presence(false, "Alice has not opened her app yet.");
      setTimeout(() => opened || open(), AGAIN);
    }
  }

  function heard(frame) {
    if (frame.type === "inbox_update" && !opened) open();
    if (frame.customer !== CUSTOMER) return;
    if (frame.type === "message") {
      keep(frame);
      if (frame.from.role === "customer") typing(false);
      connection.note({ type: "read", customer: CUSTOMER, seq: frame.seq });
    } else if (frame.type === "receipt") {
      for (let seq = frame.from_seq; seq <= frame.seq; seq++) mark(messages.get(seq), frame.state, frame.reason);
    } else if (frame.type === "presence") presence(frame.in_chat);
    else if (frame.type === "typing") typing(frame.on);
    else return;
    render();
  }

  function keep(message) {
    messages.set(message.seq, { ...messages.get(message.seq), ...message });
  }

  function mark(message, state, reason) {
    if (!message || RANK.indexOf(state) < RANK.indexOf(message.state)) return;
    message.state = state;
    message.reason = reason;
  }

  function presence(inChat, words = inChat ? "Alice is in chat" : "Alice is not in chat") {
    at("presence").textContent = words;
    at("presence").classList.toggle("here", inChat);
  }

  function typing(on) {
    clearTimeout(typist);
    at("typing").textContent = on ? "Alice is typing…" : "";
    if (on) typist = setTimeout(() => typing(false), TYPING_FOR);
  }

  function send(text) {
    const said = { ref: crypto.randomUUID(), text };
    kept.put(said);
    write(said);
  }

  async function write({ ref, text }) {
    const message = { text, from: { role: "agent" }, state: "waiting" };
    pending.set(ref, message);
    render();
    try {
      const frame = { type: "send", customer: CUSTOMER, text };
      const { seq, route, reason } = await connection.request(frame, { ref, isSend: true });
      pending.delete(ref);
      kept.settle(ref);
      const known = messages.get(seq); // a receipt may have come first
      messages.set(seq, { ...message, seq, state: route, reason, ...known });
    } catch (error) {
      message.state = "failed";
      message.reason = error.message;
      if (error instanceof RequestFailed) kept.settle(ref);
    }
    render();
  }

  function render() {
    const rows = [...messages.values()].sort((a, b) => a.seq - b.seq).concat([...pending.values()]);
    at("thread").replaceChildren(...rows.map(row));
    newest.show();
  }

  at("canned").replaceChildren(
    ...CANNED.map((text) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => send(text));
      return button;
    }),
  );
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("text").value.trim();
    if (text === "") return;
    at("text").value = "";
    send(text);
  });
  at("text").addEventListener("input", () => connection.note({ type: "typing", customer: CUSTOMER, on: at("text").value !== "" }));
  connection.start();
  for (const said of kept.unsent) write(said);
}

function row({ from, text, state, reason }) {
  const own = from.role !== "customer";
  const item = document.createElement("li");
  item.className = own ? "own" : "other";
  const words = document.createElement("p");
  words.dir = "auto";
  words.textContent = text;
  item.append(words);
  if (own && state) {
    const mark = document.createElement("small");
    mark.className = state;
    const why = reason && !["delivered", "read"].includes(state) ? ` (${reason.replaceAll("_", " ")})` : "";
    mark.textContent = `${SAID[state] ?? state}${why}`;
    item.append(mark);
  }
  return item;
}
