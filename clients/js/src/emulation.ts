/**
 * A two-way connection made of plain HTTP, with as much of a WebSocket's shape as
 * `Socket` looks at: an endless response downstream, one POST after another upstream.
 * Knows neither commands nor replies, only lines of text.
 */

import type { Environment } from "./options.js";

const JSON_BODY = { "Content-Type": "application/json" };

export class Emulation {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  onclose: ((event: CloseEventInit) => void) | null = null;
  /** @internal Which connection the POSTs belong to; the server said so at the start. */
  _session: object | undefined;
  #window: Environment;
  #url: URL;
  #abort = new AbortController();
  #source: EventSource | undefined;
  /** The POSTs so far: they overtake each other unless each waits for the last. */
  #posted: Promise<unknown> = Promise.resolve();

  /**
   * @param url With the scheme of a WebSocket, as `Socket` makes it.
   * @param first The commands with which the connection begins.
   */
  constructor(window: Environment, url: string, first: string) {
    this.#window = window;
    this.#url = new URL(url.replace("ws", "http"));
    if (url.endsWith("sse")) this.#listen(first);
    else void this.#read(first);
  }

  send(data: string): void {
    this.#posted = this.#posted
      .then(() => this.#post(new URL("emulation", this.#url), { ...this._session, data }))
      .catch(() => this.#end());
  }

  close(code = 1005): void {
    if (this.readyState > 2) return;
    this.readyState = 3;
    this.#abort.abort();
    this.#source?.close();
    queueMicrotask(() => this.onclose?.({ code }));
  }

  async #post(url: URL, body: unknown): Promise<Response> {
    const response = await this.#window.fetch!(url, {
      method: "POST",
      headers: JSON_BODY,
      body: typeof body === "string" ? body : JSON.stringify(body),
      signal: this.#abort.signal,
    });
    if (!response.ok) throw response;
    return response;
  }

  #listen(first: string): void {
    this.#url.searchParams.set("cf_connect", first);
    const source = new this.#window.EventSource!(this.#url.href);
    this.#source = source;
    source.onopen = () => this.#open();
    source.onmessage = ({ data }) => this.onmessage?.({ data });
    source.onerror = () => this.#end();
  }

  async #read(first: string): Promise<void> {
    try {
      const response = await this.#post(this.#url, first);
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      let rest = "";
      this.#open();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        // A character may be split over two chunks, and so may a line.
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop()!;
        if (lines[0]) this.onmessage?.({ data: lines.join("\n") });
      }
    } catch {
      // A request that failed is a connection that ended.
    }
    this.#end();
  }

  #open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  #end(): void {
    if (this.readyState < 3) this.onerror?.();
    this.close(1006);
  }
}
