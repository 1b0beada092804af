// Who is writing: tell the others, and forget those who fell silent.
//
// Nobody says "I stopped": a window that dies cannot. So what is heard expires.

const TELL_EVERY = 2000;
const FORGET_AFTER = 5000;

/** Shows who is writing, in words. */
export class Writers {
  #line = document.getElementById("typing");
  #writers = new Map();

  heard({ id, name }) {
    clearTimeout(this.#writers.get(id)?.timer);
    const timer = setTimeout(() => this.forget(id), FORGET_AFTER);
    this.#writers.set(id, { name, timer });
    this.#show();
  }

  forget(id) {
    clearTimeout(this.#writers.get(id)?.timer);
    if (this.#writers.delete(id)) this.#show();
  }

  #show() {
    const names = Array.from(this.#writers.values(), ({ name }) => name);
    const words = {
      0: () => "",
      1: () => `${names[0]} is typing…`,
      2: () => `${names[0]} and ${names[1]} are typing…`,
    };
    this.#line.textContent = (words[names.length] ?? (() => `${names.length} people are typing…`))();
  }
}

/** Calls `tell` now and then while the field is being written in. */
export function tellWhenWriting(field, tell) {
  let told = -Infinity;
  field.addEventListener("input", () => {
    const now = performance.now();
    if (!field.value.trim() || now - told < TELL_EVERY) return;
    told = now;
    tell();
  });
  return () => {
    told = -Infinity; // after a message, the next letter is news again
  };
}
