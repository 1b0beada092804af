/** The client's end of a connection to a `FakeServer`. */

import type { ClientInfo } from "./protocol.js";

/** What a connection uses of its server. */
export interface FakeConnectionContext {
  /** Returns whether the server accepts the connection. */
  accept(connection: FakeConnection): boolean;
  onFrame(connection: FakeConnection, frame: string): void;
  onClose(connection: FakeConnection): void;
}

/** Node 20 has no CloseEvent; every browser has. */
class CloseEventForNode extends Event {
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

/** A WebSocket, as far as the client uses one, with what the server stores about it. */
export class FakeConnection {
  readyState = 0;
  readonly protocol = "";
  readonly extensions = "";
  readonly bufferedAmount = 0;
  binaryType: BinaryType = "blob";
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onerror: ((event: Event) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  /** Set by the server when it answers `connect`. */
  id = "";
  user = "";
  /** The parameters of each subscription, by topic. */
  readonly topics = new Map<string, Record<string, any>>();
  #context: FakeConnectionContext;

  constructor(
    context: FakeConnectionContext,
    readonly url: string,
  ) {
    globalThis.CloseEvent ??= CloseEventForNode as unknown as typeof CloseEvent;
    this.#context = context;
    queueMicrotask(() => {
      if (this.readyState) return;
      if (!context.accept(this)) return this.end(1006);
      this.readyState = 1;
      this.onopen?.(new Event("open"));
    });
  }

  get info(): ClientInfo {
    return { user: this.user, client: this.id };
  }

  send(frame: string): void {
    queueMicrotask(() => {
      if (this.readyState === 1) this.#context.onFrame(this, frame);
    });
  }

  close(code = 1005, reason = ""): void {
    if (this.readyState < 2) queueMicrotask(() => this.end(code, reason));
    this.readyState = 2;
  }

  /** Deliver a reply or push to the client. */
  deliver(line: object): void {
    if (this.readyState === 1) {
      this.onmessage?.(new MessageEvent("message", { data: JSON.stringify(line) }));
    }
  }

  /** Close from the server's side; 1006 is a lost connection. */
  end(code: number, reason = ""): void {
    this.readyState = 3;
    this.#context.onClose(this);
    if (code === 1006) this.onerror?.(new Event("error"));
    this.onclose?.(new CloseEvent("close", { code, reason, wasClean: code !== 1006 }));
  }
}
