/**
 * Publications that are not acknowledged: repeated under one key until they are, and
 * bounded while they wait for a connection.
 */

import { LOST, TOO_MANY_REQUESTS } from "./codes.js";
import type { CommandQueue, ReplyHandler } from "./command_queue.js";
import { encode } from "./encode.js";
import { TopicError } from "./errors.js";
import type { SocketOptions } from "./options.js";
import { Timer } from "./timer.js";

/** Seconds in which a publication may be repeated: the server keeps a key for 300. */
const REPEATABLE = 280;

interface Entry {
  _topic: string;
  _params: string;
  _size: number;
  /** Fulfils or rejects the promise of the publication. */
  _done(error: unknown): void;
  /** Whether it was sent on the present connection. */
  _isSent?: boolean;
  /** When it was sent first, in milliseconds. */
  _sentAt?: number;
}

export class Outbox {
  #commands: CommandQueue;
  #options: Required<SocketOptions>;
  #timer: Timer;
  /** Oldest first. */
  #entries = new Set<Entry>();
  #bytes = 0;
  #keyPrefix = crypto.getRandomValues(new Uint32Array(4)).join("");
  #lastKey = 0;
  /** Refusals in a row because of a rate limit. */
  #refusals = 0;
  #isPaused = false;

  constructor(commands: CommandQueue, options: Required<SocketOptions>) {
    this.#commands = commands;
    this.#options = options;
    this.#timer = new Timer(options);
  }

  /** @internal Publish now or when the topic is ready; resolves when it is acknowledged. */
  _publish(topic: string, data: unknown): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#commands._refusal) throw this.#commands._refusal;
      encode(data); // throws where there is no JSON form
      const key = `${this.#keyPrefix}-${++this.#lastKey}`;
      const params = JSON.stringify({ method: "$publish", data: { channel: topic, data, key } });
      const { size } = new Blob([params]);
      if (this.#isPaused || !this.#commands._isReady(topic)) this.#makeRoom(size);
      this.#entries.add({
        _topic: topic,
        _params: params,
        _size: size,
        _done: (error) => (error ? reject(error) : resolve()),
      });
      this.#bytes += size;
      this._flush();
    });
  }

  /** @internal Send the entries that are ready. */
  _flush(): void {
    const now = (this.#options.window.Date ?? Date).now();
    for (const entry of this.#entries) {
      if (this.#isPaused || entry._isSent || !this.#commands._isReady(entry._topic)) continue;
      entry._sentAt ??= now;
      if (now - entry._sentAt > REPEATABLE * 1e3) {
        const message = "not acknowledged; it may have been delivered";
        this.#settle(entry, new TopicError(LOST, message));
      } else this.#send(entry);
    }
  }

  /** @internal Reject every entry. */
  _clear(error: unknown): void {
    this.#timer._stop();
    this.#isPaused = false;
    for (const entry of this.#entries) this.#settle(entry, error);
  }

  #send(entry: Entry): void {
    entry._isSent = true;
    const done: ReplyHandler = (error) => {
      if (error?.code !== LOST && error?.code !== TOO_MANY_REQUESTS) {
        return this.#settle(entry, error);
      }
      entry._isSent = false;
      if (error.code === TOO_MANY_REQUESTS) this.#pause();
    };
    // Without a timeout: either a reply comes or the connection is lost.
    this.#commands._send("rpc", entry._params, done, 0, entry._topic);
  }

  #pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#timer._setBackoff(this.#refusals++, () => {
      this.#isPaused = false;
      this._flush();
    });
  }

  #settle(entry: Entry, error?: unknown): void {
    this.#entries.delete(entry);
    this.#bytes -= entry._size;
    if (!error) this.#refusals = 0;
    entry._done(error);
  }

  /** @throws DOMException QuotaExceededError when there is no room. */
  #makeRoom(size: number): void {
    const { queueLimit, queueSize, whenFull } = this.#options;
    for (;;) {
      if (this.#entries.size < queueLimit && this.#bytes + size <= queueSize) return;
      const error = new DOMException(
        `the queue is full (${this.#entries.size} messages, ${this.#bytes} bytes)`,
        "QuotaExceededError",
      );
      const oldest = [...this.#entries].find(({ _isSent }) => !_isSent);
      if (whenFull !== "drop-oldest" || !oldest || size > queueSize) throw error;
      this.#settle(oldest, error);
    }
  }
}
