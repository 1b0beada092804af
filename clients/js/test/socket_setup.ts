/** Sockets on a fake window, in the states with which most tests begin. */

import { Socket, type SocketEventMap, type SocketOptions } from "../src/index.js";
import { FakeWindow, settle, type FakeWebSocket } from "./fake_browser.js";

export interface SocketSetup {
  window: FakeWindow;
  socket: Socket;
  /** The first connection. */
  native: FakeWebSocket;
}

/** A socket in its first attempt. */
export async function connectingSocket(options: SocketOptions = {}): Promise<SocketSetup> {
  const window = new FakeWindow();
  const socket = new Socket("/ws/", [], { window, ...options });
  await settle();
  return { window, socket, native: window.sockets[0]! };
}

/** A socket whose first connection is open. */
export async function openSocket(options: SocketOptions = {}): Promise<SocketSetup> {
  const setup = await connectingSocket(options);
  setup.native.accept();
  return setup;
}

/** A socket that lost its first connection and waits to reconnect. */
export async function waitingSocket(options: SocketOptions = {}): Promise<SocketSetup> {
  const setup = await openSocket(options);
  setup.native.break();
  return setup;
}

/** Return a list to which the events of one type are added. */
export function collectEvents<K extends keyof SocketEventMap>(
  socket: Socket,
  type: K,
): SocketEventMap[K][] {
  const seen: SocketEventMap[K][] = [];
  socket.addEventListener(type, (event) => seen.push(event));
  return seen;
}
