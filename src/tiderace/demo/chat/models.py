"""Rooms, and the last messages of each."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone


class Room(models.Model):
    """A room, identified by the slug in its URL."""

    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=60)
    opened_at = models.DateTimeField(default=timezone.now)
    # The highest id of a deleted message, to report a gap to a client that returns
    # after a long time.
    forgotten_to = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Message(models.Model):
    """One message; ids increase in the order of storage."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages")
    author = models.CharField(max_length=40)
    name = models.CharField(max_length=150)
    guest = models.BooleanField(default=False)
    # Chosen by the author's page, so that a message sent again after a lost
    # connection is stored once.
    client_id = models.CharField(max_length=64)
    text = models.TextField()
    sent_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["room", "author", "client_id"], name="chat_message_sent_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.text[:40]}"

    def as_dict(self) -> dict[str, Any]:
        """Return the message as sent to the browser."""
        return {
            "id": self.pk,
            "client_id": self.client_id,
            "author": self.author,
            "name": self.name,
            "guest": self.guest,
            "text": self.text,
            "at": self.sent_at.isoformat(),
        }
