/**
 * What a page catches when the topics' server, or the way to it, says no.
 * Knows the codes that the client itself gives; the server's are its own.
 */

/** No answer came in time. */
export const TIMEOUT = 1;
/** The connection was lost before the answer. */
export const LOST = 2;
/** The client is disconnected for good. */
export const DISCONNECTED = 3;

/** The server, or the way to it, refused a command. */
export class TopicError extends Error {
  override name = "TopicError";

  /**
   * @param code 1 to 3 are the client's own (no answer in time, connection lost,
   *   disconnected), 100 to 399 the protocol's, others your application's.
   * @param temporary Whether the same request may succeed a little later.
   */
  constructor(
    readonly code: number,
    message: string,
    readonly temporary = false,
  ) {
    super(message);
  }
}

/** Throw this in `getToken`: the user may not, and no further attempt is made. */
export class UnauthorizedError extends Error {
  override name = "UnauthorizedError";
}
