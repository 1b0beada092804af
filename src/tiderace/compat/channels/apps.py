"""Stand-in for ``channels.apps``: the app that a Channels project lists."""

from __future__ import annotations

from types import ModuleType

from django.conf import settings

import tiderace
import tiderace.compat
from tiderace import apps

__all__ = ["ChannelsConfig"]


class ChannelsConfig(apps.TideraceConfig):
    """The app ``tiderace`` under the name ``channels``.

    Both may be listed; the system checks then run once.
    """

    name = "channels"
    label = "channels"
    verbose_name = "Channels"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        # The directory with this app's commands, static files and templates: Tiderace's,
        # or if the project lists "tiderace" too, an empty one, since collectstatic would
        # find every file twice.
        listed = {entry.partition(".")[0] for entry in settings.INSTALLED_APPS}
        package = tiderace.compat if "tiderace" in listed else tiderace
        self.path = package.__path__[0]
        super().__init__(app_name, app_module)
