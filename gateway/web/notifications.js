/**
 * A notification reached the app: whether it is ours, what it says, whether chat should open. Pure.
 *
 * `payload` is what the phone hands to the app (`userInfo` on iOS, the data of an FCM message), from
 * anybody: what is missing or ill-typed counts as not said, and as 0 unread and not live. FCM hands
 * over strings only, so an object or a figure that is written as JSON text is read too.
 */

const KINDS = new Set(["message", "proactive", "badge"]);

/** Whether a notification came from Ringback (`canHandleNotification`). */
export function isOurs(payload) {
  return ringOf(payload) !== null;
}

/** What a notification says (`getConversationStatusFromNotification`); null if it is not ours. */
export function conversationStatus(payload) {
  const ring = ringOf(payload);
  if (ring === null) return null;
  return {
    unread: count(payload.UnreadMessages) ?? 0,
    live: payload.isLiveChat === true || payload.isLiveChat === "true",
    badgeSeq: count(payload.badgeSeq),
    seq: count(ring.seq),
    customer: typeof ring.customer === "string" ? ring.customer : null,
    kind: KINDS.has(ring.kind) ? ring.kind : null,
    id: typeof ring.id === "string" ? ring.id : null,
  };
}

/** Whether a notification tells only of messages up to `seenSeq`, seen in chat already. */
export function isDouble(payload, seenSeq) {
  const status = conversationStatus(payload);
  return isOfMessage(status) && status.seq !== null && status.seq <= seenSeq;
}

/** Whether a notification that was tapped should open the chat (`shouldOpenChat`). */
export function shouldOpenChat(payload, seenSeq = 0) {
  return isOfMessage(conversationStatus(payload)) && !isDouble(payload, seenSeq);
}

function isOfMessage(status) {
  return status?.kind === "message" || status?.kind === "proactive";
}

function ringOf(payload) {
  if (!isObject(payload)) return null;
  let ring = payload.ringback;
  if (typeof ring === "string") {
    try {
      ring = JSON.parse(ring);
    } catch {
      return null;
    }
  }
  return isObject(ring) ? ring : null;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function count(value) {
  if (typeof value === "string" && /^\d{1,15}$/.test(value)) return Number(value);
  return Number.isSafeInteger(value) && value >= 0 ? value : null;
}
