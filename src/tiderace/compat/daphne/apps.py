"""Stands in for ``daphne.apps``: the app whose use is that it brings ``runserver``.

It imports no server, neither Twisted nor uvicorn.
"""

from __future__ import annotations

from pathlib import Path

from django.apps import AppConfig

__all__ = ["DaphneConfig"]


class DaphneConfig(AppConfig):
    """``INSTALLED_APPS = ["daphne", ...]``: ``manage.py runserver`` serves ASGI.

    The command is Tiderace's, beside a real daphne too.
    """

    name = "daphne"
    verbose_name = "Daphne"
    path = str(Path(__file__).parent)
