"""The WebSocket routes: the endpoint of all topics, and the devices'."""

from __future__ import annotations

from typing import Any

from django.urls import path

from tiderace.demo.devices.consumers import DeviceSocket
from tiderace.demo.people.person import person_of
from tiderace.topics import Refuse, TopicsEndpoint


class Endpoint(TopicsEndpoint):
    """Serves logged-in visitors; presence shows their names."""

    async def on_connect(self, user: Any, data: Any) -> None:
        """Refuse visitors whose session has ended; their pages offer to sign in."""
        if not user.is_authenticated:
            raise Refuse("sign in first", code=401)

    async def user_info(self, user: Any, scope: Any) -> Any:
        """Return what presence and publications say about a visitor."""
        return person_of(user).as_dict() if user.is_authenticated else None


websocket_urlpatterns = [
    path("connection/", Endpoint.as_asgi()),
    path("devices/socket/", DeviceSocket.as_asgi()),
]
