// Dragging notes with mouse, pen or finger.

const SLACK = 6; // pixels before a press becomes a drag

/** Let notes be dragged; `move(note, column, before)` is called when one is dropped. */
export function letDrag(area, { move, holds }) {
  const line = document.createElement("li");
  line.className = "drop-line";
  line.setAttribute("aria-hidden", "true");
  let note = null;
  let start;

  area.addEventListener("pointerdown", (event) => {
    const grip = event.target.closest(".grip");
    const pressed = event.target.closest(".note:not(.editing, .waiting)");
    // A finger scrolls the page, except on the grip.
    if (!pressed || event.button !== 0 || (event.pointerType === "touch" && !grip)) return;
    if (!grip && event.target.closest("button")) return;
    note = pressed;
    start = event;
  });
  area.addEventListener("pointermove", (event) => {
    if (!note) return;
    const x = event.clientX - start.clientX;
    const y = event.clientY - start.clientY;
    if (!note.classList.contains("dragged")) {
      if (Math.hypot(x, y) < SLACK) return;
      area.setPointerCapture(event.pointerId);
      note.classList.add("dragged");
      holds(Number(note.dataset.id));
    }
    note.style.translate = `${x}px ${y}px`;
    const column = columnAt(area, event);
    column.insertBefore(line, noteBelow(column, event, note));
  });
  area.addEventListener("pointerup", () => end(true));
  area.addEventListener("pointercancel", () => end(false));
  addEventListener("keydown", ({ key }) => key === "Escape" && end(false));

  function end(dropped) {
    if (note?.classList.contains("dragged")) {
      note.classList.remove("dragged");
      note.style.translate = "";
      holds(null);
      const column = line.parentElement;
      let before = line.nextElementSibling;
      if (before === note) before = note.nextElementSibling;
      line.remove();
      if (dropped && column) move(note, column.dataset.column, before);
    }
    note = null;
  }
}

/** The list of the column that is nearest to the pointer. */
function columnAt(area, { clientX, clientY }) {
  const distance = (section) => {
    const { left, right, top, bottom } = section.getBoundingClientRect();
    return Math.hypot(Math.max(left - clientX, 0, clientX - right), Math.max(top - clientY, 0, clientY - bottom));
  };
  const [nearest] = [...area.children].sort((one, other) => distance(one) - distance(other));
  return nearest.querySelector(".notes");
}

function noteBelow(column, { clientY }, dragged) {
  return [...column.querySelectorAll(".note")].find((note) => {
    const { top, height } = note.getBoundingClientRect();
    return note !== dragged && clientY < top + height / 2;
  }) ?? null;
}
