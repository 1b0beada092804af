"""A notification to one user; saving it publishes it, after the commit."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import models
from django.utils import timezone

from tiderace.topics.models import PublishesChanges

TEXT_LENGTH = 300


class Notification(PublishesChanges, models.Model):
    """One notification; it is kept until its user has read it, and after."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    by = models.CharField(max_length=60)
    text = models.CharField(max_length=TEXT_LENGTH)
    read = models.BooleanField(default=False)
    made_at = models.DateTimeField(default=timezone.now)

    publish_fields = ["by", "text", "read", "made_at"]
    publish_on = ["user"]

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.by}: {self.text[:40]}"

    def topics(self) -> list[str]:
        """Return the topic of the user's bell."""
        return [f"bell:{self.user_id}"]


def notify(user: User | None, text: str, *, by: str) -> int:
    """Notify one user, or every active one with None; return how many.

    For views, admin actions, signals, commands and tasks. Inside a transaction that is
    rolled back nothing is stored and nothing is sent.
    """
    users = [user] if user else User.objects.filter(is_active=True)
    made: list[Any] = [
        Notification.objects.create(user=each, text=text, by=by) for each in users
    ]
    return len(made)
