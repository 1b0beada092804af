"""The entry point without the auth stack, as one of the guide's samples has it."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

import sites.guide_site.board.routing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sites.guide_site.settings")

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(sites.guide_site.board.routing.websocket_urlpatterns),
    }
)
