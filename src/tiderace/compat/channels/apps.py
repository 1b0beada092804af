"""Stand-in for ``channels.apps``: the app that a Channels project lists."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from django.conf import settings

import tiderace
import tiderace.compat
from tiderace import apps

__all__ = ["ChannelsConfig"]


def _directory() -> Path:
    """Return the directory with this app's commands, static files and templates.

    That is Tiderace's directory. If the project lists ``tiderace`` too, it is an empty
    one, or ``collectstatic`` would find every file twice.
    """
    listed = {entry.partition(".")[0] for entry in settings.INSTALLED_APPS}
    return Path((tiderace.compat if "tiderace" in listed else tiderace).__path__[0])


class ChannelsConfig(apps.TideraceConfig):
    """The app ``tiderace`` under the name ``channels``.

    Both may be listed; the system checks then run once.
    """

    name = "channels"
    label = "channels"
    verbose_name = "Channels"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        self.path = str(_directory())
        super().__init__(app_name, app_module)
