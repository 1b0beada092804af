"""The topics of the board: its notes, and where the visitors point.

The methods change rows; the model ``Note`` publishes the changes.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.utils import timezone
from msgspec import Meta

from tiderace.demo.board import notes
from tiderace.demo.board.models import Column
from tiderace.demo.people.person import person_of
from tiderace.topics import (
    History,
    IsAuthenticated,
    Presence,
    Refuse,
    Topic,
    rpc,
)


class NoteDraft(msgspec.Struct):
    """A note as a page sends it; its author is the user of the session."""

    client_id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]{8,64}\Z")]
    text: str


class Board(Topic):
    """Every visitor may edit the board."""

    pattern = "board:main"
    history = History(size=200, ttl=3600)
    presence = Presence.PER_USER
    presence_grace = 5.0
    permission_classes = [IsAuthenticated]
    message = NoteDraft

    def on_publish(self, user: Any, message: NoteDraft) -> None:
        """Store a note once; saving it publishes it."""
        notes.add(person_of(user), message.client_id, notes.cleaned(message.text))

    def user_left(self, user_id: str) -> None:
        """End the locks of a user whose last tab is gone."""
        notes.unlock_all(user_id)

    @rpc
    def lock(self, user: Any, pk: int) -> None:
        """Begin to edit a note, or continue: others may not change its text."""
        person = person_of(user)
        until = timezone.now() + notes.LOCK
        who = {"editor": person.id, "editor_name": person.name}
        notes.change(pk, person, locked_until=until, **who)

    @rpc
    def unlock(self, user: Any, pk: int) -> None:
        """Stop editing without a change."""
        notes.change(pk, person_of(user), editor="", editor_name="")

    @rpc
    def edit(self, user: Any, pk: int, text: str) -> None:
        """Change the text of a note, and stop editing."""
        text = notes.cleaned(text)
        notes.change(pk, person_of(user), text=text, editor="", editor_name="")

    @rpc
    def move(self, user: Any, pk: int, column: str, before: int | None = None) -> None:
        """Move a note before another one of a column, or to its end."""
        if column not in Column.values:
            raise Refuse(f"there is no column {column!r}", code=422)
        rank = notes.rank_before(column, before)
        notes.change(pk, person_of(user), locked=False, column=column, rank=rank)

    @rpc
    def remove(self, user: Any, pk: int) -> None:
        """Remove a note."""
        notes.remove(pk, person_of(user))


class Pointers(Topic):
    """Where the visitors point, in whispers of their pages: no hook, no history.

    The sender that a page sees is that of the session.
    """

    pattern = "pointers:main"
    permission_classes = [IsAuthenticated]
    whispers = "30/s"
