/** A socket with the settings of the page. */

import type { SocketOptions, ValueOrFactory } from "./options.js";
import { pageSettings } from "./page_settings.js";
import { Socket } from "./socket.js";

export interface ConnectOptions extends SocketOptions {
  /** Subprotocols, or a function that is called for them before every attempt. */
  protocols?: ValueOrFactory<string | string[]>;
}

/**
 * Open a socket with the settings that `{% tiderace_script %}` wrote into the page.
 *
 * @param url Relative to the tag's `base`, or to the page. Default: the base itself.
 * @param options Override the settings of the page.
 */
export function connect(
  url: ValueOrFactory<string | URL> = "",
  options: ConnectOptions = {},
): Socket {
  const { topics, ...settings } = pageSettings("config");
  const { protocols, ...rest }: ConnectOptions = { ...settings, ...options };
  return new Socket(url, protocols, rest);
}
