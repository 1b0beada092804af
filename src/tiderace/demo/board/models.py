"""Notes on a board; the model publishes its changes to the topic."""

from __future__ import annotations

from django.db import models

from tiderace.topics.models import PublishesChanges

BOARD = "board:main"
TEXT_LENGTH = 140


class Column(models.TextChoices):
    """The columns of the board."""

    TO_DO = "to-do", "To do"
    DOING = "doing", "Doing"
    DONE = "done", "Done"


class Note(PublishesChanges, models.Model):
    """One note; the board shows notes in the order of creation."""

    text = models.CharField(max_length=TEXT_LENGTH)
    column = models.CharField(
        max_length=10, choices=Column.choices, default=Column.TO_DO
    )
    author = models.CharField(max_length=150)

    publish_fields = ["text", "column", "author"]
    publish_on = []  # one board: the topic depends on no field

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.text[:40]

    def topics(self) -> list[str]:
        """Return the topic of the board."""
        return [BOARD]
