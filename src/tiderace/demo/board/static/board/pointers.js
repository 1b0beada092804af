// Where the others point, who is here, and following one of them.

const INTERVAL = 50; // milliseconds between two places of the own pointer
const TTL = 10_000; // a pointer that rests for so long fades

const here = document.getElementById("here");
const line = document.getElementById("following");
const leadButton = document.getElementById("lead");
const template = document.getElementById("pointer-template");

const part = (value) => Math.round(1000 * Math.min(1, Math.max(0, value))) / 1000;

/** Show the pointers in `area`, and send the own one. */
export function showPointers(client, me, area) {
  const pointers = client.subscribe("pointers:main");
  const arrows = new Map(); // by user
  let people = [];
  let following = null;

  // The own pointer: a place on a note or a column, in parts of its width and height, so
  // that it is over the same note in windows of any size

  const mine = { over: "", x: 0, y: 0, holds: null, leads: false };
  let timer = null;

  function send() {
    timer ??= setTimeout(() => {
      timer = null;
      pointers.whisper(mine);
    }, INTERVAL);
  }

  function pointAt(element, x, y) {
    const { left, top, width, height } = element.getBoundingClientRect();
    mine.over = element.dataset.over;
    mine.x = part((x - left) / width);
    mine.y = part((y - top) / height);
    send();
  }

  area.addEventListener("pointermove", ({ target, clientX, clientY }) => {
    const held = mine.holds && area.querySelector(`[data-over="note-${mine.holds}"]`);
    const element = held ? columnBelow(clientX, clientY) : target.closest("[data-over]");
    if (element) pointAt(element, clientX, clientY);
  });
  area.addEventListener("pointerleave", () => { mine.over = ""; send(); });
  // With the keyboard, the focus is the pointer.
  area.addEventListener("focusin", ({ target }) => {
    if (!target.matches(":focus-visible")) return;
    const { left, top, width, height } = target.getBoundingClientRect();
    pointAt(target.closest("[data-over]"), left + width / 2, top + height / 2);
  });

  function columnBelow(x, y) {
    return document.elementsFromPoint(x, y).find((element) => element.matches("section[data-over]"));
  }

  // The pointers of the others

  pointers.addEventListener("whisper", ({ data, detail }) => {
    const { user, conn_info: person } = detail.info;
    if (user === me.id) return;
    const before = arrows.get(user);
    before?.element.remove();
    clearTimeout(before?.timer);
    arrows.delete(user);
    markHeld(before?.holds, false);
    // What another page whispers is unchecked.
    const over = area.querySelector(`[data-over="${CSS.escape(data.over)}"]`);
    if (over) {
      const element = before?.element ?? template.content.firstElementChild.cloneNode(true);
      element.className = `pointer tone-${Number(user) % 6}`;
      element.querySelector("b").textContent = person.name;
      place(element, over, data);
      const timer = setTimeout(() => { element.remove(); arrows.delete(user); markHeld(data.holds, false); }, TTL);
      arrows.set(user, { element, timer, holds: data.holds });
      markHeld(data.holds, true);
      if (following === user) over.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }
    if (data.leads && following === null) invite(person);
    if (!data.leads && line.dataset.leader === user && following !== user) line.hidden = true;
  });

  function place(element, over, { x, y }) {
    const { left, top, width, height } = over.getBoundingClientRect();
    element.style.left = `${left + scrollX + part(x) * width}px`;
    element.style.top = `${top + scrollY + part(y) * height}px`;
    document.body.append(element);
  }

  function markHeld(pk, held) {
    area.querySelector(`[data-over="note-${pk}"]`)?.classList.toggle("held", held);
  }

  // Who is here, and following

  function invite({ id, name }) {
    if (line.dataset.leader === id && !line.hidden) return;
    showLine(id, `${name} invites you to follow.`, `Follow ${name}`);
  }

  function follow(id) {
    following = id;
    const name = people.find((person) => person.id === id)?.name;
    if (id === null) line.hidden = true;
    else showLine(id, `You follow ${name}.`, "Stop");
    setPeople(people);
  }

  function showLine(id, words, action) {
    line.dataset.leader = id;
    line.firstElementChild.textContent = words;
    line.lastElementChild.textContent = action;
    line.hidden = false;
  }

  line.lastElementChild.addEventListener("click", () => {
    follow(following === null ? line.dataset.leader : null);
  });
  leadButton.addEventListener("click", () => {
    mine.leads = !mine.leads;
    leadButton.setAttribute("aria-pressed", mine.leads);
    send();
  });
  here.addEventListener("click", ({ target }) => {
    const id = target.closest("button")?.dataset.person;
    if (id) follow(following === id ? null : id);
  });

  function setPeople(now) {
    people = now.toSorted((one, other) => one.name.localeCompare(other.name));
    if (following !== null && !people.some(({ id }) => id === following)) follow(null);
    const focused = document.activeElement?.dataset.person;
    here.replaceChildren(...people.map(({ id, name }) => {
      const item = document.createElement("li");
      const chip = document.createElement(id === me.id ? "span" : "button");
      chip.className = `chip tone-${Number(id) % 6}`;
      chip.textContent = id === me.id ? `${name} (you)` : name;
      if (id !== me.id) {
        chip.type = "button";
        chip.dataset.person = id;
        chip.setAttribute("aria-pressed", following === id);
        chip.setAttribute("aria-label", `Follow ${name}`);
        chip.title = `Follow ${name}`;
      }
      item.append(chip);
      return item;
    }));
    here.querySelector(`[data-person="${focused}"]`)?.focus();
    for (const [user, { element, holds }] of arrows) {
      if (people.some(({ id }) => id === user)) continue;
      element.remove();
      markHeld(holds, false);
      arrows.delete(user);
    }
  }

  return {
    setPeople,
    /** Tell the others which note is dragged, or null. */
    holds(pk) { mine.holds = pk; send(); },
  };
}
