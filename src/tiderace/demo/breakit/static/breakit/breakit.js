// Sends a number ten times a second, and counts what comes back.
import { topics } from "../tiderace/tiderace.js";
import { Tally } from "./tally.js";

const INTERVAL = 100; // milliseconds
// During an outage the page stops at this many, below the limit of the client's queue.
const UNACKNOWLEDGED = 50;

const { topic } = JSON.parse(document.getElementById("breakit-config").textContent);
const happened = document.getElementById("happened");
const client = topics();
const stream = client.subscribe(topic);
const tally = new Tally();
let next = 0;
let open = 0;
let floods = 0;

async function send() {
  if (open >= UNACKNOWLEDGED) return;
  const number = next++;
  open++;
  try {
    await stream.publish(number);
    tally.acknowledge("mine", number);
  } catch (error) {
    note(`Message ${number} was refused: ${error.message}`);
  }
  open--;
}

stream.addEventListener("publication", ({ data }) => {
  tally.receive(data.flood ? `flood ${data.flood}` : "mine", data.n);
});
stream.addEventListener("gap", () => note("The server no longer has everything: a gap"));
stream.addEventListener("subscribed", ({ detail }) => {
  if (detail.wasRecovering && detail.recovered) note("Back, and recovered");
});
client.addEventListener("state", ({ detail }) => {
  if (detail.status === "waiting") note("The connection is gone");
});

const calls = {
  drop: () => stream.call("drop"),
  flood: async () => {
    const run = ++floods;
    const count = await stream.call("flood", { number: run });
    for (let number = 0; number < count; number++) tally.acknowledge(`flood ${run}`, number);
  },
};

document.getElementById("breakers").addEventListener("click", async ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  note(button.textContent);
  const { call, fault } = button.dataset;
  try {
    await (call ? calls[call]() : stream.call("fault", { name: fault }));
  } catch (error) {
    // The fault may take the connection, and with it the reply.
    if (error.code > 2) note(error.message);
  }
});

function note(text) {
  const item = document.createElement("li");
  item.textContent = `${new Date().toLocaleTimeString()} ${text}`;
  happened.prepend(item);
  if (happened.childElementCount > 8) happened.lastElementChild.remove();
}

function show() {
  for (const element of document.querySelectorAll("[data-count]")) {
    const count = element.dataset.count;
    // What is missing is known only while the page is connected and has caught up.
    if (count === "missing" && stream.state !== "subscribed") continue;
    element.textContent = tally[count].toLocaleString();
    element.parentElement.classList.toggle("bad", tally[count] > 0);
  }
}

setInterval(send, INTERVAL);
setInterval(show, 250);
