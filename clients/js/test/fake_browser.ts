/**
 * A fake browser: a clock that the test advances, page events, and WebSockets whose server
 * is the test. As strict as a real one where the client relies on it.
 */

import type { Environment } from "../src/index.js";

/** Node 20 has no CloseEvent; every browser has. */
class FakeCloseEvent extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
  constructor(type: string, init: CloseEventInit = {}) {
    super(type);
    this.code = init.code ?? 0;
    this.reason = init.reason ?? "";
    this.wasClean = init.wasClean ?? false;
  }
}
globalThis.CloseEvent ??= FakeCloseEvent as unknown as typeof CloseEvent;

export class FakeWebSocket {
  readyState: 0 | 1 | 2 | 3 = 0;
  protocol = "";
  extensions = "";
  bufferedAmount = 0;
  binaryType: BinaryType = "blob";
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onerror: ((event: Event) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  /** The messages sent, in order. */
  readonly sent: unknown[] = [];
  /** The arguments of the first `close()`. */
  closedWith: [code: number | undefined, reason: string | undefined] | undefined;

  constructor(
    readonly url: string,
    readonly protocols: string | string[] | undefined,
  ) {}

  send(data: unknown): void {
    if (this.readyState === 0) throw new DOMException("not open", "InvalidStateError");
    if (this.readyState === 1) this.sent.push(data);
  }

  close(code?: number, reason?: string): void {
    if (reason && reason.length > 123) throw new DOMException("too long", "SyntaxError");
    if (this.readyState > 1) return;
    this.closedWith = [code, reason];
    this.readyState = 2;
  }

  // Calls of the test, as the server.

  accept(protocol = ""): void {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen?.(new Event("open"));
  }

  receive(data: unknown): void {
    this.onmessage?.(new MessageEvent("message", { data, origin: "ws://site.test" }));
  }

  /** Complete the closing handshake, begun by the server or by `close()`. */
  serverClose(code: number, reason = ""): void {
    this.readyState = 3;
    this.onclose?.(new CloseEvent("close", { code, reason, wasClean: true }));
  }

  /** Lose the connection without a closing handshake. */
  break(): void {
    this.readyState = 3;
    this.onerror?.(new Event("error"));
    this.onclose?.(new CloseEvent("close", { code: 1006, wasClean: false }));
  }
}

interface Timer {
  at: number;
  callback: () => void;
}

export class FakeWindow implements Environment {
  /** The result of `Math.random()`. */
  chance = 0;
  location = { href: "https://site.test/room/?q=1#top" };
  navigator = { onLine: true };
  document = { visibilityState: "visible" };
  /** Every WebSocket of the client, oldest first. */
  readonly sockets: FakeWebSocket[] = [];
  readonly Math = { random: (): number => this.chance };
  readonly performance = { now: (): number => this.#now };
  readonly Date = { now: (): number => this.#now };
  WebSocket: Environment["WebSocket"];

  #now = 0;
  #timers = new Map<number, Timer>();
  #lastTimer = 0;
  #listeners = new Map<string, Set<(event: Event) => void>>();

  constructor() {
    const { sockets } = this;
    this.WebSocket = class extends FakeWebSocket {
      constructor(url: string, protocols?: string | string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    } as unknown as Environment["WebSocket"];
  }

  setTimeout(callback: () => void, milliseconds: number): number {
    this.#timers.set(++this.#lastTimer, { at: this.#now + milliseconds, callback });
    return this.#lastTimer;
  }

  clearTimeout(timer: number): void {
    this.#timers.delete(timer);
  }

  addEventListener(type: string, listener: (event: Event) => void): void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
  }

  removeEventListener(type: string, listener: (event: Event) => void): void {
    this.#listeners.get(type)?.delete(listener);
  }

  // Calls of the test, as the browser.

  get timers(): number {
    return this.#timers.size;
  }

  get listeners(): number {
    return [...this.#listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }

  /** The newest WebSocket. */
  get socket(): FakeWebSocket {
    const last = this.sockets.at(-1);
    if (!last) throw new Error("the client has made no WebSocket yet");
    return last;
  }

  fire(type: string): void {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) listener(new Event(type));
  }

  goOffline(): void {
    this.navigator.onLine = false;
    this.fire("offline");
  }

  goOnline(): void {
    this.navigator.onLine = true;
    this.fire("online");
  }

  hide(): void {
    this.document.visibilityState = "hidden";
    this.fire("visibilitychange");
  }

  show(): void {
    this.document.visibilityState = "visible";
    this.fire("visibilitychange");
  }

  /** Advance the clock, run the timers that are due in order, and settle their promises. */
  async advance(seconds: number): Promise<void> {
    const end = this.#now + seconds * 1000;
    await settle();
    for (;;) {
      const due = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due || due[1].at > end) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].callback();
      await settle();
    }
    this.#now = end;
  }
}

/** Wait until every promise that can be settled is. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
