/** Fake HTTP: requests to which the test responds, and streams to which it sends chunks. */

import type { FakeWindow } from "./fake_browser.js";

export class FakeRequest {
  readonly url: string;
  readonly body: string;
  readonly headers: Record<string, string>;
  readonly method: string;
  isAborted = false;
  #resolve!: (response: unknown) => void;
  #reject!: (error: unknown) => void;
  #chunks: ({ done: boolean; value?: Uint8Array } | Error)[] = [];
  #wake: (() => void) | undefined;
  readonly response: Promise<unknown>;

  constructor(url: URL | string, init: RequestInit) {
    this.url = String(url);
    this.body = init.body as string;
    this.headers = init.headers as Record<string, string>;
    this.method = init.method!;
    this.response = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    init.signal?.addEventListener("abort", () => {
      this.isAborted = true;
      const error = new DOMException("aborted", "AbortError");
      this.#reject(error);
      this.#push(error);
    });
  }

  /** Respond; the body consists of the chunks of `sendChunk`. */
  respond(status = 200): void {
    const read = async (): Promise<unknown> => {
      while (!this.#chunks.length) await new Promise<void>((done) => (this.#wake = done));
      const chunk = this.#chunks.shift()!;
      if (chunk instanceof Error) throw chunk;
      return chunk;
    };
    this.#resolve({ ok: status < 300, status, body: { getReader: () => ({ read }) } });
  }

  fail(): void {
    this.#reject(new TypeError("network error"));
  }

  sendChunk(chunk: string | Uint8Array): void {
    const value = typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk;
    this.#push({ done: false, value });
  }

  end(): void {
    this.#push({ done: true });
  }

  #push(chunk: { done: boolean; value?: Uint8Array } | Error): void {
    this.#chunks.push(chunk);
    this.#wake?.();
  }
}

export class FakeEventSource {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  isClosed = false;

  constructor(readonly url: string) {}

  close(): void {
    this.isClosed = true;
  }
}

export interface FakeHttp {
  requests: FakeRequest[];
  sources: FakeEventSource[];
  storage: Map<string, string>;
}

/** Add HTTP, server-sent events and a session storage to a window. */
export function withHttp(window: FakeWindow): FakeHttp {
  const http: FakeHttp = { requests: [], sources: [], storage: new Map() };
  Object.assign(window, {
    fetch: (url: URL, init: RequestInit) => {
      const request = new FakeRequest(url, init);
      http.requests.push(request);
      return request.response;
    },
    EventSource: class extends FakeEventSource {
      constructor(url: string) {
        super(url);
        http.sources.push(this);
      }
    },
    sessionStorage: {
      getItem: (key: string) => http.storage.get(key) ?? null,
      setItem: (key: string, value: string) => void http.storage.set(key, value),
    },
  });
  return http;
}
