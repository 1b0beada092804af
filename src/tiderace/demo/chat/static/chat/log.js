// The list of messages on the page.
//
// Text of users is set as textContent: it is never parsed as HTML.

const TOGETHER = 5 * 60 * 1000;
const SHOWN = 500;
const AT_BOTTOM = 48;
// A reload is a leave and a join within this time, in milliseconds: neither is shown.
const RELOAD = 10 * 1000;

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
    // Keep the last message visible when a keyboard or a longer composer takes space.
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

  /** Show a stored message in its place, once. */
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

  /** Show a message of this user that the server has not confirmed. */
  addWaiting({ id, text }, status) {
    const item = this.#build(this.#me.id, id, text, true);
    item.classList.add("waiting");
    item.querySelector(".tag").hidden = !this.#me.guest;
    writeTime(item.querySelector("time"), new Date());
    this.#waiting.set(id, item);
    this.setStatus(id, status);
    this.#put(item, null, { count: false });
    this.toBottom();
  }

  /** Show a status below a waiting message. */
  setStatus(id, words, { refused = false } = {}) {
    const item = this.#waiting.get(id);
    if (!item) return;
    item.classList.toggle("refused", refused);
    const status = item.querySelector(".fate");
    status.textContent = words;
    status.hidden = false;
  }

  /** Show a status below every waiting message. */
  setEveryStatus(words) {
    for (const [id, item] of this.#waiting) {
      if (!item.classList.contains("refused")) this.setStatus(id, words);
    }
  }

  /** Show an event of the room: a join, a leave, missing messages. */
  addEvent(words) {
    const item = document.createElement("li");
    item.className = "event";
    item.textContent = words;
    this.#put(item, this.#firstWaiting(), { count: false });
    return item;
  }

  /** Show a join or a leave; a join shortly after the leave removes the line instead. */
  addJoinOrLeave(change, person) {
    if (change === "joined") {
      const gone = [...this.#list.querySelectorAll(".event[data-left]")].find(
        (item) => item.dataset.left === person.id && Date.now() - item.dataset.at < RELOAD,
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

  /** Run `work`; a screen reader speaks after all of it. */
  batch(work) {
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

  /** Return the item before which a message with this id belongs. */
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
    // A screen reader would read an element that is moved to its own place twice.
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

  /** Hide the name of a message shortly after another of the same person. */
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
