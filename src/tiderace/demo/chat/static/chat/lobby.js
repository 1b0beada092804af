// Counts the messages and mentions that arrive in the rooms while the list is shown.
import { topics } from "../tiderace/tiderace.js";

const me = JSON.parse(document.getElementById("me").textContent);

function add(link, kind) {
  const count = link.querySelector(`[data-count="${kind}"]`);
  const number = Number(count.textContent.replace("@", "")) + 1;
  count.textContent = kind === "mentions" ? `@${number}` : number;
  count.hidden = false;
}

for (const link of document.querySelectorAll("[data-room]")) {
  const room = topics().subscribe(`chat:${link.dataset.room}`);
  room.addEventListener("publication", ({ data }) => {
    if (data.event !== "created" || data.author === me.id) return;
    add(link, "unread");
    if (data.text.includes(`@${me.name}`)) add(link, "mentions");
  });
  room.addEventListener("gap", () => location.reload());
}
