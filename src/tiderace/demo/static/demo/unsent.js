// Messages that the server has not accepted yet, kept over a reload of the page.

export class Unsent {
  #key;
  #publish;
  #messages;

  /** @param key names the messages in the tab's storage; `publish` returns a promise. */
  constructor(key, publish) {
    this.#key = key;
    this.#publish = publish;
    this.#messages = new Map(this.#load().map((message) => [message.client_id, message]));
  }

  /** The messages that an earlier load of the page has left. */
  get all() {
    return [...this.#messages.values()];
  }

  /** Send a message; it is kept until the server accepts or refuses it. */
  async send(message) {
    this.#messages.set(message.client_id, message);
    this.#save();
    await this.#publish(message).finally(() => {
      this.#messages.delete(message.client_id);
      this.#save();
    });
  }

  #load() {
    try {
      return JSON.parse(sessionStorage.getItem(this.#key) ?? "[]");
    } catch {
      return []; // storage is disabled
    }
  }

  #save() {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify(this.all));
    } catch {
      // Without storage unsent messages are lost with the page.
    }
  }
}

/** Return a random id; `randomUUID` needs https or localhost. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
