"""The topic of the board.

Its methods change rows; the model publishes the changes.
"""

from __future__ import annotations

from typing import Any

from tiderace.demo.board.models import TEXT_LENGTH, Column, Note
from tiderace.demo.people.person import person_of
from tiderace.topics import (
    History,
    IsAuthenticated,
    Presence,
    Refuse,
    Topic,
    rpc,
)

# Older notes are deleted, so that visitors cannot fill the disk.
_MAX_NOTES = 60


class Board(Topic):
    """Every visitor may edit the board."""

    pattern = "board:main"
    history = History(size=200, ttl=3600)
    presence = Presence.PER_USER
    permission_classes = [IsAuthenticated]

    @rpc
    def add(self, user: Any, text: str) -> int:
        """Add a note; return its id."""
        text = " ".join(text.split())
        if not 0 < len(text) <= TEXT_LENGTH:
            raise Refuse(f"a note has 1 to {TEXT_LENGTH} characters", code=422)
        note = Note.objects.create(text=text, author=person_of(user).name)
        for old in Note.objects.order_by("-id")[_MAX_NOTES:]:
            old.delete()
        return int(note.pk)

    @rpc
    def move(self, pk: int, column: str) -> None:
        """Move a note to another column."""
        if column not in Column.values:
            raise Refuse(f"there is no column {column!r}", code=422)
        note = self._note(pk)
        note.column = column
        note.save(update_fields=["column"])

    @rpc
    def remove(self, pk: int) -> None:
        """Remove a note."""
        self._note(pk).delete()

    def _note(self, pk: int) -> Note:
        note = Note.objects.filter(pk=pk).first()
        if note is None:
            raise Refuse("that note is gone", code=404)
        return note
