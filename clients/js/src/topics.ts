/** A client with the settings of the page, and with the positions it was rendered at. */

import { Client } from "./client.js";
import type { ClientOptions } from "./client_options.js";
import { pageSettings } from "./page_settings.js";

/**
 * Connect to the topics of the site, with the settings that `{% tiderace_script %}` wrote
 * into the page.
 *
 * @param options Override the settings of the page.
 */
export function topics<
  Topics extends object = Record<string, any>,
  Calls extends object = Record<string, any>,
>(
  options: ClientOptions & { url?: string | URL } = {},
): Client<Topics, Calls> {
  const { topics, ...settings } = pageSettings("tiderace-config");
  const { positions } = pageSettings("tiderace-positions");
  const { url, ...rest } = options;
  return new Client(url ?? topics, { ...settings, positions, ...rest });
}
