/** Refreshes the page of Django's admin that lists the connections. */

import { backoffDelay } from "./backoff.js";
import { morph } from "./morph.js";
import { DEFAULTS } from "./options.js";
import { request, TemporaryError } from "./page_request.js";

/** Milliseconds from one response to the next request. */
const PACE = 5_000;
/** Milliseconds until a link that is in use is looked at again. */
const IN_USE_PACE = 1_000;
/** What is stored when the visitor has switched the refreshing off. */
const STORED = "tiderace-admin-refresh";

const part = document.getElementById("tiderace-report")!;
const control = document.getElementById("tiderace-refresh")!;
const box = control.querySelector("input")!;
const time = control.querySelector("time")!;
const problem = control.querySelector("[role=status]")!;

let timer: ReturnType<typeof setTimeout> | undefined;
let failures = 0;
let isBusy = false;

/** Whether a change would move a link away that the visitor is about to follow. */
function isInUse(): boolean {
  const selection = getSelection();
  return (
    !!part.querySelector(":is(a, button, input):is(:hover, :focus)") ||
    (!!selection && !selection.isCollapsed && part.contains(selection.anchorNode))
  );
}

function schedule(delay: number): void {
  clearTimeout(timer);
  timer = setTimeout(refresh, delay);
}

/** Refresh once and schedule the next time, unless switched off or not visible. */
async function refresh(): Promise<void> {
  if (isBusy || !box.checked || document.hidden) return;
  if (isInUse()) return schedule(IN_USE_PACE);
  isBusy = true;
  let delay = PACE;
  try {
    const wanted = (await request(new URL(location.href))).getElementById(part.id);
    if (!wanted) throw new Error("the log-in or the permission has ended");
    if (!isInUse()) show(wanted);
    failures = 0;
  } catch (error) {
    const isTemporary = error instanceof TemporaryError;
    problem.textContent = `Not refreshed: ${(error as Error).message}. ${
      isTemporary ? "It is tried again." : "Load the page again."
    }`;
    box.checked = isTemporary;
    delay += backoffDelay(failures++, Math.random(), DEFAULTS) * 1e3;
  }
  isBusy = false;
  schedule(delay);
}

function show(wanted: Element): void {
  morph(part, wanted);
  time.textContent = new Date().toLocaleTimeString();
  problem.textContent = "";
}

/** A browser may refuse its storage; the choice then holds for this page. */
function stored(change?: boolean): boolean {
  try {
    if (change === true) localStorage.removeItem(STORED);
    if (change === false) localStorage.setItem(STORED, "off");
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return change ?? true;
  }
}

box.checked = stored();
time.textContent = new Date().toLocaleTimeString();
control.hidden = false;
box.addEventListener("change", () => {
  stored(box.checked);
  schedule(0);
});
document.addEventListener("visibilitychange", () => schedule(0));
schedule(PACE);
