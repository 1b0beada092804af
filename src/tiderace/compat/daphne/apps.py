"""Stand-in for ``daphne.apps``, an app with ``runserver``; imports no server."""

from __future__ import annotations

from pathlib import Path

from django.apps import AppConfig

__all__ = ["DaphneConfig"]


class DaphneConfig(AppConfig):
    """The app ``daphne``; its ``runserver`` is Tiderace's, beside a real daphne too."""

    name = "daphne"
    verbose_name = "Daphne"
    path = str(Path(__file__).parent)
