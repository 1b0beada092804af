/**
 * One thing that happens later, unless it is put off.
 * Knows a clock and nothing of what it wakes.
 */

import type { Environment } from "./options.js";
import { backoffDelay } from "./backoff.js";

export interface TimerOptions {
  minDelay: number;
  maxDelay: number;
  window: Environment;
}

// A browser fires a timer of more than 2^31 milliseconds at once.
const LONGEST = 2e6;

export class Timer {
  #clock: TimerOptions;
  #timer: unknown;

  constructor(clock: TimerOptions) {
    this.#clock = clock;
  }

  /** @internal */
  _set(seconds: number, callback: () => void): void {
    this._stop();
    this.#timer = this.#clock.window.setTimeout(callback, Math.min(seconds, LONGEST) * 1e3);
  }

  /** @internal After the pause that befits so many failures. */
  _retry(failures: number, callback: () => void): void {
    this._set(backoffDelay(failures, this.#clock.window.Math.random(), this.#clock), callback);
  }

  /** @internal */
  _stop(): void {
    this.#clock.window.clearTimeout(this.#timer as never);
  }
}
