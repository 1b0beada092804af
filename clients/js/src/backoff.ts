/** When to reconnect: pure functions, without a clock or a random number of their own. */

import type { SocketOptions } from "./options.js";

export type BackoffOptions = Pick<Required<SocketOptions>, "minDelay" | "maxDelay">;

/**
 * Return the seconds to wait before an attempt: full jitter between `minDelay` and a bound
 * that doubles with every attempt, so that clients which lost one server at the same moment
 * do not reach the next one at the same moment.
 *
 * @param chance From 0 to 1, as `Math.random()` returns it.
 */
export function backoffDelay(
  attempt: number,
  chance: number,
  { minDelay, maxDelay }: BackoffOptions,
): number {
  return Math.min(maxDelay, minDelay + chance * Math.min(maxDelay, minDelay * 2 ** attempt));
}

/** Return whether a new attempt follows a close event. */
export function shouldReconnect(
  event: CloseEvent,
  { retryOn }: Pick<Required<SocketOptions>, "retryOn">,
): boolean {
  const { code } = event;
  return typeof retryOn === "function"
    ? retryOn(event)
    : retryOn.includes(code) || (code !== 1000 && code < 4000);
}
