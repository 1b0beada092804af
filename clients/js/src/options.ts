/** The options of a socket and their defaults. */

/** A value, or a function that is called for a new value before every attempt. */
export type ValueOrFactory<T> = T | (() => T | Promise<T>);

/** What happens to a message that finds the offline queue full. */
export type WhenFull = "throw" | "drop-oldest" | "drop-newest";

/** What carries a client's connection. */
export type Transport = "websocket" | "http_stream" | "sse";

/**
 * The part of a browser's global object that the client uses.
 *
 * A test passes its own, with a clock that it controls: no module reads a global clock,
 * random number or event except through this object.
 */
export interface Environment {
  WebSocket: new (url: string, protocols?: string | string[]) => WebSocket;
  setTimeout(callback: () => void, milliseconds: number): unknown;
  clearTimeout(timer: never): void;
  Math: { random(): number };
  performance: { now(): number };
  location?: { href: string };
  navigator?: { onLine?: boolean };
  document?: { visibilityState: string };
  Date?: { now(): number };
  fetch?: typeof fetch;
  EventSource?: new (url: string) => EventSource;
  sessionStorage?: Pick<Storage, "getItem" | "setItem">;
  addEventListener?(type: string, listener: (event: Event) => void): void;
  removeEventListener?(type: string, listener: (event: Event) => void): void;
}

/** Every time is in seconds, as in the template tag. */
export interface SocketOptions {
  /** The base of relative URLs. Default: the page. */
  base?: string;
  /** The shortest delay before an attempt. Default 0.5. */
  minDelay?: number;
  /** The longest delay before an attempt. Default 20. */
  maxDelay?: number;
  /** Attempts in a row before the socket closes and stays closed. Default: no limit. */
  maxAttempts?: number;
  /** How long a connection must last before delays start small again. Default 5. */
  stableAfter?: number;
  /** How long one attempt may take, the URL function included; 0: no limit. Default 10. */
  connectTimeout?: number;
  /** Silence after which a heartbeat is sent; 0: never. Default 0. */
  heartbeat?: number;
  /** How long the server may take to send any frame after a heartbeat. Default 10. */
  heartbeatTimeout?: number;
  /** The message of a heartbeat, or a function that returns it. Default `{type: "ping"}`. */
  heartbeatMessage?: unknown;
  /**
   * The closures after which the socket reconnects. By default all but 1000 and 4000-4999;
   * a list adds codes, a function decides for every closure.
   */
  retryOn?: readonly number[] | ((event: CloseEvent) => boolean);
  /** Messages that the offline queue holds. Default 100. */
  queueLimit?: number;
  /** Bytes that the offline queue holds. Default 1048576. */
  queueSize?: number;
  /** What happens to a message that finds the queue full. Default "throw". */
  whenFull?: WhenFull;
  /** The global object to use. Default `globalThis`. */
  window?: Environment;
}

export const DEFAULTS: Required<SocketOptions> = {
  base: "",
  minDelay: 0.5,
  maxDelay: 20,
  maxAttempts: Infinity,
  stableAfter: 5,
  connectTimeout: 10,
  heartbeat: 0,
  heartbeatTimeout: 10,
  heartbeatMessage: { type: "ping" },
  retryOn: [],
  queueLimit: 100,
  queueSize: 1 << 20,
  whenFull: "throw",
  window: globalThis as unknown as Environment,
};

/** In the order in which they are tried. */
export const TRANSPORTS: readonly Transport[] = ["websocket", "http_stream", "sse"];

/**
 * The values, or their types, of options where another one would go unnoticed: by the name
 * of the option, or by the type of its default.
 */
const EXPECTED: Record<string, readonly unknown[]> = {
  transports: TRANSPORTS,
  whenFull: ["throw", "drop-oldest", "drop-newest"],
  getToken: ["function"],
  getState: ["function"],
  since: ["object", "undefined"],
  number: ["number", "undefined"],
};

/**
 * Return the options, with the defaults of those that are not given.
 *
 * @throws TypeError for a name that is not an option, as in a misspelt `maxdelay`, and for a
 *   value that `EXPECTED` lacks, and one that is no number though the default is. A function
 *   may not be undefined, which is the value of a misspelt one; other options may be.
 */
export function resolveOptions<T extends object = Required<SocketOptions>>(
  options: object,
  defaults: T = DEFAULTS as unknown as T,
): T {
  const resolved: Record<string, unknown> = { ...(defaults as Record<string, unknown>) };
  for (const [name, value] of Object.entries(options)) {
    const isKnown = name in defaults;
    const known = isKnown
      ? (EXPECTED[name] ?? EXPECTED[typeof resolved[name]])
      : Object.keys(defaults);
    for (const each of [isKnown ? value : name].flat()) {
      // A type is shown in place of the value, which may be a secret.
      const given = known?.[2] ? each : typeof each;
      if (known && !known.includes(given)) {
        const label = isKnown ? name : "option";
        throw new TypeError(`unknown ${label} "${given}"; known: ${known.join(", ")}`);
      }
    }
    if (value !== undefined) resolved[name] = value;
  }
  return resolved as T;
}
