"""The ASGI application every server is pointed at."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sites.servers_site.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

from sites.servers_site import consumers

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("life/<slug:room>/", consumers.Life.as_asgi()),
                path("sync/<slug:room>/", consumers.SyncLife.as_asgi()),
                path("closed/", consumers.Closed.as_asgi()),
                path("denied/", consumers.Denied.as_asgi()),
                path("broken/", consumers.Broken.as_asgi()),
            ]
        ),
    }
)
