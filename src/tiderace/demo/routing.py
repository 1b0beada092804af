"""The WebSocket route of the demo's topics."""

from __future__ import annotations

from django.urls import path

from tiderace.demo.board.topics import Endpoint

__all__ = ["websocket_urlpatterns"]

websocket_urlpatterns = [path("connection/", Endpoint.as_asgi())]
