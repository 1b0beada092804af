/** A token that is fetched when it is needed and refreshed before it expires. */

import { EXPIRED, TOKEN_EXPIRED } from "./codes.js";
import type { CommandQueue } from "./command_queue.js";
import type { Emit } from "./emitter.js";
import { TopicError, UnauthorizedError } from "./errors.js";
import type { Expiry } from "./protocol.js";
import { Timer, type TimerOptions } from "./timer.js";

/** The share of its lifetime after which a token is refreshed; the rest is for retries. */
const REFRESH_AT = 0.9;

export interface TokenConfig {
  _commands: CommandQueue;
  _options: TimerOptions;
  /** The topic that the token is for; undefined for the token of the connection. */
  _topic?: string;
  /** The first token. */
  _token: string | undefined;
  /** Fetches a token; without it a token cannot be refreshed. */
  _getToken: (() => Promise<string> | string) | undefined;
  /** Ends the client or subscription that needs the token. */
  _end(code: number, reason: string): void;
  /** Emits the errors of a refresh that is tried again. */
  _emit: Emit<"error">;
}

export class TokenManager {
  /** @internal */
  _token: string | undefined;
  #config: TokenConfig;
  #timer: Timer;
  #attempt = 0;
  /** Whether a token was refused since the server accepted one. */
  #isRefused = false;
  /** Changes when a refresh that has begun is no longer wanted. */
  #generation = 0;

  constructor(config: TokenConfig) {
    this.#config = config;
    this.#timer = new Timer(config._options);
    this._token = config._token;
  }

  /** @internal Whether a token has to be fetched first, and can be. */
  get _isMissing(): boolean {
    return !this._token && !!this.#config._getToken;
  }

  /** @internal */
  async _fetch(): Promise<void> {
    this._token = await this.#config._getToken!();
    if (!this._token) throw new UnauthorizedError("no token");
  }

  /** @internal Refresh the token before it expires. */
  _watch({ expires, ttl }: Expiry): void {
    this._stop();
    this.#isRefused = false;
    if (expires && this.#config._getToken) this.#timer._set(ttl! * REFRESH_AT, this.#refresh);
  }

  /** @internal Stop refreshing; after a lost connection the token still expires. */
  _stop(isLost = false): void {
    this.#generation++;
    this.#attempt = 0;
    if (!isLost) this.#timer._stop();
  }

  /** @internal Discard a token that is not valid any more; false when no other can be fetched. */
  _drop(): boolean {
    if (!this.#config._getToken) return false;
    this._token = "";
    return true;
  }

  /**
   * @internal End after an error that is final, else call `retry`. It gets the reason of a
   * close if the token has expired for the first time: then no delay is needed.
   */
  _onFailure(error: unknown, retry?: (expired?: CloseEventInit) => void): void {
    const { _end } = this.#config;
    let expired: CloseEventInit | undefined;
    if (error instanceof UnauthorizedError) return _end(1, "unauthorized");
    if (error instanceof TopicError) {
      const { code, message } = error;
      const isExpired = code === TOKEN_EXPIRED || code === EXPIRED;
      if (isExpired ? !this._drop() : !error.temporary) return _end(code, message);
      if (isExpired && !this.#isRefused) expired = { code: TOKEN_EXPIRED, reason: message };
      this.#isRefused = isExpired;
    }
    retry?.(expired);
  }

  #refresh = async (): Promise<void> => {
    const { _commands, _emit, _topic } = this.#config;
    const generation = this.#generation;
    // Without a connection, the next attempt fetches a token.
    if (!_commands._isReady(_topic)) return void (this._token = "");
    const onError = (error: unknown): void => {
      if (generation !== this.#generation) return;
      this._onFailure(error, () => {
        this.#timer._setBackoff(this.#attempt++, this.#refresh);
        _emit("error", null, { error });
      });
    };
    try {
      await this._fetch();
      if (generation !== this.#generation) return;
      const params = { channel: _topic, token: this._token };
      _commands._send(_topic ? "sub_refresh" : "refresh", params, (error, result) => {
        if (error) onError(error);
        else this._watch(result);
      });
    } catch (error) {
      onError(error);
    }
  };
}
