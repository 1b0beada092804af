/**
 * What is sent while there is no connection: bounded in messages and in bytes.
 * Knows no socket; each message leaves once, sent or dropped.
 */

import type { SocketOptions } from "./options.js";

export type Frame = string | Blob | BufferSource;

export class OfflineQueue {
  /** Bytes of the messages that wait. */
  bytes = 0;
  #waiting: [data: string | Blob, size: number][] = [];
  #options: Required<SocketOptions>;
  #drop: (data: string | Blob) => void;

  constructor(options: Required<SocketOptions>, drop: (data: string | Blob) => void) {
    this.#options = options;
    this.#drop = drop;
  }

  /** @throws DOMException QuotaExceededError when full and the policy is "throw". */
  add(frame: Frame): void {
    const { queueLimit, queueSize, whenFull } = this.#options;
    // A Blob measures text in UTF-8 and keeps bytes that the caller may overwrite.
    const blob = new Blob([frame]);
    const { size } = blob;
    const data = typeof frame === "string" ? frame : blob;
    const isFull = (): boolean =>
      this.#waiting.length >= queueLimit || this.bytes + size > queueSize;
    if (whenFull === "drop-oldest" && size <= queueSize) {
      while (this.#waiting[0] && isFull()) this.#drop(this.take()!);
    }
    if (!isFull()) {
      this.#waiting.push([data, size]);
      this.bytes += size;
    } else if (whenFull === "throw") {
      throw new DOMException(
        `the offline queue is full (${this.#waiting.length} messages, ${this.bytes} bytes)`,
        "QuotaExceededError",
      );
    } else this.#drop(data);
  }

  /** The oldest message, which is no longer in the queue. */
  take(): string | Blob | undefined {
    const [data, size] = this.#waiting.shift() ?? [undefined, 0];
    this.bytes -= size;
    return data;
  }

  /** Give up what still waits. */
  clear(): void {
    while (this.#waiting[0]) this.#drop(this.take()!);
  }
}

/** @throws TypeError when the data has no JSON form. */
export function encode(data: unknown): Frame {
  if (data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    return data as Blob | BufferSource;
  }
  const text = typeof data === "string" ? data : JSON.stringify(data);
  if (text === undefined) throw new TypeError(`cannot send ${typeof data}: it has no JSON form`);
  return text;
}
