/** The addresses of sockets. */

import type { SocketOptions } from "./options.js";

/** Addresses of the machine itself, which is reachable without a network. */
export const LOOPBACK = /^\w+:..(localhost|127\.|\[::1])/;

/** Return the absolute address of a WebSocket: http becomes ws, and a fragment is removed. */
export function resolveAddress(
  url: string | URL,
  { base, window }: Required<SocketOptions>,
): string {
  const page = window.location?.href;
  const address = new URL(url, base ? new URL(base, page) : page);
  address.protocol = address.protocol.replace("http", "ws");
  address.hash = "";
  return address.href;
}
