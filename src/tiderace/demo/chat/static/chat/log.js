// The list of messages on the page.
//
// The HTML of a message is made and cleaned by the server; everything else that users
// typed is set as textContent, which is never parsed.

const TOGETHER = 5 * 60 * 1000;
const AT_EDGE = 48;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
});

function writeTime(element, at) {
  const today = new Date().toDateString() === at.toDateString();
  element.dateTime = at.toISOString();
  element.textContent = (today ? clock : calendar).format(at);
}

export class Log {
  #me;
  #scroller = document.getElementById("log");
  #list = document.getElementById("messages");
  #pill = document.getElementById("newer");
  #template = document.getElementById("message-template").content.firstElementChild;
  #stored = new Map();
  #waiting = new Map();
  #unseen = 0;
  #following = true;

  constructor(me, onTop) {
    this.#me = me;
    this.#scroller.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
      this.#following = scrollHeight - scrollTop - clientHeight < AT_EDGE;
      if (this.#following) this.#countUnseen(0);
      if (scrollTop < AT_EDGE) onTop();
    });
    // Keep the last message visible when a keyboard or a longer composer takes space.
    new ResizeObserver(() => this.#following && this.toBottom()).observe(this.#scroller);
    this.#pill.addEventListener("click", () => {
      this.toBottom();
      document.getElementById("text").focus();
    });
  }

  /** The ids of the oldest and the newest message; undefined when there is none. */
  get first() {
    return this.#stored.size ? Math.min(...this.#stored.keys()) : undefined;
  }
  get last() {
    return this.#stored.size ? Math.max(...this.#stored.keys()) : undefined;
  }

  get isFollowing() {
    return this.#following;
  }

  message(id) {
    return this.#stored.get(id);
  }

  toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#following = true;
    this.#countUnseen(0);
  }

  /** Show a stored message, or its new state, in its place. */
  show(message) {
    const mine = message.author === this.#me.id;
    const known = this.#stored.get(message.id)?.item;
    const waiting = mine ? this.#waiting.get(message.client_id) : undefined;
    const item = known ?? waiting ?? this.#build(mine);
    this.#waiting.delete(message.client_id);
    this.#stored.set(message.id, { ...message, item });
    this.#fill(item, message, mine);
    if (!known) this.#put(item, this.#placeFor(message.id), { count: !mine });
  }

  /** Show older messages above; the reader's place does not move. */
  showEarlier(messages) {
    const fromBottom = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    const unseen = this.#unseen;
    this.#following = false;
    messages.forEach((message) => this.show(message));
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromBottom;
    // Those that arrived while these were loaded are still new.
    this.#countUnseen(unseen);
  }

  remove(id) {
    this.#stored.get(id)?.item.remove();
    this.#stored.delete(id);
    this.#showNothing();
  }

  /** Show a message of this user that the server has not confirmed. */
  addWaiting({ client_id: id, text }, fate) {
    const item = this.#build(true);
    item.dataset.author = this.#me.id;
    item.querySelector(".text").textContent = text || "A picture";
    item.classList.add("waiting");
    item.dataset.clientId = id;
    writeTime(item.querySelector("time"), new Date());
    this.#waiting.set(id, item);
    this.setFate(id, fate);
    this.#put(item, null, { count: false });
    this.toBottom();
  }

  /** Say below a waiting message what becomes of it. */
  setFate(id, words, { refused = false } = {}) {
    const fate = this.#waiting.get(id)?.querySelector(".fate");
    if (!fate) return;
    fate.parentElement.classList.toggle("refused", refused);
    fate.firstElementChild.textContent = words;
    fate.querySelector("button").hidden = !refused;
    fate.hidden = false;
  }

  setEveryFate(words) {
    for (const [id, item] of this.#waiting) {
      if (!item.classList.contains("refused")) this.setFate(id, words);
    }
  }

  /** Show an event of the room: a join, a leave. */
  addEvent(words) {
    const item = document.createElement("li");
    item.className = "event";
    item.textContent = words;
    this.#put(item, this.#list.querySelector(".waiting"), { count: false });
  }

  /** Show an item that is no message yet, and keep the end in view while it grows. */
  addGrowing(item) {
    this.#put(item, this.#list.querySelector(".waiting"), { count: false });
  }
  grown() {
    if (this.#following) this.toBottom();
  }

  #build(mine) {
    const item = this.#template.cloneNode(true);
    item.classList.toggle("mine", mine);
    if (mine) item.querySelector("b").textContent = "You";
    for (const button of item.querySelectorAll(".own")) button.hidden = !mine;
    return item;
  }

  #fill(item, { id, author, name, guest, html, picture, at, edited, reactions }, mine) {
    item.dataset.id = id;
    item.dataset.author = author;
    item.classList.remove("waiting", "refused");
    if (!mine) item.querySelector("b").textContent = name;
    item.querySelector(".tag").hidden = !guest;
    item.querySelector(".edited").hidden = !edited;
    item.querySelector(".fate").hidden = true;
    item.querySelector(".do").hidden = false;
    writeTime(item.querySelector("time"), new Date(at));
    const text = item.querySelector(".text");
    text.innerHTML = html;
    if (picture) {
      const image = new Image();
      image.src = picture;
      image.alt = `A picture from ${name}`;
      image.addEventListener("load", () => this.#following && this.toBottom());
      text.append(image);
    }
    const chosen = Object.entries(reactions).filter(([, users]) => users.length);
    item.querySelector(".reactions").replaceChildren(...chosen.map(([reaction, users]) => {
      const shown = document.createElement("span");
      shown.className = "reaction";
      shown.classList.toggle("mine", users.includes(this.#me.id));
      shown.textContent = `${reaction} ${users.length}`;
      return shown;
    }));
  }

  /** Return the item before which a message with this id belongs. */
  #placeFor(id) {
    let place = null;
    for (let item = this.#list.lastElementChild; item; item = item.previousElementSibling) {
      if (item.classList.contains("waiting") || Number(item.dataset.id) > id) place = item;
      else if (item.dataset.id) break;
    }
    return place;
  }

  #put(item, before, { count }) {
    const following = this.#following;
    // A screen reader would read an element that is moved to its own place twice.
    if (item.parentNode !== this.#list || item.nextElementSibling !== before) {
      if (before !== item) this.#list.insertBefore(item, before);
    }
    this.#group(item);
    if (item.nextElementSibling) this.#group(item.nextElementSibling);
    this.#showNothing();
    if (following) this.toBottom();
    else if (count) this.#countUnseen(this.#unseen + 1);
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

  #showNothing() {
    document.getElementById("nothing").hidden = this.#list.childElementCount > 0;
  }

  #countUnseen(count) {
    this.#unseen = count;
    this.#pill.hidden = count === 0;
    this.#pill.textContent = `${count} new message${count === 1 ? "" : "s"} ↓`;
  }
}
