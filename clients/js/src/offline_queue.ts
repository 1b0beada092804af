/** Messages that are sent without a connection, bounded in number and in bytes. */

import type { Frame } from "./encode.js";
import type { SocketOptions } from "./options.js";

export class OfflineQueue {
  /** Bytes of the queued messages. */
  bytes = 0;
  #messages: [data: string | Blob, size: number][] = [];
  #options: Required<SocketOptions>;
  #onDrop: (data: string | Blob) => void;

  /** @param onDrop Called with every message that leaves the queue without being sent. */
  constructor(options: Required<SocketOptions>, onDrop: (data: string | Blob) => void) {
    this.#options = options;
    this.#onDrop = onDrop;
  }

  /** @throws DOMException QuotaExceededError when full and the policy is "throw". */
  add(frame: Frame): void {
    const { queueLimit, queueSize, whenFull } = this.#options;
    // A Blob measures text in UTF-8, and copies bytes that the caller may overwrite.
    const blob = new Blob([frame]);
    const { size } = blob;
    const data = typeof frame === "string" ? frame : blob;
    const isFull = (): boolean =>
      this.#messages.length >= queueLimit || this.bytes + size > queueSize;
    if (whenFull === "drop-oldest" && size <= queueSize) {
      while (this.#messages[0] && isFull()) this.#onDrop(this.take()!);
    }
    if (!isFull()) {
      this.#messages.push([data, size]);
      this.bytes += size;
    } else if (whenFull === "throw") {
      throw new DOMException(
        `the queue is full (${this.#messages.length} messages, ${this.bytes} bytes)`,
        "QuotaExceededError",
      );
    } else this.#onDrop(data);
  }

  /** Remove and return the oldest message. */
  take(): string | Blob | undefined {
    const [data, size] = this.#messages.shift() ?? [undefined, 0];
    this.bytes -= size;
    return data;
  }

  /** Drop every message. */
  clear(): void {
    while (this.#messages[0]) this.#onDrop(this.take()!);
  }
}
