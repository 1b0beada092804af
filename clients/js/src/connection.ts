/** The socket of a client, over WebSocket or, where that is blocked, over HTTP. */

import { CLOSE_TOO_BIG, TOKEN_EXPIRED } from "./codes.js";
import { Emulation } from "./emulation.js";
import type { SocketOptions, Transport } from "./options.js";
import { Socket } from "./socket.js";

/** Key in the tab's session storage under which the last transport that worked is kept. */
const STORAGE_KEY = "tiderace";
/** Attempts with the transport that worked before the others are tried. */
const PREFERRED_ATTEMPTS = 3;
/** Seconds of silence beyond the server's ping interval before a ping, and again after it. */
const GRACE = 5;

/** What a connection uses of its client. */
export interface ConnectionContext {
  /** The transports to try, in order. */
  _transports(): Transport[];
  /** Runs before an attempt; a rejection fails the attempt. */
  _prepare(): Promise<unknown>;
  /** The text with which a connection begins. */
  _connectCommand(): string;
  /** A command that the server answers at once. */
  _pingCommand(): string;
}

export class Connection extends Socket {
  /** The transport of the present attempt. */
  transport: Transport = "websocket";
  #context: ConnectionContext;
  #emulation: Emulation | undefined;
  /** The transports that are not tried yet in this round of attempts. */
  #untried: Transport[] = [];
  /** The transport that worked last. */
  #preferred: string | null | undefined;
  /** Rounds of attempts since a transport worked. */
  #rounds = 0;

  constructor(url: string | URL, context: ConnectionContext, options: SocketOptions) {
    const prefix = String(url).replace(/\/?$/, "/");
    super(
      async () => {
        await context._prepare();
        return prefix + this.#chooseTransport();
      },
      [],
      {
        ...options,
        queueLimit: 0,
        whenFull: "drop-newest",
        heartbeat: 0,
        heartbeatTimeout: GRACE,
        heartbeatMessage: context._pingCommand,
        // Final are 3500 to 3999, 4500 to 4999, and 1009: a frame was too long.
        retryOn: ({ code }) => code !== CLOSE_TOO_BIG && ![7, 9].includes((code / 500) | 0),
      },
    );
    this.#context = context;
    this.onopen = () => {
      if (!this.#emulation) this.send(context._connectCommand());
    };
  }

  /** @internal */
  override _createSocket(url: string, protocols: string | string[]): WebSocket {
    this.#emulation =
      this.transport === "websocket"
        ? undefined
        : new Emulation(this._options.window, url, this.#context._connectCommand());
    return (this.#emulation as unknown as WebSocket) ?? super._createSocket(url, protocols);
  }

  /** @internal The next transport of a round, and a new token, are tried at once. */
  override _reconnectDelay(code: number, attempt: number): number {
    return this.#untried.length || code === TOKEN_EXPIRED ? 0 : super._reconnectDelay(code, attempt);
  }

  /** @internal A frame came over this transport: prefer it from now on. */
  _confirmTransport(): void {
    this.#untried = [];
    this.#rounds = 0;
    this.#preferred = this.transport;
    try {
      this._options.window.sessionStorage?.setItem(STORAGE_KEY, this.transport);
    } catch {
      // Without storage, every page of the tab tries the transports again.
    }
  }

  /** @internal The server accepted the connection and sends a ping every `ping` seconds. */
  _onConnected(ping: number, session: object): void {
    if (this.#emulation) this.#emulation._session = session;
    this._options.heartbeat = ping && ping + GRACE;
    this._restartHeartbeat();
  }

  #chooseTransport(): Transport {
    const { window } = this._options;
    if (!this.#untried.length) {
      const available = {
        websocket: window.WebSocket,
        http_stream: window.fetch,
        sse: window.EventSource,
      };
      this.#untried = this.#context._transports().filter((name) => available[name]);
      try {
        this.#preferred ??= window.sessionStorage?.getItem(STORAGE_KEY);
      } catch {
        // Without storage, no transport is preferred at first.
      }
      const preferred = this.#preferred as Transport;
      if (this.#rounds++ < PREFERRED_ATTEMPTS && this.#untried.includes(preferred)) {
        this.#untried = [preferred];
      }
    }
    return (this.transport = this.#untried.shift()!);
  }
}
