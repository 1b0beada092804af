/** The errors that a page catches. */

import { APPLICATION } from "./codes.js";

/** The server refused a command, or the command got no reply. */
export class TopicError extends Error {
  override name = "TopicError";

  /**
   * @param code 1 to 3 are the client's own (no reply in time, connection lost,
   *   disconnected), 100 to 399 the protocol's, others your application's.
   * @param message The text; that of the protocol is followed by the code and the topic.
   * @param temporary Whether the same request may succeed a little later.
   * @param topic Empty where it was about none.
   */
  constructor(
    readonly code: number,
    message: string,
    readonly temporary = false,
    readonly topic = "",
  ) {
    super(topic && code < APPLICATION ? `${message} (${code}, ${topic})` : message);
  }
}

/** Throw this in `getToken` when the user has no access: no further attempt is made. */
export class UnauthorizedError extends Error {
  override name = "UnauthorizedError";
}
