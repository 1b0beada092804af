/**
 * When to come back, and how long to pause before.
 * Pure: chance is an argument, and there is no clock in here.
 */

import type { SocketOptions } from "./options.js";

/**
 * Seconds to pause before an attempt: full jitter between `minDelay` and a bound
 * that doubles with every attempt, so that a crowd that lost one server does not
 * return to the next as one wave.
 *
 * @param chance From 0 to 1, as `Math.random()` gives it.
 */
export function backoffDelay(
  attempt: number,
  chance: number,
  { minDelay, maxDelay }: Pick<Required<SocketOptions>, "minDelay" | "maxDelay">,
): number {
  return Math.min(maxDelay, minDelay + chance * Math.min(maxDelay, minDelay * 2 ** attempt));
}

/** Whether a closure is followed by a new attempt. */
export function shouldReconnect(event: CloseEvent, { retryOn }: Required<SocketOptions>): boolean {
  const { code } = event;
  return typeof retryOn === "function"
    ? retryOn(event)
    : retryOn.includes(code) || (code !== 1000 && code < 4000);
}
