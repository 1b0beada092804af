"""The entry point in the guide's order: imports first, the settings' name after them."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

import sites.guide_site.board.routing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sites.guide_site.settings")

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(
            URLRouter(sites.guide_site.board.routing.websocket_urlpatterns)
        ),
    }
)
