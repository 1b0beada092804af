// The connection badge of every page, and what a page says after its session has ended.
//
// All scripts of a page share the one client that topics() returns.
import { topics } from "../tiderace/tiderace.js";

const WORDS = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Connection lost, trying again…",
  offline: "Offline",
  closed: "Disconnected",
};
const badge = document.getElementById("badge");

topics().addEventListener("state", ({ detail }) => {
  badge.dataset.status = detail.status;
  badge.firstElementChild.textContent = WORDS[detail.status];
  // The client ends only where another attempt would fail: after a log-out, too.
  document.getElementById("signed-out").hidden = detail.status !== "closed";
});
