/** What most tests begin with: a window, a socket in it, and its diary. */

import { Socket, type SocketEventMap, type SocketOptions } from "../src/index.js";
import { FakeWindow, settle, type FakeWebSocket } from "./fakes.js";

export interface World {
  window: FakeWindow;
  socket: Socket;
  /** The connection the server has accepted. */
  native: FakeWebSocket;
}

/** A socket whose first attempt is on its way. */
export async function dialling(options: SocketOptions = {}): Promise<World> {
  const window = new FakeWindow();
  const socket = new Socket("/ws/", [], { window, ...options });
  await settle();
  return { window, socket, native: window.sockets[0]! };
}

/** A socket whose first connection is open. */
export async function connected(options: SocketOptions = {}): Promise<World> {
  const world = await dialling(options);
  world.native.accept();
  return world;
}

/** A socket that lost its first connection and waits to come back. */
export async function waiting(options: SocketOptions = {}): Promise<World> {
  const world = await connected(options);
  world.native.break();
  return world;
}

/** The events of one type, as they happen. */
export function diary<K extends keyof SocketEventMap>(
  socket: Socket,
  type: K,
): SocketEventMap[K][] {
  const seen: SocketEventMap[K][] = [];
  socket.addEventListener(type, (event) => seen.push(event));
  return seen;
}
