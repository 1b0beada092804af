// The list of messages on the page. It knows the DOM, and no socket.
//
// Whatever people wrote goes in through textContent: it is never read as HTML.

const TOGETHER = 5 * 60 * 1000;
const SHOWN = 500;
const AT_BOTTOM = 48;
// Somebody who reloads the page leaves and is back at once: no news to anybody.
const BACK_AT_ONCE = 10 * 1000;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
});

function writeTime(element, at) {
  const today = new Date().toDateString() === at.toDateString();
  element.dateTime = at.toISOString();
  element.textContent = (today ? clock : calendar).format(at);
}

const idOf = (item) => Number(item.dataset.id);

export class Log {
  #me;
  #scroller = document.getElementById("log");
  #list = document.getElementById("messages");
  #nothing = document.getElementById("nothing");
  #pill = document.getElementById("newer");
  #template = document.getElementById("message-template").content.firstElementChild;
  #stored = new Map();
  #waiting = new Map();
  #unseen = 0;
  #following = true;

  constructor(me) {
    this.#me = me;
    for (const item of this.#list.querySelectorAll(".message")) {
      this.#stored.set(idOf(item), item);
      const time = item.querySelector("time");
      writeTime(time, new Date(time.dateTime));
      this.#group(item);
    }
    this.toBottom();
    this.#scroller.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
      this.#following = scrollHeight - scrollTop - clientHeight < AT_BOTTOM;
      if (this.#following) this.#countUnseen(0);
    });
    // A keyboard that slides in or a line more in the composer hides no message.
    new ResizeObserver(() => this.#following && this.toBottom()).observe(this.#scroller);
    this.#pill.addEventListener("click", () => {
      this.toBottom();
      document.getElementById("text").focus();
    });
  }

  /** The id of the newest message shown; 0 when there is none. */
  get last() {
    return Math.max(0, ...this.#stored.keys());
  }

  toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#following = true;
    this.#countUnseen(0);
  }

  /** Show a stored message in its place; one that is shown already is left alone. */
  add(message) {
    const mine = message.author === this.#me.id;
    const waiting = mine ? this.#waiting.get(message.client_id) : undefined;
    this.#waiting.delete(message.client_id);
    if (this.#stored.has(message.id)) {
      waiting?.remove();
      return;
    }
    const item = waiting ?? this.#build(message.author, message.client_id, message.text, mine);
    item.dataset.id = message.id;
    item.classList.remove("waiting", "refused");
    item.querySelector(".fate").hidden = true;
    if (!mine) item.querySelector("b").textContent = message.name;
    item.querySelector(".tag").hidden = !message.guest;
    writeTime(item.querySelector("time"), new Date(message.at));
    this.#stored.set(message.id, item);
    this.#put(item, this.#placeFor(message.id), { count: !mine });
  }

  /** Show a message of one's own that the server has not confirmed. */
  addWaiting({ id, text }, fate) {
    const item = this.#build(this.#me.id, id, text, true);
    item.classList.add("waiting");
    item.querySelector(".tag").hidden = !this.#me.guest;
    writeTime(item.querySelector("time"), new Date());
    this.#waiting.set(id, item);
    this.setFate(id, fate);
    this.#put(item, null, { count: false });
    this.toBottom();
  }

  /** Say below a waiting message what became of it. */
  setFate(id, words, { refused = false } = {}) {
    const item = this.#waiting.get(id);
    if (!item) return;
    item.classList.toggle("refused", refused);
    const fate = item.querySelector(".fate");
    fate.textContent = words;
    fate.hidden = false;
  }

  /** Say the same below every message that waits. */
  setEveryFate(words) {
    for (const [id, item] of this.#waiting) {
      if (!item.classList.contains("refused")) this.setFate(id, words);
    }
  }

  /** A line about the room: somebody came or went, something is missing. */
  addEvent(words) {
    const item = document.createElement("li");
    item.className = "event";
    item.textContent = words;
    this.#put(item, this.#firstWaiting(), { count: false });
    return item;
  }

  /** Somebody came or went; who is back at once had not really gone. */
  addComing(change, person) {
    if (change === "joined") {
      const gone = [...this.#list.querySelectorAll(".event[data-left]")].find(
        (item) => item.dataset.left === person.id && Date.now() - item.dataset.at < BACK_AT_ONCE,
      );
      if (gone) {
        gone.remove();
        return;
      }
    }
    const item = this.addEvent(`${person.name} ${change === "joined" ? "joined" : "left"}`);
    if (change === "left") {
      item.dataset.left = person.id;
      item.dataset.at = Date.now();
    }
  }

  addNotice(text, by) {
    const item = document.createElement("li");
    item.className = "notice";
    const from = document.createElement("b");
    from.textContent = by;
    const words = document.createElement("p");
    words.textContent = text;
    item.append(from, words);
    this.#put(item, this.#firstWaiting(), { count: true });
  }

  /** Do `work`, and let a screen reader speak only when all of it is there. */
  atOnce(work) {
    this.#scroller.setAttribute("aria-busy", "true");
    work();
    this.#scroller.removeAttribute("aria-busy");
  }

  #build(author, clientId, text, mine) {
    const item = this.#template.cloneNode(true);
    item.dataset.author = author;
    item.dataset.clientId = clientId;
    item.classList.toggle("mine", mine);
    if (mine) item.querySelector("b").textContent = "You";
    item.querySelector(".text").textContent = text;
    return item;
  }

  #firstWaiting() {
    return this.#list.querySelector(".waiting");
  }

  /** The item before which a message with this id stands. */
  #placeFor(id) {
    let place = null;
    for (let item = this.#list.lastElementChild; item; item = item.previousElementSibling) {
      if (item.classList.contains("waiting") || idOf(item) > id) place = item;
      else if (item.dataset.id) break;
    }
    return place;
  }

  #put(item, before, { count }) {
    const following = this.#following;
    this.#nothing.hidden = true;
    // Moving an element that stands right would make a screen reader say it twice.
    if (item.parentNode !== this.#list || item.nextElementSibling !== before) {
      if (before !== item) this.#list.insertBefore(item, before);
    }
    this.#group(item);
    if (item.nextElementSibling) this.#group(item.nextElementSibling);
    if (following) {
      this.#trim();
      this.toBottom();
    } else if (count) this.#countUnseen(this.#unseen + 1);
  }

  /** Hide the name of a message that follows another of the same person closely. */
  #group(item) {
    if (!item.classList.contains("message")) return;
    const before = item.previousElementSibling;
    const close = before?.dataset.author === item.dataset.author &&
      new Date(item.querySelector("time").dateTime) -
        new Date(before.querySelector("time").dateTime) < TOGETHER;
    item.classList.toggle("follows", close);
  }

  #trim() {
    while (this.#list.childElementCount > SHOWN) {
      const oldest = this.#list.firstElementChild;
      this.#stored.delete(idOf(oldest));
      oldest.remove();
    }
  }

  #countUnseen(count) {
    this.#unseen = count;
    this.#pill.hidden = count === 0;
    this.#pill.textContent = `${count} new message${count === 1 ? "" : "s"} ↓`;
  }
}
