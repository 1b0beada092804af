// A room: connects the socket, the outbox and the page.
import { connect } from "../tiderace/tiderace.js";
import { Log } from "./log.js";
import { Outbox } from "./outbox.js";
import { TypingLine, onTyping } from "./typing.js";

const { path, me } = JSON.parse(document.getElementById("room-config").textContent);
const badge = document.getElementById("badge");
const composer = document.getElementById("composer");
const field = document.getElementById("text");
const people = document.getElementById("people");

const WORDS = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Connection lost, trying again…",
  offline: "Offline",
  closed: "Disconnected",
};
const SENDING = "Sending…";
const WAITING = "Will be sent when the connection is back";

const log = new Log(me);
const typing = new TypingLine();
const socket = connect(path);
const outbox = new Outbox(`outbox:${me.id}:${path}`, ({ id, text }) => {
  if (socket.status !== "open") return false;
  socket.send({ type: "message", id, text });
  return true;
});
for (const message of outbox.waiting) log.addWaiting(message, WAITING);

function showStatus(status) {
  badge.dataset.status = status;
  badge.firstElementChild.textContent = WORDS[status];
}

function showPeople(list) {
  people.hidden = !list;
  if (!list) return;
  const items = list.map(({ id, name, guest }) => {
    const item = document.createElement("li");
    item.textContent = (id === me.id ? `${name} (you)` : name) + (guest ? ", guest" : "");
    return item;
  });
  people.querySelector("ul").replaceChildren(...items);
}

function refused({ code, detail, client_id: id, retry_after: seconds }) {
  if (id === undefined) {
    if (code !== "too-fast") log.addEvent(detail);
  } else if (seconds === undefined) {
    log.setStatus(id, `Not sent: ${detail}.`, { refused: true });
    outbox.settle(id);
  } else {
    log.setStatus(id, `Not sent yet: ${detail}.`);
    outbox.postpone(seconds);
  }
}

function arrived(message) {
  typing.remove(message.author);
  log.add(message);
  if (message.author === me.id) outbox.settle(message.client_id);
}

const frames = {
  welcome: (frame) => showPeople(frame.people),
  message: (frame) => arrived(frame.message),
  missed: (frame) =>
    log.batch(() => {
      if (frame.gap) log.addEvent("Older messages are no longer kept");
      frame.messages.forEach(arrived);
    }),
  people: ({ change, person, people: list }) => {
    showPeople(list);
    if (change === "left") typing.remove(person.id);
    if (person.id !== me.id) log.addJoinOrLeave(change, person);
  },
  typing: (frame) => typing.add(frame.person),
  notice: ({ text, by, personal }) =>
    log.addNotice(text, personal ? `Notice to you from ${by}` : `Notice from ${by}`),
  error: refused,
  "signed-out": () => {
    document.getElementById("signed-out").hidden = false;
    for (const control of composer.elements) control.disabled = true;
  },
};

showStatus(socket.status);
socket.addEventListener("state", ({ detail }) => {
  showStatus(detail.status);
  if (detail.status !== "open") {
    outbox.interrupt();
    log.setEveryStatus(WAITING);
    showPeople(null);
  }
});
socket.addEventListener("open", () => {
  socket.send({ type: "since", id: log.last });
  log.setEveryStatus(SENDING);
  outbox.flush();
});
socket.addEventListener("message", ({ data }) => {
  const frame = JSON.parse(data);
  frames[frame.type]?.(frame);
});

const sent = onTyping(field, () => {
  if (socket.status === "open") socket.send({ type: "typing" });
});

// Browsers in which the field cannot grow with its text show two lines.
if (!CSS.supports("field-sizing", "content")) field.rows = 2;
field.addEventListener("input", () => {
  // A maxlength attribute would cut a long paste silently.
  const over = [...field.value.trim()].length - Number(field.dataset.limit);
  field.setCustomValidity(over > 0 ? `Too long by ${over} character${over === 1 ? "" : "s"}` : "");
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  field.focus();
  if (!text) return;
  field.value = "";
  sent();
  const message = outbox.add(text);
  log.addWaiting(message, socket.status === "open" ? SENDING : WAITING);
});
field.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a word (Japanese, Chinese).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});
