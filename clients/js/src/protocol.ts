/**
 * What travels between the client and the topics' server, and what a page sees of it.
 * Types only; nothing of this is in the built file.
 */

/** A place in a topic's stream: everything up to `offset` has been seen. */
export interface Position {
  offset: number;
  epoch: string;
}

/** Who published, joined or left. */
export interface ClientInfo {
  /** Not there for a visitor without an account. */
  user?: string;
  client: string;
  conn_info?: any;
  chan_info?: any;
}

/** One message of a topic. */
export interface Publication<T = any> {
  data: T;
  /** There when the topic keeps a history. */
  offset?: number;
  /** Who published; there when a client did. */
  info?: ClientInfo;
  tags?: Record<string, string>;
  /** Milliseconds since 1970. */
  time?: number;
}

export interface History<T = any> extends Position {
  publications: Publication<T>[];
}

export interface HistoryOptions {
  /** At most so many; 0 asks for the stream's position only. Default: all that is kept. */
  limit?: number;
  /** Only what came after (or, in reverse, before) this position. */
  since?: Position;
  /** Newest first. */
  reverse?: boolean;
}

export interface Expiry {
  expires?: boolean;
  /** Seconds. */
  ttl?: number;
}

export interface SubscribeResult extends Expiry, Partial<History> {
  recoverable?: boolean;
  positioned?: boolean;
  was_recovering?: boolean;
  recovered?: boolean;
  data?: unknown;
}

export interface ConnectResult extends Expiry {
  client: string;
  ping?: number;
  pong?: boolean;
  session?: string;
  node?: string;
  data?: unknown;
  subs?: Record<string, SubscribeResult>;
}

export interface Push {
  channel?: string;
  pub?: Publication;
  join?: { info: ClientInfo };
  leave?: { info: ClientInfo };
  /** So much that it is not told one by one: read the list again. */
  changed?: object;
  subscribe?: SubscribeResult;
  unsubscribe?: { code: number; reason: string };
  message?: { data: unknown };
  refresh?: Expiry;
  disconnect?: { code: number; reason: string };
}

export interface Reply {
  id?: number;
  error?: { code: number; message: string; temporary?: boolean };
  push?: Push;
  [method: string]: any;
}
