"""Stands in for ``channels.templatetags``, so that our tags load under either app.

It holds no tag; the libraries below it are aliases of ours.
"""

from __future__ import annotations

from django.apps import apps

from tiderace import templatetags

__all__: list[str] = []

# Listed beside "channels", "tiderace" brings the tags; a second library of the same
# name would be warned about (templates.W003).
__path__ = [] if apps.is_installed("tiderace") else list(templatetags.__path__)
