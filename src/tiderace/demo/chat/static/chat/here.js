// The users in a room, and which of them are typing.

// In milliseconds.
const INTERVAL = 2000;
const TTL = 5000;

const people = document.getElementById("people");
const line = document.getElementById("typing");

/** Show the members of `here` and which are typing; whisper when this user types. */
export function showPeople(here, me, field, onChange) {
  const typing = new Map();

  function showTyping() {
    const names = Array.from(typing.values(), ({ name }) => name);
    if (names.length === 0) line.textContent = "";
    else if (names.length === 1) line.textContent = `${names[0]} is typing…`;
    else if (names.length === 2) line.textContent = `${names[0]} and ${names[1]} are typing…`;
    else line.textContent = `${names.length} people are typing…`;
  }
  function stopped(id) {
    clearTimeout(typing.get(id)?.timer);
    if (typing.delete(id)) showTyping();
  }

  function started({ id, name }) {
    if (id === me.id) return;
    clearTimeout(typing.get(id)?.timer);
    // A window that is closed cannot say so: names expire.
    typing.set(id, { name, timer: setTimeout(stopped, TTL, id) });
    showTyping();
  }

  here.addEventListener("whisper", ({ detail }) => started(detail.info.conn_info));
  // Of the bots, which have no connection.
  here.addEventListener("publication", ({ data }) => started(data));
  here.addEventListener("presence", () => {
    const members = [...here.presence.values()].map(({ conn_info: info }) => info);
    members.sort((a, b) => a.name.localeCompare(b.name));
    people.replaceChildren(...members.map(avatar));
  });
  here.addEventListener("joined", ({ detail }) => onChange("joined", detail.conn_info));
  here.addEventListener("left", ({ detail }) => {
    stopped(detail.user);
    onChange("left", detail.conn_info);
  });

  let announcedAt = -Infinity;
  field.addEventListener("input", () => {
    const now = performance.now();
    if (!field.value.trim() || now - announcedAt < INTERVAL) return;
    announcedAt = now;
    here.whisper();
  });
  return {
    stopped,
    /** The text was sent: the next input is announced at once. */
    sent: () => { announcedAt = -Infinity; },
  };

  function avatar({ id, name, guest }) {
    const item = document.createElement("li");
    const initials = document.createElement("span");
    initials.className = `avatar tone-${Number(id) % 6}`;
    initials.setAttribute("aria-hidden", "true");
    initials.textContent = [...name].slice(0, 2).join("").toUpperCase();
    item.append(initials, (id === me.id ? `${name} (you)` : name) + (guest ? ", guest" : ""));
    return item;
  }
}
