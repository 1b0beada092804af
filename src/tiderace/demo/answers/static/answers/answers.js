// The answers: each is one message that grows, for every page that is open.
import { topics } from "../tiderace/tiderace.js";
import { growing } from "../tiderace/grow.js";

const { topic, user } = JSON.parse(document.getElementById("answers-config").textContent);
const list = document.getElementById("answers");
const template = document.getElementById("answer-template");
const refusal = document.getElementById("refusal");
const shown = new Map();
const SAID = { growing: "is being written", finished: "finished", cancelled: "stopped", unknown: "connection lost" };

function add({ data, cancel }) {
  const article = template.content.firstElementChild.cloneNode(true);
  article.querySelector("h2").textContent = data.question;
  article.querySelector("button").addEventListener("click", () => cancel().catch(refuse));
  list.prepend(article);
  return article;
}

function refuse(error) {
  refusal.textContent = `That did not work: ${error.message}`;
}

growing(topics().subscribe(topic), (message) => {
  const { id, data, added, state, reason } = message;
  const article = shown.get(id) ?? add(message);
  shown.set(id, article);
  const text = article.querySelector(".text");
  if (added === null) text.textContent = data.text;
  else text.append(added);
  article.querySelector(".state").textContent = `${data.by}: ${SAID[state] ?? `failed${reason && `, ${reason}`}`}`;
  article.querySelector("button").hidden = state !== "growing" || data.asked_by !== user;
  article.dataset.state = state;
});

document.getElementById("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  refusal.textContent = "";
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    form.reset();
  } catch (error) {
    refuse(error);
  }
});

// Before this script runs, the form would leave the page.
document.getElementById("controls").disabled = false;
