// The messages of this window that the server has not confirmed.
//
// One message is sent at a time and removed when the server echoes it. So messages keep
// their order, and one that may have been lost with a connection is sent again under the
// same id: the server stores an id once.

/** Return a random id; `randomUUID` needs https or localhost. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  #waiting;
  #sentId = null;
  #timer;
  #key;
  #transmit;

  /**
   * @param {string} key of the session storage that keeps the messages over a reload
   * @param {(message: {id: string, text: string}) => boolean} transmit sends a message;
   *   returns false without a connection
   */
  constructor(key, transmit) {
    this.#key = key;
    this.#transmit = transmit;
    this.#waiting = this.#load();
  }

  /** The messages that are not confirmed, oldest first. */
  get waiting() {
    return [...this.#waiting];
  }

  add(text) {
    const message = { id: newId(), text };
    this.#waiting.push(message);
    this.#save();
    this.flush();
    return message;
  }

  /** Send the oldest message, unless one is sent already or has to wait. */
  flush() {
    const next = this.#waiting[0];
    if (next && this.#sentId === null && this.#timer === undefined && this.#transmit(next)) {
      this.#sentId = next.id;
    }
  }

  /** The server has stored or refused a message: send the next. */
  settle(id) {
    this.#waiting = this.#waiting.filter((message) => message.id !== id);
    if (this.#sentId === id) this.#sentId = null;
    this.#save();
    this.flush();
  }

  /** Send the message again in `seconds`. */
  postpone(seconds) {
    this.#sentId = null;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush();
    }, seconds * 1000);
  }

  /** The connection is lost: the message that was sent is sent again on the next one. */
  interrupt() {
    this.#sentId = null;
  }

  #load() {
    try {
      const stored = JSON.parse(sessionStorage.getItem(this.#key) ?? "[]");
      return Array.isArray(stored) ? stored : [];
    } catch {
      return []; // storage is disabled, or its value is invalid
    }
  }

  #save() {
    try {
      if (this.#waiting.length) sessionStorage.setItem(this.#key, JSON.stringify(this.#waiting));
      else sessionStorage.removeItem(this.#key);
    } catch {
      // Without storage the messages are lost with the page.
    }
  }
}
