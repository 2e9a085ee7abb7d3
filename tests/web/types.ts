// Compiled, never run: what a user of the types may write, and what they may not.

import { RingbackClient, conversationStatus, shouldOpenChat } from "../../gateway/web/ringback-client.js";
import { Connection } from "../../gateway/web/connection.js";
import { browser } from "../../gateway/web/browser.js";
import { RingbackChat } from "../../gateway/web/ringback-chat.js";

const client = new RingbackClient(
  { url: "wss://chat.example/v1/chat", token: async () => "jwt", idleAfter: 60_000 },
  browser(),
);
const off: () => void = client.on("message", (message) => message.text.length + message.seq);
client.on("phase", ({ phase, wait }) => `${phase} ${wait ?? 0}`);
client.start();
const seq: Promise<number> = client.send("hi", { order: 7 }).then((sent) => sent.seq);
const key: Promise<string | null> = client.registerDevice("token", { platform: "ios" });
const opens: boolean = shouldOpenChat({}, client.seenSeq) || (conversationStatus({})?.unread ?? 0) > 0;
const chat: RingbackChat = document.querySelector("ringback-chat")!;
chat.token = async () => "jwt";
chat.open = opens;

const where = { url: "wss://chat.example/v1/agent", token: async () => "jwt" };
new Connection({ ...where, onToken: (token) => token.length, hello: () => ({}) }).start();

// @ts-expect-error: a hello is not given the token
new Connection({ ...where, hello: (token: string) => ({ length: token.length }) });
// @ts-expect-error: a token is needed
new RingbackClient({ url: "wss://chat.example/v1/chat" });
// @ts-expect-error: there is no such event
client.on("mesage", () => {});
export { off, seq, key, opens };
