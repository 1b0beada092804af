"""The app of the chat."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["ChatConfig"]


class ChatConfig(AppConfig):
    """Rooms and their messages."""

    name = "tiderace.demo.chat"
    label = "chat"
