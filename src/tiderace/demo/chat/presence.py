"""The people in each room, with a window in this process.

This is complete with the in-memory layer, where one process serves the site, and is
used with that layer only.
"""

from __future__ import annotations

from tiderace.demo.people.person import Person

__all__ = ["RoomPresence"]


class RoomPresence:
    """The windows of each person in each room: two tabs join once and leave once."""

    def __init__(self) -> None:
        self._rooms: dict[str, dict[Person, set[str]]] = {}

    def join(self, room: str, person: Person, window: str) -> bool:
        """Add a window (its channel name); return whether it is the person's first."""
        windows = self._rooms.setdefault(room, {}).setdefault(person, set())
        windows.add(window)
        return len(windows) == 1

    def leave(self, room: str, person: Person, window: str) -> bool:
        """Remove a window; return whether it was the person's last."""
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
        """Return the people in the room, by name."""
        return sorted(
            self._rooms.get(room, {}), key=lambda one: (one.name.casefold(), one.id)
        )
