/**
 * What a socket tells a page: its statuses and the shape of its events.
 * Types only; nothing of this is in the built file.
 */

/** What a badge in a page would show. */
export type Status = "connecting" | "open" | "waiting" | "offline" | "closed";

/** What a `state` event says. */
export interface StateDetail {
  status: Status;
  /** Attempts since the last connection that lasted. */
  attempt: number;
  /** Seconds until the next attempt; 0 unless the status is "waiting". */
  delay: number;
}

/** A native close event that also says whether the socket comes back by itself. */
export interface SocketCloseEvent extends CloseEvent {
  readonly willReconnect: boolean;
}

/** An error event; `error` is there when the browser's WebSocket was not its source. */
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

/** What `on<type>` holds. */
export type Handler<E> = ((this: any, event: E) => unknown) | null;
