/** A client with the settings of the page, and with the positions it was rendered at. */

import { Client } from "./client.js";
import type { ClientOptions } from "./client_options.js";
import { pageSettings } from "./page_settings.js";

/** The page's client: the one of every call without arguments. */
let pageClient: Client<any, any, any> | undefined;

/**
 * Connect to the topics of the site, with the settings that `{% tiderace_script %}` wrote
 * into the page.
 *
 * Without arguments every call returns the page's one client, which connects at the first.
 *
 * @param options Override the settings of the page, for a client of its own.
 */
export function topics<
  Topics extends object = Record<string, any>,
  Calls extends object = Record<string, any>,
  Sends extends object = Topics,
>(options?: ClientOptions & { url?: string | URL }): Client<Topics, Calls, Sends> {
  return options ? createClient(options) : (pageClient ??= createClient({}));
}

function createClient({
  url,
  ...options
}: ClientOptions & { url?: string | URL }): Client<any, any, any> {
  const { topics, ...settings } = pageSettings("config");
  const { positions } = pageSettings("positions");
  return new Client(url ?? topics, { ...settings, positions, ...options });
}
