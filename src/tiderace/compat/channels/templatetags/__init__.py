"""Stand-in for ``channels.templatetags``; the libraries below it are aliases."""

from __future__ import annotations

from django.apps import apps

from tiderace import templatetags

__all__: list[str] = []

# If both apps are listed, the tags come from "tiderace"; a second library of the same
# name would be a warning (templates.W003).
__path__ = [] if apps.is_installed("tiderace") else list(templatetags.__path__)
