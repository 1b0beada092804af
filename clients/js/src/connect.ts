/**
 * A socket with the settings of its page.
 * Knows the element that the template tag writes; knows nothing of sockets' insides.
 */

import type { ValueOrFactory, SocketOptions } from "./options.js";
import { Socket } from "./socket.js";

export interface ConnectOptions extends SocketOptions {
  /** Subprotocols, or a function that makes fresh ones for every attempt. */
  protocols?: ValueOrFactory<string | string[]>;
}

/**
 * Open a socket with the settings that `{% tiderace_script %}` left in the page.
 *
 * @param url Relative to the tag's `base`, or to the page. Default: the base itself.
 * @param options What differs from the page's settings.
 */
export function connect(url: ValueOrFactory<string | URL> = "", options: ConnectOptions = {}): Socket {
  const { topics, ...page } = settings("tiderace-config");
  const { protocols, ...rest }: ConnectOptions = { ...page, ...options };
  return new Socket(url, protocols, rest);
}

/** What a JSON element of the page says; nothing where there is no such element. */
export function settings(id: string): Record<string, any> {
  return JSON.parse(globalThis.document?.getElementById(id)?.textContent || "{}");
}
