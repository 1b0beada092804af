"""The app of users and guests."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["PeopleConfig"]


class PeopleConfig(AppConfig):
    """Sign-in pages; users are Django's, guests are stored in their session."""

    name = "tiderace.demo.people"
    label = "people"
