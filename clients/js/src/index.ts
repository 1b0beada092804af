/** The public names of the browser client, and the element of `{% live %}`. */

import "./live.js";

export { Client } from "./client.js";
export type { ClientOptions, SubscribeOptions, TagsFilter } from "./client_options.js";
export { connect, type ConnectOptions } from "./connect.js";
export { TopicError, UnauthorizedError } from "./errors.js";
export type {
  ClientEvents,
  ClientState,
  ClientStateDetail,
  PublicationEvent,
  Reason,
  SocketCloseEvent,
  SocketErrorEvent,
  SocketEventMap,
  StateDetail,
  Status,
  Subscribed,
  SubscriptionEvents,
  SubscriptionState,
} from "./events.js";
export type {
  Environment,
  SocketOptions,
  Transport,
  ValueOrFactory,
  WhenFull,
} from "./options.js";
export type { ClientInfo, History, HistoryOptions, Position, Publication } from "./protocol.js";
export { Socket } from "./socket.js";
export { Subscription, type TopicListeners } from "./subscription.js";
export { topics } from "./topics.js";
