"""The app that knows who is there; it knows no room."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["PeopleConfig"]


class PeopleConfig(AppConfig):
    """Sign-in pages; users are Django's, guests live in their session."""

    name = "tiderace.demo.people"
    label = "people"
