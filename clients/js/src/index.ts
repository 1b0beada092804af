/** The public door of the browser client. */

export { connect, type ConnectOptions } from "./connect.js";
export type {
  SocketCloseEvent,
  SocketErrorEvent,
  SocketEventMap,
  StateDetail,
  Status,
} from "./events.js";
export type { Fresh, SocketOptions, Surroundings, WhenFull } from "./options.js";
export { Socket } from "./socket.js";
