/** Calls whose result is streamed. A file of its own. */

import type { StreamPart } from "./events.js";
import type { Subscription } from "./subscription.js";

/** The client's own code of a lost connection. */
const LOST = 2;

let lastId = 0;

/**
 * Call a method of the topic that is an async generator, and yield what it yields:
 *
 *     for await (const token of stream(room, "ask", { question })) …
 *
 * Leaving the loop stops the method on the server.
 *
 * @throws TopicError when the server refuses the call, the method raises, or the
 *   connection is lost: its `code` is 2 then. What the method has done is not repeated.
 */
export async function* stream<T = any>(
  subscription: Pick<
    Subscription<any, any, any>,
    "addEventListener" | "removeEventListener" | "call" | "topic"
  >,
  method: string,
  data?: unknown,
): AsyncGenerator<T, void, undefined> {
  const id = `${++lastId}`;
  const items: T[] = [];
  let isOver = false;
  let failure: unknown;
  let wake = (): void => {};

  const onPart = ({ detail }: CustomEvent<StreamPart>): void => {
    if (detail.stream !== id) return;
    items.push(...((detail.items ?? []) as T[]));
    if (detail.error) fail(detail.error);
    isOver ||= !!detail.end;
    wake();
  };
  const fail = ({ code, message, temporary = false }: NonNullable<StreamPart["error"]>): void => {
    const { topic } = subscription;
    failure = Object.assign(new Error(message), { name: "TopicError", code, temporary, topic });
    isOver = true;
  };
  const onLost = (): void => {
    fail({ code: LOST, message: "connection lost", temporary: true });
    wake();
  };

  subscription.addEventListener("stream", onPart);
  subscription.addEventListener("subscribing", onLost);
  subscription.addEventListener("unsubscribed", onLost);
  try {
    await subscription.call("$stream", { id, method, data });
    for (;;) {
      if (items.length) yield items.shift()!;
      else if (failure) throw failure;
      else if (isOver) return;
      else await new Promise<void>((done) => (wake = done));
    }
  } catch (error) {
    isOver = true;
    throw error;
  } finally {
    subscription.removeEventListener("stream", onPart);
    subscription.removeEventListener("subscribing", onLost);
    subscription.removeEventListener("unsubscribed", onLost);
    // The page has left the loop; without a connection the server has stopped it.
    if (!isOver) subscription.call("$stop", { id }).catch(() => {});
  }
}
