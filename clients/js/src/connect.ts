/**
 * A socket with the settings of its page.
 * Knows the element that the template tag writes; knows nothing of sockets' insides.
 */

import type { Fresh, SocketOptions } from "./options.js";
import { Socket } from "./socket.js";

export interface ConnectOptions extends SocketOptions {
  /** Subprotocols, or a function that makes fresh ones for every attempt. */
  protocols?: Fresh<string | string[]>;
}

/**
 * Open a socket with the settings that `{% tiderace_script %}` left in the page.
 *
 * @param url Relative to the tag's `base`, or to the page. Default: the base itself.
 * @param options What differs from the page's settings.
 */
export function connect(url: Fresh<string | URL> = "", options: ConnectOptions = {}): Socket {
  const page = globalThis.document?.getElementById("tiderace-config")?.textContent;
  const { protocols, ...rest }: ConnectOptions = { ...(page && JSON.parse(page)), ...options };
  return new Socket(url, protocols, rest);
}
