// What this window has still to send. It knows no page and no socket.
//
// One message is on its way at a time, and it is struck off when the server
// shows it back. So messages keep their order, and one that a broken connection
// may or may not have delivered is simply sent again under the same id: the
// server stores an id once.

/** An id nobody can guess; `randomUUID` would need https or localhost. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  #waiting;
  #onItsWay = null;
  #timer;
  #key;
  #transmit;

  /**
   * @param {string} key where this window keeps its messages over a reload
   * @param {(message: {id: string, text: string}) => boolean} transmit hand one to
   *   the connection; false when there is none
   */
  constructor(key, transmit) {
    this.#key = key;
    this.#transmit = transmit;
    this.#waiting = this.#remember();
  }

  /** The messages not yet confirmed, oldest first. */
  get waiting() {
    return [...this.#waiting];
  }

  add(text) {
    const message = { id: newId(), text };
    this.#waiting.push(message);
    this.#keep();
    this.flush();
    return message;
  }

  /** Send the oldest, unless one is on its way or must wait for its turn. */
  flush() {
    const next = this.#waiting[0];
    if (next && this.#onItsWay === null && this.#timer === undefined && this.#transmit(next)) {
      this.#onItsWay = next.id;
    }
  }

  /** The server has it (or refused it for good): go on with the next. */
  settle(id) {
    this.#waiting = this.#waiting.filter((message) => message.id !== id);
    if (this.#onItsWay === id) this.#onItsWay = null;
    this.#keep();
    this.flush();
  }

  /** The server will take it in `seconds`. */
  postpone(seconds) {
    this.#onItsWay = null;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush();
    }, seconds * 1000);
  }

  /** The connection is gone, and nobody knows what became of the one on its way. */
  interrupt() {
    this.#onItsWay = null;
  }

  #remember() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.#key) ?? "[]");
      return Array.isArray(kept) ? kept : [];
    } catch {
      return []; // storage is switched off or spoilt: start empty
    }
  }

  #keep() {
    try {
      if (this.#waiting.length) sessionStorage.setItem(this.#key, JSON.stringify(this.#waiting));
      else sessionStorage.removeItem(this.#key);
    } catch {
      // Without storage the messages live as long as the page.
    }
  }
}
