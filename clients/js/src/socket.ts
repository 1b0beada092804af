/**
 * One WebSocket that comes back: a drop-in for the browser's, for any consumer.
 * Knows nothing of what the messages mean, of topics, or of Django.
 */

import type {
  Handler,
  SocketCloseEvent,
  SocketErrorEvent,
  SocketEventMap,
  StateDetail,
  Status,
} from "./events.js";
import { resolveOptions, type ValueOrFactory, type SocketOptions } from "./options.js";
import { encode, OfflineQueue } from "./offline_queue.js";
import { shouldReconnect, backoffDelay } from "./backoff.js";

const HANDLERS = ["open", "message", "close", "error", "state", "drop"] as const;
const PAGE_EVENTS = ["online", "offline", "pagehide", "pageshow", "visibilitychange"] as const;
// A laptop in a tunnel says it is offline, and still reaches itself.
const LOOPBACK = /^\w+:..(localhost|127\.|\[::1])/;

/** Async, so that a function that throws at once is a rejection like any other. */
const fresh = async <T>(value: ValueOrFactory<T>): Promise<T> =>
  typeof value === "function" ? (value as () => T | Promise<T>)() : value;

export interface Socket {
  // Read as a WebSocket's, so that a Socket fits where one is asked for.
  get onclose(): Handler<CloseEvent>;
  set onclose(handler: Handler<SocketCloseEvent>);
  addEventListener<K extends keyof SocketEventMap>(
    type: K,
    listener: ((this: Socket, event: SocketEventMap[K]) => unknown) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof SocketEventMap>(
    type: K,
    listener: ((this: Socket, event: SocketEventMap[K]) => unknown) | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/**
 * A WebSocket that comes back.
 *
 * It has the browser's interface and adds a `status`, a bounded queue for what
 * is sent while there is no connection, and `reconnect()`. Delivery is at most
 * once: nothing is sent twice, and what a broken connection had taken may be lost.
 */
export class Socket extends EventTarget {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;

  declare onopen: Handler<Event>;
  declare onmessage: Handler<MessageEvent>;
  declare onerror: Handler<SocketErrorEvent>;
  declare onstate: Handler<CustomEvent<StateDetail>>;
  declare ondrop: Handler<CustomEvent<string | Blob>>;

  /** @internal What a subclass may change while the socket lives. */
  readonly _options: Required<SocketOptions>;
  #source: ValueOrFactory<string | URL>;
  #protocols: ValueOrFactory<string | string[]>;
  #url = "";
  #status: Status | "" = "";
  #binaryType: BinaryType = "blob";
  #native: WebSocket | undefined;
  #queue: OfflineQueue;
  /** Attempts since the last connection that lasted. */
  #attempt = 0;
  #openedAt = 0;
  /** The one timer: attempt, connect deadline, silence and reply never overlap. */
  #timer: unknown;
  /** Changes whenever an attempt becomes void, so that a late answer is noticed. */
  #generation = 0;
  #closing = false;

  /**
   * @param url Absolute, or relative to the page (`"/ws/chat/"`); http and https
   *   become ws and wss. A function is called before every attempt.
   * @param protocols As for `WebSocket`; a function is called before every attempt.
   * @throws TypeError when a URL cannot be parsed or an option is unknown.
   */
  constructor(
    url: ValueOrFactory<string | URL> = "",
    protocols: ValueOrFactory<string | string[]> = [],
    options: SocketOptions = {},
  ) {
    super();
    this.#source = url;
    this.#protocols = protocols;
    this._options = resolveOptions(options);
    this.#queue = new OfflineQueue(this._options, (detail) => {
      this.dispatchEvent(new CustomEvent("drop", { detail }));
    });
    for (const type of HANDLERS) this.#offer(type);
    if (typeof url !== "function") this.#resolve(url);
    this.reconnect();
  }

  /** The address of the latest attempt; empty until a URL function has answered. */
  get url(): string {
    return this.#url;
  }

  get status(): Status {
    return this.#status as Status;
  }

  /** As of a WebSocket; CONNECTING (0) also while the socket waits to come back. */
  get readyState(): 0 | 1 | 2 | 3 {
    const status = this.#status;
    return status === "closed" ? 3 : this.#closing ? 2 : status === "open" ? 1 : 0;
  }

  get protocol(): string {
    return this.#native?.protocol ?? "";
  }

  get extensions(): string {
    return this.#native?.extensions ?? "";
  }

  /** Bytes not yet given to the network, those of the offline queue included. */
  get bufferedAmount(): number {
    return this.#queue.bytes + (this.#native?.bufferedAmount ?? 0);
  }

  get binaryType(): BinaryType {
    return this.#binaryType;
  }

  set binaryType(type: BinaryType) {
    this.#binaryType = type;
    if (this.#native) this.#native.binaryType = type;
  }

  /**
   * Send now, or as soon as the socket is open again.
   *
   * Strings and binary data go as they are, anything else as JSON. A queued
   * message is handed to one connection, once, in order; a message that was in
   * flight when a connection broke may be lost and is not repeated.
   *
   * @throws DOMException InvalidStateError after the socket closed for good,
   *   QuotaExceededError when the queue is full and `whenFull` is "throw".
   * @throws TypeError when the data has no JSON form.
   */
  send(data: unknown): void {
    if (this.readyState > 1) {
      throw new DOMException("the socket is closed; reconnect() opens it", "InvalidStateError");
    }
    const frame = encode(data);
    const native = this.#native;
    if (this.#status === "open" && native?.readyState === 1) native.send(frame);
    else this.#queue.add(frame);
  }

  /**
   * Close for good. What is still queued is dropped, with a `drop` event each.
   *
   * @throws DOMException InvalidAccessError for a code a page may not send.
   */
  close(code?: number, reason?: string): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code < 5000)) {
      throw new DOMException(`close code ${code} is not 1000 or 3000-4999`, "InvalidAccessError");
    }
    if (this.readyState > 1) return;
    const native = this.#native;
    native?.close(code, reason);
    this.#closing = true;
    this.#arm(0);
    if (!native) {
      this.#release();
      this.#arm(1e-3, () => this.#lost({ code: code ?? 1005, reason: reason ?? "", wasClean: true }));
    }
  }

  /** Connect now, with a new connection and a count from zero; also after `close()`. */
  reconnect(): void {
    const { window } = this._options;
    for (const type of PAGE_EVENTS) window.addEventListener?.(type, this.#onPage);
    this.#closing = false;
    this.#attempt = 0;
    if (this.#status === "open") this.#leave("reconnect() was called");
    this.#start();
  }

  /** `on<type>`, which keeps its place among the listeners as HTML asks. */
  #offer(type: keyof SocketEventMap): void {
    let handler: Handler<Event> = null;
    const call = (event: Event): unknown => handler!.call(this, event);
    Object.defineProperty(this, `on${type}`, {
      get: () => handler,
      set: (value: unknown) => {
        handler = typeof value === "function" ? (value as Handler<Event>) : null;
        if (handler) this.addEventListener(type, call);
        else this.removeEventListener(type, call);
      },
    });
  }

  /** @internal */
  _open(url: string, protocols: string | string[]): WebSocket {
    return new this._options.window.WebSocket(url, protocols);
  }

  #resolve(url: string | URL): string {
    const { base, window } = this._options;
    const page = window.location?.href;
    const address = new URL(url, base ? new URL(base, page) : page);
    address.protocol = address.protocol.replace("http", "ws");
    address.hash = "";
    return (this.#url = address.href);
  }

  #arm(seconds: number, callback?: () => void): void {
    const { window } = this._options;
    window.clearTimeout(this.#timer as never);
    if (callback && seconds) this.#timer = window.setTimeout(callback, seconds * 1e3);
  }

  #become(status: Status, delay = 0): void {
    if (this.#status === status) return;
    this.#status = status;
    const detail = { status, attempt: this.#attempt, delay };
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  /** Make the present attempt or connection void. */
  #release(): void {
    const native = this.#native;
    this.#generation++;
    this.#arm(0);
    this.#native = undefined;
    if (native) {
      native.onopen = native.onmessage = native.onerror = native.onclose = null;
      native.close();
    }
  }

  #start = (): void => {
    const { connectTimeout } = this._options;
    this.#release();
    if (this.#isOffline()) return this.#become("offline");
    this.#arm(connectTimeout, () => this._fail(`no connection within ${connectTimeout} s`));
    void this.#dial(this.#generation);
    this.#become("connecting");
  };

  async #dial(generation: number): Promise<void> {
    let fatal = false;
    try {
      const [url, protocols] = await Promise.all([fresh(this.#source), fresh(this.#protocols)]);
      if (generation !== this.#generation) return;
      // What the constructor refuses now, it would refuse at every attempt.
      fatal = true;
      const native = this._open(this.#resolve(url), protocols);
      this.#native = native;
      native.binaryType = this.#binaryType;
      native.onopen = () => this.#opened(native);
      native.onmessage = ({ data, origin }) => {
        this._listen();
        this.dispatchEvent(new MessageEvent("message", { data, origin }));
      };
      native.onerror = () => this.dispatchEvent(new Event("error"));
      native.onclose = (event) => this.#lost(event);
    } catch (error) {
      if (generation === this.#generation) this._fail(error, fatal);
    }
  }

  #opened(native: WebSocket): void {
    this.#openedAt = this._options.window.performance.now();
    this._listen();
    this.#become("open");
    // Before the queue: what an `open` listener sends (a login, a join) goes first.
    this.dispatchEvent(new Event("open"));
    let waiting: string | Blob | undefined;
    while (native.readyState === 1 && (waiting = this.#queue.take()) !== undefined) {
      native.send(waiting);
    }
  }

  /** @internal The far side has just been heard. */
  _listen(): void {
    this.#arm(this._options.heartbeat, this.#beat);
  }

  #beat = (): void => {
    const { heartbeat, heartbeatMessage, heartbeatTimeout } = this._options;
    if (!heartbeat || this.#native?.readyState !== 1) return;
    this.#native.send(
      encode(typeof heartbeatMessage === "function" ? heartbeatMessage() : heartbeatMessage),
    );
    this.#arm(heartbeatTimeout, () => this._fail(`no frame within ${heartbeatTimeout} s of a heartbeat`));
  };

  /** @internal Give the present attempt or connection up, as a failure. */
  _fail(
    error: unknown,
    fatal = false,
    init: CloseEventInit = { code: 1006, reason: String(error) },
  ): void {
    this.#lost(init, error, fatal);
  }

  #lost(init: CloseEventInit, error?: unknown, fatal = false): void {
    const { window, stableAfter, maxAttempts } = this._options;
    if (this.#status === "open" && window.performance.now() - this.#openedAt >= stableAfter * 1e3) {
      this.#attempt = 0;
    }
    this.#release();
    const event = new CloseEvent("close", init);
    let willReconnect = false;
    try {
      willReconnect =
        !fatal &&
        !this.#closing &&
        this.#attempt < maxAttempts &&
        shouldReconnect(event, this._options);
    } catch (thrown) {
      error = thrown;
    }
    if (willReconnect) this.#wait(event.code);
    else this.#finish();
    if (error) this.dispatchEvent(Object.assign(new Event("error"), { error }));
    this.dispatchEvent(Object.assign(event, { willReconnect }));
  }

  #wait(code: number): void {
    if (this.#isOffline()) return this.#become("offline");
    const delay = this._pause(code, this.#attempt++);
    this.#arm(delay || 1e-3, this.#start);
    this.#become("waiting", delay);
  }

  /** @internal Seconds until the next attempt. */
  _pause(code: number, attempt: number): number {
    const { document, Math } = this._options.window;
    // Nobody looks at a hidden page, so it spares a server that has just returned.
    // 1012, 3001: the server restarts or drains, and asks to be called again soon.
    const n = document?.visibilityState === "hidden" ? 99 : code === 1012 || code === 3001 ? 0 : attempt;
    return backoffDelay(n, Math.random(), this._options);
  }

  #finish(): void {
    const { window } = this._options;
    for (const type of PAGE_EVENTS) window.removeEventListener?.(type, this.#onPage);
    this.#become("closed");
    this.#queue.clear();
  }

  /** Hang up without a failure: the socket comes back when something says so. */
  #leave(reason: string): void {
    this.#release();
    this.#become("offline");
    const event = new CloseEvent("close", { code: 1001, reason, wasClean: true });
    this.dispatchEvent(Object.assign(event, { willReconnect: true }));
  }

  #onPage = ({ type }: Event): void => {
    const { document } = this._options.window;
    const status = this.#status;
    if (this.#closing) return;
    if (type === "pagehide") {
      if (status === "open") this.#leave("the page is hidden");
      else {
        this.#release();
        this.#become("offline");
      }
    } else if (type !== "visibilitychange" || document?.visibilityState === "visible") {
      if (status === "open") this.#beat();
      else if (status !== "connecting") this.#start();
    }
  };

  #isOffline(): boolean {
    const { location, navigator } = this._options.window;
    return navigator?.onLine === false && !LOOPBACK.test(this.#url || location?.href!);
  }
}
