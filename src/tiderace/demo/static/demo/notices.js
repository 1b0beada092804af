// Notices on pages other than rooms: each is shown until it is closed.
import { connect } from "../tiderace/tiderace.js";

const toasts = document.getElementById("toasts");

function show(text, by) {
  const toast = document.createElement("div");
  toast.className = "toast";
  const words = document.createElement("p");
  const from = document.createElement("b");
  from.textContent = by;
  words.append(from, " ", text);
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet";
  close.textContent = "Close";
  close.addEventListener("click", () => {
    toast.remove();
    document.getElementById("main").focus();
  });
  toast.append(words, close);
  toasts.append(toast);
}

connect("notices/").addEventListener("message", (event) => {
  const frame = JSON.parse(event.data);
  if (frame.type === "notice") {
    show(frame.text, frame.personal ? `${frame.by}, to you:` : `${frame.by}:`);
  } else if (frame.type === "signed-out") {
    show("Reload this page to sign in again.", "You have signed out in another window.");
  }
});
