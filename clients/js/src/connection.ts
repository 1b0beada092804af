/**
 * The socket under a client: over WebSocket, or over HTTP where that does not pass.
 * Knows when to come back and over what; knows nothing of topics.
 */

import { Emulation } from "./emulation.js";
import type { SocketOptions } from "./options.js";
import { Socket } from "./socket.js";

export type Transport = "websocket" | "http_stream" | "sse";

/** Where the transport that worked is remembered for the pages of this tab. */
const MEMORY = "tiderace-transport";
/** Attempts that the transport which worked has for itself before others are tried. */
const LOYALTY = 3;
/** Seconds of silence that are granted beyond the server's interval, in two halves. */
const GRACE = 5;

export interface ConnectionHost {
  /** The transports to try, in order. */
  _transports(): Transport[];
  /** What must be there before an attempt. */
  _prepare(): Promise<unknown>;
  /** The text with which a connection begins. */
  _greet(): string;
  /** A command that the server answers at once. */
  _probe(): string;
}

export class Connection extends Socket {
  /** The transport of the present attempt. */
  transport: Transport = "websocket";
  #host: ConnectionHost;
  #emulation: Emulation | undefined;
  /** The transports that this round of attempts has not tried yet. */
  #left: Transport[] = [];
  #best: string | null | undefined;
  #failures = 0;

  constructor(url: string | URL, host: ConnectionHost, options: SocketOptions) {
    const base = String(url).replace(/\/?$/, "/");
    super(
      async () => {
        await host._prepare();
        return base + this.#choose();
      },
      [],
      {
        ...options,
        queueLimit: 0,
        whenFull: "drop-newest",
        heartbeat: 0,
        heartbeatTimeout: GRACE,
        heartbeatMessage: host._probe,
        // 3500 to 3999 and 4500 to 4999 are final, and so is what is too long.
        retryOn: ({ code }) => code !== 1009 && ![7, 9].includes(Math.floor(code / 500)),
      },
    );
    this.#host = host;
    this.addEventListener("open", () => {
      if (!this.#emulation) this.send(host._greet());
    });
  }

  /** @internal */
  override _open(url: string, protocols: string | string[]): WebSocket {
    const isNative = this.transport === "websocket";
    this.#emulation = isNative
      ? undefined
      : new Emulation(this._options.window, url, this.#host._greet());
    return isNative ? super._open(url, protocols) : (this.#emulation as unknown as WebSocket);
  }

  /** @internal */
  override _pause(code: number, attempt: number): number {
    return this.#left.length ? 0 : super._pause(code, attempt);
  }

  /** @internal Something came over this transport, so that it stays the first choice. */
  _works(): void {
    this.#left = [];
    this.#failures = 0;
    this.#best = this.transport;
    try {
      this._options.window.sessionStorage?.setItem(MEMORY, this.transport);
    } catch {
      // A browser that refuses storage finds its transport anew on every page.
    }
  }

  /** @internal The server welcomed this connection and will be heard every `ping` seconds. */
  _welcome(ping: number, session: object): void {
    if (this.#emulation) this.#emulation._session = session;
    this._options.heartbeat = ping && ping + GRACE;
    this._listen();
  }

  #choose(): Transport {
    const { window } = this._options;
    if (!this.#left.length) {
      const known = { websocket: window.WebSocket, http_stream: window.fetch, sse: window.EventSource };
      this.#left = this.#host._transports().filter((name) => known[name]);
      try {
        this.#best ??= window.sessionStorage?.getItem(MEMORY);
      } catch {
        // As above.
      }
      const best = this.#best as Transport;
      if (this.#failures++ < LOYALTY && this.#left.includes(best)) this.#left = [best];
    }
    return (this.transport = this.#left.shift()!);
  }
}
