"""The app of the board."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["BoardConfig"]


class BoardConfig(AppConfig):
    """Notes in columns."""

    name = "tiderace.demo.board"
    label = "board"
