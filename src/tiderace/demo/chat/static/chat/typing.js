// The people who are typing: announce and show them.
//
// There is no message for the end, since a closed window cannot send it: names expire.

// In milliseconds.
const INTERVAL = 2000;
const TTL = 5000;

/** The line with the names of people who are typing. */
export class TypingLine {
  #line = document.getElementById("typing");
  #people = new Map();

  add({ id, name }) {
    clearTimeout(this.#people.get(id)?.timer);
    const timer = setTimeout(() => this.remove(id), TTL);
    this.#people.set(id, { name, timer });
    this.#show();
  }

  remove(id) {
    clearTimeout(this.#people.get(id)?.timer);
    if (this.#people.delete(id)) this.#show();
  }

  #show() {
    const names = Array.from(this.#people.values(), ({ name }) => name);
    const words = {
      0: () => "",
      1: () => `${names[0]} is typing…`,
      2: () => `${names[0]} and ${names[1]} are typing…`,
    };
    this.#line.textContent = (words[names.length] ?? (() => `${names.length} people are typing…`))();
  }
}

/**
 * Call `announce` at intervals while text is typed into the field. Returns a function that
 * ends the interval: the next input is announced at once.
 */
export function onTyping(field, announce) {
  let announcedAt = -Infinity;
  field.addEventListener("input", () => {
    const now = performance.now();
    if (!field.value.trim() || now - announcedAt < INTERVAL) return;
    announcedAt = now;
    announce();
  });
  return () => {
    announcedAt = -Infinity;
  };
}
