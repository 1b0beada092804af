/** The public door of the browser client. */

export { connect, type ConnectOptions } from "./connect.js";
export type { Fresh, SocketOptions, Surroundings, WhenFull } from "./options.js";
export {
  Socket,
  type SocketCloseEvent,
  type SocketErrorEvent,
  type SocketEventMap,
  type StateDetail,
  type Status,
} from "./socket.js";
