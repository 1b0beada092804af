"""A model that publishes its changes."""

from __future__ import annotations

from django.db import models

from tiderace.topics.models import PublishesChanges


class Message(PublishesChanges, models.Model):
    room: models.SlugField[str, str] = models.SlugField()
    text: models.TextField[str, str] = models.TextField()

    publish_fields = ["id", "text"]

    def __str__(self) -> str:
        return self.text

    def topics(self) -> list[str]:
        return [f"room:{self.room}"]
