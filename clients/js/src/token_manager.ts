/**
 * A token that is fetched when it is needed and renewed before it expires.
 * Knows neither connections nor topics; its holder sends it and says what a refusal means.
 */

import { Timer, type TimerOptions } from "./timer.js";
import { TopicError, UnauthorizedError } from "./errors.js";
import type { Expiry } from "./protocol.js";

/** The share of its life after which a token is renewed; the rest is for retries. */
const RENEW = 0.9;

export type Answer<R = any> = (error: TopicError | undefined, result: R) => void;

export interface Holder {
  _options: TimerOptions;
  /** Fetches a token; without it a token cannot be renewed. */
  _make: (() => Promise<string> | string) | undefined;
  /** Sends a renewed token. */
  _renew(token: string, done: Answer<Expiry>): void;
  /** Ends for good. */
  _end(code: number, reason: string): void;
  _error(error: unknown): void;
}

export class TokenManager {
  /** @internal */
  _token: string | undefined;
  #holder: Holder;
  #timer: Timer;
  #attempt = 0;
  #generation = 0;

  constructor(holder: Holder, token: string | undefined) {
    this.#holder = holder;
    this.#timer = new Timer(holder._options);
    this._token = token;
  }

  /** @internal Whether `_fetch` has something to wait for. */
  get _missing(): boolean {
    return !this._token && !!this.#holder._make;
  }

  /** @internal */
  async _fetch(): Promise<void> {
    this._token = await this.#holder._make!();
    if (!this._token) throw new UnauthorizedError("getToken gave no token");
  }

  /** @internal The server said how long the token holds. */
  _watch({ expires, ttl }: Expiry): void {
    this._stop();
    if (expires && this.#holder._make) this.#timer._set(ttl! * RENEW, this.#renew);
  }

  /** @internal */
  _stop(): void {
    this.#generation++;
    this.#attempt = 0;
    this.#timer._stop();
  }

  /** @internal Forget a token that does not hold any more, if another can be had. */
  _drop(): boolean {
    if (!this.#holder._make) return false;
    this._token = "";
    return true;
  }

  /** @internal What a failure means: the end, or another attempt. */
  _onFailure(error: unknown, again: () => void): void {
    const holder = this.#holder;
    if (error instanceof UnauthorizedError) return holder._end(1, "unauthorized");
    if (error instanceof TopicError) {
      const { code, message } = error;
      if (code === 109 || code === 110 ? !this._drop() : !error.temporary) {
        return holder._end(code, message);
      }
    }
    again();
  }

  #renew = async (): Promise<void> => {
    const generation = this.#generation;
    const failed = (error: unknown): void => {
      if (generation !== this.#generation) return;
      this._onFailure(error, () => {
        this.#timer._retry(this.#attempt++, this.#renew);
        this.#holder._error(error);
      });
    };
    try {
      await this._fetch();
      if (generation !== this.#generation) return;
      this.#holder._renew(this._token!, (error, result) => {
        if (error) failed(error);
        else this._watch(result);
      });
    } catch (error) {
      failed(error);
    }
  };
}
