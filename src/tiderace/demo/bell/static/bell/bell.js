// The bell: a count and a list that every tab of the user shows alike.
import { topics } from "../tiderace/tiderace.js";

const SHOWN = 20;
const { topic, newest, unread } = JSON.parse(document.getElementById("bell-config").textContent);
const button = document.getElementById("bell");
const panel = document.getElementById("notifications");
const count = document.getElementById("unread");
const list = panel.querySelector("ul");

// What is older than the page's list is only counted.
const isRead = new Map(newest.map(({ pk, fields }) => [pk, fields.read]));
let older = unread - newest.filter(({ fields }) => !fields.read).length;

function show({ pk, fields }, place) {
  let item = list.querySelector(`[data-id="${pk}"]`);
  if (!item) {
    item = document.createElement("li");
    item.dataset.id = pk;
    const by = document.createElement("b");
    by.textContent = fields.by;
    const text = document.createElement("span");
    text.textContent = fields.text;
    item.append(by, " ", text);
    list[place](item);
    if (list.childElementCount > SHOWN) list.lastElementChild.remove();
  }
  item.classList.toggle("new", !fields.read);
}

function showCount() {
  const number = older + [...isRead.values()].filter((read) => !read).length;
  count.hidden = number === 0;
  count.textContent = number > 99 ? "99+" : number;
  button.setAttribute("aria-label", `Notifications: ${number || "none"} unread`);
  panel.querySelector(".nothing").hidden = list.childElementCount > 0;
}

for (const notification of newest) show(notification, "append");
showCount();

const bell = topics().subscribe(topic);
bell.addEventListener("publication", ({ data }) => {
  if (data.event === "deleted") {
    isRead.delete(data.pk);
    list.querySelector(`[data-id="${data.pk}"]`)?.remove();
  } else {
    if (data.event === "updated" && !isRead.has(data.pk)) older = Math.max(0, older - data.fields.read);
    isRead.set(data.pk, data.fields.read);
    if (data.event === "created") show(data, "prepend");
    else list.querySelector(`[data-id="${data.pk}"]`)?.classList.toggle("new", !data.fields.read);
  }
  showCount();
});
// More happened while the page was away than the history holds.
bell.addEventListener("gap", () => location.reload());

button.addEventListener("click", async () => {
  const open = panel.hidden;
  panel.hidden = !open;
  button.setAttribute("aria-expanded", open);
  if (open) {
    panel.focus();
    await bell.call("read_all").catch(() => {});
  }
});
panel.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    button.click();
    button.focus();
  }
});
