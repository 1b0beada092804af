/** The options of a client and of its subscriptions. */

import { DEFAULTS, TRANSPORTS, type SocketOptions, type Transport } from "./options.js";
import type { Position } from "./protocol.js";

/** Every time is in seconds, as in the template tag. */
export interface ClientOptions
  extends Omit<
    SocketOptions,
    "heartbeat" | "heartbeatTimeout" | "heartbeatMessage" | "retryOn"
  > {
  /** The first token, where the page has it already. */
  token?: string;
  /** Fetches a token; called again when it expires. Pages with a session need none. */
  getToken?: () => Promise<string> | string;
  /** Sent to the server when connecting. */
  data?: unknown;
  /** Headers that a browser cannot add to a WebSocket handshake. */
  headers?: Record<string, string>;
  /** The transports to try, in order. Default WebSocket, HTTP streaming, SSE. */
  transports?: readonly Transport[];
  /** How long a reply may take: a little longer than a server runs a call. Default 35. */
  timeout?: number;
  /** Positions that the page has seen: topic to [epoch, offset]. */
  positions?: Record<string, readonly [epoch: string, offset: number]>;
}

export const CLIENT_DEFAULTS = {
  ...DEFAULTS,
  token: "",
  getToken: undefined as ClientOptions["getToken"],
  data: undefined as unknown,
  headers: undefined as ClientOptions["headers"],
  transports: TRANSPORTS,
  timeout: 35,
  positions: {} as NonNullable<ClientOptions["positions"]>,
};

/** The options of a subscription, each of them absent. */
export const SUBSCRIBE_DEFAULTS: { [K in keyof Required<SubscribeOptions>]: undefined } = {
  since: undefined,
  getState: undefined,
  presence: undefined,
  token: undefined,
  getToken: undefined,
  data: undefined,
  tagsFilter: undefined,
};

/**
 * A filter by tags: a comparison of one tag (`key`, `cmp`, and `val` or `vals`), or an
 * operation on other filters (`op` and `nodes`).
 */
export type TagsFilter = {
  op?: "and" | "or" | "not";
  key?: string;
  cmp?:
    | "eq" | "neq" | "in" | "nin" | "ex" | "nex" | "sw" | "ew" | "ct" | "lt" | "lte" | "gt"
    | "gte";
  val?: string;
  vals?: readonly string[];
  nodes?: readonly TagsFilter[];
};

export interface SubscribeOptions {
  /** A position that the page has seen: the first subscription continues there. */
  since?: Position | undefined;
  /**
   * Load the topic's state into the page, and return the position at which it was read:
   * read the position first, then the state. Called when there is no position to continue
   * from, and when the server cannot continue from the one there was.
   */
  getState?: (context: { topic: string }) => Promise<Position> | Position;
  /** Keep `presence` up to date. Default false: it costs traffic in a topic of many. */
  presence?: boolean;
  /** The token for this topic, where it needs one. */
  token?: string;
  /** Fetches a token; called again when it expires. */
  getToken?: (context: { topic: string }) => Promise<string> | string;
  /** Sent to the server with the subscription. */
  data?: unknown;
  /** Only publications with matching tags are received. */
  tagsFilter?: TagsFilter;
}
