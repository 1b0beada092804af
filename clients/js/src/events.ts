/** The states and events of sockets, clients and subscriptions. Types only. */

import type { Transport } from "./options.js";
import type { ClientInfo, Publication, Whisper } from "./protocol.js";

/** The state of a socket, as a page would show it in a badge. */
export type Status = "connecting" | "open" | "waiting" | "offline" | "closed";

/** The `detail` of a `state` event. */
export interface StateDetail {
  status: Status;
  /** Attempts since the last connection that was stable. */
  attempt: number;
  /** Seconds until the next attempt; 0 unless the status is "waiting". */
  delay: number;
}

/** A native close event, with whether the socket reconnects by itself. */
export interface SocketCloseEvent extends CloseEvent {
  readonly willReconnect: boolean;
}

/**
 * An error event. Over HTTP the error has the status (`HTTP 403`); without `error` it comes
 * from the browser's WebSocket, of which a page learns no more.
 */
export interface SocketErrorEvent extends Event {
  readonly error?: unknown;
}

export interface SocketEventMap {
  open: Event;
  message: MessageEvent;
  close: SocketCloseEvent;
  error: SocketErrorEvent;
  /** The status changed. */
  state: CustomEvent<StateDetail>;
  /** A message left the offline queue without being sent; `detail` is the message. */
  drop: CustomEvent<string | Blob>;
}

/** The value of `on<type>`. */
export type Handler<E> = ((this: any, event: E) => unknown) | null;

export type ClientState = "connecting" | "connected" | "disconnected";

/** The `detail` of a client's `state` event. */
export interface ClientStateDetail extends StateDetail {
  state: ClientState;
}

export type SubscriptionState = "subscribing" | "subscribed" | "unsubscribed";

/** Why a state changed; code 0 is a call of the page. */
export interface Reason {
  code: number;
  reason: string;
}

export interface Subscribed {
  topic: string;
  /** Whether nothing was missed since the position that was requested. */
  recovered: boolean;
  /** Whether a position was requested. */
  wasRecovering: boolean;
  data?: unknown;
  /**
   * The publications that follow as events: those that were missed, or that the topic sends
   * to each subscriber. Absent for a listener that is added later.
   */
  publications?: Publication[];
}

type WithTopic<T> = CustomEvent<T & { topic: string }>;

/** A publication: `data` is the message, and `detail` holds its other fields as well. */
export interface PublicationEvent<T> extends WithTopic<Publication<T>> {
  readonly data: T;
}

/** A message of another subscriber: `data`, and `detail.info`, the client that sent it. */
export interface WhisperEvent extends WithTopic<Whisper> {
  readonly data: any;
}

/** The events with a topic belong to subscriptions that the server made. */
export interface ClientEvents {
  state: CustomEvent<ClientStateDetail>;
  connecting: CustomEvent<Reason>;
  connected: CustomEvent<{ client: string; transport: Transport; data?: unknown }>;
  disconnected: CustomEvent<Reason>;
  /** A message of the server to this user or connection. */
  message: CustomEvent<object> & { readonly data: any };
  subscribed: CustomEvent<Subscribed>;
  unsubscribed: WithTopic<Reason>;
  publication: PublicationEvent<any>;
  whisper: WhisperEvent;
  gap: CustomEvent<{ topic: string }>;
  join: WithTopic<ClientInfo>;
  leave: WithTopic<ClientInfo>;
  error: SocketErrorEvent;
}

export interface SubscriptionEvents<T = any> {
  publication: PublicationEvent<T>;
  whisper: WhisperEvent;
  subscribing: CustomEvent<Reason>;
  subscribed: CustomEvent<Subscribed>;
  unsubscribed: CustomEvent<Reason>;
  /** Publications may have been missed that do not come any more: load the state again. */
  gap: CustomEvent<{ topic: string }>;
  /** A client joined or left, as pushed by the server; `presence` is the list of all. */
  join: WithTopic<ClientInfo>;
  leave: WithTopic<ClientInfo>;
  /** `presence` has one member more or one less, or was updated. */
  joined: CustomEvent<ClientInfo>;
  left: CustomEvent<ClientInfo>;
  presence: CustomEvent<ReadonlyMap<string, ClientInfo>>;
  error: Event & { readonly error: unknown };
  /** A part of a streamed call, for the module `tiderace/stream`. */
  stream: CustomEvent<StreamPart>;
}

/** What the server sends of a streamed call. */
export interface StreamPart {
  stream: string;
  items?: unknown[];
  end?: boolean;
  error?: { code: number; message: string; temporary?: boolean };
}
