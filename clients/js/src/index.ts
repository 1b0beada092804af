/** The public door of the browser client. */

export {
  Client,
  type ClientEvents,
  type ClientOptions,
  type ClientState,
  type ClientStateDetail,
} from "./client.js";
export { connect, type ConnectOptions } from "./connect.js";
export type { Transport } from "./connection.js";
export { TopicError, UnauthorizedError } from "./errors.js";
export type {
  SocketCloseEvent,
  SocketErrorEvent,
  SocketEventMap,
  StateDetail,
  Status,
} from "./events.js";
export type { ValueOrFactory, SocketOptions, Environment, WhenFull } from "./options.js";
export type { ClientInfo, History, HistoryOptions, Position, Publication } from "./protocol.js";
export { Socket } from "./socket.js";
export {
  type PublicationEvent,
  type Reason,
  type SubscribeOptions,
  type Subscribed,
  Subscription,
  type SubscriptionEvents,
  type SubscriptionState,
} from "./subscription.js";
export { topics } from "./topics.js";
