// A room: its messages come over the topic "chat:…", its people over "here:…".
import { topics } from "../tiderace/tiderace.js";
import { showAnswers } from "./answers.js";
import { showPeople } from "./here.js";
import { Log } from "./log.js";
import { upload } from "./upload.js";

const config = JSON.parse(document.getElementById("room-config").textContent);
const { me, room: slug } = config;
const composer = document.getElementById("composer");
const controls = document.getElementById("controls");
const field = document.getElementById("text");
const file = document.getElementById("picture");
const progress = document.getElementById("progress");
const banner = document.getElementById("recovered");

const SENDING = "Sending…";
const SENT = "Sent"; // until its publication comes: none does for one that was stored before
const WAITING = "Will be sent when the connection is back";
const RELOAD = 10_000; // milliseconds: a leave and a join within them is a reload

const client = topics();
const room = client.subscribe(`chat:${slug}`);
const here = client.subscribe(`here:${slug}`, { presence: true });

// What was said

const log = new Log(me, loadEarlier);
config.messages.forEach((message) => log.show(message));
document.getElementById("nothing").hidden = config.messages.length > 0;
log.toBottom();

room.addEventListener("publication", ({ data }) => {
  if (data.event === "deleted") log.remove(data.id);
  else if (data.event === "created" || log.message(data.id)) log.show(data);
  if (data.event === "created") {
    forget(data.client_id);
    people.stopped(data.author);
  }
  markRead();
});

/** After an outage: count what the server sends again, and say so. */
room.addEventListener("subscribed", ({ detail }) => {
  if (!detail.recovered || !wasAway) return;
  const count = detail.publications.filter(({ data }) => data.event === "created").length;
  banner.textContent = `Connection is back: ${count} message${count === 1 ? "" : "s"} recovered`;
  banner.hidden = false;
  setTimeout(() => { banner.hidden = true; }, 8000);
});
room.addEventListener("gap", () => location.reload());
room.addEventListener("unsubscribed", ({ detail }) => {
  document.getElementById("forbidden").hidden = detail.code !== 103;
  controls.disabled = true;
});
here.addEventListener("unsubscribed", () => {});

let wasAway = false;
client.addEventListener("state", ({ detail }) => {
  if (detail.status === "open") log.setEveryFate(SENDING);
  else if (room.state === "subscribed" || detail.status !== "connecting") {
    wasAway = true;
    log.setEveryFate(WAITING);
  }
});

let isLoading = false;
async function loadEarlier() {
  if (isLoading || room.state !== "subscribed" || log.first === undefined) return;
  isLoading = true;
  const messages = await room.call("before", { pk: log.first }).catch(() => []);
  log.showEarlier(messages);
  // At the beginning there is nothing more to ask for.
  isLoading = messages.length === 0;
}

let readUpTo = config.messages.at(-1)?.id ?? 0;
let isMarking = false;
room.addEventListener("subscribed", () => { isMarking = false; readUpTo = 0; markRead(); });
async function markRead() {
  const last = log.last;
  if (isMarking || document.hidden || !log.isFollowing || !last || last <= readUpTo) return;
  isMarking = true;
  await room.call("read", { pk: last }).then(() => { readUpTo = last; }, () => {});
  isMarking = false;
  if (log.last > last) markRead();
}
document.addEventListener("visibilitychange", markRead);

showAnswers(client, slug, me, log);

// Who is here

const left = new Map();
const people = showPeople(here, me, field, (change, person) => {
  if (person.id === me.id) return;
  if (change === "left") left.set(person.id, Date.now());
  else if (Date.now() - (left.get(person.id) ?? 0) < RELOAD) return;
  log.addEvent(`${person.name} ${change}`);
});

// Saying something: shown at once, kept over a reload, acknowledged, tried again

const key = `unsent:${me.id}:${slug}`;
const unsent = new Map(load().map((message) => [message.client_id, message]));
// A page that is left before the answer comes still has messages that were stored.
config.messages.forEach(({ client_id: id }) => forget(id));
for (const message of unsent.values()) {
  log.addWaiting(message, WAITING);
  send(message);
}

async function send(message) {
  unsent.set(message.client_id, message);
  save();
  try {
    await room.publish(message);
    forget(message.client_id);
    log.setFate(message.client_id, SENT);
  } catch (error) {
    log.setFate(message.client_id, `Not sent: ${error.message}.`, { refused: true });
  }
}

function say(text, picture = null) {
  const message = { client_id: newId(), text, picture };
  log.addWaiting(message, client.state === "connected" ? SENDING : WAITING);
  send(message);
}

/** Keep a message no longer: the server has stored it. */
function forget(id) {
  if (unsent.delete(id)) save();
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(key) ?? "[]");
  } catch {
    return []; // storage is disabled
  }
}
function save() {
  try {
    sessionStorage.setItem(key, JSON.stringify([...unsent.values()]));
  } catch {
    // Without storage unsent messages are lost with the page.
  }
}

/** Return a random id; `randomUUID` needs https or localhost. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The form

// Browsers in which the field cannot grow with its text show two lines.
if (!CSS.supports("field-sizing", "content")) field.rows = 2;
field.addEventListener("input", () => {
  // A maxlength attribute would cut a long paste silently.
  const over = [...field.value.trim()].length - Number(field.dataset.limit);
  field.setCustomValidity(over > 0 ? `Too long by ${over} character${over === 1 ? "" : "s"}` : "");
});
field.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a word (Japanese, Chinese).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

let editing = null;
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  field.focus();
  if (!text) return;
  field.value = "";
  people.sent();
  if (editing === null) say(text);
  else call("edit", { pk: editing, text });
  editing = null;
});

file.addEventListener("change", async () => {
  const picture = file.files[0];
  file.value = "";
  if (!picture) return;
  progress.hidden = false;
  try {
    const token = composer.elements.csrfmiddlewaretoken.value;
    const id = await upload(composer.dataset.upload, picture, token, (part) => { progress.value = part; });
    say("", id);
  } catch (error) {
    log.addEvent(`The picture was not sent: ${error.message}`);
  }
  progress.hidden = true;
});

function call(method, data) {
  return room.call(method, data).catch((error) => log.addEvent(error.message));
}

document.getElementById("messages").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  const item = button?.closest(".message");
  if (!item) return;
  const pk = Number(item.dataset.id);
  const { reaction, do: action } = button.dataset;
  if (reaction) call("react", { pk, reaction });
  else if (action === "delete") call("delete", { pk });
  else if (action === "retry") send(unsent.get(item.dataset.clientId));
  else if (action === "edit") {
    editing = pk;
    field.value = log.message(pk).text;
    field.focus();
  }
});

// What is typed before this script runs would be sent as a form, or be a new line.
controls.disabled = false;
