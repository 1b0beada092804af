// The board: shows the notes that its topic publishes, and changes them by its methods.
import { topics } from "../tiderace/tiderace.js";
import { newId, Unsent } from "../demo/unsent.js";
import { letDrag } from "./drag.js";
import { showPointers } from "./pointers.js";

const { topic, me, columns, notes, lock } = JSON.parse(
  document.getElementById("board-config").textContent,
);
const ORDER = Object.keys(columns);
const errorLine = document.getElementById("wrong");
const news = document.getElementById("news");
const text = document.getElementById("text");
const template = document.getElementById("note-template");

const client = topics();
const board = client.subscribe(topic, { presence: true });
const list = (column) => document.querySelector(`[data-column="${column}"]`);
const find = (pk) => document.querySelector(`.note[data-id="${pk}"]`);

// What hangs on the board: the fields of each note, by primary key

const shown = new Map();
const gone = new Set();
let isLoading = true;

function show(pk, fields) {
  const before = shown.get(pk);
  // The last writer wins on every page, in whichever order the changes arrive.
  if (gone.has(pk) || before?.version >= fields.version) return;
  shown.set(pk, fields);
  const note = find(pk) ?? waitingNote(fields.client_id) ?? template.content.firstElementChild.cloneNode(true);
  note.dataset.id = pk;
  note.dataset.over = `note-${pk}`;
  note.classList.remove("waiting");
  note.querySelector(".text").textContent = fields.text;
  note.querySelector(".by").textContent = fields.author;
  showLock(note, fields);
  put(note, list(fields.column), placeFor(pk, fields));
  if (isLoading) return;
  note.classList.add("new");
  setTimeout(() => note.classList.remove("new"), 1000);
}

/** The note before which a note belongs, or null at the end of the column. */
function placeFor(pk, { column, rank }) {
  const isAfter = ({ dataset }) => {
    const other = shown.get(Number(dataset.id));
    return other && (other.rank > rank || (other.rank === rank && dataset.id > pk));
  };
  const isWaiting = ({ classList }) => classList.contains("waiting");
  return [...list(column).children].find((note) => isWaiting(note) || isAfter(note)) ?? null;
}

/** Move an element without losing the focus in it. */
function put(note, column, place = null) {
  if (note.parentElement === column && note.nextElementSibling === place) return;
  const focused = note.contains(document.activeElement) && document.activeElement;
  column.insertBefore(note, place);
  if (focused) focused.focus();
}

function showLock(note, { editor, editor_name: name }) {
  const theirs = editor !== "" && editor !== me.id;
  const line = note.querySelector(".lock");
  line.textContent = theirs ? `${name} is editing` : "";
  line.hidden = !theirs;
  for (const action of ["edit", "remove"]) note.querySelector(`[data-do=${action}]`).disabled = theirs;
  clearTimeout(note.unlock);
  // The page of the editor may be gone.
  if (theirs) note.unlock = setTimeout(showLock, lock * 1000, note, { editor: "" });
}

function remove(pk) {
  const note = find(pk);
  gone.add(pk);
  shown.delete(pk);
  const hadFocus = note?.contains(document.activeElement);
  const next = note?.nextElementSibling ?? note?.previousElementSibling;
  const heading = note?.closest("section").querySelector("h2");
  note?.remove();
  if (hadFocus) (next?.querySelector("[data-do=remove]") ?? heading).focus();
}

board.addEventListener("publication", ({ data: { event, pk, fields } }) => {
  announce(event, shown.get(pk), fields);
  if (event === "deleted") remove(pk);
  else show(pk, fields);
});
// The history is too short for the outage: load the notes again, with the page.
board.addEventListener("gap", () => location.reload());

for (const { pk, fields } of notes) show(pk, fields);
isLoading = false;

/** Say to a screen reader what another person has changed. */
function announce(event, before, { author, changed_by: by, column, editor, text: now }) {
  if ((event === "created" ? author : by) === me.name) return;
  if (event === "created") news.textContent = `${author} added “${now}” to ${columns[column]}`;
  else if (event === "deleted") news.textContent = `${by} removed “${now}”`;
  else if (before && before.column !== column) news.textContent = `${by} moved “${now}” to ${columns[column]}`;
  else if (before && before.text !== now) news.textContent = `${by} changed “${before.text}” to “${now}”`;
  else if (editor) news.textContent = `${by} edits “${now}”`;
}

// A new note: shown at once, kept while offline and over a reload, sent again, stored once

const unsent = new Unsent(`unsent:board:${me.id}`, (draft) => board.publish(draft));
const waitingNote = (id) => id && document.querySelector(`.waiting[data-client-id="${id}"]`);

async function add(draft) {
  const note = template.content.firstElementChild.cloneNode(true);
  note.classList.add("waiting");
  note.dataset.clientId = draft.client_id;
  note.querySelector(".text").textContent = draft.text;
  note.querySelector(".by").textContent = "Not sent yet";
  list(ORDER[0]).append(note);
  try {
    await unsent.send(draft);
  } catch (error) {
    note.remove();
    fail(error);
    if (!text.value) text.value = draft.text;
  }
}

unsent.all.forEach(add);

document.getElementById("add").addEventListener("submit", (event) => {
  event.preventDefault();
  errorLine.hidden = true;
  add({ client_id: newId(), text: text.value });
  text.value = "";
});

// Changes of a note

function fail(error) {
  errorLine.textContent = error.message;
  errorLine.hidden = false;
}

async function call(method, data) {
  errorLine.hidden = true;
  try {
    await board.call(method, data);
    return true;
  } catch (error) {
    fail(error);
    return false;
  }
}

async function move(note, column, before) {
  const pk = Number(note.dataset.id);
  put(note, list(column), before);
  const moved = await call("move", { pk, column, before: before ? Number(before.dataset.id) : null });
  const fellows = [...list(note.parentElement.dataset.column).children];
  const { column: now } = note.parentElement.dataset;
  if (moved) news.textContent = `${columns[now]}, ${fellows.indexOf(note) + 1} of ${fellows.length}`;
}

/** Move a note by one column, or by one place in its column. */
function step(note, key) {
  const at = ORDER.indexOf(note.parentElement.dataset.column);
  const column = ORDER[at + { ArrowLeft: -1, ArrowRight: 1 }[key]];
  const above = note.previousElementSibling;
  const below = note.nextElementSibling;
  if (column) move(note, column, null);
  else if (key === "ArrowUp" && above) move(note, ORDER[at], above);
  else if (key === "ArrowDown" && below) move(note, ORDER[at], below.nextElementSibling);
}

async function edit(note) {
  if (!(await call("lock", { pk: Number(note.dataset.id) }))) return;
  const field = note.querySelector("textarea");
  field.value = note.querySelector(".text").textContent;
  note.classList.add("editing");
  note.querySelector(".edit").hidden = false;
  field.focus();
}

function endEditing(note, method, data = {}) {
  note.classList.remove("editing");
  note.querySelector(".edit").hidden = true;
  note.querySelector("[data-do=edit]").focus();
  call(method, { pk: Number(note.dataset.id), ...data });
}

const area = document.querySelector(".columns");

area.addEventListener("click", ({ target }) => {
  const action = target.closest("button")?.dataset.do;
  const note = target.closest(".note");
  if (action === "back") step(note, "ArrowLeft");
  else if (action === "on") step(note, "ArrowRight");
  else if (action === "edit") edit(note);
  else if (action === "cancel") endEditing(note, "unlock");
  else if (action === "remove") call("remove", { pk: Number(note.dataset.id) });
});
area.addEventListener("submit", (event) => {
  event.preventDefault();
  endEditing(event.target.closest(".note"), "edit", { text: event.target.querySelector("textarea").value });
});
area.addEventListener("keydown", (event) => {
  const { key, target } = event;
  const note = target.closest(".note");
  if (target.matches(".grip") && key.startsWith("Arrow")) {
    event.preventDefault();
    step(note, key);
  } else if (target.matches("textarea") && key === "Escape") endEditing(note, "unlock");
  else if (target.matches("textarea") && key === "Enter" && !event.isComposing) {
    event.preventDefault();
    target.form.requestSubmit();
  }
});

// Typing renews the lock.
let renewedAt = 0;
area.addEventListener("input", ({ target }) => {
  if (Date.now() - renewedAt < (lock * 1000) / 3) return;
  renewedAt = Date.now();
  call("lock", { pk: Number(target.closest(".note").dataset.id) });
});

// The other people

const pointers = showPointers(client, me, area);
letDrag(area, { move, holds: pointers.holds });
board.addEventListener("presence", () => {
  pointers.setPeople([...board.presence.values()].map(({ conn_info: person }) => person));
});

// Before this script runs, the form would load the page again.
document.getElementById("controls").disabled = false;
