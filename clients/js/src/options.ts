/**
 * What a socket can be told, and what it does when it is told nothing.
 * Knows no socket: only names, units and defaults.
 */

/** A value, or a function that makes a fresh one for every attempt. */
export type ValueOrFactory<T> = T | (() => T | Promise<T>);

/** What happens to a message that finds the offline queue full. */
export type WhenFull = "throw" | "drop-oldest" | "drop-newest";

/**
 * The part of a browser's global object that a socket uses.
 *
 * A test hands in its own, with a clock it moves by hand; nothing else in the
 * module reads a global clock, a global random number or a global event.
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
  /** What relative URLs are relative to. Default: the page. */
  base?: string;
  /** The shortest pause before an attempt. Default 0.5. */
  minDelay?: number;
  /** The longest pause before an attempt. Default 20. */
  maxDelay?: number;
  /** Attempts in a row before the socket closes for good. Default: no limit. */
  maxAttempts?: number;
  /** How long a connection must last before the pauses start small again. Default 5. */
  stableAfter?: number;
  /** How long one attempt may take, the URL function included; 0: no limit. Default 10. */
  connectTimeout?: number;
  /** Silence after which a heartbeat is sent; 0: never. Default 0. */
  heartbeat?: number;
  /** How long the server may take to send any frame after a heartbeat. Default 10. */
  heartbeatTimeout?: number;
  /** What is sent as a heartbeat, or a function that makes it. Default `{type: "ping"}`. */
  heartbeatMessage?: unknown;
  /**
   * Which closures are followed by a new attempt. By default all but 1000 and
   * 4000-4999; a list names further codes that are, a function decides alone.
   */
  retryOn?: readonly number[] | ((event: CloseEvent) => boolean);
  /** Messages the offline queue holds. Default 100. */
  queueLimit?: number;
  /** Bytes the offline queue holds. Default 1048576. */
  queueSize?: number;
  /** What happens to a message that finds the queue full. Default "throw". */
  whenFull?: WhenFull;
  /** The global object to live in. Default `globalThis`. */
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

/**
 * The options as one complete record.
 *
 * @throws TypeError for a name that is not an option: a misspelt `maxdelay`
 *   would otherwise leave the default in force without a word.
 */
export function resolveOptions<T extends object = Required<SocketOptions>>(
  options: object,
  defaults: T = DEFAULTS as unknown as T,
): T {
  const known: Record<string, unknown> = { ...(defaults as Record<string, unknown>) };
  for (const [name, value] of Object.entries(options)) {
    if (!(name in defaults)) {
      throw new TypeError(`unknown option "${name}"; known: ${Object.keys(defaults).join(", ")}`);
    }
    if (value !== undefined) known[name] = value;
  }
  return known as T;
}
