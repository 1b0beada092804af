"""Notes on a board, whose changes are published by themselves.

It knows which topic hears of them, and no page or socket.
"""

from __future__ import annotations

from django.db import models

from tiderace.topics.models import PublishesChanges

__all__ = ["BOARD", "TEXT_LENGTH", "Column", "Note"]

BOARD = "board:main"
TEXT_LENGTH = 140


class Column(models.TextChoices):
    """Where a note may hang."""

    TO_DO = "to-do", "To do"
    DOING = "doing", "Doing"
    DONE = "done", "Done"


class Note(PublishesChanges, models.Model):
    """One note; the board shows them by the time they were written."""

    text = models.CharField(max_length=TEXT_LENGTH)
    column = models.CharField(
        max_length=10, choices=Column.choices, default=Column.TO_DO
    )
    author = models.CharField(max_length=150)

    publish_fields = ["text", "column", "author"]
    publish_on = []  # there is one board, so no field decides where

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.text[:40]

    def topics(self) -> list[str]:
        """The one board."""
        return [BOARD]
