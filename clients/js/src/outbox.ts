/**
 * Publications on their way: each is kept, and repeated under one key, until it is
 * acknowledged. Knows no topics; bounded while there is no connection.
 */

import { Timer } from "./timer.js";
import type { Client } from "./client.js";
import { LOST, TopicError } from "./errors.js";
import { encode } from "./offline_queue.js";
import type { Answer } from "./token_manager.js";

/** Seconds for which the server remembers a key, less some for the way. */
const REMEMBERED = 280;
const TOO_MANY = 111;

interface Entry {
  _topic: string;
  _body: string;
  _size: number;
  _resolve(): void;
  _reject(error: unknown): void;
  /** Whether it is on its way on the present connection. */
  _isSent?: boolean;
  /** When it was sent first. */
  _since?: number;
}

export class Outbox {
  #client: Client<any>;
  #timer: Timer;
  /** Not acknowledged, oldest first. */
  #entries = new Set<Entry>();
  #bytes = 0;
  #prefix = crypto.getRandomValues(new Uint32Array(4)).join("");
  #serial = 0;
  /** Refusals in a row because of a rate limit. */
  #refusals = 0;
  #isPaused = false;

  constructor(client: Client<any>) {
    this.#client = client;
    this.#timer = new Timer(client._options);
  }

  /** @internal */
  _add(topic: string, data: unknown): Promise<void> {
    return new Promise((resolve, reject) => {
      encode(data); // which refuses what has no JSON form
      const key = `${this.#prefix}-${++this.#serial}`;
      const body = JSON.stringify({ method: "$publish", data: { channel: topic, data, key } });
      const { size } = new Blob([body]);
      if (this.#isPaused || !this.#client._ready(topic)) this.#makeRoom(size);
      this.#entries.add({
        _topic: topic,
        _body: body,
        _size: size,
        _resolve: resolve,
        _reject: reject,
      });
      this.#bytes += size;
      this._flush();
    });
  }

  /** @internal Send what is not on its way. */
  _flush(): void {
    const now = (this.#client._options.window.Date ?? Date).now();
    for (const entry of this.#entries) {
      if (this.#isPaused || entry._isSent || !this.#client._ready(entry._topic)) continue;
      entry._since ??= now;
      if (now - entry._since > REMEMBERED * 1e3) {
        const message = "not acknowledged in time to repeat it; it may have been delivered";
        this.#settle(entry, new TopicError(LOST, message));
      } else this.#send(entry);
    }
  }

  /** @internal Give up what is not acknowledged. */
  _clear(error: unknown): void {
    this.#timer._stop();
    this.#isPaused = false;
    for (const entry of this.#entries) this.#settle(entry, error);
  }

  #send(entry: Entry): void {
    entry._isSent = true;
    const done: Answer = (error) => {
      if (error?.code !== LOST && error?.code !== TOO_MANY) return this.#settle(entry, error);
      entry._isSent = false;
      if (error.code === TOO_MANY) this.#wait();
    };
    // Without a deadline: an answer comes, or the connection goes.
    this.#client._ask("rpc", entry._body, done, 0);
  }

  #wait(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#timer._retry(this.#refusals++, () => {
      this.#isPaused = false;
      this._flush();
    });
  }

  #settle(entry: Entry, error?: unknown): void {
    this.#entries.delete(entry);
    this.#bytes -= entry._size;
    if (error) return entry._reject(error);
    this.#refusals = 0;
    entry._resolve();
  }

  /** @throws DOMException QuotaExceededError when there is none. */
  #makeRoom(size: number): void {
    const { queueLimit, queueSize, whenFull } = this.#client._options;
    for (;;) {
      if (this.#entries.size < queueLimit && this.#bytes + size <= queueSize) return;
      const error = new DOMException(
        `the outbox is full (${this.#entries.size} publications, ${this.#bytes} bytes)`,
        "QuotaExceededError",
      );
      const oldest = [...this.#entries].find(({ _isSent }) => !_isSent);
      if (whenFull !== "drop-oldest" || !oldest || size > queueSize) throw error;
      this.#settle(oldest, error);
    }
  }
}
