"""The ASGI application of the demo: pages, static files and WebSockets."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from tiderace.routing import get_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tiderace.demo.settings")

application = get_application(
    "tiderace.demo.live",
    # A demo is its own web server: nothing stands before it to serve its files.
    http=ASGIStaticFilesHandler(get_asgi_application()),
    channel="tiderace.demo.worker.channels",
    # The devices are no browsers, and have a token in place of a cookie.
    allow_missing_origin=True,
)

# These register what runs while the server does.
from tiderace.demo import bots  # noqa: E402, F401
from tiderace.demo.ops import sampler  # noqa: E402, F401
