/** Requests pages of the site, as documents. */

/** Milliseconds for a response. */
const TIMEOUT = 30_000;

/** A failure after which another request may succeed. */
export class TemporaryError extends Error {}

/**
 * Request a document. XMLHttpRequest parses it without running anything in it, and without
 * the string that a policy of Trusted Types refuses.
 *
 * @throws TemporaryError where another request may succeed, else another Error.
 */
export function request(url: URL): Promise<Document> {
  return new Promise((resolve, reject) => {
    if (url.origin !== location.origin) throw new Error(`${url} is of another site`);
    const http = new XMLHttpRequest();
    http.open("GET", url);
    http.responseType = "document";
    http.timeout = TIMEOUT;
    http.setRequestHeader("Tiderace-Live", "1");
    http.setRequestHeader("Cache-Control", "no-cache");
    http.onloadend = () => {
      const { status, responseURL, responseXML } = http;
      const isHere = !responseURL || new URL(responseURL).origin === location.origin;
      if (status === 200 && isHere && responseXML) return resolve(responseXML);
      const Failure = !status || status === 429 || status >= 500 ? TemporaryError : Error;
      reject(new Failure(`${url}: HTTP ${status}`));
    };
    http.send();
  });
}
