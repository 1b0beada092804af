"""Rooms, their messages, and how far each person has read.

Saving a message publishes it: created, edited, reacted to or deleted.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from tiderace.demo.chat.text import as_html
from tiderace.topics.models import PublishesChanges

# Only staff may enter this room.
STAFF_ROOM = "bridge"


class Room(models.Model):
    """A room, identified by the slug in its URL."""

    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=60)
    opened_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Picture(models.Model):
    """An uploaded picture, byte for byte."""

    data = models.BinaryField()
    content_type = models.CharField(max_length=20)
    owner = models.ForeignKey(User, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"{self.content_type}, {len(self.data)} bytes"


class Message(PublishesChanges, models.Model):
    """One message; ids increase in the order of storage."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages")
    author = models.CharField(max_length=40)
    name = models.CharField(max_length=150)
    guest = models.BooleanField(default=False)
    # Chosen by the author's page, so that a message sent again after a lost
    # connection is stored once.
    client_id = models.CharField(max_length=64)
    text = models.TextField(blank=True)
    picture = models.ForeignKey(Picture, on_delete=models.SET_NULL, null=True)
    reactions = models.JSONField(default=dict)
    edited = models.BooleanField(default=False)
    sent_at = models.DateTimeField(default=timezone.now)

    publish_on = ["room"]

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["room", "author", "client_id"], name="chat_message_sent_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.text[:40]}"

    def topics(self) -> list[str]:
        """Return the topic of the room."""
        return [f"chat:{self.room.slug}"]

    def publication(self, change: str) -> dict[str, Any]:
        """Return what the pages get of a change; the text as HTML that is safe."""
        return {"event": change, **self.as_dict()}

    def as_dict(self) -> dict[str, Any]:
        """Return the message as the pages show it."""
        picture = self.picture_id
        return {
            "id": self.pk,
            "client_id": self.client_id,
            "author": self.author,
            "name": self.name,
            "guest": self.guest,
            "text": self.text,
            "html": as_html(self.text),
            "picture": picture and reverse("chat:picture", args=[picture]),
            "reactions": self.reactions,
            "edited": self.edited,
            "at": self.sent_at.isoformat(),
        }


class ReadMark(models.Model):
    """The last message of a room that a user has seen."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    room = models.ForeignKey(Room, on_delete=models.CASCADE)
    message = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "room"], name="chat_one_mark")
        ]

    def __str__(self) -> str:
        return f"{self.user} read {self.room} up to {self.message}"
