/** One timer, on the clock of an environment. */

import { type BackoffOptions, backoffDelay } from "./backoff.js";
import type { Environment } from "./options.js";

export interface TimerOptions extends BackoffOptions {
  window: Environment;
}

// In seconds. A browser fires a timer of more than 2^31 milliseconds at once.
const MAX_DELAY = 2e6;

export class Timer {
  #options: TimerOptions;
  #id: unknown;

  constructor(options: TimerOptions) {
    this.#options = options;
  }

  /** @internal Call back once; an earlier callback is cancelled. */
  _set(seconds: number, callback: () => void): void {
    this._stop();
    this.#id = this.#options.window.setTimeout(callback, Math.min(seconds, MAX_DELAY) * 1e3);
  }

  /** @internal Call back after the backoff delay of an attempt. */
  _setBackoff(attempt: number, callback: () => void): void {
    this._set(backoffDelay(attempt, this.#options.window.Math.random(), this.#options), callback);
  }

  /** @internal */
  _stop(): void {
    this.#options.window.clearTimeout(this.#id as never);
  }
}
