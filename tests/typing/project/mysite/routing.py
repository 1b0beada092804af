"""Routes to topics and consumers."""

from __future__ import annotations

from chat.consumers import Greeter
from chat.endpoint import Endpoint
from django.urls import path, re_path

from tiderace.auth import AuthMiddlewareStack
from tiderace.routing import ProtocolTypeRouter, URLRouter, get_application
from tiderace.topics import TopicsEndpoint

websocket_urlpatterns = [
    path("connection/", TopicsEndpoint.as_asgi()),
    path("live/", Endpoint.as_asgi()),
    re_path(r"^ws/(?P<room>\w+)/$", Greeter.as_asgi()),
]

application = get_application(websocket_urlpatterns, origins=["https://example.com"])
by_hand = ProtocolTypeRouter(
    {"websocket": AuthMiddlewareStack(URLRouter(websocket_urlpatterns))}
)
