"""Who has a window open in a room, as seen from this process.

With the in-memory layer one process is the whole site, so this is the truth;
with a layer shared by several processes it would not be, and nobody asks it
then. It knows no socket.
"""

from __future__ import annotations

from tiderace.demo.people.person import Person

__all__ = ["Roster"]


class Roster:
    """Counts windows, so that a person with two tabs arrives once and leaves once."""

    def __init__(self) -> None:
        self._rooms: dict[str, dict[Person, set[str]]] = {}

    def enter(self, room: str, person: Person, window: str) -> bool:
        """Note a window (its channel name); return whether it is the person's first."""
        windows = self._rooms.setdefault(room, {}).setdefault(person, set())
        windows.add(window)
        return len(windows) == 1

    def leave(self, room: str, person: Person, window: str) -> bool:
        """Forget a window; return whether it was the person's last."""
        people = self._rooms.get(room, {})
        windows = people.get(person, set())
        if window not in windows:
            return False
        windows.remove(window)
        if windows:
            return False
        del people[person]
        if not people:
            del self._rooms[room]
        return True

    def people(self, room: str) -> list[Person]:
        """Return everyone in the room, by name."""
        return sorted(
            self._rooms.get(room, {}), key=lambda one: (one.name.casefold(), one.id)
        )
