"""The board as a topic: who is there, and what they may do to notes.

The methods change rows and nothing else; the rows tell everybody themselves.
"""

from __future__ import annotations

from typing import Any

from tiderace.demo.board.models import TEXT_LENGTH, Column, Note
from tiderace.demo.people.person import person_of
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    rpc,
)

__all__ = ["Board", "Endpoint"]

# So that a visitor cannot fill the disk; the oldest go.
_KEPT = 60


class Board(Topic):
    """Everybody who has the page may write on it."""

    pattern = "board:main"
    history = History(size=200, ttl=3600)
    presence = Presence.PER_USER
    permission_classes = [AllowAny]

    @rpc
    def add(self, text: str, author: str) -> int:
        """Hang up a note; returns its number."""
        text = " ".join(text.split())
        if not 0 < len(text) <= TEXT_LENGTH:
            raise Refuse(f"a note has 1 to {TEXT_LENGTH} characters", code=422)
        note = Note.objects.create(text=text, author=author[:24])
        for old in Note.objects.order_by("-id")[_KEPT:]:
            old.delete()
        return int(note.pk)

    @rpc
    def move(self, pk: int, column: str) -> None:
        """Hang a note into another column."""
        if column not in Column.values:
            raise Refuse(f"there is no column {column!r}", code=422)
        note = self._note(pk)
        note.column = column
        note.save(update_fields=["column"])

    @rpc
    def remove(self, pk: int) -> None:
        """Take a note off."""
        self._note(pk).delete()

    def _note(self, pk: int) -> Note:
        note = Note.objects.filter(pk=pk).first()
        if note is None:
            raise Refuse("that note is gone", code=404)
        return note


class Endpoint(TopicsEndpoint):
    """Serves the demo's topics; others see people by name, guests too."""

    def user_info(self, user: Any, scope: Any) -> Any:  # type: ignore[override]
        """The name and whether it is a guest's; nothing for a stranger."""
        person = person_of(user, scope["session"])
        return None if person is None else {"name": person.name, "guest": person.guest}
