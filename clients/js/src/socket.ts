/** A WebSocket that reconnects: a replacement for the browser's, for any consumer. */

import { LOOPBACK, resolveAddress } from "./address.js";
import { backoffDelay, shouldReconnect } from "./backoff.js";
import { CLOSE_ABNORMAL, CLOSE_DRAIN, CLOSE_GOING_AWAY, CLOSE_SERVICE_RESTART } from "./codes.js";
import { Emitter } from "./emitter.js";
import { encode } from "./encode.js";
import type {
  Handler,
  SocketCloseEvent,
  SocketErrorEvent,
  SocketEventMap,
  StateDetail,
  Status,
} from "./events.js";
import { defineHandlers } from "./handlers.js";
import { OfflineQueue } from "./offline_queue.js";
import { resolveOptions, type SocketOptions, type ValueOrFactory } from "./options.js";
import { Timer } from "./timer.js";

const EVENTS = "open message close error state drop";

const PAGE_EVENTS = ["online", "offline", "pagehide", "pageshow", "visibilitychange"] as const;

/** Async, so that a function that throws is a rejection. */
const resolveValue = async <T>(value: ValueOrFactory<T>): Promise<T> =>
  typeof value === "function" ? (value as () => T | Promise<T>)() : value;

export interface Socket {
  // Read as a WebSocket's, so that a Socket can be passed where a WebSocket is expected.
  get onclose(): Handler<CloseEvent>;
  set onclose(handler: Handler<SocketCloseEvent>);
}

/**
 * A WebSocket that reconnects.
 *
 * It has the browser's interface and adds `status`, a bounded queue for messages that are
 * sent without a connection, and `reconnect()`. Delivery is at most once: nothing is sent
 * twice, and messages on a connection that is lost may be lost with it.
 */
export class Socket extends Emitter<SocketEventMap> {
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

  /** @internal A subclass may change them at any time. */
  readonly _options: Required<SocketOptions>;
  #source: ValueOrFactory<string | URL>;
  #protocols: ValueOrFactory<string | string[]>;
  #url = "";
  #status: Status | "" = "";
  #binaryType: BinaryType = "blob";
  #native: WebSocket | undefined;
  #queue: OfflineQueue;
  /** Attempts since the last connection that was stable. */
  #attempt = 0;
  #openedAt = 0;
  /** For the next attempt, the connect timeout, the heartbeat and its reply: one at a time. */
  #timer: Timer;
  /** Changes when an attempt that has begun is given up. */
  #generation = 0;
  #isClosing = false;

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
    super(EVENTS);
    this.#source = url;
    this.#protocols = protocols;
    this._options = resolveOptions(options);
    this.#timer = new Timer(this._options);
    this.#queue = new OfflineQueue(this._options, (data) => this._emit("drop", data));
    defineHandlers(this, EVENTS);
    if (typeof url !== "function") this.#url = resolveAddress(url, this._options);
    this.reconnect();
  }

  /** The address of the latest attempt; empty until a URL function has returned one. */
  get url(): string {
    return this.#url;
  }

  get status(): Status {
    return this.#status as Status;
  }

  /** As of a WebSocket; CONNECTING (0) also while the socket waits to reconnect. */
  get readyState(): 0 | 1 | 2 | 3 {
    const status = this.#status;
    return status === "closed" ? 3 : this.#isClosing ? 2 : status === "open" ? 1 : 0;
  }

  get protocol(): string {
    return this.#native?.protocol ?? "";
  }

  get extensions(): string {
    return this.#native?.extensions ?? "";
  }

  /** Bytes that are not sent yet, those of the offline queue included. */
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
   * Strings and binary data are sent as they are, anything else as JSON. Queued messages
   * are sent once, in order; a message that was on its way when the connection was lost may
   * be lost and is not repeated.
   *
   * @throws DOMException InvalidStateError after the socket is closed,
   *   QuotaExceededError when the queue is full and `whenFull` is "throw".
   * @throws TypeError when the data has no JSON form.
   */
  send(data: unknown): void {
    if (this.readyState > 1) {
      throw new DOMException("closed; call reconnect()", "InvalidStateError");
    }
    const frame = encode(data);
    const native = this.#native;
    if (this.#status === "open" && native?.readyState === 1) native.send(frame);
    else this.#queue.add(frame);
  }

  /**
   * Close, and do not reconnect. What is still queued is dropped, with a `drop` event each.
   *
   * @throws DOMException InvalidAccessError for a code that a page may not send.
   */
  close(code?: number, reason?: string): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code < 5000)) {
      throw new DOMException(`close code ${code} is not 1000 or 3000-4999`, "InvalidAccessError");
    }
    if (this.readyState > 1) return;
    const native = this.#native;
    native?.close(code, reason);
    this.#isClosing = true;
    this.#timer._stop();
    if (!native) {
      this.#discard();
      this.#timer._set(0, () =>
        this.#onClose({ code: code ?? 1005, reason: reason ?? "", wasClean: true }),
      );
    }
  }

  /** Connect now, with a new connection and attempts counted from 0; also after `close()`. */
  reconnect(): void {
    const { window } = this._options;
    for (const type of PAGE_EVENTS) window.addEventListener?.(type, this.#onPageEvent);
    this.#isClosing = false;
    this.#attempt = 0;
    if (this.#status === "open") this.#suspend("reconnect called");
    this.#start();
  }

  /** @internal */
  _createSocket(url: string, protocols: string | string[]): WebSocket {
    return new this._options.window.WebSocket(url, protocols);
  }

  /** Set the timer; 0: never. */
  #setTimeout(seconds: number, callback: () => void): void {
    if (seconds) this.#timer._set(seconds, callback);
    else this.#timer._stop();
  }

  #setStatus(status: Status, delay = 0): void {
    if (this.#status === status) return;
    this.#status = status;
    this._emit("state", { status, attempt: this.#attempt, delay });
  }

  /** Drop the present attempt or connection, without an event. */
  #discard(): void {
    const native = this.#native;
    this.#generation++;
    this.#timer._stop();
    this.#native = undefined;
    if (native) {
      native.onopen = native.onmessage = native.onerror = native.onclose = null;
      native.close();
    }
  }

  #start = (): void => {
    const { connectTimeout } = this._options;
    this.#discard();
    if (this.#isOffline()) return this.#setStatus("offline");
    this.#setTimeout(connectTimeout, () => this._fail(`no connection within ${connectTimeout} s`));
    void this.#connect(this.#generation);
    this.#setStatus("connecting");
  };

  async #connect(generation: number): Promise<void> {
    let isFinal = false;
    try {
      const [url, protocols] = await Promise.all([
        resolveValue(this.#source),
        resolveValue(this.#protocols),
      ]);
      if (generation !== this.#generation) return;
      // A URL that the constructor refuses now is refused at every attempt.
      isFinal = true;
      this.#url = resolveAddress(url, this._options);
      const native = this._createSocket(this.#url, protocols);
      this.#native = native;
      native.binaryType = this.#binaryType;
      native.onopen = () => this.#onOpen(native);
      native.onmessage = ({ data, origin }) => {
        this._restartHeartbeat();
        this.dispatchEvent(new MessageEvent("message", { data, origin }));
      };
      native.onerror = ({ error }: any) =>
        this._emit("error", null, { error });
      native.onclose = (event) => this.#onClose(event);
    } catch (error) {
      if (generation === this.#generation) this._fail(error, isFinal);
    }
  }

  #onOpen(native: WebSocket): void {
    this.#openedAt = this._options.window.performance.now();
    this._restartHeartbeat();
    this.#setStatus("open");
    // Before the queue: what an `open` listener sends (a login, a join) is sent first.
    this.dispatchEvent(new Event("open"));
    let message: string | Blob | undefined;
    while (native.readyState === 1 && (message = this.#queue.take()) !== undefined) {
      native.send(message);
    }
  }

  /** @internal The server has just sent a frame. */
  _restartHeartbeat(): void {
    this.#setTimeout(this._options.heartbeat, this.#sendHeartbeat);
  }

  #sendHeartbeat = (): void => {
    const { heartbeat, heartbeatMessage, heartbeatTimeout } = this._options;
    if (!heartbeat || this.#native?.readyState !== 1) return;
    this.#native.send(
      encode(typeof heartbeatMessage === "function" ? heartbeatMessage() : heartbeatMessage),
    );
    this.#setTimeout(heartbeatTimeout, () =>
      this._fail(`no frame within ${heartbeatTimeout} s`),
    );
  };

  /** @internal End the present attempt or connection with an error. */
  _fail(
    error: unknown,
    isFinal = false,
    init: CloseEventInit = { code: CLOSE_ABNORMAL, reason: String(error) },
  ): void {
    this.#onClose(init, error, isFinal);
  }

  #onClose(init: CloseEventInit, error?: unknown, isFinal = false): void {
    const { window, stableAfter, maxAttempts } = this._options;
    if (this.#status === "open" && window.performance.now() - this.#openedAt >= stableAfter * 1e3) {
      this.#attempt = 0;
    }
    this.#discard();
    const event = new CloseEvent("close", init);
    let willReconnect = false;
    try {
      willReconnect =
        !isFinal &&
        !this.#isClosing &&
        this.#attempt < maxAttempts &&
        shouldReconnect(event, this._options);
    } catch (thrown) {
      error = thrown;
    }
    if (willReconnect) this.#scheduleAttempt(event.code);
    else this.#finish();
    if (error) this._emit("error", null, { error });
    this.dispatchEvent(Object.assign(event, { willReconnect }));
  }

  #scheduleAttempt(code: number): void {
    if (this.#isOffline()) return this.#setStatus("offline");
    const delay = this._reconnectDelay(code, this.#attempt++);
    this.#timer._set(delay, this.#start);
    this.#setStatus("waiting", delay);
  }

  /** @internal Return the seconds until the next attempt. */
  _reconnectDelay(code: number, attempt: number): number {
    const { document, Math } = this._options.window;
    // Another server accepts connections soon.
    if (code === CLOSE_SERVICE_RESTART || code === CLOSE_DRAIN) attempt = 0;
    // Hidden pages wait longest, which relieves a server that has just started.
    if (document?.visibilityState === "hidden") attempt = 99;
    return backoffDelay(attempt, Math.random(), this._options);
  }

  #finish(): void {
    const { window } = this._options;
    for (const type of PAGE_EVENTS) window.removeEventListener?.(type, this.#onPageEvent);
    this.#setStatus("closed");
    this.#queue.clear();
  }

  /** Drop the connection without an error, until a page event or a call reconnects. */
  #suspend(reason: string): void {
    const wasOpen = this.#status === "open";
    this.#discard();
    this.#setStatus("offline");
    if (!wasOpen) return;
    const event = new CloseEvent("close", { code: CLOSE_GOING_AWAY, reason, wasClean: true });
    this.dispatchEvent(Object.assign(event, { willReconnect: true }));
  }

  #onPageEvent = ({ type }: Event): void => {
    const { document } = this._options.window;
    const status = this.#status;
    if (this.#isClosing) return;
    if (type === "pagehide") this.#suspend("page hidden");
    else if (type !== "visibilitychange" || document?.visibilityState === "visible") {
      if (status === "open") this.#sendHeartbeat();
      else if (status !== "connecting") this.#start();
    }
  };

  #isOffline(): boolean {
    const { location, navigator } = this._options.window;
    return navigator?.onLine === false && !LOOPBACK.test(this.#url || location?.href!);
  }
}
