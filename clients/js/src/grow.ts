/** Joins the appends of messages that grow. Built as a file of its own. */

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

/** The number of ended messages that are remembered, so that late appends are ignored. */
const REMEMBERED = 1000;

type Topic = Pick<
  Subscription<any, any, any>,
  "addEventListener" | "removeEventListener" | "call"
>;
type Listener = (message: GrowingMessage) => unknown;

/** The messages of each subscription that has listeners. */
const joiners = new WeakMap<Topic, Joiner>();

/**
 * Call `listener` with each change of each growing message of a subscription's topic.
 *
 * The first call for a subscription stands where the page subscribes, before the reply of
 * the server. A later listener gets the messages that are growing at once.
 *
 * @returns a function that stops it.
 */
export function growing<T extends object = any>(
  subscription: Topic,
  listener: (message: GrowingMessage<T>) => unknown,
): () => void {
  const joiner = joiners.get(subscription) ?? new Joiner(subscription);
  // A function of its own, so that one listener may be added twice.
  return joiner._add((message) => listener(message));
}

/** Joins the publications of one subscription. */
class Joiner {
  #messages = new Map<string, GrowingMessage>();
  #ended = new Map<string, GrowingMessage>();
  #listeners = new Set<Listener>();
  #subscription: Topic;

  constructor(subscription: Topic) {
    this.#subscription = subscription;
    joiners.set(subscription, this);
    subscription.addEventListener("publication", this.#onPublication);
    subscription.addEventListener("gap", this.#onGap);
  }

  _add(listener: Listener): () => void {
    this.#listeners.add(listener);
    for (const message of this.#messages.values()) listener({ ...message, added: null });
    return () => {
      if (!this.#listeners.delete(listener) || this.#listeners.size) return;
      joiners.delete(this.#subscription);
      this.#subscription.removeEventListener("publication", this.#onPublication);
      this.#subscription.removeEventListener("gap", this.#onGap);
    };
  }

  #change(message: GrowingMessage): void {
    const { id, state } = message;
    this.#messages.delete(id);
    if (state === "growing" || state === "unknown") this.#messages.set(id, message);
    else {
      this.#ended.set(id, message);
      if (this.#ended.size > REMEMBERED) this.#ended.delete(this.#ended.keys().next().value!);
    }
    for (const listener of this.#listeners) listener(message);
  }

  #onPublication = ({ detail }: PublicationEvent<any>): void => {
    const { grow: id, grow_state, grow_position, grow_reason: reason = "" } = detail.tags ?? {};
    if (!id) return;
    const state = grow_state as GrowingState;
    const isAppend = grow_position !== undefined;
    const end = this.#ended.get(id);
    const before = this.#messages.get(id) ?? end;
    if (end && (isAppend || state === "growing")) return;
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
      await this.#subscription.call("$cancel", { id });
    };
    this.#change({ id, data, state, reason, added, cancel });
  };

  #onGap = (): void => {
    for (const message of [...this.#messages.values()]) {
      this.#change({ ...message, state: "unknown", added: "" });
    }
  };
}

function isSame(one: object, other: object): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
