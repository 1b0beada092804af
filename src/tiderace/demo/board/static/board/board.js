// The board: shows the notes that its topic publishes.
import { topics } from "../tiderace/tiderace.js";

const { topic, columns } = JSON.parse(
  document.getElementById("board-config").textContent,
);
const ORDER = Object.keys(columns);
const here = document.getElementById("here");
const errorLine = document.getElementById("wrong");
const text = document.getElementById("text");
const template = document.getElementById("note-template");

const list = (column) => document.querySelector(`[data-column="${column}"]`);
const find = (pk) => document.querySelector(`.note[data-id="${Number(pk)}"]`);

function show(pk, fields) {
  let note = find(pk);
  if (!note) {
    note = template.content.firstElementChild.cloneNode(true);
    note.dataset.id = pk;
  }
  note.querySelector(".text").textContent = fields.text;
  note.querySelector(".by").textContent = fields.author;
  const column = list(fields.column);
  if (note.parentElement !== column) {
    const focused = note.contains(document.activeElement) && document.activeElement;
    column.append(note);
    if (focused) focused.focus();
  }
  note.classList.add("new");
  setTimeout(() => note.classList.remove("new"), 1000);
}

const board = topics().subscribe(topic, { presence: true });

board.addEventListener("publication", ({ data }) => {
  if (data.event === "deleted") find(data.pk)?.remove();
  else show(data.pk, data.fields);
});
// The history is too short for the outage: load the notes again, with the page.
board.addEventListener("gap", () => location.reload());
board.addEventListener("presence", () => {
  const names = [...board.presence.values()].map(({ conn_info }) => conn_info?.name ?? "somebody");
  const unique = [...new Set(names)].sort();
  here.textContent = unique.length ? `Here now: ${unique.join(", ")}` : "";
});

async function call(method, data) {
  errorLine.hidden = true;
  try {
    await board.call(method, data);
    return true;
  } catch (error) {
    errorLine.textContent = error.message;
    errorLine.hidden = false;
    return false;
  }
}

document.getElementById("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const entered = text.value;
  text.value = "";
  if (!(await call("add", { text: entered })) && !text.value) text.value = entered;
});

document.querySelector(".columns").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  const note = button.closest(".note");
  const pk = Number(note.dataset.id);
  const at = ORDER.indexOf(note.parentElement.dataset.column);
  if (button.dataset.do === "remove") call("remove", { pk });
  else {
    const column = ORDER[at + (button.dataset.do === "on" ? 1 : -1)];
    if (column) call("move", { pk, column });
  }
});
