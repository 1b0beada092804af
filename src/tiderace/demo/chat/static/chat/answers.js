// Answers that a worker is writing: shown as they grow, until they are messages of the room.
import { growing } from "../tiderace/grow.js";

const ENDS = { failed: "The answer broke off.", cancelled: "Stopped." };

/** Show the answers of a room in its log. */
export function showAnswers(client, slug, me, log) {
  const items = new Map();

  const answers = client.subscribe(`answers:${slug}`);
  // The page says so for the room itself.
  answers.addEventListener("unsubscribed", () => {});

  growing(answers, ({ id, data, state, added, cancel }) => {
    // The room's messages have what is finished.
    if (state === "finished" || (state !== "growing" && !items.has(id))) {
      items.get(id)?.remove();
      items.delete(id);
      return;
    }
    const item = items.get(id) ?? addItem(id, data, cancel);
    const [, text, stop, end] = item.children;
    if (added === null) text.textContent = data.text;
    else text.append(added);
    stop.hidden = state !== "growing" || data.asked_by !== me.id;
    end.textContent = ENDS[state] ?? "";
    log.grown();
  });

  function addItem(id, { name }, cancel) {
    const item = document.getElementById("answer-template").content.firstElementChild.cloneNode(true);
    item.querySelector("b").textContent = name;
    item.querySelector("button").addEventListener("click", () => cancel().catch(() => {}));
    items.set(id, item);
    log.addGrowing(item);
    return item;
  }
}
