/**
 * A client with the settings of its page, and the positions the page was made with.
 * Knows the elements that the template tags write; knows nothing of connections.
 */

import { Client, type ClientOptions } from "./client.js";
import { settings } from "./connect.js";

/**
 * Connect to the topics of the site, with the settings that `{% tiderace_script %}`
 * left in the page.
 *
 * @param options What differs from the page's settings.
 */
export function topics<
  Topics extends object = Record<string, any>,
  Calls extends object = Record<string, any>,
>(
  options: ClientOptions & { url?: string | URL } = {},
): Client<Topics, Calls> {
  const { topics, ...page } = settings("tiderace-config");
  const { url, ...given } = options;
  const { positions } = settings("tiderace-positions");
  return new Client(url ?? topics, { ...page, positions, ...given });
}
