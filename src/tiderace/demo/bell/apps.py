"""Connects the signal that notifies a user who is mentioned in the chat."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_save


class BellConfig(AppConfig):
    """The app of the notifications."""

    name = "tiderace.demo.bell"

    def ready(self) -> None:
        """Listen to saved chat messages."""
        from tiderace.demo.bell.mentions import ring_for_mentions

        post_save.connect(ring_for_mentions, sender="chat.Message")
