/**
 * A two-way connection over HTTP: a streamed response downstream, one POST request after
 * another upstream. It has the part of a WebSocket's interface that `Socket` uses.
 */

import { CLOSE_ABNORMAL } from "./codes.js";
import { encode } from "./encode.js";
import type { Environment } from "./options.js";

export class Emulation {
  readyState = 0;
  declare onopen?: (() => void) | null;
  declare onmessage?: ((event: { data: string }) => void) | null;
  declare onerror?: ((event: { error?: unknown }) => void) | null;
  declare onclose?: ((event: CloseEventInit) => void) | null;
  /** @internal The connection that the requests belong to, from the server's first reply. */
  _session: object | undefined;
  #window: Environment;
  #url: URL;
  #abort = new AbortController();
  #source: EventSource | undefined;
  /** The requests so far: each waits for the one before, else they could overtake it. */
  #posted: Promise<unknown> = Promise.resolve();

  /**
   * @param url With the scheme of a WebSocket, as `Socket` makes it.
   * @param first The commands with which the connection begins.
   */
  constructor(window: Environment, url: string, first: string) {
    this.#window = window;
    this.#url = new URL(url.replace("ws", "http"));
    if (/sse$/.test(url)) this.#openEventSource(first);
    else void this.#readStream(first);
  }

  send(data: string): void {
    this.#posted = this.#posted
      .then(() => this.#post(new URL("emulation", this.#url), { ...this._session, data }))
      .catch(this.#onEnd);
  }

  close(code = 1005): void {
    if (this.readyState > 2) return;
    this.readyState = 3;
    this.#abort.abort();
    this.#source?.close();
    queueMicrotask(() => this.onclose?.({ code }));
  }

  async #post(url: URL, body: string | object): Promise<Response> {
    const response = await this.#window.fetch!(url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: encode(body),
      signal: this.#abort.signal,
    });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return response;
  }

  #openEventSource(first: string): void {
    this.#url.searchParams.set("cf_connect", first);
    const source = new this.#window.EventSource!(this.#url.href);
    this.#source = source;
    source.onopen = this.#onOpen;
    source.onmessage = (event) => this.onmessage?.(event);
    source.onerror = () => this.#onEnd();
  }

  async #readStream(first: string): Promise<void> {
    try {
      const response = await this.#post(this.#url, first);
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      let rest = "";
      this.#onOpen();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        // A character may be split over two chunks, and so may a line.
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop()!;
        if (lines[0]) this.onmessage?.({ data: lines.join("\n") });
      }
      this.#onEnd();
    } catch (error) {
      this.#onEnd(error);
    }
  }

  #onOpen = (): void => {
    this.readyState = 1;
    this.onopen?.();
  };

  #onEnd = (error?: unknown): void => {
    if (this.readyState < 3) this.onerror?.({ error });
    this.close(CLOSE_ABNORMAL);
  };
}
