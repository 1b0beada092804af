"""Notes on a board; the model publishes its changes to the topic."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from tiderace.topics.models import PublishesChanges

BOARD = "board:main"
TEXT_LENGTH = 140


class Column(models.TextChoices):
    """The columns of the board."""

    TO_DO = "to-do", "To do"
    DOING = "doing", "Doing"
    DONE = "done", "Done"


class Note(PublishesChanges, models.Model):
    """One note; each change has a larger ``version``, and pages show the largest."""

    text = models.CharField(max_length=TEXT_LENGTH)
    column = models.CharField(
        max_length=10, choices=Column.choices, default=Column.TO_DO
    )
    # Notes of a column are shown in this order.
    rank = models.FloatField(default=0)
    author = models.CharField(max_length=150)
    # Chosen by the author's page, so that a note sent again after a lost connection
    # is stored once.
    client_id = models.CharField(max_length=64, blank=True)
    version = models.PositiveIntegerField(default=1)
    changed_by = models.CharField(max_length=150, blank=True)
    # The user who edits it, by primary key and by name, until the lock ends.
    editor = models.CharField(max_length=40, blank=True)
    editor_name = models.CharField(max_length=150, blank=True)
    locked_until = models.DateTimeField(null=True)

    publish_fields = [
        *("text", "column", "rank", "author", "client_id"),
        *("version", "changed_by", "editor", "editor_name"),
    ]
    publish_on = []  # one board: the topic depends on no field

    class Meta:
        ordering = ["rank", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["author", "client_id"],
                condition=~Q(client_id=""),
                name="board_note_sent_once",
            )
        ]

    def __str__(self) -> str:
        return self.text[:40]

    def topics(self) -> list[str]:
        """Return the topic of the board."""
        return [BOARD]
