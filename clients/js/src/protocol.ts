/** The messages of the protocol, and the parts of them that a page gets. Types only. */

/** A position in the stream of a topic: everything up to `offset` has been seen. */
export interface Position {
  offset: number;
  epoch: string;
}

/** The client that published, joined or left. */
export interface ClientInfo {
  /** Missing for a visitor without an account. */
  user?: string;
  client: string;
  conn_info?: any;
  chan_info?: any;
}

/** One message of a topic. */
export interface Publication<T = any> {
  data: T;
  /** Set when the topic has a history. */
  offset?: number;
  /** The publisher; set when a client published. */
  info?: ClientInfo;
  tags?: Record<string, string>;
  /** Milliseconds since 1970. */
  time?: number;
}

/** A message of another subscriber, which is not stored. */
export interface Whisper {
  data: any;
  /** The client that sent it. */
  info: ClientInfo;
}

export interface History<T = any> extends Position {
  publications: Publication<T>[];
}

export interface HistoryOptions {
  /** The most publications; 0: only the position of the stream. Default: all. */
  limit?: number;
  /** Only publications after (or, in reverse, before) this position. */
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
  /** A mass change of presence: request the list again. */
  changed?: object;
  /** A message of another subscriber. */
  whisper?: Whisper;
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
