/** Messages that grow: joins the appends that a topic's subscribers get. A file of its own. */

import type { PublicationEvent } from "./events.js";
import type { Subscription } from "./subscription.js";

/** `unknown` after a gap, until the server says that it still grows. */
export type GrowingState = "growing" | "finished" | "failed" | "cancelled" | "unknown";

/** A message as it is after a change. */
export interface GrowingMessage<T extends object = any> {
  readonly id: string;
  /** The data; `text` is all of the text so far. */
  readonly data: T & { text: string };
  readonly state: GrowingState;
  /** Why it has failed, where the server says so. */
  readonly reason: string;
  /** What was appended by this change; null where `data` has to be shown anew. */
  readonly added: string | null;
  /** Ask the server to cancel it. @throws TopicError when the topic refuses it. */
  cancel(): Promise<void>;
}

/** Ids of messages that have ended, so that what comes late is left out. */
const REMEMBERED = 1000;

/**
 * Call `listener` with each change of each growing message of a subscription's topic.
 *
 * Call it with the subscription's other listeners, before the reply of the server.
 *
 * @returns a function that stops it.
 */
export function growing<T extends object = any>(
  subscription: Pick<
    Subscription<any, any, any>,
    "addEventListener" | "removeEventListener" | "call"
  >,
  listener: (message: GrowingMessage<T>) => unknown,
): () => void {
  const messages = new Map<string, GrowingMessage<T>>();
  const ended = new Map<string, GrowingMessage<T>>();

  const change = (message: GrowingMessage<T>): void => {
    const { id, state } = message;
    messages.delete(id);
    if (state === "growing" || state === "unknown") messages.set(id, message);
    else {
      ended.set(id, message);
      if (ended.size > REMEMBERED) ended.delete(ended.keys().next().value!);
    }
    listener(message);
  };

  const onPublication = ({ detail }: PublicationEvent<any>): void => {
    const { grow: id, grow_state, grow_position, grow_reason: reason = "" } = detail.tags ?? {};
    if (!id) return;
    const state = grow_state as GrowingState;
    const isAppend = grow_position !== undefined;
    const before = messages.get(id) ?? ended.get(id);
    if (ended.has(id) && (isAppend || state === "growing")) return;
    let { data } = detail;
    let added: string | null = null;
    if (isAppend) {
      // The server sends the whole text again where it could not go on.
      if (before?.data.text.length !== Number(grow_position)) return;
      added = data.text as string;
      data = { ...before.data, text: before.data.text + added };
    } else if (before && isSame(before.data, data)) {
      if (before.state === state) return;
      added = "";
    }
    const cancel = async (): Promise<void> => {
      await subscription.call("$cancel", { id });
    };
    change({ id, data, state, reason, added, cancel });
  };

  const onGap = (): void => {
    for (const message of [...messages.values()]) {
      change({ ...message, state: "unknown", added: "" });
    }
  };

  subscription.addEventListener("publication", onPublication);
  subscription.addEventListener("gap", onGap);
  return () => {
    subscription.removeEventListener("publication", onPublication);
    subscription.removeEventListener("gap", onGap);
  };
}

function isSame(one: object, other: object): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
