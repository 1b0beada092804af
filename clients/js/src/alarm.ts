/**
 * One thing that happens later, unless it is put off.
 * Knows a clock and nothing of what it wakes.
 */

import type { Surroundings } from "./options.js";

// A browser fires a timer of more than 2^31 milliseconds at once.
const LONGEST = 2e6;

export class Alarm {
  #window: Surroundings;
  #timer: unknown;

  constructor(window: Surroundings) {
    this.#window = window;
  }

  /** @internal */
  _set(seconds: number, callback: () => void): void {
    this._stop();
    this.#timer = this.#window.setTimeout(callback, Math.min(seconds, LONGEST) * 1e3);
  }

  /** @internal */
  _stop(): void {
    this.#window.clearTimeout(this.#timer as never);
  }
}
