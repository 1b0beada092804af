"""The people in each room, with a window in this process.

This is complete with the in-memory layer, where one process serves the site, and is
used with that layer only.
"""

from __future__ import annotations

from collections import defaultdict

from tiderace.demo.people.person import Person


class RoomPresence:
    """The windows of each person in each room: two tabs join once and leave once."""

    def __init__(self) -> None:
        self._windows: defaultdict[tuple[str, Person], set[str]] = defaultdict(set)

    def join(self, room: str, person: Person, window: str) -> bool:
        """Add a window (its channel name); return whether it is the person's first."""
        windows = self._windows[room, person]
        windows.add(window)
        return len(windows) == 1

    def leave(self, room: str, person: Person, window: str) -> bool:
        """Remove a window; return whether it was the person's last."""
        windows = self._windows.get((room, person), set())
        if windows != {window}:
            windows.discard(window)
            return False
        del self._windows[room, person]
        return True

    def people(self, room: str) -> list[Person]:
        """Return the people in the room, by name."""
        here = [person for place, person in self._windows if place == room]
        return sorted(here, key=lambda one: (one.name.casefold(), one.id))
