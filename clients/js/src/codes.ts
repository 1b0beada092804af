/** The codes that the client gives, and those of the protocol that it reacts to. */

// Codes of errors, the client's own.
/** No reply came in time. */
export const TIMEOUT = 1;
/** The connection was lost before the reply. */
export const LOST = 2;
/** The client is disconnected and does not reconnect. */
export const DISCONNECTED = 3;

// Codes of errors in replies.
export const TOKEN_EXPIRED = 109;
export const EXPIRED = 110;
export const TOO_MANY_REQUESTS = 111;
export const UNRECOVERABLE_POSITION = 112;

/** From this code on an error is the application's. */
export const APPLICATION = 400;

// Codes of `unsubscribe` pushes.
export const UNSUBSCRIBED = 2000;
/** From this code on the client subscribes again. */
export const RESUBSCRIBE = 2500;
export const UNSUBSCRIBED_EXPIRED = 2501;
export const UNSUBSCRIBED_STATE_INVALIDATED = 2502;

// Close codes.
export const CLOSE_GOING_AWAY = 1001;
export const CLOSE_ABNORMAL = 1006;
export const CLOSE_TOO_BIG = 1009;
export const CLOSE_SERVICE_RESTART = 1012;
export const CLOSE_DRAIN = 3001;
export const CLOSE_EXPIRED = 3005;
export const CLOSE_STATE_INVALIDATED = 3014;
