"""Stands in for ``channels.apps``: the app a Channels project lists.

It knows our own app, whose work it does; it has no models.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from django.conf import settings

import tiderace
import tiderace.compat
from tiderace import apps

__all__ = ["ChannelsConfig"]


def _directory() -> Path:
    """Where Django looks for this app's commands, static files and templates.

    That is Tiderace's own directory, unless the project lists ``tiderace`` as well:
    then one of the two has to be empty, or ``collectstatic`` meets every file twice.
    """
    listed = {entry.partition(".")[0] for entry in settings.INSTALLED_APPS}
    return Path((tiderace.compat if "tiderace" in listed else tiderace).__path__[0])


class ChannelsConfig(apps.TideraceConfig):
    """``INSTALLED_APPS = ["channels"]``: what the app ``tiderace`` does, so called.

    Both may be listed; the system checks then run once.
    """

    name = "channels"
    label = "channels"
    verbose_name = "Channels"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        self.path = str(_directory())
        super().__init__(app_name, app_module)
